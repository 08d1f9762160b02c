"""Hybridized blocks that record themselves on a fake GPU: the bits of those that do not, and what keeps them off."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, cuda, nn
from shoal import np as snp
from shoal.ops.gpu import captured
from shoal.ops.gpu.captured import Captured
from shoal.ops.gpu.fake import FakeGpu, arrays, fake_gpus
from shoal.worker.device.path import DevicePath

STEPS = 20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """One whose products may be recorded, as those of cuBLASLt may."""
    monkeypatch.delitem(arrays.LIBRARIES, "matmul")
    monkeypatch.delitem(arrays.LIBRARIES, "__matmul__")
    with fake_gpus() as (found,):
        yield found


def network(dropout: float = 0.0, **options: Any) -> Any:
    shoal.random.seed(11)
    net = nn.HybridSequential(
        nn.Dense(8, "tanh", in_units=5), nn.LayerNorm(in_channels=8), nn.Dropout(dropout), nn.Dense(3, in_units=8)
    )
    net.initialize(shoal.init.Xavier(), seed=3)
    net.to("gpu:0")
    net.hybridize(**options)
    return net


def batch(i: int, rows: int = 4) -> Any:
    rng = np.random.default_rng(i)
    return snp.array(rng.normal(size=(rows, 5)).astype("float32"), device="gpu:0")


def train(net: Any, steps: int = STEPS, rows: Any = lambda i: 4) -> tuple[list[float], dict[str, Any]]:
    shoal.random.seed(5)
    trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01}, kvstore=None)
    losses = []
    for i in range(steps):
        with autograd.record():
            loss = (net(batch(i, rows(i))) ** 2).mean()
        loss.backward()
        trainer.step(1)
        losses.append(float(loss.item()))
    return losses, {n: p.data().asnumpy() for n, p in net.collect_params().items()}


def recorders(net: Any) -> list[Captured]:
    """What records the graphs of a block."""
    programs = [p for t in net._compiled.traces.values() for p in t.programs.values()]
    return [p.start.__self__ for p in programs if isinstance(p.start.__self__, Captured)]


def same(a: Any, b: Any) -> None:
    assert a[0] == b[0]
    for name, value in a[1].items():
        np.testing.assert_array_equal(value, b[1][name])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_twenty_steps_that_record_themselves_have_the_bits_of_steps_that_do_not(gpu: FakeGpu, dropout: float) -> None:
    net = network(dropout)
    found = train(net)
    (recorder,) = recorders(net)
    assert recorder._forward is not None and recorder.backward is not None and not net.why_not_recorded()
    assert not gpu.races()
    plain = network(dropout, recorded=False)
    same(found, train(plain))
    assert not recorders(plain)


def test_a_recorded_step_takes_no_memory_from_the_driver(gpu: FakeGpu) -> None:
    net = network(0.4)
    train(net, 6)
    before = gpu.from_driver
    with autograd.record():
        loss = (net(batch(1)) ** 2).mean()
    loss.backward()
    assert gpu.from_driver == before


def test_each_replay_draws_anew(gpu: FakeGpu) -> None:
    net, x = network(0.5), batch(0)
    seen = []
    for _ in range(8):
        with autograd.record():
            y = net(x)
        seen.append(y.asnumpy())
        y.backward()
    assert recorders(net)[0]._forward is not None
    assert all(not np.array_equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_each_signature_has_a_recording(gpu: FakeGpu) -> None:
    def rows(i: int) -> int:
        return (4, 2, 7)[i % 3]

    net = network()
    found = train(net, 15, rows)
    assert len(recorders(net)) == 3 and all(r.backward is not None for r in recorders(net))
    same(found, train(network(recorded=False), 15, rows))


def test_results_stay_what_they_are_when_the_next_step_runs(gpu: FakeGpu) -> None:
    net = network()
    kept = [net(batch(i)) for i in range(6)]
    assert recorders(net)[0]._forward is not None
    for i, y in enumerate(kept):
        net.hybridize(False)
        np.testing.assert_array_equal(y.asnumpy(), net(batch(i)).asnumpy())


def test_two_forward_passes_before_a_backward_pass_are_right(gpu: FakeGpu) -> None:
    def gradients(net: Any) -> Any:
        for i in range(6):
            with autograd.record():
                loss = (net(batch(i)) ** 2).mean() + (net(batch(i + 1)) ** 3).mean()
            loss.backward()
        return {n: p.grad().asnumpy() for n, p in net.collect_params().items()}

    found, expected = gradients(network()), gradients(network(recorded=False))
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_backward_pass_can_be_made_again(gpu: FakeGpu) -> None:
    net = network()
    for i in range(5):
        with autograd.record():
            loss = (net(batch(i)) ** 2).mean()
        loss.backward(retain_graph=True)
        first = net[0].weight.grad().asnumpy()
        loss.backward()
        np.testing.assert_array_equal(first, net[0].weight.grad().asnumpy())
    assert recorders(net)[0].backward is not None


def test_what_cannot_be_recorded_runs_as_it_is_and_is_said_once(caplog: Any) -> None:
    with fake_gpus(), caplog.at_level(logging.WARNING, "shoal.ops.gpu"):
        net = network()
        found = train(net)  # products by CuPy call cuBLAS
        same(found, train(network(recorded=False)))
        (why,) = net.why_not_recorded()
        assert "calls cuBLAS" in why
        assert [r.getMessage().endswith(why) for r in caplog.records] == [True]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_it_can_be_switched_off(gpu: FakeGpu, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "environment":
        monkeypatch.setenv("SHOAL_GPU_RECORD", "0")
    net = network(recorded=how != "option")
    train(net, 5)
    assert not [r for r in recorders(net) if r._forward is not None]


def test_parameters_that_move_are_recorded_again_and_given_up_at_last(gpu: FakeGpu) -> None:
    net = network()
    for i in range(30):
        y = net(batch(i))
        plain = network(recorded=False)
        np.testing.assert_array_equal(y.asnumpy(), plain(batch(i)).asnumpy())
        if i % 5 == 4:
            for p in net.collect_params().values():
                p.data().data = p.data().data.copy()
    assert net.why_not_recorded() == [f"its parameters were moved {captured.MOVES + 1} times"]


def test_only_so_many_signatures_are_recorded(gpu: FakeGpu) -> None:
    net = network()
    for rows in range(1, captured.LIMIT + 2):
        for _ in range(4):
            net(batch(rows, rows))
    assert net.why_not_recorded() == [f"{captured.LIMIT} signatures are recorded already"]


def test_inside_a_step_that_is_recorded_as_a_whole_a_block_does_not_record_itself(gpu: FakeGpu) -> None:
    net = network()
    step = cuda.graphed(lambda x: net(x) * 2.0)
    for i in range(6):
        np.testing.assert_array_equal(step(batch(i)).asnumpy(), (network(recorded=False)(batch(i)) * 2.0).asnumpy())
    assert not step.why_not() and not [r for r in recorders(net) if r._forward is not None]


def test_through_a_store_weights_arrive_before_the_recording_reads_them(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DevicePath.__init__

    def made(self: Any, *given: Any, **options: Any) -> None:
        first(self, *given, **{**options, "idle": gpu.synchronize})  # a real GPU works while nobody looks
        self.start = lambda: None

    monkeypatch.setattr(DevicePath, "__init__", made)

    def trained(**options: Any) -> Any:
        net = network(**options)
        trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore="local")
        for i in range(8):
            with autograd.record():
                loss = (net(batch(i)) ** 2).mean()
            with trainer.overlap(1):
                loss.backward()
            trainer.step(1)
        trainer.finish()
        return {n: p.data().asnumpy() for n, p in net.collect_params().items()}

    found, expected = trained(), trained(recorded=False)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
    assert not gpu.races()
