"""What messages queue up for in a simulation: the two directions of a process's link, and its processor.

A *pipe* is one direction of a link. Its *flows*, one for each process at the other end, share its rate equally, as
TCP's do. A *way* is what goes from one process to another, by a pipe at either end: piece after piece, each of which
passes the one and then the other, as packets do that a switch hands on. What is held up at one end leaves the other end
to the others but for a few pieces; and two links can both be idle though both have something to carry, because
each piece waits at its other end. That a link is not always busy is what makes many workers with several servers slower
than the bytes of any of their links.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias

__all__ = ["PIECE_BYTES", "Pipe", "Processor", "Way"]

Plan: TypeAlias = Callable[..., None]
"""``plan(time, act)``: let it happen."""

Through: TypeAlias = Callable[[float], None]
"""Told the time at which something is through."""

PIECE_BYTES = 1 << 17
"""Of a piece that is neither coarse beside what TCP has under way, nor so small that a simulation takes long."""

PIECES = 16
"""A message has no more."""

WINDOW = 2
"""Pieces that are under way: one in each of the two links. With 4 of them the results are the same."""

EXACT = 1e-12
"""Seconds, or of the time since the beginning: what would be through sooner is through; the rest is rounding."""


class Pipe:
    """One direction of one process's link, shared equally by its flows.

    In *virtual time* every active flow is served one byte a unit, so that when a message ends, in virtual time, is
    known when it begins (processor sharing; Parekh and Gallager, 1993).

    Args:
        rate: bytes a second.
        plan: for what is to happen later.
        duplex: part of its rate that it has while its twin, the other direction, carries too.
        burst: bytes that pass at once after a long pause, as a token bucket lets them; they come back at the rate,
            while nothing passes.
    """

    __slots__ = (
        "_active",
        "_at",
        "_burst",
        "_due",
        "_duplex",
        "_flows",
        "_full",
        "_order",
        "_plan",
        "_rate",
        "_tokens",
        "_virtual",
        "_weight",
        "twin",
    )

    def __init__(self, rate: float, plan: Plan, duplex: float = 1.0, burst: float = 0.0) -> None:
        self._rate = self._full = rate
        self._duplex, self._plan = duplex, plan
        self._burst = self._tokens = burst
        self.twin: Pipe | None = None
        self._flows: dict[Hashable, deque[tuple[float, float, Through]]] = {}
        self._active: list[tuple[float, int, Hashable, float]] = []  # by when the first message ends, in virtual time
        self._weight = 0.0  # of all active flows
        self._virtual = self._at = 0.0
        self._due = float("inf")  # the earliest time for which something is planned
        self._order = 0

    def send(self, now: float, flow: Hashable, size: float, through: Through, weight: float = 1.0) -> None:
        """Carry ``size`` bytes behind those of the same flow; ``through(time)`` when they are.

        One of ``weight`` 2 is served twice as fast as one of 1.
        """
        waiting = self._flows.get(flow)
        if waiting:
            waiting.append((size, weight, through))
            return
        self._advance(now)
        if self._tokens:
            used = min(self._tokens, size)
            self._tokens -= used
            size -= used
        if not size:
            through(now)
            return
        self._flows[flow] = deque([(size, weight, through)])
        if not self._active:
            self._tell(now, True)
        self._begin(flow, size, weight)
        self._look(now)

    def _tell(self, now: float, carries: bool) -> None:
        """The other direction hears that this one begins, or ends, to carry."""
        if self.twin is not None and self._duplex < 1.0:
            self.twin.heed(now, carries)

    def heed(self, now: float, carries: bool) -> None:
        """The other direction carries from now on, or does not."""
        self._advance(now)
        self._rate = self._full * (self._duplex if carries else 1.0)
        self._look(now)

    def _advance(self, now: float) -> None:
        if self._active:
            self._virtual += (now - self._at) * self._rate / self._weight
        elif self._burst:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._full)
        self._at = now

    def _begin(self, flow: Hashable, size: float, weight: float) -> None:
        self._order += 1
        self._weight += weight
        heapq.heappush(self._active, (self._virtual + size / weight, self._order, flow, weight))

    def _look(self, now: float) -> None:
        """Plan for the next end, unless that is planned already; an end that is too early looks again."""
        if self._active:
            due = now + self._rest_s()
            if due < self._due:
                self._due = due
                self._plan(due, self._end, due)

    def _rest_s(self) -> float:
        """How long the first to end still takes, if nobody comes."""
        return max(0.0, self._active[0][0] - self._virtual) * self._weight / self._rate

    def _end(self, now: float) -> None:
        """Messages whose time has come are through."""
        if now > self._due:
            return
        self._due = float("inf")
        self._advance(now)
        done: list[Through] = []
        while self._active and self._rest_s() <= EXACT * max(1.0, now):
            _, _, flow, weight = heapq.heappop(self._active)
            self._weight = self._weight - weight if self._active else 0.0
            waiting = self._flows[flow]
            done.append(waiting.popleft()[2])
            while waiting and not waiting[0][0]:
                done.append(waiting.popleft()[2])
            if waiting:
                self._begin(flow, waiting[0][0], waiting[0][1])
            else:
                del self._flows[flow]
        if done and not self._active:
            self._tell(now, False)
        self._look(now)
        for through in done:
            through(now)


class Way:
    """From one process to another: messages go one after another, in pieces, through the one's pipe, then the other's.

    At most `WINDOW` pieces are under way, as little is in TCP's window: where the receiver's link is busy with others,
    the sender is held up, and does not put into its own link what could not go on.

    Args:
        pipes: the sender's and the receiver's; one that is missing has no limit.
        piece: bytes of one, at most; but a message has no more than `PIECES`. None: a message passes both pipes whole
            and at the same time, and waits for none before it.
        weights: of messages, one after another: one of weight 2 is served twice as fast as one of 1. None: all alike.
    """

    __slots__ = ("_piece", "_pipes", "_queue", "_under_way", "_weights")

    def __init__(
        self, pipes: Sequence[Pipe], piece: float | None = None, weights: Iterator[float] | None = None
    ) -> None:
        self._pipes, self._piece, self._weights = pipes, piece, weights
        self._queue: deque[tuple[float, float, Through]] = deque()
        self._under_way = 0

    def send(self, now: float, size: float, through: Through) -> None:
        """Carry ``size`` bytes behind those before; ``through(time)`` when they are."""
        weight = 1.0 if self._weights is None or not size else next(self._weights)
        if self._piece is None or len(self._pipes) < 2:
            self._whole(now, size, weight, through)
            return
        n = min(PIECES, max(1, math.ceil(size / self._piece)))
        self._queue.extend([(size / n, weight, _nothing)] * (n - 1))
        self._queue.append((size / n, weight, through))
        self._go_on(now)

    def _whole(self, now: float, size: float, weight: float, through: Through) -> None:
        """Through all pipes at the same time."""
        left = len(self._pipes)

        def passed(then: float) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                through(then)

        if not left:
            through(now)
        for pipe in self._pipes:
            pipe.send(now, self, size, passed, weight)

    def _go_on(self, now: float) -> None:
        while self._queue and self._under_way < WINDOW:
            self._carry(now, *self._queue.popleft())

    def _carry(self, now: float, size: float, weight: float, through: Through) -> None:
        """One piece: out of the sender's link, and into the receiver's."""
        out, into = self._pipes
        counts = size > 0
        self._under_way += counts

        def arrived(then: float) -> None:
            self._under_way -= counts
            self._go_on(then)
            through(then)

        out.send(now, self, size, lambda then: into.send(then, self, size, arrived, weight), weight)


def _nothing(now: float) -> None:
    """A piece that is not a message's last is through."""


class Processor:
    """What a process does one thing after another with."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = 0.0

    def take(self, now: float, seconds: float) -> float:
        """When something that takes so long is done."""
        self._free = max(now, self._free) + seconds
        return self._free
