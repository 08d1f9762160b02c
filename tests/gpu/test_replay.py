"""Steps that are recorded and replayed, on a fake GPU: the bits of steps that are not."""

import gc
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn
from shoal import np as snp
from shoal.errors import ConfigError, DeviceError
from shoal.ops.backend import CPU
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.gpu.graphed import graphed
from shoal.ops.gpu.laid import Laid
from shoal.ops.gpu.replay import Replay, is_recording
from shoal.ops.graph import trace
from shoal.ops.graph.compiled import joined, trace_function
from shoal.ops.graph.executor import Program
from shoal.ops.graph.kernels import Site
from shoal.ops.graph.passes import optimize
from shoal.ops.native import table
from shoal.ops.tensor import Tensor

RATE, MOMENTUM, STEPS = np.float32(0.1), np.float32(0.9), 20


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpus() as (found,):
        yield found


def products(site: Site) -> Any:
    """Stands for cuBLASLt, which may be recorded, where CuPy's matmul may not."""
    xp = site.xp
    if site.call.op == "matmul":
        return lambda x, y, out: xp.matmul(x, y, out=out)
    if site.call.op == "fully_connected" and len(site.specs[0].shape) == 2:

        def kernel(x: Any, weight: Any, bias: Any, out: Any) -> None:
            xp.matmul(x, weight.T, out=out)
            if bias is not None:
                xp.add(out, bias, out=out)

        return kernel
    return None


def model() -> tuple[Any, Any, int]:
    """A joint graph of loss and gradients, its parameters, and how many inputs come before them."""
    net = nn.HybridSequential(nn.Dense(6, "tanh", in_units=5), nn.LayerNorm(in_channels=6), nn.Dense(3, in_units=6))
    net.initialize(shoal.init.Xavier(), seed=3)
    x, labels = Tensor(np.zeros((4, 5), "float32")), Tensor(np.zeros(4, "int64"))
    with trace.mode(training=True, recording=False):
        found = trace_function(lambda a, b: nn.SoftmaxCrossEntropyLoss()(net(a), b).mean(), (x, labels), {})
    joint = joined(found, [False, False, *[True] * len(found.captured)])
    sources = [np.array(s.current().data) for s in found.sources]
    return joint, sources, 2


def batches(count: int) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(4, 5)).astype("float32"), rng.integers(0, 3, 4)) for _ in range(count)]


def on_the_host() -> tuple[list[float], list[Any]]:
    joint, weights, _ = model()
    program = Program(optimize(joint.graph, lambda c, i: ()), CPU, planned=False)
    velocity = [np.zeros_like(w) for w in weights]
    losses = []
    for x, y in batches(STEPS):
        with table.plain():
            out = program(x, y, *weights, np.ones((), "float32"))
        losses.append(float(out[0]))
        for i, slot in enumerate(joint.slots[2:]):
            velocity[i] *= MOMENTUM
            velocity[i] += out[joint.forward + slot]
            weights[i] -= RATE * velocity[i]
    return losses, weights


class Training:
    """The same, on a GPU, as a step of `Replay`."""

    def __init__(self, gpu: FakeGpu, choose: Any = products, **options: Any) -> None:
        joint, weights, first = model()
        self.gpu, xp = gpu, gpu.xp
        self.weights = [xp.asarray(w) for w in weights]
        self.velocity = [xp.zeros_like(w) for w in self.weights]
        self.room = [xp.empty_like(w) for w in self.weights]
        one = xp.ones((), "float32")
        slots, forward = joint.slots[first:], joint.forward
        graph = optimize(joint.graph, lambda c, i: ())

        def update(outputs: list[Any], stream: Any) -> None:
            for w, v, room, slot in zip(self.weights, self.velocity, self.room, slots, strict=True):
                g = outputs[forward + slot]
                gpu.launch("momentum", lambda v=v, g=g: self.moved(v, g), stream, [v, g], [v])
                gpu.launch("sgd", lambda w=w, v=v, room=room: self.stepped(w, v, room), stream, [w, v], [w, room])

        bound = {**{first + i: w for i, w in enumerate(self.weights)}, first + len(weights): one}
        self.made: list[Laid] = []

        def make(key: Any) -> Laid:
            self.made.append(Laid(gpu, graph, bound=bound, choose=choose, after=update, watch=[0]))
            return self.made[-1]

        self.replay = Replay(gpu, make, label="training", **options)

    def moved(self, v: Any, g: Any) -> None:
        self.gpu.xp.multiply(v, MOMENTUM, out=v)
        self.gpu.xp.add(v, g, out=v)

    def stepped(self, w: Any, v: Any, room: Any) -> None:
        self.gpu.xp.multiply(v, RATE, out=room)
        self.gpu.xp.subtract(w, room, out=w)

    def run(self, count: int = STEPS) -> list[float]:
        """The losses, each read one step late."""
        losses, before = [], None
        host = [(self.gpu.pinned((4, 5), "float32"), self.gpu.pinned((4,), "int64")) for _ in range(count)]
        for (x, y), (a, b) in zip(host, batches(count), strict=True):
            x[...], y[...] = a, b
            _, late = self.replay(x, y)
            if before is not None:
                losses.append(float(before))
            before = late[0]
        return [*losses, float(before)] if before is not None else losses


@pytest.mark.parametrize("enabled", [True, False])
def test_twenty_recorded_steps_have_the_bits_of_twenty_that_are_not(gpu: FakeGpu, enabled: bool) -> None:
    losses, weights = on_the_host()
    there = Training(gpu, enabled=enabled)
    assert there.run() == losses
    for w, expected in zip(there.weights, weights, strict=True):
        np.testing.assert_array_equal(w.get(), expected)
    assert not there.replay.why_not() and not gpu.races()
    (entry,) = there.replay.entries.values()
    assert (entry.recorded is not None) == enabled


def test_a_recorded_step_takes_no_memory_and_waits_for_nothing(gpu: FakeGpu) -> None:
    there = Training(gpu)
    there.run(4)
    waits, taken = len(gpu.waits), gpu.from_driver
    x, y = gpu.pinned((4, 5), "float32"), gpu.pinned((4,), "int64")
    for _ in range(5):
        there.replay(x, y)
    assert len(gpu.waits) == waits and gpu.from_driver == taken


def test_values_share_the_arena(gpu: FakeGpu) -> None:
    there = Training(gpu)
    there.run(1)
    plan = there.made[0].plan
    assert 0 < plan.size_bytes < plan.unshared_bytes


def test_what_cannot_be_recorded_runs_as_it_is_and_is_said_once(gpu: FakeGpu, caplog: Any) -> None:
    there = Training(gpu, choose=None)  # matmul by CuPy calls cuBLAS
    with caplog.at_level(logging.WARNING, "shoal.ops.gpu"):
        losses = there.run()
    assert losses == on_the_host()[0]
    assert [r.getMessage() for r in caplog.records] == [
        f"gpu:0: training is not recorded, and runs as it is: {there.replay.why_not()[0]}"
    ]
    assert "calls cuBLAS" in there.replay.why_not()[0]


def test_a_loss_is_there_one_step_later(gpu: FakeGpu) -> None:
    there = Training(gpu)
    x, y = gpu.pinned((4, 5), "float32"), gpu.pinned((4,), "int64")
    first = there.replay(x, y)[1][0]
    assert not first.done
    second = there.replay(x, y)[1][0]
    assert float(first) == pytest.approx(float(first.value())) and first.done and not second.done


def test_graphs_are_kept_by_signature_and_the_oldest_goes(gpu: FakeGpu) -> None:
    made = []

    class Body:
        def __init__(self, key: Any) -> None:
            made.append(key)
            self.slots = [gpu.reserve(4 * shape[0]).view(dtype) for shape, dtype in key]
            self.watched: list[Any] = []

        def prepare(self, stream: Any) -> None:
            """Nothing."""

        def run(self, stream: Any) -> Any:
            self.slots[0] *= 2.0
            return self.slots[0]

    replay = Replay(gpu, Body, warm_ups=1, limit=2)
    for n in (1, 2, 1, 1, 3, 2):
        out, _ = replay(gpu.xp.ones(n, "float32"))
        assert out.get().tolist() == [2.0] * n
    assert [key[0][0] for key in made] == [(1,), (2,), (3,), (2,)] and len(replay.entries) == 2


@pytest.mark.parametrize("options", [{"warm_ups": 0}, {"limit": 0}, {"ring": 1}])
def test_impossible_numbers_are_refused(gpu: FakeGpu, options: Any) -> None:
    with pytest.raises(ConfigError, match="at least"):
        Replay(gpu, lambda key: None, **options)  # type: ignore[arg-type, return-value]  # it is not called


def test_nothing_is_collected_while_a_step_is_recorded(gpu: FakeGpu) -> None:
    seen = []

    class Body:
        slots: list[Any] = []  # noqa: RUF012  # it has none
        watched: list[Any] = []  # noqa: RUF012  # it has none

        def prepare(self, stream: Any) -> None:
            """Nothing."""

        def run(self, stream: Any) -> Any:
            seen.append((gc.isenabled(), is_recording()))

    replay = Replay(gpu, lambda key: Body(), warm_ups=1)
    replay()
    replay()
    assert seen == [(True, False), (False, True)] and gc.isenabled() and not is_recording()


# -- functions of tensors


def test_a_graphed_function_gives_what_the_function_gives(gpu: FakeGpu) -> None:
    net = nn.HybridSequential(nn.LayerNorm(in_channels=5), nn.Dropout(0.0), nn.Activation("tanh"))
    net.initialize(device="gpu:0")

    def step(x: Any) -> Any:
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        return loss

    fast = graphed(step, warm_ups=2)
    gamma = net[0].gamma.data()
    for n in range(6):
        x = snp.array(np.random.default_rng(n).normal(size=(3, 5)), device="gpu:0")
        expected, g = float(step(x).item()), gamma.grad.asnumpy()
        assert float(fast(x).item()) == expected
        np.testing.assert_array_equal(gamma.grad.asnumpy(), g)
    assert fast.why_not() == []
    (entry,) = next(iter(fast._replays.values())).entries.values()
    assert entry.recorded is not None and entry.recorded.nodes > 5


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_recorded_step_drops_what_a_step_that_is_not_drops(gpu: FakeGpu, hybrid: bool) -> None:
    def losses(enabled: bool) -> list[float]:
        net = nn.HybridSequential(nn.Dropout(0.5), nn.LayerNorm(in_channels=5), nn.Dropout(0.25))
        net.initialize(device="gpu:0")
        if hybrid:
            net.hybridize()
        shoal.random.seed(7)

        def step(x: Any) -> Any:
            with autograd.record():
                loss = (net(x) ** 2).sum()
            loss.backward()
            return loss

        fast = graphed(step, enabled=enabled)
        found = []
        for n in range(8):
            if n == 5:
                shoal.random.set_address(step=100)
            found.append(float(fast(snp.ones((3, 5), device="gpu:0")).item()))
        found.append(float(snp.random.uniform(size=1).item()))  # as many draws were made
        assert fast.why_not() == []
        return found

    recorded, plain = losses(True), losses(False)
    assert recorded == plain and len(set(plain)) == 9


@pytest.mark.parametrize("passes", [None, "none"])
def test_a_hybridized_model_on_a_gpu_has_the_bits_of_the_imperative_one_and_does_not_wait(
    gpu: FakeGpu, passes: str | None
) -> None:
    def trained(hybrid: bool) -> list[Any]:
        shoal.random.seed(3)
        net = nn.HybridSequential(nn.Dense(7, "relu"), nn.Dropout(0.5), nn.LayerNorm(), nn.Dense(3))
        net.initialize(device="gpu:0", seed=1)
        if hybrid:
            net.hybridize(passes=passes)
        found = []
        for n in range(3):
            x = snp.array(np.random.default_rng(n).normal(size=(8, 5)).astype("float32"), device="gpu:0")
            with autograd.record():
                loss = (net(x) ** 2).mean()
            loss.backward()
            found += [loss, net[0].weight.grad().copy()]
        assert not gpu.waits
        return found

    for a, b in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_on_the_host_a_graphed_function_is_called() -> None:
    assert graphed(lambda x: x + 1.0)(snp.ones(2)).tolist() == [2.0, 2.0]


def test_an_update_is_not_recorded(gpu: FakeGpu) -> None:
    w = snp.ones(3, device="gpu:0")
    w.attach_grad()
    rule = shoal.optim.create("adam")
    state = rule.init(w.data)

    def step(x: Any) -> Any:
        with autograd.record():
            loss = (w * x).sum()
        loss.backward()
        rule.step(w.data, w.grad.data, state, 1)

    fast = graphed(step, warm_ups=1)
    fast(snp.ones(3, device="gpu:0"))
    fast(snp.ones(3, device="gpu:0"))
    assert "call Trainer.step() behind the recorded function" in fast.why_not()[0]


def test_a_graphed_function_is_of_one_gpu() -> None:
    with fake_gpus(2), pytest.raises(DeviceError, match="tensors of one GPU"):
        graphed(lambda x, y: x)(snp.ones(1, device="gpu:0"), snp.ones(1, device="gpu:1"))
