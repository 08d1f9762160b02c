"""One slice as the server core sees it: how far each worker is, whose contributions wait, who waits to read."""

from collections.abc import Set
from dataclasses import dataclass, field

from shoal.kvstore.events import Contribution
from shoal.kvstore.gates import Gate, Progress
from shoal.kvstore.server.desk import Desk
from shoal.kvstore.server.snapshots import Branch
from shoal.kvstore.wire.messages import Change, Push
from shoal.kvstore.wire.schema import Payload

__all__ = ["Entry", "Parked"]


@dataclass(slots=True)
class Parked:
    """A reader that waits until the gate lets it read at ``clock``."""

    sender: str
    worker: int
    clock: int
    payload: bool
    rows: Payload | None = None
    reply: str = ""


@dataclass(slots=True)
class Entry:
    """One slice: what it is, how far each worker is, whose contributions wait, who waits to read."""

    store: int
    key: str
    dtype: str
    shape: tuple[int, ...]
    gate: Gate
    reduce: str
    progress: Progress
    desk: Desk
    width: int = 0  # of a row, if rows may be pushed and pulled singly
    version: int = 0
    pending: dict[int, list[Contribution]] = field(default_factory=dict)  # by round; round r makes version r + 1
    quotas: dict[int, int] = field(default_factory=dict)  # by round, where it was granted with one
    holders: dict[int, int] = field(default_factory=dict)  # by rank, the round whose end it waits for
    late: dict[int, int] = field(default_factory=dict)  # by rank, the clock of its last contribution that was dropped
    parked: dict[tuple[str, int], Parked] = field(default_factory=dict)
    watchers: dict[str, tuple[int, int, str]] = field(default_factory=dict)  # sender -> (rank, seq, reply): sent ...
    shown: int = 0  # ... every new floor, and this one last
    staleness: list[int] = field(default_factory=lambda: [0, 0, 0])  # contributions, sum and maximum of their staleness
    left: dict[int, int] = field(default_factory=dict)  # by rank, the last clock of those who have left
    marks: dict[int, int] = field(default_factory=dict)  # by rank, what was counted when all were last equally far
    branches: dict[int, Branch] = field(default_factory=dict)  # of snapshots, by reader
    changes: list[Change] = field(default_factory=list)  # of settings, that wait for their clock
    widest: int = 0  # slack that the gate has had, where it has been narrowed
    early: dict[int, tuple[str, Push]] | None = None  # of a restored server: pushes that it cannot take yet, by rank

    def fits(self, value: Payload, rows: Payload | None) -> bool:
        """Whether a contribution has the slice's shape, or that of some of its rows."""
        return value.shape == self.shape if rows is None else value.shape == (rows.shape[0], self.width)

    def counted(self, worker: int) -> int:
        """How many contributions of ``worker`` are counted, also if it has left."""
        clock, skipped = self.progress.clocks.get(worker), self.progress.skipped
        if clock is None:
            return self.left.get(worker, 0)
        return clock - skipped.get(worker, 0) if skipped else clock

    def floor(self, worker: int) -> int:
        """The floor, as ``worker`` counts, which does not know what it has skipped."""
        progress = self.progress
        return progress.floor - progress.skipped.get(worker, 0) if progress.skipped else progress.floor

    def may_read(self, worker: int, clock: int) -> bool:
        """Whether ``worker``, which has made ``clock`` contributions, may read, and contribute again."""
        return self.gate.ready(clock, self.floor(worker)) and self.holders.get(worker, -1) < self.version

    def may_push(self, worker: int, clock: int) -> bool:
        """As `may_read`; but who does not know yet that the slack has become smaller is not to blame."""
        if self.may_read(worker, clock):
            return True
        return clock - self.floor(worker) <= self.widest and self.holders.get(worker, -1) < self.version

    def is_early(self, m: Push) -> bool:
        """Whether a push is in order, but others that its sender has seen are lost, and not repeated yet."""
        here = m.worker in self.progress.clocks and m.clock == self.counted(m.worker) and not m.quota
        return (
            here and m.value.dtype == self.dtype and self.fits(m.value, m.rows) and not self.may_push(m.worker, m.clock)
        )

    def missing(self, clock: int) -> tuple[int, ...]:
        """Whom a worker at ``clock`` waits for."""
        if self.gate.asks:
            here = self.contributors()
            return tuple(r for r in self.progress.clocks if r not in here)
        return self.progress.behind(clock - (self.gate.slack or 0))

    def contributors(self) -> set[int]:
        """Who has contributed to the open round."""
        return {p.rank for p in self.pending.get(self.version, ())}

    def complete(self) -> bool:
        """Whether the open round has what it needs, or nobody is left to add to it."""
        here = self.pending.get(self.version)
        if not here or self.gate.need == 1:
            return bool(here)
        if self.early is not None and self.gate.rounds:  # what was contributed to the open round may be lost
            return self.progress.floor > self.version
        resting, clocks = self.desk.resting, self.progress.clocks
        count = len(clocks.keys() - resting) if resting else len(clocks)
        if count == len(here) == 1 and self.gate.need <= 0 and not (resting or self.quotas) and here[0].rank in clocks:
            return True  # most often: the only worker
        granted = self.quotas.get(self.version, 0)
        if len(here) < count and len(here) < (granted or self.gate.quota(count)) and len(self.pending) == 1:
            return False  # the rest is only looked at when the round may be full: pushes are many
        awaited, ranks = clocks.keys() - resting, self.contributors()
        quota = granted or self.gate.quota(len(ranks | awaited))
        return len(here) >= quota or self._alone(awaited)

    def passed_over(self) -> bool:
        """Whether nobody has contributed to the open round, nobody will, and there are contributions to later ones."""
        if self.early is not None and self.gate.rounds:
            return self.progress.floor > self.version and not self.pending
        return bool(self.pending) and self.version not in self.pending and self._alone(self.progress.clocks.keys())

    def _alone(self, awaited: Set[int]) -> bool:
        """Whether all of these workers rest, wait for the end of the open round, or have gone on to later ones."""
        gone_on = {p.rank for r, parts in self.pending.items() if r > self.version for p in parts}
        gone_on |= {rank for rank, r in self.holders.items() if r >= self.version}
        return awaited - self.desk.resting <= gone_on
