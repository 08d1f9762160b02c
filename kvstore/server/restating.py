"""States of the optimizer that come from a checkpoint: the server core's part."""

from typing import TYPE_CHECKING

from shoal.kvstore.events import Action, Reinstate, Send
from shoal.kvstore.server.entry import Entry
from shoal.kvstore.wire.messages import Done, Refused, Restate

if TYPE_CHECKING:
    from shoal.kvstore.server.core import ServerCore

__all__ = ["restate"]


def restate(core: "ServerCore", sender: str, m: Restate) -> list[Action]:
    """Let the optimizer of a slice go on from these states; if training has begun this is an old repetition."""
    entry = core.entries.get(m.slice)
    if entry is None:
        text = f"worker {m.worker} gives slice {m.slice} its states on server {core.rank} before anybody initialised it"
        return [_refuse(sender, m.seq, "KeyNotInitializedError", text)]
    misfits = [p.shape for p in m.states if p.shape != entry.shape]
    if misfits or len(m.slots) != len(m.states):
        text = (
            f"worker {m.worker} gives {entry.key!r} {len(m.slots)} states of shapes {[p.shape for p in m.states]}; "
            f"expected one array of shape {entry.shape} for each name"
        )
        return [_refuse(sender, m.seq, "ShapeError", text)]
    if _has_begun(entry):
        return [Send(sender, Done(seq=m.seq))]
    return [Reinstate(sender, m.seq, m.slice, m.updates, m.slots, m.states)]


def _has_begun(entry: Entry) -> bool:
    return entry.version > 0 or bool(entry.pending) or any(entry.counted(r) for r in entry.progress.clocks)


def _refuse(to: str, seq: int, error: str, text: str) -> Send:
    return Send(to, Refused(seq=seq, error=error, text=text))
