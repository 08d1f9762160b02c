"""Hyper-parameters: what is refused and how, and what travels."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.ops import optim

rates = st.floats(0.0, 1e6)
fractions = st.floats(0.0, 1.0, exclude_max=True)
begin = {"warmup_steps": st.integers(0, 50), "warmup_mode": st.sampled_from(["linear", "constant"])}
common = {
    "learning_rate": rates, "wd": rates, "rescale_grad": st.floats(-10, 10), "multi_precision": st.booleans(),
    "clip_gradient": st.floats(1e-30, 1e30),
}  # fmt: skip

SCHEDULES = st.one_of(
    st.builds(optim.ConstantScheduler, **begin),
    st.builds(optim.FactorScheduler, step=st.integers(1, 99), factor=st.floats(0.1, 1), **begin),
    st.builds(
        optim.MultiFactorScheduler, step=st.sets(st.integers(1, 99), min_size=1).map(sorted), factor=st.floats(0.1, 1)
    ),
    st.builds(optim.PolyScheduler, max_update=st.integers(51, 1000), pwr=st.floats(0, 4), final_lr=rates, **begin),
    st.builds(optim.CosineScheduler, max_update=st.integers(51, 1000), final_lr=rates, **begin),
)
OPTIMIZERS = st.one_of(
    st.builds(optim.SGD, momentum=fractions, lr_scheduler=st.none() | SCHEDULES, **common),
    st.builds(optim.Adam, beta1=fractions, beta2=fractions, epsilon=rates, correct_bias=st.booleans(), **common),
    st.builds(optim.AdamW, lr_scheduler=SCHEDULES, **common),
    st.builds(optim.RMSProp, rho=fractions, momentum=fractions, centered=st.booleans(), **common),
    st.builds(optim.AdaGrad, initial_accumulator_value=rates, **common),
    st.builds(optim.Signum, wd_lh=rates, **common),
    st.builds(optim.NAG),
    st.builds(optim.Lion, beta1=fractions, beta2=fractions, **common),
    st.builds(optim.SGLD, seed=st.none() | st.integers(-(2**63), 2**63 - 1), clip_norm=st.floats(1e-3, 1e3)),
    st.builds(optim.Nadam, schedule_decay=rates),
    st.builds(optim.LARS, momentum=fractions, eta=st.floats(1e-6, 10), clip_norm=st.none() | st.floats(1e-3, 1e3)),
    st.builds(optim.LAMB, lower_bound=st.none() | rates, bias_correction=st.booleans(), **common),
    st.builds(optim.Test, rescale_grad=rates),
)


@given(rule=OPTIMIZERS)
def test_what_travels_makes_the_same_optimizer_exactly(rule: optim.Optimizer) -> None:
    spec = rule.spec()
    assert optim.from_spec(spec) == rule
    assert optim.from_spec(spec).spec() == spec
    text = json.loads(json.dumps(spec.params))
    assert optim.from_spec(optim.OptimizerSpec(spec.name, text)) == rule


@given(rule=OPTIMIZERS, t=st.integers(1, 2000))
def test_what_travels_has_the_same_rate_at_every_update(rule: optim.Optimizer, t: int) -> None:
    assert optim.from_spec(rule.spec()).rate(t) == rule.rate(t)


def test_only_names_and_numbers_travel() -> None:
    rule = optim.SGD(momentum=0.9, lr_scheduler=optim.MultiFactorScheduler(step=[10, 20], factor=0.1))
    assert rule.spec() == optim.OptimizerSpec(
        "sgd",
        {
            "learning_rate": 0.1, "wd": 0.0, "rescale_grad": 1.0, "multi_precision": False,
            "lazy_update": True, "momentum": 0.9, "nesterov": False,
            "lr_scheduler": {
                "name": "multifactor",
                "params": {
                    "base_lr": 0.1, "warmup_steps": 0, "warmup_begin_lr": 0.0, "warmup_mode": "linear",
                    "step": [10, 20], "factor": 0.1,
                },
            },
        },
    )  # fmt: skip


def test_numbers_of_numpy_travel_as_plain_numbers() -> None:
    params = optim.create("sgd", learning_rate=np.float32(0.1), wd=np.int64(1)).spec().params
    assert type(params["learning_rate"]) is float
    assert params["learning_rate"] == float(np.float32(0.1))
    assert type(params["wd"]) is float


@pytest.mark.parametrize("name", ["sgd", "SGD", "Sgd"])
def test_names_are_known_in_any_case(name: str) -> None:
    assert optim.create(name, momentum=0.5) == optim.SGD(momentum=0.5)


def test_an_optimizer_is_returned_as_it_is() -> None:
    rule = optim.SGD()
    assert optim.create(rule) is rule
    with pytest.raises(ConfigError, match="has its parameters already"):
        optim.create(rule, momentum=0.9)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no optimizer is called 'adm'; known: .*adagrad, adam, .*Did you mean 'adam'"
    ):
        optim.create("adm")


@pytest.mark.parametrize("name", [None, 3, ["sgd"], b"sgd"])
def test_a_name_that_is_not_text_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="no optimizer is called"):
        optim.from_spec(optim.OptimizerSpec(name, {}))


def test_an_unknown_parameter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'sgd' has no parameter 'momentun'; known: learning_rate, .*momentum"):
        optim.create("sgd", momentun=0.9)


@pytest.mark.parametrize(("name", "meant"), [("lr", "learning_rate"), ("weight_decay", "wd"), ("momentun", "momentum")])
def test_what_others_call_differently_is_named(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"has no parameter {name!r}.* Did you mean {meant!r}\?"):
        optim.create("sgd", **{name: 0.1})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sgd", {"learning_rate": -0.1}, "learning_rate is -0.1, expected a rate >= 0"),
        ("sgd", {"learning_rate": float("nan")}, "learning_rate is nan, expected a rate >= 0"),
        ("sgd", {"learning_rate": float("inf")}, "learning_rate is inf, expected a rate >= 0"),
        ("sgd", {"learning_rate": "0.1"}, "learning_rate is '0.1', expected a number"),
        ("sgd", {"learning_rate": True}, "learning_rate is True, expected a number"),
        ("sgd", {"momentum": 1.0}, "momentum is 1.0, expected 0 <= momentum < 1"),
        ("sgd", {"nesterov": 1}, "nesterov is 1, expected True or False"),
        ("sgd", {"nesterov": True}, "momentum is 0.0, expected 0 < momentum < 1, because nesterov is True"),
        ("sgd", {"clip_gradient": 0.0}, "clip_gradient is 0.0, expected a number > 0, or None"),
        ("sgd", {"rescale_grad": float("inf")}, "rescale_grad is inf, expected a finite number"),
        ("sgd", {"wd": -1}, "wd is -1, expected a number >= 0"),
        ("sgd", {"wd": 10**400}, "wd is 1"),
        ("sgd", {"lr_scheduler": 0.1}, "lr_scheduler is 0.1, expected an LRScheduler"),
        ("nag", {"momentum": 0.0}, "momentum is 0.0, expected 0 < momentum < 1"),
        ("adam", {"beta1": 1.0}, "beta1 is 1.0, expected 0 <= beta1 < 1"),
        ("adam", {"beta2": -0.1}, "beta2 is -0.1, expected 0 <= beta2 < 1"),
        ("adam", {"epsilon": -1e-8}, "epsilon is -1e-08, expected a number >= 0"),
        ("rmsprop", {"rho": 2}, "rho is 2, expected 0 <= rho < 1"),
        ("sgd", {"clip_norm": 0.0}, "clip_norm is 0.0, expected a number > 0, or None"),
        ("sgld", {"seed": 2**63}, "seed is 9223372036854775808, expected an integer of 64 bits"),
        ("lars", {"eta": 0}, "eta is 0, expected a number > 0"),
        (
            "lans",
            {"clip_norm": 1.0},
            "clip_norm is 1.0, expected None, because this rule gives every gradient the norm",
        ),
        ("test", {"wd": 0.1}, "wd is 0.1, expected 0, because this rule has no weight decay"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        optim.create(name, **params)
    assert f"optimizer {name!r}: {message}" in str(caught.value)


def test_a_rule_of_ones_own_can_be_registered_and_travels() -> None:
    @optim.register
    @dataclass(kw_only=True)
    class HalfStep(optim.Optimizer):
        def slots(self) -> dict[str, float]:
            return {}

        def update(self, work: Any, state: optim.State) -> None:
            work.g *= 0.5 * work.lr
            work.w -= work.g

    value = np.ones(1)
    optim.from_spec(HalfStep(learning_rate=0.5).spec()).step(value, np.ones(1), {}, 1)
    assert value == 0.75


def test_a_name_cannot_be_registered_twice() -> None:
    class SGD(optim.SGD):
        pass

    with pytest.raises(ConfigError, match=r"optimizer 'sgd' is already shoal\.ops\.optim\.rules\.SGD"):
        optim.register(SGD)


def test_the_rate_can_be_set_and_is_checked() -> None:
    rule = optim.SGD(learning_rate=0.1)
    rule.set_learning_rate(0.2)
    assert rule.rate(5) == 0.2
    with pytest.raises(ConfigError, match="learning_rate is -1, expected a rate >= 0"):
        rule.set_learning_rate(-1)


def test_the_rate_of_a_schedule_cannot_be_set() -> None:
    rule = optim.SGD(lr_scheduler=optim.ConstantScheduler())
    with pytest.raises(ConfigError, match="takes its rate from ConstantScheduler"):
        rule.set_learning_rate(0.2)
