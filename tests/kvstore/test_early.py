"""Large calls whose first part is under way while the rest is taken apart."""

import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from shoal.errors import NodeLostError
from shoal.kvstore import handover
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.shell import Call
from shoal.kvstore.dist import DistKVStore
from shoal.ops import optim
from tests.kvstore.threads import ThreadCluster, thread_cluster

KEYS = [f"k{i}" for i in range(12)]
SHAPES = [(700,)] * 10 + [(3,), (5,)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadCluster]:
    monkeypatch.setattr(handover, "EARLY_BYTES", 4096)
    with thread_cluster(1, 2, slice_bytes=2048) as made:
        yield made


def prepared(cluster: ThreadCluster) -> DistKVStore:
    kv = cluster.store(0)
    kv.init(KEYS, [np.zeros(s, np.float32) for s in SHAPES], fuse=True)
    kv.set_optimizer(optim.create("sgd", learning_rate=1.0))
    return kv


def sent(kv: DistKVStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """How many jobs each hand-over has, and whether more come."""
    found: list[tuple[int, bool]] = []
    submit = kv._shell.submit

    def note(jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        found.append((len(jobs), early))
        submit(jobs, waits, early)

    monkeypatch.setattr(kv._shell, "submit", note)
    return found


def test_a_large_call_is_handed_over_in_two_parts_and_counts_every_slice_once(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = prepared(cluster)
    handed = sent(kv, monkeypatch)
    grads, outs = [np.full(s, i, np.float32) for i, s in enumerate(SHAPES)], [np.empty(s, np.float32) for s in SHAPES]
    for turn in (1, 2, 3):
        kv.pushpull(KEYS, grads, outs)
        assert all((o == -turn * i).all() for i, o in enumerate(outs))
    slices = {s.id for k in KEYS for s in kv.layout(k).slices}
    assert len(handed) == 6 and [early for _, early in handed] == [True, False] * 3
    assert all(a + b == len(slices) and a and b for (a, _), (b, _) in zip(handed[::2], handed[1::2], strict=True))
    counts = kv.ledger()
    assert counts["sent"] == counts["acknowledged"] == 3 * len(slices)


def test_a_large_view_gives_what_a_pull_gives(cluster: ThreadCluster) -> None:
    kv = prepared(cluster)
    grads = [np.arange(int(np.prod(s)), dtype=np.float32) for s in SHAPES]
    seen = [v.copy() for v in kv.view(KEYS, grads)]
    assert all(np.array_equal(a, b) for a, b in zip(seen, kv.pull(KEYS), strict=True))
    assert np.array_equal(seen[0], -grads[0])


def test_small_calls_and_calls_that_nobody_waits_for_are_handed_over_at_once(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = prepared(cluster)
    handed = sent(kv, monkeypatch)
    grads = [np.ones(s, np.float32) for s in SHAPES]
    kv.pushpull(KEYS[:1], grads[:1])
    kv.pushpull_async(KEYS, grads).result()
    assert [early for _, early in handed] == [False, False]


def test_ctrl_c_between_the_two_parts_comes_when_all_of_the_call_is_under_way(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threading.current_thread() is threading.main_thread()
    kv = prepared(cluster)
    submit = kv._shell.submit

    def interrupted(jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        submit(jobs, waits, early)
        if early:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(kv._shell, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kv.pushpull(KEYS, [np.ones(s, np.float32) for s in SHAPES])
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(kv._shell, "submit", submit)
    kv.flush()
    counts = kv.ledger()
    assert counts["sent"] == counts["acknowledged"] == len({s.id for k in KEYS for s in kv.layout(k).slices})
    assert all((v == -1).all() for v in kv.pull(KEYS))


@pytest.mark.parametrize("way", ["pushpull", "pushpull_async", "view", "view_async"])
@pytest.mark.parametrize("handed_over", [True, False])
def test_a_call_that_is_interrupted_once_it_is_handed_over_is_flushed(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch, way: str, handed_over: bool
) -> None:
    kv = prepared(cluster)
    submit = kv._shell.submit

    def interrupted(jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        if handed_over:
            submit(jobs)
        raise KeyboardInterrupt

    key, grad = KEYS[0], np.ones(SHAPES[0], np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(kv._shell, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            getattr(kv, way)(key, grad)
    kv.flush()
    counts = kv.ledger()
    assert counts["sent"] == counts["acknowledged"] == handed_over * len(kv.layout(key).slices)
    assert not kv._under_way and kv._latest is None


def test_a_large_call_that_is_interrupted_at_its_very_end_is_flushed(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = prepared(cluster)

    def interrupted(call: Call) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kv, "_awaited", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kv.pushpull(KEYS, [np.ones(s, np.float32) for s in SHAPES])
    assert kv._latest is not None
    kv.flush()
    counts = kv.ledger()
    assert counts["sent"] == counts["acknowledged"] == len({s.id for k in KEYS for s in kv.layout(k).slices})


def test_the_error_of_a_call_that_was_interrupted_is_told_by_flush(
    cluster: ThreadCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = prepared(cluster)

    def interrupted(jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        jobs[0].token[0].fail(NodeLostError("server 0 is gone"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kv._shell, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kv.pushpull(KEYS[0], np.ones(SHAPES[0], np.float32))
    with pytest.raises(NodeLostError, match="server 0 is gone"):
        kv.flush()


def test_reads_and_calls_of_other_threads_are_nothing_that_flush_waits_for(cluster: ThreadCluster) -> None:
    kv = prepared(cluster)
    kv.view_async(KEYS[0]).result()
    kv.pull_async(KEYS[1]).result()
    assert kv._latest is None
    other = threading.Thread(target=lambda: kv._pushpull(KEYS[0], np.ones(SHAPES[0], np.float32), None, 0, waits=False))
    other.start()
    other.join()
    assert kv._latest is None and not kv._under_way
