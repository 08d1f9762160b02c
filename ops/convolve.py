"""Convolution and its transpose with everything that people write: one-sided and named padding, both layouts.

The work is done by the operators of `shoal.ops.conv`, which are channels-first and pad both sides alike.
"""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import conv
from shoal.ops.border import Pad, around, border, crop, pairs
from shoal.ops.conv import Lengths, lengths
from shoal.ops.shape import moveaxis

__all__ = ["CHANNELS_LAST", "LAYOUTS", "channels_last", "convolution", "deconvolution"]

LAYOUTS = ("NCW", "NCHW", "NCDHW")
CHANNELS_LAST = ("NWC", "NHWC", "NDHWC")


def channels_last(who: str, layout: str | None, k: int) -> bool:
    """Whether the layout of k spatial axes has its channels last.

    Raises:
        ConfigError: no layout of so many axes is called so.
    """
    if layout not in (None, LAYOUTS[k - 1], CHANNELS_LAST[k - 1]):
        raise ConfigError(f"{who}: layout={layout!r}; there are {LAYOUTS[k - 1]!r} and {CHANNELS_LAST[k - 1]!r}")
    return layout == CHANNELS_LAST[k - 1]


def _spatial(who: str, x: Any, weight: Any) -> int:
    k = len(x.shape) - 2
    if k not in (1, 2, 3) or len(weight.shape) != k + 2:
        raise ShapeError(
            f"{who}: x and weight must both have 3, 4 or 5 axes, got shapes {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    return k


def convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Lengths = 1,
    pad: Pad = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
    layout: str | None = None,
) -> Any:
    """Cross-correlation of x with a bank of filters, as in all deep learning libraries.

    Args:
        x: (batch, channels, *space), one to three spatial axes; (batch, *space, channels) with ``layout="NHWC"``.
        weight: (filters, channels / num_group, *kernel); the second axis last with ``layout="NHWC"``, as in MXNet.
        bias: (filters,), or None.
        stride, dilate: a number, or one per spatial axis.
        pad: zeros around x: a number, one per spatial axis, (before, after) per axis, "valid" (none), "same" (as many
            outputs as ceil(space / stride), an odd zero at the end), "same_lower" (at the beginning).
        num_group: channels and filters are split into this many groups that do not see each other.
    Raises:
        ShapeError: x, weight and bias do not fit, or the kernel does not fit into x.
        ConfigError: a padding or layout that there is not.
    """
    k = _spatial("convolution", x, weight)
    if channels_last("convolution", layout, k):
        first = convolution(moveaxis(x, -1, 1), moveaxis(weight, -1, 1), bias, stride, pad, dilate, num_group)
        return moveaxis(first, 1, -1)
    both, more = border("convolution", pad, x.shape[2:], tuple(weight.shape[2:]), stride, dilate)
    return conv.convolution(around(x, more), weight, bias, stride=stride, pad=both, dilate=dilate, num_group=num_group)


def deconvolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Lengths = 1,
    pad: Pad = 0,
    dilate: Lengths = 1,
    adj: Lengths = 0,
    num_group: int = 1,
    target_shape: Lengths | None = None,
    layout: str | None = None,
) -> Any:
    """Transposed convolution: what `convolution` does to gradients, used forward, to make images larger.

    Args:
        x: (batch, channels, *space).
        weight: (channels, filters / num_group, *kernel).
        stride, pad, dilate, num_group, layout: of the convolution that this is the transpose of; padding is cut off.
            "same" gives space * stride.
        adj: how many elements to add at the end of each spatial axis: PyTorch's output_padding.
        target_shape: spatial shape of the result; ``pad`` and ``adj`` are then chosen for it.
    Returns:
        (batch, filters, *out), where out = (space - 1) stride - before - after + dilate (kernel - 1) + 1 + adj.
    Raises:
        ShapeError: x and weight do not fit, or nothing would be left.
        ConfigError: ``adj`` is not less than stride or dilate.
    """
    k = _spatial("deconvolution", x, weight)
    if weight.shape[0] != x.shape[-1 if layout in CHANNELS_LAST else 1] or weight.shape[0] % num_group:
        raise ShapeError(
            f"deconvolution: x has shape {tuple(x.shape)}, so the weight must have shape (channels, filters / "
            f"{num_group}, *kernel) with as many channels, a multiple of the groups; got {tuple(weight.shape)}"
        )
    if channels_last("deconvolution", layout, k):
        x, weight = moveaxis(x, -1, 1), moveaxis(weight, -1, 1)
        first = deconvolution(x, weight, bias, stride, pad, dilate, adj, num_group, target_shape)
        return moveaxis(first, 1, -1)
    s, d, more = lengths(stride, k), lengths(dilate, k), lengths(adj, k)
    if any(a >= max(b, c) for a, b, c in zip(more, s, d, strict=True)) or min(more) < 0:
        raise ConfigError(f"deconvolution: adj={adj} must be less than stride={stride} or dilate={dilate}")
    whole = [(n - 1) * b + c * (m - 1) + 1 for n, m, b, c in zip(x.shape[2:], weight.shape[2:], s, d, strict=True)]
    cut, more = _ends(whole, tuple(x.shape[2:]), tuple(weight.shape[2:]), s, d, pad, more, target_shape)
    if any(a >= b for a, b in zip(more, s, strict=True)):  # more than one window further: zeros, but for what is cut
        out = conv.convolution_data(x, weight, space=tuple(whole), stride=s, dilate=d, num_group=num_group)
        out = crop(around(out, tuple((0, a) for a in more)), cut)
        return out if bias is None else out + bias.reshape((-1, *[1] * k))
    both = tuple(min(c) for c in cut)
    space = tuple(n + a - 2 * b for n, a, b in zip(whole, more, both, strict=True))
    left = tuple(n + a - sum(c) for n, a, c in zip(whole, more, cut, strict=True))
    if min(left) < 1:
        raise ShapeError(
            f"deconvolution: x of shape {tuple(x.shape)} and a kernel of {tuple(weight.shape[2:])} give {whole} "
            f"elements, and pad={pad} cuts off {cut}: nothing is left"
        )
    out = conv.convolution_data(x, weight, space=space, stride=s, pad=both, dilate=d, num_group=num_group)
    out = crop(out, tuple((a - b, c - b) for (a, c), b in zip(cut, both, strict=True)))
    return out if bias is None else out + bias.reshape((-1, *[1] * k))


def _ends(
    whole: Sequence[int],
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilate: tuple[int, ...],
    pad: Pad,
    adj: tuple[int, ...],
    target: Lengths | None,
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """(what is cut off before and after, what is added at the end) of each spatial axis."""
    if target is None and pad not in ("same", "same_upper", "same_lower"):
        return pairs("deconvolution", pad, space, kernel, stride, dilate), adj
    wanted = lengths(target, len(space)) if target is not None else [n * s for n, s in zip(space, stride, strict=True)]
    cut, more = [], []
    for n, a, w in zip(whole, adj, wanted, strict=True):
        total = max(n + a - w, 0)
        small = total // 2
        cut.append((total - small, small) if pad == "same_lower" else (small, total - small))
        more.append(w - n + total)
    return tuple(cut), tuple(more)
