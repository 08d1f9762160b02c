"""A slot: an actor that Ray keeps somewhere for one process of a run, and the process, as the launcher sees them."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from shoal.errors import ConfigError
from shoal.scheduler.child import describe_exit
from shoal.scheduler.ray.calls import Calls
from shoal.scheduler.ray.host import Order
from shoal.version import VERSION

__all__ = ["RemoteProcess", "Slot"]

AGAIN_S = 0.3
"""Between two calls of a host that cannot be reached."""

RESEND_S = 2.0
"""An order that the host has not begun after this time is sent again."""

FOLLOW_S = 5.0
"""How long a host waits for news before it says that there are none."""

REAP_S = 5.0
"""How long a process that is killed may take to end, on a machine that answers."""

LOST = -int(signal.SIGKILL)


class RemoteProcess:
    """A process that a host was asked to start; see `shoal.scheduler.machines.Process`.

    Args:
        place: where it is.
        order: how it was asked for.
        name: such as "worker 1".
    """

    def __init__(self, place: "Slot", order: Order, name: str) -> None:
        self.name, self.slot = name, place.name
        self.place, self.order = place, order
        self.pid, self.host, self.port = 0, "", ""
        self.boot = ""  # of the host that began it
        self._code: int | None = None
        self._how = ""
        self._news = threading.Event()

    def poll(self) -> int | None:
        """See `Process`."""
        return self._code

    def how(self) -> str:
        """See `Process`."""
        return self._how or describe_exit(self._code or 0)

    def ready(self, stopped: Callable[[], bool]) -> str | None:
        """See `Process`."""
        while not stopped() and not self.port and self._code is None:
            self._news.wait(0.05)
            self._news.clear()
        return self.port or None

    def signal(self, number: int) -> None:
        """See `Process`; one that has not begun yet does not begin any more."""
        if self._code is None and not self.pid and number != signal.SIGCONT:
            self.end(-number, "was not started: no machine had room for it")
            self.place.drop(self)
        elif self._code is None:
            self.place.call("signal", self.boot, self.order.number, number)

    def reap(self) -> int:
        """See `Process`."""
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + REAP_S
        while self._code is None and self.place.reachable and time.monotonic() < deadline:
            time.sleep(0.01)
        self.end(LOST)
        return self._code or 0

    def end(self, code: int, how: str = "") -> None:
        """It has ended; what was known before stays."""
        if self._code is None:
            self._code, self._how = code, how
        self._news.set()

    def told(self, pid: int, host: str, port: str) -> None:
        """What its host says of it."""
        self.pid, self.host, self.port = pid, host, port
        self._news.set()

    def __str__(self) -> str:
        where = f" on {self.place.address}" if self.place.address else ""
        return f"{self.name} (pid {self.pid}{where})" if self.pid else f"{self.name} (not started yet)"


class Slot:
    """One actor.

    Args:
        name: such as "worker 1".
        calls: to Ray.
        handle: of the actor.
        on_line: takes the lines of its processes.
        wake: called when a process has ended.
    """

    def __init__(
        self, name: str, calls: Calls, handle: Any, on_line: Callable[[str, str, str], None], wake: Callable[[], None]
    ) -> None:
        self.name, self.handle = name, handle
        self._calls, self._on_line, self._wake = calls, on_line, wake
        self.boot = self.node = self.address = ""
        self.process: RemoteProcess | None = None
        self.notice: tuple[float, str] | None = None
        self.trouble = ""  # why nothing can run there
        self.leaving = False  # its machine is to be given up
        self.lost_at: float | None = None  # since when it cannot be reached
        self.asked_at = time.monotonic()
        self.reference: Any = None
        self._told: tuple[Any, ...] = ()
        self._seen, self._sent, self._again = 0, 0.0, 0.0

    @property
    def reachable(self) -> bool:
        """Whether its host answers."""
        return bool(self.boot) and self.lost_at is None

    @property
    def free(self) -> bool:
        """Whether a process may begin there now."""
        ended = self.process is None or self.process.poll() is not None
        return self.reachable and ended and not self.leaving and not self.trouble

    def call(self, method: str, *args: Any) -> Any:
        """Ask the host, whatever it answers."""
        return self._calls.call(self.handle, method, *args)

    def start(self, process: RemoteProcess) -> None:
        """Have this process begin: at once, or as soon as the host is there."""
        self.process, self._sent = process, 0.0
        self._send()

    def drop(self, process: RemoteProcess) -> None:
        """It is not to begin any more."""
        if self.process is process:
            self.process = None

    def _send(self) -> None:
        process, now = self.process, time.monotonic()
        waits = process is not None and process.poll() is None and not process.pid
        if process is None or not waits or not self.reachable or now < self._sent + RESEND_S:
            return
        if self.trouble:
            process.end(1, f"cannot run on {self.address}: {self.trouble}")
            self._wake()
            return
        self._sent, process.boot = now, self.boot
        self.call("start", process.order)

    # --- what the host says -------------------------------------------------------------------------------------------

    def ask(self, now: float) -> None:
        """Ask for news, unless it has been asked."""
        if self.reference is not None or now < self._again:
            return
        if self.reachable:
            self.reference = self.call("follow", self._seen, self._told, FOLLOW_S)
        else:
            self.reference = self.call("hello")

    def hear(self) -> None:
        """The answer is there.

        Raises:
            ConfigError: no actor can be made there.
        """
        reference, self.reference = self.reference, None
        try:
            reply = self._calls.get(reference)
        except ConnectionError:
            now = time.monotonic()
            self.lost_at, self._again = self.lost_at or now, now + AGAIN_S
            return
        self.take(reply)

    def take(self, reply: Mapping[str, Any]) -> None:
        """What the host says of itself and its process."""
        self._introduce(reply)
        self.lost_at = None
        self.hand_on(reply)
        if reply["notice"] is not None and self.notice is None:
            left_s, why = reply["notice"]
            self.notice = time.monotonic() + left_s, str(why)
        began, pid, code, port, error, _ = self._told = tuple(reply["state"])
        process = self.process
        if process is not None and began == process.order.number and process.boot == self.boot:
            if pid:
                process.told(pid, str(reply["host"]), port)
            if code is not None or error:
                process.end(code if code is not None else 1, error)
                self._wake()
        self._send()

    def _introduce(self, reply: Mapping[str, Any]) -> None:
        if reply["boot"] == self.boot:
            return
        if self.boot:
            self.lose(f"was lost: Ray began its actor anew, on {reply['address']}")
        self.boot, self.node, self.address = reply["boot"], reply["node"], reply["address"]
        self._seen, self._sent, self.notice = 0, 0.0, None
        self.trouble = reply.get("trouble", "")
        version = reply.get("version", VERSION)
        if version != VERSION:
            raise ConfigError(f"{self.address} has shoal {version}, and this is {VERSION}: install the same everywhere")

    def hand_on(self, reply: Mapping[str, Any]) -> None:
        """Lines that have not been handed on yet."""
        for number, source, stream, line in reply["lines"]:
            if number > self._seen:
                self._seen = number
                self._on_line(source, stream, line)

    @property
    def seen(self) -> int:
        """Number of the last line."""
        return self._seen

    def lose(self, how: str) -> None:
        """Its process, if it had begun, is gone with the host; one that has not begun waits on."""
        process = self.process
        if process is not None and process.boot and process.poll() is None:
            left = self.leaving and process.name.startswith("worker ")  # as it was told to; others have taken over
            process.end(0 if left else LOST, how)
            self._wake()

    def give_up(self) -> None:
        """The host is gone, or taken for it: whatever comes next is another one."""
        self.lose(f"was lost with its machine, {self.address}")
        self.boot = ""
