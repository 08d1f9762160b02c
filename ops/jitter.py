"""Images changed at random, with MXNet's names. What is drawn depends on the address (`shoal.ops.random`).

In a graph each run draws anew, but for `random_resized_crop`, whose sizes a graph cannot know.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import image as im
from shoal.ops import random
from shoal.ops.elementwise import astype, floor, where
from shoal.ops.index import take
from shoal.ops.padding import pad as bordered
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__ = [
    "random_brightness",
    "random_color_jitter",
    "random_contrast",
    "random_crop",
    "random_flip_left_right",
    "random_flip_top_bottom",
    "random_gray",
    "random_hue",
    "random_lighting",
    "random_resized_crop",
    "random_saturation",
]


def _key(purpose: str) -> Any:
    key = random.key(purpose)
    return key if isinstance(key, Traced) else Tensor(key)


def _uniform(low: float, high: float) -> Any:
    """A number from ``low`` to ``high``, as a tensor."""
    return random.random_uniform(_key("image"), shape=()) * (high - low) + low


def _maybe(p: float, changed: Callable[[], Any], x: Any) -> Any:
    """What ``changed`` gives with probability p, else x."""
    if not 0.0 <= p <= 1.0:
        raise ConfigError(f"images: p={p} is not a probability")
    return where(_uniform(0.0, 1.0) < p, changed(), x)


def _range(who: str, low: float, high: float, least: float = 0.0) -> None:
    if not least <= low <= high:
        raise ConfigError(f"{who}: factors from {low} to {high}; expected {least} <= least <= largest")


def random_flip_left_right(data: Any, p: float = 0.5) -> Any:
    """`flip_left_right` with probability p."""
    x = im.image("random_flip_left_right", data)
    return _maybe(p, lambda: im.flip_left_right(x), x)


def random_flip_top_bottom(data: Any, p: float = 0.5) -> Any:
    """`flip_top_bottom` with probability p."""
    x = im.image("random_flip_top_bottom", data)
    return _maybe(p, lambda: im.flip_top_bottom(x), x)


def random_gray(data: Any, p: float = 0.5) -> Any:
    """`to_gray` with probability p."""
    x = im.image("random_gray", data, 3)
    return _maybe(p, lambda: im.to_gray(x), x)


def random_brightness(data: Any, min_factor: float, max_factor: float) -> Any:
    """`adjust_brightness` by a factor between the two."""
    _range("random_brightness", min_factor, max_factor)
    return im.adjust_brightness(data, _uniform(min_factor, max_factor))


def random_contrast(data: Any, min_factor: float, max_factor: float) -> Any:
    """`adjust_contrast` by a factor between the two."""
    _range("random_contrast", min_factor, max_factor)
    return im.adjust_contrast(data, _uniform(min_factor, max_factor))


def random_saturation(data: Any, min_factor: float, max_factor: float) -> Any:
    """`adjust_saturation` by a factor between the two."""
    _range("random_saturation", min_factor, max_factor)
    return im.adjust_saturation(data, _uniform(min_factor, max_factor))


def random_hue(data: Any, min_factor: float, max_factor: float) -> Any:
    """`adjust_hue` by a part of a round between the two minus 1: 1 leaves it as it is, as for the other factors."""
    _range("random_hue", min_factor, max_factor)
    return im.adjust_hue(data, _uniform(min_factor - 1.0, max_factor - 1.0))


def random_color_jitter(
    data: Any, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Any:
    """Brightness, contrast, saturation and hue changed, in this order, each by a factor from 1 - s to 1 + s.

    Args:
        brightness, contrast, saturation, hue: s of each; 0 leaves it alone. That of the hue is at most 0.5.
    """
    x = im.image("random_color_jitter", data, 3)
    steps: tuple[tuple[float, Callable[..., Any]], ...] = (
        (brightness, random_brightness),
        (contrast, random_contrast),
        (saturation, random_saturation),
        (hue, random_hue),
    )
    for strength, change in steps:
        if strength:
            x = change(x, max(0.0, 1.0 - strength), 1.0 + strength)
    return x


def random_lighting(data: Any, alpha_std: float = 0.05) -> Any:
    """`adjust_lighting` by three normal numbers with this standard deviation."""
    x = im.image("random_lighting", data, 3)
    return im.adjust_lighting(x, random.random_normal(_key("image"), shape=(3,)) * alpha_std)


def random_crop(
    data: Any, size: int | Sequence[int], pad: int = 0, pad_value: float = 0.0, interp: int | str = 1
) -> Any:
    """A part of the image of this size, from anywhere in it; enlarged if the image is smaller.

    Args:
        size: a number, or (width, height).
        pad: elements of ``pad_value`` that are put around the image before.
    """
    x = im.image("random_crop", data)
    if pad:
        x = bordered(x, [(0, 0)] * (len(x.shape) - 3) + [(pad, pad), (pad, pad), (0, 0)], constant_value=pad_value)
    width, height = (size, size) if isinstance(size, int) else (int(n) for n in size)
    part = [min(height, x.shape[-3]), min(width, x.shape[-2])]
    for axis, length in zip((-3, -2), part, strict=True):
        room = x.shape[axis] - length
        if room:
            start = astype(floor(_uniform(0.0, room + 1.0 - 1e-4)), dtype="int64")
            x = take(x, start + np.arange(length), axis=len(x.shape) + axis)
    return x if part == [height, width] else im.resize(x, (width, height), interp=interp)


def random_resized_crop(
    data: Any,
    size: int | Sequence[int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
    interp: int | str = 1,
    max_trial: int = 10,
) -> Any:
    """A part of random area and proportions, brought to ``size`` (Szegedy et al., arXiv:1409.4842).

    Args:
        size: a number, or (width, height).
        scale: smallest and largest area, as a share of the image's.
        ratio: smallest and largest width / height.
        max_trial: how many parts are drawn until one fits; then the middle is taken.
    Raises:
        ConfigError: no such areas or proportions.
        GraphError: in a graph.
    """
    x = im.image("random_resized_crop", data)
    if not (0 < scale[0] <= scale[1] and 0 < ratio[0] <= ratio[1]):
        raise ConfigError(f"random_resized_crop: scale={scale}, ratio={ratio}; expected 0 < smallest <= largest")
    rows, columns = x.shape[-3:-1]
    if not rows * columns:
        raise ShapeError(f"random_resized_crop: shape {tuple(x.shape)} has no elements")
    draw = random.generator("image")
    width, height = (size, size) if isinstance(size, int) else (int(n) for n in size)
    for _ in range(max_trial):
        area = draw.uniform(*scale) * rows * columns
        proportion = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
        if 0 < w <= columns and 0 < h <= rows:
            left, top = int(draw.integers(0, columns - w + 1)), int(draw.integers(0, rows - h + 1))
            return im.resized_crop(x, left, top, w, h, (width, height), interp)
    short = min(rows, columns)
    return im.resize(im.center_crop(x, short), (width, height), interp=interp)
