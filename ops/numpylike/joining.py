"""NumPy's functions that join, cut, lengthen and shorten arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import index, shape
from shoal.ops.elementwise import astype
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.numpylike.shaping import atleast_2d
from shoal.ops.shape import stack
from shoal.ops.tensor import raw

__all__ = [
    "append",
    "array_split",
    "astype",
    "block",
    "column_stack",
    "concat",
    "concatenate",
    "delete",
    "dsplit",
    "dstack",
    "hsplit",
    "hstack",
    "insert",
    "pad",
    "resize",
    "row_stack",
    "split",
    "stack",
    "trim_zeros",
    "unstack",
    "vsplit",
    "vstack",
]


def concatenate(arrays: Any, axis: int | None = 0, *, dtype: Any = None) -> Any:
    """The arrays one after another along ``axis``; flattened first if None."""
    arrays = [arraylike(a) for a in arrays]
    if axis is None:
        arrays, axis = [shape.reshape(a, shape=(-1,)) for a in arrays], 0
    out = shape.concatenate(*arrays, axis=axis)
    return out if dtype is None else astype(out, dtype=dtype)


concat = concatenate


def vstack(arrays: Sequence[Any]) -> Any:
    """One below the other: along the first axis, of which 1-d arrays get one."""
    return shape.concatenate([atleast_2d(a) for a in arrays], axis=0)


row_stack = vstack


def hstack(arrays: Sequence[Any]) -> Any:
    """Side by side: along the second axis; 1-d arrays along their only one."""
    arrays = [shape.reshape(a, shape=(1,)) if not a.ndim else a for a in map(arraylike, arrays)]
    return shape.concatenate(arrays, axis=0 if arrays[0].ndim == 1 else 1)


def dstack(arrays: Sequence[Any]) -> Any:
    """One behind the other: along the third axis."""
    arrays = [arraylike(a) for a in arrays]
    deep = [shape.reshape(a, shape=(*atleast_2d(a).shape, 1)) if a.ndim < 3 else a for a in arrays]
    return shape.concatenate(deep, axis=2)


def column_stack(arrays: Sequence[Any]) -> Any:
    """1-d arrays as columns."""
    arrays = [arraylike(a) for a in arrays]
    return shape.concatenate([shape.reshape(a, shape=(-1, 1)) if a.ndim < 2 else a for a in arrays], axis=1)


def block(arrays: Any) -> Any:
    """An array from nested lists of blocks: the innermost lists are joined along the last axis, and so on."""
    depth, inside = 0, arrays
    while isinstance(inside, list):
        depth, inside = depth + 1, inside[0]
    if not depth:
        return arraylike(arrays)
    ndim = max(depth, _deepest(arrays))
    return _block(arrays, depth, ndim)


def _deepest(arrays: Any) -> int:
    return max(map(_deepest, arrays)) if isinstance(arrays, list) else int(arraylike(arrays).ndim)


def _block(arrays: Any, depth: int, ndim: int) -> Any:
    if depth:
        return shape.concatenate([_block(a, depth - 1, ndim) for a in arrays], axis=-depth)
    x = arraylike(arrays)
    return shape.reshape(x, shape=(1,) * (ndim - x.ndim) + tuple(x.shape))


def array_split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into sections that need not be of equal length: the first ones are longer by one."""
    x = arraylike(x)
    if isinstance(indices_or_sections, int):
        each, extra = divmod(x.shape[axis], indices_or_sections)
        cuts = tuple(i * each + min(i, extra) for i in range(1, indices_or_sections))
    else:
        cuts = tuple(indices_or_sections)
    return list(shape.split(x, sections=cuts, axis=axis))


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into that many equal sections, or at the given positions."""
    return list(shape.split(arraylike(x), sections=indices_or_sections, axis=axis))


def hsplit(x: Any, indices_or_sections: int | Sequence[int]) -> list[Any]:
    """`split` along the second axis (along the only one of a vector)."""
    return split(x, indices_or_sections, 1 if arraylike(x).ndim > 1 else 0)


def vsplit(x: Any, indices_or_sections: int | Sequence[int]) -> list[Any]:
    """`split` along the first axis."""
    return split(x, indices_or_sections, 0)


def dsplit(x: Any, indices_or_sections: int | Sequence[int]) -> list[Any]:
    """`split` along the third axis."""
    return split(x, indices_or_sections, 2)


def unstack(x: Any, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices along ``axis``, one after another."""
    x = arraylike(x)
    n = x.shape[axis]
    return tuple(shape.squeeze(part, axis=axis) for part in shape.split(x, sections=n, axis=axis)) if n else ()


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0.0) -> Any:
    """``x`` with a border.

    Args:
        pad_width: a number; (before, after) for all axes; or one pair per axis.
        mode: "constant", "edge" (the outermost element again), "reflect" (mirrored at it), "symmetric" (mirrored behind
            it), or "wrap" (from the other end).
        constant_values: a number; (before, after); or one pair per axis.
    """
    x = arraylike(x)
    widths = [tuple(int(n) for n in pair) for pair in np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()]
    if mode == "constant":
        if np.ndim(constant_values) == 0:
            return shape.pad(x, pad_width=tuple(widths), constant=float(constant_values))
        return _pad_with(x, widths, np.broadcast_to(np.asarray(constant_values), (x.ndim, 2)).tolist())
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise ConfigError(f"pad: mode {mode!r}; there are 'constant', 'edge', 'reflect', 'symmetric' and 'wrap'")
    for axis, width in enumerate(widths):
        if any(width):
            places: Any = np.pad
            x = index.take(x, places(np.arange(x.shape[axis]), width, mode=mode), axis=axis)
    return x


def _pad_with(x: Any, widths: Sequence[tuple[int, ...]], values: Sequence[Sequence[float]]) -> Any:
    for axis, (width, pair) in enumerate(zip(widths, values, strict=True)):
        for side in (0, 1):
            here = [(0, 0)] * x.ndim
            here[axis] = (width[0], 0) if side == 0 else (0, width[1])
            x = shape.pad(x, pad_width=tuple(here), constant=float(pair[side]))
    return x


def append(x: Any, values: Any, axis: int | None = None) -> Any:
    """``x`` with ``values`` behind it along ``axis``; both flattened if None."""
    return concatenate([arraylike(x), arraylike(values)], axis)


def delete(x: Any, obj: Any, axis: int | None = None) -> Any:
    """``x`` without the slices ``obj`` (an int, a slice, positions or a mask) along ``axis`` (flattened if None)."""
    x = arraylike(x)
    if axis is None:
        x, axis = shape.reshape(x, shape=(-1,)), 0
    left = np.delete(np.arange(x.shape[axis]), obj if isinstance(obj, slice) else np.asarray(raw(obj)))
    return index.take(x, left, axis=axis)


def insert(x: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    """``x`` with ``values`` before the positions ``obj`` along ``axis`` (flattened if None)."""
    x, values = arraylike(x), arraylike(values)
    if axis is None:
        x, axis = shape.reshape(x, shape=(-1,)), 0
    n, axis = x.shape[axis], axis % x.ndim
    marks: Any = np.arange(n)[obj] if isinstance(obj, slice) else np.asarray(raw(obj))
    single = np.ndim(marks) == 0
    count = values.shape[axis] if single and values.ndim == x.ndim else 1 if single else np.size(marks)
    order = np.insert(np.arange(n), np.repeat(marks, count) if single else marks, n + np.arange(count))
    room = tuple(count if a == axis else length for a, length in enumerate(x.shape))
    if single and 0 < values.ndim < x.ndim and values.ndim == x.ndim - 1:
        values = shape.expand_dims(values, axis=axis)
    values = shape.broadcast_to(astype(values, dtype=x.dtype), shape=room)
    return index.take(shape.concatenate([x, values], axis=axis), order, axis=axis)


def resize(x: Any, new_shape: int | Sequence[int]) -> Any:
    """The elements again and again, until they fill ``new_shape``."""
    x = shape.reshape(arraylike(x), shape=(-1,))
    wanted = (new_shape,) if isinstance(new_shape, int) else tuple(new_shape)
    n = math.prod(wanted)
    if not x.shape[0]:
        if n:
            raise ShapeError(f"resize: an array without elements does not fill shape {wanted}")
        return shape.reshape(x, shape=wanted)
    return shape.reshape(index.take(x, np.arange(n) % x.shape[0], axis=0), shape=wanted)


def trim_zeros(x: Any, trim: str = "fb") -> Any:
    """A vector without the zeros at its front ("f"), its back ("b"), or both."""
    x = arraylike(x)
    places = np.flatnonzero(np.asarray(raw(x)))
    if not places.size:
        return x[:0]
    first = int(places[0]) if "f" in trim else 0
    last = int(places[-1]) + 1 if "b" in trim else len(x)
    return x[first:last]
