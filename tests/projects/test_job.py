"""shoal.toml: what it may say, and what is said about one that is wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.projects.job import parse_job, read_job
from shoal.projects.options import completed, defaults
from shoal.projects.schema import SCHEMA, Key
from shoal.scheduler.job import JobConfig, Outcome

SMALL = '[job]\nscript = "train.py"\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text("print('trained')\n")
    monkeypatch.chdir(tmp_path)
    for name in ("WORKERS", "SERVERS", "ALGO", "SEED", "TARGET", "ON", "LEASE_S"):
        monkeypatch.delenv(f"SHOAL_{name}", raising=False)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[JobConfig]:
    """The jobs that were asked for; nothing is started."""
    jobs: list[JobConfig] = []

    def launch(self: object, job: JobConfig) -> Outcome:
        jobs.append(job)
        return Outcome(7, "not started", None)

    monkeypatch.setattr("shoal.scheduler.local.LocalLauncher.launch", launch)
    return jobs


def test_a_script_is_enough() -> None:
    job = parse_job(SMALL, directory=Path("/x/My Job"))
    assert (job.name, job.workers, job.servers, job.gpus) == ("my-job", (2, 2), 1, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"\[job\] script is missing"),
        ("[job", "is no TOML"),
        ('[jobs]\nscript = "a"', "unknown name 'jobs'; did you mean 'job'"),
        (SMALL + "workers = 2\n", r"\[job\]: unknown name 'workers'"),
        (SMALL + "[cluster]\nworkers = 0\n", r"\[cluster\] workers: expected a number .* got 0"),
        (SMALL + '[cluster]\nworkers = "4..2"\n', 'got "4..2"'),
        (SMALL + "[cluster]\nworkers = true\n", "got true"),
        (SMALL + "[cluster]\nserver = 1\n", "did you mean 'servers'"),
        (SMALL + "[cluster]\nservers = -1\n", r"expected a whole number from 0 to 1024, got -1"),
        (SMALL + "[cluster]\nservers = 0\nreplicas = 1\n", "there are no servers"),
        (SMALL + '[resources]\ndevice = "tpu"\n', 'expected one of "cpu", "gpu", got "tpu"'),
        (SMALL + "[resources]\ngpus = 2\n", 'device is "cpu"'),
        (SMALL + '[resources]\nworker_memory = "much"\n', 'a size such as "512MiB"'),
        (SMALL + "[job.more]\na = 1\n", "unknown name 'more'"),
        (SMALL + "[targets.moon]\n", "unknown name 'targets.moon'"),
        (SMALL + "[targets]\nk8s = 3\n", r"expected a table, \[targets.k8s\]"),
        (SMALL + '[targets.slurm]\ntime = "soon"\n', r'or a time such as "01:30:00"'),
        (SMALL + '[env]\n"A-B" = "x"\n', "a table of names"),
        (SMALL + '[data]\npath = "d"\nclaim = "c"\n', "both path and claim"),
        ('[job]\nscript = "/etc/passwd"\n', "a path inside the project"),
        ('[job]\nscript = "../a.py"\n', "a path inside the project"),
        ('[job]\nscript = "a.py"\nname = "A B"\n', "lower-case letters"),
        ("job = 3\n", r"expected a table, \[job\]"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_job(text)


def test_times_and_sizes_are_read() -> None:
    more = '[resources]\nworker_memory = "1.5GiB"\n[targets.slurm]\ntime = "1-02:00:00"\n'
    job = parse_job(SMALL + more)
    assert job.get("resources", "worker_memory") == 3 << 29
    assert job.get("targets.slurm", "time") == 26 * 3600


def test_without_servers_there_are_none() -> None:
    assert parse_job(SMALL + '[cluster]\nalgo = "allreduce"\n').servers == 0


def test_a_file_without_its_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"there is no 'train.py'"):
        read_job(tmp_path / "shoal.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml cannot be read.*shoal init"):
        read_job(tmp_path / "nowhere.toml")


def test_every_key_has_a_default_of_its_own_kind() -> None:
    for table, keys in SCHEMA.items():
        for name, key in keys.items():
            if isinstance(key.default, str) and key.default:
                key.kind.check(f"[{table}] {name}", key.default)
            assert key.text


def test_run_takes_the_file_of_this_directory(project: Path, started: list[JobConfig]) -> None:
    (project / "shoal.toml").write_text(
        '[job]\nscript = "train.py"\nargs = ["--epochs", "3"]\nseed = 5\n[cluster]\nworkers = 3\nservers = 2\n'
        'lease_s = 4.5\n[checkpoints]\ndir = "runs"\nevery = "10s"\n[env]\nTONE = "low"\n'
    )
    assert cli.main(["run"]) == 7
    job = started[0]
    assert (job.script, job.args, job.workers, job.servers) == ("train.py", ("--epochs", "3"), 3, 2)
    assert (job.seed, job.lease_s, job.run_dir, job.snapshot_every) == (5, 4.5, "runs", "10s")
    assert job.env["TONE"] == "low"


def test_options_win_over_the_file_and_the_file_over_the_environment(
    project: Path, started: list[JobConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "shoal.toml").write_text(SMALL + "[cluster]\nworkers = 3\nservers = 2\n")
    monkeypatch.setenv("SHOAL_SERVERS", "5")
    assert cli.main(["run", "-n", "4"]) == 7
    assert (started[0].workers, started[0].servers) == (4, 2)


def test_a_script_on_the_command_line_needs_no_file(project: Path, started: list[JobConfig]) -> None:
    (project / "shoal.toml").write_text(SMALL + "[cluster]\nworkers = 3\n")
    (project / "other.py").write_text("")
    assert cli.main(["run", "other.py", "--epochs", "1"]) == 7
    assert (started[0].script, started[0].args, started[0].workers) == ("other.py", ("--epochs", "1"), 2)
    assert cli.main(["run", "-f", "shoal.toml", "other.py"]) == 7
    assert (started[1].script, started[1].workers) == ("other.py", 3)


def test_paths_are_meant_from_the_file(project: Path, started: list[JobConfig]) -> None:
    below = project / "jobs"
    below.mkdir()
    (below / "a.py").write_text("")
    (below / "shoal.toml").write_text('[job]\nscript = "a.py"\n[checkpoints]\ndir = "runs"\n[data]\npath = "."\n')
    assert cli.main(["run", "-f", "jobs/shoal.toml"]) == 7
    assert (started[0].script, started[0].run_dir) == ("jobs/a.py", "jobs/runs")
    assert started[0].env["SHOAL_DATA"] == "jobs"


def test_without_script_and_file_the_command_says_what_it_lacks(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run"]) == 2
    assert "script" in capsys.readouterr().err


def test_a_wrong_file_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "shoal.toml").write_text(SMALL + "[cluster]\nworkers = 0\n")
    assert cli.main(["run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("shoal run: ") and said.count("\n") == 1 and "[cluster] workers" in said


def test_a_bad_option_is_named_as_before(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "shoal.toml").write_text(SMALL)
    assert cli.main(["run", "-n", "none"]) == 2
    assert "'none'" in capsys.readouterr().err
    assert cli.main(["run", "-n"]) == 2
    assert "no script" not in capsys.readouterr().err


def test_help_of_run_is_shown_with_a_file_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "shoal.toml").write_text(SMALL)
    assert cli.main(["run", "--help"]) == 0
    assert "--file" in capsys.readouterr().out


def test_every_default_is_an_option_of_run() -> None:
    known = {a.dest for a in cli._parser()[1]["run"]._actions}
    cluster = "[cluster]\nworkers = 2\nservers = 1\nreplicas = 1\nalgo = 'sync'\nlease_s = 1\nworker_grace_s = 1\n"
    job = parse_job(SMALL + 'on = "ssh"\nseed = 1\ntarget = "a=1"\nreport = "r"\nplugins = ["p.py"]\n' + cluster)
    assert set(defaults(job)) <= known


def test_a_command_line_is_left_alone_where_there_is_no_file(project: Path) -> None:
    commands = cli._parser()[1]
    assert completed(commands["run"], ["-n", "2", "a.py"]) == ["-n", "2", "a.py"]


def test_every_key_is_documented_as_the_schema_has_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "projects.md").read_text()
    for table, keys in SCHEMA.items():
        assert f"`[{table}]`" in text
        for row in rows(keys):
            assert row in text, f"[{table}] in docs/projects.md lacks, or has otherwise: {row}"


def rows(keys: Mapping[str, Key]) -> list[str]:
    """The rows of a table's keys, as the documentation has them."""
    return [f"| `{name}` | {shown(key.default)} | {key.text} |" for name, key in keys.items()]


def shown(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return ""
    return f"`{json.dumps(default)}`"
