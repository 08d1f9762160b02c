"""What the simulated workers compute: first weights, and a gradient of any weights.

Gradients are real; only the time that they take is simulated. A problem is anything with these two methods.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError
from shoal.ops.random import stream

__all__ = ["Array", "Function", "Problem", "Quadratic", "Still"]

Array: TypeAlias = NDArray[Any]


class Problem(Protocol):
    """A loss that is minimised."""

    def start(self) -> Array:
        """The first weights: one-dimensional, floating point."""

    def gradient(self, weights: Array, worker: int, step: int) -> Array:
        """The gradient that ``worker`` computes at ``weights`` in its step ``step``: a new array, alike in shape.

        ``weights`` must not be written to.
        """


@dataclass(frozen=True)
class Quadratic:
    """f(w) = lam w**2 / 2: the gradient is lam w, with normal noise if asked for.

    Args:
        lam: curvature.
        first: every weight's first value.
        size: how many weights.
        noise: standard deviation of what is added to each element of each gradient.
        seed: of the noise, which is addressed by worker and step.
    """

    lam: float = 1.0
    first: float = 1.0
    size: int = 1
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and self.size >= 1):
            raise ConfigError(f"a quadratic problem needs size >= 1, got {self.size!r}")
        if not 0.0 <= self.noise < math.inf:
            raise ConfigError(f"a quadratic problem needs noise >= 0, got {self.noise!r}")

    def start(self) -> Array:
        return np.full(self.size, self.first, np.float64)

    def gradient(self, weights: Array, worker: int, step: int) -> Array:
        gradient: Array = self.lam * weights
        if self.noise:
            gradient += self.noise * stream(self.seed, "noise", worker, step).standard_normal(self.size)
        return gradient


@dataclass(frozen=True)
class Function:
    """A problem of your own: first weights, and a function of (weights, worker, step) that gives a gradient.

    >>> Function([1.0, 2.0], lambda w, worker, step: 0.5 * w).gradient(np.ones(2), 0, 0)
    array([0.5, 0.5])
    """

    first: Sequence[float] | Array
    function: Callable[[Array, int, int], Array]

    def start(self) -> Array:
        return np.array(self.first, ndmin=1, dtype=getattr(self.first, "dtype", np.float64))

    def gradient(self, weights: Array, worker: int, step: int) -> Array:
        return self.function(weights, worker, step)


@dataclass(frozen=True)
class Still:
    """Nothing to learn: ``size`` zeros, for questions of time alone."""

    size: int = 1

    def start(self) -> Array:
        return np.zeros(self.size)

    def gradient(self, weights: Array, worker: int, step: int) -> Array:
        return weights
