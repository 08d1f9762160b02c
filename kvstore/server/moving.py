"""What a server core does about slices that come and go.

A slice that leaves is *frozen* between two messages: from then on nothing is answered about it. One that comes is
*staged*: it is here, and waits for the scheduler's word. While either lasts, which is milliseconds, what concerns a
whole store (barriers, optimizers) waits too, so that both servers have heard the same when the slice changes hands.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from shoal.kvstore.events import Action, Send
from shoal.kvstore.server.desk import Desk
from shoal.kvstore.wire.messages import (
    Elsewhere,
    Fetch,
    Init,
    Pull,
    Push,
    Recall,
    Restate,
    Retire,
    SetOptimizer,
    Survey,
)
from shoal.kvstore.wire.schema import Message

__all__ = ["Moves", "differs", "position"]

MAX_WITHHELD = 1 << 14
"""Messages that wait while a slice changes hands; what exceeds them is asked for again."""


class _Entry(Protocol):
    """See `shoal.kvstore.server.entry.Entry`."""

    store: int
    desk: Desk
    parked: dict[tuple[str, int], Any]
    watchers: dict[str, tuple[int, int, str]]
    early: dict[int, Any] | None


class _Core(Protocol):
    """See `shoal.kvstore.server.core.ServerCore`."""

    rank: int
    members: dict[int, int]
    known: dict[int, int]
    shared: int
    desks: dict[int, Desk]
    changes: Any
    retired: set[tuple[int, int]]
    unhoused: dict[int, dict[int, int]]
    snapshots: Any
    recovery: Any

    @property
    def entries(self) -> dict[int, Any]: ...


class Moves:
    """The slices that have left, leave, or come.

    Args:
        core: the server's.
    """

    def __init__(self, core: _Core) -> None:
        self._core = core
        self.seats: dict[int, tuple[int, int]] = {}  # by slice: placement epoch, and the server that has it since
        self.frozen: set[int] = set()
        self.staged: dict[int, Any] = {}  # entries that are not this server's yet
        self._withheld: dict[tuple[str, int, str], tuple[str, Message]] = {}

    @property
    def busy(self) -> bool:
        """Whether a slice is changing hands."""
        return bool(self.frozen or self.staged)

    # --- messages -----------------------------------------------------------------------------------------------------

    def intercept(self, sender: str, m: Message) -> list[Action] | None:
        """What follows from a message about a slice that is not here, or not now; None if the core is to see it."""
        if isinstance(m, Push | Pull | Init | Fetch | Restate):
            return self._about(sender, m.seq, (m.slice,), m)
        if isinstance(m, Survey):
            return self._about(sender, m.seq, m.slices, m)
        if self.busy and isinstance(m, SetOptimizer | Retire | Recall):
            return self._withhold(sender, m.seq, m)
        return None

    def obstructed(self, sender: str, seq: int, slices: Iterable[int], m: Message) -> list[Action] | None:
        """As `intercept`, for a request about several slices."""
        return self._about(sender, seq, tuple(slices), m)

    def _about(self, sender: str, seq: int, slices: tuple[int, ...], m: Message) -> list[Action] | None:
        if self.busy and any(i in self.frozen or i in self.staged for i in slices):
            return self._withhold(sender, seq, m)
        for i in slices:
            if i not in self._core.entries and self.seats.get(i, (0, self._core.rank))[1] != self._core.rank:
                return [self._elsewhere(sender, seq, i)]
        return None

    def _withhold(self, sender: str, seq: int, m: Message) -> list[Action]:
        key = sender, seq, type(m).__name__
        if key in self._withheld or len(self._withheld) < MAX_WITHHELD:
            self._withheld[key] = sender, m
        return []

    def _elsewhere(self, to: str, seq: int, slice_id: int) -> Send:
        epoch, server = self.seats[slice_id]
        return Send(to, Elsewhere(seq=seq, slice=slice_id, server=server, epoch=epoch))

    def released(self) -> list[tuple[str, Message]]:
        """What was withheld, once nothing changes hands any more; to be handled as if it came now."""
        if self.busy or not self._withheld:
            return []
        held, self._withheld = list(self._withheld.values()), {}
        return held

    # --- a slice changes hands ----------------------------------------------------------------------------------------

    def unready(self, slice_id: int) -> str:
        """Why a slice cannot leave just now; empty if it can."""
        if self._core.recovery is not None:
            return "this server was restarted, and has not heard yet how far the workers are"
        entry: _Entry | None = self._core.entries.get(slice_id)
        if entry is not None and entry.early:
            return "pushes that were lost when the server was restarted are still to come"
        return "another slice is coming" if self.staged else ""

    def freeze(self, slice_id: int) -> list[Action]:
        """From now on nothing is answered about the slice; snapshots that it is part of are given up."""
        self.frozen.add(slice_id)
        gone: list[Action] = self._core.snapshots.give_up(slice_id)
        return gone

    def thaw(self, slice_id: int) -> None:
        """The slice stays, and is served again."""
        self.frozen.discard(slice_id)

    def stage(self, slice_id: int, entry: Any) -> None:
        """The slice is here, and waits for the scheduler's word."""
        self.staged[slice_id] = entry

    def unstage(self, slice_id: int) -> None:
        """It is not to come after all."""
        self.staged.pop(slice_id, None)

    def seat(self, slice_id: int, server: int, epoch: int) -> list[Action]:
        """By the scheduler's log ``server`` has the slice since ``epoch``: serve it, or say no more but where it is."""
        if epoch <= self.seats.get(slice_id, (0, 0))[0]:
            return []
        self.seats[slice_id] = epoch, server
        entry = self.staged.pop(slice_id, None)
        self.frozen.discard(slice_id)
        if server == self._core.rank:
            if entry is not None:
                entry.early = {} if self._core.recovery is not None else entry.early
                self._core.entries[slice_id] = entry
            return []
        left: _Entry | None = self._core.entries.pop(slice_id, None)
        if left is None:
            return []
        asked = [*left.parked, *((to, seq) for to, (_, seq, _) in left.watchers.items())]
        return [self._elsewhere(to, seq, slice_id) for to, seq in dict.fromkeys(asked)]


def position(core: _Core, store: int) -> dict[str, Any]:
    """What a server has heard that concerns all slices of a store, as plain data."""
    desk = core.desks.get(store)
    barriers = core.unhoused.get(store, {}) if desk is None else desk.barriers
    return {
        "members": sorted([rank, incarnation] for rank, incarnation in core.members.items()),
        "known": sorted([rank, incarnation] for rank, incarnation in core.known.items()),
        "shared": core.shared,
        "retired": sorted(rank for s, rank in core.retired if s == store),
        "barriers": sorted([rank, n] for rank, n in barriers.items()),
        "changes": core.changes.numbers(store),
    }


def differs(core: _Core, store: int, theirs: Mapping[str, Any]) -> str:
    """What keeps a slice of a server that has heard ``theirs`` from being taken in here; empty if nothing does.

    A server that has no slice of the store yet takes over what the other has heard, as far as it has not heard more.
    """
    mine = position(core, store)
    if any(mine[name] != theirs[name] for name in ("members", "known", "shared")):
        return "the two servers have not heard of the same workers"
    if mine["changes"] != theirs["changes"]:
        return "the two servers have not heard of the same changes of settings"
    here, there = ({int(rank): int(n) for rank, n in p["barriers"]} for p in (mine, theirs))
    live = [rank for rank in core.members if rank not in theirs["retired"]]
    same = all(n <= there.get(rank, 0) for rank, n in here.items())
    if store in core.desks:  # barriers that are over need not be known: nothing of them is left
        over = all(len({came.get(rank, 0) for rank in live}) <= 1 for came in (here, there))
        same = mine["retired"] == theirs["retired"] and (here == there or (same and over))
    else:
        same = same and set(mine["retired"]) <= set(theirs["retired"])
    return "" if same else "the two servers have not heard of the same barriers"
