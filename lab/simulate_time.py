"""Virtual time: what happens next, and how long messages travel."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from shoal.errors import ConfigError
from shoal.lab.simulate_laws import Constant, Law, LogNormal
from shoal.lab.simulate_links import Pipe, Processor, Way

__all__ = ["Network", "Timeline"]

Act: TypeAlias = Callable[..., None]
Place: TypeAlias = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Network:
    """How long a message is under way. It loses nothing, and keeps the order of messages between two processes.

    Args:
        delay: of every message, in seconds or as a law of them (by the worker's rank).
        bytes_per_s: what each process can send, and receive, at a time; None is unlimited. Messages to one server
            queue up there, which is what sharding over several servers is for.
        server_bytes_per_s: what each server can, where that is something else.
        handling_s: how long a server is busy with each contribution, one after another.
        handling_byte_s: ... and with each byte of it.
        answering_byte_s: how long a server is busy with each byte of a value that it sends.
        duplex: part of its rate that a direction of a link has while the other one carries too: acknowledgements wait
            in the queues behind the data.
        unfairness: how unequally the messages that meet on a link share it: the deviation of the logarithm of their
            parts. TCP is fair in the long run only.
        worker_s, worker_byte_s: how long a worker is busy with each contribution and each value, and each byte of them.
        burst_s: what each direction of a link carries in that time, it lets through at once after a pause, as one does
            that a token bucket limits.
        piece: bytes that are handed on from the sender's link to the receiver's together; what is held up at one of
            them holds up the other. None: a message passes both at the same time, and neither minds the other.
    """

    delay: Law | float = 0.0
    bytes_per_s: float | None = None
    server_bytes_per_s: float | None = None
    handling_s: float = 0.0
    handling_byte_s: float = 0.0
    answering_byte_s: float = 0.0
    duplex: float = 1.0
    unfairness: float = 0.0
    worker_s: float = 0.0
    worker_byte_s: float = 0.0
    burst_s: float = 0.0
    piece: float | None = None

    def __post_init__(self) -> None:
        names = (
            "handling_s",
            "handling_byte_s",
            "answering_byte_s",
            "unfairness",
            "worker_s",
            "worker_byte_s",
            "burst_s",
        )
        numbers = {"delay": self.delay if not isinstance(self.delay, Law) else 0.0}
        for name, value in {**numbers, **{n: getattr(self, n) for n in names}}.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"a network's {name} is a number of seconds >= 0, got {value!r}")
        if not 0 < self.duplex <= 1:
            raise ConfigError(f"a network's duplex is more than 0 and at most 1, got {self.duplex!r}")
        if self.piece is not None and not 0 < self.piece < math.inf:
            raise ConfigError(f"a network's piece is a positive number of bytes, got {self.piece!r}")
        for name in ("bytes_per_s", "server_bytes_per_s"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ConfigError(f"a network carries a positive number of {name}, got {rate!r}")

    @property
    def instant(self) -> bool:
        """Whether every message arrives when it is sent."""
        return self == INSTANT


INSTANT = Network()


class _Link:
    """One direction between a worker and a server."""

    __slots__ = ("arrived", "delays", "way")

    def __init__(self, delays: Iterator[float] | None, way: Way) -> None:
        self.delays, self.way, self.arrived = delays, way, 0.0


class Timeline:
    """What is to happen, in the order of time; at the same time, in the order in which it was planned.

    Args:
        network: messages travel by it.
        seed: of their delays.
    """

    def __init__(self, network: Network, seed: int) -> None:
        self.now = 0.0
        self._network, self._seed, self._instant = network, seed, network.instant
        self._heap: list[tuple[float, int, Act, tuple[Any, ...]]] = []
        self._mail: deque[tuple[Act, tuple[Any, ...]]] = deque()
        self._order = 0
        self._links: dict[tuple[str, int, int], _Link] = {}
        self._pipes: dict[tuple[str, str, int], Pipe] = {}  # a process's way in or out
        self._busy: dict[tuple[str, int], Processor] = {}

    def at(self, time: float, act: Act, *args: Any) -> None:
        """Plan ``act(*args)``."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, act, args))

    def next(self) -> float:
        """When something happens next; infinity for never."""
        return self._heap[0][0] if self._heap else math.inf

    def step(self) -> None:
        """Let the next thing happen, and every message arrive that needs no time."""
        self.now, _, act, args = heapq.heappop(self._heap)
        act(*args)
        self.settle()

    def settle(self) -> None:
        """Let every message arrive that needs no time."""
        while self._mail:
            act, args = self._mail.popleft()
            act(*args)

    def up(self, worker: int, server: int, size: int, handled: bool, act: Act, *args: Any) -> None:
        """Carry a message of ``size`` bytes to a server, which is busy with it if it is to be ``handled``."""
        if self._instant:
            self._mail.append((act, args))
            return
        n = self._network
        at = self._work("worker", worker, n.worker_s + size * n.worker_byte_s) if size else self.now
        busy = n.handling_s + size * n.handling_byte_s if handled else 0.0
        self._carry(at, ("worker", worker), ("server", server), size, busy, self._link("up", worker, server), act, args)

    def down(self, worker: int, server: int, size: int, act: Act, *args: Any) -> None:
        """Carry a message of ``size`` bytes to a worker."""
        if self._instant:
            self._mail.append((act, args))
            return
        n = self._network
        at = self._work("server", server, size * n.answering_byte_s) if size else self.now
        busy = n.worker_s + size * n.worker_byte_s if size else 0.0
        link = self._link("down", worker, server)
        self._carry(at, ("server", server), ("worker", worker), size, busy, link, act, args)

    def _link(self, way: str, worker: int, server: int) -> _Link:
        link = self._links.get((way, worker, server))
        if link is None:
            delay = self._network.delay
            law = Constant(delay) if not isinstance(delay, Law) and delay else delay
            times = law.times(self._seed, f"{way} {server}", worker) if isinstance(law, Law) else None
            link = self._links[way, worker, server] = _Link(times, self._way(way, worker, server))
        return link

    def _way(self, way: str, worker: int, server: int) -> Way:
        ends: list[Place] = [("worker", worker), ("server", server)]
        source, to = ends if way == "up" else ends[::-1]
        n = self._network
        pipes = [p for p in (self._pipe("out", source), self._pipe("in", to)) if p is not None]
        parts = LogNormal(1.0, n.unfairness).times(self._seed, f"{way} part {server}", worker) if n.unfairness else None
        return Way(pipes, n.piece, parts)

    def _work(self, role: str, rank: int, seconds: float) -> float:
        """When a process has done what takes so long, after what it has to do already."""
        if not seconds:
            return self.now
        processor = self._busy.get((role, rank))
        if processor is None:
            processor = self._busy[role, rank] = Processor()
        return processor.take(self.now, seconds)

    def _carry(
        self, at: float, source: Place, to: Place, size: int, busy: float, link: _Link, act: Act, args: tuple[Any, ...]
    ) -> None:
        """From the time ``at`` on: out of one process and into the other, on its way, and what there is to do there."""
        delay = next(link.delays, 0.0) if link.delays is not None else 0.0
        message = _Message(delay, to, busy, link, act, args)
        if at > self.now:
            self.at(at, self._enter, message, size)
        else:
            self._enter(message, size)

    def _enter(self, message: "_Message", size: int) -> None:
        message.link.way.send(self.now, size, partial(self._travel, message))

    def _travel(self, message: "_Message", now: float) -> None:
        """All of it is on its way."""
        link = message.link
        link.arrived = max(now + message.delay, link.arrived)
        if link.arrived > now:
            self.at(link.arrived, self._arrive, message)
        else:
            self._arrive(message)

    def _arrive(self, message: "_Message") -> None:
        done = self._work(*message.to, message.busy)
        if done > self.now or message.busy:
            self.at(done, message.act, *message.args)
        else:
            self._mail.append((message.act, message.args))

    def _pipe(self, way: str, place: Place) -> Pipe | None:
        n = self._network
        rate = n.bytes_per_s if place[0] == "worker" or n.server_bytes_per_s is None else n.server_bytes_per_s
        if rate is None:
            return None
        pipe = self._pipes.get((way, *place))
        if pipe is None:
            pipe = self._pipes[(way, *place)] = Pipe(rate, self.at, n.duplex, rate * n.burst_s)
            twin = self._pipes.get(("in" if way == "out" else "out", *place))
            if twin is not None:
                pipe.twin, twin.twin = twin, pipe
        return pipe


class _Message:
    """One on its way."""

    __slots__ = ("act", "args", "busy", "delay", "link", "to")

    def __init__(self, delay: float, to: Place, busy: float, link: _Link, act: Act, args: tuple[Any, ...]) -> None:
        self.delay, self.to, self.busy, self.link, self.act, self.args = delay, to, busy, link, act, args
