"""A server core as plain data, and back: what is kept with the values, so that repetitions are known after a restart.

Everything that was acknowledged is in it: clocks, contributions that wait for their round, accounts, refusals,
places in rounds, barriers, changes of settings. What peers repeat by themselves is not: who waits to read, to be given
a place, or for a snapshot of its own.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from shoal.errors import CheckpointError, RemoteProtocolError
from shoal.kvstore.events import Contribution, Send
from shoal.kvstore.gates import Gate, Progress
from shoal.kvstore.server.books import Ledger
from shoal.kvstore.server.changes import Changes
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.desk import Desk
from shoal.kvstore.server.entry import Entry
from shoal.kvstore.server.moving import Moves, position
from shoal.kvstore.wire.messages import Change, Granted, Refused
from shoal.kvstore.wire.schema import listed

__all__ = ["freeze", "freeze_slice", "thaw", "thaw_slice"]

_COUNTS = ("applied", "rejected", "dropped", "duplicate", "lost")
_write_change, _read_change = listed(Change)
_write_granted, _read_granted = listed(Granted)


def freeze(core: ServerCore) -> dict[str, Any]:
    """The core as JSON-like data that shares nothing with it."""
    return {
        "rank": core.rank,
        "cluster": core.cluster,
        "members": _pairs(core.members),
        "known": _pairs(core.known),
        "counts": [core.updates, core.strangers, core.partial],
        "ledgers": [[rank, _freeze_ledger(book)] for rank, book in core.ledgers.items()],
        "desks": [[store, _freeze_desk(desk)] for store, desk in core.desks.items()],
        "changes": core.changes.freeze(_write_change),
        "restored": list(core.restored),
        "configured": [[*key, seq] for key, seq in core.configured.items()],
        "retired": sorted(map(list, core.retired)),
        "shared": core.shared,
        "entries": [[slice_id, _freeze_entry(e)] for slice_id, e in core.entries.items()],
        "unhoused": [[store, _pairs(came)] for store, came in core.unhoused.items()],
        **_freeze_moves(core),
    }


def _freeze_moves(core: ServerCore) -> dict[str, Any]:
    """Slices that have moved, and those that are here but not this server's yet."""
    if core.moves is None:
        return {}
    staged = [[i, _freeze_entry(e)] for i, e in core.moves.staged.items()]
    return {"seats": [[i, *seat] for i, seat in core.moves.seats.items()], "staged": staged}


def thaw(data: Mapping[str, Any], incarnation: int) -> ServerCore:
    """The core that was frozen, as another incarnation.

    Raises:
        CheckpointError: this is not what `freeze` made.
    """
    try:
        core = ServerCore(data["rank"], incarnation, data["cluster"])
        core.members, core.known = _ints(data["members"]), _ints(data["known"])
        core.updates, core.strangers, core.partial = data["counts"]
        core.ledgers = {rank: _thaw_ledger(book) for rank, book in data["ledgers"]}
        core.desks = {store: _thaw_desk(desk) for store, desk in data["desks"]}
        core.changes = Changes.thaw(data["changes"], _read_change)
        core.restored = [str(text) for text in data["restored"]]
        core.configured = {(worker, inc): seq for worker, inc, seq in data["configured"]}
        core.retired = {(store, rank) for store, rank in data["retired"]}
        core.shared = data["shared"]
        for slice_id, entry in data["entries"]:
            core.entries[slice_id] = _thaw_entry(entry, core.desks)
        core.unhoused = {store: _ints(came) for store, came in data.get("unhoused", ())}
        if "seats" in data:
            core.moves = Moves(core)
            core.moves.seats = {i: (epoch, server) for i, epoch, server in data["seats"]}
            core.moves.staged = {i: _thaw_entry(entry, core.desks) for i, entry in data["staged"]}
    except (KeyError, TypeError, ValueError, IndexError, RemoteProtocolError) as e:
        raise CheckpointError(f"the state of a server cannot be read: {type(e).__name__}: {e}") from e
    return core


def freeze_slice(core: ServerCore, slice_id: int) -> dict[str, Any]:
    """A slice with what the server that takes it in must know besides, as JSON-like data."""
    entry = core.entries[slice_id]
    refusals = [[rank, _freeze_ledger(book)[1]] for rank, book in core.ledgers.items() if book.refusals]
    return {
        "entry": _freeze_entry(entry),
        "desk": _freeze_desk(entry.desk),
        "position": position(core, entry.store),
        "over": core.changes.over(),
        "refusals": refusals,
    }


def thaw_slice(core: ServerCore, data: Mapping[str, Any]) -> Entry:
    """The slice that was frozen, for ``core``, which has heard the same; its desk is the one that is here, if one is.

    Raises:
        CheckpointError: this is not what `freeze_slice` made.
    """
    try:
        store, came = data["entry"]["store"], _thaw_desk(data["desk"])
        desk = core.desks.get(store)
        if desk is None:
            desk, came.queue = came, {}
            core.unhoused.pop(store, None)
            core.retired |= {(store, rank) for rank in data["position"]["retired"]}
            core.changes.over(data["over"])
        entry = _thaw_entry(data["entry"], {store: desk})
        core.desks[store] = desk
        for rank, seq in came.latest.items():
            if rank not in came.resting:
                desk.active(rank, seq)
        for rank, refusals in data["refusals"]:
            for seq, send in _thaw_ledger([[0] * len(_COUNTS), refusals, []]).refusals.items():
                if rank in core.ledgers:
                    core.ledgers[rank].refusals.setdefault(seq, send)
    except (KeyError, TypeError, ValueError, IndexError, RemoteProtocolError) as e:
        raise CheckpointError(f"a slice that has come cannot be read: {type(e).__name__}: {e}") from e
    return entry


def _pairs(values: Mapping[int, Any]) -> list[list[Any]]:
    return [[k, v] for k, v in values.items()]


def _ints(pairs: Any) -> dict[int, int]:
    return {int(k): int(v) for k, v in pairs}


# --- accounts ---------------------------------------------------------------------------------------------------------


def _freeze_ledger(book: Ledger) -> list[Any]:
    refusals = []
    for seq, send in book.refusals.items():
        if isinstance(send.message, Refused):
            m = send.message
            refusals.append([seq, send.to, m.seq, m.error, m.text, m.counted])
    return [[getattr(book, name) for name in _COUNTS], refusals, _pairs(book.staleness)]


def _thaw_ledger(data: Any) -> Ledger:
    counts, refusals, staleness = data
    book = Ledger(**dict(zip(_COUNTS, counts, strict=True)), staleness=Counter(_ints(staleness)))
    for seq, to, of, error, text, counted in refusals:
        book.refusals[seq] = Send(to, Refused(seq=of, error=error, text=text, counted=counted))
    return book


# --- rounds -----------------------------------------------------------------------------------------------------------


def _freeze_desk(desk: Desk) -> dict[str, Any]:
    return {
        "gate": list(astuple(desk.gate)),
        "round": desk.round,
        "takers": list(desk.takers),
        "quota": desk.quota,
        "given": [[rank, index, _write_granted(granted)] for rank, (index, granted) in desk.given.items()],
        "resting": sorted(desk.resting),
        "latest": _pairs(desk.latest),
        "barriers": _pairs(desk.barriers),
        "meeting": sorted(desk.meeting),
    }


def _thaw_desk(data: Mapping[str, Any]) -> Desk:
    return Desk(
        gate=Gate(*data["gate"]),
        round=data["round"],
        takers=list(data["takers"]),
        quota=data["quota"],
        given={rank: (index, _read_granted(granted)) for rank, index, granted in data["given"]},
        resting=set(data["resting"]),
        latest=_ints(data["latest"]),
        barriers=_ints(data["barriers"]),
        meeting=set(data["meeting"]),
    )


def _freeze_entry(e: Entry) -> dict[str, Any]:
    return {
        "store": e.store,
        "key": e.key,
        "dtype": e.dtype,
        "shape": list(e.shape),
        "gate": list(astuple(e.gate)),
        "reduce": e.reduce,
        "width": e.width,
        "version": e.version,
        "clocks": _pairs(e.progress.clocks),
        "skipped": _pairs(e.progress.skipped),
        "floor": e.progress.floor,
        "pending": [[r, [list(p) for p in parts]] for r, parts in e.pending.items()],
        "quotas": _pairs(e.quotas),
        "holders": _pairs(e.holders),
        "late": _pairs(e.late),
        "staleness": list(e.staleness),
        "left": _pairs(e.left),
        "marks": _pairs(e.marks),
        "changes": [_write_change(c) for c in e.changes],
        "widest": e.widest,
        "restored": e.early is not None,
    }


def _thaw_entry(data: Mapping[str, Any], desks: Mapping[int, Desk]) -> Entry:
    desk, gate = desks[data["store"]], Gate(*data["gate"])
    progress = Progress((), desk.resting if gate.slack is not None else frozenset())
    progress.restore(_ints(data["clocks"]), _ints(data["skipped"]), data["floor"])
    return Entry(
        store=data["store"],
        key=data["key"],
        dtype=data["dtype"],
        shape=tuple(data["shape"]),
        gate=gate,
        reduce=data["reduce"],
        progress=progress,
        desk=desk,
        width=data["width"],
        version=data["version"],
        pending={r: [Contribution(*p) for p in parts] for r, parts in data["pending"]},
        quotas=_ints(data["quotas"]),
        holders=_ints(data["holders"]),
        late=_ints(data["late"]),
        staleness=list(data["staleness"]),
        left=_ints(data["left"]),
        marks=_ints(data["marks"]),
        changes=[_read_change(c) for c in data["changes"]],
        widest=data["widest"],
        early={} if data["restored"] else None,
    )
