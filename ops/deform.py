"""Convolution whose windows are bent: each element of a window is taken from where a learned offset says.

Dai et al., arXiv:1703.06211; with factors, Zhu et al., arXiv:1811.11168.
"""

import math
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops.conv import Lengths, lengths, out_length
from shoal.ops.elementwise import astype
from shoal.ops.linalg import matmul
from shoal.ops.points import rows_of, sample_bilinear
from shoal.ops.precision import is_half
from shoal.ops.shape import expand_dims, reshape, transpose

__all__ = ["deformable_convolution"]


def deformable_convolution(
    x: Any,
    offset: Any,
    weight: Any,
    bias: Any = None,
    mask: Any = None,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
    num_deformable_group: int = 1,
) -> Any:
    """Convolution of images with windows that are bent by ``offset``.

    Args:
        x: (batch, channels, height, width).
        offset: (batch, 2 * num_deformable_group * kernel elements, *out): for each group of channels and each element
            of the window, how far down and how far right it is moved.
        weight: (filters, channels / num_group, *kernel).
        bias: (filters,), or None.
        mask: (batch, num_deformable_group * kernel elements, *out): factors, or None for the first version.
        stride, pad, dilate, num_group: as for `convolution`.
        num_deformable_group: groups of channels that have offsets of their own.
    Returns:
        (batch, filters, *out).
    Raises:
        ShapeError: the inputs do not fit.
    """
    dtype = x.dtype
    if is_half(dtype):
        x, offset, weight = (astype(v, dtype="float32") for v in (x, offset, weight))
        mask = None if mask is None else astype(mask, dtype="float32")
    kernel = tuple(weight.shape[2:])
    step, border, apart = lengths(stride, 2), lengths(pad, 2), lengths(dilate, 2)
    out = _out(x, offset, weight, mask, (step, border, apart), num_group, num_deformable_group)
    batch, groups, taps = x.shape[0], num_deformable_group, math.prod(kernel)
    moved = reshape(offset, shape=(batch * groups, taps, 2, *out))
    at = []
    for axis in range(2):
        line = np.arange(out[axis]) * step[axis] - border[axis]
        shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        inside = np.indices(kernel)[axis].reshape(1, taps, 1, 1) * apart[axis]
        at.append(moved[:, :, axis] + (line.reshape(shape) + inside).astype(moved.dtype))
    image = reshape(x, shape=(batch * groups, x.shape[1] // groups, *x.shape[2:]))
    numbers = np.arange(batch * groups).reshape(-1, 1, 1, 1)
    found = sample_bilinear(rows_of(image), x.shape[2:], numbers, at)  # (batch * groups, taps, *out, channels of one)
    if mask is not None:
        found = found * expand_dims(reshape(mask, shape=(batch * groups, taps, *out)), -1)
    parts = reshape(found, shape=(batch, groups, taps, math.prod(out), x.shape[1] // groups))
    columns = reshape(
        transpose(parts, axes=(0, 1, 4, 2, 3)), shape=(batch, num_group, x.shape[1] // num_group * taps, math.prod(out))
    )
    matrix = reshape(weight, shape=(num_group, weight.shape[0] // num_group, math.prod(weight.shape[1:])))
    result = reshape(matmul(matrix, columns), shape=(batch, weight.shape[0], *out))
    result = result if result.dtype == dtype else astype(result, dtype=dtype.name)
    return result if bias is None else result + reshape(bias, shape=(-1, 1, 1))


def _out(x: Any, offset: Any, weight: Any, mask: Any, geometry: Any, groups: int, deformable: int) -> tuple[int, int]:
    """(height, width) of the result.

    Raises:
        ShapeError: the inputs do not fit.
    """
    fits = len(x.shape) == 4 and len(weight.shape) == 4 and weight.shape[1] * groups == x.shape[1]
    if not fits or x.shape[1] % deformable:
        raise ShapeError(
            f"deformable_convolution: x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}, {groups} groups "
            f"and {deformable} deformable ones; expected (batch, channels, height, width) and (filters, "
            "channels / groups, *kernel)"
        )
    step, border, apart = geometry
    found = tuple(map(out_length, x.shape[2:], weight.shape[2:], step, border, apart))
    taps = deformable * math.prod(weight.shape[2:])
    for name, given, count in (("offset", offset, 2 * taps), ("mask", mask, taps)):
        if given is not None and tuple(given.shape) != (x.shape[0], count, *found):
            raise ShapeError(
                f"deformable_convolution: {name} has shape {tuple(given.shape)}, expected {(x.shape[0], count, *found)}"
            )
    return found[0], found[1]
