"""NumPy's notations with brackets, loops over positions, and histograms over several axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy import index_exp, ndindex, s_

from shoal.errors import ShapeError
from shoal.ops import elementwise, shape
from shoal.ops.numpylike import joining
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "c_",
    "histogram2d",
    "histogramdd",
    "index_exp",
    "mgrid",
    "ndenumerate",
    "ndindex",
    "ogrid",
    "packbits",
    "polydiv",
    "r_",
    "s_",
    "unpackbits",
]


def _floats(values: Any) -> Tensor:
    made = np.asarray(values)
    return Tensor(made.astype(np.float32) if made.dtype == np.float64 else made)


class _Grid:
    """``mgrid[0:3, 0:4]``: the positions in a grid along a new first axis; ``ogrid``: a tuple that broadcasts to it."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getitem__(self, key: Any) -> Any:
        found = self._source[key]
        return tuple(map(_floats, found)) if isinstance(found, (tuple, list)) else _floats(found)


mgrid, ogrid = _Grid(np.mgrid), _Grid(np.ogrid)


class _Joined:
    """``r_[a, 0, b]``: joined along the first axis; ``c_[a, b]``: vectors as columns. Slices are `arange`."""

    def __init__(self, columns: bool) -> None:
        self._columns = columns

    def __getitem__(self, key: Any) -> Any:
        parts = [self._part(k) for k in (key if isinstance(key, tuple) else (key,))]
        return joining.column_stack(parts) if self._columns else joining.concatenate(parts, 0)

    def _part(self, key: Any) -> Any:
        if isinstance(key, slice):
            return _floats(np.r_[key])
        x = arraylike(np.asarray(key) if isinstance(key, int) else key)
        return x if x.ndim else shape.reshape(x, shape=(1,))


r_, c_ = _Joined(False), _Joined(True)


def ndenumerate(x: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Pairs of a position and the element there, a number."""
    return iter(np.ndenumerate(np.asarray(raw(x))))


def polydiv(u: Any, v: Any) -> tuple[Any, Any]:
    """Quotient and remainder of two polynomials.

    Raises:
        ShapeError: the divisor has no coefficients.
    """
    u, v = (shape.reshape(arraylike(p), shape=(-1,)) for p in (u, v))
    if not v.shape[0]:
        raise ShapeError("polydiv: the divisor has no coefficients")
    u = u / elementwise.ones_like(v[:1])
    n, m = u.shape[0], v.shape[0]
    quotient = []
    for i in range(max(n - m + 1, 1)):
        if i + m > n:
            quotient.append(elementwise.zeros_like(u[:1]))
            break
        factor = u[i : i + 1] / v[:1]
        quotient.append(factor)
        u = u - shape.pad(factor * v, pad_width=((i, n - m - i),))
    rest = u
    while rest.shape[0] > 1 and abs(float(rest[0])) < 1e-14 * max(1.0, float(elementwise.abs_(u).max())):
        rest = rest[1:]
    return shape.concatenate(quotient, axis=0), rest


def histogram2d(x: Any, y: Any, bins: Any = 10, range: Any = None, density: bool = False, weights: Any = None) -> Any:
    """How many points (x, y) fall into each field of a grid, and the edges along both axes."""
    given = None if weights is None else raw(weights)
    find: Any = np.histogram2d
    return tuple(map(Tensor, find(np.asarray(raw(x)), np.asarray(raw(y)), bins, range, density, given)))


def histogramdd(sample: Any, bins: Any = 10, range: Any = None, density: bool = False, weights: Any = None) -> Any:
    """How many points, the rows of ``sample``, fall into each cell of a grid, and the edges along its axes."""
    given = None if weights is None else raw(weights)
    find: Any = np.histogramdd
    counts, edges = find(np.asarray(raw(sample)), bins, range, density, given)
    return Tensor(counts), tuple(map(Tensor, edges))


def packbits(x: Any, axis: int | None = None, bitorder: Any = "big") -> Tensor:
    """Eight truth values to a uint8."""
    return Tensor(np.packbits(np.asarray(raw(x)), axis, bitorder))


def unpackbits(x: Any, axis: int | None = None, count: int | None = None, bitorder: Any = "big") -> Tensor:
    """The bits of uint8, each a uint8."""
    return Tensor(np.unpackbits(np.asarray(raw(x)), axis, count, bitorder))
