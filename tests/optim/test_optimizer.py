"""What all update rules have in common: common parameters, dtypes, layouts, slices and threads."""

import copy
import itertools
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import optim
from shoal.ops.backend import Namespace
from shoal.ops.optim import optimizer
from shoal.ops.optim.optimizer import BLOCK

RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd momentum": {"momentum": 0.9, "wd": 0.1, "clip_gradient": 1.0, "rescale_grad": 0.5},
    "sgd nesterov": {"momentum": 0.9, "nesterov": True},
    "nag": {},
    "adam": {"wd": 0.1},
    "adamw": {},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "adagrad": {},
    "signum": {"wd_lh": 0.1},
    "lion": {"wd": 0.1},
    "adamax": {"wd": 0.1},
    "nadam": {"wd": 0.1},
    "adabelief": {"wd": 0.1},
    "adadelta": {"wd": 0.1},
    "ftrl": {"wd": 0.1},
    "ftml": {"wd": 0.1},
    "test": {},
}


def made(case: str, **more: Any) -> optim.Optimizer:
    return optim.create(case.split()[0], **RULES[case], **more)


def run(rule: optim.Optimizer, value: Any, grads: list[Any]) -> tuple[Any, optim.State]:
    state = rule.init(value)
    for t, grad in enumerate(grads, 1):
        rule.step(value, grad, state, t)
    return value, state


def random(shape: Any, dtype: str = "float32", seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@settings(max_examples=60)
@given(
    case=st.sampled_from(list(RULES)),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    seed=st.integers(0, 1000),
    multi_precision=st.booleans(),
)
def test_slices_give_bit_for_bit_what_the_whole_gives(
    case: str, dtype: str, cuts: list[int], seed: int, multi_precision: bool
) -> None:
    rule = made(case, multi_precision=multi_precision)
    value, grads = random(300, dtype, seed), [random(300, dtype, seed + i) for i in (1, 2, 3)]
    bounds = [0, *sorted(cuts), 300]
    parts = [run(rule, value[a:b].copy(), [g[a:b] for g in grads]) for a, b in itertools.pairwise(bounds)]
    whole, state = run(rule, value.copy(), grads)
    assert np.concatenate([p for p, _ in parts]).tobytes() == whole.tobytes()
    for name, array in state.items():
        assert np.concatenate([s[name] for _, s in parts]).tobytes() == array.tobytes()


@pytest.mark.parametrize("case", RULES)
def test_an_array_of_many_blocks_gives_what_its_slices_give(case: str) -> None:
    size = 2 * BLOCK + 17
    rule, value, grads = made(case), random(size), [random(size, seed=i) for i in (1, 2)]
    head = run(rule, value[:1000].copy(), [g[:1000] for g in grads])[0]
    tail = run(rule, value[-1000:].copy(), [g[-1000:] for g in grads])[0]
    whole = run(rule, value, grads)[0]
    assert np.array_equal(whole[:1000], head)
    assert np.array_equal(whole[-1000:], tail)


@pytest.mark.parametrize("case", RULES)
def test_the_layout_in_memory_does_not_matter(case: str) -> None:
    rule, plain, grads = made(case), random((6, 4)), [random((6, 4), seed=i) for i in (1, 2)]
    strided = np.zeros((8, 12), "float32").T[::2, ::2]
    strided[...] = plain
    expected, _ = run(rule, plain, grads)
    found, _ = run(rule, strided, [np.asfortranarray(g) for g in grads])
    assert np.array_equal(found, expected)


def test_states_of_another_layout_are_updated_in_place() -> None:
    rule, value, grad = optim.SGD(momentum=0.9), np.zeros((2, 3)), np.ones((2, 3))
    state = {"momentum": np.zeros((3, 2)).T}
    rule.step(value, grad, state, 1)
    assert np.array_equal(state["momentum"], grad)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2)])
@pytest.mark.parametrize("case", RULES)
def test_scalars_and_empty_arrays_are_updated_too(case: str, shape: tuple[int, ...]) -> None:
    value, _ = run(made(case), np.ones(shape), [np.ones(shape)])
    assert value.shape == shape
    assert np.all(value != 1.0)


def test_the_gradient_is_not_changed() -> None:
    grad = random(10)
    before = grad.copy()
    for case in RULES:
        run(made(case, clip_gradient=0.1) if "momentum" not in case else made(case), random(10), [grad])
    assert np.array_equal(grad, before)


@pytest.mark.parametrize(
    ("dtype", "computed"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_states_have_the_dtype_of_the_computation(dtype: str, computed: str) -> None:
    assert optim.state_dtype(dtype) == computed
    assert {a.dtype.name for a in optim.Adam().init(np.zeros(3, dtype)).values()} == {computed}


def test_half_precision_is_computed_in_single_and_rounded_once() -> None:
    value, grads = random(50, "float16"), [random(50, "float16", seed=i) for i in range(5)]
    state = optim.Adam().init(value)
    for t, grad in enumerate(grads, 1):
        single, copied = value.astype("float32"), {k: v.copy() for k, v in state.items()}
        optim.Adam().step(single, grad.astype("float32"), copied, t)
        optim.Adam().step(value, grad, state, t)
        assert np.array_equal(value, single.astype("float16"))


def test_a_master_copy_lets_small_updates_add_up() -> None:
    ones = np.ones(1, "float16")
    plain, _ = run(optim.SGD(learning_rate=1e-4), ones.copy(), [ones] * 20)
    precise, state = run(optim.SGD(learning_rate=1e-4, multi_precision=True), ones.copy(), [ones] * 20)
    assert plain == 1.0
    assert precise == np.float16(1.0 - 20e-4)
    assert state["master"].dtype == np.float32


def test_a_gradient_of_another_dtype_is_cast() -> None:
    value, _ = run(optim.SGD(learning_rate=1.0), np.ones(2, "float32"), [np.full(2, 0.5, "float16")])
    assert value.dtype == np.float32
    assert np.array_equal(value, [0.5, 0.5])
    value, _ = run(optim.SGD(learning_rate=1.0), np.ones(2, "float16"), [np.full(2, 0.5, "float32")])
    assert np.array_equal(value, [0.5, 0.5])


def test_the_gradient_is_rescaled_then_clipped_then_decayed() -> None:
    rule = optim.SGD(learning_rate=1.0, rescale_grad=0.5, clip_gradient=1.0, wd=0.25)
    value, _ = run(rule, np.full(3, 4.0), [np.array([1.0, 10.0, -10.0])])
    assert np.array_equal(value, [4 - 0.5 - 1, 4 - 1 - 1, 4 + 1 - 1])


def test_multipliers_scale_rate_and_decay_of_one_parameter() -> None:
    rule = optim.SGD(learning_rate=1.0, wd=0.5)
    value = np.full(1, 2.0)
    rule.step(value, np.zeros(1), {}, 1, lr_mult=0.5, wd_mult=0.25)
    assert value == 2.0 - 0.5 * (0.5 * 0.25 * 2.0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_test_rule_adds_pushes_exactly(dtype: str, workers: int) -> None:
    value, rule, rounds = np.ones(3, dtype), optim.create("test", rescale_grad=2), 5
    for t in range(1, rounds + 1):
        rule.step(value, sum(np.full(3, rank + 1, dtype) for rank in range(workers)), {}, t)
    assert np.all(value == 1 + (workers + 1) * workers * 2 / 2 * rounds)


def test_signum_moves_by_the_rate_in_the_direction_of_the_sign() -> None:
    value, _ = run(optim.Signum(learning_rate=0.5, momentum=0.0), np.zeros(3), [np.array([3.0, 0.0, -1e-9])])
    assert np.array_equal(value, [-0.5, 0.0, 0.5])


def test_adam_without_bias_correction_takes_smaller_first_steps() -> None:
    with_, _ = run(optim.Adam(), np.zeros(1), [np.ones(1)])
    without, _ = run(optim.Adam(correct_bias=False), np.zeros(1), [np.ones(1)])
    assert with_ == pytest.approx(-1e-3)
    assert without == pytest.approx(-1e-3 * 0.1 / 0.001**0.5)


def test_a_second_step_allocates_no_arrays() -> None:
    rule, value, grad = optim.Adam(wd=0.1, clip_gradient=1.0), random(BLOCK * 2), random(BLOCK * 2)
    state = rule.init(value)
    rule.step(value, grad, state, 1)
    tracemalloc.start()
    try:
        rule.step(value, grad, state, 2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000


def test_one_optimizer_serves_several_threads() -> None:
    rule, grads = optim.Adam(), [random(1000, seed=i) for i in range(20)]
    values = [random(1000, seed=100 + i) for i in range(4)]
    expected = [run(optim.Adam(), v.copy(), grads)[0] for v in values]
    threads = [threading.Thread(target=run, args=(rule, v, grads)) for v in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(v, e) for v, e in zip(values, expected, strict=True))


def test_a_copied_optimizer_makes_the_same_updates() -> None:
    rule = optim.Adam(learning_rate=0.3)
    run(rule, random(5), [random(5)])
    assert np.array_equal(
        run(copy.deepcopy(rule), random(5), [random(5)])[0], run(rule, random(5), [random(5)])[0]
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_parameters_that_are_not_floats_are_refused(dtype: str) -> None:
    with pytest.raises(DTypeError, match=f"dtype {dtype}, expected float16, bfloat16, float32 or float64"):
        optim.SGD().init(np.zeros(3, dtype))


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"parameter \(3,\), but its gradient is \(1,\)"):
        optim.SGD().step(np.zeros(3), np.zeros(1), {}, 1)


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"parameter \(3,\), but its momentum is \(2,\)"):
        optim.SGD(momentum=0.9).step(np.zeros(3), np.zeros(3), {"momentum": np.zeros(2)}, 1)


def test_a_state_of_another_rule_is_refused() -> None:
    state = optim.SGD(momentum=0.9).init(np.zeros(3))
    with pytest.raises(ConfigError, match=r"keeps states \['mean', 'variance'\], got \['momentum'\]"):
        optim.Adam().step(np.zeros(3), np.zeros(3), state, 1)


def test_updates_are_counted_from_one() -> None:
    with pytest.raises(ConfigError, match="t is 0, the first update has t = 1"):
        optim.SGD().step(np.zeros(3), np.zeros(3), {}, 0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", RULES)
def test_whole_arrays_as_on_a_gpu_give_what_blocks_give(case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, grads = BLOCK + 5, [random(BLOCK + 5, dtype, seed=i) for i in (1, 2)]
    expected, _ = run(made(case), random(size, dtype), grads)
    other = Namespace(np, np.ndarray)
    monkeypatch.setattr(optimizer, "namespace", lambda array: other)
    found, _ = run(made(case), random(size, dtype), grads)
    assert np.array_equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("case", RULES)
def test_a_gpu_gives_the_numbers_of_the_cpu(case: str) -> None:
    cupy = pytest.importorskip("cupy")
    grads = [random(1000, seed=i) for i in (1, 2, 3)]
    expected, _ = run(made(case), random(1000), grads)
    found, _ = run(made(case), cupy.asarray(random(1000)), [cupy.asarray(g) for g in grads])
    np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-6)
