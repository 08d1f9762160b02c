"""Where processes listen, and under which address the others reach them."""

import logging
import socket
import time
from contextlib import suppress
from pathlib import Path

from shoal.errors import ConfigError, MembershipError

__all__ = ["address_towards", "advertised", "check_host", "parse_address", "record_address", "recorded_address"]

log = logging.getLogger("shoal.address")

RESOLVE_RETRY_S = 0.5


def check_host(host: str) -> str:
    """``host`` itself, if it can be one: a name, or an IPv4 address.

    Raises:
        ConfigError: it is something else.
    """
    if "/" in host:
        raise ConfigError(f"a host is a name or an IPv4 address, without tcp:// or http:// before it; got {host!r}")
    if ":" in host or "[" in host:
        raise ConfigError(f"shoal speaks IPv4: give an IPv4 address, or a name that has one; got {host!r}")
    return host


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    >>> parse_address("10.0.0.1:9091")
    ('10.0.0.1', 9091)

    Raises:
        ConfigError: it is not ``host:port``, or the host is an IPv6 address.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"an address is host:port, such as 10.0.0.1:9091; got {text!r}")
    return check_host(host), int(port)


def address_towards(peer: str, timeout_s: float = 60.0) -> str:
    """The address of this machine from which it reaches ``peer`` (``host:port``), as the routing table has it.

    Nothing is sent. A name that cannot be resolved yet (its container may still be starting) is tried again; the log
    says so once.

    Raises:
        MembershipError: the name could not be resolved, or no route leads there, for ``timeout_s``.
    """
    host, port = parse_address(peer)
    deadline = time.monotonic() + timeout_s
    said = False
    while True:
        try:
            return _route(host, port)
        except OSError as e:
            if time.monotonic() + RESOLVE_RETRY_S > deadline:
                raise MembershipError(f"no way to {peer} for {timeout_s:g} s: {e}. {_advice(host)}") from e
            if not said:
                log.warning("no way to %s yet (%s); trying for %g s", peer, e, timeout_s)
                said = True
            time.sleep(RESOLVE_RETRY_S)


def advertised(advertise: str, host: str, facing: str, port: int) -> str:
    """Under which ``host:port`` the others reach a process of this machine that listens on ``port``.

    >>> advertised("", "0.0.0.0", "10.0.0.7", 4242), advertised("node7:9000", "", "10.0.0.7", 4242)
    ('10.0.0.7:4242', 'node7:9000')

    Args:
        advertise: host, or ``host:port``, that was asked for; "" for the one it listens on, or, if that is every
            address, the one that faces the scheduler.
        host: where it listens; "" for ``facing``.
        facing: what `address_towards` says of the scheduler.
    Raises:
        ConfigError: nobody can reach it there.
    """
    if ":" in advertise:
        given, given_port = parse_address(advertise)
        return f"{given}:{given_port}"
    listens = facing if host in ("", "0.0.0.0") else host
    if advertise == "0.0.0.0":
        raise ConfigError("nobody can reach a process at 0.0.0.0: advertise an address of this machine, or none")
    return f"{advertise or listens}:{port}"


def _advice(host: str) -> str:
    with suppress(OSError):
        socket.getaddrinfo(host, None, socket.AF_INET6)
        return "The name has an IPv6 address only, and shoal speaks IPv4."
    return "Is the name right, and is the network up?"


def _route(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # a datagram socket: only chooses a route
        return str(probe.getsockname()[0])


ADDRESS = "address"
"""File of a run directory that says where the run's scheduler listens."""


def record_address(run_dir: str, address: str) -> None:
    """Say in a run's directory where its scheduler listens, for those who want to see what it does.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        (Path(run_dir) / ADDRESS).write_text(f"{address}\n")
    except OSError as e:
        raise ConfigError(f"the run directory {run_dir!r} cannot be written: {e.strerror}") from e


def recorded_address(run_dir: str) -> str:
    """What `record_address` has said.

    Raises:
        ConfigError: it is not the directory of a run.
    """
    try:
        return (Path(run_dir) / ADDRESS).read_text().strip()
    except OSError as e:
        raise ConfigError(
            f"{run_dir!r} does not say where a scheduler listens ({e.strerror}): expected the directory that was given "
            "to shoal run --run-dir"
        ) from e
