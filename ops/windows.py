"""Windows of images as an array of their own: im2col and its transpose, which is its gradient."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.border import Pad, around, crop, pairs
from shoal.ops.conv import Lengths, lengths, out_length
from shoal.ops.precision import wide
from shoal.ops.registry import Array, Op, Shape, Spec, op
from shoal.ops.shape import reshape, transpose

__all__ = ["fold", "sliding_windows", "unfold", "windows_add"]


def _counts(who: str, space: Sequence[int], kernel: Shape, stride: Shape, dilate: Shape) -> Shape:
    """How many windows each spatial axis has."""
    found = tuple(out_length(n, m, s, 0, d) for n, m, s, d in zip(space, kernel, stride, dilate, strict=True))
    if min(found, default=0) < 1:
        raise ShapeError(f"{who}: a window of {kernel} (dilate={dilate}) does not fit into space of shape {space}")
    return found


def _windowed(op: Op[Any], x: Spec, *, kernel: Lengths, stride: Lengths = 1, dilate: Lengths = 1) -> Spec:
    specs.require_ndim(op, "x", x, 3, 4, 5)
    k = x.ndim - 2
    size = lengths(kernel, k)
    return Spec(
        (*x.shape[:2], *_counts(op.name, x.shape[2:], size, lengths(stride, k), lengths(dilate, k)), *size), x.dtype
    )


@op(_windowed, view=True)
def sliding_windows(xp: Any, x: Array, kernel: Lengths, stride: Lengths = 1, dilate: Lengths = 1) -> Any:
    """All windows of x: (batch, channels, *positions, *kernel). A view that cannot be written to.

    Args:
        x: (batch, channels, *space), one to three spatial axes.
        kernel, stride, dilate: lengths of the window, distance of windows, distance of a window's elements.
    """
    k = x.ndim - 2
    kernel, stride, dilate = lengths(kernel, k), lengths(stride, k), lengths(dilate, k)
    counts = _counts("sliding_windows", x.shape[2:], kernel, stride, dilate)
    steps = tuple(a * b for a, b in zip(x.strides[2:], stride, strict=True))
    inside = tuple(a * b for a, b in zip(x.strides[2:], dilate, strict=True))
    view = xp.as_strided(x, (*x.shape[:2], *counts, *kernel), (*x.strides[:2], *steps, *inside))
    if hasattr(view.flags, "writeable"):
        view.flags.writeable = False
    return view


@sliding_windows.vjp
def _sliding_windows_vjp(
    xp: Any, g: Any, out: Any, x: Any, kernel: Lengths, stride: Lengths = 1, dilate: Lengths = 1
) -> Any:
    return (xp.windows_add(g, space=tuple(x.shape[2:]), stride=stride, dilate=dilate),)


def _added_spec(op: Op[Any], g: Spec, *, space: Shape, stride: Lengths = 1, dilate: Lengths = 1) -> Spec:
    specs.require_ndim(op, "g", g, 4, 6, 8)
    k = (g.ndim - 2) // 2
    positions, kernel = g.shape[2 : 2 + k], g.shape[2 + k :]
    if len(space) != k or _counts(op.name, space, kernel, lengths(stride, k), lengths(dilate, k)) != positions:
        raise ShapeError(
            f"{op.name}: g of shape {g.shape} (batch, channels, *positions, *kernel) are not the windows of an array "
            f"with space {tuple(space)}, stride={stride}, dilate={dilate}"
        )
    return Spec((*g.shape[:2], *space), g.dtype)


@op(_added_spec)
def windows_add(xp: Any, g: Array, space: Shape, stride: Lengths = 1, dilate: Lengths = 1) -> Any:
    """Windows added up where they overlap: (batch, channels, *space). The transpose of `sliding_windows`.

    Args:
        g: (batch, channels, *positions, *kernel).
    """
    k = (g.ndim - 2) // 2
    positions, kernel = g.shape[2 : 2 + k], g.shape[2 + k :]
    stride, dilate = lengths(stride, k), lengths(dilate, k)
    parts = wide(g)
    out = xp.zeros((*g.shape[:2], *space), parts.dtype)
    for at in np.ndindex(*kernel):
        to = tuple(
            slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in zip(at, dilate, positions, stride, strict=True)
        )
        out[(..., *to)] += parts[(..., *at)]
    return out.astype(g.dtype, copy=False)


@windows_add.vjp
def _windows_add_vjp(xp: Any, g: Any, out: Any, x: Any, space: Shape, stride: Lengths = 1, dilate: Lengths = 1) -> Any:
    k = (x.ndim - 2) // 2
    return (xp.sliding_windows(g, kernel=tuple(x.shape[2 + k :]), stride=stride, dilate=dilate),)


def unfold(x: Any, kernel: Lengths, stride: Lengths = 1, pad: Pad = 0, dilate: Lengths = 1) -> Any:
    """The windows of x as columns: (batch, channels * kernel elements, positions). MXNet's im2col, PyTorch's unfold.

    Args:
        x: (batch, channels, *space), one to three spatial axes.
        kernel, stride, dilate: a number, or one per spatial axis.
        pad: zeros around x, as for `convolution`.
    """
    k = len(x.shape) - 2
    size, step, apart = lengths(kernel, k), lengths(stride, k), lengths(dilate, k)
    source = around(x, pairs("unfold", pad, x.shape[2:], size, step, apart))
    windows = sliding_windows(source, kernel=size, stride=step, dilate=apart)
    ordered = transpose(windows, axes=(0, 1, *range(2 + k, 2 + 2 * k), *range(2, 2 + k)))
    positions = windows.shape[2 : 2 + k]
    return reshape(ordered, shape=(x.shape[0], x.shape[1] * math.prod(size), math.prod(positions)))


def fold(
    columns: Any,
    output_size: Lengths,
    kernel: Lengths,
    stride: Lengths = 1,
    pad: Pad = 0,
    dilate: Lengths = 1,
) -> Any:
    """Columns added up where their windows overlap: MXNet's col2im, PyTorch's fold.

    Args:
        columns: (batch, channels * kernel elements, positions).
        output_size: spatial shape of the result; a number stands for two axes.
        kernel, stride, pad, dilate: as for `unfold`, which this is the transpose of.
    Returns:
        (batch, channels, *output_size).
    Raises:
        ShapeError: the columns are not those of windows of such an array.
    """
    space = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    k = len(space)
    size, step, apart = lengths(kernel, k), lengths(stride, k), lengths(dilate, k)
    border = pairs("fold", pad, space, size, step, apart)
    whole = tuple(n + sum(p) for n, p in zip(space, border, strict=True))
    positions = _counts("fold", whole, size, step, apart)
    batch, rows, count = columns.shape
    if rows % math.prod(size) or count != math.prod(positions):
        raise ShapeError(
            f"fold: columns of shape {tuple(columns.shape)}; for a kernel of {size} and an output of {space} there are "
            f"(batch, channels * {math.prod(size)}, {math.prod(positions)})"
        )
    apart_form = reshape(columns, shape=(batch, rows // math.prod(size), *size, *positions))
    windows = transpose(apart_form, axes=(0, 1, *range(2 + k, 2 + 2 * k), *range(2, 2 + k)))
    return crop(windows_add(windows, space=whole, stride=step, dilate=apart), border)
