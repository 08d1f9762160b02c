"""Pooling over windows of the spatial axes. Layout (batch, channels, *space), one to three spatial axes.

Windows are never gathered: each of the few positions in a window is one strided view of the whole array, and the result
is the maximum, or sum, of these views. That keeps the memory order of the input, channels-last included.

The gradient of the largest goes to the first largest element of each window.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.conv import lengths, out_length
from shoal.ops.precision import is_float, wide
from shoal.ops.registry import Array, Op, Shape, Spec, op

Lengths = int | Sequence[int]


def _geometry(x: Any, kernel: Lengths, stride: Lengths | None, pad: Lengths) -> tuple[Shape, Shape, Shape]:
    k = len(x.shape) - 2
    kernel = lengths(kernel, k)
    return kernel, kernel if stride is None else lengths(stride, k), lengths(pad, k)


def _window_counts(x: Any, kernel: Shape, stride: Shape, pad: Shape) -> Shape:
    return tuple(out_length(n, m, s, p, 1) for n, m, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True))


def _space(x: Any, kernel: Shape, stride: Shape, pad: Shape) -> Shape:
    space = _window_counts(x, kernel, stride, pad)
    if min(space) < 1:
        raise ShapeError(f"pooling: a window of {kernel} with pad={pad} does not fit into x of shape {x.shape}")
    return space


def _pooled(
    op: Op[Any], x: Spec, index: Spec | None = None, *, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0
) -> Spec:
    specs.require_ndim(op, "x", x, 3, 4, 5)
    given = _geometry(x, kernel, stride, pad)
    space = _window_counts(x, *given)
    if len(given[0]) != x.ndim - 2 or min(space) < 1 or any(p >= m for m, p in zip(given[0], given[2], strict=True)):
        raise ShapeError(
            f"{op.name}: a window of {given[0]} with pad={given[2]} does not fit x of shape {x.shape} (batch, "
            "channels, *space); the window must fit, and the padding be smaller than it"
        )
    return Spec((*x.shape[:2], *space), x.dtype)


def _like(xp: Any, x: Any, space: Shape, value: Any, dtype: Any = None) -> Any:
    """A new array with the batch and channels of x, other spatial axes, and x's memory order."""
    out = xp.empty_like(x, dtype=dtype, shape=(*x.shape[:2], *space))
    out[...] = value
    return out


def _padded(xp: Any, x: Any, pad: Shape, value: Any) -> Any:
    if not any(pad):
        return x
    out = _like(xp, x, tuple(n + 2 * p for n, p in zip(x.shape[2:], pad, strict=True)), value)
    out[_inner(x.shape[2:], pad)] = x
    return out


def _inner(space: Sequence[int], pad: Shape) -> tuple[Any, ...]:
    return (..., *(slice(p, p + n) for n, p in zip(space, pad, strict=True)))


def _positions(kernel: Shape, stride: Shape, space: Shape) -> Iterator[tuple[Any, ...]]:
    """For each position in a window, the subscript of that element of all windows."""
    for at in np.ndindex(*kernel):
        yield (..., *(slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(at, space, stride, strict=True)))


def _lowest(dtype: Any) -> Any:
    return -np.inf if is_float(dtype) else np.iinfo(dtype).min


@op(_pooled)
def max_pool(xp: Any, x: Array, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0) -> Any:
    """The largest element of each window.

    Args:
        kernel: lengths of the window: a number, or one per spatial axis.
        stride: distance of windows; None puts them side by side.
        pad: elements added on both sides, which are never the largest.
    """
    kernel, stride, pad = _geometry(x, kernel, stride, pad)
    space = _space(x, kernel, stride, pad)
    source = _padded(xp, x, pad, _lowest(x.dtype))
    places = _positions(kernel, stride, space)
    out = source[next(places)].copy(order="K")
    for place in places:
        xp.maximum(out, source[place], out=out)
    return out


@max_pool.vjp
def _max_pool_vjp(xp: Any, g: Any, out: Any, x: Any, **attrs: Any) -> Any:
    return (xp.max_unpool(g, xp.max_pool_index(x, out, **attrs), space=tuple(x.shape[2:]), **attrs),)


def _index_spec(op: Op[Any], x: Spec, best: Spec, **geometry: Any) -> Spec:
    out = _pooled(op, x, **geometry)
    if out.shape != best.shape:
        raise ShapeError(f"max_pool_index: best has shape {best.shape}, max_pool of shape {x.shape} gives {out.shape}")
    return Spec(out.shape, _index_dtype(lengths(geometry["kernel"], x.ndim - 2)))


def _index_dtype(kernel: Shape) -> np.dtype[Any]:
    return np.dtype(np.uint8 if math.prod(kernel) <= 256 else np.int32)


@op(_index_spec)
def max_pool_index(
    xp: Any, x: Array, best: Array, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0
) -> Any:
    """Which position of each window has the first largest element, counted in C order within the window.

    Args:
        best: the result of `max_pool`.
    Returns:
        uint8; int32 for windows of more than 256 elements.
    """
    kernel, stride, pad = _geometry(x, kernel, stride, pad)
    source = _padded(xp, x, pad, _lowest(x.dtype))
    views = [source[place] for place in _positions(kernel, stride, best.shape[2:])]
    index = xp.zeros_like(best, dtype=_index_dtype(kernel))
    for i in range(len(views) - 1, -1, -1):  # arithmetic on bytes is ten times as fast as a masked copy
        index += (views[i] == best) * (index.dtype.type(i) - index)
    return index


def _unpooled(op: Op[Any], g: Spec, index: Spec | None = None, *, space: Shape, **_: Any) -> Spec:
    return Spec((*g.shape[:2], *space), g.dtype)


@op(_unpooled)
def max_unpool(
    xp: Any, g: Array, index: Array, space: Shape, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0
) -> Any:
    """g added at the positions ``index`` of the windows of an array with spatial shape ``space``."""
    kernel, stride, pad = _geometry(g, kernel, stride, pad)
    out = _like(xp, g, tuple(n + 2 * p for n, p in zip(space, pad, strict=True)), 0)
    apart = all(s >= m for m, s in zip(kernel, stride, strict=True))
    for i, place in enumerate(_positions(kernel, stride, g.shape[2:])):
        if apart:
            xp.multiply(g, index == i, out=out[place])
        else:
            out[place] += g * (index == i)
    return out[_inner(space, pad)]


@max_unpool.vjp
def _max_unpool_vjp(xp: Any, g: Any, out: Any, x: Any, index: Any, space: Shape, **attrs: Any) -> Any:
    return xp.max_pool_take(g, index, **attrs), None


@op(_pooled)
def max_pool_take(
    xp: Any, x: Array, index: Array, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0
) -> Any:
    """The element at position ``index`` of each window."""
    kernel, stride, pad = _geometry(x, kernel, stride, pad)
    source = _padded(xp, x, pad, 0)
    out = _like(xp, x, index.shape[2:], 0)
    for i, place in enumerate(_positions(kernel, stride, index.shape[2:])):
        out += source[place] * (index == i)
    return out


@max_pool_take.vjp
def _max_pool_take_vjp(xp: Any, g: Any, out: Any, x: Any, index: Any, **attrs: Any) -> Any:
    return xp.max_unpool(g, index, space=tuple(x.shape[2:]), **attrs), None


@op(_pooled)
def sum_pool(xp: Any, x: Array, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0) -> Any:
    """The sum of each window; padding counts as 0."""
    kernel, stride, pad = _geometry(x, kernel, stride, pad)
    space = _space(x, kernel, stride, pad)
    source = _padded(xp, wide(x), pad, 0)
    places = _positions(kernel, stride, space)
    out = source[next(places)].copy(order="K")
    for place in places:
        out += source[place]
    return out.astype(x.dtype, copy=False)


@sum_pool.vjp
def _sum_pool_vjp(xp: Any, g: Any, out: Any, x: Any, **attrs: Any) -> Any:
    return (xp.sum_unpool(g, space=tuple(x.shape[2:]), **attrs),)


@op(_unpooled)
def sum_unpool(
    xp: Any, g: Array, space: Shape, kernel: Lengths, stride: Lengths | None = None, pad: Lengths = 0
) -> Any:
    """g added at all positions of the windows of an array with spatial shape ``space``."""
    kernel, stride, pad = _geometry(g, kernel, stride, pad)
    out = _like(xp, g, tuple(n + 2 * p for n, p in zip(space, pad, strict=True)), 0)
    for place in _positions(kernel, stride, g.shape[2:]):
        out[place] += g
    return out[_inner(space, pad)]


@sum_unpool.vjp
def _sum_unpool_vjp(xp: Any, g: Any, out: Any, x: Any, space: Shape, **attrs: Any) -> Any:
    return (xp.sum_pool(g, **attrs),)


def global_avg_pool(x: Any) -> Any:
    """The mean over all spatial axes, which stay with length 1."""
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)


def global_max_pool(x: Any) -> Any:
    """The largest element over all spatial axes, which stay with length 1."""
    return x.max(axis=tuple(range(2, x.ndim)), keepdims=True)
