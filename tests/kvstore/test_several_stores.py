"""Several stores in one script: each has its own keys, its own update rule and its own end."""

import numpy as np
import pytest

from shoal.kvstore.digest import weights_sha256
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.events import Apply, Create, Received, Send
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.wire.messages import Ack, Done, Init, Retire
from shoal.kvstore.wire.schema import Payload
from shoal.ops import optim
from tests.kvstore.simnet import roster
from tests.kvstore.test_server_core import feed, parts, push
from tests.kvstore.threads import thread_cluster


def sgd(kv: DistKVStore, rate: float) -> DistKVStore:
    kv.set_optimizer(optim.create("sgd", learning_rate=rate))
    return kv


@pytest.mark.net
def test_two_stores_may_use_the_same_key_for_different_values() -> None:
    with thread_cluster(1, 2) as cluster:
        a, b = cluster.store(0), cluster.store(0)
        a.init("0.weight", np.zeros(2, np.float32))
        b.init("0.weight", np.full(3, 5, np.float32))
        assert (a.keys(), b.keys()) == (["0.weight"], ["0.weight"])
        assert a.pull("0.weight").tolist() == [0, 0] and b.pull("0.weight").tolist() == [5, 5, 5]


@pytest.mark.net
def test_every_store_has_its_own_update_rule_and_multipliers() -> None:
    with thread_cluster(1, 1) as cluster:
        a, b = sgd(cluster.store(0), 1.0), cluster.store(0)
        b.set_optimizer(optim.create("sgd", learning_rate=0.25), lr_mult={"w": 2.0})
        for kv in (a, b):
            kv.init("w", np.zeros(1, np.float32))
        assert [kv.pushpull("w", np.ones(1, np.float32))[0] for kv in (a, b)] == [-1.0, -0.5]
        sgd(a, 0.0)
        assert b.pushpull("w", np.ones(1, np.float32))[0] == -1.0


@pytest.mark.net
def test_closing_one_store_leaves_the_others_open() -> None:
    def work(cluster_store: DistKVStore) -> float:
        with cluster_store as first:
            first.init("a", np.zeros(1, np.float32))
        second = stores[first.rank]
        second.init("a", np.zeros(1, np.float32))
        return float(second.pushpull("a", np.full(1, second.rank, np.float32))[0])

    with thread_cluster(2, 1) as cluster:
        stores = [cluster.store(0), cluster.store(1)]
        assert cluster.each(work) == [0.5, 0.5]


@pytest.mark.net
def test_a_store_that_only_looks_does_not_count() -> None:
    """Worker 0 alone opens a store for its statistics; the workers' real stores must still be the same one."""

    def work(kv: DistKVStore) -> str:
        kv.init("w", np.zeros(1, np.float32))
        return weights_sha256({"w": kv.pushpull("w", np.full(1, kv.rank, np.float32))})

    with thread_cluster(2, 1) as cluster:
        cluster.store(0).server_stats()
        assert len(set(cluster.each(work))) == 1


def test_a_worker_retires_from_one_store_only() -> None:
    core = ServerCore(0, 1, "run")
    core.roster(roster(2))
    value = Payload(dtype="<f4", shape=(2,), data=b"")
    for slice_id, store in ((7, 1), (8, 2)):
        first = Init(seq=0, store=store, slice=slice_id, key="w", gate="bsp", reduce="mean", value=value)
        assert Create(slice_id, "w", value, store) in core.handle(Received("w0", first), 0.0)
    assert feed(core, Retire(worker=1, incarnation=1, store=1, seq=3)) == [Send("w1", Done(seq=3))]
    assert Apply(7, parts(0), "mean", 1) in feed(core, push(0, 0))
    assert list(core.entries[8].progress.clocks) == [0, 1]


def test_a_worker_that_has_retired_is_not_waited_for_by_keys_that_come_later() -> None:
    core = ServerCore(0, 1, "run")
    core.roster(roster(2))
    feed(core, Retire(worker=1, incarnation=1, store=1, seq=3))
    value = Payload(dtype="<f4", shape=(2,), data=b"")
    core.handle(Received("w0", Init(seq=0, store=1, slice=7, key="w", gate="bsp", reduce="mean", value=value)), 0.0)
    assert feed(core, push(0, 0))[1:] == [Apply(7, parts(0), "mean", 1), Send("w0", Ack(seq=1, version=1, floor=1))]
