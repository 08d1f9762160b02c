"""NumPy's functions that find, choose and write elements."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import compare, elementwise, index, shape
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "argwhere",
    "choose",
    "compress",
    "copyto",
    "extract",
    "fill_diagonal",
    "flatnonzero",
    "nonzero",
    "piecewise",
    "place",
    "put",
    "putmask",
    "ravel_multi_index",
    "select",
    "take",
    "take_along_axis",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unravel_index",
    "where",
]


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, elsewhere y. With the condition alone, where it holds: see `nonzero`."""
    if x is None and y is None:
        return nonzero(condition)
    return elementwise.where(condition, x, y)


def _positions(indices: Any) -> Any:
    """Index arrays as they are; lists as arrays of integers."""
    return indices if hasattr(indices, "dtype") or isinstance(indices, int) else np.asarray(indices, np.int64)


def take(x: Any, indices: Any, axis: int | None = None, *, mode: str = "raise") -> Any:
    """The slices of x along ``axis`` at ``indices`` (elements of the flattened array if None).

    Args:
        mode: what to do with an index outside: "raise", "wrap" (modulo), or "clip" (to the nearest).
    """
    x, indices = arraylike(x), _positions(indices)
    n = x.size if axis is None else x.shape[axis]
    if mode == "wrap":
        indices = elementwise.mod(indices, n)
    elif mode == "clip":
        indices = elementwise.clip(indices, a_min=0, a_max=n - 1)
    return index.take(x, indices, axis=axis)


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """The elements at ``indices`` along ``axis``, row by row."""
    return index.take_along_axis(arraylike(x), _positions(indices), axis=axis)


def nonzero(x: Any) -> tuple[Any, ...]:
    """The positions of elements that are not zero: one int64 tensor per axis."""
    return tuple(Tensor(i) for i in raw(arraylike(x)).nonzero())


def flatnonzero(x: Any) -> Tensor:
    """The positions in the flattened array of elements that are not zero, int64."""
    return Tensor(np.flatnonzero(raw(arraylike(x))))


def argwhere(x: Any) -> Tensor:
    """The positions of elements that are not zero, one row each, int64."""
    return Tensor(np.argwhere(raw(arraylike(x))))


def extract(condition: Any, x: Any) -> Any:
    """The elements of x where the condition, of its size, holds: a vector."""
    return take(shape.reshape(arraylike(x), shape=(-1,)), flatnonzero(condition), axis=0)


def compress(condition: Any, x: Any, axis: int | None = None) -> Any:
    """The slices of x along ``axis`` (elements of the flattened array if None) for which the condition holds."""
    return take(arraylike(x), flatnonzero(condition), axis=axis)


def choose(a: Any, choices: Sequence[Any], mode: str = "raise") -> Any:
    """From each position, the element of that one of the ``choices`` whose number stands in ``a``.

    Args:
        mode: what to do with a number outside: "raise", "wrap" (modulo), or "clip" (to the nearest).
    Raises:
        IndexError: a number outside, in mode "raise".
    """
    a, n = arraylike(a), len(choices)
    if mode == "raise" and isinstance(a, Tensor) and a.size and (a.min() < 0 or a.max() >= n):
        raise IndexError(f"choose: numbers from {a.min().item()} to {a.max().item()} among {n} choices")
    a = elementwise.mod(a, n) if mode == "wrap" else elementwise.clip(a, a_min=0, a_max=n - 1)
    out = choices[-1]
    for i in range(n - 2, -1, -1):
        out = elementwise.where(compare.equal(a, i), choices[i], out)
    return out if n > 1 else shape.broadcast_to(arraylike(out), shape=np.broadcast_shapes(a.shape, np.shape(out)))


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    """From each position, the element of the first of ``choicelist`` whose condition holds there, else ``default``.

    Raises:
        ShapeError: not one choice for each condition.
    """
    if len(condlist) != len(choicelist):
        raise ShapeError(f"select: {len(condlist)} conditions but {len(choicelist)} choices")
    out = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        out = elementwise.where(condition, choice, out)
    return out


def piecewise(x: Any, condlist: Sequence[Any], funclist: Sequence[Any]) -> Any:
    """``funclist[i](x)`` where ``condlist[i]`` holds; one more function (or number) is for where none does.

    Unlike NumPy's, every function sees all of x: elements for which it is not defined may make a gradient nan.
    """
    x = arraylike(x)
    values = [f(x) if isinstance(f, Callable) else f for f in funclist]  # type: ignore[arg-type]  # it is a class here
    out = values[len(condlist)] if len(values) > len(condlist) else elementwise.zeros_like(x)
    for condition, value in zip(condlist, values, strict=False):  # the last that holds counts, as in NumPy
        out = elementwise.where(condition, value, out)
    return out if out.dtype == x.dtype else elementwise.astype(out, dtype=x.dtype)


def unravel_index(indices: Any, shape: Any) -> tuple[Any, ...]:
    """Positions in the flattened array as positions along each axis of ``shape``."""
    found = np.unravel_index(np.asarray(raw(indices)), shape)
    return tuple(Tensor(np.asarray(i)) for i in found)


def ravel_multi_index(multi_index: Any, dims: Any, mode: str = "raise") -> Tensor:
    """Positions along each axis of ``dims`` as positions in the flattened array."""
    given = tuple(np.asarray(raw(i)) for i in multi_index)
    flat: Any = np.ravel_multi_index
    return Tensor(np.asarray(flat(given, dims, mode)))


# -- sets as the array API standard has them


class UniqueCountsResult(NamedTuple):
    """What `unique_counts` returns."""

    values: Any
    counts: Any


class UniqueInverseResult(NamedTuple):
    """What `unique_inverse` returns."""

    values: Any
    inverse_indices: Any


class UniqueAllResult(NamedTuple):
    """What `unique_all` returns."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


def unique_values(x: Any) -> Any:
    """The elements without repetitions, sorted."""
    return _unique(x)[0]


def unique_counts(x: Any) -> Any:
    """The elements without repetitions, and how often each occurs."""
    values, _, _, counts = _unique(x)
    return UniqueCountsResult(values, counts)


def unique_inverse(x: Any) -> Any:
    """The elements without repetitions, and which of them each element of x is."""
    values, _, inverse, _ = _unique(x)
    return UniqueInverseResult(values, inverse)


def unique_all(x: Any) -> Any:
    """The elements without repetitions, where each comes first, which of them each of x is, how often each occurs."""
    return UniqueAllResult(*_unique(x))


def _unique(x: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
    x = arraylike(x)
    find: Any = np.unique
    _, first, inverse, counts = find(np.asarray(raw(x)), True, True, True, equal_nan=False)
    values = take(shape.reshape(x, shape=(-1,)), first, axis=0)
    return values, Tensor(first), Tensor(inverse.reshape(x.shape)), Tensor(counts)


# -- writing; with gradients, as assignment has them


def copyto(dst: Any, src: Any, where: Any = True) -> None:
    """``dst[...] = src``, where ``where`` holds."""
    dst[...] = src if where is True else elementwise.where(where, src, dst)


def place(x: Any, mask: Any, vals: Any) -> None:
    """Write ``vals``, again and again from the start, to the elements of x where ``mask`` holds."""
    places = flatnonzero(mask)
    _write(x, places, vals)


def putmask(x: Any, mask: Any, values: Any) -> None:
    """Write to x where ``mask`` holds the elements of ``values`` that stand there; those repeated to the size of x."""
    places = flatnonzero(mask)
    flat = shape.reshape(arraylike(values), shape=(-1,))
    x[unravel_index(places, x.shape)] = take(flat, places % flat.shape[0], axis=0)


def put(x: Any, ind: Any, v: Any) -> None:
    """Write the values ``v``, again and again from the start, to the positions ``ind`` in the flattened array."""
    places = arraylike(np.asarray(raw(ind)) % x.size)
    _write(x, places, v)


def _write(x: Any, places: Any, values: Any) -> None:
    flat = shape.reshape(arraylike(values), shape=(-1,))
    chosen = take(flat, np.arange(places.size) % flat.shape[0], axis=0)
    x[unravel_index(shape.reshape(places, shape=(-1,)), x.shape)] = chosen


def fill_diagonal(x: Any, val: Any, wrap: bool = False) -> None:
    """Write ``val`` to the diagonal of x, whose axes have one length (a matrix may have any).

    Args:
        wrap: begin again below the last column of a tall matrix.
    """
    step = x.shape[1] + 1 if x.ndim == 2 else 1 + int(np.cumprod(x.shape[:-1]).sum())
    end = None if wrap or x.ndim != 2 else x.shape[1] * x.shape[1]
    _write(x, arraylike(np.arange(x.size)[:end:step]), val)
