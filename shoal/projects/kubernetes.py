"""A job as Kubernetes objects: three finite Jobs that end with the run, and what they need."""

import re
from typing import Any

from shoal.errors import ConfigError
from shoal.projects.job import Job
from shoal.projects.parts import (
    HEAD,
    SECURITY,
    key_note,
    plugins,
    process_variables,
    scheduler_variables,
    sources,
    without_replicas,
    worker_words,
)
from shoal.projects.yaml import documents

__all__ = ["check", "objects", "render"]

FOLDER = "/job"
KEY = "/run/secrets/shoal/cluster.key"
PORTS = {"scheduler": 9091, "server": 9092, "worker": 9093}
VARIABLE = {"scheduler": "SHOAL_PORT", "server": "SHOAL_SERVER_PORT", "worker": "SHOAL_WORKER_PORT"}
READ_ONLY_FOR_GROUP = 0o440

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def render(job: Job) -> dict[str, str]:
    """By file name, its text."""
    made = objects(job)
    check(made)
    where = f"kubectl -n {job.get('targets.k8s', 'namespace')}"
    secret = f"Then: {where} create secret generic {job.name}-key --from-file=cluster.key=keys/cluster.key"
    head = HEAD.format(target="k8s") + key_note(
        f"{secret}\nAnd:  {where} apply -f k8s.yaml; {where} logs -f job/{job.name}-worker"
    )
    return {"k8s.yaml": documents(made, head)}


def objects(job: Job) -> list[dict[str, Any]]:
    """All of them, in the order in which they are made."""
    without_replicas(job, "k8s")
    least, _ = job.workers
    sizes = {"scheduler": 1, "server": job.servers, "worker": least}
    made = [_sources(job), _service(job), _policy(job)]
    made += [_job(job, role, size) for role, size in sizes.items() if size]
    return made


def _meta(job: Job, name: str = "", role: str = "") -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": job.name}
    labels |= {"app.kubernetes.io/component": role} if role else {}
    place = {"name": f"{job.name}-{name}", "namespace": job.get("targets.k8s", "namespace")} if name else {}
    return {**place, "labels": labels}


def _sources(job: Job) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(job, "job"), "data": sources(job)}


def _service(job: Job) -> dict[str, Any]:
    port = {"name": "control", "port": PORTS["scheduler"], "targetPort": "control"}
    spec = {"selector": _meta(job, role="scheduler")["labels"], "publishNotReadyAddresses": True, "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(job, "scheduler"), "spec": spec}


def _policy(job: Job) -> dict[str, Any]:
    ours = {"podSelector": {"matchLabels": _meta(job)["labels"]}}
    ports = [{"protocol": "TCP", "port": port} for port in PORTS.values()]
    rule = {"from": [ours], "ports": ports}
    spec = {**ours, "policyTypes": ["Ingress"], "ingress": [rule]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(job, "members"),
        "spec": spec,
    }


def _job(job: Job, role: str, size: int) -> dict[str, Any]:
    deadline = job.get("targets.k8s", "deadline")
    spec = {
        "completionMode": "Indexed",  # a pod that is made anew has the number, and so the rank, of the one before
        "completions": size,
        "parallelism": size,
        "backoffLimit": 6,
        **({"activeDeadlineSeconds": int(deadline)} if deadline else {}),
        "template": {"metadata": _meta(job, role=role), "spec": _pod(job, role)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _meta(job, role, role), "spec": spec}


def _pod(job: Job, role: str) -> dict[str, Any]:
    account, selector = job.get("targets.k8s", "service_account"), job.get("targets.k8s", "node_selector")
    ids = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    return {
        **({"serviceAccountName": account} if account else {}),
        "automountServiceAccountToken": bool(account),
        "enableServiceLinks": False,  # else Kubernetes sets variables that begin with SHOAL_
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": 60,
        **({"nodeSelector": selector} if selector else {}),
        "securityContext": {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(job, role)],
        "volumes": _volumes(job),
    }


def _container(job: Job, role: str) -> dict[str, Any]:
    every = job.get("checkpoints", "every") or "30s"
    words = {
        "scheduler": [
            "scheduler",
            *plugins(job, FOLDER),
            "--report",
            "/runs/report.json",
            "--state",
            "/runs/scheduler",
        ],
        "server": ["server", *plugins(job, FOLDER), "--state", "/runs/servers", "--snapshot-every", every],
        "worker": worker_words(job, FOLDER),
    }
    pull = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}[job.get("image", "pull")]
    name = "control" if role == "scheduler" else role
    return {
        "name": "shoal",
        "image": job.get("image", "name"),
        "imagePullPolicy": pull,
        "args": [word.replace("$(", "$$(") for word in words[role]],  # not a variable of Kubernetes
        "workingDir": FOLDER,
        "env": _env(job, role),
        "ports": [{"name": name, "containerPort": PORTS[role]}],
        "readinessProbe": _probe(role, [], 10),
        "livenessProbe": _probe(role, ["--probe", "live"], 30) | {"initialDelaySeconds": 30},
        "resources": _resources(job, role),
        "securityContext": SECURITY,
        "volumeMounts": _mounts(job),
    }


def _env(job: Job, role: str) -> list[dict[str, Any]]:
    variables = process_variables(job, role, KEY)
    variables |= {"SHOAL_HOST": "0.0.0.0", VARIABLE[role]: str(PORTS[role])}  # kept by the NetworkPolicy
    found: list[dict[str, Any]] = []
    if role == "scheduler":
        variables |= scheduler_variables(job)
    else:
        address = f"{job.name}-scheduler:{PORTS['scheduler']}"
        variables |= {"SHOAL_SCHEDULER": address, "SHOAL_COMES_BACK": "1", "SHOAL_JOIN_TIMEOUT_S": "300"}
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        found = [_field("SHOAL_ADVERTISE", "status.podIP"), _field("SHOAL_RANK", index)]
    return [{"name": name, "value": value} for name, value in variables.items()] + found


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _probe(role: str, more: list[str], period_s: int) -> dict[str, Any]:
    where = ["--scheduler", f"127.0.0.1:{PORTS[role]}"] if role == "scheduler" else []
    command = ["shoal", "doctor", "--role", role, *where, *more]
    return {"exec": {"command": command}, "periodSeconds": period_s, "timeoutSeconds": 10}


def _resources(job: Job, role: str) -> dict[str, Any]:
    memory = str(job.get("resources", f"{role}_memory"))
    asked = {"cpu": f"{round(1000 * job.get('resources', f'{role}_cpus'))}m", "memory": memory}
    gpus = {"nvidia.com/gpu": job.gpus} if role == "worker" and job.gpus else {}
    return {"requests": {**asked, **gpus}, "limits": {"memory": memory, **gpus}}


def _mounts(job: Job) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "job", "mountPath": FOLDER, "readOnly": True},
        {"name": "key", "mountPath": "/run/secrets/shoal", "readOnly": True},
        {"name": "runs", "mountPath": "/runs"},
        {"name": "tmp", "mountPath": "/tmp"},  # the container's own
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if job.get("data", "claim"):
        mounts.append({"name": "data", "mountPath": job.get("data", "mount"), "readOnly": True})
    return mounts


def _volumes(job: Job) -> list[dict[str, Any]]:
    claim = job.get("checkpoints", "claim")
    kept = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {"sizeLimit": "10Gi"}}
    shm = {"medium": "Memory", "sizeLimit": str(job.get("resources", "shm"))}
    volumes: list[dict[str, Any]] = [
        {"name": "job", "configMap": {"name": f"{job.name}-job"}},
        {"name": "key", "secret": {"secretName": f"{job.name}-key", "defaultMode": READ_ONLY_FOR_GROUP}},
        {"name": "runs", **kept},
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "shm", "emptyDir": shm},
    ]
    if job.get("data", "claim"):
        volumes.append(
            {"name": "data", "persistentVolumeClaim": {"claimName": job.get("data", "claim"), "readOnly": True}}
        )
    return volumes


def check(made: list[dict[str, Any]]) -> None:
    """Names are names, and every reference inside leads somewhere.

    Raises:
        ConfigError: one is or does not.
    """
    maps = {o["metadata"]["name"] for o in made if o["kind"] == "ConfigMap"}
    for o in made:
        name = o["metadata"]["name"]
        if not _NAME.fullmatch(name) or len(name) > 57:  # pods add a dash and their number
            raise ConfigError(f"k8s: {o['kind']} {name!r}: expected lower-case letters, digits and dashes, at most 57")
        if o["kind"] != "Job":
            continue
        pod = o["spec"]["template"]["spec"]
        volumes = {v["name"] for v in pod["volumes"]}
        lost = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} ^ volumes
        lost |= {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v} - maps
        if lost:
            raise ConfigError(f"k8s: Job {name}: {', '.join(sorted(lost))} is mounted or defined, and not both")
