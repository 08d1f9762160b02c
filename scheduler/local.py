"""A whole cluster as processes of this machine, watched over until it ends.

The launcher owns the tree: every child is in a session of its own, follows the launcher should that die, and is ended
with all its descendants when the run ends, however it ends. The first failure is named; it is the launcher that sees
a killed process, and the scheduler that knows why one gave up. A scheduler that is killed is started again.
"""

import os
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError
from shoal.kvstore.gates import canonical_mode, check_workers
from shoal.kvstore.wire.keys import Access, load_keys
from shoal.kvstore.wire.messages import Lost, Snapshot
from shoal.scheduler.address import record_address
from shoal.scheduler.child import Child, describe_exit, ending_signal, thread_limits, usable_cores
from shoal.scheduler.disturb import Calm, Disturber
from shoal.scheduler.endpoint import check_ports, parse_endpoint
from shoal.scheduler.gather import ALLREDUCE, check_replicas, check_servers
from shoal.scheduler.pairs import Pairs
from shoal.scheduler.relay import Relay
from shoal.scheduler.revival import Revivals, is_given_up
from shoal.scheduler.signals import handling, stopped_by
from shoal.scheduler.watch import Watcher

__all__ = ["ALONE", "JobConfig", "LocalLauncher", "Outcome"]

PERIOD_S = 0.05
"""How often the children are looked at; the end of their output is noticed at once."""

PAUSE_S = 5.0
"""Longer between two looks, and the launcher itself has been stopped for a while."""

VERDICT_S = 1.0
"""After a child has given up, how long the scheduler has to say whose fault it is."""

END_S = 20.0
"""After the workers, or the scheduler, have ended well, how long the others have to end too."""

ALONE = ". With --snapshot-every 30s a server that dies is started again, and the run goes on"
"""What helps against the death of a server without snapshots."""


@dataclass(frozen=True, slots=True)
class JobConfig:
    """A local run.

    Args:
        script: the training script; every worker runs it.
        args: its arguments.
        workers: how many processes train.
        replicas: of each server, 0 or 1: another process that has all that it has, and takes its place if it dies.
        servers: how many processes hold the weights; 0 for a run whose workers reduce among themselves.
        mode: consistency mode, or "" to let the script decide.
        algo: the rest of the algorithm: rule, strategy and codec.
        plugins: files that every process loads first.
        seed: of the run.
        target: METRIC=VALUE whose time is reported, or "".
        lease_s: a process that is silent for this long ends the run.
        scheduler_grace_s: how long the others go on without a scheduler, which is started again if it is killed; with 0
            the run ends with it.
        worker_grace_s: how long after its lease a worker that was lost may come back, or be replaced, before the others
            go on without it; one that is killed is started again. With 0 the run ends with it.
        snapshot_every: how often servers save their state ("30s", "100u"), so that one that is killed can be started
            again; "never"; None is every 30 s with a ``run_dir``, and never without.
        run_dir: directory that keeps what the run writes; "" for one that is removed when the run has ended.
        gather_timeout_s: the run fails if not everybody has joined by then.
        host: address of this machine on which the processes meet.
        keys: the cluster's key, a file or its directory; "" for none, which is enough on the loopback.
        port: of the scheduler; 0 lets the system choose.
        env: variables on top of this process's.
        metrics: PORT or HOST:PORT where the scheduler serves its metrics, and servers, then workers, at the next ports.
        events: directory, or a file .jsonl, of the processes' event logs; "" keeps none.
        trace: directory in which each process leaves its part of a trace; "" for none.
        trace_steps, trace_time: A:B, the part of the run that is traced; "" for its end.
        stall_after_s: the scheduler says who is waited for when nobody has got on for so long; 0: never.
        verbose: children also say what goes well.
        grace_s: how long a process that is told to end may take before it is killed.
    """

    script: str
    args: tuple[str, ...] = ()
    workers: int = 2
    servers: int = 1
    replicas: int = 0
    mode: str = ""
    algo: str = ""
    plugins: tuple[str, ...] = ()
    seed: int = 0
    target: str = ""
    lease_s: float = 10.0
    scheduler_grace_s: float = 60.0
    worker_grace_s: float = 30.0
    snapshot_every: str | None = None
    run_dir: str = ""
    gather_timeout_s: float = 120.0
    host: str = "127.0.0.1"
    keys: str = ""
    port: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    metrics: str = ""
    events: str = ""
    trace: str = ""
    trace_steps: str = ""
    trace_time: str = ""
    stall_after_s: float = 60.0
    verbose: bool = False
    grace_s: float = 3.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"a run needs at least 1 worker, got {self.workers}")
        check_servers(self.servers, self.mode)
        check_replicas(self.replicas, self.servers)
        if self.servers and self.mode == ALLREDUCE:
            raise ConfigError(f"mode {ALLREDUCE} has no use for {self.servers} servers: leave -s out, or say -s 0")
        if self.lease_s <= 0 or self.gather_timeout_s <= 0:
            raise ConfigError(f"leases and deadlines are positive; got {self.lease_s} s and {self.gather_timeout_s} s")
        if min(self.scheduler_grace_s, self.worker_grace_s) < 0:
            raise ConfigError(f"graces are 0 or more seconds, got {self.scheduler_grace_s} and {self.worker_grace_s}")
        if self.metrics:
            check_ports(self.metrics, 1 + self.servers * (1 + self.replicas) + self.workers)
        if self.mode:
            check_workers(canonical_mode(self.mode), self.workers)
        if not Path(self.script).is_file():
            raise ConfigError(f"there is no script {self.script!r} in {os.getcwd()}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        code: exit code: 0, the failed worker's own, 128 plus the signal that stopped the launcher, or 1.
        text: who failed and why; "" if the run finished.
        snapshot: the last that the scheduler said, if it said anything.
    """

    code: int
    text: str
    snapshot: Snapshot | None


class LocalLauncher:
    """Starts a `JobConfig` on this machine.

    Args:
        on_line: called with source ("worker 1"), stream ("stdout" or "stderr") and each line of output.
        on_snapshot: called with the state of the run about twice a second.
        disturber: what is done to the processes on purpose.
    """

    def __init__(
        self,
        on_line: Callable[[str, str, str], None] = lambda source, stream, line: None,
        on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
        disturber: Disturber | None = None,
    ) -> None:
        self._on_line, self._on_snapshot = on_line, on_snapshot
        self._disturber = disturber or Calm()

    def launch(self, job: JobConfig) -> Outcome:
        """Run the job to its end; no process of it is left when this returns.

        Raises:
            ConfigError: the job makes no sense.
        """
        run = _Run(job, self._on_line, self._on_snapshot, self._disturber)
        with handling(run.interrupt):
            try:
                code, text = run.follow()
            finally:
                run.end()
        failed = text and not run.stopped
        return Outcome(code, f"the run has failed: {text}" if failed else text, run.snapshot())


class _Run:
    """One run: its children, in the order in which they were started; the scheduler is the first."""

    def __init__(
        self,
        job: JobConfig,
        on_line: Callable[[str, str, str], None],
        on_snapshot: Callable[[Snapshot], None],
        disturber: Disturber,
    ) -> None:
        self.job, self._disturber = job, disturber
        self.children: list[Child] = []
        self.watcher: Watcher | None = None
        self._on_snapshot, self._on_line = on_snapshot, on_line
        self._port = job.port
        self._access = Access(load_keys(job.keys) if job.keys else None)
        self._revivals = Revivals()
        self._dismissed: set[int] = set()  # pids of workers that the scheduler has given up
        self._elastic = bool(job.worker_grace_s) and job.mode != ALLREDUCE and bool(job.servers)
        self._scheduler_began = self._looked = 0.0
        self._every = job.snapshot_every or ("30s" if job.run_dir else "never")
        keeps = bool(job.scheduler_grace_s) or self._every != "never"
        told = self._tell, self._say, disturber.born, self._silent_s
        self._pairs = Pairs(self.children, job.servers * job.replicas, self._replica, *told)
        self._private = "" if job.run_dir or not keeps else tempfile.mkdtemp(prefix="shoal-run-")
        self._news = threading.Event()
        self._relay = Relay(on_line, self._news.set)
        self._signals: list[int] = []

    @property
    def stopped(self) -> bool:
        """Whether the launcher has been told to stop."""
        return bool(self._signals)

    def interrupt(self, number: int) -> None:
        """The launcher has been told to stop; told again, it no longer waits."""
        self._signals.append(number)
        self._news.set()
        if len(self._signals) > 1:
            for child in self.children:
                child.signal(signal.SIGKILL)

    def snapshot(self) -> Snapshot | None:
        """The last that the scheduler said."""
        return self.watcher.last if self.watcher else None

    # --- starting -----------------------------------------------------------------------------------------------------

    def follow(self) -> tuple[int, str]:
        """Start everybody and wait for the end: exit code, and who failed and why."""
        port = self._start_scheduler()
        if port is None:
            return self._verdict() or (1, f"{self.children[0]} did not start")
        self._port = port
        address = f"{self.job.host}:{port}"
        if self.job.run_dir:
            record_address(self.job.run_dir, address)
        if self.job.metrics:
            self._say_metrics()
        for rank in range(self.job.servers):
            self._start(f"server {rank}", self._server(address, rank), threads=1)
        self._pairs.begin()
        for rank in range(self.job.workers):
            self._start(f"worker {rank}", self._worker(address, rank))
        self.watcher = Watcher(address, self._take, self._access)
        return self._supervise()

    def _observed(self, place: int) -> list[str]:
        """What shows of a process; ``place`` is 0 for the scheduler, then come the servers, then the workers."""
        events = ["--events", self.job.events, "--trace", self.job.trace]
        events += ["--trace-steps", self.job.trace_steps, "--trace-time", self.job.trace_time]
        if not self.job.metrics:
            return ["--metrics", "", *events]
        host, port = parse_endpoint(self.job.metrics)
        return ["--metrics", f"{host}:{port + place}", *events]

    def _say_metrics(self) -> None:
        host, port = parse_endpoint(self.job.metrics)
        names = ["scheduler", *(f"server {i}" for i in range(self.job.servers))]
        names += [f"worker {i}" for i in range(self.job.workers)]
        names += [f"replica {i}" for i in range(self.job.servers * self.job.replicas)]
        told = ", ".join(f"{name} {port + i}" for i, name in enumerate(names))
        self._say(f"metrics: http://{host}:{port}/metrics; by port: {told}")

    def _server(self, address: str, rank: int, place: int = 0) -> list[str]:
        """Everything is said, so that no variable of the environment can change it."""
        return [
            "server",
            *self._observed(place or 1 + rank),
            "--scheduler",
            address,
            "--rank",
            str(rank),
            *self._listen(),
            *self._plugins(),
            "--snapshot-every",
            self._every,
            "--state",
            "" if self._every == "never" else os.path.join(self.job.run_dir or self._private, "servers"),
        ]

    def _replica(self, rank: int, home: int) -> Child:
        """Start the replica of a server: see `Pairs`."""
        place = 1 + self.job.servers + self.job.workers + rank if home else 1 + rank
        args = [*self._server(f"{self.job.host}:{self._port}", rank, place), "--replica"]
        return self._start(f"replica {rank}", args, threads=1)

    def _silent_s(self) -> float:
        return self.watcher.silent_s if self.watcher is not None else 0.0

    def _tell(self, lost: Lost) -> None:
        if self.watcher is not None:
            self.watcher.tell(lost)

    def _plugins(self) -> list[str]:
        return [word for path in self.job.plugins for word in ("--plugin", path)]

    def _listen(self) -> list[str]:
        return ["--host", self.job.host, "--port", "0", "--advertise", self.job.host, "--keys", self.job.keys]

    def _worker(self, address: str, rank: int, *more: str) -> list[str]:
        options = [*more, "--rank", str(rank), "--target", self.job.target, *self._listen(), *self._plugins()]
        options += self._observed(1 + self.job.servers + rank)
        return ["worker", "--scheduler", address, *options, self.job.script, *self.job.args]

    def _start(self, name: str, args: list[str], threads: int = 0, pass_fds: tuple[int, ...] = ()) -> Child:
        env = {**os.environ, **self.job.env}
        limits = thread_limits(env, 1, threads) if threads else thread_limits(env, self.job.workers, usable_cores())
        env |= {**limits, "PYTHONUNBUFFERED": "1", "SHOAL_LOG": "info" if self.job.verbose else "warning"}
        more, fds = self._disturber.equip(name)
        child = Child(name, [sys.executable, "-m", "shoal", *args], env | more, (*pass_fds, *fds))
        self._disturber.born(child)
        if name == "scheduler":
            self.children[:1], self._scheduler_began = [child], time.monotonic()
        else:
            self.children.append(child)
        for stream, pipe in child.streams.items():
            self._relay.add(name, stream, pipe)
        return child

    def _start_scheduler(self) -> int | None:
        """Its port, as it says through a pipe; None if it ends before, or the launcher is told to stop."""
        job = self.job
        ours, theirs = os.pipe()
        args = ["scheduler", "--host", job.host, "--port", str(self._port), "--ready-fd", str(theirs)]
        args += [
            "--replicas",
            str(job.replicas),
            "--keys",
            job.keys,
            *self._observed(0),
            "--stall-after",
            str(job.stall_after_s),
        ]
        args += ["--workers", str(job.workers), "--servers", str(job.servers), "--seed", str(job.seed)]
        args += ["--lease-s", str(job.lease_s), "--gather-timeout-s", str(job.gather_timeout_s)]
        args += ["--worker-grace-s", str(job.worker_grace_s)]
        args += ["--scheduler-grace-s", str(job.scheduler_grace_s), "--state", self._state(), "--no-sync"]
        args += ["--mode", job.mode, "--algo", job.algo, *self._plugins()]
        try:
            self._start("scheduler", args, threads=1, pass_fds=(theirs,))
        finally:
            os.close(theirs)
        with os.fdopen(ours) as pipe:
            return self._read_port(pipe.fileno())

    def _state(self) -> str:
        """Directory of the scheduler's log; "" if it keeps none."""
        return os.path.join(self.job.run_dir or self._private, "scheduler") if self.job.scheduler_grace_s else ""

    def _revive(self) -> bool:
        """If only the scheduler has been killed, start it again, with its log and on its port."""
        dead, others = self.children[0], self.children[1:]
        code = dead.poll()
        if code is None or code >= 0 or self._signals or not self._state() or self._gone(others):
            return False
        if not self._revivals.allow(dead.name):
            return False
        now = time.monotonic()
        self._say(f"{dead} {describe_exit(code)}; it is started again, and the run goes on meanwhile")
        dead.reap()
        if self._start_scheduler() is not None:
            self._say(f"{self.children[0]} has its log, and goes on after {time.monotonic() - now:.2f} s")
        return True

    def _revive_others(self) -> bool:
        """If servers or workers have been killed, and nobody has given up, start them again."""
        gone = self._gone(self.children[1:])
        running = self.watcher is not None and self.watcher.last is not None and self.watcher.last.phase == "running"
        if not gone or not running or self._signals or not all(map(self._can_revive, gone)):
            return False
        restarted = [self._restart(c) for c in gone]
        return all(restarted)

    def _gone(self, children: list[Child]) -> list[Child]:
        """Who has failed, as far as that is for this class to care about: replicas are for `Pairs`."""
        return [c for c in children if c.poll() and c.pid not in self._dismissed and not c.name.startswith("replica ")]

    def _can_revive(self, dead: Child) -> bool:
        able = self._every != "never" if dead.name.startswith("server ") else self._elastic
        return able and (dead.poll() or 0) < 0

    def _restart(self, dead: Child) -> bool:
        if not self._revivals.allow(dead.name):
            return False
        role, _, number = dead.name.partition(" ")
        how = "from its newest snapshot" if role == "server" else "and goes on where it was"
        self._say(f"{dead} {describe_exit(dead.poll() or 0)}; it is started again, {how}")
        place = self.children.index(dead)
        dead.reap()
        address, rank = f"{self.job.host}:{self._port}", int(number)
        if role == "server":
            self._start(dead.name, [*self._server(address, rank), "--replaces"], threads=1)
        else:
            self._start(dead.name, self._worker(address, rank, "--replaces"))
        self.children[place] = self.children.pop()
        return True

    def _dismiss(self) -> None:
        """Workers that the scheduler has given up may end as they like; when the run is over they need not."""
        over = self.children[0].poll() == 0
        for c in self.children[1:]:
            code = c.poll()
            ends = (code or 0) > 0 or (over and code is None)
            if ends and c.pid not in self._dismissed and is_given_up(c, self.snapshot()):
                self._dismissed.add(c.pid)
                self._say(f"{c} {describe_exit(code) if code else 'was given up'}; the run goes on without it")

    def _end_mute(self) -> None:
        """Kill a scheduler that is there and says nothing for half of its grace: stopped, or stuck. See `_revive`."""
        now = time.monotonic()
        if now > self._looked + PAUSE_S:  # it was this process that was stopped
            self._scheduler_began = now
        self._looked = now
        if self.watcher is None or not self._state() or self.children[0].poll() is not None:
            return
        silent_s = min(self.watcher.silent_s, now - self._scheduler_began)
        if silent_s > max(self.job.lease_s, self.job.scheduler_grace_s / 2) and not self.watcher.final:
            self._say(f"{self.children[0]} has been silent for {silent_s:.1f} s")
            self.children[0].signal(signal.SIGKILL)

    def _say(self, text: str) -> None:
        """Among the lines of the children."""
        with suppress(OSError, ValueError):  # nobody reads our output
            self._on_line("shoal run", "stderr", text)

    def _read_port(self, fd: int) -> int | None:
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not self._signals:
                if selector.select(PERIOD_S):
                    line = os.read(fd, 64)  # written at once, so never in parts
                    if line:
                        return int(line)
                    self._wait_for_scheduler()
                    return None
        return None

    def _wait_for_scheduler(self) -> None:
        """Its end of the pipe is closed and it said nothing: it is about to exit."""
        deadline = time.monotonic() + self.job.grace_s
        while self.children[0].poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _take(self, snapshot: Snapshot) -> None:
        if snapshot.phase == "failed":
            self._news.set()
        self._on_snapshot(snapshot)

    def _supervise(self) -> tuple[int, str]:
        ended_well, pause_s = 0.0, PERIOD_S
        while True:
            self._news.wait(min(PERIOD_S, pause_s))
            self._news.clear()
            self._end_mute()
            self._dismiss()
            self._pairs.turn(self.snapshot())
            verdict = self._verdict()
            if verdict is not None and self.job.replicas:
                self._pairs.turn(self.snapshot())  # whoever has died since the turn above may have a replica
                verdict = self._verdict()
            if verdict is not None:
                if self._revive_others() or self._revive():
                    continue
                return verdict
            pause_s = self._disturber.turn(self.snapshot())
            running = [c for c in self.children if c.poll() is None and c.pid not in self._dismissed]
            if not running:
                if self.watcher:
                    self.watcher.wait_final(VERDICT_S)  # it has been sent; it may still be under way
                return 0, ""
            if self._should_end():
                ended_well = ended_well or time.monotonic()
                if time.monotonic() > ended_well + END_S:
                    return 1, f"the run is over, but {', '.join(map(str, running))} did not end within {END_S:g} s"

    def _should_end(self) -> bool:
        """Either the scheduler has ended well, or every worker has: nobody has a reason to stay."""
        workers = [c for c in self.children if c.name.startswith("worker")]
        return self.children[0].poll() == 0 or all(c.poll() == 0 or c.pid in self._dismissed for c in workers)

    def _verdict(self) -> tuple[int, str] | None:
        """Exit code and reason once the run is known to have failed."""
        if self._signals:
            return self._stopped()
        gone = [(c, c.poll() or 0) for c in self._gone(self.children)]
        killed = [(c, code) for c, code in gone if code < 0]
        if killed:
            text = "; ".join(f"{c} {describe_exit(code)}" for c, code in killed)
            alone = self._every == "never" and all(c.name.startswith("server ") for c, _ in killed)
            return 1, text + ALONE * alone
        if gone or (self.watcher and self._failed()):
            return self._blame(gone)
        return None

    def _failed(self) -> Snapshot | None:
        final = self.watcher.final if self.watcher else None
        return final if final is not None and final.phase == "failed" else None

    def _blame(self, gone: list[tuple[Child, int]]) -> tuple[int, str]:
        """Somebody gave up: perhaps because of somebody else, which the scheduler knows."""
        if self.watcher:
            self.watcher.wait_final(VERDICT_S)
        final = self._failed()
        if final is None:
            child, code = gone[0]
            return code, f"{self._mute_scheduler()}{child} {describe_exit(code)}"
        guilty = [f"{n.role} {n.rank}" for n in final.nodes if n.state == "failed"]
        code = self._code_of([c for c in self.children if c.name in guilty])
        return code or 1, f"{final.culprit}: {final.reason}"

    def _mute_scheduler(self) -> str:
        silent_s = self._silent_s()
        if self.children[0].poll() is not None or silent_s < self.job.lease_s / 2:
            return ""
        return f"{self.children[0]} has been silent for {silent_s:.1f} s; "

    def _code_of(self, children: list[Child]) -> int:
        """With which code the first of them exits by itself; 0 if none does soon."""
        deadline = time.monotonic() + self.job.grace_s
        while children and time.monotonic() < deadline and not self._signals:
            codes = [c.poll() for c in children]
            if None not in codes:
                return max((code for code in codes if code is not None), default=0)
            time.sleep(0.01)
        return 0

    def _stopped(self) -> tuple[int, str]:
        number = self._signals[0]
        return 128 + number, stopped_by(number)

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Leave no process behind, and no thread."""
        self._disturber.end()
        scheduler, others = self.children[:1], self.children[1:]
        for child in others:
            if child.poll() is None:
                child.signal(ending_signal())
        deadline = time.monotonic() + self.job.grace_s
        while any(c.poll() is None for c in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in [*others, *scheduler]:  # the scheduler last: the others say goodbye to it
            child.reap()
        if self.watcher:
            self.watcher.close()
        self._relay.close()
        self._disturber.close()
        if self._private:
            shutil.rmtree(self._private, ignore_errors=True)
