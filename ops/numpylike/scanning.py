"""NumPy's functions of neighbours along an axis: running sums and products, differences, integrals, interpolation."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ShapeError
from shoal.ops import elementwise, index, reduce, shape
from shoal.ops.numpylike.arguments import arraylike, converted
from shoal.ops.ordering import searchsorted
from shoal.ops.reduce import cumsum
from shoal.ops.scan import cumprod

__all__ = [
    "cumprod",
    "cumsum",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "ediff1d",
    "gradient",
    "interp",
    "trapezoid",
]


def _cut(x: Any, axis: int, start: int | None, stop: int | None) -> Any:
    return x[(*(slice(None),) * axis, slice(start, stop))]


def _cumulative(scan: Any, x: Any, axis: int | None, dtype: Any, include_initial: bool, initial: float) -> Any:
    x = arraylike(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(f"cumulative sums need an axis for an array of shape {tuple(x.shape)}")
        axis = 0
    out = scan(converted(x, dtype), axis=axis)
    if not include_initial:
        return out
    width = tuple((1, 0) if i == axis % x.ndim else (0, 0) for i in range(x.ndim))
    return shape.pad(out, pad_width=width, constant=initial)


def cumulative_sum(x: Any, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """Running sum along ``axis``; with a 0 in front, if wanted."""
    return _cumulative(cumsum, x, axis, dtype, include_initial, 0.0)


def cumulative_prod(x: Any, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    """Running product along ``axis``; with a 1 in front, if wanted."""
    return _cumulative(cumprod, x, axis, dtype, include_initial, 1.0)


def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along ``axis``, ``n`` times.

    Args:
        prepend, append: numbers or arrays to put before and behind x first.
    Raises:
        ShapeError: x has no axes, or ``n`` is negative.
    """
    x = arraylike(x)
    if not x.ndim or n < 0:
        raise ShapeError(f"diff: needs an axis and n of at least 0, got shape {tuple(x.shape)} and n={n}")
    axis %= x.ndim
    parts = [_border(prepend, x, axis), x, _border(append, x, axis)]
    given = [p for p in parts if p is not None]
    if n and len(given) > 1:
        x = shape.concatenate(given, axis=axis)
    for _ in range(n):
        later, sooner = _cut(x, axis, 1, None), _cut(x, axis, None, -1)
        x = later != sooner if x.dtype.kind == "b" else later - sooner
    return x


def _border(values: Any, x: Any, axis: int) -> Any:
    if values is None:
        return None
    values = converted(arraylike(values), x.dtype)
    if values.ndim:
        return values
    return shape.broadcast_to(values, shape=tuple(1 if i == axis else m for i, m in enumerate(x.shape)))


def ediff1d(x: Any) -> Any:
    """Differences of neighbours of the flattened array."""
    return diff(shape.reshape(arraylike(x), shape=(-1,)))


def trapezoid(y: Any, x: Any = None, dx: float = 1.0, axis: int = -1) -> Any:
    """The integral of y along ``axis`` by the trapezoidal rule.

    Args:
        x: where y was taken: of the length of that axis, or of the shape of y; otherwise every ``dx``.
    """
    y = arraylike(y)
    axis %= y.ndim
    mean = (_cut(y, axis, 1, None) + _cut(y, axis, None, -1)) * 0.5
    if x is None:
        return reduce.sum_(mean * float(dx), axis=axis)
    width = diff(arraylike(x)) if arraylike(x).ndim == 1 else diff(x, axis=axis)
    if width.ndim == 1:
        width = shape.reshape(width, shape=(-1,) + (1,) * (y.ndim - axis - 1))
    return reduce.sum_(mean * width, axis=axis)


def gradient(f: Any, *varargs: float, axis: int | Sequence[int] | None = None) -> Any:
    """Slopes by differences: central ones inside, one-sided ones at the ends; see `numpy.gradient`.

    Args:
        varargs: the distance of samples, one for all axes or one for each; 1 by default.
        axis: along which; all by default.
    Returns:
        An array for one axis, a list of arrays for several.
    Raises:
        ShapeError: an axis has less than two samples, or there are not as many distances as axes.
    """
    f = arraylike(f)
    axes = tuple(range(f.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    steps = [float(v) for v in varargs] or [1.0]
    steps = steps * len(axes) if len(steps) == 1 else steps
    if len(steps) != len(axes) or any(f.shape[a] < 2 for a in axes):
        raise ShapeError(
            f"gradient: needs two samples along each axis, and a distance for each; got shape {tuple(f.shape)}, axes "
            f"{axes}, {len(steps)} distances"
        )
    found = [_slope(f, a % f.ndim, step) for a, step in zip(axes, steps, strict=True)]
    return found[0] if len(found) == 1 else found


def _slope(f: Any, axis: int, step: float) -> Any:
    inside = (_cut(f, axis, 2, None) - _cut(f, axis, None, -2)) * (0.5 / step)
    first = (_cut(f, axis, 1, 2) - _cut(f, axis, 0, 1)) * (1.0 / step)
    last = (_cut(f, axis, -1, None) - _cut(f, axis, -2, -1)) * (1.0 / step)
    return shape.concatenate([first, inside, last], axis=axis)


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None) -> Any:
    """At x the broken line through the points (``xp``, ``fp``), with gradients for all three.

    Args:
        xp: in ascending order.
        left, right: the values beyond the ends; those of the ends by default.
    """
    x, xp, fp = arraylike(x), arraylike(xp), arraylike(fp)
    n = xp.shape[0]
    if xp.ndim != 1 or tuple(fp.shape) != tuple(xp.shape) or not n:
        raise ShapeError(f"interp: xp and fp must be vectors of one length, got {xp.shape} and {fp.shape}")
    above = elementwise.clip(searchsorted(xp, x, side="right"), a_min=min(1, n - 1), a_max=n - 1)
    below = elementwise.maximum(above - 1, 0)
    x0, x1 = index.take(xp, below, axis=0), index.take(xp, above, axis=0)
    y0, y1 = index.take(fp, below, axis=0), index.take(fp, above, axis=0)
    width = x1 - x0
    part = elementwise.clip((x - x0) / elementwise.where(width == 0, 1.0, width), a_min=0.0, a_max=1.0)
    out = y0 + (y1 - y0) * part
    if left is not None:
        out = elementwise.where(x < xp[0], left, out)
    return out if right is None else elementwise.where(x > xp[n - 1], right, out)
