"""Traces: the options, and the command ``shoal trace``."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.kvstore.trace.window import Window

__all__ = ["add_commands", "add_options", "begin", "job_fields", "merge_run", "window_of"]


def add_options(p: argparse.ArgumentParser, *, run: bool = False) -> None:
    """What a process, or a whole run, is told about tracing."""
    if run:
        text = "write one picture of what all processes did when to FILE, for ui.perfetto.dev"
        p.add_argument("--trace", metavar="FILE", default="", help=text)
    else:
        text = "leave this process's part of a trace in DIR; shoal trace merge puts them together"
        p.add_argument("--trace", metavar="DIR", default=os.environ.get("SHOAL_TRACE", ""), help=text)
    default = "" if run else os.environ.get("SHOAL_PROFILE", "")
    text = "leave in DIR what each operator of each worker took: worker-0.txt, and worker-0.json for ui.perfetto.dev"
    p.add_argument("--profile", metavar="DIR", default=default, help=text if run else f"{text} (workers only)")
    text = "of these steps only, from A to B - 1 (default: the latest 20,000 records of each process)"
    p.add_argument("--trace-steps", metavar="A:B", default=os.environ.get("SHOAL_TRACE_STEPS", ""), help=text)
    text = "of these seconds of each process only"
    p.add_argument("--trace-time", metavar="FROM:TO", default=os.environ.get("SHOAL_TRACE_TIME", ""), help=text)


def window_of(o: argparse.Namespace) -> "Window":
    """What the options say.

    Raises:
        ConfigError: they make no sense.
    """
    from shoal.kvstore.trace.window import Window, parse_steps, parse_time

    if o.trace_steps and o.trace_time:
        raise ConfigError("--trace-steps and --trace-time: say one of them")
    if o.trace_steps:
        return parse_steps(o.trace_steps)
    return parse_time(o.trace_time) if o.trace_time else Window()


def begin(o: argparse.Namespace) -> None:
    """Be traced, if `add_options` asks for it."""
    if o.trace:
        from shoal.kvstore.trace import recorder

        recorder.begin(o.trace, o.command, window_of(o))
    if o.profile and o.command == "worker":
        from shoal.worker import profiling

        profiling.wanted(o.profile)


def variables(o: argparse.Namespace) -> dict[str, str]:
    """What the processes of a run find in their environment."""
    return {"SHOAL_PROFILE": os.path.abspath(o.profile)} if o.profile else {}


def job_fields(o: argparse.Namespace) -> dict[str, Any]:
    """What a `JobConfig` is told.

    Raises:
        ConfigError: the options make no sense, or the file cannot be written.
    """
    window_of(o)
    if not o.trace:
        return {}
    from shoal.lab.report import check_place

    check_place(o.trace, "trace")
    if os.path.exists(_parts(o)):
        raise ConfigError(f"{_parts(o)!r} has parts of an earlier trace: merge them (shoal trace merge), or remove it")
    return {"trace": _parts(o), "trace_steps": o.trace_steps, "trace_time": o.trace_time}


def _parts(o: argparse.Namespace) -> str:
    return f"{os.path.abspath(o.trace)}.parts"


def merge_run(o: argparse.Namespace) -> None:
    """After the run: one file from what the processes have left. What goes wrong is said, and fails no run."""
    if o.profile and os.path.isdir(o.profile) and os.listdir(o.profile):
        print(f"shoal run: profiles in {o.profile}: worker-*.txt, worker-*.json", file=sys.stderr, flush=True)
    if not o.trace:
        return
    from shoal.lab.tracemerge import merge

    try:
        picture = merge(_parts(o), o.trace)
    except ConfigError as e:
        print(f"shoal run: no trace: {e}", file=sys.stderr, flush=True)
        return
    shutil.rmtree(_parts(o), ignore_errors=True)
    missing = picture["otherData"]["without_part"]
    without = f"; without {', '.join(missing)}" * bool(missing)
    print(
        f"shoal run: trace in {o.trace} ({os.path.getsize(o.trace) / 1e6:.1f} MB{without})", file=sys.stderr, flush=True
    )


def add_commands(commands: Any) -> None:
    """``shoal trace``, to the commands of a parser."""
    text = "Put the parts of a trace together, or say what is in one."
    p = commands.add_parser("trace", help=text, description=text, allow_abbrev=False)
    p.add_argument("what", choices=("merge", "show"), help="merge DIR -o FILE, or show FILE")
    p.add_argument("place", metavar="DIR|FILE", help="directory of parts (--trace DIR), or a trace")
    p.add_argument("-o", "--output", metavar="FILE", default="", help="merge: where to write the trace")
    p.set_defaults(act=trace)


def trace(o: argparse.Namespace) -> int:
    """Merge parts, or describe and check a trace; 1 if it is not sound.

    Raises:
        ConfigError: there is nothing to merge, or the file is no trace.
    """
    from shoal.lab.tracecheck import describe, faults

    if o.what == "merge":
        from shoal.lab.tracemerge import merge

        if not o.output:
            raise ConfigError("say where to: shoal trace merge DIR -o FILE")
        picture = merge(o.place, o.output)
    else:
        picture = _read(o.place)
    wrong = faults(picture)
    print(describe(picture))
    for fault in wrong[:20]:
        print(f"  fault: {fault}")
    return int(bool(wrong))


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found["traceEvents"], list):
            raise ValueError("traceEvents is no list")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{path!r} is no trace of shoal: {type(e).__name__}: {e}") from e
    return dict(found)
