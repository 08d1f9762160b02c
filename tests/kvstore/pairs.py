"""Workers, a server and its replica in one process: real sockets and shells in threads; a test plays the scheduler."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.server.freeze import freeze
from shoal.kvstore.server.shard import Identity, Shard
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Left, Member, Replaced, Roster
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from tests.kvstore.membership import FakeMembership, Meeting
from tests.patience import PATIENCE_S


class Orders:
    """A driver that does what other threads ask for, on the loop's thread."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._orders: deque[tuple[Callable[[], Any], list[Any], threading.Event]] = deque()

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Nobody says anything to it."""

    def wake(self, now: float) -> float:
        while self._orders:
            order, result, done = self._orders.popleft()
            result.append(order())
            done.set()
        return now + 1.0

    def do(self, order: Callable[[], Any]) -> Any:
        result: list[Any] = []
        done = threading.Event()
        self._orders.append((order, result, done))
        self._transport.wake()
        assert done.wait(PATIENCE_S)
        return result[0]


class Process:
    """One of the shard's processes."""

    def __init__(self, pair: "Pair", pid: int, replica: bool, lease_s: float) -> None:
        self.pid, self.lease_s = pid, lease_s
        self.transport = Transport(f"p{pid}")
        self.address = f"127.0.0.1:{self.transport.bind('127.0.0.1')}"
        self.orders = Orders(self.transport)
        self.loop = Loop(self.transport, {"orders": self.orders})
        self.stepped, self.silent = threading.Event(), threading.Event()
        self.shard = Shard(
            lambda: ServerShell(self.transport),
            self.loop,
            replica=replica,
            on_step=lambda member: self.stepped.set(),
            on_silence=lambda member, silent_s: self.silent.set(),
        )
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def member(self, role: str, incarnation: int) -> Member:
        return Member(role=role, rank=0, incarnation=incarnation, address=self.address, host="h", pid=self.pid)

    def begin(self, incarnation: int) -> None:
        me = Identity(0, incarnation, "run", self.lease_s, self.address, self.pid)
        self.orders.do(lambda: self.shard.begin(me))

    def hear(self, m: Message) -> None:
        self.orders.do(lambda: self.shard.hear(m))

    def state(self) -> tuple[Any, dict[int, Any]]:
        """What the core knows, and every array."""
        return self.orders.do(lambda: _state(self.shard.store))  # type: ignore[no-any-return]

    def end(self) -> None:
        if self.thread.is_alive():
            self.loop.stop()
            self.thread.join(PATIENCE_S)
            assert not self.thread.is_alive()
            self.loop.transport.close(0.0)


def _state(store: ServerShell) -> tuple[Any, dict[int, Any]]:
    assert store.core is not None and not store.failure(), store.failure()
    arrays = {
        i: [
            c.value.copy(),
            c.updates,
            *[a.copy() for a in (c.state or {}).values()],
            {k: np.array(v) for k, v in c.parts.items()},
        ]
        for i, c in store.table.cells.items()
    }
    return freeze(store.core), arrays


class Pair:
    """``workers`` stores on one server that has a replica."""

    def __init__(self, workers: int, mode: str = "", lease_s: float = 10.0, replicated: bool = True) -> None:
        self.mode = mode
        self.workers, self.generation, self.lease_s = workers, 1, lease_s
        self.meeting = Meeting(workers, 1)
        self.news: list[Message] = []
        self.processes = [Process(self, 1, False, lease_s)]
        self.primary = self.processes[0]
        self.replica: Process | None = None
        if replicated:
            self.replica = Process(self, 2, True, lease_s)
            self.processes.append(self.replica)
        self.incarnations = {"server": 1, "replica": int(replicated)}
        self._clients = [self._connect(r) for r in range(workers)]
        members = [self.primary.member("server", 1)]
        members += [self.replica.member("replica", 1)] if self.replica else []
        members += [
            Member(role="worker", rank=r, incarnation=1, address="", host="h", pid=100 + r) for r in range(workers)
        ]
        self.roster = Roster(generation=1, epoch=1, members=tuple(members))
        for process in reversed(self.processes):  # the replica hears of it first, or not: neither matters
            process.begin(1)
            process.hear(self.roster)

    def _connect(self, rank: int) -> tuple[ClientShell, Orders, Loop, threading.Thread]:
        transport = Transport(f"w{rank}")
        transport.connect("server0", self.primary.address)
        orders = Orders(transport)
        loop = Loop(transport, {"orders": orders})
        shell = ClientShell(transport, ClientCore(rank, 1, "run", 1, PATIENCE_S), loop)
        loop.drivers[""] = shell
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        return shell, orders, loop, thread

    def store(self, rank: int = 0, mode: str = "", reduce: str = "mean") -> DistKVStore:
        return DistKVStore(
            mode or self.mode, reduce, FakeMembership(rank, self.meeting), self._clients[rank][0], PATIENCE_S
        )

    def stores(self, mode: str = "", reduce: str = "mean") -> list[DistKVStore]:
        return [self.store(r, mode, reduce) for r in range(self.workers)]

    def each(self, stores: list[DistKVStore], work: Callable[[DistKVStore], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(stores)) as pool:
            return [f.result(2 * PATIENCE_S) for f in [pool.submit(work, s) for s in stores]]

    def acknowledged(self) -> list[int]:
        """Pushes, by worker."""
        return [shell.core.counters.acknowledged for shell, *_ in self._clients]

    # --- what the scheduler says --------------------------------------------------------------------------------------

    def tell(self, m: Message, *others: Process) -> None:
        self.news.append(m)
        for process in (*self.processes, *others):
            if process.thread.is_alive():
                process.hear(m)

    def kill_primary(self) -> None:
        """The primary is gone; the scheduler gives its place to the replica."""
        assert self.replica is not None
        dead, self.primary, self.replica = self.primary, self.replica, None
        dead.end()
        self.promote()

    def promote(self) -> None:
        self.generation += 1
        self.incarnations["server"] += 1
        member = self.primary.member("server", self.incarnations["server"])
        self.tell(Replaced(generation=self.generation, member=member))
        self.reconnect(member)

    def reconnect(self, member: Member) -> None:
        """Workers hear of it."""
        for shell, orders, loop, _ in self._clients:
            orders.do(lambda shell=shell, loop=loop: self._reconnect(shell, loop, member))  # type: ignore[misc]

    @staticmethod
    def _reconnect(shell: ClientShell, loop: Loop, member: Member) -> None:
        loop.transport.disconnect("server0")
        loop.transport.connect("server0", member.address)
        shell.replaced(0, loop.clock())

    def lose_replica(self) -> None:
        """The replica is gone, and the scheduler says so."""
        assert self.replica is not None
        dead, self.replica = self.replica, None
        dead.end()
        self.forsake()

    def forsake(self) -> None:
        self.generation += 1
        left = Left(role="replica", rank=0, incarnation=self.incarnations["replica"], generation=self.generation)
        self.tell(left)

    def add_replica(self) -> Process:
        """A new replica joins; it hears the past first."""
        new = self.replica = Process(self, len(self.processes) + 1, True, self.lease_s)
        new.begin(1)
        for m in (self.roster, *self.news):
            new.hear(m)
        self.processes.append(new)
        self.generation += 1
        self.incarnations["replica"] += 1
        member = new.member("replica", self.incarnations["replica"])
        self.tell(Replaced(generation=self.generation, member=member))
        return new

    def close(self) -> None:
        for process in self.processes:
            process.end()
        for _, _, loop, thread in self._clients:
            loop.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
            loop.transport.close(0.0)


@contextlib.contextmanager
def a_pair(workers: int = 1, mode: str = "", lease_s: float = 10.0, replicated: bool = True) -> Iterator[Pair]:
    pair = Pair(workers, mode, lease_s, replicated)
    try:
        yield pair
    finally:
        pair.close()
