"""Lines of the children's output, handed on one by one."""

import os
import selectors
import threading
from collections.abc import Callable
from typing import IO

__all__ = ["Relay"]

MAX_LINE_BYTES = 1 << 16
"""A longer line is handed on in pieces."""

CHUNK_BYTES = 1 << 16


class Relay:
    """Reads pipes on a thread of its own and hands each line on.

    Args:
        on_line: called with source, stream and line, on the relay's thread. If it cannot write any more (a closed
            pipe), lines are dropped, and the children run on.
        on_eof: called when a pipe has ended; its process has probably ended too.
    """

    def __init__(self, on_line: Callable[[str, str, str], None], on_eof: Callable[[], None]) -> None:
        self._on_line, self._on_eof = on_line, on_eof
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._open = 0
        self._closing = False
        self._deaf = False
        self._wake_in, self._wake_out = os.pipe()
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="shoal-relay", daemon=True)
        self._thread.start()

    def add(self, source: str, stream: str, pipe: IO[bytes]) -> None:
        """Hand on what comes out of ``pipe``, until it ends; then close it."""
        with self._lock:
            self._open += 1
            self._selector.register(pipe, selectors.EVENT_READ, _Lines(source, stream, pipe))
        os.write(self._wake_out, b"w")

    def close(self, timeout_s: float = 2.0) -> None:
        """Wait until every pipe has ended, at most ``timeout_s``: a process that escaped may hold one open."""
        self._closing = True
        os.write(self._wake_out, b"w")
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._open or not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_in, 4096)
                else:
                    self._read(key.data)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _read(self, lines: "_Lines") -> None:
        chunk = os.read(lines.pipe.fileno(), CHUNK_BYTES)
        for line in lines.feed(chunk):
            self._hand_on(lines.source, lines.stream, line)
        if not chunk:
            with self._lock:
                self._selector.unregister(lines.pipe)
                self._open -= 1
            lines.pipe.close()
            self._on_eof()

    def _hand_on(self, source: str, stream: str, line: str) -> None:
        if self._deaf:
            return
        try:
            self._on_line(source, stream, line)
        except (OSError, ValueError):  # our own output is closed: go on reading, so that the children do not block
            self._deaf = True


class _Lines:
    """Bytes to lines; a carriage return starts the line afresh, as on a terminal."""

    def __init__(self, source: str, stream: str, pipe: IO[bytes]) -> None:
        self.source, self.stream, self.pipe = source, stream, pipe
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Lines that are complete; an empty chunk completes the last one."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if self._rest and (not chunk or len(self._rest) > MAX_LINE_BYTES):
            whole.append(self._rest)
            self._rest = b""
        return [_text(line) for line in whole]


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
