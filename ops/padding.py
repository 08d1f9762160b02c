"""Borders of every kind around arrays, and elements moved between channels and space."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import index, shape

__all__ = [
    "MODES",
    "channel_shuffle",
    "depth_to_space",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "space_to_depth",
]

MODES = {
    "constant": "constant",
    "edge": "edge",
    "replicate": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "circular": "wrap",
    "wrap": "wrap",
}
"""Names of modes, and NumPy's for them."""

Widths = int | Sequence[int] | Sequence[Sequence[int]]


def _pairs(x: Any, pad_width: Widths) -> list[tuple[int, int]]:
    """(before, after) of each axis."""
    ndim = len(x.shape)
    sides: list[Any] = [pad_width] * (2 * ndim) if isinstance(pad_width, int) else list(pad_width)
    if sides and all(isinstance(p, (tuple, list)) for p in sides):
        sides = [n for p in sides for n in p]
    if len(sides) != 2 * ndim:
        raise ShapeError(
            f"pad: pad_width={pad_width!r} for x of shape {tuple(x.shape)}; expected a number, {2 * ndim} numbers "
            f"(before and after each axis), or {ndim} pairs"
        )
    return [(int(sides[2 * i]), int(sides[2 * i + 1])) for i in range(ndim)]


def pad(x: Any, pad_width: Widths, mode: str = "constant", constant_value: float = 0.0) -> Any:
    """x with a border; a negative width cuts off.

    Args:
        pad_width: a number; (before, after) for each axis in order, as one flat sequence (MXNet) or as pairs (NumPy).
        mode: "constant"; "edge" or "replicate" (the outermost element again); "reflect" (mirrored at it); "symmetric"
            (mirrored with it); "circular" or "wrap" (what is at the other end).
    Raises:
        ConfigError: there is no such mode.
        ShapeError: the widths do not fit the axes, or there is nothing to mirror.
    """
    if mode not in MODES:
        raise ConfigError(f"pad: mode={mode!r}; there are {', '.join(MODES)}")
    widths = _pairs(x, pad_width)
    if any(p < 0 for pair in widths for p in pair):
        cut = [slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, widths, strict=True)]
        if any(s.stop < s.start for s in cut):
            raise ShapeError(f"pad: pad_width={pad_width!r} cuts off more than x of shape {tuple(x.shape)} has")
        x, widths = x[tuple(cut)], [(max(a, 0), max(b, 0)) for a, b in widths]
    if not any(p for pair in widths for p in pair):
        return x
    if mode == "constant":
        return shape.pad(x, pad_width=tuple(widths), constant=constant_value)
    repeated: Callable[..., Any] = np.pad
    for axis, width in enumerate(widths):
        if any(width):
            if not x.shape[axis]:
                raise ShapeError(f"pad: mode={mode!r} has nothing to take from along axis {axis} of {tuple(x.shape)}")
            x = index.take(x, repeated(np.arange(x.shape[axis]), width, mode=MODES[mode]), axis=axis)
    return x


def _factors(who: str, factor: int | Sequence[int], k: int) -> tuple[int, ...]:
    found = (factor,) * k if isinstance(factor, int) else tuple(factor)
    if len(found) != k or min(found, default=0) < 1:
        raise ConfigError(f"{who}: factor={factor!r} for {k} spatial axes; expected numbers >= 1")
    return found


def _split_channels(who: str, x: Any, factors: Sequence[int]) -> int:
    """Channels that are left when each hands out ``factors``."""
    parts = int(np.prod(factors))
    if x.shape[1] % parts:
        raise ShapeError(f"{who}: {x.shape[1]} channels (shape {tuple(x.shape)}) are not a multiple of {parts}")
    return int(x.shape[1]) // parts


def pixel_shuffle(x: Any, factor: int | Sequence[int]) -> Any:
    """Channels dealt out to space: (batch, channels * factors, *space) to (batch, channels, *(space * factor)).

    Shi et al., arXiv:1609.05158.

    Args:
        x: one to three spatial axes.
        factor: a number, or one per spatial axis.
    """
    space = tuple(x.shape[2:])
    k = len(space)
    factors = _factors("pixel_shuffle", factor, k)
    channels = _split_channels("pixel_shuffle", x, factors)
    parts = shape.reshape(x, shape=(x.shape[0], channels, *factors, *space))
    order = (0, 1, *(n for i in range(k) for n in (2 + k + i, 2 + i)))
    return shape.reshape(
        shape.transpose(parts, axes=order),
        shape=(x.shape[0], channels, *(n * f for n, f in zip(space, factors, strict=True))),
    )


def pixel_unshuffle(x: Any, factor: int | Sequence[int]) -> Any:
    """The reverse of `pixel_shuffle`: space gathered into channels."""
    k = len(x.shape) - 2
    factors = _factors("pixel_unshuffle", factor, k)
    if any(n % f for n, f in zip(x.shape[2:], factors, strict=True)):
        raise ShapeError(f"pixel_unshuffle: space of shape {tuple(x.shape)} is not a multiple of {factors}")
    small = [n // f for n, f in zip(x.shape[2:], factors, strict=True)]
    parts = shape.reshape(x, shape=(*x.shape[:2], *(n for pair in zip(small, factors, strict=True) for n in pair)))
    order = (0, 1, *range(3, 3 + 2 * k, 2), *range(2, 2 + 2 * k, 2))
    return shape.reshape(
        shape.transpose(parts, axes=order), shape=(x.shape[0], x.shape[1] * int(np.prod(factors)), *small)
    )


def depth_to_space(x: Any, block_size: int) -> Any:
    """Blocks of channels to squares of pixels, MXNet's and ONNX's order (depth, column, row): blocks come first.

    Args:
        x: (batch, block_size**2 * channels, height, width).
    Returns:
        (batch, channels, height * block_size, width * block_size).
    """
    b, channels = block_size, _split_channels("depth_to_space", x, (block_size, block_size))
    n, _, h, w = x.shape
    parts = shape.transpose(shape.reshape(x, shape=(n, b, b, channels, h, w)), axes=(0, 3, 4, 1, 5, 2))
    return shape.reshape(parts, shape=(n, channels, h * b, w * b))


def space_to_depth(x: Any, block_size: int) -> Any:
    """The reverse of `depth_to_space`."""
    n, channels, h, w = x.shape
    b = block_size
    if h % b or w % b:
        raise ShapeError(f"space_to_depth: space of shape {tuple(x.shape)} is not a multiple of {b}")
    parts = shape.transpose(shape.reshape(x, shape=(n, channels, h // b, b, w // b, b)), axes=(0, 3, 5, 1, 2, 4))
    return shape.reshape(parts, shape=(n, channels * b * b, h // b, w // b))


def channel_shuffle(x: Any, groups: int) -> Any:
    """Channels of the groups in turn (Zhang et al., arXiv:1707.01083): the k-th of each group, for each k.

    Args:
        x: (batch, channels, ...), channels a multiple of ``groups``.
    """
    each = _split_channels("channel_shuffle", x, (groups,))
    rest = tuple(x.shape[2:])
    parts = shape.swapaxes(shape.reshape(x, shape=(x.shape[0], groups, each, *rest)), 1, 2)
    return shape.reshape(parts, shape=tuple(x.shape))
