"""The command line: what it understands, and one clear line about what it does not."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import cli
from shoal.commands import roles
from shoal.errors import MembershipError
from shoal.kvstore.server.saver import Saving
from shoal.kvstore.wire.keys import LOOPBACK
from shoal.scheduler.child import Launched
from shoal.scheduler.gather import Count
from shoal.scheduler.job import JobConfig, Outcome
from shoal.worker.checkpoints import Checkpoints

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process: exit code, stdout, stderr."""
    for name in ("WORKERS", "SERVERS", "MODE", "SCHEDULER", "PORT", "SEED", "TARGET", "RANK"):
        monkeypatch.delenv(f"SHOAL_{name}", raising=False)
    monkeypatch.setattr(roles, "be_a_role", lambda o: False)

    def call(*args: str) -> tuple[int, str, str]:
        code = cli.main(args)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the roles and the launcher are called with, instead of running."""
    made: list[tuple[Any, ...]] = []

    def record(name: str, result: Any) -> Callable[..., Any]:
        return lambda *args, **options: (made.append((name, *args, options)), result)[1]

    monkeypatch.setattr("shoal.scheduler.shell.run_scheduler", record("scheduler", 0))
    monkeypatch.setattr("shoal.roles.run_server", record("server", 0))
    monkeypatch.setattr("shoal.roles.run_worker", record("worker", 4))
    launch = record("launch", Outcome(7, "the run has failed: worker 1 (pid 3) exited with code 7", None))
    monkeypatch.setattr("shoal.scheduler.local.LocalLauncher.launch", launch)
    return made


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text("")
    return str(path)


def test_without_a_command_there_is_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 0 and "shoal run -n 2 -s 2 --mode async train.py" in out


def test_the_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"shoal {shoal.__version__}\n")


@pytest.mark.parametrize("command", ["run", "scheduler", "server", "worker", "simulate", "doctor"])
def test_every_command_has_help_that_names_its_environment(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0 and "$SHOAL_" in out


def test_commands_that_are_not_for_people_are_not_offered(run: Run) -> None:
    code, _, err = run("compare")
    assert code == 2 and "unknown command 'compare'; known: run, " in err and "attend" not in err


def test_the_help_of_a_lease_says_who_has_a_grace(run: Run) -> None:
    text = " ".join(run("run", "--help")[1].split()).replace("- ", "-")
    assert "is lost: a worker has --worker-grace-s more" in text


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["rnu", "x.py"], "shoal: unknown command 'rnu'; did you mean 'run'?"),
        (["shedule"], "shoal: unknown command 'shedule'; did you mean 'scheduler'?"),
        (
            ["xyzzy"],
            "shoal: unknown command 'xyzzy'; known: run, scheduler, server, worker, control, drain, status, top, ",
        ),
        (["train.py"], "shoal: to train with train.py: shoal run train.py"),
        (["run", "nowhere.py"], "shoal run: there is no script 'nowhere.py' in"),
        (["run", "--mode", "lazy", "x.py"], "shoal run: unknown mode 'lazy'; known: sync (bsp)"),
        (["run", "-n", "0", "x.py"], "expected a number of processes, at least 1, got '0'"),
        (["run", "-n", "two", "x.py"], "expected a number of processes, at least 1, got 'two'"),
        (["run", "--lease-s", "-1", "x.py"], "expected a positive number of seconds, got '-1'"),
        (["run", "--lease-s", "nan", "x.py"], "expected a positive number of seconds, got 'nan'"),
        (["run", "--target", "97", "x.py"], "a target is METRIC=VALUE, such as accuracy=0.97; got '97'"),
        (["run"], "the following arguments are required: script (see"),
        (["run", "--repport", "o.json", "x.py"], "shoal run: unknown option '--repport'; did you mean '--report'?"),
        (["run", "--epochs", "3", "x.py"], "unknown option '--epochs'; options of the script come after its name"),
        (["doctor", "now"], "shoal doctor: unknown argument 'now' (see shoal doctor --help)"),
        (["scheduler"], "the following arguments are required: -n/--workers, -s/--servers"),
        (["scheduler", "-n", "2", "-s", "1", "--port", "99999"], "expected a port, 0 to 65535, got '99999'"),
        (["scheduler", "-n", "some", "-s", "1"], "such as 2+ for at least two; got 'some'"),
        (["server"], "the following arguments are required: --scheduler"),
        (["server", "--scheduler", "here"], "an address is host:port, such as 10.0.0.1:9091; got 'here'"),
        (["worker", "--scheduler", "h:1", "nowhere.py"], "shoal worker: there is no script 'nowhere.py' in"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(run: Run, args: list[str], line: str) -> None:
    code, _, err = run(*args)
    assert code == 2 and line in err and err.count("\n") == 1


def test_a_run_is_described_by_its_options(run: Run, calls: list[tuple[Any, ...]], script: str) -> None:
    options = ["-n", "4", "-s", "2", "--mode", "ssp:3", "--seed", "5", "--lease-s", "3", "--target", "accuracy=0.9"]
    code, _, err = run("run", *options, script, "--epochs", "3", "-n", "9")
    assert (code, err) == (7, "shoal run: the run has failed: worker 1 (pid 3) exited with code 7\n")
    assert calls[0][2] == JobConfig(
        script,
        ("--epochs", "3", "-n", "9"),
        workers=4,
        servers=2,
        mode="ssp:3",
        seed=5,
        target="accuracy=0.9",
        lease_s=3.0,
    )


def test_the_environment_sets_defaults_and_options_win(
    run: Run, calls: list[tuple[Any, ...]], script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_WORKERS", "5")
    monkeypatch.setenv("SHOAL_MODE", "async")
    run("run", script)
    run("run", "-n", "1", "--mode", "sync", script)
    assert [(c[2].workers, c[2].mode) for c in calls] == [(5, "asp"), (1, "bsp")]


def test_a_bad_value_in_the_environment_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_WORKERS", "many")
    code, _, err = run("run", "x.py")
    assert code == 2 and "--workers" in err and "'many'" in err


def test_a_scheduler_is_started_from_the_environment_alone(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORKERS": "1+", "SERVERS": "2", "PORT": "7000", "MODE": "sync"}.items():
        monkeypatch.setenv(f"SHOAL_{name}", value)
    assert run("scheduler")[0] == 0
    (_, host, port, workers, servers, options) = calls[0]
    assert (host, port, workers, servers) == ("", 7000, Count(1, more=True), Count(2))
    assert options["mode"] == "bsp" and options["lease_s"] == 10.0


def test_a_scheduler_is_told_where_its_log_is_and_how_long_the_others_wait(
    run: Run, calls: list[tuple[Any, ...]], script: str
) -> None:
    assert run("scheduler", "-n", "2", "-s", "1", "--state", "/state", "--scheduler-grace", "5")[0] == 0
    assert {k: calls[0][-1][k] for k in ("state", "grace_s", "sync")} == {
        "state": "/state",
        "grace_s": 5.0,
        "sync": True,
    }
    run("run", "--scheduler-grace-s", "0", "--run-dir", "kept", script)
    assert (calls[1][2].scheduler_grace_s, calls[1][2].run_dir) == (0.0, "kept")
    assert "expected a positive number of seconds, got '-1'" in run("run", "--scheduler-grace-s=-1", script)[2]


def test_a_server_is_started_from_the_environment_alone(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_SCHEDULER", "scheduler:9091")
    assert run("server")[0] == 0
    assert calls[0][:2] == ("server", "scheduler:9091")
    assert calls[0][2] == {
        "host": "",
        "port": 0,
        "advertise": "",
        "rank": -1,
        "join_timeout_s": 60.0,
        "launched": Launched.NOT,
        "access": LOOPBACK,
        "saving": None,
        "replaces": False,
        "replica": False,
    }


def test_a_server_keeps_snapshots_and_takes_the_place_of_a_dead_one(run: Run, calls: list[tuple[Any, ...]]) -> None:
    common = ("server", "--scheduler", "h:1", "--state", "/state")
    assert run(*common, "--rank", "1", "--replaces", "--snapshot-every", "100u")[0] == 0
    assert calls[0][2]["replaces"] and calls[0][2]["saving"] == Saving("/state", (0.0, 100))
    code, _, err = run(*common, "--replaces")
    assert code == 2 and "--replaces needs the --rank and the --state" in err
    code, _, err = run(*common, "--snapshot-every", "soon")
    assert code == 2 and "every so many seconds (30s) or updates (100u), got 'soon'" in err
    run(*common, "--snapshot-every", "never")
    assert calls[1][2]["saving"] is None


def test_a_worker_passes_the_scripts_arguments_and_exit_code_on(
    run: Run, calls: list[tuple[Any, ...]], script: str
) -> None:
    assert run("worker", "--scheduler", "h:1", "--rank", "2", script, "--lr", "0.1")[0] == 4
    assert calls[0][1:4] == ("h:1", script, ["--lr", "0.1"])
    assert calls[0][4]["rank"] == 2


def test_an_error_of_shoals_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise MembershipError("no scheduler answered at h:1")

    monkeypatch.setattr("shoal.roles.run_worker", refuse)
    assert run("worker", "--scheduler", "h:1", script) == (1, "", "shoal worker: no scheduler answered at h:1\n")


def test_ctrl_c_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    def interrupt(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("shoal.roles.run_worker", interrupt)
    assert run("worker", "--scheduler", "h:1", script) == (130, "", "shoal worker: stopped by Ctrl-C\n")


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    def bug(*_: Any, **__: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("shoal.roles.run_worker", bug)
    with pytest.raises(ZeroDivisionError):
        run("worker", "--scheduler", "h:1", script)


@pytest.mark.parametrize("words", [["--algo", "backup:b=2"], ["--gate", "ksync:k=5"]])
def test_a_run_too_small_for_its_gate_is_refused_before_anything_is_started(
    run: Run, calls: list[tuple[Any, ...]], script: str, words: list[str]
) -> None:
    code, out, err = run("run", "-n", "2", *words, script)
    assert code == 2 and not calls and not out
    assert "but the run has 2 workers. Start at least" in err and err.count("\n") == 1


@pytest.mark.parametrize("seed", ["99999999999999999999999", "one", "1.5", "-", ""])
def test_a_seed_that_does_not_fit_is_refused_at_once(run: Run, script: str, seed: str) -> None:
    code, _, err = run("run", f"--seed={seed}", script)
    assert code == 2 and f"--seed: expected a whole number of 64 bits, got {seed!r}" in err


def test_a_seed_may_be_negative(run: Run, calls: list[tuple[Any, ...]], script: str) -> None:
    run("run", "--seed", "-3", script)
    assert calls[0][2].seed == -3


def test_checkpoints_of_another_run_are_not_mixed_with_this_ones(
    run: Run, calls: list[tuple[Any, ...]], script: str, tmp_path: Path
) -> None:
    Checkpoints(str(tmp_path / "kept")).save(6, {"w": [1.0]}, {"seed": 1})
    code, _, err = run("run", "--checkpoint", str(tmp_path / "kept"), script)
    assert code == 2 and not calls and "kept has checkpoints of another run (of epoch 6, say): go on from them" in err
    _, _, err = run("run", "--checkpoint", str(tmp_path / "kept"), "--resume", "--seed", "2", script)
    assert calls[0][2].env["SHOAL_RESUME"].endswith("epoch-000006.safetensors")
    assert "epoch-000006.safetensors, after epoch 6; its seed was 1, this run's is 2" in err


def test_a_reader_that_goes_is_no_error_of_shoal() -> None:
    """As with other programs: the exit code of a SIGPIPE, and not a word."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "shoal", "doctor"]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_too_few_open_files_are_said_before_anything_starts(script: str) -> None:
    command = f"ulimit -n 32; exec {shlex.quote(sys.executable)} -m shoal run -n 1 {shlex.quote(script)}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "may have 32 open files here, and a run needs 64" in ended.stderr
