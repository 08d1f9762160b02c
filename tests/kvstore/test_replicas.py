"""A server with a replica, over real sockets: the replica has all that was answered, and takes its place."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from shoal import optim
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.wire.messages import Replaced
from tests.kvstore.pairs import Pair, Process, a_pair
from tests.patience import PATIENCE_S


def alike(one: Process, other: Process) -> None:
    """Both have the same state, to the bit."""
    (core, arrays), (core2, arrays2) = one.state(), other.state()
    assert core == core2
    np.testing.assert_equal(arrays, arrays2)


def train(store: DistKVStore, steps: int, size: int = 1000) -> None:
    rng = np.random.default_rng(store.rank)
    for _ in range(steps):
        store.pushpull("w", rng.normal(size=size).astype(np.float32))


def prepared(pair: Pair, mode: str = "", size: int = 1000, optimizer: Any = None) -> list[DistKVStore]:
    stores = pair.stores(mode)

    def begin(store: DistKVStore) -> None:
        store.init("w", np.zeros(size, np.float32))
        store.set_optimizer(optimizer or optim.SGD(learning_rate=0.1, momentum=0.9))

    pair.each(stores, begin)
    return stores


@pytest.mark.parametrize("mode", ["sync", "async", "ssp:2", "ksync:1"])
def test_the_replica_is_at_every_answer_where_its_primary_is(mode: str) -> None:
    with a_pair(2, mode) as pair:
        stores = prepared(pair)
        pair.each(stores, lambda s: train(s, 5))
        assert pair.replica is not None
        alike(pair.primary, pair.replica)


@pytest.mark.parametrize("mode", ["sync", "async", "ssp:2", "essp:2", "ksync:1"])
def test_after_a_failover_training_goes_on_and_nothing_is_counted_twice(mode: str) -> None:
    with a_pair(2, mode) as pair:
        stores = prepared(pair)
        pair.each(stores, lambda s: train(s, 5))
        pair.kill_primary()
        pair.each(stores, lambda s: train(s, 5))
        ledger = stores[0].server_stats()[0]["ledger"]
        counted = [ledger[str(r)]["applied"] + ledger[str(r)]["dropped"] for r in (0, 1)]
        assert counted == pair.acknowledged()
        assert counted == [10, 10] or mode == "ksync:1"
        assert [ledger[str(r)]["lost"] for r in (0, 1)] == [0, 0]


def test_a_synchronous_run_with_a_failover_has_the_bits_of_one_without() -> None:
    def run(kill: bool) -> Any:
        with a_pair(2, "sync") as pair:
            stores = prepared(pair)
            pair.each(stores, lambda s: train(s, 7))
            if kill:
                pair.kill_primary()
            pair.each(stores, lambda s: train(s, 7))
            return stores[0].pull("w").copy()

    np.testing.assert_array_equal(run(False), run(True))


def test_the_primary_may_die_in_the_middle_of_steps() -> None:
    with a_pair(2, "sync") as pair:
        stores = prepared(pair, size=200_000)
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(train, s, 30, 200_000) for s in stores]
            while stores[0].server_stats()[0]["updates"] < 8:
                pass
            pair.kill_primary()
            for each in done:
                each.result(PATIENCE_S)
        stats = stores[0].server_stats()[0]
        assert {r: b["applied"] for r, b in stats["ledger"].items()} == {"0": 30, "1": 30}
        assert stats["replication"]["replicated"] is False


# --- replicas come and go ---------------------------------------------------------------------------------------------


def test_when_the_replica_is_lost_the_primary_goes_on_alone() -> None:
    with a_pair(1) as pair:
        (store,) = prepared(pair)
        train(store, 3)
        pair.lose_replica()
        train(store, 3)
        stats = store.server_stats()[0]
        assert stats["replication"]["replicated"] is False and stats["ledger"]["0"]["applied"] == 6


@pytest.mark.parametrize("mode", ["sync", "async", "essp:2", "ksync:1"])
def test_a_new_replica_is_filled_while_training_goes_on_and_may_take_the_place(mode: str) -> None:
    with a_pair(2, mode) as pair:
        stores = prepared(pair, size=600_000)
        pair.each(stores, lambda s: train(s, 2, 600_000))
        pair.lose_replica()
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(train, s, 20, 600_000) for s in stores]
            new = pair.add_replica()
            assert pair.primary.stepped.wait(PATIENCE_S)
            for each in done:
                each.result(PATIENCE_S)
        alike(pair.primary, new)
        assert stores[0].server_stats()[0]["replication"]["replicated"] is True
        before = stores[0].pull("w").copy()
        pair.kill_primary()
        np.testing.assert_array_equal(stores[0].pull("w"), before)
        pair.each(stores, lambda s: train(s, 3, 600_000))


def test_after_a_failover_the_next_replica_is_filled_and_the_next_failover_works() -> None:
    with a_pair(2, "sync") as pair:
        stores = prepared(pair)
        for _ in range(3):
            pair.each(stores, lambda s: train(s, 3))
            pair.kill_primary()
            pair.each(stores, lambda s: train(s, 3))
            pair.add_replica()
            assert pair.primary.stepped.wait(PATIENCE_S)
        stats = stores[0].server_stats()[0]
        assert stats["replication"]["failovers"] == 3 and stats["ledger"]["1"]["applied"] == 18


def test_a_server_that_began_without_a_replica_can_be_given_one() -> None:
    with a_pair(1, replicated=False) as pair:
        (store,) = prepared(pair)
        train(store, 3)
        pair.add_replica()
        assert pair.primary.stepped.wait(PATIENCE_S)
        train(store, 3)
        pair.kill_primary()
        train(store, 3)
        assert store.server_stats()[0]["ledger"]["0"]["applied"] == 9


def test_a_replica_that_is_stopped_holds_up_its_primary_until_it_is_given_up() -> None:
    with a_pair(1, lease_s=0.5) as pair:
        (store,) = prepared(pair)
        assert pair.replica is not None
        pair.replica.loop.stop()  # it is there, and says nothing
        pair.replica.thread.join()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(train, store, 1)
            assert pair.primary.silent.wait(PATIENCE_S)
            assert not done.done()
            pair.forsake()
            done.result(PATIENCE_S)
        pair.replica.loop.transport.close(0.0)


def test_the_wait_for_a_replica_names_it() -> None:
    with a_pair(1, lease_s=0.5) as pair:
        (store,) = prepared(pair)
        assert pair.replica is not None
        pair.replica.loop.stop()
        pair.replica.thread.join()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(train, store, 1)
            assert pair.primary.silent.wait(PATIENCE_S)
            now = pair.primary.loop.clock() + 10.0
            ((what, on, _),) = pair.primary.orders.do(lambda: pair.primary.shard.vitals(now))["waits"]
            assert on == ["replica 0"] and "replica" in what
            pair.forsake()
            done.result(PATIENCE_S)
        pair.replica.loop.transport.close(0.0)


def test_a_primary_that_was_succeeded_can_acknowledge_nothing() -> None:
    with a_pair(1) as pair:
        (store,) = prepared(pair)
        old, new = pair.primary, pair.replica
        assert new is not None
        pair.generation += 1
        pair.primary, pair.replica = new, None
        pair.incarnations["server"] = 2
        member = new.member("server", 2)
        new.hear(Replaced(generation=2, member=member))  # the old one hears nothing, and the worker talks to it
        pushed = store.push("w", np.ones(1000, np.float32))
        with pytest.raises(TimeoutError):
            pushed.result(0.5)
        assert old.shard.store.core is not None and not old.shard.store.failure()
        pair.reconnect(member)
        pushed.result(PATIENCE_S)
        assert store.server_stats()[0]["ledger"]["0"]["applied"] == 1
