"""Which samples are whose while workers join, leave and die: a pure function of the records that all of them have.

A *pass* is one iteration over the training data, counted from 0 in each process; all workers make the same passes. A
*segment* is the time between two changes of the set of workers. In a segment every worker has a queue of batches: what
was left of the passes that somebody had begun, dealt anew to the workers of the segment, and after that whole passes,
dealt as `Sharding` deals them. How far a worker is, is a place in its queue, so that a change needs one number of each.

What is dealt are places in the order of a pass, not samples: the order itself is a function of seed and epoch. So the
plan is the same for every epoch, and without a change every batch is bit for bit what `Sharding` makes it.

What is left of a pass begins with what the workers that are gone had been dealt and have not done; then the rest
follows in its order. A pass of which everybody has done his part is over: what ``last_batch`` left out stays left out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.worker.data.dataset import Indices
from shoal.worker.data.deal import Deal

__all__ = ["Left", "Plan", "Segment", "Turn", "as_ranges", "from_ranges"]


@dataclass(frozen=True)
class Left:
    """What is to be done of a pass that was begun before its segment.

    Args:
        order: places in the order of the pass that are still to be dealt.
        first: how many steps of this deal had been made before: of a run that goes on from a checkpoint.
    """

    order: Indices
    first: int = 0


@dataclass(frozen=True)
class Turn:
    """One batch of one worker: a step of the deal of a pass."""

    number: int  # of the pass
    step: int


@dataclass(frozen=True)
class Segment:
    """What is dealt between two changes, and to whom.

    Args:
        ranks: who takes part, ascending.
        idle: who of them trains no more; passes that are whole are dealt to them all the same, should they go on.
        left: by pass, what was begun before; other passes below ``fresh`` are over.
        fresh: the first pass that nobody had begun.
    """

    ranks: tuple[int, ...]
    idle: frozenset[int] = frozenset()
    left: Mapping[int, Left] = field(default_factory=dict)
    fresh: int = 0

    def takers(self, number: int) -> tuple[int, ...]:
        """To whom pass ``number`` is dealt."""
        if number >= self.fresh:
            return self.ranks
        return tuple(r for r in self.ranks if r not in self.idle) if number in self.left else ()


class Plan:
    """The batches of all workers of a run, over all passes.

    Args:
        num_samples: in a pass.
        batch_size: samples in a full batch of one worker.
        last_batch: what becomes of samples that do not fill a global batch; see `Sharding`.
        ranks: the workers with which the run began.
        left: what is to be done of the first pass, where that is not all of it.
    """

    def __init__(
        self, num_samples: int, batch_size: int, last_batch: str, ranks: Sequence[int], left: Left | None = None
    ) -> None:
        self.num_samples, self.batch_size, self.last_batch = num_samples, batch_size, last_batch
        begun = {} if left is None else {0: left}
        self.segments = [Segment(tuple(sorted(ranks)), left=begun, fresh=len(begun))]
        self._deals: dict[tuple[int, int], Deal] = {}

    def steps(self, at: int, rank: int, number: int) -> int:
        """Batches of pass ``number`` that ``rank`` is dealt in segment ``at``."""
        segment = self.segments[at]
        if rank not in segment.takers(number):
            return 0
        return self._deal(segment, number).steps - self._first(segment, number)

    def turn(self, at: int, rank: int, place: int) -> Turn | None:
        """The batch at ``place``, from 0, of the queue of ``rank`` in segment ``at``; None if it is dealt none."""
        segment = self.segments[at]
        for number in sorted(segment.left):
            steps = self.steps(at, rank, number)
            if place < steps:
                return Turn(number, self._first(segment, number) + place)
            place -= steps
        each = self.steps(at, rank, segment.fresh)
        return Turn(segment.fresh + place // each, place % each) if each else None

    def end(self, at: int, rank: int, number: int) -> int:
        """The place in the queue of ``rank`` behind all batches of passes up to ``number``."""
        segment = self.segments[at]
        begun = sum(self.steps(at, rank, n) for n in segment.left if n <= number)
        return begun + max(0, number + 1 - segment.fresh) * self.steps(at, rank, segment.fresh)

    def places(self, at: int, rank: int, turn: Turn) -> Indices:
        """The places in the order of its pass that make a batch of ``rank``."""
        segment = self.segments[at]
        deal, takers = self._deal(segment, turn.number), segment.takers(turn.number)
        start, stop = deal.part(takers.index(rank), turn.step)
        left = segment.left.get(turn.number)
        if left is None:
            places = np.arange(start, stop)
            return places if stop <= self.num_samples else places % self.num_samples
        beyond = np.arange(max(start, deal.size), max(stop, deal.size)) - deal.size  # padded: as the pass begins
        return np.concatenate([left.order[start:stop], beyond % self.num_samples])

    def upcoming(self, at: int, rank: int, place: int, number: int) -> Iterator[Turn]:
        """The batches of ``rank`` from ``place`` on, of passes up to ``number``."""
        last = self.end(at, rank, number)
        while place < last:
            turn = self.turn(at, rank, place)
            assert turn is not None
            after = self.end(at, rank, turn.number)
            for later in range(after - place):
                yield Turn(turn.number, turn.step + later)
            place = after

    def share(
        self,
        ranks: Sequence[int],
        done: Mapping[int, int],
        gone: Collection[int] = (),
        idle: Collection[int] = (),
    ) -> None:
        """Begin a segment: the set of workers has changed.

        Args:
            ranks: who takes part from now on.
            done: by rank, how much of its queue each worker of the segment before has done.
            gone: who of them is gone; a newcomer may have its rank.
            idle: who of ``ranks`` trains no more.
        """
        at, before = len(self.segments) - 1, self.segments[-1]
        begun = [turn.number for r in before.ranks if (turn := self._last(at, r, done.get(r, 0))) is not None]
        fresh = max([before.fresh, *(n + 1 for n in begun)])
        left = {}
        for number in sorted({*before.left, *range(before.fresh, fresh)}):
            order = self._remains(at, number, done, gone)
            if len(order):
                left[number] = Left(order)
        self.segments.append(Segment(tuple(sorted(ranks)), frozenset(idle), left, fresh))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _deal(self, segment: Segment, number: int) -> Deal:
        left = segment.left.get(number)
        size, parts = self.num_samples if left is None else len(left.order), len(segment.takers(number))
        deal = self._deals.get((size, parts))
        if deal is None:
            deal = Deal(size=size, batch_size=self.batch_size, parts=parts, last_batch=self.last_batch)
            self._deals[size, parts] = deal
        return deal

    @staticmethod
    def _first(segment: Segment, number: int) -> int:
        left = segment.left.get(number)
        return 0 if left is None else left.first

    def _last(self, at: int, rank: int, done: int) -> Turn | None:
        return self.turn(at, rank, done - 1) if done > 0 else None

    def _done_of(self, at: int, rank: int, number: int, done: int) -> int:
        """How many batches of pass ``number`` a worker has done that has done so much of its queue."""
        steps = self.steps(at, rank, number)
        return min(steps, max(0, done - (self.end(at, rank, number) - steps)))

    def _remains(self, at: int, number: int, done: Mapping[int, int], gone: Collection[int]) -> Indices:
        """What is left of a pass: places of those that are gone, then the rest; none if everybody has done his part."""
        segment = self.segments[at]
        deal, first, takers = self._deal(segment, number), self._first(segment, number), segment.takers(number)
        left = segment.left.get(number)
        order = np.arange(self.num_samples) if left is None else left.order
        if not takers:
            return order
        open_ = np.ones(deal.size, dtype=bool)
        orphaned = np.zeros(deal.size, dtype=bool)
        complete = True
        for index, rank in enumerate(takers):
            until = first + self._done_of(at, rank, number, done.get(rank, 0))
            complete = complete and until == deal.steps
            for step in range(deal.steps):
                start, stop = deal.part(index, step)
                if step < until:
                    open_[start:stop] = False
                elif rank in gone:
                    orphaned[start:stop] = True
        if complete:
            return order[:0]
        return np.concatenate([order[open_ & orphaned], order[open_ & ~orphaned]])


def as_ranges(order: Indices) -> list[list[int]]:
    """Places as runs ``[first, last + 1]`` of consecutive ones: short, because what is left is in few pieces.

    >>> as_ranges(np.array([7, 8, 9, 2, 3]))
    [[7, 10], [2, 4]]
    """
    cuts = np.flatnonzero(np.diff(order) != 1) + 1
    return [[int(run[0]), int(run[-1]) + 1] for run in np.split(order, cuts) if len(run)]


def from_ranges(ranges: Sequence[Sequence[int]]) -> Indices:
    """The places that `as_ranges` wrote down.

    >>> from_ranges([[7, 10], [2, 4]]).tolist()
    [7, 8, 9, 2, 3]
    """
    runs = [np.arange(int(start), int(stop)) for start, stop in ranges]
    return np.concatenate(runs) if runs else np.arange(0)
