"""What a trace knows of the training script: forward and backward passes, steps, waits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.kvstore.client.shell import Call
from shoal.kvstore.exposition import Histogram
from shoal.kvstore.trace import recorder as tracing
from shoal.kvstore.trace.recorder import Recorder
from shoal.ops import probe
from shoal.worker import profiling
from shoal.worker.record import RunRecord

if TYPE_CHECKING:
    from shoal.worker.session import Session

__all__ = ["TracedRecord", "begin", "end", "record_class"]


class Waits(Histogram):
    """Of waits for the store, as `Call.waits` takes them; each is a stretch of the script."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def observe(self, value: float, times: int = 1) -> None:
        """Count a wait that ends now."""
        super().observe(value, times)
        now = self._recorder.now()
        self._recorder.stretch("wait", now - value, now)


class TracedRecord(RunRecord):
    """A `RunRecord` that says where steps end: a step goes from the end of the one before."""

    _before = 0.0

    def start(self) -> None:
        """Training begins now, if it has not begun."""
        super().start()
        recorder = tracing.current()
        if recorder is not None and not self._before:
            self._before = recorder.now()

    def step(self, samples: int) -> None:
        """One optimizer step over ``samples`` samples is done."""
        super().step(samples)
        recorder = tracing.current()
        if recorder is not None:
            now = recorder.now()
            recorder.stretch(f"step {recorder.step}", min(self._before or now, now), now)
            self._before, recorder.step = now, recorder.step + 1


def record_class() -> type[RunRecord]:
    """The class of this process's record."""
    return RunRecord if tracing.current() is None else TracedRecord


def begin(session: "Session") -> None:
    """Look at this process, if it is to be traced."""
    profiling.begin(session.membership.rank)
    recorder = tracing.current()
    if recorder is None:
        return
    Call.waits = Waits(recorder)
    probe.watch(recorder.stretch)
    recorder.about = lambda: about(session)


def end() -> None:
    """Look no more, and write what was seen; also in a process that is about to be ended."""
    profiling.end()
    if tracing.current() is not None:
        probe.watch(None)
        tracing.finish()


def about(session: "Session") -> Mapping[str, Any]:
    """Who this process is, and what its slices are called."""
    m = session.membership
    offset = m.core.offset
    sharing: dict[int, list[str]] = {}
    for store in session.stores:
        for slice_id, key in store.slice_names():
            sharing.setdefault(slice_id, []).append(key)
    names = {str(i): keys[0] + (f" +{len(keys) - 1}" if keys[1:] else "") for i, keys in sharing.items()}
    return {
        "rank": m.rank,
        "incarnation": m.incarnation,
        "cluster": m.cluster,
        "offset": [offset.value_s, offset.error_s if offset.trips else None, offset.trips],
        "keys": names,
    }
