"""The path of a step: gradients of a GPU to the servers, new weights back, beside the backward pass.

Four streams: the *compute* stream is the program's own; on the *comm* stream gradients are divided, added up among the
GPUs of the host, and packed; on *d2h* they are copied to pinned memory, on *h2d* new weights are copied back. For each
bucket: an event behind its last gradient; comm waits for it; d2h waits for comm; h2d waits for d2h. The compute stream
waits for h2d when the bucket's weights are used next, and for nothing else.

`DevicePath.poll` looks after what is under way, and never waits: a thread of the path calls it, and so does who
waits for weights. A bucket that finds no free slot is copied later, by `poll`: neither the program nor the GPU waits
for slots.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import ConfigError, StoreError, StoreTimeoutError
from shoal.kvstore.codecs.encoded import Encoding, Span
from shoal.kvstore.group.communicator import Communicator
from shoal.ops.gpu.device import Event, Gpu
from shoal.worker.device.plan import Bucket
from shoal.worker.device.ring import Ring
from shoal.worker.device.wires import Wire, wire_of

__all__ = ["DevicePath", "Send"]

Send = Callable[[int, Any, Any], "Future[Any]"]
"""Pushes the gradient of a bucket, flat host memory or an `Encoded`, and pulls its new weights into flat host memory,
which may be the same."""


@dataclass(slots=True)
class _Flight:
    """A bucket in a slot."""

    bucket: int
    slot: int
    step: int  # the low 32 bits of its number, as the flags have it
    answer: "Future[Any] | None" = None  # once it is sent
    returning: bool = False  # once it is being copied back


class DevicePath:
    """Flat gradients and weights of one GPU, and what moves them.

    Args:
        gpu: where the parameters are.
        buckets: of `shoal.worker.device.plan.planned`.
        send: to the store.
        wire: "" copies gradients as they are; "bf16" rounds float32 to bfloat16 on the GPU, so that half as much is
            copied, and the store is given float32; a codec of `shoal.kvstore.codecs.ongpu`, such as
            "2bit:threshold=0.5", encodes them there, and the store is given what was encoded.
        encodings: for a codec: of each bucket, how the store would encode it. By default a bucket is a slice, whose
            number is its own.
        slots: of pinned memory; as many as there are buckets for steps that are recorded.
        group: the GPUs of this host, which add up their gradients first.
        owner: of each bucket, the member of the group that sends it; by default the first.
        average: makes of a bucket's sum what the store is given, in place on the GPU.
        timeout_s: how long `arrived` waits.
        idle: called where there is nothing to do but to wait; tests let the GPU go on here.

    Attributes:
        grads, weights: flat arrays by bucket, on the GPU.
        step: number of the present step.
    """

    def __init__(
        self,
        gpu: Gpu,
        buckets: Sequence[Bucket],
        send: Send,
        *,
        wire: str = "",
        encodings: Sequence[Encoding | None] | None = None,
        slots: int = 3,
        group: Communicator | None = None,
        owner: Sequence[int] = (),
        average: Callable[[Any], None] | None = None,
        timeout_s: float = 600.0,
        idle: Callable[[], None] = lambda: time.sleep(20e-6),
    ) -> None:
        self.gpu, self.buckets, self._send, self._idle = gpu, list(buckets), send, idle
        self._group, self._owner, self._timeout_s = group, list(owner) or [0] * len(self.buckets), timeout_s
        self._average, self.step = average, 0
        self._comm, self._d2h, self._h2d = gpu.stream(priority=-1), gpu.stream(), gpu.stream()
        with gpu.use():
            self.grads = [gpu.xp.zeros(b.size, b.dtype) for b in self.buckets]
            self.weights = [gpu.xp.zeros(b.size, b.dtype) for b in self.buckets]
            self._wires = self._made(wire, encodings)
            self._word = gpu.xp.zeros(1, np.uint32)
        self._carried: dict[int, Any] = {}  # residuals of a codec that is not used any more
        self._used: list[Any] = []  # those that this step adds: kept until it is over
        self.ring = self._ring(slots)
        self._flights: list[_Flight] = []
        self._deferred: deque[int] = deque()
        self._staged: dict[int, Event] = {}
        self._out: dict[int, Event] = {}
        self._landed: dict[int, Event] = {}
        self._fixed: dict[int, int] = {}  # slot by bucket, once a step was recorded
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._work, self._closing = threading.Event(), False

    def _made(self, wire: str, encodings: Sequence[Encoding | None] | None) -> list[Wire]:
        """The ways out; a bucket that another member of the group sends has none."""
        if encodings is None:
            encodings = [Encoding(wire, 0, 0, (Span(i, 0, b.size),)) for i, b in enumerate(self.buckets)]
        return [
            wire_of(wire if self._mine(i) else "", self.gpu, grad, encodings[i], self.step)
            for i, grad in enumerate(self.grads)
        ]

    def _ring(self, slots: int) -> Ring:
        most = max(b.size * b.dtype.itemsize for b in self.buckets)
        return Ring(self.gpu, slots, max(most, *[w.nbytes for w in self._wires]), most)

    def change_wire(self, wire: str, encodings: Sequence[Encoding | None] | None = None) -> None:
        """Between steps: gradients leave another way from now on. What a codec held back goes with the next ones.

        Raises:
            ConfigError: a step is under way, or one was recorded; or there is no such way.
        """
        self._check_taken()
        if self._fixed:
            raise ConfigError(f"a recorded step leaves as it was recorded; it cannot change to {wire!r}")
        with self.gpu.use():
            made = self._made(wire, encodings)
        for i, old in enumerate(self._wires):
            if old.residual is not None:
                with self._comm:
                    before = self._carried.get(i)
                    self._carried[i] = old.residual if before is None else before + old.residual
        self._wires = made
        if max(w.nbytes for w in made) > self.ring.wire_bytes:
            while self._flights:  # the last copies of new weights
                if not self.poll():
                    self._idle()
            self.ring = self._ring(self.ring.count)

    def _mine(self, i: int) -> bool:
        return self._group is None or self._owner[i] == self._group.rank

    # --- the program's side ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A step begins: the GPU counts it, so that flags of different steps differ. All weights have been taken.

        Raises:
            ConfigError: those of the step before have not.
        """
        self._check_taken()
        self._used.clear()
        self.step += 1
        word, gpu = self._word, self.gpu

        gpu.launch("count the step", lambda: _count(word), gpu.current(), reads=[word], writes=[word])

    def _check_taken(self) -> None:
        if self._staged:
            raise ConfigError(f"step {self.step} of the path is not over: {len(self._staged)} buckets were not taken")

    def ready(self, i: int, scale: float) -> None:
        """The gradients of bucket ``i`` are final, behind the work of the current stream: let them leave. Never waits.

        Args:
            scale: what they are multiplied by first: one over the batch size.
        """
        gpu, grad, wire, word = self.gpu, self.grads[i], self._wires[i], self._word
        self._comm.wait(gpu.event())
        factor = grad.dtype.type(scale)
        with self._comm:
            gpu.launch("scale", lambda: _scale(grad, factor), self._comm, reads=[grad], writes=[grad])
            if self._group is not None:
                self._group.reduce(grad, self._owner[i])
            if self._mine(i):
                if (average := self._average) is not None:
                    gpu.launch("average", lambda: average(grad), self._comm, reads=[grad], writes=[grad])
                if i in self._carried:
                    held = self._carried.pop(i)
                    self._used.append(held)
                    gpu.launch("carry", lambda: _add(grad, held), self._comm, reads=[grad, held], writes=[grad])
                if wire.writes:
                    used = [grad, word, *wire.writes]
                    gpu.launch("pack", lambda: wire.pack(word), self._comm, reads=used, writes=wire.writes)
            self._staged[i] = self._comm.record()
        if not self._mine(i):
            return
        with self._lock:
            slot = None if self._deferred else self.ring.take()
            if slot is None:
                self._deferred.append(i)
            else:
                self._copy_out(i, slot)
        self._work.set()

    def arrived(self, i: int) -> None:
        """Let the current stream wait for the new weights of bucket ``i``; returns when the store has answered.

        With a group it is all buckets that are waited for, the first layer's first, since every member must hand them
        round in the same order.

        Raises:
            StoreTimeoutError: the store has not answered in time.
            ShoalError: what the store raised.
        """
        if self._group is None:
            if i in self._staged:
                self._take(i)
            return
        for j in reversed(range(len(self.buckets))):
            if j in self._staged:
                self._take(j)

    def _take(self, i: int) -> None:
        if self._mine(i):
            deadline = time.monotonic() + self._timeout_s
            while i not in self._landed:
                if not self.poll():
                    self._idle()
                if time.monotonic() > deadline:
                    raise StoreTimeoutError(
                        f"bucket {i} of the GPU's gradients ({self.buckets[i].names[0]!r} ...) has had no answer for "
                        f"{self._timeout_s:g} s"
                    )
            with self._lock:
                event = self._landed.pop(i)
        else:
            event = self._staged[i]
        if self._group is not None:
            self._comm.wait(event)
            with self._comm:
                self._group.broadcast(self.weights[i], self._owner[i])
                event = self._comm.record()
        self.gpu.current().wait(event)
        del self._staged[i]

    # --- steps that are recorded -------------------------------------------------------------------------------------

    def join(self) -> None:
        """At the end of a recording: its stream waits for the side streams, as a recording must.

        Raises:
            ConfigError: there are fewer slots than buckets, so that not all of the step was recorded.
        """
        if self._deferred:
            raise ConfigError(
                f"a step of {len(self.buckets)} buckets is recorded with {self.ring.count} pinned slots: each "
                f"bucket needs one: make the path with slots={len(self.buckets)}"
            )
        for stream in (self._comm, self._d2h):
            self.gpu.current().wait(stream.record())

    def recorded(self) -> None:
        """After the recording: what `begin` and `ready` have asked for was not done, and will be at each replay."""
        with self._lock:
            self._fixed = {f.bucket: f.slot for f in self._flights}
            self._flights, self._staged, self._out = [], {}, {}
        self.step -= 1

    def replayed(self) -> None:
        """The recording has been launched on the current stream: a step is under way, as after `begin` and `ready`.

        New weights are copied to the GPU behind the whole of it.
        """
        self._check_taken()
        self.step += 1
        behind = self.gpu.event()
        with self._lock:
            self._staged = dict.fromkeys(range(len(self.buckets)), behind)
            self._out = dict(self._staged)
            self._flights = [_Flight(i, slot, self.step % 2**32) for i, slot in self._fixed.items()]
        self._work.set()

    # --- what looks after slots --------------------------------------------------------------------------------------

    def _copy_out(self, i: int, slot: int) -> None:
        """Copy a bucket to a slot, and behind it the number of the step."""
        wire = self._wires[i]
        self._d2h.wait(self._staged[i])
        self.gpu.copy(self.ring.wire(slot, wire.nbytes, np.uint8), wire.source, self._d2h)
        self.gpu.copy(self.ring.filled[slot : slot + 1], self._word, self._d2h)
        self._out[i] = self._d2h.record()
        self._flights.append(_Flight(i, slot, self.step % 2**32))

    def poll(self) -> bool:
        """Send what has come, copy back what was answered, fill slots that are free; whether there was anything to do.

        Raises:
            ShoalError: what the store raised.
        """
        with self._lock, self.gpu.use():
            if self._error is not None:
                raise self._error
            moved = False
            for flight in list(self._flights):
                moved = self._advance(flight) or moved
            while self._deferred and (slot := self.ring.take()) is not None:
                self._copy_out(self._deferred.popleft(), slot)
                moved = True
            return moved

    def _advance(self, flight: _Flight) -> bool:
        """One flight as far as it gets now."""
        i, slot = flight.bucket, flight.slot
        bucket = self.buckets[i]
        if flight.answer is None:
            if int(self.ring.filled[slot]) != flight.step:
                return False
            wire = self._wires[i]
            values = self.ring.values(slot, bucket.size, bucket.dtype)
            try:
                given = wire.unpack(self.ring.wire(slot, wire.nbytes, np.uint8), values)
            except StoreError as error:
                where = f"step {self.step}: bucket {i} ({bucket.names[0]!r} ...)"
                raise StoreError(f"{where} cannot be sent: {error}") from None
            flight.answer = self._send(i, given, values)
            return True
        if not flight.returning:
            if not flight.answer.done():
                return False
            flight.answer.result()
            self._h2d.wait(self._out[i])
            self.gpu.copy(self.weights[i], self.ring.values(slot, bucket.size, bucket.dtype), self._h2d)
            self.gpu.copy(self.ring.emptied[slot : slot + 1], self._word, self._h2d)
            self._landed[i] = self._h2d.record()  # behind the word: the next step changes it
            flight.returning = True
            return True
        if int(self.ring.emptied[slot]) != flight.step:
            return False
        self.ring.emptied[slot] = self.ring.filled[slot] = 0
        self._flights.remove(flight)
        if not self._fixed:
            self.ring.give(slot)
        return True

    # --- the thread --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have a thread poll while something is under way, so that the program need not."""
        self._thread = threading.Thread(target=self._drive, name="shoal-device-path", daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        with self.gpu.use():
            while not self._closing:
                if not (self._flights or self._deferred):
                    self._work.wait(0.1)
                    self._work.clear()
                    continue
                try:
                    moved = self.poll()
                except BaseException as error:  # who waits for weights is told
                    self._error = error
                    return
                if not moved:
                    self._idle()

    def close(self) -> None:
        """End the thread, and wait for what is under way on the side streams."""
        self._closing = True
        self._work.set()
        if self._thread is not None:
            self._thread.join(5.0)
        for stream in (self._comm, self._d2h, self._h2d):
            stream.synchronize()


def _scale(array: Any, factor: Any) -> None:
    """In place, without memory of its own."""
    array *= factor


def _add(array: Any, other: Any) -> None:
    array += other


def _count(word: Any) -> None:
    word += word.dtype.type(1)
