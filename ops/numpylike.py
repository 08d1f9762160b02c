"""NumPy functions whose arguments differ from the operators' (``pad``, ``where``), that are made of several of them
(``vstack``, ``average``), or whose result's shape depends on values, so that no graph can have them (``unique``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import elementwise, index, linalg, reduce, shape
from shoal.ops.creation import asarray
from shoal.ops.tensor import Tensor, raw


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, elsewhere y. With the condition alone, where it holds: see `nonzero`."""
    if x is None and y is None:
        return nonzero(condition)
    return elementwise.where(condition, x, y)


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Any:
    """``x`` with a border.

    Args:
        pad_width: a number; (before, after) for all axes; or one pair per axis.
        mode: "constant", "edge" (the outermost element again) or "reflect" (mirrored at it).
    """
    pairs = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    widths = [tuple(int(n) for n in pair) for pair in pairs.tolist()]
    if mode == "constant":
        return shape.pad(x, pad_width=tuple(widths), constant=constant_values)
    if mode not in ("edge", "reflect"):
        raise ConfigError(f"pad: mode {mode!r}; there are 'constant', 'edge' and 'reflect'")
    for axis, width in enumerate(widths):
        if any(width):
            places: Any = np.pad
            x = index.take(x, places(np.arange(x.shape[axis]), width, mode=mode), axis=axis)
    return x


def vstack(arrays: Sequence[Any]) -> Any:
    """One below the other: along the first axis, of which 1-d arrays get one."""
    return shape.concatenate([atleast_2d(a) for a in arrays], axis=0)


def hstack(arrays: Sequence[Any]) -> Any:
    """Side by side: along the second axis; 1-d arrays along their only one."""
    return shape.concatenate(list(arrays), axis=0 if arrays[0].ndim == 1 else 1)


def dstack(arrays: Sequence[Any]) -> Any:
    """One behind the other: along the third axis."""
    deep = [shape.reshape(a, shape=(*atleast_2d(a).shape, 1)) if a.ndim < 3 else a for a in arrays]
    return shape.concatenate(deep, axis=2)


def column_stack(arrays: Sequence[Any]) -> Any:
    """1-d arrays as columns."""
    return shape.concatenate([shape.reshape(a, shape=(-1, 1)) if a.ndim < 2 else a for a in arrays], axis=1)


def atleast_1d(x: Any) -> Any:
    """``x``, with an axis if it has none."""
    x = asarray(x)
    return x if x.ndim else shape.reshape(x, shape=(1,))


def atleast_2d(x: Any) -> Any:
    """``x``, with axes in front until it has two."""
    x = asarray(x)
    return x if x.ndim > 1 else shape.reshape(x, shape=(1, -1))


def array_split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into sections that need not be of equal length: the first ones are longer by one."""
    if isinstance(sections, int):
        each, extra = divmod(x.shape[axis], sections)
        cuts = tuple(i * each + min(i, extra) for i in range(1, sections))
    else:
        cuts = tuple(sections)
    return list(shape.split(x, sections=cuts, axis=axis))


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into that many equal sections, or at the given positions."""
    return list(shape.split(x, sections=sections, axis=axis))


def rot90(x: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Any:
    """Turned by 90 degrees ``k`` times, in the plane of two axes, from the first to the second."""
    for _ in range(k % 4):
        x = shape.flip(shape.swapaxes(x, axes[0], axes[1]), axis=axes[0])
    return x


def diff(x: Any, n: int = 1, axis: int = -1) -> Any:
    """Differences of neighbours along ``axis``, ``n`` times."""
    axis %= x.ndim
    for _ in range(n):
        lead = (slice(None),) * axis
        x = x[(*lead, slice(1, None))] - x[(*lead, slice(None, -1))]
    return x


def diag(x: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix; of a vector, the matrix with it on that diagonal."""
    if x.ndim == 1:
        n = x.shape[0] + abs(k)
        return linalg.diagonal_add(x, shape=(n, n), offset=k)
    return linalg.diagonal(x, offset=k)


def average(x: Any, axis: Any = None, weights: Any = None) -> Any:
    """Mean over ``axis``, weighted with ``weights`` (of the shape of x, or of its one axis)."""
    if weights is None:
        return reduce.mean(x, axis=axis)
    weights = asarray(weights, dtype=x.dtype)
    if weights.ndim != x.ndim:
        weights = weights.reshape(tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim)))
    return reduce.sum_(x * weights, axis=axis) / reduce.sum_(weights + elementwise.zeros_like(x), axis=axis)


def median(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The middle element along ``axis``, or the mean of the two in the middle."""
    values = shape.reshape(x, shape=(-1,)) if axis is None else x
    along = 0 if axis is None else axis
    n = values.shape[along]
    if not n:
        raise ShapeError(f"median: an array of shape {tuple(x.shape)} has no element over axis {axis}")
    ordered = index.sort(values, axis=along)
    middle = index.take(ordered, np.array([(n - 1) // 2, n // 2]), axis=along).mean(axis=along, keepdims=keepdims)
    return middle.reshape((1,) * x.ndim) if keepdims and axis is None else middle


def ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Largest minus smallest element over ``axis``."""
    return reduce.max_(x, axis=axis, keepdims=keepdims) - reduce.min_(x, axis=axis, keepdims=keepdims)


def round_(x: Any, decimals: int = 0) -> Any:
    """To that many decimals; halves go to the even neighbour."""
    if not decimals:
        return elementwise.rint(x)
    scale = 10.0**decimals
    return elementwise.rint(x * scale) * (1.0 / scale)


def nan_to_num(x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """With numbers in the place of nan and infinities (by default the largest of the dtype)."""
    largest = float(np.finfo(x.dtype).max)
    x = elementwise.where(x == x, x, nan)
    x = elementwise.where(x == float("inf"), largest if posinf is None else posinf, x)
    return elementwise.where(x == float("-inf"), -largest if neginf is None else neginf, x)


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays may lie in the same memory."""
    return bool(np.may_share_memory(raw(a), raw(b)))


# -- values decide the shape, or the answer is for Python: not for graphs


def nonzero(x: Any) -> tuple[Any, ...]:
    """The positions of elements that are not zero: one int64 tensor per axis."""
    return tuple(Tensor(i) for i in raw(x).nonzero())


def unique(x: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The sorted elements without repetitions; also, if wanted, where they come first, where each went, how many."""
    find: Any = np.unique
    found = find(np.asarray(raw(x)), return_index, return_inverse, return_counts)
    return tuple(map(Tensor, found)) if isinstance(found, tuple) else Tensor(found)


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often each of the integers from 0 occurs, or the sum of their weights."""
    return Tensor(np.bincount(raw(x), None if weights is None else raw(weights), minlength))


def histogram(x: Any, bins: Any = 10, range: tuple[float, float] | None = None) -> tuple[Tensor, Tensor]:
    """How many elements fall between neighbouring edges, and the edges."""
    counts, edges = np.histogram(raw(x), raw(bins), range)
    return Tensor(counts), Tensor(edges)


def array_equal(a: Any, b: Any) -> bool:
    """Whether shape and all elements are equal."""
    return bool(np.array_equal(raw(a), raw(b)))


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements differ by at most ``atol`` + ``rtol`` * abs(b)."""
    return bool(np.allclose(raw(a), raw(b), rtol, atol, equal_nan))


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """For each element, whether the two differ by at most ``atol`` + ``rtol`` * abs(b)."""
    return Tensor(np.isclose(raw(a), raw(b), rtol, atol, equal_nan))


def result_type(*values: Any) -> np.dtype[Any]:
    """The dtype that the values have together."""
    return np.result_type(*(raw(v) for v in values))


def shape_of(x: Any) -> tuple[int, ...]:
    """Length of each axis."""
    return tuple(asarray(x).shape)
