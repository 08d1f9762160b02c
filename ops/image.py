"""Images as they are read, (height, width, channels), or a batch of them, in bytes or floats: MXNet's ``image``.

Results have the dtype of the input; integers are rounded and kept within their range. Only `to_tensor` changes the
order to (channels, height, width), which `normalize` and `rotate` take.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import shape
from shoal.ops.elementwise import astype, clip, maximum, minimum, rint, where
from shoal.ops.points import grid_sample
from shoal.ops.precision import is_float
from shoal.ops.resample import resample
from shoal.ops.tensor import Tensor

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_lighting",
    "adjust_saturation",
    "center_crop",
    "crop",
    "flip_left_right",
    "flip_top_bottom",
    "normalize",
    "resize",
    "resized_crop",
    "rotate",
    "to_gray",
    "to_tensor",
]

INTERPOLATIONS = {
    0: "nearest",
    1: "bilinear",
    2: "bicubic",
    3: "area",
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "area": "area",
}
"""Numbers of OpenCV and MXNet, and names."""

GRAY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""

LIGHTING = (
    (55.46 * -0.5675, 4.794 * 0.7192, 1.148 * 0.4009),
    (55.46 * -0.5808, 4.794 * -0.0045, 1.148 * -0.8140),
    (55.46 * -0.5836, 4.794 * -0.6948, 1.148 * 0.4203),
)
"""Principal components of ImageNet's colours, for values from 0 to 255 (Krizhevsky et al., 2012)."""


def image(who: str, x: Any, channels: int | None = None) -> Any:
    """``x`` as a tensor, after making sure that it is one image or a batch of them.

    Raises:
        ShapeError: it is not, or has other channels.
    """
    x = Tensor(x) if isinstance(x, np.ndarray) else x
    if len(x.shape) not in (3, 4) or (channels is not None and x.shape[-1] != channels):
        wanted = "channels" if channels is None else str(channels)
        raise ShapeError(f"{who}: expected (height, width, {wanted}) or a batch of that, got shape {tuple(x.shape)}")
    return x


def floats(x: Any) -> Any:
    """``x`` itself if it holds floats, else in float32."""
    return x if is_float(x.dtype) else astype(x, dtype="float32")


def like(x: Any, values: Any) -> Any:
    """Floats in the dtype of ``x``: rounded and kept within the range of integers."""
    if is_float(x.dtype):
        return values if values.dtype == x.dtype else astype(values, dtype=x.dtype.name)
    bounds = np.iinfo(x.dtype)
    return astype(clip(rint(values), float(bounds.min), float(bounds.max)), dtype=x.dtype.name)


def to_tensor(data: Any) -> Any:
    """(height, width, channels) from 0 to 255 to (channels, height, width), float32 from 0 to 1; or a batch of them."""
    x = astype(image("to_tensor", data), dtype="float32") * (1.0 / 255.0)
    return shape.moveaxis(x, -1, -3)


def normalize(data: Any, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> Any:
    """(data - mean) / std, channel by channel.

    Args:
        data: floats, (channels, height, width) or a batch of that.
        mean, std: a number, or one per channel.
    Raises:
        ShapeError: as many numbers as there are channels are expected.
    """
    x = image("normalize", data)
    numbers = []
    for name, given in (("mean", mean), ("std", std)):
        value = np.asarray(given, x.dtype).reshape(-1)
        if value.size not in (1, x.shape[-3]):
            raise ShapeError(f"normalize: {name}={given!r} for {x.shape[-3]} channels, shape {tuple(x.shape)}")
        numbers.append(value.reshape(-1, 1, 1))
    return (x - numbers[0]) * (1.0 / numbers[1])


def crop(data: Any, x: int, y: int, width: int, height: int) -> Any:
    """The part that begins ``x`` columns from the left and ``y`` rows from the top.

    Raises:
        ShapeError: it is not within the image.
    """
    source = image("crop", data)
    rows, columns = source.shape[-3:-1]
    if min(x, y) < 0 or min(width, height) < 1 or x + width > columns or y + height > rows:
        raise ShapeError(f"crop: {x=}, {y=}, {width=}, {height=} is not within shape {tuple(source.shape)}")
    return source[..., y : y + height, x : x + width, :]


def _wanted(size: int | Sequence[int], rows: int, columns: int, keep_ratio: bool) -> tuple[int, int]:
    """(height, width) of the result."""
    if isinstance(size, int):
        if not keep_ratio:
            return size, size
        if rows < columns:
            return size, max(int(columns * size / rows), 1)
        return max(int(rows * size / columns), 1), size
    width, height = size
    return int(height), int(width)


def resize(
    data: Any,
    size: int | Sequence[int],
    keep_ratio: bool = False,
    interp: int | str = 1,
    antialias: bool = False,
) -> Any:
    """The image with another height and width.

    Args:
        size: a number, or (width, height) as in MXNet.
        keep_ratio: a number is the length of the shorter side, and the other follows.
        interp: 0 or "nearest", 1 or "bilinear", 2 or "bicubic", 3 or "area".
        antialias: for "bilinear" and "bicubic": each element of a smaller image weighs all that it stands for.
    Raises:
        ConfigError: there is no such interpolation, or the size is not positive.
    """
    x = image("resize", data)
    if interp not in INTERPOLATIONS:
        raise ConfigError(f"resize: interp={interp!r}; there are {', '.join(map(repr, INTERPOLATIONS))}")
    wanted = _wanted(size, x.shape[-3], x.shape[-2], keep_ratio)
    if min(wanted) < 1:
        raise ConfigError(f"resize: size={size!r} is not positive")
    name = INTERPOLATIONS[interp]
    values = x if name == "nearest" else floats(x)
    for axis, length in zip((-3, -2), wanted, strict=True):
        if values.shape[axis] != length:
            values = _resampled(values, axis, length, name, antialias)
    return values if values.dtype == x.dtype else like(x, values)


def _resampled(x: Any, axis: int, size: int, name: str, antialias: bool) -> Any:
    if name == "nearest":
        return resample(x, axis=axis, size=size, kind="nearest", coordinates="asymmetric")
    kind = {"bilinear": "linear", "bicubic": "cubic", "area": "area"}[name]
    smooth = antialias and kind != "area"
    return resample(x, axis=axis, size=size, kind=kind, antialias=smooth, cubic=-0.5 if smooth else -0.75)


def center_crop(data: Any, size: int | Sequence[int], interp: int | str = 1) -> Any:
    """The middle of the image, enlarged if it is smaller than ``size``.

    Args:
        size: a number, or (width, height).
    """
    x = image("center_crop", data)
    height, width = _wanted(size, x.shape[-3], x.shape[-2], False)
    h, w = min(height, x.shape[-3]), min(width, x.shape[-2])
    part = crop(x, (x.shape[-2] - w) // 2, (x.shape[-3] - h) // 2, w, h)
    return part if (h, w) == (height, width) else resize(part, (width, height), interp=interp)


def resized_crop(
    data: Any, x: int, y: int, width: int, height: int, size: int | Sequence[int] | None = None, interp: int | str = 1
) -> Any:
    """`crop`, and then `resize` if there is a size."""
    part = crop(data, x, y, width, height)
    return part if size is None else resize(part, size, interp=interp)


def flip_left_right(data: Any) -> Any:
    """The image mirrored: left is right."""
    return shape.flip(image("flip_left_right", data), axis=-2)


def flip_top_bottom(data: Any) -> Any:
    """The image upside down."""
    return shape.flip(image("flip_top_bottom", data), axis=-3)


def _gray(x: Any) -> Any:
    """Brightness as the only channel, floats."""
    return (floats(x) * np.array(GRAY, np.float32).astype(floats(x).dtype)).sum(axis=-1, keepdims=True)


def to_gray(data: Any, num_output_channels: int = 3) -> Any:
    """Brightness in place of the colours.

    Args:
        num_output_channels: how often it stands there: 1 or 3.
    """
    x = image("to_gray", data, 3)
    gray = like(x, _gray(x))
    return gray if num_output_channels == 1 else gray.broadcast_to((*x.shape[:-1], num_output_channels))


def adjust_brightness(data: Any, factor: Any) -> Any:
    """Every element times ``factor``."""
    x = image("adjust_brightness", data)
    return like(x, floats(x) * factor)


def adjust_contrast(data: Any, factor: Any) -> Any:
    """Further from the mean brightness of the image by ``factor``; 0 gives gray."""
    x = image("adjust_contrast", data, 3)
    middle = _gray(x).mean(axis=(-3, -2, -1), keepdims=True)
    return like(x, floats(x) * factor + middle * (1.0 - factor))


def adjust_saturation(data: Any, factor: Any) -> Any:
    """Further from the brightness of each element by ``factor``; 0 gives gray."""
    x = image("adjust_saturation", data, 3)
    return like(x, floats(x) * factor + _gray(x) * (1.0 - factor))


def adjust_hue(data: Any, factor: Any) -> Any:
    """Hues turned by ``factor`` of a whole round, -0.5 to 0.5; the largest and smallest channel stay what they are."""
    x = image("adjust_hue", data, 3)
    values = floats(x)
    red, green, blue = (values[..., i] for i in range(3))
    top, low = maximum(maximum(red, green), blue), minimum(minimum(red, green), blue)
    chroma = top - low
    some = chroma > 0.0
    scale = where(some, 1.0 / where(some, chroma, 1.0), 0.0)
    from_red, from_green, from_blue = (green - blue) * scale, (blue - red) * scale + 2.0, (red - green) * scale + 4.0
    sixth = where(top == red, from_red, where(top == green, from_green, from_blue)) + factor * 6.0
    parts = []
    for start in (5.0, 3.0, 1.0):
        k = (sixth + start) % 6.0
        parts.append(top - chroma * clip(minimum(k, 4.0 - k), 0.0, 1.0))
    return like(x, shape.stack(parts, axis=-1))


def adjust_lighting(data: Any, alpha: Any) -> Any:
    """Colours moved along the principal components of ImageNet's, by ``alpha`` (three numbers) of their sizes.

    For values from 0 to 255.
    """
    x = image("adjust_lighting", data, 3)
    numbers = alpha if hasattr(alpha, "shape") else np.asarray(alpha, np.float32)
    shift = (numbers * np.array(LIGHTING, np.float32)).sum(axis=-1)
    return like(x, floats(x) + shift.astype(floats(x).dtype))


def rotate(data: Any, rotation_degrees: float, zoom_in: bool = False, zoom_out: bool = False) -> Any:
    """The image turned counter-clockwise; what comes from outside is 0.

    Args:
        data: floats, (channels, height, width) or a batch of that.
        zoom_in: make it so large that nothing comes from outside.
        zoom_out: make it so small that all of it is there.
    Raises:
        ConfigError: both.
    """
    x = image("rotate", data)
    if zoom_in and zoom_out:
        raise ConfigError("rotate: zoom_in and zoom_out exclude each other")
    batch = x if len(x.shape) == 4 else shape.expand_dims(x, 0)
    h, w = batch.shape[-2:]
    angle, scale = math.radians(rotation_degrees), 1.0
    half_w, half_h = max(w - 1, 1) / 2, max(h - 1, 1) / 2
    if zoom_in or zoom_out:
        across, down = abs(math.cos(angle)), abs(math.sin(angle))
        wide, tall = half_w * across + half_h * down, half_w * down + half_h * across
        scale = max(wide / half_w, tall / half_h) if zoom_out else min(half_w / wide, half_h / tall)
    rows, columns = np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij")
    from_x = (columns * math.cos(angle) - rows * math.sin(angle)) * scale / half_w
    from_y = (columns * math.sin(angle) + rows * math.cos(angle)) * scale / half_h
    grid = np.stack([from_x, from_y], axis=-1).astype(batch.dtype)
    grid = np.ascontiguousarray(np.broadcast_to(grid, (batch.shape[0], h, w, 2)))
    out = grid_sample(batch, grid, align_corners=True)
    return out if len(x.shape) == 4 else shape.squeeze(out, 0)
