"""Images sampled at points between their elements: grids, regions and deformed windows are made of this.

An image is looked up as rows of channels, so that its gradient is added up by sorted runs (`take_add`), not one by one.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.compare import greater_equal, less_equal
from shoal.ops.elementwise import abs_, astype, clip, floor, rint, where
from shoal.ops.index import take
from shoal.ops.linalg import matmul
from shoal.ops.precision import is_half
from shoal.ops.shape import expand_dims, moveaxis, reshape, swapaxes

__all__ = ["affine_grid", "bilinear_sampler", "grid_sample", "rows_of", "sample_bilinear"]

PADDINGS = ("zeros", "border", "reflection")


def rows_of(x: Any) -> Any:
    """(batch, channels, *space) as rows of channels: (batch * elements of space, channels)."""
    return reshape(moveaxis(x, 1, -1), shape=(x.shape[0] * math.prod(x.shape[2:]), x.shape[1]))


def lookup(rows: Any, space: Sequence[int], batch: Any, places: Sequence[Any]) -> Any:
    """The rows at integer ``places`` (one array of floats per spatial axis); those outside give zeros.

    Args:
        batch: which image each point is of; broadcasts to the places.
    """
    flat, inside = batch, None
    for place, n in zip(places, space, strict=True):
        within = greater_equal(place, 0.0) & less_equal(place, n - 1.0)
        inside = within if inside is None else inside & within
        flat = flat * n + astype(clip(place, 0.0, n - 1.0), dtype="int64")
    found = take(rows, flat, axis=0)
    return found * astype(expand_dims(inside, -1), dtype=found.dtype.name)


def sample_bilinear(rows: Any, space: Sequence[int], batch: Any, at: Sequence[Any]) -> Any:
    """Linear interpolation at the points ``at``, in elements; what is outside counts as zero.

    Args:
        rows: of `rows_of`.
        space: the image's spatial shape.
        batch: which image each point is of.
        at: for each spatial axis, coordinates of any shape.
    Returns:
        The shape of the points, and channels.
    """
    low = [floor(a) for a in at]
    part = [a - b for a, b in zip(at, low, strict=True)]
    total = None
    for corner in itertools.product((0, 1), repeat=len(low)):
        weight = None
        for p, side in zip(part, corner, strict=True):
            share = p if side else 1.0 - p
            weight = share if weight is None else weight * share
        found = lookup(rows, space, batch, [a + float(c) for a, c in zip(low, corner, strict=True)])
        found = found * expand_dims(weight, -1)
        total = found if total is None else total + found
    return total


def _mirrored(at: Any, n: int, align_corners: bool) -> Any:
    """Coordinates thrown back at both ends until they are within."""
    low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
    if span == 0.0:
        return at * 0.0
    away = abs_(at - low)
    turns, rest = floor(away / span), away % span
    return where(turns % 2.0 == 0.0, rest + low, span - rest + low)


def _bounded(at: Any, n: int, padding: str, align_corners: bool) -> Any:
    if padding == "zeros":
        return at
    if padding == "reflection":
        at = _mirrored(at, n, align_corners)
    return clip(at, 0.0, n - 1.0)


def _cubic(part: Any) -> list[Any]:
    """Weights of the four neighbours; Keys' kernel with -0.75, as PyTorch."""
    a = -0.75

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1.0

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(part + 1.0), near(part), near(1.0 - part), far(2.0 - part)]


def grid_sample(
    x: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Any:
    """x at the points of a grid; names and results are PyTorch's.

    Args:
        x: (batch, channels, *space), two or three spatial axes.
        grid: (batch, *out, number of spatial axes): where each output element is taken from, the last spatial axis
            first, from -1 to 1.
        mode: "bilinear" (also for three axes), "nearest", "bicubic" (two axes).
        padding_mode: what is outside is "zeros", the "border" again, or the "reflection" at it.
        align_corners: -1 and 1 are the middles of the outermost elements, not their outer ends.
    Returns:
        (batch, channels, *out).
    Raises:
        ShapeError: x and the grid do not fit.
        ConfigError: there is no such mode.
    """
    k = len(x.shape) - 2
    if k not in (2, 3) or tuple(grid.shape[-1:]) != (k,) or len(grid.shape) != k + 2 or grid.shape[0] != x.shape[0]:
        raise ShapeError(
            f"grid_sample: x of shape {tuple(x.shape)} and grid of shape {tuple(grid.shape)}; expected (batch, "
            "channels, *space) with two or three spatial axes and (batch, *out, their number)"
        )
    if mode not in ("bilinear", "nearest", "bicubic") or padding_mode not in PADDINGS or (mode == "bicubic" and k == 3):
        raise ConfigError(
            f"grid_sample: mode={mode!r}, padding_mode={padding_mode!r}; there are 'bilinear', 'nearest', 'bicubic' "
            f"(two axes), and {', '.join(map(repr, PADDINGS))}"
        )
    dtype = x.dtype
    if is_half(dtype):
        x, grid = astype(x, dtype="float32"), astype(grid, dtype="float32")
    space, out = tuple(x.shape[2:]), tuple(grid.shape[1:-1])
    points = reshape(grid, shape=(x.shape[0], math.prod(out), k))
    at = []
    for axis, n in enumerate(space):
        c = points[..., k - 1 - axis]
        at.append((c + 1.0) * ((n - 1) / 2) if align_corners else (c + 1.0) * (n / 2) - 0.5)
    found = _sampled(x, at, mode, padding_mode, align_corners)
    found = reshape(moveaxis(found, -1, 1), shape=(*x.shape[:2], *out))
    return found if found.dtype == dtype else astype(found, dtype=dtype.name)


def _sampled(x: Any, at: list[Any], mode: str, padding: str, align_corners: bool) -> Any:
    """(batch, points, channels) of x at coordinates (batch, points) in elements."""
    space, rows, batch = tuple(x.shape[2:]), rows_of(x), np.arange(x.shape[0])[:, None]
    if mode == "bicubic":
        low = [floor(a) for a in at]
        weights = [_cubic(a - b) for a, b in zip(at, low, strict=True)]
        total: Any = None
        for i, j in itertools.product(range(4), repeat=2):
            places = [
                _bounded(b + float(tap - 1), n, padding, align_corners)
                for b, tap, n in zip(low, (i, j), space, strict=True)
            ]
            found = lookup(rows, space, batch, places) * expand_dims(weights[0][i] * weights[1][j], -1)
            total = found if total is None else total + found
        return total
    at = [_bounded(a, n, padding, align_corners) for a, n in zip(at, space, strict=True)]
    if mode == "nearest":
        return lookup(rows, space, batch, [rint(a) for a in at])
    return sample_bilinear(rows, space, batch, at)


def affine_grid(theta: Any, size: Sequence[int], align_corners: bool = False) -> Any:
    """The grid for `grid_sample` that an affine map makes of the regular one.

    Args:
        theta: (batch, 2, 3) or (batch, 3, 4): the maps.
        size: shape of the result of `grid_sample`: (batch, channels, *out).
    Returns:
        (batch, *out, 2 or 3).
    Raises:
        ShapeError: theta and size do not fit.
    """
    k = len(size) - 2
    if k not in (2, 3) or tuple(theta.shape) != (size[0], k, k + 1):
        raise ShapeError(
            f"affine_grid: theta has shape {tuple(theta.shape)}; size={tuple(size)} needs ({size[0]}, {k}, {k + 1})"
        )
    lines = []
    for n in size[2:]:
        whole = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
        lines.append(whole if align_corners else whole * ((n - 1) / n))
    mesh = np.meshgrid(*lines, indexing="ij")
    base = np.stack([*reversed(mesh), np.ones(tuple(size[2:]))], axis=-1).reshape(-1, k + 1).astype(theta.dtype)
    points = matmul(base, swapaxes(theta, 1, 2))
    return reshape(points, shape=(size[0], *size[2:], k))


def bilinear_sampler(data: Any, grid: Any) -> Any:
    """MXNet's form of `grid_sample`: ``grid`` is (batch, 2, height, width), with the outermost elements at -1 and 1."""
    return grid_sample(data, moveaxis(grid, 1, -1), align_corners=True)
