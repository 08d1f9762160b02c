"""Laws of durations: what they draw, and what their names say."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.lab.simulate_laws import (
    Constant,
    EachWorker,
    Exponential,
    Law,
    Listed,
    LogNormal,
    Pareto,
    ShiftedExponential,
    Slowed,
    Uniform,
    parse_law,
)


def some(law: Law, count: int, seed: int = 0, worker: int = 0) -> list[float]:
    return list(itertools.islice(law.times(seed, "compute", worker), count))


@pytest.mark.parametrize(
    ("law", "mean", "deviation"),
    [
        (Exponential(2.0), 2.0, 2.0),
        (ShiftedExponential(0.5, 1.0), 1.5, 1.0),
        (Uniform(1.0, 3.0), 2.0, 2 / math.sqrt(12)),
        (LogNormal(1.0, 0.5), 1.0, math.sqrt(math.exp(0.25) - 1)),
        (Pareto(1.0, 4.0), 4 / 3, math.sqrt(4 / 18)),
    ],
)
def test_a_law_has_its_mean_and_deviation(law: Law, mean: float, deviation: float) -> None:
    """Mean of 6400 draws, within 4 standard errors; the deviation more loosely, as its error needs fourth moments."""
    x = np.array(some(law, 6400))
    assert abs(x.mean() - mean) <= 4 * deviation / 80 and x.min() > 0
    assert x.std() == pytest.approx(deviation, rel=0.15)


def test_what_is_drawn_depends_on_seed_worker_purpose_and_step_only() -> None:
    law = Exponential(1.0)
    assert some(law, 130) == some(law, 200)[:130]
    others = [some(law, 3, seed=1), some(law, 3, worker=1), list(itertools.islice(law.times(0, "delay", 0), 3))]
    assert len({tuple(x) for x in [some(law, 3), *others]}) == 4
    assert len(set(some(law, 200))) == 200  # over the edges of the blocks that are drawn at a time


def test_each_worker_can_have_a_law_of_its_own() -> None:
    law = EachWorker(1.0, Exponential(2.0))
    assert some(law, 2) == [1.0, 1.0] and some(law, 5, worker=1) == some(Exponential(2.0), 5, worker=1)


def test_a_slowed_worker_draws_what_it_would_and_takes_longer() -> None:
    law = Slowed(Exponential(1.0), {1: 4.0})
    assert some(law, 9, worker=1) == [4 * t for t in some(Exponential(1.0), 9, worker=1)]
    assert some(law, 9, worker=0) == some(Exponential(1.0), 9, worker=0)


def test_written_down_times_end() -> None:
    assert some(Listed([[1, 2], [3]]), 9, worker=0) == [1, 2]


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("const:2", Constant(2.0)),
        ("exp", Exponential(1.0)),
        ("exp:0.5", Exponential(0.5)),
        ("EXP: mean=0.5 ", Exponential(0.5)),
        ("shifted:0.5,1", ShiftedExponential(0.5, 1.0)),
        ("shifted:mean=1,shift=0.5", ShiftedExponential(0.5, 1.0)),
        ("uniform:1,2", Uniform(1.0, 2.0)),
        ("lognormal:1,sigma=0.5", LogNormal(1.0, 0.5)),
        ("pareto:1,2.5", Pareto(1.0, 2.5)),
        ("each:1,3,1.5", EachWorker(1.0, 3.0, 1.5)),
    ],
)
def test_laws_have_names(text: str, law: Law) -> None:
    assert parse_law(text) == law


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown compute law ''; known: const, exp"),
        ("expo:1", r"unknown compute law 'expo'; .* Did you mean 'exp'\?"),
        ("exp:one", "compute law 'exp:one': expected a number, got 'one'"),
        ("exp:-1", "compute law Exponential: mean is -1.0, expected a positive number"),
        ("exp:nan", "mean is nan, expected a positive number"),
        ("exp:1,2", "'2' is one parameter too many or unknown; expected exp:mean"),
        ("exp:rate=1", "'rate=1' is one parameter too many or unknown; expected exp:mean"),
        ("exp:1,mean=2", "'mean=2' is one parameter too many"),
        ("const", "compute law 'const' needs seconds; expected const:seconds"),
        ("lognormal:1", "needs sigma; expected lognormal:mean,sigma"),
        ("uniform:2,1", "high is 1.0, expected a finite number >= low"),
        ("each", "'each' needs a time for every worker, such as each:1,3"),
        ("each:1,0", "seconds is 0.0, expected a positive number"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused_with_what_does(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_law(text)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (EachWorker(1.0, 2.0), "each has the times of 2 workers, but there are 3"),
        (Listed([[1.0]]), "a list has the times of 1 workers, but there are 3"),
        (Slowed(Constant(1.0), {3: 2.0}), "worker 3 cannot be slowed: the workers are 0 to 2"),
        (Slowed(EachWorker(1.0), {0: 2.0}), "each has the times of 1 workers"),
    ],
)
def test_a_law_knows_how_many_workers_it_describes(law: Law, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        law.check(3)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), True, "1"])
def test_durations_are_positive_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a positive number"):
        Slowed(Constant(1.0), {0: value})
