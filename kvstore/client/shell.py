"""The client's shell: callers' threads hand jobs over, the I/O thread carries them out."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np

from shoal import errors
from shoal.kvstore.arrays import Array, address, as_array
from shoal.kvstore.client.core import ClientAction, ClientCore, Complete, Dropped, Fail, Job, Transmit, Warn
from shoal.kvstore.client.memory import Memory, level
from shoal.kvstore.client.mending import Mending
from shoal.kvstore.client.moving import arrive, depart, relocate
from shoal.kvstore.client.staging import Staging
from shoal.kvstore.client.states import StatesPlace
from shoal.kvstore.codecs import Landing
from shoal.kvstore.dumps import Checked, Recent
from shoal.kvstore.eventlog import event
from shoal.kvstore.exposition import Histogram
from shoal.kvstore.gates import Gate
from shoal.kvstore.wire.interrupts import Held
from shoal.kvstore.wire.loop import Driver, Loop
from shoal.kvstore.wire.messages import Called, Offer, Recall, Recalled, Stated, StatsReply, Surveyed, Value
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.ops.native import stream

__all__ = ["Call", "ClientShell", "Group"]

log = logging.getLogger("shoal.client")

Registration: TypeAlias = tuple[int, Gate] | tuple[int, Gate, int, int]
"""A slice, its gate, its store and the server that gives places in the store's rounds."""


class Limits(NamedTuple):
    """What `ClientCore.alter` is to be told."""

    store: int
    settings: dict[str, Any]
    at_clock: int


INLINE_BYTES = 64 << 10
"""Requests with less than this to push are sent by the caller's own thread, if the I/O thread rests."""

STOPPED_S = 5.0
"""The loop wakes its drivers every second; after a longer pause the process itself was stopped (SIGSTOP, Ctrl-Z)."""


_OVER = ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")


KEPT = (StatsReply, Surveyed, Called, Recalled)
"""Answers that a group keeps for its caller."""


def _nothing() -> None:
    """What a held signal has to end: a stretch so short that it ends by itself."""


class Call(Future[Any]):
    """A future that knows whether somebody waits for it, and whether somebody has taken its error."""

    taken = False
    awaited = False
    attend: Callable[[Future[Any], float | None], None] | None = None
    """Works towards its end, at most for so long, if no other thread does."""
    waits: ClassVar[Histogram | None] = None
    """Of the process: how long callers wait for results, in seconds, where somebody wants to know."""

    def done(self) -> bool:
        return self._state in _OVER  # without the lock that the base class takes

    def result(self, timeout: float | None = None) -> Any:
        began = 0.0 if Call.waits is None else time.monotonic()
        left = self._attend(timeout)
        try:
            self._await(left)
            return super().result(0)
        finally:
            self.taken = self.taken or self.done()
            if began and Call.waits is not None:
                Call.waits.observe(time.monotonic() - began)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self.peek(timeout)
        self.taken = True
        return error

    def peek(self, timeout: float | None = None) -> BaseException | None:
        """The error, without taking it."""
        self._await(self._attend(timeout))
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        with Held(_nothing):  # see `_await`
            super().add_done_callback(fn)

    def _await(self, timeout: float | None) -> None:
        """Wait until it is over.

        Ctrl-C may come while the lock that the base class waits with is being taken, and leave it locked: nobody could
        set a result any more. So signals are held while it is taken, and the lock that is waited for is nobody else's.

        Raises:
            TimeoutError: it is not over in time.
        """
        if self.done():
            return
        gate = threading.Lock()
        gate.acquire()

        def over(_: Future[Any]) -> None:
            gate.release()

        self.add_done_callback(over)
        try:
            gate.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            if not self.done():
                with Held(_nothing), self._condition, suppress(ValueError):
                    self._done_callbacks.remove(over)  # type: ignore[attr-defined]  # of the base class
        if not self.done():
            raise TimeoutError

    def _attend(self, timeout: float | None) -> float | None:
        """Help, and say what is left of the time."""
        self.awaited = True
        if self.attend is None or self.done():
            return timeout
        began = time.monotonic()
        self.attend(self, timeout)
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))


class Place(Protocol):
    """Where a value that is read goes, if that is not simply an array."""

    def write(self, flat: Array) -> None:
        """Take the value of a slice."""
        ...


class Group:
    """Jobs that together make one call: a future that is done when the last one is.

    A job's ``token`` is ``(group, view)``; a value that is read is copied into the view, or written to the `Place`.

    Args:
        jobs: how many.
        result: what the future gives.
        large: so much is read that it is copied past the caches, which it would not fit into.
    """

    __slots__ = ("_left", "future", "large", "newest", "oldest", "reads", "replies", "result")

    def __init__(self, jobs: int, result: Any = None, *, large: bool = False) -> None:
        self._left, self.result, self.large = jobs, result, large
        self.replies: list[Message] = []
        self.reads, self.oldest, self.newest = 0, 0, 0  # versions of the values that were read
        self.future = Call()
        self.future.set_running_or_notify_cancel()
        if jobs == 0:
            self.future.set_result(result)

    def complete(self, view: Array | Place | None, reply: Message | None) -> None:
        if isinstance(reply, Value) and reply.value is not None and view is not None:
            self.oldest = min(self.oldest, reply.version) if self.reads else reply.version
            self.newest = max(self.newest, reply.version)
            self.reads += 1
            if reply.codec and isinstance(view, Landing):
                view.unpack(reply.codec, [as_array(p) for p in (reply.value, *reply.more)])
            elif isinstance(view, np.ndarray):
                if self.large:
                    stream.copy(view, as_array(reply.value))
                else:
                    np.copyto(view, as_array(reply.value), casting="no")
            else:
                view.write(as_array(reply.value))
        elif isinstance(reply, Stated):
            if isinstance(view, StatesPlace):
                view.take(reply)
        elif isinstance(reply, KEPT):
            self.replies.append(reply)
        self._left -= 1
        if self._left == 0 and not self.future.done():
            self.future.set_result(self.outcome())

    def outcome(self) -> Any:
        """What the future gives, now that everything is there."""
        return self.result

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class ClientShell:
    """Driver of a `ClientCore`. `submit` and `register` may be called from any thread.

    Args:
        transport: of the I/O thread; connected to the servers under the names ``server0``, ``server1``, ...
        core: the state machine.
        loop: what drives this; callers may do so, too, while they wait.
    """

    def __init__(self, transport: Transport, core: ClientCore, loop: Loop | None = None) -> None:
        self.transport, self.core, self.loop = transport, core, loop
        self._calls: SimpleQueue[tuple[list[Job], list[Registration | Limits | Memory | int]]] = SimpleQueue()
        self._servers = {f"server{i}": i for i in core.links}
        self._peers = {i: name for name, i in self._servers.items()}
        self._does: dict[type[Any], Callable[[Any], None]] = {
            Transmit: self._transmit,
            Complete: self._complete,
            Dropped: lambda a: self._undo(a.job),
            Fail: self._failed,
            Warn: self._warn,
        }
        self._broken: BaseException | None = None
        self._lock = threading.Lock()
        self._open: set[Group] = set()
        self._stores = itertools.count(1)
        self.rests: list[Callable[[int], None]] = []  # of every store: everything is counted, and nobody waits for us
        self._woke = 0.0
        self._memory: Memory | None = None
        self._staging = Staging(transport.sharing)
        self._mending = Mending(transport.sharing.broken, self._greet)

    def number_store(self) -> int:
        """The number of one more store, from 1; equal on all workers if they begin to use their stores in one order."""
        return next(self._stores)

    def register(self, slices: Sequence[Registration]) -> None:
        """Slices that later jobs will name."""
        self._calls.put(([], list(slices)))
        self.transport.wake()

    def alter(self, store: int, settings: dict[str, Any], at_clock: int) -> None:
        """The gate of a store has other limits; see `ClientCore.alter`."""
        self._calls.put(([], [Limits(store, settings, at_clock)]))
        self.transport.wake()

    def recall(self, of: int, timeout_s: float = 0.0) -> list[Recalled]:
        """Ask every server what it has counted of worker ``of``; again if slices were on their way between servers.

        Args:
            timeout_s: of each answer; 0 is as long as any.
        Raises:
            StoreTimeoutError: a server does not answer, or still takes pushes of that worker.
        """
        before = None
        while True:
            found = self._recall(of, timeout_s)
            where = {(m.server, s.slice) for m in found for s in m.slices}
            if where == before:
                return found
            before = where

    def _recall(self, of: int, timeout_s: float) -> list[Recalled]:
        request = Recall(worker=0, incarnation=0, seq=0, of=of)
        jobs = [Job(server=s, key="", request=request, timeout_s=timeout_s) for s in self.core.links]
        group = Group(len(jobs))
        for job in jobs:
            job.token = (group, None)
        self.submit(jobs)
        group.future.result()
        return [m for m in group.replies if isinstance(m, Recalled)]

    def remember(self, memory: Memory) -> None:
        """Go on where predecessors of this process were; see `Memory.take_up`."""
        self._memory = memory
        self._calls.put(([], [memory]))
        self.transport.wake()

    def past_clocks(self, slices: Iterable[int]) -> dict[int, int]:
        """How many pushes to each of these slices earlier processes of this worker have completed."""
        return {} if self._memory is None else self._memory.completed(slices)

    def level(self, number: int) -> None:
        """The worker has come back from where the set of workers changes, which it has done ``number`` times."""
        self._calls.put(([], [number]))
        self.transport.wake()

    def room(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with undefined content; where servers on this host can read it, if there are any and there is room.

        It may be called from any thread.
        """
        shared = self.transport.sharing
        array = shared.arena.array(shape, dtype) if shared.peers() else None
        return np.empty(shape, dtype) if array is None else array

    def lies_well(self, array: Array) -> bool:
        """Whether servers on this host can read the array where it is. It may be called from any thread."""
        shared = self.transport.sharing
        return bool(array.nbytes and shared.peers() and shared.arena.find(address(array), array.nbytes))

    def is_open(self, group: Group) -> bool:
        """Whether a call was handed over, and is not done. It may be called from any thread."""
        with self._lock:
            return group in self._open

    def submit(self, jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        """Hand jobs over; their groups' futures tell what became of them.

        Args:
            waits: the caller is about to wait for them, and does nothing before.
            early: more is to come, and then the caller waits: what may leave by now leaves at once.
        """
        self.transport.check_process()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            groups = {job.token[0] for job in jobs}
            self._calls.put((jobs, []))  # first: a call that is open is one that was handed over
            self._open |= groups
        for group in groups:
            group.future.attend = self._attend
        if self.loop is None or not self._left_to_caller(self.loop, jobs, waits, early):
            self.transport.wake()

    @staticmethod
    def _left_to_caller(loop: Loop, jobs: list[Job], waits: bool, early: bool) -> bool:
        """Whether the calling thread sends the jobs itself: while the I/O thread rests, if it waits or they are small.

        Who reads will probably wait for the value at once, and sends then; if not, the I/O thread does after its rest.
        """
        if early:
            return loop.turn()
        if waits:
            return loop.resting
        if sum([j.payload_bytes for j in jobs]) > INLINE_BYTES:
            return False
        return loop.resting if all(j.want for j in jobs) else loop.turn()

    def _attend(self, call: Future[Any], timeout: float | None) -> None:
        """Drive the loop in the caller's thread until the call is over, unless another thread drives it."""
        self.transport.check_process()
        if self.loop is None:
            return
        try:
            driven = self.loop.drive(call.done, timeout)
        except BaseException:
            self.transport.wake()
            raise
        if driven and self._open:
            self.transport.wake()  # others wait, too

    def checked(self, recent: Recent) -> Driver:
        """This shell, whose core is looked at after each event; if it is broken, what drives it fails."""
        self._does = {kind: recent.watched(carry_out) for kind, carry_out in self._does.items()}
        return Checked(self, lambda: self.core, recent)

    def fail_all(self, error: BaseException) -> None:
        """The cluster is gone: every call, now and later, raises ``error``. On the I/O thread."""
        with self._lock:
            self._broken = self._broken or error
            groups, self._open = self._open, set()
        for group in groups:
            group.fail(error)

    def receive(self, peer: str, message: Message, now: float) -> None:
        server = self._servers.get(peer)
        if isinstance(message, Offer):
            if server is not None and not self.transport.sharing.shares(peer):
                self.transport.sharing.accept(peer, message.name, message.token)
        elif server is not None and self._broken is None:
            self._carry_out(self.core.receive(server, message, now))

    def replaced(self, server: int, now: float) -> None:
        """Another process has taken the place of a server; the transport is connected to it. On the I/O thread."""
        if self._broken is None:
            self._carry_out(self.core.replaced(server, now))

    def arrived(self, server: int, now: float) -> None:
        """One more server has come; the transport is connected to it. On the I/O thread."""
        self._servers[f"server{server}"], self._peers[server] = server, f"server{server}"
        arrive(self.core, server, now)

    def moved(self, slice_id: int, server: int, epoch: int, now: float) -> None:
        """A slice has another server. On the I/O thread."""
        if self._broken is None:
            self._carry_out(relocate(self.core, slice_id, server, epoch, now))

    def departed(self, server: int, now: float) -> None:
        """A server has left, after its slices have. On the I/O thread."""
        self._carry_out(depart(self.core, server, now))
        self._servers.pop(self._peers.pop(server, ""), None)

    def wake(self, now: float) -> float:
        if self._broken is not None:
            return now + 1.0
        if now - self._woke > STOPPED_S:
            self.core.was_stopped(now, now - self._woke)
        self._woke = now
        self._take_calls(now)
        actions, due = self.core.wake(now)
        self._carry_out(actions)
        return self._mending.turn(now, due)

    def _greet(self, peer: str) -> None:
        """A server that is greeted again offers again to share memory."""
        server = self._servers.get(peer)
        if server is not None and self.core.links[server].greeted:
            self.transport.send(peer, self.core.greeting)

    def _take_calls(self, now: float) -> None:
        while not self._calls.empty():  # nobody else takes from it
            jobs, slices = self._calls.get_nowait()
            for news in slices:
                if isinstance(news, Limits):
                    self.core.alter(*news)
                elif isinstance(news, Memory):
                    news.take_up(self.core)
                elif isinstance(news, int):
                    level(self.core, news)
                else:
                    self.core.register(*news)
            self._carry_out(self.core.submit(jobs, now))

    @staticmethod
    def _group(job: Job) -> Group:
        group: Group = job.token[0]
        return group

    def _settled(self, group: Group) -> None:
        if group.future.done():
            if group.reads > 1:
                self.core.counters.skew[group.newest - group.oldest] += 1
            with self._lock:
                self._open.discard(group)
            if self.loop is not None and group.future.awaited and not self._open:
                self.loop.rest()

    @staticmethod
    def _undo(job: Job) -> None:
        """A push does not count: what it held returns, once."""
        undo, job.undo = job.undo, None
        if undo is not None:
            undo()

    def _carry_out(self, actions: list[ClientAction]) -> None:
        does = self._does
        for action in actions:
            does[type(action)](action)

    def _transmit(self, a: Transmit) -> None:
        peer = self._peers[a.server]
        self.transport.send(peer, self._staging.stage(peer, a.message))

    def _complete(self, a: Complete) -> None:
        job = a.job
        group: Group = job.token[0]
        group.complete(job.token[1], a.result)
        self._staging.release(job)
        self._settled(group)

    def _failed(self, a: Fail) -> None:
        self._staging.forsake(a.job)
        self._undo(a.job)
        group = self._group(a.job)
        group.fail(errors.named(a.error, a.text, errors.RemoteError))
        self._settled(group)

    @staticmethod
    def _warn(a: Warn) -> None:
        log.warning("%s", a.text, extra=event("waits long", a.text))
