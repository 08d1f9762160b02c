"""However slow the servers are, a worker keeps no more of its pushes than it says."""

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from shoal.errors import StoreError, StoreTimeoutError
from shoal.kvstore.client.backlog import Backlog
from shoal.kvstore.client.shell import Call
from shoal.kvstore.wire.schema import Message
from shoal.ops import optim
from tests.kvstore.threads import ThreadCluster, thread_cluster
from tests.patience import PATIENCE_S, until


def call() -> Call:
    made = Call()
    made.set_running_or_notify_cancel()
    return made


def test_what_fits_need_not_wait() -> None:
    backlog = Backlog(1.0, limit_bytes=100)
    for n in (40, 60):
        backlog.make_room(n)
        backlog.keep(call(), n)
    assert backlog.held_bytes == backlog.most_bytes == 100


def test_what_is_larger_than_the_limit_goes_alone() -> None:
    backlog = Backlog(1.0, limit_bytes=100)
    backlog.make_room(1000)
    backlog.keep(call(), 1000)
    with pytest.raises(StoreTimeoutError, match="1000 bytes of pushes wait for the servers"):
        Backlog.make_room(_hurried(backlog), 1)


def _hurried(backlog: Backlog) -> Backlog:
    backlog._timeout_s = 0.01
    return backlog


def test_a_push_that_is_over_makes_room() -> None:
    backlog, first, second = Backlog(PATIENCE_S, limit_bytes=100), call(), call()
    backlog.keep(first, 60)
    backlog.keep(second, 40)
    threading.Timer(0.01, first.set_result, [None]).start()
    backlog.make_room(50)
    assert backlog.held_bytes == 40


def test_who_waits_for_a_push_that_fails_hears_of_it_and_nobody_else_does() -> None:
    backlog, first = Backlog(PATIENCE_S, limit_bytes=100), call()
    backlog.keep(first, 100)
    threading.Timer(0.01, first.set_exception, [StoreError("cut off")]).start()
    with pytest.raises(StoreError, match="cut off"):
        backlog.make_room(1)
    assert first.taken and backlog.held_bytes == 0


def test_pushes_that_keep_nothing_never_wait() -> None:
    backlog = Backlog(1.0, limit_bytes=1)
    backlog.keep(call(), 10)
    backlog.make_room(0)
    backlog.keep(call(), 0)
    assert backlog.held_bytes == 10


# --- a server that has stopped ----------------------------------------------------------------------------------------


class Pause:
    """A driver that holds up its loop."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.stopped = threading.Event()

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Nothing comes."""

    def wake(self, now: float) -> float:
        if not self.go.is_set():
            self.stopped.set()
            self.go.wait(PATIENCE_S)
        return now + 0.01


@contextlib.contextmanager
def stopped_server(cluster: ThreadCluster) -> Iterator[None]:
    """The server does nothing inside the block."""
    pause = Pause()
    loop = cluster._loops[0][0]
    loop.drivers["pause"] = pause
    pause.go.clear()
    loop.transport.wake()
    assert pause.stopped.wait(PATIENCE_S)
    try:
        yield
    finally:
        pause.go.set()


@pytest.mark.net
@pytest.mark.parametrize("fuse", [False, True])
def test_behind_a_stopped_server_a_script_waits_instead_of_growing(fuse: bool) -> None:
    size, pushes = 50_000, 20
    one = np.ones(size, np.float32)
    with thread_cluster(1, 1, "asp") as cluster:
        kv = cluster.store(0)
        keys = ["a", "b"]
        kv.init(keys, [np.zeros(size, np.float32)] * 2, **({"fuse": True} if fuse else {}))
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))
        kv.flush()
        kv._backlog.limit_bytes = 5 * one.nbytes
        sent: list[int] = []

        def script() -> None:
            for i in range(pushes):
                kv.push_async(keys, [one, one])
                sent.append(i)

        with stopped_server(cluster):
            thread = threading.Thread(target=script)
            thread.start()
            until(lambda: len(sent) == 2)
            thread.join(0.2)  # long enough for the third, if it were not held up
            assert thread.is_alive() and len(sent) == 2
            assert kv._backlog.held_bytes == 4 * one.nbytes
        thread.join(PATIENCE_S)
        assert len(sent) == pushes
        kv.flush()
        assert kv._backlog.held_bytes == 0 and kv._backlog.most_bytes <= kv._backlog.limit_bytes
        assert all((w == pushes).all() for w in kv.pull(keys))


@pytest.mark.net
def test_arrays_that_are_not_copied_never_wait() -> None:
    with thread_cluster(1, 1, "asp") as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1000, np.float32))
        kv._backlog.limit_bytes = 1
        out = np.empty(1000, np.float32)
        with stopped_server(cluster):
            calls = [kv.pushpull_async("w", np.ones(1000, np.float32), out) for _ in range(5)]
        for each in calls:
            each.result()
        assert kv._backlog.most_bytes == 0
