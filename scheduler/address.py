"""Where processes listen, and under which address the others reach them."""

import socket
import time

from shoal.errors import ConfigError, MembershipError

__all__ = ["address_towards", "parse_address"]

RESOLVE_RETRY_S = 0.5


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    >>> parse_address("10.0.0.1:9091")
    ('10.0.0.1', 9091)

    Raises:
        ConfigError: it is not ``host:port``.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"an address is host:port, such as 10.0.0.1:9091; got {text!r}")
    return host, int(port)


def address_towards(peer: str, timeout_s: float = 60.0) -> str:
    """The address of this machine from which it reaches ``peer`` (``host:port``), as the routing table has it.

    Nothing is sent. A name that cannot be resolved yet (its container may still be starting) is tried again.

    Raises:
        MembershipError: the name could not be resolved, or no route leads there, for ``timeout_s``.
    """
    host, port = parse_address(peer)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _route(host, port)
        except OSError as e:
            if time.monotonic() + RESOLVE_RETRY_S > deadline:
                raise MembershipError(
                    f"no way to {peer} for {timeout_s:g} s: {e}. Is the name right, and is the network up?"
                ) from e
            time.sleep(RESOLVE_RETRY_S)


def _route(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # a datagram socket: only chooses a route
        return str(probe.getsockname()[0])
