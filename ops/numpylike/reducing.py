"""NumPy's reductions and statistics."""

from typing import Any

from shoal.ops import elementwise, reduce
from shoal.ops.creation import asarray
from shoal.ops.reduce import all_ as all
from shoal.ops.reduce import any_ as any
from shoal.ops.reduce import argmax, argmin, mean, prod, std, var
from shoal.ops.reduce import max_ as max
from shoal.ops.reduce import min_ as min
from shoal.ops.reduce import sum_ as sum

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "average",
    "max",
    "mean",
    "min",
    "prod",
    "ptp",
    "std",
    "sum",
    "var",
]


amax, amin = max, min


def average(x: Any, axis: Any = None, weights: Any = None) -> Any:
    """Mean over ``axis``, weighted with ``weights`` (of the shape of x, or of its one axis)."""
    if weights is None:
        return reduce.mean(x, axis=axis)
    weights = asarray(weights, dtype=x.dtype)
    if weights.ndim != x.ndim:
        weights = weights.reshape(tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim)))
    return reduce.sum_(x * weights, axis=axis) / reduce.sum_(weights + elementwise.zeros_like(x), axis=axis)


def ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Largest minus smallest element over ``axis``."""
    return reduce.max_(x, axis=axis, keepdims=keepdims) - reduce.min_(x, axis=axis, keepdims=keepdims)
