"""The all-reduce store over real sockets: what it gives, what it refuses, and how it fails."""

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, NodeLostError, ShapeError, StoreTimeoutError
from shoal.kvstore.arrays import BFLOAT16
from shoal.kvstore.client.shell import Call
from shoal.kvstore.ring.arithmetic import Arrays
from shoal.kvstore.ring.buckets import Bucket
from shoal.kvstore.ring.events import Collective
from shoal.kvstore.ring.store import AllReduceKVStore
from shoal.ops import optim
from tests.kvstore.membership import FakeMembership
from tests.kvstore.ringthreads import ring_cluster
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net


def ones(*shape: int, value: float = 1.0) -> np.ndarray:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_pushpull_gives_every_worker_the_mean(workers: int) -> None:
    def work(kv: AllReduceKVStore) -> np.ndarray:
        kv.init("w", ones(5, 3))
        grad = ones(5, 3, value=kv.rank + 1)
        out = kv.pushpull("w", grad)
        assert out is grad
        kv.close()
        return grad

    with ring_cluster(workers) as cluster:
        for result in cluster.each(work):
            np.testing.assert_allclose(result, (workers + 1) / 2)


@pytest.mark.parametrize("algorithm", ["ring", "halving", "doubling", "auto"])
@pytest.mark.parametrize("size", [1, 7, 1000, 700_001])
def test_every_algorithm_gives_the_same_bits_on_every_worker(algorithm: str, size: int) -> None:
    def work(kv: AllReduceKVStore) -> np.ndarray:
        rng = np.random.default_rng(kv.rank)
        kv.init("w", np.zeros(size, np.float32))
        out = np.empty(size, np.float32)
        kv.pushpull("w", (rng.standard_normal(size) * 10.0**kv.rank).astype(np.float32), out)
        return out

    with ring_cluster(4) as cluster:
        results = cluster.each(work, "sum", algorithm)
    assert len({r.tobytes() for r in results}) == 1
    want = sum(np.random.default_rng(r).standard_normal(size) * 10.0**r for r in range(4))
    np.testing.assert_allclose(results[0], want, rtol=1e-3, atol=1e-2)


def test_init_gives_every_worker_worker_0s_value() -> None:
    def work(kv: AllReduceKVStore) -> tuple[Any, Any]:
        kv.init(["a", "b"], [ones(3, value=kv.rank), ones(2, value=5 + kv.rank)])
        return kv.pull(["a", "b"])

    with ring_cluster(3) as cluster:
        for a, b in cluster.each(work):
            assert a.tolist() == [0.0] * 3 and b.tolist() == [5.0] * 2


def test_broadcast_writes_worker_0s_value_where_it_is_wanted() -> None:
    def work(kv: AllReduceKVStore) -> list[Any]:
        mine, out = ones(2, value=kv.rank), np.empty(2, np.float32)
        kv.broadcast("w", mine)
        first = mine.tolist()
        kv.broadcast("w", ones(2, value=7 + kv.rank), out)
        return [first, out.tolist()]

    with ring_cluster(2) as cluster:
        assert cluster.each(work) == [[[0.0, 0.0], [7.0, 7.0]]] * 2


def test_push_then_pull_is_as_in_a_synchronous_store() -> None:
    def work(kv: AllReduceKVStore) -> list[float]:
        kv.init("w", ones(1))
        seen = []
        for step in range(3):
            kv.push("w", ones(1, value=step + kv.rank))
            seen.append(float(kv.pull("w")[0]))
        kv.barrier()
        return seen

    with ring_cluster(2) as cluster:
        assert cluster.each(work) == [[0.5, 1.5, 2.5]] * 2


def test_pull_after_pushpull_is_refused_with_the_reason() -> None:
    def work(kv: AllReduceKVStore) -> None:
        kv.init("w", ones(1))
        kv.pushpull("w", ones(1))
        with pytest.raises(ConfigError, match="its last reduction was a pushpull"):
            kv.pull("w")
        kv.push("w", ones(1, value=4))
        assert kv.pull("w")[0] == 4

    with ring_cluster(2) as cluster:
        cluster.each(work)


def test_many_keys_of_one_call_travel_together_and_come_back_apart() -> None:
    shapes = {f"k{i}": (i % 5 + 1, 3) for i in range(40)} | {"big": (300, 300), "none": (0,)}

    def work(kv: AllReduceKVStore) -> int:
        names = list(shapes)
        kv.init(names, [np.zeros(s, np.float64) for s in shapes.values()])
        values = [np.full(s, 10.0 * i + kv.rank) for i, s in enumerate(shapes.values())]
        sent = kv.ledger()["sent"]
        outs = kv.pushpull(names, values)
        for i, out in enumerate(outs):
            assert out is values[i]
            np.testing.assert_array_equal(out, 10.0 * i + 0.5)
        kv.flush()
        return kv.ledger()["sent"] - sent

    with ring_cluster(2) as cluster:
        assert max(cluster.each(work)) <= 6


def test_workers_may_reduce_keys_in_another_order() -> None:
    def work(kv: AllReduceKVStore) -> list[float]:
        names = ["a", "b", "c"]
        kv.init(names, [ones(1)] * 3)
        order = names if kv.rank else names[::-1]
        futures = {n: kv.pushpull_async(n, ones(1, value=ord(n) + kv.rank)) for n in order}
        return [float(futures[n].result(PATIENCE_S)[0]) for n in names]

    with ring_cluster(2) as cluster:
        assert cluster.each(work, "sum") == [[2.0 * ord(n) + 1 for n in "abc"]] * 2


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_half_precision_is_added_in_single(dtype: np.dtype[Any]) -> None:
    def work(kv: AllReduceKVStore) -> float:
        kv.init("w", np.zeros(3, dtype))
        big = np.full(3, 60000.0, dtype)  # the sum of two is beyond float16
        kv.pushpull("w", big)
        return float(big[0])

    with ring_cluster(2) as cluster:
        assert cluster.each(work) == [float(np.array(60000.0, dtype))] * 2


def test_integers_are_summed_and_not_averaged() -> None:
    def work(kv: AllReduceKVStore) -> list[int]:
        kv.init("n", np.zeros(2, np.int64))
        return kv.pushpull("n", np.arange(2) + kv.rank).tolist()

    def mean(kv: AllReduceKVStore) -> None:
        kv.init("m", np.zeros(2, np.int64))
        with pytest.raises(DTypeError, match="averages"):
            kv.pushpull("m", np.arange(2))

    with ring_cluster(2) as cluster:
        assert cluster.each(work, "sum") == [[1, 3]] * 2
    with ring_cluster(2) as cluster:
        cluster.each(mean)


def test_arrays_of_several_devices_are_summed_first() -> None:
    def work(kv: AllReduceKVStore) -> list[float]:
        kv.init("w", ones(1))
        return kv.pushpull("w", [ones(1), ones(1, value=2)]).tolist()

    with ring_cluster(2) as cluster:
        assert cluster.each(work) == [[3.0]] * 2


@pytest.mark.parametrize("size", [3, 400_000])
def test_overlapping_memory_is_kept_apart(size: int) -> None:
    def work(kv: AllReduceKVStore) -> bool:
        kv.init("w", ones(size))
        memory = np.arange(size + 1, dtype=np.float32)
        kv.pushpull("w", memory[:-1], memory[1:])
        return memory[0] == 0 and bool((memory[1:] == np.arange(size)).all())

    with ring_cluster(2) as cluster:
        assert cluster.each(work) == [True, True]


def test_memory_that_is_read_and_written_at_once_is_copied_first() -> None:
    memory = np.arange(100_001, dtype=np.float32)
    _, own, total = Bucket([("w", memory[:-1], memory[1:])]).item
    assert not np.may_share_memory(own, total) and np.shares_memory(total, memory)
    _, own, total = Bucket([("w", memory, memory)]).item
    assert own is total


class ByHand:
    """A shell whose collectives end when the test says so."""

    def __init__(self) -> None:
        self.works: list[tuple[Arrays, Future[None]]] = []

    def submit(self, op: Collective, arrays: Arrays, call: Call) -> "Future[None]":
        self.works.append((arrays, Future()))
        return self.works[-1][1]

    def launch(self, nbytes: int) -> None:
        """Nothing starts by itself."""

    def attend(self, call: "Future[Any]", timeout: float | None) -> None:
        """Nobody helps."""

    def end(self, index: int, result: float) -> None:
        arrays, future = self.works[index]
        arrays.total.fill(result)
        future.set_result(None)


def by_hand() -> tuple[AllReduceKVStore, ByHand]:
    shell, cluster = ByHand(), ring_cluster(1)
    with cluster as made:
        member = FakeMembership(0, made.meeting)
        kv = AllReduceKVStore("sum", member, shell, lambda: 1, 5.0)  # type: ignore[arg-type]
        kv._declare(["w"], [ones(2)])
    return kv, shell


def test_a_pull_reads_the_last_push_even_if_an_earlier_one_ends_later() -> None:
    kv, shell = by_hand()
    kv.push("w", ones(2))
    kv.push("w", ones(2))
    pull = kv.pull_async("w")
    assert not pull.done()
    shell.end(1, 7.0)
    shell.end(0, 5.0)
    assert pull.result(PATIENCE_S).tolist() == [7.0, 7.0] and kv.pull("w").tolist() == [7.0, 7.0]


def test_a_push_that_ends_after_a_later_pushpull_leaves_no_value() -> None:
    kv, shell = by_hand()
    kv.push("w", ones(2))
    late = kv.pushpull_async("w", ones(2))
    shell.end(0, 5.0)
    shell.end(1, 7.0)
    assert late.result(PATIENCE_S).tolist() == [7.0, 7.0]
    with pytest.raises(ConfigError, match="its last reduction was a pushpull"):
        kv.pull("w")


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_what_an_all_reduce_cannot_do_is_refused_with_the_reason() -> None:
    with ring_cluster(1) as cluster:
        kv = cluster.store(0)
        kv.init("w", ones(2))
        assert not kv.is_capable("optimizer") and kv.server_stats() == []
        with pytest.raises(ConfigError, match="only reduces; the update is made on the workers"):
            kv.set_optimizer(optim.create("sgd"))
        with pytest.raises(ConfigError, match="what codecs make cannot be added"):
            kv.set_gradient_compression("2bit")
        kv.set_gradient_compression(None)
        with pytest.raises(KeyNotInitializedError, match=r"worker 0: key 'v' is not initialised"):
            kv.pushpull("v", ones(2))
        with pytest.raises(ShapeError, match="shape"):
            kv.pushpull("w", ones(3))
        with pytest.raises(ConfigError, match="initialised already"):
            kv.init("w", ones(2))
        kv.close()


def test_two_stores_have_keys_of_their_own() -> None:
    with ring_cluster(2) as cluster:

        def work(rank: int) -> list[float]:
            first, second = cluster.store(rank), cluster.store(rank)
            first.init("w", ones(1))
            second.init("w", ones(1))
            return [float(first.pushpull("w", ones(1))[0]), float(second.pushpull("w", ones(1, value=2))[0])]

        threads: list[Any] = []
        results: dict[int, list[float]] = {}
        for r in range(2):
            threads.append(threading.Thread(target=lambda r=r: results.update({r: work(r)})))
            threads[-1].start()
        for t in threads:
            t.join(PATIENCE_S)
        assert results == {0: [1.0, 2.0], 1: [1.0, 2.0]}


# --- how it fails -----------------------------------------------------------------------------------------------------


def test_workers_that_make_other_calls_are_told_which() -> None:
    def work(kv: AllReduceKVStore) -> str:
        kv.init(["a", "b"], [ones(2), ones(3)])
        names = ["a", "b"] if kv.rank else ["a"]
        try:
            kv.pushpull(names, [ones(2), ones(3)][: len(names)])
        except (ConfigError, StoreTimeoutError) as e:
            return str(e)
        return ""

    with ring_cluster(2, timeout_s=8.0) as cluster:
        texts = cluster.each(work)
    assert any("Every worker must make the same calls" in t for t in texts), texts


def test_the_deadline_names_the_worker_that_does_not_come() -> None:
    def work(kv: AllReduceKVStore) -> str:
        kv.init("w", ones(2))
        if kv.rank == 2:
            return ""
        with pytest.raises(StoreTimeoutError) as e:
            kv.pushpull("w", ones(2))
        return str(e.value)

    with ring_cluster(3, timeout_s=5.0) as cluster:
        texts = cluster.each(work)
    assert all("has waited for worker 2" in t for t in texts[:2]), texts


def test_when_the_run_fails_every_call_raises_at_once() -> None:
    with ring_cluster(2) as cluster:
        entered = threading.Barrier(3)

        def work(rank: int) -> None:
            kv = cluster.store(rank)
            kv.init("w", ones(2))
            entered.wait(PATIENCE_S)
            if rank == 0:
                with pytest.raises(NodeLostError, match="worker 1 died"):
                    kv.pushpull("w", ones(2))
                with pytest.raises(NodeLostError, match="worker 1 died"):
                    kv.pushpull("w", ones(2))
                seen.append("raised")

        seen: list[str] = []
        threads = [threading.Thread(target=work, args=(r,)) for r in range(2)]
        for t in threads:
            t.start()
        entered.wait(PATIENCE_S)
        cluster.nodes[0].fail_all(NodeLostError("worker 1 died"))
        for t in threads:
            t.join(PATIENCE_S)
        assert seen == ["raised"]


def test_the_ledger_balances() -> None:
    def work(kv: AllReduceKVStore) -> dict[str, int]:
        kv.init("w", np.zeros(100_000, np.float32))
        for _ in range(3):
            kv.pushpull("w", np.ones(100_000, np.float32))
        kv.barrier()
        return kv.ledger()

    with ring_cluster(3) as cluster:
        ledgers = cluster.each(work)
        books = [n.shell.books()["ledger"] for n in cluster.nodes]
    for rank, ledger in enumerate(ledgers):
        applied = sum(b.get(str(rank), {"applied": 0})["applied"] for b in books)
        assert ledger["sent"] == ledger["acknowledged"] == applied > 0
    assert sum(x["bytes_pushed"] for x in ledgers) == sum(x["bytes_pulled"] for x in ledgers)


# --- memory that workers share ----------------------------------------------------------------------------------------


def reduce_large(kv: AllReduceKVStore) -> bool:
    kv.init("w", np.zeros(1_000_000, np.float32))
    right = True
    for step in range(4):
        own = kv.alloc(1_000_000)
        own[:] = kv.rank + step
        out = kv.pushpull("w", own, np.empty_like(own)) if step % 2 else kv.pushpull("w", own)
        right &= bool((out == 2 * step + 1).all())
        kv.barrier()  # by then everybody has mapped everybody's memory
    return right


def test_workers_of_one_host_read_what_they_reduce_where_it_lies() -> None:
    with ring_cluster(2) as cluster:
        assert cluster.each(reduce_large, "sum") == [True, True]
        sharing = [n.transport.sharing for n in cluster.nodes]
        if not sharing[0].arena.refusal:  # what this machine has against it
            assert all(s.spared_bytes > 1_000_000 for s in sharing)


def test_without_shared_memory_values_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SHM", "0")
    with ring_cluster(2) as cluster:
        assert cluster.each(reduce_large, "sum") == [True, True]
        assert [n.transport.sharing.spared_bytes for n in cluster.nodes] == [0, 0]


def test_whoever_waits_for_the_last_answer_hears_of_the_end_of_the_run() -> None:
    with ring_cluster(2) as cluster:
        kv = cluster.store(0)
        kv._declare(["w"], [ones(2)])
        future = kv.push_async("w", ones(2))  # nobody will ever take it
        waiter = threading.Thread(target=lambda: seen.append(cluster.nodes[0].shell.wait_idle(60.0)))
        seen: list[bool] = []
        waiter.start()
        cluster.nodes[0].fail_all(NodeLostError("worker 1 died"))
        waiter.join(PATIENCE_S)
        assert seen == [False]
        with pytest.raises(NodeLostError):
            future.result(PATIENCE_S)
