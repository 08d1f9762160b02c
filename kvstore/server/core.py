"""The server as a state machine: ``handle(event, now) -> actions``.

It holds names, clocks, counts and shapes, never an array, a socket or a clock. Written policies
(docs/decisions/0003-rounds-and-departures.md):

- a push is counted once: its clock must be the number of contributions already counted from this worker to this slice;
  a smaller clock is a repetition and is answered as the first one was;
- a counted contribution stays, whatever becomes of its sender;
- a contribution that comes too late for its round (gate ``backup`` and the like), or is too old, is counted and
  dropped, and its sender is told;
- nobody waits for a worker that has left, or rests at a barrier, where all become equally far; when the last one does,
  open rounds close with what they have;
- a message of an older incarnation, or of a stranger, is refused and changes nothing.
"""

from typing import Any

from shoal.errors import ConfigError, lacking
from shoal.kvstore.events import (
    Accumulate,
    Action,
    Alter,
    Apply,
    Configure,
    Contribution,
    Create,
    Event,
    PeerGone,
    Received,
    Send,
    SendValue,
    Woke,
)
from shoal.kvstore.gates import Progress, altered_gate, parse_gate
from shoal.kvstore.server.books import Ledger, accounts, staleness_by_key
from shoal.kvstore.server.changes import Changes, of_gate, of_optimizer
from shoal.kvstore.server.desk import Desk
from shoal.kvstore.server.entry import Entry, Parked
from shoal.kvstore.server.membership import recall
from shoal.kvstore.server.moving import Moves
from shoal.kvstore.server.recovery import Recovery, check_survives
from shoal.kvstore.server.restating import restate
from shoal.kvstore.server.snapshots import Snapshots
from shoal.kvstore.wire.messages import (
    Ack,
    Change,
    Done,
    Fetch,
    Forget,
    Hello,
    HelloOk,
    Init,
    Pull,
    Push,
    Recall,
    Refused,
    Restate,
    Retire,
    Roster,
    SetOptimizer,
    Stand,
    Stats,
    StatsReply,
    Survey,
    Ticket,
    Value,
    Waiting,
)

__all__ = ["Entry", "Ledger", "Parked", "ServerCore"]


MAX_PARKED = 1 << 16
"""Readers of one slice that wait; honest workers have a few each."""

_ELSEWHERE: dict[type[Any], Any] = {Recall: recall, Restate: restate}


class ServerCore:
    """One shard of the store.

    Args:
        rank: of this server.
        incarnation: of this server.
        cluster: id of the run; a worker of another run is refused.
    """

    def __init__(self, rank: int, incarnation: int = 1, cluster: str = "") -> None:
        self.rank, self.incarnation, self.cluster = rank, incarnation, cluster
        self.members: dict[int, int] = {}  # rank -> incarnation of the workers that are waited for
        self.known: dict[int, int] = {}  # ... and of all that ever were
        self.entries: dict[int, Entry] = {}
        self.ledgers: dict[int, Ledger] = {}
        self.updates = self.strangers = 0
        self.partial = 0  # rounds of every worker that closed without one that rests
        self.desks: dict[int, Desk] = {}  # by store
        self.changes = Changes()
        self.snapshots = Snapshots(self.entries)
        self._now = 0.0  # when the message that is being handled came
        self.configured: dict[tuple[int, int], int] = {}
        self.recovery: Recovery | None = None  # while it waits to hear how far the workers are
        self.restored: list[str] = []  # what was lost
        self.retired: set[tuple[int, int]] = set()  # (store, rank) of those who push to a store no more
        self.unhoused: dict[int, dict[int, int]] = {}  # as `Desk.barriers`, by store, of stores with no slice here
        self.moves: Moves | None = None  # once slices have moved, or are to
        self.shared = 0  # number of the last change of the set of workers
        self._handlers: dict[type[Any], Any] = {
            Hello: self._hello,
            Init: self._init,
            Push: self._push,
            Pull: self._pull,
            SetOptimizer: self._set_optimizer,
            Retire: self._retire,
            Stats: self._stats,
            Stand: self._stand,
            Ticket: self._ticket,
            Survey: self._snapshot,
            Fetch: self._snapshot,
            Forget: self._snapshot,
            **dict.fromkeys(_ELSEWHERE, self._handled_elsewhere),
        }

    def roster(self, roster: Roster) -> list[Action]:
        """Take over who the workers are; before the first one every worker is a stranger."""
        for m in roster.members:
            if m.role == "worker" and not (self.recovery is not None and m.rank in self.known):
                self.members[m.rank] = self.known[m.rank] = m.incarnation
                self.ledgers.setdefault(m.rank, Ledger())
        return []

    def handle(self, event: Event, now: float) -> list[Action]:
        """What follows from ``event``. ``now`` is in seconds, on any clock that never goes back."""
        if isinstance(event, Received):
            handler = self._handlers.get(type(event.message))
            if handler is None:
                return [
                    _refuse(event.sender, 0, "RemoteProtocolError", f"a server takes no {type(event.message).__name__}")
                ]
            self._now = now
            if self.recovery is not None and not isinstance(event.message, Hello | Stand | Stats):
                return []  # it will be repeated
            if self.moves is not None:
                held = self.moves.intercept(event.sender, event.message)
                if held is not None:
                    return held
            answer: list[Action] = handler(event.sender, event.message)
            return answer
        if isinstance(event, PeerGone):
            return self._gone(event)
        return self.snapshots.expire(now) if isinstance(event, Woke) else []

    # --- joining and preparing ----------------------------------------------------------------------------------------

    def _hello(self, sender: str, m: Hello) -> list[Action]:
        if m.cluster != self.cluster:
            text = f"worker {m.worker} belongs to run {m.cluster!r}, this is server {self.rank} of run {self.cluster!r}"
            return [_refuse(sender, 0, "JoinRefusedError", text)]
        if m.incarnation > self.known.get(m.worker, m.incarnation):
            return []  # a successor of whom the scheduler has not told yet: it greets again
        stranger = self._stranger(sender, 0, m.worker, m.incarnation)
        asks = self.recovery is not None
        return stranger or [Send(sender, HelloOk(server=self.rank, incarnation=self.incarnation, asks=asks))]

    def recover(self) -> None:
        """This core comes from a snapshot: it serves when every worker has said how far it is.

        Raises:
            ConfigError: rounds of a store are of a kind that cannot be gone on with.
        """
        for entry in self.entries.values():
            check_survives(entry)
            entry.early = {}
        self.recovery = Recovery(self.rank, self.entries)

    def _stand(self, sender: str, m: Stand) -> list[Action]:
        stranger = self._stranger(sender, 0, m.worker, m.incarnation)
        if stranger or m.server != self.incarnation:
            return stranger
        if self.recovery is None:
            return [Send(sender, HelloOk(server=self.rank, incarnation=self.incarnation))]
        self.recovery.hear(sender, m)
        return self._recovered()

    def _recovered(self) -> list[Action]:
        """Go on where the workers are, if all of them have said where that is."""
        recovery = self.recovery
        if recovery is None or recovery.awaited(self.members):
            return []
        self.recovery = None
        actions = recovery.level(self.ledgers, self.retired, self.shared)
        self.updates += len(actions)
        self.restored.append(recovery.statement)
        for slice_id, entry in self.entries.items():
            gone = [r for r in entry.progress.clocks if (entry.store, r) in self.retired]
            for rank in gone:
                actions += self._drop(rank, {slice_id: entry})
            actions += [*self._alter(slice_id, entry), *self._fewer(slice_id, entry)]
        greeted = HelloOk(server=self.rank, incarnation=self.incarnation)
        return [*actions, *(Send(to, greeted) for to in recovery.senders.values())]

    def _init(self, sender: str, m: Init) -> list[Action]:
        entry = self.entries.get(m.slice)
        done = Send(sender, Done(seq=m.seq))
        if entry is not None:
            if (entry.dtype, entry.shape) != (m.value.dtype, m.value.shape):
                return [self._misfit(sender, m.seq, "init of", entry, m.value.dtype, m.value.shape)]
            return [done]
        try:
            gate = parse_gate(m.gate)
        except ConfigError as e:
            return [_refuse(sender, m.seq, "ConfigError", lacking(e))]
        if m.reduce not in ("mean", "sum"):
            return [_refuse(sender, m.seq, "ConfigError", f"unknown reduction {m.reduce!r}; known: mean, sum")]
        desk = self.desks.setdefault(m.store, Desk(gate, barriers=self.unhoused.pop(m.store, {})))
        progress = Progress(self._live(m.store), desk.resting if gate.slack is not None else frozenset())
        dtype, shape = m.value.dtype, m.value.shape
        entry = Entry(m.store, m.key, dtype, shape, gate, m.reduce, progress, desk, m.width)
        entry.changes = self.changes.of(m.store)
        self.entries[m.slice] = entry
        created = Create(m.slice, m.key, m.value, m.store, m.segments, m.width)
        return [created, *self._alter(m.slice, entry), done]

    def _set_optimizer(self, sender: str, m: SetOptimizer) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        if self.configured.get((m.worker, m.incarnation), -1) > m.seq:
            return [Send(sender, Done(seq=m.seq))]  # a later one is installed: this is an old repetition
        self.configured[m.worker, m.incarnation] = m.seq
        if not m.keys:
            waited_for = {c.number for e in self.entries.values() if e.store == m.store for c in e.changes}
            self.changes.replaced(m.store, waited_for)
        return [Configure(sender, m.seq, m.store, m.name, m.params, m.rule, m.lr_mult, m.wd_mult, m.keys)]

    def change(self, change: Change) -> list[Action]:
        """The scheduler has announced new settings of a store; slices take them when their version is the clock."""
        if self.changes.knows(change):
            return []  # by the snapshot that this core comes from
        self.changes.add(change)
        actions: list[Action] = []
        for slice_id, entry in self.entries.items():
            if entry.store == change.store:
                entry.changes.append(change)
                actions += self._alter(slice_id, entry) + self._release(slice_id, entry)
        return actions

    def _alter(self, slice_id: int, entry: Entry) -> list[Action]:
        """Take the changes whose clock has come, in the order of the log."""
        actions: list[Action] = []
        for c in [c for c in entry.changes if c.at_clock <= entry.version]:
            entry.changes.remove(c)
            settings, before = self.changes.in_force(c), entry.gate.slack
            entry.gate = altered_gate(entry.gate, of_gate(settings))
            if before is not None and entry.gate.slack != before:
                entry.widest = max(entry.widest, before)
            self.changes.took(c, entry.version)
            hyper = of_optimizer(settings)
            actions += [Alter(slice_id, c.number, hyper)] if hyper else []
        return actions

    # --- pushing ------------------------------------------------------------------------------------------------------

    def _push(self, sender: str, m: Push) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        book, entry = self.ledgers[m.worker], self.entries.get(m.slice)
        if m.seq in book.refusals:
            book.duplicate += 1
            return [book.refusals[m.seq]]
        if entry is not None and entry.early is not None and entry.is_early(m):
            entry.early[m.worker] = sender, m
            return []
        refusal = self._refuse_push(sender, m, entry)
        if refusal is not None or entry is None:
            return self._reject(book, m.seq, refusal)
        if m.clock < entry.counted(m.worker):
            book.duplicate += 1
            return self._answer(sender, m, entry)
        taken = self._take(sender, m, book, entry)
        if entry.early:
            taken = [*taken, *self._in_time(entry)]
        return [*taken, *self.snapshots.moved(m.slice, entry, taken)] if entry.branches else taken

    def _in_time(self, entry: Entry) -> list[Action]:
        """Take the pushes that were too early, and no longer are."""
        early, entry.early = entry.early, {}
        return [a for sender, m in (early or {}).values() for a in self._push(sender, m)]

    def _take(self, sender: str, m: Push, book: Ledger, entry: Entry) -> list[Action]:
        """Count a contribution, and keep it for its round unless it is too late for that."""
        before = entry.version, entry.progress.floor
        round_ = max(m.round, entry.version) if m.quota else entry.version
        staleness = max(0, round_ - m.pulled)
        entry.progress.advance(m.worker)
        entry.desk.active(m.worker, m.seq)
        if entry.gate.drops(staleness, m.round < entry.version):
            book.dropped += 1
            entry.late[m.worker] = m.clock
            moved: list[Action] = []
        else:
            book.staleness[staleness] += 1
            count, total, most = entry.staleness
            entry.staleness = [count + 1, total + staleness, max(most, staleness)]
            entry.pending.setdefault(round_, []).append(Contribution(m.worker, m.clock, staleness))
            if m.quota:
                entry.quotas[round_] = m.quota
            if m.holds or entry.gate.waits:
                entry.holders[m.worker] = round_
            closed = self._close(m.slice, entry)
            waits = m.want and (entry.gate.rounds or m.holds or entry.gate.waits)  # for the round to close
            brief = bool(closed) or waits
            moved = [Accumulate(m.slice, m.worker, m.clock, m.value, brief, m.rows), *closed]
        moved += self._answer(sender, m, entry)
        if (entry.parked or entry.watchers) and before != (entry.version, entry.progress.floor):
            moved += [*self._release(m.slice, entry), *self._show(m.slice, entry)]
        return moved

    def reject(self, sender: str, m: Push, error: str, text: str) -> list[Action]:
        """Refuse a push that the shell could not decode."""
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        book = self.ledgers.get(m.worker)
        if stranger or book is None:
            return stranger
        if m.seq in book.refusals:
            book.duplicate += 1
            return [book.refusals[m.seq]]
        return self._reject(book, m.seq, _refuse(sender, m.seq, error, text))

    @staticmethod
    def _reject(book: Ledger, seq: int, refusal: Send | None) -> list[Action]:
        return [] if refusal is None else [book.reject(seq, refusal)]

    def disown(self, slice_id: int, part: Contribution) -> None:
        """The shell could not apply a contribution that has been counted, and has changed nothing because of it."""
        self.ledgers[part.rank].disown(part.staleness)
        count, total, most = self.entries[slice_id].staleness
        self.entries[slice_id].staleness = [count - 1, total - part.staleness, most]

    def _refuse_push(self, sender: str, m: Push, entry: Entry | None) -> Send | None:
        if entry is None:
            text = f"worker {m.worker} pushes slice {m.slice} to server {self.rank} before anybody initialised it"
            return _refuse(sender, m.seq, "KeyNotInitializedError", text)
        if m.value.dtype != entry.dtype or not entry.fits(m.value, m.rows):
            return self._misfit(sender, m.seq, f"worker {m.worker} pushes", entry, m.value.dtype, m.value.shape)
        clock = entry.counted(m.worker)
        if m.worker not in entry.progress.clocks and m.clock >= clock:
            return _refuse(
                sender, m.seq, "StaleWorkerError", f"worker {m.worker} has left; it cannot push {entry.key!r}"
            )
        if m.clock > clock:
            text = (
                f"worker {m.worker} pushes {entry.key!r} at clock {m.clock}, but only {clock} of its pushes have come"
            )
            return _refuse(sender, m.seq, "LocalProtocolError", text)
        if m.clock == clock and not m.quota and not entry.may_push(m.worker, clock):
            waits = entry.missing(clock + entry.progress.skipped.get(m.worker, 0))
            text = (
                f"worker {m.worker} pushes {entry.key!r} at clock {clock}, ahead of workers {waits} ({entry.gate.name})"
            )
            return _refuse(sender, m.seq, "LocalProtocolError", text)
        return None

    def _answer(self, sender: str, m: Push, entry: Entry) -> list[Action]:
        """Acknowledge; a push that wants the value gets it as soon as it may read it."""
        taken = entry.late.get(m.worker) != m.clock
        parked: list[Action] = []
        if m.want and m.worker in entry.progress.clocks:
            reader = Parked(sender, m.worker, m.clock + 1, True, None, m.reply)
            if entry.may_read(m.worker, reader.clock):
                return [self._value(m.slice, entry, m.seq, reader, taken)]
            parked = self._park(m.seq, reader, entry)
        ack = Send(sender, Ack(seq=m.seq, version=entry.version, floor=entry.floor(m.worker), taken=taken))
        return [ack, *parked]

    def _close(self, slice_id: int, entry: Entry) -> list[Action]:
        """Apply what waits, in the order of ranks and clocks, if it is enough or if nobody is left to add to it."""
        actions: list[Action] = []
        while entry.complete() or entry.passed_over():
            if entry.version not in entry.pending:  # whoever had a place in these rounds left without contributing
                entry.version = min(entry.pending, default=entry.version + 1)
                continue
            parts = tuple(sorted(entry.pending.pop(entry.version)))
            entry.quotas.pop(entry.version, None)
            entry.version += 1
            self.updates += 1
            self.partial += len(parts) < len(entry.progress.clocks) and entry.gate.rounds
            for part in parts:
                self.ledgers[part.rank].applied += 1
            actions.append(Apply(slice_id, parts, entry.reduce, entry.version))
            if entry.changes:
                actions += self._alter(slice_id, entry)
            if not entry.pending and entry.early is None:
                break
        return actions

    def _live(self, store: int) -> tuple[int, ...]:
        return tuple(r for r in self.members if (store, r) not in self.retired)

    def _ticket(self, sender: str, m: Ticket) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        desk = self.desks.get(m.store)
        if desk is None:
            text = f"worker {m.worker} asks server {self.rank} for a round of store {m.store}, which has no keys here"
            return [_refuse(sender, m.seq, "KeyNotInitializedError", text)]
        desk.active(m.worker, m.seq)
        return desk.ask(sender, m, self._live(m.store))

    def _recount(self, stores: list[int]) -> list[Action]:
        """Workers have left these stores, or rest: rounds may be full, and a barrier complete."""
        return [a for s in stores if s in self.desks for a in self.desks[s].recount(self._live(s))]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _pull(self, sender: str, m: Pull) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        entry = self.entries.get(m.slice)
        if entry is None:
            text = f"worker {m.worker} pulls slice {m.slice} from server {self.rank} before anybody initialised it"
            return [_refuse(sender, m.seq, "KeyNotInitializedError", text)]
        reader = Parked(sender, m.worker, m.clock, m.payload, m.rows, m.reply)
        if m.watch and entry.gate.eager and m.worker in entry.progress.clocks:
            entry.watchers[sender] = (m.worker, m.seq, m.reply)
        if m.worker not in entry.progress.clocks or entry.may_read(m.worker, m.clock):
            return [self._value(m.slice, entry, m.seq, reader)]
        return self._park(m.seq, reader, entry)

    def _park(self, seq: int, reader: Parked, entry: Entry) -> list[Action]:
        """Keep the reader; one that asks again is told whom it waits for."""
        again = (reader.sender, seq) in entry.parked
        if not again and len(entry.parked) >= MAX_PARKED:
            text = f"{MAX_PARKED} readers wait for {entry.key!r} on server {self.rank}; no more are kept"
            return [_refuse(reader.sender, seq, "RemoteProtocolError", text)]
        entry.parked[reader.sender, seq] = reader
        missing = entry.missing(reader.clock + entry.progress.skipped.get(reader.worker, 0))
        return [Send(reader.sender, Waiting(seq=seq, missing=missing))] if again else []

    def _release(self, slice_id: int, entry: Entry) -> list[Action]:
        """Answer every parked reader that may read now."""
        if not entry.parked:
            return []
        ready = [k for k, r in entry.parked.items() if entry.may_read(r.worker, r.clock)]
        return [self._value(slice_id, entry, seq, entry.parked.pop((sender, seq))) for sender, seq in ready]

    def _value(self, slice_id: int, entry: Entry, seq: int, reader: Parked, taken: bool = True) -> Action:
        if entry.parked:
            entry.parked.pop((reader.sender, seq), None)
        version, floor, rank = entry.version, entry.floor(reader.worker), reader.worker
        if not reader.payload:
            return Send(reader.sender, Value(seq=seq, version=version, floor=floor, value=None))
        awaited = rank in entry.progress.clocks and rank not in entry.desk.resting
        stable = entry.gate.rounds and awaited  # the next round waits for this reader
        to, rows, reply = reader.sender, reader.rows, reader.reply
        return SendValue(to, reader.worker, seq, slice_id, version, floor, stable, taken, rows, reply)

    def _snapshot(self, sender: str, m: Survey | Fetch | Forget) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        match m:
            case Survey():
                return self.snapshots.survey(sender, m, self._now)
            case Fetch():
                return self.snapshots.fetch(sender, m, self._now)
        return self.snapshots.forget(sender, m)

    def _handled_elsewhere(self, sender: str, m: Recall | Restate) -> list[Action]:
        return self._stranger(sender, m.seq, m.worker, m.incarnation) or _ELSEWHERE[type(m)](self, sender, m)

    @staticmethod
    def _show(slice_id: int, entry: Entry) -> list[Action]:
        """Send the value to those who watch it, once for each new floor."""
        if not entry.watchers or entry.progress.floor <= entry.shown:
            return []
        entry.shown = entry.progress.floor
        return [
            SendValue(to, rank, seq, slice_id, entry.version, entry.floor(rank), False, reply=reply)
            for to, (rank, seq, reply) in entry.watchers.items()
        ]

    # --- departures, refusals, accounts -------------------------------------------------------------------------------

    def _retire(self, sender: str, m: Retire) -> list[Action]:
        stranger = self._stranger(sender, m.seq, m.worker, m.incarnation)
        if stranger:
            return stranger
        mine = {i: e for i, e in self.entries.items() if e.store == m.store}
        if m.barrier or m.meeting:
            return [*self._rest(m, mine), Send(sender, Done(seq=m.seq))]
        self.retired.add((m.store, m.worker))
        left = self._drop(m.worker, mine) + self._recount([m.store])
        return [*left, Send(sender, Done(seq=m.seq))]

    def _rest(self, m: Retire, mine: dict[int, Entry]) -> list[Action]:
        """Worker ``m.worker`` is at a barrier: nobody waits for it until all are there, or it pushes again."""
        desk = self.desks.get(m.store)
        if desk is None:
            came = self.unhoused.setdefault(m.store, {})
            came[m.worker] = max(m.barrier, came.get(m.worker, 0))
        if desk is None or m.worker not in self.members or 0 < m.meeting <= self.shared:
            return []
        if not (desk.meet(m.worker, m.seq) if m.meeting else desk.rest(m.worker, m.seq, m.barrier)):
            return []
        actions: list[Action] = []
        for slice_id, entry in mine.items():
            entry.marks[m.worker] = entry.counted(m.worker) if m.barrier else entry.marks.get(m.worker, 0)
            entry.progress.settle()
            actions += self._fewer(slice_id, entry)
        return actions + self._recount([m.store])

    def _gone(self, event: PeerGone) -> list[Action]:
        if self.members.get(event.rank) != event.incarnation:
            return []
        del self.members[event.rank]
        if self.recovery is not None:
            left = self._drop(event.rank, self.entries)
            return left + self._recovered()
        left = self._drop(event.rank, self.entries) + self._recount(list(self.desks))
        return left + self.snapshots.gone(event.rank)

    def _drop(self, rank: int, entries: dict[int, Entry]) -> list[Action]:
        """Wait for worker ``rank`` no more in these slices; what it waits for itself it must ask again."""
        actions: list[Action] = []
        for slice_id, entry in entries.items():
            if rank in entry.progress.clocks:
                entry.left[rank] = entry.counted(rank)
            entry.progress.drop(rank)
            entry.parked = {k: r for k, r in entry.parked.items() if r.worker != rank}
            entry.watchers = {k: w for k, w in entry.watchers.items() if w[0] != rank}
            actions += self._fewer(slice_id, entry)
        return actions

    def _fewer(self, slice_id: int, entry: Entry) -> list[Action]:
        """Fewer workers than before are waited for in this slice."""
        actions = [*self._close(slice_id, entry), *self._release(slice_id, entry), *self._show(slice_id, entry)]
        if entry.early:
            actions += self._in_time(entry)
        return actions + self.snapshots.moved(slice_id, entry, actions) if entry.branches else actions

    def _stranger(self, sender: str, seq: int, worker: int, incarnation: int) -> list[Action]:
        known = self.known.get(worker)
        if known == incarnation:
            return []
        if known is None:
            self.strangers += 1
            return [_refuse(sender, seq, "JoinRefusedError", f"server {self.rank} knows no worker {worker}")]
        self.strangers += 1
        text = f"worker {worker} has incarnation {known}; a message of incarnation {incarnation} is not taken"
        return [_refuse(sender, seq, "StaleWorkerError", text)]

    def _misfit(self, sender: str, seq: int, who: str, entry: Entry, dtype: str, shape: tuple[int, ...]) -> Send:
        error = "DTypeError" if dtype != entry.dtype else "ShapeError"
        text = (
            f"{who} {entry.key!r} with a slice of {dtype} {shape}; it was initialised with "
            f"{entry.dtype} {entry.shape}. All workers must build the same model: compare its layer sizes and dtypes."
        )
        return _refuse(sender, seq, error, text)

    def _stats(self, sender: str, m: Stats) -> list[Action]:
        return [Send(sender, StatsReply(seq=m.seq, data=self.report()))]

    def report(self) -> dict[str, Any]:
        """Counters as plain data: ledger and staleness histogram by worker, updates, slices."""
        counts = {"updates": self.updates, "slices": len(self.entries), "strangers": self.strangers}
        counts["partial"] = self.partial
        by_key = staleness_by_key((e.key, e.staleness) for e in self.entries.values())
        return {
            **accounts(self.ledgers),
            "staleness_by_key": by_key,
            **counts,
            "changes": self.changes.report(),
            "restored": self.restored,
        }

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every event."""
        for entry in self.entries.values():
            clocks = entry.progress.clocks
            assert all(c >= entry.progress.floor for c in clocks.values())
            if entry.gate.rounds and clocks:
                assert entry.version == entry.progress.floor, (entry.version, entry.progress.floor)
                here, lost = entry.contributors(), entry.early is not None
                assert all(c == entry.version + (r in here) or (lost and c > entry.version) for r, c in clocks.items())
            if entry.gate.waits:
                for parts in entry.pending.values():
                    assert len(parts) == len({p.rank for p in parts}), "a worker contributes once to a round"
            assert not entry.complete()
            assert all(r >= entry.version for r in entry.pending)
            if entry.gate.slack is not None and clocks:
                most = max(entry.gate.slack, entry.widest) + 1 + (entry.early is not None)  # a lost push under way
                assert max(clocks.values()) - entry.progress.floor <= most
            assert not any(entry.may_read(r.worker, r.clock) for r in entry.parked.values())


def _refuse(to: str, seq: int, error: str, text: str) -> Send:
    return Send(to, Refused(seq=seq, error=error, text=text))
