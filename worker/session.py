"""A worker process: joins the cluster, runs the user's script, says goodbye."""

import logging
import os
import runpy
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeAlias

from shoal.errors import ConfigError, MembershipError, NodeLostError, ShoalError, StaleWorkerError
from shoal.kvstore import api, dumps, exposition
from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.client.vitals import vitals
from shoal.kvstore.digest import weights_sha256
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.dumps import Recent
from shoal.kvstore.gates import mode_label
from shoal.kvstore.group import GROUPED
from shoal.kvstore.group.base import GroupStore
from shoal.kvstore.ring.node import RingNode
from shoal.kvstore.ring.store import AllReduceKVStore
from shoal.kvstore.ring.vitals import vitals as ring_vitals
from shoal.kvstore.trace.tap import open_transport
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Left, Member, Moved, Rebalance, Roster
from shoal.kvstore.wire.transport import tune_malloc
from shoal.ops import context, random
from shoal.scheduler.address import address_towards, advertised
from shoal.scheduler.barriers import FINISH
from shoal.scheduler.client import Membership
from shoal.scheduler.signals import stopped_by
from shoal.worker import cluster, record, tracing
from shoal.worker.algo import Algo
from shoal.worker.grouped import grouped
from shoal.worker.meeting import Meeting, Past
from shoal.worker.numbers import worker_families

__all__ = ["Session", "run_script"]

log = logging.getLogger("shoal.worker")

Store: TypeAlias = DistKVStore | AllReduceKVStore | GroupStore
"""What a script makes in a cluster."""

LAST_WAIT_S = 7 * 24 * 3600.0
"""How long a worker that is done waits for the others; the dead ones are found by their leases."""

_COUNTS = ("sent", "acknowledged", "retries", "skipped", "bytes_pushed", "bytes_dense", "bytes_pulled")

ABORT_GRACE_S = 3.0
"""After the run has failed a script has this long to end by itself."""


class Session:
    """This process's place in the cluster: an I/O thread, its membership, and the stores it opened.

    Args:
        scheduler: ``host:port``.
        rank: the rank it would like, or -1 for any.
        host: address to listen on for the other workers, in an all-reduce; "" for the one that faces the scheduler.
        port: 0 lets the system choose.
        advertise: host, or ``host:port``, under which they reach this worker, where it differs.
        access: who may join.
        replaces: the worker with this rank is dead, and this one takes its place.
    """

    def __init__(
        self,
        scheduler: str,
        rank: int = -1,
        join_timeout_s: float = 120.0,
        timeout_s: float = 600.0,
        *,
        host: str = "",
        port: int = 0,
        advertise: str = "",
        access: Access = LOOPBACK,
        replaces: bool = False,
    ) -> None:
        facing = address_towards(scheduler, join_timeout_s)
        self.timeout_s = timeout_s
        self.ring = RingNode(host or facing, port, access)
        try:
            address = advertised(advertise, host, facing, self.ring.port)
            self.transport = open_transport("worker", access)
            self.transport.connect("scheduler", scheduler)
        except BaseException:
            self.ring.close()
            raise
        self.membership = Membership(
            self.transport,
            role="worker",
            rank=rank,
            scheduler=scheduler,
            address=address,
            join_timeout_s=join_timeout_s,
            replaces=replaces,
        )
        self.membership.on_roster = self._on_roster
        self.membership.on_left = self._on_left
        self.membership.on_replaced = self._on_replaced
        self.membership.on_arrived = self._on_arrived
        self.membership.on_placing = self._on_placing
        self.membership.on_abort = self._give_up
        self.membership.vitals = self._vitals
        self.loop = Loop(self.transport, {"scheduler": self.membership})
        self.shell: ClientShell | None = None
        self._recent = Recent() if dumps.dumps().check else None
        self._servers: dict[int, int] = {}  # incarnations of those that this worker is connected to
        self.past: Past | None = None
        self.left = ""  # why it goes before it is done
        self.meeting: Meeting | None = None
        self.stores: list[Store] = []
        self.aborted = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="shoal-io", daemon=True)

    def start(self) -> None:
        """Join, and wait until the cluster is complete."""
        self._thread.start()
        self.membership.wait_roster()
        if self.past is not None and self.membership.elastic:
            self.past.recall()

    def take_place(self) -> None:
        """From now on scripts are told who this process is."""
        m, past = self.membership, self.past
        algo = f"gate={m.mode} {m.algo}" if m.mode else m.algo
        counted = cluster.Place().counted if past is None else past.counted
        elastic = self.meeting if m.elastic else None
        cluster.join(m.rank, m.num_workers, m.seed, algo, m.incarnation, m.late, counted, elastic)

    def take_leave(self, number: int) -> bool:
        """A signal says that this worker shall go: it does at the end of its batch. False if it must go at once."""
        meeting = self.meeting
        elastic = meeting is not None and self.membership.elastic and not self.aborted.is_set()
        return elastic and number != signal.SIGHUP and meeting is not None and meeting.leave(stopped_by(number), number)

    def leaves(self) -> bool:
        """Whether this worker ends because it was told to leave; from now on it does."""
        if self.meeting is not None and self.meeting.leaving:
            self.left = self.meeting.leaving
            log.warning("worker %d leaves: %s", self.membership.rank, self.left)
        return bool(self.left)

    def _drive(self) -> None:
        try:
            self.loop.run()
        except BaseException as e:  # a caller must learn that nobody will answer it
            log.error("the I/O thread failed\n%s", traceback.format_exc())
            dump = "" if self.shell is None else self._dump(self.shell.core, f"{type(e).__name__}: {e}")
            error = MembershipError(f"this worker's I/O thread failed: {type(e).__name__}: {e}{dump}")
            self.membership.failure = error
            self._give_up(error)

    def _dump(self, core: ClientCore, why: str) -> str:
        who = {"rank": core.rank, "incarnation": core.incarnation, "cluster": core.cluster}
        return dumps.write(who, core, why, self._recent)

    def _on_roster(self, roster: Roster) -> None:
        servers = [m for m in roster.members if m.role == "server"]
        if self.shell is not None:
            return
        me = self.membership
        workers = {m.rank: m.address for m in roster.members if m.role == "worker"}
        self.ring.join(me.rank, me.incarnation, me.cluster, workers, self.timeout_s)
        core = ClientCore(me.rank, me.incarnation, me.cluster, 0, self.timeout_s)
        self.shell = ClientShell(self.transport, core, self.loop)
        self.past = Past(self.shell, me)
        self.meeting = Meeting(self.shell, me, self.past)
        self.loop.drivers[""] = self.shell if self._recent is None else self.shell.checked(self._recent)
        for m in servers:
            self._on_arrived(m)
        for seat in roster.seats:
            self.shell.moved(seat.slice, seat.server, seat.epoch, self.loop.clock())

    def _on_left(self, left: Left) -> None:
        log.debug("%s %d has left", left.role, left.rank)
        if left.role == "worker":
            self.ring.left(left.rank)
        elif left.role == "server" and self.shell is not None:
            log.info("server %d has been drained, and has left", left.rank)
            self.shell.departed(left.rank, self.loop.clock())
            self.transport.disconnect(f"server{left.rank}")

    def _on_arrived(self, m: Member) -> None:
        """A process has come while the run is under way; a server is asked when slices have moved to it."""
        if m.role == "server" and self.shell is not None and m.rank not in self.shell.core.links:
            self.transport.connect(f"server{m.rank}", m.address)
            self._servers[m.rank] = m.incarnation
            self.shell.arrived(m.rank, self.loop.clock())

    def _on_placing(self, m: Rebalance | Moved) -> None:
        if isinstance(m, Moved) and self.shell is not None:
            self.shell.moved(m.slice, m.server, m.epoch, self.loop.clock())

    def _on_replaced(self, m: Member) -> None:
        """Another process has taken the place of a server."""
        if self.shell is None or m.role != "server" or self._servers.get(m.rank, 0) >= m.incarnation:
            return  # the roster of one that joins later has it already; a second connection would not be told from it
        self._servers[m.rank] = m.incarnation
        log.info("server %d has been restarted (incarnation %d)", m.rank, m.incarnation)
        peer = f"server{m.rank}"
        self.transport.disconnect(peer)
        self.transport.connect(peer, m.address)
        self.shell.replaced(m.rank, self.loop.clock())

    def _give_up(self, error: ShoalError) -> None:
        """Every call, now and later, raises ``error``; a script that does not end by it is ended."""
        self.aborted.set()
        if self.shell is not None:
            self.shell.fail_all(error)
        self.ring.fail_all(error)
        killer = threading.Timer(ABORT_GRACE_S, _exit_now, [str(error)])
        killer.daemon = True
        killer.start()

    def store(self, mode: str, reduce: str) -> Store:
        """A store on the run's servers, or, if the mode is "allreduce", among its workers."""
        if self.shell is None:
            raise MembershipError("this worker has not joined a cluster yet")
        run = self.membership.mode
        if mode in set(GROUPED.values()):
            self.stores.append(grouped(self.membership, self.shell, self.ring, mode, reduce, self.timeout_s))
            return self.stores[-1]
        if (mode or run) != "allreduce":
            codec = Algo.parse(self.membership.algo).codec or None
            store = DistKVStore(mode, reduce, self.membership, self.shell, self.timeout_s, compression=codec)
            self.stores.append(store)
        elif run in ("", "allreduce"):
            numbers = self.shell.number_store
            self.stores.append(AllReduceKVStore(reduce, self.membership, self.ring.shell, numbers, self.timeout_s))
        else:
            raise ConfigError(
                f"the script asks for kvstore 'allreduce', but the run was started with --mode {mode_label(run)}. Drop "
                "--mode, or ask for 'dist', which is whatever the run is."
            )
        return self.stores[-1]

    def publish(self, status: dict[str, Any]) -> None:
        """Show ``status`` to whoever watches the run."""
        if self.shell is not None and self.stores:
            status = {**status, "staleness": self.shell.core.counters.staleness}
        self.membership.set_status(status)

    def _vitals(self, now: float) -> dict[str, Any]:
        found = vitals(self.shell.core, now) if self.shell is not None else {}
        ring = self.ring.started
        return found if ring is None else {k: found.get(k, type(v)()) + v for k, v in ring_vitals(ring, now).items()}

    def finish(self) -> dict[str, Any]:
        """The script has ended well: settle every store, wait for the others, and account for what was done."""
        for store in self.stores:
            store.close()
        weights, replicas = None, False
        if self.stores:
            self.membership.barrier(FINISH, LAST_WAIT_S)
            replicas = all(isinstance(s, AllReduceKVStore) for s in self.stores)  # then every worker has the weights
            if self.membership.rank == self.membership.chief or replicas:
                elsewhere = record.current().weights
                stored = {k: v for s in self.stores for k, v in _weights(s).items()}
                values = elsewhere() if elsewhere is not None else stored
                weights = weights_sha256(values) if values else None
        return {**record.current().summary(), **self._accounts(), "weights_sha256": weights, "replica": replicas}

    def _accounts(self) -> dict[str, Any]:
        """What this worker has sent, to servers and in all-reduces; ``taken``: what it has taken from its peers."""
        counts = Counter[str](dict.fromkeys(_COUNTS, 0))
        if self.shell is not None:
            sent = self.shell.core.counters
            counts.update({name: getattr(sent, name) for name in _COUNTS})
        ring = self.ring.started
        if ring is not None:
            counts.update({name: n for name, n in ring.ledger().items() if name in _COUNTS})
        ledger = {name: counts.pop(name) for name in ("sent", "acknowledged", "retries", "skipped")}
        costs = [c for s in self.stores if isinstance(s, DistKVStore) and (c := s.compression_report()) is not None]
        skew = {} if self.shell is None else {str(k): n for k, n in sorted(self.shell.core.counters.skew.items())}
        taken = ring.books() if ring is not None else {}
        changes = {k: v for s in self.stores if isinstance(s, DistKVStore) for k, v in s.changes_taken().items()}
        return {"changes": changes, "ledger": ledger, **counts, "skew": skew, "taken": taken, "compression": costs}

    def depart(self) -> dict[str, Any]:
        """The worker goes before it is done: what it has pushed is counted, and it accounts for it."""
        with suppress(ShoalError):
            for store in self.stores:
                store.flush()
        return {**record.current().summary(), **self._accounts(), "weights_sha256": None}

    def goodbye(self, report: dict[str, Any], failed: str = "", left: str = "", mute: bool = False) -> None:
        """Tell the scheduler, unless ``mute``, and stop the I/O thread."""
        if self.meeting is not None:
            self.meeting.close()
        if not (mute or self.aborted.is_set()):
            self.membership.goodbye(report, failed, left=left)
        self.loop.stop()
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self.transport.close()
        self.ring.close()


def _weights(store: Store) -> dict[str, Any]:
    """By the names that tell the stores of a run apart."""
    if isinstance(store, AllReduceKVStore | GroupStore):
        return store.held()
    keys = store.keys()
    names = [store.layout(k).key for k in keys]
    return dict(zip(names, store.pull(keys), strict=True)) if keys else {}


def run_script(
    scheduler: str,
    script: str,
    args: Sequence[str] = (),
    *,
    rank: int = -1,
    join_timeout_s: float = 120.0,
    timeout_s: float = 600.0,
    target: str = "",
    host: str = "",
    port: int = 0,
    advertise: str = "",
    access: Access = LOOPBACK,
    replaces: bool = False,
    device: str = "cpu",
    on_session: Callable[[Session], None] = lambda session: None,
    cut_off: Callable[[], bool] = lambda: False,
) -> int:
    """Run ``script`` as a worker of the cluster whose scheduler is at ``scheduler`` (``host:port``).

    Args:
        device: where tensors are made; "gpu" is the one of the worker's rank.
        on_session: is given the session as soon as it has joined, so that a signal handler can `Session.take_leave`.
        cut_off: whether the script has ended because a launcher's connection is lost. The launcher sees that, and may
            start another in this one's place: this one ends without a word to the scheduler.
    Returns:
        The exit code: the script's own, 0 if it was told to leave, or 1 if it raised or the run failed.
    """
    goal = record.parse_target(target)
    tune_malloc()
    listens: dict[str, Any] = {"host": host, "port": port, "advertise": advertise, "access": access}
    session = Session(scheduler, rank, join_timeout_s, timeout_s, **listens, replaces=replaces)
    session.start()
    on_session(session)
    record.use(tracing.record_class()(goal, session.publish))
    tracing.begin(session)
    exposition.provide("worker", lambda: worker_families(session))
    api.attach(session.store)
    m = session.membership
    session.take_place()
    random.set_address(seed=m.seed, worker=m.rank, step=0)
    context.set_device(context.of_worker(device, m.rank))
    report: dict[str, Any] = {}
    try:
        code, failed, _ = _attempt(session, script, lambda: _execute(script, args))
        if code == 0 and not session.left:
            code, failed, done = _attempt(session, script, session.finish)
            report = done or {}
        if session.left:
            report = session.depart()
    finally:
        api.attach(None)
        cluster.leave()
        exposition.provide("worker", None)
    session.goodbye(report, failed or _meaning(code), session.left, mute=cut_off())
    tracing.end()
    return code


def _meaning(code: int) -> str:
    """What a script's exit code says about why it ended; empty for 0."""
    if code in (128 + signal.SIGHUP, 128 + signal.SIGTERM):
        return stopped_by(code - 128)
    return f"the script ended with exit code {code}" if code else ""


def _execute(script: str, args: Sequence[str]) -> None:
    sys.argv = [script, *args]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")


def _attempt(session: Session, script: str, work: Callable[[], Any]) -> tuple[int, str, Any]:
    """Exit code of ``work``, what went wrong, and what it returned; a signal may end it, too."""
    try:
        return 0, "", work()
    except (SystemExit, KeyboardInterrupt) as e:
        if session.leaves():
            return 0, "", None
        if isinstance(e, KeyboardInterrupt):
            return 130, "interrupted", None
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None), "", None
    except BaseException as e:
        return 1, _explain(session, e, script), None


def _explain(session: Session, error: BaseException, script: str) -> str:
    """Print what the user needs: the script's part of the traceback, or one line if the script is not to blame."""
    tb: TracebackType | None = error.__traceback__
    path = os.path.abspath(script)
    while tb is not None and os.path.abspath(tb.tb_frame.f_code.co_filename) != path:
        tb = tb.tb_next
    elsewhere = isinstance(error, NodeLostError | StaleWorkerError) and session.aborted.is_set()
    if elsewhere or (tb is None and isinstance(error, ShoalError)):
        print(f"shoal: worker {session.membership.rank} stops: {error}", file=sys.stderr, flush=True)
        return str(error)
    unread = isinstance(error, SyntaxError) and tb is None  # the script could not even begin: no frame is the user's
    traceback.print_exception(type(error), error, None if unread else tb or error.__traceback__)
    sys.stderr.flush()
    return f"{type(error).__name__}: {error}"


def _exit_now(reason: str) -> None:
    print(f"shoal: {reason}; the script did not end by itself", file=sys.stderr, flush=True)
    tracing.end()
    os._exit(1)
