"""Streams as lists of work that is put off, events as places in them, and who waits for whom.

Each piece of work knows, for every stream, how much of it came before (a vector clock). Two pieces that use the same
memory, one of them writing, and of which neither comes before the other, are a race.
"""

import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from shoal.errors import CaptureError
from shoal.ops.gpu.device import Event, Stream

__all__ = ["FakeEvent", "FakeRecorded", "FakeStream", "Recording", "Timeline", "Work", "races"]

Clock = dict[int, int]
"""By stream, how much of its work came before."""

Range = tuple[int, int]
"""First address, and the one behind the last."""

_numbers = itertools.count()
"""Streams of all GPUs are counted together."""

KEPT = 20_000
"""How many pieces of work are remembered to look for races."""


@dataclass(slots=True)
class Work:
    """A kernel, a copy, or a call of a library.

    Attributes:
        name: for messages.
        run: does it.
        reads, writes: addresses.
        stream: that it was put on.
        number: how many pieces of work the stream had with it.
        clock: what came before, and itself.
        waits: the event that must be reached before; this is then no work of its own.
    """

    name: str
    run: Callable[[], None]
    reads: tuple[Range, ...]
    writes: tuple[Range, ...]
    stream: int
    number: int
    clock: Clock
    waits: "FakeEvent | None" = None


class FakeEvent:
    """A place in a stream."""

    def __init__(self, stream: "FakeStream", number: int, clock: Clock, recording: "Recording | None") -> None:
        self.stream, self.number, self.clock, self.recording = stream, number, clock, recording

    @property
    def done(self) -> bool:
        """Whether the stream has been carried out up to it."""
        self._outside("asked whether it has been reached")
        return self.stream.carried_out >= self.number

    def synchronize(self) -> None:
        """Carry the stream out up to it."""
        self._outside("waited for")
        self.stream.timeline.refuse("waiting for an event", self.stream)
        self.stream.carry_out(self.number)
        self.stream.timeline.host_saw(self.clock)

    def _outside(self, what: str) -> None:
        if self.recording is not None:
            raise CaptureError(
                f"an event that was recorded, not reached, is {what}; record it outside of the recording"
            )


class FakeStream:
    """Work in order, none of which is done before somebody waits for it."""

    def __init__(self, timeline: "Timeline", number: int, priority: int) -> None:
        self.timeline, self.number, self.priority = timeline, number, priority
        self.ptr = 0x5000 + number
        self.given = 0
        self.carried_out = 0
        self.clock: Clock = {}
        self.waiting: deque[Work] = deque()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        self.timeline.refuse("asking a stream", self)
        return not self.waiting

    def synchronize(self) -> None:
        """Do all of its work."""
        self.timeline.refuse("waiting for a stream", self)
        self.carry_out(self.given)
        self.timeline.host_saw({**self.clock, self.number: self.given})

    def record(self) -> FakeEvent:
        """An event behind the work so far."""
        recording = self.timeline.recording_of(self)
        if recording is not None:
            return FakeEvent(self, 0, dict(recording.clocks[self.number]), recording)
        return FakeEvent(self, self.given, {**self.clock, self.number: self.given}, None)

    def wait(self, event: Event) -> None:
        """What follows comes after ``event``."""
        self.timeline.wait(self, cast(FakeEvent, event))

    def __enter__(self) -> Self:
        self.timeline.entered.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.timeline.entered.pop()

    def put(self, name: str, run: Callable[[], None], reads: tuple[Range, ...], writes: tuple[Range, ...]) -> None:
        """Put work behind what there is."""
        self.given += 1
        self._know(self.timeline.host)
        work = Work(name, run, reads, writes, self.number, self.given, {**self.clock, self.number: self.given})
        self.waiting.append(work)
        self.timeline.history.append(work)

    def put_wait(self, event: FakeEvent) -> None:
        """Put a wait behind the work there is."""
        self._know(event.clock)
        self.given += 1
        clock = {**self.clock, self.number: self.given}
        self.waiting.append(Work("wait", _nothing, (), (), self.number, self.given, clock, event))

    def _know(self, clock: Clock) -> None:
        for stream, number in clock.items():
            self.clock[stream] = max(self.clock.get(stream, 0), number)

    def carry_out(self, number: int) -> None:
        """Do its work up to this number, and what that waits for."""
        while self.carried_out < number:
            work = self.waiting.popleft()
            if work.waits is not None:
                work.waits.stream.carry_out(work.waits.number)
            else:
                with self.timeline.running():
                    work.run()
                work.run = _nothing  # the history need not hold its arrays
            self.carried_out = work.number


def _nothing() -> None:
    """No work."""


@dataclass(slots=True)
class Recording:
    """Work that is recorded instead of done, on the stream it began on and those that waited for that."""

    origin: FakeStream
    clocks: dict[int, Clock] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)

    def put(
        self,
        stream: FakeStream,
        name: str,
        run: Callable[[], None],
        reads: tuple[Range, ...],
        writes: tuple[Range, ...],
    ) -> None:
        """Record work."""
        clock = self.clocks[stream.number]
        clock[stream.number] = clock.get(stream.number, 0) + 1
        self.works.append(Work(name, run, reads, writes, stream.number, clock[stream.number], dict(clock)))


class FakeRecorded:
    """Recorded work, which can be done again."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def launch(self, stream: Stream) -> None:
        """Put all of it on ``stream``."""
        at = cast(FakeStream, stream)
        at.timeline.refuse("launching a recording", at)
        for w in self.recording.works:
            at.put(w.name, w.run, w.reads, w.writes)

    @property
    def nodes(self) -> int:
        """How many pieces of work."""
        return len(self.recording.works)


class Timeline:
    """All streams of one GPU."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.default = FakeStream(self, next(_numbers), 0)
        self.entered: list[FakeStream] = []
        self.host: Clock = {}
        self.history: deque[Work] = deque(maxlen=KEPT)
        self.recording: Recording | None = None
        self.depth = 0
        self.streams: list[FakeStream] = [self.default]

    def stream(self, priority: int) -> FakeStream:
        """A new stream."""
        made = FakeStream(self, next(_numbers), priority)
        self.streams.append(made)
        return made

    @property
    def current(self) -> FakeStream:
        """The stream that was entered last."""
        return self.entered[-1] if self.entered else self.default

    def running(self) -> "_Running":
        """A context in which work is being done: what is asked for is computed at once."""
        return _Running(self)

    def host_saw(self, clock: Clock) -> None:
        """What the host asks for from now on comes after this."""
        for stream, number in clock.items():
            self.host[stream] = max(self.host.get(stream, 0), number)

    def synchronize(self) -> None:
        """Do all work of all streams."""
        self.refuse("waiting for the GPU", None)
        for stream in self.streams:
            stream.carry_out(stream.given)
            self.host_saw({**stream.clock, stream.number: stream.given})

    def put(self, name: str, run: Callable[[], None], reads: Iterable[Range], writes: Iterable[Range]) -> None:
        """Work for the current stream."""
        stream, recording = self.current, self.recording_of(self.current)
        if recording is not None:
            recording.put(stream, name, run, tuple(reads), tuple(writes))
        else:
            stream.put(name, run, tuple(reads), tuple(writes))

    def wait(self, stream: FakeStream, event: FakeEvent) -> None:
        """``stream`` waits for ``event``: which takes it into the recording that the event belongs to."""
        here = self.recording_of(stream)
        if event.recording is not None:
            if event.recording is not self.recording:
                raise CaptureError(f"gpu:{self.index}: a stream waits for an event of a recording that has ended")
            clock = event.recording.clocks.setdefault(stream.number, {})
            for other, number in event.clock.items():
                clock[other] = max(clock.get(other, 0), number)
        elif here is not None:
            raise CaptureError(
                f"gpu:{self.index}: a recorded stream waits for an event from outside; wait for it before the recording"
            )
        else:
            stream.put_wait(event)

    def recording_of(self, stream: FakeStream) -> Recording | None:
        """The recording that the stream takes part in."""
        recording = self.recording
        return recording if recording is not None and stream.number in recording.clocks else None

    def refuse(self, what: str, stream: FakeStream | None) -> None:
        """Object to waiting for what is only recorded.

        Raises:
            CaptureError: the stream, or any if there is none named, is being recorded.
        """
        if self.recording is not None and (stream is None or self.recording_of(stream) is not None):
            raise CaptureError(
                f"gpu:{self.index}: {what} cannot be part of a recording: nothing of it has been done yet"
            )

    def begin(self, stream: FakeStream) -> Recording:
        """Record what comes to ``stream``."""
        if self.recording is not None:
            raise CaptureError(f"gpu:{self.index}: a recording is under way already")
        if stream is self.default:
            raise CaptureError(f"gpu:{self.index}: the default stream cannot be recorded; make one with stream()")
        self.recording = Recording(stream, {stream.number: {}})
        return self.recording

    def end(self, recording: Recording) -> FakeRecorded:
        """What was recorded.

        Raises:
            CaptureError: work on another stream was not waited for, or there is a race.
        """
        origin = recording.clocks[recording.origin.number]
        for number, clock in recording.clocks.items():
            if clock.get(number, 0) > origin.get(number, 0):
                raise CaptureError(
                    f"gpu:{self.index}: the recording ends before stream {number}, which it forked to, is waited for"
                )
        found = races(recording.works)
        if found:
            raise CaptureError(f"gpu:{self.index}: in the recording, {found[0]}")
        return FakeRecorded(recording)


class _Running:
    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def __enter__(self) -> None:
        self.timeline.depth += 1

    def __exit__(self, *error: object) -> None:
        self.timeline.depth -= 1


def races(works: Sequence[Work]) -> list[str]:
    """Pairs of pieces of work on different streams that use the same memory, one writing, without waiting."""
    found: list[str] = []
    before: dict[int, tuple[list[int], list[Work]]] = {}  # by stream, in its order: numbers, and the work
    for b in works:
        for stream, (numbers, others) in before.items():
            if stream == b.stream:
                continue
            for a in others[bisect_right(numbers, b.clock.get(stream, 0)) :]:
                if _overlap(a.writes, b.reads) or _overlap(a.writes, b.writes) or _overlap(a.reads, b.writes):
                    found.append(
                        f"{a.name!r} on stream {a.stream} and {b.name!r} on stream {b.stream} use the same memory, "
                        "and neither waits for the other: record an event behind the first, and wait for it"
                    )
        numbers, others = before.setdefault(b.stream, ([], []))
        numbers.append(b.number)
        others.append(b)
    return found


def _overlap(a: Iterable[Range], b: Sequence[Range]) -> bool:
    return any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)
