"""Whole training steps, with the update inside the recording, on fake GPUs that run kernels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import cuda, nn, npx
from shoal import np as snp
from shoal.errors import ConfigError
from shoal.ops.gpu import arena, stepchecks
from shoal.ops.gpu.check import chosen, run
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.optim.schedule import CosineScheduler
from tests.ops.gpu.running import needs_compiler

LABELS = np.array([0, 3, 1])


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """One with kernels."""
    with fake_gpus(kernels=True) as (found,):
        yield found


def network(device: str, dtype: str = "float32") -> Any:
    shoal.random.seed(11)
    net = nn.HybridSequential(nn.Dense(8, "tanh", in_units=5), nn.LayerNorm(in_channels=8), nn.Dense(4, in_units=8))
    net.initialize(shoal.init.Xavier(), seed=3)
    for p in net.collect_params().values():
        if "bias" in p.name or "gamma" in p.name:
            p.wd_mult = 0.0
    if dtype != "float32":
        net.cast(dtype)
    if device != "cpu":
        net.to(device)
    return net


def batch(i: int, device: str, dtype: str = "float32", factor: float = 1.0) -> tuple[Any, Any]:
    x = np.random.default_rng(i).standard_normal((3, 5)).astype("float32") * factor
    return snp.array(x.astype(dtype), device=device), snp.array(LABELS, device=device)


def trained(
    device: str, steps: int = 12, dtype: str = "float32", bad: tuple[int, ...] = (), rule: str = "adamw", **options: Any
) -> tuple[list[float], dict[str, Any], Any]:
    """Losses, weights, and the step; batches of ``bad`` hold an infinity."""
    net = network(device, dtype)
    given = {"learning_rate": 0.01, "wd": 0.1}
    if options.pop("schedule", False):
        given["lr_scheduler"] = CosineScheduler(max_update=10, base_lr=0.01, final_lr=0.001, warmup_steps=3)
    step = cuda.train_step(
        lambda x, y: npx.softmax_cross_entropy(net(x).astype("float32"), y).mean(),
        net.collect_params(),
        rule,
        given,
        **options,
    )
    losses = [float(step(*batch(i, device, dtype, np.inf if i in bad else 1.0)).item()) for i in range(steps)]
    return losses, {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}, step


def close(a: dict[str, Any], b: dict[str, Any], rtol: float = 2e-4, atol: float = 2e-5) -> None:
    for name, value in a.items():
        np.testing.assert_allclose(b[name].astype("f8"), value.astype("f8"), rtol=rtol, atol=atol, err_msg=name)


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"schedule": True}, {"clip_norm": 0.5}, {"rule": "sgd"}])
def test_recorded_steps_with_their_update_have_the_bits_of_steps_that_are_not(gpu: FakeGpu, options: Any) -> None:
    steps = 10 if options else 20
    losses, weights, step = trained("gpu:0", steps, **options)
    assert step.why_not() == [] and not gpu.races()
    waits = set(gpu.waits)
    assert waits <= {"item()", "get()"}, waits
    plain, others, _ = trained("gpu:0", steps, enabled=False, **options)
    assert losses == plain
    for name, value in weights.items():
        assert value.tobytes() == others[name].tobytes(), name


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"schedule": True}, {"clip_norm": 0.5}])
@pytest.mark.usefixtures("gpu")
def test_steps_on_a_gpu_have_the_numbers_of_the_host(options: Any) -> None:
    losses, weights, _ = trained("cpu", **options)
    found, there, _ = trained("gpu:0", **options)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    close(weights, there)


@needs_compiler
def test_a_schedule_goes_on_behind_the_rates_that_lie_on_the_gpu(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "RATES", 4)
    found = trained("gpu:0", 14, schedule=True, bad=(5,))
    step = found[2]
    assert step.why_not() == [] and step.updates == 13 and step.left_out == 1
    monkeypatch.setattr(arena, "RATES", 1024)
    more = trained("gpu:0", 14, schedule=True, bad=(5,))
    for name, value in found[1].items():
        assert value.tobytes() == more[1][name].tobytes(), name


@needs_compiler
def test_a_step_does_not_wait_for_the_gpu(gpu: FakeGpu) -> None:
    net = network("gpu:0")
    params, given = net.collect_params(), {"lr_scheduler": CosineScheduler(max_update=10, base_lr=0.01)}
    step = cuda.train_step(
        lambda x: (net(x) ** 2).mean(), params, "adam", given, clip_norm=1.0, scaling=cuda.LossScale()
    )
    for i in range(6):
        step(batch(i, "gpu:0")[0])
    assert gpu.waits == [] and step.why_not() == []
    assert step.updates == 6


@needs_compiler
def test_the_rate_changes_without_another_recording(gpu: FakeGpu) -> None:
    net = network("gpu:0")
    step = cuda.train_step(lambda x: (net(x) ** 2).mean(), net.collect_params(), "sgd", {"learning_rate": 0.1})
    x = batch(0, "gpu:0")[0]
    for _ in range(4):
        step(x)
    step.set_learning_rate(0.0)
    before = {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}
    step(x)
    assert all(np.array_equal(p.data().asnumpy(), before[n]) for n, p in net.collect_params().items())
    replays = step._graphed._replays.values()
    assert [e.runs for r in replays for e in r.entries.values()] == [2]
    assert gpu.races() == []


SCALING = cuda.LossScale(scale=2.0**14, growth_interval=4)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_recorded_step_with_an_infinity_is_left_out_and_halves_the_scale(gpu: FakeGpu, dtype: str) -> None:
    options: dict[str, Any] = {"dtype": dtype, "bad": (2, 6), "scaling": SCALING, "steps": 13}
    losses, weights, step = trained("gpu:0", **options)
    assert step.why_not() == [] and not gpu.races()
    assert (step.updates, step.left_out) == (11, 2)
    expected = SCALING
    for i in range(13):
        expected = expected.after(i in (2, 6))
    assert step.loss_scale == expected.scale
    plain, others, _ = trained("gpu:0", enabled=False, **options)
    np.testing.assert_array_equal(losses, plain)
    for name, value in weights.items():
        assert np.isfinite(value).all() and value.tobytes() == others[name].tobytes(), name


@needs_compiler
@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities of the host are told
def test_the_loss_scale_of_a_gpu_is_that_of_the_host() -> None:
    options: dict[str, Any] = {"bad": (2, 6), "scaling": SCALING, "steps": 13}
    _, weights, step = trained("cpu", **options)
    _, there, on_gpu = trained("gpu:0", **options)
    assert (on_gpu.updates, on_gpu.left_out, on_gpu.loss_scale) == (step.updates, step.left_out, step.loss_scale)
    close(weights, there)


@needs_compiler
def test_parameters_in_half_precision_follow_masters(gpu: FakeGpu) -> None:
    _, weights, step = trained("gpu:0", dtype="float16", scaling=SCALING)
    assert step.why_not() == [] and all(w.dtype == np.float16 for w in weights.values())
    flat = step._update.flat
    assert flat.master.dtype == np.float32
    np.testing.assert_array_equal(flat.half.get(), flat.master.get().astype(np.float16))


@needs_compiler
def test_a_parameter_that_was_moved_is_told(gpu: FakeGpu) -> None:
    net = network("gpu:0")
    step = cuda.train_step(lambda x: (net(x) ** 2).mean(), net.collect_params(), "sgd")
    step(batch(0, "gpu:0")[0])
    net.to("cpu")
    net.to("gpu:0")
    with pytest.raises(ConfigError, match="was moved or converted after the first step"):
        step(batch(0, "gpu:0")[0])


def test_what_does_not_fit_is_refused() -> None:
    net = network("cpu")
    params = net.collect_params()
    with pytest.raises(ConfigError, match="needs sums over each parameter"):
        cuda.train_step(lambda x: net(x).sum(), params, "sgd", {"clip_norm": 1.0})
    with pytest.raises(ConfigError, match="needs sums over each parameter"):
        cuda.train_step(lambda x: net(x).sum(), params, "lamb")
    for p in params.values():
        p.grad_req = "add"
    with pytest.raises(ConfigError, match=r"grad_req='write'\); not so of \['0.weight'"):
        cuda.train_step(lambda x: net(x).sum(), params, "sgd")
    for p in params.values():
        p.grad_req = "null"
    with pytest.raises(ConfigError, match="no parameter learns"):
        cuda.train_step(lambda x: net(x).sum(), params, "sgd")


def test_on_the_host_it_is_the_rule_on_each_parameter() -> None:
    net, other = network("cpu"), network("cpu")
    step = cuda.train_step(lambda x: (net(x) ** 2).mean(), net.collect_params(), "adam", {"learning_rate": 0.01})
    trainer = shoal.Trainer(other.collect_params(), "adam", {"learning_rate": 0.01}, kvstore=None)
    for i in range(4):
        x = batch(i, "cpu")[0]
        step(x)
        with shoal.autograd.record():
            loss = (other(x) ** 2).mean()
        loss.backward()
        trainer.step(1)
    close(
        {n: p.data().asnumpy() for n, p in other.collect_params().items()},
        {n: p.data().asnumpy() for n, p in net.collect_params().items()},
        1e-6,
        1e-7,
    )
    assert step.updates == 4 and step.left_out == 0 and step.loss_scale == 1.0


@needs_compiler
def test_the_step_of_gpu_check_passes_on_a_fake_gpu(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepchecks, "STEPS", 7)
    monkeypatch.setattr(stepchecks, "BAD", (4,))
    found = run(chosen("whole steps"), tmp_path, 200.0, 1, lambda text: None)["whole steps"]
    assert (found.failures, found.passed) == ({}, 3) and not gpu.races()
