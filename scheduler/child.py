"""One process of this machine that a launcher started, and how such a process follows its parent."""

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import IO

__all__ = ["Child", "Launched", "describe_exit", "ending_signal", "follow_parent", "thread_limits", "usable_cores"]

PARENT = "SHOAL_PARENT_PID"
"""Environment variable through which a launcher tells its children whom to follow."""

AFAR = "SHOAL_ATTENDED"
"""Environment variable that says that the parent is not the launcher, but its attendant on this machine."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

_PR_SET_PDEATHSIG = 1

LOOK_S = 0.05
"""Between two looks at whether the launcher has been told to stop."""

EXIT_S = 3.0
"""How long a process that says no more may take to end."""


class Launched(IntEnum):
    """Who started a process of a run, and speaks for it; false if nobody."""

    NOT = 0
    HERE = 1
    AFAR = 2
    """A launcher on another machine: SIGHUP means that its connection is gone, and that it sees so itself."""


class Child:
    """A process in a session of its own, so that it and its descendants can be ended together.

    Args:
        name: such as "worker 1".
        command: program and arguments.
        env: its whole environment.
        pass_fds: file descriptors that it inherits.
        slot: see `shoal.scheduler.machines.Process`; its name if not given.
        pipe: what it writes there is the port at which it listens; see `ready`. Closed with it.
        listens: the host of that port.
        cwd: where it runs, if not where this process does.
        piped: its output is read here (`streams`); otherwise it is this process's own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        slot: str = "",
        pipe: int = -1,
        listens: str = "",
        cwd: str | None = None,
        piped: bool = True,
    ) -> None:
        self.name, self.slot, self.host = name, slot or name, socket.gethostname()
        self._pipe, self._listens = pipe, listens
        self._process = subprocess.Popen(
            command,
            env={**env, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else None,
            stderr=subprocess.PIPE if piped else None,
            start_new_session=True,
            pass_fds=pass_fds,
            cwd=cwd,
        )
        self.pid = self._process.pid
        self.code: int | None = None

    @property
    def streams(self) -> dict[str, IO[bytes]]:
        """Its output, by the name of the stream."""
        assert self._process.stdout is not None and self._process.stderr is not None
        return {"stdout": self._process.stdout, "stderr": self._process.stderr}

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it, or None while it runs.

        The process is not reaped yet: until `reap` its id, and that of its group, belong to nobody else.
        """
        if self.code is None:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if status is not None:
                self.code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        return self.code

    def how(self) -> str:
        """In words, how it has ended."""
        return describe_exit(self.poll() or 0)

    def ready(self, stopped: Callable[[], bool]) -> str | None:
        """Where it listens, host:port, once it says so; None if it ends before, or ``stopped``."""
        if self._pipe < 0:
            return None
        fd, self._pipe = self._pipe, -1
        with os.fdopen(fd), selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not stopped():
                if selector.select(LOOK_S):
                    line = os.read(fd, 64).decode().strip()  # written at once, so never in parts
                    if not line:
                        self._wait()
                    return f"{self._listens}:{line}" if line else None
        return None

    def _wait(self) -> None:
        """Its end of the pipe is closed and it said nothing: it is about to exit."""
        deadline = time.monotonic() + EXIT_S
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its descendants in the same session; they may be gone."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def reap(self) -> int:
        """End what is left of the process and its descendants; its exit code."""
        self.signal(signal.SIGKILL)
        code = self._process.wait()
        self.code = code if self.code is None else self.code
        return self.code

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def describe_exit(code: int) -> str:
    """What an exit code of `Child.poll` means.

    >>> describe_exit(3), describe_exit(-9)
    ('exited with code 3', 'was killed by SIGKILL')
    """
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def ending_signal() -> int:
    """By which a launcher ends its children: SIGHUP, because SIGTERM asks one of them to leave, and the run goes on.

    Where SIGHUP is ignored (``nohup``) it is SIGTERM all the same.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return int(signal.SIGTERM if ignored else signal.SIGHUP)


def follow_parent() -> Launched:
    """If a launcher started this process: end when the launcher does, however it ends. Returns where that is."""
    parent, afar = os.environ.pop(PARENT, ""), os.environ.pop(AFAR, "")  # not for processes that this one may start
    if not parent.isdecimal():
        return Launched.NOT
    with suppress(OSError, AttributeError):  # not Linux: only an orderly end of the launcher is followed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ending_signal(), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before this process could ask to be told
        raise SystemExit(128 + signal.SIGTERM)
    return Launched.AFAR if afar else Launched.HERE


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max") as f:
        quota, period = f.read().split()
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def thread_limits(env: Mapping[str, str], workers: int, cores: int) -> dict[str, str]:
    """Environment that divides ``cores`` among ``workers`` processes; empty if the user has set any of it.

    Two processes whose BLAS each uses every core are many times slower than two that share them.

    >>> thread_limits({}, workers=2, cores=8)["OMP_NUM_THREADS"]
    '4'
    """
    if any(name in env for name in THREAD_VARIABLES):
        return {}
    return dict.fromkeys(THREAD_VARIABLES, str(max(1, cores // workers)))
