"""Who is let in: CURVE on every connection of a process that has the cluster's key, and what is said of those without.

The listening side asks for its clients' public key (ZAP, RFC 27) in its own thread: the handler is a socket of the same
context, in the same loop. The connecting side hears of handshakes that fail and can say why nobody answers.

Who hears of connections also sees to their buffers: ZeroMQ leaves those of unix sockets as they are.
"""

import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq
from zmq.utils import z85

from shoal.errors import ConfigError
from shoal.kvstore.wire.keys import Keys

__all__ = ["Door", "socket_of"]

log = logging.getLogger("shoal.wire")

HANDSHAKE_S = 10
"""A connection that has not proved by then that it belongs here is closed."""

MAX_ADDRESSES = 1024
"""Addresses that are counted each by itself; refusals of further ones are counted together."""

BUFFER_BYTES = 384 << 10
"""What a unix connection may hold that is sent and not yet read; the kernel doubles it, and may set a limit. With the
usual 208 KB in all, reader and writer wake each other too often; with several megabytes what is read has left the
processor's cache."""

_DOMAIN = b"shoal"
_ZAP = "inproc://zeromq.zap.01"
_POLLIN = int(zmq.POLLIN)
_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_LISTENER = _FAILED | int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
_DIALER = _FAILED | _REFUSED | int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_BULK = " bulk"  # behind the peer's name, for its second connection
_EVENT = struct.Struct("=HI")
_OTHER_MECHANISM = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)

NO_KEY = "it asks for the cluster's key (--keys)"
OTHER_KEY = "it asks for another key than this process has (--keys)"
NEEDLESS_KEY = "it was started without a key, and this process with one (--keys)"


class Door:
    """Lets in, over the sockets of one context, who has the same key.

    Args:
        context: of those sockets.
        keys: None lets everybody in.
        watch, unwatch: begin and end to call a function when a file descriptor is readable.
    """

    def __init__(
        self,
        context: Any,
        keys: Keys | None,
        watch: Callable[[int, Callable[[int], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        if keys is not None and not zmq.has("curve"):
            raise ConfigError("this machine's libzmq has no CURVE, so no key can be used: install pyzmq from PyPI")
        self._context, self._keys, self._watch, self._unwatch = context, keys, watch, unwatch
        self.refused: Counter[str] = Counter()  # connections that were not let in, by address of the peer
        self.shut: dict[str, str] = {}  # peers that do not let this process in, and why
        self._pairs = {side: _pair(keys.derive(side)) for side in ("listen", "connect")} if keys else {}
        self._zap: Any = None
        self._monitors: dict[str, tuple[Any, Any]] = {}  # watched socket and its events, by peer; "" is the listener
        self._accepted: dict[int, str] = {}  # addresses by file descriptor
        self._failing = 0
        self._port = 0

    # --- listening ----------------------------------------------------------------------------------------------------

    def guard(self, router: Any) -> None:
        """Prepare a listening socket, before it is bound."""
        router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_S * 1000)
        with suppress(zmq.ZMQError):  # a system without such sockets
            router.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())  # an abstract name has no mode
        if self._keys is None:
            self._monitor("", router, int(zmq.EVENT_ACCEPTED), _widen)
            return
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP)
        self._attend(self._zap, self._decide)
        public, secret = self._pairs["listen"]
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, public)
        router.setsockopt(zmq.CURVE_SECRETKEY, secret)
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        self._monitor("", router, _LISTENER, self._seen_listening)

    def opened(self, port: int) -> None:
        """The port that the listening socket has got."""
        self._port = port

    def _decide(self, socket: Any) -> None:
        """Answer whether the owner of a public key is let in."""
        *route, version, request, _domain, address, _identity, mechanism, key = _nine(socket.recv_multipart())
        known = mechanism == b"CURVE" and version == b"1.0" and z85.encode(key) == self._pairs["connect"][0]
        if not known:
            self._refuse(address.decode("ascii", "replace"))
        status = (b"200", b"OK") if known else (b"400", b"not a key of this cluster")
        socket.send_multipart([*route, b"1.0", request, *status, b"", b""])

    def _seen_listening(self, peer: str, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            _widen(peer, event, value)
            self._accepted[value] = _address_of(value, self._port) or "an address that hung up at once"
        elif event & _FAILED:
            self._failing += 1
        elif event == zmq.EVENT_DISCONNECTED:
            address = self._accepted.pop(value, "this machine")
            if self._failing:
                self._failing -= 1
                self._refuse(address)

    def _refuse(self, address: str) -> None:
        if address not in self.refused and len(self.refused) >= MAX_ADDRESSES:
            address = "further addresses"
        self.refused[address] += 1
        if self.refused[address] == 1:
            log.warning("%s is not let in: it does not have this cluster's key (said once for each address)", address)

    # --- connecting ---------------------------------------------------------------------------------------------------

    def present(self, dealer: Any, peer: str = "") -> None:
        """Prepare a connecting socket, before it connects.

        Args:
            peer: the name under which to keep why it is not let in; "" for not at all.
        """
        if self._keys is not None:
            public, secret = self._pairs["connect"]
            dealer.setsockopt(zmq.CURVE_SERVERKEY, self._pairs["listen"][0])
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, public)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, secret)
        if peer:
            self._monitor(peer, dealer, _DIALER, self._seen_connecting)

    def widen(self, dealer: Any, peer: str) -> None:
        """Prepare the connection for large messages to ``peer`` through a unix socket, before it connects."""
        self._monitor(peer + _BULK, dealer, int(zmq.EVENT_CONNECTED), _widen)

    def leave(self, peer: str) -> None:
        """The connections to ``peer`` are about to be closed."""
        self.shut.pop(peer, None)
        self._forget(peer)
        self._forget(peer + _BULK)

    def _seen_connecting(self, peer: str, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.shut.pop(peer, None)
            self._forget(peer)
            return
        other = event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == _OTHER_MECHANISM
        if self._keys is None:
            self.shut[peer] = NO_KEY
        elif other:
            self.shut[peer] = NEEDLESS_KEY
        else:
            self.shut.setdefault(peer, OTHER_KEY)

    # --- file descriptors ---------------------------------------------------------------------------------------------

    def _monitor(self, peer: str, socket: Any, events: int, take: Callable[[str, int, int], None]) -> None:
        monitor = socket.get_monitor_socket(events)
        monitor.setsockopt(zmq.LINGER, 0)
        self._monitors[peer] = socket, monitor

        def read(monitor: Any) -> None:
            what, endpoint = monitor.recv_multipart()
            event, value = _EVENT.unpack(what)
            if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or not endpoint.startswith(b"ipc") or peer:
                take(peer, event, value)  # a listener's unix socket is looked at before it is used: see `beside.find`

        self._attend(monitor, read)

    def _attend(self, socket: Any, read: Callable[[Any], None]) -> None:
        """Call ``read`` once for every message; like all of ZeroMQ's descriptors, this one tells of changes only."""

        def readable(fd: int) -> None:
            while not socket.closed and socket.getsockopt(zmq.EVENTS) & _POLLIN:
                read(socket)

        fd = socket.getsockopt(zmq.FD)
        self._watch(fd, readable)
        readable(fd)

    def _forget(self, peer: str) -> None:
        found = self._monitors.pop(peer, None)
        if found is not None:
            watched, monitor = found
            self._unwatch(monitor.getsockopt(zmq.FD))
            watched.disable_monitor()
            monitor.close()

    def close(self) -> None:
        """Close what this has opened; the sockets that it watches are still open."""
        for peer in list(self._monitors):
            self._forget(peer)
        if self._zap is not None:
            self._unwatch(self._zap.getsockopt(zmq.FD))
            self._zap.close()
            self._zap = None


def _pair(secret: bytes) -> tuple[bytes, bytes]:
    """Public and secret key, as ZeroMQ wants them."""
    text = z85.encode(secret)
    return zmq.curve_public(text), text


def _nine(frames: list[bytes]) -> list[bytes]:
    """A request of ZAP: two frames of routing, and seven of its own; ones of another mechanism are filled up."""
    return [*frames, *[b""] * 9][:9]


def _address_of(fd: int, port: int) -> str:
    """Host of the peer of a TCP connection to ``port``; "" if the connection has gone, or is none."""
    with suppress(OSError), socket_of(fd) as accepted:
        here = accepted.getsockname()  # a text, of a unix socket
        return str(accepted.getpeername()[0]) if isinstance(here, tuple) and here[1] == port else ""
    return ""


def _widen(peer: str, event: int, fd: int) -> None:
    """A connection has come about: should it be a unix socket's, let it hold more."""
    with suppress(OSError), socket_of(fd) as connected:
        if connected.family == socket.AF_UNIX and connected.type == socket.SOCK_STREAM:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


@contextmanager
def socket_of(fd: int) -> Iterator[socket.socket]:
    """The socket with this descriptor, which is another's; OSError if there is none any more."""
    ours = os.dup(fd)  # by now the number may be that of something else
    try:
        found = socket.socket(fileno=ours)
    except OSError:
        os.close(ours)
        raise
    with found:
        yield found
