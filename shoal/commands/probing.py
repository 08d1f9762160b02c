"""``shoal doctor``, the command; and ``shoal doctor --role``: is this container's process ready, is it alive.

A probe looks at one process and says yes or no, quickly. Whether a server or a worker is well is known to the
scheduler, which hears of it three times in a lease; so that is asked. A scheduler that does not answer is no reason to
kill anybody else: then nobody is ready, and everybody is taken to be alive.
"""

import argparse
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal import doctor
from shoal.doctor import Finding
from shoal.errors import ConfigError, MembershipError
from shoal.keying import access_of, key_options
from shoal.returning import GONE

if TYPE_CHECKING:
    from shoal.kvstore.wire.messages import NodeStatus, Snapshot

__all__ = ["add_command", "judge", "probe"]

ROLES = ("scheduler", "server", "worker", "replica")
DEFAULT = "127.0.0.1:9091"


def add_command(commands: Any) -> None:
    """``shoal doctor``, to the commands of a parser."""
    text = "Check this machine: versions, cores, BLAS threads, ports, GPU. With --role: probe a process of a run."
    p = commands.add_parser("doctor", help=text, description=text, allow_abbrev=False)
    p.add_argument("--json", action="store_true", help="print JSON")
    text = "also check whether a scheduler answers there (default: $SHOAL_SCHEDULER; with --role, or {DEFAULT})"
    default = os.environ.get("SHOAL_SCHEDULER", "")
    p.add_argument("--scheduler", metavar="HOST:PORT", default=default, help=text.format(DEFAULT=DEFAULT))
    text = "only this: is the process of this role, on this host or with this --rank, well; exit code 0 or 1"
    p.add_argument("--role", choices=ROLES, default="", help=text)
    text = "ready: it is in the run and was heard; live: no reason to start it again (default: ready)"
    p.add_argument("--probe", choices=("ready", "live"), default="ready", help=text)
    p.add_argument(
        "--rank", type=int, default=os.environ.get("SHOAL_RANK", "-1"), help="its rank (default: $SHOAL_RANK)"
    )
    text = "for so long it may be silent (default: $SHOAL_LEASE_S, or 10)"
    p.add_argument("--lease-s", type=float, default=os.environ.get("SHOAL_LEASE_S") or "10", metavar="S", help=text)
    text = "for so long the scheduler may take to answer (default: 3)"
    p.add_argument("--answer-s", type=float, default=3.0, metavar="S", help=text)
    key_options(p, listens=False)
    p.set_defaults(act=_act)


def _act(o: argparse.Namespace) -> int:
    from shoal.scheduler.address import parse_address

    if o.scheduler:
        parse_address(o.scheduler)
    if not o.role:
        return doctor.doctor(as_json=o.json, scheduler=o.scheduler, access=access_of(o))
    return doctor.show([probe(o)], as_json=o.json)


def probe(o: argparse.Namespace) -> Finding:
    """What `add_command`'s options ask of one process."""
    from shoal.scheduler.watch import snapshot_of

    stays = os.environ.get("SHOAL_STAY", "")
    if stays and Path(stays).exists():
        return Finding(o.role, "ok", f"done, and stays ({stays})")
    at = o.scheduler or DEFAULT
    try:
        snapshot, why = snapshot_of(at, o.answer_s, access_of(o)), f"no scheduler answers at {at}"
    except (MembershipError, ConfigError) as e:
        if isinstance(e, ConfigError):
            raise
        snapshot, why = None, str(e)
    return judge(snapshot, o.role, o.probe, rank=o.rank, lease_s=o.lease_s, why=why)


def judge(
    snapshot: "Snapshot | None",
    role: str,
    kind: str,
    *,
    rank: int = -1,
    lease_s: float = 10.0,
    host: str = "",
    why: str,
) -> Finding:
    """Whether a process is ``ready`` or ``live`` by what the scheduler says.

    Args:
        snapshot: None if the scheduler did not answer; ``why`` says so.
        rank: of the process; -1 for whichever is on this host, and all of them if there are several.
        lease_s: for so long a process may be silent.
        host: of the process; "" to ask the system.
    """
    if snapshot is None:
        well = kind == "live" and role != "scheduler"
        return Finding(
            role, "ok" if well else "broken", why, "" if not well else "Nothing is known against this process."
        )
    if role == "scheduler":
        text = f"run {snapshot.cluster} is {snapshot.phase}"
        return Finding(role, "broken" if snapshot.phase == "failed" else "ok", text)
    here = host or socket.gethostname()
    mine = [n for n in snapshot.nodes if n.role == role and (n.rank == rank if rank >= 0 else n.host == here)]
    if not mine:
        who = f"no {role} {rank}" if rank >= 0 else f"no {role} of host {here}"
        return Finding(role, "ok" if kind == "live" else "broken", f"{who} has joined yet")
    mine = [n for n in mine if n.state not in GONE] or mine  # one that was drained may have come again
    worst = max(mine, key=lambda n: (not _well(n, kind, lease_s), n.silent_s))
    text = (
        f"{role} {worst.rank} (host {worst.host}, pid {worst.pid}) is {worst.state}, heard {worst.silent_s:.1f} s ago"
    )
    return Finding(role, "ok" if _well(worst, kind, lease_s) else "broken", text)


def _well(n: "NodeStatus", kind: str, lease_s: float) -> bool:
    if n.state in GONE:  # it ends by itself, and is started again if need be
        return kind == "live"
    return n.silent_s < lease_s and (kind == "live" or n.state != "filling")
