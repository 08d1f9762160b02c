"""A node's side of membership as a state machine: ``handle(event, now) -> actions``.

It joins, stays alive, repeats what is not answered, notices what it missed, and gives up on a silent scheduler: after
the lease, or, if the scheduler has a log on disk and may come back, after its grace. A scheduler that has come back is
known by its greater term: the member says who it is, and repeats what is not answered; whoever speaks under a smaller
term, or for another run, is not listened to. What the application must know comes out as `News`, each piece once and in
order; what ends the membership as `Fail`.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Arrived,
    Attach,
    Barrier,
    BarrierWaiting,
    Changed,
    Control,
    Controlled,
    Declare,
    Drain,
    Draining,
    Farewell,
    FromScheduler,
    Goodbye,
    Handed,
    Heartbeat,
    InStep,
    Join,
    Left,
    Lost,
    Meet,
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
    ToScheduler,
    Welcome,
)
from shoal.kvstore.wire.schema import Message, Plain
from shoal.scheduler.offset import Offset

__all__ = ["Action", "Event", "Fail", "Hush", "MemberConfig", "MemberCore", "News"]

SCHEDULER = "scheduler"
"""The transport's name for the scheduler."""

JOIN_RETRY_S = (0.2, 1.0)
"""First and longest time between two tries to join."""

JOIN_NOTICE_S = 5.0
"""How long nobody answers a process that joins before it says so."""

ASK_RETRY_S = 1.0
"""Time between two repetitions of a barrier or a declaration."""

STATUS_S = 0.5
"""A changed status is sent at most this often."""

GOODBYE_RETRY_S = 0.25

BEAT_RETRY_S = 0.5
"""Longest time between two heartbeats of which the first was not answered."""

ATTACH_RETRY_S = 0.2
"""A scheduler that calls again sooner has not had time to hear the answer."""


@dataclass(frozen=True, slots=True)
class News:
    """``message`` is new to this process."""

    message: Message


@dataclass(frozen=True, slots=True)
class Fail:
    """The membership is over; ``error`` is the name of the class in `shoal.errors` that callers raise."""

    error: str
    culprit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hush:
    """The scheduler, which may come back, has been silent for so long; or it is ``back``, under this ``term``.

    One that has never been heard of is silent, too; its first answer is not worth a word.
    """

    silent_s: float
    back: bool = False
    term: int = 0


Event: TypeAlias = Received | Woke
Action: TypeAlias = Send | News | Fail | Hush


Question: TypeAlias = Barrier | Declare | Control | Settle | Meet | InStep | Lost | Handed | Drain
"""What is repeated until it is answered."""


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """Who a process is.

    Args:
        role: "worker", "server" or "replica".
        rank: the rank it would like, or -1.
        token: random; names this process.
        address: where it listens, ``host:port``; "" if it does not.
        host: of this machine, for texts.
        pid: for texts.
        version: of shoal.
        scheduler: ``host:port``, for texts.
        join_timeout_s: how long to wait for a first answer.
        goodbye_s: how long to repeat a goodbye.
    """

    role: str
    rank: int = -1
    token: str = ""
    address: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    scheduler: str = ""
    join_timeout_s: float = 60.0
    replaces: bool = False
    goodbye_s: float = 2.0


@dataclass(slots=True)
class _Asked:
    message: Question
    again_at: float


class MemberCore:
    """One node's membership. ``phase``: "joining", "waiting" (for the others), "running", "leaving" or "over"."""

    def __init__(self, config: MemberConfig) -> None:
        self.config = config
        self.phase = "joining"
        self.welcome: Welcome | None = None
        self.roster: Roster | None = None
        self.generation = 0
        self.change = 0  # number of the `Shared` that this worker is waited for, as the scheduler last said
        self.status: Plain = {}
        self.term = 0  # of the scheduler; 0 as long as none has said one
        self.offset = Offset()  # of the scheduler's clock
        self.hushed = False  # the scheduler has been silent for a while, and may come back
        self._now = self._began = self._heard = self._next_send = self._beaten_at = self._leave_by = 0.0
        self._retry_s = JOIN_RETRY_S[0]
        self._attached = 0.0
        self._woken = self._stopped = self._status_new = False
        self._usurper = ""  # the run whose scheduler answers in the place of ours
        self._asked: dict[str, _Asked] = {}
        self._goodbye = Goodbye(failed="", report=None)

    # --- what the application asks for --------------------------------------------------------------------------------

    def ask(self, key: str, message: Question, now: float) -> list[Action]:
        """Send ``message`` and repeat it until it is answered, or `forget` is called with the same ``key``."""
        self._asked[key] = _Asked(message, now + ASK_RETRY_S)
        return self._send(message) if self.phase in ("waiting", "running") else []

    def forget(self, key: str) -> list[Action]:
        """Nobody waits for the answer any more."""
        self._asked.pop(key, None)
        return []

    def set_status(self, status: Plain) -> None:
        """What the next heartbeat says; sent soon, but not more often than `STATUS_S` allows."""
        self.status, self._status_new = status, True

    def leave(self, failed: str, report: Plain, now: float, detail: str = "", left: str = "") -> list[Action]:
        """Say goodbye, and repeat it until it is answered or `MemberConfig.goodbye_s` have passed.

        One that is done waits for a scheduler that may come back, which would take it for lost otherwise.
        """
        if self.phase in ("leaving", "over"):
            return []
        if self.phase == "joining":  # the scheduler has never answered: nobody would miss this process
            return self._over(Farewell())
        self.phase, self._goodbye = "leaving", Goodbye(failed=failed, left=left, detail=detail, report=report)
        goodbye_s = self.config.goodbye_s if failed else max(self.config.goodbye_s, self.grace_s)
        self._leave_by, self._next_send = now + goodbye_s, now + GOODBYE_RETRY_S
        return self._send(self._goodbye)

    # --- events -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event into account; what shall follow, in order."""
        self._advance(now)
        if self.phase == "over":
            return []
        if not isinstance(event, Received):
            return self._tick()
        m = event.message
        if not self._rules(m):
            return []
        back = self._hear(m)
        if self.phase in ("waiting", "running"):
            self._next_send = self._beaten_at + self._lease_s() / 4
        return [*back, *self._message(m)]

    def _rules(self, m: Message) -> bool:
        """Whether this is said by the scheduler of our run, and not by one that has been replaced."""
        if not isinstance(m, FromScheduler) or not self.term or self.welcome is None:
            return True
        if m.cluster != self.welcome.cluster:
            self._usurper = m.cluster or "nobody knows which"
            return not self.grace_s and isinstance(m, Refused)  # ours cannot come back: the stranger's word is the end
        return m.term >= self.term

    def _hear(self, m: Message) -> list[Action]:
        """The scheduler is there; if it is a later one than we knew, say who we are."""
        silent_s, self._heard = self._now - self._heard, self._now
        back, self.hushed, self._usurper = self.hushed, False, ""
        known, self.term = self.term, max(self.term, getattr(m, "term", 0))
        later = self.term > known > 0 and self.welcome is not None
        back = back and self.welcome is not None
        told: list[Action] = [Hush(silent_s, back=True, term=self.term)] if back or later else []
        return [*told, *(self._attach() if later else [])]

    def _attach(self) -> list[Action]:
        """Say who we are, and repeat what is not answered."""
        self._attached = self._now
        if self.phase == "leaving":
            return [*self._send(self._join()), *self._send(self._goodbye)]
        for asked in self._asked.values():
            asked.again_at = self._now
        self._beaten_at = self._now
        return [*self._send(self._join()), *self._say_alive(), *self._repeat()]

    def wake_at(self) -> float:
        """When to be woken if nothing happens before."""
        if self.phase == "over":
            return self._now + 1.0
        if self.welcome is None:
            return min(self._next_send, self._began + self.config.join_timeout_s)
        if self.phase == "leaving":
            return min(self._next_send, self._leave_by)
        times = [self._next_send, self._heard + self._patience_s(), *(a.again_at for a in self._asked.values())]
        if self.grace_s and not self.hushed:
            times.append(self._heard + self.welcome.lease_s / 2)
        if self._status_new:
            times.append(self._beaten_at + STATUS_S)
        return min(times)

    def _advance(self, now: float) -> None:
        if not self._woken:
            self._woken, self._began, self._next_send, self._heard = True, now, now, now
            self._now = now
        pause = now - self._now
        if self.welcome and pause > self.welcome.lease_s / 2:  # this process was stopped, not the scheduler silent
            self._heard += pause
        self._now = max(self._now, now)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> list[Action]:
        if self.phase == "joining":
            return self._try_join()
        if self.phase == "leaving":
            return self._try_leave()
        silent_s = self._now - self._heard
        if silent_s >= self._patience_s():
            return self._fail("NodeLostError", self._gone_text(silent_s))
        hush: list[Action] = []
        if self.grace_s and not self.hushed and silent_s >= self._lease_s() / 2:
            self.hushed, hush = True, [Hush(silent_s)]
        return [*hush, *self._beat(), *self._repeat()]

    def _gone_text(self, silent_s: float) -> str:
        if not self.grace_s:
            return f"silent for {silent_s:.1f} s, with a lease of {self._lease_s():g} s"
        taken = f" The scheduler of another run ({self._usurper}) has taken its address." if self._usurper else ""
        return (
            f"silent for {silent_s:.1f} s, and waited for {self.grace_s:g} s (its grace) at most: it has not been "
            f"started again with its state directory, or cannot be reached.{taken}"
        )

    def _try_join(self) -> list[Action]:
        if self._now >= self._began + self.config.join_timeout_s:
            return self._fail(
                "MembershipError",
                f"no scheduler answered at {self.config.scheduler} for {self.config.join_timeout_s:g} s: "
                "is it running, is the address right, and does a firewall let this machine reach it?",
            )
        if self._now < self._next_send:
            return []
        self._next_send = self._now + self._retry_s
        self._retry_s = min(self._retry_s * 1.5, JOIN_RETRY_S[1])
        hush: list[Action] = []
        if not self.hushed and self._now >= self._began + JOIN_NOTICE_S:
            self.hushed, hush = True, [Hush(self._now - self._began)]
        return [*hush, *self._send(self._join())]

    def _join(self) -> Join:
        c = self.config
        return Join(
            role=c.role,
            rank=self.welcome.rank if self.welcome else c.rank,
            token=c.token,
            address=c.address,
            host=c.host,
            pid=c.pid,
            version=c.version,
            incarnation=self.welcome.incarnation if self.welcome else 0,
            generation=self.generation,
            replaces=c.replaces,
        )

    def _try_leave(self) -> list[Action]:
        if self._now >= self._leave_by:
            return self._over(Farewell())
        if self._now < self._next_send:
            return []
        self._next_send = self._now + GOODBYE_RETRY_S
        return self._send(self._goodbye)

    def _beat(self) -> list[Action]:
        if self._now < self._next_send and not (self._status_new and self._now >= self._beaten_at + STATUS_S):
            return []
        self._next_send = self._now + min(self._lease_s() / 16, BEAT_RETRY_S)  # until an answer says that there is time
        self._beaten_at, self._status_new = self._now, False
        return self._say_alive()

    def _say_alive(self) -> list[Action]:
        return self._send(Heartbeat(status=self.status, generation=self.generation, sent=self._now))

    def _repeat(self) -> list[Action]:
        actions: list[Action] = []
        for asked in self._asked.values():
            if self._now >= asked.again_at:
                asked.again_at = self._now + ASK_RETRY_S
                actions += self._send(asked.message)
        return actions

    # --- messages -----------------------------------------------------------------------------------------------------

    def _message(self, m: Message) -> list[Action]:
        match m:
            case Abort():
                return self._aborted(m)
            case Farewell():
                return self._over(m) if self.phase == "leaving" else []
            case Refused():
                return self._refused(m)
            case Welcome():
                return self._welcomed(m)
            case Attach():
                return self._attach() if self.welcome and self._now >= self._attached + ATTACH_RETRY_S else []
            case _ if self.welcome is None or self.phase == "leaving":
                return []  # older than the welcome, or of no use any more
            case Roster():
                return self._complete(m)
            case Left() | Replaced() | Arrived() | Shared() | Rebalance() | Moved():
                return self._left(m)
            case Changed():
                return self._changed(m)
            case Alive(generation=generation, change=change):
                self.change = change
                self.offset.hear(m.sent, m.clock, self._now, m.term)
                return self._send(self._join()) if generation > self.generation else []
            case Met(number=number, missing=missing, later=later, gone=gone):
                over = later or gone or not missing
                key = meet_key(number)
                return self._answered(key, m) if over else [News(m)] if key in self._asked else []
            case Released(name=name, index=index):
                return self._answered(barrier_key(name, index), m)
            case BarrierWaiting(name=name, index=index):
                return [News(m)] if barrier_key(name, index) in self._asked else []
            case Placed(request=request) | Noted(request=request):
                return self._answered(declare_key(request), m)
            case Controlled(request=request):
                return self._answered(declare_key(request), m)
            case Draining():
                return [News(m)]
            case Stop():
                return self._stop(m)
        return []

    def _welcomed(self, m: Welcome) -> list[Action]:
        if self.phase not in ("joining", "waiting"):
            return []
        news = [] if self.welcome == m else [News(m)]
        if self.phase == "waiting":
            self.welcome = m
            return [*news]
        self.phase, self.welcome, self._beaten_at = "waiting", m, self._now
        self._next_send = self._now + m.lease_s / 4
        asked = [action for a in self._asked.values() for action in self._send(a.message)]
        return [*news, *asked]

    def _complete(self, m: Roster) -> list[Action]:
        if self.roster is not None:
            return []
        self.phase, self.roster, self.generation = "running", m, m.generation
        return [News(m)]

    def _left(self, m: Left | Replaced | Arrived | Shared | Rebalance | Moved) -> list[Action]:
        """Departures come in order: one that skips a generation waits until the missed ones are sent again.

        A worker waits until the servers have heard of those that come, so that a server says so at once; slices move to
        a server that has come when everybody has heard of it.
        """
        if self.roster is None or m.generation != self.generation + 1:
            return []
        self.generation = m.generation
        waited_for = self.config.role == "server" and isinstance(m, Arrived | Shared)
        waited_for = waited_for or (isinstance(m, Arrived) and m.member.role == "server")
        beat = Heartbeat(status=self.status, generation=self.generation)
        return [News(m), *(self._send(beat) if waited_for else [])]

    def _changed(self, m: Changed) -> list[Action]:
        """Like departures; but somebody waits for it, so that nothing here is left to the next heartbeat."""
        if self.roster is None or m.generation > self.generation + 1:
            return self._send(self._join())
        news: list[Action] = [News(m)] if m.generation == self.generation + 1 else []
        self.generation = max(self.generation, m.generation)
        return [*news, *self._say_alive()]

    def _stop(self, m: Stop) -> list[Action]:
        if self.roster is None:  # the stop has overtaken it
            return self._send(self._join())
        if self._stopped:
            return []
        self._stopped = True
        return [News(m)]

    def _answered(self, key: str, m: Message) -> list[Action]:
        return [News(m)] if self._asked.pop(key, None) else []

    def _refused(self, m: Refused) -> list[Action]:
        if m.seq > 0:
            return self._answered(declare_key(m.seq), m)
        if self.phase == "leaving":
            return self._over(Farewell())
        return self._fail(m.error, m.text)

    def _aborted(self, m: Abort) -> list[Action]:
        if self.phase == "leaving":  # the goodbye crossed it; repeating the goodbye brings the farewell
            return []
        self.phase = "over"
        known = Goodbye(failed="told to stop", report=None)
        return [*self._send(known), News(m)]

    # --- common -------------------------------------------------------------------------------------------------------

    def _over(self, m: Farewell) -> list[Action]:
        self.phase = "over"
        return [News(m)]

    def _fail(self, error: str, reason: str) -> list[Action]:
        self.phase = "over"
        return [Fail(error, f"the scheduler ({self.config.scheduler})", reason)]

    def _lease_s(self) -> float:
        return self.welcome.lease_s if self.welcome else self.config.join_timeout_s

    @property
    def grace_s(self) -> float:
        """How long a silent scheduler is waited for; 0 if it cannot come back."""
        return self.welcome.grace_s if self.welcome else 0.0

    def _patience_s(self) -> float:
        return max(self._lease_s(), self.grace_s)

    def _send(self, message: ToScheduler) -> list[Action]:
        cluster = self.welcome.cluster if self.welcome else ""
        return [Send(SCHEDULER, replace(message, cluster=cluster, term=self.term))]


def barrier_key(name: str, index: int) -> str:
    """Under which a barrier is asked for."""
    return f"barrier {index} {name}"


def meet_key(number: int) -> str:
    """Under which a change of the set of workers is asked for."""
    return f"meet {number}"


def declare_key(request: int) -> str:
    """Under which a declaration is asked for."""
    return f"declare {request}"
