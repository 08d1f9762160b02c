"""The command ``shoal run``: a whole cluster, started and watched over."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from shoal import disturbing, dumping, observing, saving, tracing
from shoal.commands import values
from shoal.commands.launchers import add_option as on_option
from shoal.commands.launchers import launcher_of
from shoal.commands.options import (
    algorithm,
    command,
    option,
    plugin_option,
    report_option,
    run_options,
    script_options,
)
from shoal.errors import ConfigError
from shoal.keying import key_options
from shoal.ledger import REPORT as RUN_REPORT
from shoal.projects import options

__all__ = ["add_run"]

FEWEST_FILES, MOST_FILES = 64, 4096
"""Open files of a process: so many are needed, and so many are asked for."""


def add_run(commands: Any) -> None:
    """Add the command."""
    p = command(commands, "run", _run, "Start a whole cluster, on this machine or on others, and train with a script.")
    workers = "processes that train; with --on ray also 2..16, or 2+: as many as there is room for"
    option(p, "-n", "--workers", env="SHOAL_WORKERS", default=2, type=values.workers, help=workers)
    servers = "processes that hold the weights: 1 if not given; 0 is for --mode allreduce, and implies it"
    option(p, "-s", "--servers", env="SHOAL_SERVERS", default="", type=values.servers, help=servers)
    on_option(p)
    options.add_option(p)
    run_options(p)
    plugin_option(p)
    report_option(p)
    kept = "keep what the run writes (scheduler/log) in this directory (default: one that is removed at the end)"
    p.add_argument("--run-dir", metavar="DIR", default="", help=kept)
    saving.add_run_options(p)
    disturbing.add_options(p)
    observing.add_options(p, stalls=True, run=True)
    p.add_argument("--no-progress", action="store_true", help="show no progress, only what the script prints")
    p.add_argument("--verbose", action="store_true", help="also show who joins, listens and leaves")
    shm = "share no memory between workers and servers: everything through sockets"
    p.add_argument("--no-shm", action="store_true", help=f"{shm} (also SHOAL_SHM=0)")
    key_options(p, listens=False)
    script_options(p)


def _run(o: argparse.Namespace) -> int:
    from shoal.lab.cost import read_prices
    from shoal.lab.report import check_place, final_report, put_aside, render
    from shoal.progress import Display
    from shoal.scheduler.job import JobConfig

    check_place(o.report)
    _enough_files()
    prices = read_prices(o.prices) if o.prices else None
    mode, algo = algorithm(o)
    job = JobConfig(
        script=o.script,
        args=tuple(o.args),
        workers=int(o.workers),
        workers_most=o.workers.most if o.workers.most > o.workers else 0,
        servers=o.servers if o.servers is not None else int(mode != "allreduce"),
        mode=mode,
        algo=algo,
        plugins=tuple(map(os.path.abspath, o.plugin)),
        seed=o.seed,
        target=o.target,
        lease_s=o.lease_s,
        scheduler_grace_s=o.scheduler_grace_s,
        worker_grace_s=o.worker_grace_s,
        run_dir=o.run_dir,
        **saving.run_options(o),
        gather_timeout_s=o.gather_timeout_s,
        verbose=o.verbose,
        metrics=o.metrics,
        events=o.events and os.path.abspath(o.events),
        stall_after_s=o.stall_after,
        env=_environment(o),
        keys=os.path.abspath(o.keys) if o.keys else "",
        **tracing.job_fields(o),
    )
    reports = [path for path in (o.report, o.run_dir and os.path.join(o.run_dir, RUN_REPORT)) if path]
    for path in reports:
        put_aside(path)
    with Display(progress=not o.no_progress) as display:
        chaos = disturbing.chaos_of(o, job, display)
        outcome = launcher_of(o, display.line, display.snapshot, chaos).launch(job)
    tracing.merge_run(o)
    if outcome.text:
        print(f"shoal run: {outcome.text}", file=sys.stderr, flush=True)
        return outcome.code
    if outcome.snapshot is None or outcome.snapshot.phase != "finished":
        print("shoal run: finished, but the scheduler's last word was missed: there is no report", file=sys.stderr)
        return 1
    report = final_report(outcome.snapshot, seed=o.seed, chaos=chaos.report() if chaos else None, prices=prices)
    lost = _saved(report, reports)
    if lost or not o.no_progress:
        display.show(render(report))
    for text in [*lost, *_unheard(o.target, report["metrics"])]:
        print(f"shoal run: {text}", file=sys.stderr, flush=True)
    return 1 if lost else outcome.code


def _unheard(target: str, metrics: Mapping[str, Any]) -> list[str]:
    """What is to be said of a target whose metric nobody has reported."""
    name = target.partition("=")[0].strip()
    if not name or name in metrics:
        return []
    return [f"--target {target}: no metric {name!r} was reported; reported: {', '.join(sorted(metrics)) or 'none'}"]


def _saved(report: dict[str, Any], paths: list[str]) -> list[str]:
    """Write the report to these; what went wrong: the run itself did not."""
    from shoal.lab.report import save

    lost = []
    for path in paths:
        try:
            save(report, path)
        except ConfigError as e:
            lost.append(str(e))
    return lost


def _enough_files() -> None:
    """Raise the limit of open files, if it is a low one and may be raised.

    Raises:
        ConfigError: there are too few for a launcher and its scheduler.
    """
    from shoal.kvstore.wire.tuning import allow_files

    allowed = allow_files(MOST_FILES)
    if 0 <= allowed < FEWEST_FILES:
        raise ConfigError(
            f"a process may have {allowed} open files here, and a run needs {FEWEST_FILES}: raise the limit (ulimit -n)"
        )


def _environment(o: argparse.Namespace) -> dict[str, str]:
    """Variables of the run's processes, on top of the launcher's."""
    return {
        **options.variables(o.job),
        **dict(o.env),
        **({"SHOAL_SHM": "0"} if o.no_shm else {}),
        **({"SHOAL_DEVICE": o.device} if o.device != "cpu" else {}),
        **dumping.variables(o),
        **tracing.variables(o),
        **saving.checkpoint_variables(o),
    }
