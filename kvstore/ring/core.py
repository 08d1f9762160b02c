"""A worker's part in collectives as a state machine: messages in, messages out; no clock, no socket, no array.

A collective is named by a key and by how often that key has been reduced before, so that workers may start theirs in
different orders. It runs the programs of `schedule`. What is sent stays with the sender until the receiver has taken
it (`Took`), and is sent again after a while; what has been taken already is taken once. A message may come before its
collective has been started here: it is kept, up to `EARLY_BYTES`; what is beyond is not taken, and sent again when this
worker says that it is `Ready`. Nothing else holds back a sender, so that workers can differ in their order without
waiting for each other for ever, and a slow worker's memory stays bounded.

A worker that waits asks its peer how the collective stands there: that is how the one that everybody waits for is
named, and how it is noticed that a peer will not take part at all.
"""

import heapq
from dataclasses import dataclass, field

from shoal.kvstore.ring.events import (
    Action,
    Collective,
    Combine,
    Complete,
    Fail,
    Finish,
    Flight,
    Forsake,
    Held,
    Keep,
    Name,
    Send,
    State,
    Take,
    Transmit,
    Warn,
)
from shoal.kvstore.ring.schedule import Block, Do, Step
from shoal.kvstore.wire.messages import Ask, Greet, Greeted, Part, Ready, Refused, Standing, Took
from shoal.kvstore.wire.schema import Message, Payload

__all__ = ["AllReduceCore"]

RETRY_S = 1.0
RETRY_MAX_S = 8.0
GREET_S = 0.1
WARN_S = 30.0
SILENCE_S = 60.0
"""A peer answers every question at once; one that has said nothing for this long cannot be reached."""
CREDIT_BYTES = 8 << 20
"""Bytes sent to one peer that it has not taken yet."""
KEEP_BYTES = 64 << 10
"""Messages up to this size are copied when they are sent, so that the caller need not wait until they are taken."""
EARLY_BYTES = 32 << 20
"""Messages that are kept for collectives that have not been started here."""
EARLY_COST_BYTES = 256
"""What keeping an empty message counts for."""


@dataclass(slots=True)
class _Peer:
    greeted: bool = False
    credit: int = CREDIT_BYTES
    heard: float = -1.0
    greet_due: float = 0.0
    pause: float = GREET_S
    ready: list[tuple[int, int, Flight]] = field(default_factory=list)
    flights: dict[tuple[Name, int, int], Flight] = field(default_factory=dict)


@dataclass(slots=True)
class Counters:
    """This worker's side of the ledger, and what it has taken from each peer."""

    sent: int = 0
    acknowledged: int = 0
    retries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    applied: dict[int, int] = field(default_factory=dict)
    duplicate: dict[int, int] = field(default_factory=dict)


class AllReduceCore:
    """One worker's collectives.

    Args:
        rank, incarnation: of this worker.
        workers: how many there are.
        cluster: id of the run.
        timeout_s: a collective older than this fails, naming whom it waits for.
    """

    def __init__(self, rank: int, incarnation: int, workers: int, cluster: str, timeout_s: float = 600.0) -> None:
        self.rank, self.incarnation, self.workers = rank, incarnation, workers
        self.cluster, self.timeout_s = cluster, timeout_s
        self.silence_s = min(SILENCE_S, timeout_s)
        self.peers = {r: _Peer() for r in range(workers) if r != rank}
        self.ops: dict[Name, Collective] = {}
        self.counters = Counters()
        self.early: dict[Name, dict[tuple[int, int], tuple[int, int, Held]]] = {}
        self.early_bytes = 0
        self.closed: set[int] = set()  # keys that this worker will not reduce again
        self._senders: dict[str, int] = {}
        self._clocks: dict[int, int] = {}
        self._refused: dict[Name, set[int]] = {}
        self._gone: set[int] = set()
        self._order = 0
        self._look_due = 0.0

    # --- what the caller asks -----------------------------------------------------------------------------------------

    def submit(self, op: Collective, now: float) -> list[Action]:
        """Start a collective."""
        op.clock = self._clocks.get(op.key, 0)
        self._clocks[op.key] = op.clock + 1
        op.since = op.warned = now
        op.ask_due = now + RETRY_S
        self._look_due = min(self._look_due, op.ask_due)
        op.places, op.fresh = [0] * len(op.blocks), [True] * len(op.blocks)
        op.left = sum(map(bool, op.blocks))
        self.ops[op.name] = op
        actions: list[Action] = [
            Send(r, Ready(key=op.key, clock=op.clock)) for r in sorted(self._refused.pop(op.name, ()))
        ]
        for (block, tag), (sender, total, held) in self.early.pop(op.name, {}).items():
            self.early_bytes -= _cost(held.value)
            actions += self._accept(op, sender, block, tag, total, held)
        if self._gone:
            return [*actions, *self._fail(op, *self._without(op, min(self._gone)))]
        for block in range(len(op.blocks)):
            actions += self._advance(op, block)
        actions += [a for r in self.peers for a in self._greet(r, now)]
        return [*actions, *self._settle(op), *self._pump(now)]

    def close(self, keys: list[int]) -> None:
        """This worker starts no more collectives of these keys; peers that ask are told so."""
        self.closed.update(keys)

    def idle(self) -> bool:
        """Whether nothing is under way, in either direction."""
        return not self.ops and not any(p.flights for p in self.peers.values())

    # --- programs -----------------------------------------------------------------------------------------------------

    def _advance(self, op: Collective, block: int) -> list[Action]:
        """Carry out steps of a block until one has to wait."""
        actions: list[Action] = []
        steps = op.blocks[block]
        if op.places[block] == len(steps):
            return []
        while op.places[block] < len(steps) and not op.over:
            step = steps[op.places[block]]
            if step.do is Do.SEND:
                actions += self._launch(op, block, step)
            elif step.do is Do.FINISH:
                actions.append(Finish(op, step, op.fresh[block]))
                op.fresh[block] = False
            else:
                held = op.inbox.pop((block, step.tag), None)
                if held is None:
                    return actions
                actions.append(Combine(op, step, op.fresh[block], held.value))
                op.fresh[block] = False
            op.places[block] += 1
        op.left -= 1
        return actions

    def _launch(self, op: Collective, block: int, step: Step) -> list[Action]:
        nbytes = (step.stop - step.start) * op.item_bytes
        kept = nbytes <= KEEP_BYTES or _written_later(op.blocks[block][op.places[block] + 1 :], step)
        flight = Flight(op, step.peer, block, step, op.fresh[block], nbytes, kept, RETRY_S)
        peer = self.peers[step.peer]
        peer.flights[flight.label] = flight
        self._queue(peer, flight)
        op.untaken += not kept
        self.counters.sent += 1
        self.counters.bytes_sent += nbytes
        return [Take(flight)] if kept else []

    def _settle(self, op: Collective) -> list[Action]:
        if op.left or op.untaken or op.over:
            return []
        self._over(op)
        return [Complete(op)]

    def _over(self, op: Collective) -> None:
        op.over = True
        self.ops.pop(op.name, None)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _queue(self, peer: _Peer, flight: Flight) -> None:
        flight.state = State.QUEUED
        self._order += 1
        heapq.heappush(peer.ready, (-flight.op.priority, self._order, flight))

    def _pump(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for peer in self.peers.values():
            while peer.ready and peer.greeted and peer.credit > 0:
                flight = heapq.heappop(peer.ready)[2]
                if flight.state is not State.QUEUED:
                    continue  # it has been taken, or given up, meanwhile
                peer.credit -= flight.nbytes
                flight.state, flight.due = State.FLYING, now + flight.pause
                self._look_due = min(self._look_due, flight.due)
                actions.append(Transmit(flight))
        return actions

    def _land(self, peer: _Peer, flight: Flight, state: State) -> None:
        """The flight is under way no more."""
        if flight.state is State.FLYING:
            peer.credit += flight.nbytes
        flight.state = state
        if state is State.OVER:
            del peer.flights[flight.label]

    def _greet(self, rank: int, now: float) -> list[Action]:
        peer = self.peers[rank]
        if peer.greeted or now < peer.greet_due:
            return []
        if peer.heard < 0:
            peer.heard = now  # its silence counts from here
        peer.greet_due, peer.pause = now + peer.pause, min(peer.pause * 2, RETRY_S)
        self._look_due = min(self._look_due, peer.greet_due)
        return [Send(rank, Greet(cluster=self.cluster, worker=self.rank, incarnation=self.incarnation))]

    # --- messages -----------------------------------------------------------------------------------------------------

    def receive(self, sender: str, m: Message, now: float) -> list[Action]:
        """What follows from a message of ``sender``, the transport's name for a peer, or ``worker3`` for an answer."""
        if isinstance(m, Greet):
            return self._greeting(sender, m)
        rank = self._senders.get(sender)
        if rank is None:
            return []  # it has not greeted, or its greeting has been overtaken: it will repeat what it said
        self.peers[rank].heard = now
        match m:
            case Greeted():
                self.peers[rank].greeted = True
                return self._pump(now)
            case Part():
                return self._part(sender, rank, m, now)
            case Took():
                return self._took(rank, m, now)
            case Ready():
                return self._ready(rank, (m.key, m.clock), now)
            case Ask():
                return [Send(sender, self._standing(m.key, m.clock))]
            case Standing():
                return self._stands(rank, m)
            case Refused():
                return [a for op in list(self.ops.values()) for a in self._fail(op, m.error, m.text)]
        return []

    def know(self, sender: str, rank: int) -> None:
        """Messages of ``sender`` are worker ``rank``'s."""
        self._senders[sender] = rank

    def knows(self, sender: str) -> bool:
        """Whether ``sender`` is a worker of this run."""
        return sender in self._senders

    def _greeting(self, sender: str, m: Greet) -> list[Action]:
        if m.cluster != self.cluster or m.worker not in self.peers:
            text = (
                f"worker {self.rank} of run {self.cluster} does not know worker {m.worker} of run {m.cluster}: another "
                "run has taken its address. Start the run again."
            )
            return [Send(sender, Refused(seq=0, error="StaleWorkerError", text=text))]
        self._senders[sender] = m.worker
        return [Send(sender, Greeted(worker=self.rank, incarnation=self.incarnation))]

    def _part(self, sender: str, rank: int, m: Part, now: float) -> list[Action]:
        name, place = (m.key, m.clock), (m.block, m.tag)
        op = self.ops.get(name)
        took = Send(sender, Took(key=m.key, clock=m.clock, block=m.block, tag=m.tag, taken=True))
        if op is None and m.clock < self._clocks.get(m.key, 0):
            return [took, *self._again(rank)]
        if op is None:
            return self._keep(sender, rank, name, place, m)
        held = Held(m.value)
        actions = self._accept(op, rank, m.block, m.tag, m.total, held)
        if op.over:
            return actions
        actions += self._advance(op, m.block)
        if op.inbox.get(place) is held:  # not used yet, and no longer the sender's to keep
            actions.append(Keep(held))
        return [*actions, took, *self._settle(op), *self._pump(now)]

    def _keep(self, sender: str, rank: int, name: Name, place: tuple[int, int], m: Part) -> list[Action]:
        """The collective has not been started here."""
        waiting = self.early.get(name, {})
        taken = place in waiting or self.early_bytes + _cost(m.value) <= EARLY_BYTES
        answer = Send(sender, Took(key=m.key, clock=m.clock, block=m.block, tag=m.tag, taken=taken))
        if place in waiting:
            return [answer, *self._again(rank)]
        if not taken:
            self._refused.setdefault(name, set()).add(rank)
            return [answer]
        held = Held(m.value)
        self.early.setdefault(name, {})[place] = rank, m.total, held
        self.early_bytes += _cost(m.value)
        return [Keep(held), answer]

    def _again(self, rank: int) -> list[Action]:
        self.counters.duplicate[rank] = self.counters.duplicate.get(rank, 0) + 1
        return []

    def _accept(self, op: Collective, rank: int, block: int, tag: int, total: int, held: Held) -> list[Action]:
        """Put a message where its step will look for it."""
        step, value = _expected(op, block, tag), held.value
        if step is None or step.peer != rank or total != op.size or _shape(value, op) != step.stop - step.start:
            return self._fail(op, "ConfigError", self._differs(op, rank, total, value))
        done = op.blocks[block].index(step) < op.places[block]
        if done or (block, tag) in op.inbox:
            return self._again(rank)
        op.inbox[block, tag] = held
        self.counters.applied[rank] = self.counters.applied.get(rank, 0) + 1
        self.counters.bytes_received += value.data.nbytes
        return []

    def _differs(self, op: Collective, rank: int, total: int, value: Payload) -> str:
        if (total, value.dtype) == (op.size, op.dtype):
            return (
                f"worker {rank} and worker {self.rank} reduce {op.about} at clock {op.clock} in different ways: set "
                "the same algorithm on every worker"
            )
        return (
            f"worker {rank} reduces {total} elements of {value.dtype} with {op.about} at clock {op.clock}; worker "
            f"{self.rank} reduces {op.size} of {op.dtype}. Every worker must make the same calls: the same keys in one "
            "list, in the same order."
        )

    def _took(self, rank: int, m: Took, now: float) -> list[Action]:
        peer = self.peers[rank]
        flight = peer.flights.get(((m.key, m.clock), m.block, m.tag))
        if flight is None:
            return []
        if not m.taken:
            if flight.state is State.FLYING:
                self._land(peer, flight, State.PARKED)
                flight.due = now + RETRY_MAX_S
            return self._pump(now)
        self._land(peer, flight, State.OVER)
        self.counters.acknowledged += 1
        flight.op.untaken -= not flight.kept
        return [*self._settle(flight.op), *self._pump(now)]

    def _ready(self, rank: int, name: Name, now: float) -> list[Action]:
        """The peer has started a collective: what it would not take before, it takes now."""
        peer = self.peers[rank]
        for flight in peer.flights.values():
            if flight.op.name == name and flight.state is State.PARKED:
                self._queue(peer, flight)
        return self._pump(now)

    # --- who waits for whom -------------------------------------------------------------------------------------------

    def _waits_for(self, op: Collective) -> list[int]:
        """Peers whose messages the next steps of ``op`` need, or that have not taken this worker's."""
        ranks = {steps[at].peer for steps, at in zip(op.blocks, op.places, strict=True) if at < len(steps)}
        if not ranks:
            ranks = {r for r, p in self.peers.items() if any(f.op is op for f in p.flights.values())}
        return sorted(ranks - {-1})

    def _blames(self, op: Collective) -> tuple[int, ...]:
        """Who is to be waited for, as far as is known: those that have not started the collective."""
        direct = self._waits_for(op)
        return tuple(sorted({late for r in direct for late in op.standings.get(r, (r,))} - {self.rank})) or (*direct,)

    def _standing(self, key: int, clock: int) -> Standing:
        op = self.ops.get((key, clock))
        if op is not None:
            return Standing(key=key, clock=clock, state="waiting", missing=self._blames(op))
        if clock < self._clocks.get(key, 0):
            return Standing(key=key, clock=clock, state="done", missing=())
        state = "closed" if key in self.closed else "absent"
        return Standing(key=key, clock=clock, state=state, missing=(self.rank,))

    def _stands(self, rank: int, m: Standing) -> list[Action]:
        op = self.ops.get((m.key, m.clock))
        if op is None:
            return []
        if m.state == "closed":
            return self._fail(op, *self._without(op, rank))
        op.standings.pop(rank, None)
        if m.missing:
            op.standings[rank] = m.missing
        return []

    def _without(self, op: Collective, rank: int) -> tuple[str, str]:
        return "MembershipError", (
            f"worker {self.rank} reduces {op.about} at clock {op.clock}, and worker {rank} has finished: it will not "
            "take part. Every worker must make the same number of calls: give all of them equally many batches."
        )

    def left(self, rank: int) -> list[Action]:
        """Worker ``rank`` has said goodbye: what needs it cannot be done."""
        self._gone.add(rank)
        needy = [op for op in self.ops.values() if rank in self._waits_for(op)]
        return [a for op in needy for a in self._fail(op, *self._without(op, rank))]

    def describe(self, op: Collective) -> str:
        """Who waits for whom, about what."""
        late = ", ".join(f"worker {r}" for r in self._blames(op))
        return f"worker {self.rank} has waited for {late} in the all-reduce of {op.about} at clock {op.clock}"

    def waits(self, now: float) -> list[tuple[str, tuple[str, ...], float]]:
        """What is under way: about what, for whom it waits, since how many seconds."""
        return [
            (
                f"all-reduce of {op.about} at clock {op.clock}",
                tuple(f"worker {r}" for r in self._blames(op)),
                now - op.since,
            )
            for op in list(self.ops.values())
        ]

    def _fail(self, op: Collective, error: str, text: str) -> list[Action]:
        if op.over:
            return []
        self._over(op)
        op.inbox.clear()
        actions: list[Action] = [Fail(op, error, text)]
        for peer in self.peers.values():  # the caller's memory is the caller's again: send no more of it
            for flight in [f for f in peer.flights.values() if f.op is op]:
                self._land(peer, flight, State.OVER)
                actions.append(Forsake(flight))
        return actions

    # --- time ---------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> tuple[list[Action], float]:
        """Repeat what is due, fail what is too old; also says when to be woken next."""
        if now < self._look_due:
            return [], self._look_due
        self._look_due = now + RETRY_S
        actions: list[Action] = [a for r in self.peers if self._talks_to(r) for a in self._greet(r, now)]
        for peer in self.peers.values():
            for flight in peer.flights.values():
                if flight.state is not State.QUEUED and flight.due <= now:
                    self._repeat(peer, flight)
        for op in list(self.ops.values()):
            actions += self._look_at(op, now)
        due = [f.due for p in self.peers.values() for f in p.flights.values() if f.state is not State.QUEUED]
        due += [op.ask_due for op in self.ops.values()]
        due += [p.greet_due for r, p in self.peers.items() if not p.greeted and self._talks_to(r)]
        self._look_due = min([now + RETRY_S, *due])
        return [*actions, *self._pump(now)], self._look_due

    def _talks_to(self, rank: int) -> bool:
        return bool(self.ops or self.peers[rank].flights)

    def was_stopped(self, now: float, paused_s: float) -> None:
        """This process has not run for so long: that it has not got on in this time is nobody's fault."""
        for op in self.ops.values():
            op.since, op.warned = op.since + paused_s, op.warned + paused_s
        for peer in self.peers.values():
            peer.heard = now

    def _repeat(self, peer: _Peer, flight: Flight) -> None:
        self._land(peer, flight, State.QUEUED)
        flight.pause = min(flight.pause * 2, RETRY_MAX_S)
        self.counters.retries += 1
        self._queue(peer, flight)

    def _look_at(self, op: Collective, now: float) -> list[Action]:
        if now < op.ask_due:
            return []
        op.ask_due = now + RETRY_S
        text = self._too_late(op, now)
        if text:
            return self._fail(op, "StoreTimeoutError", text)
        actions: list[Action] = [Send(r, Ask(key=op.key, clock=op.clock)) for r in self._waits_for(op)]
        if now - op.warned >= WARN_S:
            op.warned = now
            actions.append(Warn(f"{self.describe(op)} for {now - op.since:.0f} s so far"))
        return actions

    def _too_late(self, op: Collective, now: float) -> str:
        """Why the collective must fail; empty while it may wait."""
        if now - op.since >= self.timeout_s:
            return f"{self.describe(op)} for {now - op.since:.0f} s, the limit (timeout_s={self.timeout_s:g})"
        for rank in self._waits_for(op):
            if not self.peers[rank].greeted:
                continue  # it may not have made its store yet; a dead one is found by its lease
            quiet = now - max(self.peers[rank].heard, op.since)
            if quiet >= self.silence_s:
                return (
                    f"worker {rank} has said nothing to worker {self.rank} for {quiet:.0f} s, which waits for it in "
                    f"the all-reduce of {op.about}: is it cut off from this worker?"
                )
        return ""

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every event."""
        assert self.counters.acknowledged <= self.counters.sent
        assert 0 <= self.early_bytes <= EARLY_BYTES
        for peer in self.peers.values():
            out = sum(f.nbytes for f in peer.flights.values() if f.state is State.FLYING)
            assert peer.credit + out == CREDIT_BYTES


def _cost(value: Payload) -> int:
    """What keeping a message counts for."""
    nbytes: int = value.data.nbytes
    return nbytes + EARLY_COST_BYTES


def _expected(op: Collective, block: int, tag: int) -> Step | None:
    """The step that waits for this message."""
    if not 0 <= block < len(op.blocks):
        return None
    return next((s for s in op.blocks[block] if s.tag == tag and s.do in (Do.ADD, Do.COPY)), None)


def _shape(value: Payload, op: Collective) -> int:
    """Elements of a message that has the collective's dtype and is flat; -1 otherwise."""
    return value.shape[0] if value.dtype == op.dtype and len(value.shape) == 1 else -1


def _written_later(steps: Block, sent: Step) -> bool:
    """Whether a later step writes what is sent, before the peer can be known to have it."""
    return any(s.do in (Do.ADD, Do.FINISH) and s.start < sent.stop and sent.start < s.stop for s in steps)
