"""Connections to peers: made, accepted, made again when they break, and read in turn.

A peer has up to two *lanes*, each a connection: large messages take the second one, so that small ones overtake them
even when the kernel's buffers are full. Who opened the first lane opens the second when it is needed.
"""

import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.wire import sockets
from shoal.kvstore.wire.stream import READ_BYTES, Stream

__all__ = ["Lanes"]

log = logging.getLogger("shoal.wire")

BULK_BYTES = 64 << 10
"""Messages with larger payloads take the second lane."""

PAUSE_BYTES = 16 << 20
"""Of copies that wait for a peer that does not read: its requests are not read until half of them have gone."""

QUEUE_BYTES = 64 << 20
"""... beyond which an answer to an earlier request is dropped. It will be asked for again."""

BURST = 64
"""Messages of one peer that are handed on at once, so that it cannot starve the others or the clock."""

RETRY_S, RETRY_MAX_S = 0.05, 1.0
"""Pauses before a connection is tried again; each is twice as long as the one before."""

IN, OUT = select.EPOLLIN, select.EPOLLOUT
_HELLO = b"shoal"
_MAX_IDENTITY = 128


class _Lane:
    """One connection to a peer. One with an ``address`` is opened by this side, again and again."""

    __slots__ = ("address", "connecting", "due", "fd", "mask", "number", "pause", "peer", "stream", "turn")

    def __init__(self, peer: str, number: int, address: tuple[str, int] | None, scratch: memoryview) -> None:
        self.peer, self.number, self.address = peer, number, address
        self.stream = Stream(scratch)
        self.fd, self.mask, self.turn, self.connecting = -1, 0, 0, False
        self.due, self.pause = 0.0, RETRY_S


class Lanes:
    """All connections of one thread, and the waiting for them.

    Args:
        identity: how peers that are connected to know this side.
        wake: ends `wait`; called on other threads.
        gone: told when the last connection that a peer has made has ended.
        malformed: told of a peer that does not speak this protocol; its connection has ended.
    """

    def __init__(
        self,
        identity: str,
        wake: Callable[[], None],
        gone: Callable[[str], None],
        malformed: Callable[[str, RemoteProtocolError], None],
    ) -> None:
        self.identity, self._gone, self._malformed = identity, gone, malformed
        self._names = sockets.Resolver(wake)
        self._poller = select.epoll()
        self._scratch = memoryview(bytearray(READ_BYTES))
        self._listeners: dict[int, socket.socket] = {}
        self._watched: dict[int, Callable[[int], None]] = {}
        self._open: dict[int, _Lane] = {}  # by file descriptor
        self._peers: dict[str, list[_Lane]] = {}
        self._dirty: list[_Lane] = []  # have been given something to send
        self._down: list[_Lane] = []  # are to be opened
        self._more: list[_Lane] = []  # have messages that are not handed on yet
        self._turns = 0

    # --- other file descriptors ---------------------------------------------------------------------------------------

    def watch(self, fd: int, readable: Callable[[int], None]) -> None:
        """Call ``readable(fd)`` when there is something to read."""
        self._poller.register(fd, IN)
        self._watched[fd] = readable

    def unwatch(self, fd: int) -> None:
        self._poller.unregister(fd)
        del self._watched[fd]

    # --- making connections -------------------------------------------------------------------------------------------

    def listen(self, host: str, port: int, local: bool) -> int:
        """See `Transport.bind`."""
        first, *others = sockets.listen(host, port, local)
        for listener in (first, *others):
            self._listeners[listener.fileno()] = listener
            self.watch(listener.fileno(), self._accept)
        return int(first.getsockname()[1])

    def _accept(self, fd: int) -> None:
        try:
            sock, _ = self._listeners[fd].accept()
        except OSError:  # it has gone away again, or no file descriptors are left
            return
        sock.setblocking(False)
        sockets.adjust(sock)
        lane = _Lane("", 0, None, self._scratch)
        lane.stream.sock = sock
        self._attend(lane, IN)

    def connect(self, peer: str, address: str) -> None:
        """See `Transport.connect`."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"{peer} cannot be at {address!r}: expected host:port, such as 10.0.0.1:9091.")
        self.disconnect(peer)
        self._peers[peer] = []
        self._add_lane(peer, (host, int(port)))

    def _add_lane(self, peer: str, address: tuple[str, int]) -> _Lane:
        lanes = self._peers[peer]
        lane = _Lane(peer, len(lanes), address, self._scratch)
        lanes.append(lane)
        self._dial(lane)
        return lane

    def _dial(self, lane: _Lane) -> None:
        assert lane.address is not None
        host, port = lane.address
        ip = self._names.address(host)
        if not ip:
            self._later(lane)
            return
        try:
            sock, connected = sockets.connect(ip, port)
        except OSError:
            self._later(lane)
            return
        lane.stream.sock, lane.connecting = sock, True
        self._attend(lane, IN | OUT)
        if connected:
            self._connected(lane)

    def _later(self, lane: _Lane) -> None:
        lane.due, lane.pause = time.monotonic() + lane.pause, min(lane.pause * 2, RETRY_MAX_S)
        self._down.append(lane)

    def _connected(self, lane: _Lane) -> None:
        assert lane.stream.sock is not None
        try:
            sockets.finish(lane.stream.sock)
        except OSError:
            self._lost(lane)
            return
        lane.connecting = False
        lane.stream.begin([_HELLO + bytes([lane.number]) + self.identity.encode()])
        self._send(lane)

    def _welcome(self, lane: _Lane, frames: list[Any]) -> None:
        """The first message of a connection that was accepted: who it is."""
        head = bytes(frames[0])
        name = head[len(_HELLO) + 1 :].decode("utf-8", "replace")
        known = self._peers.get(name, [])
        if not head.startswith(_HELLO) or not name or len(name) > _MAX_IDENTITY or any(k.address for k in known):
            raise RemoteProtocolError(f"a connection that does not begin with a greeting, but with {head[:20]!r}")
        lane.peer, lane.number = name, min(head[len(_HELLO)], 1)
        for old in [k for k in known if k.number == lane.number]:  # its sender has given it up
            self._close(old)
            known.remove(old)
        self._peers[name] = sorted([*known, lane], key=lambda k: k.number)

    # --- ending connections -------------------------------------------------------------------------------------------

    def disconnect(self, peer: str) -> None:
        for lane in self._peers.pop(peer, ()):
            self._close(lane)
            lane.address = None

    def close(self, linger_s: float) -> None:
        """Close every connection; what waits is given ``linger_s`` to leave this process."""
        deadline = time.monotonic() + linger_s
        for each in self._open.values():
            self._set_mask(each, OUT)
        while any(x.stream.waiting for x in self._open.values()) and time.monotonic() < deadline:
            for fd, _ in self._poller.poll(deadline - time.monotonic()):
                lane = self._open.get(fd)
                if lane is not None:
                    self._writable(lane)
                    if lane.fd >= 0 and not lane.stream.waiting:
                        self._set_mask(lane, 0)
        for left in list(self._open.values()):
            self._close(left)
        for listener in self._listeners.values():
            listener.close()
        self._poller.close()

    def _close(self, lane: _Lane) -> None:
        self._detach(lane)
        lane.stream.close()

    def _lost(self, lane: _Lane) -> None:
        """A connection has ended, or could not be made."""
        self._detach(lane)
        if lane.connecting:  # nothing was under way: what waits is kept
            lane.stream.abandon()
        else:
            lane.stream.close()
        lane.connecting = False
        lanes = self._peers.get(lane.peer, [])
        if lane not in lanes:
            return
        if lane.address is not None:
            self._later(lane)
            return
        lanes.remove(lane)
        if not lanes:
            del self._peers[lane.peer]
            self._gone(lane.peer)

    def _attend(self, lane: _Lane, mask: int) -> None:
        assert lane.stream.sock is not None
        lane.fd, lane.mask = lane.stream.sock.fileno(), mask
        self._open[lane.fd] = lane
        self._poller.register(lane.fd, mask)

    def _detach(self, lane: _Lane) -> None:
        if lane.fd >= 0:
            self._poller.unregister(lane.fd)
            del self._open[lane.fd]
        lane.fd, lane.mask = -1, 0

    def _set_mask(self, lane: _Lane, mask: int) -> None:
        if lane.mask != mask:
            lane.mask = mask
            self._poller.modify(lane.fd, mask)

    # --- sending ------------------------------------------------------------------------------------------------------

    def put(self, peer: str, frames: list[Any], stable: bool) -> None:
        """Give a message to a peer; `flush` sends it. One to a peer that has gone is dropped."""
        lanes = self._peers.get(peer)
        if not lanes:
            return
        lane = lanes[0]
        if len(frames) > 1 and _size(frames) > BULK_BYTES:
            lane = self._bulk_lane(lanes)
        if lane.stream.copied_bytes > QUEUE_BYTES:
            log.debug("dropped a message to %s, which has not read %d bytes", peer, lane.stream.copied_bytes)
            return
        try:
            lane.stream.put(frames, stable)
        except OSError:
            self._lost(lane)
        else:
            self._dirty.append(lane)

    def _bulk_lane(self, lanes: list[_Lane]) -> _Lane:
        first = lanes[0]
        if len(lanes) < 2 and first.address is not None:
            return self._add_lane(first.peer, first.address)
        return lanes[-1]

    def flush(self) -> None:
        """Send what the kernel takes."""
        dirty, self._dirty = self._dirty, []
        for lane in dirty:
            if lane.fd >= 0 and not lane.connecting:
                self._send(lane)

    def _send(self, lane: _Lane) -> None:
        try:
            done = lane.stream.flush()
        except OSError:
            self._lost(lane)
            return
        if not done or lane.mask != IN:
            self._balance(lane)

    def _balance(self, lane: _Lane) -> None:
        """Listen to a peer unless too much waits for it."""
        lanes = [x for x in self._peers.get(lane.peer, [lane]) if x.fd >= 0 and not x.connecting]
        copied = sum(x.stream.copied_bytes for x in lanes)
        listen = copied <= PAUSE_BYTES // 2 or (copied <= PAUSE_BYTES and all(x.mask & IN for x in lanes))
        for x in lanes:
            self._set_mask(x, (IN if listen else 0) | (OUT if x.stream.waiting else 0))

    def _writable(self, lane: _Lane) -> None:
        if lane.connecting:
            self._connected(lane)
        else:
            self._send(lane)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """What has happened, after waiting at most so long; any thread may wait, one may `handle`."""
        if self._more:
            timeout_s = 0.0
        elif self._down:
            timeout_s = min(timeout_s, min(x.due for x in self._down) - time.monotonic())
        return self._poller.poll(max(0.0, timeout_s))

    def handle(self, events: list[tuple[int, int]]) -> Iterator[tuple[str, list[list[Any]]]]:
        """Do what is to be done; peers and their messages, small ones first, at most one large one."""
        if self._down:
            self._dial_again()
        ready, self._more = self._more, []
        for fd, mask in events:
            lane = self._open.get(fd)
            if lane is None:
                if fd in self._watched:
                    self._watched[fd](fd)
                continue
            if mask & OUT:
                self._writable(lane)
            if mask & ~OUT and lane not in ready:
                ready.append(lane)
        for lane in self._order(ready):
            messages = self._read(lane)
            if messages:
                yield lane.peer, messages

    def _dial_again(self) -> None:
        now = time.monotonic()
        down, self._down = self._down, []
        for lane in down:
            if lane.address is None:  # given up in the meantime
                continue
            if lane.due <= now:
                self._dial(lane)
            else:
                self._down.append(lane)

    def _order(self, ready: list[_Lane]) -> list[_Lane]:
        """First lanes, then the second lane that has waited longest."""
        if len(ready) < 2:
            return ready
        small, large = [x for x in ready if not x.number], [x for x in ready if x.number]
        if large:
            lane = min(large, key=lambda x: x.turn)
            self._turns += 1
            lane.turn = self._turns
            small.append(lane)
            self._more += [x for x in large if x is not lane and x.stream.more]
        return small

    def _read(self, lane: _Lane) -> list[list[Any]]:
        try:
            messages = lane.stream.read(1 if lane.number else BURST)
            if not lane.peer and messages:
                self._welcome(lane, messages.pop(0))
        except RemoteProtocolError as e:
            self._malformed(lane.peer or "a stranger", e)
            self._lost(lane)
            return []
        except OSError:
            self._lost(lane)
            return []
        if messages:
            lane.pause = RETRY_S
            if lane.stream.large and lane.address is not None:
                self._bulk_lane(self._peers[lane.peer])  # the peer will use it for what it sends
        if lane.stream.more:
            self._more.append(lane)
        return messages


def _size(frames: list[Any]) -> int:
    return sum(f.nbytes if isinstance(f, memoryview) else len(f) for f in frames)
