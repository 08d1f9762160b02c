"""Strategies by name: what is read, what is refused, what is written back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.worker.strategies import (
    BMUF,
    EAMSGD,
    EASGD,
    AsyncDiLoCo,
    DiLoCo,
    Gradient,
    Local,
    lag_matched_momentum,
    names,
    parse,
    register,
)


@pytest.mark.parametrize(
    ("spec", "means"),
    [
        ("local:h=4", Local(h=4)),
        ("average:h=4", Local(h=4)),
        (" Local ", Local()),
        ("bmuf:h=8,mu=0.9,zeta=1.5,nesterov=false", BMUF(h=8, mu=0.9, zeta=1.5, nesterov=False)),
        ("diloco:h=50", DiLoCo(h=50, lr=0.7, mu=0.9)),
        ("dn:beta=0.5,dylu=false", AsyncDiLoCo(beta=0.5, dylu=False)),
        ("easgd:tau=4,beta=0.5", EASGD(tau=4, beta=0.5)),
        ("eamsgd", EAMSGD(mu=0.99)),
        ({"type": "diloco", "h": 7}, DiLoCo(h=7)),
        (Gradient(), Gradient()),
    ],
)
def test_a_spec_is_read(spec: Any, means: Any) -> None:
    assert parse(spec) == means


@pytest.mark.parametrize("name", names())
def test_what_a_strategy_says_of_itself_can_be_read_back(name: str) -> None:
    assert parse(str(parse(name))) == parse(name)


@settings(max_examples=30)
@given(h=st.integers(1, 10**6), lr=st.floats(1e-6, 10.0), mu=st.floats(0.0, 0.999))
def test_numbers_come_back_exactly(h: int, lr: float, mu: float) -> None:
    assert parse(str(DiLoCo(h=h, lr=lr, mu=mu))) == DiLoCo(h=h, lr=lr, mu=mu)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dilocco", "no strategy is called 'dilocco'; known: .*Did you mean 'diloco'"),
        ("diloco:hh=5", "no parameter 'hh'; known: h, lr, mu, reset. Did you mean 'h'"),
        ("gradient:h=1", "it has none"),
        ("diloco:h=0", "h is 0, expected an integer >= 1"),
        ("diloco:h=1.5", "h is 1.5, expected an integer"),
        ("diloco:mu=1", "expected 0 <= mu < 1"),
        ("easgd:beta=0", "expected 0 < beta <= 1"),
        ("bmuf:nesterov=3", "expected True or False"),
        ("diloco:h", "expected parameter=value, got 'h'"),
        ("diloco:h=1,h=2", "'h' is given twice"),
        ({"h": 3}, "got {'h': 3}"),
        (17, "got 17"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_known(spec: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(spec)


def test_a_name_that_is_taken_or_cannot_be_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'local' is already .*Local"):
        register("local")(Gradient)
    with pytest.raises(ConfigError, match="lower-case"):
        register("Two Words")


@pytest.mark.parametrize(("workers", "explicit"), [(1, 0.9), (2, 8 / 9), (4, 6 / 7), (8, 2 / 3), (10, 0.0), (99, 0.0)])
def test_asynchrony_is_momentum_that_need_not_be_given(workers: int, explicit: float) -> None:
    assert lag_matched_momentum(0.9, workers) == pytest.approx(explicit, abs=1e-12)


def test_what_is_no_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0 <= momentum < 1, got 1\.0"):
        lag_matched_momentum(1.0, 2)
