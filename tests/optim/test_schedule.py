"""Schedules give MXNet's rates, and are pure functions of the update count."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.ops.optim import (
    SGD,
    ConstantScheduler,
    CosineScheduler,
    FactorScheduler,
    LRScheduler,
    MultiFactorScheduler,
    PolyScheduler,
)
from shoal.ops.optim import schedule as schedules


def mxnet_factor(step: int, factor: float, stop: float, base: float, updates: int) -> list[float]:
    """MXNet's FactorScheduler, which changes as it is called."""
    rates, count = [], 0
    for num_update in range(1, updates + 1):
        while num_update > count + step:
            count += step
            base = max(base * factor, stop)
        rates.append(base)
    return rates


def mxnet_multi_factor(steps: list[int], factor: float, base: float, updates: int) -> list[float]:
    rates, index = [], 0
    for num_update in range(1, updates + 1):
        while index < len(steps) and num_update > steps[index]:
            index += 1
            base *= factor
        rates.append(base)
    return rates


def rates(schedule: LRScheduler, updates: int) -> list[float]:
    return [schedule(t) for t in range(1, updates + 1)]


@given(step=st.integers(1, 20), factor=st.floats(0.1, 1.0), stop=st.sampled_from([1e-8, 0.01, 0.2]))
def test_factor_gives_the_rates_of_mxnet(step: int, factor: float, stop: float) -> None:
    schedule = FactorScheduler(step=step, factor=factor, stop_factor_lr=stop, base_lr=0.5)
    assert rates(schedule, 60) == pytest.approx(mxnet_factor(step, factor, stop, 0.5, 60), rel=1e-12)


@given(steps=st.sets(st.integers(1, 50), min_size=1).map(sorted), factor=st.floats(0.1, 1.0))
def test_multi_factor_gives_the_rates_of_mxnet(steps: list[int], factor: float) -> None:
    schedule = MultiFactorScheduler(step=steps, factor=factor, base_lr=0.5)
    assert rates(schedule, 60) == pytest.approx(mxnet_multi_factor(steps, factor, 0.5, 60), rel=1e-12)


def test_cosine_goes_from_base_to_final_and_stays() -> None:
    schedule = CosineScheduler(max_update=10, base_lr=1.0, final_lr=0.2)
    assert schedule(5) == pytest.approx(0.6)
    assert schedule(3) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 0.3)) / 2)
    assert schedule(10) == schedule(1000) == pytest.approx(0.2)


def test_poly_goes_from_base_to_final_and_stays() -> None:
    schedule = PolyScheduler(max_update=12, base_lr=1.0, final_lr=0.0, pwr=2, warmup_steps=2)
    assert schedule(2) == 1.0
    assert schedule(7) == pytest.approx(0.25)
    assert schedule(12) == schedule(13) == 0.0


ALL = [
    ConstantScheduler(base_lr=1.0, warmup_steps=4, warmup_begin_lr=0.2),
    FactorScheduler(step=10, factor=0.5, base_lr=1.0, warmup_steps=4, warmup_begin_lr=0.2),
    MultiFactorScheduler(step=[10], factor=0.5, base_lr=1.0, warmup_steps=4, warmup_begin_lr=0.2),
    PolyScheduler(max_update=20, base_lr=1.0, warmup_steps=4, warmup_begin_lr=0.2),
    CosineScheduler(max_update=20, base_lr=1.0, warmup_steps=4, warmup_begin_lr=0.2),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: s.name)
def test_a_linear_warm_up_ends_at_the_base_rate(schedule: LRScheduler) -> None:
    assert rates(schedule, 4) == pytest.approx([0.4, 0.6, 0.8, 1.0])


def test_a_constant_warm_up_keeps_its_rate() -> None:
    schedule = ConstantScheduler(base_lr=1.0, warmup_steps=3, warmup_begin_lr=0.2, warmup_mode="constant")
    assert rates(schedule, 4) == [0.2, 0.2, 1.0, 1.0]


@given(order=st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_asking_changes_nothing(order: list[int]) -> None:
    asked = CosineScheduler(max_update=80, base_lr=0.3, warmup_steps=7)
    for t in order:
        assert asked(t) == CosineScheduler(max_update=80, base_lr=0.3, warmup_steps=7)(t)


def test_a_schedule_takes_the_rate_of_its_optimizer() -> None:
    assert SGD(learning_rate=0.4, lr_scheduler=FactorScheduler(step=5)).rate(1) == 0.4
    assert SGD(lr_scheduler=FactorScheduler(step=5, base_lr=0.3)).learning_rate == 0.3
    assert SGD(lr_scheduler=FactorScheduler(step=5)).rate(1) == SGD().learning_rate


def test_two_different_rates_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"learning_rate is 0\.4, expected the base_lr of its lr_scheduler, 0\.3, or None"
    ):
        SGD(learning_rate=0.4, lr_scheduler=FactorScheduler(step=5, base_lr=0.3))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("factor", {"step": 0}, "step is 0, expected an integer >= 1"),
        ("factor", {"step": 2.5}, "step is 2.5, expected an integer"),
        ("factor", {"step": 5, "factor": 1.5}, "factor is 1.5, expected 0 < factor <= 1"),
        ("multifactor", {"step": [3, 3]}, "step is [3, 3], expected a list of update counts, not empty and strictly"),
        ("multifactor", {"step": []}, "step is [], expected a list of update counts, not empty"),
        ("multifactor", {"step": "12"}, "step is '12', expected a list of update counts"),
        ("cosine", {"max_update": 5, "warmup_steps": 5}, "max_update is 5, expected more than warmup_steps = 5"),
        ("cosine", {"max_update": 5, "warmup_mode": "sine"}, "warmup_mode is 'sine', expected one of 'linear'"),
        ("poly", {"max_update": 5, "pwr": -1}, "pwr is -1, expected a power >= 0"),
        ("constant", {"base_lr": 0.1, "warmup_steps": 2, "warmup_begin_lr": 0.2}, "expected at most base_lr = 0.1"),
        ("constant", {"warmup_steps": True}, "warmup_steps is True, expected an integer"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_with_its_range(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedules.create(name, **params)
    assert str(caught.value).startswith(f"learning-rate schedule {name!r}: ")
    assert message in str(caught.value)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="no learning-rate schedule is called 'step'; known: constant, cosine, factor"
    ):
        schedules.create("step")


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ConfigError, match="learning-rate schedule 'cosine' needs 'max_update'"):
        schedules.create("cosine")


@pytest.mark.parametrize("name", ["cosine", "CosineScheduler"])
def test_names_are_known_with_and_without_their_suffix(name: str) -> None:
    assert schedules.create(name, max_update=5) == CosineScheduler(max_update=5)
