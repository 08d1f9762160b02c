"""A run on other machines: its processes are started through a `Reach`, and end when the launcher does.

The scheduler is beside the launcher. What is on the other machines is started by `shoal.scheduler.attend` there.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from shoal.errors import ConfigError, MembershipError
from shoal.kvstore.wire.keys import load_keys, new_keys, on_loopback
from shoal.scheduler.address import address_towards
from shoal.scheduler.attend import KEY, Order, exit_of, told
from shoal.scheduler.child import THREAD_VARIABLES, describe_exit
from shoal.scheduler.disturb import Calm
from shoal.scheduler.folders import Folder
from shoal.scheduler.hosts import Host, assign
from shoal.scheduler.job import JobConfig, OnLine, OnSnapshot, Outcome
from shoal.scheduler.local import ThisMachine
from shoal.scheduler.machines import Hands, Process, Where
from shoal.scheduler.reach import Reach
from shoal.scheduler.relay import Relay
from shoal.scheduler.run import carry_out

__all__ = ["OtherMachines", "RemoteLauncher", "RemoteProcess"]

BEAT_S = 1.0
"""How often the other ends hear that the launcher is there."""

REAP_S = 5.0
"""How long the other end may take to end its process and say so."""

ROUTE_S = 5.0
"""How long to look for a way to a host."""

NO_PROGRAM = 127


class RemoteProcess:
    """A process on another machine, as the program shows it that holds the connection; see `Process`.

    Args:
        name: such as "worker 1".
        slot: where it was started.
        place: its machine.
        reach: the way there.
        order: what is started.
    """

    def __init__(self, name: str, slot: str, place: Host, reach: Reach, order: Order) -> None:
        self.name, self.slot, self.place, self._reach = name, slot, place, reach
        self.pid, self.host = 0, str(place)  # until it says who it is
        self._process = subprocess.Popen(
            reach.command(place),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._say(order.line())
        os.set_blocking(self._process.stdin.fileno(), False)

    @property
    def streams(self) -> dict[str, IO[bytes]]:
        """Its output, by the name of the stream."""
        assert self._process.stdout is not None and self._process.stderr is not None
        return {"stdout": self._process.stdout, "stderr": self._process.stderr}

    def hear(self, line: str) -> bool:
        """Whether a line of its stderr is the other end's, not the process's."""
        said = told(line)
        if said is not None:
            self.pid, self.host = said
        return said is not None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, and not the process, as far as is known."""
        code = self._process.poll()
        return code is not None and self._reach.lost(code)

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it; a lost connection counts as a hang-up."""
        code = self._process.poll()
        if code is None or code < 0:
            return code
        return -int(signal.SIGHUP) if self._reach.lost(code) else exit_of(code)

    def how(self) -> str:
        """In words, how it has ended."""
        code = self.poll() or 0
        if self.lost:
            ended = f"{self._reach.name} exited with code {self._process.returncode}"
            return f"has lost its connection, or never had one ({ended})"
        if code == NO_PROGRAM and not self.pid:
            return "could not be started: there is no such Python there; name one with python= in the hosts file"
        return describe_exit(code)

    def ready(self, stopped: Callable[[], bool]) -> str | None:
        """The scheduler is never there."""
        return None

    def signal(self, number: int) -> None:
        """Ask the other end to send it."""
        self._say(json.dumps({"signal": number}).encode() + b"\n")

    def beat(self) -> None:
        """The launcher is there."""
        self._say(b"{}\n")

    def reap(self) -> int:
        """End it, and the connection; its exit code."""
        self.signal(signal.SIGKILL)
        self._hang_up()
        try:
            self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:  # the other end ends its process when it notices
            self._process.kill()
            self._process.wait()
        return self.poll() or 0

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it is gone, or does not listen any more
            os.write(self._process.stdin.fileno(), line)

    def __str__(self) -> str:
        return f"{self.name} ({self.place}, pid {self.pid})" if self.pid else f"{self.name} ({self.place})"


class OtherMachines:
    """Where the processes of a run are that is not, or not only, on this machine; see `Machines`.

    Args:
        job: what is run; its paths mean the same here and there, see `RemoteLauncher`.
        hosts: the machines.
        reach: the way to them.
        on_line: called with source, stream and each line of output.
        facing: address of this machine that all of them reach; "" to ask the routing table.
    """

    def __init__(self, job: JobConfig, hosts: Sequence[Host], reach: Reach, on_line: OnLine, facing: str = "") -> None:
        self._job, self._hosts, self._reach, self._on_line, self._facing = job, hosts, reach, on_line, facing
        self._places = assign(hosts, job.workers, job.servers, job.replicas)
        self._private = Folder("shoal-key-")
        self._keys = job.keys or str(new_keys(self._private.path))
        self._here: ThisMachine | None = None
        self._relay: Relay | None = None
        self._started: dict[str, RemoteProcess] = {}
        self._down: set[Host] = set()
        self._beat = 0.0

    def prepare(self, wake: Callable[[], None], stopped: Callable[[], bool]) -> Sequence[int]:
        """All workers begin together, when their machines have what they need."""
        used = tuple(h for h in self._hosts if h in set(self._places.values()))
        self._reach.prepare(used, stopped)
        if stopped():
            return ()
        self._facing = self._facing or self._towards(used)
        here = replace(self._job, host=self._facing, keys=self._keys)
        self._here = ThisMachine(here, self._on_line, Calm())
        self._here.prepare(wake, stopped)
        self._relay = Relay(self._take, wake)
        return range(self._job.workers)

    def _towards(self, hosts: Sequence[Host]) -> str:
        """The address of this machine that all hosts reach, as far as the routing table knows."""
        found: list[str] = []
        for host in hosts:
            name = self._reach.address(host)
            try:
                found.append(address_towards(f"{name}:{host.port or 22}", ROUTE_S))
            except (MembershipError, ConfigError) as e:
                raise ConfigError(
                    f"no way from here to host {host} is known ({e}): say with --host under which address the hosts "
                    "reach this machine"
                ) from e
        return next((a for a in found if not on_loopback(a)), found[0])

    def where(self) -> Where:
        """Each listens on the address that faces the scheduler."""
        assert self._here is not None, "prepared before"
        return Where("", self._keys, kept=self._here.where().kept)

    def start(self, name: str, args: list[str], *, slot: str, ready: bool = False) -> Process:
        """Start ``shoal *args`` where that slot is; the scheduler on this machine."""
        assert self._here is not None and self._relay is not None, "prepared before"
        if name == "scheduler":
            return self._here.start(name, _with(args, "--host", self._facing), slot=slot, ready=ready)
        place = self._place(slot)
        args = _with(_with(args, "--keys", KEY), "--advertise", place.address)
        process = RemoteProcess(name, slot, place, self._reach, self._order(name, args, place))
        self._started[name] = process
        for stream, pipe in process.streams.items():
            self._relay.add(name, stream, pipe)
        return process

    def _place(self, slot: str) -> Host:
        """A host that could not be reached is left to servers, whose snapshots are there; others go elsewhere."""
        self._down |= {p.place for p in self._started.values() if p.lost}
        home = self._places[slot]
        able = [h for h in self._hosts if h not in self._down]
        if home not in self._down or not able or slot.startswith("server "):
            return home
        crowd = [h for s, h in self._places.items() if s.split()[0] == slot.split()[0]]
        self._places[slot] = min(able, key=lambda h: crowd.count(h) / max(1, h.slots))
        return self._places[slot]

    def _order(self, name: str, args: list[str], place: Host) -> Order:
        workers = sum(h == place for s, h in self._places.items() if s.startswith("worker "))
        level = "info" if self._job.verbose else "warning"
        env = {n: v for n, v in os.environ.items() if n in THREAD_VARIABLES or n in FORWARDED}
        share = workers if name.startswith("worker ") else 0
        key = Path(load_place(self._keys)).read_text()
        return Order(args, {**env, **self._job.env, "SHOAL_LOG": level}, share, key, grace_s=self._job.grace_s)

    def _take(self, source: str, stream: str, line: str) -> None:
        process = self._started.get(source)
        if stream == "stdout" or process is None or not process.hear(line):
            self._on_line(source, stream, line)

    def turn(self, run: Hands) -> None:
        """Tell the other ends that the launcher is there."""
        now = time.monotonic()
        if now >= self._beat + BEAT_S:
            self._beat = now
            for process in self._started.values():
                process.beat()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._relay is not None:
            self._relay.close()
        if self._here is not None:
            self._here.close()
        self._private.remove()


FORWARDED = ("SHOAL_SHM", "SHOAL_NATIVE", "SHOAL_PASSES")
"""Variables of the launcher's that its processes have on every machine, besides the job's."""


def load_place(keys: str) -> str:
    """The file of a key, which is named by its directory or by itself; it must be a good one.

    Raises:
        ConfigError: it is none.
    """
    load_keys(keys)
    return os.path.join(keys, "cluster.key") if os.path.isdir(keys) else keys


def _with(args: list[str], flag: str, value: str) -> list[str]:
    """The arguments with another value behind the flag."""
    at = args.index(flag)
    return [*args[: at + 1], value, *args[at + 2 :]]


class RemoteLauncher:
    """Starts a `JobConfig` on other machines; the scheduler is on this one.

    Args:
        hosts: the machines.
        reach: the way to them.
        on_line: see `LocalLauncher`.
        on_snapshot: see `LocalLauncher`.
        facing: address of this machine that all of them reach; "" to ask the routing table.
    """

    def __init__(
        self, hosts: Sequence[Host], reach: Reach, on_line: OnLine, on_snapshot: OnSnapshot, facing: str = ""
    ) -> None:
        self._hosts, self._reach, self._facing = hosts, reach, facing
        self._on_line, self._on_snapshot = on_line, on_snapshot

    def launch(self, job: JobConfig) -> Outcome:
        """Run the job to its end; no process of it is left when this returns, as far as its machines are reached.

        Raises:
            ConfigError: the job makes no sense there, or a host cannot be reached.
        """
        if job.most != job.workers:
            raise ConfigError(f"{job.workers} to {job.most} workers: on a fixed set of hosts say how many")
        if job.snapshots != "never" and not job.run_dir:
            raise ConfigError(
                "--snapshot-every needs a --run-dir here: the directory, on their hosts, of the snapshots"
            )
        if job.trace:
            raise ConfigError("--trace is for --on local: its parts would be on as many machines")
        job = replace(job, script=_inside(job.script), plugins=tuple(map(_inside, job.plugins)))
        job = replace(job, run_dir=_near(job.run_dir), events=_near(job.events))
        machines = OtherMachines(job, self._hosts, self._reach, self._on_line, self._facing)
        return carry_out(job, machines, self._on_line, self._on_snapshot)


def _near(path: str) -> str:
    """From this directory, if it is inside."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if path and Path(path).is_relative_to(here) else path


def _inside(path: str) -> str:
    """From this directory, which is what the other machines have.

    Raises:
        ConfigError: it is not inside.
    """
    near = _near(path)
    if os.path.isabs(near) or ".." in Path(near).parts:
        raise ConfigError(
            f"{path!r} is outside of {os.getcwd()}, which is what the other machines have: start from above"
        )
    return near
