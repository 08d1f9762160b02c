"""Normalization layers."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import norm, tape
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]

Axes = int | Sequence[int]
Init = str | float | Initializer


class _Normalization(HybridBlock):
    """Scale and shift along one axis, whose length may be inferred."""

    def __init__(self, axis: Axes, scale: bool, center: bool, gamma: Init, beta: Init, length: int) -> None:
        super().__init__()
        self.axis = axis if isinstance(axis, int) else tuple(axis)
        self.scale, self.center = scale, center
        self.gamma = self._vector("gamma", gamma, length, scale)
        self.beta = self._vector("beta", beta, length, center)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which parameters lie."""
        return (self.axis,) if isinstance(self.axis, int) else self.axis

    def _vector(self, name: str, init: Init, length: int, learned: bool) -> Parameter:
        return Parameter(
            name,
            "write" if learned else "null",
            shape=(length or -1,) if len(self.axes) == 1 else (-1,) * len(self.axes),
            init=init,
            allow_deferred_init=True,
            differentiable=learned,
        )

    def infer_shape(self, x: Any) -> None:
        """The length of the axis."""
        if not all(-x.ndim <= a < x.ndim for a in self.axes):
            raise ShapeError(f"{self._label()} normalizes along axis {self.axis}; the input has shape {x.shape}")
        for param in self._reg_params.values():
            param.shape = tuple(x.shape[a] for a in self.axes)

    def _explained(self, error: Exception) -> Exception:
        return type(error)(f"{self._label()} for {self.gamma.shape} along axis {self.axis}: {error}")

    def extra_repr(self) -> str:
        """Sizes and options."""
        length = self.gamma.shape[0] if self.gamma.shape and self.gamma.shape[0] >= 0 else "?"
        return f"axis={self.axis}, in_channels={length}"


class BatchNorm(_Normalization):
    """Normalizes each channel with the statistics of the batch while training, else with their running averages.

    Each forward pass in training mode updates the running averages to momentum * running + (1 - momentum) * batch; a
    batch without samples leaves them.

    Args:
        axis: of the channels.
        momentum: of the running averages.
        epsilon: added to the variance.
        center: whether ``beta`` is learned; otherwise it stays 0.
        scale: whether ``gamma`` is learned; otherwise it stays 1.
        use_global_stats: use the running averages while training also, and do not update them.
        in_channels: number of channels; 0 infers it from the first batch.
    """

    def __init__(
        self,
        axis: int = 1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        use_global_stats: bool = False,
        beta_initializer: Init = "zeros",
        gamma_initializer: Init = "ones",
        running_mean_initializer: Init = "zeros",
        running_variance_initializer: Init = "ones",
        in_channels: int = 0,
    ) -> None:
        super().__init__(axis, scale, center, gamma_initializer, beta_initializer, in_channels)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"BatchNorm needs 0 <= momentum <= 1, got {momentum}")
        self.momentum, self.epsilon, self.use_global_stats = float(momentum), float(epsilon), use_global_stats
        self.running_mean = self._vector("running_mean", running_mean_initializer, in_channels, False)
        self.running_var = self._vector("running_var", running_variance_initializer, in_channels, False)

    def cast(self, dtype: Any) -> None:
        """Change the dtype; float16 leaves the parameters and averages in float32."""
        super().cast("float32" if str(dtype) == "float16" else dtype)

    def forward(self, x: Any) -> Any:
        """Normalize; in training mode also update the running averages."""
        gamma, beta = self.gamma.data(), self.beta.data()
        training = tape.state.training and not self.use_global_stats
        try:
            if not training:
                mean, var = self.running_mean.data(), self.running_var.data()
                return norm.batch_norm_inference(x, gamma, beta, mean, var, axis=self.axes[0], eps=self.epsilon)
            y, mean, var = norm.batch_norm(x, gamma, beta, axis=self.axes[0], eps=self.epsilon)
        except (ShapeError, DTypeError) as error:
            raise self._explained(error) from None
        if 0 not in x.shape:  # no samples have no statistics: these are nan, and would stay so
            self._follow(self.running_mean, mean)
            self._follow(self.running_var, var)
        return y

    def _follow(self, running: Parameter, batch: Any) -> None:
        keep = self.momentum
        running.set_data(running.data() * keep + batch.detach() * (1.0 - keep))


class LayerNorm(_Normalization):
    """Normalizes each sample along one axis, or several (Ba et al., arXiv:1607.06450).

    Args:
        axis: to be normalized; several in ascending order, such as (-2, -1).
        epsilon: added to the variance.
        center, scale: whether ``beta`` and ``gamma`` are learned.
        in_channels: length of the axis; 0 infers it from the first batch.
    """

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Init = "zeros",
        gamma_initializer: Init = "ones",
        in_channels: int = 0,
    ) -> None:
        super().__init__(axis, scale, center, gamma_initializer, beta_initializer, in_channels)
        self.epsilon = float(epsilon)

    def forward(self, x: Any) -> Any:
        """Normalize."""
        try:
            return norm.layer_norm(x, self.gamma.data(), self.beta.data(), axis=self.axis, eps=self.epsilon)
        except (ShapeError, DTypeError) as error:
            raise self._explained(error) from None


class RMSNorm(_Normalization):
    """Divides by the root mean square along one axis, or several, and scales (Zhang and Sennrich, arXiv:1910.07467).

    Args:
        axis: to be normalized.
        epsilon: added to the mean square.
        in_channels: length of the axis; 0 infers it from the first batch.
    """

    def __init__(
        self, axis: Axes = -1, epsilon: float = 1e-6, gamma_initializer: Init = "ones", in_channels: int = 0
    ) -> None:
        super().__init__(axis, True, False, gamma_initializer, "zeros", in_channels)
        del self.beta
        self.epsilon = float(epsilon)

    def forward(self, x: Any) -> Any:
        """Normalize."""
        return norm.rms_norm(x, self.gamma.data(), axis=self.axis, eps=self.epsilon)


class GroupNorm(_Normalization):
    """Normalizes groups of channels of each sample (Wu and He, arXiv:1803.08494); channels are along axis 1.

    Args:
        num_groups: divides the number of channels.
        epsilon: added to the variance.
        center, scale: whether ``beta`` and ``gamma``, one for each channel, are learned.
        in_channels: number of channels; 0 infers it from the first batch.
    """

    def __init__(
        self,
        num_groups: int = 1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Init = "zeros",
        gamma_initializer: Init = "ones",
        in_channels: int = 0,
    ) -> None:
        super().__init__(1, scale, center, gamma_initializer, beta_initializer, in_channels)
        self.num_groups, self.epsilon = num_groups, float(epsilon)

    def forward(self, x: Any) -> Any:
        """Normalize."""
        gamma, beta = self.gamma.data(), self.beta.data()
        try:
            return norm.group_norm(x, gamma, beta, num_groups=self.num_groups, eps=self.epsilon)
        except (ShapeError, DTypeError) as error:
            raise self._explained(error) from None


class InstanceNorm(_Normalization):
    """Normalizes each channel of each sample over its positions; channels are along axis 1.

    Args:
        axis: of the channels; only 1.
        epsilon: added to the variance.
        center, scale: whether ``beta`` and ``gamma`` are learned.
        in_channels: number of channels; 0 infers it from the first batch.
    """

    def __init__(
        self,
        axis: int = 1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = False,
        beta_initializer: Init = "zeros",
        gamma_initializer: Init = "ones",
        in_channels: int = 0,
    ) -> None:
        if axis != 1:
            raise ConfigError(f"InstanceNorm has its channels along axis 1, got axis={axis}")
        super().__init__(axis, scale, center, gamma_initializer, beta_initializer, in_channels)
        self.epsilon = float(epsilon)

    def forward(self, x: Any) -> Any:
        """Normalize."""
        return norm.instance_norm(x, self.gamma.data(), self.beta.data(), eps=self.epsilon)


class LocalResponseNorm(HybridBlock):
    """Divides by (k + alpha * mean of the squares of ``size`` neighbouring channels)**beta (Krizhevsky et al., 2012).

    Args:
        size: how many channels count; the arguments and their defaults are PyTorch's.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, float(alpha), float(beta), float(k)

    def forward(self, x: Any) -> Any:
        """Normalize."""
        return norm.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Sizes and constants."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
