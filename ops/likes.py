"""MXNet's functions that take shapes from other arrays, or cut along axes; distances and similarities of vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import elementwise, index, loss, reduce, shape

__all__ = [
    "broadcast_like",
    "cdist",
    "cosine_similarity",
    "masked_log_softmax",
    "normalize",
    "pairwise_distance",
    "pdist",
    "reshape_like",
    "slice_axis",
    "slice_like",
]

Axes = Sequence[int] | None


def broadcast_like(x: Any, like: Any, lhs_axes: Axes = None, rhs_axes: Axes = None) -> Any:
    """x repeated to the shape of ``like``, or its ``lhs_axes`` only to that of the ``rhs_axes`` of like."""
    if lhs_axes is None or rhs_axes is None:
        return shape.broadcast_to(x, shape=tuple(like.shape))
    lengths = list(x.shape)
    for a, b in zip(lhs_axes, rhs_axes, strict=True):
        lengths[a] = like.shape[b]
    return shape.broadcast_to(x, shape=tuple(lengths))


def reshape_like(x: Any, like: Any) -> Any:
    """The elements of x in the shape of ``like``."""
    return shape.reshape(x, shape=tuple(like.shape))


def slice_axis(x: Any, axis: int, begin: int | None, end: int | None) -> Any:
    """x from ``begin`` up to ``end`` along ``axis``; None is the end of the axis."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"slice_axis: there is no axis {axis} in shape {tuple(x.shape)}")
    key = tuple((begin, end, None) if i == axis % x.ndim else (None, None, None) for i in range(x.ndim))
    return index.getitem(x, key=key)


def slice_like(x: Any, like: Any, axes: Axes = None) -> Any:
    """x cut to the lengths of ``like``, along ``axes`` (all by default).

    Raises:
        ShapeError: x is shorter there.
    """
    over = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    for a in over:
        if a >= like.ndim or like.shape[a] > x.shape[a]:
            raise ShapeError(f"slice_like: shape {tuple(x.shape)} cannot be cut to {tuple(like.shape)} along axis {a}")
        x = slice_axis(x, a, 0, like.shape[a])
    return x


def masked_log_softmax(x: Any, mask: Any, axis: int = -1) -> Any:
    """log(softmax(x)) over the elements where ``mask`` holds; -inf elsewhere."""
    low = -1e4 if x.dtype == np.float16 else -1e30
    return elementwise.where(mask, loss.log_softmax(elementwise.where(mask, x, low), axis=axis), -float("inf"))


def normalize(x: Any, p: float = 2.0, axis: int = -1, eps: float = 1e-12) -> Any:
    """x divided by its p-norm along ``axis``, or by ``eps`` if that is more."""
    return x / elementwise.maximum(reduce.norm(x, ord=float(p), axis=axis, keepdims=True), eps)


def cosine_similarity(x: Any, y: Any, axis: int = -1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between vectors along ``axis``; each length counts as at least ``eps``."""
    lengths = elementwise.maximum(reduce.norm(x, axis=axis), eps) * elementwise.maximum(reduce.norm(y, axis=axis), eps)
    return reduce.sum_(x * y, axis=axis) / lengths


def pairwise_distance(x: Any, y: Any, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> Any:
    """The p-norm of x - y + eps along the last axis."""
    return reduce.norm(x - y + eps, ord=float(p), axis=-1, keepdims=keepdims)


def cdist(x: Any, y: Any, p: float = 2.0) -> Any:
    """The p-norm of the difference of each row of x and each row of y: (..., m, d) and (..., n, d) give (..., m, n).

    Raises:
        ShapeError: the rows have different lengths.
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ShapeError(f"cdist: rows of shapes {tuple(x.shape)} and {tuple(y.shape)} must be of one length")
    apart = shape.expand_dims(x, axis=-2) - shape.expand_dims(y, axis=-3)
    return reduce.norm(apart, ord=float(p), axis=-1)


def pdist(x: Any, p: float = 2.0) -> Any:
    """The p-norms of the differences of all pairs of rows of x, as a vector: (0, 1), (0, 2), ..., (n - 2, n - 1)."""
    first, second = np.triu_indices(x.shape[0], 1)
    return reduce.norm(index.take(x, first, axis=0) - index.take(x, second, axis=0), ord=float(p), axis=-1)
