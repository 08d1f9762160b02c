"""NumPy's reductions and averages, with NumPy's arguments but ``out``.

``axis`` is an int, a tuple of ints, or None for all axes; ``dtype`` is what is computed in; ``where`` says which ones
of the elements count, and ``initial`` is one more of them.
"""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ShapeError
from shoal.ops import compare, reduce, shape
from shoal.ops import elementwise as ew
from shoal.ops.numpylike.arguments import arraylike, converted
from shoal.ops.precision import is_float
from shoal.ops.reduce import argmax, argmin

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "average",
    "count_nonzero",
    "max",
    "mean",
    "min",
    "prod",
    "ptp",
    "std",
    "sum",
    "var",
]


_Axis = int | Sequence[int] | None


def _chosen(x: Any, where: Any, otherwise: Any) -> Any:
    return x if where is None or where is True else ew.where(where, x, otherwise)


def sum(
    x: Any, axis: _Axis = None, dtype: Any = None, *, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Any:
    """Sum over ``axis``."""
    x = _chosen(converted(x, dtype), where, 0)
    out = reduce.sum_(x, axis=axis, keepdims=keepdims)
    out = converted(out, dtype)  # narrow integers are summed in 64 bits
    return out if initial is None else out + initial


def prod(
    x: Any, axis: _Axis = None, dtype: Any = None, *, keepdims: bool = False, initial: Any = None, where: Any = None
) -> Any:
    """Product over ``axis``."""
    x = _chosen(converted(x, dtype), where, 1)
    out = converted(reduce.prod(x, axis=axis, keepdims=keepdims), dtype)
    return out if initial is None else out * initial


def mean(x: Any, axis: _Axis = None, dtype: Any = None, *, keepdims: bool = False, where: Any = None) -> Any:
    """Mean over ``axis``; of integers in float64."""
    x = converted(x, dtype)
    if where is None or where is True:
        return reduce.mean(x, axis=axis, keepdims=keepdims)
    x = x if is_float(x.dtype) else ew.astype(x, dtype="float64")
    return sum(x, axis, keepdims=keepdims, where=where) / _count(x, axis, keepdims, where)


def _count(x: Any, axis: _Axis, keepdims: bool, where: Any) -> Any:
    """How many elements count, in the dtype of x."""
    counted = reduce.sum_(compare.logical_and(where, ew.ones_like(x)), axis=axis, keepdims=keepdims)
    return ew.astype(counted, dtype=x.dtype)


def var(
    x: Any,
    axis: _Axis = None,
    dtype: Any = None,
    *,
    ddof: float = 0,
    keepdims: bool = False,
    where: Any = None,
    correction: float | None = None,
) -> Any:
    """Variance over ``axis``; the sum of squares is divided by n - ``ddof`` (also called ``correction``)."""
    x, freedom = converted(x, dtype), ddof if correction is None else correction
    if where is None or where is True:
        return reduce.var(x, axis=axis, ddof=freedom, keepdims=keepdims)
    x = x if is_float(x.dtype) else ew.astype(x, dtype="float64")
    centred = x - mean(x, axis, keepdims=True, where=where)
    squares = sum(ew.square(centred), axis, keepdims=keepdims, where=where)
    return squares / (_count(x, axis, keepdims, where) - float(freedom))


def std(
    x: Any,
    axis: _Axis = None,
    dtype: Any = None,
    *,
    ddof: float = 0,
    keepdims: bool = False,
    where: Any = None,
    correction: float | None = None,
) -> Any:
    """Standard deviation over ``axis``: the square root of `var`."""
    if where is None or where is True:
        freedom = ddof if correction is None else correction
        return reduce.std(converted(x, dtype), axis=axis, ddof=freedom, keepdims=keepdims)
    return ew.sqrt(var(x, axis, dtype, ddof=ddof, keepdims=keepdims, where=where, correction=correction))


def max(x: Any, axis: _Axis = None, *, keepdims: bool = False, initial: Any = None, where: Any = None) -> Any:
    """Largest element over ``axis``; equal ones share the gradient. ``where`` needs ``initial``."""
    return _extreme("max", reduce.max_, ew.maximum, x, axis, keepdims, initial, where)


def min(x: Any, axis: _Axis = None, *, keepdims: bool = False, initial: Any = None, where: Any = None) -> Any:
    """Smallest element over ``axis``; equal ones share the gradient. ``where`` needs ``initial``."""
    return _extreme("min", reduce.min_, ew.minimum, x, axis, keepdims, initial, where)


def _extreme(name: str, op: Any, pair: Any, x: Any, axis: _Axis, keepdims: bool, initial: Any, where: Any) -> Any:
    x = arraylike(x)
    if initial is None:
        if not (where is None or where is True):
            raise ShapeError(f"{name}: where= may leave no element over axis {axis}, so that it needs initial=")
        return op(x, axis=axis, keepdims=keepdims)
    x = _chosen(x, where, initial)
    if 0 in x.shape:
        return sum(x, axis, keepdims=keepdims, dtype=x.dtype) + initial
    return pair(op(x, axis=axis, keepdims=keepdims), initial)


amax, amin = max, min


def any(x: Any, axis: _Axis = None, *, keepdims: bool = False, where: Any = None) -> Any:
    """Whether an element over ``axis`` is not zero."""
    return reduce.any_(_chosen(arraylike(x), where, False), axis=axis, keepdims=keepdims)


def all(x: Any, axis: _Axis = None, *, keepdims: bool = False, where: Any = None) -> Any:
    """Whether no element over ``axis`` is zero."""
    return reduce.all_(_chosen(arraylike(x), where, True), axis=axis, keepdims=keepdims)


def count_nonzero(x: Any, axis: _Axis = None, *, keepdims: bool = False) -> Any:
    """How many elements over ``axis`` are not zero, int64."""
    return reduce.sum_(compare.not_equal(arraylike(x), 0), axis=axis, keepdims=keepdims)


def average(x: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: bool = False) -> Any:
    """Mean over ``axis``, weighted with ``weights`` (of the shape of x, or of its one axis).

    Args:
        returned: the sums of the weights, too.
    """
    x = arraylike(x)
    if weights is None:
        if not returned:
            return reduce.mean(x, axis=axis, keepdims=keepdims)
        weights = ew.ones_like(x)
    weights = converted(weights, x.dtype if is_float(x.dtype) else None)
    if weights.ndim != x.ndim:
        weights = shape.reshape(weights, shape=tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim)))
    weights = shape.broadcast_to(weights, shape=tuple(x.shape))
    total = reduce.sum_(weights, axis=axis, keepdims=keepdims)
    out = reduce.sum_(x * weights, axis=axis, keepdims=keepdims) / total
    return (out, total) if returned else out


def ptp(x: Any, axis: _Axis = None, *, keepdims: bool = False) -> Any:
    """Largest minus smallest element over ``axis``."""
    return max(x, axis, keepdims=keepdims) - min(x, axis, keepdims=keepdims)
