"""Training with a `Trainer` through the path from a GPU to the store, on GPUs made of NumPy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
import shoal.worker.strategies.device
from shoal import amp, autograd, nn
from shoal.errors import AutogradError, ConfigError
from shoal.ops.gpu.check import chosen, run
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.worker.device import checks
from shoal.worker.device.plan import planned
from tests.worker.device_streams import let_streams_go_on


@pytest.fixture(autouse=True)
def _streams_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    let_streams_go_on(monkeypatch)


def trained(
    device: str, kvstore: str = "local", overlap: bool = True, optimizer: str = "sgd", codec: str = "", **options: Any
) -> Any:
    shoal.random.seed(4)
    net = nn.HybridSequential(nn.Dense(7, "tanh", in_units=5), nn.Dense(6, in_units=7), nn.Dense(2, in_units=6))
    net.initialize()
    if device != "cpu":
        net.to(device)
    trainer = shoal.Trainer(
        net.collect_params(),
        optimizer,
        {"learning_rate": 0.1, **options},
        kvstore=kvstore,
        compression_params=codec or None,
    )
    rng, losses = np.random.default_rng(9), []
    for _ in range(4):
        x = shoal.np.array(rng.standard_normal((3, 5)).astype(np.float32), device=device)
        with autograd.record():
            loss = (net(x) ** 2).sum()
        if overlap:
            with trainer.overlap(3):
                loss.backward()
        else:
            loss.backward()
        trainer.step(3)
        losses.append(float(loss.asnumpy()))
    trainer.finish()
    assert trainer.kvstore is not None
    trainer.kvstore.close()
    return losses, {n: p.data().asnumpy() for n, p in net.collect_params().items()}


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """A fake GPU, whose streams go on by themselves when the path has nothing else to do."""
    with fake_gpus() as (made,):
        yield made


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_on_a_gpu_has_the_numbers_of_the_host(optimizer: str, overlap: bool) -> None:
    expected, weights = trained("cpu", optimizer=optimizer)
    found, there = trained("gpu", optimizer=optimizer, overlap=overlap)
    assert np.allclose(found, expected, rtol=1e-6)
    for name, value in weights.items():
        assert np.allclose(there[name], value, rtol=1e-5, atol=1e-7), name


@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities of the host are told
def test_a_step_whose_scaled_gradients_overflow_is_skipped_as_on_the_host() -> None:
    def run(device: str) -> tuple[Any, dict[str, Any]]:
        shoal.random.seed(4)
        net = nn.HybridSequential(nn.Dense(7, "tanh", in_units=5), nn.Dense(2, in_units=7))
        net.initialize()
        if device != "cpu":
            net.to(device)
        trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore="local")
        amp.init_trainer(trainer, init_scale=256.0, growth_interval=3)
        for n in range(6):
            x = np.random.default_rng(n).standard_normal((3, 5)).astype(np.float32) * (np.inf if n == 2 else 1.0)
            given = shoal.np.array(x.astype(np.float32), device=device)
            with amp.autocast("float16"), autograd.record():
                loss = (net(given).astype("float32") ** 2).mean()
                with amp.scale_loss(loss, trainer) as scaled:
                    scaled.backward()
            trainer.step(1)
        trainer.finish()
        assert trainer.scaler is not None
        return trainer.scaler.state, {n: p.data().asnumpy() for n, p in net.collect_params().items()}

    state, weights = run("cpu")
    found, there = run("gpu")
    assert found == state and state.skipped == 1
    for name, value in weights.items():
        assert np.isfinite(value).all() and np.allclose(there[name], value, rtol=1e-2, atol=2e-3), name


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("codec", ["fp16", "bf16", "2bit:threshold=0.05", "1bit"])
def test_training_with_a_codec_has_the_numbers_of_the_host(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These work value by value: it makes no difference that a bucket holds several parameters."""
    monkeypatch.setattr(shoal.worker.strategies.device, "planned", lambda items: planned(items, 400))
    options: dict[str, Any] = {"learning_rate": 0.01, "codec": codec}
    (found, there), (expected, weights) = trained("gpu", **options), trained("cpu", **options)
    assert np.allclose(found, expected, rtol=1e-5)
    for name, value in weights.items():
        assert np.allclose(there[name], value, rtol=1e-5, atol=1e-7), name


CODECS = [
    "int8",
    "int8:feedback=true",
    "qsgd",
    "onebit",
    "efsign",
    "topk:ratio=0.1",
    "randomk:ratio=0.3",
    "sign",
    "2bit",
]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("codec", CODECS)
def test_one_parameter_that_fills_its_bucket_trains_with_the_bits_of_the_host(codec: str) -> None:
    def run(device: str) -> Any:
        shoal.random.seed(4)
        net = nn.Dense(16, use_bias=False, in_units=16)
        net.initialize()
        if device != "cpu":
            net.to(device)
        trainer = shoal.Trainer(
            net.collect_params(), "sgd", {"learning_rate": 0.01}, kvstore="local", compression_params=codec
        )
        for n in range(5):
            x = np.random.default_rng(n).standard_normal((4, 16)).astype(np.float32)
            with autograd.record():
                loss = (net(shoal.np.array(x, device=device)) ** 2).sum()
            loss.backward()
            trainer.step(4)
        trainer.finish()
        if device != "cpu":
            assert [type(w).__name__ for w in trainer._stepper.path._wires] == ["_Encoded"]
        return net.weight.data().asnumpy()

    assert run("gpu").tobytes() == run("cpu").tobytes()


@pytest.mark.usefixtures("gpu")
def test_a_codec_that_is_changed_in_the_store_changes_on_the_gpu() -> None:
    net = nn.Dense(2, in_units=3)
    net.initialize()
    net.to("gpu")
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore="local")
    for codec in (None, "2bit", "dgc", "int8", "topk:ratio=1.0", "bf16", "sign"):
        assert trainer.kvstore is not None
        trainer.kvstore.set_gradient_compression(codec)
        with autograd.record():
            loss = net(shoal.np.ones((1, 3), device="gpu")).sum()
        loss.backward()
        trainer.step(1)
        kinds = [type(w).__name__ for w in trainer._stepper.path._wires]
        assert kinds == [{None: "_AsItIs", "dgc": "_AsItIs", "bf16": "_Rounded"}.get(codec, "_Encoded")]
    trainer.finish()


@pytest.mark.usefixtures("gpu")
def test_a_codec_that_a_run_changes_at_a_clock_is_met_by_parts_of_the_one_before() -> None:
    """The step that takes the change has been encoded on the GPU already: the host decodes it, and encodes it anew."""
    net = nn.Dense(16, use_bias=False, in_units=16)
    net.initialize()
    net.to("gpu")
    options = {"learning_rate": 0.1}
    trainer = shoal.Trainer(net.collect_params(), "sgd", options, kvstore="local", compression_params="2bit")
    kinds = []
    for n in range(4):
        with autograd.record():
            loss = net(shoal.np.ones((1, 16), device="gpu")).sum()
        loss.backward()
        trainer.step(1)
        kinds.append(trainer._stepper.path._wires[0]._codec.codec.name)
        if n == 0:
            assert trainer.kvstore is not None
            trainer.kvstore.control(codec="int8", at_clock=2)
    trainer.finish()
    assert kinds == ["2bit", "2bit", "2bit", "int8"]


@pytest.mark.usefixtures("gpu")
def test_a_device_store_of_one_gpu_trains_as_a_local_one() -> None:
    assert trained("gpu", "device")[0] == trained("gpu", "local")[0]


def test_streams_of_a_training_do_not_race(gpu: FakeGpu) -> None:
    trained("gpu")
    assert gpu.races() == []


@pytest.mark.usefixtures("gpu")
def test_what_does_not_fit_is_refused() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=2), nn.Dense(2, in_units=2))
    net.initialize()
    net[0].to("gpu")
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore="local")
    with pytest.raises(ConfigError, match="all on one GPU, or all in host memory"):
        trainer.step(1)
    net[1].to("gpu")
    with pytest.raises(ConfigError, match="update_on_kvstore=False with parameters on a GPU"):
        shoal.Trainer(net.collect_params(), "sgd", kvstore="local", update_on_kvstore=False).step(1)


@pytest.mark.usefixtures("gpu")
def test_a_parameter_that_is_moved_after_the_first_step_is_noticed() -> None:
    net = nn.Dense(2, in_units=2)
    net.initialize()
    net.to("gpu")
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore="local")
    for move in (False, True):
        if move:
            net.to("cpu")
            net.to("gpu")
        with autograd.record():
            loss = net(shoal.np.ones((1, 2), device="gpu")).sum()
        loss.backward()
        if not move:
            trainer.step(1)
    with pytest.raises(ConfigError, match="was moved or converted after the first step"):
        trainer.step(1)


@pytest.mark.usefixtures("gpu")
def test_a_second_pass_in_one_overlap_is_an_error() -> None:
    net = nn.Dense(2, in_units=2)
    net.initialize()
    net.to("gpu")
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore="local")
    x = shoal.np.ones((1, 2), device="gpu")

    def loss() -> Any:
        with autograd.record():
            return net(x).sum()

    loss().backward()
    trainer.step(1)
    with trainer.overlap(1):
        loss().backward()
        with pytest.raises(AutogradError, match="second backward pass"):
            loss().backward()


@pytest.mark.usefixtures("gpu")
def test_a_scaled_loss_in_float16_trains_on_a_gpu_and_skips_an_overflow() -> None:
    from shoal import amp

    net = nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones")
    net.initialize()
    net.to("gpu")
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.25}, kvstore="local")
    amp.init_trainer(trainer, init_scale=256.0)
    x = shoal.np.array(np.array([[1.0, 2.0]], np.float32), device="gpu")
    for factor in (1.0, 1000.0, 1.0):
        with amp.autocast("float16"), autograd.record():
            loss = (net(x) * factor).sum()
            with amp.scale_loss(loss, trainer) as scaled:
                scaled.backward()
        trainer.step(1)
    trainer.finish()
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.0]])
    assert trainer.scaler is not None and trainer.scaler.get_scale() == 128.0


@pytest.mark.usefixtures("gpu")
def test_the_steps_of_gpu_check_pass_on_a_fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SIZES", (1000,))
    monkeypatch.setattr(checks, "SPECS", ("2bit", "int8", "topk:ratio=0.1"))
    monkeypatch.setattr(checks, "CODECS", ("", "int8"))
    found = run(chosen("codecs,path"), tmp_path, 250.0, 1, lambda text: None)
    assert {n: (r.passed, r.failures) for n, r in found.items()} == {
        "codecs": (7, {}),
        "path": (4, {}),
    }
