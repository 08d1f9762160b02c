"""NCCL by CuPy, on GPUs made of NumPy and a library made of threads: arguments, streams, and training with two GPUs."""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn
from shoal.errors import DTypeError, ShapeError
from shoal.kvstore.group import base
from shoal.kvstore.group.communicator import Communicator
from shoal.kvstore.group.device import DeviceKVStore
from shoal.kvstore.group.hosts import HostsKVStore
from shoal.kvstore.group.meeting import Hosts
from shoal.kvstore.group.shared import SharedCommunicator
from shoal.kvstore.local import LocalKVStore
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.gpu.fake.gpu import entered
from shoal.ops.gpu.nccl import NcclCommunicator
from shoal.ops.precision import BFLOAT16
from shoal.worker.device.path import DevicePath
from tests.crew import each
from tests.patience import RUN_S

NAMES = ["INT8", "UINT8", "INT32", "UINT32", "INT64", "UINT64", "FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"]
DTYPES = [BFLOAT16 if n == "BFLOAT16" else np.dtype(n.lower()) for n in NAMES]


class Library:
    """The names and signatures of ``cupy.cuda.nccl`` 14.2; collectives end when all members' streams are there."""

    NCCL_SUM = 77

    def __init__(self, size: int) -> None:
        self.size, self.barrier = size, threading.Barrier(size, timeout=RUN_S)
        self.given: list[Any] = [None] * size
        for code, name in enumerate(NAMES):
            setattr(self, f"NCCL_{name}", code)

    def NcclCommunicator(self, ndev: int, commid: bytes, rank: int) -> "Member":
        assert ndev == self.size and len(commid) == 128
        return Member(self, rank)


class Member:
    def __init__(self, library: Library, rank: int) -> None:
        self.library, self.rank, self.left = library, rank, False

    def _meet(self, mine: Any) -> list[Any]:
        library = self.library
        library.barrier.wait()
        library.given[self.rank] = mine
        library.barrier.wait()
        found = [x.copy() for x in library.given]
        library.barrier.wait()
        return found

    @staticmethod
    def _at(pointer: int, count: int, kind: int) -> Any:
        nbytes = count * DTYPES[kind].itemsize
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8).view(DTYPES[kind])

    def _sum(self, sendbuf: int, count: int, kind: int, op: int) -> Any:
        assert op == Library.NCCL_SUM
        found = self._meet(self._at(sendbuf, count, kind))
        total = found[0]
        for part in found[1:]:
            total = total + part
        return total

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        self._at(recvbuf, count, datatype)[...] = self._sum(sendbuf, count, datatype, op)

    def reduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, root: int, stream: int) -> None:
        total = self._sum(sendbuf, count, datatype, op)
        self._at(recvbuf, count, datatype)[...] = total if self.rank == root else 0

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self._at(recvbuff, count, datatype)[...] = self._meet(self._at(sendbuff, count, datatype))[root]

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:
        total = self._sum(sendbuf, recvcount * self.library.size, datatype, op)
        self._at(recvbuf, recvcount, datatype)[...] = total[self.rank * recvcount : (self.rank + 1) * recvcount]

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        parts = self._meet(self._at(sendbuf, count, datatype))
        self._at(recvbuf, count * self.library.size, datatype)[...] = np.concatenate(parts)

    def destroy(self) -> None:
        self.left = True


def on_each(size: int, work: Callable[[FakeGpu, int], Any]) -> list[Any]:
    """What ``work`` gives for each of some GPUs, each with a thread of its own."""
    with fake_gpus(size) as gpus:

        def member(rank: int) -> Any:
            with entered(rank):
                return work(gpus[rank], rank)

        return each(size, member)


def three_steps(net: nn.Block, trainer: shoal.Trainer, device: str, seed: int, inputs: int) -> None:
    """Train ``net`` on random numbers, as overlapped as it can be."""
    rng = np.random.default_rng(seed)
    for _ in range(3):
        x = shoal.np.array(rng.standard_normal((3, inputs)).astype(np.float32), device=device)
        with autograd.record():
            loss = (net(x) ** 2).sum()
        with trainer.overlap(3):
            loss.backward()
        trainer.step(3)
    trainer.finish()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64"])
def test_every_operation_is_done_in_its_stream_behind_the_work_before(dtype: str) -> None:
    kind: Any = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    library = Library(2)

    def work(gpu: FakeGpu, rank: int) -> Any:
        group: Communicator = NcclCommunicator(gpu, bytes(128), rank, 2, library)
        xp = gpu.xp

        def fresh() -> Any:
            return xp.asarray(np.arange(4).astype(kind)) * kind.type(rank + 1)

        every, rooted, told, part, whole = fresh(), fresh(), fresh(), xp.zeros(2, kind), xp.zeros(4, kind)
        group.all_reduce(every)
        group.reduce(rooted, 1)
        group.broadcast(told, 1)
        group.reduce_scatter(fresh(), part)
        group.all_gather(part, whole)
        twice = every + every
        group.barrier()
        assert gpu.waits == []
        gpu.synchronize()
        assert gpu.races() == []
        group.close()
        return [x.get().astype(float).tolist() for x in (every, rooted, told, part, whole, twice)]

    first, second = on_each(2, work)
    total = [0, 3, 6, 9]
    assert first[0] == second[0] == total and second[1] == total and first[2] == second[2] == [0, 2, 4, 6]
    assert (first[3], second[3]) == ([0, 3], [6, 9]) and first[4] == second[4] == total
    assert first[5] == [0, 6, 12, 18]


def test_what_does_not_fit_is_refused() -> None:
    with fake_gpus(1) as (gpu,):
        group = NcclCommunicator(gpu, bytes(128), 0, 1, Library(1))
        with pytest.raises(DTypeError, match="NCCL does not add complex64"):
            group.all_reduce(gpu.xp.zeros(2, np.complex64))
        with pytest.raises(ShapeError, match="the whole is 1 parts: expected 2 elements"):
            group.all_gather(gpu.xp.zeros(2, np.float32), gpu.xp.zeros(3, np.float32))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """One that paths to a store use; GPUs go on while somebody waits."""
    made = Library(2)
    monkeypatch.setattr(base, "nccl_id", lambda: bytes(128))
    monkeypatch.setattr(
        base, "NcclCommunicator", lambda gpu, unique, rank, size: NcclCommunicator(gpu, unique, rank, size, made)
    )
    monkeypatch.setattr(DevicePath, "start", lambda self: None)
    first = DevicePath.__init__

    def idle(self: DevicePath) -> None:
        for stream in self.gpu.timeline.streams[1:]:  # type: ignore[attr-defined]  # a fake one
            stream.carry_out(stream.given)

    def path(self: Any, *inputs: Any, **options: Any) -> None:
        first(self, *inputs, **{"idle": lambda: idle(self), **options})

    monkeypatch.setattr(DevicePath, "__init__", path)
    return made


@pytest.mark.usefixtures("library")
def test_two_gpus_train_as_two_processes_of_the_host_do() -> None:
    lock = threading.Lock()

    def trained(device: str, group: Communicator) -> Any:
        with lock:  # parameters are numbered as they are made
            shoal.random.seed(4)
            net = nn.HybridSequential(nn.Dense(7, "tanh", in_units=5), nn.Dense(2, in_units=7))
            net.initialize()
            if device != "cpu":
                net.to(device)
            store = DeviceKVStore(Hosts((0, 0), group.rank), group)
            trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9}, kvstore=store)
        three_steps(net, trainer, device, group.rank, 5)
        return {n: p.data().asnumpy() for n, p in net.collect_params().items()}

    def on_gpu(gpu: FakeGpu, rank: int) -> Any:
        return trained(f"gpu:{rank}", SharedCommunicator("nccl-test-gpu", rank, 2, timeout_s=60.0))

    a, b = on_each(2, on_gpu)
    c, d = on_each(2, lambda gpu, rank: trained("cpu", SharedCommunicator("nccl-test-cpu", rank, 2, timeout_s=60.0)))
    for name in a:
        assert np.array_equal(a[name], b[name]) and np.array_equal(c[name], d[name])
        assert np.allclose(a[name], c[name], rtol=1e-5, atol=1e-7), name


class Owned(LocalKVStore):
    """Stands for the servers of one owner's keys, which every member of the host initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    def init(self, key: Any, value: Any, **options: Any) -> None:
        if key not in self.keys():
            super().init(key, value, **options)

    def set_gradient_compression(self, compression_params: Any) -> None:
        if not self.compression:
            super().set_gradient_compression(compression_params)

    def pushpull_encoded(self, key: Any, encoded: Any, out: Any, priority: int = 0) -> Any:
        self.given.append(encoded.spec)
        return super().pushpull_encoded(key, encoded, out, priority)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("codec", ["", "bf16", "int8", "2bit:threshold=0.01", "topk:ratio=0.2", "randomk:ratio=0.3"])
@pytest.mark.parametrize("hosts", [(0, 0), (0, 0, 1)], ids=["even", "uneven"])
def test_the_owner_of_a_bucket_encodes_the_sum_of_its_host_on_its_gpu(codec: str, hosts: tuple[int, ...]) -> None:
    """The members' GPUs add up, the owner takes the mean, encodes, pushes and pulls, and hands the weights round."""
    lock = threading.Lock()

    def trained(device: str, group: Communicator, stores: list[Owned]) -> Any:
        with lock:
            shoal.random.seed(4)
            net = nn.HybridSequential(
                nn.Dense(16, "tanh", use_bias=False, in_units=16), nn.Dense(8, use_bias=False, in_units=16)
            )
            net.initialize()
            if device != "cpu":
                net.to(device)
            store = HostsKVStore(Hosts(hosts, group.rank), group, "mean", stores)
            if codec:
                store.set_gradient_compression(codec)
            assert (store.compression == "") == (codec == "")
            params = net.collect_params()
            for i, p in enumerate(params.values()):
                p.lr_mult = 1.0 + i  # each has a bucket of its own, as it has a key of its own on the host
            trainer = shoal.Trainer(params, "sgd", {"learning_rate": 0.1}, kvstore=store)
        three_steps(net, trainer, device, group.rank, 16)
        return [p.data().asnumpy() for p in params.values()]

    owners = 2 if hosts == (0, 0) else 1
    found: list[list[Any]] = []
    for place in ("gpu", "cpu"):
        stores = [Owned() for _ in range(owners)]

        def work(gpu: FakeGpu, rank: int, place: str = place, stores: list[Owned] = stores) -> Any:
            group = SharedCommunicator(f"owners-{place}-{len(hosts)}-{codec[:4]}", rank, 2, timeout_s=60.0)
            return trained(f"gpu:{rank}" if place == "gpu" else "cpu", group, stores)

        found += on_each(2, work)
        encoded = place == "gpu" and codec not in ("", "bf16")
        assert [len(s.given) for s in stores] == [6 // owners if encoded else 0] * owners
    for a, b, c in zip(found[0], found[1], found[2], strict=True):
        assert np.array_equal(a, b)
        if owners == 2 or codec in ("", "bf16", "2bit:threshold=0.01"):
            assert np.allclose(a, c, rtol=1e-5, atol=1e-6)
