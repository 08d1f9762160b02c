"""``shoal run`` with a job file: what the file says takes the place of the options' defaults."""

import argparse
import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.projects.job import FILE, Job, read_job

__all__ = ["add_option", "completed", "defaults", "variables"]

_MARK = "\x1eno script"
"""Put behind a command line it is taken for the script exactly if there is none."""

OPTIONS = {
    ("job", "on"): "on",
    ("job", "seed"): "seed",
    ("job", "target"): "target",
    ("job", "report"): "report",
    ("job", "plugins"): "plugin",
    ("cluster", "workers"): "workers",
    ("cluster", "servers"): "servers",
    ("cluster", "replicas"): "replicas",
    ("cluster", "algo"): "algo",
    ("cluster", "lease_s"): "lease_s",
    ("cluster", "worker_grace_s"): "worker_grace_s",
    ("cluster", "gather_timeout_s"): "gather_timeout_s",
    ("checkpoints", "dir"): "run_dir",
    ("checkpoints", "url"): "checkpoint",
    ("checkpoints", "every"): "snapshot_every",
}
"""By table and key, what argparse calls the option."""


def add_option(p: argparse.ArgumentParser) -> None:
    """``-f``."""
    text = f"a job description, such as {FILE}; without a script the one of this directory is taken (docs/projects.md)"
    p.add_argument("-f", "--file", metavar="FILE", default="", help=text)
    p.set_defaults(job=None)


def completed(p: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The arguments of ``shoal run`` with a script: if they name none, that of the job file, which ``-f`` names.

    What the file says becomes the default of ``p``'s options; options on the command line win over it, and it wins
    over environment variables.

    Raises:
        ConfigError: the file is not understood.
    """
    found = _parse(p, [*argv, _MARK])
    if found is None:  # the parser says what is wrong with it
        return list(argv)
    bare = found.script == _MARK
    path = found.file or (FILE if bare and Path(FILE).is_file() else "")
    if not path:
        return list(argv)
    job = read_job(path)
    p.set_defaults(job=job, **defaults(job))
    if not bare:
        return list(argv)
    return [*argv, _here(job, job.get("job", "script")), *job.get("job", "args")]


def _parse(p: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace | None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return p.parse_known_args(argv)[0]
        except SystemExit:
            return None


def defaults(job: Job) -> dict[str, Any]:
    """Of the options, by what argparse calls them: only what the file itself says."""
    said = {name: job.get(*key) for key, name in OPTIONS.items() if key in job.said}
    texts: dict[str, Any] = {n: v if isinstance(v, tuple) else str(v) for n, v in said.items()}  # argparse checks texts
    if "plugin" in texts:
        texts["plugin"] = [_here(job, v) for v in texts["plugin"]]
    for name in ("report", "run_dir"):
        if texts.get(name):
            texts[name] = _here(job, texts[name])
    if texts.get("on") == "ssh":
        texts["on"] = "ssh:" + _here(job, job.get("targets.ssh", "hosts"))
    return texts


def _here(job: Job, path: str) -> str:
    """A path of the file's directory, from this one."""
    return os.path.relpath(job.directory / path) if not os.path.isabs(path) else path


def variables(job: Job | None) -> dict[str, str]:
    """Of every process of the run.

    Raises:
        ConfigError: the data are not there.
    """
    if job is None:
        return {}
    path = job.get("data", "path")
    if not path:
        return job.env
    place = job.directory / path
    if not place.is_dir():
        raise ConfigError(f"[data] path: there is no directory {path!r} in {job.directory}")
    return {"SHOAL_DATA": _here(job, path), **job.env}
