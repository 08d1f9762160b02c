"""A job as a compose file."""

from typing import Any

from shoal.errors import ConfigError
from shoal.projects.job import Job
from shoal.projects.parts import (
    HEAD,
    key_note,
    plugins,
    process_variables,
    scheduler_variables,
    without_replicas,
    worker_words,
)
from shoal.projects.yaml import documents

__all__ = ["check", "compose", "render"]

KEY = "/run/secrets/shoal_key"
FOLDER = "/job"
ADDRESS = "scheduler:9091"


def render(job: Job) -> dict[str, str]:
    """By file name, its text."""
    made = compose(job)
    check(made)
    file = job.get("targets.compose", "file")
    head = HEAD.format(target="compose") + key_note("Then: docker compose up; with more workers: --scale worker=4")
    return {file: documents([_escaped(made)], head)}


def compose(job: Job) -> dict[str, Any]:
    """The document: scheduler, servers and workers, which find each other by name."""
    without_replicas(job, "compose")
    least, _ = job.workers
    runs = job.get("checkpoints", "dir")
    services = {"scheduler": _scheduler(job)}
    if job.servers:
        state = ["--state", "/runs/servers", "--snapshot-every", job.get("checkpoints", "every") or "30s"]
        server = _member(job, "server", ["server", *plugins(job, FOLDER), *(state if runs else [])])
        services["server"] = server | {"deploy": {"replicas": job.servers}}
    worker = _member(job, "worker", worker_words(job, FOLDER))
    worker["deploy"] = {"replicas": least}
    if job.gpus:
        gpu = {"driver": "nvidia", "count": job.gpus, "capabilities": ["gpu"]}
        worker["deploy"]["resources"] = {"reservations": {"devices": [gpu]}}
    services["worker"] = worker
    return {
        "name": job.name,
        "services": services,
        "networks": {"cluster": {"internal": job.get("targets.compose", "internal")}},
        "secrets": {"shoal_key": {"file": "./keys/cluster.key"}},
        **({} if runs else {"volumes": {"runs": {}}}),
    }


def _node(job: Job, role: str, words: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """What every container has."""
    runs = job.get("checkpoints", "dir")
    volumes = ["./:" + FOLDER + ":ro", f"./{runs}:/runs" if runs else "runs:/runs"]
    data = job.get("data", "path")
    if data:
        volumes.append(f"{data if data.startswith('/') else './' + data}:{job.get('data', 'mount')}:ro")
    return {
        "image": job.get("image", "name"),
        "pull_policy": job.get("image", "pull"),
        "command": words,
        "working_dir": FOLDER,
        "environment": variables,
        "volumes": volumes,
        "networks": ["cluster"],
        "secrets": ["shoal_key"],
        "init": True,
        "restart": "no",
        "stop_grace_period": "30s",
        "user": "10001:10001",
        "read_only": True,
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "shm_size": job.get("resources", "shm"),
        "cpus": job.get("resources", f"{role}_cpus"),
        "mem_limit": job.get("resources", f"{role}_memory"),
        "pids_limit": 256,
    }


def _scheduler(job: Job) -> dict[str, Any]:
    variables = process_variables(job, "scheduler", KEY) | scheduler_variables(job)
    variables |= {"SHOAL_HOST": "0.0.0.0", "SHOAL_PORT": "9091"}  # in the cluster's own network
    words = ["scheduler", *plugins(job, FOLDER), "--report", "/runs/report.json"]
    probe = {"test": ["CMD", "shoal", "doctor", "--scheduler", "127.0.0.1:9091"], "interval": "3s", "timeout": "10s"}
    return _node(job, "scheduler", words, variables) | {"healthcheck": probe | {"start_period": "30s", "retries": 5}}


def _member(job: Job, role: str, words: list[str]) -> dict[str, Any]:
    variables = process_variables(job, role, KEY) | {"SHOAL_SCHEDULER": ADDRESS}
    return _node(job, role, words, variables) | {"depends_on": {"scheduler": {"condition": "service_healthy"}}}


def _escaped(value: Any) -> Any:
    """Dollar signs stand for themselves: nothing in this file is a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list) else value


def check(made: dict[str, Any]) -> None:
    """Every reference leads somewhere.

    Raises:
        ConfigError: one does not.
    """
    named = {kind: set(made.get(kind, {})) for kind in ("networks", "secrets", "volumes", "services")}
    for name, service in made["services"].items():
        used = {kind: set(service.get(kind, ())) for kind in ("networks", "secrets")}
        used["services"] = set(service.get("depends_on", ()))
        used["volumes"] = {v.split(":")[0] for v in service["volumes"] if not v.startswith((".", "/"))}
        for kind, names in used.items():
            for lost in sorted(names - named[kind]):
                raise ConfigError(f"compose: service {name} names {kind} {lost!r}, which is not there")
