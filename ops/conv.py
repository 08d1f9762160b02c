"""Convolution over one, two or three spatial axes, with stride, padding, dilation and groups.

The public layout is (batch, channels, *space); the work is done channels-last: windows are gathered by one copy of a
strided view, in runs of kernel width times channels, and multiplied with the weights by one GEMM. The result is handed
back as a view with the axes in public order, so that a chain of convolutions and element-wise operators stays in
channels-last memory without anybody knowing.

Convolution is linear in x and in the weights. Its two gradients are operators as well (`convolution_data` is also the
transposed convolution), and the gradients of all three are again these three.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.depthwise import depthwise, depthwise_data, depthwise_weight
from shoal.ops.precision import wide
from shoal.ops.registry import Array, Op, Shape, Spec, op

Lengths = int | Sequence[int]


def lengths(value: Lengths, k: int) -> Shape:
    """One number per spatial axis."""
    return (value,) * k if isinstance(value, int) else tuple(value)


def out_length(n: int, kernel: int, stride: int, pad: int, dilate: int) -> int:
    """How many positions a window of ``kernel`` elements, ``dilate`` apart, has in n elements padded on both sides."""
    return (n + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1


def _conv_spec(
    op: Op[Any],
    x: Spec,
    weight: Spec,
    bias: Spec | None = None,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Spec:
    specs.require_ndim(op, "x", x, 3, 4, 5)
    k = x.ndim - 2
    if weight.ndim != x.ndim or weight.shape[1] * num_group != x.shape[1] or weight.shape[0] % num_group:
        raise ShapeError(
            f"convolution: x has shape {x.shape} (batch, channels, *space), so with num_group={num_group} the weight "
            f"must have shape (filters, {x.shape[1]} / {num_group}, *kernel), filters a multiple of the groups; got "
            f"{weight.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"convolution: bias has shape {bias.shape}, expected {weight.shape[:1]}: one per filter")
    geometry = zip(x.shape[2:], weight.shape[2:], lengths(stride, k), lengths(pad, k), lengths(dilate, k), strict=True)
    space = tuple(out_length(*g) for g in geometry)
    _require_fit(space, x.shape, weight.shape[2:], pad, dilate)
    given = [s.dtype for s in (x, weight, bias) if s is not None]
    return Spec((x.shape[0], weight.shape[0], *space), np.result_type(*given))


@op(_conv_spec)
def convolution(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array = None,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Any:
    """Cross-correlation of x with a bank of filters, as in all deep learning libraries.

    Args:
        x: (batch, channels, *space), one to three spatial axes.
        weight: (filters, channels / num_group, *kernel).
        bias: (filters,), or None.
        stride, pad, dilate: a number, or one per spatial axis; ``pad`` zeros are added on both sides.
        num_group: channels and filters are split into this many groups that do not see each other.
    Returns:
        (batch, filters, *out), where out = (space + 2 pad - dilate (kernel - 1) - 1) // stride + 1.
    """
    dtype = np.result_type(*(a.dtype for a in (x, weight, bias) if a is not None))
    if _is_depthwise(weight, num_group):
        geometry = _geometry(x, weight.shape[2:], stride, pad, dilate)
        source = _padded(xp, _channels_last(wide(x)), geometry.pad)
        rows = depthwise(
            xp, source, xp.moveaxis(wide(weight)[:, 0], 0, -1), geometry.space, geometry.stride, geometry.dilate
        )
        space = geometry.space
    else:
        windows, space = _windows(xp, wide(x), weight.shape[2:], stride, pad, dilate, num_group)
        rows = _per_group(xp, windows, _matrix(xp, wide(weight), num_group))
    if bias is not None:
        rows = rows + bias if rows.dtype != np.result_type(rows.dtype, bias.dtype) else _added(rows, bias)
    return _channels_first(rows.reshape(x.shape[0], *space, weight.shape[0])).astype(dtype, copy=False)


class _Geometry(NamedTuple):
    """One number per spatial axis of each, and the shape of the positions."""

    stride: Shape
    pad: Shape
    dilate: Shape
    space: Shape


def _geometry(x: Any, kernel: Shape, stride: Lengths, pad: Lengths, dilate: Lengths) -> _Geometry:
    k = len(kernel)
    stride, pad, dilate = lengths(stride, k), lengths(pad, k), lengths(dilate, k)
    space = tuple(map(out_length, x.shape[2:], kernel, stride, pad, dilate))
    _require_fit(space, x.shape, kernel, pad, dilate)
    return _Geometry(stride, pad, dilate, space)


def _is_depthwise(weight: Any, groups: int) -> bool:
    """Whether each channel has one filter of its own."""
    return groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1


def _added(a: Any, b: Any) -> Any:
    a += b
    return a


def _channels_first(x: Any) -> Any:
    return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def _channels_last(x: Any) -> Any:
    return x.transpose(0, *range(2, x.ndim), 1)


def _require_fit(space: Shape, shape: Shape, kernel: Shape, pad: Lengths, dilate: Lengths) -> None:
    if min(space) < 1:
        raise ShapeError(
            f"convolution: a kernel of {kernel} (dilate={dilate}) does not fit into x of shape {shape} with pad={pad}"
        )


def _windows(
    xp: Any, x: Any, kernel: Shape, stride: Lengths, pad: Lengths, dilate: Lengths, groups: int
) -> tuple[Any, Shape]:
    """All windows of x as rows, (groups, batch * positions, kernel * channels of a group), and the positions' shape."""
    stride, pad, dilate, space = _geometry(x, kernel, stride, pad, dilate)
    source = _padded(xp, _channels_last(x), pad)
    batch, channels = x.shape[:2]
    s = source.strides
    view = xp.as_strided(
        source,
        (batch, *space, *kernel, groups, channels // groups),
        (
            s[0],
            *(a * b for a, b in zip(s[1:-1], stride, strict=True)),
            *(a * b for a, b in zip(s[1:-1], dilate, strict=True)),
            s[-1] * (channels // groups),
            s[-1],
        ),
    )
    rows, columns = batch * math.prod(space), math.prod(kernel) * (channels // groups)
    if groups == 1:
        return view.reshape(1, rows, columns), space
    first = view.transpose(view.ndim - 2, *range(view.ndim - 2), view.ndim - 1)
    return first.reshape(groups, rows, columns), space


def _padded(xp: Any, x: Any, pad: Shape) -> Any:
    """A channels-last array with zeros around its spatial axes."""
    if not any(pad):
        return x
    inner = tuple(slice(p, p + n) for n, p in zip(x.shape[1:-1], pad, strict=True))
    out = xp.zeros((x.shape[0], *(n + 2 * p for n, p in zip(x.shape[1:-1], pad, strict=True)), x.shape[-1]), x.dtype)
    out[(slice(None), *inner)] = x
    return out


def _matrix(xp: Any, weight: Any, groups: int) -> Any:
    """Weights as (groups, kernel * channels of a group, filters of a group)."""
    last = _channels_last(weight)
    return last.reshape(groups, weight.shape[0] // groups, -1).swapaxes(1, 2)


def _per_group(xp: Any, windows: Any, matrix: Any) -> Any:
    """Rows of windows times weights: (batch * positions, filters)."""
    if len(windows) == 1:
        return xp.gemm(windows[0], matrix[0])
    return xp.gemm(windows, matrix).swapaxes(0, 1).reshape(windows.shape[1], -1)


def _grouped_rows(g: Any, groups: int) -> Any:
    """A cotangent as (groups, batch * positions, filters of a group)."""
    filters = g.shape[1]
    rows = _channels_last(g).reshape(-1, filters)
    return rows[None] if groups == 1 else rows.reshape(-1, groups, filters // groups).swapaxes(0, 1)


@convolution.vjp
def _convolution_vjp(xp: Any, g: Any, out: Any, x: Any, weight: Any, bias: Any = None, **attrs: Any) -> Any:
    return (
        lambda: xp.convolution_data(g, weight, space=tuple(x.shape[2:]), **attrs),
        lambda: xp.convolution_weight(g, x, kernel=tuple(weight.shape[2:]), **attrs),
        lambda: xp.sum_channels(g),
    )


def _require_cotangent(op: Op[Any], g: Spec, x: Spec, back: Spec) -> None:
    """g has the shape that the convolution of x gives."""
    if back.shape != g.shape:
        raise ShapeError(f"{op.name}: g has shape {g.shape}, but a convolution of shape {x.shape} gives {back.shape}")


def _data_spec(
    op: Op[Any],
    g: Spec,
    weight: Spec,
    *,
    space: Shape,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Spec:
    x = Spec((g.shape[0], weight.shape[1] * num_group, *space), g.dtype)
    _require_cotangent(op, g, x, _conv_spec(op, x, weight, None, stride, pad, dilate, num_group))
    return Spec(x.shape, np.result_type(g.dtype, weight.dtype))


@op(_data_spec)
def convolution_data(
    xp: Any,
    g: Array,
    weight: Array,
    space: Shape,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Any:
    """The gradient of `convolution` for its input; also the transposed convolution of g.

    Args:
        g: (batch, filters, *out).
        weight: (filters, channels / num_group, *kernel).
        space: spatial shape of the result; several give the same *out* when there is a stride.
    Returns:
        (batch, channels, *space).
    """
    kernel = weight.shape[2:]
    k, groups = len(kernel), num_group
    stride, pad, dilate = lengths(stride, k), lengths(pad, k), lengths(dilate, k)
    channels = weight.shape[1]
    inner = tuple(slice(p, p + n) for n, p in zip(space, pad, strict=True))
    if _is_depthwise(weight, groups):
        whole = tuple(n + 2 * p for n, p in zip(space, pad, strict=True))
        filters = xp.moveaxis(wide(weight)[:, 0], 0, -1)
        out = depthwise_data(xp, _channels_last(wide(g)), filters, whole, stride, dilate)[(slice(None), *inner)]
        return _channels_first(out).astype(np.result_type(g.dtype, weight.dtype), copy=False)
    parts = xp.gemm(_grouped_rows(wide(g), groups), _matrix(xp, wide(weight), groups).swapaxes(1, 2))
    parts = parts.reshape(groups, g.shape[0], *g.shape[2:], *kernel, channels)
    shape = (g.shape[0], *(n + 2 * p for n, p in zip(space, pad, strict=True)), groups, channels)
    out = xp.zeros(shape, parts.dtype)
    for at in np.ndindex(*kernel):
        to = tuple(
            slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in zip(at, dilate, g.shape[2:], stride, strict=True)
        )
        out[(slice(None), *to)] += xp.moveaxis(parts[(..., *at, slice(None))], 0, -2)
    out = out[(slice(None), *inner)].reshape(g.shape[0], *space, groups * channels)
    return _channels_first(out).astype(np.result_type(g.dtype, weight.dtype), copy=False)


@convolution_data.vjp
def _convolution_data_vjp(xp: Any, g: Any, out: Any, x: Any, weight: Any, space: Shape, **attrs: Any) -> Any:
    return (
        lambda: xp.convolution(g, weight, None, **attrs),
        lambda: xp.convolution_weight(x, g, kernel=tuple(weight.shape[2:]), **attrs),
    )


def _weight_spec(
    op: Op[Any],
    g: Spec,
    x: Spec,
    *,
    kernel: Shape,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Spec:
    weight = Spec((g.shape[1], x.shape[1] // num_group, *kernel), x.dtype)
    _require_cotangent(op, g, x, _conv_spec(op, x, weight, None, stride, pad, dilate, num_group))
    return Spec(weight.shape, np.result_type(g.dtype, x.dtype))


@op(_weight_spec)
def convolution_weight(
    xp: Any,
    g: Array,
    x: Array,
    kernel: Shape,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Any:
    """The gradient of `convolution` for its weights: (filters, channels / num_group, *kernel).

    Args:
        g: cotangent of the output.
        x: the input of the convolution.
    """
    if num_group > 1 and g.shape[1] == num_group == x.shape[1]:
        geometry = _geometry(x, kernel, stride, pad, dilate)
        source, slope = _padded(xp, _channels_last(wide(x)), geometry.pad), _channels_last(wide(g))
        out = depthwise_weight(xp, slope, source, kernel, geometry.stride, geometry.dilate)
        return xp.moveaxis(out, -1, 0)[:, None].astype(np.result_type(g.dtype, x.dtype), copy=False)
    windows, _ = _windows(xp, x, kernel, stride, pad, dilate, num_group)
    rows = _grouped_rows(g, num_group)
    out = xp.gemm(rows.swapaxes(1, 2), windows)  # (groups, filters of a group, kernel * channels)
    return _channels_first(out.reshape(g.shape[1], *kernel, x.shape[1] // num_group))


@convolution_weight.vjp
def _convolution_weight_vjp(xp: Any, g: Any, out: Any, dy: Any, x: Any, kernel: Shape, **attrs: Any) -> Any:
    return (
        lambda: xp.convolution(x, g, None, **attrs),
        lambda: xp.convolution_data(dy, g, space=tuple(x.shape[2:]), **attrs),
    )


def _sum_channels_spec(op: Op[Any], x: Spec) -> Spec:
    return Spec(x.shape[1:2], x.dtype)


@op(_sum_channels_spec)
def sum_channels(xp: Any, x: Array) -> Any:
    """Sum over all axes but axis 1: the gradient of a bias per channel."""
    return xp.channel_sum(x, 1).astype(x.dtype, copy=False)


@sum_channels.vjp
def _sum_channels_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (xp.broadcast_to(xp.reshape(g, (x.shape[1],) + (1,) * (x.ndim - 2)), x.shape),)
