"""Files for elsewhere: each obeys its schema, every reference leads somewhere, and our own commands take what they say.

Not exercised: an engine, a cluster, Ray's job server, Slurm (that is `make slurm-check`); the same
commands run as processes in other tests.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.projects import compose, kubernetes
from shoal.projects.job import Job, parse_job, read_job
from shoal.projects.render import RENDERERS, render
from shoal.projects.schema import TARGETS
from shoal.projects.starting import RENDERED, TEMPLATES, start
from tests.e2e.test_kubernetes_files import VERSIONS, faults
from tests.patience import RUN_S

yaml = pytest.importorskip("ruamel.yaml", reason="ruamel.yaml reads YAML")

RICH = """
[job]
name = "digits"
script = "train.py"
args = ["--text", "$HOME $(HOME)"]
plugins = ["rules.py"]
target = "accuracy=0.9"
[cluster]
workers = 3
servers = 2
algo = "ssp:s=2"
[resources]
device = "gpu"
worker_cpus = 2.5
worker_memory = "2GiB"
[data]
path = "data"
[checkpoints]
dir = "runs"
every = "10s"
[env]
TONE = "low: $x"
[targets.k8s]
namespace = "teams"
service_account = "trainer"
node_selector = { disk = "ssd" }
deadline = "02:00:00"
[targets.slurm]
nodes = 2
partition = "long"
setup = ["module load python"]
options = ["--exclusive"]
"""
CLAIMS = RICH.replace('path = "data"', 'claim = "images"').replace('dir = "runs"', 'dir = "runs"\nclaim = "kept"')


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("print('trained')\n\n# the end\n")
    (tmp_path / "rules.py").write_text("")
    (tmp_path / "helpers.py").write_text("x = 1\n")
    return tmp_path


def job_of(project: Path, text: str = RICH) -> Job:
    return parse_job(text, directory=project)


def read(text: str) -> list[Any]:
    return list(yaml.YAML(typ="safe", pure=True).load_all(StringIO(text)))


def check_schema(tmp_path: Path, schema: str, text: str) -> None:
    pytest.importorskip("check_jsonschema")
    file = tmp_path / "checked.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    got = subprocess.run(command, capture_output=True, text=True)
    assert got.returncode == 0, got.stdout + got.stderr


def taken(words: list[str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What our command line makes of a container's arguments and variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return cli._parser()[0].parse_args(words)


def test_every_target_has_a_renderer() -> None:
    assert tuple(RENDERERS) == TARGETS


def test_the_compose_file_obeys_the_specification(project: Path) -> None:
    (text,) = render(job_of(project), "compose").values()
    check_schema(project, "vendor.compose-spec", text)


def test_containers_of_the_compose_file_say_what_our_commands_take(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = compose.compose(job_of(project))["services"]
    assert {name: s.get("deploy", {}).get("replicas") for name, s in services.items()} == {
        "scheduler": None,
        "server": 2,
        "worker": 3,
    }
    for name, service in services.items():
        with monkeypatch.context() as patch:
            got = taken(service["command"], service["environment"], patch)
            assert got.command == name
    assert services["worker"]["environment"]["OMP_NUM_THREADS"] == "2"
    assert services["worker"]["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 1


def test_a_dollar_sign_is_no_variable_of_compose_or_kubernetes(project: Path) -> None:
    job = job_of(project)
    (made,) = read(render(job, "compose")["compose.yaml"])
    assert made["services"]["worker"]["command"][-1] == "$$HOME $$(HOME)"
    worker = next(o for o in kubernetes.objects(job) if o["metadata"]["name"] == "digits-worker")
    assert worker["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "$HOME $$(HOME)"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", [RICH, CLAIMS], ids=["path", "claims"])
def test_the_objects_obey_the_schemas_of_kubernetes(project: Path, text: str, version: str) -> None:
    objects = read(render(job_of(project, text), "k8s")["k8s.yaml"])
    assert [o["kind"] for o in objects] == ["ConfigMap", "Service", "NetworkPolicy", "Job", "Job", "Job"]
    for o in objects:
        assert faults(o, o["kind"], version) == []


def test_containers_of_kubernetes_say_what_our_commands_take(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [o for o in kubernetes.objects(job_of(project)) if o["kind"] == "Job"]
    for o in jobs:
        (container,) = o["spec"]["template"]["spec"]["containers"]
        variables = {e["name"]: e.get("value", "1") for e in container["env"]}
        variables["SHOAL_ADVERTISE"] = "10.0.0.1"
        with monkeypatch.context() as patch:
            got = taken(container["args"], variables, patch)
            assert f"digits-{got.command}" == o["metadata"]["name"]
            for probe in ("readinessProbe", "livenessProbe"):
                assert taken(container[probe]["exec"]["command"][1:], variables, patch).role == got.command
            if got.command != "scheduler":
                assert got.scheduler == "digits-scheduler:9091" and got.rank == 1


def test_the_sources_travel_as_they_are(project: Path) -> None:
    config = read(render(job_of(project), "k8s")["k8s.yaml"])[0]
    assert config["data"] == {p.name: p.read_text() for p in project.glob("*.py")}


def test_the_slurm_script_asks_for_what_the_job_needs(project: Path) -> None:
    (text,) = render(job_of(project), "slurm").values()
    said = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    assert said["nodes"] == "2" and said["ntasks-per-node"] == "2" and said["cpus-per-task"] == "3"
    assert said["gpus-per-node"] == "2" and said["time"] == "01:00:00" and said["mem"] == f"{2 * 2048 + 1024 + 512}M"
    assert "#SBATCH --exclusive\n" in text and "\nmodule load python\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    command = shlex.split(text.splitlines()[-1])
    assert command[:4] == ["exec", "python3", "-m", "shoal"]
    assert cli._parser()[0].parse_args([*command[4:], "train.py"]).on == "slurm"


def test_the_ray_job_submits_what_our_command_takes(project: Path) -> None:
    files = render(job_of(project), "ray")
    (environment,) = read(files["ray-env.yaml"])
    assert set(environment) <= {"pip", "env_vars", "excludes"} and environment["env_vars"]["TONE"] == "low: $x"
    assert subprocess.run(["sh", "-n"], input=files["ray-job.sh"], text=True).returncode == 0
    words = shlex.split(files["ray-job.sh"].splitlines()[-1])
    ours = words[words.index("--") + 1 :]
    got = cli._parser()[0].parse_args([*ours[1:], "train.py"])
    assert got.on == "ray" and got.worker_resources == {"CPU": 2.5, "GPU": 1.0}


@pytest.mark.parametrize(
    ("target", "change", "said"),
    [
        ("compose", ("servers = 2", "servers = 2\nreplicas = 1"), "files for compose have no replicas"),
        ("k8s", ("servers = 2", "servers = 2\nreplicas = 1"), "files for k8s have no replicas"),
        ("slurm", ("workers = 3", 'workers = "2..4"'), "a Slurm job has a fixed number"),
        ("slurm", ("--exclusive", "--a\\n#SBATCH --b"), "on one line"),
        ("k8s", ('script = "train.py"', 'script = "a/train.py"'), "is in a folder"),
        ("moon", ("", ""), "unknown target 'moon'; known: compose, k8s, ray, slurm"),
    ],
)
def test_what_cannot_be_there_is_refused(project: Path, target: str, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        render(job_of(project, RICH.replace(*change) if change[0] else RICH), target)


def test_a_reference_that_leads_nowhere_is_found(project: Path) -> None:
    made = compose.compose(job_of(project))
    made["services"]["worker"]["networks"] = ["other"]
    with pytest.raises(ConfigError, match="service worker names networks 'other'"):
        compose.check(made)
    objects = kubernetes.objects(job_of(project))
    objects[-1]["spec"]["template"]["spec"]["volumes"].pop()
    with pytest.raises(ConfigError, match="Job digits-worker: shm is mounted or defined, and not both"):
        kubernetes.check(objects)


def test_a_new_project_is_written_once(tmp_path: Path) -> None:
    place = tmp_path / "My Fish"
    made = start(str(place))
    assert {os.path.relpath(p, place) for p in made} == {*TEMPLATES, *RENDERED}
    assert read_job(place / "shoal.toml").name == "my-fish"
    assert not [p for p in made if "@NAME@" in Path(p).read_text()]
    with pytest.raises(ConfigError, match=r"has train.py, shoal.toml, .* already"):
        start(str(place))
    with pytest.raises(ConfigError, match="--name: expected lower-case letters"):
        start(str(tmp_path / "b"), "No Name")
    assert not (tmp_path / "b").exists()


@pytest.mark.net
def test_a_new_project_trains_as_it_is_written_and_its_files_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "fish"]) == 0 and "cd fish; shoal run" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "fish")
    for target in TARGETS:
        files = {name: Path(name).read_text() for name in RENDERED}
        assert cli.main(["deploy", "render", "--target", target, "--output", "."]) == 0
        assert files == {name: Path(name).read_text() for name in RENDERED}
    check_schema(tmp_path, "vendor.compose-spec", Path("compose.yaml").read_text())
    check_schema(tmp_path, "vendor.github-workflows", Path(".github/workflows/train.yml").read_text())
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", "--report", "report.json"]
    got = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert got.returncode == 0, got.stdout + got.stderr
    assert float(got.stdout.split()[-1]) > 0.9
    assert json.loads(Path("report.json").read_text())["weights_sha256"]


def test_files_are_printed_where_no_place_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "shoal.toml").write_text(RICH)
    assert cli.main(["deploy", "render", "--target", "ray", "-f", str(project / "shoal.toml")]) == 0
    out = capsys.readouterr().out
    assert "# --- ray-env.yaml\n" in out and "# --- ray-job.sh\n" in out
