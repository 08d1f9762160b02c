"""Updates of all parameters at once on GPU kernels, run on the CPU, against the rules parameter by parameter."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.ops import optim
from shoal.ops.gpu import emulate, nvrtc
from shoal.ops.gpu.arena import FlatOptimizer
from shoal.ops.gpu.kernels.program import OPTIONS
from shoal.ops.lossscale import LossScale
from shoal.ops.precision import BFLOAT16
from tests.ops.gpu.running import drawn, needs_compiler

XP = emulate.NAMESPACE
SHAPES = [(7,), (3, 41), (2, 2, 2), (1,), (130,)]
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1},
    "nag": {"learning_rate": 0.1, "wd": 0.01},
    "adam": {"learning_rate": 0.01, "wd": 0.01, "rescale_grad": 0.5},
    "adamw": {"learning_rate": 0.01, "wd": 0.1, "clip_gradient": 0.3},
    "rmsprop": {"learning_rate": 0.01, "centered": True, "momentum": 0.5},
    "adagrad": {"learning_rate": 0.1},
    "signum": {"learning_rate": 0.01, "wd_lh": 0.1},
    "lion": {"learning_rate": 0.01, "wd": 0.1},
}


def params() -> list[np.ndarray]:
    return [drawn(s, np.float32, seed=i, scale=0.5) for i, s in enumerate(SHAPES)]


def gradients(step: int, dtype: Any = np.float32) -> list[np.ndarray]:
    return [drawn(s, dtype, seed=100 * step + i) for i, s in enumerate(SHAPES)]


def given(flat: FlatOptimizer, grads: list[np.ndarray]) -> None:
    for view, g in zip(flat.grads, grads, strict=True):
        view[...] = g


@needs_compiler
@pytest.mark.parametrize("name", RULES)
def test_a_step_of_the_arena_is_the_rule_on_each_parameter(name: str) -> None:
    rule = optim.create(name, **RULES[name])
    flat, alone = FlatOptimizer(rule, XP, params()), params()
    states = [rule.init(p) for p in alone]
    for t in range(1, 5):
        given(flat, gradients(t))
        flat.step()
        for p, g, s in zip(alone, gradients(t), states, strict=True):
            rule.step(p, g.copy(), s, t=t)
        for view, p in zip(flat.weights, alone, strict=True):
            np.testing.assert_allclose(view, p, rtol=2e-7, atol=1e-8)
    assert flat.count[0] == 4
    gaps = np.ones(flat.size, bool)
    for at, shape in zip(flat.starts, SHAPES, strict=True):
        gaps[at : at + int(np.prod(shape))] = False
    assert not flat.master[gaps].any()


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_weights_in_half_precision_follow_masters_in_float32(dtype: Any) -> None:
    rule = optim.create("adamw", learning_rate=1e-4)
    flat = FlatOptimizer(rule, XP, params(), dtype=dtype)
    masters = [p.copy() for p in params()]
    states = [rule.init(p) for p in masters]
    for t in range(1, 6):
        given(flat, gradients(t, dtype))
        flat.step()
        for p, g, s in zip(masters, gradients(t, dtype), states, strict=True):
            rule.step(p, g.astype(np.float32), s, t=t)
    for view, master, p in zip(flat.weights, flat._views(flat.master), masters, strict=True):
        assert view.dtype == np.dtype(dtype)
        np.testing.assert_allclose(master, p, rtol=1e-6, atol=1e-8)
        assert np.array_equal(view, master.astype(dtype))


@needs_compiler
def test_the_norm_over_all_gradients_is_clipped_after_the_scale_of_the_loss_is_taken_out() -> None:
    flat = FlatOptimizer(optim.create("sgd", learning_rate=1.0), XP, params(), clip_norm=2.0)
    before = [w.copy() for w in flat.weights]
    given(flat, [g * np.float32(1024) for g in gradients(1)])
    flat.set(scale=1024.0)
    flat.step()
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients(1)))
    assert norm > 2.0 and flat.norm[0] == pytest.approx(norm, rel=1e-6)
    for w, b, g in zip(flat.weights, before, gradients(1), strict=True):
        np.testing.assert_allclose(b - w, g * (2.0 / norm), rtol=1e-4, atol=1e-6)
    flat.set(clip_norm=0.0, lr=0.5)
    before = [w.copy() for w in flat.weights]
    flat.step()
    for w, b, g in zip(flat.weights, before, gradients(1), strict=True):
        np.testing.assert_allclose(b - w, g * 0.5, rtol=1e-4, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_step_with_an_infinity_or_nan_changes_nothing_and_does_not_count(bad: float) -> None:
    flat = FlatOptimizer(optim.create("adam"), XP, params(), dtype=np.float16)
    given(flat, gradients(1, np.float16))
    flat.step()
    before = [x.copy() for x in (flat.master, flat.half, *flat.states.values())]
    flat.grads[1][2, 5] = bad
    flat.step()
    assert flat.skipped[0] == 1 and flat.count[0] == 1
    for x, b in zip((flat.master, flat.half, *flat.states.values()), before, strict=True):
        assert np.array_equal(x, b)
    given(flat, gradients(2, np.float16))
    flat.step()
    assert flat.skipped[0] == 0 and flat.count[0] == 2 and np.isfinite(flat.master).all()


@needs_compiler
def test_parameters_have_factors_of_their_own_on_rate_and_decay() -> None:
    rule = optim.create("adamw", learning_rate=0.01, wd=0.1)
    factors = [(1.0, 1.0), (2.0, 0.0), (1.0, 1.0), (0.5, 1.0), (2.0, 0.0)]
    flat, alone = FlatOptimizer(rule, XP, params(), factors=factors), params()
    assert flat.groups == [(1.0, 1.0), (2.0, 0.0), (0.5, 1.0)]
    states = [rule.init(p) for p in alone]
    for t in range(1, 4):
        given(flat, gradients(t))
        flat.step()
        for p, g, s, (lr, wd) in zip(alone, gradients(t), states, factors, strict=True):
            rule.step(p, g.copy(), s, t=t, lr_mult=lr, wd_mult=wd)
    for view, p in zip(flat.weights, alone, strict=True):
        np.testing.assert_allclose(view, p, rtol=1e-6, atol=1e-8)


@needs_compiler
def test_a_loss_scale_goes_the_way_of_the_state_machine() -> None:
    state = LossScale(scale=2.0**-13, growth_interval=2)
    flat = FlatOptimizer(optim.create("sgd", learning_rate=0.0), XP, params(), scaling=state)
    for bad in (False, True, True, True, False, False, False, False, True, False):
        given(flat, gradients(1))
        if bad:
            flat.grads[2][0] = np.nan
        flat.step()
        state = state.after(bad)
        assert flat.loss_scale(state) == state and flat.loss_factor[0] == state.scale
    assert flat.left_out[0] == 4


def test_a_rule_without_statements_is_refused() -> None:
    with pytest.raises(ConfigError, match="LARS has no statements for a GPU"):
        FlatOptimizer(optim.create("lars"), XP, params())
    with pytest.raises(ConfigError, match="float64"):
        FlatOptimizer(optim.create("sgd"), XP, params(), dtype=np.float64)


@pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize(("name", "architecture"), [*zip(RULES, nvrtc.ARCHITECTURES * 3, strict=False)])
def test_the_kernels_of_every_rule_compile(name: str, architecture: str) -> None:
    options = {"factors": [(1.0, 1.0)] * 4 + [(0.5, 0.0)], "scaling": LossScale()}
    flat = FlatOptimizer(optim.create(name, **RULES[name]), XP, params(), dtype=BFLOAT16, **options)
    assert nvrtc.compiled(flat.text, architecture, OPTIONS)[:4] == b"\x7fELF"
