"""Where in a sequence an element is: sines added to it, or pairs of its features rotated."""

import math
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.elementwise import astype
from shoal.ops.index import take
from shoal.ops.shape import concatenate, expand_dims, reshape, stack

__all__ = ["rotary_embedding", "rotary_tables", "sinusoidal_positions"]


def sinusoidal_positions(length: int, width: int, base: float = 10000.0, dtype: Any = "float32") -> Any:
    """Sines (even features) and cosines (odd) of positions 0 to length - 1 (Vaswani et al., arXiv:1706.03762).

    Returns:
        A NumPy array (length, width).
    Raises:
        ConfigError: an odd width.
    """
    if width % 2:
        raise ConfigError(f"sinusoidal_positions: width={width} must be even: sines and cosines come in pairs")
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-math.log(base) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(dtype)


def rotary_tables(length: int, width: int, base: float = 10000.0, dtype: Any = "float32") -> tuple[Any, Any]:
    """Cosines and sines, (length, width / 2) each, of the angles by which `rotary_embedding` turns.

    Raises:
        ConfigError: an odd width.
    """
    if width % 2:
        raise ConfigError(f"rotary_tables: width={width} must be even: features are turned in pairs")
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, width, 2) / width)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rotary_embedding(
    x: Any,
    positions: Any = None,
    base: float = 10000.0,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    tables: tuple[Any, Any] | None = None,
) -> Any:
    """x with pairs of its features turned by an angle that grows with the position (Su et al., arXiv:2104.09864).

    Products of two such vectors depend on the distance of their positions only.

    Args:
        x: (..., time, width), such as queries and keys with their heads in front.
        positions: integers that broadcast to (..., time) of x; 0, 1, 2, ... if None. They need ``tables``.
        base: of the geometric row of wave lengths.
        rotary_dim: only the first so many features are turned; all if None.
        interleaved: pairs are neighbours (0, 1), (2, 3), ...; else halves: feature i goes with i + rotary_dim / 2.
        tables: what `rotary_tables` gave for all positions that there are; tensors or arrays.
    Raises:
        ShapeError: an odd number of features, or tables of another width.
        ConfigError: ``positions`` without ``tables``.
    """
    width = x.shape[-1] if rotary_dim is None else rotary_dim
    if width % 2 or not 0 < width <= x.shape[-1]:
        raise ShapeError(f"rotary_embedding: {width} of the features of x {tuple(x.shape)} cannot be turned in pairs")
    if positions is not None and tables is None:
        raise ConfigError("rotary_embedding: positions need tables=rotary_tables(longest, width)")
    cos, sin = tables or rotary_tables(x.shape[-2], width, base, np.float64 if x.dtype == np.float64 else np.float32)
    if cos.shape[-1] != width // 2:
        raise ShapeError(f"rotary_embedding: tables of shape {tuple(cos.shape)}; {width} features need {width // 2}")
    if positions is not None:
        cos, sin = (take(t, positions, axis=0) for t in (cos, sin))
        if positions.ndim + 1 < x.ndim and positions.ndim > 1:  # (batch, time): the heads come in between
            cos, sin = (expand_dims(t, tuple(range(positions.ndim - 1, x.ndim - 2))) for t in (cos, sin))
    elif cos.shape[0] != x.shape[-2]:
        cos, sin = cos[: x.shape[-2]], sin[: x.shape[-2]]
    cos, sin = (t if t.dtype == x.dtype else astype(t, dtype=x.dtype.name) for t in (cos, sin))
    turned = _turned(x[..., :width], cos, sin, interleaved)
    return turned if width == x.shape[-1] else concatenate([turned, x[..., width:]], axis=-1)


def _turned(x: Any, cos: Any, sin: Any, interleaved: bool) -> Any:
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return reshape(stack([a * cos - b * sin, a * sin + b * cos], axis=-1), shape=tuple(x.shape))
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
