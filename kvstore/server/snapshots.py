"""Reads of several slices in one state, while training goes on: a server core's part.

A reader first surveys how far the slices are; from then on each has a *branch* for it. The reader then names the *cut*:
a version, where rounds are the same for all slices; otherwise, for each worker, how many of its contributions. A branch
takes what is in the cut and nothing else, is sealed when it has it all, and is read. The slice itself goes on as if
nobody had asked (docs/decisions/0017-snapshots-branch-off.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

from shoal.kvstore.events import (
    Action,
    Apply,
    BeginBranch,
    Contribution,
    CutBranch,
    DropBranch,
    SealBranch,
    Send,
    SendBranch,
)
from shoal.kvstore.gates import Gate, Progress
from shoal.kvstore.server.desk import Desk
from shoal.kvstore.snapshot import GIVEN_UP
from shoal.kvstore.wire.messages import Count, Done, Fetch, Forget, Refused, Survey, Surveyed, Waiting
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = ["KEPT_BYTES", "SILENCE_S", "Branch", "Snapshots", "Subject"]

KEPT_BYTES = 256 << 20
"""Contributions that a server keeps for all branches whose cut is not known yet; with more, a snapshot is given up."""

SILENCE_S = 60.0
"""A snapshot that its reader has not asked about for this long is given up; readers ask again every few seconds."""


@dataclass(slots=True)
class Branch:
    """One slice as the snapshot of one reader has it."""

    cut: Fetch | None = None
    kept_bytes: int = 0  # of contributions, until the cut is known
    sealed: bool = False
    lost: str = ""  # why it can never be read
    waiting: dict[tuple[str, int], None] = field(default_factory=dict)  # requests that it is the answer to


class Subject(Protocol):
    """What a slice tells of itself: see `shoal.kvstore.server.core.Entry`."""

    store: int
    key: str
    dtype: str
    shape: tuple[int, ...]
    gate: Gate
    reduce: str
    progress: Progress
    desk: Desk
    version: int
    pending: dict[int, list[Contribution]]
    holders: dict[int, int]
    left: dict[int, int]
    branches: dict[int, Branch]

    def missing(self, clock: int) -> tuple[int, ...]: ...


@dataclass(slots=True)
class _Open:
    """One reader's snapshot of one store."""

    number: int
    incarnation: int
    slices: tuple[int, ...]
    asked: float  # when the reader was last heard of it

    def is_of(self, m: Survey | Fetch) -> bool:
        """Whether the message is about this snapshot."""
        return (self.incarnation, self.number) == (m.incarnation, m.number)


class Snapshots:
    """The snapshots that are being taken here: at most one for each worker and store.

    Args:
        entries: the server's slices.
    """

    def __init__(self, entries: Mapping[int, Subject]) -> None:
        self._entries = entries
        self.open: dict[tuple[int, int], _Open] = {}  # by store and reader
        self._ended: dict[tuple[int, int, int], int] = {}  # by store, reader and incarnation, the last that is over
        self._kept_bytes = 0

    @property
    def ended(self) -> list[list[int]]:
        """What is over, as plain data: a late message of it is known as such."""
        return [[*key, number] for key, number in self._ended.items()]

    @ended.setter
    def ended(self, data: list[list[int]]) -> None:
        self._ended = {(store, reader, incarnation): number for store, reader, incarnation, number in data}

    def shift(self, seconds: float) -> None:
        """The clock that is told from now on goes ahead of the one before by so much."""
        for known in self.open.values():
            known.asked += seconds

    # --- what readers ask ---------------------------------------------------------------------------------------------

    def survey(self, sender: str, m: Survey, now: float) -> list[Action]:
        """Begin a branch of each slice, and say how far the furthest one is."""
        known = self.open.get((m.store, m.worker))
        newest = known.number if known is not None and known.incarnation == m.incarnation else 0
        if m.number < newest or m.number <= self._ended.get((m.store, m.worker, m.incarnation), 0):
            return []  # an old repetition
        slices = [self._entries.get(i) for i in m.slices]
        mine = [e for e in slices if e is not None and e.store == m.store]
        if not mine or len(mine) < len(slices):
            text = f"worker {m.worker} takes a snapshot of slices of store {m.store} that nobody has initialised here"
            return [_refuse(sender, m.seq, "KeyNotInitializedError", text)]
        actions: list[Action] = []
        if known is None or not known.is_of(m):
            actions += self._end(m.store, m.worker)
            for slice_id, entry in zip(m.slices, mine, strict=True):
                entry.branches[m.worker] = Branch()
                actions.append(BeginBranch(slice_id, m.worker))
        self.open[m.store, m.worker] = _Open(m.number, m.incarnation, m.slices, now)
        return [*actions, Send(sender, _far(m, mine))]

    def fetch(self, sender: str, m: Fetch, now: float) -> list[Action]:
        """Name the cut, and send the slice when it has got there."""
        entry, known = self._entries.get(m.slice), self.open.get((m.store, m.worker))
        branch = None if entry is None else entry.branches.get(m.worker)
        if entry is None or branch is None or known is None or not known.is_of(m):
            text = f"worker {m.worker} reads a snapshot of slice {m.slice} that {GIVEN_UP}"
            return [_refuse(sender, m.seq, "StoreError", text)]
        known.asked = now
        actions: list[Action] = []
        if branch.cut is None and not branch.lost:
            self._release(branch)
            branch.cut = m
            actions.append(CutBranch(m.slice, m.worker, m.version, _by_rank(m)))
        branch.waiting[sender, m.seq] = None
        actions += self._settle(m.slice, m.worker, entry, branch)
        if branch.waiting:
            actions.append(Send(sender, Waiting(seq=m.seq, missing=_missing(entry, m))))
        return actions

    def forget(self, sender: str, m: Forget) -> list[Action]:
        """The reader has what it wanted, or wants it no more."""
        known = self.open.get((m.store, m.worker))
        mine = known is not None and known.incarnation == m.incarnation and known.number <= m.number
        over = self._end(m.store, m.worker) if mine else []
        key = m.store, m.worker, m.incarnation
        self._ended[key] = max(m.number, self._ended.get(key, 0))
        return [*over, Send(sender, Done(seq=m.seq))]

    # --- what happens to slices and readers ---------------------------------------------------------------------------

    def moved(self, slice_id: int, entry: Subject, actions: Iterable[Action]) -> list[Action]:
        """A slice with branches has counted, applied (``actions`` say what) or lost something."""
        parts = sum(len(a.parts) for a in actions if isinstance(a, Apply) and a.slice == slice_id)
        nbytes = parts * prod(entry.shape) * ITEM_BYTES.get(entry.dtype, 8)
        found: list[Action] = []
        for reader, branch in entry.branches.items():
            if branch.cut is None and not branch.lost:
                found += self._keep(slice_id, reader, entry, branch, nbytes)
            found += self._settle(slice_id, reader, entry, branch)
        return found

    def _keep(self, slice_id: int, reader: int, entry: Subject, branch: Branch, nbytes: int) -> list[Action]:
        """Contributions of so many bytes are kept until the cut is known; too many are not."""
        branch.kept_bytes += nbytes
        self._kept_bytes += nbytes
        if self._kept_bytes <= KEPT_BYTES:
            return []
        why = (
            f"the snapshot of {entry.key!r} by worker {reader} is given up: more than {KEPT_BYTES >> 20} MB were "
            "pushed while its cut was being settled. Take another, or of fewer keys at a time."
        )
        return self._lose(slice_id, reader, branch, why)

    def gone(self, rank: int) -> list[Action]:
        """Worker ``rank`` reads no more."""
        return [a for store, reader in list(self.open) if reader == rank for a in self._end(store, reader)]

    def give_up(self, slice_id: int) -> list[Action]:
        """A slice is to leave this server: snapshots that it is part of cannot be gone on with."""
        mine = [key for key, known in self.open.items() if slice_id in known.slices]
        return [a for store, reader in mine for a in self._end(store, reader)]

    def expire(self, now: float) -> list[Action]:
        """Give up what nobody has asked about for long."""
        old = [k for k, o in self.open.items() if now - o.asked > SILENCE_S]
        return [a for store, reader in old for a in self._end(store, reader)]

    def _settle(self, slice_id: int, reader: int, entry: Subject, branch: Branch) -> list[Action]:
        """Seal a branch that has all of its cut; answer whoever waits for one that is sealed, or lost."""
        cut, actions = branch.cut, list[Action]()
        if cut is not None and not branch.sealed and not branch.lost:
            hopeless = _hopeless(entry, cut)
            if hopeless:
                actions += self._lose(slice_id, reader, branch, hopeless)
            elif _complete(entry, cut):
                branch.sealed = True
                actions.append(SealBranch(slice_id, reader, _pending(entry, cut), entry.reduce, cut.states))
        if branch.lost:
            actions += [_refuse(to, seq, "StoreError", branch.lost) for to, seq in branch.waiting]
            branch.waiting.clear()
        elif branch.sealed and cut is not None:
            version = cut.version if cut.version >= 0 else sum(c.clock for c in cut.counts)
            floor = entry.progress.floor
            where = slice_id, reader, version, floor, cut.states
            actions += [SendBranch(to, seq, *where) for to, seq in branch.waiting]
            branch.waiting.clear()
        return actions

    def _lose(self, slice_id: int, reader: int, branch: Branch, why: str) -> list[Action]:
        self._release(branch)
        branch.lost = why
        return [DropBranch(slice_id, reader)]

    def _release(self, branch: Branch) -> None:
        self._kept_bytes -= branch.kept_bytes
        branch.kept_bytes = 0

    def _end(self, store: int, reader: int) -> list[Action]:
        """Drop all branches of a reader's snapshot, if it has one."""
        known = self.open.pop((store, reader), None)
        if known is None:
            return []
        self._ended[store, reader, known.incarnation] = known.number
        for i in known.slices:
            branch = self._entries[i].branches.pop(reader, None)
            if branch is not None:
                self._release(branch)
        return [DropBranch(i, reader) for i in known.slices]


def _in_rounds(gate: Gate) -> bool:
    """Whether a version stands for the same contributions in every slice of a store."""
    return gate.rounds or gate.asks


def _counted(entry: Subject) -> dict[int, int]:
    """Contributions counted, by worker, those that have left included."""
    return {**entry.left, **entry.progress.counts()}


def _far(m: Survey, entries: list[Subject]) -> Surveyed:
    """Where the furthest slice is, or must be for the reader to be allowed to read it."""
    if _in_rounds(entries[0].gate):
        return Surveyed(seq=m.seq, version=max(_readable(e, m.worker) for e in entries), counts=())
    most: dict[int, int] = {}
    for e in entries:
        slack, own = e.gate.slack, e.progress.clocks.get(m.worker, 0)
        least = 0 if slack is None else own - slack
        for rank, clock in _counted(e).items():
            owed = max(clock, least - e.progress.skipped.get(rank, 0)) if rank in e.progress.clocks else clock
            most[rank] = max(owed, most.get(rank, 0))
    counts = tuple(Count(rank=r, clock=c) for r, c in sorted(most.items()))
    return Surveyed(seq=m.seq, version=-1, counts=counts)


def _readable(entry: Subject, reader: int) -> int:
    """The version that a slice has, or must have for the reader to see its own contributions in it."""
    own = entry.progress.clocks.get(reader, 0) if entry.gate.rounds else entry.holders.get(reader, -1) + 1
    return max(entry.version, own)


def _by_rank(cut: Fetch) -> dict[int, int]:
    return {c.rank: c.clock for c in cut.counts}


def _complete(entry: Subject, cut: Fetch) -> bool:
    """Whether a slice has all of a cut."""
    if cut.version >= 0:
        return entry.version >= cut.version
    return not _lacking(entry, cut)


def _pending(entry: Subject, cut: Fetch) -> tuple[Contribution, ...]:
    """Contributions in the cut that are counted, but wait in a round that is still open."""
    most = _by_rank(cut)
    if cut.version >= 0:
        return ()
    return tuple(sorted(p for parts in entry.pending.values() for p in parts if p.clock < most.get(p.rank, 0)))


def _missing(entry: Subject, cut: Fetch) -> tuple[int, ...]:
    """Whom a slice waits for to get to the cut."""
    if cut.version >= 0:
        return entry.missing(cut.version)
    return _lacking(entry, cut)


def _lacking(entry: Subject, cut: Fetch) -> tuple[int, ...]:
    """Whose contributions are still to come; at a barrier all of a worker's are in."""
    counted, resting = _counted(entry), entry.desk.resting
    return tuple(c.rank for c in cut.counts if counted.get(c.rank, 0) < c.clock and c.rank not in resting)


def _hopeless(entry: Subject, cut: Fetch) -> str:
    """Why a slice can never get to the cut; empty if it may."""
    advice = "Keys of one snapshot are pushed equally often by every worker; read the others with pull."
    if cut.version >= 0:
        if entry.progress.clocks or entry.version >= cut.version:
            return ""
        return (
            f"the snapshot at version {cut.version} has no {entry.key!r}: it is at version {entry.version}, and all "
            f"workers have left. {advice}"
        )
    for c in cut.counts:
        has = entry.left.get(c.rank, 0)
        if c.rank not in entry.progress.clocks and has < c.clock:
            return (
                f"the snapshot needs {c.clock} contributions of worker {c.rank} to {entry.key!r}, and it has left "
                f"after {has}. {advice}"
            )
    return ""


def _refuse(to: str, seq: int, error: str, text: str) -> Send:
    return Send(to, Refused(seq=seq, error=error, text=text))
