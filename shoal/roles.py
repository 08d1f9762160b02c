"""The processes of a cluster, put together from their parts: scheduler, server, worker."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.dumps import dumps
from shoal.kvstore.eventlog import event
from shoal.kvstore.events import Apply
from shoal.kvstore.exposition import Family, provide
from shoal.kvstore.metrics import process_families
from shoal.kvstore.server.checked import CheckedShell
from shoal.kvstore.server.metrics import server_families
from shoal.kvstore.server.saver import Saving
from shoal.kvstore.server.shard import Identity, Shard
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.server.vitals import vitals
from shoal.kvstore.trace import recorder as tracing
from shoal.kvstore.trace.tap import open_transport, traced_apply
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import InStep, Lost, Member, Roster
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.tuning import allow_files, settle_server, tune_malloc
from shoal.scheduler import shell
from shoal.scheduler.address import address_towards, advertised
from shoal.scheduler.child import Launched
from shoal.scheduler.client import Membership
from shoal.scheduler.neighbours import Neighbourhood
from shoal.scheduler.signals import arrived, handling, insisting, stopped_by
from shoal.version import VERSION

__all__ = ["run_scheduler", "run_server", "run_worker"]

log = logging.getLogger("shoal.server")

run_scheduler = shell.run_scheduler

DRAIN_ANSWER_S = 5.0
"""A server that has been told to end waits so long for the scheduler to say that it is being drained."""

DETAIL_CHARS = 8000
"""Of a server's traceback, its end, that every worker is told."""


class ServerRole:
    """A server's process: membership and store in one loop, on the thread that calls `run`.

    Args:
        scheduler: ``host:port``.
        host: address to listen on; "" for the one that faces the scheduler.
        port: 0 lets the system choose.
        advertise: host, or ``host:port``, under which workers reach this server; "" for the one it listens on, or,
            if that is every address, the one that faces the scheduler.
        rank: the rank it would like, or -1 for any.
        join_timeout_s: how long to wait for the scheduler.
        access: who may join.
        saving: where its snapshots are kept, if they are.
        replaces: the server of this rank is dead, and its snapshots are there.
        replica: begin as the replica of the server of this rank.
        launched: who speaks for this process.
    """

    def __init__(
        self,
        scheduler: str,
        *,
        host: str = "",
        port: int = 0,
        advertise: str = "",
        rank: int = -1,
        join_timeout_s: float = 60.0,
        access: Access = LOOPBACK,
        saving: Saving | None = None,
        replaces: bool = False,
        replica: bool = False,
        launched: Launched = Launched.NOT,
    ) -> None:
        facing = address_towards(scheduler, join_timeout_s)
        self.code = 0
        self.settle: Callable[[int], None] = lambda rank: None  # called with the rank when the run begins
        self.transport = open_transport("server", access)
        try:
            bound = self.transport.bind(host or facing, port)
            address = advertised(advertise, host, facing, bound)
            self.transport.connect("scheduler", scheduler)
        except BaseException:
            self.transport.close()
            raise
        log.info("listening on %s:%d, reached at %s", host or facing, bound, address)
        self._saving, self._address = saving, address
        self._launched, self._cut_off = launched, False
        self._drain, self._drain_by = 0, 0.0  # the number of the request to be drained, if that was made
        self.membership = Membership(
            self.transport,
            role="replica" if replica else "server",
            scheduler=scheduler,
            rank=rank,
            address=address,
            join_timeout_s=join_timeout_s,
            replaces=replaces,
        )
        self.neighbours = Neighbourhood(self.transport, self.membership)
        self.membership.on_news = self._news
        self.membership.on_stop = self._leave
        self.membership.vitals = self._vitals
        self._partial = 0  # rounds closed without somebody, that were told
        self.loop = Loop(self.transport, {"scheduler": self.membership})
        self.shard = Shard(self._make, self.loop, replica=replica, on_step=self._in_step, on_silence=self._silent)

    @property
    def store(self) -> ServerShell:
        """This server's part of the store."""
        return self.shard.store

    def _make(self) -> ServerShell:
        """A store; what it does is recorded, if this process is to be traced."""
        made = CheckedShell if dumps().check else ServerShell
        store, recorder = made(self.transport, self._saving), tracing.current()
        store.neighbours = self.neighbours
        if recorder is not None:
            store.watch(Apply, lambda carry_out: traced_apply(carry_out, recorder, lambda: not store.muted))
            recorder.about = lambda: about(self.membership, store)
        return store

    def run(self) -> int:
        """Serve until the run is over; the exit code, which is 1 if a launcher says that the run has failed elsewhere.

        Raises:
            MembershipError: the run has failed, or this server was not taken in.
        """
        try:
            while not (self.membership.gone or self._cut_off):
                self.loop.step(spins=True)
                if self._drain:
                    self._await_drain()
                if self.store.failure():
                    self.code = 1
                    self._leave(_summary(self.store.failure()), self.store.failure()[-DETAIL_CHARS:])
            if self.membership.aborted and self._launched:
                return self.code or 1
            if self.membership.failure is not None and not self.code:
                raise self.membership.failure
            return self.code
        finally:
            tracing.finish()
            self.store.close()
            self.transport.close()

    def stop(self, number: int) -> None:
        """A signal says that this process must end: say so to the scheduler first. Safe in a signal handler.

        After SIGTERM that is when its slices are elsewhere, if that can be; after another one, at once. After a lost
        connection's SIGHUP it says nothing: the run may go on with another in its place.
        """
        if number == signal.SIGHUP and self._launched is Launched.AFAR:
            self.code, self._cut_off = 128 + number, True
            self.transport.wake()
            return
        if number == signal.SIGTERM and not self._drain and self.membership.core.phase == "running":
            log.warning("told to end: its slices move to other servers first; another signal ends it at once")
            self._drain, self._drain_by = self.membership.request_drain(), time.monotonic() + DRAIN_ANSWER_S
            return
        self.code = 128 + number
        self._leave(stopped_by(number))

    def _await_drain(self) -> None:
        """End at once if the scheduler does not let this server be drained, or says nothing."""
        why = self.membership.refusal(self._drain)
        if not why and (self.membership.draining or time.monotonic() < self._drain_by):
            return
        self._drain = 0
        log.warning("it cannot be drained: %s", why or f"the scheduler has not answered for {DRAIN_ANSWER_S:g} s")
        self.code = 128 + signal.SIGTERM
        self._leave(stopped_by(signal.SIGTERM))

    def _leave(self, failed: str = "", detail: str = "") -> None:
        follows, store = self.shard.follows, self.store
        report = store.replication() if follows and store.replication is not None else store.report()
        self.membership.request_goodbye(report, failed, detail)

    def _vitals(self, now: float) -> dict[str, Any]:
        core = self.store.core
        if core is not None and core.partial > self._partial:
            count, self._partial = core.partial - self._partial, core.partial
            reason = "who was missing has left, rests, or pushes to this store no more"
            extra = event("round closed without somebody", reason, rounds=count, total=core.partial)
            log.debug("%d rounds were closed without somebody", count, extra=extra)
        return vitals(self.store) | self.shard.vitals(now)

    def _news(self, news: Message) -> None:
        m = self.membership
        if isinstance(news, Roster):
            self.settle(m.rank)
            lease_s = m.core.welcome.lease_s if m.core.welcome is not None else 0.0
            me = Identity(m.rank, m.incarnation, m.cluster, lease_s, self._address, os.getpid())
            self.shard.begin(me)
        self.neighbours.hear(news)
        self.shard.hear(news)

    def _in_step(self, replica: Member) -> None:
        self.membership.tell(lambda n: InStep(request=n, incarnation=replica.incarnation))

    def _silent(self, r: Member, silent_s: float) -> None:
        reason = f"its server has had no acknowledgement for {silent_s:.1f} s"
        self.membership.tell(lambda n: Lost(request=n, role=r.role, rank=r.rank, pid=r.pid, host=r.host, reason=reason))


def about(m: Membership, store: ServerShell) -> dict[str, Any]:
    """Who a server is, and what its slices are called, for its trace."""
    entries = store.core.entries if store.core is not None else {}
    offset = m.core.offset
    return {
        **({"role": "replica"} if store.muted else {}),
        "rank": m.rank,
        "incarnation": m.incarnation,
        "cluster": m.cluster,
        "offset": [offset.value_s, offset.error_s if offset.trips else None, offset.trips],
        "keys": {str(i): entry.key for i, entry in entries.items()},
    }


def run_server(
    scheduler: str,
    *,
    host: str = "",
    port: int = 0,
    advertise: str = "",
    rank: int = -1,
    join_timeout_s: float = 60.0,
    launched: Launched = Launched.NOT,
    access: Access = LOOPBACK,
    saving: Saving | None = None,
    replaces: bool = False,
    replica: bool = False,
) -> int:
    """Be a server until the run is over; see `ServerRole`. Returns the exit code."""
    tune_malloc()
    allow_files()
    role = ServerRole(
        scheduler,
        host=host,
        port=port,
        advertise=advertise,
        rank=rank,
        join_timeout_s=join_timeout_s,
        access=access,
        saving=saving,
        replaces=replaces,
        replica=replica,
        launched=launched,
    )
    role.settle = settle_server
    provide("server", lambda: [*_process(role.membership), *server_families(role.store)])
    with handling(role.stop):
        return role.run()


def _process(m: Membership) -> list[Family]:
    welcome = m.core.welcome
    return process_families("server", welcome.rank if welcome else -1, VERSION, welcome.cluster if welcome else "")


def run_worker(
    scheduler: str,
    script: str,
    args: Sequence[str] = (),
    *,
    rank: int = -1,
    join_timeout_s: float = 60.0,
    timeout_s: float = 600.0,
    target: str = "",
    host: str = "",
    port: int = 0,
    advertise: str = "",
    access: Access = LOOPBACK,
    replaces: bool = False,
    launched: Launched = Launched.NOT,
    device: str = "cpu",
) -> int:
    """Be a worker that runs ``script``; the script's exit code, or 1 if it raised or the run failed."""
    from shoal.worker.session import run_script  # the array libraries load only where something is trained

    if not Path(script).is_file():
        raise ConfigError(f"there is no script {script!r} in {Path.cwd()}")
    leave: list[Callable[[int], bool]] = []  # of the session, once there is one

    def end(number: int) -> None:
        if not (leave and leave[0](number)):
            _exit(number)

    with insisting(end):
        return run_script(
            scheduler,
            script,
            args,
            rank=rank,
            join_timeout_s=join_timeout_s,
            timeout_s=timeout_s,
            target=target,
            host=host,
            port=port,
            advertise=advertise,
            access=access,
            replaces=replaces,
            device=device,
            cut_off=lambda: launched is Launched.AFAR and signal.SIGHUP in arrived,
            on_session=lambda session: leave.append(session.take_leave),
        )


def _exit(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _summary(failure: str) -> str:
    """First and last line of a text that ends with a traceback; the log has the rest."""
    lines = failure.strip().splitlines()
    return ": ".join(dict.fromkeys([lines[0], lines[-1]]))
