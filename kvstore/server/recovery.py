"""A server that was restored from a snapshot hears from every worker how far it is, and brings its clocks up to that.

What was counted after the snapshot and acknowledged is lost: no worker repeats it. The clocks of the workers are right,
so the server takes them over, and books the difference; nobody's clock ever goes back, and a repetition is known as
one (docs/decisions/0023-a-server-comes-back.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.errors import ConfigError
from shoal.kvstore.events import Action, Apply, Contribution
from shoal.kvstore.gates import mode_label
from shoal.kvstore.server.books import Ledger
from shoal.kvstore.server.entry import Entry
from shoal.kvstore.wire.messages import Stand, Stood

__all__ = ["Recovery", "check_survives"]


@dataclass(slots=True)
class _Loss:
    """Contributions of one worker that are lost: pushes, keys, and the first and the last clock."""

    pushes: int = 0
    first: int = -1
    last: int = 0
    clocks: int = 0
    keys: set[str] = field(default_factory=set)

    def add(self, key: str, counted: int, acknowledged: int) -> None:
        self.pushes += acknowledged - counted
        self.first = counted if self.first < 0 else min(self.first, counted)
        self.last, self.clocks = max(self.last, acknowledged), max(self.clocks, acknowledged - counted)
        self.keys.add(key)


class Recovery:
    """What a restored server waits for before it serves.

    Args:
        rank: of the server.
        entries: its slices, as they were in the snapshot.
    """

    def __init__(self, rank: int, entries: Mapping[int, Entry]) -> None:
        self._rank, self._entries = rank, entries
        self.stands: dict[int, Stand] = {}  # by worker
        self.senders: dict[int, str] = {}  # where they have said hello from
        self.statement = ""  # what was lost, once it is known
        floors = [e.progress.floor for e in entries.values()]
        self._clock = max(floors, default=0)

    def hear(self, sender: str, m: Stand) -> None:
        """A worker says how far it is."""
        self.senders[m.worker] = sender
        self.stands.setdefault(m.worker, m)

    def awaited(self, members: Mapping[int, int]) -> tuple[int, ...]:
        """Workers that have not said how far they are."""
        return tuple(r for r in members if r not in self.stands)

    def level(self, books: Mapping[int, Ledger], retired: set[tuple[int, int]], shared: int = 0) -> list[Action]:
        """Take over how far the workers are. ``retired`` gets the stores that they push to no more.

        Args:
            shared: number of the last change of the set of workers.
        """
        stands = {r: {s.slice: s for s in m.slices} for r, m in self.stands.items()}
        losses: dict[int, _Loss] = {}
        came = self._barriers(retired, shared)
        actions: list[Action] = []
        for slice_id, entry in self._entries.items():
            mine = {r: s[slice_id] for r, s in stands.items() if slice_id in s and r in entry.progress.clocks}
            for rank, stood in mine.items():
                counted = entry.counted(rank)
                if stood.clock > counted:
                    losses.setdefault(rank, _Loss()).add(entry.key, counted, stood.clock)
                    books[rank].lost += stood.clock - counted
            orphans = _bring_up(entry, mine, came.get(entry.store, {}))
            if orphans:
                actions.append(Apply(slice_id, orphans, entry.reduce, entry.version))
                for part in orphans:
                    books[part.rank].applied += 1
        self.statement = self._said(losses)
        return actions

    def _barriers(self, retired: set[tuple[int, int]], shared: int) -> dict[int, dict[int, tuple[int, int]]]:
        """By store and worker when all were last equally far, as the desk and as the worker knows it: a number that
        grows with barriers and with changes of the set of workers."""
        told: dict[int, dict[int, int]] = {}
        for rank, m in self.stands.items():
            for s in m.stores:
                told.setdefault(s.store, {})[rank] = s.barrier
                if s.retired:
                    retired.add((s.store, rank))
        came: dict[int, dict[int, tuple[int, int]]] = {}
        desks = {e.store: e.desk for e in self._entries.values()}
        for store, desk in desks.items():
            here = told.get(store, {})
            for rank, barrier in here.items():
                desk.barriers[rank] = max(barrier, desk.barriers.get(rank, 0))
            live = [r for r in self.stands if (store, r) not in retired]
            last = max((desk.barriers.get(r, 0) for r in live), default=0)
            all_there = all(desk.barriers.get(r, 0) == last for r in live)
            desk.resting.clear()
            desk.resting |= set() if all_there else {r for r in live if desk.barriers.get(r, 0) == last}
            desk.meeting = {r for r in live if self.stands[r].meets and self.stands[r].shared == shared}
            desk.resting |= desk.meeting
            came[store] = {
                r: (desk.barriers.get(r, 0) + shared, here.get(r, 0) + m.shared) for r, m in self.stands.items()
            }
        return came

    def _said(self, losses: Mapping[int, _Loss]) -> str:
        if not self._entries:
            return f"server {self._rank} was restarted; nothing had been given to it, and nothing is lost"
        begin = f"server {self._rank} was restarted from a snapshot at clock {self._clock}"
        if not losses:
            return f"{begin}; nothing is lost"
        each = []
        for rank, x in sorted(losses.items()):
            span = f"push {x.last}" if x.last == x.first + 1 else f"pushes {x.first + 1}-{x.last}"
            clocks = "1 clock" if x.clocks == 1 else f"{x.clocks} clocks"
            keys = "1 key" if len(x.keys) == 1 else f"{len(x.keys)} keys"
            each.append(f"{clocks} of worker {rank} ({span}) to {keys}, {x.pushes} in the ledger")
        return f"{begin}; lost are {'; '.join(each)}"


def check_survives(entry: Entry) -> None:
    """Raise ConfigError if a server with this slice cannot be restored: rounds of its gate are given out by a desk."""
    if entry.gate.asks:
        raise ConfigError(
            f"a server cannot come back under {mode_label(entry.gate.name)}: its rounds take fewer contributions than "
            "there are workers, and who has a place in an open one is not known from a snapshot. Use sync, ssp, essp, "
            "async or fedbuff."
        )


def _bring_up(
    entry: Entry, stood: Mapping[int, Stood], came: Mapping[int, tuple[int, int]]
) -> tuple[Contribution, ...]:
    """Set the clocks of a slice to what the workers have been acknowledged, and its version to what they have seen.

    Returns:
        Contributions to a round that was closed long ago; they are applied as they are.
    """
    progress, resting = entry.progress, entry.desk.resting
    known = {r: entry.counted(r) for r in progress.clocks}
    count = {r: max(n, stood[r].clock) if r in stood else n for r, n in known.items()}
    since = {r: _since(n, stood.get(r), came.get(r, (0, 0))) for r, n in count.items()}
    awake = {r: n for r, n in since.items() if r not in resting}
    version = max([entry.version, *(s.version for s in stood.values())])
    orphans: tuple[Contribution, ...] = ()
    if version > entry.version and entry.pending:
        waiting = tuple(sorted(p for parts in entry.pending.values() for p in parts))
        entry.pending = {} if entry.gate.rounds else {version: list(waiting)}
        orphans = waiting if entry.gate.rounds else ()
    entry.version, slowest = version, min(awake.values(), default=0)
    if entry.gate.rounds:
        here = entry.contributors()
        clocks = {r: version + (n - slowest if r in awake else r in here) for r, n in since.items()}
        floor = version
    else:
        base = max((progress.clocks[r] + count[r] - known[r] - awake[r] for r in awake), default=progress.floor)
        clocks = {r: base + (n if r in awake else slowest) for r, n in since.items()}
        floor = progress.floor
    progress.restore(clocks, {r: c - count[r] for r, c in clocks.items() if c != count[r]}, floor)
    return orphans


def _since(count: int, stood: Stood | None, came: tuple[int, int]) -> int:
    """How many of its contributions a worker has made since the last barrier that it came to."""
    barrier, told = came
    if barrier > told:
        return 0  # it does not know yet that it rests there
    return count - stood.mark if stood is not None and barrier else count
