"""Options about the snapshots that servers take of themselves, and come back from."""

import argparse
import os
import sys
from typing import Any

from shoal.errors import ConfigError

__all__ = [
    "add_replicas_option",
    "add_run_options",
    "add_server_options",
    "checkpoint_variables",
    "run_options",
    "saving_of",
]

EVERY = "30s"
"""How often, where there is a directory and nothing is said."""


def add_replicas_option(p: argparse.ArgumentParser) -> None:
    """Of ``shoal run`` and ``shoal scheduler``."""
    text = "of each server: 1 for another process that has all that it has, and takes its place at once if it dies"
    default = os.environ.get("SHOAL_REPLICAS", "0")
    p.add_argument("--replicas", metavar="N", type=int, default=default, help=f"{text} (default: 0)")


def add_run_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal run``."""
    text = (
        "servers save their state every so many seconds (30s) or updates of slices (100u), and one that is killed is "
        "started again from there; never: it ends the run (default: 30s with --run-dir, else never)"
    )
    p.add_argument("--snapshot-every", metavar="EVERY", type=_every, default=None, help=text)
    add_replicas_option(p)
    text = (
        "keep a checkpoint after each epoch of shoal.fit in this directory, or below this URL (s3://, gs://, abfs://)"
    )
    default = os.environ.get("SHOAL_CHECKPOINT", "")
    p.add_argument("--checkpoint", metavar="PLACE", default=default, help=text + " (default: $SHOAL_CHECKPOINT)")
    p.add_argument("--resume", action="store_true", help="go on from the newest good one there, if there is one")


def run_options(o: argparse.Namespace) -> dict[str, Any]:
    """What `shoal.scheduler.job.JobConfig` is told."""
    return {"snapshot_every": o.snapshot_every, "replicas": o.replicas}


def checkpoint_variables(o: argparse.Namespace) -> dict[str, str]:
    """What workers are told of checkpoints; which one they go on from is fixed here, for all that come.

    Raises:
        ConfigError: ``--resume`` without a place; or its protocol is unknown, or needs a package that is not there; or
            without ``--resume`` the place has checkpoints of an earlier run.
        CheckpointError: the place cannot be looked at.
    """
    if not o.checkpoint:
        if o.resume:
            raise ConfigError("--resume needs the place of the checkpoints: --checkpoint PLACE")
        return {}
    from shoal.ops.remote import check, is_url
    from shoal.worker.checkpoints import Checkpoints

    place = o.checkpoint if is_url(o.checkpoint) else os.path.abspath(o.checkpoint)
    if is_url(place):
        check(place)  # workers would find out after an epoch, and go on without
    there = Checkpoints(place)
    if not o.resume and (epochs := there.epochs()):  # who goes on from there would take the two for one run
        raise ConfigError(
            f"--checkpoint {o.checkpoint} has checkpoints of another run (of epoch {epochs[-1]}, say): go on from "
            "them with --resume, or name another place"
        )
    newest, meta = there.last() if o.resume else ("", {})
    if not newest:
        return {"SHOAL_CHECKPOINT": place}
    seed = meta.get("seed", o.seed)
    other = f"; its seed was {seed}, this run's is {o.seed}" if seed != o.seed else ""
    print(f"shoal run: going on from {newest}, after epoch {meta.get('epoch')}{other}", file=sys.stderr, flush=True)
    return {"SHOAL_CHECKPOINT": place, "SHOAL_RESUME": newest}


def add_server_options(p: argparse.ArgumentParser) -> None:
    """Of ``shoal server``."""
    state = "directory of its snapshots, the same for all servers of a run (default: $SHOAL_SERVER_STATE, or none)"
    p.add_argument("--state", metavar="DIR", default=os.environ.get("SHOAL_SERVER_STATE", ""), help=state)
    p.add_argument("--snapshot-every", metavar="EVERY", type=_every, default=EVERY, help=f"as of run ({EVERY})")
    replaces = "the server of this --rank is dead: take its place, with its snapshots in --state"
    p.add_argument("--replaces", action="store_true", help=replaces)
    replica = "be the replica of the server of this --rank, from the beginning of the run or from now on"
    p.add_argument("--replica", action="store_true", help=replica)


def saving_of(o: argparse.Namespace) -> dict[str, Any]:
    """What `shoal.roles.run_server` is told.

    Raises:
        ConfigError: options that make no sense together.
    """
    from shoal.kvstore.server.saver import Saving, parse_every

    if o.replaces and o.replica:
        raise ConfigError("--replaces is for a server that comes back from its snapshots, --replica for its replica")
    if o.replaces and (not o.state or o.rank < 0):
        raise ConfigError("--replaces needs the --rank and the --state directory of the server that died")
    keeps = o.state and o.snapshot_every != "never"
    saving = Saving(o.state, parse_every(o.snapshot_every)) if keeps else None
    return {"saving": saving, "replaces": o.replaces, "replica": o.replica}


def _every(text: str) -> str:
    from shoal.kvstore.server.saver import parse_every

    try:
        if text != "never":
            parse_every(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    return text
