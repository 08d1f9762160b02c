"""Virtual time: what happens next, and how long messages travel."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from shoal.errors import ConfigError
from shoal.lab.simulate_laws import Constant, Law

__all__ = ["Network", "Timeline"]

Act: TypeAlias = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Network:
    """How long a message is under way. It loses nothing, and keeps the order of messages between two processes.

    Args:
        delay: of every message, in seconds or as a law of them (by the worker's rank).
        bytes_per_s: what each process can send, and receive, at a time; None is unlimited. Messages to one server
            queue up there, which is what sharding over several servers is for.
        handling_s: how long a server is busy with each contribution, one after another.
    """

    delay: Law | float = 0.0
    bytes_per_s: float | None = None
    handling_s: float = 0.0

    def __post_init__(self) -> None:
        numbers = {"delay": self.delay if not isinstance(self.delay, Law) else 0.0, "handling_s": self.handling_s}
        for name, value in numbers.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"a network's {name} is a number of seconds >= 0, got {value!r}")
        if self.bytes_per_s is not None and not 0 < self.bytes_per_s < math.inf:
            raise ConfigError(f"a network carries a positive number of bytes_per_s, got {self.bytes_per_s!r}")

    @property
    def instant(self) -> bool:
        """Whether every message arrives when it is sent."""
        return self.delay == 0.0 and self.bytes_per_s is None and not self.handling_s


class _Link:
    """One direction between a worker and a server."""

    __slots__ = ("arrived", "delays")

    def __init__(self, delays: Iterator[float] | None) -> None:
        self.delays, self.arrived = delays, 0.0


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
        self._free: dict[tuple[str, str, int], float] = {}  # when a process's way in or out is free again

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
        busy = self._network.handling_s if handled else 0.0
        arrival = self._through(("worker", worker), ("server", server), size, busy, self._link("up", worker, server))
        self.at(arrival, act, *args)

    def down(self, worker: int, server: int, size: int, act: Act, *args: Any) -> None:
        """Carry a message of ``size`` bytes to a worker."""
        if self._instant:
            self._mail.append((act, args))
            return
        arrival = self._through(("server", server), ("worker", worker), size, 0.0, self._link("down", worker, server))
        self.at(arrival, act, *args)

    def _link(self, way: str, worker: int, server: int) -> _Link:
        link = self._links.get((way, worker, server))
        if link is None:
            delay = self._network.delay
            law = Constant(delay) if not isinstance(delay, Law) and delay else delay
            times = law.times(self._seed, f"{way} {server}", worker) if isinstance(law, Law) else None
            link = self._links[way, worker, server] = _Link(times)
        return link

    def _through(self, source: tuple[str, int], to: tuple[str, int], size: int, busy: float, link: _Link) -> float:
        """When the message is in: out of one process, on its way, into the other, byte after byte."""
        lasts = size / self._network.bytes_per_s if self._network.bytes_per_s else 0.0
        begun = max(self.now, self._free.get(("out", *source), 0.0))
        self._free["out", *source] = begun + lasts
        delay = next(link.delays, 0.0) if link.delays is not None else 0.0
        taken = max(begun + delay, link.arrived, self._free.get(("in", *to), 0.0) if lasts or busy else 0.0)
        link.arrived = taken + lasts + busy
        if lasts or busy:
            self._free["in", *to] = link.arrived
        return link.arrived
