"""Delayed Nesterov momentum and plain sums."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.ops import optim


def run(rule: optim.Optimizer, grads: Any, start: Any) -> Any:
    w = np.array(start, np.float64)
    state = rule.init(w)
    for t, g in enumerate(grads, 1):
        rule.step(w, np.asarray(g), state, t)
    return w


@pytest.mark.parametrize("n", [1, 3])
def test_n_contributions_to_one_value_are_one_step_of_nesterovs_momentum(n: int) -> None:
    grads = np.random.default_rng(0).standard_normal((6 * n, 5))
    delayed = run(optim.create("dn", learning_rate=0.7, beta=0.9, n=n), grads, np.ones(5))
    at_once = run(optim.create("nag", learning_rate=0.7, momentum=0.9), grads.reshape(6, n, 5).mean(1), np.ones(5))
    np.testing.assert_allclose(delayed, at_once, rtol=0, atol=1e-12)


def test_nesterovs_momentum_for_each_contribution_would_run_away() -> None:
    assert run(optim.create("nag", learning_rate=0.7), np.ones((4, 1)) / 2, [0.0])[0] < -4.0
    assert run(optim.create("dn", n=2), np.ones((4, 1)), [0.0])[0] == pytest.approx(-3.227, abs=1e-12)


def test_without_momentum_every_contribution_counts_1_over_n() -> None:
    assert run(optim.create("dn", learning_rate=1.0, beta=0.0, n=4), np.ones((4, 1)), [0.0])[0] == pytest.approx(-1.0)


@settings(max_examples=25)
@given(cut=st.integers(1, 99), n=st.integers(1, 4), seed=st.integers(0, 99))
def test_delayed_nesterov_has_the_same_bits_in_slices(cut: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grads, start = rng.standard_normal((7, 100)), rng.standard_normal(100)
    rule = optim.create("dn", n=n)
    parts = [run(rule, grads[:, part], start[part]) for part in (slice(cut), slice(cut, None))]
    np.testing.assert_array_equal(np.concatenate(parts), run(rule, grads, start))


@settings(max_examples=25)
@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=9), st.randoms())
def test_sums_do_not_depend_on_the_order(pushes: list[int], shuffle: Any) -> None:
    rule, mixed = optim.create("accumulate"), list(pushes)
    shuffle.shuffle(mixed)
    assert run(rule, [[float(p)] for p in mixed], [0.0])[0] == sum(pushes)


def test_a_sum_may_be_scaled() -> None:
    assert run(optim.create("accumulate", learning_rate=0.5), [[3.0]], [1.0])[0] == 2.5


@pytest.mark.parametrize("name", ["dn", "accumulate"])
def test_the_rules_travel(name: str) -> None:
    rule = optim.create(name)
    assert optim.from_spec(rule.spec()) == rule
    with pytest.raises(ConfigError, match="no weight decay"):
        optim.create(name, wd=0.1)


def test_the_number_of_workers_is_at_least_1() -> None:
    with pytest.raises(ConfigError, match="n is 0, expected an integer >= 1"):
        optim.create("dn", n=0)
