"""Functions of the standard that move, find, sort and compare elements."""

from typing import Any

from shoal.errors import ShapeError
from shoal.ops.numpylike import joining, scanning, searching, shaping, sorting
from shoal.ops.shape import stack as _stack

__all__ = [
    "argsort",
    "concat",
    "diff",
    "expand_dims",
    "flip",
    "isin",
    "moveaxis",
    "nonzero",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "searchsorted",
    "sort",
    "squeeze",
    "stack",
    "take",
    "take_along_axis",
    "tile",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "where",
]


def concat(arrays: Any, /, *, axis: int | None = 0) -> Any:
    """The arrays one after another along ``axis``; flattened first if None."""
    return joining.concatenate(arrays, axis)


def stack(arrays: Any, /, *, axis: int = 0) -> Any:
    """Arrays of one shape side by side along a new axis."""
    return _stack(*arrays, axis=axis)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices along ``axis``."""
    return joining.unstack(x, axis=axis)


def expand_dims(x: Any, /, axis: Any = 0) -> Any:
    """With a new axis of length 1."""
    return shaping.expand_dims(x, axis=axis)


def squeeze(x: Any, /, axis: Any) -> Any:
    """Without axes of length 1."""
    return shaping.squeeze(x, axis=axis)


def flip(x: Any, /, *, axis: Any = None) -> Any:
    """In reverse order along ``axis``; along all if None."""
    return shaping.flip(x, axis=axis)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Any:
    """With the axes ``source`` at the positions ``destination``."""
    return shaping.moveaxis(x, source, destination)


def permute_dims(x: Any, /, axes: Any) -> Any:
    """Axes in the order ``axes``."""
    return shaping.permute_dims(x, axes=tuple(axes))


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    """Each element so many times in a row."""
    return shaping.repeat(x, repeats, axis)


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Any:
    """The same elements in another shape.

    Raises:
        ValueError: ``copy=False``, and the memory has another order.
    """
    out = shaping.reshape(x, tuple(shape), copy=copy)
    if copy is False and hasattr(x, "data") and x.size and not _shared(out, x):
        raise ValueError(f"reshape: {x.shape} to {tuple(shape)} needs a copy here, and copy=False does not allow it")
    return out


def _shared(a: Any, b: Any) -> bool:
    return bool(a.backend.may_share_memory(a.data, b.data))


def roll(x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    """Shifted along ``axis``; what leaves at one end comes in at the other."""
    return shaping.roll(x, shift, axis)


def tile(x: Any, repetitions: Any, /) -> Any:
    """The whole array again and again along each axis."""
    return shaping.tile(x, tuple(repetitions))


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """The slices of x along ``axis`` at ``indices``.

    Raises:
        ShapeError: no ``axis`` for an array with several.
    """
    if axis is None and x.ndim != 1:
        raise ShapeError(f"take: an array of shape {tuple(x.shape)} needs axis=")
    return searching.take(x, indices, axis=0 if axis is None else axis)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """The elements at ``indices`` along ``axis``, row by row."""
    return searching.take_along_axis(x, indices, axis=axis)


def where(condition: Any, x1: Any, x2: Any, /) -> Any:
    """x1 where the condition holds, elsewhere x2."""
    return searching.where(condition, x1, x2)


def nonzero(x: Any, /) -> tuple[Any, ...]:
    """The positions of elements that are not zero: one array per axis.

    Raises:
        ShapeError: an array without axes.
    """
    if not x.ndim:
        raise ShapeError("nonzero: an array without axes has no positions")
    return searching.nonzero(x)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """Where the values ``x2`` would have to go into ``x1`` so that it stays sorted."""
    return sorting.searchsorted(x1, x2, side=side, sorter=sorter)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """In order along ``axis``."""
    return sorting.sort(x, axis, descending=descending, stable=stable)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """The positions that sort x along ``axis``; equal elements keep their order."""
    return sorting.argsort(x, axis, descending=descending, stable=stable)


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along ``axis``, ``n`` times."""
    return scanning.diff(x, n, axis, prepend, append)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Any:
    """Whether each element of ``x1`` is one of those of ``x2``."""
    return sorting.isin(x1, x2, invert=invert)


def unique_values(x: Any, /) -> Any:
    """The elements without repetitions, sorted; every nan for itself."""
    return searching.unique_values(x)


def unique_counts(x: Any, /) -> Any:
    """``values`` and ``counts``."""
    return searching.unique_counts(x)


def unique_inverse(x: Any, /) -> Any:
    """``values`` and ``inverse_indices``."""
    return searching.unique_inverse(x)


def unique_all(x: Any, /) -> Any:
    """``values``, ``indices``, ``inverse_indices`` and ``counts``."""
    return searching.unique_all(x)
