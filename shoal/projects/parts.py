"""What several kinds of files say of a job's processes."""

import math
import os
from pathlib import Path

from shoal.errors import ConfigError
from shoal.projects.job import Job

__all__ = [
    "HEAD",
    "SECURITY",
    "key_note",
    "plugins",
    "process_variables",
    "scheduler_variables",
    "sources",
    "threads",
    "without_replicas",
    "worker_words",
]

HEAD = "Written by shoal deploy render --target {target} from shoal.toml: change that, and render again.\n"

SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

MOST_SOURCES = 900_000
"""Bytes of a ConfigMap, with room for the rest of it."""


def key_note(where: str) -> str:
    """How the cluster's key comes to be."""
    return f"The cluster's key is not in this file. Once: shoal keys new --container keys\n{where}"


def threads(job: Job, role: str) -> str:
    """As many as a process has whole cores, at least one."""
    return str(max(1, math.floor(job.get("resources", f"{role}_cpus"))))


def process_variables(job: Job, role: str, key: str) -> dict[str, str]:
    """Of a process in a container."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads(job, role))
    said = {"SHOAL_KEYS": key, "SHOAL_LEASE_S": f"{job.get('cluster', 'lease_s'):g}", **limits}
    if role == "worker":
        said["SHOAL_TARGET"] = job.get("job", "target")
    if job.get("data", "path") or job.get("data", "claim"):
        said["SHOAL_DATA"] = job.get("data", "mount")
    return {name: value for name, value in {**said, **job.env}.items() if value}


def scheduler_variables(job: Job) -> dict[str, str]:
    """Of the scheduler, on top of those."""
    least, most = job.workers
    said = {
        "SHOAL_WORKERS": str(least) if least == most else f"{least}+",
        "SHOAL_SERVERS": str(job.servers),
        "SHOAL_REPLICAS": str(job.get("cluster", "replicas")),
        "SHOAL_ALGO": job.get("cluster", "algo"),
        "SHOAL_SEED": str(job.get("job", "seed")),
        "SHOAL_WORKER_GRACE_S": f"{job.get('cluster', 'worker_grace_s'):g}",
        "SHOAL_GATHER_TIMEOUT_S": f"{job.get('cluster', 'gather_timeout_s'):g}",
    }
    return {name: value for name, value in said.items() if value}


def plugins(job: Job, folder: str) -> list[str]:
    """Options for plug-ins, in the folder where containers see the project."""
    return [word for path in job.get("job", "plugins") for word in ("--plugin", f"{folder}/{path}")]


def worker_words(job: Job, folder: str) -> list[str]:
    """Arguments of a worker's container."""
    return ["worker", *plugins(job, folder), f"{folder}/{job.get('job', 'script')}", *job.get("job", "args")]


def without_replicas(job: Job, target: str) -> None:
    """Raise ConfigError if servers are to have replicas, for which these files have no processes."""
    if job.get("cluster", "replicas"):
        raise ConfigError(
            f"[cluster] replicas = 1: the files for {target} have no replicas; expected 0, and [checkpoints] "
            "dir and every, by which a server that dies comes back (local, ssh, Slurm and Ray start replicas)"
        )


def sources(job: Job) -> dict[str, str]:
    """The script, the plug-ins, and the other Python files beside them, by name.

    Raises:
        ConfigError: they are in folders, or too large for a ConfigMap.
    """
    named = [job.get("job", "script"), *job.get("job", "plugins")]
    deep = [path for path in named if os.sep in path]
    if deep:
        raise ConfigError(
            f"{deep[0]!r} is in a folder: a ConfigMap has none. Put it beside shoal.toml, or in the image"
        )
    files = sorted({*named, *(p.name for p in Path(job.directory).glob("*.py"))})
    texts = {name: (job.directory / name).read_text(encoding="utf-8") for name in files}
    size = sum(len(text.encode()) for text in texts.values())
    if size > MOST_SOURCES:
        raise ConfigError(
            f"the Python files have {size} bytes: a ConfigMap takes {MOST_SOURCES}. Put them in the image"
        )
    return texts
