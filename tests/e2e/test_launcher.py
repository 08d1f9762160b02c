"""The local launcher and real processes: how runs end, who is named, and that nobody is left behind."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.scheduler.child import THREAD_VARIABLES
from shoal.scheduler.job import JobConfig, Outcome
from shoal.scheduler.local import LocalLauncher
from shoal.scheduler.run import ALONE
from tests.patience import RUN_S, until_run

pytestmark = pytest.mark.net

SLEEPER = "import time\nprint('ready', flush=True)\ntime.sleep(3600)\n"
MEETING = """
import time
from shoal import kv
store = kv.create("dist_sync")
print("ready", flush=True)
while True:
    store.barrier()
    time.sleep(0.02)
"""
AS_RANK = "import os, sys, time\nfrom shoal.worker import cluster\n"
MARK = "SHOAL_TEST_MARK"


class Crowd:
    """The processes that a test starts, known by a variable in their environment."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex

    def pids(self, *words: str) -> list[int]:
        """Live processes whose command line has all the words."""
        return [pid for pid in self._all() if all(w in _read(pid, "cmdline").split("\0") for w in words)]

    def _all(self) -> list[int]:
        numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        needle = f"{MARK}={self.mark}"
        return [pid for pid in numbers if needle in _read(pid, "environ").split("\0") and _alive(pid)]

    def gone(self) -> bool:
        """Whether none is left."""
        return not self._all()

    def end(self) -> None:
        for pid in self._all():
            os.kill(pid, signal.SIGKILL)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    return _read(pid, "stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    left = made._all()
    made.end()
    assert not left, f"processes were left behind: {left}"


class Run:
    """A job, what its processes printed, and how it ended."""

    def __init__(self, crowd: Crowd, script: Path, text: str, **options: object) -> None:
        script.write_text(text)
        self.lines: list[tuple[str, str, str]] = []
        self.job = JobConfig(str(script), env={MARK: crowd.mark}, **options)  # type: ignore[arg-type]
        self.on_ready: Callable[[], None] = lambda: None

    def go(self) -> Outcome:
        return LocalLauncher(self._line).launch(self.job)

    def _line(self, source: str, stream: str, text: str) -> None:
        self.lines.append((source, stream, text))
        if text == "ready" and sum(t == "ready" for _, _, t in self.lines) == self.job.workers:
            self.on_ready()

    def printed(self, stream: str = "stderr") -> str:
        return "\n".join(text for _, s, text in self.lines if s == stream)


def test_a_run_that_ends_well_relays_every_line_and_reports(crowd: Crowd, tmp_path: Path) -> None:
    text = "import sys\nprint('out', sys.argv[1:])\nprint('err', file=sys.stderr)\nprint('no newline', end='')\n"
    run = Run(crowd, tmp_path / "s.py", text, args=("--a", "1"))
    outcome = run.go()
    assert (outcome.code, outcome.text) == (0, "")
    for rank in (0, 1):
        assert (f"worker {rank}", "stdout", "out ['--a', '1']") in run.lines
        assert (f"worker {rank}", "stdout", "no newline") in run.lines
        assert (f"worker {rank}", "stderr", "err") in run.lines
    assert outcome.snapshot is not None
    assert outcome.snapshot.phase == "finished"
    assert [n.state for n in outcome.snapshot.nodes] == ["done"] * 3


@pytest.mark.parametrize("mode", ["dist_sync", "dist_async"])
def test_a_worker_that_ends_its_script_is_waited_for_at_no_barrier(crowd: Crowd, tmp_path: Path, mode: str) -> None:
    text = f"import numpy\nfrom shoal import kv\nstore = kv.create('{mode}')\nstore.init('a', numpy.zeros(3, 'f'))\n"
    run = Run(crowd, tmp_path / "s.py", text + "if store.rank == 0: store.barrier(); store.barrier(); print('after')\n")
    assert run.go().code == 0
    assert ("worker 0", "stdout", "after") in run.lines


@pytest.mark.parametrize("victim", ["worker", "server", "scheduler"])
def test_a_killed_process_is_named_and_ends_the_run(crowd: Crowd, tmp_path: Path, victim: str) -> None:
    run = Run(crowd, tmp_path / "s.py", SLEEPER, scheduler_grace_s=0.0, worker_grace_s=0.0)
    rank = [] if victim == "scheduler" else ["--rank", "0"]
    run.on_ready = lambda: os.kill(crowd.pids(victim, *rank)[0], signal.SIGKILL)
    outcome = run.go()
    name = victim if victim == "scheduler" else f"{victim} 0"
    assert outcome.code == 1
    advice = re.escape(ALONE) if victim == "server" else ""
    assert re.fullmatch(rf"the run has failed: {name} \(pid \d+\) was killed by SIGKILL{advice}", outcome.text)
    assert crowd.gone()


def test_a_worker_that_raises_prints_its_traceback_once_and_ends_the_job(crowd: Crowd, tmp_path: Path) -> None:
    text = AS_RANK + "if cluster.rank() == 1: raise ValueError('boom')\ntime.sleep(3600)"
    run = Run(crowd, tmp_path / "s.py", text)
    outcome = run.go()
    assert outcome.code == 1
    assert re.search(r"the run has failed: worker 1 \(host .*, pid \d+\): ValueError: boom", outcome.text)
    assert run.printed().count("Traceback") == 1


def test_a_workers_own_exit_code_is_the_runs(crowd: Crowd, tmp_path: Path) -> None:
    text = AS_RANK + "if cluster.rank() == 0: sys.exit(7)\ntime.sleep(3600)"
    outcome = Run(crowd, tmp_path / "s.py", text).go()
    assert outcome.code == 7
    assert "worker 0" in outcome.text


def test_a_worker_that_dies_without_a_word_is_blamed_with_its_exit_code(crowd: Crowd, tmp_path: Path) -> None:
    text = AS_RANK + "if cluster.rank() == 0: os._exit(9)\ntime.sleep(3600)"
    outcome = Run(crowd, tmp_path / "s.py", text).go()
    assert outcome.code == 9
    assert re.search(r"worker 0 \(pid \d+\) exited with code 9", outcome.text)


@pytest.mark.parametrize("victim", ["worker", "scheduler"])
def test_a_stopped_process_is_found_by_its_lease(crowd: Crowd, tmp_path: Path, victim: str) -> None:
    run = Run(crowd, tmp_path / "s.py", SLEEPER, lease_s=5.0, grace_s=0.5, scheduler_grace_s=0.0, worker_grace_s=0.0)
    run.on_ready = lambda: os.kill(crowd.pids(victim)[0], signal.SIGSTOP)
    outcome = run.go()
    assert outcome.code == 1
    assert re.search(rf"{victim}( \d)? \(.*pid \d+\).* silent for", outcome.text), outcome.text


def test_what_a_script_started_is_ended_too(crowd: Crowd, tmp_path: Path) -> None:
    text = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
    outcome = Run(crowd, tmp_path / "s.py", text, workers=1).go()
    assert outcome.code == 0
    until_run(crowd.gone)  # killed before the launcher returned; the kernel may still be at it


def test_cores_are_divided_among_the_workers_unless_the_user_has_decided(
    crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shoal.scheduler.local.usable_cores", lambda: 6)
    text = "import os\nprint(os.environ.get('OMP_NUM_THREADS'), os.environ.get('OPENBLAS_NUM_THREADS'))"
    run = Run(crowd, tmp_path / "s.py", text)
    run.go()
    assert run.printed("stdout").splitlines() == ["3 3", "3 3"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run = Run(crowd, tmp_path / "s.py", text)
    run.go()
    assert run.printed("stdout").splitlines() == ["5 None", "5 None"]


def test_a_port_that_is_taken_is_said_so_and_ends_the_run(crowd: Crowd, tmp_path: Path) -> None:
    from shoal.kvstore.wire.transport import Transport

    other = Transport("other")
    port = other.bind("127.0.0.1")
    run = Run(crowd, tmp_path / "s.py", SLEEPER, port=port)
    outcome = run.go()
    other.close()
    assert outcome.code == 2
    assert re.search(r"scheduler \(pid \d+\) exited with code 2", outcome.text)
    assert f"port {port} on 127.0.0.1 is already in use" in run.printed()


def test_impossible_jobs_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no script 'nowhere\.py'"):
        JobConfig("nowhere.py")
    script = tmp_path / "s.py"
    script.write_text("")
    with pytest.raises(ConfigError, match="at least 1 worker"):
        JobConfig(str(script), workers=0)
    with pytest.raises(ConfigError, match="unknown mode 'lazy'"):
        JobConfig(str(script), mode="lazy")


# --- the command as a process -----------------------------------------------------------------------------------------


def start(crowd: Crowd, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shoal", *args],
        env={**os.environ, MARK: crowd.mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launched(crowd: Crowd, script: Path) -> subprocess.Popen[str]:
    """`shoal run` whose workers have all begun."""
    script.write_text(SLEEPER)
    process = start(crowd, "run", "-n", "2", "-s", "1", "--no-progress", str(script))
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    assert "ready" in process.stdout.readline()
    return process


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_stops_everybody_and_sets_the_exit_code(
    crowd: Crowd, tmp_path: Path, number: int, code: int, word: str
) -> None:
    process = launched(crowd, tmp_path / "s.py")
    process.send_signal(number)
    _, err = process.communicate(timeout=RUN_S)
    assert process.returncode == code
    assert f"stopped by {word}" in err
    assert "Traceback" not in err
    assert crowd.gone()


def test_a_killed_launcher_takes_its_processes_with_it(crowd: Crowd, tmp_path: Path) -> None:
    process = launched(crowd, tmp_path / "s.py")
    process.kill()
    process.communicate(timeout=RUN_S)
    until_run(crowd.gone)


def test_what_a_killed_launcher_left_is_removed_by_the_next_run(
    crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    process = launched(crowd, tmp_path / "s.py")
    process.kill()
    process.communicate(timeout=RUN_S)
    until_run(crowd.gone)
    assert len(list(place.glob("shoal-run-*"))) == 1
    (tmp_path / "quick.py").write_text("print('done')\n")
    _, err = start(crowd, "run", "-n", "1", "--no-progress", str(tmp_path / "quick.py")).communicate(timeout=RUN_S)
    assert list(place.glob("shoal-*")) == [], err


# --- no launcher: the roles as somebody would start them by hand, or compose does -------------------------------------


@pytest.fixture
def by_hand(crowd: Crowd, tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A scheduler with a short lease, a server and two workers that meet again and again, all there."""
    script = tmp_path / "s.py"
    script.write_text(MEETING)
    options = ["--host", "127.0.0.1", "--workers", "2", "--servers", "1", "--lease-s", "5"]
    options += ["--worker-grace-s", "0"]
    scheduler = start(crowd, "scheduler", *options, "--port", "0")
    assert scheduler.stderr is not None
    found = re.search(r"127\.0\.0\.1:(\d+)", scheduler.stderr.readline())
    assert found is not None
    to = ["--scheduler", f"127.0.0.1:{found[1]}"]
    processes = {"scheduler": scheduler, "server": start(crowd, "server", *to)}
    processes |= {f"worker {i}": start(crowd, "worker", *to, str(script)) for i in (0, 1)}
    for i in (0, 1):
        pipe = processes[f"worker {i}"].stdout
        assert pipe is not None
        assert pipe.readline() == "ready\n"
    yield processes
    crowd.end()
    for process in processes.values():
        process.communicate()


@pytest.mark.parametrize(("victim", "name"), [("worker 0", r"worker \d"), ("server", "server 0")])
def test_without_a_launcher_a_killed_node_is_named_by_everybody_else(
    by_hand: dict[str, subprocess.Popen[str]], victim: str, name: str
) -> None:
    by_hand[victim].kill()
    for other, process in by_hand.items():
        _, err = process.communicate(timeout=RUN_S)
        if other != victim:
            assert process.returncode == 1, (other, err)
            pid = by_hand[victim].pid
            assert re.search(rf"{name} \(host \S+, pid {pid}\): silent for \d+\.\d s", err), (other, err)


def test_without_a_launcher_a_killed_scheduler_is_named_by_everybody_else(
    by_hand: dict[str, subprocess.Popen[str]],
) -> None:
    by_hand["scheduler"].kill()
    for other, process in by_hand.items():
        _, err = process.communicate(timeout=RUN_S)
        if other != "scheduler":
            assert process.returncode == 1, (other, err)
            assert re.search(r"the scheduler \(127\.0\.0\.1:\d+\): silent for \d+\.\d s", err), (other, err)


@pytest.mark.parametrize("role", ["scheduler", "server"])
def test_without_a_launcher_a_node_that_is_told_to_stop_says_so(
    by_hand: dict[str, subprocess.Popen[str]], role: str
) -> None:
    by_hand[role].terminate()
    for other, process in by_hand.items():
        _, err = process.communicate(timeout=RUN_S)
        assert process.returncode == (143 if other == role else 1), (other, err)
        assert other == "server" == role or "stopped by SIGTERM" in err, (other, err)
