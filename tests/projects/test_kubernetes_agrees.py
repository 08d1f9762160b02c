"""`shoal deploy render --target k8s` and deploy/k8s are two ways to one cluster: they agree in what must not differ.

They differ on purpose in how long they live: one finite Job each, against StatefulSets that stay.
"""

from pathlib import Path
from typing import Any

import pytest

from shoal.projects import kubernetes
from shoal.projects.job import parse_job

pytest.importorskip("ruamel.yaml", reason="ruamel.yaml reads YAML")

from tests.kustomize import render

ROOT = Path(__file__).parents[2]
ROLES = ("scheduler", "server", "worker")

Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def kept() -> Objects:
    """What deploy/k8s/overlays/cpu stands for."""
    return render(ROOT / "deploy" / "k8s" / "overlays" / "cpu")


@pytest.fixture
def rendered(tmp_path: Path) -> Objects:
    """What is written for a job."""
    (tmp_path / "train.py").write_text("print('trained')\n")
    text = '[job]\nname = "shoal"\nscript = "train.py"\n[cluster]\nworkers = 2\nservers = 2\n'
    return kubernetes.objects(parse_job(text, directory=tmp_path))


def pod(objects: Objects, role: str) -> dict[str, Any]:
    """The pod of a role's own."""
    (found,) = [o for o in objects if o["metadata"]["name"] == f"shoal-{role}" and "template" in o.get("spec", {})]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def box(objects: Objects, role: str) -> dict[str, Any]:
    """Its one container."""
    (container,) = pod(objects, role)["containers"]
    found: dict[str, Any] = container
    return found


def only(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [o["spec"] for o in objects if o["kind"] == kind and "clusterIP" not in o["spec"]]
    spec: dict[str, Any] = found
    return spec


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("key", ["securityContext", "automountServiceAccountToken", "enableServiceLinks"])
def test_pods_have_the_same_rights(kept: Objects, rendered: Objects, role: str, key: str) -> None:
    assert pod(rendered, role)[key] == pod(kept, role)[key]


@pytest.mark.parametrize("role", ROLES)
def test_containers_have_the_same_rights_and_probes(kept: Objects, rendered: Objects, role: str) -> None:
    one, other = box(rendered, role), box(kept, role)
    assert one["securityContext"] == other["securityContext"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert one[probe] == other[probe], probe


@pytest.mark.parametrize("role", ROLES)
def test_processes_listen_at_the_same_ports_and_say_the_same_address(
    kept: Objects, rendered: Objects, role: str
) -> None:
    ports = [{p["containerPort"] for p in box(o, role)["ports"]} - {9100} for o in (rendered, kept)]
    assert ports[0] == ports[1]
    env = [{e["name"]: e for e in box(o, role)["env"]} for o in (rendered, kept)]
    for name in ("SHOAL_ADVERTISE", "SHOAL_SERVER_PORT", "SHOAL_WORKER_PORT"):
        assert env[0].get(name) == env[1].get(name), name


@pytest.mark.parametrize("role", ROLES)
def test_the_key_is_mounted_alike(kept: Objects, rendered: Objects, role: str) -> None:
    mounts = [[m for m in box(o, role)["volumeMounts"] if m["name"] == "key"] for o in (rendered, kept)]
    assert mounts[0] == mounts[1] and len(mounts[0]) == 1
    secrets = [[v for v in pod(o, role)["volumes"] if v["name"] == "key"] for o in (rendered, kept)]
    assert secrets[0] == secrets[1]


def test_the_network_lets_members_reach_the_same_ports(kept: Objects, rendered: Objects) -> None:
    rules = [only(o, "NetworkPolicy")["ingress"][0]["ports"] for o in (rendered, kept)]
    assert rules[0] == rules[1]


def test_the_scheduler_is_found_under_the_same_name(kept: Objects, rendered: Objects) -> None:
    services = [[o for o in objects if o["kind"] == "Service"] for objects in (rendered, kept)]
    specs = [
        next(s["spec"] for s in each if s["metadata"]["name"] == "shoal-scheduler" and s["spec"].get("ports"))
        for each in services
    ]
    for key in ("publishNotReadyAddresses", "ports"):
        assert specs[0][key] == specs[1][key]


def test_workers_that_are_made_anew_take_the_place_of_those_before(kept: Objects, rendered: Objects) -> None:
    jobs = [next(o["spec"] for o in objects if o["metadata"]["name"] == "shoal-worker") for objects in (rendered, kept)]
    for key in ("completionMode", "backoffLimit", "completions", "parallelism"):
        assert jobs[0][key] == jobs[1][key], key
    for key in ("restartPolicy", "terminationGracePeriodSeconds"):
        assert pod(rendered, "worker")[key] == pod(kept, "worker")[key], key
