"""What the tests against closed forms share."""

import itertools
import math
from collections.abc import Iterable

import numpy as np

from shoal import optim
from shoal.lab.simulate_laws import Exponential

SIGMAS = 4.0
"""Figures that come from samples are compared within so many standard errors. All seeds are fixed."""


def harmonic(n: int) -> float:
    """H_n: what n exponential workers of mean 1 s take, all of them."""
    return sum(1.0 / k for k in range(1, n + 1))


def deviation(n: int, left: int) -> float:
    """Standard deviation of when all but ``left`` of n exponential workers are done."""
    return math.sqrt(sum(1 / k**2 for k in range(left + 1, n + 1)))


def draws(workers: int, steps: int, seed: int) -> np.ndarray:
    """What `Exponential(1.0)` gives each worker: [worker, step]."""
    law = Exponential(1.0)
    return np.array([list(itertools.islice(law.times(seed, "compute", w), steps)) for w in range(workers)])


def error_of_mean(x: Iterable[float]) -> float:
    """Standard error of the mean of independent samples."""
    x = np.fromiter(x, float)
    return float(x.std(ddof=1) / math.sqrt(x.size))


def near(got: float, expected: float, error: float) -> bool:
    """Whether a measured figure fits, given its standard error."""
    return abs(got - expected) <= SIGMAS * error


def sgd(lr: float) -> optim.Optimizer:
    """Plain SGD."""
    return optim.SGD(learning_rate=lr)
