"""Options that several commands share."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from shoal import observing, returning, staffing
from shoal.commands import values
from shoal.errors import ConfigError
from shoal.keying import key_options
from shoal.plugins import load_plugins

__all__ = [
    "UsageError",
    "algorithm",
    "command",
    "node_options",
    "option",
    "plugin_option",
    "report_option",
    "run_options",
    "script_options",
]


def command(commands: Any, name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """A command named ``name``, which calls ``act`` with its options."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.set_defaults(act=act)
    return made


def option(parser: argparse.ArgumentParser, *flags: str, env: str, default: Any, help: str, type: Any = str) -> None:
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
    numbers: dict[Any, str] = dict.fromkeys(
        (int, values.count, values.workers, values.node_count, values.server_count, values.servers, values.port), "N"
    )
    words = {values.seconds: "SECONDS", staffing.grace: "SECONDS", values.address: "HOST:PORT"}
    return (numbers | words).get(type, flags[-1].lstrip("-").replace("-", "_").upper())


def run_options(p: argparse.ArgumentParser) -> None:
    """What a whole run is told: of ``shoal run`` and ``shoal scheduler``."""
    option(
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
    option(p, "--mode", "--gate", env="SHOAL_MODE", default="", help=mode)
    option(p, "--rule", env="SHOAL_RULE", default="", help="corrects old contributions: stale, dcasgd:lam=0.04")
    strategy = "what workers push, and when: local:h=16, bmuf, diloco:h=50, easgd:tau=8"
    option(p, "--strategy", env="SHOAL_STRATEGY", default="", help=strategy)
    codec = "compress what is pushed: bf16, int8, 2bit, topk:ratio=0.01, ..."
    option(p, "--compression", env="SHOAL_COMPRESSION", default="", help=codec)
    option(p, "--seed", env="SHOAL_SEED", default=0, type=values.seed, help="of everything random")
    lease = (
        "a process that is silent for this long is lost: a worker has --worker-grace-s more to come back; a server "
        "ends the run, unless it has a replica or another has taken its place"
    )
    option(p, "--lease-s", env="SHOAL_LEASE_S", default=10, type=values.seconds, help=lease)
    grace = "how long the others go on without a scheduler that keeps a log and may come back; 0: not at all"
    flags = "--scheduler-grace-s", "--scheduler-grace"
    option(p, *flags, env="SHOAL_SCHEDULER_GRACE_S", default=60, type=staffing.grace, help=grace)
    staffing.add_run_options(p)
    gather = "the run fails if not everybody has joined by then"
    option(p, "--gather-timeout-s", env="SHOAL_GATHER_TIMEOUT_S", default=120, type=values.seconds, help=gather)


def plugin_option(p: argparse.ArgumentParser) -> None:
    """``--plugin``."""
    text = "a Python file to load first, with gates, rules, codecs, optimizers, ... of your own; may be repeated"
    p.add_argument("--plugin", metavar="FILE", action="append", default=[], help=text)


class UsageError(ConfigError):
    """Options that make no sense, found out after argparse was done with them."""


def algorithm(o: argparse.Namespace) -> tuple[str, str]:
    """The gate of the run, and the rest of its algorithm; plug-ins are loaded first, because they may name parts of it.

    Raises:
        UsageError: a plug-in cannot be loaded, a word is not known, or the parts do not go together.
    """
    from shoal.worker.algo import Algo

    try:
        load_plugins(o.plugin)
        return _parsed(o, Algo.parse)
    except ConfigError as e:
        raise UsageError(str(e)) from e


def _parsed(o: argparse.Namespace, parse: Callable[[str], Any]) -> tuple[str, str]:
    parts = {"gate": o.mode, "rule": o.rule, "strategy": o.strategy, "codec": o.compression}
    text = " ".join([o.algo, *(f"{name}={value}" for name, value in parts.items() if value)])
    if not text.strip():
        return "", ""
    algo = parse(text)
    return algo.gate, str(replace(algo, gate=""))


def report_option(p: argparse.ArgumentParser) -> None:
    """``--report``."""
    p.add_argument("--report", metavar="FILE", default="", help="write the final report to this file, as JSON")
    prices = "a table of prices (docs/cloud.md): the report then has an estimate of what the run has cost"
    p.add_argument("--prices", metavar="FILE", default=os.environ.get("SHOAL_PRICES", ""), help=prices)


def script_options(p: argparse.ArgumentParser) -> None:
    """The script and its arguments; after every other option."""
    target = "metric whose time to a value is measured: METRIC=VALUE, such as accuracy=0.97"
    option(p, "--target", env="SHOAL_TARGET", default="", type=values.target, help=target)
    device = "where tensors are made: cpu, gpu (each worker the one of its rank), or gpu:1"
    option(p, "--device", env="SHOAL_DEVICE", default="cpu", type=values.device, help=device)
    p.add_argument("script", help="training script, run by every worker")
    rest = p.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    rest.required = False  # older Pythons name it among what is missing


def node_options(p: argparse.ArgumentParser) -> None:
    """What a server or worker is told about its run."""
    plugin_option(p)
    observing.add_options(p)
    scheduler = "where the scheduler listens, host:port"
    option(p, "--scheduler", env="SHOAL_SCHEDULER", default=None, type=values.address, help=scheduler)
    option(p, "--rank", env="SHOAL_RANK", default=-1, type=int, help="rank to ask for, or -1 for the lowest free")
    join = "how long to wait for the scheduler's first answer"
    option(p, "--join-timeout-s", env="SHOAL_JOIN_TIMEOUT_S", default=60, type=values.seconds, help=join)
    returning.add_options(p)
    key_options(p)
