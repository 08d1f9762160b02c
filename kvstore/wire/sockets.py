"""Making connected sockets: TCP, and beside every TCP port a unix socket for the processes that need no network.

The unix socket's name is in the abstract name space, which belongs to the same network namespace as the port itself:
who can connect to one can connect to the other. It is used if the address is one of this machine and the kernel
confirms that the listener runs under the same user; a short message is there and back in a fraction of the time.
"""

import errno
import functools
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from shoal.errors import ConfigError

__all__ = ["Resolver", "connect", "finish", "is_local", "listen"]

BACKLOG = 1024


def listen(host: str, port: int, local: bool = True) -> list[socket.socket]:
    """Non-blocking listeners on ``host``: TCP first, then the unix socket beside it, if ``local`` and possible.

    Raises:
        ConfigError: the port is taken, or the host is not an address of this machine.
    """
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((host, port))
        tcp.listen(BACKLOG)
    except OSError as e:
        tcp.close()
        raise ConfigError(_bind_help(host, port, e)) from e
    tcp.setblocking(False)
    beside = _listen_beside(tcp) if local else None
    return [tcp] if beside is None else [tcp, beside]


def _listen_beside(tcp: socket.socket) -> socket.socket | None:
    ip, port = tcp.getsockname()
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unix.bind(_local_name("*" if ip == "0.0.0.0" else ip, port))
        unix.listen(BACKLOG)
    except OSError:  # no abstract names on this system, or somebody has taken this one: there is TCP
        unix.close()
        return None
    unix.setblocking(False)
    return unix


def _local_name(ip: str, port: int) -> str:
    return f"\0shoal/{ip}:{port}"


def _bind_help(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is already in use, perhaps by another run's scheduler. "
            "Stop that run, or choose another port with --port (0 picks a free one)."
        )
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is not an address of this machine; bind to one that is, or to 0.0.0.0 for all of them."
    return f"cannot listen on {host}:{port}: {error}"


def connect(ip: str, port: int) -> tuple[socket.socket, bool]:
    """A non-blocking socket to a listener, and whether it is connected already; else `finish` it when it is writable.

    Raises:
        OSError: nobody listens there.
    """
    if is_local(ip):
        for name in (_local_name(ip, port), _local_name("*", port)):
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unix.setblocking(False)
            with suppress(OSError):
                unix.connect(name)
                if _owner(unix) in (os.geteuid(), 0):
                    return unix, True
            unix.close()
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    tcp.setblocking(False)
    error = tcp.connect_ex((ip, port))
    if error not in (0, errno.EINPROGRESS):
        tcp.close()
        raise OSError(error, os.strerror(error))
    return tcp, False


def finish(sock: socket.socket) -> None:
    """A socket that was becoming connected has become writable.

    Raises:
        OSError: it is not connected, or to itself: a port that nobody listens on may be given to the one who asks.
    """
    if sock.family == socket.AF_UNIX:
        return
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    if sock.getsockname() == sock.getpeername():
        raise OSError(errno.ECONNREFUSED, "connected to itself")
    adjust(sock)


def adjust(sock: socket.socket) -> None:
    """No delays to fill packets; a dead host is noticed within a minute."""
    if sock.family != socket.AF_INET:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _owner(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", raw)[1])


@functools.lru_cache(maxsize=256)
def is_local(ip: str) -> bool:
    """Whether ``ip`` is an address of this machine (or, in a container, of this container)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


class Resolver:
    """Addresses of host names, looked up without keeping the caller waiting.

    Args:
        found: called on another thread when an answer has come.
    """

    def __init__(self, found: Callable[[], None]) -> None:
        self._found = found
        self._answers: dict[str, str] = {}
        self._asked: set[str] = set()

    def address(self, host: str) -> str:
        """The IPv4 address of ``host``; "" while it is not known: ask again, later or when told."""
        with suppress(ValueError):
            return str(ipaddress.IPv4Address(host))
        ip = self._answers.pop(host, "")  # used once: a container that comes again has another address
        if not ip and host not in self._asked:
            self._asked.add(host)
            threading.Thread(target=self._look_up, args=(host,), name="shoal-resolve", daemon=True).start()
        return ip

    def _look_up(self, host: str) -> None:
        try:
            self._answers[host] = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError):
            return
        finally:
            self._asked.discard(host)
        self._found()
