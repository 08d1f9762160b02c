"""What a Ray actor does for a run: it hosts one process at a time, tells what it prints and how it ends, and passes on
signals. Plain Python: `shoal.scheduler.ray.calls` makes an actor of it.

The process follows its host: when the actor's process, or its machine, goes, so does the process. Lines and the end are
fetched by `Host.follow`, which waits for news; what is not acknowledged is told again.
"""

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.scheduler.child import Child, thread_limits
from shoal.scheduler.folders import Folder
from shoal.scheduler.ray.notices import CLOUDS, PERIOD_S, Lookout, Notice
from shoal.scheduler.relay import Relay
from shoal.version import VERSION

__all__ = ["Host", "HostConfig", "Order"]

LOOK_S = 0.05

MOST_LINES = 20_000
"""Lines that are kept for a launcher that does not fetch them."""

LEAVE_S = 25.0
"""An actor that is told to end gives its process so long to leave."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What all hosts of a run are told.

    Args:
        folder: what processes keep on this machine while the run lasts.
        key: text of the cluster's key file; "" for none.
        cwd: the launcher's directory.
        shipped: Ray has brought the directory along: the actor is in it.
        clouds: whose notices of preemption are looked for.
    """

    folder: str
    key: str = ""
    cwd: str = ""
    shipped: bool = False
    clouds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A process to be started.

    Args:
        number: of the order; greater than those before.
        name: such as "worker 1".
        args: after ``shoal``.
        env: on top of the actor's own.
        threads: of its mathematics.
        ready: it says where it listens.
    """

    number: int
    name: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    ready: bool = False


class Host:
    """One actor.

    Args:
        config: of the run.
        address: of this machine, as the others reach it.
        node: Ray's id of it.
        draining: seconds that Ray says this machine has left, and why; None if it stays.
    """

    def __init__(
        self, config: HostConfig, address: str, node: str, draining: Callable[[], Notice | None] = lambda: None
    ) -> None:
        self._config, self._address, self._node, self._draining = config, address, node, draining
        self._boot = secrets.token_hex(8)
        self._news = threading.Condition()
        self._lines: deque[tuple[int, str, str, str]] = deque(maxlen=MOST_LINES)
        self._count = 0
        self._child: Child | None = None
        self._order, self._began, self._port, self._error = 0, 0, "", ""
        self._orders: deque[Order] = deque()
        self._notice: Notice | None = None
        self._noticed = 0.0
        self._over = threading.Event()
        self._trouble = self._settle_in()
        self._relay = Relay(self._take, self._wake)
        self._keeper = threading.Thread(target=self._keep, name="shoal-host", daemon=True)
        self._keeper.start()
        self._watcher = threading.Thread(target=self._watch, name="shoal-notices", daemon=True)
        self._watcher.start()

    def _settle_in(self) -> str:
        """Put the key in its place; why processes cannot run here, or ""."""
        c = self._config
        self._folder = Folder(path=c.folder)
        place = Path(c.folder)
        if c.key:
            mine = place / f"cluster.key.{self._boot}"
            with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
                f.write(c.key)
            mine.replace(place / "cluster.key")
        if not c.shipped and c.cwd and not Path(c.cwd).is_dir():
            return f"there is no directory {c.cwd} there: have Ray bring it along (--working-dir {c.cwd})"
        return ""

    # --- what the launcher calls --------------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """Who and where this is."""
        return {**self._about(), "lines": [], "version": VERSION, "trouble": self._trouble}

    def start(self, order: Order) -> None:
        """Start a process; the one before has ended, or is ended now. To ask again does no harm."""
        with self._news:
            if order.number > self._order:
                self._order, self._port, self._error = order.number, "", ""
                self._orders.append(order)
                self._news.notify_all()

    def follow(self, seen: int, told: tuple[Any, ...], wait_s: float) -> dict[str, Any]:
        """What is new: lines after number ``seen``, and how the process fares if that is not as ``told``."""
        with self._news:
            while self._lines and self._lines[0][0] <= seen:
                self._lines.popleft()
            self._news.wait_for(lambda: bool(self._lines) or self._state() != told or self._over.is_set(), wait_s)
            return {**self._about(), "lines": list(self._lines)}

    def signal(self, boot: str, order: int, number: int) -> None:
        """Send a signal to the process that this order started, and its descendants."""
        with self._news:
            child = self._child if (boot, order) == (self._boot, self._began) else None
        if child is not None:
            child.signal(number)

    def sweep(self, seen: int, wait_s: float) -> dict[str, Any]:
        """The run is over: leave nothing behind on this machine, soon; the last lines."""
        self._over.set()
        self._wake()
        self._keeper.join(wait_s)
        self._relay.close(wait_s)
        self._folder.remove()
        return self.follow(seen, (), 0.0)

    # --- news ---------------------------------------------------------------------------------------------------------

    def _state(self) -> tuple[Any, ...]:
        """What `follow` waits for a change of."""
        child = self._child
        pid, code = (child.pid, child.code) if child is not None else (0, None)
        return (self._began, pid, code, self._port, self._error, self._notice is not None)

    def _about(self) -> dict[str, Any]:
        notice = self._notice
        left_s = notice.left_s - (time.monotonic() - self._noticed) if notice else 0.0
        return {
            "boot": self._boot,
            "node": self._node,
            "address": self._address,
            "host": socket.gethostname(),
            "state": self._state(),
            "notice": (left_s, notice.why) if notice else None,
        }

    def _take(self, source: str, stream: str, line: str) -> None:
        with self._news:
            self._count += 1
            self._lines.append((self._count, source, stream, line))
            self._news.notify_all()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def notify(self, notice: Notice) -> None:
        """This machine is about to be taken away."""
        with self._news:
            if self._notice is None:
                self._notice, self._noticed = notice, time.monotonic()
                self._news.notify_all()

    # --- the process --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Start processes and see them end, always on this thread: a process that follows its parent follows the thread
        that began it."""
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a child inherits it, and Ray's threads block signals
        while not self._over.is_set():
            with self._news:
                self._news.wait_for(lambda: bool(self._orders) or self._over.is_set(), LOOK_S)
                order = self._orders.popleft() if self._orders else None
            if order is not None:
                self._begin(order)
            child = self._child
            if child is not None and child.code is None and child.poll() is not None:
                self._wake()
        if self._child is not None:
            self._child.reap()

    def _begin(self, order: Order) -> None:
        before, self._child = self._child, None
        if before is not None:
            before.reap()
        try:
            child = self._spawn(order)
        except OSError as e:
            with self._news:
                self._began, self._error = order.number, f"cannot be started: {e}"
                self._news.notify_all()
            return
        with self._news:
            self._began, self._child = order.number, child
            self._news.notify_all()
        for stream, pipe in child.streams.items():
            self._relay.add(order.name, stream, pipe)
        if order.ready:
            threading.Thread(target=self._await_port, args=(child,), daemon=True).start()

    def _spawn(self, order: Order) -> Child:
        env = {**os.environ, **thread_limits({}, 1, order.threads), **order.env, "PYTHONUNBUFFERED": "1"}
        ours, theirs, args = -1, -1, list(order.args)
        if order.ready:
            ours, theirs = os.pipe()
            args += ["--ready-fd", str(theirs)]
        cwd = None if self._config.shipped or not self._config.cwd else self._config.cwd
        try:
            command = [sys.executable, "-m", "shoal", *args]
            fds = (theirs,) if order.ready else ()
            return Child(order.name, command, env, fds, pipe=ours, listens=self._address, cwd=cwd)
        finally:
            if order.ready:
                os.close(theirs)

    def _await_port(self, child: Child) -> None:
        said = child.ready(self._over.is_set)
        with self._news:
            self._port = said or ""
            self._news.notify_all()

    # --- notices ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        lookout = Lookout(tuple(c for c in self._config.clouds if c in CLOUDS))
        while not self._over.is_set() and self._notice is None:
            with suppress(Exception):  # asking must never harm what is asked about
                notice = lookout.look() or self._draining()
                if notice is not None:
                    self.notify(notice)
            self._over.wait(PERIOD_S if self._config.clouds else 1.0)

    def leave(self) -> None:
        """This actor has been told to end (SIGTERM): its process leaves first, if it does so in time."""
        self.notify(Notice(LEAVE_S, "its actor was told to end"))
        deadline = time.monotonic() + LEAVE_S
        while (c := self._child) is not None and c.poll() is None and time.monotonic() < deadline:
            time.sleep(LOOK_S)
