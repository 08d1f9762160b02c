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


@pytest.mark.parametrize(("name", "params"), RULES, ids=str)
def test_a_parameter_that_was_looked_at_before_has_the_same_bits(name: str, params: dict[str, Any]) -> None:
    rule, rng = optim.create(name, **params, wd=0.01, clip_gradient=0.5), np.random.default_rng(1)
    w = rng.standard_normal(1003).astype(np.float32)
    v, state, other = w.copy(), rule.init(w), rule.init(w)
    prepared = rule.prepared(v, other)
    assert prepared is not None
    for t in (1, 2, 3):
        g = rng.standard_normal(w.size).astype(np.float32)
        rule.step(w, g, state, t, lr_mult=0.5, wd_mult=t - 1.0)  # another code where there is no decay
        assert rule.step_prepared(prepared, g, t, 0.5, t - 1.0)
    assert [v.tobytes(), *(a.tobytes() for a in other.values())] == [
        w.tobytes(),
        *(a.tobytes() for a in state.values()),
    ]


@pytest.mark.parametrize(
    "grad",
    [np.ones(4), np.ones(3, np.float32), np.ones((2, 2), np.float32), np.ones(8, np.float32)[::2]],
    ids=["dtype", "size", "shape", "gaps"],
)
def test_a_gradient_that_does_not_fit_leaves_what_was_looked_at_as_it_was(grad: np.ndarray) -> None:
    rule, w = optim.create("sgd"), np.ones(4, np.float32)
    prepared = rule.prepared(w, {})
    assert prepared is not None and not rule.step_prepared(prepared, grad, 1)
    assert w.tolist() == [1.0] * 4


def test_what_was_looked_at_is_these_arrays_and_no_others() -> None:
    rule, w = optim.create("sgd", momentum=0.9), np.ones(4, np.float32)
    state = rule.init(w)
    prepared = rule.prepared(w, state)
    assert prepared is not None and prepared.holds(w, state)
    assert not prepared.holds(w.copy(), state) and not prepared.holds(w, rule.init(w)) and not prepared.holds(w, {})


@pytest.mark.parametrize("rule", [optim.create("lamb"), optim.create("sgd", clip_norm=1.0), optim.create("adadelta")])
def test_rules_without_a_compiled_form_are_not_prepared(rule: Any) -> None:
    w = np.ones(4, np.float32)
    assert rule.prepared(w, rule.init(w)) is None


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
