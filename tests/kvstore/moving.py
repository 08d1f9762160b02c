"""A cluster in threads whose slices move: the scheduler's part by a fake."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.placement import SLICE_BYTES, drained, rebalanced
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Handed, Moved, Rebalance, Shift
from shoal.kvstore.wire.transport import Transport
from tests.kvstore.threads import ThreadCluster
from tests.patience import until


class Inbox:
    """A driver that carries out what other threads ask for."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def receive(self, peer: str, message: Any, now: float) -> None:
        raise AssertionError("nobody is called so")

    def wake(self, now: float) -> float:
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()()
        return now + 1.0

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        self.loop.transport.wake()


class Beside:
    """The other servers, as one of them reaches them."""

    def __init__(self, cluster: "MovingCluster", rank: int, transport: Transport) -> None:
        self.cluster, self.rank, self.transport = cluster, rank, transport
        self.connected: set[int] = set()

    def reach(self, rank: int) -> str:
        if rank not in self.connected:
            self.connected.add(rank)
            self.transport.connect(f"peer{rank}", self.cluster.addresses[rank])
        return f"peer{rank}"

    def incarnation(self, rank: int) -> int:
        return 1 if rank < len(self.cluster.addresses) else 0

    def tell(self, message: Handed) -> None:
        self.cluster.handed(self.rank, message)

    def hush(self, slice_id: int) -> None:
        """The fake hears everything the first time."""


class MovingCluster(ThreadCluster):
    """See `ThreadCluster`; ``confirms`` is false for a scheduler that is away."""

    def __init__(self, workers: int, servers: int, mode: str = "", slice_bytes: int = SLICE_BYTES) -> None:
        self.epoch, self.lock, self.confirms = 1, threading.Lock(), True
        self.handed_over: list[tuple[int, Handed]] = []
        self.plan: dict[int, Shift] = {}
        self.inboxes: list[Inbox] = []
        super().__init__(workers, servers, mode, slice_bytes)

    def _drive(self, loop: Loop) -> None:
        inbox = Inbox(loop)
        loop.drivers["inbox"] = inbox
        self.inboxes.append(inbox)
        for driver in loop.drivers.values():
            if isinstance(driver, ServerShell):
                rank = len(self.shells) - 1
                driver.neighbours = Beside(self, rank, loop.transport)
        super()._drive(loop)

    def each_server(self, work: Callable[[ServerShell], None]) -> None:
        for inbox in self.inboxes:
            shell = inbox.loop.drivers.get("")
            if isinstance(shell, ServerShell):
                inbox.put(lambda shell=shell: work(shell))  # type: ignore[misc]

    def each_client(self, work: Callable[[ClientShell], None]) -> None:
        for inbox in self.inboxes:
            shell = inbox.loop.drivers.get("")
            if isinstance(shell, ClientShell):
                inbox.put(lambda shell=shell: work(shell))  # type: ignore[misc]

    # --- the scheduler's part -----------------------------------------------------------------------------------------

    def handed(self, source: int, m: Handed) -> None:
        with self.lock:
            self.handed_over.append((source, m))
            if self.confirms:
                self._confirm(source, m)

    def confirm(self) -> None:
        """The scheduler is back."""
        with self.lock:
            self.confirms = True
            for source, m in self.handed_over:
                self._confirm(source, m)

    def _confirm(self, source: int, m: Handed) -> None:
        if self.plan.pop(m.slice, None) != Shift(slice=m.slice, source=source, target=m.target):
            return
        self.epoch += 1
        with self.meeting.lock:
            self.meeting.placement.move(m.slice, m.target)
        moved = Moved(generation=0, epoch=self.epoch, slice=m.slice, server=m.target)
        self.each_server(lambda s: s.placing(moved))
        self.each_client(lambda c: c.moved(moved.slice, moved.server, moved.epoch, time.monotonic()))

    def rebalance(self, moves: Sequence[Shift]) -> None:
        with self.lock:
            self.plan = {m.slice: m for m in moves}
        self.each_server(lambda s: s.placing(Rebalance(generation=0, moves=tuple(moves))))

    def drain(self, rank: int) -> None:
        self.meeting.placement.closed.add(rank)
        self.rebalance(drained(self.meeting.placement, rank))

    def add(self) -> int:
        """One more server, which gets its share."""
        rank = len(self.addresses)
        self.addresses.append(self._serve(rank))
        for c in self._clients:
            c.transport  # noqa: B018  # connected on its own thread
        self.each_client(lambda c: self._meet(c, rank))
        self.meeting.placement.grow()
        self.rebalance(rebalanced(self.meeting.placement))
        return rank

    def _meet(self, client: ClientShell, rank: int) -> None:
        client.transport.connect(f"server{rank}", self.addresses[rank])
        client.arrived(rank, time.monotonic())

    def settled(self) -> None:
        """Wait until everything has moved that was to."""
        until(
            lambda: not self.plan and not any(s._mover and (s._mover.busy or s._mover.going) for s in self.shells),
            lambda: [s._mover and s._mover.going for s in self.shells],
        )

    def owners(self) -> list[int]:
        return [h.server for _, h in sorted(self.meeting.placement.homes.items())]


@contextlib.contextmanager
def moving_cluster(
    workers: int, servers: int, mode: str = "", slice_bytes: int = SLICE_BYTES
) -> Iterator[MovingCluster]:
    cluster = MovingCluster(workers, servers, mode, slice_bytes)
    try:
        yield cluster
    finally:
        cluster.close()
