"""Regions of images, brought to one size: averages of interpolated points, or largest elements of bins."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import GraphError, ShapeError
from shoal.ops import specs
from shoal.ops.backend import asnumpy
from shoal.ops.conv import Lengths, lengths
from shoal.ops.elementwise import astype, clip, maximum, stop_gradient, where
from shoal.ops.index import take
from shoal.ops.points import rows_of, sample_bilinear
from shoal.ops.precision import is_half
from shoal.ops.registry import Array, Op, Shape, Spec, op
from shoal.ops.shape import broadcast_to, concatenate, expand_dims, moveaxis, reshape
from shoal.ops.tensor import Tensor

__all__ = ["roi_align", "roi_pool", "roi_pool_index"]


def _require(who: str, x: Any, rois: Any) -> None:
    if len(x.shape) != 4 or len(rois.shape) != 2 or rois.shape[1] != 5:
        raise ShapeError(
            f"{who}: x has shape {tuple(x.shape)} and rois {tuple(rois.shape)}; expected (batch, channels, height, "
            "width) and (regions, 5): number of the image, left, top, right, bottom"
        )


def roi_align(
    x: Any,
    rois: Any,
    pooled_size: Lengths,
    spatial_scale: float = 1.0,
    sample_ratio: int = -1,
    aligned: bool = False,
) -> Any:
    """Regions of images, of one size: means of points that are interpolated (He et al., arXiv:1703.06870).

    Args:
        x: (batch, channels, height, width).
        rois: (regions, 5): number of the image, left, top, right, bottom. They get no gradient.
        pooled_size: (height, width) of the result.
        spatial_scale: elements of x per unit of the regions.
        sample_ratio: points per bin and axis; not positive: as many as the bin has elements, which a graph cannot know.
        aligned: shift by half an element, so that regions and elements lie on each other.
    Returns:
        (regions, channels, *pooled_size).
    Raises:
        ShapeError: x and rois do not fit.
        GraphError: no ``sample_ratio`` in a graph.
    """
    _require("roi_align", x, rois)
    size, rois = lengths(pooled_size, 2), stop_gradient(rois)
    if sample_ratio > 0:
        return _aligned(x, rois, size, spatial_scale, (sample_ratio, sample_ratio), aligned)
    if not isinstance(rois, (Tensor, np.ndarray)):
        raise GraphError("roi_align: in a graph the number of points must be known; give sample_ratio, such as 2")
    found = []
    values = asnumpy(rois.data if isinstance(rois, Tensor) else rois)
    for i, (_, x1, y1, x2, y2) in enumerate(values.tolist()):
        extent = [(b - a) * spatial_scale for a, b in ((y1, y2), (x1, x2))]
        extent = extent if aligned else [max(e, 1.0) for e in extent]
        points = tuple(max(math.ceil(e / n), 1) for e, n in zip(extent, size, strict=True))
        found.append(_aligned(x, rois[i : i + 1], size, spatial_scale, points, aligned))
    return concatenate(found, axis=0) if found else _aligned(x, rois, size, spatial_scale, (1, 1), aligned)


def _aligned(x: Any, rois: Any, size: Shape, scale: float, points: Sequence[int], aligned: bool) -> Any:
    dtype = x.dtype
    wide = astype(x, dtype="float32") if is_half(dtype) else x
    rois = astype(rois, dtype=wide.dtype.name) if rois.dtype != wide.dtype else rois
    count, (height, width) = rois.shape[0], wide.shape[2:]
    at, inside = [], []
    for axis, (n, bins, each) in enumerate(zip((height, width), size, points, strict=True)):
        start = rois[:, 2 - axis] * scale - (0.5 if aligned else 0.0)
        extent = rois[:, 4 - axis] * scale - (0.5 if aligned else 0.0) - start
        extent = extent if aligned else maximum(extent, 1.0)
        steps = ((np.arange(bins * each) + 0.5) / (bins * each)).astype(wide.dtype)
        place = expand_dims(start, 1) + expand_dims(extent, 1) * steps
        inside.append((place >= -1.0) & (place <= float(n)))
        at.append(clip(place, 0.0, n - 1.0))
    shape = (count, size[0] * points[0], size[1] * points[1])
    y, xs = (broadcast_to(expand_dims(v, axis), shape=shape) for v, axis in ((at[0], 2), (at[1], 1)))
    batch = astype(rois[:, 0], dtype="int64").reshape((count, 1, 1))
    found = sample_bilinear(rows_of(wide), (height, width), batch, [y, xs])
    some = expand_dims(expand_dims(inside[0], 2) & expand_dims(inside[1], 1), -1)
    found = where(some, found, 0.0)
    bins_of = reshape(found, shape=(count, size[0], points[0], size[1], points[1], x.shape[1]))
    out = moveaxis(bins_of.mean(axis=(2, 4)), -1, 1)
    return out if out.dtype == dtype else astype(out, dtype=dtype.name)


def _indexed(op: Op[Any], x: Spec, rois: Spec, *, size: Shape, spatial_scale: float = 1.0) -> Spec:
    specs.require_ndim(op, "x", x, 4)
    specs.require_ndim(op, "rois", rois, 2)
    return Spec((rois.shape[0], x.shape[1], *size), np.dtype(np.int64))


@op(_indexed)
def roi_pool_index(xp: Any, x: Array, rois: Array, size: Shape, spatial_scale: float = 1.0) -> Any:
    """Where the largest element of each bin of each region is: a position in the flattened x; -1 for an empty bin.

    Arguments as for `roi_pool`. int64 (regions, channels, *size).
    """
    images, boxes = asnumpy(x), asnumpy(rois)
    channels, height, width = images.shape[1:]
    found = np.full((len(boxes), channels, *size), -1, np.int64)
    for r, (number, *corners) in enumerate(boxes.astype(np.float64).tolist()):
        left, top, right, bottom = (math.floor(abs(c * spatial_scale) + 0.5) * (1 if c >= 0 else -1) for c in corners)
        rows, columns = _bins(top, bottom, size[0], height), _bins(left, right, size[1], width)
        image = images[int(number)]
        first = (int(number) * channels + np.arange(channels)) * (height * width)
        for i, (a, b) in enumerate(rows):
            for j, (c, d) in enumerate(columns):
                if b > a and d > c:
                    best = image[:, a:b, c:d].reshape(channels, -1).argmax(axis=1)
                    found[r, :, i, j] = first + (a + best // (d - c)) * width + c + best % (d - c)
    return xp.asarray(found)


def _bins(start: int, end: int, count: int, length: int) -> list[tuple[int, int]]:
    """From where to where each bin of a region goes, within the image."""
    each = max(end - start + 1, 1) / count
    edges = [(math.floor(i * each) + start, math.ceil((i + 1) * each) + start) for i in range(count)]
    return [(min(max(a, 0), length), min(max(b, 0), length)) for a, b in edges]


def roi_pool(x: Any, rois: Any, pooled_size: Lengths, spatial_scale: float = 1.0) -> Any:
    """Regions of images, of one size: the largest element of each bin (Girshick, arXiv:1504.08083); 0 for an empty bin.

    Args:
        x: (batch, channels, height, width).
        rois: (regions, 5): number of the image, left, top, right, bottom, both ends within. They get no gradient.
        pooled_size: (height, width) of the result.
        spatial_scale: elements of x per unit of the regions.
    Returns:
        (regions, channels, *pooled_size).
    """
    _require("roi_pool", x, rois)
    index = roi_pool_index(
        stop_gradient(x), stop_gradient(rois), size=lengths(pooled_size, 2), spatial_scale=spatial_scale
    )
    return where(index >= 0, take(reshape(x, shape=(-1,)), maximum(index, 0)), 0.0)
