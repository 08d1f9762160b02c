"""What only a GPU can confirm of mixed precision, of the path to the servers, and of NCCL."""

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import amp, autograd, nn
from shoal.errors import ConfigError
from shoal.ops.gpu.device import gpu
from shoal.ops.gpu.nccl import NcclCommunicator, nccl_id
from shoal.ops.precision import BFLOAT16
from shoal.worker.device.path import DevicePath
from shoal.worker.device.plan import Item, planned

pytestmark = pytest.mark.gpu


def trained(device: str, kvstore: str, overlap: bool) -> Any:
    shoal.random.seed(4)
    net = nn.HybridSequential(nn.Dense(64, "tanh", in_units=32), nn.LayerNorm(in_channels=64), nn.Dense(8, in_units=64))
    net.initialize()
    if device != "cpu":
        net.to(device)
    trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.01}, kvstore=kvstore)
    rng = np.random.default_rng(9)
    for _ in range(20):
        x = shoal.np.array(rng.standard_normal((16, 32)).astype(np.float32), device=device)
        with autograd.record():
            loss = (net(x) ** 2).mean()
        if overlap:
            with trainer.overlap(1):
                loss.backward()
        else:
            loss.backward()
        trainer.step(1)
    trainer.finish()
    return {n: p.data().asnumpy() for n, p in net.collect_params().items()}


@pytest.mark.parametrize("kvstore", ["local", "device"])
@pytest.mark.parametrize("overlap", [True, False])
def test_training_through_the_path_is_training_on_the_host(kvstore: str, overlap: bool) -> None:
    expected, found = trained("cpu", "local", False), trained("gpu:0", kvstore, overlap)
    for name, value in expected.items():
        assert np.allclose(found[name], value, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("wire", ["", "bf16"])
def test_two_hundred_steps_arrive_whole_through_three_slots(wire: str) -> None:
    buckets = planned({f"w{i}": Item((50_000 + i,), np.dtype(np.float32)) for i in range(12)}, 1 << 18)
    rng = np.random.default_rng(1)
    sent: list[tuple[int, Any]] = []

    def send(i: int, given: Any, values: Any) -> Future[Any]:
        assert given is values
        sent.append((i, values[:64].copy()))
        values += 1.0
        future: Future[Any] = Future()
        future.set_result(values)
        return future

    g = gpu(0)
    path = DevicePath(g, buckets, send, wire=wire)
    path.start()
    with g.use():
        for _ in range(200):
            given = [rng.standard_normal(b.size).astype(np.float32) for b in buckets]
            sent.clear()
            path.begin()
            for i, values in enumerate(given):
                path.grads[i][...] = g.xp.asarray(values)
                path.ready(i, 0.5)
            for i in reversed(range(len(buckets))):
                path.arrived(i)
            for i, head in sent:
                scaled = given[i][:64] * np.float32(0.5)
                expected = scaled.astype(BFLOAT16).astype(np.float32) if wire else scaled
                assert np.array_equal(head, expected)
                assert np.array_equal(path.weights[i][:64].get(), expected + np.float32(1.0))
    path.close()


def test_nccl_with_one_member_gives_what_it_is_given() -> None:
    g = gpu(0)
    try:
        group = NcclCommunicator(g, nccl_id(), 0, 1)
    except ConfigError as error:
        pytest.skip(str(error))
    with g.use():
        for dtype in (np.float32, np.float16, BFLOAT16):
            a = g.xp.asarray(np.arange(6)).astype(dtype)
            out = g.xp.zeros(6, dtype)
            group.all_reduce(a)
            group.reduce(a)
            group.broadcast(a)
            group.reduce_scatter(a, out)
            group.all_gather(out, a)
            assert a.get().astype(float).tolist() == list(range(6))
    group.barrier()
    group.close()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_a_net_under_autocast_gives_what_it_gives_on_the_host(dtype: str, tolerance: float) -> None:
    net = nn.HybridSequential(nn.Conv2D(8, 3, in_channels=3), nn.BatchNorm(), nn.Activation("relu"), nn.Dense(5))
    net.initialize()
    x = np.random.default_rng(2).standard_normal((4, 3, 8, 8)).astype(np.float32)
    net(shoal.np.array(x))

    def outputs(device: str) -> Any:
        net.to(device)
        with amp.autocast(dtype):
            found = net(shoal.np.array(x, device=device))
        assert found.dtype == dtype
        return found.asnumpy().astype(np.float32)

    assert np.allclose(outputs("gpu:0"), outputs("cpu"), rtol=tolerance, atol=tolerance)
