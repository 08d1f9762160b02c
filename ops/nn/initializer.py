"""What a parameter starts as: Gluon's initializers, drawn from addressed randomness.

An initializer maps (name, shape, seed) to float64 values; the parameter rounds them to its dtype. The random stream
depends on the run's seed and the parameter's name only, so that a model starts from the same bits in every process,
whatever the order in which its layers are built or first used.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.random import stream

__all__ = [
    "Bilinear",
    "Constant",
    "Initializer",
    "LSTMBias",
    "MSRAPrelu",
    "Normal",
    "One",
    "Orthogonal",
    "Uniform",
    "Xavier",
    "Zero",
    "create",
]

Values: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Shape: TypeAlias = tuple[int, ...]


class Initializer:
    """Base of all initializers: subclasses fill in `values`. Two with the same arguments are equal."""

    def __call__(self, name: str, shape: Shape, seed: int = 0) -> Values:
        """Values for the parameter ``name``, float64, C order.

        Raises:
            ShapeError: this initializer needs another shape; names the parameter.
        """
        values = self.values(stream(seed, f"init/{name}"), name, shape)
        return np.ascontiguousarray(np.broadcast_to(values, shape), dtype=np.float64).reshape(shape)

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        """Values that broadcast to ``shape``, drawn from ``rng``."""
        raise TypeError(f"{type(self).__name__} does not define values(rng, name, shape)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Constant(Initializer):
    """Every element is ``value``: a number, or an array of the parameter's shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        values = np.asarray(getattr(self.value, "asnumpy", lambda: self.value)(), dtype=np.float64)
        if values.ndim and values.shape != tuple(shape):
            raise ShapeError(
                f"parameter {name!r} has shape {tuple(shape)}; its Constant initializer holds an array of shape "
                f"{values.shape}. Give a number, or an array of the parameter's shape."
            )
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and bool(np.array_equal(self.value, other.value))

    __hash__ = Initializer.__hash__


class Zero(Initializer):
    """Every element is 0."""

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        return 0.0


class One(Initializer):
    """Every element is 1."""

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        return 1.0


class Uniform(Initializer):
    """Uniform in [-scale, scale). The default of `Block.initialize`, with Gluon's scale of 0.07."""

    def __init__(self, scale: float = 0.07) -> None:
        self.scale = scale

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        return rng.uniform(-self.scale, self.scale, shape)


class Normal(Initializer):
    """Normal with mean 0 and standard deviation ``sigma``."""

    def __init__(self, sigma: float = 0.01) -> None:
        self.sigma = sigma

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        return rng.normal(0.0, self.sigma, shape)


class Xavier(Initializer):
    """Variance ``magnitude / factor``, so that signals keep their scale through the layers (Glorot & Bengio 2010).

    Args:
        rnd_type: "uniform" in [-s, s), or "gaussian" with standard deviation s, where s = sqrt(magnitude / factor).
        factor_type: factor is the fan-in ("in"), the fan-out ("out") or their mean ("avg"). For a weight of
            shape (out, in, *kernel) the fans are in * prod(kernel) and out * prod(kernel).
        magnitude: MXNet's default of 3 with "uniform" and "avg" is Glorot's initialisation.
    """

    def __init__(self, rnd_type: str = "uniform", factor_type: str = "avg", magnitude: float = 3.0) -> None:
        if rnd_type not in ("uniform", "gaussian"):
            raise ConfigError(f"Xavier: rnd_type must be 'uniform' or 'gaussian', got {rnd_type!r}")
        if factor_type not in ("in", "out", "avg"):
            raise ConfigError(f"Xavier: factor_type must be 'in', 'out' or 'avg', got {factor_type!r}")
        self.rnd_type, self.factor_type, self.magnitude = rnd_type, factor_type, float(magnitude)

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        fan_in, fan_out = _fans(type(self).__name__, name, shape)
        factor = {"in": fan_in, "out": fan_out, "avg": (fan_in + fan_out) / 2}[self.factor_type]
        scale = math.sqrt(self.magnitude / factor) if factor else 0.0
        return rng.uniform(-scale, scale, shape) if self.rnd_type == "uniform" else rng.normal(0.0, scale, shape)


class MSRAPrelu(Xavier):
    """Gaussian with variance 2 / (1 + slope^2) / factor: for layers followed by (P)ReLU (He et al. 2015)."""

    def __init__(self, factor_type: str = "avg", slope: float = 0.25) -> None:
        super().__init__("gaussian", factor_type, 2.0 / (1.0 + slope**2))


class Orthogonal(Initializer):
    """A (semi-)orthogonal matrix of shape (out, prod(rest)), times ``scale`` (Saxe et al. 2014).

    Args:
        scale: factor of the orthogonal matrix; MXNet's default is 1.414.
        rand_type: the matrix it is made from is "uniform" in [-1, 1) or standard "normal".
    """

    def __init__(self, scale: float = 1.414, rand_type: str = "uniform") -> None:
        if rand_type not in ("uniform", "normal"):
            raise ConfigError(f"Orthogonal: rand_type must be 'uniform' or 'normal', got {rand_type!r}")
        self.scale, self.rand_type = scale, rand_type

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        _fans("Orthogonal", name, shape)
        flat = (shape[0], math.prod(shape[1:]))
        drawn = rng.uniform(-1.0, 1.0, flat) if self.rand_type == "uniform" else rng.normal(0.0, 1.0, flat)
        u, _, v = np.linalg.svd(drawn, full_matrices=False)
        return self.scale * (u if u.shape == flat else v).reshape(shape)


class Bilinear(Initializer):
    """Weights with which a transposed convolution up-samples bilinearly; shape (..., height, width)."""

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        _fans("Bilinear", name, shape, least=3)

        def ramp(size: int) -> Values:
            half = math.ceil(size / 2)
            centre = (2 * half - 1 - half % 2) / (2.0 * half)
            return np.asarray(1 - np.abs(np.arange(size) / half - centre))

        return np.outer(ramp(shape[-2]), ramp(shape[-1]))


class LSTMBias(Initializer):
    """Zero, but ``forget_bias`` for the forget gate: the second quarter of a bias of length 4 * hidden."""

    def __init__(self, forget_bias: float = 1.0) -> None:
        self.forget_bias = forget_bias

    def values(self, rng: np.random.Generator, name: str, shape: Shape) -> Any:
        if len(shape) != 1 or shape[0] % 4:
            raise ShapeError(
                f"LSTMBias fills a bias of shape (4 * hidden,); parameter {name!r} has shape {tuple(shape)}"
            )
        values = np.zeros(shape)
        values[shape[0] // 4 : shape[0] // 2] = self.forget_bias
        return values


def _fans(who: str, name: str, shape: Shape, least: int = 2) -> tuple[float, float]:
    if len(shape) < least:
        raise ShapeError(
            f"{who} needs a weight of at least {least} dimensions; parameter {name!r} has shape {tuple(shape)}. "
            "Use Zero, Uniform or Normal for it."
        )
    kernel = math.prod(shape[2:])
    return float(shape[1] * kernel), float(shape[0] * kernel)


_BY_NAME: dict[str, Callable[[], Initializer]] = {
    "zeros": Zero,
    "zero": Zero,
    "ones": One,
    "one": One,
    "uniform": Uniform,
    "normal": Normal,
    "xavier": Xavier,
    "msraprelu": MSRAPrelu,
    "orthogonal": Orthogonal,
    "bilinear": Bilinear,
    "lstmbias": LSTMBias,
}


def create(init: "str | float | Initializer") -> Initializer:
    """An initializer from itself, from a number (`Constant`) or from a name such as "zeros" or "xavier".

    Raises:
        ConfigError: unknown name, or another type; lists the known names.
    """
    if isinstance(init, Initializer):
        return init
    if isinstance(init, (int, float)):
        return Constant(float(init))
    if isinstance(init, str) and init.lower() in _BY_NAME:
        return _BY_NAME[init.lower()]()
    raise ConfigError(f"unknown initializer {init!r}; known: an Initializer, a number, {', '.join(sorted(_BY_NAME))}")
