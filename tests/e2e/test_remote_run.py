"""``shoal run --on ssh`` and ``--on slurm``, with programs that stand for ssh and srun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shoal import cli
from tests.e2e.farhosts import FarHosts
from tests.e2e.test_launcher import MARK, Crowd
from tests.patience import RUN_S, until_run

pytestmark = pytest.mark.net

TRAIN = """
import os, shoal
from shoal import autograd, nn, np
net = nn.Dense(3)
net.initialize(shoal.init.Xavier())
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
for step in range(6):
    x = np.array([[1.0 + shoal.rank(), 2.0, step]])
    with autograd.record():
        loss = (net(x) ** 2).mean()
    loss.backward()
    trainer.step(1)
print("at", os.path.basename(os.path.dirname(os.path.dirname(os.path.dirname(os.getcwd())))), os.environ.get("NODE"))
print("tone", os.environ.get("TONE"), os.path.exists("secret.bin"), open("words.txt").read())
"""

WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(100)\n"


def project(place: Path) -> Path:
    """Make a project's directory: two scripts, and data that one of them reads."""
    place.mkdir()
    (place / "train.py").write_text(TRAIN)
    (place / "wait.py").write_text(WAITS)
    (place / "words.txt").write_text("hello there")
    return place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's directory, in which the test is."""
    place = project(tmp_path / "digits")
    (place / "secret.bin").write_text("x")
    (place / ".shoalignore").write_text("# too large\nsecret.bin\n")
    (place / "hosts.txt").write_text("h1 slots=1\nada@h2 slots=2\n")
    monkeypatch.chdir(place)
    return place


def start(far: FarHosts, *args: str, crowd: Crowd | None = None, **more: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PATH": far.path, **({MARK: crowd.mark} if crowd else {}), **more}
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def run(far: FarHosts, *args: str, **more: str) -> tuple[int, str]:
    """Exit code, and all that was said."""
    process = start(far, *args, **more)
    out, _ = process.communicate(timeout=RUN_S)
    return process.returncode, out


def test_a_run_on_hosts_gives_the_bits_of_a_run_on_this_machine(folder: Path, tmp_path: Path) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2")
    job = ("-n", "2", "-s", "2", "--seed", "7", "--report")
    code, out = run(far, "--on", "ssh:hosts.txt", "--env", "TONE=low", *job, "far.json", "train.py")
    assert code == 0, out
    for rank, host in enumerate(("h1", "h2")):
        assert f"[worker {rank}] at {host}" in out and f"[worker {rank}] tone low False hello there" in out
    code, out = run(far, *job, "near.json", "train.py")
    assert code == 0, out
    far_report, near = (json.loads((folder / name).read_text()) for name in ("far.json", "near.json"))
    assert near["weights_sha256"] and far_report["weights_sha256"] == near["weights_sha256"]
    copied = far.copies("h1")
    assert Path("train.py") in copied and Path("secret.bin") not in copied


def test_without_rsync_the_directory_goes_by_tar(folder: Path, tmp_path: Path) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2", rsync=False)
    (folder / "fail.py").write_text("raise RuntimeError('no more fish')\n")
    code, out = run(far, "--on", "ssh:hosts.txt", "-n", "1", "fail.py")
    assert Path("words.txt") in far.copies("h1") and Path("secret.bin") not in far.copies("h1")
    assert code == 1 and "[worker 0] RuntimeError: no more fish" in out and "the run has failed" in out
    assert "shoal-attend" not in out


def test_a_host_that_cannot_be_reached_is_named_and_nothing_is_started(folder: Path, tmp_path: Path) -> None:
    far = FarHosts(tmp_path / "far", "h1")
    code, out = run(far, "--on", "ssh:hosts.txt", "-n", "2", "train.py")
    assert code == 2 and out.count("\n") == 1
    assert "host h2 cannot be reached by ssh: ssh: connect to host h2 port 22: No route to host" in out


def test_a_python_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2")
    (folder / "hosts.txt").write_text("h1 python=/no/python\n")
    code, out = run(far, "--on", "ssh:hosts.txt", "-n", "1", "train.py")
    assert code == 2 and "host h1 has no program '/no/python': name the Python that has shoal" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--on", "ssh:hosts.txt", "--trace", "t", "train.py"), "--trace is for --on local"),
        (("--on", "ssh", "train.py"), "wants the hosts file behind it"),
        (("--on", "ssh:none.txt", "train.py"), "hosts file 'none.txt' cannot be read"),
        (("--on", "moon", "train.py"), "expected one of local, ssh, slurm, ray"),
        (("--on", "ssh:hosts.txt", "-n", "9", "train.py"), r"9 workers need 9 slots, and the hosts have 3"),
        (("--on", "ssh:hosts.txt", "--snapshot-every", "1s", "train.py"), "--snapshot-every needs a --run-dir"),
        (("--on", "slurm", "train.py"), "this is none"),
        (("--on", "ssh:hosts.txt", "../digits/train.py"), "is outside of"),
        (("--env", "A-B=1", "train.py"), "expected NAME=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", FarHosts(tmp_path / "far", "h1 h2").path)
    assert cli.main(["run", "--no-progress", *args]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def crowd() -> "Crowd":
    return Crowd()


def test_when_the_launcher_is_killed_nothing_is_left_anywhere(folder: Path, tmp_path: Path, crowd: Crowd) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2")
    process = start(far, "--on", "ssh:hosts.txt", "-n", "2", "wait.py", crowd=crowd)
    try:
        until_run(lambda: len(crowd.pids("worker")) == 2)
        process.kill()
        process.communicate()
        until_run(crowd.gone)
    finally:
        crowd.end()


def test_ctrl_c_ends_it_everywhere_in_an_orderly_way(folder: Path, tmp_path: Path, crowd: Crowd) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2")
    process = start(far, "--on", "ssh:hosts.txt", "-n", "2", "wait.py", crowd=crowd)
    try:
        until_run(lambda: len(crowd.pids("worker")) == 2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=RUN_S)
        assert process.returncode == 130 and "stopped by Ctrl-C" in out
        until_run(crowd.gone)
    finally:
        crowd.end()


STEADY = """
import time, shoal
from pathlib import Path
from shoal import autograd, nn, np
net = nn.Dense(3)
net.initialize(shoal.init.Xavier())
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
data = shoal.data.DataLoader(shoal.data.ArrayDataset(np.ones((400, 2))), batch_size=2, shuffle=True)
for step, x in enumerate(data):
    time.sleep(0.02)
    if step == 40:
        print("well under way")
    while step == 60 and not Path(SIGN).exists():
        time.sleep(0.02)
    with autograd.record():
        loss = (net(x) ** 2).mean()
    loss.backward()
    trainer.step(2)
print("done")
"""
"""Does not come to its end before there is the file SIGN."""


def steady(folder: Path) -> Path:
    """The script `STEADY` in a folder, and the file that it waits for."""
    sign = folder / "sign"
    (folder / "steady.py").write_text(STEADY.replace("SIGN", repr(str(sign))))
    return sign


def test_a_worker_that_is_killed_far_away_is_started_again_there(folder: Path, tmp_path: Path, crowd: Crowd) -> None:
    far = FarHosts(tmp_path / "far", "h1 h2")
    sign = steady(folder)
    process = start(far, "--on", "ssh:hosts.txt", "-n", "2", "steady.py", crowd=crowd)
    try:
        assert process.stdout is not None
        out = ""
        while "well under way" not in out and (line := process.stdout.readline()):
            out += line
        victims = crowd.pids("worker", "1")
        assert len(victims) == 1, out
        os.kill(victims[0], signal.SIGKILL)
        sign.touch()
        rest, _ = process.communicate(timeout=RUN_S)
        assert process.returncode == 0, out + rest
        assert "was killed by SIGKILL; it is started again" in rest
    finally:
        crowd.end()


def test_inside_a_slurm_job_srun_starts_everybody(folder: Path, tmp_path: Path) -> None:
    far = FarHosts(tmp_path / "far", "n01 n02")
    job = {"SLURM_JOB_NODELIST": "n[01-02]", "SLURM_TASKS_PER_NODE": "1(x2)"}
    code, out = run(far, "--on", "slurm", "--host", "127.0.0.1", "-n", "2", "-s", "1", "train.py", **job)
    assert code == 0, out
    assert out.count(" n01\n") == 1 and out.count(" n02\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_begins_anew_in_the_same_directory(
    folder: Path, tmp_path: Path, crowd: Crowd, number: int
) -> None:
    """Its processes were ended without a word; what they leave behind is not taken for a run that goes on."""
    far = FarHosts(tmp_path / "far", "h1 h2")
    sign = steady(folder)
    job = ("--on", "ssh:hosts.txt", "-n", "2", "--run-dir", "run", "steady.py")
    process = start(far, *job, crowd=crowd)
    try:
        assert process.stdout is not None
        while "well under way" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=RUN_S)
        until_run(crowd.gone)
        sign.touch()
        code, out = run(far, *job)
        assert code == 0 and out.count("done") == 2, out
    finally:
        crowd.end()
