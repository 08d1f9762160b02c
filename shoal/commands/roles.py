"""The commands ``shoal scheduler``, ``shoal server`` and ``shoal worker``: one process of a cluster each."""

import argparse
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import disturbing, observing, returning, saving, staffing
from shoal.commands import values
from shoal.commands.options import (
    algorithm,
    command,
    node_options,
    option,
    plugin_option,
    report_option,
    run_options,
    script_options,
)
from shoal.errors import ConfigError
from shoal.keying import access_of, key_options
from shoal.plugins import load_plugins

if TYPE_CHECKING:
    from shoal.kvstore.wire.messages import Snapshot
    from shoal.lab.cost import Prices
    from shoal.scheduler.child import Launched

__all__ = ["add_attend", "add_scheduler", "add_server", "add_worker"]


def add_scheduler(commands: Any) -> None:
    """Add the command."""
    p = command(commands, "scheduler", _scheduler, "Be the scheduler of one run: who is in the cluster.")
    workers = "processes that train: 4, or 2+ for at least two"
    option(p, "-n", "--workers", env="SHOAL_WORKERS", default=None, type=values.node_count, help=workers)
    servers = "processes that hold the weights, likewise; 0 is for --mode allreduce, and implies it"
    option(p, "-s", "--servers", env="SHOAL_SERVERS", default=None, type=values.server_count, help=servers)
    run_options(p)
    saving.add_replicas_option(p)
    settle = "where more may come, the run begins when nobody has joined for this long"
    option(p, "--settle-s", env="SHOAL_SETTLE_S", default=5, type=values.seconds, help=settle)
    state = "directory of its log; with the log of one that has died it goes on with the run (default: it keeps no log)"
    option(p, "--state", env="SHOAL_STATE", default="", help=state)
    plugin_option(p)
    report_option(p)
    host = "address to listen on; every one if not given, with --keys or --insecure, else 127.0.0.1"
    option(p, "--host", env="SHOAL_HOST", default="", type=values.host, help=host)
    option(p, "--port", env="SHOAL_PORT", default=9091, type=values.port, help="0 lets the system choose")
    key_options(p)
    observing.add_options(p, stalls=True)
    p.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    p.add_argument("--anew", action="store_true", help=argparse.SUPPRESS)  # the run before it ended with its launcher
    p.add_argument("--no-sync", action="store_true", help=argparse.SUPPRESS)  # the launcher ends with the computer, too


def add_server(commands: Any) -> None:
    """Add the command."""
    p = command(commands, "server", _server, "Be a server: hold a part of the weights.")
    node_options(p)
    host = "address to listen on; the one that faces the scheduler if not given"
    option(p, "--host", env="SHOAL_HOST", default="", type=values.host, help=host)
    option(p, "--port", env="SHOAL_SERVER_PORT", default=0, type=values.port, help="0 lets the system choose")
    saving.add_server_options(p)
    advertise = "host or host:port under which workers reach this server, where it differs"
    option(p, "--advertise", env="SHOAL_ADVERTISE", default="", help=advertise)


def add_worker(commands: Any) -> None:
    """Add the command."""
    p = command(commands, "worker", _worker, "Be a worker: train with a script.")
    node_options(p)
    host = "address to listen on for other workers' all-reduce; the one that faces the scheduler if not given"
    option(p, "--host", env="SHOAL_HOST", default="", type=values.host, help=host)
    option(p, "--port", env="SHOAL_WORKER_PORT", default=0, type=values.port, help="0 lets the system choose")
    advertise = "host or host:port under which other workers reach this one, where it differs"
    option(p, "--advertise", env="SHOAL_ADVERTISE", default="", help=advertise)
    timeout = "how long a push or pull may take"
    option(p, "--timeout-s", env="SHOAL_TIMEOUT_S", default=600, type=values.seconds, help=timeout)
    staffing.add_worker_options(p)
    script_options(p)


def add_attend(commands: Any) -> None:
    """Add the command, which is for launchers only."""
    p = commands.add_parser("attend", description="The far end of shoal run --on ssh or slurm: no command for people.")
    p.set_defaults(act=_attend)


def _attend(o: argparse.Namespace) -> int:
    from shoal.scheduler.attend import attend

    return attend()


def _scheduler(o: argparse.Namespace) -> int:
    from shoal.lab.cost import read_prices
    from shoal.lab.report import check_place
    from shoal.scheduler.shell import run_scheduler

    check_place(o.report)
    prices = read_prices(o.prices) if o.prices else None
    mode, algo = algorithm(o)
    launched = be_a_role(o)
    code = run_scheduler(
        o.host,
        o.port,
        o.workers,
        o.servers,
        mode=mode,
        algo=algo,
        seed=o.seed,
        lease_s=o.lease_s,
        grace_s=o.scheduler_grace_s,
        worker_grace_s=o.worker_grace_s,
        state=o.state,
        sync=not o.no_sync,
        anew=o.anew,
        access=access_of(o),
        gather_timeout_s=o.gather_timeout_s,
        settle_s=o.settle_s,
        replicas=o.replicas,
        on_progress=observing.progress(o.stall_after, not launched),
        on_finished=None if launched else partial(_report, path=o.report, seed=o.seed, prices=prices),
        ready_fd=o.ready_fd,
    )
    return returning.stay(code)


def _report(snapshot: "Snapshot", path: str, seed: int, prices: "Prices | None") -> None:
    """Write the report of a finished run, and show it."""
    from rich.console import Console

    from shoal.lab.report import final_report, render, save

    report = final_report(snapshot, seed=seed, prices=prices)
    if path:
        save(report, path)
    Console(width=100).print(render(report))


def _server(o: argparse.Namespace) -> int:
    from shoal.roles import run_server

    load_plugins(o.plugin)
    launched = be_a_role(o)
    returning.take_back(o, access_of(o))
    code = run_server(
        o.scheduler,
        host=o.host,
        port=o.port,
        advertise=o.advertise,
        rank=o.rank,
        join_timeout_s=o.join_timeout_s,
        launched=launched,
        access=access_of(o),
        **saving.saving_of(o),
    )
    return returning.stay(code)


def _worker(o: argparse.Namespace) -> int:
    from shoal.roles import run_worker

    load_plugins(o.plugin)
    launched = be_a_role(o)
    returning.take_back(o, access_of(o))
    code = run_worker(
        o.scheduler,
        o.script,
        o.args,
        rank=o.rank,
        join_timeout_s=o.join_timeout_s,
        timeout_s=o.timeout_s,
        access=access_of(o),
        target=o.target,
        host=o.host,
        port=o.port,
        advertise=o.advertise,
        replaces=staffing.worker_of(o),
        launched=launched,
        device=o.device,
    )
    return returning.stay(code)


def be_a_role(o: argparse.Namespace) -> "Launched":
    """What every process of a cluster does first; whether a launcher started it, and speaks for it."""
    from shoal.scheduler.child import follow_parent

    level = os.environ.get("SHOAL_LOG", "info").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"SHOAL_LOG is {level.lower()!r}; known: debug, info, warning, error")
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    observing.observe(o)
    disturbing.attach()
    return follow_parent()
