"""deploy/cloud: the files for ``ray up`` and SkyPilot, against Ray's own schema and our own command line.

Not exercised: any cloud. No machine has been made from these files; machine types and images are names that nobody here
has asked a provider about.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shoal import cli
from shoal.scheduler.gather import Count
from tests.composefile import ROOT

CLOUD = ROOT / "deploy" / "cloud"
PROVIDERS = ("aws", "gcp", "azure")
each = pytest.mark.parametrize("provider", PROVIDERS)


def load(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((CLOUD / name).read_text())


def ray_faults(document: Any) -> list[str]:
    """How a file for ``ray up`` breaks the schema that Ray itself checks it by."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "tests" / "schemas" / "ray-2.60.0.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    return [e.message for e in kind(schema).iter_errors(document)]


@each
def test_the_file_obeys_rays_own_schema(provider: str) -> None:
    assert ray_faults(load(f"ray-{provider}.yaml")) == []


def test_the_schema_finds_a_word_that_is_misspelt() -> None:
    wrong = load("ray-aws.yaml")
    wrong["idle_timeout_minute"] = wrong.pop("idle_timeout_minutes")
    assert any("idle_timeout_minute" in fault for fault in ray_faults(wrong))


@each
def test_the_installed_ray_takes_it_too(provider: str) -> None:
    found = sorted(Path("~/.cache/shoal-bench/ray/venv/bin/python").expanduser().parent.glob("python"))
    if not found:
        pytest.skip("there is no Ray here: checked against the schema of 2.60.0 only")
    read = (
        "import sys, json, os, jsonschema, ray.autoscaler as a; "
        "s = json.load(open(os.path.join(os.path.dirname(a.__file__), 'ray-schema.json'))); "
        "jsonschema.validate(json.load(sys.stdin), s)"
    )
    document = json.dumps(load(f"ray-{provider}.yaml"))
    got = subprocess.run([str(found[0]), "-c", read], input=document, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr[-2000:]


@each
def test_servers_are_on_demand_and_workers_are_spot(provider: str) -> None:
    types = load(f"ray-{provider}.yaml")["available_node_types"]
    labels = {name: t.get("labels", {}).get("ray.io/market-type") for name, t in types.items()}
    assert labels == {"head": None, "servers": "on-demand", "workers": "spot"}
    spot = {"aws": "MarketType", "gcp": "provisioningModel", "azure": "priority"}[provider]
    assert spot in json.dumps(types["workers"]) and spot not in json.dumps([types["head"], types["servers"]])


@each
def test_the_numbers_of_machines_add_up(provider: str) -> None:
    document = load(f"ray-{provider}.yaml")
    types = document["available_node_types"]
    assert document["head_node_type"] in types
    rooms = sum(t.get("max_workers", 0) for name, t in types.items() if name != document["head_node_type"])
    assert types["servers"]["min_workers"] == 2 and rooms >= document["max_workers"] >= 16


@each
def test_what_is_copied_to_the_machines_is_here_or_made_by_hand(provider: str) -> None:
    mounts = load(f"ray-{provider}.yaml")["file_mounts"]
    assert set(mounts.values()) == {"keys", "examples"} and (ROOT / "examples").is_dir()


@each
def test_every_machine_installs_shoal_with_what_it_needs(provider: str) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (setup,) = load(f"ray-{provider}.yaml")["setup_commands"]
    wanted = re.search(r"shoal\[(.*)\]", setup)
    assert wanted and set(wanted[1].split(",")) <= set(extras)


def test_the_commands_of_the_skypilot_task_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SCHEDULER", "10.0.0.1:9091")
    run = load("sky.yaml")["run"].replace('"$((SKYPILOT_NUM_NODES - 1))"', "2")
    lines = [m[1].split("&")[0] for m in re.finditer(r"(?:^|exec |& )\s*shoal ([^&\n]*)", run, re.M)]
    parsed = [cli._parser()[0].parse_args([word.strip('"') for word in line.split()]) for line in lines]
    assert sorted(p.command for p in parsed) == ["scheduler", "server", "server", "worker"]
    scheduler = next(p for p in parsed if p.command == "scheduler")
    assert (scheduler.workers, scheduler.servers) == (Count(2), Count(2)), "as many as are started"


def test_the_shell_of_the_skypilot_task_is_understood_by_the_shell() -> None:
    task = load("sky.yaml")
    for part in (task["setup"], task["run"]):
        subprocess.run([shutil.which("bash") or "sh", "-n"], input=part, text=True, check=True)
    assert task["num_nodes"] == 3 and set(task["envs"]) == {"SCRIPT", "SHOAL_KEYS", "SHOAL_CHECKPOINT"}


def test_skypilot_itself_takes_the_task() -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot (317 MB) is not installed: only our own checks were made")
    assert sky.Task.from_yaml(str(CLOUD / "sky.yaml")).num_nodes == 3
