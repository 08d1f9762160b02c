"""A whole cluster as processes of this machine: every child is in a session of its own, and follows the launcher should
that die. What becomes of them is for `shoal.scheduler.run`.
"""

import os
import sys
from collections.abc import Callable, Sequence

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.child import Child, thread_limits, usable_cores
from shoal.scheduler.disturb import Calm, Disturber
from shoal.scheduler.folders import Folder
from shoal.scheduler.job import JobConfig, Outcome
from shoal.scheduler.machines import Hands, Where
from shoal.scheduler.relay import Relay
from shoal.scheduler.run import carry_out

__all__ = ["LocalLauncher", "ThisMachine"]


class ThisMachine:
    """Where the processes of a local run are; see `shoal.scheduler.machines.Machines`.

    Args:
        job: what is run.
        on_line: called with source, stream and each line of output.
        disturber: gives processes what they are disturbed by.
    """

    def __init__(self, job: JobConfig, on_line: Callable[[str, str, str], None], disturber: Disturber) -> None:
        self._job, self._on_line, self._disturber = job, on_line, disturber
        self._relay: Relay | None = None
        self._private = None if job.run_dir or not job.keeps else Folder("shoal-run-")

    def prepare(self, wake: Callable[[], None], stopped: Callable[[], bool]) -> Sequence[int]:
        """All workers begin together."""
        self._relay = Relay(self._on_line, wake)
        return range(self._job.workers)

    def where(self) -> Where:
        """They meet on the job's address."""
        return Where(self._job.host, self._job.keys, kept=self._private.path if self._private else "")

    def start(self, name: str, args: list[str], *, slot: str, ready: bool = False) -> Child:
        """Start ``shoal *args``, whose lines are handed on."""
        assert self._relay is not None, "prepared before"
        job, ours, theirs = self._job, -1, -1
        env = {**os.environ, **job.env}
        alone = not name.startswith("worker ")
        limits = thread_limits(env, 1, 1) if alone else thread_limits(env, job.workers, usable_cores())
        env |= {**limits, "PYTHONUNBUFFERED": "1", "SHOAL_LOG": "info" if job.verbose else "warning"}
        more, fds = self._disturber.equip(name)
        if ready:
            ours, theirs = os.pipe()
            args, fds = [*args, "--ready-fd", str(theirs)], (*fds, theirs)
        try:
            command = [sys.executable, "-m", "shoal", *args]
            child = Child(name, command, env | more, fds, slot, ours, listens=job.host)
        finally:
            if ready:
                os.close(theirs)
        for stream, pipe in child.streams.items():
            self._relay.add(name, stream, pipe)
        return child

    def turn(self, run: Hands) -> None:
        """There are as many as there are."""

    def close(self) -> None:
        """Leave nothing behind."""
        if self._relay is not None:
            self._relay.close()
        if self._private:
            self._private.remove()


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
        if job.most != job.workers:
            raise ConfigError(
                f"{job.workers} to {job.most} workers: their number changes where machines come and go (--on ray); "
                f"on this machine say how many"
            )
        machines = ThisMachine(job, self._on_line, self._disturber)
        return carry_out(job, machines, self._on_line, self._on_snapshot, self._disturber)
