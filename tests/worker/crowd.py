"""Workers whose set changes, without processes: every worker is a `Course` of its own, in turn on this thread."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shoal.worker import cluster
from shoal.worker.data import course as courses
from shoal.worker.data.course import Course, Work


@dataclass
class Record:
    """As `shoal.kvstore.wire.messages.Shared`."""

    ranks: tuple[int, ...]
    cursors: dict[str, Any] = field(default_factory=dict)
    counted: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Crowd:
    """The run: what all workers are told, and what each of them says."""

    def __init__(self, workers: int) -> None:
        self.shares = [Record(tuple(range(workers)))]
        self.cursors: dict[str, Any] = {}
        self.counted: dict[int, int] = {}

    def share(self, ranks: tuple[int, ...], **counted: int) -> None:
        """A new set; of those that are gone, ``w1=7`` pushes are counted."""
        gone = {k[1:]: (n - 1, n) for k, n in counted.items()}
        self.shares.append(Record(ranks, dict(self.cursors), gone))
        self.cursors.clear()


class Seat:
    """One worker's view of the crowd; ``arrives`` is called when it comes to a boundary where the set changes."""

    def __init__(self, crowd: Crowd, rank: int) -> None:
        self.crowd, self.rank, self.changing, self.leaving = crowd, rank, False, ""
        self.arrives: Callable[[], None] = lambda: None
        self.seen: list[dict[str, Any]] = []

    @property
    def shares(self) -> list[Record]:
        return self.crowd.shares

    @property
    def chief(self) -> int:
        return min(self.shares[-1].ranks)

    def meet(self, cursor: Any, timeout_s: float) -> None:
        self.seen.append(cursor)
        self.crowd.cursors[str(self.rank)] = cursor
        self.changing = False
        self.arrives()

    def enter(self, timeout_s: float) -> None:
        self.arrives()


class Worker:
    """A worker of the crowd: its course, and how often it has pushed."""

    def __init__(
        self, crowd: Crowd, rank: int, *, counted: int | None = None, late: bool = False, ratio: int = 1
    ) -> None:
        self.seat = Seat(crowd, rank)
        self.course = Course(rank, self.seat, None if counted is None else lambda store: counted, late)
        self.pushes, self.adopted, self.resumed, self.settled = 0, 0, -1, 0
        self.course.trains(Work(lambda n: n * ratio, lambda: self.pushes, self._adopt, self._settle, self._resume))

    def _adopt(self) -> None:
        self.adopted += 1

    def _settle(self) -> None:
        self.settled += 1

    def _resume(self, steps: int) -> None:
        self.resumed = steps


@contextlib.contextmanager
def on(course: Course) -> Iterator[None]:
    """Within this, the process is the worker of ``course``, in a run with seed 5."""
    assert course.group is not None
    cluster.join(course.rank, len(course.group.shares[0].ranks), 5)
    courses._course, courses._place = course, cluster.current()
    try:
        yield
    finally:
        cluster.leave()
