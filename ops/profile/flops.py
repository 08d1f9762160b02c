"""How many floating-point operations an operator takes, where that is known; multiplying and adding is two."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from shoal.ops.instrument import Happened
from shoal.ops.registry import OPS

__all__ = ["flops"]


def flops(happened: Happened) -> int | None:
    """Of one operator, or of one gradient rule: that of the operator for each gradient; None if it is not known."""
    if happened.part == "backward" and happened.mode == "imperative":
        once = _forward(happened.op, happened.operands, happened.given, happened.attrs)
        return None if once is None else once * sum(g is not None for g in happened.outputs)
    return _forward(happened.op, happened.inputs, happened.outputs, happened.attrs)


def _forward(name: str, inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int | None:
    count = _COUNTS.get(name)
    if count is not None:
        return count(inputs, outputs, attrs)
    op = OPS.get(name)
    if op is not None and op.elementwise and outputs and outputs[0] is not None:
        return int(outputs[0].size)
    if op is not None and "keepdims" in op.attrs and inputs:
        return int(inputs[0].size)
    return None


def _matmul(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return 2 * int(outputs[0].size) * int(inputs[0].shape[-1])


def _dense(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return 2 * int(outputs[0].size) * int(inputs[1].shape[1])


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return 2 * int(outputs[0].size * math.prod(inputs[1].shape[1:]))


def _convolution_data(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return 2 * int(inputs[0].size * math.prod(inputs[1].shape[1:]))


def _convolution_weight(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return 2 * int(inputs[0].size * math.prod(outputs[0].shape[1:]))


def _contract(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    lengths: dict[str, int] = {}
    for term, x in zip(attrs["subscripts"].partition("->")[0].split(","), inputs, strict=True):
        lengths.update(zip(term, x.shape, strict=True))
    return 2 * math.prod(lengths.values())


def _fused(inputs: Sequence[Any], outputs: Sequence[Any], attrs: dict[str, Any]) -> int:
    return len(attrs["body"]) * int(outputs[0].size)


_COUNTS: dict[str, Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], int]] = {
    "contract": _contract,
    "convolution": _convolution,
    "convolution_data": _convolution_data,
    "convolution_relu": _convolution,
    "convolution_weight": _convolution_weight,
    "fully_connected": _dense,
    "fused": _fused,
    "matmul": _matmul,
}
