"""Dumps of a state machine that is not what it must be: the options, and the command ``shoal dump``."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError

__all__ = ["add_command", "add_options", "begin", "dump", "shown", "variables"]


def add_options(p: argparse.ArgumentParser) -> None:
    """Of every process of a cluster."""
    text = "look at every state machine after every event, and dump it when it is not what it must be ($SHOAL_CHECK=1)"
    always = os.environ.get("SHOAL_CHECK", "") not in ("", "0")
    p.add_argument("--check", action="store_true", default=always, help=text)
    p.set_defaults(dumps=os.environ.get("SHOAL_DUMPS", ""))


def _directory(o: argparse.Namespace) -> str:
    """Where dumps go: $SHOAL_DUMPS, the run's directory, that of the event log, or with --check the present one."""
    if o.dumps:
        return str(os.path.abspath(o.dumps))
    if getattr(o, "run_dir", ""):
        return os.path.join(os.path.abspath(o.run_dir), "dumps")
    if o.events:
        place = str(os.path.abspath(o.events))
        return os.path.dirname(place) if place.endswith(".jsonl") else place
    return os.getcwd() if o.check else ""


def variables(o: argparse.Namespace) -> dict[str, str]:
    """How the launcher tells its processes."""
    told = {"SHOAL_CHECK": "1" if o.check else "", "SHOAL_DUMPS": _directory(o)}
    return {name: value for name, value in told.items() if value}


def begin(o: argparse.Namespace) -> None:
    """Be checked, and dumped, as `add_options` says."""
    directory = _directory(o)
    if directory:
        from shoal.kvstore.dumps import Dumps, settle

        settle(Dumps(o.command, directory, o.check))


def add_command(commands: Any) -> None:
    """``shoal dump``, to the commands of a parser."""
    text = "Show the state that a failed process left."
    p = commands.add_parser("dump", help=text, description=text, allow_abbrev=False)
    p.add_argument("file", metavar="FILE", help="what the error names, such as server-0-4711.dump.json")
    p.set_defaults(act=dump)


def dump(o: argparse.Namespace) -> int:
    """Print a dump.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(Path(o.file).read_text(encoding="utf-8"))
        if found["shoal_dump"] != 1:
            raise ValueError(f"format {found['shoal_dump']!r}")
        text = shown(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ConfigError(f"{o.file!r} is no dump of this version: {type(e).__name__}: {e}") from e
    print(text)
    return 0


def shown(found: dict[str, Any]) -> str:
    """A dump as text: who, why, what happened last, and what it knew."""
    who = f"{found['role']} {found.get('rank', '?')} (incarnation {found.get('incarnation', '?')}) of run "
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"{who}{found.get('cluster', '?')}; pid {found['pid']} on {found['host']}; {versions}"]
    lines += ["", found["reason"], "", *found["traceback"].rstrip().splitlines(), ""]
    if found["recent"] is None:
        lines.append("What happened before was not kept: run with --check (SHOAL_CHECK=1).")
    else:
        lines += [f"The last {len(found['recent'])} events, and the actions that followed:", *found["recent"]]
    return "\n".join([*lines, "", "What it knew:", *_tree(found["core"], "  ")])


def _tree(value: Any, indent: str) -> list[str]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    lines = []
    for name, v in pairs:
        small = json.dumps(v)
        if len(small) <= 100 or not isinstance(v, dict | list):
            lines.append(f"{indent}{name}: {small}")
        else:
            lines += [f"{indent}{name}:", *_tree(v, indent + "  ")]
    return lines
