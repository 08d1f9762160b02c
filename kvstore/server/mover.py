"""How slices go from server to server: one at a time from each, in one piece, and only between two that agree.

The source asks whether the target would take the slice, which costs nobody anything; then it freezes it, sends it, and
when the target has it (with snapshots: on its disk) tells the scheduler, whose log says who has the slice. Until then
the source has it, and goes on with it should the target say no, or the plan be another by then.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from shoal.errors import CheckpointError
from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.eventlog import event
from shoal.kvstore.events import Action
from shoal.kvstore.server.arrivals import Arrivals, take_in
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.freeze import freeze_slice
from shoal.kvstore.server.image import draw, draw_store
from shoal.kvstore.server.moving import Moves, differs, position
from shoal.kvstore.server.table import Cell, Table
from shoal.kvstore.wire.messages import Handed, HandOver, Have, Propose, Seat, Shift
from shoal.kvstore.wire.schema import Message

__all__ = ["Mover", "Neighbours"]

log = logging.getLogger("shoal.server")

PAUSES_S = (0.02, 1.0)
"""First and longest time between two proposals of a slice that the target would not take yet."""

ASK_S = 0.2
"""Time before a proposal that was not answered is made again."""

REPEAT_S = (1.0, 8.0)
"""First and longest time before what was not answered is said again."""

RESERVED_S = 1.0
"""How long a server that would take a slice waits for it before it looks at another one."""

WARN_S = 10.0
"""A slice that has waited so long to leave is worth a word."""

MAX_STATE = 8 << 20
"""Characters of what is told of a slice beside its arrays."""


class Neighbours(Protocol):
    """The other processes, as a server reaches them; all on the loop's thread."""

    def reach(self, rank: int) -> str:
        """The transport's name for server ``rank``, connected; "" if there is none."""
        ...

    def incarnation(self, rank: int) -> int:
        """Of server ``rank``; 0 if there is none."""
        ...

    def tell(self, message: Handed) -> None:
        """Say this to the scheduler, again and again until `hush`."""
        ...

    def hush(self, slice_id: int) -> None:
        """The scheduler has answered what was said about the slice."""
        ...


@dataclass(slots=True)
class _Going:
    """The slice that leaves."""

    shift: Shift
    due: float
    since: float
    stage: str = "proposed"  # then "sent", then "had"
    pause_s: float = PAUSES_S[0]
    attempt: int = 0
    why: str = ""
    warned: bool = False
    sent: HandOver | None = None


@dataclass(slots=True)
class _Coming:
    """A slice that is staged: from whom, and the answer that said so, or will."""

    source: int
    incarnation: int
    answer: Have

    def is_of(self, m: Propose | HandOver) -> bool:
        """Whether this has come with the message."""
        return (self.source, self.incarnation, self.answer.attempt) == (m.server, m.incarnation, m.attempt)


@dataclass(slots=True)
class Mover:
    """The moves from and to one server.

    Args:
        core, table: the server's.
        neighbours: the other processes.
        send: sends a message to a peer.
        arrivals: keeps slices that have come on the disk; None without snapshots.
        owed: errors that are to be told about slices: see `ServerShell`.
        calls: the server's functions.
    """

    core: ServerCore
    table: Table
    neighbours: Neighbours
    send: Callable[[str, Message], None]
    arrivals: Arrivals | None
    owed: dict[tuple[int, int], tuple[str, str]]
    calls: Calls
    forget: Callable[[int, Cell], None] = lambda slice_id, cell: None  # what else was kept of one that has left
    leaving: list[Shift] = field(default_factory=list)
    expected: dict[int, Shift] = field(default_factory=dict)  # by slice
    coming: dict[int, _Coming] = field(default_factory=dict)
    going: _Going | None = None
    deferred: list[Callable[[], None]] = field(default_factory=list)
    counts: dict[str, float] = field(
        default_factory=lambda: {"out": 0, "in": 0, "bytes": 0, "longest_pause_s": 0.0, "put_off": 0}
    )
    _reserved: tuple[int, float] = (-1, 0.0)  # for this slice, until then
    _attempts: int = 0
    _now: float = 0.0
    _frozen_at: float = 0.0

    @property
    def moves(self) -> Moves:
        """Of the core."""
        if self.core.moves is None:
            self.core.moves = Moves(self.core)
        return self.core.moves

    @property
    def busy(self) -> bool:
        """Whether a slice is changing hands: news of the scheduler waits."""
        return self.core.moves is not None and self.core.moves.busy

    # --- what the scheduler says --------------------------------------------------------------------------------------

    def plan(self, moves: Iterable[Shift]) -> None:
        """What is to move from now on, all of it."""
        mine = tuple(moves)
        self.leaving = [m for m in mine if m.source == self.core.rank]
        self.expected = {m.slice: m for m in mine if m.target == self.core.rank}
        if mine:
            _ = self.moves  # from now on messages may be withheld
        if self.going is not None and self.going.shift not in self.leaving:
            self._stays()
        for slice_id in [] if self.core.moves is None else [i for i in self.moves.staged if i not in self.expected]:
            self._drop(slice_id)

    def seat(self, seat: Seat) -> list[Action]:
        """By the scheduler's log a server has a slice; what the core says to it."""
        known = self.moves.seats.get(seat.slice, (0, 0))[0]
        if seat.epoch <= known:
            return []
        arrives = seat.slice in self.moves.staged and seat.server == self.core.rank
        actions = self.moves.seat(seat.slice, seat.server, seat.epoch)
        self.leaving = [m for m in self.leaving if m.slice != seat.slice]
        self.expected.pop(seat.slice, None)
        self.coming.pop(seat.slice, None)
        if arrives:
            self.counts["in"] += 1
        if seat.server != self.core.rank:
            self._left(seat.slice)
        if self.going is not None and self.going.shift.slice == seat.slice:
            self.neighbours.hush(seat.slice)
            self._note_pause()
            self.counts["out"] += 1
            self.going = None
        return actions

    def _left(self, slice_id: int) -> None:
        """The slice is another server's: what is here of it goes, after a snapshot that is being taken has it."""
        cell = self.table.cells.get(slice_id)
        if self.arrivals is not None:
            self.arrivals.forget(slice_id)
        if cell is None:
            return
        self.table.touch(cell)
        del self.table.cells[slice_id]
        for key in [k for k in self.owed if k[0] == slice_id]:
            del self.owed[key]
        self.forget(slice_id, cell)

    # --- a slice leaves -----------------------------------------------------------------------------------------------

    def turn(self, now: float) -> float:
        """Do what is due; when to be called again if nothing happens before."""
        self._now = now
        for peer, answer in self.arrivals.written() if self.arrivals is not None else ():
            self.send(peer, answer)
        if self.going is None:
            if not self.leaving:
                return now + 1.0
            self.going = _Going(self.leaving[0], now, now)
        going = self.going
        if now >= going.due:
            if going.stage == "proposed":
                self._propose(going)
            elif going.stage == "sent" and going.sent is not None:
                self._again(going, going.sent)
            else:
                going.due = now + REPEAT_S[1]
        return going.due

    def _propose(self, going: _Going) -> None:
        going.due = self._now + ASK_S
        peer = self.neighbours.reach(going.shift.target)
        entry = self.core.entries.get(going.shift.slice)
        why = "" if peer else f"server {going.shift.target} is not known here yet"
        why = why or self.moves.unready(going.shift.slice)
        if why or self._now < self._reserved[1]:
            self._put_off(going, why)
        elif entry is None:  # it has no value yet: who gives it one will be told where
            self._freeze(going)
            self._had(going)
        else:
            self._attempts += 1
            going.attempt = self._attempts
            told = json.dumps(self._position(entry.store), separators=(",", ":"))
            proposal = Propose(
                cluster=self.core.cluster,
                server=self.core.rank,
                incarnation=self.core.incarnation,
                slice=going.shift.slice,
                attempt=going.attempt,
                position=told,
            )
            self.send(peer, proposal)

    def _position(self, store: int) -> dict[str, Any]:
        return {**position(self.core, store), "store": store, "update": draw_store(self.table, store)}

    def _put_off(self, going: _Going, why: str) -> None:
        """The slice stays for a while."""
        going.stage, going.sent, going.why = "proposed", None, why or going.why
        going.due = self._now + going.pause_s * (1.0 + self.core.rank / 8)  # two that are in each other's way part
        going.pause_s = min(2 * going.pause_s, PAUSES_S[1])
        self.counts["put_off"] += 1
        if self._now - going.since >= WARN_S and not going.warned:
            going.warned = True
            text = f"slice {going.shift.slice} waits to move to server {going.shift.target}: {going.why}"
            log.warning("%s", text, extra=event("move waits", going.why, slice=going.shift.slice))

    def _freeze(self, going: _Going) -> list[Action]:
        self._frozen_at = perf_counter()
        return self.moves.freeze(going.shift.slice)

    def _send_slice(self, going: _Going, peer: str) -> list[Action]:
        slice_id = going.shift.slice
        actions = self._freeze(going)
        cell = self.table.cells[slice_id]
        image = draw(cell, dict(cell.parts))
        owed = [[rank, *self.owed[i, rank]] for i, rank in self.owed if i == slice_id]
        state = {
            **freeze_slice(self.core, slice_id),
            "image": image.meta,
            "owed": owed,
            "calls": self.calls.of(slice_id),
            "update": draw_store(self.table, self.core.entries[slice_id].store),
        }
        store = self.core.entries[slice_id].store
        self._attempts += 1
        going.stage, going.attempt, going.pause_s = "sent", self._attempts, REPEAT_S[0]
        going.sent = HandOver(
            cluster=self.core.cluster,
            server=self.core.rank,
            incarnation=self.core.incarnation,
            slice=slice_id,
            attempt=going.attempt,
            position=json.dumps(self._position(store), separators=(",", ":")),
            state=json.dumps(state, separators=(",", ":")),
            labels=tuple(image.arrays),
            arrays=tuple(map(as_payload, image.arrays.values())),
        )
        self.counts["bytes"] += sum(a.nbytes for a in image.arrays.values())
        self.send(peer, going.sent)
        going.due = self._now + going.pause_s
        return actions

    def _again(self, going: _Going, message: HandOver) -> None:
        """Perhaps it was lost, or the target has been restarted."""
        peer = self.neighbours.reach(going.shift.target)
        if peer:
            self.send(peer, message)
        going.pause_s = min(2 * going.pause_s, REPEAT_S[1])
        going.due = self._now + going.pause_s

    def heard(self, m: Have, now: float) -> list[Action]:
        """The target has answered; what the core says to it."""
        self._now, going = now, self.going
        if going is None or (m.slice, m.attempt) != (going.shift.slice, going.attempt):
            return []
        if going.stage == "proposed" and m.trial:
            peer = self.neighbours.reach(going.shift.target)
            why = m.why if not m.taken else self.moves.unready(m.slice)
            if why or not peer or now < self._reserved[1]:
                self._put_off(going, why)
                return []
            return self._send_slice(going, peer)
        if going.stage == "sent" and not m.trial:
            if m.taken:
                self._had(going)
            else:
                self._stays()
                self.going = going
                self._put_off(going, m.why)
        return []

    def _had(self, going: _Going) -> None:
        going.stage, going.sent, going.due = "had", None, self._now + REPEAT_S[1]
        self.neighbours.tell(Handed(slice=going.shift.slice, target=going.shift.target))

    def _stays(self) -> None:
        """The slice that was leaving does not."""
        if self.going is not None:
            self.neighbours.hush(self.going.shift.slice)
            if self.going.shift.slice in self.moves.frozen:
                self._note_pause()
            self.moves.thaw(self.going.shift.slice)
        self.going = None

    def _note_pause(self) -> None:
        if self._frozen_at:
            pause_s, self._frozen_at = perf_counter() - self._frozen_at, 0.0
            self.counts["longest_pause_s"] = max(self.counts["longest_pause_s"], pause_s)

    # --- a slice comes ------------------------------------------------------------------------------------------------

    def asked(self, peer: str, m: Propose | HandOver, now: float) -> None:
        """Another server would like this one to take a slice, or gives it."""
        self._now = now
        trial = isinstance(m, Propose)
        known = self.coming.get(m.slice)
        if not self._is_of_run(m):
            return
        if known is not None and known.is_of(m):  # it comes again
            self._answer(peer, known.answer, m)
            return
        if m.slice in self.moves.staged:
            self._drop(m.slice)  # its sender has gone on with it since, or this process has been restarted
        try:
            why = self._unfit(m)
            if not why and isinstance(m, HandOver):
                self._take(m)
        except (CheckpointError, ValueError, KeyError, TypeError, RecursionError) as e:
            log.warning("slice %d of server %d is not taken: %s", m.slice, m.server, e)
            why = f"it cannot be read: {e}"
        answer = Have(slice=m.slice, attempt=m.attempt, trial=trial, taken=not why, why=why[:500])
        self._reserved = (m.slice, now + RESERVED_S) if trial and not why else (-1, 0.0)
        if trial or why:
            self.send(peer, answer)
        else:
            self.coming[m.slice] = _Coming(m.server, m.incarnation, answer)
            self._answer(peer, answer, m)

    def _answer(self, peer: str, answer: Have, m: Propose | HandOver) -> None:
        """Say so as soon as it cannot be lost."""
        if self.arrivals is None or not isinstance(m, HandOver):
            self.send(peer, answer)
        else:
            arrays: dict[str, Array] = {n: as_array(a) for n, a in zip(m.labels, m.arrays, strict=True)}
            self.arrivals.keep(m.slice, m.state, arrays, self.core.cluster, (peer, answer))

    def _is_of_run(self, m: Propose | HandOver) -> bool:
        """Whether the sender is a server of the run, as far as is known here, and the scheduler wants this move."""
        wanted = self.expected.get(m.slice)
        known = wanted is not None and wanted.source == m.server
        same = m.cluster == self.core.cluster and m.incarnation == self.neighbours.incarnation(m.server)
        return known and same and self.core.recovery is None and bool(self.core.known)

    def _unfit(self, m: Propose | HandOver) -> str:
        """Why the slice cannot be taken just now; empty if it can."""
        if self.moves.busy or (self._now < self._reserved[1] and self._reserved[0] != m.slice):
            return "another slice is changing hands there"
        if m.slice in self.core.entries:
            return "it is here"
        theirs = json.loads(m.position)
        store = theirs["store"]
        mine = draw_store(self.table, store)
        if mine is not None and mine != theirs["update"]:
            return "the two servers do not have the same optimizer for new keys"
        return differs(self.core, store, theirs)

    def _take(self, m: HandOver) -> None:
        """Stage the slice.

        Raises:
            CheckpointError: it cannot be understood; nothing is changed.
        """
        if len(m.state) > MAX_STATE or len(m.labels) != len(m.arrays) or len(set(m.labels)) != len(m.labels):
            raise CheckpointError("its parts do not fit together")
        state = json.loads(m.state)
        arrays: dict[str, Array] = {n: as_array(a).copy() for n, a in zip(m.labels, m.arrays, strict=True)}
        staged = take_in(self.core, self.table, self.calls, m.slice, state, arrays)
        for rank, error, text in state["owed"]:
            self.owed[m.slice, int(rank)] = str(error), str(text)
        self.moves.stage(m.slice, staged)

    def _drop(self, slice_id: int) -> None:
        """A slice that was staged does not come after all."""
        self.moves.unstage(slice_id)
        self.coming.pop(slice_id, None)
        self._left(slice_id)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def released(self) -> tuple[list[tuple[str, Message]], list[Callable[[], None]]]:
        """Messages and news that have waited while a slice changed hands, if none does any more."""
        if self.core.moves is None or self.core.moves.busy:
            return [], []
        news, self.deferred = self.deferred, []
        return self.core.moves.released(), news

    def report(self) -> dict[str, float]:
        """Slices that have come and gone, bytes that were sent, and the longest time that one was with nobody."""
        return dict(self.counts)
