"""Who belongs to which round of a store, decided in one place.

Where a round takes fewer contributions than there are workers, slices must not choose by themselves whose it takes: a
worker that waits for a round of one slice while another waits for a round of a second slice would wait for ever. So
before a worker contributes it asks the server that owns the store's first slice, once for all slices; a slice closes a
round when the contributions of all who were given a place in it have come (docs/decisions/0011-one-desk-a-store.md).
"""

from dataclasses import dataclass, field

from shoal.kvstore.events import Action, Send
from shoal.kvstore.gates import Gate
from shoal.kvstore.wire.messages import Granted, Ticket, Waiting

__all__ = ["Desk"]


@dataclass(slots=True)
class Desk:
    """Places in the rounds of one store.

    Args:
        gate: of the store.
    """

    gate: Gate
    round: int = 0  # that places are given in
    takers: list[int] = field(default_factory=list)  # who has one
    quota: int = 0  # how many there are; settled when the first is given
    given: dict[int, tuple[int, Granted]] = field(default_factory=dict)  # by rank, the last index and its answer
    resting: set[int] = field(default_factory=set)  # ranks that wait for others, and are not waited for
    queue: dict[tuple[str, int], Ticket] = field(default_factory=dict)  # who waits for the next round
    latest: dict[int, int] = field(default_factory=dict)  # by rank, the seq of the last message that said which it is
    barriers: dict[int, int] = field(default_factory=dict)  # by rank, the last one that it has come to
    meeting: set[int] = field(default_factory=set)  # those who rest until the set of workers has changed

    def active(self, rank: int, seq: int) -> None:
        """Worker ``rank`` contributes, or is about to; an old repetition of such a message says nothing."""
        if seq > self.latest.get(rank, -1):
            self.latest[rank] = seq
            self.resting.discard(rank)
            self.meeting.discard(rank)

    def rest(self, rank: int, seq: int, barrier: int) -> bool:
        """Worker ``rank`` has come to a barrier, and waits for others from now on; false if this is known."""
        if barrier <= self.barriers.get(rank, 0):
            return False
        self.barriers[rank] = barrier
        if seq > self.latest.get(rank, -1):
            self.latest[rank] = seq
            self.resting.add(rank)
        return True

    def meet(self, rank: int, seq: int) -> bool:
        """Worker ``rank`` waits until the set of workers has changed; false if this is known, or no longer true."""
        if seq <= self.latest.get(rank, -1):
            return False
        self.latest[rank] = seq
        self.meeting.add(rank)
        self.resting.add(rank)
        return True

    def begin(self, new: list[int]) -> None:
        """The set of workers has changed: nobody rests, and these take part who did not."""
        self.meeting.clear()
        self.resting.clear()
        last = max(self.barriers.values(), default=0)
        self.barriers |= dict.fromkeys(new, last)

    def forget(self, rank: int, place: bool = False) -> None:
        """Another process is worker ``rank`` now, which numbers its messages anew; and its places, if it has none."""
        self.latest.pop(rank, None)
        if place:
            self.given.pop(rank, None)
        self.queue = {k: m for k, m in self.queue.items() if m.worker != rank}

    def ask(self, sender: str, m: Ticket, live: tuple[int, ...]) -> list[Action]:
        """Give worker ``m.worker`` a place, or let it wait for the next round; ``live`` are the store's workers."""
        live = tuple(r for r in live if r not in self.resting)
        last = self.given.get(m.worker)
        if last is not None and last[0] >= m.index:
            return [Send(sender, _again(last[1], m.seq))]
        if self.gate.waits and m.worker in self.takers:
            again = (sender, m.seq) in self.queue
            self.queue[sender, m.seq] = m
            missing = tuple(r for r in live if r not in self.takers)
            return [Send(sender, Waiting(seq=m.seq, missing=missing))] if again else []
        self.queue.pop((sender, m.seq), None)
        behind = 0 if m.base < 0 else max(0, self.round - m.base)
        if self.gate.drops(behind, behind > 0):
            return [self._answer(sender, m, Granted(seq=m.seq, round=self.round, quota=0, holds=False, taken=False))]
        if not self.takers:
            self.quota = self.gate.quota(len(live))
        self.takers.append(m.worker)
        round_, full = self.round, self._full(live)
        granted = Granted(seq=m.seq, round=round_, quota=self.quota, holds=self.gate.waits or full, taken=True)
        answer = self._answer(sender, m, granted)
        return [answer, *(self._next(live) if full else [])]

    def recount(self, live: tuple[int, ...]) -> list[Action]:
        """Workers have left, or rest; when all have come to a barrier nobody rests any more."""
        awake = tuple(r for r in live if r not in self.resting)
        self.queue = {k: m for k, m in self.queue.items() if m.worker in awake}
        actions = self._next(live) if self.takers and (self._full(awake) or not awake) else []
        last = max(self.barriers.values(), default=0)
        if self.resting and all(self.barriers.get(r, 0) >= last for r in live):
            self.resting &= self.meeting
        return actions

    def _full(self, live: tuple[int, ...]) -> bool:
        return len(self.takers) >= self.quota or (self.gate.waits and set(live) <= set(self.takers))

    def _next(self, live: tuple[int, ...]) -> list[Action]:
        """The round is full: whoever waits comes into the next one."""
        self.round += 1
        self.takers.clear()
        queue, self.queue = self.queue, {}
        return [a for (sender, _), m in queue.items() for a in self.ask(sender, m, live)]

    def _answer(self, sender: str, m: Ticket, granted: Granted) -> Action:
        self.given[m.worker] = (m.index, granted)
        return Send(sender, granted)


def _again(granted: Granted, seq: int) -> Granted:
    return Granted(seq=seq, round=granted.round, quota=granted.quota, holds=granted.holds, taken=granted.taken)
