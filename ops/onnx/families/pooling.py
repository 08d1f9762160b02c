"""Pooling: the attributes of ONNX as the arguments of `shoal.ops.pooling`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.ops import pooling
from shoal.ops import reduce as reducing
from shoal.ops.border import Pad
from shoal.ops.onnx.nodes import Call, node

__all__ = ["padding_of"]

AUTO = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}


def padding_of(c: Call, k: int) -> Pad:
    """The padding of k spatial axes, as `shoal.ops.border` has it."""
    pads = tuple(c.get("pads", (0,) * 2 * k))
    return AUTO.get(c.get("auto_pad", "NOTSET"), tuple(zip(pads[:k], pads[k:], strict=True)))


def _windows(c: Call, x: Any) -> dict[str, Any]:
    """What all pooling shares."""
    k = x.ndim - 2
    return {
        "kernel": tuple(c.get("kernel_shape")),
        "stride": tuple(c.get("strides", (1,) * k)),
        "pad": padding_of(c, k),
        "dilate": tuple(c.get("dilations", (1,) * k)),
        "ceil_mode": bool(c.get("ceil_mode", 0)),
    }


@node("MaxPool")
def max_pool(c: Call, x: Any) -> Any:
    """The largest element of each window, and, if asked for, its position in the flattened array."""
    if not c.wants(1):
        return pooling.max_pool(x, **_windows(c, x))
    out, where = pooling.max_pool(x, **_windows(c, x), return_indices=True)
    space = tuple(x.shape[2:])
    if c.get("storage_order", 0):
        where = _moved(where, space, [math.prod(space[:axis]) for axis in range(len(space))])
    return out, where + _firsts(x) * math.prod(space)


def _firsts(x: Any) -> Any:
    """Numbers of the channels of all samples, to be broadcast over the spatial axes."""
    return np.arange(x.shape[0] * x.shape[1]).reshape((*x.shape[:2], *(1,) * (x.ndim - 2)))


def _moved(where: Any, space: Sequence[int], strides: Sequence[int]) -> Any:
    """Positions in a flattened space as those where axes lie ``strides`` apart."""
    total: Any = 0
    for axis, n in enumerate(space):
        total = total + where // math.prod(space[axis + 1 :]) % n * strides[axis]
    return total


@node("AveragePool")
def average_pool(c: Call, x: Any) -> Any:
    """The mean of each window; padding counts if ``count_include_pad`` is set."""
    return pooling.avg_pool(x, **_windows(c, x), count_include_pad=bool(c.get("count_include_pad", 0)))


@node("LpPool")
def lp_pool(c: Call, x: Any) -> Any:
    """The p-norm of each window."""
    return pooling.lp_pool(x, float(c.get("p", 2)), **_windows(c, x))


def _over_space(name: str, f: Callable[[Call, Any, tuple[int, ...]], Any]) -> None:
    @node(name)
    def apply(c: Call, x: Any) -> Any:
        return f(c, x, tuple(range(2, x.ndim)))


_over_space("GlobalAveragePool", lambda c, x, axes: reducing.mean(x, axis=axes, keepdims=True))
_over_space("GlobalMaxPool", lambda c, x, axes: reducing.max_(x, axis=axes, keepdims=True))
_over_space("GlobalLpPool", lambda c, x, axes: pooling.global_lp_pool(x, float(c.get("p", 2))))


@node("MaxUnpool", known=[2])
def max_unpool(c: Call, x: Any, where: Any, wanted: Any = None) -> Any:
    """Elements back where `max_pool` found them; zeros elsewhere."""
    k = x.ndim - 2
    kernel, stride = c.get("kernel_shape"), c.get("strides", (1,) * k)
    pads = c.get("pads", (0,) * 2 * k)
    sizes = zip(x.shape[2:], stride, kernel, pads[:k], pads[k:], strict=True)
    usual = tuple((n - 1) * s + m - a - b for n, s, m, a, b in sizes)
    where = where - _firsts(x) * math.prod(usual)
    space = c.ints(wanted, "the shape")[2:] if wanted is not None else usual
    if space != usual:  # positions are those of the usual shape
        where = _moved(where, usual, [math.prod(space[axis + 1 :]) for axis in range(k)])
    return pooling.unpool_at(x, where, space=space)
