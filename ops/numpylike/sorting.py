"""NumPy's functions that sort, search in sorted arrays, and compare arrays as sets.

Sorting has gradients: they go to where the elements came from. A result whose length depends on values is no part of
a graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import index, ordering, shape
from shoal.ops.elementwise import astype, minimum, zeros_like
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "argpartition",
    "argsort",
    "digitize",
    "intersect1d",
    "isin",
    "lexsort",
    "partition",
    "put_along_axis",
    "searchsorted",
    "setdiff1d",
    "setxor1d",
    "sort",
    "union1d",
    "unique",
]


def _flat(x: Any, axis: int | None) -> tuple[Any, int]:
    x = arraylike(x)
    return (shape.reshape(x, shape=(-1,)), 0) if axis is None else (x, axis)


def sort(
    x: Any, axis: int | None = -1, kind: str | None = None, *, stable: bool | None = None, descending: bool = False
) -> Any:
    """In ascending order along ``axis`` (flattened if None).

    Args:
        kind, stable: taken for NumPy's sake; equal elements cannot be told apart.
        descending: from the largest to the smallest, as in the array API standard.
    """
    x, axis = _flat(x, axis)
    ordered = index.sort(x, axis=axis)
    return shape.flip(ordered, axis=axis) if descending else ordered


def argsort(
    x: Any, axis: int | None = -1, kind: str | None = None, *, stable: bool | None = None, descending: bool = False
) -> Any:
    """The positions that sort x along ``axis`` (flattened if None), int64. Equal elements keep their order.

    Args:
        kind, stable: taken for NumPy's sake; the order is always stable.
        descending: from the largest to the smallest.
    """
    x, axis = _flat(x, axis)
    if not descending:
        return index.argsort(x, axis=axis)
    backwards = index.argsort(shape.flip(x, axis=axis), axis=axis)  # of equal elements the first must come first
    return (x.shape[axis] - 1) - shape.flip(backwards, axis=axis)


def lexsort(keys: Any, axis: int = -1) -> Any:
    """The positions that sort by the last of the ``keys``, equal ones by the last but one, and so on."""
    keys = [arraylike(k) for k in keys]
    if not keys:
        raise ShapeError("lexsort: needs at least one key")
    order = index.argsort(keys[0], axis=axis)
    for key in keys[1:]:
        again = index.argsort(index.take_along_axis(key, order, axis=axis), axis=axis)
        order = index.take_along_axis(order, again, axis=axis)
    return order


def argpartition(x: Any, kth: int | Sequence[int], axis: int | None = -1) -> Any:
    """Positions along ``axis`` that put the ``kth`` smallest element in its place, smaller ones before it."""
    x, axis = _flat(x, axis)
    return ordering.argpartition(x, kth=kth if isinstance(kth, int) else tuple(kth), axis=axis)


def partition(x: Any, kth: int | Sequence[int], axis: int | None = -1) -> Any:
    """The ``kth`` smallest element along ``axis`` in its place, smaller ones before it, others behind it."""
    x, axis = _flat(x, axis)
    return index.take_along_axis(x, argpartition(x, kth, axis), axis=axis)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    """Where the values ``v`` would have to go into ``a``, which is sorted, so that it stays sorted; int64.

    Args:
        side: "left" before equal elements, "right" behind them.
        sorter: positions that sort ``a``, if it is not sorted.
    """
    a = arraylike(a)
    if sorter is not None:
        a = index.take(a, sorter, axis=0)
    return ordering.searchsorted(a, arraylike(v), side=side)


def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    """For each element, in which of the ``bins`` it lies, int64: i if bins[i - 1] <= x < bins[i].

    Args:
        bins: edges, in ascending or descending order.
        right: the right edge belongs to a bin, instead of the left one.
    Raises:
        ShapeError: the edges are not in order.
    """
    edges = np.asarray(raw(bins))
    if edges.ndim != 1 or ((np.diff(edges) < 0).any() and (np.diff(edges) > 0).any()):
        raise ShapeError(f"digitize: bins must be a vector in ascending or descending order, got shape {edges.shape}")
    if edges.size > 1 and edges[0] > edges[-1]:
        return len(edges) - searchsorted(edges[::-1].copy(), x, side="left" if right else "right")
    return searchsorted(edges, x, side="left" if right else "right")


# -- sets: the values decide the length


def unique(
    x: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    equal_nan: bool = True,
) -> Any:
    """The sorted elements (slices along ``axis``) without repetitions.

    The values have a gradient: it goes to the first of equal elements.

    Returns:
        The values; and, as wanted, where each comes first, which of them each element is, and how often each occurs.
    """
    lengths = tuple(arraylike(x).shape) if axis is None else (-1,)
    x, along = _flat(x, axis)
    find: Any = np.unique
    options = {"axis": along, "equal_nan": equal_nan} if axis is not None else {"equal_nan": equal_nan}
    _, first, inverse, counts = find(np.asarray(raw(x)), True, True, True, **options)
    values = index.take(x, Tensor(first), axis=along)
    wanted = (return_index, return_inverse, return_counts)
    found = (first, inverse.reshape(lengths), counts)
    rest = [Tensor(r) for r, want in zip(found, wanted, strict=True) if want]
    return (values, *rest) if rest else values


def isin(x: Any, test_elements: Any, invert: bool = False) -> Any:
    """Whether each element of x is one of the ``test_elements`` (is not, if ``invert``)."""
    x, ordered = arraylike(x), index.sort(shape.reshape(arraylike(test_elements), shape=(-1,)), axis=0)
    if ordered.shape[0]:
        places = ordering.searchsorted(ordered, x)
        found = index.take(ordered, minimum(places, ordered.shape[0] - 1), axis=0) == x
    else:
        found = astype(zeros_like(x), dtype="bool")
    return found ^ True if invert else found


def union1d(a: Any, b: Any) -> Tensor:
    """The sorted elements of one or the other."""
    return Tensor(np.union1d(raw(a), raw(b)))


def intersect1d(a: Any, b: Any) -> Tensor:
    """The sorted elements of both."""
    return Tensor(np.intersect1d(raw(a), raw(b)))


def setdiff1d(a: Any, b: Any) -> Tensor:
    """The sorted elements of ``a`` that are not in ``b``."""
    return Tensor(np.setdiff1d(raw(a), raw(b)))


def setxor1d(a: Any, b: Any) -> Tensor:
    """The sorted elements of exactly one of the two."""
    return Tensor(np.setxor1d(raw(a), raw(b)))


def put_along_axis(x: Any, indices: Any, values: Any, axis: int | None) -> None:
    """Write values into x, in place, at ``indices`` along ``axis``, as `take_along_axis` reads them; with gradients.

    For a new array instead use `shoal.npx.scatter`.
    """
    axis = 0 if axis is None and x.ndim == 1 else axis
    if axis is None or indices.ndim != x.ndim:
        raise ShapeError(f"put_along_axis: indices of shape {tuple(indices.shape)} for axis {axis} of shape {x.shape}")
    lengths = [n if i == axis % x.ndim else x.shape[i] for i, n in enumerate(indices.shape)]
    places: list[Any] = [np.arange(n).reshape((n,) + (1,) * (x.ndim - i - 1)) for i, n in enumerate(lengths)]
    places[axis] = raw(indices)
    x[tuple(places)] = values
