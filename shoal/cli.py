"""The ``shoal`` command.

Options can also be given through the environment variables that the help names; options win.
"""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import shoal
from shoal import disturbing, draining, dumping, graphing, observing, saving, staffing, tracing
from shoal.controlling import add_options as control_options
from shoal.controlling import control
from shoal.errors import ConfigError, ShoalError
from shoal.keying import access_of, key_options, keys
from shoal.keying import add_options as keys_options
from shoal.ledger import REPORT as RUN_REPORT
from shoal.ledger import add_options as ledger_options
from shoal.ledger import ledger
from shoal.plugins import load_plugins
from shoal.simulating import add_options as simulate_options
from shoal.simulating import simulate

if TYPE_CHECKING:
    from shoal.kvstore.wire.messages import Snapshot

__all__ = ["main"]

USAGE_ERROR = 2

EPILOG = """examples:
  shoal run -n 2 -s 2 --mode async train.py --epochs 5      a cluster on this machine
  shoal scheduler --workers 4 --servers 2                    ... or each process where you like:
  shoal server --scheduler 10.0.0.1:9091
  shoal worker --scheduler 10.0.0.1:9091 train.py --epochs 5

environment:
  SHOAL_LOG    how much the processes of a cluster say: debug, info, warning or error (default: info)
  SHOAL_SHM    0: share no memory with processes of the same host, send everything through sockets (default: 1)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code.

    An error of shoal's is one line on stderr; any other is a bug and propagates.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _parser()
    if not args:
        parser.print_help()
        return 0
    if not args[0].startswith("-") and args[0] not in commands:
        print(f"shoal: {_unknown(args[0], commands)}", file=sys.stderr)
        return USAGE_ERROR
    try:
        options, unknown = parser.parse_known_args(args)
        if unknown:
            commands[options.command].error(_unrecognized(unknown[0], commands[options.command]))
    except SystemExit as e:  # argparse has printed why
        return int(e.code or 0)
    try:
        return int(options.act(options))
    except _UsageError as e:
        print(f"shoal {options.command}: {e} (see shoal {options.command} --help)", file=sys.stderr)
        return USAGE_ERROR
    except ShoalError as e:
        print(f"shoal {options.command}: {e}", file=sys.stderr, flush=True)
        return USAGE_ERROR if isinstance(e, ConfigError) else 1
    except KeyboardInterrupt:
        print(f"shoal {options.command}: stopped by Ctrl-C", file=sys.stderr, flush=True)
        return 130


def _unknown(name: str, commands: Iterable[str]) -> str:
    if name.endswith(".py"):
        return f"to train with {name}: shoal run {name}"
    near = difflib.get_close_matches(name, list(commands), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(commands)}"
    return f"unknown command {name!r}{hint}"


def _unrecognized(text: str, parser: argparse.ArgumentParser) -> str:
    known = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(text.partition("=")[0], known, n=1, cutoff=0.75)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if not hint and any(action.dest == "script" for action in parser._actions):
        hint = "; options of the script come after its name"
    return f"unknown {'option' if text.startswith('-') else 'argument'} {text!r}{hint}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


# --- options ----------------------------------------------------------------------------------------------------------


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="shoal",
        description="Train one model on many machines, synchronously, asynchronously, or anything between.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_run,
        _add_scheduler,
        _add_server,
        _add_worker,
        _add_control,
        draining.add_command,
        observing.add_commands,
        _add_ledger,
        tracing.add_commands,
        dumping.add_command,
        _add_simulate,
        _add_keys,
        _add_doctor,
        graphing.add_command,
        _add_kv_bench,
    ):
        add(commands)
    return parser, commands.choices


def _command(commands: Any, name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.set_defaults(act=act)
    return made


def _option(parser: argparse.ArgumentParser, *flags: str, env: str, default: Any, help: str, type: Any = str) -> None:
    """An option whose default can be set through environment variable ``env``."""
    shown = "" if default in ("", None) else f", or {default}"
    parser.add_argument(
        *flags,
        type=type,
        default=os.environ.get(env) or (None if default is None else str(default)),  # text: argparse checks it too
        required=default is None and not os.environ.get(env),
        help=f"{help} (default: ${env}{shown})",
        metavar=_metavar(flags, type),
    )


def _metavar(flags: Sequence[str], type: Any) -> str:
    numbers: dict[Any, str] = dict.fromkeys((int, _count, _node_count, _server_count, _servers, _port), "N")
    words = {_seconds: "SECONDS", staffing.grace: "SECONDS", _address: "HOST:PORT"}
    return (numbers | words).get(type, flags[-1].lstrip("-").replace("-", "_").upper())


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of processes, at least 1, got {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def _address(text: str) -> str:
    from shoal.scheduler.address import parse_address

    if text:
        _checked(parse_address, text)
    return text


def _host(text: str) -> str:
    from shoal.scheduler.address import check_host

    return str(_checked(check_host, text))


def _node_count(text: str) -> Any:
    from shoal.scheduler.gather import parse_count

    return _checked(parse_count, text)


def _server_count(text: str) -> Any:
    from shoal.scheduler.gather import parse_count

    return _checked(lambda t: parse_count(t, least=0), text)


def _servers(text: str) -> int | None:
    if text and (not text.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a number of processes, at least 0, got {text!r}")
    return int(text) if text else None


def _mode(text: str) -> str:
    from shoal.kvstore.gates import canonical_mode

    return str(_checked(canonical_mode, text)) if text else ""


def _target(text: str) -> str:
    from shoal.worker.record import parse_target

    _checked(parse_target, text)
    return text


def _checked(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _run_options(p: argparse.ArgumentParser) -> None:
    _option(
        p,
        "--algo",
        env="SHOAL_ALGO",
        default="",
        help="the whole algorithm: bsp, backup:b=1, ssp:s=3, asgd, dcasgd, fedbuff:k=4, easgd:tau=8, local:h=16, bmuf, "
        "diloco:h=50, allreduce, ...; or parts of it, by the options below",
    )
    mode = (
        "sync, async, ssp:S (nobody more than S steps ahead of the slowest), allreduce (no servers), and others; the "
        "script decides if not given"
    )
    _option(p, "--mode", "--gate", env="SHOAL_MODE", default="", help=mode)
    _option(p, "--rule", env="SHOAL_RULE", default="", help="corrects old contributions: stale, dcasgd:lam=0.04")
    strategy = "what workers push, and when: local:h=16, bmuf, diloco:h=50, easgd:tau=8"
    _option(p, "--strategy", env="SHOAL_STRATEGY", default="", help=strategy)
    codec = "compress what is pushed: bf16, int8, 2bit, topk:ratio=0.01, ..."
    _option(p, "--compression", env="SHOAL_COMPRESSION", default="", help=codec)
    _option(p, "--seed", env="SHOAL_SEED", default=0, type=int, help="of everything random")
    lease = "a process that is silent for this long ends the run"
    _option(p, "--lease-s", env="SHOAL_LEASE_S", default=10, type=_seconds, help=lease)
    grace = "how long the others go on without a scheduler that keeps a log and may come back; 0: not at all"
    flags = "--scheduler-grace-s", "--scheduler-grace"
    _option(p, *flags, env="SHOAL_SCHEDULER_GRACE_S", default=60, type=staffing.grace, help=grace)
    staffing.add_run_options(p)
    gather = "the run fails if not everybody has joined by then"
    _option(p, "--gather-timeout-s", env="SHOAL_GATHER_TIMEOUT_S", default=120, type=_seconds, help=gather)


def _plugin_option(p: argparse.ArgumentParser) -> None:
    text = "a Python file to load first, with gates, rules, strategies or codecs of your own; may be repeated"
    p.add_argument("--plugin", metavar="FILE", action="append", default=[], help=text)


class _UsageError(ConfigError):
    """Options that make no sense, found out after argparse was done with them."""


def _algorithm(o: argparse.Namespace) -> tuple[str, str]:
    """The gate of the run, and the rest of its algorithm; plug-ins are loaded first, because they may name parts of it.

    Raises:
        _UsageError: a plug-in cannot be loaded, a word is not known, or the parts do not go together.
    """
    from shoal.worker.algo import Algo

    try:
        load_plugins(o.plugin)
        return _parsed(o, Algo.parse)
    except ConfigError as e:
        raise _UsageError(str(e)) from e


def _parsed(o: argparse.Namespace, parse: Callable[[str], Any]) -> tuple[str, str]:
    parts = {"gate": o.mode, "rule": o.rule, "strategy": o.strategy, "codec": o.compression}
    text = " ".join([o.algo, *(f"{name}={value}" for name, value in parts.items() if value)])
    if not text.strip():
        return "", ""
    algo = parse(text)
    return algo.gate, str(replace(algo, gate=""))


def _report_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--report", metavar="FILE", default="", help="write the final report to this file, as JSON")


def _script_options(p: argparse.ArgumentParser) -> None:
    target = "metric whose time to a value is measured: METRIC=VALUE, such as accuracy=0.97"
    _option(p, "--target", env="SHOAL_TARGET", default="", type=_target, help=target)
    p.add_argument("script", help="training script, run by every worker")
    rest = p.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    rest.required = False  # older Pythons name it among what is missing


def _node_options(p: argparse.ArgumentParser) -> None:
    _plugin_option(p)
    observing.add_options(p)
    scheduler = "where the scheduler listens, host:port"
    _option(p, "--scheduler", env="SHOAL_SCHEDULER", default=None, type=_address, help=scheduler)
    _option(p, "--rank", env="SHOAL_RANK", default=-1, type=int, help="rank to ask for, or -1 for the lowest free")
    join = "how long to wait for the scheduler's first answer"
    _option(p, "--join-timeout-s", env="SHOAL_JOIN_TIMEOUT_S", default=60, type=_seconds, help=join)
    key_options(p)


def _add_run(commands: Any) -> None:
    p = _command(commands, "run", _run, "Start a whole cluster on this machine and train with a script.")
    _option(p, "-n", "--workers", env="SHOAL_WORKERS", default=2, type=_count, help="processes that train")
    servers = "processes that hold the weights: 1 if not given; 0 is for --mode allreduce, and implies it"
    _option(p, "-s", "--servers", env="SHOAL_SERVERS", default="", type=_servers, help=servers)
    _run_options(p)
    _plugin_option(p)
    _report_option(p)
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
    _script_options(p)


def _add_scheduler(commands: Any) -> None:
    p = _command(commands, "scheduler", _scheduler, "Be the scheduler of one run: who is in the cluster.")
    workers = "processes that train: 4, or 2+ for at least two"
    _option(p, "-n", "--workers", env="SHOAL_WORKERS", default=None, type=_node_count, help=workers)
    servers = "processes that hold the weights, likewise; 0 is for --mode allreduce, and implies it"
    _option(p, "-s", "--servers", env="SHOAL_SERVERS", default=None, type=_server_count, help=servers)
    _run_options(p)
    saving.add_replicas_option(p)
    settle = "where more may come, the run begins when nobody has joined for this long"
    _option(p, "--settle-s", env="SHOAL_SETTLE_S", default=5, type=_seconds, help=settle)
    state = "directory of its log; with the log of one that has died it goes on with the run (default: it keeps no log)"
    _option(p, "--state", env="SHOAL_STATE", default="", help=state)
    _plugin_option(p)
    _report_option(p)
    host = "address to listen on; every one if not given, with --keys or --insecure, else 127.0.0.1"
    _option(p, "--host", env="SHOAL_HOST", default="", type=_host, help=host)
    _option(p, "--port", env="SHOAL_PORT", default=9091, type=_port, help="0 lets the system choose")
    key_options(p)
    observing.add_options(p, stalls=True)
    p.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    p.add_argument("--no-sync", action="store_true", help=argparse.SUPPRESS)  # the launcher ends with the computer, too


def _add_server(commands: Any) -> None:
    p = _command(commands, "server", _server, "Be a server: hold a part of the weights.")
    _node_options(p)
    host = "address to listen on; the one that faces the scheduler if not given"
    _option(p, "--host", env="SHOAL_HOST", default="", type=_host, help=host)
    _option(p, "--port", env="SHOAL_SERVER_PORT", default=0, type=_port, help="0 lets the system choose")
    saving.add_server_options(p)
    advertise = "host or host:port under which workers reach this server, where it differs"
    _option(p, "--advertise", env="SHOAL_ADVERTISE", default="", help=advertise)


def _add_worker(commands: Any) -> None:
    p = _command(commands, "worker", _worker, "Be a worker: train with a script.")
    _node_options(p)
    host = "address to listen on for other workers' all-reduce; the one that faces the scheduler if not given"
    _option(p, "--host", env="SHOAL_HOST", default="", type=_host, help=host)
    _option(p, "--port", env="SHOAL_WORKER_PORT", default=0, type=_port, help="0 lets the system choose")
    advertise = "host or host:port under which other workers reach this one, where it differs"
    _option(p, "--advertise", env="SHOAL_ADVERTISE", default="", help=advertise)
    timeout = "how long a push or pull may take"
    _option(p, "--timeout-s", env="SHOAL_TIMEOUT_S", default=600, type=_seconds, help=timeout)
    staffing.add_worker_options(p)
    _script_options(p)


def _add_control(commands: Any) -> None:
    text = "Change settings of a run that is going on: learning rate, momentum, slack, codec, ..."
    p = _command(commands, "control", control, text)
    scheduler = "where the scheduler listens, host:port"
    _option(p, "--scheduler", env="SHOAL_SCHEDULER", default=None, type=_address, help=scheduler)
    wait = "how long to wait until every process has heard of it"
    _option(p, "--timeout-s", env="SHOAL_CONTROL_TIMEOUT_S", default=10, type=_seconds, help=wait)
    key_options(p, listens=False)
    control_options(p)


def _add_ledger(commands: Any) -> None:
    ledger_options(_command(commands, "ledger", ledger, "What became of every push of a finished run."))


def _add_simulate(commands: Any) -> None:
    text = "Compare gates in virtual time: the store's own state machines, with simulated workers."
    p = _command(commands, "simulate", simulate, text)
    _option(p, "-n", "--workers", env="SHOAL_WORKERS", default=8, type=_count, help="processes that compute")
    _option(p, "-s", "--servers", env="SHOAL_SERVERS", default=1, type=_count, help="processes that share the weights")
    _option(p, "--seed", env="SHOAL_SEED", default=0, type=int, help="of everything random")
    simulate_options(p)


def _add_keys(commands: Any) -> None:
    keys_options(_command(commands, "keys", keys, "Make a cluster's key: without it nobody joins."))


def _add_doctor(commands: Any) -> None:
    p = _command(commands, "doctor", _doctor, "Check this machine: versions, cores, BLAS threads, ports, GPU.")
    p.add_argument("--json", action="store_true", help="print JSON")
    scheduler = "also check whether a scheduler answers there, host:port"
    _option(p, "--scheduler", env="SHOAL_SCHEDULER", default="", type=_address, help=scheduler)
    key_options(p, listens=False)


def _add_kv_bench(commands: Any) -> None:
    p = _command(commands, "kv-bench", _kv_bench, "Measure the store on this machine, and check its values.")
    _option(p, "-n", "--workers", env="SHOAL_WORKERS", default=2, type=_count, help="processes that push and pull")
    _option(p, "-s", "--servers", env="SHOAL_SERVERS", default=1, type=_count, help="processes that hold the values")
    _option(p, "--mode", env="SHOAL_MODE", default="", type=_mode, help="as of shoal run; sync if not given")
    size = "of a key, such as 1KB or 100MB, or t100mb, resnet50, k1000x1kb, one1kb; several with commas (default: all)"
    p.add_argument("--size", default="", help=size)
    p.add_argument("--keys", type=_count, default=1, metavar="N", help="how many keys of each size (default: 1)")
    p.add_argument("--codec", default="", help="compress what is pushed: fp16, 2bit:threshold=0.5, ...")
    p.add_argument("--optimizer", choices=("none", "sgd"), default="sgd", help="on the servers (default: sgd)")
    p.add_argument("--iters", type=_count, default=0, metavar="N", help="timed cycles (default: as fits the size)")
    p.add_argument("--json", action="store_true", help="print JSON")


# --- commands ---------------------------------------------------------------------------------------------------------


def _run(o: argparse.Namespace) -> int:
    from shoal.lab.report import check_place, final_report, render, save
    from shoal.progress import Display
    from shoal.scheduler.local import JobConfig, LocalLauncher

    check_place(o.report)
    mode, algo = _algorithm(o)
    job = JobConfig(
        script=o.script,
        args=tuple(o.args),
        workers=o.workers,
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
        env={**({"SHOAL_SHM": "0"} if o.no_shm else {}), **dumping.variables(o), **tracing.variables(o)},
        keys=os.path.abspath(o.keys) if o.keys else "",
        **tracing.job_fields(o),
    )
    with Display(progress=not o.no_progress) as display:
        chaos = disturbing.chaos_of(o, job, display)
        outcome = LocalLauncher(display.line, display.snapshot, chaos).launch(job)
    tracing.merge_run(o)
    if outcome.text:
        print(f"shoal run: {outcome.text}", file=sys.stderr, flush=True)
        return outcome.code
    if outcome.snapshot is None or outcome.snapshot.phase != "finished":
        print("shoal run: finished, but the scheduler's last word was missed: there is no report", file=sys.stderr)
        return 1
    report = final_report(outcome.snapshot, seed=o.seed, chaos=chaos.report() if chaos else None)
    for path in filter(None, (o.report, o.run_dir and os.path.join(o.run_dir, RUN_REPORT))):
        save(report, path)
    if not o.no_progress:
        display.show(render(report))
    return outcome.code


def _scheduler(o: argparse.Namespace) -> int:
    from shoal.lab.report import check_place
    from shoal.scheduler.shell import run_scheduler

    check_place(o.report)
    mode, algo = _algorithm(o)
    launched = _be_a_role(o)
    return run_scheduler(
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
        access=access_of(o),
        gather_timeout_s=o.gather_timeout_s,
        settle_s=o.settle_s,
        replicas=o.replicas,
        on_progress=observing.progress(o.stall_after, not launched),
        on_finished=None if launched else partial(_report, path=o.report, seed=o.seed),
        ready_fd=o.ready_fd,
    )


def _report(snapshot: "Snapshot", path: str, seed: int) -> None:
    """Write the report of a finished run, and show it."""
    from rich.console import Console

    from shoal.lab.report import final_report, render, save

    report = final_report(snapshot, seed=seed)
    if path:
        save(report, path)
    Console(width=100).print(render(report))


def _server(o: argparse.Namespace) -> int:
    from shoal.roles import run_server

    load_plugins(o.plugin)
    launched = _be_a_role(o)
    return run_server(
        o.scheduler,
        host=o.host,
        port=o.port,
        advertise=o.advertise,
        rank=o.rank,
        join_timeout_s=o.join_timeout_s,
        quiet=launched,
        access=access_of(o),
        **saving.saving_of(o),
    )


def _worker(o: argparse.Namespace) -> int:
    from shoal.roles import run_worker

    load_plugins(o.plugin)
    _be_a_role(o)
    return run_worker(
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
    )


def _doctor(o: argparse.Namespace) -> int:
    from shoal.doctor import doctor

    return doctor(as_json=o.json, scheduler=o.scheduler, access=access_of(o))


def _kv_bench(o: argparse.Namespace) -> int:
    from shoal.lab.kvbench import kv_bench, plan

    made = plan(o.size, o.keys, o.codec, o.optimizer, o.iters)
    keys = os.environ.get("SHOAL_KEYS", "")  # here --keys says how many
    return kv_bench(made, workers=o.workers, servers=o.servers, mode=o.mode, as_json=o.json, keys=keys)


def _be_a_role(o: argparse.Namespace) -> bool:
    """What every process of a cluster does first; whether a launcher started it, and speaks for it."""
    from shoal.scheduler.child import follow_parent

    level = os.environ.get("SHOAL_LOG", "info").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"SHOAL_LOG is {level.lower()!r}; known: debug, info, warning, error")
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)
    observing.observe(o)
    disturbing.attach()
    return follow_parent()
