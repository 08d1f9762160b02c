"""A node's side of membership as a state machine: ``handle(event, now) -> actions``.

It joins, stays alive, repeats what is not answered, notices what it missed, and gives up on a silent scheduler. What
the application must know comes out as `News`, each piece once and in order; what ends the membership as `Fail`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Barrier,
    BarrierWaiting,
    Changed,
    Control,
    Controlled,
    Declare,
    Farewell,
    Goodbye,
    Heartbeat,
    Join,
    Left,
    Noted,
    Placed,
    Refused,
    Released,
    Roster,
    Settle,
    Stop,
    Welcome,
)
from shoal.kvstore.wire.schema import Message, Plain

__all__ = ["Action", "Event", "Fail", "MemberConfig", "MemberCore", "News"]

SCHEDULER = "scheduler"
"""The transport's name for the scheduler."""

JOIN_RETRY_S = (0.2, 1.0)
"""First and longest time between two tries to join."""

ASK_RETRY_S = 1.0
"""Time between two repetitions of a barrier or a declaration."""

STATUS_S = 0.5
"""A changed status is sent at most this often."""

GOODBYE_RETRY_S = 0.25


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


Event: TypeAlias = Received | Woke
Action: TypeAlias = Send | News | Fail


Question: TypeAlias = Barrier | Declare | Control | Settle
"""What is repeated until it is answered."""


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """Who a process is.

    Args:
        role: "worker" or "server".
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
        self.status: Plain = {}
        self._now = self._began = self._heard = self._next_send = self._beaten_at = self._leave_by = 0.0
        self._retry_s = JOIN_RETRY_S[0]
        self._woken = self._stopped = self._status_new = False
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

    def leave(self, failed: str, report: Plain, now: float, detail: str = "") -> list[Action]:
        """Say goodbye, and repeat it until it is answered or `MemberConfig.goodbye_s` have passed."""
        if self.phase in ("leaving", "over"):
            return []
        if self.phase == "joining":  # the scheduler has never answered: nobody would miss this process
            return self._over(Farewell())
        self.phase, self._goodbye = "leaving", Goodbye(failed=failed, detail=detail, report=report)
        self._leave_by, self._next_send = now + self.config.goodbye_s, now + GOODBYE_RETRY_S
        return self._send(self._goodbye)

    # --- events -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event into account; what shall follow, in order."""
        self._advance(now)
        if self.phase == "over":
            return []
        if isinstance(event, Received):
            self._heard = self._now
            if self.phase in ("waiting", "running"):
                self._next_send = self._beaten_at + self._lease_s() / 4
            return self._message(event.message)
        return self._tick()

    def wake_at(self) -> float:
        """When to be woken if nothing happens before."""
        if self.phase == "over":
            return self._now + 1.0
        if self.welcome is None:
            return min(self._next_send, self._began + self.config.join_timeout_s)
        times = [self._next_send, self._heard + self.welcome.lease_s, *(a.again_at for a in self._asked.values())]
        if self.phase == "leaving":
            times.append(self._leave_by)
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
        lease_s = self._lease_s()
        if self._now - self._heard >= lease_s:
            silent_s = self._now - self._heard
            return self._fail("NodeLostError", f"silent for {silent_s:.1f} s, with a lease of {lease_s:g} s")
        return [*self._beat(), *self._repeat()]

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
        return self._send(self._join())

    def _join(self) -> Join:
        c = self.config
        return Join(
            role=c.role, rank=c.rank, token=c.token, address=c.address, host=c.host, pid=c.pid, version=c.version
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
        self._next_send = self._now + self._lease_s() / 16  # until an answer says that there is time
        self._beaten_at, self._status_new = self._now, False
        return self._send(Heartbeat(status=self.status, generation=self.generation))

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
            case _ if self.welcome is None or self.phase == "leaving":
                return []  # older than the welcome, or of no use any more
            case Roster():
                return self._complete(m)
            case Left():
                return self._left(m)
            case Changed():
                return self._changed(m)
            case Alive(generation=generation):
                return self._send(self._join()) if generation > self.generation else []
            case Released(name=name, index=index):
                return self._answered(barrier_key(name, index), m)
            case BarrierWaiting(name=name, index=index):
                return [News(m)] if barrier_key(name, index) in self._asked else []
            case Placed(request=request) | Noted(request=request):
                return self._answered(declare_key(request), m)
            case Controlled(request=request):
                return self._answered(declare_key(request), m)
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

    def _left(self, m: Left) -> list[Action]:
        """Departures come in order: one that skips a generation waits until the missed ones are sent again."""
        if self.roster is None or m.generation != self.generation + 1:
            return []
        self.generation = m.generation
        return [News(m)]

    def _changed(self, m: Changed) -> list[Action]:
        """Like departures; but somebody waits for it, so that nothing here is left to the next heartbeat."""
        if self.roster is None or m.generation > self.generation + 1:
            return self._send(self._join())
        news: list[Action] = [News(m)] if m.generation == self.generation + 1 else []
        self.generation = max(self.generation, m.generation)
        return [*news, *self._send(Heartbeat(status=self.status, generation=self.generation))]

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

    @staticmethod
    def _send(message: Message) -> list[Action]:
        return [Send(SCHEDULER, message)]


def barrier_key(name: str, index: int) -> str:
    """Under which a barrier is asked for."""
    return f"barrier {index} {name}"


def declare_key(request: int) -> str:
    """Under which a declaration is asked for."""
    return f"declare {request}"
