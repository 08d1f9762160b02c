"""What the servers have counted of a worker that died, for the process that takes its place.

A slice that has counted more than another, because the worker died in the middle of a push, must not get that
contribution again: the first pushes to it are *spared*, until all slices have the same number.
"""

from collections.abc import Iterable
from typing import Protocol, TypeAlias

from shoal.kvstore.client.jobs import Counters
from shoal.kvstore.client.lane import Lane
from shoal.kvstore.wire.messages import Counted, Recalled, Stood

__all__ = ["Memory", "counted", "level", "spread"]

Facts: TypeAlias = Iterable[Recalled]


def spread(facts: Facts, store: int) -> tuple[int, int]:
    """Fewest and most pushes of a worker that a slice of ``store`` has counted.

    Slices that nobody has pushed to are left out, once there have been so many pushes that nobody will.

    >>> spread((), 1)
    (0, 0)
    """
    mine = [s for f in facts for s in f.slices if s.store == store]
    most = max((s.clock for s in mine), default=0)
    return min((s.clock for s in mine if s.touched or most <= FIRST), default=0), most


def counted(facts: Facts, store: int) -> int:
    """How many pushes of a worker all slices of ``store`` have counted."""
    return spread(facts, store)[0]


FIRST = 8
"""A slice that has had no push when others have had more is one that the script does not push to."""


class _Client(Protocol):
    """See `shoal.kvstore.client.core.ClientCore`."""

    lanes: dict[int, Lane]
    barriers: dict[int, int]
    retired: set[int]
    counters: Counters
    memory: "Memory | None"
    shared: int
    meets: bool


class Memory:
    """What a worker has been told of itself.

    Args:
        spares: it goes on with the batch that its predecessor did not complete; otherwise its pushes are new ones.
    """

    def __init__(self, spares: bool) -> None:
        self.spares = spares
        self.facts: dict[int, Recalled] = {}  # by server

    def take(self, m: Recalled) -> None:
        """A server has told what it has counted."""
        self.facts[m.server] = m

    @property
    def pushes(self) -> int:
        """All that the servers have an account of."""
        return sum(m.pushes for m in self.facts.values())

    def barriers(self) -> dict[int, int]:
        """By store, the last barrier that a server knows this worker has come to."""
        found: dict[int, int] = {}
        for s in (s for m in self.facts.values() for s in m.stores):
            found[s.store] = max(s.barrier, found.get(s.store, 0))
        return found

    def retired(self) -> set[int]:
        """Stores that this worker pushes to no more."""
        return {s.store for m in self.facts.values() for s in m.stores if s.retired}

    def turn(self, store: int) -> int:
        """Number of the contribution to come, as places in rounds are numbered: one that was given, and not taken in
        every slice, is this worker's still."""
        turns = [s for m in self.facts.values() for s in m.turns if s.store == store]
        if not turns:
            return 0
        last = max(turns, key=lambda s: s.index)
        rounds = [s.round for m in self.facts.values() for s in m.slices if s.store == store]
        open_ = last.taken and min(rounds, default=last.round) < last.round
        return last.index if open_ else last.index + 1

    def stood(self, server: int, but: Iterable[int]) -> list[Stood]:
        """How far this worker is with slices of ``server`` that the script has not come to; ``but`` it has."""
        known, m = set(but), self.facts.get(server)
        rest = [s for s in m.slices if s.slice not in known and s.clock] if m is not None else []
        return [Stood(slice=s.slice, clock=s.clock, mark=s.mark, version=s.version) for s in rest]

    def completed(self, slices: Iterable[int]) -> dict[int, int]:
        """Of these slices, those that have counted pushes: how many of them all slices of the store have."""
        facts = self.facts.values()
        stores = {s.slice: s.store for m in facts for s in m.slices}
        done = {store: counted(facts, store) for store in {*stores.values()}}
        return {i: done[stores[i]] for i in slices if i in stores and done[stores[i]]}

    def take_up(self, client: _Client) -> None:
        """Let a client go on where its predecessors were: before it has pushed anything, or as it takes part anew."""
        client.memory, client.barriers, client.retired = self, self.barriers(), self.retired()
        for slice_id, lane in client.lanes.items():
            self.begin(slice_id, lane)
        client.counters.sent = client.counters.acknowledged = self.pushes

    def begin(self, slice_id: int, lane: Lane) -> None:
        """The script has come to a slice: go on with it where it is."""
        for server, m in self.facts.items():
            for s in m.slices:
                if s.slice == slice_id:
                    self._begin(s, server, lane)

    def _begin(self, s: Counted, server: int, lane: Lane) -> None:
        lane.clock, lane.mark, lane.seen, lane.server = s.clock, s.mark, s.version, server
        lane.turn = self.turn(s.store)
        lane.spared = max(0, s.clock - counted(self.facts.values(), s.store)) if self.spares else 0


def level(client: _Client, number: int) -> None:
    """The set of workers has changed for the ``number``-th time, and all are equally far; or it has not, after all."""
    client.meets = False
    if number > client.shared:
        client.shared = number
        for lane in client.lanes.values():
            lane.mark = lane.clock
