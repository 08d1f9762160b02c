"""The command ``shoal drain``: let a server of a run that is going on go, after its slices have moved elsewhere."""

import argparse
import sys
from typing import Any

from shoal.keying import access_of
from shoal.observing import find_scheduler, place_options

__all__ = ["add_command", "drain"]


def add_command(commands: Any) -> None:
    """``shoal drain``, to the commands of a parser."""
    text = "Move what a server of a running cluster has to the others, and let it go; training goes on."
    p = commands.add_parser("drain", help=text, description=text, allow_abbrev=False)
    p.add_argument("role", choices=("server",), help="what it is")
    p.add_argument("rank", type=_rank, help="its rank: see shoal status")
    wait = "how long to wait without a slice moving (default: 60)"
    p.add_argument("--timeout-s", type=float, default=60.0, metavar="SECONDS", help=wait)
    place_options(p)
    p.set_defaults(act=drain)


def _rank(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected the rank of a server, such as 1, got {text!r}")
    return int(text)


def drain(o: argparse.Namespace) -> int:
    """Ask for it, and wait until the server is gone.

    Raises:
        ConfigError: it cannot be drained; says why.
        StoreTimeoutError: nothing moves any more.
    """
    from shoal.scheduler.operator import drain_server

    address, shows = find_scheduler(o), sys.stderr.isatty()

    def progress(left: int) -> None:
        if shows:
            print(f"\r{left} slices are still to move ", end="", file=sys.stderr, flush=True)

    began = drain_server(address, o.rank, timeout_s=o.timeout_s, access=access_of(o), on_progress=progress)
    print(f"{chr(13) * shows}server {o.rank} is drained after {began:.1f} s, and has left")
    return 0
