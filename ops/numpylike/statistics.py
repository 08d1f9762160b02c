"""NumPy's order statistics and counts, and its reductions that leave out what is not a number (``nan...``)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import elementwise as ew
from shoal.ops import index, reduce, scan, shape, specs
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.precision import is_float, is_half
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "bincount",
    "corrcoef",
    "cov",
    "histogram",
    "histogram_bin_edges",
    "median",
    "nanargmax",
    "nanargmin",
    "nancumprod",
    "nancumsum",
    "nanmax",
    "nanmean",
    "nanmedian",
    "nanmin",
    "nanpercentile",
    "nanprod",
    "nanquantile",
    "nanstd",
    "nansum",
    "nanvar",
    "percentile",
    "quantile",
]

Axis = int | Sequence[int] | None

_METHODS = {
    "interpolated_inverted_cdf": (0.0, 1.0),
    "hazen": (0.5, 0.5),
    "weibull": (0.0, 0.0),
    "linear": (1.0, 1.0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
}
"""Where quantile q of n elements lies: at n * q + alpha + q * (1 - alpha - beta) - 1 (Hyndman and Fan, 1996)."""

_ROUNDED = ("lower", "higher", "nearest", "midpoint")


def _rows(name: str, x: Any, axis: Axis) -> tuple[Any, tuple[int, ...]]:
    """Floats with the elements over ``axis`` along the last axis, and the shape with those axes at length 1."""
    x = arraylike(x)
    if x.dtype.kind in "iub":
        x = ew.astype(x, dtype="float64")
    axes = specs.axes_of(name, axis, x.ndim)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    lead = tuple(x.shape[a] for a in rest)
    width = math.prod(x.shape[a] for a in axes)
    if axes != (x.ndim - 1,):
        x = shape.reshape(shape.transpose(x, axes=(*rest, *axes)), shape=(*lead, width))
    return x, kept


def _place(q: Any, n: Any, method: str) -> Any:
    """Where among n sorted elements the quantile q lies, from 0; may be between two, before the first, ..."""
    if method in _METHODS:
        alpha, beta = _METHODS[method]
        return n * q + (alpha + q * (1.0 - alpha - beta)) - 1.0
    return (n - 1.0) * q


def _checked(name: str, q: Any, method: str) -> Any:
    values = np.asarray(raw(q), np.float64)
    if method not in _METHODS and method not in _ROUNDED:
        raise ConfigError(f"{name}: method {method!r}; there are {', '.join([*_METHODS, *_ROUNDED])}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"{name}: a quantile must be from 0 to 1 (a percentile from 0 to 100), got {values.tolist()}")
    return values


def _neighbours(place: Any, last: Any, method: str) -> tuple[Any, Any, Any]:
    """The two positions to mix, and how much of the second."""
    place = np.minimum(np.maximum(place, 0.0), last)
    low, high = np.floor(place), np.ceil(place)
    if method == "lower":
        return low, low, 0.0 * low
    if method == "higher":
        return high, high, 0.0 * low
    if method == "nearest":
        near = np.rint(place)
        return near, near, 0.0 * low
    if method == "midpoint":
        return low, high, 0.5 * (high > low)
    return low, high, place - low


def quantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Any:
    """The element below which a part ``q`` of the elements over ``axis`` lies; nan if one is not a number.

    Args:
        q: from 0 to 1: a number, or several, which then are the first axis of the result.
        method: what to do between two elements: "linear" mixes, "lower", "higher", "nearest" and "midpoint" choose;
            "hazen", "weibull", "median_unbiased", "normal_unbiased" and "interpolated_inverted_cdf" as in NumPy.
    Raises:
        ConfigError: ``q`` is not from 0 to 1, or the method is unknown.
        ShapeError: there are no elements.
    """
    return _quantile("quantile", x, _checked("quantile", q, method), axis, method, keepdims)


def _quantile(name: str, x: Any, q: Any, axis: Axis, method: str, keepdims: bool) -> Any:
    rows, kept = _rows(name, x, axis)
    n = rows.shape[-1]
    if not n:
        raise ShapeError(f"{name}: an array of shape {tuple(arraylike(x).shape)} has no element over axis {axis}")
    low, high, weight = _neighbours(_place(q.reshape(-1), n, method), n - 1.0, method)
    ordered = index.sort(rows, axis=-1)
    values = index.take(ordered, low.astype(np.int64), axis=-1)
    if weight.any():
        upper = index.take(ordered, high.astype(np.int64), axis=-1)
        values = values + (upper - values) * Tensor(weight.astype(rows.dtype))
    last = index.take(ordered, np.array([n - 1]), axis=-1)
    values = ew.where(last == last, values, last)  # what is not a number is sorted to the end
    return _shaped(values, q, kept, rows, keepdims)


def _shaped(values: Any, q: Any, kept: tuple[int, ...], rows: Any, keepdims: bool) -> Any:
    """(..., quantiles) in the shape that NumPy gives it."""
    rest = kept if keepdims else tuple(rows.shape[:-1])
    return shape.reshape(shape.moveaxis(values, -1, 0), shape=(*q.shape, *rest))


def percentile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Any:
    """`quantile` with ``q`` from 0 to 100."""
    return _quantile("percentile", x, _checked("percentile", _hundredth(q), method), axis, method, keepdims)


def _hundredth(q: Any) -> Any:
    return np.asarray(raw(q), np.float64) / 100.0


def median(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The middle element over ``axis``, or the mean of the two in the middle; nan if one is not a number."""
    return _quantile("median", x, np.asarray(0.5), axis, "linear", keepdims)


def nanquantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Any:
    """`quantile` of the elements that are numbers; nan where there is none."""
    q = _checked("nanquantile", q, method)
    if method != "linear":
        raise ConfigError(f"nanquantile: method {method!r}; there is 'linear'")
    rows, kept = _rows("nanquantile", x, axis)
    if not rows.shape[-1]:
        raise ShapeError(f"nanquantile: an array of shape {tuple(arraylike(x).shape)} has no element over axis {axis}")
    wide = "float64" if rows.dtype == np.float64 else "float32"
    count = ew.astype(reduce.sum_(rows == rows, axis=-1, keepdims=True), dtype=wide)
    place = ew.maximum((count - 1.0) * Tensor(q.reshape(-1).astype(wide)), 0.0)
    low, ordered = ew.floor(place), index.sort(rows, axis=-1)
    values = index.take_along_axis(ordered, ew.astype(low, dtype="int64"), axis=-1)
    upper = index.take_along_axis(ordered, ew.astype(ew.ceil(place), dtype="int64"), axis=-1)
    values = values + (upper - values) * ew.astype(place - low, dtype=rows.dtype.name)
    return _shaped(values, q, kept, rows, keepdims)


def nanpercentile(x: Any, q: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """`percentile` of the elements that are numbers; nan where there is none."""
    return nanquantile(x, _hundredth(q), axis, keepdims=keepdims)


def nanmedian(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """`median` of the elements that are numbers; nan where there is none."""
    return nanquantile(x, 0.5, axis, keepdims=keepdims)


# -- reductions of the elements that are numbers


def _filled(x: Any, value: float) -> Any:
    """x with ``value`` in the place of what is not a number."""
    x = arraylike(x)
    return ew.where(x == x, x, value) if is_float(x.dtype) else x


def nansum(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over ``axis`` of the elements that are numbers."""
    return reduce.sum_(_filled(x, 0.0), axis=axis, keepdims=keepdims)


def nanprod(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Product over ``axis`` of the elements that are numbers."""
    return reduce.prod(_filled(x, 1.0), axis=axis, keepdims=keepdims)


def nancumsum(x: Any, axis: int | None = None) -> Any:
    """Running sum along ``axis``; what is not a number counts as 0."""
    return reduce.cumsum(_filled(x, 0.0), axis=axis)


def nancumprod(x: Any, axis: int | None = None) -> Any:
    """Running product along ``axis``; what is not a number counts as 1."""
    return scan.cumprod(_filled(x, 1.0), axis=axis)


def _count(x: Any, axis: Axis) -> Any:
    dtype = _wide(x).dtype.name if is_float(x.dtype) else "float64"
    return ew.astype(reduce.sum_(x == x, axis=axis, keepdims=True), dtype=dtype)


def _wide(x: Any) -> Any:
    return ew.astype(x, dtype="float32") if is_half(x.dtype) else x


def _narrow(result: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """Without the reduced axes, and in half precision if x is."""
    if is_half(x.dtype):
        result = ew.astype(result, dtype=x.dtype.name)
    if keepdims or not x.ndim:
        return result
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    return shape.squeeze(result, axis=axes) if axes else result


def _mean(x: Any, axis: Axis) -> Any:
    total = reduce.sum_(_filled(_wide(x), 0.0), axis=axis, keepdims=True)
    count = _count(x, axis)
    return ew.where(count > 0, total, math.nan) / ew.maximum(count, 1.0)


def nanmean(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Mean over ``axis`` of the elements that are numbers; nan where there is none."""
    x = arraylike(x)
    return _narrow(_mean(x, axis), x, axis, keepdims)


def _variance(x: Any, axis: Axis, ddof: float) -> Any:
    wide = _wide(x)
    centred = ew.where(x == x, wide - _mean(x, axis), 0.0)
    freedom = _count(x, axis) - float(ddof)
    total = reduce.sum_(ew.square(centred), axis=axis, keepdims=True)
    return ew.where(freedom > 0, total, math.nan) / ew.where(freedom > 0, freedom, 1.0)


def nanvar(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Variance over ``axis`` of the elements that are numbers; nan where there are not more than ``ddof``."""
    x = arraylike(x)
    return _narrow(_variance(x, axis, ddof), x, axis, keepdims)


def nanstd(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Standard deviation over ``axis`` of the elements that are numbers."""
    x = arraylike(x)
    return _narrow(ew.sqrt(_variance(x, axis, ddof)), x, axis, keepdims)


def _nan_extreme(x: Any, axis: Axis, keepdims: bool, pick: Any, worst: float) -> Any:
    x = arraylike(x)
    if not is_float(x.dtype):
        return pick(x, axis=axis, keepdims=keepdims)
    found = pick(_filled(x, worst), axis=axis, keepdims=keepdims)
    return ew.where(reduce.any_(x == x, axis=axis, keepdims=keepdims), found, math.nan)


def nanmax(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Largest number over ``axis``; nan where there is none."""
    return _nan_extreme(x, axis, keepdims, reduce.max_, -math.inf)


def nanmin(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Smallest number over ``axis``; nan where there is none."""
    return _nan_extreme(x, axis, keepdims, reduce.min_, math.inf)


def nanargmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the largest number along ``axis``; 0 where there is none."""
    return reduce.argmax(_filled(x, -math.inf), axis=axis, keepdims=keepdims)


def nanargmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the smallest number along ``axis``; 0 where there is none."""
    return reduce.argmin(_filled(x, math.inf), axis=axis, keepdims=keepdims)


# -- covariance


def cov(m: Any, rowvar: bool = True, ddof: int = 1) -> Any:
    """Covariances of variables: the rows of ``m`` (columns, if not ``rowvar``), with one observation per column."""
    m = arraylike(m)
    m = shape.reshape(m, shape=(1, -1)) if m.ndim < 2 else m if rowvar else m.T
    centred = m - reduce.mean(m, axis=1, keepdims=True)
    result = (centred @ centred.T) / float(m.shape[1] - ddof)
    return shape.reshape(result, shape=()) if result.shape == (1, 1) else result


def corrcoef(x: Any, rowvar: bool = True) -> Any:
    """Correlations of variables: the rows of x (columns, if not ``rowvar``)."""
    found = cov(x, rowvar)
    if not found.ndim:
        return found / found
    scale = ew.sqrt(index.getitem(found, np.arange(len(found)), np.arange(len(found)), key=("array", "array")))
    return ew.clip(found / scale.expand_dims(1) / scale.expand_dims(0), a_min=-1.0, a_max=1.0)


# -- counts


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each of the integers from 0 occurs, or the sum of their weights, which have a gradient."""
    places = np.asarray(raw(x))
    if weights is None:
        return Tensor(np.bincount(places, minlength=minlength))
    if places.size and places.min() < 0:
        raise IndexError(f"bincount: counts integers from 0, got {places.min()}")
    weights = arraylike(weights)
    if tuple(weights.shape) != places.shape:
        raise ShapeError(f"bincount: weights of shape {tuple(weights.shape)} for integers of shape {places.shape}")
    n = max(minlength, int(places.max()) + 1 if places.size else 0)
    return index.take_add(weights, places, shape=(n,))


def histogram_bin_edges(x: Any, bins: Any = 10, range: tuple[float, float] | None = None) -> Tensor:
    """The edges that `histogram` uses: so many ``bins``, those given, or as many as a rule of NumPy ("auto") finds."""
    return Tensor(np.histogram_bin_edges(raw(x), raw(bins), range))


def histogram(
    x: Any, bins: Any = 10, range: tuple[float, float] | None = None, density: bool = False, weights: Any = None
) -> tuple[Tensor, Tensor]:
    """How many elements (of which weight) fall between neighbouring edges, and the edges.

    Args:
        density: divided by their sum and by the widths.
    """
    given = None if weights is None else raw(weights)
    counts, edges = np.histogram(raw(x), raw(bins), range, density, given)
    return Tensor(counts), Tensor(edges)
