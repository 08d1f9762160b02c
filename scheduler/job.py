"""What a launcher is asked to run, what it says at the end, and what a launcher is."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from shoal.errors import ConfigError
from shoal.kvstore.gates import canonical_mode, check_workers
from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.endpoint import check_ports
from shoal.scheduler.gather import ALLREDUCE, check_replicas, check_servers

__all__ = ["JobConfig", "Launcher", "OnLine", "OnSnapshot", "Outcome"]

OnLine: TypeAlias = Callable[[str, str, str], None]
"""Called with source ("worker 1"), stream ("stdout" or "stderr") and each line of output."""

OnSnapshot: TypeAlias = Callable[[Snapshot], None]
"""Called with the state of the run about twice a second."""


@dataclass(frozen=True, slots=True)
class JobConfig:
    """One run of a training script, wherever it takes place.

    Args:
        script: the training script; every worker runs it.
        args: its arguments.
        workers: how many processes train, at least.
        workers_most: how many there may be, where the number changes with what the machines can give; 0: no more.
        replicas: of each server, 0 or 1: another process that has all that it has, and takes its place if it dies.
        servers: how many processes hold the weights; 0 for a run whose workers reduce among themselves.
        mode: consistency mode, or "" to let the script decide.
        algo: the rest of the algorithm: rule, strategy and codec.
        plugins: files that every process loads first.
        seed: of the run.
        target: METRIC=VALUE whose time is reported, or "".
        lease_s: a process that is silent for this long is lost: a server without a replica ends the run, a worker has
            its grace.
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
    workers_most: int = 0
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
        if 0 < self.workers_most < self.workers:
            raise ConfigError(f"at least {self.workers} workers, and at most {self.workers_most}: which?")
        check_servers(self.servers, self.mode)
        check_replicas(self.replicas, self.servers)
        if self.servers and self.mode == ALLREDUCE:
            raise ConfigError(f"mode {ALLREDUCE} has no use for {self.servers} servers: leave -s out, or say -s 0")
        if self.lease_s <= 0 or self.gather_timeout_s <= 0:
            raise ConfigError(f"leases and deadlines are positive; got {self.lease_s} s and {self.gather_timeout_s} s")
        if min(self.scheduler_grace_s, self.worker_grace_s) < 0:
            raise ConfigError(f"graces are 0 or more seconds, got {self.scheduler_grace_s} and {self.worker_grace_s}")
        if self.metrics:
            check_ports(self.metrics, 1 + self.servers * (1 + self.replicas) + self.most)
        if self.mode:
            check_workers(canonical_mode(self.mode), self.workers)
        if not Path(self.script).is_file():
            raise ConfigError(f"there is no script {self.script!r} in {os.getcwd()}")

    @property
    def most(self) -> int:
        """How many workers there may be."""
        return self.workers_most or self.workers

    @property
    def snapshots(self) -> str:
        """How often servers save their state: never, unless it is said or the run has a directory."""
        return self.snapshot_every or ("30s" if self.run_dir else "never")

    @property
    def keeps(self) -> bool:
        """Whether anybody writes down what it knows, to come back with it."""
        return bool(self.scheduler_grace_s) or self.snapshots != "never"

    @property
    def elastic(self) -> bool:
        """Whether it goes on when its workers change."""
        return bool(self.worker_grace_s) and self.mode != ALLREDUCE and bool(self.servers)


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


class Launcher(Protocol):
    """Starts the processes of a run somewhere, watches over them, and leaves none behind."""

    def launch(self, job: JobConfig) -> Outcome:
        """Run the job to its end.

        Raises:
            ConfigError: the job makes no sense there.
        """
        ...
