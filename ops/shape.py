"""Operators that move elements and never change them: reshaping, joining, cutting, repeating, padding."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.registry import Array, Op, Shape, Spec, op

Axis = int | Sequence[int] | None


def _reshaped(op: Op[Any], x: Spec, *, shape: Shape | int) -> Spec:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size, known = math.prod(x.shape), math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and size % known == 0:
        shape = tuple(size // known if n == -1 else n for n in shape)
    if math.prod(shape) != size or any(n < 0 for n in shape):
        raise ShapeError(f"reshape: the {size} elements of shape {x.shape} do not fill shape {shape}")
    return Spec(shape, x.dtype)


@op(_reshaped, view=True)
def reshape(xp: Any, x: Array, shape: Shape | int) -> Any:
    """The same elements, in C order, in another shape; one length may be -1: what is left."""
    return x.reshape(shape)


@reshape.vjp
def _reshape_vjp(xp: Any, g: Any, out: Any, x: Any, shape: Shape | int) -> Any:
    return (xp.reshape(g, x.shape),)


def _transposed(op: Op[Any], x: Spec, axes: Sequence[int] | None = None) -> Spec:
    order = tuple(reversed(range(x.ndim))) if axes is None else specs.axes_of(op, axes, x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"transpose: axes {axes} must name each of the {x.ndim} axes of shape {x.shape} once")
    return Spec(tuple(x.shape[a] for a in order), x.dtype)


@op(_transposed, view=True)
def transpose(xp: Any, x: Array, axes: Sequence[int] | None = None) -> Any:
    """Axes in the order ``axes``; reversed if None."""
    return x.transpose(axes)


@transpose.vjp
def _transpose_vjp(xp: Any, g: Any, out: Any, x: Any, axes: Sequence[int] | None = None) -> Any:
    if axes is None:
        return (xp.transpose(g),)
    inverse = [0] * len(axes)
    for to, source in enumerate(axes):
        inverse[source] = to
    return (xp.transpose(g, tuple(inverse)),)


def _swapped(op: Op[Any], x: Spec, *, axis1: int, axis2: int) -> Spec:
    a, b = specs.axis_of(op, axis1, x.ndim), specs.axis_of(op, axis2, x.ndim)
    shape = list(x.shape)
    shape[a], shape[b] = shape[b], shape[a]
    return Spec(tuple(shape), x.dtype)


@op(_swapped, view=True)
def swapaxes(xp: Any, x: Array, axis1: int, axis2: int) -> Any:
    """With two axes exchanged."""
    return x.swapaxes(axis1, axis2)


@swapaxes.vjp
def _swapaxes_vjp(xp: Any, g: Any, out: Any, x: Any, axis1: int, axis2: int) -> Any:
    return (xp.swapaxes(g, axis1, axis2),)


def _moved(op: Op[Any], x: Spec, *, source: Axis, destination: Axis) -> Spec:
    start, end = specs.axes_of(op, source, x.ndim), specs.axes_of(op, destination, x.ndim)
    if len(start) != len(end):
        raise ShapeError(f"moveaxis: {len(start)} sources {source} but {len(end)} destinations {destination}")
    shape = [n for i, n in enumerate(x.shape) if i not in start]
    for to, source_axis in sorted(zip(end, start, strict=True)):
        shape.insert(to, x.shape[source_axis])
    return Spec(tuple(shape), x.dtype)


@op(_moved, view=True)
def moveaxis(xp: Any, x: Array, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """With the axes ``source`` moved to the positions ``destination``."""
    return xp.moveaxis(x, source, destination)


@moveaxis.vjp
def _moveaxis_vjp(
    xp: Any, g: Any, out: Any, x: Any, source: int | Sequence[int], destination: int | Sequence[int]
) -> Any:
    return (xp.moveaxis(g, destination, source),)


def _squeezed(op: Op[Any], x: Spec, axis: Axis = None) -> Spec:
    if axis is None:
        return Spec(tuple(n for n in x.shape if n != 1), x.dtype)
    axes = specs.axes_of(op, axis, x.ndim)
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} does not have length 1")
    return Spec(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


@op(_squeezed, view=True)
def squeeze(xp: Any, x: Array, axis: Axis = None) -> Any:
    """Without the axes ``axis`` of length 1; without all of that length if None."""
    return x.squeeze(axis)


@squeeze.vjp
def _squeeze_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None) -> Any:
    return (xp.reshape(g, x.shape),)


def _expanded(op: Op[Any], x: Spec, *, axis: int | Sequence[int]) -> Spec:
    count = 1 if isinstance(axis, int) else len(axis)
    axes = specs.axes_of(op, axis, x.ndim + count)
    rest = iter(x.shape)
    return Spec(tuple(1 if i in axes else next(rest) for i in range(x.ndim + count)), x.dtype)


@op(_expanded, view=True)
def expand_dims(xp: Any, x: Array, axis: int | Sequence[int]) -> Any:
    """With new axes of length 1 at the positions ``axis`` of the result."""
    return xp.expand_dims(x, axis)


@expand_dims.vjp
def _expand_dims_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int | Sequence[int]) -> Any:
    return (xp.reshape(g, x.shape),)


def _broadcasted(op: Op[Any], x: Spec, *, shape: Shape) -> Spec:
    try:
        fits = np.broadcast_shapes(x.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"broadcast_to: shape {x.shape} does not broadcast to {tuple(shape)}")
    return Spec(tuple(shape), x.dtype)


@op(_broadcasted, view=True)
def broadcast_to(xp: Any, x: Array, shape: Shape) -> Any:
    """Repeated along new axes and axes of length 1 until the shape is ``shape``. A view that cannot be written to."""
    return xp.broadcast_to(x, shape)


@broadcast_to.vjp
def _broadcast_to_vjp(xp: Any, g: Any, out: Any, x: Any, shape: Shape) -> Any:
    return (g,)  # Op.cotangents sums it to the shape of x


def _together(op: Op[Any], xs: Sequence[Spec]) -> np.dtype[Any]:
    if not xs:
        raise ShapeError(f"{op.name}: needs at least one array")
    return np.result_type(*(x.dtype for x in xs))


def _joined(op: Op[Any], *xs: Spec, axis: int = 0) -> Spec:
    dtype = _together(op, xs)
    axis = specs.axis_of(op, axis, xs[0].ndim)
    rest = {x.shape[:axis] + x.shape[axis + 1 :] if x.ndim == xs[0].ndim else None for x in xs}
    if len(rest) > 1:
        shapes = " and ".join(str(x.shape) for x in xs)
        raise ShapeError(f"concatenate: shapes {shapes} may differ along axis {axis} only")
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return Spec(tuple(shape), dtype)


@op(_joined)
def concatenate(xp: Any, *arrays: Array, axis: int = 0) -> Any:
    """The arrays one after another along ``axis``."""
    return xp.concatenate(arrays, axis=axis)


@concatenate.vjp
def _concatenate_vjp(xp: Any, g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    cuts, end = [], 0
    for x in arrays[:-1]:
        end += x.shape[axis]
        cuts.append(end)
    return tuple(xp.split(g, tuple(cuts), axis=axis)) if cuts else (g,)


def _stacked(op: Op[Any], *xs: Spec, axis: int = 0) -> Spec:
    dtype = _together(op, xs)
    if len({x.shape for x in xs}) > 1:
        raise ShapeError(f"stack: shapes {' and '.join(str(x.shape) for x in xs)} must be equal")
    axis = specs.axis_of(op, axis, xs[0].ndim + 1)
    return Spec((*xs[0].shape[:axis], len(xs), *xs[0].shape[axis:]), dtype)


@op(_stacked)
def stack(xp: Any, *arrays: Array, axis: int = 0) -> Any:
    """Arrays of one shape side by side along a new axis at position ``axis``."""
    return xp.stack(arrays, axis=axis)


@stack.vjp
def _stack_vjp(xp: Any, g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    if len(arrays) == 1:
        return (xp.squeeze(g, axis),)
    return tuple(xp.squeeze(part, axis) for part in xp.split(g, len(arrays), axis=axis))


def _cut(op: Op[Any], x: Spec, *, sections: int | Sequence[int], axis: int = 0) -> tuple[Spec, ...]:
    axis = specs.axis_of(op, axis, x.ndim)
    length = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or length % sections:
            raise ShapeError(f"split: axis {axis} of shape {x.shape} cannot be cut into {sections} equal sections")
        lengths = [length // sections] * sections
    else:
        edges = [0, *(min(max(c + length if c < 0 else c, 0), length) for c in sections), length]
        lengths = [max(b - a, 0) for a, b in pairwise(edges)]
    return tuple(Spec((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in lengths)


@op(_cut, view=True)
def split(xp: Any, x: Array, sections: int | Sequence[int], axis: int = 0) -> Any:
    """Cut along ``axis`` into that many equal sections, or at the given positions: a tuple."""
    return tuple(xp.split(x, sections, axis=axis))


@split.vjp
def _split_vjp(xp: Any, g: Any, out: Any, x: Any, sections: int | Sequence[int], axis: int = 0) -> Any:
    return (xp.concatenate([xp.zeros_like(o) if p is None else p for p, o in zip(g, out, strict=True)], axis=axis),)


def _tiled(op: Op[Any], x: Spec, *, reps: int | Sequence[int]) -> Spec:
    counts = (reps,) if isinstance(reps, int) else tuple(reps)
    ndim = max(len(counts), x.ndim)
    shape, counts = (1,) * (ndim - x.ndim) + x.shape, (1,) * (ndim - len(counts)) + counts
    return Spec(tuple(n * r for n, r in zip(shape, counts, strict=True)), x.dtype)


@op(_tiled)
def tile(xp: Any, x: Array, reps: int | Sequence[int]) -> Any:
    """The whole array ``reps`` times along each axis."""
    return xp.tile(x, reps)


@tile.vjp
def _tile_vjp(xp: Any, g: Any, out: Any, x: Any, reps: int | Sequence[int]) -> Any:
    counts = (reps,) if isinstance(reps, int) else tuple(reps)
    ndim = max(len(counts), x.ndim)
    shape = (1,) * (ndim - x.ndim) + tuple(x.shape)
    counts = (1,) * (ndim - len(counts)) + counts
    pairs = tuple(n for pair in zip(counts, shape, strict=True) for n in pair)
    return (xp.reshape(xp.sum(xp.reshape(g, pairs), tuple(range(0, 2 * ndim, 2))), x.shape),)


def _repeated(op: Op[Any], x: Spec, *, repeats: int, axis: int | None = None) -> Spec:
    if axis is None:
        return Spec((math.prod(x.shape) * repeats,), x.dtype)
    axis = specs.axis_of(op, axis, x.ndim)
    return Spec(tuple(n * repeats if i == axis else n for i, n in enumerate(x.shape)), x.dtype)


@op(_repeated)
def repeat(xp: Any, x: Array, repeats: int, axis: int | None = None) -> Any:
    """Each element ``repeats`` times in a row along ``axis`` (of the flattened array if None)."""
    return xp.repeat(x, repeats, axis=axis)


@repeat.vjp
def _repeat_vjp(xp: Any, g: Any, out: Any, x: Any, repeats: int, axis: int | None = None) -> Any:
    if axis is None:
        return (xp.reshape(xp.sum(xp.reshape(g, (math.prod(x.shape), repeats)), 1), x.shape),)
    axis %= x.ndim
    return (xp.sum(xp.reshape(g, (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])), axis + 1),)


def _flipped(op: Op[Any], x: Spec, axis: Axis = None) -> Spec:
    specs.axes_of(op, axis, x.ndim)
    return Spec(x.shape, x.dtype)


@op(_flipped, view=True)
def flip(xp: Any, x: Array, axis: Axis = None) -> Any:
    """In reverse order along ``axis``."""
    return xp.flip(x, axis)


@flip.vjp
def _flip_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None) -> Any:
    return (xp.flip(g, axis),)


def _rolled(op: Op[Any], x: Spec, *, shift: int | Sequence[int], axis: Axis = None) -> Spec:
    specs.axes_of(op, axis, x.ndim)
    return Spec(x.shape, x.dtype)


@op(_rolled)
def roll(xp: Any, x: Array, shift: int | Sequence[int], axis: Axis = None) -> Any:
    """Shifted by ``shift`` along ``axis``; what leaves at one end comes in at the other."""
    return xp.roll(x, shift, axis)


@roll.vjp
def _roll_vjp(xp: Any, g: Any, out: Any, x: Any, shift: int | Sequence[int], axis: Axis = None) -> Any:
    return (xp.roll(g, -shift if isinstance(shift, int) else tuple(-s for s in shift), axis),)


def _padded(op: Op[Any], x: Spec, *, pad_width: Sequence[Sequence[int]], constant: float = 0.0) -> Spec:
    if len(pad_width) != x.ndim or any(len(p) != 2 or min(p) < 0 for p in pad_width):
        raise ShapeError(
            f"pad: pad_width {pad_width} must have one (before, after) of at least 0 for each axis of shape {x.shape}"
        )
    return Spec(tuple(n + a + b for n, (a, b) in zip(x.shape, pad_width, strict=True)), x.dtype)


@op(_padded)
def pad(xp: Any, x: Array, pad_width: Sequence[Sequence[int]], constant: float = 0.0) -> Any:
    """With ``constant`` around it.

    Args:
        pad_width: for each axis, how many elements (before, after).
    """
    out = xp.full([n + a + b for n, (a, b) in zip(x.shape, pad_width, strict=True)], constant, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pad_width, strict=True))] = x
    return out


@pad.vjp
def _pad_vjp(xp: Any, g: Any, out: Any, x: Any, pad_width: Sequence[Sequence[int]], constant: float = 0.0) -> Any:
    return (g[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pad_width, strict=True))],)


def _triangle(op: Op[Any], x: Spec, k: int = 0) -> Spec:
    if x.ndim < 2:
        raise ShapeError(f"{op.name}: needs at least 2 axes, got shape {x.shape}")
    return Spec(x.shape, x.dtype)


@op(_triangle)
def tril(xp: Any, x: Array, k: int = 0) -> Any:
    """Zeros above the k-th diagonal of the last two axes."""
    return xp.tril(x, k)


@tril.vjp
def _tril_vjp(xp: Any, g: Any, out: Any, x: Any, k: int = 0) -> Any:
    return (xp.tril(g, k),)


@op(_triangle)
def triu(xp: Any, x: Array, k: int = 0) -> Any:
    """Zeros below the k-th diagonal of the last two axes."""
    return xp.triu(x, k)


@triu.vjp
def _triu_vjp(xp: Any, g: Any, out: Any, x: Any, k: int = 0) -> Any:
    return (xp.triu(g, k),)
