"""Workers that are replaced, come late, or take part anew: the server core's part.

- Another process in the place of a worker goes on where that one was: clocks and accounts stay; what only the old one
  could make use of is dropped, and its messages are refused from then on.
- A late worker may read; rounds wait for it from the moment at which everybody rests and the scheduler has said who
  takes part: then its clock is that of the others, whatever it has contributed before.
"""

from typing import TYPE_CHECKING

from shoal.kvstore.events import Action, Send
from shoal.kvstore.server.books import Ledger
from shoal.kvstore.wire.messages import Counted, Recall, Recalled, Shared, StoodStore, Turn

if TYPE_CHECKING:
    from shoal.kvstore.server.core import ServerCore

__all__ = ["arrived", "recall", "replaced", "shared"]


def replaced(core: "ServerCore", rank: int, incarnation: int) -> list[Action]:
    """Another process is worker ``rank`` now."""
    if core.known.get(rank, incarnation) >= incarnation:
        return []
    core.known[rank] = incarnation
    if rank in core.members:
        core.members[rank] = incarnation
    return _forget(core, rank)


def arrived(core: "ServerCore", rank: int, incarnation: int) -> list[Action]:
    """A worker has joined while the run is under way: it may read, and nobody waits for it."""
    if core.known.get(rank, 0) >= incarnation:
        return []
    core.known[rank] = incarnation
    core.ledgers.setdefault(rank, Ledger())
    return _forget(core, rank, place=True)


def _forget(core: "ServerCore", rank: int, place: bool = False) -> list[Action]:
    """Drop what is of use to nobody but an earlier process of this rank."""
    core.ledgers[rank].refusals.clear()
    for desk in core.desks.values():
        desk.forget(rank, place)
    for entry in core.entries.values():
        entry.parked = {k: r for k, r in entry.parked.items() if r.worker != rank}
        entry.watchers = {k: w for k, w in entry.watchers.items() if w[0] != rank}
        if entry.early:
            entry.early.pop(rank, None)
    return core.snapshots.gone(rank)


def shared(core: "ServerCore", share: Shared) -> list[Action]:
    """Who takes part from now on; everybody who did rests, so that all are equally far."""
    if share.number <= core.shared:
        return []
    core.shared = share.number
    new = [r for r in share.ranks if r not in core.members and r in core.known]
    for rank in new:
        core.members[rank] = core.known[rank]
        core.retired = {(store, r) for store, r in core.retired if r != rank}
    for desk in core.desks.values():
        desk.begin(new)
    for entry in core.entries.values():
        entry.progress.settle()
        if entry.gate.rounds and not entry.progress.clocks:
            entry.progress.floor = entry.version
        for rank in new:
            entry.progress.add(rank, entry.left.pop(rank, 0))
        entry.marks = entry.progress.counts()
    return []


def recall(core: "ServerCore", sender: str, m: Recall) -> list[Action]:
    """Say how much of a worker is counted; not while it may still push, unless it asks itself."""
    if m.of != m.worker and m.of in core.members:
        return []  # it will be repeated
    slices = tuple(
        Counted(
            slice=slice_id,
            store=e.store,
            clock=e.counted(m.of),
            mark=e.marks.get(m.of, 0),
            version=e.version,
            touched=e.version > 0 or bool(e.pending),
            round=e.holders.get(m.of, -1),
        )
        for slice_id, e in core.entries.items()
    )
    stores = tuple(
        StoodStore(store=number, barrier=desk.barriers.get(m.of, 0), retired=(number, m.of) in core.retired)
        for number, desk in core.desks.items()
    )
    given = [(number, *desk.given[m.of]) for number, desk in core.desks.items() if m.of in desk.given]
    turns = tuple(Turn(store=n, index=i, round=g.round, taken=g.taken) for n, i, g in given)
    book = core.ledgers.get(m.of, Ledger())
    waiting = sum(p.rank == m.of for e in core.entries.values() for parts in e.pending.values() for p in parts)
    pushes = book.applied + book.rejected + book.dropped + book.lost + waiting
    answer = Recalled(seq=m.seq, server=core.rank, of=m.of, slices=slices, stores=stores, turns=turns, pushes=pushes)
    return [Send(sender, answer)]
