"""Shared memory between real processes: it is used, it can be switched off, a killed process leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shoal.kvstore.wire import shm
from tests.e2e.test_launcher import MARK, Crowd, _read
from tests.netlab import Lab, why_not
from tests.patience import RUN_S, until_run

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.skipif(bool(shm.supported()), reason="Linux only")]

SCRIPT = """
import json, os, sys
import numpy as np
import shoal

kv = shoal.kv.create("dist")
n = 600_000
w, g = np.zeros(n, np.float32), np.empty(n, np.float32)
kv.init("w", w)
for step in range(6):
    g[:] = step + kv.rank
    kv.pushpull("w", g, w)
    assert (w == step + (kv.num_workers - 1) / 2).all(), (step, w)
view = kv.view("w")
assert (view == w).all() and not view.flags.writeable
print("WORKER", json.dumps({"rank": kv.rank, **kv.ledger()}), flush=True)
kv.barrier()
if len(sys.argv) > 1:  # until it is killed
    print("PIDS", os.getpid(), os.getppid(), flush=True)
    import time
    time.sleep(3600)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, *options: str, env: dict[str, str] | None = None) -> list[dict[str, int]]:
    """The ledgers of the workers."""
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--no-progress", *options, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return [json.loads(line.split("WORKER ")[1]) for line in done.stdout.splitlines() if "WORKER " in line]


def test_two_workers_and_two_servers_on_one_host_share_memory_without_being_asked(script: Path) -> None:
    ledgers = run(script)
    assert len(ledgers) == 2
    for ledger in ledgers:
        moved = ledger["bytes_pushed"] + ledger["bytes_pulled"]
        assert 0.4 * moved < ledger["bytes_shared"] <= moved  # the first exchanges travel


@pytest.mark.parametrize(("options", "env"), [(("--no-shm",), {}), ((), {"SHOAL_SHM": "0"})])
def test_it_can_be_switched_off(script: Path, options: tuple[str, ...], env: dict[str, str]) -> None:
    assert [ledger["bytes_shared"] for ledger in run(script, *options, env=env)] == [0, 0]


AGAIN = """
import time
import numpy as np
import shoal

kv = shoal.kv.create("dist")
w, g = np.zeros(600_000, np.float32), np.zeros(600_000, np.float32)
kv.init("w", w)
deadline, restarted = time.monotonic() + 250, False
while time.monotonic() < deadline and not restarted:
    kv.pushpull("w", g, w)
    restarted = bool(kv.server_stats()[0]["restored"])
before = kv.ledger()
while time.monotonic() < deadline and kv.ledger()["bytes_shared"] < before["bytes_shared"] + 10 * w.nbytes:
    kv.pushpull("w", g, w)
print("SHARED", restarted, kv.ledger()["bytes_shared"] - before["bytes_shared"] >= 10 * w.nbytes, flush=True)
"""


def test_a_server_that_is_restarted_shares_memory_again(tmp_path: Path) -> None:
    script, chaos = tmp_path / "script.py", tmp_path / "chaos.toml"
    script.write_text(AGAIN)
    chaos.write_text('[[chaos]]\nwhat = "kill"\nwho = "server 0"\nat_clock = 5\n')
    options = ["-n", "1", "-s", "1", "--snapshot-every", "1s", "--chaos", str(chaos), "--no-progress"]
    command = [sys.executable, "-m", "shoal", "run", *options, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert "SHARED True True" in done.stdout, done.stdout + done.stderr


def test_after_a_kill_no_memory_is_left(script: Path) -> None:
    crowd = Crowd()  # other runs of this machine have such memory, too

    def held() -> set[int]:
        return {pid for pid in crowd.pids() if "memfd:shoal-" in _read(pid, "maps")}

    def named() -> set[str]:
        return {name for name in os.listdir("/dev/shm") if "shoal" in name}

    before = named()
    options = ["-n", "1", "-s", "1", "--worker-grace-s", "0", "--no-progress"]  # a lost worker ends the run
    command = [sys.executable, "-m", "shoal", "run", *options, str(script), "wait"]
    env, pipes = {**os.environ, MARK: crowd.mark}, {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, env=env) as launcher:  # type: ignore[call-overload]
        assert launcher.stdout is not None
        pids = next(m for line in launcher.stdout if (m := re.search(r"PIDS (\d+) (\d+)", line)))
        assert int(pids[1]) in held()
        os.kill(int(pids[1]), signal.SIGKILL)
        launcher.wait(RUN_S)
    left = named() - before

    def clean() -> bool:
        left.intersection_update(named())  # what others have made goes again
        return not left and not held()

    until_run(clean, lambda: (held(), left))


NOBODY = """
import importlib, os, pkgutil, sys
import shoal.cli
for package in ("shoal.kvstore", "shoal.ops", "shoal.scheduler", "shoal.worker"):  # nobody may be unable to read them
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(found.name)
import shoal.roles
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(shoal.cli.main(sys.argv[1:]))
"""
"""Whoever runs this becomes user 65534, with the modules that it needs: they may lie where only root may look."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_a_worker_of_another_user_uses_sockets() -> None:
    me = [sys.executable, "-m", "shoal"]
    read, write = os.pipe()
    scheduler = subprocess.Popen(
        [*me, "scheduler", "-n", "1", "-s", "1", "--host", "127.0.0.1", "--port", "0", "--ready-fd", str(write)],
        pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as ready:
        address = f"127.0.0.1:{int(ready.readline())}"
    server = subprocess.Popen([*me, "server", "--scheduler", address], stderr=subprocess.PIPE, text=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir="/tmp") as script:
        script.write(SCRIPT)
        script.flush()
        os.chmod(script.name, 0o644)
        command = [sys.executable, "-c", NOBODY, "worker", "--scheduler", address, script.name]
        worker = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, cwd="/tmp")
    assert worker.returncode == 0, worker.stderr
    _, said = server.communicate(timeout=RUN_S)
    scheduler.wait(RUN_S)
    ledger = json.loads(re.findall(r"WORKER (.*)", worker.stdout)[0])
    assert ledger["bytes_shared"] == 0 and ledger["bytes_pulled"] > 0
    assert "Traceback" not in said


@pytest.mark.netns
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")
def test_processes_in_separate_network_namespaces_use_sockets(script: Path) -> None:
    """As containers do that have networks of their own."""
    me = [sys.executable, "-m", "shoal"]
    with Lab(["scheduler", "server", "worker"]) as lab:
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        lab.popen("scheduler", [*me, "scheduler", "-n", "1", "-s", "1", "--port", "9091", "--insecure"], **out)
        lab.popen("server", [*me, "server", "--scheduler", "scheduler:9091", "--insecure"], **out)
        worker = lab.popen("worker", [*me, "worker", "--scheduler", "scheduler:9091", "--insecure", str(script)], **out)
        said, _ = worker.communicate(timeout=RUN_S)
    ledger = json.loads(re.findall(r"WORKER (.*)", said)[0])
    assert ledger["bytes_shared"] == 0 and ledger["bytes_pulled"] > 0
