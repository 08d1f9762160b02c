"""deploy/k8s: what kustomize makes of it obeys Kubernetes' schemas, and everything that is named is there.

Not exercised: a cluster. No kubelet has pulled an image, run a probe, enforced the policy or drained a machine; the
commands and variables are run as processes in network namespaces by test_kubernetes_run.py.
"""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shoal import cli
from tests.composefile import ROOT
from tests.kustomize import load_all, render

K8S = ROOT / "deploy" / "k8s"
SCHEMAS = ROOT / "tests" / "schemas"
OVERLAYS = ("cpu", "gpu", "elastic")
VERSIONS = ("1.28", "1.37")
CONTROLLERS = ("StatefulSet", "Deployment", "Job")
NOT_OURS = ("shoal-key",)
"""Made by hand: kubectl create secret (docs/kubernetes.md)."""

overlays = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda name: f"of-{name}")
RAY_FILES = pytest.mark.parametrize("name", ["rayjob", "raycluster"])


@cache
def objects(overlay: str) -> tuple[Any, ...]:
    return tuple(render(K8S / "overlays" / overlay))


def of_kind(overlay: str, *kinds: str) -> list[Any]:
    return [o for o in objects(overlay) if o["kind"] in kinds]


def controller(overlay: str, name: str) -> Any:
    return next(o for o in of_kind(overlay, *CONTROLLERS) if o["metadata"]["name"] == name)


def container(of: Any) -> Any:
    (only,) = of["spec"]["template"]["spec"]["containers"]
    return only


def environment(overlay: str, of: Any) -> dict[str, str]:
    """The container's variables, those of the downward API as {field path}."""
    maps = {o["metadata"]["name"]: o["data"] for o in of_kind(overlay, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container(of)["envFrom"]:
        found |= maps[source["configMapRef"]["name"]]
    for entry in container(of).get("env", []):
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        found[entry["name"]] = f"{{{field}}}" if field else entry["value"]
    return found


@cache
def schemas(version: str) -> Any:
    return json.loads((SCHEMAS / f"kubernetes-{version}.json").read_text())


def faults(what: Any, kind: str, version: str) -> list[str]:
    """How an object breaks a schema: of a kind, or of a part such as PodTemplateSpec."""
    jsonschema = pytest.importorskip("jsonschema")
    known = schemas(version)
    part = {"$ref": f"#/$defs/io.k8s.api.core.v1.{kind}"}
    schema = {**known["kinds"].get(kind, part), "$defs": known["$defs"]}
    return [f"{'/'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(what)]


# --- the schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@overlays
def test_every_object_obeys_the_schema_of_the_oldest_and_the_newest_version(overlay: str, version: str) -> None:
    assert {
        (o["kind"], o["metadata"]["name"]): f for o in objects(overlay) if (f := faults(o, o["kind"], version))
    } == {}


def test_the_schemas_find_a_word_that_is_misspelt() -> None:
    wrong = json.loads(json.dumps(controller("cpu", "shoal-worker")))
    container(wrong)["resourcez"] = container(wrong).pop("resources")
    assert any("resourcez" in fault for fault in faults(wrong, "Job", "1.37"))


@overlays
def test_the_real_kustomize_makes_the_same_of_it(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here: only the tests' own rendering was checked")
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=True
    )
    theirs = {(o["kind"], o["metadata"]["name"]): o for o in YAML(typ="safe", pure=True).load_all(done.stdout)}
    assert theirs == {(o["kind"], o["metadata"]["name"]): o for o in objects(overlay)}


# --- references -------------------------------------------------------------------------------------------------------


@overlays
def test_everything_that_a_pod_refers_to_is_there(overlay: str) -> None:
    there = {(o["kind"], o["metadata"]["name"]) for o in objects(overlay)}
    for each in of_kind(overlay, *CONTROLLERS):
        pod, c = each["spec"]["template"]["spec"], container(each)
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        assert all(("ConfigMap", s["configMapRef"]["name"]) in there for s in c["envFrom"])
        secrets = {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        assert secrets <= set(NOT_OURS)
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        assert {m["name"] for m in c["volumeMounts"]} == {v["name"] for v in pod["volumes"]} | claims
        if each["kind"] == "StatefulSet":
            assert ("Service", each["spec"]["serviceName"]) in there


@overlays
def test_every_selector_selects_pods_and_every_port_is_one_of_theirs(overlay: str) -> None:
    pods = [o["spec"]["template"] for o in of_kind(overlay, *CONTROLLERS)]
    for each in of_kind(overlay, "Service", "PodDisruptionBudget", "NetworkPolicy", "StatefulSet", "Deployment"):
        spec = each["spec"]
        wanted = spec.get("podSelector") or spec["selector"]
        labels = wanted.get("matchLabels", wanted if each["kind"] == "Service" else {})
        chosen = [p for p in pods if labels and labels.items() <= p["metadata"]["labels"].items()]
        assert chosen, f"{each['kind']} {each['metadata']['name']}"
        for port in spec.get("ports", []):
            assert all(port["targetPort"] in {x["name"] for x in p["spec"]["containers"][0]["ports"]} for p in chosen)


@overlays
def test_the_policy_lets_through_what_processes_listen_on_and_nothing_else(overlay: str) -> None:
    (policy,) = of_kind(overlay, "NetworkPolicy")
    inside = {p["port"] for p in policy["spec"]["ingress"][0]["ports"]}
    metrics = {p["port"] for p in policy["spec"]["ingress"][1]["ports"]}
    ports = {p["containerPort"] for o in of_kind(overlay, *CONTROLLERS) for p in container(o)["ports"]}
    assert inside | metrics == ports and {p["port"] for p in policy["spec"]["egress"][0]["ports"]} == inside


@overlays
def test_where_a_process_listens_is_what_its_container_says(overlay: str) -> None:
    variables = {
        "shoal-scheduler": "SHOAL_PORT",
        "shoal-server": "SHOAL_SERVER_PORT",
        "shoal-worker": "SHOAL_WORKER_PORT",
    }
    for each in of_kind(overlay, *CONTROLLERS):
        env, ports = environment(overlay, each), [p["containerPort"] for p in container(each)["ports"]]
        assert [int(env[variables[each["metadata"]["name"]]]), int(env["SHOAL_METRICS"].split(":")[1])] == ports
        host, port = env["SHOAL_SCHEDULER"].split(":")
        assert int(port) == 9091 and any(o["metadata"]["name"] == host for o in of_kind(overlay, "Service"))
        if each["metadata"]["name"] != "shoal-scheduler":
            assert (env["SHOAL_HOST"], env["SHOAL_ADVERTISE"]) == ("0.0.0.0", "{status.podIP}")


@overlays
def test_the_scheduler_waits_for_as_many_as_there_are(overlay: str) -> None:
    env = environment(overlay, controller(overlay, "shoal-scheduler"))
    worker = controller(overlay, "shoal-worker")["spec"]
    assert int(env["SHOAL_SERVERS"]) == controller(overlay, "shoal-server")["spec"]["replicas"]
    if overlay == "elastic":
        assert env["SHOAL_WORKERS"] == "1+" and worker["replicas"]
    else:
        assert int(env["SHOAL_WORKERS"]) == worker["completions"] == worker["parallelism"]


@overlays
def test_the_key_is_read_where_it_is_mounted_and_the_state_kept_where_a_volume_is(overlay: str) -> None:
    for each in of_kind(overlay, *CONTROLLERS):
        env, mounts = environment(overlay, each), [m["mountPath"] for m in container(each)["volumeMounts"]]
        assert any(env["SHOAL_KEYS"].startswith(m + "/") for m in mounts)
        for name in ("SHOAL_STATE", "SHOAL_SERVER_STATE"):
            assert name not in env or any(env[name].startswith(m) for m in mounts)
        assert not env["SHOAL_STAY"] or env["SHOAL_STAY"].startswith("/tmp/")


# --- commands ---------------------------------------------------------------------------------------------------------


def parsed(words: list[str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in env.items():
        monkeypatch.setenv(name, "10.0.0.1" if value.startswith("{") else value)
    return cli._parser()[0].parse_args(words)


@overlays
def test_every_command_and_every_probe_is_one_of_ours(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in of_kind(overlay, *CONTROLLERS):
        role = each["metadata"]["name"].removeprefix("shoal-")
        env, c = environment(overlay, each), container(each)
        assert parsed(c["args"], env, monkeypatch).command == role
        for name, kind in (("readinessProbe", "ready"), ("livenessProbe", "live")):
            command = c[name]["exec"]["command"]
            probe = parsed(command[1:], env, monkeypatch)
            assert command[0] == "shoal" and (probe.role, probe.probe) == (role, kind)
            assert c[name]["timeoutSeconds"] > probe.answer_s + 3


def test_a_server_is_drained_before_its_pod_goes_and_has_the_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = controller("cpu", "shoal-server")
    command = container(server)["lifecycle"]["preStop"]["exec"]["command"]
    drain = parsed(command[1:], environment("cpu", server), monkeypatch)
    assert command[0] == "shoal" and (drain.command, drain.role) == ("drain", "server")
    assert drain.timeout_s < server["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


# --- safety -----------------------------------------------------------------------------------------------------------


@overlays
def test_pods_may_do_little(overlay: str) -> None:
    for each in of_kind(overlay, *CONTROLLERS):
        pod, c = each["spec"]["template"]["spec"], container(each)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert c["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert {"cpu", "memory"} <= set(c["resources"]["requests"]) and "memory" in c["resources"]["limits"]
    (account,) = of_kind(overlay, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


@overlays
def test_not_all_servers_and_not_all_workers_may_be_taken_at_once(overlay: str) -> None:
    budgets = {o["metadata"]["name"]: o["spec"] for o in of_kind(overlay, "PodDisruptionBudget")}
    assert budgets["shoal-server"]["maxUnavailable"] == 1
    is_job = controller(overlay, "shoal-worker")["kind"] == "Job"
    assert isinstance(budgets["shoal-worker"].get("minAvailable"), int) is is_job, "of jobs only whole numbers count"


def test_a_worker_with_a_gpu_asks_for_one_and_is_let_onto_machines_that_have_some() -> None:
    worker = controller("gpu", "shoal-worker")
    assert container(worker)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["spec"]["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert container(worker)["image"] == "shoal-gpu:0.1.0" != container(controller("gpu", "shoal-server"))["image"]


# --- with Ray ---------------------------------------------------------------------------------------------------------

TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def ray_faults(what: Any, kind: str, at: str = "") -> list[str]:
    """How a part of KubeRay's objects breaks what is known of its fields."""
    if kind == "PodTemplateSpec":
        return [f"{at}: {f}" for f in faults(what, kind, "1.37")]
    known = json.loads((SCHEMAS / "kuberay.json").read_text())
    found = [f"{at}: no {name}" for name in known["required"].get(kind, []) if name not in what]
    for name, value in what.items():
        want = known[kind].get(name)
        here = f"{at}/{name}"
        if want is None:
            found.append(f"{here}: unknown")
        elif isinstance(want, list):
            found += [] if value in want else [f"{here}: {value}"]
        elif want == "texts":
            found += [f"{here}/{k}: no text" for k, v in value.items() if not isinstance(v, str)]
        elif want in TYPES:
            found += [] if isinstance(value, TYPES[want]) else [f"{here}: no {want}"]
        else:
            parts = value if want[0] == "[" else [value]
            found += [f for i, part in enumerate(parts) for f in ray_faults(part, want.strip("[]"), f"{here}/{i}")]
    return found


def ray_spec(name: str) -> Any:
    (made,) = load_all(K8S / "ray" / f"{name}.yaml")
    return made["spec"]


def cluster_of(name: str) -> Any:
    spec = ray_spec(name)
    return spec.get("rayClusterSpec", spec)


@RAY_FILES
def test_the_objects_for_kuberay_have_only_fields_that_it_has(name: str) -> None:
    assert ray_faults(ray_spec(name), "RayJobSpec" if name == "rayjob" else "RayClusterSpec") == []


def test_what_kuberay_does_not_have_is_found() -> None:
    spec = json.loads(json.dumps(ray_spec("rayjob")))
    spec["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    assert ray_faults(spec, "RayJobSpec") == ["/rayClusterSpec/0/workerGroupSpecs/0/replica: unknown"]


def test_both_files_describe_the_same_cluster() -> None:
    assert cluster_of("rayjob") == cluster_of("raycluster")


@RAY_FILES
def test_servers_are_on_machines_that_stay_and_workers_on_those_that_may_go(name: str) -> None:
    groups = {g["groupName"]: g["rayStartParams"]["labels"] for g in cluster_of(name)["workerGroupSpecs"]}
    assert groups == {"servers": "ray.io/market-type=on-demand", "workers": "ray.io/market-type=spot"}
    assert cluster_of(name)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_entry_point_of_the_ray_job_is_a_command_of_ours() -> None:
    words = ray_spec("rayjob")["entrypoint"].split()
    options = cli._parser()[0].parse_args(words[1:])
    assert words[:2] == ["shoal", "run"] and options.script == "/app/examples/digits.py"
    workers = next(g for g in cluster_of("rayjob")["workerGroupSpecs"] if g["groupName"] == "workers")
    assert options.on == "ray" and options.workers.most == workers["maxReplicas"]
    mounts = [
        m["mountPath"]
        for m in cluster_of("rayjob")["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    ]
    assert any(options.keys.startswith(m + "/") for m in mounts)


def test_the_script_of_the_manifests_is_in_the_image() -> None:
    assert (ROOT / "examples" / Path(container(controller("cpu", "shoal-worker"))["args"][1]).name).is_file()
    assert "COPY examples examples" in (ROOT / "deploy" / "Dockerfile").read_text()
