"""What a simulation found, and the figures that follow from it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SimulationResult"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """A simulated run. Times are in seconds of virtual time; tuples are by rank.

    Args:
        gate: its canonical name.
        workers: how many.
        seconds: when the run ended.
        update_times: when each version was complete on all slices, from version 1 on.
        weights: all weights at each version, from version 0 on: shape (versions + 1, weights); one row, the last, if
            they were not recorded.
        clocks: contributions of each worker that came to a server, that of its first slice, or were not
            sent because they would have come too late for their round.
        applied, dropped: contributions of each worker that were applied, and that came too late; one of each slice
            counts as one.
        staleness: for each worker, how many of its contributions that were not dropped had which staleness, as the
            servers counted it.
        computing_s: time that each worker computed, what was in vain included.
        abandoned_s: time of that in which it computed what it then gave up, since its round was over.
        closed: how often a worker's contribution completed a version: where a round waits, who was waited for.
        begun: for each worker, when it had read all values, and began to compute or to leave.
        push_times, push_workers: when each of these contributions came to its end, and whose it was.
        faults: what went wrong on purpose, as text.
        met: messages that were interfered with.
        duplicates: contributions that came again and were not counted again, over all slices.
    """

    gate: str
    workers: int
    seconds: float
    update_times: Array = field(repr=False)
    weights: Array = field(repr=False)
    clocks: tuple[int, ...]
    applied: tuple[int, ...]
    dropped: tuple[int, ...]
    staleness: tuple[Counter[int], ...]
    computing_s: tuple[float, ...]
    abandoned_s: tuple[float, ...]
    closed: tuple[int, ...]
    begun: tuple[tuple[float, ...], ...] = field(repr=False)
    push_times: Array = field(repr=False)
    push_workers: Array = field(repr=False)
    faults: tuple[str, ...] = ()
    met: int = 0
    duplicates: int = 0

    @property
    def updates(self) -> int:
        """Versions that were made."""
        return len(self.update_times)

    @property
    def pushes(self) -> int:
        """Contributions of all workers, those that came too late included."""
        return len(self.push_times)

    @property
    def updates_per_s(self) -> float:
        """Versions a second."""
        return self.updates / self.seconds if self.seconds else 0.0

    @property
    def pushes_per_s(self) -> float:
        """Contributions a second, all workers together."""
        return self.pushes / self.seconds if self.seconds else 0.0

    @property
    def update_seconds(self) -> Array:
        """How long each version took."""
        return np.diff(self.update_times, prepend=0.0)

    @property
    def waiting_s(self) -> tuple[float, ...]:
        """Time that each worker did not compute: it waited for others, or for messages."""
        return tuple(max(0.0, self.seconds - c) for c in self.computing_s)

    @property
    def waiting_share(self) -> float:
        """Part of all workers' time that was spent waiting."""
        total = self.workers * self.seconds
        return sum(self.waiting_s) / total if total else 0.0

    @property
    def abandoned_share(self) -> float:
        """Part of all workers' time that was spent on contributions that were given up."""
        total = self.workers * self.seconds
        return sum(self.abandoned_s) / total if total else 0.0

    @property
    def dropped_share(self) -> float:
        """Part of the contributions that came too late, of those that were applied or dropped."""
        total = sum(self.applied) + sum(self.dropped)
        return sum(self.dropped) / total if total else 0.0

    @property
    def histogram(self) -> Counter[int]:
        """Staleness of all workers' contributions."""
        return sum(self.staleness, Counter[int]())

    @property
    def staleness_mean(self) -> float:
        """Mean staleness; 0 where nothing was pushed."""
        counts = self.histogram
        return sum(tau * n for tau, n in counts.items()) / max(1, counts.total())

    def staleness_quantile(self, share: float) -> int:
        """The smallest staleness that at least ``share`` of the contributions do not exceed."""
        counts, seen = self.histogram, 0
        for tau in sorted(counts):
            seen += counts[tau]
            if seen >= share * counts.total():
                return tau
        return 0

    def rates(self, parts: int) -> Array:
        """Contributions a second and worker in each of ``parts`` equal spans of the run; the spread of their mean is
        its standard error."""
        counts, _ = np.histogram(self.push_times, bins=parts, range=(0.0, self.seconds))
        return counts * (parts / (self.seconds * self.workers))
