"""Activation functions as layers, under PyTorch's names. Those of Gluon are in `shoal.ops.nn.activation`."""

from collections.abc import Callable
from typing import Any, ClassVar

from shoal.errors import ConfigError, ShapeError
from shoal.ops import activation as act
from shoal.ops import elementwise, loss, threshold
from shoal.ops.nn.hybrid import HybridBlock

__all__ = [
    "CELU",
    "GLU",
    "GeGLU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "QuickGELU",
    "RReLU",
    "ReGLU",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Softmax",
    "Softmax2D",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SquaredReLU",
    "SwiGLU",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _Function(HybridBlock):
    """A function of one input; its options are what the layer was made with."""

    function: ClassVar[Callable[..., Any]]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return type(self).function(x, **self.options)

    def extra_repr(self) -> str:
        """The options."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


class _Plain(_Function):
    """A function without options."""

    def __init__(self) -> None:
        super().__init__()


class ReLU(_Plain):
    """max(x, 0)."""

    function = staticmethod(act.relu)


class ReLU6(_Plain):
    """x limited to the range from 0 to 6."""

    function = staticmethod(act.relu6)


class Sigmoid(_Plain):
    """1 / (1 + exp(-x))."""

    function = staticmethod(act.sigmoid)


class LogSigmoid(_Plain):
    """log(sigmoid(x)) without overflow."""

    function = staticmethod(act.log_sigmoid)


class Tanh(_Plain):
    """The hyperbolic tangent."""

    function = staticmethod(elementwise.tanh)


class Tanhshrink(_Plain):
    """x - tanh(x)."""

    function = staticmethod(threshold.tanh_shrink)


class Softsign(_Plain):
    """x / (1 + |x|)."""

    function = staticmethod(act.softsign)


class Hardsigmoid(_Plain):
    """relu6(x + 3) / 6."""

    function = staticmethod(threshold.hardsigmoid)


class Hardswish(_Plain):
    """x * relu6(x + 3) / 6 (arXiv:1905.02244)."""

    function = staticmethod(act.hard_swish)


class Mish(_Plain):
    """x * tanh(softplus(x)) (arXiv:1908.08681)."""

    function = staticmethod(act.mish)


class QuickGELU(_Plain):
    """x * sigmoid(1.702 * x)."""

    function = staticmethod(threshold.quick_gelu)


class SquaredReLU(_Plain):
    """max(x, 0)**2 (arXiv:2109.08668)."""

    function = staticmethod(threshold.squared_relu)


class CELU(_Function):
    """x where it is positive, else ``alpha`` * (exp(x / alpha) - 1) (arXiv:1704.07483)."""

    function = staticmethod(threshold.celu)

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha:
            raise ConfigError("CELU: alpha must not be 0")
        super().__init__(alpha=float(alpha))


class Hardtanh(_Function):
    """x limited to the range from ``min_val`` to ``max_val``."""

    function = staticmethod(act.hard_tanh)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        if min_val >= max_val:
            raise ConfigError(f"Hardtanh: min_val={min_val} must be less than max_val={max_val}")
        super().__init__(min_val=float(min_val), max_val=float(max_val))


class Hardshrink(_Function):
    """x where abs(x) > ``lambd``, else 0."""

    function = staticmethod(threshold.hard_shrink)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd=float(lambd))


class Softshrink(_Function):
    """x moved towards 0 by ``lambd``, and 0 if that is further than to 0."""

    function = staticmethod(threshold.soft_shrink)

    def __init__(self, lambd: float = 0.5) -> None:
        if lambd < 0:
            raise ConfigError(f"Softshrink: lambd must not be negative, got {lambd}")
        super().__init__(lambd=float(lambd))


class Threshold(_Function):
    """x where it is above ``threshold``, else ``value``."""

    function = staticmethod(threshold.threshold)

    def __init__(self, threshold: float, value: float) -> None:
        super().__init__(threshold=float(threshold), value=float(value))


class Softplus(_Function):
    """log(1 + exp(beta * x)) / beta without overflow."""

    def __init__(self, beta: float = 1.0) -> None:
        if beta <= 0:
            raise ConfigError(f"Softplus: beta must be positive, got {beta}")
        super().__init__(beta=float(beta))

    @staticmethod
    def function(x: Any, beta: float) -> Any:
        """Apply it."""
        return act.softplus(x) if beta == 1.0 else act.softplus(x * beta) * (1.0 / beta)


class _OverAxis(_Function):
    """A function along an axis."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis=axis)


class Softmax(_OverAxis):
    """exp(x) / sum(exp(x)) along ``axis``."""

    function = staticmethod(loss.softmax)


class LogSoftmax(_OverAxis):
    """log(softmax(x)) along ``axis``."""

    function = staticmethod(loss.log_softmax)


class Softmin(_OverAxis):
    """softmax(-x) along ``axis``."""

    function = staticmethod(threshold.softmin)


class GLU(_OverAxis):
    """The first half of x along ``axis`` times the sigmoid of the second (arXiv:1612.08083)."""

    function = staticmethod(threshold.glu)


class SwiGLU(_OverAxis):
    """silu of the first half of x along ``axis``, times the second (arXiv:2002.05202)."""

    function = staticmethod(threshold.swiglu)


class GeGLU(_OverAxis):
    """The first half of x along ``axis`` times `GELU` of the second (arXiv:2002.05202)."""

    function = staticmethod(threshold.geglu)


class ReGLU(_OverAxis):
    """The first half of x along ``axis`` times `ReLU` of the second (arXiv:2002.05202)."""

    function = staticmethod(threshold.reglu)


class Softmax2D(_Plain):
    """Softmax over the channels of images: (N, C, H, W) or (C, H, W).

    Raises:
        ShapeError: x has another number of axes.
    """

    @staticmethod
    def function(x: Any) -> Any:
        """Apply it."""
        if x.ndim not in (3, 4):
            raise ShapeError(f"Softmax2D: takes images with 3 or 4 axes, got shape {tuple(x.shape)}")
        return loss.softmax(x, axis=-3)


class RReLU(_Function):
    """`LeakyReLU` with slopes that are drawn between ``lower`` and ``upper`` in training (arXiv:1505.00853)."""

    function = staticmethod(threshold.rrelu)

    def __init__(self, lower: float = 1.0 / 8.0, upper: float = 1.0 / 3.0) -> None:
        if not 0 <= lower <= upper <= 1:
            raise ConfigError(f"RReLU: needs 0 <= lower <= upper <= 1, got lower={lower}, upper={upper}")
        super().__init__(lower=float(lower), upper=float(upper))
