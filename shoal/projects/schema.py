"""Every key of ``shoal.toml``: its kind, what it is if it is not said, and what it means."""

from dataclasses import dataclass
from typing import Any

from shoal.projects import kinds
from shoal.projects.kinds import Kind

__all__ = ["SCHEMA", "TARGETS", "Key"]

TARGETS = ("compose", "k8s", "ray", "slurm")
"""What files can be written for."""

NAME = kinds.pattern(
    r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", "lower-case letters, digits and dashes, at most 40, such as digits-2"
)
ADDRESS = kinds.pattern(
    r"(local|slurm|ssh(:.+)?|ray(://.+|:.+)?)", "what shoal run --on takes: local, ssh:hosts.txt, slurm, ray"
)
EVERY = kinds.pattern(r"never|\d+(\.\d+)?s|\d+u", 'such as "30s", "100u" (updates) or "never"')


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    kind: Kind
    default: Any
    text: str


def _resources(who: str, cpus: float, memory: str) -> dict[str, Key]:
    return {
        f"{who}_cpus": Key(kinds.number(0.1, 1024, whole=False), cpus, f"cores of each {who}"),
        f"{who}_memory": Key(kinds.size_bytes, memory, f"memory of each {who}, more than which ends it"),
    }


SCHEMA: dict[str, dict[str, Key]] = {
    "job": {
        "name": Key(NAME, None, "of the job, in every file that is written; the directory's if not given"),
        "script": Key(kinds.text, None, "the training script, from the file's directory; must be given"),
        "args": Key(kinds.texts, (), "its arguments"),
        "on": Key(ADDRESS, "local", "where `shoal run` starts it, as `--on`"),
        "seed": Key(kinds.number(0), 0, "of everything random"),
        "target": Key(kinds.text, "", "METRIC=VALUE whose time is measured"),
        "report": Key(kinds.text, "", "file of the final report, as JSON"),
        "plugins": Key(kinds.texts, (), "Python files with gates, rules, strategies or codecs of your own"),
    },
    "cluster": {
        "workers": Key(kinds.workers, "2", 'processes that train; `"2..16"` where their number changes (Ray)'),
        "servers": Key(kinds.number(0, 1024), None, 'processes that hold the weights; 1, or 0 with algo = "allreduce"'),
        "replicas": Key(kinds.number(0, 1), 0, "of each server"),
        "algo": Key(kinds.text, "", "the whole algorithm, as `--algo`; the script decides if not given"),
        "lease_s": Key(kinds.seconds, 10.0, "a process that is silent for this long is lost"),
        "worker_grace_s": Key(
            kinds.number(0, whole=False), 30.0, "how long a lost worker may come back; 0: it ends the run"
        ),
        "gather_timeout_s": Key(kinds.seconds, 120.0, "the run fails if not everybody has joined by then"),
    },
    "resources": {
        "device": Key(kinds.choice("cpu", "gpu"), "cpu", "on what workers compute; `gpu` asks for one each"),
        "gpus": Key(kinds.number(0, 64), None, 'of each worker; 1 with device = "gpu", else 0'),
        **_resources("worker", 1.0, "1GiB"),
        **_resources("server", 1.0, "1GiB"),
        **_resources("scheduler", 0.5, "512MiB"),
        "shm": Key(kinds.size_bytes, "256MiB", "shared memory of a container"),
    },
    "image": {
        "name": Key(kinds.text, "shoal:0.1.0", "the container image that has shoal, with a tag or digest"),
        "pull": Key(kinds.choice("missing", "always", "never"), "missing", "when it is fetched"),
    },
    "data": {
        "path": Key(
            kinds.text, "", "directory with data, from the file's directory or absolute; in containers at `mount`"
        ),
        "mount": Key(kinds.pattern(r"/[\w./-]+", "an absolute path"), "/data", "where containers see it, read-only"),
        "claim": Key(kinds.text, "", "Kubernetes: the PersistentVolumeClaim with the data, instead of `path`"),
    },
    "checkpoints": {
        "dir": Key(kinds.text, "", "directory that keeps what the run writes, as `--run-dir`"),
        "url": Key(kinds.text, "", "where checkpoints after each epoch go, a directory or URL, as `--checkpoint`"),
        "every": Key(EVERY, "", "how often servers save their state, as `--snapshot-every`"),
        "claim": Key(
            kinds.text, "", "Kubernetes: the PersistentVolumeClaim that keeps it; none: it goes with the pods"
        ),
    },
    "env": {},
    "targets.compose": {
        "file": Key(kinds.text, "compose.yaml", "name of the file that is written"),
        "internal": Key(kinds.flag, True, "the containers reach nothing outside, and nothing outside reaches in"),
    },
    "targets.k8s": {
        "namespace": Key(NAME, "default", "where the objects are"),
        "service_account": Key(kinds.text, "", "under which the pods run; none if not given, and no token either"),
        "node_selector": Key(kinds.mapping, {}, "labels of the nodes for the pods"),
        "deadline": Key(kinds.seconds, None, "after which Kubernetes ends the job"),
    },
    "targets.ray": {
        "address": Key(
            kinds.text, "", "of the cluster's job server, such as http://10.0.0.1:8265; $RAY_ADDRESS if not given"
        ),
        "packages": Key(kinds.texts, ("shoal[ray]",), "what Ray installs for the job; empty where it is in the image"),
    },
    "targets.slurm": {
        "partition": Key(kinds.text, "", "as --partition"),
        "account": Key(kinds.text, "", "as --account"),
        "time": Key(kinds.seconds, 3600.0, "limit, as --time"),
        "nodes": Key(kinds.number(1, 65536), 1, "how many nodes; the workers are divided among them"),
        "python": Key(kinds.text, "python3", "the program that has shoal, on every node"),
        "setup": Key(kinds.texts, (), 'lines of shell to run first, such as "module load python"'),
        "options": Key(kinds.texts, (), 'more #SBATCH options, such as "--exclusive"'),
    },
    "targets.ssh": {
        "hosts": Key(kinds.text, "hosts.txt", "the hosts file; `shoal run --on ssh` alone takes it"),
    },
}
"""By table, and in it by key. ``env`` takes any names: variables of every process."""
