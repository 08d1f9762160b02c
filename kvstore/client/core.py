"""The worker's half of the protocol as a state machine: retry, order, credit, deadline.

A *job* is one request about one slice (or one server). Jobs about the same slice are carried out one after another, in
the order they were submitted: a read sees exactly the pushes before it. Jobs about different slices run side by side,
larger priority first, as far as the credit of unacknowledged bytes goes. A request that is not answered is repeated;
one that waits for other workers is asked about again without its payload.
"""

import heapq
from dataclasses import replace
from typing import Any

from shoal.errors import LocalProtocolError
from shoal.kvstore.client.jobs import (
    RETRY_S,
    ClientAction,
    Complete,
    Counters,
    Dropped,
    Fail,
    Job,
    Place,
    Stage,
    Transmit,
    Warn,
    value_bytes,
)
from shoal.kvstore.client.lane import CREDIT_BYTES, Lane, Link
from shoal.kvstore.client.memory import Memory
from shoal.kvstore.client.moving import elsewhere, readdress
from shoal.kvstore.client.standing import stand
from shoal.kvstore.client.wording import describe, refusal, too_late
from shoal.kvstore.gates import Gate, altered_gate
from shoal.kvstore.wire.messages import (
    Ack,
    Called,
    Done,
    Elsewhere,
    Granted,
    Hello,
    HelloOk,
    Pull,
    Push,
    Recalled,
    Refused,
    Retire,
    Stated,
    StatsReply,
    Surveyed,
    Ticket,
    Value,
    Waiting,
)
from shoal.kvstore.wire.schema import Message

__all__ = ["ClientAction", "ClientCore", "Complete", "Dropped", "Fail", "Job", "Stage", "Transmit", "Warn"]

KEPT_TICKETS = 64
"""Turns whose place in a round is remembered, for slices that are behind."""

RETRY_MAX_S = 8.0
PATIENCE = 3.0
"""Times the usual wait for an acknowledgement: what is still on a slow link is not sent again."""
WARN_S = 30.0
SILENCE_S = 60.0
"""A server answers every repetition at once; one that has said nothing for this long cannot be reached."""
SMALL_BYTES, EXTRA_BYTES = 64 << 10, 1 << 20
"""Pushes of at most the first number of bytes may exceed the credit, together by the second one."""


class ClientCore:
    """One worker's requests to all servers.

    Args:
        rank, incarnation: of this worker.
        cluster: id of the run.
        servers: how many there are.
        timeout_s: a job older than this fails, naming whom it waits for.
    """

    def __init__(self, rank: int, incarnation: int, cluster: str, servers: int, timeout_s: float = 600.0) -> None:
        self.rank, self.incarnation, self.cluster, self.timeout_s = rank, incarnation, cluster, timeout_s
        self.silence_s = min(SILENCE_S, timeout_s)
        self.lanes: dict[int, Lane] = {}
        self.links = {s: Link() for s in range(servers)}
        self.flying: dict[int, Job] = {}
        self.moved: dict[int, int] = {}  # by slice that is not where its layout says, its server ...
        self.epochs: dict[int, int] = {}  # ... and since which placement epoch
        self.departed: set[int] = set()  # servers that have left
        self.tickets: dict[tuple[int, int], Place] = {}  # by store and turn
        self.barriers: dict[int, int] = {}  # by store, the last one that a server knows this worker has come to
        self.retired: set[int] = set()  # stores that it pushes to no more
        self.memory: Memory | None = None  # of a worker that had predecessors
        self.shared = 0  # number of the last change of the set of workers
        self.meets = False  # it waits for the next
        self._changes: dict[int, list[tuple[int, dict[str, Any]]]] = {}  # by store, of the gate: clock and limits
        self._turns: dict[int, int] = {}  # by store, how many places have been asked for
        self.streams: dict[int, int] = {}  # seq -> slice whose new values come under it, unasked
        self.counters = Counters()
        self._seq = 0
        self._order = 0
        self._look_due = 0.0
        self._pushes = 0  # under way
        self._push_seen = 0.0  # since when, or the last that was settled

    def register(self, slice_id: int, gate: Gate, store: int = 1, desk: int = 0) -> None:
        """A slice of ``store`` exists, under this gate; server ``desk`` gives places in the store's rounds."""
        if slice_id in self.lanes:
            return
        changes = list(self._changes.get(store, ()))
        lane = self.lanes[slice_id] = Lane(gate=gate, store=store, desk=desk, changes=changes)
        if self.memory is not None:
            self.memory.begin(slice_id, lane)

    def alter(self, store: int, settings: dict[str, Any], at_clock: int) -> None:
        """The gate of a store has other limits from version ``at_clock`` of each slice on.

        Servers see to them; but a client need not ask whether it may push as long as it knows that it may.
        """
        self._changes.setdefault(store, []).append((at_clock, settings))
        for lane in self.lanes.values():
            if lane.store == store:
                lane.changes.append((at_clock, settings))

    @staticmethod
    def _settle_gate(lane: Lane) -> None:
        """Take the limits whose clock has come."""
        for change in [c for c in lane.changes if c[0] <= lane.pulled]:
            lane.changes.remove(change)
            lane.gate = None if lane.gate is None else altered_gate(lane.gate, change[1])

    # --- what the caller asks -----------------------------------------------------------------------------------------

    def submit(self, jobs: list[Job], now: float) -> list[ClientAction]:
        """Take jobs in; those that may start, start."""
        over: list[ClientAction] = []
        if self.moved or self.departed:
            jobs, over = readdress(self, jobs)
        for job in jobs:
            job.since = job.warned = now
            if job.slice >= 0:
                lane = self.lanes[job.slice]
                lane.jobs.append(job)
                if lane.jobs[0] is job:
                    self._make_ready(job)
            else:
                self._make_ready(job)
        return [*over, *self._pump(now)] if over else self._pump(now)

    def _make_ready(self, job: Job) -> None:
        self._order += 1
        heapq.heappush(self.links[job.server].ready, (-job.priority, self._order, job))

    def _pump(self, now: float) -> list[ClientAction]:
        actions: list[ClientAction] = []
        for server, link in self.links.items():
            if not link.greeted:
                if link.ready and link.hello_since < 0:
                    actions += self._greet(server, link, now)
                continue
            while link.ready and self._may_start(link, link.ready[0][2]):
                actions += self._start(heapq.heappop(link.ready)[2], now)
        return actions

    @staticmethod
    def _may_start(link: Link, job: Job) -> bool:
        """Whether the credit allows it; an urgent small push does not wait until a large one is acknowledged."""
        return job.payload is None or link.credit > (0 if job.payload_bytes > SMALL_BYTES else -EXTRA_BYTES)

    def _greet(self, server: int, link: Link, now: float) -> list[ClientAction]:
        if link.hello_since < 0:
            link.hello_since = now
        link.hello_due, link.pause = now + link.pause, min(link.pause * 2, RETRY_S)
        self._look_due = min(self._look_due, link.hello_due)
        return [Transmit(server, self.greeting)]

    @property
    def greeting(self) -> Hello:
        """What this worker says first to a server."""
        return Hello(cluster=self.cluster, worker=self.rank, incarnation=self.incarnation)

    # --- a server that comes back -------------------------------------------------------------------------------------

    def replaced(self, server: int, now: float) -> list[ClientAction]:
        """Another process has taken the place of a server: greet it, and then repeat what is not answered."""
        link = self.links[server]
        link.greeted, link.hello_since, link.pause, link.heard = False, -1.0, 0.1, now
        return self._greet(server, link, now)

    def _greeted(self, server: int, m: HelloOk, now: float) -> list[ClientAction]:
        link = self.links[server]
        if m.asks:
            link.pause = 0.1
            return [] if link.greeted else [Transmit(server, stand(self, server, m.incarnation))]
        if link.greeted:
            return self._pump(now)
        link.greeted = True
        waiting = [j for j in self.flying.values() if j.server == server and j.stage is not Stage.OVER]
        self.counters.retries += len(waiting)
        return [*(Transmit(server, self._message(j)) for j in waiting), *self._pump(now)]

    def _rested(self, m: Retire) -> None:
        """A server knows that this worker has come to a barrier, or pushes to a store no more."""
        if m.meeting:
            self.meets = True
        elif not m.barrier:
            self.retired.add(m.store)
        elif m.barrier > self.barriers.get(m.store, 0):
            self.barriers[m.store] = m.barrier
            for lane in self.lanes.values():
                if lane.store == m.store:
                    lane.mark = lane.clock

    def _start(self, job: Job, now: float) -> list[ClientAction]:
        self._number(job)
        if job.request is not None:
            return self._enter(job, Stage.REQUEST, now)
        lane = self.lanes[job.slice]
        job.clock = lane.clock
        if lane.changes:
            self._settle_gate(lane)
        if lane.doubt:
            self._over(job)
            return [Fail(job, "StoreTimeoutError", lane.doubt)]
        if job.payload is None:
            return self._read(job, lane, now)
        if lane.gate is not None and lane.gate.asks:
            return self._use_ticket(job, lane, now)
        if lane.spared:
            return self._spare(job, lane, now)
        if lane.gate is not None and not lane.gate.ready(lane.clock, lane.floor):
            return self._enter(job, Stage.ENTER, now)
        return self._enter_push(job, now)

    def _use_ticket(self, job: Job, lane: Lane, now: float) -> list[ClientAction]:
        """Push under the place that this turn has in a round; ask for one if nobody has."""
        key = lane.store, lane.turn
        ticket = self.tickets.get(key)
        if ticket is not None and ticket.granted is not None:
            return self._push_under(job, lane, ticket.granted, now)
        self.flying.pop(job.seq, None)
        job.stage = Stage.ENTER
        if ticket is not None:
            ticket.waiting.append(job)
            return []
        if lane.turn < self._turns.get(lane.store, 0):
            text = (
                f"worker {self.rank} pushes {job.key!r} for the {lane.turn + 1}. time, and other keys more than "
                f"{KEPT_TICKETS} times more: where rounds do not wait for every worker, all are pushed equally often"
            )
            return self._failed(job, "ConfigError", text)
        self._turns[lane.store] = lane.turn + 1
        self.tickets.pop((lane.store, lane.turn - KEPT_TICKETS), None)
        ticket = self.tickets[key] = Place(waiting=[job])
        seen = [x.pulled for x in self.lanes.values() if x.store == lane.store and x.read]
        ask = Ticket(
            worker=self.rank,
            incarnation=self.incarnation,
            seq=0,
            store=lane.store,
            index=lane.turn,
            base=min(seen, default=-1),
        )
        request = Job(server=lane.desk, key=job.key, priority=job.priority, request=ask, ticket=ticket)
        return self.submit([request], now)

    def _push_under(self, job: Job, lane: Lane, granted: Granted, now: float) -> list[ClientAction]:
        lane.turn += 1
        if lane.spared:
            return self._spare(job, lane, now)
        if granted.taken:
            job.ticket = self.tickets[lane.store, lane.turn - 1]
            return self._enter_push(job, now)
        self.counters.skipped += 1
        return [Dropped(job), *self._spare(job, lane, now)]

    def _spare(self, job: Job, lane: Lane, now: float) -> list[ClientAction]:
        """Do all of a push but send it."""
        lane.spared = max(0, lane.spared - 1)
        job.payload, job.more, job.rows = None, (), job.rows if job.want else None
        return self._read(job, lane, now) if job.want else self._finish(job, None, now)

    def _granted(self, request: Job, m: Granted, now: float) -> list[ClientAction]:
        """A place in a round, or the news that it is too late for one, for all who wait for it."""
        ticket = request.ticket
        self._over(request)
        if ticket is None:
            return []
        ticket.granted = m
        waiting, ticket.waiting = ticket.waiting, []
        for job in waiting:
            self._make_ready(job)
        return self._pump(now)

    def _failed(self, job: Job, error: str, text: str) -> list[ClientAction]:
        """End a job without success; with a request for a place, all that wait for it."""
        self._over(job)
        if job.request is None or job.ticket is None:
            return [Fail(job, error, text)]
        waiting, job.ticket.waiting = job.ticket.waiting, []
        self.tickets = {k: t for k, t in self.tickets.items() if t is not job.ticket}
        return [a for each in waiting for a in self._failed(each, error, text)]

    def _read(self, job: Job, lane: Lane, now: float) -> list[ClientAction]:
        """Ask for the value, unless one that came unasked is new enough."""
        gate, clock = lane.gate, job.clock + (job.payload is not None)
        if gate is None or not gate.eager or job.rows is not None:
            return self._enter(job, Stage.READ, now)
        if lane.fresh is not None and gate.ready(clock, lane.fresh.floor):
            lane.pulled = lane.fresh.version
            return self._finish(job, lane.fresh, now)
        self._number(job)
        self.streams.pop(lane.stream, None)
        lane.stream = job.seq
        self.streams[job.seq] = job.slice
        return self._enter(job, Stage.READ, now)

    def _streamed(self, m: Message) -> None:
        """A value that came unasked."""
        lane = self.lanes.get(self.streams.get(getattr(m, "seq", -1), -1))
        if lane is None or not isinstance(m, Value) or m.value is None:
            return
        lane.floor = max(lane.floor, m.floor)
        if lane.fresh is None or m.version > lane.fresh.version:
            lane.fresh = m

    def _number(self, job: Job) -> None:
        """A sequence number of its own for what is asked next: an answer to an earlier question never fits it."""
        self.flying.pop(job.seq, None)
        job.seq, self._seq = self._seq, self._seq + 1
        self.flying[job.seq] = job

    def _enter_push(self, job: Job, now: float) -> list[ClientAction]:
        job.credit, job.began = job.payload_bytes, now
        self.links[job.server].credit -= job.credit
        self.counters.sent += 1
        if not self._pushes:
            self._push_seen = now
        self._pushes += 1
        self.counters.bytes_pushed += job.payload_bytes
        self.counters.bytes_dense += job.dense_bytes or job.payload_bytes
        return self._enter(job, Stage.PUSH, now)

    def _enter(self, job: Job, stage: Stage, now: float) -> list[ClientAction]:
        self._set_due(job, stage, now)
        return [Transmit(job.server, self._message(job))]

    def _set_due(self, job: Job, stage: Stage, now: float) -> None:
        pause = min(RETRY_MAX_S, max(RETRY_S, PATIENCE * self.links[job.server].trip_s))
        job.stage, job.pause, job.due = stage, pause, now + pause
        self._look_due = min(self._look_due, job.due)

    def _message(self, job: Job) -> Message:
        """The message that asks for what the job waits for."""
        lane = self.lanes.get(job.slice)
        if job.stage is Stage.REQUEST:
            return self._stamped(job)
        if job.stage is Stage.PUSH and job.payload is not None and lane is not None:
            granted = None if job.ticket is None else job.ticket.granted
            return Push(
                worker=self.rank,
                incarnation=self.incarnation,
                seq=job.seq,
                slice=job.slice,
                clock=job.clock,
                pulled=lane.pulled,
                round=lane.pulled if granted is None else granted.round,
                quota=0 if granted is None else granted.quota,
                holds=granted is not None and granted.holds,
                want=job.want and not (lane.gate is not None and lane.gate.eager),
                reply=job.reply,
                codec=job.codec,
                value=job.payload,
                more=job.more,
                rows=job.rows,
            )
        clock = job.clock + (job.payload is not None and job.stage is Stage.READ)
        return Pull(
            worker=self.rank,
            incarnation=self.incarnation,
            seq=job.seq,
            slice=job.slice,
            clock=clock,
            payload=job.stage is Stage.READ,
            reply=job.reply,
            watch=lane is not None and job.seq == lane.stream,
            rows=job.rows if job.stage is Stage.READ else None,
        )

    def _stamped(self, job: Job) -> Message:
        """A request under its own sequence number."""
        m: Any = job.request
        if m is not None and m.flow == "worker -> server":
            stamp: dict[str, Any] = {"seq": job.seq, "worker": self.rank, "incarnation": self.incarnation}
            stamped: Message = replace(m, **{name: value for name, value in stamp.items() if name in m.names})
            return stamped
        raise LocalProtocolError(f"a client sends no {type(m).__name__}")

    # --- what servers answer ------------------------------------------------------------------------------------------

    def receive(self, server: int, m: Message, now: float) -> list[ClientAction]:
        """What follows from a server's answer; an answer to nothing is an old one and is ignored."""
        self.links[server].heard = now
        match m:
            case HelloOk():
                return self._greeted(server, m, now)
            case Refused() if not self.links[server].greeted:
                return self._refuse_all(server, m)
        if self.streams:
            self._streamed(m)
        job = self.flying.get(getattr(m, "seq", -1))
        if job is None or job.server != server:
            return []
        match m:
            case Ack():
                return self._acknowledged(job, m, now)
            case Value():
                return self._valued(job, m, now)
            case Waiting():
                job.missing = m.missing
                return []
            case Granted():
                return self._granted(job, m, now)
            case Done() if isinstance(job.request, Retire):
                self._rested(job.request)
                return self._finish(job, m, now)
            case Done() | StatsReply() | Surveyed() | Called() | Recalled() | Stated():
                return self._finish(job, m, now)
            case Elsewhere():
                return elsewhere(self, job, m, now)
            case Refused():
                if m.counted and job.stage is Stage.PUSH:
                    self.lanes[job.slice].clock += 1
                self._settle(job, now)
                return [*self._failed(job, m.error, refusal(self.rank, job, m)), *self._pump(now)]
        return []

    def _acknowledged(self, job: Job, m: Ack | Value, now: float) -> list[ClientAction]:
        if job.stage is not Stage.PUSH:
            return []
        lane = self.lanes[job.slice]
        lane.floor = max(lane.floor, m.floor)
        lane.clock += 1
        lane.seen, lane.server = max(lane.seen, m.version), job.server
        staleness = max(0, m.version - lane.pulled - 1)  # the updates in between, without the push's own
        self.counters.staleness += (staleness - self.counters.staleness) / 32
        self._settle(job, now)
        if isinstance(m, Value):
            self.counters.bytes_acknowledged += value_bytes(m)
        self._give_back(job)
        actions: list[ClientAction] = [] if m.taken else [Dropped(job)]
        job.undo = None if m.taken else job.undo  # it counts, whatever becomes of the read
        self.counters.dropped += not m.taken
        if not job.want:
            return [*actions, *self._finish(job, None, now)]
        if lane.gate is not None and lane.gate.eager:
            return [*actions, *self._read(job, lane, now), *self._pump(now)]
        self._set_due(job, Stage.READ, now)
        return [*actions, *self._pump(now)]

    def _settle(self, job: Job, now: float) -> None:
        """The push is acknowledged (or refused): its bytes are no longer under way."""
        if job.stage is Stage.PUSH:
            link = self.links[job.server]
            link.trip_s += (now - job.began - link.trip_s) / 8
            link.landed = job.began, now
            self.counters.acknowledged += 1
            self.counters.bytes_acknowledged += job.payload_bytes
            self._landed(now)

    def _landed(self, now: float) -> None:
        self._pushes -= 1
        self.counters.pushing_s += now - self._push_seen
        self._push_seen = now

    def _give_back(self, job: Job) -> None:
        self.links[job.server].credit += job.credit
        job.credit = 0

    def _valued(self, job: Job, m: Value, now: float) -> list[ClientAction]:
        if job.stage is Stage.REQUEST:  # of a snapshot: it is no read that a later contribution is computed from
            self.counters.bytes_pulled += value_bytes(m)
            return self._finish(job, m, now)
        if job.stage is Stage.ENTER:
            lane = self.lanes[job.slice]
            lane.floor = max(lane.floor, m.floor)
            self._number(job)
            return self._enter_push(job, now)
        actions = self._acknowledged(job, m, now)
        if job.stage is not Stage.READ or m.value is None:
            return actions
        lane = self.lanes[job.slice]
        lane.pulled, lane.floor = m.version, max(lane.floor, m.floor)
        lane.seen, lane.server, lane.read = max(lane.seen, m.version), job.server, True
        self.counters.bytes_pulled += value_bytes(m)
        return [*actions, *self._finish(job, m, now)]

    def _finish(self, job: Job, result: Message | None, now: float) -> list[ClientAction]:
        self._over(job)
        return [Complete(job, result), *self._pump(now)]

    def _over(self, job: Job) -> None:
        """Forget a job; the next one of its slice may start."""
        self._give_back(job)
        job.stage = Stage.OVER
        self.flying.pop(job.seq, None)
        lane = self.lanes.get(job.slice)
        if lane is not None and lane.jobs and lane.jobs[0] is job:
            lane.jobs.popleft()
            if lane.jobs:
                self._make_ready(lane.jobs[0])

    def _refuse_all(self, server: int, m: Refused) -> list[ClientAction]:
        """The server does not take this worker: everything that was meant for it fails."""
        link = self.links[server]
        link.hello_since = -1.0
        actions: list[ClientAction] = []
        while link.ready:  # the end of one job makes the next of its slice ready
            job = heapq.heappop(link.ready)[2]
            actions += self._failed(job, m.error, m.text)
        return actions

    # --- time ---------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> tuple[list[ClientAction], float]:
        """Repeat what is due, fail what is too old; also says when to be woken next."""
        if now < self._look_due:
            return [], self._look_due
        actions: list[ClientAction] = []
        for server, link in self.links.items():
            if not link.greeted and link.hello_since >= 0 and now >= link.hello_due:
                actions += self._greet_again(server, link, now)
        for job in list(self.flying.values()):
            actions += self._look_at(job, now)
        due = [j.due for j in self.flying.values()]
        due += [x.hello_due for x in self.links.values() if not x.greeted and x.hello_since >= 0]
        self._look_due = min(due, default=now + RETRY_S)
        return actions, self._look_due

    def was_stopped(self, now: float, paused_s: float) -> None:
        """This process has not run for so long: that it has not got on in this time is nobody's fault."""
        waiting = {id(j): j for jobs in (self.flying.values(), *(x.jobs for x in self.lanes.values())) for j in jobs}
        for job in waiting.values():
            job.since, job.warned = job.since + paused_s, job.warned + paused_s
        for link in self.links.values():
            link.heard = now
            link.hello_since = now if link.hello_since >= 0 else link.hello_since

    def _greet_again(self, server: int, link: Link, now: float) -> list[ClientAction]:
        if now - link.hello_since < self.silence_s:
            return self._greet(server, link, now)
        text = f"server {server} has not answered worker {self.rank}'s greeting for {self.silence_s:g} s"
        return self._refuse_all(server, Refused(seq=0, error="StoreTimeoutError", text=text))

    def _look_at(self, job: Job, now: float) -> list[ClientAction]:
        if now < job.due or job.stage is Stage.OVER:
            return []
        text = too_late(self, job, now)
        if text:
            if job.stage is Stage.PUSH:
                self._landed(now)
                job.undo = None  # it may have been counted
                self.lanes[job.slice].doubt = f"an earlier push of {job.key!r} may or may not be counted: {text}"
            return [*self._failed(job, "StoreTimeoutError", text), *self._pump(now)]
        began, acknowledged = self.links[job.server].landed
        if job.stage is Stage.PUSH and began <= job.began and now - acknowledged < RETRY_S:
            job.due = now + RETRY_S  # those before it have only just come through: it is still on its way
            return []
        job.pause = min(job.pause * 2, RETRY_MAX_S)
        job.due = now + job.pause
        self.counters.retries += 1
        actions: list[ClientAction] = [Transmit(job.server, self._message(job))]
        if now - job.warned >= WARN_S:
            job.warned = now
            actions.append(Warn(f"{describe(self.rank, job)} for {now - job.since:.0f} s so far"))
        return actions

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every event."""
        assert self.counters.acknowledged <= self.counters.sent
        for server, link in self.links.items():
            out = sum(j.credit for j in self.flying.values() if j.server == server)
            assert link.credit + out == CREDIT_BYTES
        for lane in self.lanes.values():
            assert sum(j.stage is not Stage.QUEUED for j in lane.jobs) <= 1
