"""The far end of a launcher: starts one process of a run, and ends it when the launcher is gone, however it went.

The launcher runs ``shoal attend`` on another machine (through ssh or srun) and holds its standard input. The first line
of that is the order; what follows are signals for the process, and beats. The end of the input, or silence, means that
the launcher is gone, or can no longer be reached: the process and its descendants are ended. The process's output is
this one's own, after one line that says who it is.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import IO

from shoal.errors import ConfigError
from shoal.scheduler.child import AFAR, Child, ending_signal, thread_limits, usable_cores
from shoal.scheduler.folders import Folder
from shoal.scheduler.signals import handling

__all__ = ["KEY", "MARK", "Order", "attend", "exit_code", "exit_of", "told"]

MARK = "\x1eshoal-attend "
"""Before what this program says of itself on stderr; the launcher takes such lines out."""

KEY = "@cluster-key"
"""Stands in the arguments for the file of the key, which the order brings along."""

PERIOD_S = 0.1
"""How often the process is looked at."""

ORDER_S = 30.0
"""How long the launcher may take to give its order."""

_DEADLY = {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be started.

    Args:
        args: behind ``shoal``.
        env: variables on top of the machine's own.
        share: the cores of this machine are divided among so many; 0: one thread is enough.
        key: text of the cluster's key file; "" for none.
        silence_s: without a word from the launcher for so long, it is gone.
        grace_s: how long the process may take to end before it is killed.
    """

    args: list[str]
    env: dict[str, str] = field(default_factory=dict)
    share: int = 0
    key: str = ""
    silence_s: float = 120.0
    grace_s: float = 3.0

    def line(self) -> bytes:
        """As the launcher sends it."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Order":
        """The other way round.

        Raises:
            ConfigError: it is no order.
        """
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError) as e:
            raise ConfigError(
                f"shoal attend expects an order of a launcher, of the same version of shoal, on its input: {e}"
            ) from e


def exit_code(code: int) -> int:
    """How `attend` exits when its process ended with this code, or minus the signal that killed it.

    >>> exit_code(3), exit_code(-9)
    (3, 137)
    """
    return code if code >= 0 else 128 - code


def exit_of(code: int) -> int:
    """The process's own code from that of `attend`: minus the signal, if that is one that nobody exits with on purpose.

    >>> exit_of(3), exit_of(137), exit_of(143)
    (3, -9, 143)
    """
    return 128 - code if code - 128 in _DEADLY else code


def told(line: str) -> tuple[int, str] | None:
    """Process id and host, if that is what the line says.

    >>> told("an ordinary line") is None
    True
    """
    if not line.startswith(MARK):
        return None
    try:
        said = json.loads(line.removeprefix(MARK))
        return int(said["pid"]), str(said["host"])
    except (ValueError, KeyError, TypeError):
        return None


def attend(stdin: IO[bytes] | None = None) -> int:
    """Do what the order on standard input says; the exit code.

    Raises:
        ConfigError: there is no order.
    """
    source = _Input((stdin or sys.stdin.buffer).fileno())
    line = source.line(ORDER_S)
    if line is None:
        raise ConfigError("shoal attend is for a launcher (shoal run --on ssh:...), which has given no order")
    order = Order.parse(line)
    private = _private(order.key)
    try:
        return _Attendant(order, source, private.path if private else "").follow()
    finally:
        if private:
            private.remove()


def _private(key: str) -> Folder | None:
    """A directory of our own with the key; None without one."""
    if not key:
        return None
    folder = Folder("shoal-key-")
    with open(os.open(os.path.join(folder.path, "cluster.key"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
        f.write(key)
    return folder


class _Attendant:
    """Of one process."""

    def __init__(self, order: Order, source: "_Input", private: str) -> None:
        self._order, self._source = order, source
        args = [os.path.join(private, "cluster.key") if a == KEY else a for a in order.args]
        env = {**os.environ, **order.env}
        env |= thread_limits(env, order.share, usable_cores()) if order.share else thread_limits(env, 1, 1)
        command = [sys.executable, "-m", "shoal", *args]
        env |= {AFAR: "1", "PYTHONUNBUFFERED": "1"}
        self._child = Child(args[0] if args else "", command, env, piped=False)
        said = json.dumps({"pid": self._child.pid, "host": socket.gethostname()})
        print(f"{MARK}{said}", file=sys.stderr, flush=True)

    def follow(self) -> int:
        """Until the process ends, or the launcher is gone."""
        heard = time.monotonic()
        with handling(self._child.signal):
            while self._child.poll() is None:
                line = self._source.line(PERIOD_S)
                now = time.monotonic()
                heard = now if line is not None else heard
                if line:
                    self._obey(line)
                if self._source.ended or now - heard > self._order.silence_s:
                    self._end()
                    break
        return exit_code(self._child.reap())

    def _obey(self, line: bytes) -> None:
        try:
            number = json.loads(line).get("signal", 0)
        except (ValueError, AttributeError):
            return
        if isinstance(number, int) and number in signal.valid_signals():
            self._child.signal(number)

    def _end(self) -> None:
        self._child.signal(ending_signal())
        deadline = time.monotonic() + self._order.grace_s
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 10)


class _Input:
    """Lines of a file descriptor, with a deadline."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest, self.ended = fd, b"", False
        self._selector = selectors.DefaultSelector()
        self._selector.register(fd, selectors.EVENT_READ)

    def line(self, timeout_s: float) -> bytes | None:
        """The next line; None if none has come by then, or none will."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            if self.ended or not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            chunk = os.read(self._fd, 1 << 16)
            self.ended, self._rest = not chunk, self._rest + chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line
