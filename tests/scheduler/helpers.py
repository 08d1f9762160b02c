"""A scheduler core with some nodes, for tests that read as: this happened, so that was said."""

from typing import Any, TypeVar

from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import Declare, Goodbye, Heartbeat, Join, KeySpec
from shoal.kvstore.wire.schema import Message
from shoal.scheduler.core import Action, Ended, SchedulerConfig, SchedulerCore

M = TypeVar("M", bound=Message)

BYE = Goodbye(failed="", report={"n": 1})
BEAT = Heartbeat(status={"step": 3})


def join(role: str, name: str = "", rank: int = -1, version: str = "1", pid: int = 7) -> Join:
    return Join(role=role, rank=rank, token=name or role, address=f"{name}:1", host="h", pid=pid, version=version)


def declare(request: int = 1, gate: str = "bsp", reduce: str = "mean", **keys: tuple[int, ...]) -> Declare:
    specs = tuple(KeySpec(key=key, dtype="<f4", shape=shape) for key, shape in keys.items())
    return Declare(request=request, gate=gate, reduce=reduce, keys=specs)


class Scheduler:
    """A core, a clock, and what was sent to whom. Nodes are called w0, w1, ..., s0, s1, ... by sender and token."""

    def __init__(self, workers: int = 2, servers: int = 1, **config: Any) -> None:
        self.core = SchedulerCore(SchedulerConfig(workers, servers, version="1", **config))
        self.now = 0.0
        self.said: list[tuple[str, Message]] = []
        self.ended: Ended | None = None
        self.carry_out(self.core.handle(Woke(), 0.0))

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.said.append((action.to, action.message))
            else:
                assert self.ended is None, "the end is said once"
                self.ended = action
        self.core.check()

    def hear(self, sender: str, message: Message) -> list[tuple[str, Message]]:
        """One message comes in; what is sent because of it."""
        before = len(self.said)
        self.carry_out(self.core.handle(Received(sender, message), self.now))
        return self.said[before:]

    def answer(self, sender: str, message: Message, kind: type[M]) -> M:
        """The one answer of this kind that the sender gets."""
        (answer,) = [m for to, m in self.hear(sender, message) if to == sender and isinstance(m, kind)]
        return answer

    def sleep(self, seconds: float, *, beating: str = "") -> list[tuple[str, Message]]:
        """Time passes as in a shell; the nodes in ``beating`` stay alive. What is sent meanwhile."""
        before, until = len(self.said), self.now + seconds
        while self.now < until and self.ended is None:
            self.now = min(until, max(self.core.wake_at(), self.now + 1e-6))
            for name in beating.split():
                self.hear(name, BEAT)
            self.carry_out(self.core.handle(Woke(), self.now))
        return self.said[before:]

    def told(self, name: str, kind: type[M]) -> list[M]:
        """Everything of one kind that a node was sent."""
        return [m for to, m in self.said if to == name and isinstance(m, kind)]


def running(workers: int = 2, servers: int = 1, **config: Any) -> Scheduler:
    """A run that has begun."""
    s = Scheduler(workers, servers, **config)
    for i in range(servers):
        s.hear(f"s{i}", join("server", f"s{i}", pid=200 + i))
    for i in range(workers):
        s.hear(f"w{i}", join("worker", f"w{i}", pid=100 + i))
    assert s.core.state.phase == "running"
    return s
