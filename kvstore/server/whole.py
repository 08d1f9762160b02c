"""A whole server as plain data and arrays, for a replica: also what a snapshot leaves out because peers repeat it.

A replica must answer nothing differently from its primary, whatever it is asked next. So it also gets who has greeted,
who waits to read or to be given a place, who watches, and which errors are owed.
"""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import CheckpointError, RemoteProtocolError
from shoal.kvstore.arrays import as_array, as_payload
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.entry import Parked
from shoal.kvstore.server.freeze import freeze, thaw
from shoal.kvstore.server.image import Image, draw_stores, hang, hang_stores
from shoal.kvstore.wire.messages import Imaged, Ticket
from shoal.kvstore.wire.schema import Payload, listed

if TYPE_CHECKING:
    from shoal.kvstore.server.shell import ServerShell

__all__ = ["as_bytes", "begin_whole", "hang_whole", "of_image", "put_image"]

_write_ticket, _read_ticket = listed(Ticket)

RAW = "|u1"


def as_bytes(data: Any) -> Payload:
    """Bytes, or anything with the buffer protocol, as a payload of bytes."""
    n = data.nbytes if isinstance(data, memoryview) else len(data)
    return Payload(dtype=RAW, shape=(n,), data=data)


def begin_whole(shell: "ServerShell", core: ServerCore) -> bytes:
    """All that a server knows but its slices, as JSON; to be told between two messages, while it is `quiet`."""
    data = {
        "core": freeze(core),
        "stores": draw_stores(shell.table),
        "calls": shell.calls.freeze(),
        "shell": shell.freeze(),
        "heard": shell.heard,
        "parked": [_write_parked(i, seq, r) for i, e in core.entries.items() for (_, seq), r in e.parked.items()],
        "watchers": [[i, to, *w] for i, e in core.entries.items() for to, w in e.watchers.items()],
        "shown": [[i, e.shown] for i, e in core.entries.items()],
        "queues": [[s, to, _write_ticket(m)] for s, d in core.desks.items() for (to, _), m in d.queue.items()],
        "ended": core.snapshots.ended,
    }
    return json.dumps(data, separators=(",", ":")).encode()


def hang_whole(shell: "ServerShell", text: bytes, incarnation: int) -> None:
    """Make a new server know what `begin_whole` told.

    Raises:
        CheckpointError: it is not that.
    """
    try:
        data = json.loads(text)
        core = thaw(data["core"], incarnation)
        hang_stores(shell.table, data["stores"])
        shell.calls.thaw(data["calls"])
        shell.thaw(data["shell"])
        shell.heard = data["heard"]
        _hang_soft(core, data)
    except (KeyError, TypeError, ValueError, RemoteProtocolError) as e:
        raise CheckpointError(f"the state of a primary cannot be read: {type(e).__name__}: {e}") from e
    shell.core = core


def _hang_soft(core: ServerCore, data: Mapping[str, Any]) -> None:
    for slice_id, seq, reader in map(_read_parked, data["parked"]):
        core.entries[slice_id].parked[reader.sender, seq] = reader
    for slice_id, to, rank, seq, reply in data["watchers"]:
        core.entries[slice_id].watchers[to] = rank, seq, reply
    for slice_id, shown in data["shown"]:
        core.entries[slice_id].shown = shown
    for store, to, ticket in data["queues"]:
        m = _read_ticket(ticket)
        core.desks[store].queue[to, m.seq] = m
    core.snapshots.ended = data["ended"]


def _write_parked(slice_id: int, seq: int, r: Parked) -> list[Any]:
    rows = None if r.rows is None else [int(i) for i in as_array(r.rows)]
    return [slice_id, seq, r.sender, r.worker, r.clock, r.payload, rows, r.reply]


def _read_parked(item: Iterable[Any]) -> tuple[int, int, Parked]:
    slice_id, seq, sender, worker, clock, payload, rows, reply = item
    ids = None if rows is None else as_payload(np.array(rows, np.int64))
    return slice_id, seq, Parked(sender, worker, clock, payload, ids, reply)


def of_image(incarnation: int, number: int, slice_id: int, image: Image) -> Imaged:
    """A drawn slice as a message."""
    meta = as_bytes(json.dumps(image.meta, separators=(",", ":")).encode())
    arrays = tuple(as_payload(image.arrays[name]) for name in image.meta["arrays"])
    return Imaged(incarnation=incarnation, number=number, slice=slice_id, meta=meta, arrays=arrays)


def put_image(shell: "ServerShell", m: Imaged) -> None:
    """Give a server the slice that a message brings.

    Raises:
        CheckpointError: it is not one.
    """
    try:
        meta = json.loads(bytes(m.meta.data))
        arrays = [np.array(as_array(p)) for p in m.arrays]  # copies: aligned, and ours
        image = Image(meta, dict(zip(meta["arrays"], arrays, strict=True)))
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"slice {m.slice} of a primary cannot be read: {type(e).__name__}: {e}") from e
    hang(shell.table, m.slice, image)
