"""What a run is, as its scheduler is told, and whether a log is of the same run."""

from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.kvstore.gates import check_workers
from shoal.scheduler.gather import MAX_NODES, Count, as_count, check_replicas, check_servers
from shoal.scheduler.log import Founded

__all__ = ["SchedulerConfig", "contradiction", "founding"]


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What a run is.

    Args:
        workers: number of workers; a `Count` with ``more`` means at least so many.
        servers: number of servers, likewise; 0 for a run whose workers reduce among themselves.
        cluster: id of the run.
        version: of shoal; nodes of another version are refused.
        mode: consistency mode that every script must use, or "" to let the script decide.
        algo: the rest of the run's algorithm, which only workers understand.
        seed: of the run, told to every node.
        lease_s: a node that is silent for this long is lost.
        grace_s: how long nodes go on without the scheduler; 0 if it has no log on disk, and so cannot come back.
        worker_grace_s: how long after its lease a silent worker may come back, or be replaced, before the others go on
            without it; 0: a lost worker ends the run, and none can come late.
        gather_timeout_s: the run fails if not everybody has joined by then.
        replicas: of each server, 0 or 1.
        settle_s: where more may come than are waited for, the run begins when nobody has joined for this long.
    """

    workers: int | Count
    servers: int | Count
    cluster: str = "local"
    version: str = ""
    mode: str = ""
    algo: str = ""
    seed: int = 0
    lease_s: float = 10.0
    grace_s: float = 0.0
    gather_timeout_s: float = 120.0
    settle_s: float = 5.0
    worker_grace_s: float = 0.0
    replicas: int = 0

    def __post_init__(self) -> None:
        workers = as_count(self.workers)
        if workers.least < 1:
            raise ConfigError(f"a run needs at least 1 worker, got {self.workers}")
        check_workers(self.mode, MAX_NODES if workers.more else workers.least)
        check_servers(as_count(self.servers).least, self.mode)
        check_replicas(self.replicas, self.servers)
        times = {"lease": self.lease_s, "gathering": self.gather_timeout_s, "settling": self.settle_s}
        if min(times.values()) <= 0 or min(self.grace_s, self.worker_grace_s) < 0:
            got = {**times, "grace": self.grace_s, "grace of workers": self.worker_grace_s}
            raise ConfigError(f"leases and deadlines are positive, and a grace is not negative; got {got}, in seconds")


def founding(config: SchedulerConfig) -> Founded:
    """The first record of the run's log."""
    c = config
    counts = str(as_count(c.workers)), str(as_count(c.servers))
    return Founded(c.cluster, c.version, *counts, c.mode, c.algo, c.seed, c.replicas)


def contradiction(founded: Founded, config: SchedulerConfig) -> str:
    """In what a scheduler that goes on with a log would differ from the one that began it; empty if in nothing.

    >>> contradiction(founding(SchedulerConfig(2, 1, seed=1)), SchedulerConfig(3, 1, seed=1))
    'workers: 2, now 3'
    """
    now = founding(config)
    names = ("version", "workers", "servers", "mode", "algo", "seed", "replicas")
    pairs = [(name, getattr(founded, name), getattr(now, name)) for name in names]
    return "; ".join(f"{name}: {then or 'none'}, now {new or 'none'}" for name, then, new in pairs if then != new)
