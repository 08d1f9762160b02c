"""Twenty steps of each rule give PyTorch's numbers."""

from typing import Any

import numpy as np
import pytest
import torch

from shoal.ops import optim

STEPS = 20
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}

CASES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "sgd": ("sgd", {}, torch.optim.SGD, {}),
    "sgd with decay": ("sgd", {"wd": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd with momentum": ("sgd", {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "sgd with momentum and decay": (
        "sgd", {"momentum": 0.8, "wd": 0.1}, torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.1},
    ),
    "sgd with Nesterov's momentum": (
        "sgd", {"momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True},
    ),
    "nag with decay": (
        "nag", {"wd": 0.1}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": ("adam", {}, torch.optim.Adam, {}),
    "adam with other numbers": (
        "adam", {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3}, torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 1e-3},
    ),
    "adam with decay": ("adam", {"wd": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": ("adamw", {}, torch.optim.AdamW, {}),
    "adamw with more decay": ("adamw", {"wd": 0.3}, torch.optim.AdamW, {"weight_decay": 0.3}),
    "adamw without decay": ("adamw", {"wd": 0.0}, torch.optim.Adam, {}),
    "rmsprop": ("rmsprop", {}, torch.optim.RMSprop, {"alpha": 0.9}),
    "rmsprop with all": (
        "rmsprop", {"rho": 0.8, "momentum": 0.7, "centered": True, "wd": 0.1}, torch.optim.RMSprop,
        {"alpha": 0.8, "momentum": 0.7, "centered": True, "weight_decay": 0.1},
    ),
    "adagrad": ("adagrad", {}, torch.optim.Adagrad, {"eps": 1e-6}),
    "adagrad with all": (
        "adagrad", {"wd": 0.1, "initial_accumulator_value": 0.5}, torch.optim.Adagrad,
        {"eps": 1e-6, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "adamax": ("adamax", {}, torch.optim.Adamax, {}),
    "adamax with decay": ("adamax", {"wd": 0.1, "beta2": 0.9}, torch.optim.Adamax, {
        "weight_decay": 0.1, "betas": (0.9, 0.9)}),
    "nadam": ("nadam", {}, torch.optim.NAdam, {}),
    "nadam with decay": ("nadam", {"wd": 0.1, "schedule_decay": 0.1}, torch.optim.NAdam, {
        "weight_decay": 0.1, "momentum_decay": 0.1}),
    "adadelta": ("adadelta", {}, torch.optim.Adadelta, {}),
    "adadelta with decay": ("adadelta", {"wd": 0.1, "rho": 0.8}, torch.optim.Adadelta, {
        "weight_decay": 0.1, "rho": 0.8}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_a_rule_gives_the_numbers_of_torch(case: str, dtype: str) -> None:
    name, params, torch_rule, torch_params = CASES[case]
    tolerance = TOLERANCE["float32" if name == "nadam" else dtype]  # torch keeps NAdam's product of momenta in float32
    rng = np.random.default_rng(7)
    value = rng.normal(size=(5, 3)).astype(dtype)
    expected = torch.from_numpy(value.copy()).requires_grad_()
    rule, reference = optim.create(name, learning_rate=0.05, **params), torch_rule([expected], lr=0.05, **torch_params)
    state = rule.init(value)
    for t in range(1, STEPS + 1):
        grad = rng.normal(size=value.shape).astype(dtype)
        expected.grad = torch.from_numpy(grad)
        rule.step(value, grad, state, t)
        reference.step()
        np.testing.assert_allclose(value, expected.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_a_schedule_changes_the_rate_as_setting_it_in_torch_does() -> None:
    rng = np.random.default_rng(8)
    value = rng.normal(size=4)
    expected = torch.from_numpy(value.copy()).requires_grad_()
    schedule = optim.CosineScheduler(max_update=STEPS, base_lr=0.1, warmup_steps=5)
    rule, reference = optim.SGD(momentum=0.9, lr_scheduler=schedule), torch.optim.SGD([expected], lr=0.1, momentum=0.9)
    state = rule.init(value)
    for t in range(1, STEPS + 1):
        grad = rng.normal(size=4)
        expected.grad = torch.from_numpy(grad)
        reference.param_groups[0]["lr"] = schedule(t)
        rule.step(value, grad, state, t)
        reference.step()
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12)
