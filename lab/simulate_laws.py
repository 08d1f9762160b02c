"""How long things take in a simulation: laws of durations, and their short names.

A law gives each worker an endless stream of durations, in seconds of virtual time. What is drawn is addressed by (seed,
purpose, worker, step), never by what was drawn before: two simulations of one seed meet the same durations whatever the
gate between them does, which is what makes their comparison fair (common random numbers).

===================================  ===================================================================================
name                                 law
===================================  ===================================================================================
``const:1``                          always 1 s
``exp:1``                            exponential, mean 1 s
``shifted:0.5,1``                    0.5 s + exponential of mean 1 s (Dutta et al., arXiv:1803.01113)
``uniform:0.5,1.5``                  anything between 0.5 s and 1.5 s
``lognormal:1,0.5``                  lognormal of mean 1 s; sigma 0.5 is the deviation of the logarithm
``pareto:1,2.5``                     heavy tail: never below 1 s, P(longer than t) = t ** -2.5
``each:1,3``                         always 1 s for worker 0, always 3 s for worker 1
===================================  ===================================================================================

Parameters can be named: ``lognormal:mean=1,sigma=0.5``.
"""

import dataclasses
import itertools
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, meant
from shoal.ops.random import stream

__all__ = [
    "Constant",
    "EachWorker",
    "Exponential",
    "Law",
    "Listed",
    "LogNormal",
    "Pareto",
    "ShiftedExponential",
    "Slowed",
    "Uniform",
    "parse_law",
]

BLOCK = 64
"""Durations drawn at a time."""


class Law(ABC):
    """A law of durations."""

    @abstractmethod
    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        """The durations of one worker, in seconds, in the order of its steps."""

    def check(self, workers: int) -> None:  # noqa: B027  # most laws describe any number
        """Refuse a number of workers that the law does not describe.

        Raises:
            ConfigError: says how many it describes.
        """


class _Drawn(Law):
    """A law whose durations are independent, and alike for all workers."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """The next ``size`` durations."""

    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        for block in itertools.count():
            yield from self.draw(stream(seed, purpose, worker, block), BLOCK).tolist()


@dataclass(frozen=True)
class Constant(Law):
    """Always ``seconds``."""

    seconds: float

    def __post_init__(self) -> None:
        _positive(self, "seconds", self.seconds)

    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        return itertools.repeat(float(self.seconds))


@dataclass(frozen=True)
class Exponential(_Drawn):
    """Exponential: how long is left never depends on how long it has taken."""

    mean: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "mean", self.mean)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return rng.exponential(self.mean, size)


@dataclass(frozen=True)
class ShiftedExponential(_Drawn):
    """``shift`` and an exponential part of mean ``mean``: work that cannot be done faster, and luck."""

    shift: float
    mean: float

    def __post_init__(self) -> None:
        _positive(self, "shift", self.shift)
        _positive(self, "mean", self.mean)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return self.shift + rng.exponential(self.mean, size)


@dataclass(frozen=True)
class Uniform(_Drawn):
    """Anything between ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _positive(self, "low", self.low)
        if not self.low <= self.high < math.inf:
            raise ConfigError(
                f"compute law uniform: high is {self.high!r}, expected a finite number >= low ({self.low})"
            )

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return rng.uniform(self.low, self.high, size)


@dataclass(frozen=True)
class LogNormal(_Drawn):
    """Lognormal of mean ``mean``; ``sigma`` is the standard deviation of the logarithm."""

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        _positive(self, "mean", self.mean)
        _positive(self, "sigma", self.sigma)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return rng.lognormal(math.log(self.mean) - self.sigma**2 / 2, self.sigma, size)


@dataclass(frozen=True)
class Pareto(_Drawn):
    """Heavy tail: P(longer than t) = (``least`` / t) ** ``alpha``; below alpha = 2 the variance is infinite."""

    least: float
    alpha: float

    def __post_init__(self) -> None:
        _positive(self, "least", self.least)
        _positive(self, "alpha", self.alpha)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        return self.least * (1.0 + rng.pareto(self.alpha, size))


@dataclass(frozen=True)
class EachWorker(Law):
    """A law for each worker, in rank order; a number stands for `Constant`."""

    laws: tuple[Law, ...]

    def __init__(self, *laws: Law | float) -> None:
        object.__setattr__(self, "laws", tuple(x if isinstance(x, Law) else Constant(x) for x in laws))

    def check(self, workers: int) -> None:
        _as_many("each", len(self.laws), workers)

    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        return self.laws[worker].times(seed, purpose, worker)


@dataclass(frozen=True)
class Slowed(Law):
    """``law``, with the durations of some workers multiplied: ``Slowed(Exponential(1.0), {3: 4.0})``."""

    law: Law
    factors: Mapping[int, float]

    def __post_init__(self) -> None:
        for rank, factor in self.factors.items():
            _positive(self, f"the factor of worker {rank}", factor)

    def check(self, workers: int) -> None:
        self.law.check(workers)
        for rank in self.factors:
            if not 0 <= rank < workers:
                raise ConfigError(f"worker {rank} cannot be slowed: the workers are 0 to {workers - 1}")

    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        factor = self.factors.get(worker)
        times = self.law.times(seed, purpose, worker)
        return times if factor is None else (t * factor for t in times)


@dataclass(frozen=True)
class Listed(Law):
    """Written down: ``seconds[worker][step]``. A worker whose list is at its end leaves the run."""

    seconds: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        for rank, mine in enumerate(self.seconds):
            for step, value in enumerate(mine):
                _positive(self, f"step {step} of worker {rank}", value)

    def check(self, workers: int) -> None:
        _as_many("a list", len(self.seconds), workers)

    def times(self, seed: int, purpose: str, worker: int) -> Iterator[float]:
        return iter(self.seconds[worker])


def _positive(law: Law, what: str, value: Any) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        raise ConfigError(f"compute law {type(law).__name__}: {what} is {value!r}, expected a positive number")


def _as_many(what: str, given: int, workers: int) -> None:
    if given != workers:
        raise ConfigError(
            f"compute law: {what} has the times of {given} workers, but there are {workers}: give each one"
        )


# --- by name ----------------------------------------------------------------------------------------------------------

_NAMES: dict[str, type[Law]] = {
    "const": Constant,
    "exp": Exponential,
    "shifted": ShiftedExponential,
    "uniform": Uniform,
    "lognormal": LogNormal,
    "pareto": Pareto,
    "each": EachWorker,
}


def parse_law(text: str) -> Law:
    """The law that ``text`` names, such as ``"exp:1"`` or ``"lognormal:mean=1,sigma=0.5"``.

    >>> parse_law("each:1,3") == EachWorker(1.0, 3.0)
    True

    Raises:
        ConfigError: the name or a parameter is unknown, missing, or out of its range; says what is expected.
    """
    name, _, rest = text.strip().lower().partition(":")
    if name not in _NAMES:
        known = ", ".join(_NAMES)
        raise ConfigError(f"unknown compute law {name!r}; known: {known}, such as exp:1{meant(name, _NAMES)}")
    given = [piece.strip() for piece in rest.split(",")] if rest.strip() else []
    if name == "each":
        if not given:
            raise ConfigError("compute law 'each' needs a time for every worker, such as each:1,3")
        return EachWorker(*(_number(text, piece) for piece in given))
    return _made(text, name, given)


def _made(text: str, name: str, given: list[str]) -> Law:
    cls: Any = _NAMES[name]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    form = f"{name}:{','.join(fields)}"
    values: dict[str, float] = {}
    for place, piece in enumerate(given):
        key, equals, value = (p.strip() for p in piece.rpartition("="))
        if not equals:
            key = list(fields)[place] if place < len(fields) else ""
        if key not in fields or key in values:
            raise ConfigError(f"compute law {text!r}: {piece!r} is one parameter too many or unknown; expected {form}")
        values[key] = _number(text, value)
    missing = [n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"compute law {text!r} needs {' and '.join(missing)}; expected {form}")
    made: Law = cls(**values)
    return made


def _number(text: str, piece: str) -> float:
    try:
        return float(piece)
    except ValueError:
        raise ConfigError(f"compute law {text!r}: expected a number, got {piece!r}") from None
