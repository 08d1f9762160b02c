"""Convolution in which each channel has a filter of its own: sums over the few elements of the window, without windows.

Arrays are channels-last: (batch, *space, channels), already padded; weights are (*kernel, channels).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from shoal.ops.reduce import channel_sum
from shoal.ops.registry import Shape

__all__ = ["depthwise", "depthwise_data", "depthwise_weight"]


def _places(kernel: Shape, space: Shape, stride: Shape, dilate: Shape) -> Iterator[tuple[tuple[int, ...], Any]]:
    """For each element of a window, its place in there, and the subscript of that element of all windows."""
    for at in np.ndindex(*kernel):
        geometry = zip(at, space, stride, dilate, strict=True)
        yield at, (slice(None), *(slice(i * d, i * d + (n - 1) * s + 1, s) for i, n, s, d in geometry))


def depthwise(xp: Any, source: Any, weight: Any, space: Shape, stride: Shape, dilate: Shape) -> Any:
    """The convolution: (batch, *space, channels)."""
    out = xp.zeros((source.shape[0], *space, source.shape[-1]), np.result_type(source.dtype, weight.dtype))
    part = xp.empty_like(out)
    for at, place in _places(weight.shape[:-1], space, stride, dilate):
        out += xp.multiply(source[place], weight[at], out=part)
    return out


def depthwise_data(xp: Any, g: Any, weight: Any, whole: Shape, stride: Shape, dilate: Shape) -> Any:
    """Its gradient for the source, (batch, *whole, channels), from the cotangent g of its output."""
    out = xp.zeros((g.shape[0], *whole, g.shape[-1]), np.result_type(g.dtype, weight.dtype))
    part = xp.empty_like(out, shape=g.shape)
    for at, place in _places(weight.shape[:-1], g.shape[1:-1], stride, dilate):
        out[place] += xp.multiply(g, weight[at], out=part)
    return out


def depthwise_weight(xp: Any, g: Any, source: Any, kernel: Shape, stride: Shape, dilate: Shape) -> Any:
    """Its gradient for the weight: (*kernel, channels)."""
    out = xp.empty((*kernel, g.shape[-1]), np.result_type(g.dtype, source.dtype))
    part = xp.empty(g.shape, out.dtype)
    for at, place in _places(kernel, g.shape[1:-1], stride, dilate):
        out[at] = channel_sum(xp, xp.multiply(source[place], g, out=part), -1)
    return out
