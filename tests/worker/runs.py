"""A whole run on threads of this process: scheduler, servers and sessions, joined by loopback sockets."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import shoal
from shoal.errors import ShoalError
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.transport import Transport
from shoal.roles import ServerRole
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.shell import SchedulerShell, check_settings
from shoal.worker.session import Session
from tests.patience import PATIENCE_S


class Run:
    """``workers`` sessions and ``servers`` servers of one run."""

    def __init__(self, workers: int, servers: int, mode: str = "") -> None:
        self.threads: list[threading.Thread] = []
        transport = Transport("scheduler")
        self.address = f"127.0.0.1:{transport.bind('127.0.0.1')}"
        config = SchedulerConfig(workers, servers, version=shoal.__version__, mode=mode)
        self.core = SchedulerCore(config, check_settings)
        self.loop = Loop(transport, {})
        self.loop.drivers[""] = SchedulerShell(transport, self.core, self.loop.stop)
        self._start(self.loop.run)
        self.servers = [ServerRole(self.address, rank=r) for r in range(servers)]
        for role in self.servers:
            self._start(lambda role=role: self._serve(role))
        self.sessions = [Session(self.address, rank=r, timeout_s=PATIENCE_S) for r in range(workers)]
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(Session.start, self.sessions))

    def _start(self, work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.threads.append(thread)

    @staticmethod
    def _serve(role: ServerRole) -> None:
        with contextlib.suppress(ShoalError):
            role.run()

    def each(self, work: Callable[[Any], Any], mode: str = "") -> list[Any]:
        """Run ``work`` on every worker's store at once; the results, or errors, by rank."""
        stores = [s.store(mode, "mean") for s in self.sessions]
        with ThreadPoolExecutor(len(stores)) as pool:
            calls = [pool.submit(work, s) for s in stores]
            return [c.exception(2 * PATIENCE_S) or c.result() for c in calls]

    def finish(self) -> dict[str, Any]:
        """Everybody leaves; what the servers reported, added to nothing: by rank."""
        with ThreadPoolExecutor(len(self.sessions)) as pool:
            reports = list(pool.map(Session.finish, self.sessions))
            list(pool.map(Session.goodbye, self.sessions, reports))
        for thread in self.threads[1:]:
            thread.join(PATIENCE_S)
        nodes = self.core.snapshot()
        return {"workers": reports, "servers": [n.report for n in nodes.nodes if n.role == "server"], "last": nodes}

    def close(self) -> None:
        for session in self.sessions:
            session.aborted.set()
            session.goodbye({})
        for role in self.servers:
            role.membership.gone = True
            role.transport.wake()
        self.loop.stop()
        for thread in self.threads:
            thread.join(PATIENCE_S)
        self.loop.transport.close(0.0)


@contextlib.contextmanager
def run(workers: int, servers: int, mode: str = "") -> Iterator[Run]:
    made = Run(workers, servers, mode)
    try:
        yield made
    finally:
        made.close()
