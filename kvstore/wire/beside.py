"""The unix sockets beside a TCP port, for the processes of the same machine: there and back in less time. There is one
for small messages and one for large ones.

Their names are in the abstract name space, which belongs to the network namespace that the port is in: who can connect
to one can connect to the others.
"""

import functools
import ipaddress
import os
import socket
import struct
from contextlib import suppress

__all__ = ["BULK", "endpoint", "find", "is_local"]

BULK = "/bulk"
"""Behind the name of the socket for small messages, that of the one for large messages."""


def endpoint(host: str, port: int) -> str:
    """ZeroMQ's name of the unix socket beside ``port`` on the address ``host`` (``0.0.0.0`` for all addresses)."""
    return f"ipc://@{_name(host, port)}"


def _name(host: str, port: int) -> str:
    return f"shoal/{'*' if host == '0.0.0.0' else host}:{port}"


def find(host: str, port: int) -> str:
    """The endpoint beside ``host:port`` if a process of this machine and of this user listens there; else ""."""
    ip = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.IPv4Address(ip)
    except ValueError:
        return ""
    for name in (_name(ip, port), _name("0.0.0.0", port)) if is_local(ip) else ():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.connect(f"\0{name}")
            if _owner(probe) == os.geteuid():  # that of another user would not let this one in
                return f"ipc://@{name}"
    return ""


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
