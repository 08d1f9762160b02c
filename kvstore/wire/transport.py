"""Frames between processes over ZeroMQ. The only importer of zmq.

One `Transport` a thread: it may listen (a ROUTER, peers are known by the identity they chose) and may hold connections
(a DEALER each, known by the name given here). Nothing is retried at this level: cores repeat what is not answered.
"""

import ctypes
import logging
import math
import os
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import zmq

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.sharing import Sharing

__all__ = ["Transport", "tune_malloc", "versions"]

log = logging.getLogger("shoal.wire")

MAX_FRAME_BYTES = 64 << 20
"""A larger frame ends the connection that sent it, before it is allocated."""

QUEUE_LIMIT = 100_000
"""Messages kept for one peer that does not read; the oldest go first, and their requester asks again."""


def tune_malloc() -> None:
    """Let glibc keep message-sized blocks instead of returning them to the kernel after each message.

    Every fresh page costs a fault; keeping the blocks doubles the throughput of 1 MB messages. It changes the whole
    process, so only the processes that shoal starts do it. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)


def versions() -> dict[str, str]:
    """Versions of what carries the frames."""
    return {"pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version()}


class Transport:
    """Sockets of one thread: send and poll typed messages.

    Args:
        name: prefix of the identity that peers see; a random suffix makes each incarnation distinct.
    """

    def __init__(self, name: str) -> None:
        self.identity = f"{name}-{secrets.token_hex(6)}"
        self.malformed: Counter[str] = Counter()
        self._pid = os.getpid()
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._router: zmq.Socket[bytes] | None = None
        self._dealers: dict[str, zmq.Socket[bytes]] = {}
        self._names: dict[Any, str] = {}
        self._pending: dict[str, deque[tuple[list[Any], bool]]] = {}
        self.sharing = Sharing(lambda fd: self._poller.register(fd, zmq.POLLIN), self._poller.unregister)
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._poller.register(self._wake_in, zmq.POLLIN)

    def bind(self, host: str, port: int = 0) -> int:
        """Listen on ``host`` (an address of this machine, or ``0.0.0.0``); port 0 lets the system choose.

        Returns:
            The port.
        Raises:
            ConfigError: the port is taken, or the host is not an address of this machine.
        """
        router = self._socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            router.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as e:
            router.close()
            raise ConfigError(_bind_help(host, port, e)) from e
        self._router = router
        self._poller.register(router, zmq.POLLIN)
        endpoint = router.getsockopt(zmq.LAST_ENDPOINT)
        return int(bytes(endpoint).decode().rsplit(":", 1)[1])

    def connect(self, peer: str, address: str) -> None:
        """Open a connection to ``address`` (``host:port``), from now on called ``peer``. Does not wait."""
        self.disconnect(peer)
        dealer = self._socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self.identity.encode())
        try:
            dealer.connect(f"tcp://{address}")
        except zmq.ZMQError as e:
            dealer.close()
            raise ConfigError(
                f"{peer} cannot be at {address!r}: {e}. Expected host:port, such as 10.0.0.1:9091."
            ) from e
        self._dealers[peer], self._names[dealer] = dealer, peer
        self._poller.register(dealer, zmq.POLLIN)

    def disconnect(self, peer: str) -> None:
        dealer = self._dealers.pop(peer, None)
        if dealer is not None:
            self.sharing.drop(peer)
            self._poller.unregister(dealer)
            del self._names[dealer]
            dealer.close()

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        """Hand a message over, without waiting.

        Args:
            stable: the payload is not written until the peer has answered; otherwise it is copied now.
        """
        self.check_process()
        frames = encode(message)
        if stable:
            frames = self.sharing.refer(peer, frames)
        queue = self._pending.get(peer)
        if queue:
            self._enqueue(queue, frames, stable)
        elif not self._try_send(peer, frames, stable):
            self._enqueue(self._pending.setdefault(peer, deque(maxlen=QUEUE_LIMIT)), frames, stable)

    @staticmethod
    def _enqueue(queue: deque[tuple[list[Any], bool]], frames: list[Any], stable: bool) -> None:
        kept = frames if stable else [frames[0], *(bytes(f) for f in frames[1:])]
        queue.append((kept, True))

    def _try_send(self, peer: str, frames: list[Any], stable: bool) -> bool:
        """True if sent, or if the peer is gone and nobody is left to send it to."""
        socket = self._dealers.get(peer)
        try:
            if socket is not None:
                self._send_frames(socket, frames, stable)
            elif self._router is not None:
                self._router.send(peer.encode(), zmq.SNDMORE | zmq.DONTWAIT)
                self._send_frames(self._router, frames, stable)
        except zmq.Again:
            return False
        except zmq.ZMQError as e:
            if e.errno != zmq.EHOSTUNREACH:
                raise
        return True

    @staticmethod
    def _send_frames(socket: Any, frames: list[Any], stable: bool) -> None:
        last = len(frames) - 1
        for i, frame in enumerate(frames):
            more = zmq.SNDMORE if i < last else 0
            socket.send(frame, more | zmq.DONTWAIT, copy=i == 0 or not stable)

    def poll(self, timeout_s: float) -> Iterator[tuple[str, Message]]:
        """Messages that are there, after waiting at most ``timeout_s`` for the first; malformed ones are counted."""
        self.check_process()
        self._flush()
        if self._pending:
            timeout_s = min(timeout_s, 0.005)  # a full queue is looked at again soon
        for socket, _ in self._poller.poll(math.ceil(max(0.0, timeout_s) * 1000)):
            if socket == self._wake_in:
                self._drain_wakes()
            elif self.sharing.owns(socket):
                self.sharing.readable(socket)
            else:
                yield from self._drain(socket)

    def _drain(self, socket: Any, burst: int = 64) -> Iterator[tuple[str, Message]]:
        for _ in range(burst):  # bounded, so that one busy peer cannot starve the others or the clock
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            peer = self._names.get(socket)
            if peer is None:
                peer, frames = frames[0].bytes.decode("utf-8", "replace"), frames[1:]
            try:
                yield peer, decode(self.sharing.resolve(peer, [f.buffer for f in frames]))
            except RemoteProtocolError as e:
                self._count_malformed(peer, e)

    def _count_malformed(self, peer: str, error: RemoteProtocolError) -> None:
        self.malformed[peer] += 1
        n = self.malformed[peer]
        if n & (n - 1) == 0:  # 1, 2, 4, 8, ...: a flood does not flood the log
            log.warning("dropped malformed message %d from %s: %s", n, peer, error)

    def _flush(self) -> None:
        for peer in list(self._pending):
            queue = self._pending[peer]
            while queue and self._try_send(peer, *queue[0]):
                queue.popleft()
            if not queue:
                del self._pending[peer]

    def wake(self) -> None:
        """End a `poll` that is waiting in another thread. Other threads may call this and `check_process` only."""
        self.check_process()
        try:
            os.write(self._wake_out, b"w")
        except (BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            return

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_in, 4096):
                pass
        except BlockingIOError:
            return

    def close(self, linger_s: float = 0.5) -> None:
        """Close every socket; what was sent is given ``linger_s`` to leave this machine."""
        if self._context.closed:
            return
        self.sharing.close()
        for socket in [*self._dealers.values(), *([self._router] if self._router else [])]:
            socket.close(linger=int(linger_s * 1000))
        self._context.term()
        ends, self._wake_in, self._wake_out = (self._wake_in, self._wake_out), -1, -1  # the numbers are soon others'
        for end in ends:
            os.close(end)

    def _socket(self, kind: int) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return socket

    def check_process(self) -> None:
        """Raise ConfigError in a process forked from the one that opened this: nobody would drive it there."""
        if os.getpid() != self._pid:
            raise ConfigError(
                "this process was forked from one that already uses shoal's network; sockets do not survive a fork. "
                'Start data-loading processes with multiprocessing.get_context("spawn").'
            )


def _bind_help(host: str, port: int, error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return (
            f"port {port} on {host} is already in use, perhaps by another run's scheduler. "
            "Stop that run, or choose another port with --port (0 picks a free one)."
        )
    if error.errno in (zmq.EADDRNOTAVAIL, 19):  # 19: no such device
        return f"{host} is not an address of this machine; bind to one that is, or to 0.0.0.0 for all of them."
    return f"cannot listen on {host}:{port}: {error}"
