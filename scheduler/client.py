"""A process's membership of a cluster: a `Driver` for the I/O thread, a blocking API for every other thread."""

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from shoal import errors
from shoal.errors import MembershipError, NodeLostError, ShoalError, StoreTimeoutError
from shoal.kvstore.eventlog import event, identify
from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import (
    Abort,
    Arrived,
    Barrier,
    BarrierWaiting,
    Change,
    Changed,
    Control,
    Controlled,
    Declare,
    Drain,
    Draining,
    Farewell,
    KeyLayout,
    KeySpec,
    Left,
    Meet,
    Member,
    Met,
    Moved,
    Noted,
    Placed,
    Rebalance,
    Refused,
    Released,
    Replaced,
    Roster,
    Settle,
    Shared,
    Stop,
    Welcome,
)
from shoal.kvstore.wire.schema import Message, Plain
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.member import (
    STATUS_S,
    Action,
    Fail,
    Hush,
    MemberConfig,
    MemberCore,
    News,
    Question,
    barrier_key,
    declare_key,
    meet_key,
)
from shoal.version import VERSION

__all__ = ["Membership"]

log = logging.getLogger("shoal.scheduler")

VITALS_S = 1.0
"""How often a process looks at itself for those who watch the run."""


class Membership:
    """This process's place in the cluster.

    Drive it in a `Loop` under the peer name ``"scheduler"``; every other method may be called from any thread, except
    that the callbacks, which run on the loop's thread, must not wait. Once the run has failed every wait, present or
    later, raises at once and names the culprit.

    Args:
        transport: connected to the scheduler under the name ``"scheduler"``.
        role: "worker", "server" or "replica".
        rank: the rank it would like, or -1 for any.
        address: ``host:port`` where this process listens; "" if it does not.
        scheduler: ``host:port``, for texts.
        join_timeout_s: how long to wait for the scheduler's first answer.
        replaces: the process with this rank is dead, and this one takes its place; a server has its snapshots.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        role: str,
        scheduler: str,
        rank: int = -1,
        address: str = "",
        join_timeout_s: float = 60.0,
        replaces: bool = False,
    ) -> None:
        self.transport = transport
        self.core = MemberCore(
            MemberConfig(
                role=role,
                rank=rank,
                token=secrets.token_hex(16),
                address=address,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=VERSION,
                scheduler=scheduler,
                join_timeout_s=join_timeout_s,
                replaces=replaces,
            )
        )
        self.on_welcome: Callable[[Welcome], None] = _ignore
        self.on_roster: Callable[[Roster], None] = _ignore
        self.on_news: Callable[[Message], None] = _ignore  # the roster, and all that has a generation, in order
        self.on_left: Callable[[Left], None] = _ignore
        self.on_replaced: Callable[[Member], None] = _ignore
        self.on_arrived: Callable[[Member], None] = _ignore
        self.on_placing: Callable[[Rebalance | Moved], None] = _ignore
        self.on_shared: Callable[[Shared], None] = _ignore
        self.on_stop: Callable[[], None] = _ignore
        self.on_abort: Callable[[ShoalError], None] = _ignore
        self.on_change: Callable[[Change], None] = _ignore
        self.changes: list[Change] = []  # of settings, so far; only ever grows
        self.shares: list[Shared] = []  # who took part, oldest first; the first is the set with which the run began
        self.changing = False  # that set is to change, and this worker is waited for
        self._gone: set[int] = set()  # ranks that have left since they took part
        self.failure: ShoalError | None = None
        self.aborted = False  # the scheduler has said that the run has failed
        self.gone = False  # nothing more will be said
        self.draining = False  # the scheduler has taken up the request that this server be drained
        self._changed = threading.Condition()
        self._inbox: deque[Callable[[float], list[Action]]] = deque()
        self._welcome: Welcome | None = None
        self._roster: Roster | None = None
        self._answers: dict[str, Message] = {}
        self._waiting: dict[str, tuple[str, ...]] = {}
        self._indices: Counter[str] = Counter()
        self._requests = 0
        self._status: Plain = self.core.status
        self._told: Plain = self.core.status  # of what the scheduler has been told, what `set_status` was given
        self._vitals_at = 0.0
        self._vital: dict[str, Any] = {}
        self.vitals: Callable[[float], dict[str, Any]] | None = None
        """On the loop's thread, about once in `VITALS_S`: more to show of this process; must not wait."""
        self._due = 0.0  # when there is something to do, unless somebody asks for something before

    # --- driver -------------------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Take one message of the scheduler into account."""
        self._carry_out(self.core.handle(Received(peer, message), now))
        self.changing = self.core.change >= len(self.shares) > 0
        self._due = 0.0

    def wake(self, now: float) -> float:
        """Carry out what other threads asked for, and what is due. Called at every step of a loop: mostly a glance."""
        if now < self._due and not self._inbox and self._status is self._told:
            return self._due
        while self._inbox:
            self._carry_out(self._inbox.popleft()(now))
        status = self._status  # replaced as a whole, so that no lock is needed
        if status is not self._told or (self.vitals is not None and now >= self._vitals_at):
            self._tell(status, now)
        self._carry_out(self.core.handle(Woke(), now))
        self._due = min(self.core.wake_at(), now + STATUS_S)
        return self._due

    def _tell(self, status: Plain, now: float) -> None:
        """The next heartbeat has this status, and what there is to say beside it."""
        self._told = status
        if self.vitals is not None and now >= self._vitals_at:
            self._vitals_at, self._vital = now + VITALS_S, self.vitals(now)
        self.core.set_status({**status, **self._vital} if isinstance(status, dict) else status)

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    self.transport.send(to, message)
                case News(message):
                    self._news(message)
                case Fail(error, culprit, reason):
                    reason = self._barred() or reason
                    text = f"{culprit}: {reason}" if error == "NodeLostError" else reason
                    self._fail(errors.named(error, text, MembershipError))
                case Hush():
                    self._hush(action)

    def _barred(self) -> str:
        """Why the scheduler never answered, if it is because this process does not have its key."""
        why = self.transport.shut("scheduler") if self.core.welcome is None else ""
        return f"the scheduler at {self.core.config.scheduler} does not let this process in: {why}" * bool(why)

    def _hush(self, hush: Hush) -> None:
        who, where = self.core.config.role, self.core.config.scheduler
        if self.core.welcome is not None:
            who = f"{who} {self.rank}"
        if hush.back:
            text = "%s: the scheduler (%s) is back after %.1f s (term %d): attached again"
            extra = event("scheduler is back", f"silent for {hush.silent_s:.1f} s", term=hush.term)
            log.warning(text, who, where, hush.silent_s, hush.term, extra=extra)
        elif self.core.welcome is None:
            text = "%s: no scheduler has answered at %s for %.1f s, of at most %g: is it running, is the address right?"
            most_s = self.core.config.join_timeout_s
            extra = event("scheduler does not answer", f"for {hush.silent_s:.1f} s", join_timeout_s=most_s)
            log.warning(text, who, where, hush.silent_s, most_s, extra=extra)
        else:
            text = "%s: the scheduler (%s) has been silent for %.1f s; what does not need it goes on, for up to %g s"
            extra = event("scheduler is silent", f"for {hush.silent_s:.1f} s", grace_s=self.core.grace_s)
            log.warning(text, who, where, hush.silent_s, self.core.grace_s, extra=extra)

    def _news(self, m: Message) -> None:
        if isinstance(m, Roster | Left | Replaced | Changed | Arrived | Shared | Rebalance | Moved):
            self.on_news(m)
        match m:
            case Welcome(present=present, missing=missing):
                if missing:
                    total = len(present) + len(missing)
                    log.info("%d/%d joined, waiting for %s", len(present), total, ", ".join(missing))
                identify(m.rank)
                self._set(_welcome=m)
                self.on_welcome(m)
            case Roster():
                ranks = tuple(x.rank for x in m.members if x.role == "worker")
                self.shares.append(Shared(generation=m.generation, number=0, ranks=ranks, cursors={}, counted={}))
                self.on_roster(m)  # before the waiting threads go on: they may use what it sets up
                self._set(_roster=m)
            case Left():
                self._gone |= {m.rank} if m.role == "worker" else set()
                self.on_left(m)
            case Replaced(member=member):
                self.on_replaced(member)
            case Arrived(member=member):
                self.on_arrived(member)
            case Rebalance() | Moved():
                self.on_placing(m)
            case Draining():
                self.draining = True
            case Shared():
                self._gone -= set(m.ranks)
                self.on_shared(m)
                self._set(shares=[*self.shares, m])
            case Stop():
                self.on_stop()
            case Changed(change=change):
                self.on_change(change)
                self.changes.append(change)
            case Abort(culprit=culprit, reason=reason, detail=detail):
                self.aborted = True
                error = NodeLostError(f"the run has failed: {culprit}: {reason}")
                self._fail(errors.noted(error, f"{culprit}:\n{detail}" if detail else ""))
            case Farewell():
                self._set(gone=True)
            case _:
                self._answer(m)

    def _answer(self, m: Message) -> None:
        with self._changed:
            match m:
                case Released(name=name, index=index):
                    self._answers[barrier_key(name, index)] = m
                case BarrierWaiting(name=name, index=index, missing=missing):
                    self._waiting[barrier_key(name, index)] = missing
                case Met(number=number, missing=missing):
                    self._waiting[meet_key(number)] = missing
                    if m.later or m.gone or not missing:
                        self._answers[meet_key(number)] = m
                case Placed(request=request) | Noted(request=request) | Controlled(request=request):
                    self._answers[declare_key(request)] = m
                case Refused(seq=seq):
                    self._answers[declare_key(seq)] = m
            self._changed.notify_all()

    def _fail(self, error: ShoalError) -> None:
        self._set(failure=error, gone=True)
        self.on_abort(error)

    def _set(self, **values: Any) -> None:
        with self._changed:
            for name, value in values.items():
                setattr(self, name, value)
            self._changed.notify_all()

    # --- what this process is -----------------------------------------------------------------------------------------

    def _welcomed(self) -> Welcome:
        if self._welcome is None:
            raise MembershipError("this process has not joined a cluster yet: call wait_roster() first")
        return self._welcome

    @property
    def rank(self) -> int:
        """This process's rank among those of its role."""
        return self._welcomed().rank

    @property
    def incarnation(self) -> int:
        """How many processes have held this role and rank, this one included."""
        return self._welcomed().incarnation

    @property
    def cluster(self) -> str:
        """Id of the run."""
        return self._welcomed().cluster

    @property
    def mode(self) -> str:
        """Consistency mode that the run was started with, or ""."""
        return self._welcomed().mode

    @property
    def algo(self) -> str:
        """The rest of the run's algorithm: rule, strategy and codec that the run was started with, or ""."""
        return self._welcomed().algo

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self._welcomed().seed

    @property
    def roster(self) -> Roster:
        """Who is in the cluster, as the run began."""
        if self._roster is None:
            raise MembershipError("the cluster is not complete yet: call wait_roster() first")
        return self._roster

    @property
    def num_workers(self) -> int:
        """Workers with which the run began."""
        return sum(m.role == "worker" for m in self.roster.members)

    @property
    def num_servers(self) -> int:
        """Servers with which the run began."""
        return sum(m.role == "server" for m in self.roster.members)

    @property
    def elastic(self) -> bool:
        """Whether the run goes on when its workers change."""
        return self._welcomed().elastic

    @property
    def late(self) -> bool:
        """Whether this worker has joined while the run was under way, and not in the place of another."""
        return self._welcomed().late

    @property
    def chief(self) -> int:
        """The smallest rank that takes part: it does what one worker does for all."""
        return min((r for r in self.shares[-1].ranks if r not in self._gone), default=self.rank)

    def passed(self, name: str) -> bool:
        """Whether the occurrence of a barrier that comes next had opened before this process joined."""
        return self._indices[name] <= self._welcomed().opened.get(name, -1)

    # --- waits --------------------------------------------------------------------------------------------------------

    def wait_roster(self, timeout_s: float | None = None) -> Roster:
        """Wait until the cluster is complete.

        Args:
            timeout_s: None relies on the deadlines for joining (here) and for gathering (the scheduler's).
        Raises:
            MembershipError: no scheduler answered; a subclass if it refused, or if the run has failed meanwhile.
            StoreTimeoutError: names who is missing.
        """
        self._wait(lambda: self._roster is not None, timeout_s, self._gathering)
        return self.roster

    def _gathering(self) -> str:
        if self._welcome is None:
            return f"the scheduler at {self.core.config.scheduler} to answer"
        present, missing = len(self._welcome.present), len(self._welcome.missing)
        return f"{', '.join(self._welcome.missing)} to join ({present} of {present + missing} joined)"

    def barrier(self, name: str = "default", timeout_s: float | None = 600.0) -> None:
        """Wait until every worker has called this with the same name as often as this one has.

        Raises:
            StoreTimeoutError: names the workers that have not come.
            NodeLostError: the run has failed; names the culprit.
        """
        with self._changed:
            index = self._indices[name]
            self._indices[name] += 1
        key = barrier_key(name, index)
        self._ask(key, Barrier(name=name, index=index), timeout_s, lambda: self._at_barrier(name, index))

    def _at_barrier(self, name: str, index: int) -> str:
        return f"{self._who_lacks(barrier_key(name, index))} at barrier {name!r} (occurrence {index})"

    def come(
        self, cursor: Plain, counted: dict[str, tuple[int, ...]] | None = None, timeout_s: float | None = 600.0
    ) -> Met:
        """Come to the point where the set of workers changes, once; see `Meet`. Once it has, `shares` is longer.

        Args:
            cursor: how far this worker is with its data; None if it takes no part yet.
            counted: what the servers have told of ranks that are gone.
        Returns:
            The answer: the set has changed, or go on and come again, or ask the servers about somebody first.
        Raises:
            StoreTimeoutError: names the workers that have not come.
        """
        number = len(self.shares)
        message = Meet(number=number, cursor=cursor, counted=counted or {})
        key = meet_key(number)
        answer = self._ask(key, message, timeout_s, lambda: f"{self._who_lacks(key)} to come to the end of a batch")
        if not isinstance(answer, Met):
            raise MembershipError(f"the scheduler answered a worker that waits with {type(answer).__name__}")
        if not answer.later and not answer.gone:
            self._wait(lambda: len(self.shares) > number, timeout_s, lambda: "the scheduler to say who takes part")
        return answer

    def _who_lacks(self, key: str) -> str:
        return ", ".join(() if self.core.hushed else self._waiting.get(key, ())) or "the scheduler"

    def declare(
        self,
        gate: str,
        reduce: str,
        specs: Sequence[KeySpec],
        timeout_s: float | None = 60.0,
        *,
        store: int = 1,
        private: bool = False,
    ) -> tuple[KeyLayout, ...]:
        """Register keys of a store; where their slices live, in the order of ``specs``.

        Args:
            private: the store is made by the library for its own needs, and not bound to the run's mode.

        Raises:
            ShapeError, DTypeError, ConfigError: another worker declared it otherwise; the text has both.
            StoreTimeoutError: the scheduler did not answer in time.
        """
        request = self._number()
        m = Declare(request=request, gate=gate, reduce=reduce, store=store, private=private, keys=tuple(specs))
        return self._declared(m, timeout_s)[: len(specs)]

    def layouts(self, gate: str, reduce: str, store: int, timeout_s: float | None = 60.0) -> tuple[KeyLayout, ...]:
        """Every key that anybody has declared, in all stores of the run; raises as `declare`."""
        m = Declare(request=self._number(), gate=gate, reduce=reduce, store=store, keys=())
        return self._declared(m, timeout_s)

    def _declared(self, m: Declare, timeout_s: float | None) -> tuple[KeyLayout, ...]:
        answer = self._answer_to(m.request, m, timeout_s, "place the declared keys")
        if not isinstance(answer, Placed):
            raise MembershipError(f"the scheduler answered a declaration with {type(answer).__name__}")
        return answer.layouts

    def repeat(self, key: str, message: Question) -> None:
        """Say this to the scheduler again and again, until `hush` is called with the same ``key``; does not wait."""
        self._enqueue(lambda now: self.core.ask(key, message, now))

    def hush(self, key: str) -> None:
        """Say no more what was said under this key."""
        self._enqueue(lambda now: self.core.forget(key))

    def request_drain(self) -> int:
        """Ask that what this server has be moved away, and it be told to stop: a number for `refusal`. Waits not."""
        request = self._number()
        self.repeat(declare_key(request), Drain(request=request, server=self.rank))
        return request

    def refusal(self, request: int) -> str:
        """Why a request has been refused; empty if it has not."""
        answer = self._answers.get(declare_key(request))
        return answer.text if isinstance(answer, Refused) else ""

    def settle(
        self, store: int, optimizer: str, params: Plain, gradients: bool = True, timeout_s: float | None = 60.0
    ) -> None:
        """The servers have installed this optimizer for a store: changes are checked against it.

        Args:
            gradients: whether gradients are pushed, and not differences of weights.
        """
        request = self._number()
        message = Settle(request=request, store=store, optimizer=optimizer, params=params, gradients=gradients)
        self._answer_to(request, message, timeout_s, "take note of the optimizer")

    def control(
        self, store: int, settings: dict[str, Plain], at_clock: int = -1, timeout_s: float | None = 60.0
    ) -> Change:
        """Change settings of a store. Returns when every process of the run has heard of it.

        Args:
            at_clock: each slice takes them when its version is this; -1 is at once.
        Raises:
            ConfigError: the store cannot take them; says what it knows.
            StoreTimeoutError: somebody has not heard of it in time.
        """
        request = self._number()
        message = Control(request=request, token="", by="", store=store, settings=settings, at_clock=at_clock)
        answer = self._answer_to(request, message, timeout_s, "tell every process of the new settings")
        if not isinstance(answer, Controlled):
            raise MembershipError(f"the scheduler answered a change of settings with {type(answer).__name__}")
        return answer.change

    def tell(self, make: Callable[[int], Question]) -> None:
        """Say what ``make`` makes of a number, until the scheduler has noted it; does not wait."""
        question = make(self._number())
        self._enqueue(lambda now: self.core.ask(declare_key(getattr(question, "request", 0)), question, now))

    def _number(self) -> int:
        with self._changed:
            self._requests += 1
            return self._requests

    def _answer_to(self, request: int, message: Question, timeout_s: float | None, purpose: str) -> Message:
        answer = self._ask(declare_key(request), message, timeout_s, lambda: f"the scheduler to {purpose}")
        if isinstance(answer, Refused):
            raise errors.named(answer.error, answer.text, MembershipError)
        return answer

    def set_status(self, status: dict[str, Any]) -> None:
        """Show ``status`` to whoever watches the run; cheap enough to call at every step."""
        self._status = dict(status)

    def request_goodbye(self, report: Plain, failed: str = "", detail: str = "", left: str = "") -> None:
        """Say goodbye without waiting; ``gone`` turns true when it is answered, or has been tried long enough."""
        self._enqueue(lambda now: self.core.leave(failed, report, now, detail, left))

    def goodbye(self, report: Plain, failed: str = "", timeout_s: float = 5.0, left: str = "") -> bool:
        """Say goodbye: with ``failed`` empty this process is done, otherwise the run fails for that reason.

        Args:
            left: why a worker goes that is not done: the others go on without it, if the run is elastic.
            timeout_s: of a process that is done the wait is longer, by how long a scheduler may be away.
        Returns:
            Whether the scheduler may be taken to know; false after the run has failed, or after ``timeout_s``. Never
            raises.
        """
        self.request_goodbye(report, failed, left=left)
        with self._changed:
            self._changed.wait_for(lambda: self.gone, timeout_s if failed else timeout_s + self.core.grace_s)
            return self.gone and self.failure is None

    def _ask(self, key: str, message: Question, timeout_s: float | None, what: Callable[[], str]) -> Message:
        self._enqueue(lambda now: self.core.ask(key, message, now))
        try:
            self._wait(lambda: key in self._answers, timeout_s, what)
            return self._answers.pop(key)
        finally:
            self._waiting.pop(key, None)
            self._enqueue(lambda now: self.core.forget(key))

    def _enqueue(self, command: Callable[[float], list[Action]]) -> None:
        self._inbox.append(command)
        self.transport.wake()

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None, what: Callable[[], str]) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not ready():
                if self.failure is not None:
                    raise errors.again(self.failure)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    who = f"{self.core.config.role} {self._welcome.rank if self._welcome else '(not joined)'}"
                    raise StoreTimeoutError(f"{who} waited {timeout_s:g} s for {what()}{self._silent()}")
                self._changed.wait(left)

    def _silent(self) -> str:
        return f"; the scheduler ({self.core.config.scheduler}) does not answer" if self.core.hushed else ""


def _ignore(*_: Any) -> None:
    """A callback that nobody has set."""
