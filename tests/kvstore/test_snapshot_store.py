"""Snapshots through whole stores: real sockets, several servers, workers that train meanwhile."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, KeyNotInitializedError, StoreTimeoutError
from shoal.kvstore import create
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.snapshot import Cut
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

pytestmark = pytest.mark.net
KEYS = ["w", "b", "big"]
SIZES = [3, 1, 40]  # with slices of 64 bytes "big" has three


def begin(kv: DistKVStore) -> None:
    kv.init(KEYS, [np.zeros(n, np.float64) for n in SIZES])
    kv.set_optimizer(optim.create("test"))


def step(kv: DistKVStore) -> None:
    """Worker r contributes 1000 ** r."""
    kv.pushpull(KEYS, [np.full(n, 1000.0**kv.rank) for n in SIZES])


@pytest.mark.parametrize("mode", ["dist_async", "dist_ssp:2", "dist_essp:2", "dist_fedbuff:3"])
def test_every_key_has_the_same_contributions_while_workers_train_asynchronously(mode: str) -> None:
    stop = threading.Event()

    def work(kv: DistKVStore) -> list[dict[int, int]]:
        begin(kv)
        seen = []
        if kv.rank == 2:  # looks on, and trains no less
            for _ in range(8):
                step(kv)
                shot = kv.snapshot()
                total = sum(n * 1000.0**r for r, n in shot.cut.clocks.items())
                for value in shot.values():
                    np.testing.assert_array_equal(value, total)
                seen.append(dict(shot.cut.clocks))
            stop.set()
        while kv.rank != 2 and not stop.is_set():
            step(kv)
        kv.close()
        return seen

    with thread_cluster(3, 2, slice_bytes=64) as cluster:
        *_, seen = cluster.each(lambda kv: work(kv), mode[5:], "sum")
    assert [c[2] for c in seen] == list(range(1, 9))
    assert all(a[r] <= b[r] for a, b in itertools.pairwise(seen) for r in (0, 1))


@pytest.mark.parametrize("mode", ["bsp", "backup:1", "ksync:2", "kbatch:2", "kasync:2"])
def test_every_key_is_at_the_same_version_where_training_goes_in_rounds(mode: str) -> None:
    def work(kv: DistKVStore) -> list[tuple[int, float]]:
        begin(kv)
        found = []
        for _ in range(6):
            step(kv)
            shot = kv.snapshot(["big", "w"])
            assert shot.cut.version is not None
            assert len({float(x) for v in shot.values() for x in v}) == 1
            found.append((shot.cut.version, float(shot["w"][0])))
        kv.close()
        return found

    with thread_cluster(3, 2, slice_bytes=64) as cluster:
        results = cluster.each(work, mode, "sum")
    by_version: dict[int, float] = {}
    for version, value in (pair for found in results for pair in found):
        assert by_version.setdefault(version, value) == value
    if mode == "bsp":
        assert results == [[(i, i * 1001001.0) for i in range(1, 7)]] * 3


def test_pull_writes_a_snapshot_where_it_is_told_to() -> None:
    def work(kv: DistKVStore) -> Any:
        begin(kv)
        step(kv)
        out = [np.empty(3), np.empty(1)]
        kv.pull(["w", "b"], out, snapshot=True)
        one = kv.pull("big", snapshot=True)
        kv.close()
        return [*out, one]

    with thread_cluster(2, 2) as cluster:
        for found in cluster.each(work, "", "sum"):
            assert [a.tolist() for a in found] == [[1001.0] * 3, [1001.0], [1001.0] * 40]


def test_keys_that_share_a_slice_and_keys_that_are_kept_by_rows_have_snapshots() -> None:
    def work(kv: DistKVStore) -> dict[str, Any]:
        kv.init(["a", "b"], [np.zeros(2), np.zeros(3)], fuse=True)
        kv.init("rows", np.zeros((4, 2)), rows=True)
        kv.set_optimizer(optim.create("test"))
        kv.push(["a", "b"], [np.ones(2), np.full(3, 2.0)])
        kv.push("rows", np.ones((4, 2)))
        shot = kv.snapshot()
        kv.close()
        return shot

    with thread_cluster(1, 2) as cluster:
        (shot,) = cluster.each(work, "asp")
    assert shot.cut == Cut(clocks={0: 1})
    assert shot["a"].tolist() == [1, 1] and shot["b"].tolist() == [2, 2, 2] and shot["rows"].sum() == 8


def test_a_worker_that_does_not_push_a_key_is_named_and_holds_up_nobody_else() -> None:
    def work(kv: DistKVStore) -> str:
        begin(kv)
        kv.push(["w", "b"], [np.ones(3), np.ones(1)])
        kv.barrier()
        text = ""
        if kv.rank == 0:
            with pytest.raises(StoreTimeoutError) as error:
                kv.snapshot(timeout_s=0.5)
            text = str(error.value)
        kv.push("big", np.ones(40))
        kv.barrier()
        assert kv.snapshot().cut == Cut(clocks={0: 1, 1: 1})
        kv.close()
        return text

    with thread_cluster(2, 1) as cluster:
        text = cluster.each(work, "asp")[0]
    assert text.startswith("worker 0 takes a snapshot and has waited for worker 0"), text
    assert "to push 'big' as often as the other keys" in text


def test_nothing_of_a_snapshot_is_left_on_the_servers() -> None:
    def work(kv: DistKVStore) -> None:
        begin(kv)
        step(kv)
        kv.snapshot()
        kv.barrier()
        kv.server_stats()  # answered after what came before it
        kv.close()

    with thread_cluster(2, 2) as cluster:
        cluster.each(work, "asp")
        for shell in cluster.shells:
            assert shell.core is not None and not shell.core.snapshots.open
            assert not any(c.followers for c in shell.table.cells.values())


def test_a_snapshot_of_a_key_that_nobody_knows_is_refused() -> None:
    with thread_cluster(1, 1) as cluster, pytest.raises(KeyNotInitializedError):
        cluster.store(0).snapshot("w")


def test_the_local_store_is_always_in_one_state() -> None:
    kv = create("local")
    kv.init(["w", "b"], [np.zeros(2), np.zeros(1)])
    kv.set_optimizer(optim.create("test"))
    stop = threading.Event()

    def train() -> None:
        while not stop.is_set():
            kv.push(["w", "b"], [np.ones(2), np.ones(1)])

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(50):
            shot = kv.snapshot()
            assert shot["w"].tolist() == [shot["b"][0]] * 2 == [shot.cut.clocks[0]] * 2
    finally:
        stop.set()
        thread.join()
    out = np.empty(2)
    assert kv.pull("w", out, snapshot=True) is out and out.tolist() == kv.pull("w").tolist()


def test_a_store_says_whether_it_takes_snapshots() -> None:
    local, threads = create("local"), create("hogwild")
    assert local.is_capable("snapshot") and local.is_capable("optimizer")
    assert not threads.is_capable("snapshot")
    threads.init("w", np.zeros(1))
    with pytest.raises(ConfigError, match="takes no snapshots"):
        threads.snapshot("w")
    with pytest.raises(ConfigError, match="is a copy"):
        local.pull("w", copy=False, snapshot=True)
