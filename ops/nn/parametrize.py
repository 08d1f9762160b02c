"""Layers whose weight is computed from what is learned: direction and length apart, or its largest stretch made 1.

The layer inside stays as it is; while it runs, the computed weight stands in for its own.
"""

import math
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import tape
from shoal.ops.elementwise import sqrt, stop_gradient
from shoal.ops.graph import trace
from shoal.ops.linalg import matmul
from shoal.ops.nn.block import Block
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter
from shoal.ops.shape import moveaxis, reshape

__all__ = ["SpectralNorm", "WeightNorm"]


class _Reparametrized(HybridBlock):
    """A layer, and the name of the parameter that is computed."""

    def __init__(self, layer: Block, name: str, axis: int | None) -> None:
        super().__init__()
        found = layer._reg_params.get(name)
        if found is None:
            known = ", ".join(layer._reg_params) or "none"
            raise ConfigError(
                f"{type(self).__name__}: {type(layer).__name__} has no parameter {name!r}; it has {known}"
            )
        self.layer, self.parameter_name, self.axis = layer, name, axis

    @property
    def _own(self) -> Parameter:
        return self.layer._reg_params[self.parameter_name]

    def _settle(self, *inputs: Any) -> tuple[int, ...]:
        """The shape of the layer's parameter, which has a value then."""
        own = self._own
        if own.is_deferred:
            assert isinstance(self.layer, HybridBlock)
            self.layer.infer_shape(*inputs)
            own.finish_init()
        shape = own.shape
        assert shape is not None
        return shape

    def _computed(self, weight: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define _computed(self, weight)")

    def forward(self, *inputs: Any) -> Any:
        """Apply the layer with the computed weight."""
        own = self._own
        with trace.substituting({id(own): self._computed(own.data())}, {id(own): self.parameter_name}):
            return self.layer(*inputs)

    def extra_repr(self) -> str:
        """Which parameter, along which axis."""
        return f"{self.parameter_name}, axis={self.axis}"


class _LengthOf(Initializer):
    """The length of a parameter that has a value, so that the computed weight begins as that parameter."""

    def __init__(self, parameter: Parameter, axes: tuple[int, ...] | None) -> None:
        self.parameter, self.axes = parameter, axes

    def values(self, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
        values = self.parameter.current().asnumpy().astype(np.float64)
        return np.sqrt(np.square(values).sum(axis=self.axes, keepdims=True))


class WeightNorm(_Reparametrized):
    """A layer with weight g * v / |v|: length and direction are learned apart (Salimans et al., arXiv:1602.07868).

    Args:
        layer: its own parameter becomes the direction v; it keeps its name and values.
        name: of the parameter.
        axis: one length for each place along this axis, PyTorch's dim; None for one length in all.
    """

    def __init__(self, layer: Block, name: str = "weight", axis: int | None = 0) -> None:
        super().__init__(layer, name, axis)
        ndim = len(self._own.shape or ())
        self.g = Parameter(
            "g", shape=(-1,) * ndim, init=_LengthOf(self._own, self._others(ndim)), allow_deferred_init=True
        )

    def _others(self, ndim: int) -> tuple[int, ...] | None:
        return None if self.axis is None else tuple(i for i in range(ndim) if i != self.axis % ndim)

    def infer_shape(self, *inputs: Any) -> None:
        """One length for each place along the axis."""
        shape = self._settle(*inputs)
        others = self._others(len(shape))
        self.g.shape = tuple(1 if others is None or i in others else n for i, n in enumerate(shape))

    def _computed(self, weight: Any) -> Any:
        length = sqrt((weight * weight).sum(axis=self._others(len(weight.shape)), keepdims=True))
        return weight * (self.g.data() / length)


class _Stretched(Initializer):
    """The direction that a matrix stretches most (``left``: of its result), after some steps of the power method."""

    def __init__(self, parameter: Parameter, axis: int, left: bool) -> None:
        self.parameter, self.axis, self.left = parameter, axis, left

    def values(self, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
        matrix = np.moveaxis(self.parameter.current().asnumpy().astype(np.float64), self.axis, 0)
        matrix = matrix.reshape(matrix.shape[0], -1)
        u = np.random.Generator(np.random.Philox(key=0)).standard_normal(matrix.shape[0])
        v = u[:0]
        for _ in range(15):
            v = matrix.T @ u
            v /= max(float(np.linalg.norm(v)), 1e-12)
            u = matrix @ v
            u /= max(float(np.linalg.norm(u)), 1e-12)
        return u if self.left else v


class SpectralNorm(_Reparametrized):
    """A layer whose weight, as a matrix, stretches no vector by more than 1 (Miyato et al., arXiv:1802.05957).

    Each forward pass in training mode brings the estimate of the largest stretch nearer, by the power method.

    Args:
        layer: its own parameter keeps its name and values; it is divided by its largest stretch when it is used.
        name: of the parameter.
        axis: which is the matrix' first; all others are its second. 1 for transposed convolutions.
        n_power_iterations: steps of the power method in each pass.
        epsilon: lengths are at least this.
    """

    def __init__(
        self,
        layer: Block,
        name: str = "weight",
        axis: int = 0,
        n_power_iterations: int = 1,
        epsilon: float = 1e-12,
    ) -> None:
        super().__init__(layer, name, axis)
        if n_power_iterations < 1:
            raise ConfigError(f"SpectralNorm: {n_power_iterations=} must be at least 1")
        self.steps, self.epsilon, self._first = n_power_iterations, float(epsilon), axis
        for side, left in (("u", True), ("v", False)):
            start = _Stretched(self._own, axis, left)
            made = Parameter(side, "null", (-1,), init=start, allow_deferred_init=True, differentiable=False)
            setattr(self, side, made)

    u: Parameter
    v: Parameter

    def infer_shape(self, *inputs: Any) -> None:
        """The sides of the matrix."""
        shape = self._settle(*inputs)
        rows = shape[self._first]
        self.u.shape, self.v.shape = (rows,), (math.prod(shape) // rows,)

    def _unit(self, x: Any) -> Any:
        length = sqrt((x * x).sum())
        return x / length.clip(self.epsilon, None)

    def _computed(self, weight: Any) -> Any:
        matrix = moveaxis(weight, self._first, 0) if self._first else weight
        matrix = reshape(matrix, shape=(matrix.shape[0], -1))
        u, v = self.u.data(), self.v.data()
        if tape.state.training:
            fixed = stop_gradient(matrix)
            for _ in range(self.steps):
                u = self._unit(matmul(fixed, v))
                v = self._unit(matmul(u, fixed))
            self.u.set_data(u.detach())
            self.v.set_data(v.detach())
            u, v = u.detach(), v.detach()
        return weight / matmul(u, matmul(matrix, v))
