"""The server's shell: a `Driver` that feeds the core, carries out its actions and counts the traffic."""

import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import RemoteProtocolError, ShoalError, lacking
from shoal.kvstore import codecs, dumps, rules
from shoal.kvstore.arrays import Array, as_array, as_payload, dtype_named
from shoal.kvstore.dumps import Recent
from shoal.kvstore.events import (
    Accumulate,
    Action,
    Alter,
    Apply,
    BeginBranch,
    Configure,
    Contribution,
    Create,
    CutBranch,
    DropBranch,
    PeerGone,
    Received,
    Reinstate,
    SealBranch,
    Send,
    SendBranch,
    SendValue,
    Woke,
)
from shoal.kvstore.functions import remote_text
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.server import membership
from shoal.kvstore.server.branches import Branches
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.copies import Copies
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.door import Door
from shoal.kvstore.server.freeze import freeze
from shoal.kvstore.server.mover import Mover, Neighbours
from shoal.kvstore.server.rowchecks import check_rows
from shoal.kvstore.server.saver import Saver, Saving
from shoal.kvstore.server.statefiles import StateFiles
from shoal.kvstore.server.table import Cell, Table
from shoal.kvstore.wire.loop import IDLE_S
from shoal.kvstore.wire.messages import (
    Ack,
    Arrived,
    Call,
    Change,
    Changed,
    Done,
    HandOver,
    Have,
    Hello,
    HelloOk,
    Init,
    Left,
    Moved,
    Offer,
    Propose,
    Pull,
    Push,
    Rebalance,
    Refused,
    Replaced,
    Roster,
    Seat,
    Shared,
    Stats,
    StatsReply,
    Value,
)
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.shm import is_mapped
from shoal.kvstore.wire.transport import Transport
from shoal.ops import optim

if TYPE_CHECKING:
    from shoal.kvstore.server.forwarding import Forwarding

__all__ = ["ServerShell"]

log = logging.getLogger("shoal.server")


class ServerShell:
    """One shard of the store behind a `Transport` that listens.

    Before `roster` has said who the workers are, messages are dropped; workers repeat them.

    Args:
        saving: where its snapshots are kept, if they are.
    """

    def __init__(self, transport: Transport, saving: Saving | None = None) -> None:
        self.transport, self.table = transport, Table(transport.sharing.arena.array)
        self._out: Callable[..., None] = transport.send  # what is said to workers
        self.forwarding: Forwarding | None = None  # to a replica
        self.replication: Callable[[], dict[str, Any]] | None = None  # what there is to say of replicas
        self.muted = False  # it is a replica: what it handles has been answered by its primary
        self.heard = 0  # generation of the last news that was handled
        self._branches = Branches(self.table)
        self._copies = Copies(transport.sharing)
        self.core: ServerCore | None = None
        self.bytes_in = self.bytes_out = 0
        self._failure = ""
        self.door = Door()
        self.recent: Recent | None = None  # what happened last, where the core is checked
        self._told = 0  # statements about what was lost
        self._codecs = codecs.Codecs()
        self._replies = codecs.Replies(self._codecs)
        self.decode_s = 0.0
        self.calls = Calls(self.table)
        self._saving = saving
        self._saver: Saver | None = None
        self._asked: Message | None = None  # what is being answered
        self._owed: dict[tuple[int, int], tuple[str, str]] = {}  # by slice and rank, an error that is to be told
        self.neighbours: Neighbours | None = None  # without them no slice moves
        self._mover: Mover | None = None  # once slices are to move, or have moved
        self._left_behind: list[Array] = []  # values of slices that have left, which workers may still look at
        self._unfit: dict[str, str] = {}  # by number of the change, why a slice could not take it
        self._does: dict[type[Any], Callable[[Any], None]] = {
            Send: self._send,
            SendValue: self._send_value,
            Accumulate: self._accumulate,
            Apply: self._apply,
            Create: self._create,
            Configure: self._configure,
            Reinstate: self._reinstate,
            Alter: self._alter,
            **dict.fromkeys((BeginBranch, CutBranch, SealBranch, DropBranch), self._branches.do),
            SendBranch: self._send_branch,
        }

    def watch(self, kind: type[Any], watched: Callable[[Callable[[Any], None]], Callable[[Any], None]]) -> None:
        """From now on ``watched(what carries them out)`` carries actions of this kind out: for traces."""
        self._does[kind] = watched(self._does[kind])

    def start(self, rank: int, incarnation: int, cluster: str) -> None:
        """The scheduler has taken this server in."""
        self.core = ServerCore(rank, incarnation, cluster)
        saver = None if self.muted else self._save(rank)
        if saver is not None and incarnation > 1:
            try:
                self.core = saver.restore(rank, incarnation, cluster)
            except Exception:
                self.fail(f"its snapshots in {saver.directory}")

    def _save(self, rank: int) -> Saver | None:
        """Take snapshots, if there is a place for them."""
        if self._saving is not None:
            files = StateFiles(os.path.join(self._saving.directory, f"server-{rank}"))
            self._saver = Saver(files, self.table, self.calls, self._saving.every, self.transport.wake)
        return self._saver

    def news(self, m: Message) -> None:
        """The scheduler has announced who is there, who has left, or new settings; each piece once, in order."""
        if self.forwarding is not None:
            self.forwarding.enter("", m, 0.0)
        self.heard = max(self.heard, getattr(m, "generation", 0))
        if isinstance(m, Roster | Rebalance | Moved) or not self._deferred(lambda: self._heed(m)):
            self._heed(m)

    def _heed(self, m: Message) -> None:
        match m:
            case Roster():
                self.roster(m)
            case Left(role="worker", rank=rank, incarnation=incarnation):
                self.left(rank, incarnation)
            case Changed(change=change):
                self.change(change)
            case Rebalance() | Moved():
                self.placing(m)
            case Replaced(member=member) if member.role == "worker":
                for key in [k for k in self._owed if k[1] == member.rank]:
                    del self._owed[key]
                self._among_workers(membership.replaced, member.rank, member.incarnation)
            case Arrived(member=member) if member.role == "worker":
                self._among_workers(membership.arrived, member.rank, member.incarnation)
            case Shared():
                self._among_workers(membership.shared, m)

    def _among_workers(self, change: Callable[..., list[Action]], *about: Any) -> None:
        """A worker has been replaced, or has come, or the set of them has changed."""
        if self.core is not None and not self._failure:
            self._carry_out(change(self.core, *about))

    def roster(self, roster: Roster) -> None:
        """The cluster is complete: from now on its workers are served."""
        if self.core is not None:
            self._carry_out(self.core.roster(roster))
        for seat in roster.seats:
            self._seat(seat)

    def left(self, rank: int, incarnation: int) -> None:
        """Worker ``rank`` is done: nobody waits for it any more."""
        if self.core is not None:
            self._carry_out(self.core.handle(PeerGone(rank, incarnation), 0.0))

    def change(self, change: Change) -> None:
        """A store has new settings."""
        if self.core is not None and not self._failure:
            self._carry_out(self.core.change(change))

    def _deferred(self, news: Callable[[], None]) -> bool:
        """Whether news wait, because a slice is changing hands between two servers that have heard the same."""
        if self._mover is None or not self._mover.busy:
            return False
        self._mover.deferred.append(news)
        return True

    def placing(self, m: Rebalance | Moved) -> None:
        """News of where slices are to be, or are."""
        mover = self._moving()
        if mover is None or self._failure:
            return
        if isinstance(m, Rebalance):
            mover.plan(m.moves)
        else:
            self._seat(Seat(slice=m.slice, server=m.server, epoch=m.epoch))

    def _seat(self, seat: Seat) -> None:
        mover = self._moving()
        if mover is not None:
            self._carry_out(mover.seat(seat))

    def _moving(self) -> Mover | None:
        if self._mover is None and self.core is not None and self.neighbours is not None:
            arrivals = None if self._saver is None else self._saver.arrivals
            send = self.transport.send
            made = Mover(
                self.core, self.table, self.neighbours, send, arrivals, self._owed, self.calls, self._forget_slice
            )
            self._mover = made
        return self._mover

    def _forget_slice(self, slice_id: int, cell: Cell) -> None:
        """A slice has left; workers of this host may look at its value until they push again."""
        if self.transport.sharing.peers():
            self._left_behind.append(cell.value)

    def _heard(self, core: ServerCore, peer: str, m: Propose | HandOver | Have, now: float) -> list[Action]:
        """What another server says; it says nothing before there is a plan, but for one that has just been made."""
        mover = self._mover
        if isinstance(m, Have) and mover is not None:
            return mover.heard(m, now)
        known = 0 if self.neighbours is None or isinstance(m, Have) else self.neighbours.incarnation(m.server)
        if isinstance(m, Have) or (m.cluster, m.incarnation) != (core.cluster, known):
            core.strangers += 1
            self.door.turn_away(peer, f"a {type(m).__name__} of a server that is not known")
        elif mover is not None:
            mover.asked(peer, m, now)
        return []

    def _move(self, mover: Mover, now: float) -> float:
        """Get on with moves, and with what has waited for them; when to be called again."""
        due = mover.turn(now)
        messages, news = mover.released()
        for each in news:
            each()
        for peer, message in messages:
            self.receive(peer, message, now)
        return due

    def receive(self, peer: str, message: Message, now: float) -> None:
        if self.core is None or not self.core.known or self._failure:
            return
        if not self.door.knows(peer, message) and not self._let_in(self.core, peer, message):
            return
        self._asked = message
        if self.forwarding is not None and not self.forwarding.takes(self.core, peer, message, now):
            return
        try:
            actions = self._handle(self.core, peer, message, now)
        except Exception:
            self.fail(f"{message!r:.200} of {peer}")
        else:
            self._carry_out(actions)

    def _let_in(self, core: ServerCore, peer: str, m: Message) -> bool:
        """Whether a message is handled that is not of a worker that has greeted on this connection."""
        why = self.door.objection(peer, m)
        if not why:
            return True
        core.strangers += 1
        if self.door.turn_away(peer, why) or isinstance(m, Hello):
            text = f"server {core.rank} refuses this: {why}"
            self.transport.send(peer, Refused(seq=getattr(m, "seq", 0), error="JoinRefusedError", text=text))
        return False

    def _handle(self, core: ServerCore, peer: str, message: Message, now: float) -> list[Action]:
        if not isinstance(message, (Push, Pull)):  # a union would be made for every message
            if isinstance(message, Call) and core.known.get(message.worker) == message.incarnation:
                return self._call(core, peer, message)
            if isinstance(message, Stats) and self.replication is not None:
                data = {**core.report(), "replication": self.replication()}
                return [Send(peer, StatsReply(seq=message.seq, data=data))]
            if isinstance(message, Propose | HandOver | Have):
                return self._heard(core, peer, message, now)
            return core.handle(Received(peer, message), now)
        if isinstance(message, Push):
            self.bytes_in += message.value.data.nbytes + sum([p.data.nbytes for p in message.more])
        entry = core.entries.get(message.slice)
        if entry is not None:
            try:
                if message.rows is not None:
                    check_rows(entry, message.rows, isinstance(message, Push))
                if isinstance(message, Push) and message.codec:
                    message = self._decoded(core, message)
            except Exception as e:  # nothing has been changed
                error, text = remote_text(e, f"{type(message).__name__.lower()} of worker {message.worker}")
                if isinstance(message, Push):
                    return core.reject(peer, message, error, text)
                return [Send(peer, Refused(seq=message.seq, error=error, text=text))]
        return core.handle(Received(peer, message), now)

    def _call(self, core: ServerCore, peer: str, m: Call) -> list[Action]:
        if core.moves is not None:
            elsewhere = core.moves.obstructed(peer, m.seq, [p.slice for p in m.parts], m)
            if elsewhere is not None:
                return elsewhere
        answer = self.calls.answer(core, m)
        if self.calls.wrote:
            self._replies.forget()
        if self.calls.wrote and self._saver is not None:
            self._saver.hold(peer, answer)
            return []
        return [Send(peer, answer)]

    def _decoded(self, core: ServerCore, m: Push) -> Push:
        """The plain push that a compressed one stands for."""
        entry = core.entries[m.slice]
        began = perf_counter()
        dense = np.empty(entry.shape, dtype_named(entry.dtype))
        self._codecs[m.codec].decode([as_array(p) for p in (m.value, *m.more)], dense.reshape(-1))
        self.decode_s += perf_counter() - began
        return dataclasses.replace(m, codec="", value=as_payload(dense), more=())

    def wake(self, now: float) -> float:
        if self.core is not None and self.core.snapshots.open and not self._failure:
            self.woke(now)
        saver, due = self._saver, now + IDLE_S
        if self._mover is not None and not self._failure:
            due = self._move(self._mover, now)
        if saver is None or self.core is None or self._failure:
            return due
        if self.forwarding is not None and self.forwarding.cutting:
            return due
        for to, message in saver.turn(self.core, now):
            self._out(to, message)
        return min(due, now + IDLE_S, saver.wake_at(now))

    def woke(self, now: float) -> None:
        """Time has passed."""
        actions = self.core.handle(Woke(), now) if self.core is not None else []
        if actions and self.forwarding is not None:
            self.forwarding.enter("", None, now)
        self._carry_out(actions)

    # --- replicas -----------------------------------------------------------------------------------------------------

    def mute(self) -> None:
        """Handle what a primary handles, and say nothing."""
        self.muted, self._out = True, _unsaid
        self._does |= {SendValue: self._look, SendBranch: _unsaid}

    def speak(self) -> None:
        """From now on this is the primary."""
        self.muted, self._out = False, self.transport.send
        self._does |= {SendValue: self._send_value, SendBranch: self._send_branch}
        if self.core is not None:
            self._save(self.core.rank)

    def say_through(self, forwarding: "Forwarding | None") -> None:
        """What is said to workers waits until the replica has what it rests on; None: there is no replica."""
        self.forwarding = forwarding
        self._out = self.transport.send if forwarding is None else forwarding.send

    def freeze(self) -> list[Any]:
        """What this shell knows beside the core and the arrays, as plain data."""
        owed = [[*key, *error] for key, error in self._owed.items()]
        return [self.door.freeze(), owed, dict(self._unfit), self._told, [self.bytes_in, self.bytes_out]]

    def thaw(self, data: list[Any]) -> None:
        """Know what was frozen."""
        greeted, owed, unfit, self._told, (self.bytes_in, self.bytes_out) = data
        self.door.thaw(greeted)
        self._unfit = dict(unfit)
        self._owed = {(slice_id, rank): (error, text) for slice_id, rank, error, text in owed}

    def _look(self, a: SendValue) -> None:
        """What reading a value changes."""
        if not self._owed or self._due(a.to, a.slice, a.rank, a.seq) is None:
            self.table.was_read(a.slice, a.rank)

    def looks_only(self, m: Pull) -> bool:
        """Whether reading a slice changes nothing here, if the core answers at once."""
        cell = self.table.cells.get(m.slice)
        return not self._owed and (cell is None or cell.update is None or cell.update.rule is None)

    @property
    def quiet(self) -> bool:
        """Whether everything that this server knows can be told now: nothing is restored, cut or branched."""
        core = self.core
        if core is None or core.recovery is not None or core.snapshots.open or self._failure:
            return False
        idle = self._saver is None or self._saver.idle
        return idle and not any(e.early for e in core.entries.values())

    def close(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._saver is not None:
            self._saver.close()

    def failure(self) -> str:
        """Why this server cannot go on; empty while it can."""
        return self._failure

    def report(self) -> dict[str, Any]:
        """Counters as plain data, for the final report and for `Stats`."""
        data = self.core.report() if self.core is not None else {}
        malformed = sum(self.transport.malformed.values())
        traffic: dict[str, Any] = {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "malformed": malformed}
        traffic |= {"changes_refused": dict(self._unfit), "strangers_by_peer": dict(self.door.refused.most_common(50))}
        if self._saver is not None:
            traffic["state"] = dict(self._saver.counts)
        if self.replication is not None:
            traffic["replication"] = self.replication()
        if self._mover is not None:
            traffic["moves"] = self._mover.report()
        return {**data, **traffic, "decode_s": self.decode_s, "encode_s": self._replies.encode_s}

    def _carry_out(self, actions: list[Action]) -> None:
        does = self._does
        try:
            for action in actions:
                does[type(action)](action)
        except Exception:  # state is no longer what the core believes: stop, with the reason
            self.fail(f"{action!r:.200}")

    def fail(self, what: str) -> None:
        """This server cannot go on, because of the error that is being handled, if any."""
        told = traceback.format_exc() if sys.exc_info()[0] else ""
        self._failure = f"server failed on {what}{self._dump(what)}\n{told}"
        log.error("%s", self._failure)

    def _dump(self, what: str) -> str:
        """Write down what the core knows; where, for the error's text."""
        core = self.core
        if core is None:
            return ""
        who = {"rank": core.rank, "incarnation": core.incarnation, "cluster": core.cluster}
        return dumps.write(who, core, what, self.recent, freeze(core))

    def _send(self, a: Send) -> None:
        message = a.message
        if isinstance(message, HelloOk):
            if isinstance(self._asked, Hello):
                self.door.greeted(a.to, self._asked)
            self._offer(a.to)
            if self.core is not None and self.core.restored[self._told :]:
                self._told = len(self.core.restored)
                log.warning("%s", self.core.restored[-1])
        elif self._saver is not None and isinstance(message, Done) and isinstance(self._asked, Init):
            self._saver.hold(a.to, message)
            return
        if self._owed and isinstance(message, Ack) and isinstance(self._asked, Push):
            message = self._due(a.to, self._asked.slice, self._asked.worker, message.seq) or message
        self._out(a.to, message)

    def _accumulate(self, a: Accumulate) -> None:
        if a.rows is None:
            part: Array | RowSparse = as_array(a.value)
            mapped = (not a.brief or self.muted) and is_mapped(a.value.data)
        else:
            part = self.table.row_sparse(a.slice, as_array(a.rows), as_array(a.value))
            mapped = (not a.brief or self.muted) and is_mapped(a.value.data, a.rows.data)
        self.table.accumulate(a.slice, a.rank, part, a.clock, not mapped)

    def _apply(self, a: Apply) -> None:
        for failed in self.table.apply(a.slice, a.parts, a.reduce, a.version):
            self._disown(a.slice, *failed)

    def _create(self, a: Create) -> None:
        self.table.create(a.slice, a.key, as_array(a.value), a.store, a.segments, a.width)

    def _disown(self, slice_id: int, part: Contribution, error: Exception) -> None:
        """The rule failed on a contribution: it is not applied, and its worker is told with the next answer."""
        if self.core is None:
            return
        self.core.disown(slice_id, part)
        what = f"the rule failed on push {part.clock} of {self.core.entries[slice_id].key!r} by worker {part.rank}"
        self._owed[slice_id, part.rank] = remote_text(error, what)
        log.warning("%s: %s: %s", what, type(error).__name__, error)

    def _due(self, to: str, slice_id: int, rank: int, seq: int) -> Refused | None:
        """What a worker is told instead of an answer about a slice, also if it repeats its push."""
        error, text = self._owed.pop((slice_id, rank), ("", ""))
        if not error or self.core is None:
            return None
        refused = Refused(seq=seq, error=error, text=text, counted=True)
        self.core.ledgers[rank].remember(seq, Send(to, refused))
        return refused

    def _send_value(self, a: SendValue) -> None:
        refusal = self._due(a.to, a.slice, a.rank, a.seq) if self._owed else None
        if refusal is not None:
            self._out(a.to, refusal)
            return
        self.table.was_read(a.slice, a.rank)
        if a.reply and a.rows is None and self._send_encoded(a):
            return
        payload = self.table.payload(a.slice, None if a.rows is None else as_array(a.rows))
        self.bytes_out += payload.data.nbytes
        stable = a.stable
        if not stable and a.rows is None and self.core is not None and not self.core.entries[a.slice].gate.eager:
            copy = self._copies.make(a.to, a.slice, a.seq, payload)
            stable, payload = copy is not None, copy or payload
        value = Value(seq=a.seq, version=a.version, floor=a.floor, taken=a.taken, value=payload)
        self._out(a.to, value, stable=stable)

    def _send_branch(self, a: SendBranch) -> None:
        answer, nbytes = self._branches.answer(a)
        self.bytes_out += nbytes
        self._out(a.to, answer)

    def _send_encoded(self, a: SendValue) -> bool:
        """Whether the value could be sent encoded."""
        flat = as_array(self.table.payload(a.slice)).reshape(-1)
        parts = self._replies.encode(a.reply, flat, a.slice, a.version)
        if parts is None:
            return False
        first, *more = [as_payload(p) for p in parts]
        self.bytes_out += sum(p.nbytes for p in parts)
        value = Value(
            seq=a.seq,
            version=a.version,
            floor=a.floor,
            taken=a.taken,
            codec=a.reply,
            value=first,
            more=tuple(more),
        )
        self._out(a.to, value, stable=True)
        return True

    def _offer(self, to: str) -> None:
        """Should the worker be on this host, it may share memory with this server."""
        if self.muted:
            return
        self._copies.forget()
        name, token = self.transport.sharing.offer(to)
        if name:
            self._out(to, Offer(name=name, token=token))

    def _alter(self, a: Alter) -> None:
        try:
            self.table.alter(a.slice, a.number, a.settings)
        except ShoalError as e:  # the store has had another optimizer since the change was asked for
            if str(a.number) not in self._unfit:
                log.warning("change %d cannot be taken: %s", a.number, e)
            self._unfit.setdefault(str(a.number), str(e))

    def _configure(self, a: Configure) -> None:
        try:
            params = a.params
            if not isinstance(params, dict):
                raise RemoteProtocolError(f"optimizer {a.name!r}: parameters must be a mapping, got {params!r:.60}")
            rule = optim.from_spec(optim.OptimizerSpec(a.name, params))
            self.table.configure(rule, a.lr_mult, a.wd_mult, a.store, rules.parse(a.rule), a.keys)
        except ShoalError as e:
            self._out(a.to, Refused(seq=a.seq, error=type(e).__name__, text=f"set_optimizer: {lacking(e)}"))
        else:
            self._confirm(a.to, a.seq)

    def _reinstate(self, a: Reinstate) -> None:
        try:
            self.table.reinstate(a.slice, a.updates, dict(zip(a.names, map(as_array, a.states), strict=True)))
        except ShoalError as e:
            self._out(a.to, Refused(seq=a.seq, error=type(e).__name__, text=f"load_states: {e}"))
        else:
            self._confirm(a.to, a.seq)

    def _confirm(self, to: str, seq: int) -> None:
        """What was asked for is done: say so, when it cannot be lost any more."""
        say = self._out if self._saver is None else self._saver.hold
        say(to, Done(seq=seq))


def _unsaid(*_: object, **__: object) -> None:
    """A replica's answer."""
