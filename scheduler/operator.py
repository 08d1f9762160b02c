"""An operator: changes settings of a run from outside, without being part of it."""

import getpass
import secrets
import socket
import time
from typing import Any

from shoal import errors
from shoal.errors import MembershipError, StoreTimeoutError
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.messages import Change, Control, Controlled, Refused
from shoal.kvstore.wire.transport import Transport

__all__ = ["change_settings"]

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
    by = f"{_user()} on {socket.gethostname()}"
    token = secrets.token_hex(16)
    ask = Control(request=1, token=token, by=by, store=store, settings=settings, at_clock=at_clock)
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
                    if isinstance(message, Controlled):
                        return _confirmed(message)
        if why := transport.shut("scheduler"):
            raise MembershipError(f"the scheduler at {address} does not let this process in: {why}")
    finally:
        transport.close(0.0)
    raise StoreTimeoutError(
        f"after {timeout_s:g} s the scheduler at {address} has not confirmed that every process has heard of the "
        "change: is the run going on, and is the address right?"
    )


def _confirmed(m: Controlled) -> Change:
    if m.missing:
        raise MembershipError(f"the run is over; {', '.join(m.missing)} had not heard of change {m.change.number}")
    return m.change


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "somebody"
