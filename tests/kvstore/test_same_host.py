"""The store over shared memory: the same numbers, nobody's array seen half-written, and a way back to sockets."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, KeyNotInitializedError, ShapeError
from shoal.kvstore import create
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.mending import Mending
from shoal.kvstore.client.staging import Staging
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.server.copies import Copies
from shoal.kvstore.wire import shm
from shoal.kvstore.wire.messages import Push
from shoal.kvstore.wire.sharing import Sharing
from shoal.kvstore.wire.transport import Transport
from shoal.ops import optim
from tests.kvstore.threads import ThreadCluster, thread_cluster
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.net, pytest.mark.skipif(bool(shm.supported()), reason="Linux only")]

N = 50_000  # four slices of 64 KiB
SLICE = 1 << 16


def numbers(rank: int, step: int) -> Array:
    return np.random.default_rng((rank, step)).standard_normal(N).astype(np.float32)


def warm(kv: DistKVStore) -> None:
    """Use the key until both sides know each other's regions."""
    value = np.zeros(N, np.float32)
    for _ in range(3):
        kv.pushpull("w", np.zeros(N, np.float32), value)


def share(cluster: ThreadCluster) -> int:
    return sum(c.transport.sharing.spared_bytes for c in cluster._clients)


def train(mode: str, workers: int, steps: int = 5) -> tuple[list[Array], int]:
    """Weights of each worker after some steps with momentum, and the bytes that were not sent."""

    def work(kv: DistKVStore) -> Array:
        w, g = np.zeros(N, np.float32), np.empty(N, np.float32)
        kv.init("w", w)
        kv.set_optimizer(optim.create("sgd", learning_rate=0.1, momentum=0.9))
        for step in range(steps):
            g[:] = numbers(kv.rank, step)
            kv.pushpull("w", g, w)
            g[:] = np.nan  # whoever still reads this shall be found out
        kv.barrier()
        return kv.pull("w")

    with thread_cluster(workers, 2, mode, SLICE) as cluster:
        return cluster.each(work), share(cluster)


@pytest.mark.parametrize(("mode", "workers"), [("bsp", 1), ("bsp", 3), ("asp", 1), ("ssp:1", 1)])
def test_shared_memory_changes_no_bit(mode: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, spared = train(mode, workers)
    monkeypatch.setenv("SHOAL_SHM", "0")
    sent, none = train(mode, workers)
    assert spared > 0 and none == 0
    for a, b in zip(shared, sent, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["asp", "ssp:2", "essp:2", "backup:1", "kbatch:2", "kasync:2", "fedbuff:3"])
def test_no_gate_lets_a_half_written_array_through(mode: str) -> None:
    """Every contribution, and so every value of a slice, has equal elements: a torn one has not."""

    def work(kv: DistKVStore) -> None:
        w, g = np.zeros(N, np.float32), kv.alloc(N)
        kv.init("w", w)
        for step in range(15):
            g[:] = step * 10 + kv.rank
            kv.pushpull("w", g, w)
            g[:] = np.nan
            assert all((w[s.start : s.stop] == w[s.start]).all() for s in kv.layout("w").slices)
            assert not np.isnan(w).any()
            kv.push("w", np.full(N, step, np.float32)).result()
        kv.close()

    with thread_cluster(3, 1, mode, SLICE) as cluster:
        cluster.each(work)
        assert share(cluster) > 0


def test_a_contribution_that_waits_is_not_read_where_its_worker_writes_again() -> None:
    """Worker 0's push is acknowledged, and its array used again, long before worker 1 closes the round."""
    turn = threading.Barrier(2)

    def work(kv: DistKVStore) -> Array:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        g = kv.alloc(N)
        if kv.rank == 0:
            g[:] = 2
            kv.push("w", g).result()
            g[:] = np.nan
        turn.wait(PATIENCE_S)
        if kv.rank == 1:
            g[:] = 4
            kv.push("w", g).result()
        return kv.pull("w")

    with thread_cluster(2, 1, slice_bytes=SLICE) as cluster:
        for value in cluster.each(work):
            assert (value == 3).all()


def test_an_ordinary_array_may_be_written_again_as_soon_as_push_returns() -> None:
    def work(kv: DistKVStore) -> Array:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        g = np.full(N, 5, np.float32)
        kv.push("w", g)
        g[:] = np.nan
        return kv.pull("w")

    with thread_cluster(2, 2, slice_bytes=SLICE) as cluster:
        for value in cluster.each(work):
            assert (value == 5).all()


@pytest.mark.parametrize("way", ["push", "pushpull", "view"])
def test_a_column_is_pushed_as_it_is_each_time(way: str) -> None:
    def work(kv: DistKVStore) -> list[float]:
        kv.init("w", np.zeros(4, np.float32))
        both, found = np.zeros((4, 2), np.float32), []
        column, out = both[:, 0], np.empty(4, np.float32)
        for value in (1, 5):
            both[:] = value
            if way == "pushpull":
                kv.pushpull("w", column, out)
            else:
                getattr(kv, way)("w", column)
            found.append(float(kv.pull("w")[0]))
        return found

    with thread_cluster(1, 1) as cluster:
        assert cluster.each(work)[0] == [1, 5]


def test_arrays_from_alloc_are_pushed_without_a_copy() -> None:
    def work(kv: DistKVStore) -> Array:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        g = kv.alloc((10, N // 10)).reshape(N)
        g[:] = 7
        client = kv._shell
        free = client.transport.sharing.arena.free_bytes()
        pushed = kv.push_async("w", g)
        assert client.transport.sharing.arena.free_bytes() == free
        pushed.result()
        return kv.pull("w")

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        assert (cluster.each(work)[0] == 7).all()


FUSED = ["a", "b", "c"]


def small(scale: float) -> list[Array]:
    return [np.full((n, 600), scale * n, np.float32) for n in (1, 2, 3)]


def test_fused_keys_are_pushed_without_a_copy_from_arrays_that_lie_as_they_do() -> None:
    def work(kv: DistKVStore) -> list[list[Array]]:
        kv.init(FUSED, small(0), fuse=True)
        warm_up = [kv.pushpull(FUSED, small(0), small(0)) for _ in range(3)]
        grads = kv.alloc_like(FUSED[::-1], warm_up[0][::-1])[::-1]
        assert [g.shape for g in grads] == [(1, 600), (2, 600), (3, 600)] and not any(g.any() for g in grads)
        for g, value in zip(grads, small(1), strict=True):
            g[...] = value
        arena = kv._shell.transport.sharing.arena
        free, found = arena.free_bytes(), []
        for call in (kv.push_async, kv.view_async):
            under_way = call(FUSED, grads)
            assert arena.free_bytes() == free
            under_way.result()
            found.append(kv.pull(FUSED))
        found.append(kv.pushpull(FUSED, grads))  # answered where they lie
        return found

    with thread_cluster(1, 1, slice_bytes=SLICE) as cluster:
        for got in cluster.each(work)[0]:
            for value, want in zip(got, small(1), strict=True):
                np.testing.assert_array_equal(value, want)


def test_a_push_of_ordinary_arrays_that_lie_as_their_slice_is_copied() -> None:
    def work(kv: DistKVStore) -> list[Array]:
        kv.init(FUSED, small(0), fuse=True)
        memory = np.ones(6 * 600, np.float32)
        arrays = [memory[a * 600 : b * 600].reshape(-1, 600) for a, b in ((0, 1), (1, 3), (3, 6))]
        kv.push(FUSED, arrays)
        memory[:] = np.nan
        return kv.pull(FUSED)

    with thread_cluster(2, 1, slice_bytes=SLICE) as cluster:
        for values in cluster.each(work):
            assert all((v == 1).all() for v in values)


def test_arrays_for_pushes_are_of_keys_that_are_there_and_fit() -> None:
    def work(kv: DistKVStore) -> None:
        kv.init(FUSED, small(0), fuse=True)
        kv.init("w", np.zeros(N, np.float32))
        assert kv.alloc_like("w", np.ones(N, np.float32)).shape == (N,)
        with pytest.raises(KeyNotInitializedError, match="'x' is not initialised"):
            kv.alloc_like("x", np.zeros(3))
        with pytest.raises(ConfigError, match=r"'b'.*pushed together"):
            kv.alloc_like(["a", "c"], small(0)[::2])
        with pytest.raises(ConfigError, match="twice"):
            kv.alloc_like([*FUSED, "a"], [*small(0), small(0)[0]])
        with pytest.raises(ShapeError, match=r"'a' with shape \(5,\)"):
            kv.alloc_like(FUSED, [np.zeros(5, np.float32), *small(0)[1:]])

    with thread_cluster(1, 1, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_blocks_come_back() -> None:
    def work(kv: DistKVStore) -> None:
        w = np.zeros(N, np.float32)
        kv.init("w", w)
        warm(kv)
        arena = kv._shell.transport.sharing.arena
        free = arena.free_bytes()
        for step in range(10):
            kv.push("w", numbers(0, step)).result()
            kv.pushpull("w", numbers(0, step), w)
        kv._shell.core.submit([], 0.0)
        assert arena.free_bytes() >= free

    with thread_cluster(1, 1, slice_bytes=SLICE) as cluster:
        cluster.each(work)


# --- reading in place -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", ["bsp", "asp"])
def test_a_view_is_the_value_and_cannot_be_written(servers: int, mode: str) -> None:
    def work(kv: DistKVStore) -> None:
        kv.init("w", np.arange(N, dtype=np.float32).reshape(100, -1))
        for _ in range(3):
            view = kv.view("w")
        assert view.shape == (100, N // 100) and not view.flags.writeable
        np.testing.assert_array_equal(view.reshape(-1), np.arange(N))
        with pytest.raises(ValueError):
            view[0] = 1
        assert not view.flags.owndata

    with thread_cluster(1, servers, mode, SLICE) as cluster:
        cluster.each(work)


@pytest.mark.parametrize("servers", [1, 2])
def test_the_slices_of_a_key_are_one_array_that_stays_where_it_is(servers: int) -> None:
    def work(kv: DistKVStore) -> None:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        g = kv.alloc(N)
        places = set()
        for step in range(4):
            g[:] = step
            view = kv.view("w", g)
            assert (view == step).all()
            places.add(view.__array_interface__["data"][0])
        assert len(places) == 1

    with thread_cluster(1, servers, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_in_a_synchronous_run_a_view_holds_still_until_its_worker_pushes_again() -> None:
    turn = threading.Barrier(2)

    def work(kv: DistKVStore) -> None:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        view = kv.view("w", np.full(N, 1, np.float32))
        if kv.rank == 1:
            kv.push("w", np.full(N, 9, np.float32)).result()
        turn.wait(PATIENCE_S)
        if kv.rank == 0:
            assert (view == 1).all()
            kv.push("w", np.full(N, 7, np.float32)).result()
        assert (kv.view("w") == 8).all()

    with thread_cluster(2, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_in_an_asynchronous_run_a_view_holds_still_while_others_push() -> None:
    turn = threading.Barrier(2)

    def work(kv: DistKVStore) -> None:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        turn.wait(PATIENCE_S)
        if kv.rank == 0:
            view = kv.view("w")
            before = view.copy()
        turn.wait(PATIENCE_S)
        if kv.rank == 1:
            for step in range(5):
                kv.push("w", np.full(N, 100 + step, np.float32)).result()
        turn.wait(PATIENCE_S)
        if kv.rank == 0:
            np.testing.assert_array_equal(view, before)
            assert (kv.view("w") == 104).all()

    with thread_cluster(2, 1, "asp", SLICE) as cluster:
        cluster.each(work)


def test_views_of_several_keys_fused_and_not() -> None:
    def work(kv: DistKVStore) -> None:
        values = [np.full((3, n), n, np.float32) for n in (5, 7, 6000)]
        kv.init(["a", "b", "c"], values, fuse=True)
        grads = [v + 1 for v in values]
        for _ in range(3):
            views = kv.view(["a", "b", "c"], grads)
        for view, grad in zip(views, grads, strict=True):
            np.testing.assert_array_equal(view, grad)
            assert not view.flags.writeable
        np.testing.assert_array_equal(kv.pull("b", copy=False), grads[1])

    with thread_cluster(1, 1, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_a_view_outlives_its_store() -> None:
    views = []

    def work(kv: DistKVStore) -> None:
        kv.init("w", np.arange(N, dtype=np.float32))
        warm(kv)
        kv.push("w", np.arange(N, dtype=np.float32)).result()
        views.append(kv.view("w"))

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)
    np.testing.assert_array_equal(views[0], np.arange(N))


def test_a_local_store_has_views_and_alloc_too() -> None:
    kv = create("local")
    kv.init("w", np.zeros(3, np.float32))
    g = kv.alloc(3)
    g[:] = 2
    view = kv.view("w", g)
    assert (view == 2).all() and not view.flags.writeable and (g == 2).all()
    assert (kv.pull("w", copy=False) == 2).all()
    assert [v.tolist() for v in kv.view(["w"])] == [[2.0, 2.0, 2.0]]
    assert [a.tolist() for a in kv.alloc_like(["w"], [g])] == [[0.0, 0.0, 0.0]]
    with pytest.raises(KeyNotInitializedError, match="'x' is not initialised"):
        kv.alloc_like("x", g)


def test_out_and_no_copy_contradict_each_other() -> None:
    kv = create("local")
    kv.init("w", np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="out and copy=False"):
        kv.pull("w", np.zeros(3, np.float32), copy=False)


# --- the way back -----------------------------------------------------------------------------------------------------


def test_a_link_that_ends_in_the_middle_costs_nothing_but_speed() -> None:
    def work(kv: DistKVStore) -> Array:
        w = np.zeros(N, np.float32)
        kv.init("w", w)
        warm(kv)
        for step in range(6):
            if step == 3:
                for shell in cluster.shells:
                    for link in list(shell.transport.sharing._sockets.values()):
                        link.sock.shutdown(2)
            kv.pushpull("w", np.full(N, step, np.float32), w)
            assert (w == step).all()
        return w

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_a_link_that_has_broken_is_made_again() -> None:
    def work(kv: DistKVStore) -> None:
        w, sharing = np.zeros(N, np.float32), kv._shell.transport.sharing
        kv.init("w", w)
        warm(kv)
        for end in ("servers", "worker"):  # which end it is that the other one hears of it from
            mine = [sharing] if end == "worker" else [s.transport.sharing for s in cluster.shells]
            for link in [link for one in mine for link in list(one._sockets.values())]:
                link.sock.shutdown(2)
            before, deadline = sharing.spared_bytes, time.monotonic() + PATIENCE_S
            while sharing.spared_bytes < before + 4 * w.nbytes and time.monotonic() < deadline:
                kv.pushpull("w", np.full(N, 3, np.float32), w)
            assert len(sharing.peers()) == 2 and not sharing.broken
            assert sharing.spared_bytes >= before + 4 * w.nbytes
        assert (w == 3).all()

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_a_link_that_stays_broken_is_asked_for_less_and_less_often() -> None:
    broken, asked, now = {"server0"}, list[float](), 0.0
    mending = Mending(broken, lambda _: asked.append(now))
    while now < 100.0:
        now = mending.turn(now, now + 1000.0)
    assert [round(t, 1) for t in asked[:4]] == [0.1, 0.3, 0.7, 1.5] and len(asked) < 14
    broken.clear()
    assert mending.turn(now, now + 5.0) == now + 5.0


def test_an_arena_that_is_full_sends_what_does_not_fit() -> None:
    def work(kv: DistKVStore) -> None:
        w = np.zeros(N, np.float32)
        kv.init("w", w)
        warm(kv)
        arena = kv._shell.transport.sharing.arena
        arena.limit_bytes = arena.size_bytes
        taken = []
        while (block := arena.allocate(4096)) is not None:
            taken.append(block)
        kv.pushpull("w", np.full(N, 4, np.float32), w)
        assert (w == 4).all()
        assert (kv.alloc(N) == 0).all()

    with thread_cluster(1, 1, slice_bytes=SLICE) as cluster:
        cluster.each(work)


# --- staging and copies, alone ----------------------------------------------------------------------------------------


class Peer(Sharing):
    """Shares with everybody at once."""

    def __init__(self) -> None:
        super().__init__(lambda fd: None, lambda fd: None)
        self.there = True

    def shares(self, peer: str) -> bool:
        return self.there

    def place(self, peer: str, nbytes: int) -> Any:
        return self.arena.allocate(nbytes)


def push(value: Array, clock: int = 0) -> Push:
    return Push(
        worker=0, incarnation=1, seq=clock, slice=3, clock=clock, pulled=0, want=True, value=as_payload(value)
    )  # fmt: skip


def job(clock: int = 0) -> Job:
    return Job(server=0, slice=3, clock=clock, payload=as_payload(np.zeros(1, np.float32)))


def test_a_repeated_push_is_copied_once() -> None:
    staging, value = Staging(Peer()), np.ones(5000, np.float32)
    first, again = staging.stage("server0", push(value)), staging.stage("server0", push(value))
    assert isinstance(first, Push) and isinstance(again, Push)
    assert shm.address_of(first.value.data) == shm.address_of(again.value.data) != shm.address_of(value)


def test_a_push_whose_contribution_was_moved_says_the_same_as_before() -> None:
    value = np.ones(5000, np.float32)
    sent = Push(
        worker=1, incarnation=2, seq=3, slice=4, clock=5, pulled=6, round=7, quota=8, holds=True, want=True,
        reply="bf16", value=as_payload(value), rows=as_payload(np.arange(3)),
    )  # fmt: skip
    moved = Staging(Peer()).stage("server0", sent)
    assert moved == sent and moved is not sent


def test_memory_of_a_push_that_is_done_is_used_again_and_of_one_that_failed_never() -> None:
    sharing = Peer()
    staging, value = Staging(sharing), np.ones(5000, np.float32)
    staging.stage("server0", push(value))
    taken = sharing.arena.free_bytes()
    staging.release(job())
    free = sharing.arena.free_bytes()
    assert free > taken
    staging.stage("server0", push(value, 1))
    staging.forsake(job(1))
    assert sharing.arena.free_bytes() == taken


def test_what_is_compressed_small_or_no_push_is_left_alone() -> None:
    staging = Staging(Peer())
    small = push(np.ones(10, np.float32))
    assert staging.stage("server0", small) is small


def test_a_repeated_question_is_not_answered_in_memory_that_is_being_read() -> None:
    sharing = Peer()
    copies = Copies(sharing)
    first = copies.make("w", 3, 7, as_payload(np.full(5000, 1, np.float32)))
    assert first is not None
    assert copies.make("w", 3, 7, as_payload(np.full(5000, 2, np.float32))) is None
    assert bytes(first.data[:4]) == np.float32(1).tobytes()
    later = copies.make("w", 3, 8, as_payload(np.full(5000, 2, np.float32)))
    assert later is not None and shm.address_of(later.data) == shm.address_of(first.data)
    sharing.there = False
    assert copies.make("w", 3, 9, as_payload(np.zeros(5000, np.float32))) is None and not copies._made


def test_transports_without_peers_place_nothing() -> None:
    transport = Transport("alone")
    try:
        assert transport.sharing.place("nobody", 1 << 20) is None and transport.sharing.arena.regions == []
    finally:
        transport.close(0.0)


def test_views_through_sockets_are_copies_in_memory_that_the_key_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SHM", "0")

    def work(kv: DistKVStore) -> None:
        kv.init("w", np.arange(N, dtype=np.float32))
        places = set()
        for step in range(3):
            view = kv.view("w", np.full(N, step, np.float32))
            assert (view == step).all() and not view.flags.writeable
            places.add(view.__array_interface__["data"][0])
        assert len(places) == 1

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)


def test_a_key_that_one_server_shares_and_another_sends_is_one_array() -> None:
    def work(kv: DistKVStore) -> None:
        kv.init("w", np.zeros(N, np.float32))
        warm(kv)
        sharing = cluster.shells[0].transport.sharing
        sharing.arena.refusal = "so that it is not shared again"
        for link in list(sharing._sockets.values()):
            link.sock.shutdown(2)
        for step in range(3):
            view = kv.view("w", np.arange(step, N + step, dtype=np.float32))
            np.testing.assert_array_equal(view, np.arange(step, N + step))

    with thread_cluster(1, 2, slice_bytes=SLICE) as cluster:
        cluster.each(work)
        assert cluster._clients[0].transport.sharing.peers() == ["server1"]
