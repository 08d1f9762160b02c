"""Compiled update rules: the same bits as NumPy's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shoal import optim
from shoal.ops.native import compiler, pool, steps
from shoal.ops.optim.optimizer import State, Work

pytestmark = pytest.mark.skipif(compiler.load("") is None, reason=f"no native code: {compiler.why_not()}")

RULES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("nag", {}),
    ("adam", {}),
    ("adam", {"correct_bias": False}),
    ("adamw", {}),
    ("rmsprop", {}),
    ("rmsprop", {"centered": True, "momentum": 0.8}),
    ("adagrad", {}),
    ("signum", {}),
    ("signum", {"momentum": 0.0, "wd_lh": 0.1}),
    ("lion", {}),
]
COMMON: list[dict[str, Any]] = [{}, {"wd": 0.01}, {"rescale_grad": 0.125, "clip_gradient": 0.02}]


def walk(rule: Any, n: int, dtype: str, count: int = 3) -> list[np.ndarray]:
    """Value and states after some updates, with the odd values that gradients can have."""
    rng = np.random.default_rng(n)
    w = rng.standard_normal(n).astype(dtype)
    state = rule.init(w)
    for t in range(1, count + 1):
        g = rng.standard_normal(n).astype(dtype)
        g[:5] = [0.0, -0.0, 1e-38, 1e30, -1e-20]
        with np.errstate(all="ignore"):
            rule.step(w, g, state, t)
    return [w, *state.values()]


@pytest.mark.parametrize("common", COMMON, ids=str)
@pytest.mark.parametrize(("name", "params"), RULES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_compiled_rule_has_the_bits_of_the_numpy_rule(
    name: str, params: dict[str, Any], common: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = optim.create(name, **params, **common)
    done: list[bool] = []
    compiled = steps.step
    monkeypatch.setattr(steps, "step", lambda *a: done.append(compiled(*a)) or done[-1])
    fast = walk(rule, 1003, dtype)
    assert done == [True] * 3
    monkeypatch.setattr(steps, "step", lambda *a: False)
    slow = walk(rule, 1003, dtype)
    assert [a.tobytes() for a in fast] == [b.tobytes() for b in slow]


def test_the_number_of_threads_changes_no_bit() -> None:
    results = []
    for n in (1, 2):
        with pool.limited(n):
            results.append([a.tobytes() for a in walk(optim.create("adam"), 300_001, "float32")])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("param", "grad"),
    [("float16", "float16"), ("float32", "float64"), ("float64", "float32"), (">f4", ">f4")],
)
def test_other_dtypes_take_the_numpy_rule(param: str, grad: str) -> None:
    w, g = np.ones(7, param), np.full(7, 0.5, grad)
    assert not steps.step("w = w - g;", {}, w, g, {})
    assert (w == 1).all()


def test_a_gradient_with_gaps_takes_the_numpy_rule() -> None:
    w, g = np.ones(4, "float32"), np.arange(8, dtype="float32")[::2]
    assert not steps.step("w = w - g;", {}, w, g, {})
    rule = optim.create("sgd", learning_rate=1.0)
    rule.step(w, g, rule.init(w), 1)
    assert w.tolist() == [1, -1, -3, -5]


def test_without_native_code_the_numpy_rule_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_loop", lambda *a: None)
    w = np.ones(4, "float32")
    rule = optim.create("sgd", learning_rate=0.5)
    rule.step(w, np.ones(4, "float32"), rule.init(w), 1)
    assert w.tolist() == [0.5] * 4


@dataclass(kw_only=True)
class Backwards(optim.SGD):
    """A rule of a user's own, on top of one that has a compiled form."""

    def update(self, work: Work, state: State) -> None:
        work.w += work.g


def test_a_rule_that_changes_only_update_is_not_compiled() -> None:
    w = np.ones(4, "float32")
    rule = Backwards(learning_rate=0.5)
    rule.step(w, np.ones(4, "float32"), rule.init(w), 1)
    assert w.tolist() == [2.0] * 4
