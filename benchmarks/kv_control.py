"""The benchmark's end of the line: systems that are alive at once take turns on its orders."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Meeting", "NotMeasured", "System", "cpu_seconds", "descendants", "prefer", "stop"]

PEERS = Path(__file__).parent / "peers"
SETUP_S = 180.0
"""How long a system may take until all its workers are ready."""

TURN_S = 300.0

END_S = 5.0
"""How long systems may take to end by themselves, all together."""


class NotMeasured(Exception):
    """A system cannot be measured; the text says why."""


@dataclass
class System:
    """One store under measurement.

    Args:
        name: in the report.
        command: starts it, and waits for its end.
        env: on top of this process's.
        log: where its output goes.
        workers: how many will connect.
        note: what a reader must know.
        restless: it is never quite idle, so it is stopped (SIGSTOP) while others have their turn.
    """

    name: str
    command: Sequence[str]
    workers: int
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    restless: bool = False
    version: str = ""
    ways: list[str] = field(default_factory=list)
    lines: dict[int, "Line"] = field(default_factory=dict)
    onlookers: list["Line"] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, address: str) -> None:
        """Start it; its workers will call at ``address``."""
        env = {**os.environ, **self.env, "KVBENCH_ADDRESS": address, "KVBENCH_SYSTEM": self.name}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def check_alive(self) -> None:
        """Raise if its processes have ended."""
        if self.process is not None and self.process.poll() is not None:
            raise NotMeasured(f"ended with exit code {self.process.returncode}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-4:])[-600:]

    def order(self, **what: Any) -> list[dict[str, Any]]:
        """Tell all workers, and wait for their answers, by rank."""
        self.rest(False)
        for line in self.lines.values():
            line.say(what)
        answers = [self.lines[r].hear(TURN_S, self) for r in sorted(self.lines)]
        self.rest(True)
        return answers

    def rest(self, whether: bool) -> None:
        """Stop a restless system, or let it go on."""
        if self.restless and self.process is not None:
            for pid in descendants(self.process.pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGSTOP if whether else signal.SIGCONT)

    def cpu(self) -> float:
        """CPU seconds, user and system, of all its processes until now."""
        return sum(map(cpu_seconds, descendants(self.process.pid))) if self.process else 0.0

    def ask_to_stop(self) -> None:
        """Its workers end by themselves; the others follow."""
        self.rest(False)
        for line in [*self.lines.values(), *self.onlookers]:
            with suppress(OSError):
                line.say({"stop": True})

    def end(self, deadline: float) -> None:
        """Wait until then, and leave no process behind."""
        if self.process is not None:
            tree = descendants(self.process.pid)
            if not _ended(self.process, deadline - time.monotonic()):
                self.process.terminate()
                _ended(self.process, 5.0)
            for pid in tree:  # what has not ended with its parent
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5.0)
        for line in [*self.lines.values(), *self.onlookers]:
            line.close()


def _ended(process: "subprocess.Popen[bytes]", timeout_s: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, timeout_s))
    return process.poll() is not None


def stop(systems: Sequence[System]) -> None:
    """End all, whatever state they are in; Ctrl-C does not interrupt this."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for s in systems:
            s.ask_to_stop()
        deadline = time.monotonic() + END_S
        for s in systems:
            s.end(deadline)
    finally:
        signal.signal(signal.SIGINT, before)


class Line:
    """The connection of one worker; a JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def say(self, what: dict[str, Any]) -> None:
        """Send an order."""
        self._connection.sendall(json.dumps(what).encode() + b"\n")

    def hear(self, timeout_s: float, system: "System | None" = None) -> dict[str, Any]:
        """The next answer; looks now and then whether the system is still alive."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            if system is not None:
                system.check_alive()
            if time.monotonic() > deadline:
                raise NotMeasured(f"no answer within {timeout_s:g} s")
            self._connection.settimeout(0.5)
            try:
                got = self._connection.recv(1 << 16)
            except TimeoutError:
                continue
            if not got:
                raise NotMeasured("a worker has hung up" + (f": {system._last_words()}" if system else ""))
            self._rest += got
        first, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(first)
        return answer

    def close(self) -> None:
        self._connection.close()


class Meeting:
    """Where the workers of all systems call.

    Args:
        path: of a socket in the file system, for workers in other network namespaces; else it is a port of this host.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.address = str(path)

    def gather(self, systems: Sequence[System], task: Mapping[str, Any]) -> dict[str, str]:
        """Start all, give them their task, and wait until they are ready; reasons of those that are not, by name."""
        failed: dict[str, str] = {}
        for s in systems:
            s.start(self.address)
        self._admit(systems, task, failed)
        for s in systems:
            if s.name in failed:
                continue
            try:
                for line in s.lines.values():
                    ready = line.hear(SETUP_S, s)
                    s.version, s.ways = ready["version"], ready["ways"]
                s.rest(True)
            except (NotMeasured, OSError) as e:
                failed[s.name] = str(e)
        return failed

    def _admit(self, systems: Sequence[System], task: Mapping[str, Any], failed: dict[str, str]) -> None:
        by_name, deadline = {s.name: s for s in systems}, time.monotonic() + SETUP_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while missing := [s for s in systems if len(s.lines) < s.workers and s.name not in failed]:
                for s in missing:
                    try:
                        s.check_alive()
                    except NotMeasured as e:
                        failed[s.name] = str(e)
                if time.monotonic() > deadline:
                    failed |= {s.name: f"not all workers have called within {SETUP_S:g} s" for s in missing}
                if selector.select(0.2):
                    self._take_one(by_name, task)

    def _take_one(self, by_name: Mapping[str, System], task: Mapping[str, Any]) -> None:
        line = Line(self._listener.accept()[0])
        hello = line.hear(10.0)
        system = by_name[hello["system"]]
        line.say(dict(task))
        if hello["rank"] < 0:
            system.onlookers.append(line)
        else:
            system.lines[hello["rank"]] = line

    def close(self) -> None:
        self._listener.close()


def prefer(pids: Iterable[int]) -> None:
    """Let these processes and all that they have started go before those of others; needs root.

    Where the kernel schedules sessions as groups, a process's own priority says nothing outside of its session.
    """
    for pid in [p for root in pids for p in descendants(root)]:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, -20)
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text("-20")


def descendants(pid: int) -> list[int]:
    """The process and all that it has started, directly or not."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found = [pid]
    for p in found:
        found += parents.get(p, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, also of those that have ended; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


sys.path.insert(0, str(PEERS))
