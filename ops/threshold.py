"""Activation functions with corners, and those that gate one half of their input with the other.

They have PyTorch's names and definitions; MXNet's, where MXNet has them, are in `shoal.ops.activation`. At a corner the
gradient is that of PyTorch.
"""

from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import random, specs, tape
from shoal.ops.activation import ACTIVATIONS, gelu, hard_sigmoid, hard_tanh, relu, sigmoid, silu
from shoal.ops.elementwise import astype, clip, log, stop_gradient, tanh, where
from shoal.ops.index import one_hot
from shoal.ops.loss import softmax
from shoal.ops.reduce import argmax
from shoal.ops.registry import Array, Traced, op
from shoal.ops.shape import moveaxis, split
from shoal.ops.tensor import Tensor

_elementwise = op(specs.elementwise, elementwise=True)


@_elementwise
def celu(xp: Any, x: Array, alpha: float = 1.0) -> Any:
    """x where it is positive, else ``alpha`` * (exp(x / alpha) - 1): smooth for every alpha (arXiv:1704.07483)."""
    return xp.maximum(x, 0.0) + alpha * xp.expm1(xp.minimum(x, 0.0) / alpha)


@celu.vjp
def _celu_vjp(xp: Any, g: Any, out: Any, x: Any, alpha: float = 1.0) -> Any:
    positive = x > 0
    return (g * (positive + xp.logical_not(positive) * xp.exp(xp.minimum(x, 0.0) / alpha)),)


@_elementwise
def shrink(xp: Any, x: Array, lambd: float = 0.5, bias: float = 0.0) -> Any:
    """0 where abs(x) <= ``lambd``; elsewhere x, moved towards 0 by ``bias``."""
    moved = x - bias * xp.sign(x) if bias else x
    return xp.where(xp.abs(x) <= lambd, xp.zeros_like(x), moved)  # nan stays nan


@shrink.vjp
def _shrink_vjp(xp: Any, g: Any, out: Any, x: Any, lambd: float = 0.5, bias: float = 0.0) -> Any:
    return (g * (xp.abs(x) > lambd),)


def hard_shrink(x: Any, lambd: float = 0.5) -> Any:
    """x where abs(x) > ``lambd``, else 0."""
    return shrink(x, lambd=float(lambd))


def soft_shrink(x: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by ``lambd``, and 0 if that is further than to 0: the proximal operator of the 1-norm.

    Raises:
        ConfigError: ``lambd`` is negative.
    """
    if lambd < 0:
        raise ConfigError(f"soft_shrink: lambd must not be negative, got {lambd}")
    return shrink(x, lambd=float(lambd), bias=float(lambd))


def tanh_shrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - tanh(x)


@_elementwise
def threshold(xp: Any, x: Array, threshold: float, value: float) -> Any:
    """x where it is above ``threshold``, else ``value``."""
    return xp.where(x <= threshold, xp.asarray(value, x.dtype), x)


@threshold.vjp
def _threshold_vjp(xp: Any, g: Any, out: Any, x: Any, threshold: float, value: float) -> Any:
    return (g * (x > threshold),)


def hardsigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6: PyTorch's; MXNet's `hard_sigmoid` has the slope 0.2."""
    return hard_sigmoid(x, alpha=1.0 / 6.0)


def quick_gelu(x: Any) -> Any:
    """x * sigmoid(1.702 * x): the cheapest approximation of `gelu` (arXiv:1606.08415), as CLIP uses it."""
    return x * sigmoid(x * 1.702)


def squared_relu(x: Any) -> Any:
    """max(x, 0)**2 (So et al., Primer, arXiv:2109.08668)."""
    positive = relu(x)
    return positive * positive


# -- gates


def _halves(name: str, x: Any, axis: int) -> tuple[Any, Any]:
    if not x.ndim or not -x.ndim <= axis < x.ndim or x.shape[axis] % 2:
        raise ShapeError(
            f"{name}: cuts axis {axis} of shape {tuple(x.shape)} into two halves; it must be of even length"
        )
    first, second = split(x, sections=2, axis=axis)
    return first, second


def glu(x: Any, axis: int = -1) -> Any:
    """The gated linear unit: the first half of x along ``axis`` times the sigmoid of the second (arXiv:1612.08083).

    Raises:
        ShapeError: the axis is not of even length.
    """
    value, gate = _halves("glu", x, axis)
    return value * sigmoid(gate)


def swiglu(x: Any, axis: int = -1) -> Any:
    """silu of the first half of x along ``axis``, times the second (Shazeer, arXiv:2002.05202, as in Llama)."""
    gate, value = _halves("swiglu", x, axis)
    return silu(gate) * value


def geglu(x: Any, axis: int = -1, approximation: str = "erf") -> Any:
    """The first half of x along ``axis`` times `gelu` of the second (Shazeer, arXiv:2002.05202)."""
    value, gate = _halves("geglu", x, axis)
    return value * gelu(gate, approximation=approximation)


def reglu(x: Any, axis: int = -1) -> Any:
    """The first half of x along ``axis`` times `relu` of the second (Shazeer, arXiv:2002.05202)."""
    value, gate = _halves("reglu", x, axis)
    return value * relu(gate)


def softmin(x: Any, axis: int = -1) -> Any:
    """softmax(-x) along ``axis``."""
    return softmax(-x, axis=axis)


# -- random


def _uniform(x: Any, purpose: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Random numbers at this thread's address; in a graph, new ones at each run."""
    key = x._random_key(purpose) if isinstance(x, Traced) else random.next_key(purpose)
    return random.random_uniform(key if isinstance(key, Traced) else Tensor(key), shape=shape, dtype=dtype)


def rrelu(x: Any, lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0) -> Any:
    """x where it is positive, else a slope times x (Xu et al., arXiv:1505.00853).

    In training mode the slope of each element is drawn anew between ``lower`` and ``upper``, at this thread's address
    (see `shoal.ops.random`); otherwise it is the mean of the two.

    Raises:
        ConfigError: not 0 <= lower <= upper <= 1.
    """
    if not 0 <= lower <= upper <= 1:
        raise ConfigError(f"rrelu: needs 0 <= lower <= upper <= 1, got lower={lower}, upper={upper}")
    if not tape.state.training:
        return where(x > 0, x, x * (0.5 * (lower + upper)))
    drawn = _uniform(x, "rrelu", tuple(x.shape), x.dtype.name)
    return where(x > 0, x, x * (drawn * (upper - lower) + lower))


def gumbel_softmax(logits: Any, tau: float = 1.0, hard: bool = False, axis: int = -1) -> Any:
    """A sample of the Gumbel-softmax distribution (Jang et al., arXiv:1611.01144), drawn at this thread's address.

    Args:
        logits: scores of the classes, along ``axis``.
        tau: temperature; towards 0 samples are near to a single class.
        hard: the output has 1 at the class of the largest element and 0 elsewhere, but the gradient of the soft one.
    Raises:
        ConfigError: ``tau`` is not positive.
    """
    if tau <= 0:
        raise ConfigError(f"gumbel_softmax: tau must be positive, got {tau}")
    wide = "float64" if logits.dtype.name == "float64" else "float32"
    drawn = clip(_uniform(logits, "gumbel", tuple(logits.shape), wide), a_min=2.0**-26, a_max=1.0 - 2.0**-24)
    noise = astype(-log(-log(drawn)), dtype=logits.dtype.name)
    soft = softmax((logits + noise) * (1.0 / tau), axis=axis)
    if not hard:
        return soft
    chosen = one_hot(argmax(soft, axis=axis), depth=logits.shape[axis], dtype=logits.dtype.name)
    return stop_gradient(moveaxis(chosen, -1, axis) - soft) + soft


ACTIVATIONS |= {
    "celu": celu,
    "geglu": geglu,
    "glu": glu,
    "hard_shrink": hard_shrink,
    "hard_tanh": hard_tanh,
    "quick_gelu": quick_gelu,
    "rrelu": rrelu,
    "soft_shrink": soft_shrink,
    "softmin": softmin,
    "squared_relu": squared_relu,
    "swiglu": swiglu,
    "tanh_shrink": tanh_shrink,
}
