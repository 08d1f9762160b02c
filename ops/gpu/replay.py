"""A step that is recorded once and then replayed: warm-ups, the recording, a graph per signature, the way back.

The first calls with a signature run the step as it is, on the stream that will be recorded: they are steps like any
other, and they compile kernels, choose algorithms and fill the pool, none of which a recording allows. The next call
records and launches. From then on a call copies its arrays into the slots that the recording reads, and launches.

If the step asks for what cannot be recorded (the values of an array, a library that CuPy does not let in, memory that
the warm-ups have not made), one line says so, and this signature runs as it is from then on. Nothing has been
carried out when that is found out, so no step is made twice.
"""

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from shoal.errors import ConfigError
from shoal.ops.gpu.device import Event, Gpu, Recorded, Stream

__all__ = ["Body", "Late", "Replay", "is_recording", "recorded_now", "within"]

log = logging.getLogger("shoal.ops.gpu")

_recording = 0
_within = threading.local()


def within() -> bool:
    """Whether this thread is in a step that is, or will be, recorded as a whole: parts of it need not be."""
    return getattr(_within, "depth", 0) > 0 or is_recording()


def is_recording() -> bool:
    """Whether a step of `Replay` is being recorded: what is computed from numbers of Python now is so for ever."""
    return _recording > 0


class Body(Protocol):
    """A step for one signature.

    Attributes:
        slots: arrays of the GPU that the step reads, one for each argument; at fixed addresses.
        watched: arrays whose values the host wants, such as the loss; at fixed addresses once the step has run.
    """

    @property
    def slots(self) -> Sequence[Any]:
        """See above."""

    @property
    def watched(self) -> Sequence[Any]:
        """See above."""

    def prepare(self, stream: Stream) -> None:
        """What comes before each step and is not recorded: values for arrays that it reads besides its slots."""

    def run(self, stream: Stream) -> Any:
        """Put the work of a step on ``stream``; the result is given to the caller of each replay."""


class Late:
    """A value that is on its way to the host. Asked for one step later, it has arrived, and nobody waits."""

    def __init__(self, array: Any, event: Event) -> None:
        self._array, self._event = array, event

    @property
    def done(self) -> bool:
        """Whether it has arrived."""
        return self._event.done

    def value(self) -> Any:
        """The array; waits until it has arrived. It is overwritten some steps later: see `Replay`."""
        self._event.synchronize()
        return self._array

    def __float__(self) -> float:
        return float(self.value())


class _Entry:
    """What is known of a signature."""

    def __init__(self, body: Body, pool: Any) -> None:
        self.body, self.pool = body, pool
        self.runs = 0
        self.recorded: Recorded | None = None
        self.result: Any = None
        self.plain = ""  # why it is not recorded
        self.rings: list[list[Any]] = []


class Replay:
    """Steps that are recorded and replayed.

    Args:
        gpu: where.
        make: a `Body` for the specs (shape, dtype) of the arguments; called once per signature.
        label: what messages call the step.
        warm_ups: how many steps run as they are before the recording.
        limit: how many signatures are kept; beyond it, the one that was used least recently is dropped.
        ring: how many steps a watched value is kept.
        enabled: False runs every step as it is.
    """

    def __init__(
        self,
        gpu: Gpu,
        make: Callable[[tuple[Any, ...]], Body],
        *,
        label: str = "the step",
        warm_ups: int = 2,
        limit: int = 8,
        ring: int = 3,
        enabled: bool = True,
    ) -> None:
        if warm_ups < 1 or limit < 1 or ring < 2:
            raise ConfigError(
                f"{label}: warm_ups={warm_ups} and limit={limit} are at least 1, ring={ring} is at least 2: a value is "
                "read while the next one is written"
            )
        self.gpu, self.make, self.label = gpu, make, label
        self.warm_ups, self.limit, self.ring, self.enabled = warm_ups, limit, ring, enabled
        with gpu.use():
            self.stream = gpu.stream()
        self.entries: OrderedDict[Any, _Entry] = OrderedDict()

    def __call__(self, *arrays: Any) -> tuple[Any, list[Late]]:
        """Make one step with these arrays, of the GPU or pinned; gives the body's result and the watched values.

        The result's arrays are those of the recording: the next step overwrites them. Work that others put on the
        current stream comes before the step, and what they put there afterwards comes behind it.
        """
        entry = self._entry(tuple((tuple(x.shape), x.dtype) for x in arrays))
        before = self.gpu.event()
        self.stream.wait(before)
        for slot, array in zip(entry.body.slots, arrays, strict=True):
            self.gpu.copy(slot, array, self.stream)
        with self.gpu.use(), self.stream:
            entry.body.prepare(self.stream)
        result = self._step(entry)
        late = self._watched(entry)
        self.gpu.current().wait(self.stream.record())
        return result, late

    def why_not(self) -> list[str]:
        """Why signatures are not recorded, for those that are not."""
        return [e.plain for e in self.entries.values() if e.plain]

    def _entry(self, key: tuple[Any, ...]) -> _Entry:
        entry = self.entries.get(key)
        if entry is None:
            with self.gpu.use(), self.stream, self.gpu.private_pool() as pool:
                entry = self.entries[key] = _Entry(self.make(key), pool)
            while len(self.entries) > self.limit:
                self._drop(self.entries.popitem(last=False)[1])
        self.entries.move_to_end(key)
        return entry

    def _drop(self, entry: _Entry) -> None:
        """Memory of a recording may go only when nobody works in it."""
        self.stream.synchronize()
        entry.recorded = None

    def _step(self, entry: _Entry) -> Any:
        if entry.recorded is None and entry.runs >= self.warm_ups and self.enabled and not entry.plain:
            self._record(entry)
        if entry.recorded is not None:
            entry.recorded.launch(self.stream)
            return entry.result
        entry.runs += 1
        with self.gpu.use(), self.gpu.private_pool(entry.pool), self.stream, _inside():
            return entry.body.run(self.stream)

    def _record(self, entry: _Entry) -> None:
        try:
            with recorded_now(), self.gpu.private_pool(entry.pool), self.gpu.recording(self.stream) as recorded:
                entry.result = entry.body.run(self.stream)
            entry.recorded = recorded()
        except (
            Exception
        ) as error:  # whatever it is, the step runs without a recording, or fails there with its own error
            entry.plain, entry.result = f"{type(error).__name__}: {error}", None
            log.warning("gpu:%d: %s is not recorded, and runs as it is: %s", self.gpu.index, self.label, entry.plain)

    def _watched(self, entry: _Entry) -> list[Late]:
        watched = entry.body.watched
        if not entry.rings:
            entry.rings = [[self.gpu.pinned(x.shape, x.dtype) for _ in range(self.ring)] for x in watched]
        for x, ring in zip(watched, entry.rings, strict=True):
            ring.append(ring.pop(0))
            self.gpu.copy(ring[-1], x, self.stream)
        event = self.stream.record()
        return [Late(ring[-1], event) for ring in entry.rings]


@contextmanager
def _inside() -> Iterator[None]:
    _within.depth = getattr(_within, "depth", 0) + 1
    try:
        yield
    finally:
        _within.depth -= 1


@contextmanager
def recorded_now() -> Iterator[None]:
    """Without garbage collection, which could free memory of other recordings, or ask the GPU something."""
    global _recording
    collecting = gc.isenabled()
    gc.disable()
    _recording += 1
    try:
        yield
    finally:
        _recording -= 1
        if collecting:
            gc.enable()
