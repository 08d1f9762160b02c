"""docker-compose.yml and deploy/Dockerfile agree with the specification, with the command line, and with each other."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shoal.kvstore.wire.keys import FILE, load_keys, new_keys
from shoal.lab.chaos.alone import parse_alone
from shoal.scheduler.gather import Count, parse_count
from tests.composefile import ROOT, Container, containers, document

BOARD = json.loads((ROOT / "deploy" / "observe" / "shoal.json").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SERVICES = ("scheduler", "server", "worker", "worker-gpu", "worker-chaos")
MEMBERS = SERVICES[1:]
OURS = ("gpu", "chaos")


def first(service: str, variables: Mapping[str, str] | None = None) -> Container:
    return next(c for c in containers(variables, profiles=OURS) if c.service == service)


def options(container: Container, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What our own command line makes of a container's arguments and environment."""
    from shoal import cli

    for name, value in container.environment.items():
        monkeypatch.setenv(name, value)
    return cli._parser()[0].parse_args(container.argv)


def observe(name: str) -> Any:
    """A file of deploy/observe."""
    return YAML(typ="safe", pure=True).load((ROOT / "deploy" / "observe" / name).read_text())


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
    assert options(first(service), monkeypatch).command == service.split("-")[0]


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_one_that_the_command_documents(service: str) -> None:
    text = help_of(service.split("-")[0])
    ours = {name for name in first(service).environment if name.startswith("SHOAL_")}
    assert {name for name in ours if name not in text} <= {"SHOAL_LOG", "SHOAL_CHAOS", "SHOAL_LEASE_S"}
    assert "SHOAL_LOG" in help_of("")


def test_the_members_look_for_the_scheduler_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = options(first("scheduler"), monkeypatch)
    for service in MEMBERS:
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


@pytest.mark.parametrize("service", MEMBERS)
def test_a_service_that_scales_has_no_fixed_name_rank_or_port(service: str) -> None:
    fixed = {"container_name", "hostname", "ports"} & set(document()["services"][service])
    assert not fixed and "SHOAL_RANK" not in first(service).environment


@pytest.mark.parametrize("service", SERVICES)
def test_containers_may_do_little(service: str) -> None:
    s = document()["services"][service]
    assert s["cap_drop"] == ["ALL"] and s["read_only"] is True and s["init"] is True
    assert s["security_opt"] == ["no-new-privileges:true"] and s["user"] == "10001:10001"
    assert all(name in s for name in ("mem_limit", "cpus", "pids_limit", "shm_size", "stop_grace_period"))


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
    assert d["networks"]["cluster"]["internal"]
    assert all(d["services"][name]["networks"] == ["cluster"] for name in SERVICES)
    published = [port for s in d["services"].values() for port in s.get("ports", [])]
    assert published == ["127.0.0.1:3000:3000"], "the board, to this machine only"


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
    assert len(installs) == 3 and "pip wheel --no-deps --no-build-isolation" in DOCKERFILE
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


# --- profiles, restarts, references -----------------------------------------------------------------------------------


def test_without_a_profile_the_services_are_those_for_cpus() -> None:
    of = {name: s.get("profiles", []) for name, s in document()["services"].items()}
    assert [name for name, profiles in of.items() if not profiles] == ["scheduler", "server", "worker"]
    assert {p for profiles in of.values() for p in profiles} == {"gpu", "observe", "chaos"}


def test_every_network_secret_volume_and_service_that_is_named_is_there() -> None:
    d = document()
    for name, s in d["services"].items():
        assert set(s["networks"]) <= set(d["networks"]), name
        assert set(s.get("secrets", [])) <= set(d["secrets"]), name
        assert set(s.get("depends_on", [])) <= set(d["services"]), name
        for source in (mount.split(":")[0] for mount in s.get("volumes", [])):
            assert source in d["volumes"] or (ROOT / source).exists(), f"{name}: {source}"


def test_every_lock_that_an_image_is_built_from_is_there_with_hashes_and_reaches_the_builder() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for name in SERVICES:
        lock = document()["services"][name]["build"]["args"]["LOCK"]
        text = (ROOT / lock).read_text()
        pins = re.findall(r"^[\w.\[\]-]+==.*\\$", text, re.M)
        assert f"!{lock}" in allowed and pins, lock
        assert all("--hash=sha256:" in block for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]), lock


def test_the_locks_of_the_images_agree_about_what_they_share() -> None:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "requirements.lock", *sorted((ROOT / "deploy").glob("*.lock"))):
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M):
            found.setdefault(name, set()).add(version)
    assert {name: v for name, v in found.items() if len(v) > 1 and name not in ("numpy", "setuptools")} == {}


def test_no_step_of_the_image_names_a_processor() -> None:
    assert not re.search(r"x86|amd64|aarch|arm64", re.sub(r"^#.*$", "", DOCKERFILE, flags=re.M))


def test_with_restarts_there_is_something_to_come_back_to() -> None:
    on = {"SHOAL_RESTART": "on-failure:3"}
    assert all(document()["services"][name]["restart"] == "no" for name in SERVICES)
    assert all(document(on)["services"][name]["restart"] == "on-failure:3" for name in SERVICES)
    assert first("scheduler").environment["SHOAL_STATE"] == "" != first("scheduler", on).environment["SHOAL_STATE"]
    assert first("server", on).environment["SHOAL_SERVER_STATE"] and first("server", on).mounts["/runs"] == "runs"
    for name in MEMBERS:
        assert first(name).environment["SHOAL_COMES_BACK"] == "" != first(name, on).environment["SHOAL_COMES_BACK"]


def test_the_worker_that_has_a_bad_day_understands_what_it_is_told() -> None:
    calm = parse_alone(first("worker-chaos").environment["SHOAL_CHAOS"])
    rough = parse_alone(first("worker-chaos", {"SHOAL_RESTART": "always"}).environment["SHOAL_CHAOS"])
    assert (calm.drop, calm.kill_s, rough.kill_s) == (2.0, 0.0, 30.0)


@pytest.mark.parametrize("service", SERVICES)
def test_every_health_check_is_a_command_of_ours(service: str) -> None:
    test = document()["services"][service]["healthcheck"]["test"]
    from shoal import cli

    assert test[:2] == ["CMD", "shoal"]
    parsed = cli._parser()[0].parse_args(test[2:])
    assert parsed.command == "doctor" and parsed.role == service.split("-")[0]


# --- the board --------------------------------------------------------------------------------------------------------


def exported() -> set[str]:
    """Metrics that the code makes, as Prometheus names their series."""
    made = [m for p in ROOT.glob("*/**/*.py") for m in re.findall(r'Family\(\s*"(shoal_\w+)", "(\w+)"', p.read_text())]
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + suffix for name, kind in made for suffix in suffixes.get(kind, ("",))}


def test_every_query_of_the_board_names_metrics_that_processes_export() -> None:
    panels = BOARD["panels"]
    queries = [t["expr"] for panel in panels for t in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"shoal_\w+", query)}
    assert len(panels) >= 15 and used <= exported(), used - exported()
    kept = {"shoal_step_seconds_bucket", "shoal_staleness_bucket", "shoal_samples_total", "shoal_node_silence_seconds"}
    assert kept <= used


def test_the_board_asks_the_source_that_is_provisioned_and_its_panels_do_not_overlap() -> None:
    (source,) = observe("datasource.yml")["datasources"]
    asked = {t["datasource"]["uid"] for panel in BOARD["panels"] for t in panel["targets"]}
    assert asked == {source["uid"]} and source["url"] == "http://prometheus:9090"
    cells = [
        (x, y)
        for g in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_prometheus_reads_every_service_where_it_serves_its_metrics() -> None:
    (job,) = observe("prometheus.yml")["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert sorted(found["names"]) == sorted(SERVICES)
    assert {first(name).environment["SHOAL_METRICS"] for name in SERVICES} == {f"0.0.0.0:{found['port']}"}
    assert "cluster" in document()["services"]["prometheus"]["networks"]


def test_what_grafana_and_prometheus_are_told_to_read_is_mounted_there() -> None:
    mounts = {m.split(":")[1] for s in document()["services"].values() for m in s.get("volumes", [])}
    grafana = document()["services"]["grafana"]["environment"]
    board = grafana["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    (provider,) = observe("boards.yml")["providers"]
    assert board in mounts and board.startswith(provider["options"]["path"] + "/")
    (config,) = [c for c in document()["services"]["prometheus"]["command"] if "config.file" in c]
    assert config.partition("=")[2] in mounts


def test_every_variable_of_the_file_is_in_its_documentation() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    documented = set(re.findall(r"`(SHOAL_\w+|\w+_IMAGE)`", (ROOT / "docs" / "compose.md").read_text()))
    assert used == documented
