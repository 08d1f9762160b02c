"""What turns the text of an option into its value, or says what was expected."""

import argparse
from collections.abc import Callable
from typing import Any

from shoal.errors import ConfigError

__all__ = [
    "address",
    "count",
    "device",
    "host",
    "mode",
    "node_count",
    "port",
    "positive",
    "seconds",
    "server_count",
    "servers",
    "target",
    "whole",
    "workers",
]

MOST = 4096
"""Workers of a run that may have any number."""


def positive(text: str, what: str = "a positive number") -> float:
    """A number that is greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
    return value


def seconds(text: str) -> float:
    """A positive number of seconds."""
    return positive(text, "a positive number of seconds")


def whole(text: str, what: str = "a whole number") -> int:
    """A whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected {what}, at least 1, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """An integer of 64 bits."""
    if not text.removeprefix("-").isdecimal() or not -(2**63) <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number of 64 bits, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A number of processes, at least 1."""
    return whole(text, "a number of processes")


class Workers(int):
    """How many workers, at least; ``most`` of them at most."""

    most: int


def workers(text: str) -> Workers:
    """A number of workers, of which there is at least 1; or from and to, where their number changes.

    >>> workers("2..16").most, workers("4").most, workers("2+").most
    (16, 4, 4096)
    """
    least, dots, most = (text.removesuffix("+") + ".." * text.endswith("+")).partition("..")
    if not least.isdecimal() or int(least) < 1 or (most and (not most.isdecimal() or int(most) < int(least))):
        raise argparse.ArgumentTypeError(f"expected a number of processes, at least 1, got {text!r}")
    made = Workers(least)
    made.most = int(most) if most else MOST if dots else made
    return made


def device(text: str) -> str:
    """ "cpu", "gpu" or "gpu:1"."""
    kind, colon, number = text.partition(":")
    if not (text == "cpu" or (kind in ("gpu", "cuda") and (number.isdecimal() or not colon))):
        raise argparse.ArgumentTypeError(f"expected cpu, gpu or gpu:1, got {text!r}")
    return text


def port(text: str) -> int:
    """A port; 0 lets the system choose."""
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def address(text: str) -> str:
    """``host:port``, or nothing."""
    from shoal.scheduler.address import parse_address

    if text:
        _checked(parse_address, text)
    return text


def host(text: str) -> str:
    """A name or an IPv4 address."""
    from shoal.scheduler.address import check_host

    return str(_checked(check_host, text))


def node_count(text: str) -> Any:
    """How many processes of a role: a number, or a least one, such as 2+."""
    from shoal.scheduler.gather import parse_count

    return _checked(parse_count, text)


def server_count(text: str) -> Any:
    """As `node_count`, and 0 for none."""
    from shoal.scheduler.gather import parse_count

    return _checked(lambda t: parse_count(t, least=0), text)


def servers(text: str) -> int | None:
    """A number of servers; None if nothing is said."""
    if text and (not text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a number of processes, at least 0, got {text!r}")
    return int(text) if text else None


def mode(text: str) -> str:
    """A consistency mode by its canonical name, or nothing."""
    from shoal.kvstore.gates import canonical_mode

    return str(_checked(canonical_mode, text)) if text else ""


def target(text: str) -> str:
    """METRIC=VALUE, or nothing."""
    from shoal.worker.record import parse_target

    _checked(parse_target, text)
    return text


def _checked(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
