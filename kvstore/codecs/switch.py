"""Codecs that change while a store is in use: each slice changes when this worker has pushed it so often."""

from dataclasses import dataclass, field

from shoal.kvstore.codecs.compressor import Compressor

__all__ = ["Switch"]


@dataclass(frozen=True, slots=True)
class _Stage:
    clock: int  # pushes of a slice before it
    compressor: Compressor | None
    number: int  # of the change


@dataclass(slots=True)
class _Here:
    """One slice: what compresses it now, which stages it has yet to come to."""

    present: Compressor | None
    waiting: list[_Stage] = field(default_factory=list)
    heard: int = 0  # stages that it knows of


class Switch:
    """What compresses each slice of one store, on one worker.

    What the codec before has held back of a slice goes with the first push through the next one; if that compresses no
    pushes it is dropped, as `KVStore.set_gradient_compression` drops it.

    Args:
        first: what compresses until the first change.
    """

    def __init__(self, first: Compressor | None) -> None:
        self._first, self.latest = first, first
        self._stages: list[_Stage] = []
        self._slices: dict[int, _Here] = {}
        self._taken: dict[int, list[int]] = {}

    def add(self, clock: int, compressor: Compressor | None, number: int = 0) -> None:
        """From its push ``clock`` on, counted from 0, a slice goes through ``compressor``; -1: from the next on."""
        self._stages.append(_Stage(clock, compressor, number))

    def reset(self, compressor: Compressor | None) -> None:
        """All slices go through ``compressor`` from now on; changes whose clock has not come still will."""
        for slice_id, here in self._slices.items():
            self._move(slice_id, here, compressor)
        self._first = self.latest = compressor

    def now(self, slice_id: int) -> Compressor | None:
        """What compresses a slice, as of its last push."""
        here = self._slices.get(slice_id)
        return self._first if here is None else here.present

    def at(self, slice_id: int, clock: int) -> Compressor | None:
        """What compresses push ``clock`` of a slice."""
        here = self._slices.setdefault(slice_id, _Here(self._first))
        if here.heard < len(self._stages):
            here.waiting += self._stages[here.heard :]
            here.heard = len(self._stages)
        for stage in [s for s in here.waiting if s.clock <= clock]:
            here.waiting.remove(stage)
            self._move(slice_id, here, stage.compressor)
            slices, first, last = self._taken.get(stage.number, [0, clock, clock])
            self._taken[stage.number] = [slices + 1, min(first, clock), max(last, clock)]
            self.latest = stage.compressor
        return here.present

    @staticmethod
    def _move(slice_id: int, here: _Here, to: Compressor | None) -> None:
        if here.present is not None and here.present is not to:
            here.present.hand_over(slice_id, to)
        here.present = to

    def report(self) -> dict[str, list[int]]:
        """By number of the change: slices that have taken it, and the first and the last clock at which one did."""
        return {str(number): taken for number, taken in self._taken.items()}
