"""Rules that look at whole parameters: norms, clipping to a norm, addressed noise."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.ops import optim
from shoal.ops import random as addressed
from shoal.ops.backend import Namespace
from shoal.ops.optim import optimizer
from shoal.ops.optim.optimizer import BLOCK

LAYERWISE = ["lars", "lamb", "lans"]


def normal(shape: Any, seed: int = 0, dtype: str = "float32") -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def run(rule: optim.Optimizer, value: Any, grads: list[Any], **more: Any) -> Any:
    value = value.copy()
    state = rule.init(value)
    for t, grad in enumerate(grads, 1):
        rule.step(value, grad, state, t, **more)
    return value


def test_rules_say_whether_they_need_the_whole_parameter() -> None:
    assert not optim.Adam().whole and not optim.Lion().whole
    assert optim.SGD(clip_norm=1.0).whole and optim.SGLD().whole
    assert all(optim.create(name).whole for name in LAYERWISE)


@pytest.mark.parametrize("name", LAYERWISE)
def test_many_blocks_have_one_norm(name: str) -> None:
    size, rule = 2 * BLOCK + 17, optim.create(name, wd=0.1, learning_rate=0.1)
    value, grad = normal(size), normal(size, 1)
    moved = run(rule, value, [grad])
    mirrored = run(rule, value[::-1].copy(), [grad[::-1].copy()])
    np.testing.assert_allclose(mirrored[::-1], moved, rtol=1e-5, atol=1e-7)


@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_lars_and_lans_do_not_depend_on_the_scale_of_the_gradient(scale: float, seed: int) -> None:
    value, grads = normal(20, seed, "float64"), [normal(20, seed + i, "float64") for i in (1, 2)]
    for rule in (optim.LARS(epsilon=0.0, eta=0.1), optim.LANS()):
        np.testing.assert_allclose(run(rule, value, [scale * g for g in grads]), run(rule, value, grads), rtol=1e-9)


@settings(max_examples=30)
@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 100))
def test_lamb_moves_a_parameter_by_the_rate_times_its_norm(scale: float, seed: int) -> None:
    value = scale * normal(30, seed, "float64")
    moved = run(optim.LAMB(learning_rate=0.01), value, [normal(30, seed + 1, "float64")])
    assert np.linalg.norm(moved - value) == pytest.approx(0.01 * np.linalg.norm(value), rel=1e-9)


def test_the_norm_of_lamb_is_bounded() -> None:
    value, grad = np.full(4, 50.0), np.ones(4)
    assert np.linalg.norm(run(optim.LAMB(upper_bound=10.0), value, [grad]) - value) == pytest.approx(0.01)
    assert np.linalg.norm(run(optim.LAMB(lower_bound=1e3), value, [grad]) - value) == pytest.approx(1.0)


@pytest.mark.parametrize("name", LAYERWISE)
def test_a_parameter_without_weight_decay_is_not_scaled(name: str) -> None:
    value, grad = np.full(4, 100.0), np.ones(4)
    plain = {"lars": optim.SGD(), "lamb": optim.Adam(epsilon=1e-6), "lans": optim.Adam(epsilon=1e-6)}[name]
    rule = optim.create(name, learning_rate=0.1, wd=0.3)
    plain.set_learning_rate(0.1)
    np.testing.assert_allclose(run(rule, value, [grad], wd_mult=0.0), run(plain, value, [grad]), rtol=1e-5)


@pytest.mark.parametrize("name", LAYERWISE)
def test_a_parameter_of_zeros_moves_at_the_plain_rate(name: str) -> None:
    moved = run(optim.create(name, learning_rate=0.1), np.zeros(4), [np.ones(4)])
    assert np.all(np.isfinite(moved)) and np.all(moved < 0.0)
    assert np.array_equal(run(optim.create(name, learning_rate=0.1), np.zeros(4), [np.zeros(4)]), np.zeros(4))


@settings(max_examples=30)
@given(bound=st.floats(0.01, 20.0), seed=st.integers(0, 100))
def test_clip_norm_is_what_torch_does_to_one_parameter(bound: float, seed: int) -> None:
    value, grad = normal((3, 4), seed, "float64"), normal((3, 4), seed + 1, "float64")
    expected = torch.from_numpy(value.copy()).requires_grad_()
    expected.grad = torch.from_numpy(grad.copy())
    torch.nn.utils.clip_grad_norm_([expected], bound)
    torch.optim.SGD([expected], lr=0.1).step()
    found = run(optim.SGD(learning_rate=0.1, clip_norm=bound), value, [grad])
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_clip_norm_leaves_short_gradients_as_they_are_and_sees_the_rescaled_one() -> None:
    value, grad = normal(9), normal(9, 1)
    assert np.array_equal(run(optim.SGD(clip_norm=100.0), value, [grad]), run(optim.SGD(), value, [grad]))
    rule = optim.SGD(learning_rate=1.0, rescale_grad=0.5, clip_gradient=1.0, clip_norm=1.0)
    moved = run(rule, np.zeros(2), [np.array([6.0, 2.0])])
    np.testing.assert_allclose(moved, -np.ones(2) / np.sqrt(2.0))


@pytest.mark.parametrize("rule", [*LAYERWISE, "sgld"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_whole_arrays_as_on_a_gpu_give_what_blocks_give(rule: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, grads = BLOCK + 5, [normal(BLOCK + 5, i, dtype) for i in (1, 2)]
    expected = run(optim.create(rule), normal(size, 0, dtype), grads)
    other = Namespace(np, np.ndarray)
    monkeypatch.setattr(optimizer, "namespace", lambda array: other)
    found = run(optim.create(rule), normal(size, 0, dtype), grads)
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize("rule", [*LAYERWISE, "sgld"])
def test_a_master_copy_gives_the_numbers_of_float32(rule: str) -> None:
    value = normal(50).astype("float16")
    grads = [normal(50, i) for i in range(1, 6)]
    made = optim.create(rule, multi_precision=True, learning_rate=1e-3)
    assert np.array_equal(run(made, value, grads), run(made, value.astype("float32"), grads).astype("float16"))


def test_the_noise_of_sgld_has_an_address() -> None:
    value, grads, rule = np.zeros(1000), [np.zeros(1000)] * 2, optim.SGLD(learning_rate=0.04, seed=3)
    noise = run(rule, value, grads, name="w")
    assert np.array_equal(noise, run(optim.from_spec(rule.spec()), value, grads, name="w"))
    assert not np.array_equal(noise, run(rule, value, grads, name="v"))
    assert not np.array_equal(noise, run(optim.SGLD(learning_rate=0.04, seed=4), value, grads, name="w"))
    assert np.std(noise) == pytest.approx(np.sqrt(2 * 0.04), rel=0.1)


def test_sgld_takes_the_seed_of_the_run_when_it_is_made() -> None:
    before = addressed.address()
    try:
        addressed.set_address(seed=11)
        rule = optim.SGLD()
    finally:
        addressed.set_address(seed=before.seed, step=before.step)
    assert rule.seed == 11


def test_sgld_samples_the_posterior_of_a_normal() -> None:
    rule, value = optim.SGLD(learning_rate=0.1, seed=5), np.zeros(2000)
    state = rule.init(value)
    for t in range(1, 80):
        rule.step(value, 4.0 * (value - 1.0), state, t)  # minus the gradient of log N(1, 1/4)
    assert np.mean(value) == pytest.approx(1.0, abs=0.05)
    assert np.var(value) == pytest.approx(0.25, rel=0.2)
