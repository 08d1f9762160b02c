"""A scheduler and members over real sockets, on threads of this process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import shoal
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.client import Membership
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.shell import SchedulerShell
from tests.patience import PATIENCE_S

WAIT_S = PATIENCE_S


def expects_word_within(member: Membership, lease_s: float) -> None:
    """This member alone takes the scheduler for silent so soon. If all did, some would be lost on a busy machine."""
    assert member.core.welcome is not None
    member.core.welcome = replace(member.core.welcome, lease_s=lease_s)


class Cluster:
    """A scheduler and members, each on a thread of its own, in this process."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(16)
        self.loops: list[Loop] = []
        self.threads: list[threading.Thread] = []
        self.address = ""

    def scheduler(self, workers: int, servers: int = 1, **config: Any) -> None:
        transport = Transport("scheduler")
        self.address = f"127.0.0.1:{transport.bind('127.0.0.1')}"
        core = SchedulerCore(SchedulerConfig(workers, servers, version=shoal.__version__, **config))
        loop = Loop(transport, {})
        loop.drivers[""] = SchedulerShell(transport, core, loop.stop)
        self.drive(loop)

    def member(self, role: str = "worker", **options: Any) -> Membership:
        transport = Transport(role)
        transport.connect("scheduler", self.address)
        member = Membership(transport, role=role, scheduler=self.address, **options)
        self.drive(Loop(transport, {"scheduler": member}))
        return member

    def running(self, workers: int = 2, **config: Any) -> list[Membership]:
        """Workers, then a server, all of which have seen the roster; worker 0 first."""
        self.scheduler(workers, **config)
        members = [self.member(rank=r) for r in range(workers)] + [self.member("server")]
        for member in members:
            member.wait_roster(WAIT_S)
        return members

    def drive(self, loop: Loop) -> None:
        thread = threading.Thread(target=loop.run)
        thread.start()
        self.loops.append(loop)
        self.threads.append(thread)

    def call(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return self.pool.submit(function, *args)

    def close(self) -> None:
        for loop, thread in zip(self.loops, self.threads, strict=True):
            loop.stop()
            thread.join()
            loop.transport.close(0.0)
        self.pool.shutdown()
