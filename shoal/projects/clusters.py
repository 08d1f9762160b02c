"""A job as a script for Slurm, and as a job of a Ray cluster."""

import math
import shlex
from typing import Any

from shoal.errors import ConfigError
from shoal.projects.job import FILE, Job
from shoal.projects.parts import HEAD
from shoal.projects.yaml import documents

__all__ = ["render_ray", "render_slurm"]

MIB = 1 << 20


def render_slurm(job: Job) -> dict[str, str]:
    """By file name, its text: a script for ``sbatch``."""
    setup = job.get("targets.slurm", "setup")
    python = shlex.quote(job.get("targets.slurm", "python"))
    comment = "".join(f"# {line}\n" for line in HEAD.format(target="slurm").splitlines())
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(job)), comment.rstrip(), "set -e"]
    lines += ['cd "$SLURM_SUBMIT_DIR"', *setup, f"exec {python} -m shoal run -f {FILE} --on slurm --no-progress"]
    return {"slurm.sh": "\n".join(lines) + "\n"}


def _options(job: Job) -> list[str]:
    """For #SBATCH.

    Raises:
        ConfigError: one has several lines, and could be anything.
    """
    nodes = job.get("targets.slurm", "nodes")
    least, most = job.workers
    if least != most:
        raise ConfigError(f'[cluster] workers = "{least}..{most}": a Slurm job has a fixed number; expected one number')
    tasks = math.ceil(least / nodes)
    servers = math.ceil(job.servers * (1 + job.get("cluster", "replicas")) / nodes)
    memory = tasks * job.get("resources", "worker_memory") + servers * job.get("resources", "server_memory")
    memory += job.get("resources", "scheduler_memory")
    said = {
        "job-name": job.name,
        "partition": job.get("targets.slurm", "partition"),
        "account": job.get("targets.slurm", "account"),
        "nodes": str(nodes),
        "ntasks-per-node": str(tasks),
        "cpus-per-task": str(max(1, math.ceil(job.get("resources", "worker_cpus")))),
        "mem": f"{math.ceil(memory / MIB)}M",
        "gpus-per-node": str(tasks * job.gpus) if job.gpus else "",
        "time": _time(job.get("targets.slurm", "time")),
    }
    options = [f"--{name}={value}" for name, value in said.items() if value]
    options += job.get("targets.slurm", "options")
    for option in options:
        if "\n" in option or not option.startswith("-"):
            raise ConfigError(f"[targets.slurm]: expected options such as --exclusive, on one line; got {option!r}")
    return options


def _time(seconds: float) -> str:
    """As Slurm writes it.

    >>> _time(90061)
    '1-01:01:01'
    """
    minutes, s = divmod(math.ceil(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}-{h:02}:{m:02}:{s:02}" if days else f"{h:02}:{m:02}:{s:02}"


def render_ray(job: Job) -> dict[str, str]:
    """By file name, its text: what Ray makes ready on its machines, and the command that submits the job."""
    environment: dict[str, Any] = {"excludes": [".git", "keys", "*.key", ".venv", "runs"]}
    packages = list(job.get("targets.ray", "packages"))
    environment |= {"pip": packages} if packages else {}
    environment |= {"env_vars": job.env} if job.env else {}
    head = HEAD.format(target="ray")
    address = job.get("targets.ray", "address")
    where = ["--address", address] if address else []
    amounts = f"CPU={job.get('resources', 'worker_cpus'):g}" + (f",GPU={job.gpus}" if job.gpus else "")
    run = ["shoal", "run", "-f", FILE, "--on", "ray", "--worker-resources", amounts, "--no-progress"]
    submit = ["ray", "job", "submit", *where, "--working-dir", ".", "--runtime-env", "ray-env.yaml", "--", *run]
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    comment += "# Ray's own command; the cluster is that of --address, or of $RAY_ADDRESS.\n"
    script = f"#!/bin/sh\n{comment}exec {shlex.join(submit)}\n"
    return {"ray-env.yaml": documents([environment], head), "ray-job.sh": script}
