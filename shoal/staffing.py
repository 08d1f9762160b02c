"""Options about processes that die, leave and come back."""

import argparse
import os

from shoal.errors import ConfigError

__all__ = ["add_run_options", "add_worker_options", "grace", "worker_of"]

GRACE_S = 30.0


def add_run_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal run`` and ``shoal scheduler``."""
    text = (
        "how long after its lease a worker that has died may come back, or be replaced, before the others go on "
        f"without it; 0: a lost worker ends the run (default: $SHOAL_WORKER_GRACE_S, or {GRACE_S:g})"
    )
    default = os.environ.get("SHOAL_WORKER_GRACE_S") or str(GRACE_S)
    p.add_argument("--worker-grace-s", metavar="SECONDS", type=grace, default=default, help=text)


def add_worker_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal worker``."""
    p.add_argument("--replaces", action="store_true", help="the worker of this --rank is dead: take its place")


def worker_of(o: argparse.Namespace) -> bool:
    """Whether this worker takes another one's place.

    Raises:
        ConfigError: it does not say whose.
    """
    if o.replaces and o.rank < 0:
        raise ConfigError("--replaces needs the --rank of the worker that died")
    return bool(o.replaces)


def grace(text: str) -> float:
    """A number of seconds that may be 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}; or 0")
    return value
