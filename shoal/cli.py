"""The ``shoal`` command.

Options can also be given through the environment variables that the help names; options win.
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import shoal
from shoal import draining, dumping, graphing, observing, tracing
from shoal.commands import deploy, probing, values
from shoal.commands.options import UsageError, command, option
from shoal.commands.roles import add_attend, add_scheduler, add_server, add_worker
from shoal.commands.run import add_run
from shoal.controlling import add_options as control_options
from shoal.controlling import control
from shoal.errors import ConfigError, ShoalError
from shoal.keying import add_options as keys_options
from shoal.keying import key_options, keys
from shoal.ledger import add_options as ledger_options
from shoal.ledger import ledger
from shoal.projects.options import completed
from shoal.simulating import add_options as simulate_options
from shoal.simulating import crowd, simulate
from shoal.simulating import servers as shard_count

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
        for_people = [name for name in commands if name != "attend"]
        print(f"shoal: {_unknown(args[0], for_people)}", file=sys.stderr)
        return USAGE_ERROR
    try:
        if args[0] == "run":
            args = ["run", *completed(commands["run"], args[1:])]
        options, unknown = parser.parse_known_args(args)
        if unknown:
            commands[options.command].error(_unrecognized(unknown[0], commands[options.command]))
    except SystemExit as e:  # argparse has printed why
        return int(e.code or 0)
    except ConfigError as e:
        print(f"shoal {args[0]}: {e}", file=sys.stderr)
        return USAGE_ERROR
    try:
        code = int(options.act(options))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _unread()
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # rich's way to say so
            return _unread()
        raise
    except UsageError as e:
        print(f"shoal {options.command}: {e} (see shoal {options.command} --help)", file=sys.stderr)
        return USAGE_ERROR
    except ShoalError as e:
        print(f"shoal {options.command}: {e}", file=sys.stderr, flush=True)
        return USAGE_ERROR if isinstance(e, ConfigError) else 1
    except KeyboardInterrupt:
        print(f"shoal {options.command}: stopped by Ctrl-C", file=sys.stderr, flush=True)
        return 130


def _unread() -> int:
    """Whoever read our output has gone: the exit code with which other programs end then."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
    return 128 + signal.SIGPIPE


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
        add_run,
        add_scheduler,
        add_server,
        add_worker,
        _add_control,
        draining.add_command,
        observing.add_commands,
        _add_ledger,
        tracing.add_commands,
        dumping.add_command,
        _add_simulate,
        _add_keys,
        probing.add_command,
        graphing.add_command,
        _add_kv_bench,
        deploy.add_commands,
        add_attend,
    ):
        add(commands)
    return parser, commands.choices


def _add_control(commands: Any) -> None:
    text = "Change settings of a run that is going on: learning rate, momentum, slack, codec, ..."
    p = command(commands, "control", control, text)
    scheduler = "where the scheduler listens, host:port"
    option(p, "--scheduler", env="SHOAL_SCHEDULER", default=None, type=values.address, help=scheduler)
    wait = "how long to wait until every process has heard of it"
    option(p, "--timeout-s", env="SHOAL_CONTROL_TIMEOUT_S", default=10, type=values.seconds, help=wait)
    key_options(p, listens=False)
    control_options(p)


def _add_ledger(commands: Any) -> None:
    ledger_options(command(commands, "ledger", ledger, "What became of every push of a finished run."))


def _add_simulate(commands: Any) -> None:
    text = "Compare gates in virtual time: the store's own state machines, with simulated workers."
    p = command(commands, "simulate", simulate, text)
    workers = "processes that compute; with --link also 8..1024, a row for each power of two times the first"
    option(p, "-n", "--workers", env="SHOAL_WORKERS", default=8, type=crowd, help=workers)
    shards = "processes that share the weights; with --link also /4, one for each 4 workers"
    option(p, "-s", "--servers", env="SHOAL_SERVERS", default=1, type=shard_count, help=shards)
    option(p, "--seed", env="SHOAL_SEED", default=0, type=int, help="of everything random")
    simulate_options(p)


def _add_keys(commands: Any) -> None:
    keys_options(command(commands, "keys", keys, "Make a cluster's key: without it nobody joins."))


def _add_kv_bench(commands: Any) -> None:
    p = command(commands, "kv-bench", _kv_bench, "Measure the store on this machine, and check its values.")
    option(p, "-n", "--workers", env="SHOAL_WORKERS", default=2, type=values.count, help="processes that push and pull")
    option(
        p, "-s", "--servers", env="SHOAL_SERVERS", default=1, type=values.count, help="processes that hold the values"
    )
    option(p, "--mode", env="SHOAL_MODE", default="", type=values.mode, help="as of shoal run; sync if not given")
    size = "of a key, such as 1KB or 100MB, or t100mb, resnet50, k1000x1kb, one1kb; several with commas (default: all)"
    p.add_argument("--size", default="", help=size)
    p.add_argument("--keys", type=values.count, default=1, metavar="N", help="how many keys of each size (default: 1)")
    p.add_argument("--codec", default="", help="compress what is pushed: fp16, 2bit:threshold=0.5, ...")
    p.add_argument("--optimizer", choices=("none", "sgd"), default="sgd", help="on the servers (default: sgd)")
    p.add_argument(
        "--iters", type=values.count, default=0, metavar="N", help="timed cycles (default: as fits the size)"
    )
    p.add_argument("--json", action="store_true", help="print JSON")


# --- commands ---------------------------------------------------------------------------------------------------------


def _kv_bench(o: argparse.Namespace) -> int:
    from shoal.lab.kvbench import kv_bench, plan

    made = plan(o.size, o.keys, o.codec, o.optimizer, o.iters)
    keys = os.environ.get("SHOAL_KEYS", "")  # here --keys says how many
    return kv_bench(made, workers=o.workers, servers=o.servers, mode=o.mode, as_json=o.json, keys=keys)
