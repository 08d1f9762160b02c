"""A Ray cluster as somewhere to train: for the command line, ``ray job submit``, a notebook, another program."""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.job import JobConfig, OnLine, OnSnapshot, Outcome
from shoal.scheduler.ray.afar import follow
from shoal.scheduler.ray.calls import RayCalls, connect
from shoal.scheduler.ray.machines import RayMachines, RayOptions, inherited, key_of
from shoal.scheduler.run import carry_out

__all__ = ["Cluster", "RayLauncher"]


def _print(source: str, stream: str, line: str) -> None:
    print(f"[{source}] {line}", file=sys.stdout if stream == "stdout" else sys.stderr, flush=True)


class RayLauncher:
    """Starts a `JobConfig` on a Ray cluster.

    Args:
        address: of the cluster; see `shoal.scheduler.ray.calls.connect`.
        options: what is asked of it.
        working_dir: directory that Ray brings to its machines; "" if it is on all of them.
        on_line: called with source ("worker 1"), stream ("stdout" or "stderr") and each line of output.
        on_snapshot: called with the state of the run about twice a second.
    """

    def __init__(
        self,
        address: str = "",
        options: RayOptions | None = None,
        working_dir: str = "",
        on_line: OnLine = _print,
        on_snapshot: OnSnapshot = lambda snapshot: None,
    ) -> None:
        self._address, self._options, self._working_dir = address, options or RayOptions(), working_dir
        self._on_line, self._on_snapshot = on_line, on_snapshot

    def launch(self, job: JobConfig) -> Outcome:
        """Run the job to its end; no actor of it is left when this returns.

        Raises:
            ConfigError: there is no such cluster, or it has no room.
        """
        address = self._address or os.environ.get("RAY_ADDRESS", "")
        ray, came, ships = connect(self._address, self._working_dir, self._cpus(job), self._say)
        options = replace(self._options, cwd=os.getcwd(), shipped=ships, key=key_of(job, self._options))
        try:
            if address.startswith("ray://"):
                return self.from_afar(ray, job, options)
            machines = RayMachines(job, options, RayCalls(ray), self._on_line)
            return carry_out(job, machines, self._on_line, self._on_snapshot)
        finally:
            if came:
                ray.shutdown()

    def from_afar(self, ray: Any, job: JobConfig, options: RayOptions) -> Outcome:
        """The same, watched over by an actor on the cluster's head: see `shoal.scheduler.ray.afar`."""
        calls = RayCalls(ray)
        job = replace(job, keys="", env={**inherited(options.env), **job.env})
        handle = calls.overseer(job, options)
        try:
            return follow(
                lambda *seen: calls.get(calls.call(handle, "news", *seen)),
                lambda number: calls.call(handle, "stop", number),
                self._on_line,
                self._on_snapshot,
            )
        except ConnectionError as e:
            text = f"the run has failed: the Ray cluster, or the actor that watched over it, is lost: {e}"
            return Outcome(1, text, None)
        finally:
            calls.end(handle)

    def _cpus(self, job: JobConfig) -> int:
        """Of Ray's, that the job takes."""
        worker, server = (need.get("CPU", 0.0) for need in (self._options.worker, self._options.server))
        return math.ceil(job.workers * worker + job.servers * (1 + job.replicas) * server)

    def _say(self, text: str) -> None:
        self._on_line("shoal run", "stderr", text)


class Cluster:
    """A Ray cluster in which this program trains; it may use Ray for other things meanwhile.

    Args:
        address: as ``--on ray://ADDRESS`` has it; "" for the cluster that this program is in.
        options: resources of a worker and a server, labels, policy; see `RayOptions`.
        working_dir: see `RayLauncher`; of no account where Ray has been initialised before.
    """

    def __init__(self, address: str = "", options: RayOptions | None = None, working_dir: str = "") -> None:
        self._address, self._options, self._working_dir = address, options, working_dir

    def run(
        self,
        script: str,
        *args: str,
        on_line: OnLine = _print,
        on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
        **job: Any,
    ) -> Outcome:
        """Train with a script; how it ended.

        Args:
            args: of the script.
            on_line, on_snapshot: see `RayLauncher`.
            job: the rest of `shoal.scheduler.job.JobConfig`: ``workers=4, servers=2, mode="async", ...``
        Raises:
            ConfigError: the job makes no sense, or the cluster has no room for it.
        """
        launcher = RayLauncher(self._address, self._options, self._working_dir, on_line, on_snapshot)
        return launcher.launch(JobConfig(script=script, args=args, **job))
