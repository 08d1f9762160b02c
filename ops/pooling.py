"""Pooling with everything that people ask of it: windows that reach over the edge, dilation, positions, norms.

Plain windows are the operators of `shoal.ops.pool`. What they do not have is put around the input before (`around`), or
done on the windows themselves (`sliding_windows`), which takes more memory.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import pool, specs
from shoal.ops.border import Pad, Pairs, around, pairs
from shoal.ops.conv import Lengths, lengths
from shoal.ops.elementwise import abs_, astype, where
from shoal.ops.index import take_along_axis
from shoal.ops.reduce import argmax
from shoal.ops.registry import Array, Op, Shape, Spec, op
from shoal.ops.shape import reshape, squeeze
from shoal.ops.windows import sliding_windows

__all__ = ["avg_pool", "lp_pool", "max_pool", "max_unpool", "sum_pool"]


class _Geometry(NamedTuple):
    """Windows over the spatial axes.

    Attributes:
        border: (before, after) that the caller asked for.
        extra: how many elements the last window of a ceil mode needs beyond.
    """

    kernel: Shape
    stride: Shape
    dilate: Shape
    border: Pairs
    extra: Shape
    counts: Shape

    @property
    def both(self) -> Shape:
        """What both sides have."""
        return tuple(min(a, b + e) for (a, b), e in zip(self.border, self.extra, strict=True))

    @property
    def more(self) -> Pairs:
        """What one side has in addition."""
        sides = zip(self.border, self.extra, self.both, strict=True)
        return tuple((a - both, b + e - both) for (a, b), e, both in sides)

    @property
    def all(self) -> Pairs:
        """What both sides have in all."""
        return tuple((a, b + e) for (a, b), e in zip(self.border, self.extra, strict=True))


def _geometry(
    who: str, x: Any, kernel: Lengths, stride: Lengths | None, pad: Pad, dilate: Lengths, ceil_mode: bool
) -> _Geometry:
    k = len(x.shape) - 2
    if k not in (1, 2, 3):
        raise ShapeError(f"{who}: x must be (batch, channels, *space) with 3, 4 or 5 axes, got shape {tuple(x.shape)}")
    size, apart = lengths(kernel, k), lengths(dilate, k)
    step = size if stride is None else lengths(stride, k)
    if not len(size) == len(step) == len(apart) == k:
        raise ConfigError(f"{who}: kernel={kernel}, stride={stride}, dilate={dilate} for {k} spatial axes")
    border = pairs(who, pad, x.shape[2:], size, step, apart)
    counts, extra = [], []
    for n, m, s, d, (a, b) in zip(x.shape[2:], size, step, apart, border, strict=True):
        reach, length = d * (m - 1) + 1, n + a + b
        if length < reach or max(a, b) >= reach:
            raise ShapeError(
                f"{who}: a window of {size} (dilate={apart}) with pad={pad} does not fit x of shape {tuple(x.shape)}; "
                "the window must fit, and the padding be smaller than it"
            )
        count = (length - reach) // s + 1
        if ceil_mode and (length - reach) % s and count * s < n + a:  # the last window must begin within
            count += 1
        counts.append(count)
        extra.append(max((count - 1) * s + reach - length, 0))
    return _Geometry(size, step, apart, border, tuple(extra), tuple(counts))


def _lowest(dtype: np.dtype[Any]) -> float:
    return int(np.iinfo(dtype).min) if dtype.kind in "iu" else -math.inf


def max_pool(
    x: Any,
    kernel: Lengths,
    stride: Lengths | None = None,
    pad: Pad = 0,
    dilate: Lengths = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window; the gradient goes to the first of them.

    Args:
        x: (batch, channels, *space), one to three spatial axes.
        kernel: lengths of the window: a number, or one per spatial axis.
        stride: distance of windows; None puts them side by side.
        pad: elements around x that are never the largest; forms as for `convolution`.
        dilate: distance of a window's elements.
        ceil_mode: a last window may reach over the end, as long as it begins before it.
        return_indices: return also where the largest elements were: positions in the flattened space of x, int64.
    Raises:
        ShapeError: the window does not fit, or is not larger than the padding.
    """
    found = _geometry("max_pool", x, kernel, stride, pad, dilate, ceil_mode)
    if max(found.dilate) > 1:
        return _max_of_windows(x, found, return_indices)
    both = {"kernel": found.kernel, "stride": found.stride, "pad": found.both}
    source = around(x, found.more, _lowest(x.dtype))
    out = pool.max_pool(source, **both)
    return (out, _positions(pool.max_pool_index(source, out, **both), found, x.shape[2:])) if return_indices else out


def _max_of_windows(x: Any, found: _Geometry, return_indices: bool) -> Any:
    source = around(x, found.all, _lowest(x.dtype))
    windows = sliding_windows(source, kernel=found.kernel, stride=found.stride, dilate=found.dilate)
    flat = reshape(windows, shape=(*x.shape[:2], *found.counts, math.prod(found.kernel)))
    best = argmax(flat, axis=-1, keepdims=True)
    out = squeeze(take_along_axis(flat, best, axis=-1), -1)
    return (out, _positions(squeeze(best, -1), found, x.shape[2:])) if return_indices else out


def _positions(index: Any, found: _Geometry, space: Sequence[int]) -> Any:
    """Positions within windows as positions in the flattened space of the input."""
    index, k = astype(index, dtype="int64"), len(space)
    total: Any = 0
    for axis, n in enumerate(found.kernel):
        starts = np.arange(found.counts[axis]) * found.stride[axis] - found.border[axis][0]
        starts = starts.reshape((-1,) + (1,) * (k - axis - 1))
        inside = index // math.prod(found.kernel[axis + 1 :]) % n
        total = total + (inside * found.dilate[axis] + starts) * math.prod(space[axis + 1 :])
    return total


def _unpooled(op: Op[Any], x: Spec, indices: Spec, *, space: Shape) -> Spec:
    specs.require_ndim(op, "x", x, 3, 4, 5)
    if x.shape != indices.shape or len(space) != x.ndim - 2 or indices.dtype.kind not in "iu":
        raise ShapeError(
            f"{op.name}: x of shape {x.shape} needs integer indices of the same shape and one length per spatial axis; "
            f"got indices of shape {indices.shape}, {indices.dtype}, and space={tuple(space)}"
        )
    return Spec((*x.shape[:2], *space), x.dtype)


@op(_unpooled)
def unpool_at(xp: Any, x: Array, indices: Array, space: Shape) -> Any:
    """Zeros of (batch, channels, *space) with x at the positions ``indices`` of the flattened space.

    Where two elements go to one position, the later one stays.
    """
    rows = x.shape[0] * x.shape[1]
    out = xp.zeros((rows, math.prod(space)), x.dtype)
    flat = indices.reshape(rows, math.prod(x.shape[2:]))
    if xp.host and flat.size and not (int(flat.min()) >= 0 and int(flat.max()) < out.shape[1]):
        raise IndexError(
            f"unpool_at: positions from {int(flat.min())} to {int(flat.max())} in a space of {tuple(space)}, which has "
            f"{out.shape[1]} elements"
        )
    xp.put_along_axis(out, flat, x.reshape(flat.shape), 1)
    return out.reshape(*x.shape[:2], *space)


@unpool_at.vjp
def _unpool_at_vjp(xp: Any, g: Any, out: Any, x: Any, indices: Any, space: Shape) -> Any:
    head, count = tuple(x.shape[:2]), math.prod(x.shape[2:])
    flat = xp.reshape(indices, (*head, count))
    return xp.reshape(xp.take_along_axis(xp.reshape(g, (*head, math.prod(space))), flat, 2), x.shape), None


def max_unpool(
    x: Any,
    indices: Any,
    kernel: Lengths,
    stride: Lengths | None = None,
    pad: Lengths = 0,
    output_size: Sequence[int] | None = None,
) -> Any:
    """What `max_pool` with ``return_indices`` took away, back at its place; zeros elsewhere.

    Args:
        indices: as `max_pool` returned them.
        kernel, stride, pad: as they were given to it.
        output_size: spatial shape of the result; by default the smallest that pools to the shape of x.
    """
    k = len(x.shape) - 2
    size = lengths(kernel, k)
    step = size if stride is None else lengths(stride, k)
    if output_size is None:
        geometry = zip(x.shape[2:], size, step, lengths(pad, k), strict=True)
        output_size = [(n - 1) * s - 2 * p + m for n, m, s, p in geometry]
    return unpool_at(x, indices, space=tuple(output_size[-k:]))


def sum_pool(
    x: Any,
    kernel: Lengths,
    stride: Lengths | None = None,
    pad: Pad = 0,
    dilate: Lengths = 1,
    ceil_mode: bool = False,
) -> Any:
    """The sum of each window; padding counts as 0. Arguments as for `max_pool`."""
    return _summed(x, _geometry("sum_pool", x, kernel, stride, pad, dilate, ceil_mode))


def _summed(x: Any, found: _Geometry) -> Any:
    if max(found.dilate) > 1:
        source = around(x, found.all)
        windows = sliding_windows(source, kernel=found.kernel, stride=found.stride, dilate=found.dilate)
        return windows.sum(axis=tuple(range(len(x.shape), len(windows.shape))))
    return pool.sum_pool(around(x, found.more), kernel=found.kernel, stride=found.stride, pad=found.both)


def avg_pool(
    x: Any,
    kernel: Lengths,
    stride: Lengths | None = None,
    pad: Pad = 0,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
    divisor_override: int | None = None,
    dilate: Lengths = 1,
) -> Any:
    """The mean of each window.

    Args:
        x, kernel, stride, pad, ceil_mode, dilate: as for `max_pool`; padding is zeros.
        count_include_pad: whether padding counts as elements; what a window of ``ceil_mode`` has beyond never does.
        divisor_override: divide all sums by this.
    """
    found = _geometry("avg_pool", x, kernel, stride, pad, dilate, ceil_mode)
    total = _summed(x, found)
    if divisor_override is not None:
        return total * (1.0 / divisor_override)
    counts = np.ones((1,) * len(found.kernel))
    for axis in range(len(found.kernel)):
        inside = _inside(found, axis, x.shape[2 + axis], count_include_pad)
        counts = counts * inside.reshape((-1,) + (1,) * (len(found.kernel) - axis - 1))
    if (counts == math.prod(found.kernel)).all():
        return total * (1.0 / math.prod(found.kernel))
    return total * (1.0 / np.maximum(counts, 1.0)).astype(_float_of(total.dtype))


def _inside(found: _Geometry, axis: int, n: int, include_pad: bool) -> Any:
    """How many elements of each window along one axis count."""
    before, after = found.border[axis] if include_pad else (0, 0)
    starts = np.arange(found.counts[axis]) * found.stride[axis] - found.border[axis][0]
    places = starts[:, None] + np.arange(found.kernel[axis]) * found.dilate[axis]
    return ((places >= -before) & (places < n + after)).sum(axis=1)


def _float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.kind in "iu" else dtype


def lp_pool(
    x: Any,
    p: float,
    kernel: Lengths,
    stride: Lengths | None = None,
    pad: Pad = 0,
    ceil_mode: bool = False,
    dilate: Lengths = 1,
) -> Any:
    """(sum of |x|**p)**(1/p) over each window: 1 gives sums of sizes, infinity the largest size.

    Args:
        p: at least 1.
        x, kernel, stride, pad, ceil_mode, dilate: as for `max_pool`; padding counts as 0.
    Raises:
        ConfigError: p is too small.
    """
    if p < 1:
        raise ConfigError(f"lp_pool: p={p} must be at least 1")
    found = _geometry("lp_pool", x, kernel, stride, pad, dilate, ceil_mode)
    if math.isinf(p):
        return max_pool(around(abs_(x), found.all), found.kernel, found.stride, dilate=found.dilate)
    return _root(_summed(_power(x, p), found), p)


def _power(x: Any, p: float) -> Any:
    if p == 2:
        return x * x
    return abs_(x) if p == 1 else abs_(x) ** float(p)


def _root(total: Any, p: float) -> Any:
    """total**(1/p), without a slope at 0, where the root has none: a window of zeros has nothing to hand down."""
    if p == 1:
        return total
    some = total > 0
    return where(some, where(some, total, 1.0) ** (1.0 / p), 0.0)


def global_lp_pool(x: Any, p: float = 2.0) -> Any:
    """`lp_pool` over all spatial axes, which stay with length 1."""
    axes = tuple(range(2, len(x.shape)))
    if math.isinf(p):
        return abs_(x).max(axis=axes, keepdims=True)
    return _root(_power(x, p).sum(axis=axes, keepdims=True), p)


def adaptive_max_pool(x: Any, output_size: Lengths | None, return_indices: bool = False) -> Any:
    """The largest element of each of ``output_size`` regions that cover x evenly, and may overlap by one.

    Region i of n over a length of m goes from floor(i m / n) to ceil((i + 1) m / n).

    Args:
        x: (batch, channels, *space).
        output_size: how many regions: a number, or one per spatial axis, None keeping the length.
        return_indices: return also where the largest elements were: positions in the flattened space of x, int64.
    """
    k = len(x.shape) - 2
    wanted = adaptive_size(output_size, x.shape[2:])
    flat_places: Any = np.zeros((1,) * (2 * k), np.int64)
    source = x
    for axis in range(k):
        places = region_places(x.shape[2 + axis], wanted[axis])
        source = source.take(places.reshape(-1), axis=2 + axis)
        shape = [1] * (2 * k)
        shape[2 * axis : 2 * axis + 2] = places.shape
        flat_places = flat_places + places.reshape(shape) * math.prod(x.shape[3 + axis :])
    pieces = [n for axis in range(k) for n in (wanted[axis], source.shape[2 + axis] // wanted[axis])]
    order = (*range(0, 2 * k, 2), *range(1, 2 * k, 2))
    windows = reshape(source, shape=(*x.shape[:2], *pieces)).transpose((0, 1, *(2 + a for a in order)))
    flat = reshape(windows, shape=(*x.shape[:2], *wanted, -1))
    best = argmax(flat, axis=-1, keepdims=True)
    out = squeeze(take_along_axis(flat, best, axis=-1), -1)
    if not return_indices:
        return out
    table = np.ascontiguousarray(flat_places.transpose(order)).reshape(1, 1, *wanted, -1)
    table = np.broadcast_to(table, flat.shape)
    return out, squeeze(take_along_axis(np.ascontiguousarray(table), best, axis=-1), -1)


def adaptive_size(output_size: Any, space: Sequence[int]) -> Shape:
    """``output_size`` as one number per spatial axis.

    Raises:
        ConfigError: another number of them, or less than 1.
    """
    sizes = (output_size,) * len(space) if output_size is None or isinstance(output_size, int) else tuple(output_size)
    found = tuple(n if s is None else int(s) for s, n in zip(sizes, space, strict=False))
    if len(sizes) != len(space) or min(found, default=0) < 1:
        raise ConfigError(f"adaptive pooling: output_size={output_size!r} for {len(space)} spatial axes; numbers >= 1")
    return found


def region_places(length: int, regions: int) -> Any:
    """The positions of each region, (regions, longest); shorter ones repeat their last, which changes no maximum."""
    starts = np.arange(regions) * length // regions
    ends = -(-(np.arange(1, regions + 1) * length) // regions)
    places = starts[:, None] + np.arange(int((ends - starts).max()))
    return np.minimum(places, ends[:, None] - 1)
