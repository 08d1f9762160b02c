"""All-reduce cores joined by an in-memory network that loses, repeats, delays and reorders messages.

Memory is treated as between processes that share it: what is sent is read where it lies when it is used, unless the
core asks for a copy to `Keep`. What belongs to the caller again is overwritten at once; so is, with ``staged``, the
block that a message was copied to, once the receiver has taken it.
"""

import heapq
import random
from typing import Any

import numpy as np

from shoal.kvstore.arrays import as_array, as_payload
from shoal.kvstore.ring.arithmetic import Arrays, combine, finish, take
from shoal.kvstore.ring.core import AllReduceCore
from shoal.kvstore.ring.events import (
    Collective,
    Combine,
    Complete,
    Fail,
    Finish,
    Flight,
    Forsake,
    Keep,
    Send,
    State,
    Take,
    Transmit,
    Warn,
)
from shoal.kvstore.ring.schedule import Block, Do, broadcast, reduction


def collective(
    rank: int, workers: int, own: np.ndarray, *, key: int = 0, algorithm: str = "auto", priority: int = 0
) -> Collective:
    """An all-reduce of ``own``, or with ``algorithm="broadcast"`` a broadcast."""
    blocks: list[Block]
    if algorithm == "broadcast":
        blocks = broadcast(own.size, own.itemsize, workers, rank)
    else:
        blocks = reduction(own.size, own.itemsize, workers, rank, key, algorithm)
    return Collective(key, f"'k{key}'", own.size, own.dtype.str, own.itemsize, blocks, priority)


class RingNet:
    """``workers`` cores; time passes only when `run` delivers."""

    def __init__(
        self, workers: int, seed: int = 0, loss: float = 0.0, repeat: float = 0.0, staged: bool = False
    ) -> None:
        self.rng, self.loss, self.repeat, self.staged = random.Random(seed), loss, repeat, staged
        self._blocks: list[tuple[Flight, np.ndarray]] = []
        self.cores = [AllReduceCore(r, 1, workers, "run") for r in range(workers)]
        for core in self.cores:
            core.silence_s = core.timeout_s  # nearly half of all messages are lost here
            for r in core.peers:
                core.know(f"worker{r}", r)
        self.now, self._order = 0.0, 0
        self._heap: list[tuple[float, int, Any]] = []
        self.results: dict[tuple[int, int, int], np.ndarray] = {}  # by rank, key, clock
        self.failed: list[tuple[int, Fail]] = []
        self.warned: list[str] = []
        self.sent: list[tuple[int, Any]] = []
        self.cut: set[int] = set()  # ranks whose messages are all lost

    def start(self, rank: int, op: Collective, own: np.ndarray, total: np.ndarray | None = None, divisor: int = 1):
        op.token = Arrays(own, np.empty_like(own) if total is None else total, divisor)
        self.carry_out(rank, self.cores[rank].submit(op, self.now))

    def later(self, delay: float, rank: int, op: Collective, own: np.ndarray) -> None:
        self._at(self.now + delay, ("start", rank, op, own))

    def run(self, until: float = 1e4) -> None:
        """Deliver everything, in simulated time, until nothing is under way."""
        for rank in range(len(self.cores)):
            self._at(self.now, ("wake", rank))
        while self._heap and self._heap[0][0] <= until:
            self.now, _, event = heapq.heappop(self._heap)
            self._happen(event)
            for core in self.cores:
                core.check()

    def _happen(self, event: Any) -> None:
        kind, rank = event[0], event[1]
        core = self.cores[rank]
        if kind == "wake":
            actions, due = core.wake(self.now)
            self.carry_out(rank, actions)
            if not core.idle() or any(e[2][0] == "start" for e in self._heap):
                self._at(max(due, self.now + 1e-3), ("wake", rank))
        elif kind == "start":
            self.start(rank, event[2], event[3])
            self._at(self.now, ("wake", rank))
        else:
            _, _, sender, message = event
            self.carry_out(rank, core.receive(sender, message, self.now))

    def carry_out(self, rank: int, actions: list[Any]) -> None:
        for a in actions:
            match a:
                case Send(to, message):
                    self._carry(rank, int(to.removeprefix("worker")) if isinstance(to, str) else to, message)
                case Take(flight):
                    self._load(flight)
                case Transmit(flight):
                    self._carry(rank, flight.peer, self._load(flight))
                case Combine(op, step, _, _):
                    combine(op.token, a, step.do is Do.ADD)
                case Finish(op, _, _):
                    finish(op.token, a)
                case Complete(op):
                    arrays = op.token
                    self.results[rank, op.key, op.clock] = arrays.total.copy()
                    arrays.total.fill(99)  # the caller's again
                    arrays.own.fill(77)
                case Fail():
                    self.failed.append((rank, a))
                case Warn(text):
                    self.warned.append(text)
                case Keep(held):
                    held.value = as_payload(as_array(held.value).copy())
                case Forsake():
                    """Nothing is used again here."""

        for flight, block in [b for b in self._blocks if b[0].state is State.OVER]:
            block.fill(55)
            self._blocks = [b for b in self._blocks if b[0] is not flight]

    def _load(self, flight: Flight) -> Any:
        if flight.message is None:
            flight.message = take(flight.op.token, flight, self._room)
            if self.staged:
                self._blocks.append((flight, self._last))
        return flight.message

    def _room(self, array: np.ndarray) -> np.ndarray | None:
        self._last = np.empty_like(array)
        return self._last if self.staged else None

    def _carry(self, sender: int, to: int, message: Any) -> None:
        self.sent.append((sender, message))
        if sender in self.cut or self.rng.random() < self.loss:
            return
        event = ("message", to, f"worker{sender}", message)
        self._at(self.now + self.rng.random() * 0.01, event)
        while self.rng.random() < self.repeat:
            self._at(self.now + self.rng.random() * 3.0, event)

    def _at(self, time: float, event: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, event))
