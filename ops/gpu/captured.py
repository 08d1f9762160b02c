"""The graph of a hybridized block as recordings: one of its forward part, one of its backward part.

`hybridize` uses this by itself on a GPU (`shoal.ops.graph.compiled`). The first runs are as they would be without, on
the stream that will be recorded; then each part is recorded once and launched from then on. Arguments, random keys and
cotangents are copied to where the recording reads them; parameters are read where they are. What a run gives is a copy.

A recording has one set of intermediate values. As long as the backward part of a run may still be asked for, other runs
do without the recording: two forward passes before a backward pass are right, and not faster than before.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shoal.ops import instrument
from shoal.ops.gpu import device, replay
from shoal.ops.gpu.device import Recorded, Stream
from shoal.ops.graph.executor import Program, Run

__all__ = ["LIMIT", "Budget", "Captured", "switched_on"]

log = logging.getLogger("shoal.ops.gpu")

WARM_UPS = 2
"""Runs as they are before the recording."""

MOVES = 3
"""How often parameters may lie elsewhere than before until they are given up."""

LIMIT = 8
"""How many recordings a block keeps: each has memory of its own."""


def switched_on() -> bool:
    """Whether blocks may be recorded: unless ``SHOAL_GPU_RECORD`` is 0."""
    return os.environ.get("SHOAL_GPU_RECORD", "1") != "0"


class Budget:
    """What the graphs of one block have in common: how many recordings are left, and why some are not made."""

    def __init__(self, label: str, limit: int = LIMIT) -> None:
        self.label, self.left = label, limit
        self.reasons: list[str] = []

    def refuse(self, index: int, why: str) -> None:
        """Say, once for a reason, why a graph runs as it is."""
        if why not in self.reasons:
            self.reasons.append(why)
            log.warning("gpu:%d: %s is not recorded, and runs as it is: %s", index, self.label, why)


class _Part:
    """A recorded part: what it reads, what it gives."""

    def __init__(self, recorded: Recorded, slots: Sequence[Any], results: Sequence[Any]) -> None:
        self.recorded, self.slots, self.results = recorded, slots, results


class _Lane:
    """What the recordings of a program need: a stream and a pool of their own, on one GPU."""

    def __init__(self, gpu: device.Gpu) -> None:
        self.gpu = gpu
        with gpu.use():
            self.stream = gpu.stream()
            with self.stream, gpu.private_pool() as pool:
                self.pool = pool

    def carry_out(self, work: Callable[[Stream], Any]) -> Any:
        """Do ``work`` on the stream, with memory of the pool: behind and before what others do."""
        self.stream.wait(self.gpu.event())
        with self.gpu.use(), self.gpu.private_pool(self.pool), self.stream:
            found = work(self.stream)
        self.gpu.current().wait(self.stream.record())
        return found

    def record(self, work: Callable[[], list[Any]], slots: Sequence[Any]) -> _Part:
        """Record ``work``, which gives arrays."""
        with replay.recorded_now(), self.gpu.private_pool(self.pool), self.gpu.recording(self.stream) as recorded:
            results = work()
        return _Part(recorded(), slots, results)

    def play(self, part: _Part, arrays: Mapping[int, Any]) -> list[Any]:
        """Launch a part with these arrays in its slots; copies of what it gives."""

        def work(stream: Stream) -> None:
            for number, array in arrays.items():
                part.slots[number][...] = array
            part.recorded.launch(stream)

        self.carry_out(work)
        return [x.copy() for x in part.results]


class Captured:
    """Runs of a program, recorded where that is possible; `start` is in place of the program's.

    Args:
        program: what to run.
        fixed: of each early input, whether it is a parameter or another tensor that stays where it is.
    """

    def __init__(self, program: Program, fixed: Sequence[bool], budget: Budget) -> None:
        self.program, self.fixed, self.budget = program, fixed, budget
        self.backward: _Part | None = None
        self.lane: _Lane | None = None
        self.run: Run | None = None
        self._forward: _Part | None = None
        self._where: tuple[int, ...] = ()
        self._runs = self._moves = 0
        self._plain = self._plain_backward = False
        self._last: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()

    def start(self) -> "Run | _Replayed":
        """A run; a plain one where the recording is in use, or is out of the question."""
        if self._plain or instrument.watchers or replay.within() or not switched_on() or self._last() is not None:
            return self.program.start()
        found = _Replayed(self)
        self._last = weakref.ref(found)
        return found

    def forward(self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None) -> "tuple[Run, list[Any]]":
        """The run whose values are those of these arrays, and the results."""
        if not self._lock.acquire(blocking=False):
            return self._as_it_is(arrays, late)
        try:
            return self._forward_alone(arrays, late)
        finally:
            self._lock.release()

    def _as_it_is(self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None) -> tuple[Run, list[Any]]:
        run = self.program.start()
        return run, run.forward(arrays, late)

    def _forward_alone(
        self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None
    ) -> tuple[Run, list[Any]]:
        why = self._unfit(arrays)
        if why:
            self._give_up(arrays, why)
            return self._as_it_is(arrays, late)
        for wait in (late or {}).values():
            wait()
        lane = self._found_lane(arrays)
        where = tuple(x.data.ptr for x, fixed in zip(arrays, self.fixed, strict=True) if fixed)
        if where != self._where and self._where:
            self._moved(arrays)
        self._where = where
        if self._forward is None and self._runs >= WARM_UPS and not self._plain:
            self._record(lane, arrays)
        if self._forward is None:
            self._runs += 1
            run, found = lane.carry_out(lambda stream: self._as_it_is(arrays, None))
            return run, [x.copy() for x in found]  # so that the pool has its blocks back when it is recorded
        assert self.run is not None
        return self.run, lane.play(self._forward, {n: x for n, x in enumerate(arrays) if not self.fixed[n]})

    def _unfit(self, arrays: Sequence[Any]) -> str:
        """Why these arrays cannot be those of a recording; empty if they can."""
        kind = self.program.xp.ndarray
        if not all(isinstance(x, kind) for x in arrays):
            return "an input is in host memory"
        if len({x.device.id for x in arrays}) > 1 or (self.lane and self.lane.gpu.index != arrays[0].device.id):
            return "its inputs are on several GPUs"
        if not all(x.flags.c_contiguous for x, fixed in zip(arrays, self.fixed, strict=True) if not fixed):
            return "an argument does not lie in C order"
        return ""

    def _found_lane(self, arrays: Sequence[Any]) -> _Lane:
        if self.lane is None:
            self.lane = _Lane(device.gpu(int(arrays[0].device.id)))
        return self.lane

    def _give_up(self, arrays: Sequence[Any], why: str) -> None:
        self._plain = True
        self.budget.refuse(self.lane.gpu.index if self.lane else 0, why)

    def _moved(self, arrays: Sequence[Any]) -> None:
        """Parameters lie elsewhere: what was recorded reads them where they were."""
        if self._forward is not None:
            assert self.lane is not None
            self.lane.stream.synchronize()
            self._forward, self.backward, self.run = None, None, None
            self.budget.left += 1
        self._runs, self._moves = 0, self._moves + 1
        if self._moves > MOVES:
            self._give_up(arrays, f"its parameters were moved {self._moves} times")

    def _record(self, lane: _Lane, arrays: Sequence[Any]) -> None:
        if self.budget.left <= 0:
            self._give_up(arrays, f"{LIMIT} signatures are recorded already")
            return
        run = self.program.start() if self.run is None else self.run
        pairs = zip(arrays, self.fixed, strict=True)
        slots = [x if fixed else lane.gpu.empty(x.shape, x.dtype) for x, fixed in pairs]
        try:
            self._forward = lane.record(lambda: run.forward(slots), slots)
        except Exception as error:  # whatever it is, the graph runs as it is, or fails there with its own error
            self._give_up(arrays, f"{type(error).__name__}: {error}")
            return
        self.run = run
        self.budget.left -= 1

    def carry_back(self, run: Run, arrays: Sequence[Any], made: Callable[[int, Any], None] | None) -> list[Any]:
        """The backward part of a run."""
        lane = self.lane
        if lane is None or self._plain_backward or replay.within() or not _dense(self.program.xp, arrays):
            return run.backward(arrays, made)
        if run is not self.run:  # a warm-up
            found = [x.copy() for x in lane.carry_out(lambda stream: run.backward(arrays))]
        else:
            if self.backward is None:
                self._record_backward(lane, run, arrays)
            if self.backward is None:
                return run.backward(arrays, made)
            found = lane.play(self.backward, dict(enumerate(arrays)))
        for number, array in enumerate(found if made is not None else ()):
            made(number, array)  # type: ignore[misc]  # it is not None
        return found

    def _record_backward(self, lane: _Lane, run: Run, arrays: Sequence[Any]) -> None:
        slots = [lane.gpu.empty(x.shape, x.dtype) for x in arrays]
        try:
            self.backward = lane.record(lambda: run.backward(slots), slots)
        except Exception as error:  # as above
            self._plain_backward = True
            self.budget.refuse(lane.gpu.index, f"backward: {type(error).__name__}: {error}")


def _dense(xp: Any, arrays: Sequence[Any]) -> bool:
    return all(isinstance(x, xp.ndarray) for x in arrays)


class _Replayed:
    """A run that is recorded, or becomes so; as long as it is alive its backward part may be asked for."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._run: Run | None = None

    def forward(self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None = None) -> list[Any]:
        """As of `Run`."""
        self._run, results = self._captured.forward(arrays, late)
        return results

    def backward(self, arrays: Sequence[Any], made: Callable[[int, Any], None] | None = None) -> list[Any]:
        """As of `Run`."""
        assert self._run is not None
        return self._captured.carry_back(self._run, arrays, made)
