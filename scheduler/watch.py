"""A watcher: asks the scheduler how the run is doing, without being part of it."""

import threading
import time
from collections import deque
from collections.abc import Callable

from shoal.errors import MembershipError
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.messages import Snapshot, Watch
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["Watcher", "snapshot_of"]

PERIOD_S = 0.25

FINAL = ("finished", "failed")


class Watcher:
    """Follows a run on a thread of its own.

    Args:
        address: of the scheduler, ``host:port``.
        on_snapshot: called with every snapshot, on the watcher's thread.
        access: the key, if the scheduler asks for one.
    """

    def __init__(self, address: str, on_snapshot: Callable[[Snapshot], None], access: Access = LOOPBACK) -> None:
        self.last: Snapshot | None = None
        self._on_snapshot = on_snapshot
        self._stopping = False
        self._heard = time.monotonic()
        self._ended = threading.Event()
        self._outbox: deque[Message] = deque()
        self._transport = Transport("watcher", access)
        self._transport.connect("scheduler", address)
        self._thread = threading.Thread(target=self._run, name="shoal-watcher", daemon=True)
        self._thread.start()

    @property
    def final(self) -> Snapshot | None:
        """The last snapshot of a run that is over, or None."""
        return self.last if self.last is not None and self.last.phase in FINAL else None

    @property
    def silent_s(self) -> float:
        """How long the scheduler has not answered."""
        return time.monotonic() - self._heard

    def wait_final(self, timeout_s: float) -> Snapshot | None:
        """Wait for the final snapshot, at most ``timeout_s``."""
        self._ended.wait(timeout_s)
        return self.final

    def tell(self, message: Message) -> None:
        """Say something to the scheduler; from any thread."""
        self._outbox.append(message)
        self._transport.wake()

    def close(self) -> None:
        """Stop watching."""
        self._stopping = True
        self._transport.wake()
        self._thread.join()
        self._transport.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping:
            if time.monotonic() >= due and not self.final:
                self._transport.send("scheduler", Watch())
                due = time.monotonic() + PERIOD_S
            while self._outbox:
                self._transport.send("scheduler", self._outbox.popleft())
            timeout_s = PERIOD_S if self.final else due - time.monotonic()
            for _, message in self._transport.poll(timeout_s):
                if isinstance(message, Snapshot) and not self.final:
                    self._take(message)

    def _take(self, snapshot: Snapshot) -> None:
        self.last, self._heard = snapshot, time.monotonic()
        if self.final:
            self._transport.send("scheduler", Watch())  # acknowledges it: the scheduler need not wait for us
            self._ended.set()
        self._on_snapshot(snapshot)


def snapshot_of(address: str, timeout_s: float = 3.0, access: Access = LOOPBACK) -> Snapshot | None:
    """The state of the run whose scheduler is at ``address``; None if none answers.

    Raises:
        MembershipError: it does not let this process in.
    """
    transport = Transport("watcher", access)
    try:
        transport.connect("scheduler", address)
        transport.send("scheduler", Watch())
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            for _, message in transport.poll(left):
                if isinstance(message, Snapshot):
                    return message
        if why := transport.shut("scheduler"):
            raise MembershipError(f"the scheduler at {address} does not let this process in: {why}")
        return None
    finally:
        transport.close(0.0)
