"""An operator: changes settings of a run, or drains a server, from outside, without being part of the run."""

import getpass
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from shoal import errors
from shoal.errors import MembershipError, StoreTimeoutError
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.messages import Change, Control, Controlled, Drain, Draining, Refused
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["change_settings", "drain_server"]

RETRY_S = 0.5


def change_settings(
    address: str,
    settings: dict[str, Any],
    *,
    store: int = 1,
    at_clock: int = -1,
    timeout_s: float = 10.0,
    access: Access = LOOPBACK,
) -> Change:
    """Change settings of a store; returns when every process of the run has heard of it.

    Args:
        address: of the scheduler, ``host:port``.
        settings: see `shoal.kvstore.control`.
        at_clock: each slice takes them when its version is this; -1 is at once.
        access: the key, if the scheduler asks for one.
    Raises:
        MembershipError: the scheduler does not let this process in.
        ConfigError: the store cannot take them; says what it knows.
        StoreTimeoutError: no scheduler answers, or somebody has not heard of the change in time.
    """
    ask = Control(request=1, token=_token(), by=_by(), store=store, settings=settings, at_clock=at_clock)
    for message in _answers(address, ask, timeout_s, access):
        if isinstance(message, Controlled):
            return _confirmed(message)
    raise StoreTimeoutError(
        f"after {timeout_s:g} s the scheduler at {address} has not confirmed that every process has heard of the "
        "change: is the run going on, and is the address right?"
    )


def drain_server(
    address: str,
    rank: int,
    *,
    timeout_s: float = 60.0,
    access: Access = LOOPBACK,
    on_progress: Callable[[int], None] = lambda left: None,
) -> float:
    """Let a server go after its slices have moved elsewhere; returns when it has gone.

    Args:
        address: of the scheduler, ``host:port``.
        timeout_s: how long to wait without a slice moving.
        access: the key, if the scheduler asks for one.
        on_progress: told how many slices are still to move.
    Returns:
        How long it took, in seconds.
    Raises:
        MembershipError: the scheduler does not let this process in.
        ConfigError: the server cannot be drained; says why.
        StoreTimeoutError: no scheduler answers, or nothing moves any more; the request stands.
    """
    ask, began = Drain(request=1, token=_token(), by=_by(), server=rank), time.monotonic()
    left, moved_at = -1, began
    while time.monotonic() < moved_at + timeout_s:
        for message in _answers(address, ask, moved_at + timeout_s - time.monotonic(), access):
            if isinstance(message, Draining):
                if message.gone:
                    return time.monotonic() - began
                on_progress(message.left)
                if message.left != left:
                    left, moved_at = message.left, time.monotonic()
    waits = f"{left} slices of server {rank} have not moved" if left > 0 else f"server {rank} has not said goodbye"
    raise StoreTimeoutError(
        f"for {timeout_s:g} s " + (waits if left >= 0 else f"the scheduler at {address} has not answered") + "; see "
        "shoal status for who is waited for. The server goes as soon as it can."
    )


def _answers(address: str, ask: Message, timeout_s: float, access: Access) -> Iterator[Message]:
    """What the scheduler says to a question that is put again and again."""
    transport = Transport("operator", access)
    try:
        transport.connect("scheduler", address)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            transport.send("scheduler", ask)
            again = time.monotonic() + min(left, RETRY_S)
            while (left := again - time.monotonic()) > 0:
                for _, message in transport.poll(left):
                    if isinstance(message, Refused):
                        raise errors.named(message.error, message.text, MembershipError)
                    yield message
        if why := transport.shut("scheduler"):
            raise MembershipError(f"the scheduler at {address} does not let this process in: {why}")
    finally:
        transport.close(0.0)


def _token() -> str:
    return secrets.token_hex(16)


def _by() -> str:
    return f"{_user()} on {socket.gethostname()}"


def _confirmed(m: Controlled) -> Change:
    if m.missing:
        raise MembershipError(f"the run is over; {', '.join(m.missing)} had not heard of change {m.change.number}")
    return m.change


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "somebody"
