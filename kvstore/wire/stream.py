"""Messages over one connected socket: frames in, frames out, never waiting, large ones without a copy.

On the wire a message is a prefix (``b"SH"``, the number of payloads as two bytes, the length of the header as four),
the length of each payload (four bytes each), the header, the payloads. All numbers are little-endian.
"""

import socket
import struct
from collections import deque
from typing import Any

import numpy as np

from shoal.errors import RemoteProtocolError

__all__ = ["MAX_FRAME_BYTES", "READ_BYTES", "SMALL_BYTES", "Stream"]

MAX_FRAME_BYTES = 64 << 20
"""A larger frame ends the connection that sent it, before it is allocated."""

MAX_PAYLOADS = 4096

SMALL_BYTES = 16 << 10
"""Smaller messages are copied into one piece: that costs less than handing the kernel their parts."""

FLUSH_BYTES = 1 << 20
"""Handed to the kernel at one go, about; then others have their turn."""

READ_BYTES = 64 << 10
"""Room for what comes in, shared by all streams of a thread: many small messages, or the beginning of a large one."""

AHEAD_BYTES = 2 << 10
"""Read behind a large frame at the same time: the next header, and little of its payload, which must be copied."""

_PREFIX = struct.Struct("<2sHI")
_LENGTHS = [struct.Struct(f"<{n}I") for n in range(17)]
_MAGIC = b"SH"


class Stream:
    """Both directions of one connection; what is put in before there is one, waits for it.

    Args:
        scratch: `READ_BYTES` that all streams of a thread use in turn.
    """

    __slots__ = (
        "_filled",
        "_frames",
        "_lengths",
        "_out",
        "_scratch",
        "_tail",
        "_target",
        "copied_bytes",
        "large",
        "more",
        "sock",
    )

    def __init__(self, scratch: memoryview) -> None:
        self.sock: socket.socket | None = None
        self._scratch = scratch
        self._out: deque[Any] = deque()
        self.copied_bytes = 0  # of what waits to be sent: memory that nobody else holds
        self._forget_input()

    def _forget_input(self) -> None:
        self.more = False  # whole messages are left in what has been read
        self.large = False  # a frame has come that does not fit into `READ_BYTES`
        self._tail = b""  # read, not yet understood
        self._lengths: tuple[int, ...] = ()  # of the frames of the message that is being read; () between messages
        self._frames: list[Any] = []
        self._target: memoryview | None = None  # a frame of it that has come in part
        self._filled = 0

    def begin(self, first: list[Any]) -> None:
        """The connection is made: send the message ``first`` before all others."""
        self._out.extendleft(reversed(self._pieces(first)))

    def abandon(self) -> None:
        """The connection cannot be made; what waits for one is kept."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def close(self) -> None:
        """The connection has ended, and with it what was under way."""
        self.abandon()
        self._out.clear()
        self.copied_bytes = 0
        self._forget_input()

    # --- out ----------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether there is something that the kernel has not taken yet."""
        return bool(self._out)

    def put(self, frames: list[Any], stable: bool = True) -> None:
        """Append a message; `flush` sends it.

        Args:
            frames: header and payloads.
            stable: the payloads are not written until the peer has answered; otherwise what cannot be sent at once is
                copied.
        """
        pieces = self._pieces(frames)
        self._out.extend(pieces)
        if not stable and len(pieces) > 1:
            self.flush()
            for i in range(-min(len(pieces), len(self._out)), 0):
                if not isinstance(self._out[i], bytes):
                    self._out[i] = bytes(self._out[i])
                    self.copied_bytes += len(self._out[i])

    def _pieces(self, frames: list[Any]) -> list[Any]:
        """What to hand the kernel for a message."""
        payloads = frames[1:]
        lengths = [p.nbytes if isinstance(p, memoryview) else len(p) for p in payloads]
        n = len(payloads)
        counts = _LENGTHS[n] if n < len(_LENGTHS) else struct.Struct(f"<{n}I")
        start = _PREFIX.pack(_MAGIC, n, len(frames[0])) + counts.pack(*lengths)
        if sum(lengths) <= SMALL_BYTES:
            pieces: list[Any] = [b"".join((start, *frames))]
        else:
            views = [memoryview(p).cast("B") for p, size in zip(payloads, lengths, strict=True) if size]
            pieces = [b"".join((start, frames[0])), *views]
        self.copied_bytes += len(pieces[0])
        return pieces

    def flush(self) -> bool:
        """Send what the kernel takes; whether that was everything.

        Raises:
            OSError: the connection has ended.
        """
        if self.sock is None:
            return False
        while self._out:
            try:
                if len(self._out) == 1:
                    sent = self.sock.send(self._out[0])
                else:
                    sent = self.sock.sendmsg(self._next_pieces())
            except BlockingIOError:
                return False
            self._sent(sent)
            if sent >= FLUSH_BYTES:
                break
        return not self._out

    def _next_pieces(self) -> list[Any]:
        pieces, size = [], 0
        for piece in self._out:
            pieces.append(piece)
            size += len(piece)
            if size >= FLUSH_BYTES or len(pieces) == 64:
                break
        return pieces

    def _sent(self, n: int) -> None:
        out = self._out
        while n:
            piece = out[0]
            if isinstance(piece, bytes):
                self.copied_bytes -= len(piece)
            if n < len(piece):
                out[0] = memoryview(piece)[n:]
                return
            n -= len(piece)
            out.popleft()

    # --- in -----------------------------------------------------------------------------------------------------------

    def read(self, most: int) -> list[list[Any]]:
        """Frames of the messages that have come, at most ``most``; `more` says that others have come already.

        Raises:
            OSError: the connection has ended.
            RemoteProtocolError: this is no stream of messages.
        """
        if self.sock is None:
            return []
        scratch, start = self._scratch, len(self._tail)
        try:
            if self._target is not None:
                end = self._fill(self.sock, self._target)
            else:
                scratch[:start] = self._tail
                end = start if self.more else start + _some(self.sock.recv_into(scratch[start:]))
        except BlockingIOError:
            return []
        return self._parse(end, most)

    def _fill(self, sock: socket.socket, target: memoryview) -> int:
        """Read into a large frame; when it is full, how much has come behind it."""
        ahead, size = self._scratch[:AHEAD_BYTES], len(target)
        while True:
            self._filled += _some(sock.recvmsg_into([target[self._filled :], ahead])[0])
            if self._filled >= size:
                self._frames.append(target)
                self._target = None
                return self._filled - size

    def _parse(self, end: int, most: int) -> list[list[Any]]:
        messages: list[list[Any]] = []
        scratch, at = self._scratch, 0
        while len(messages) < most:
            if not self._lengths:
                start = self._prefix(at, end)
                if start < 0:
                    break
                at = start
            for want in self._lengths[len(self._frames) :]:
                if end - at < want:
                    self._begin(want, scratch[at:end])
                    self._tail, self.more = b"", False
                    return messages
                self._frames.append(memoryview(bytes(scratch[at : at + want])))
                at += want
            messages.append(self._frames)
            self._frames, self._lengths = [], ()
        self._tail, self.more = bytes(scratch[at:end]), len(messages) == most and at < end
        return messages

    def _prefix(self, at: int, end: int) -> int:
        """Understand the prefix at ``at``; where the header begins, or -1 if the prefix has not come wholly."""
        if end - at < _PREFIX.size:
            return -1
        magic, n, head = _PREFIX.unpack_from(self._scratch, at)
        if magic != _MAGIC or n > MAX_PAYLOADS:
            raise RemoteProtocolError(f"bytes that are no message: {bytes(self._scratch[at : at + 8])!r}")
        start = at + _PREFIX.size + 4 * n
        if end < start:
            return -1
        counts = _LENGTHS[n] if n < len(_LENGTHS) else struct.Struct(f"<{n}I")
        lengths = (head, *counts.unpack_from(self._scratch, at + _PREFIX.size))
        if max(lengths) > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {max(lengths)} bytes; at most {MAX_FRAME_BYTES} are read")
        self._lengths = lengths
        return int(start)

    def _begin(self, size: int, part: memoryview) -> None:
        """A frame has come in part: from now on read into its own memory."""
        self.large = self.large or size > READ_BYTES
        self._target = np.empty(size, np.uint8).data
        self._filled = len(part)
        self._target[: self._filled] = part


def _some(n: int) -> int:
    if n == 0:
        raise ConnectionResetError("the peer has closed the connection")
    return n
