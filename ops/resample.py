"""Resampling along axes: every output element is a weighted sum of a few input elements.

Their places and weights follow from the lengths alone. Interpolation, resizing and adaptive averages are made of this
one linear operator; its gradient is its transpose, which has a table of the same form.

Several axes are done one after another (the weights are products).
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import pooling, specs
from shoal.ops.conv import Lengths
from shoal.ops.precision import wide
from shoal.ops.registry import Array, Op, Shape, Spec, op

__all__ = ["COORDINATES", "KINDS", "ROUNDINGS", "adaptive_avg_pool", "interpolate", "resample", "resample_add"]

KINDS = ("nearest", "linear", "cubic", "area")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


class _Table(NamedTuple):
    """(outputs, taps): which inputs an output is made of, and with which weights."""

    places: Any
    weights: Any


@lru_cache(maxsize=256)
def _table(
    length: int,
    size: int,
    kind: str,
    coordinates: str,
    rounding: str,
    scale: float | None,
    antialias: bool,
    cubic: float,
) -> _Table:
    if kind == "area":
        places = pooling.region_places(length, size)
        starts = np.arange(size) * length // size
        counts = -(-(np.arange(1, size + 1) * length) // size) - starts
        return _Table(places, np.where(np.arange(places.shape[1]) < counts[:, None], 1.0 / counts[:, None], 0.0))
    if antialias:
        return _antialiased(length, size, kind, coordinates, scale, cubic)
    if kind == "nearest":
        found = _nearest(length, size, coordinates, rounding, scale)
        return _Table(np.clip(found, 0, length - 1)[:, None], np.ones((size, 1)))
    at = _sources(length, size, coordinates, scale)
    whole = np.floor(at)
    part = (at - whole)[:, None]
    taps = np.arange(2) if kind == "linear" else np.arange(-1, 3)
    shape: Callable[[Any], Any] = _tent if kind == "linear" else lambda d: _cubic(d, cubic)
    places = np.clip(whole[:, None].astype(np.int64) + taps, 0, length - 1)
    return _Table(places, shape(taps - part))


def _ratio(length: int, size: int, coordinates: str, scale: float | None) -> float:
    """How far apart in the input two neighbours of the output are."""
    if coordinates == "align_corners":
        return (length - 1) / (size - 1) if size > 1 else 0.0
    return length / size if scale is None else 1.0 / scale


def _sources(length: int, size: int, coordinates: str, scale: float | None) -> Any:
    """Where in the input each output element lies."""
    ratio, i = _ratio(length, size, coordinates, scale), np.arange(size)
    if coordinates in ("align_corners", "asymmetric"):
        return i * ratio
    if coordinates == "pytorch_half_pixel" and size == 1:
        return np.zeros(1)
    at = (i + 0.5) * ratio - 0.5
    if coordinates == "half_pixel_symmetric" and scale is not None:
        at = at + length / 2 * (1 - size / (scale * length))
    return at


def _nearest(length: int, size: int, coordinates: str, rounding: str, scale: float | None) -> Any:
    if coordinates in ("asymmetric", "half_pixel") and rounding in ("floor", "round_prefer_ceil"):
        ratio = np.float32(_ratio(length, size, coordinates, scale))  # in float32, as PyTorch: its ties are so
        i = np.arange(size, dtype=np.float32)
        if coordinates == "asymmetric" and rounding == "floor":
            return np.floor(i * ratio).astype(np.int64)
        if coordinates == "half_pixel" and rounding == "round_prefer_ceil":
            return np.floor((i + np.float32(0.5)) * ratio).astype(np.int64)
    at = np.round(_sources(length, size, coordinates, scale), 9)  # what is a half but for rounding is a half
    rounded: dict[str, Callable[[Any], Any]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    return rounded[rounding](at).astype(np.int64)


def _tent(d: Any) -> Any:
    return np.maximum(1.0 - np.abs(d), 0.0)


def _cubic(d: Any, a: float) -> Any:
    """Keys' kernel: R. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    d = np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _antialiased(length: int, size: int, kind: str, coordinates: str, scale: float | None, cubic: float) -> _Table:
    """A kernel as wide as the step, when the step is more than one element."""
    ratio = _ratio(length, size, coordinates, scale)
    stretch = max(ratio, 1.0)
    support = (1.0 if kind == "linear" else 2.0) * stretch
    centres = ratio * (np.arange(size) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), length)
    places = first[:, None] + np.arange(max(int((last - first).max()), 1))
    d = (places - centres[:, None] + 0.5) / stretch
    weights = np.where(places < last[:, None], _tent(d) if kind == "linear" else _cubic(d, cubic), 0.0)
    return _Table(np.minimum(places, length - 1), weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=256)
def _transposed(length: int, *given: Any) -> _Table:
    """The table of the transpose: rows of inputs, as long as the longest needs, filled up with weights of 0."""
    places, weights = _table(length, *given)
    outputs = np.broadcast_to(np.arange(len(places))[:, None], places.shape).reshape(-1)
    used = weights.reshape(-1) != 0
    inputs, outputs, weights = places.reshape(-1)[used], outputs[used], weights.reshape(-1)[used]
    order = np.argsort(inputs, kind="stable")
    inputs, outputs, weights = inputs[order], outputs[order], weights[order]
    counts = np.bincount(inputs, minlength=length)
    column = np.arange(len(inputs)) - (np.cumsum(counts) - counts)[inputs]
    taps = max(int(counts.max()), 1)
    table = _Table(np.zeros((length, taps), np.int64), np.zeros((length, taps)))
    table.places[...] = outputs[np.minimum(np.cumsum(counts) - counts, len(outputs) - 1)][:, None]
    table.places[inputs, column], table.weights[inputs, column] = outputs, weights
    return table


def _weighted(xp: Any, x: Any, axis: int, table: _Table) -> Any:
    if table.weights.shape[1] == 1 and (table.weights == 1).all():
        return xp.take(x, xp.asarray(table.places[:, 0]), axis=axis)
    if x.dtype.kind in "iub":
        raise TypeError(f"means of {x.dtype} are no integers")
    source, out = wide(x), xp.zeros((*x.shape[:axis], len(table.places), *x.shape[axis + 1 :]), wide(x).dtype)
    shape = (-1,) + (1,) * (x.ndim - axis - 1)
    for tap in range(table.places.shape[1]):
        part = xp.take(source, xp.asarray(table.places[:, tap]), axis=axis)
        part *= xp.asarray(table.weights[:, tap].astype(source.dtype)).reshape(shape)
        out += part
    return out.astype(x.dtype, copy=False)


def _settings(
    kind: str, coordinates: str, rounding: str, scale: float | None, antialias: bool, cubic: float
) -> tuple[Any, ...]:
    return kind, coordinates, rounding, scale, antialias, cubic


def _resampled(op: Op[Any], x: Spec, *, axis: int, size: int, kind: str = "linear", **settings: Any) -> Spec:
    axis = specs.axis_of(op, axis, x.ndim)
    named = (("kind", kind, KINDS), ("coordinates", settings.get("coordinates", "half_pixel"), COORDINATES))
    for name, value, known in (*named, ("rounding", settings.get("rounding", "floor"), ROUNDINGS)):
        if value not in known:
            raise ConfigError(f"{op.name}: {name}={value!r}; there are {', '.join(known)}")
    if size < 1 or x.shape[axis] < 1:
        raise ShapeError(f"{op.name}: axis {axis} of shape {x.shape} cannot be resampled to {size} elements")
    if kind != "nearest":
        specs.require_float(op, "x", x)
    return Spec((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)


@op(_resampled)
def resample(
    xp: Any,
    x: Array,
    axis: int,
    size: int,
    kind: str = "linear",
    coordinates: str = "half_pixel",
    rounding: str = "floor",
    scale: float | None = None,
    antialias: bool = False,
    cubic: float = -0.75,
) -> Any:
    """x with ``size`` elements along ``axis``, taken between those that it has.

    Args:
        kind: "nearest", "linear", "cubic", or "area": means over regions that cover the axis evenly.
        coordinates: where output i lies, in ONNX's words: "half_pixel" (ends of the axes meet), "align_corners"
            (outermost elements meet), "asymmetric" (first elements meet), "pytorch_half_pixel", "half_pixel_symmetric".
        rounding: for "nearest": "floor", "ceil", "round_prefer_floor", "round_prefer_ceil".
        scale: output lengths per input length, if that is not exactly size / length.
        antialias: when the result is shorter, let each of its elements weigh all that it stands for.
        cubic: the coefficient of Keys' kernel.
    """
    axis %= x.ndim
    settings = _settings(kind, coordinates, rounding, scale, antialias, cubic)
    return _weighted(xp, x, axis, _table(x.shape[axis], size, *settings))


@resample.vjp
def _resample_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int, size: int, **settings: Any) -> Any:
    return (xp.resample_add(g, axis=axis, size=x.shape[axis], **settings),)


@op(_resampled)
def resample_add(
    xp: Any,
    g: Array,
    axis: int,
    size: int,
    kind: str = "linear",
    coordinates: str = "half_pixel",
    rounding: str = "floor",
    scale: float | None = None,
    antialias: bool = False,
    cubic: float = -0.75,
) -> Any:
    """The transpose of `resample`, which is its gradient: g spread over the ``size`` elements that it was made of."""
    axis %= g.ndim
    settings = _settings(kind, coordinates, rounding, scale, antialias, cubic)
    return _weighted(xp, g, axis, _transposed(size, g.shape[axis], *settings))


@resample_add.vjp
def _resample_add_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int, size: int, **settings: Any) -> Any:
    return (xp.resample(g, axis=axis, size=x.shape[axis], **settings),)


def adaptive_avg_pool(x: Any, output_size: Lengths | None) -> Any:
    """The mean of each of ``output_size`` regions that cover x evenly, and may overlap by one.

    Region i of n over a length of m goes from floor(i m / n) to ceil((i + 1) m / n).

    Args:
        x: (batch, channels, *space).
        output_size: how many regions: a number, or one per spatial axis, None keeping the length.
    """
    space = tuple(x.shape[2:])
    wanted = pooling.adaptive_size(output_size, space)
    if wanted == space:
        return x
    if len(space) <= 3 and all(n % m == 0 for n, m in zip(space, wanted, strict=True)):
        return pooling.avg_pool(x, tuple(n // m for n, m in zip(space, wanted, strict=True)))
    for axis, size in enumerate(wanted):
        if size != space[axis]:
            x = resample(x, axis=2 + axis, size=size, kind="area")
    return x


_MODES = {
    "nearest": ("nearest", "asymmetric", "floor", None),
    "nearest-exact": ("nearest", "half_pixel", "round_prefer_ceil", None),
    "linear": ("linear", "half_pixel", "floor", 1),
    "bilinear": ("linear", "half_pixel", "floor", 2),
    "trilinear": ("linear", "half_pixel", "floor", 3),
    "bicubic": ("cubic", "half_pixel", "floor", 2),
    "area": ("area", "half_pixel", "floor", None),
}


def interpolate(
    x: Any,
    size: Lengths | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    antialias: bool = False,
    recompute_scale_factor: bool = False,
) -> Any:
    """x with its spatial axes made longer or shorter; names and results are PyTorch's.

    Args:
        x: (batch, channels, *space), one to three spatial axes.
        size: spatial shape of the result: a number, or one per axis.
        scale_factor: or how many times as long, rounded down.
        mode: "nearest", "nearest-exact", "linear" (one axis), "bilinear", "bicubic" (two), "trilinear" (three), "area".
        align_corners: the outermost elements of input and output lie on each other, not the ends of the axes.
        antialias: for "bilinear" and "bicubic": each element of a shorter result weighs all that it stands for.
        recompute_scale_factor: the ratio is that of the lengths, not ``scale_factor``.
    Raises:
        ConfigError: no such mode for so many axes; both or none of ``size`` and ``scale_factor``.
    """
    k = len(x.shape) - 2
    kind, coordinates, rounding, axes = _MODES.get(mode, ("", "", "", None))
    if not kind or (axes is not None and axes != k) or k not in (1, 2, 3):
        raise ConfigError(f"interpolate: mode={mode!r} for x of shape {tuple(x.shape)}; there are {', '.join(_MODES)}")
    if (align_corners and kind not in ("linear", "cubic")) or (
        antialias and (k != 2 or kind not in ("linear", "cubic"))
    ):
        raise ConfigError(f"interpolate: mode={mode!r} takes no {'align_corners' if align_corners else 'antialias'}")
    wanted, scales = _wanted(x.shape[2:], size, scale_factor)
    if recompute_scale_factor or kind == "area":
        scales = (None,) * k
    coordinates = "align_corners" if align_corners else coordinates
    for axis in sorted(range(k), key=lambda a: wanted[a] / max(x.shape[2 + a], 1)):  # what gets shorter goes first
        if wanted[axis] != x.shape[2 + axis] or scales[axis] not in (None, 1.0):
            settings: dict[str, Any] = {
                "kind": kind,
                "coordinates": coordinates,
                "rounding": rounding,
                "antialias": antialias,
            }
            cubic = -0.5 if antialias else -0.75
            x = resample(x, axis=2 + axis, size=wanted[axis], scale=scales[axis], cubic=cubic, **settings)
    return x


def _wanted(
    space: Sequence[int], size: Lengths | None, factor: float | Sequence[float] | None
) -> tuple[Shape, tuple[float | None, ...]]:
    """The lengths of the result, and the factors if they were given."""
    k = len(space)
    if (size is None) == (factor is None):
        raise ConfigError(f"interpolate: give size or scale_factor, not both; got {size=}, scale_factor={factor}")
    if size is not None:
        sizes = (size,) * k if isinstance(size, int) else tuple(size)
        scales: tuple[float | None, ...] = (None,) * k
    else:
        factors = (factor,) * k if isinstance(factor, (int, float)) else tuple(factor or ())
        sizes = tuple(math.floor(n * f) for n, f in zip(space, factors, strict=False))
        scales = tuple(float(f) for f in factors)
    if len(sizes) != k or min(sizes, default=0) < 1:
        raise ConfigError(f"interpolate: {size=}, scale_factor={factor} for space {tuple(space)}: {k} lengths >= 1")
    return sizes, scales
