"""Processes that something else starts again: a container's engine, Kubernetes, systemd.

Such a supervisor knows one command for every start, and how it ended by a number. So a process can be told to take
the place that it had before it died (``SHOAL_COMES_BACK=1``), and to stay when it is done, because otherwise it would
be started again (``SHOAL_STAY=FILE``).
"""

import argparse
import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.kvstore.wire.keys import Access
    from shoal.kvstore.wire.messages import NodeStatus

__all__ = ["GONE", "add_options", "former", "stay", "take_back"]

log = logging.getLogger("shoal.returning")

GONE = ("done", "failed", "left", "lost", "drained")
"""States of a process that has no place in the run any more."""

ANSWER_S = 3.0
"""How long the scheduler may take to say who is in the run."""

YES = ("1", "yes", "on", "true")


def add_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal server`` and ``shoal worker``."""
    text = (
        "if the run has a process of this role that was started on this host, or with this --rank, and is dead, take "
        "its place: for what a supervisor starts again with the same command (also SHOAL_COMES_BACK=1)"
    )
    said = os.environ.get("SHOAL_COMES_BACK", "").strip().lower() in YES
    p.add_argument("--comes-back", action="store_true", default=said, help=text)


def take_back(o: argparse.Namespace, access: "Access") -> None:
    """Set ``o.rank`` and ``o.replaces`` if this process takes the place of one that has died; see `add_options`."""
    if not o.comes_back or o.replaces or getattr(o, "replica", False):
        return
    from shoal.scheduler.watch import snapshot_of

    snapshot = snapshot_of(o.scheduler, ANSWER_S, access)
    if snapshot is None or snapshot.phase != "running":
        return
    found = former(snapshot.nodes, o.command, o.rank)
    if found is None:
        return
    if o.command == "server" and not o.state:
        log.warning("server %d has died, and kept no snapshots (--state): it cannot come back", found.rank)
        return
    text = "takes the place of %s %d, which was pid %d here and has died"
    log.info(text, o.command, found.rank, found.pid)
    o.rank, o.replaces = found.rank, True


def former(nodes: "tuple[NodeStatus, ...]", role: str, rank: int = -1, host: str = "") -> "NodeStatus | None":
    """The dead process whose place one of this role on this host takes; None if there is none, or more than one.

    Args:
        rank: its rank, where that is fixed, on whatever host it was; -1 where the host is what is fixed.
        host: of this process; "" to ask the system.
    """
    here = host or socket.gethostname()
    mine = [n for n in nodes if n.role == role and n.state not in GONE]
    mine = [n for n in mine if (n.rank == rank if rank >= 0 else n.host == here)]
    dead = [n for n in mine if n.host != here or n.pid == os.getpid() or not _lives(n.pid)]
    return dead[0] if len(dead) == 1 else None


def _lives(pid: int) -> bool:
    """Whether there is such a process; of a container that was started again the old ones are gone, all of them."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def stay(code: int) -> int:
    """If ``$SHOAL_STAY`` names a file and all went well, write it, and wait for SIGTERM or SIGINT; the exit code.

    A process that has been told to end does not stay. By that file ``shoal doctor --role`` knows that one which stays
    is well.

    Raises:
        ConfigError: the file cannot be written.
    """
    from shoal.scheduler.signals import arrived

    place = os.environ.get("SHOAL_STAY", "")
    if not place or code or arrived:
        return code
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    try:
        Path(place).write_text("the run is over; this process stays because it would be started again\n")
    except OSError as e:
        raise ConfigError(f"SHOAL_STAY={place!r} cannot be written: {e.strerror}") from e
    log.info("done; it stays until SIGTERM, because it would be started again (SHOAL_STAY)")
    while not told.wait(1.0):
        pass
    Path(place).unlink(missing_ok=True)
    return code
