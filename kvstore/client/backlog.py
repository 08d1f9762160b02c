"""What this worker keeps of pushes that servers have not counted yet: bounded, however slow they are."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

from shoal.errors import StoreTimeoutError
from shoal.kvstore.client.shell import Call

__all__ = ["BACKLOG_BYTES", "Backlog"]

BACKLOG_BYTES = 256 << 20
"""Most that copied pushes may take while others wait; one that is larger goes alone."""


class Backlog:
    """The copies that one store has made of pushed arrays. Any thread may use it.

    A push copies its array (`push_async`), gathers many small ones, or encodes it, and keeps that until it is counted.
    If servers are slower than the script, copies would pile up: so a push that would exceed the limit waits for the
    oldest one first.

    Args:
        timeout_s: longest wait for one push; pushes end by their own deadline, which is shorter.
        limit_bytes: see `BACKLOG_BYTES`.
    """

    def __init__(self, timeout_s: float, limit_bytes: int = BACKLOG_BYTES) -> None:
        self.limit_bytes, self._timeout_s = limit_bytes, timeout_s
        self.held_bytes = 0
        self.most_bytes = 0
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()

    def make_room(self, nbytes: int) -> None:
        """Wait until ``nbytes`` more may be kept.

        Raises:
            StoreError: the push that was waited for has failed; this is its error.
            StoreTimeoutError: it is not over after ``timeout_s``.
        """
        while nbytes and self.held_bytes and self.held_bytes + nbytes > self.limit_bytes:
            with self._lock:
                if not self._calls:
                    return
                oldest = self._calls[0]
            try:
                error = oldest.peek(self._timeout_s)
            except TimeoutError as e:
                raise StoreTimeoutError(
                    f"{self.held_bytes} bytes of pushes wait for the servers, and the oldest is not counted after "
                    f"{self._timeout_s:g} s; no more than {self.limit_bytes} are kept"
                ) from e
            if error is not None and not oldest.taken:
                oldest.taken = True
                raise error

    def keep(self, call: Call, nbytes: int) -> None:
        """The push ``call`` keeps ``nbytes`` until it is over."""
        if not nbytes:
            return
        with self._lock:
            self._calls.append(call)
            self.held_bytes += nbytes
            self.most_bytes = max(self.most_bytes, self.held_bytes)

        def over(_: Future[Any]) -> None:
            with self._lock:
                self._calls.remove(call)
                self.held_bytes -= nbytes

        call.add_done_callback(over)
