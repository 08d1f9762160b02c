"""Reads ``shoal.toml``."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.projects import kinds
from shoal.projects.schema import SCHEMA, Key

__all__ = ["FILE", "Job", "parse_job", "read_job"]

FILE = "shoal.toml"
"""Name of the file in a project."""

MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Args:
        values: of every key, by table and key, checked, with the defaults.
        said: the tables and keys that the file names itself.
        directory: of the file; paths in it are meant from there.
    """

    values: Mapping[str, Mapping[str, Any]]
    said: frozenset[tuple[str, str]]
    directory: Path

    def get(self, table: str, key: str) -> Any:
        """The value of a key."""
        return self.values[table][key]

    @property
    def name(self) -> str:
        """Of the job."""
        return str(self.get("job", "name"))

    @property
    def env(self) -> dict[str, str]:
        """Variables of every process."""
        return dict(self.values["env"])

    @property
    def workers(self) -> tuple[int, int]:
        """From how many to how many."""
        least, _, most = str(self.get("cluster", "workers")).partition("..")
        return int(least), int(most or least)

    @property
    def servers(self) -> int:
        """How many; without a word one, or none for all-reduce."""
        said = self.get("cluster", "servers")
        return int(said) if said is not None else int(not _reduces(self))

    @property
    def gpus(self) -> int:
        """Of each worker."""
        said = self.get("resources", "gpus")
        return int(said) if said is not None else int(self.get("resources", "device") == "gpu")


def _reduces(job: Job) -> bool:
    return str(job.get("cluster", "algo")).split(" ")[0].removeprefix("gate=") == "allreduce"


def read_job(path: str | Path) -> Job:
    """The job that the file says.

    Raises:
        ConfigError: it cannot be read, or says something that is not understood or makes no sense.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{file} has {file.stat().st_size} bytes: that is no job description")
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise ConfigError(f"{file} cannot be read: {why}. shoal init writes one") from e
    job = parse_job(text, str(file), file.resolve().parent)
    script = job.directory / job.get("job", "script")
    if not script.is_file():
        raise ConfigError(f"{file}: [job] script: there is no {job.get('job', 'script')!r} in {job.directory}")
    return job


def parse_job(text: str, path: str = FILE, directory: Path | None = None) -> Job:
    """The job that this text says; the script need not be there.

    >>> parse_job('[job]\\nscript = "train.py"\\nname = "a"\\n[cluster]\\nworkers = 4').workers
    (4, 4)

    Raises:
        ConfigError: see `read_job`.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is no TOML: {e}") from e
    where = Path.cwd() if directory is None else directory
    tables = _tables(found, path)
    values = {t: _values(t, SCHEMA[t], tables.get(t, {}), path) for t in SCHEMA}
    values["job"]["name"] = values["job"]["name"] or _name_of(where)
    if not values["job"]["script"]:
        raise ConfigError(f'{path}: [job] script is missing; expected the training script, such as script = "train.py"')
    job = Job(values, frozenset((t, k) for t, table in tables.items() for k in table), where)
    _check(job, path)
    return job


def _tables(found: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """By their dotted names."""
    tables: dict[str, dict[str, Any]] = {}
    tops = {name.partition(".")[0] for name in SCHEMA}
    for name, value in found.items():
        if name not in tops:
            raise kinds.unknown(path, name, dict.fromkeys(n for n in SCHEMA))
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name}: expected a table, [{name}], got a value")
        if name == "targets":
            tables |= {f"targets.{n}": v for n, v in value.items()}
        else:
            tables[name] = value
    for name, value in tables.items():
        if name not in SCHEMA:
            raise kinds.unknown(path, name, SCHEMA)
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name}: expected a table, [{name}], got a value")
    return tables


def _values(table: str, keys: Mapping[str, Key], said: dict[str, Any], path: str) -> dict[str, Any]:
    if table == "env":
        checked: dict[str, Any] = kinds.mapping.check(f"{path}: [env]", said)
        return checked
    for name in said:
        if name not in keys:
            raise kinds.unknown(f"{path}: [{table}]", name, keys)
    given = {n: k.kind.check(f"{path}: [{table}] {n}", said[n]) for n, k in keys.items() if n in said}
    defaults = {
        n: k.kind.accept(k.default) if isinstance(k.default, str) and k.default else k.default for n, k in keys.items()
    }
    return defaults | given


def _name_of(directory: Path) -> str:
    """A directory's name as that of a job.

    >>> _name_of(Path("/home/ada/My Digits_2"))
    'my-digits-2'
    """
    words = re.sub(r"[^a-z0-9]+", "-", directory.name.lower()).strip("-").lstrip("0123456789-")
    return words[:40].rstrip("-") or "job"


def _check(job: Job, path: str) -> None:
    """What no key says by itself."""
    if job.get("cluster", "replicas") and not job.servers:
        raise ConfigError(f"{path}: [cluster] replicas = 1, but there are no servers; expected servers of at least 1")
    if job.gpus and job.get("resources", "device") == "cpu" and ("resources", "gpus") in job.said:
        raise ConfigError(f'{path}: [resources] gpus = {job.gpus}, but device is "cpu"; say device = "gpu"')
    if job.get("data", "path") and job.get("data", "claim"):
        raise ConfigError(f"{path}: [data] has both path and claim; expected one of them")
    for key, paths in (("script", (job.get("job", "script"),)), ("plugins", job.get("job", "plugins"))):
        for given in paths:
            if os.path.isabs(given) or ".." in Path(given).parts:
                raise ConfigError(f"{path}: [job] {key}: expected a path inside the project, got {given!r}")
