"""docker-compose.yml and deploy/Dockerfile agree with the specification, with the command line, and with each other."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal.kvstore.wire.keys import FILE, load_keys, new_keys
from shoal.scheduler.gather import Count, parse_count
from tests.composefile import ROOT, Container, containers, document

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SERVICES = ("scheduler", "server", "worker")


def first(service: str, variables: Mapping[str, str] | None = None) -> Container:
    return next(c for c in containers(variables) if c.service == service)


def options(container: Container, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What our own command line makes of a container's arguments and environment."""
    from shoal import cli

    for name, value in container.environment.items():
        monkeypatch.setenv(name, value)
    return cli._parser()[0].parse_args(container.argv)


def help_of(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "shoal", *command.split(), "--help"], capture_output=True, text=True, check=True
    ).stdout


def test_the_file_obeys_the_compose_specification() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    got = subprocess.run([*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True)
    assert got.returncode == 0, got.stdout + got.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_command_line_is_one_that_ours_takes(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options(first(service), monkeypatch).command == service


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_one_that_the_command_documents(service: str) -> None:
    text = help_of(service)
    ours = {name for name in first(service).environment if name.startswith("SHOAL_")}
    assert {name for name in ours if name not in text} <= {"SHOAL_LOG"}
    assert "SHOAL_LOG" in help_of("")


def test_the_members_look_for_the_scheduler_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = options(first("scheduler"), monkeypatch)
    for service in ("server", "worker"):
        host, port = options(first(service), monkeypatch).scheduler.split(":")
        assert host in document()["services"] and int(port) == listening.port
    assert listening.host == "0.0.0.0"
    assert first("scheduler").healthcheck[-1] == f"127.0.0.1:{listening.port}"


def test_by_default_whoever_comes_is_counted_and_there_are_two_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    got = options(first("scheduler"), monkeypatch)
    assert (got.workers, got.servers) == (Count(1, more=True), Count(1, more=True))
    assert [c.name for c in containers()] == ["scheduler-1", "server-1", "server-2", "worker-1", "worker-2"]


def test_a_variable_sets_the_replicas_and_what_the_scheduler_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"SHOAL_WORKERS": "4", "SHOAL_SERVERS": "3"}
    got = options(first("scheduler", variables), monkeypatch)
    assert (got.workers, got.servers) == (Count(4), Count(3))
    assert [c.service for c in containers(variables)].count("worker") == 4


def test_scaling_leaves_the_scheduler_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = containers(scale={"worker": 4})
    assert [c.service for c in scaled].count("worker") == 4
    assert parse_count(scaled[0].environment["SHOAL_WORKERS"]).more


@pytest.mark.parametrize("service", ["server", "worker"])
def test_a_service_that_scales_has_no_fixed_name_rank_or_port(service: str) -> None:
    fixed = {"container_name", "hostname", "ports", "profiles"} & set(document()["services"][service])
    assert not fixed and "SHOAL_RANK" not in first(service).environment


@pytest.mark.parametrize("service", SERVICES)
def test_containers_may_do_little(service: str) -> None:
    s = document()["services"][service]
    assert s["cap_drop"] == ["ALL"] and s["read_only"] is True and s["init"] is True
    assert s["security_opt"] == ["no-new-privileges:true"] and s["user"] == "10001:10001"
    assert s["restart"] == "no" and all(name in s for name in ("mem_limit", "cpus", "pids_limit", "shm_size"))


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_gets_the_key_as_a_secret_and_uses_it(service: str) -> None:
    (name,) = first(service).secrets
    assert first(service).environment["SHOAL_KEYS"] == f"/run/secrets/{name}"
    assert document()["secrets"][name]["file"] == "./keys/cluster.key"
    assert "SHOAL_INSECURE" not in first(service).environment


def test_the_script_makes_a_key_as_the_command_does_and_keeps_one_that_is_there(tmp_path: Path) -> None:
    command = [str(ROOT / "deploy" / "new_key.sh"), str(tmp_path / "keys")]
    subprocess.run(command, check=True, capture_output=True)
    path, other = tmp_path / "keys" / FILE, new_keys(str(tmp_path / "other"), container=True)
    assert [oct(p.stat().st_mode) for p in (path, path.parent)] == [
        oct(p.stat().st_mode) for p in (other, other.parent)
    ]
    before = load_keys(str(path))
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert load_keys(str(path)) == before


def test_nothing_is_reachable_from_outside() -> None:
    d = document()
    assert all(network["internal"] for network in d["networks"].values())
    assert all(s["networks"] == ["cluster"] and "ports" not in s for s in d["services"].values())


def test_the_image_of_the_file_is_the_one_that_the_dockerfile_builds() -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)
    node = document()["services"]["worker"]
    assert base and node["build"]["args"]["PYTHON_IMAGE"] == base[1]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base[1]), "the base image is pinned to a full version"
    assert node["build"]["dockerfile"] == "deploy/Dockerfile"
    import shoal

    assert node["image"] == f"shoal:{shoal.__version__}"


def test_the_image_runs_our_command_and_not_as_root() -> None:
    assert re.search(r'^ENTRYPOINT \["shoal"\]$', DOCKERFILE, re.M)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.M)
    assert len(re.findall(r"^FROM ", DOCKERFILE, re.M)) == 2
    assert not re.search(r"^HEALTHCHECK", DOCKERFILE, re.M)


def test_the_image_gets_every_package_and_nothing_that_is_not_named() -> None:
    import tomllib

    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    named = {line[1:] for line in lines if line.startswith("!")}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = set(config["tool"]["setuptools"]["package-dir"].values())
    assert rooms | {"pyproject.toml", "requirements.lock", config["project"]["readme"], "LICENSE"} <= named
    assert all((ROOT / path).exists() for path in named)


def test_everything_that_is_installed_into_the_image_is_checked_by_its_hash() -> None:
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_every_variable_of_the_file_is_in_its_documentation() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    documented = set(re.findall(r"`(SHOAL_\w+|PYTHON_IMAGE)`", (ROOT / "docs" / "compose.md").read_text()))
    assert used == documented
