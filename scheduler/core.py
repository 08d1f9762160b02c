"""The scheduler as a state machine: ``handle(event, now) -> actions``.

It decides who is in the cluster. What must not be forgotten goes through `_commit`, the one point where the log grows;
leases, arrivals at barriers and watchers are soft state beside it, which repetitions rebuild. A scheduler that is given
the log of an earlier one goes on where that one was, under the next term, and calls for the members. Policies:

- a join is known by its token, so that repeating it changes nothing;
- a node that falls silent before the run begins frees its place; during the run, it ends the run, unless it is a worker
  and the run is elastic (`shoal.scheduler.workers`): then it is given up after a grace, if nobody takes its place; or a
  server that has a replica, or a replica (`shoal.scheduler.replicas`);
- a node that gives up, and a server that leaves before the workers are done, end the run; the cause is named to all;
- a worker that is done, or has ended its script, is waited for no more, at barriers or anywhere else;
- when all workers are done the servers are told to stop; when they have said goodbye the run is finished;
- every message of a member is answered, and the answer tells it what it may have missed;
- whoever belongs to another run is refused; a scheduler that hears of a greater term than its own steps down.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from shoal.errors import ConfigError
from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.gates import canonical_mode
from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Attach,
    Barrier,
    BarrierWaiting,
    Control,
    Declare,
    Drain,
    Farewell,
    FromScheduler,
    Goodbye,
    Handed,
    Heartbeat,
    InStep,
    Join,
    Lost,
    Meet,
    Refused,
    Released,
    Settle,
    Snapshot,
    Stop,
    ToScheduler,
    Watch,
    Welcome,
)
from shoal.kvstore.wire.schema import Message, Plain
from shoal.scheduler.barriers import Barriers
from shoal.scheduler.compaction import compacted
from shoal.scheduler.config import SchedulerConfig, contradiction, founding
from shoal.scheduler.contacts import Contacts, Watchers
from shoal.scheduler.control import Asker, Check, Controls
from shoal.scheduler.gather import ALLREDUCE, Gathering, as_count, member_of
from shoal.scheduler.invariants import check_state
from shoal.scheduler.keys import declared
from shoal.scheduler.log import (
    Aborted,
    Added,
    ClusterState,
    Departed,
    Dropped,
    Finished,
    Founded,
    GivenUp,
    Joined,
    Node,
    Opened,
    Record,
    Ruled,
    Started,
    Succeeded,
    describe,
)
from shoal.scheduler.placing import Placing
from shoal.scheduler.refusals import forgotten, lost_text, other_version, silence_text, stranger_text, too_few_text
from shoal.scheduler.replicas import SERVING, Replicas, late_replica, place_of
from shoal.scheduler.snapshots import snapshot
from shoal.scheduler.verdict import Ended, Interrupted
from shoal.scheduler.workers import Workers

__all__ = ["Action", "Ended", "Event", "Interrupted", "SchedulerConfig", "SchedulerCore"]

LINGER_S = 2.0
"""After the end, how long the scheduler stays for members and watchers that have not heard of it."""

ATTACH_S = 5.0
"""A scheduler that goes on with a log gives every member at least so long to be heard again."""

CALL_S = 0.1
"""Time between two calls for a member that has not been heard since."""


Event: TypeAlias = Received | Interrupted | Woke
Action: TypeAlias = Send | Ended


class SchedulerCore:
    """Who is in the cluster, in which order they came and went, what they declared, and what was changed since.

    Args:
        config: what the run is.
        check: whether a store can take new settings.
        past: the log of an earlier scheduler of the run, to go on with; empty for a new run.
    Raises:
        ConfigError: the past is of another run.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        check: Check = lambda settings, *_: (settings, ""),
        past: Sequence[Record] = (),
    ) -> None:
        self.config = config
        self.mode = canonical_mode(config.mode) if config.mode else ""
        if not as_count(config.servers).least and not as_count(config.servers).more:
            self.mode = ALLREDUCE
        counts = {"server": as_count(config.servers), "worker": as_count(config.workers)}
        counts["replica"] = as_count(counts["server"].least * config.replicas)
        self.gathering = Gathering(counts, config.settle_s)
        self.state = ClusterState(counts["worker"].least, counts["server"].least)
        self.log: list[Record] = []
        self._controls = Controls(self.state, self.log, self._commit, check)
        self.barriers = Barriers(self.state.opened, lambda name, index: self._commit(Opened(name, index)))
        self.contacts = Contacts()
        self.workers = Workers(config, self.mode, self.state, self.contacts, self.barriers, self._commit)
        self._replicas = Replicas(self.state, self._commit, lambda m: self._tell(self._live(), m))
        self.placing = Placing(self.mode, self.state, self.contacts, self._commit)
        self._watchers = Watchers()
        self._now = self._began = self._next_check = self._ended_at = self._joined_at = 0.0
        self._woken = self._ended = False
        self._next_call = 0.0
        self.deposed = False  # a later scheduler rules
        self._handlers: dict[type[Message], Callable[[Node, str, Any], Sequence[Action]]] = {
            Heartbeat: self._heartbeat,
            Barrier: self._barrier,
            Declare: self._declare,
            Settle: lambda node, to, m: [Send(to, self._controls.settle(describe(node.member), m))],
            Control: self._control,
            Goodbye: self._goodbye,
            Meet: self._meet,
            InStep: self._replicas.in_step,
            Handed: self.placing.handed,
            Drain: self.placing.drain,
        }
        self._restored = bool(past)
        self._found(past)

    def _found(self, past: Sequence[Record]) -> None:
        """Begin the log, or take the past over; either way under a new term."""
        first = past[0] if past else founding(self.config)
        wrong = contradiction(first, self.config) if isinstance(first, Founded) else "it does not say of which"
        if wrong:
            raise ConfigError(
                f"the scheduler's log is of another run ({wrong}): give the options that the run was begun with, or "
                "another directory"
            )
        for record in past or (first,):
            self._commit(record)
        self._commit(Ruled(self.state.term + 1))
        for node in self._live():
            self.contacts.expect(node.token, self.state.senders[node.token])

    # --- events -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event into account; what shall follow, in order."""
        self._advance(now)
        if self.deposed:
            return []
        actions: list[Action] = []
        if isinstance(event, Received):
            actions = self._fence(event.message) or self._message(event.sender, event.message)
            if self.deposed:
                return actions
        elif isinstance(event, Interrupted) and not self._over:
            actions = self._fail("the scheduler", event.reason)
        actions += [*self._call(), *self._begin(), *self._expire(), *self._confirm(), *self._regroup(), *self._end()]
        return [self._signed(action) for action in actions]

    def _signed(self, action: Action) -> Action:
        """Everything that is said names the run and the term."""
        if isinstance(action, Send) and isinstance(action.message, FromScheduler):
            return Send(action.to, replace(action.message, cluster=self.state.cluster, term=self.state.term))
        return action

    def _fence(self, m: Message) -> list[Action]:
        """Step down for a later scheduler of this run."""
        s = self.state
        if not isinstance(m, ToScheduler) or m.cluster != s.cluster or m.term <= s.term:
            return []
        self.deposed = True
        later = f"a later scheduler (term {m.term}) rules run {s.cluster}; this one (term {s.term}) steps down"
        return [Ended(True, f"{later}. Were two started from copies of one state directory?")]

    def wake_at(self) -> float:
        """When to be woken if nothing happens before."""
        deadlines = [self._now + self.config.lease_s / 4]
        if self.state.phase == "gathering":
            begins_at = self._begins_at()
            deadlines += [self._gather_until, *([begins_at] if begins_at is not None else [])]
        deadlines.append(self._ended_at + LINGER_S if self._over else self._next_check)
        if self.contacts.awaited:
            deadlines.append(self._next_call)
        return min(deadlines)

    def _advance(self, now: float) -> None:
        if not self._woken:
            self._woken, self._now, self._began = True, now, now
            self._joined_at = self._ended_at = now
            self.contacts.excuse(now + max(0.0, ATTACH_S - self.config.lease_s))
        pause = now - self._now
        if pause > self.config.lease_s / 2:  # this process was stopped: its members were not heard, but not silent
            self.contacts.excuse(pause)
        self._now = max(self._now, now)

    def _message(self, sender: str, m: Message) -> list[Action]:
        if isinstance(m, ToScheduler) and m.cluster not in ("", self.state.cluster):
            return self._stranger(sender, m)
        if isinstance(m, Watch):
            return self._watch(sender)
        if isinstance(m, Join):
            return self._join(sender, m)
        if isinstance(m, Lost):
            return self._replicas.told_lost(sender, m)
        if isinstance(m, Control) and m.token:
            return self._change(sender, (m.token, m.request), m, m.by[:80], worker=False)
        if isinstance(m, Drain) and m.token:
            return [*self.placing.asked(sender, m, m.by[:80])]
        node = self.state.tokens.get(self.contacts.token_of(sender))
        handler = self._handlers.get(type(m))
        if node is None:
            return self._stranger(sender, m)
        if handler is None:
            return [_refuse(sender, "LocalProtocolError", f"the scheduler does not take {type(m).__name__} messages")]
        if node.state == "lost":
            return [_refuse(sender, "StaleWorkerError", lost_text(node.member, self.config.lease_s))]
        self.contacts.heard(node.token, self._now)
        return [*handler(node, sender, m)]

    def _call(self) -> list[Action]:
        """Call for the members that have not been heard since this scheduler took over."""
        if self._now < self._next_call:
            return []
        self._next_call = self._now + CALL_S
        return [Send(sender, Attach()) for sender in self.contacts.awaited.values()]

    def _stranger(self, sender: str, m: Message) -> list[Action]:
        run = m.cluster if isinstance(m, ToScheduler) else ""
        if run == self.state.cluster:
            return [Send(sender, Attach())]
        return [_refuse(sender, "JoinRefusedError", stranger_text(type(m).__name__, run, self.state.cluster))]

    # --- joining ------------------------------------------------------------------------------------------------------

    def _join(self, sender: str, m: Join) -> list[Action]:
        if (node := self.state.tokens.get(m.token)) is not None:
            return self._rejoin(sender, node, m)
        if self.state.phase == "failed":
            return [Send(sender, self._abort())]
        dead = self._succeeds(m)
        reason = other_version(m, self.config.version) or ("" if dead else self._unfit(m) or forgotten(m))
        if reason:
            return [_refuse(sender, "JoinRefusedError", reason)]
        late = not dead and (self.workers.comes_late(m) or self.placing.comes_late(m))
        worker = late and m.role == "worker"
        free = self.workers.free_rank(m) if worker else self.gathering.lowest_free(m.role, self.state.nodes)
        rank = place_of(self.state, m) if dead else m.rank
        place = m.role, rank if rank >= 0 else free
        member = member_of(m, place[1], self.state.incarnations.get(place, 0) + 1)
        self.contacts.bind(m.token, sender, self._now)
        if dead or late:
            self._commit(Succeeded(member, m.token, sender) if dead else Added(member, m.token, sender))
            if member.role == "worker":
                self.workers.forget(member.rank)
            others = [n for n in self._live() if n.token != m.token]
            told = self._tell(others, self.state.news()[-1])
            return [*told, *self._rejoin(sender, self.state.tokens[m.token], m)]
        self._commit(Joined(member, m.token, sender))
        self._joined_at = self._now
        return [Send(sender, self._welcome(self.state.tokens[m.token]))]  # the others learn of it when they next beat

    def _rejoin(self, sender: str, node: Node, m: Join) -> list[Action]:
        if node.state == "lost":
            return [_refuse(sender, "StaleWorkerError", lost_text(node.member, self.config.lease_s))]
        self.contacts.bind(node.token, sender, self._now)
        self.contacts[node.token].generation = max(self.contacts[node.token].generation, m.generation)
        if self.state.phase != "running" or not node.live:
            return [Send(sender, self._standing(node))]
        if self.workers.awaits_servers(node):
            return [Send(sender, self._welcome(node))]
        return self._let_in(node)

    def _let_in(self, node: Node) -> list[Action]:
        """Everything that a member must know to begin, or to go on."""
        roster, stop = self.state.current_roster(), self._stopping and node.member.role in SERVING
        news = [self._welcome(node), roster, *self.state.news(node.member), _STOP if stop else None]
        return [Send(self._to(node), message) for message in news if message is not None]

    def _succeeds(self, m: Join) -> bool:
        """Whether this is a server with the snapshots of one that died, a worker in the place of one, or a replica."""
        if m.role == "replica":
            return self.state.phase == "running" and not late_replica(self.state, m)
        node = self.state.nodes.get((m.role, m.rank))
        able = m.role == "server" or self.workers.elastic
        return m.replaces and able and self.state.phase == "running" and node is not None and node.live

    def _unfit(self, m: Join) -> str:
        """Why this process cannot be taken in; empty when it can."""
        if self.workers.comes_late(m):
            return self.workers.refusal(m)
        if m.role == "replica" and self.state.phase != "gathering":
            return late_replica(self.state, m)
        if self.placing.comes_late(m):
            return self.placing.refusal(m)
        taken = {place: node.member for place, node in self.state.nodes.items()}
        return self.gathering.objection(m, taken, begun=self.state.phase != "gathering")

    def _welcome(self, node: Node) -> Welcome:
        return Welcome(
            rank=node.member.rank,
            incarnation=node.member.incarnation,
            lease_s=self.config.lease_s,
            grace_s=max(self.config.grace_s, self.workers.grace_s(node)),
            mode=self.mode,
            algo=self.config.algo,
            seed=self.config.seed,
            present=tuple(f"{role} {rank}" for role, rank in sorted(self.state.nodes)),
            missing=self.workers.awaits_servers(node) or self.missing(),
            elastic=self.workers.elastic,
            late=node.late,
            opened=node.opened,
        )

    def missing(self) -> tuple[str, ...]:
        """Who has not joined yet, such as "worker 1"."""
        return self.gathering.missing(self.state.nodes) if self.state.phase == "gathering" else ()

    def _begins_at(self) -> float | None:
        """When the run begins if nobody else joins; None while somebody is missing."""
        return self.gathering.begins_at(self.state.nodes, self._joined_at) if self.state.phase == "gathering" else None

    def _begin(self) -> list[Action]:
        """Begin the run if it is due, at the latest when the time to gather is over."""
        due = self._begins_at()
        if due is None or self._now < min(due, self._gather_until):
            return []
        self._commit(Started())
        return self._tell(self._live(), self.state.roster) if self.state.roster else []

    @property
    def _gather_until(self) -> float:
        return self._began + self.config.gather_timeout_s

    # --- the run ------------------------------------------------------------------------------------------------------

    def _heartbeat(self, node: Node, sender: str, m: Heartbeat) -> list[Action]:
        self.contacts.says(node.token, m.status, m.generation, self._now)
        standing = self._standing(node)
        if isinstance(standing, Alive):
            standing = replace(standing, sent=m.sent, clock=self._now)
        return [Send(sender, standing)]

    def _standing(self, node: Node) -> Message:
        """What a member needs to know most."""
        if not node.live:
            return Farewell()
        if self.state.phase == "failed":
            return self._abort()
        if self.state.phase == "gathering":
            return self._welcome(node)
        if self._stopping and node.member.role in SERVING:
            return _STOP
        if (stop := self.placing.stop_for(node)) is not None:
            return stop
        return Alive(generation=self.state.generation, change=self.workers.change(node))

    def _barrier(self, node: Node, sender: str, m: Barrier) -> list[Action]:
        if node.member.role != "worker":
            return [_refuse(sender, "LocalProtocolError", "only workers take part in barriers")]
        if self.barriers.opened(m.name, m.index):
            return [Send(sender, Released(name=m.name, index=m.index))]
        if self.state.phase == "failed" or not node.live:
            return [Send(sender, self._standing(node))]
        if not node.late:
            self.barriers.arrive(m.name, m.index, node.member.rank, self._now)
        opened = self._open_barriers()  # others, too, if this worker has ended its script
        if self.barriers.opened(m.name, m.index):
            return opened
        missing = self.barriers.missing(m.name, m.index, self._expected())
        names = tuple(self.state.name_of(("worker", rank)) for rank in missing)
        return [*opened, Send(sender, BarrierWaiting(name=m.name, index=m.index, missing=names))]

    def _expected(self) -> tuple[int, ...]:
        """Ranks of the workers that a barrier waits for."""
        if self.state.phase == "gathering":
            return tuple(rank for role, rank in self.gathering.places(self.state.nodes) if role == "worker")
        return tuple(node.member.rank for node in self.workers.entered())

    def _open_barriers(self) -> list[Action]:
        return [
            Send(self._to(node), Released(name=name, index=index))
            for name, index, ranks in self.barriers.open_ready(self._expected())
            for rank in ranks
            if (node := self.state.nodes["worker", rank]).live
        ]

    def _declare(self, node: Node, sender: str, m: Declare) -> list[Action]:
        if self.state.phase == "failed" or not node.live:
            return [Send(sender, self._standing(node))]
        return [Send(sender, declared(self.state, self.mode, node, m, self._commit))]

    # --- settings -----------------------------------------------------------------------------------------------------

    def _control(self, node: Node, sender: str, m: Control) -> list[Action]:
        if node.member.role != "worker":
            return [_refuse(sender, "LocalProtocolError", "only workers and operators change settings", m.request)]
        return self._change(sender, (node.token, m.request), m, describe(node.member), worker=True)

    def _change(self, sender: str, asker: Asker, m: Control, by: str, worker: bool) -> list[Action]:
        """A request for new settings, or its repetition: everybody is told who has not heard of them."""
        changed, objection = self._controls.ask(sender, asker, m, by, worker)
        if changed is None:
            return [_refuse(sender, "ConfigError", objection, m.request)]
        return self._tell(self._unaware(changed.generation), changed)

    def _unaware(self, generation: int) -> list[Node]:
        return [n for n in self._live() if self.contacts[n.token].generation < generation]

    def _confirm(self) -> list[Action]:
        told = self._controls.confirmed(lambda g: tuple(describe(n.member) for n in self._unaware(g)), self._over)
        return [Send(sender, answer) for sender, answer in told]

    def _meet(self, node: Node, sender: str, m: Meet) -> list[Action]:
        if node.member.role != "worker" or self.state.phase != "running" or not node.live:
            return [Send(sender, self._standing(node))]
        return [Send(sender, self.workers.meet(node, m))]

    def _regroup(self) -> list[Action]:
        """Workers hear that the set of them is to change, and that it has."""
        if self.state.phase != "running":
            return []
        answers, ready = self.workers.told(self._now), self.workers.ready()
        shared = [a for share in self.workers.shared() for a in self._tell(self._live(), share)]
        called = [Send(self._to(n), self._standing(n)) for n in self.workers.announce()]
        return [*shared, *answers, *called, *(a for n in ready for a in self._let_in(n)), *self.placing.advance()]

    # --- leaving and failing ------------------------------------------------------------------------------------------

    def _goodbye(self, node: Node, sender: str, m: Goodbye) -> list[Action]:
        farewell = Send(sender, Farewell())
        if not node.live:
            return [farewell]
        if self.state.phase == "failed":
            self._commit(Departed(node.token, "stopped", m.report))
            return [farewell]
        worker, drained = node.member.role == "worker", self.placing.may_leave(node)
        early = self.state.phase == "gathering" or not (worker or drained or self._stopping)
        alone = m.left and not self.workers.may_go_on_without([node])
        if m.failed or early or alone:
            reason = m.failed or self.workers.last_words(m) or "left before the run was complete"
            spared = self._replicas.lose(node, reason) if node.member.role in SERVING else None
            fails = spared or self._fail(describe(node.member), reason, (node.token,), "failed", m.report, m.detail)
            return [farewell, *fails]
        self._commit(Departed(node.token, "left" if m.left else "drained" if drained else "done", m.report))
        return [farewell, *(self._has_left() if worker or drained else [])]

    def _has_left(self) -> list[Action]:
        told = self._tell(self._live(), self.state.departures[-1])
        stop = self._tell([n for r in SERVING for n in self._live(r)], _STOP) if self._stopping else []
        return [*told, *self._open_barriers(), *stop]

    @property
    def _stopping(self) -> bool:
        """All workers are done."""
        return self.state.phase == "running" and not self._live("worker")

    def _fail(
        self,
        culprit: str,
        reason: str,
        tokens: tuple[str, ...] = (),
        state: str = "failed",
        report: Plain = None,
        detail: str = "",
    ) -> list[Action]:
        self._commit(Aborted(culprit, reason, tokens, state, report, detail))
        return self._tell(self._live(), self._abort())

    def _abort(self) -> Abort:
        return Abort(culprit=self.state.culprit, reason=self.state.reason, detail=self.state.detail)

    def _expire(self) -> list[Action]:
        if self._over or self._now < self._next_check:
            return []
        lease_s, live = self.config.lease_s, self._live()
        ends = {n.token: self.contacts[n.token].seen + self.workers.patience_s(n) for n in live}
        silent = [n for n in live if ends[n.token] <= self._now]
        self._next_check = min([t for t in ends.values() if t > self._now], default=self._now + lease_s)
        if self.state.phase == "gathering":
            for node in silent:
                self._commit(Dropped(node.token))
                self.contacts.awaited.pop(node.token, None)
            return self._gathered_too_long()
        if not silent:
            return []
        silent_s = self._now - min(self.contacts[n.token].seen for n in silent)
        if self.placing.may_be_lost(silent):
            return [a for node in silent for a in self._give_up(node)]
        if all(n.member.role == "worker" for n in silent) and self.workers.may_go_on_without(silent):
            return [a for node in silent for a in self._give_up(node)]
        reason = silence_text(silent_s, lease_s)
        told, silent = self._replicas.survive(silent, reason)
        culprits = ", ".join(describe(node.member) for node in silent)
        return [*told, *(self._fail(culprits, reason, tuple(n.token for n in silent), "lost") if silent else [])]

    def _give_up(self, node: Node) -> list[Action]:
        """The others go on without a worker that nobody has replaced, or a server that had nothing."""
        if node.member.role == "worker":
            self.workers.forget(node.member.rank)
        self._commit(GivenUp(node.token, self._now - self.contacts[node.token].seen))
        left = self._has_left()
        self.placing.gone(node)
        return left

    def _gathered_too_long(self) -> list[Action]:
        if self._now < self._gather_until:
            self._next_check = min(self._next_check, self._gather_until)
            return []
        missing, here = self.missing(), len(self.state.nodes)
        return self._fail(", ".join(missing), too_few_text(self.config.gather_timeout_s, here, len(missing)))

    # --- the end ------------------------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self.state.phase in ("finished", "failed")

    def _end(self) -> list[Action]:
        if self.state.phase == "running" and not self._live():
            self._commit(Finished())
        if not self._over or self._ended:
            return []
        told: list[Action] = [Send(sender, self.snapshot()) for sender in self._watchers.untold(self._now)]
        waited = self._now >= self._ended_at + LINGER_S
        called = self._restored and self._now < self._began + LINGER_S  # who watches has not had time to ask again
        if not waited and (self._live() or self._watchers or called):
            return told
        self._ended = True
        failed = self.state.phase == "failed"
        text = f"{self.state.culprit}: {self.state.reason}" if failed else "all workers are done"
        return [*told, Ended(failed, text)]

    def _watch(self, sender: str) -> list[Action]:
        """After the end the answer is the final snapshot, which `_end` sends to everybody who has not had it."""
        answer = self._watchers.ask(sender, self._now) and not self._over
        return [Send(sender, self.snapshot())] if answer else []

    def snapshot(self) -> Snapshot:
        """The state of the run, as watchers see it."""
        seen = self.contacts, self.barriers, self._expected()
        return snapshot(self.state, *seen, self.mode, self.missing(), self._began, self._now)

    # --- common -------------------------------------------------------------------------------------------------------

    def _commit(self, record: Record) -> None:
        """The one point where what must not be forgotten changes."""
        self.log.append(record)
        self.state.apply(record)
        if isinstance(record, Aborted | Finished):
            self._ended_at = self._now

    def _live(self, role: str = "") -> list[Node]:
        return [n for n in self.state.nodes.values() if n.live and role in ("", n.member.role)]

    def _to(self, node: Node) -> str:
        return self.contacts[node.token].sender

    def _tell(self, nodes: Iterable[Node], message: Message) -> list[Action]:
        return [Send(self._to(node), message) for node in nodes]

    def compact(self) -> None:
        """Shorten the log; its state stays the same."""
        self.log[:] = compacted(self.log)

    def check(self) -> None:
        """Raise if what must always hold does not; for tests and simulations."""
        check_state(self.state, self.log, self.gathering, self.contacts)


_STOP = Stop(reason="all workers are done")


def _refuse(to: str, error: str, text: str, seq: int = 0) -> Send:
    return Send(to, Refused(seq=seq, error=error, text=text))
