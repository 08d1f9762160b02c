"""Rules that PyTorch does not have give the numbers of their published formulas, in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal.ops import optim

STEPS, LR = 12, 0.05
Array = Any
Step = Callable[[Array, Array, dict[str, Array], int], Array]


def zeros(state: dict[str, Array], w: Array, *names: str) -> list[Array]:
    return [state.setdefault(n, np.zeros_like(w)) for n in names]


def lion(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    (m,) = zeros(state, w, "m")
    w = w - LR * (np.sign(0.9 * m + 0.1 * g) + 0.1 * w)
    state["m"] = 0.99 * m + 0.01 * g
    return w


def adabelief(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    m, s = zeros(state, w, "m", "s")
    g = g + 0.1 * w
    m = state["m"] = 0.9 * m + 0.1 * g
    s = state["s"] = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-6
    return w - LR * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(s) + 1e-6)


def ftrl(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    z, n = zeros(state, w, "z", "n")
    z = state["z"] = z + g - (np.sqrt(n + g * g) - np.sqrt(n)) * w / LR
    n = state["n"] = n + g * g
    return (np.sign(z) * 0.5 - z) / ((1.0 + np.sqrt(n)) / LR + 0.1) * (np.abs(z) > 0.5)


def ftml(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    d, v, z = zeros(state, w, "d", "v", "z")
    g = g + 0.1 * w
    v = state["v"] = 0.999 * v + 0.001 * g * g
    after = (1 - 0.6**t) / LR * (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    z = state["z"] = 0.6 * z + 0.4 * g - (after - 0.6 * d) * w
    state["d"] = after
    return -z / after


def lars(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    (m,) = zeros(state, w, "m")
    nw, ng = np.linalg.norm(w), np.linalg.norm(g)
    m = state["m"] = 0.9 * m + 0.02 * nw / (ng + 0.1 * nw + 1e-8) * (g + 0.1 * w)
    return w - LR * m


def lamb(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    m, v = zeros(state, w, "m", "v")
    m = state["m"] = 0.9 * m + 0.1 * g
    v = state["v"] = 0.999 * v + 0.001 * g * g
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + 0.1 * w
    return w - LR * np.linalg.norm(w) / np.linalg.norm(u) * u


def lans(w: Array, g: Array, state: dict[str, Array], t: int) -> Array:
    m, v = zeros(state, w, "m", "v")
    g = g / np.linalg.norm(g)
    m = state["m"] = 0.9 * m + 0.1 * g
    v = state["v"] = 0.999 * v + 0.001 * g * g
    s = np.sqrt(v / (1 - 0.999**t)) + 1e-6
    a, b, n = m / (1 - 0.9**t) / s + 0.1 * w, g / s + 0.1 * w, np.linalg.norm(w)
    return w - LR * (0.9 * n / np.linalg.norm(a) * a + 0.1 * n / np.linalg.norm(b) * b)


CASES: dict[str, tuple[Step, dict[str, Any]]] = {
    "lion": (lion, {}),
    "adabelief": (adabelief, {}),
    "ftrl": (ftrl, {"lamda1": 0.5}),
    "ftml": (ftml, {}),
    "lars": (lars, {"momentum": 0.9, "eta": 0.02}),
    "lamb": (lamb, {}),
    "lans": (lans, {}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("case", CASES)
def test_a_rule_gives_the_numbers_of_its_formula(case: str, dtype: str, tolerance: float) -> None:
    step, params = CASES[case]
    rng = np.random.default_rng(3)
    value = rng.normal(size=(4, 5)).astype(dtype)
    rule = optim.create(case, learning_rate=LR, wd=0.1, **params)
    state, expected, expected_state = rule.init(value), value.astype(np.float64), dict[str, Array]()
    for t in range(1, STEPS + 1):
        grad = rng.normal(size=value.shape).astype(dtype)
        expected = step(expected, grad.astype(np.float64), expected_state, t)
        rule.step(value, grad, state, t)
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["ftrl", "ftml"])
def test_a_rate_of_zero_changes_nothing_where_the_formula_divides_by_it(case: str) -> None:
    rule, value = optim.create(case, learning_rate=0.0), np.ones(3)
    rule.step(value, np.ones(3), rule.init(value), 1)
    assert np.array_equal(value, np.ones(3))


def test_ftrl_makes_weights_of_weak_features_exactly_zero() -> None:
    rule, value = optim.Ftrl(lamda1=1.0), np.zeros(2)
    state = rule.init(value)
    for t in range(1, 4):
        rule.step(value, np.array([0.01, -1.0]), state, t)
    assert value[0] == 0.0 and value[1] > 0.0
