"""Frames between threads and hosts over ZeroMQ: who is connected to whom, and what waits for whom. Beside the
door (`shoal.kvstore.wire.curve`), which says who is let in, the only importer of zmq.

A peer has up to two *lanes*, each a connection with an identity of its own: large messages take the second one, so that
small ones overtake them. Who opened the first lane opens the second when it is needed. Beside its TCP port a listener
has unix sockets, one a lane, for the processes of its machine.

The sockets belong to one thread at a time: `wait` touches none of them (it waits for file descriptors, and any thread
may call it); everything else is called by one thread, or under a lock. A ZeroMQ socket's descriptor tells only that
there is news since its events were last asked for, so they are asked for after every use.
"""

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.wire import beside
from shoal.kvstore.wire.curve import Door
from shoal.kvstore.wire.keys import Keys
from shoal.kvstore.wire.packet import PACK_BYTES, PACK_FRAMES, PACKED, pack, size_of, unpack

__all__ = ["Lanes", "versions"]

log = logging.getLogger("shoal.wire")

BULK_BYTES = 64 << 10
"""Messages with larger payloads take the second lane, and are not copied."""

MAX_FRAME_BYTES = 1 << 30
"""A larger frame ends the connection that sent it, before it is allocated. Keys that are kept whole are one frame."""

QUEUE_BYTES = 64 << 20
"""Of what waits for a peer that does not read; beyond it an answer is dropped: it will be asked for again."""

BURST = 64
"""Messages of one socket that are handed on at once, so that it cannot starve the others or the clock."""

SPIN_S = 200e-6
"""How long a thread that may look again and again does so before it sleeps: to wake a sleeping virtual processor takes
40 us and more, several times what a small message takes otherwise."""

CROWDED_S, CROWDED_WAITS = 50e-6, 16
"""If giving way takes longer than the first number, somebody else wants this processor: so many waits do not spin."""

_BULK = b"\x01"
_POLLIN = int(zmq.POLLIN)
_MORE = int(zmq.SNDMORE) | int(zmq.DONTWAIT)
_LAST = int(zmq.DONTWAIT)
_NOW = int(zmq.DONTWAIT)


def versions() -> dict[str, str]:
    """Versions of what carries the frames."""
    return {"pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version()}


class _Waiting:
    """Messages that a peer's full queue did not take."""

    __slots__ = ("messages", "nbytes")

    def __init__(self) -> None:
        self.messages: deque[tuple[list[Any], int]] = deque()
        self.nbytes = 0


class Lanes:
    """All connections of one thread, and the waiting for them.

    Args:
        identity: how peers that are connected to know this side.
        gone: told of a peer that cannot be reached any more.
        malformed: told of a peer whose message cannot be taken apart.
        keys: of the cluster; every connection, in both directions, is to a process that has the same.
    """

    def __init__(
        self,
        identity: str,
        gone: Callable[[str], None],
        malformed: Callable[[str, RemoteProtocolError], None],
        keys: Keys | None = None,
    ) -> None:
        self.identity, self._gone, self._malformed = identity, gone, malformed
        self._context = zmq.Context(io_threads=2)  # a large message holds its thread up for long
        self._poller = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._router: Any = None
        self.port = 0  # where it listens
        self._bulk_peers: set[str] = set()  # who has opened a second lane to this side
        self._addresses: dict[str, str] = {}  # endpoint by peer
        self._dealers: dict[str, list[Any]] = {}
        self._names: dict[Any, str] = {}
        self._sockets: dict[int, Any] = {}  # by file descriptor
        self._used: set[Any] = set()  # sockets whose events must be asked for
        self._ready: dict[Any, None] = {}  # sockets with messages that are not handed on yet
        self._waiting: dict[tuple[str, bool], _Waiting] = {}
        self._held_back = False  # whether large messages were left the last time
        self._crowded = 0  # waits that are not to spin
        self.door = Door(self._context, keys, self.watch, self.unwatch)
        self._brief = False  # whether the last wait was so short that spinning would have covered it

    # --- other file descriptors ---------------------------------------------------------------------------------------

    def watch(self, fd: int, readable: Callable[[int], None]) -> None:
        """Call ``readable(fd)`` when there is something to read."""
        self._poller.register(fd, select.EPOLLIN)
        self._watched[fd] = readable

    def unwatch(self, fd: int) -> None:
        self._poller.unregister(fd)
        del self._watched[fd]

    # --- connections --------------------------------------------------------------------------------------------------

    def listen(self, host: str, port: int, local: bool) -> int:
        """See `Transport.bind`."""
        router = self._socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.door.guard(router)
        try:
            router.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as e:
            self.door.close()
            router.close()
            raise ConfigError(_bind_help(host, port, e)) from e
        chosen = int(bytes(router.getsockopt(zmq.LAST_ENDPOINT)).decode().rsplit(":", 1)[1])
        if local:
            _listen_beside(router, beside.endpoint(host, chosen))
        self._router, self.port = router, chosen
        self.door.opened(chosen)
        self._attend(router)
        return chosen

    def connect(self, peer: str, address: str) -> None:
        """See `Transport.connect`."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"{peer} cannot be at {address!r}: expected host:port, such as 10.0.0.1:9091.")
        self.disconnect(peer)
        self._addresses[peer] = beside.find(host, int(port)) or f"tcp://{address}"
        self._dealers[peer] = []
        self._open_lane(peer)

    def _open_lane(self, peer: str) -> Any:
        lanes = self._dealers[peer]
        dealer = self._socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self.identity.encode() + _BULK * len(lanes))
        dealer.setsockopt(zmq.AFFINITY, 2 if lanes else 1)
        self.door.present(dealer, "" if lanes else peer)
        address = self._addresses[peer]
        if lanes and address.startswith("ipc:"):
            self.door.widen(dealer, peer)
            address += beside.BULK
        try:
            dealer.connect(address)
        except zmq.ZMQError as e:
            self.door.leave(peer)
            dealer.close()
            raise ConfigError(
                f"{peer} cannot be at {address!r}: {e}. Expected host:port, such as 10.0.0.1:9091."
            ) from e
        lanes.append(dealer)
        self._names[dealer] = peer
        self._attend(dealer)
        if len(lanes) > 1:
            dealer.send(b"", _LAST)  # so that the peer can use it
        return dealer

    def _attend(self, socket: Any) -> None:
        fd = socket.getsockopt(zmq.FD)
        self._sockets[fd] = socket
        self._poller.register(fd, select.EPOLLIN)
        self._used.add(socket)

    def disconnect(self, peer: str) -> None:
        self.door.leave(peer)
        for dealer in self._dealers.pop(peer, ()):
            fd = dealer.getsockopt(zmq.FD)
            self._poller.unregister(fd)
            del self._sockets[fd], self._names[dealer]
            self._used.discard(dealer)
            self._ready.pop(dealer, None)
            dealer.close()
        self._waiting = {k: w for k, w in self._waiting.items() if k[0] != peer}

    def close(self, linger_s: float) -> None:
        """Close every socket; what was sent is given ``linger_s`` to leave this machine."""
        deadline = time.monotonic() + linger_s
        while self._waiting and time.monotonic() < deadline:
            self._retry()
            time.sleep(0.005)
        self.door.close()
        for socket in self._sockets.values():
            socket.close(linger=int(linger_s * 1000))
        self._context.term()
        self._poller.close()

    def _socket(self, kind: int) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return socket

    # --- sending ------------------------------------------------------------------------------------------------------

    def put(self, peer: str, frames: list[Any], stable: bool) -> None:
        """Send a message. One to a peer that has gone is dropped; one to a peer that does not read waits."""
        nbytes = sum(map(size_of, frames))
        bulk = nbytes > BULK_BYTES and len(frames) > 1
        if nbytes <= PACK_BYTES and 1 < len(frames) <= PACK_FRAMES:
            frames = [pack(frames)]
        waiting = self._waiting.get((peer, bulk))
        if waiting is None and self._send(peer, frames, bulk, stable):
            return
        if waiting is None:
            waiting = self._waiting[peer, bulk] = _Waiting()
        if waiting.nbytes > QUEUE_BYTES:
            log.debug("dropped a message to %s, which has not read %d bytes", peer, waiting.nbytes)
            return
        waiting.messages.append((frames if stable else [frames[0], *map(bytes, frames[1:])], nbytes))
        waiting.nbytes += nbytes

    def _send(self, peer: str, frames: list[Any], bulk: bool, stable: bool) -> bool:
        """True if sent, or if the peer is gone and nobody is left to send it to."""
        lanes = self._dealers.get(peer)
        try:
            if lanes is not None:
                socket = lanes[0] if not bulk else lanes[1] if len(lanes) > 1 else self._open_lane(peer)
            elif self._router is not None:
                socket = self._router
                name = peer.encode()
                socket.send(name + _BULK if bulk and peer in self._bulk_peers else name, _MORE)
            else:
                return True
            self._used.add(socket)
            last = len(frames) - 1
            for i, frame in enumerate(frames):
                copy = not stable or not bulk or size_of(frame) <= BULK_BYTES
                socket.send(frame, _MORE if i < last else _LAST, copy=copy)
        except zmq.Again:
            return False
        except zmq.ZMQError as e:
            if e.errno != zmq.EHOSTUNREACH:
                raise
            if bulk and peer in self._bulk_peers:
                self._bulk_peers.discard(peer)
                return self._send(peer, frames, bulk, stable)
            self._gone(peer)
        return True

    def flush(self) -> None:
        """Find out which of the sockets that were used have messages."""
        while self._used:
            socket = self._used.pop()
            if socket.getsockopt(zmq.EVENTS) & _POLLIN:
                self._ready[socket] = None

    def _retry(self) -> None:
        for key in list(self._waiting):
            waiting = self._waiting[key]
            while waiting.messages and self._send(key[0], waiting.messages[0][0], key[1], True):
                waiting.nbytes -= waiting.messages.popleft()[1]
            if not waiting.messages:
                del self._waiting[key]

    # --- receiving ----------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float, spins: bool = False) -> list[tuple[int, int]]:
        """What has happened, after waiting at most so long; any thread may wait, one may `handle`.

        Args:
            spins: look again and again for `SPIN_S` before sleeping, as long as that has lately been worth it.
        """
        if self._ready:
            timeout_s = 0.0
        elif self._waiting:
            timeout_s = min(timeout_s, 0.005)  # a full queue is looked at again soon
        if timeout_s <= 0.0 or not spins:
            return self._poller.poll(max(0.0, timeout_s))
        if self._crowded:
            self._crowded -= 1
        elif self._brief:
            found = self._spin(min(timeout_s, SPIN_S))
            if found:
                return found
        began = time.perf_counter()
        found = self._poller.poll(timeout_s)
        self._brief = time.perf_counter() - began < SPIN_S
        return found

    def _spin(self, most_s: float) -> list[tuple[int, int]]:
        """Look until something has happened, the time is over, or somebody else wants the processor."""
        poll, clock, give_way = self._poller.poll, time.perf_counter, os.sched_yield
        now = clock()
        until = now + most_s
        while now < until:
            found = poll(0.0)
            if found:
                return found
            give_way()
            before, now = now, clock()
            if now - before > CROWDED_S:
                self._crowded = CROWDED_WAITS
                break
        return []

    def handle(
        self, events: list[tuple[int, int]], hurried: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[str, list[list[Any]]]]:
        """Do what is to be done; peers and their messages, each a list of frames.

        Args:
            hurried: whether something may have to be sent first: then large messages are left for the next time, but
                not twice in a row.
        """
        if self._waiting:
            self._retry()
        for fd, _ in events:
            socket = self._sockets.get(fd)
            if socket is not None:
                self._used.add(socket)
            elif fd in self._watched:
                self._watched[fd](fd)
        self.flush()
        ready, self._ready = self._ready, {}
        held, self._held_back = self._held_back, False
        for socket in sorted(ready, key=self._is_bulk) if len(ready) > 1 else ready:
            if not held and self._is_bulk(socket) and hurried():
                self._ready[socket], self._held_back = None, True
                continue
            yield from self._read(socket)
            self._used.add(socket)
        self.flush()

    def _is_bulk(self, socket: Any) -> bool:
        lanes = self._dealers.get(self._names.get(socket, ""), ())
        return len(lanes) > 1 and socket is lanes[1]

    def _read(self, socket: Any) -> Iterator[tuple[str, list[list[Any]]]]:
        peer = self._names.get(socket)
        for _ in range(BURST):
            if socket.closed or not socket.getsockopt(zmq.EVENTS) & _POLLIN:
                return
            if peer is None:
                name = socket.recv(_NOW)
                bulk, sender = name[-1:] == _BULK, name.rstrip(_BULK).decode("utf-8", "replace")
                if bulk:
                    self._bulk_peers.add(sender)
            else:
                bulk, sender = self._is_bulk(socket), peer
            try:
                frames = _receive(socket, bulk)
            except RemoteProtocolError as e:
                self._malformed(sender, e)
                continue
            if frames:
                yield sender, [frames]
            if bulk:
                return  # a large message: look at the small ones first


def _receive(socket: Any, bulk: bool) -> list[Any]:
    """The frames of the next message; none for the one that opens a second lane."""
    first = socket.recv(_NOW)
    if first[:1] == bytes([PACKED]):
        return unpack(first)
    frames: list[Any] = [first]
    while socket.getsockopt(zmq.RCVMORE):
        frames.append(socket.recv(_NOW, copy=False).buffer if bulk else memoryview(socket.recv(_NOW)))
    return frames if len(frames) > 1 or first else []


def _listen_beside(router: Any, endpoint: str) -> None:
    """Listen on the unix sockets beside a port, too: each has the I/O thread that the other end has for that lane.

    Of a TCP port's connections ZeroMQ gives each to the I/O thread that has the fewest.
    """
    try:
        for name, threads in ((endpoint + beside.BULK, 2), (endpoint, 1)):  # who finds the latter uses both
            router.setsockopt(zmq.AFFINITY, threads)
            router.bind(name)
    except zmq.ZMQError:  # no abstract names on this system, or somebody has taken this one: there is TCP
        log.debug("no unix socket %s", endpoint)


def _bind_help(host: str, port: int, error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return (
            f"port {port} on {host} is already in use, perhaps by another run's scheduler. "
            "Stop that run, or choose another port with --port (0 picks a free one)."
        )
    if error.errno in (zmq.EADDRNOTAVAIL, 19):  # 19: no such device
        return f"{host} is not an address of this machine; bind to one that is, or to 0.0.0.0 for all of them."
    return f"cannot listen on {host}:{port}: {error}"
