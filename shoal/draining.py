"""The command ``shoal drain``: let a server of a run that is going on go, after its slices have moved elsewhere."""

import argparse
import socket
import sys
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError
from shoal.keying import access_of
from shoal.observing import find_scheduler, place_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shoal.kvstore.wire.keys import Access
    from shoal.kvstore.wire.messages import NodeStatus

__all__ = ["add_command", "drain"]

HERE = -1
"""Instead of a rank: the server of this host."""


def add_command(commands: Any) -> None:
    """``shoal drain``, to the commands of a parser."""
    text = "Move what a server of a running cluster has to the others, and let it go; training goes on."
    p = commands.add_parser("drain", help=text, description=text, allow_abbrev=False)
    p.add_argument("role", choices=("server",), help="what it is")
    p.add_argument("rank", type=_rank, help="its rank: see shoal status; or here: that of this host")
    wait = "how long to wait without a slice moving (default: 60)"
    p.add_argument("--timeout-s", type=float, default=60.0, metavar="SECONDS", help=wait)
    place_options(p)
    p.set_defaults(act=drain)


def _rank(text: str) -> int:
    if text == "here":
        return HERE
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
    nodes = _nodes(address, access_of(o))
    rank = o.rank if o.rank != HERE else _here(nodes)

    def progress(left: int) -> None:
        if shows:
            print(f"\r{left} slices are still to move ", end="", file=sys.stderr, flush=True)

    began = drain_server(address, rank, timeout_s=o.timeout_s, access=access_of(o), on_progress=progress)
    print(f"{chr(13) * shows}server {rank} is drained after {began:.1f} s, and has left")
    return 0


def _nodes(address: str, access: "Access") -> "Sequence[NodeStatus]":
    from shoal.scheduler.watch import snapshot_of

    snapshot = snapshot_of(address, access=access)
    if snapshot is None:
        raise ConfigError(f"no scheduler answers at {address}")
    return snapshot.nodes


def _here(nodes: "Sequence[NodeStatus]") -> int:
    from shoal.returning import GONE

    host = socket.gethostname()
    found = [n.rank for n in nodes if n.role == "server" and n.host == host and n.state not in GONE]
    if len(found) != 1:
        raise ConfigError(f"host {host} has {len(found)} servers of this run: say which rank (shoal status)")
    return found[0]
