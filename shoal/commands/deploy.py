"""The commands ``shoal init`` and ``shoal deploy render``: a project, and the files of its job for other places."""

import argparse
from typing import Any

from shoal.commands.options import command
from shoal.projects.job import FILE, read_job

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add both."""
    p = command(
        commands, "init", _init, "Write a project: script, job description, and files for every place it may run."
    )
    p.add_argument("directory", metavar="DIR", nargs="?", default=".", help="where (default: here)")
    p.add_argument("--name", default="", help="of the job (default: the directory's)")
    p = command(commands, "deploy", _render, f"Write what runs a job elsewhere, from {FILE}.")
    p.add_argument("action", choices=("render",), help="print the files, or write them")
    p.add_argument("--target", choices=("compose", "k8s", "ray", "slurm"), required=True, help="for what")
    p.add_argument("-f", "--file", metavar="FILE", default=FILE, help=f"the job description (default: {FILE})")
    p.add_argument("--output", metavar="DIR", default="", help="write the files there (default: print them)")


def _init(o: argparse.Namespace) -> int:
    from shoal.projects.starting import start

    for path in start(o.directory, o.name):
        print(path)
    where = "" if o.directory == "." else f"cd {o.directory}; "
    print(f"\nNow: {where}shoal run")
    return 0


def _render(o: argparse.Namespace) -> int:
    from shoal.projects.render import render, write

    made = render(read_job(o.file), o.target)
    if o.output:
        print("\n".join(write(made, o.output)))
        return 0
    for name, text in made.items():
        print(f"# --- {name}" * (len(made) > 1) + "\n" * (len(made) > 1) + text, end="")
    return 0
