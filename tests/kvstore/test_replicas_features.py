"""Whatever a store can do, its replica is where the primary is: at every answer, after a fail-over, and when filled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.functions import PartView, server_function
from shoal.kvstore.rows import RowSparse
from shoal.ops import optim
from tests.kvstore.pairs import Pair, a_pair
from tests.kvstore.test_replicas import alike
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.net

SIZE = 60_000


@server_function("double-for-replicas", writes=True)
def double(part: PartView) -> int:
    part.value *= np.float32(2.0)
    return part.stop - part.start


def begin(store: DistKVStore, optimizer: Any, **options: Any) -> None:
    store.init(["w", "a", "b"], [np.zeros(n, np.float32) for n in (SIZE, 10, 20)], fuse=True)
    store.init("rows", np.zeros((50, 4), np.float32), rows=True)
    store.set_optimizer(optimizer, **options)


def steps(store: DistKVStore, n: int) -> None:
    rng = np.random.default_rng(store.rank)
    for _ in range(n):
        grads = [rng.normal(size=n).astype(np.float32) for n in (SIZE, 10, 20)]
        store.pushpull(["w", "a", "b"], grads)
        ids = rng.integers(0, 50, 7)
        store.push("rows", RowSparse(ids, rng.normal(size=(7, 4)).astype(np.float32), (50, 4)))
        store.row_sparse_pull("rows", row_ids=ids)


CASES: dict[str, tuple[str, Callable[[DistKVStore], None]]] = {
    "adam": ("sync", lambda s: begin(s, optim.create("adam"))),
    "adam, async": ("async", lambda s: begin(s, optim.create("adam"))),
    "lamb": ("sync", lambda s: begin(s, optim.create("lamb"))),
    "dcasgd": ("async", lambda s: begin(s, optim.SGD(learning_rate=0.1), rule="dcasgd:lam=0.5")),
    "stale": ("ssp:2", lambda s: begin(s, optim.SGD(learning_rate=0.1), rule="stale")),
    "backup": ("backup:1", lambda s: begin(s, optim.SGD(learning_rate=0.1, momentum=0.9))),
    "kasync": ("kasync:1", lambda s: begin(s, optim.SGD(learning_rate=0.1, momentum=0.9))),
    "fedbuff": ("fedbuff:2", lambda s: begin(s, optim.SGD(learning_rate=0.1))),
}


def started(pair: Pair, case: str) -> list[DistKVStore]:
    stores = pair.stores(CASES[case][0])
    pair.each(stores, CASES[case][1])
    return stores


@pytest.mark.parametrize("case", CASES)
def test_the_replica_is_where_its_primary_is_and_goes_on_from_there(case: str) -> None:
    with a_pair(2) as pair:
        stores = started(pair, case)
        pair.each(stores, lambda s: steps(s, 4))
        assert pair.replica is not None
        alike(pair.primary, pair.replica)
        pair.kill_primary()
        pair.each(stores, lambda s: steps(s, 4))
        ledger = stores[0].server_stats()[0]["ledger"]
        assert all(book["lost"] == book["rejected"] == 0 for book in ledger.values())


@pytest.mark.parametrize("case", CASES)
def test_a_replica_that_is_filled_in_the_middle_is_where_its_primary_is(case: str) -> None:
    with a_pair(2, replicated=False) as pair:
        stores = started(pair, case)
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(steps, s, 12) for s in stores]
            new = pair.add_replica()
            for each in done:
                each.result(PATIENCE_S)
        assert pair.primary.stepped.wait(PATIENCE_S)
        pair.each(stores, lambda s: steps(s, 2))
        alike(pair.primary, new)


@pytest.mark.parametrize("codec", ["2bit:threshold=0.5", "bf16", "topk:ratio=0.1"])
def test_compressed_pushes_and_replies_are_forwarded_as_they_came(codec: str) -> None:
    def work(store: DistKVStore) -> None:
        store.set_gradient_compression(codec)
        store.init("w", np.zeros(SIZE, np.float32))
        store.set_optimizer(optim.SGD(learning_rate=0.1))
        rng = np.random.default_rng(store.rank)
        for _ in range(4):
            store.pushpull("w", rng.normal(size=SIZE).astype(np.float32))

    with a_pair(2) as pair:
        pair.each(pair.stores("sync"), work)
        assert pair.replica is not None
        alike(pair.primary, pair.replica)


def test_functions_that_write_have_run_once_on_both() -> None:
    with a_pair(2) as pair:
        stores = started(pair, "adam")
        pair.each(stores, lambda s: steps(s, 2))
        pair.each(stores, lambda s: s.call("double-for-replicas", "w"))
        assert pair.replica is not None
        alike(pair.primary, pair.replica)
        before = stores[0].pull("w").copy()
        pair.kill_primary()
        np.testing.assert_array_equal(stores[0].pull("w"), before)


def test_a_snapshot_is_taken_of_a_replicated_store_and_after_a_failover() -> None:
    with a_pair(2) as pair:
        stores = started(pair, "adam, async")
        pair.each(stores, lambda s: steps(s, 3))
        first = stores[0].snapshot(["w", "a"])
        pair.kill_primary()
        again = stores[0].snapshot(["w", "a"])
        assert first.cut == again.cut
        np.testing.assert_array_equal(first["w"], again["w"])


def test_payloads_in_a_workers_memory_are_what_the_replica_gets() -> None:
    """Large values lie in memory that worker and server share; the worker writes to it as soon as it is answered."""
    with a_pair(1) as pair:
        (store,) = pair.stores("async")
        store.init("w", np.zeros(2_000_000, np.float32))
        grad = np.zeros(2_000_000, np.float32)
        for i in range(6):
            grad[:] = i
            store.pushpull("w", grad, out=grad)
            grad[:] = -1
        assert pair.replica is not None
        alike(pair.primary, pair.replica)
