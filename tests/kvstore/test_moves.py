"""Slices go from server to server while workers train: real sockets in threads."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.placement import drained
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.server.moving import Moves
from shoal.ops import optim
from tests.kvstore.moving import MovingCluster, moving_cluster

STEPS = 60
SHAPES = {"a": (40,), "b": (300,), "c": (7, 9), "d": (1000,)}


def gradient(rank: int, step: int, key: str) -> np.ndarray:
    rng = np.random.default_rng([rank, step, ord(key)])
    return rng.standard_normal(SHAPES[key]).astype(np.float32)


def train(store: DistKVStore, steps: int, at: Any = None, **config: Any) -> dict[str, np.ndarray]:
    """Push and pull every key ``steps`` times; ``at(step)`` is called by worker 0 before each."""
    keys = list(SHAPES)
    store.init(keys, [np.zeros(SHAPES[k], np.float32) for k in keys])
    if config:
        options = dict(config)
        rule = options.pop("rule", None)
        store.set_optimizer(optim.create(options.pop("name"), **options), rule=rule)
    for step in range(steps):
        if at is not None and store.rank == 0:
            at(step)
        store.pushpull(keys, [gradient(store.rank, step, k) for k in keys])
    store.barrier()
    return dict(zip(keys, store.pull(keys), strict=True))


def applied(cluster: MovingCluster) -> int:
    return sum(b.applied for s in cluster.shells if s.core for b in s.core.ledgers.values())


def values(cluster: MovingCluster, key: str) -> np.ndarray:
    """What the servers have of a key."""
    slices = cluster.meeting.placement.layouts[key].slices
    return np.concatenate([cluster.shells[s.server].table.cells[s.id].value.reshape(-1) for s in slices])


def disturb(cluster: MovingCluster) -> Any:
    def at(step: int) -> None:
        if step == 10:
            cluster.add()
        if step == 30:
            cluster.settled()
            cluster.drain(0)

    return at


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        ("bsp", {}),
        ("bsp", {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}),
        ("bsp", {"name": "adam", "learning_rate": 0.01}),
    ],
)
def test_synchronous_weights_are_the_same_bits_with_and_without_moves(mode: str, config: dict[str, Any]) -> None:
    with moving_cluster(2, 2, mode, 1024) as quiet:
        want = quiet.each(lambda s: train(s, STEPS, **config))[0]
    with moving_cluster(2, 2, mode, 1024) as cluster:
        got = cluster.each(lambda s: train(s, STEPS, disturb(cluster), **config))
        cluster.settled()
        assert set(cluster.owners()) == {1, 2}
        slices = len(cluster.owners())
        assert applied(cluster) == 2 * STEPS * slices
        assert sum(b.rejected for s in cluster.shells if s.core for b in s.core.ledgers.values()) == 0
    for each in got:
        for key, value in want.items():
            np.testing.assert_array_equal(each[key], value)


@pytest.mark.parametrize("mode", ["ssp:2", "essp:2", "asp", "fedbuff:2"])
def test_every_contribution_counts_once_whatever_the_gate(mode: str) -> None:
    """The sum of all contributions, with plain SGD, is the same in any order up to rounding."""
    with moving_cluster(3, 2, mode, 1024) as cluster:
        sgd = {"name": "sgd", "learning_rate": 1.0, "wd": 0.0, "rescale_grad": 1.0}
        cluster.each(lambda s: train(s, STEPS, disturb(cluster), **sgd), reduce="sum")
        cluster.settled()
        assert applied(cluster) == 3 * STEPS * len(cluster.owners())
        assert set(cluster.owners()) == {1, 2}
        held = {key: values(cluster, key) for key in SHAPES}  # a pull may be as old as the gate lets it be
    for key in SHAPES:
        total = -sum(gradient(r, t, key).astype(np.float64) for r in range(3) for t in range(STEPS))
        np.testing.assert_allclose(held[key], total.reshape(-1), atol=1e-3)


def test_the_longest_pause_is_told() -> None:
    with moving_cluster(1, 2, "bsp", 1024) as cluster:
        cluster.each(lambda s: train(s, 5))
        mine, began = cluster.owners().count(1), time.monotonic()
        cluster.drain(1)
        cluster.settled()
        moves = cluster.shells[1].report()["moves"]
        assert moves["out"] == mine
        assert 0 < moves["longest_pause_s"] <= time.monotonic() - began
        assert cluster.shells[0].report()["moves"]["in"] == mine


def test_while_the_scheduler_is_away_the_slice_waits_and_nothing_is_lost() -> None:
    with moving_cluster(2, 2, "bsp", 1024) as cluster:
        cluster.confirms = False

        def at(step: int) -> None:
            if step == 5:
                cluster.drain(0)
                threading.Timer(0.3, cluster.confirm).start()

        got = cluster.each(lambda s: train(s, 20, at))
        cluster.settled()
        assert applied(cluster) == 2 * 20 * len(cluster.owners())
    assert np.isfinite(got[0]["a"]).all()


def test_a_plan_that_is_taken_back_leaves_the_slice_where_it_was() -> None:
    """As when the target dies before the scheduler has heard that it has the slice."""
    with moving_cluster(2, 2, "bsp", 1024) as quiet:
        want = quiet.each(lambda s: train(s, 30))[0]
    with moving_cluster(2, 2, "bsp", 1024) as cluster:

        def at(step: int) -> None:
            if step == 5:
                cluster.confirms = False
                cluster.rebalance(drained(cluster.meeting.placement, 0))
                threading.Timer(0.2, take_back).start()

        def take_back() -> None:
            cluster.rebalance([])
            cluster.confirm()

        got = cluster.each(lambda s: train(s, 30, at))
        cluster.settled()
        assert set(cluster.owners()) == {0, 1} and cluster.confirms
        assert applied(cluster) == 2 * 30 * len(cluster.owners())
    for each in got:
        for key, value in want.items():
            np.testing.assert_array_equal(each[key], value)


def test_a_rule_takes_what_it_keeps_along() -> None:
    with moving_cluster(2, 2, "asp", 1024) as cluster:
        config = {"name": "sgd", "learning_rate": 0.01, "rule": "dcasgd:lam=0.04"}
        got = cluster.each(lambda s: train(s, 40, disturb(cluster), **config))
        cluster.settled()
        assert applied(cluster) == 2 * 40 * len(cluster.owners())
        views = [c.view for s in cluster.shells for c in s.table.cells.values()]
        assert all(v is not None and v.state for v in views)
    assert all(np.isfinite(each[key]).all() for each in got for key in SHAPES)


def test_snapshots_and_functions_meet_moves_and_are_made_again() -> None:
    with moving_cluster(2, 2, "asp", 1024) as cluster:

        def work(store: DistKVStore) -> list[int]:
            keys = list(SHAPES)
            store.init(keys, [np.zeros(SHAPES[k], np.float32) for k in keys])
            store.set_optimizer(optim.create("sgd", learning_rate=1.0, wd=0.0))
            for step in range(30):
                if store.rank == 0 and step == 5:
                    cluster.drain(1)
                store.push(keys, [np.full(SHAPES[k], -1.0, np.float32) for k in keys])
                found = store.snapshot(keys)
                values = {float(v) for k in keys for v in np.unique(found[k])}
                assert len(values) == 1, "one state of all keys"
            return [1]

        cluster.each(work, reduce="sum")
        cluster.settled()
        assert set(cluster.owners()) == {0}


def test_rows_move_with_their_state() -> None:
    with moving_cluster(2, 2, "bsp", 1024) as cluster:

        def work(store: DistKVStore) -> np.ndarray:
            store.init("e", np.zeros((200, 8), np.float32), rows=True)
            store.set_optimizer(optim.create("sgd", learning_rate=1.0, wd=0.0))
            for step in range(20):
                if store.rank == 0 and step == 5:
                    cluster.drain(0)
                ids = np.array([step, 100 + step], np.int64)
                store.push("e", RowSparse(ids, np.full((2, 8), -1.0, np.float32), (200, 8)))
            store.barrier()
            return np.asarray(store.pull("e"))

        got = cluster.each(work, reduce="sum")[0]
        cluster.settled()
        assert set(cluster.owners()) == {1}
    want = np.zeros((200, 8), np.float32)
    want[:20] = want[100:120] = 2.0
    np.testing.assert_array_equal(got, want)


def test_nothing_leaves_a_restored_server_before_it_has_heard_how_far_the_workers_are() -> None:
    core: Any = SimpleNamespace(recovery=object(), entries={})
    moves = Moves(core)
    assert "has not heard yet how far the workers are" in moves.unready(7)
    core.recovery = None
    assert moves.unready(7) == ""
