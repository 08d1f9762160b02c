"""Driver of an `AllReduceCore`: callers' threads hand collectives over, whoever drives the loop carries them out."""

import logging
import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from shoal import errors
from shoal.kvstore.arrays import Array
from shoal.kvstore.client.shell import INLINE_BYTES, Call
from shoal.kvstore.ring.arithmetic import Arrays, combine, finish
from shoal.kvstore.ring.core import AllReduceCore
from shoal.kvstore.ring.events import (
    Action,
    Collective,
    Combine,
    Complete,
    Fail,
    Finish,
    Forsake,
    Keep,
    Send,
    Take,
    Transmit,
    Warn,
)
from shoal.kvstore.ring.schedule import Do
from shoal.kvstore.ring.staging import Staging
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Greet, Offer
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["RingShell", "peer_name"]

log = logging.getLogger("shoal.allreduce")

STOPPED_S = 5.0
"""The loop wakes its drivers every second; after a longer pause the process itself was stopped (SIGSTOP, Ctrl-Z)."""


def peer_name(rank: int) -> str:
    """The transport's name for the connection to worker ``rank``."""
    return f"worker{rank}"


class Work:
    """One collective as the shell holds it: its arrays, its end, and the call that it is a part of."""

    __slots__ = ("arrays", "call", "future")

    def __init__(self, arrays: Arrays, call: Call) -> None:
        self.arrays, self.call = arrays, call
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()


class RingShell:
    """The methods of the first part may be called from any thread; the rest is for whoever drives the loop.

    Args:
        transport: connected to the peers under the names of `peer_name`.
        core: the state machine.
        loop: what drives this; callers may do so, too, while they wait.
    """

    def __init__(self, transport: Transport, core: AllReduceCore, loop: Loop) -> None:
        self.transport, self.core, self.loop = transport, core, loop
        self._calls: SimpleQueue[Collective | list[int] | int] = SimpleQueue()
        self._broken: BaseException | None = None
        self._lock = threading.Lock()
        self._open: set[Work] = set()
        self._idle: list[threading.Event] = []
        self._woke = 0.0
        self._staging = Staging(transport.sharing)
        for rank in core.peers:
            core.know(peer_name(rank), rank)

    # --- any thread ---------------------------------------------------------------------------------------------------

    def submit(self, op: Collective, arrays: Arrays, call: Call) -> "Future[None]":
        """Hand over a collective over ``arrays``, a part of ``call``; `launch` follows when all parts are handed over.

        Returns:
            Done when the memory is the caller's again.
        """
        self.transport.check_process()
        work = op.token = Work(arrays, call)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._open.add(work)
            self._calls.put(op)
        return work.future

    def launch(self, nbytes: int) -> None:
        """Start what was handed over: ``nbytes`` of arrays; few of them in the caller's own thread."""
        if nbytes > INLINE_BYTES or not self.loop.turn():
            self.transport.wake()

    def attend(self, call: "Future[Any]", timeout: float | None) -> None:
        """Drive the loop in the caller's thread until the call is over, unless another thread drives it."""
        try:
            driven = self.loop.drive(call.done, timeout)
        except BaseException:
            self.transport.wake()
            raise
        if driven and self._open:
            self.transport.wake()  # others wait, too

    def alloc(self, shape: tuple[int, ...], dtype: Any) -> Array | None:
        """Zeros in memory that peers of this host may map; None if there is no room."""
        array = self.transport.sharing.arena.array(shape, dtype)
        if array is not None:
            array.fill(0)
        return array

    def close_keys(self, keys: list[int]) -> None:
        """This worker will not reduce these keys again; peers that wait for it are told."""
        self._calls.put(keys)
        self.transport.wake()

    def left(self, rank: int) -> None:
        """Worker ``rank`` has said goodbye to the cluster."""
        self._calls.put(rank)
        self.transport.wake()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every message of this worker has been taken; whether that came to pass."""
        event = threading.Event()
        with self._lock:
            if self._broken is not None:
                return False
            self._idle.append(event)
        self.transport.wake()
        return event.wait(timeout_s) and self._broken is None

    def late(self) -> str:
        """Why `wait_idle` has waited."""
        if self._broken is not None:
            return str(self._broken)
        late = ", ".join(f"worker {r}" for r, p in self.core.peers.items() if p.flights)
        return f"{late or 'the I/O thread'} has not taken what this worker sent for all-reduce"

    def ledger(self) -> dict[str, int]:
        """This worker's counts; messages count singly, and so do their bytes."""
        c = self.core.counters
        counts = {"sent": c.sent, "acknowledged": c.acknowledged, "retries": c.retries}
        moved = {"bytes_pushed": c.bytes_sent, "bytes_dense": c.bytes_sent, "bytes_pulled": c.bytes_received}
        return {**counts, **moved, "bytes_shared": self.transport.sharing.spared_bytes}

    def books(self) -> dict[str, Any]:
        """What this worker has taken from each peer, in the form of a server's report: the other side of the ledger.

        A collective is never stale: whoever takes part in it reduces the same clock.
        """
        c = self.core.counters
        ledger = {
            str(r): {"applied": n, "rejected": 0, "duplicate": c.duplicate.get(r, 0)} for r, n in c.applied.items()
        }
        staleness = {str(r): {"0": n} for r, n in c.applied.items()}
        return {"ledger": ledger, "staleness": staleness, "malformed": sum(self.transport.malformed.values())}

    def fail_all(self, error: BaseException) -> None:
        """The cluster is gone: every call, now and later, raises ``error``. Any thread may call it."""
        with self._lock:
            self._broken = self._broken or error
            works, self._open = self._open, set()
            waiting, self._idle = self._idle, []
        for work in works:
            if not work.future.done():
                work.future.set_exception(error)
        for event in waiting:
            event.set()

    # --- whoever drives -----------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message, now: float) -> None:
        if self._broken is not None:
            return
        sharing = self.transport.sharing
        if isinstance(message, Offer):
            if self.core.knows(peer) and not sharing.shares(peer):
                sharing.accept(peer, message.name, message.token)
            return
        self._carry_out(self.core.receive(peer, message, now))
        if isinstance(message, Greet) and self.core.knows(peer) and not sharing.shares(peer):
            name, token = sharing.offer(peer)  # should it be on this host
            if name:
                self.transport.send(peer, Offer(name=name, token=token))

    def wake(self, now: float) -> float:
        if self._broken is not None:
            return now + 1.0
        if now - self._woke > STOPPED_S:
            self.core.was_stopped(now, now - self._woke)
        self._woke = now
        self._take_calls(now)
        actions, due = self.core.wake(now)
        self._carry_out(actions)
        if self._idle and self.core.idle():
            self._say_idle()
        return due

    def _say_idle(self) -> None:
        with self._lock:
            if not self._calls.empty():  # handed over before the wait began
                return
            waiting, self._idle = self._idle, []
        for event in waiting:
            event.set()

    def _take_calls(self, now: float) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            if isinstance(call, Collective):
                self._carry_out(self.core.submit(call, now))
            elif isinstance(call, int):
                self._carry_out(self.core.left(call))
            else:
                self.core.close(call)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Combine(op, step, _, _):
                    combine(_arrays(op), action, step.do is Do.ADD)
                case Transmit(flight):
                    peer = peer_name(flight.peer)
                    self.transport.send(peer, self._staging.message(peer, _arrays(flight.op), flight))
                case Send(to, message):
                    self.transport.send(to if isinstance(to, str) else peer_name(to), message)
                case Take(flight):
                    self._staging.message(peer_name(flight.peer), _arrays(flight.op), flight)
                case Keep(held):
                    self._staging.own(held)
                case Forsake(flight):
                    self._staging.forsake(flight)
                case Finish(op, _, _):
                    finish(_arrays(op), action)
                case Complete(op):
                    self._end(op, None)
                case Fail(op, error, text):
                    self._end(op, errors.named(error, text, errors.RemoteError))
                case Warn(text):
                    log.warning("%s", text)

    def _end(self, op: Collective, error: BaseException | None) -> None:
        work: Work = op.token
        with self._lock:
            self._open.discard(work)
        if work.future.done():
            return
        awaited = work.call.awaited
        if error is None:
            work.future.set_result(None)
        else:
            work.future.set_exception(error)
        if awaited and not self._open:
            self.loop.rest()


def _arrays(op: Collective) -> Arrays:
    arrays: Arrays = op.token.arrays
    return arrays
