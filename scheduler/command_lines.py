"""How the processes of a run are started: the words after ``shoal``. Everything is said, so that no variable of the
environment can change it."""

import os

from shoal.scheduler.endpoint import parse_endpoint
from shoal.scheduler.job import JobConfig
from shoal.scheduler.machines import Where

__all__ = ["CommandLines"]


SETTLE_S = "2"
"""Where more workers may come, the run begins when nobody has joined for so long."""


class CommandLines:
    """Of one run.

    Args:
        job: what is run.
        where: where each process listens.
    """

    def __init__(self, job: JobConfig, where: Where) -> None:
        self._job, self._where, self._kept = job, where, where.kept
        self._plugins = [word for path in job.plugins for word in ("--plugin", path)]

    @property
    def state(self) -> str:
        """Directory of the scheduler's log; "" if it keeps none."""
        return os.path.join(self._job.run_dir or self._kept, "scheduler") if self._job.scheduler_grace_s else ""

    def scheduler(self, port: int, anew: bool) -> list[str]:
        """Of the scheduler, at this port or, with 0, at any; the first one of a run begins ``anew``."""
        job = self._job
        args = ["scheduler", "--host", self._where.host, "--port", str(port), "--keys", self._where.keys]
        args += [*self._insecure(), "--replicas", str(job.replicas)]
        args += [*self._observed(0), "--stall-after", str(job.stall_after_s)]
        workers = str(job.workers) if job.workers == job.most else f"{job.workers}+"
        args += ["--workers", workers, "--servers", str(job.servers), "--seed", str(job.seed)]
        args += ["--lease-s", str(job.lease_s), "--gather-timeout-s", str(job.gather_timeout_s)]
        args += ["--worker-grace-s", str(job.worker_grace_s), "--settle-s", SETTLE_S]
        args += ["--scheduler-grace-s", str(job.scheduler_grace_s), "--state", self.state, "--no-sync"]
        args += ["--anew"] if anew else []
        return [*args, "--mode", job.mode, "--algo", job.algo, *self._plugins]

    def _insecure(self) -> list[str]:
        return ["--insecure"] if self._where.insecure else []

    def _listening(self) -> list[str]:
        where = self._where
        place = ["--host", where.host, "--port", "0", "--advertise", where.host, "--keys", where.keys]
        return [*place, *self._insecure(), *self._plugins]

    def server(self, address: str, rank: int, place: int = 0) -> list[str]:
        """Of a server; its metrics are at the port of this place, the one of its rank unless it is said."""
        every = self._job.snapshots
        state = "" if every == "never" else os.path.join(self._job.run_dir or self._kept, "servers")
        args = ["server", *self._observed(place or 1 + rank), "--scheduler", address, "--rank", str(rank)]
        return [*args, *self._listening(), "--snapshot-every", every, "--state", state]

    def replica(self, address: str, rank: int, home: int) -> list[str]:
        """Of the replica of a server: see `shoal.scheduler.pairs.Pairs`."""
        place = 1 + self._job.servers + self._job.most + rank if home else 1 + rank
        return [*self.server(address, rank, place), "--replica"]

    def worker(self, address: str, rank: int, *more: str) -> list[str]:
        """Of a worker, and its script."""
        job = self._job
        options = [*more, "--rank", str(rank), "--target", job.target, *self._listening()]
        options += self._observed(1 + job.servers + rank)
        return ["worker", "--scheduler", address, *options, job.script, *job.args]

    def _observed(self, place: int) -> list[str]:
        """What shows of a process; ``place`` is 0 for the scheduler, then come the servers, then the workers."""
        job = self._job
        events = ["--events", job.events, "--trace", job.trace]
        events += ["--trace-steps", job.trace_steps, "--trace-time", job.trace_time]
        if not job.metrics:
            return ["--metrics", "", *events]
        host, port = parse_endpoint(job.metrics)
        return ["--metrics", f"{host}:{port + place}", *events]

    def metrics(self) -> str:
        """Where whose metrics are, in words."""
        job = self._job
        host, port = parse_endpoint(job.metrics)
        names = ["scheduler", *(f"server {i}" for i in range(job.servers))]
        names += [f"worker {i}" for i in range(job.most)]
        names += [f"replica {i}" for i in range(job.servers * job.replicas)]
        told = ", ".join(f"{name} {port + i}" for i, name in enumerate(names))
        return f"metrics: http://{host}:{port}/metrics; by port: {told}"
