"""Operators that are several others in one, for kernels that go over memory once; the pass `join` puts them in graphs.

Each is written as what it stands for, and has the same bits.
"""

from typing import Any

from shoal.ops import conv, norm
from shoal.ops.conv import Lengths
from shoal.ops.registry import Array, Op, Spec, op

__all__ = ["batch_norm_relu", "convolution_relu"]


def _batch_spec(
    op: Op[Any], x: Spec, gamma: Spec, beta: Spec, residual: Spec | None = None, axis: int = 1, eps: float = 1e-5
) -> Any:
    return norm.batch_norm.infer(x, gamma, beta, axis=axis, eps=eps)


@op(_batch_spec)
def batch_norm_relu(
    xp: Any, x: Array, gamma: Array, beta: Array, residual: Array = None, axis: int = 1, eps: float = 1e-5
) -> Any:
    """`shoal.ops.norm.batch_norm`, plus ``residual`` if there is one, and of that what is positive.

    Args:
        residual: of the shape and dtype of x.
    Returns:
        (result, mean per channel, variance per channel), as `batch_norm`.
    """
    out, mean, var = norm.batch_norm.forward(xp, x, gamma, beta, axis=axis, eps=eps)
    if residual is not None:
        out = out + residual
    return xp.maximum(out, 0, out=out), mean, var


@batch_norm_relu.vjp
def _batch_norm_relu_vjp(
    xp: Any, g: Any, out: Any, x: Any, gamma: Any, beta: Any, residual: Any = None, axis: int = 1, eps: float = 1e-5
) -> Any:
    assert norm.batch_norm.rule is not None
    masked = None if g[0] is None else g[0] * (out[0] > 0)
    found = norm.batch_norm.rule(xp, (masked, *g[1:]), out, x, gamma, beta, axis=axis, eps=eps)
    return (*found, masked)


def _convolution_spec(op: Op[Any], x: Spec, weight: Spec, bias: Spec | None = None, **geometry: Any) -> Any:
    return conv.convolution.infer(x, weight, bias, **geometry)


@op(_convolution_spec)
def convolution_relu(
    xp: Any,
    x: Array,
    weight: Array,
    bias: Array = None,
    stride: Lengths = 1,
    pad: Lengths = 0,
    dilate: Lengths = 1,
    num_group: int = 1,
) -> Any:
    """What is positive of `shoal.ops.conv.convolution`."""
    out = conv.convolution.forward(xp, x, weight, bias, stride=stride, pad=pad, dilate=dilate, num_group=num_group)
    return xp.maximum(out, 0, out=out)


@convolution_relu.vjp
def _convolution_relu_vjp(xp: Any, g: Any, out: Any, *inputs: Any, **geometry: Any) -> Any:
    assert conv.convolution.rule is not None
    return conv.convolution.rule(xp, g * (out > 0), out, *inputs, **geometry)
