"""NumPy's functions that move elements: reshape, join, cut, repeat, pad."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import index, linalg, shape
from shoal.ops.creation import asarray
from shoal.ops.linalg import diagonal
from shoal.ops.shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    moveaxis,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    tril,
    triu,
)

__all__ = [
    "array_split",
    "atleast_1d",
    "atleast_2d",
    "broadcast_to",
    "column_stack",
    "concat",
    "concatenate",
    "diag",
    "diagonal",
    "dstack",
    "expand_dims",
    "flip",
    "hstack",
    "moveaxis",
    "pad",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "rot90",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "tile",
    "transpose",
    "tril",
    "triu",
    "vstack",
]


concat = concatenate
permute_dims = transpose


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Any:
    """``x`` with a border.

    Args:
        pad_width: a number; (before, after) for all axes; or one pair per axis.
        mode: "constant", "edge" (the outermost element again) or "reflect" (mirrored at it).
    """
    pairs = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    widths = [tuple(int(n) for n in pair) for pair in pairs.tolist()]
    if mode == "constant":
        return shape.pad(x, pad_width=tuple(widths), constant=constant_values)
    if mode not in ("edge", "reflect"):
        raise ConfigError(f"pad: mode {mode!r}; there are 'constant', 'edge' and 'reflect'")
    for axis, width in enumerate(widths):
        if any(width):
            places: Any = np.pad
            x = index.take(x, places(np.arange(x.shape[axis]), width, mode=mode), axis=axis)
    return x


def vstack(arrays: Sequence[Any]) -> Any:
    """One below the other: along the first axis, of which 1-d arrays get one."""
    return shape.concatenate([atleast_2d(a) for a in arrays], axis=0)


def hstack(arrays: Sequence[Any]) -> Any:
    """Side by side: along the second axis; 1-d arrays along their only one."""
    return shape.concatenate(list(arrays), axis=0 if arrays[0].ndim == 1 else 1)


def dstack(arrays: Sequence[Any]) -> Any:
    """One behind the other: along the third axis."""
    deep = [shape.reshape(a, shape=(*atleast_2d(a).shape, 1)) if a.ndim < 3 else a for a in arrays]
    return shape.concatenate(deep, axis=2)


def column_stack(arrays: Sequence[Any]) -> Any:
    """1-d arrays as columns."""
    return shape.concatenate([shape.reshape(a, shape=(-1, 1)) if a.ndim < 2 else a for a in arrays], axis=1)


def atleast_1d(x: Any) -> Any:
    """``x``, with an axis if it has none."""
    x = asarray(x)
    return x if x.ndim else shape.reshape(x, shape=(1,))


def atleast_2d(x: Any) -> Any:
    """``x``, with axes in front until it has two."""
    x = asarray(x)
    return x if x.ndim > 1 else shape.reshape(x, shape=(1, -1))


def array_split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into sections that need not be of equal length: the first ones are longer by one."""
    if isinstance(sections, int):
        each, extra = divmod(x.shape[axis], sections)
        cuts = tuple(i * each + min(i, extra) for i in range(1, sections))
    else:
        cuts = tuple(sections)
    return list(shape.split(x, sections=cuts, axis=axis))


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Any]:
    """Cut into that many equal sections, or at the given positions."""
    return list(shape.split(x, sections=sections, axis=axis))


def rot90(x: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Any:
    """Turned by 90 degrees ``k`` times, in the plane of two axes, from the first to the second."""
    for _ in range(k % 4):
        x = shape.flip(shape.swapaxes(x, axes[0], axes[1]), axis=axes[0])
    return x


def diag(x: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix; of a vector, the matrix with it on that diagonal."""
    if x.ndim == 1:
        n = x.shape[0] + abs(k)
        return linalg.diagonal_add(x, shape=(n, n), offset=k)
    return linalg.diagonal(x, offset=k)
