"""NumPy's reductions and statistics."""

from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import elementwise, index, reduce, shape
from shoal.ops.creation import asarray
from shoal.ops.reduce import all_ as all
from shoal.ops.reduce import any_ as any
from shoal.ops.reduce import argmax, argmin, cumsum, mean, prod, std, var
from shoal.ops.reduce import max_ as max
from shoal.ops.reduce import min_ as min
from shoal.ops.reduce import sum_ as sum
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "average",
    "bincount",
    "cumsum",
    "diff",
    "histogram",
    "max",
    "mean",
    "median",
    "min",
    "prod",
    "ptp",
    "std",
    "sum",
    "var",
]


amax, amin = max, min


def diff(x: Any, n: int = 1, axis: int = -1) -> Any:
    """Differences of neighbours along ``axis``, ``n`` times."""
    axis %= x.ndim
    for _ in range(n):
        lead = (slice(None),) * axis
        x = x[(*lead, slice(1, None))] - x[(*lead, slice(None, -1))]
    return x


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


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often each of the integers from 0 occurs, or the sum of their weights."""
    return Tensor(np.bincount(raw(x), None if weights is None else raw(weights), minlength))


def histogram(x: Any, bins: Any = 10, range: tuple[float, float] | None = None) -> tuple[Tensor, Tensor]:
    """How many elements fall between neighbouring edges, and the edges."""
    counts, edges = np.histogram(raw(x), raw(bins), range)
    return Tensor(counts), Tensor(edges)
