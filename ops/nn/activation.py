"""Activations as layers."""

from typing import Any

from shoal.errors import ConfigError
from shoal.ops import activation as act
from shoal.ops import threshold
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Constant, Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = ["ELU", "GELU", "SELU", "Activation", "LeakyReLU", "PReLU", "SiLU", "Swish", "activation_layer"]

assert threshold  # which adds its functions to the table


class Activation(HybridBlock):
    """A function applied to each element.

    Args:
        activation: "relu", "sigmoid", "tanh", "softrelu" (log(1 + exp(x))), "softsign", "log_sigmoid", "mish", as in
            MXNet; also "gelu", "silu", "relu6", "hard_sigmoid", "celu" and all others of `npx.activation`.
    Raises:
        ConfigError: an unknown name; lists the known ones.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        if activation not in act.ACTIVATIONS:
            raise ConfigError(f"unknown activation {activation!r}; known: {', '.join(sorted(act.ACTIVATIONS))}")
        self.name = activation

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        """The function's name."""
        return self.name


class LeakyReLU(HybridBlock):
    """x where x > 0, else ``alpha`` * x."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if alpha < 0:
            raise ConfigError(f"LeakyReLU needs alpha >= 0, got {alpha}")
        self.alpha = float(alpha)

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.leaky_relu(x, slope=self.alpha)

    def extra_repr(self) -> str:
        """The slope."""
        return f"{self.alpha}"


class PReLU(HybridBlock):
    """x where x > 0, else a learned slope times x (He et al. 2015).

    Args:
        alpha_initializer: of the slopes.
        in_channels: 1 for one slope; otherwise one for each channel, along axis 1.
    """

    def __init__(self, alpha_initializer: str | float | Initializer | None = None, in_channels: int = 1) -> None:
        super().__init__()
        init = Constant(0.25) if alpha_initializer is None else alpha_initializer
        self.alpha = Parameter("alpha", shape=(in_channels,), init=init)

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.prelu(x, self.alpha.data())


class ELU(HybridBlock):
    """x where x > 0, else ``alpha`` * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = float(alpha)

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.elu(x, alpha=self.alpha)

    def extra_repr(self) -> str:
        """The scale."""
        return f"{self.alpha}"


class SELU(HybridBlock):
    """The self-normalizing exponential unit (Klambauer et al. 2017)."""

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.selu(x)


class GELU(HybridBlock):
    """x times the normal distribution function of x; ``approximation`` is "erf" (exact) or "tanh"."""

    def __init__(self, approximation: str = "erf") -> None:
        super().__init__()
        if approximation not in ("erf", "tanh"):
            raise ConfigError(f"GELU: approximation must be 'erf' or 'tanh', got {approximation!r}")
        self.approximation = approximation

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.gelu(x, approximation=self.approximation)

    def extra_repr(self) -> str:
        """The approximation."""
        return self.approximation


class Swish(HybridBlock):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = float(beta)

    def forward(self, x: Any) -> Any:
        """Apply the function."""
        return act.silu(x) if self.beta == 1.0 else x * act.sigmoid(x * self.beta)

    def extra_repr(self) -> str:
        """The factor."""
        return f"{self.beta}"


class SiLU(Swish):
    """x * sigmoid(x)."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def extra_repr(self) -> str:
        """Nothing to say."""
        return ""


def activation_layer(name: str | None) -> Activation | None:
    """The layer for an ``activation=`` argument; None for none."""
    return None if name is None else Activation(name)
