"""NumPy's functions that give the same elements another order or shape."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import index, linalg, shape
from shoal.ops.elementwise import copy as _copy
from shoal.ops.linalg import diagonal
from shoal.ops.numpylike.arguments import arraylike, whole_numbers
from shoal.ops.shape import (
    broadcast_to,
    expand_dims,
    flip,
    moveaxis,
    roll,
    squeeze,
    swapaxes,
    tile,
    transpose,
    tril,
    triu,
)
from shoal.ops.tensor import raw

__all__ = [
    "ascontiguousarray",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "diag",
    "diagflat",
    "diagonal",
    "expand_dims",
    "flip",
    "fliplr",
    "flipud",
    "moveaxis",
    "permute_dims",
    "ravel",
    "repeat",
    "reshape",
    "roll",
    "rollaxis",
    "rot90",
    "squeeze",
    "swapaxes",
    "tile",
    "transpose",
    "tril",
    "triu",
]


permute_dims = transpose


def reshape(x: Any, shape: Any, order: str = "C", *, copy: bool | None = None) -> Any:
    """The same elements in another shape; one length may be -1: what is left.

    Args:
        order: "C" the last axis runs fastest, "F" the first.
        copy: True for memory of its own.
    """
    x, new = arraylike(x), whole_numbers(shape)
    if order == "F":
        new = (new,) if isinstance(new, int) else new
        return transpose(_reshape(transpose(x), shape=tuple(reversed(new))))
    if order not in ("C", "A"):
        raise ConfigError(f"reshape: order {order!r}; there are 'C' and 'F'")
    out = _reshape(x, shape=new)
    return _copy(out) if copy else out


_reshape = shape.reshape


def ravel(x: Any, order: str = "C") -> Any:
    """All elements in one axis."""
    return reshape(x, -1, order)


def rollaxis(x: Any, axis: int, start: int = 0) -> Any:
    """The axis ``axis`` moved in front of the axis ``start``."""
    n = arraylike(x).ndim
    axis, start = axis % n, start + n if start < 0 else start
    return moveaxis(x, axis, start - 1 if axis < start else start)


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that the shapes broadcast to."""
    return np.broadcast_shapes(*shapes)


def broadcast_arrays(*arrays: Any) -> tuple[Any, ...]:
    """The arrays, broadcast against each other."""
    arrays = tuple(map(arraylike, arrays))
    common = np.broadcast_shapes(*(tuple(a.shape) for a in arrays))
    return tuple(broadcast_to(a, shape=common) for a in arrays)


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element ``repeats`` times in a row along ``axis`` (of the flattened array if None).

    Args:
        repeats: a number for all, or one for each.
    """
    x, counts = arraylike(x), np.asarray(raw(repeats))
    if counts.ndim == 0 or counts.size == 1:
        return shape.repeat(x, repeats=int(counts.reshape(())), axis=axis)
    if axis is None:
        x, axis = _reshape(x, shape=(-1,)), 0
    return index.take(x, np.repeat(np.arange(x.shape[axis]), counts), axis=axis)


def fliplr(x: Any) -> Any:
    """In reverse order along the second axis."""
    return flip(x, 1)


def flipud(x: Any) -> Any:
    """In reverse order along the first axis."""
    return flip(x, 0)


def rot90(x: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Any:
    """Turned by 90 degrees ``k`` times, in the plane of two axes, from the first to the second."""
    for _ in range(k % 4):
        x = shape.flip(shape.swapaxes(x, axes[0], axes[1]), axis=axes[0])
    return x


def atleast_1d(*arrays: Any) -> Any:
    """With an axis where there is none; a tuple for several arrays."""
    return _each(arrays, lambda x: x if x.ndim else _reshape(x, shape=(1,)))


def atleast_2d(*arrays: Any) -> Any:
    """With axes in front until there are two; a tuple for several arrays."""
    return _each(arrays, lambda x: x if x.ndim > 1 else _reshape(x, shape=(1, *((1,) if not x.ndim else x.shape))))


def atleast_3d(*arrays: Any) -> Any:
    """With axes until there are three: (1, n, 1) of a vector, (m, n, 1) of a matrix; a tuple for several arrays."""
    return _each(arrays, _deep)


def _deep(x: Any) -> Any:
    if x.ndim > 2:
        return x
    return _reshape(x, shape=(*x.shape, 1) if x.ndim == 2 else (1, *(x.shape or (1,)), 1))


def _each(arrays: Sequence[Any], change: Any) -> Any:
    made = tuple(change(arraylike(x)) for x in arrays)
    return made[0] if len(made) == 1 else made


def diag(x: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix; of a vector, the matrix with it on that diagonal."""
    x = arraylike(x)
    if x.ndim == 1:
        n = x.shape[0] + abs(k)
        return linalg.diagonal_add(x, shape=(n, n), offset=k)
    return linalg.diagonal(x, offset=k)


def diagflat(x: Any, k: int = 0) -> Any:
    """The matrix with all elements of x on its k-th diagonal."""
    return diag(ravel(x), k)


def ascontiguousarray(x: Any, dtype: Any = None) -> Any:
    """``x`` in C order, with at least one axis; itself if it is so."""
    x = arraylike(x) if dtype is None else arraylike(x).astype(dtype)
    x = atleast_1d(x)
    kept: bool = x.data.flags.c_contiguous if hasattr(x, "data") else True
    return x if kept else _copy(x)
