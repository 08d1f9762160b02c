"""Whole runs with a key: who has it trains, who has it not is told so by both sides."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.kvstore.wire.keys import new_keys
from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import numpy as np, shoal
kv = shoal.kv.create("dist", reduce="sum")
kv.init(["w", "b"], [np.zeros(200_000, np.float32), np.zeros(3, np.float32)])
for step in range(3):
    w, b = kv.pushpull(["w", "b"], [np.full(200_000, 1 + step, np.float32), np.ones(3, np.float32)])
    assert (w == 2 * (1 + step)).all() and (b == 2).all(), (w, b)
print("right", flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "s.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    return str(new_keys(str(tmp_path / "keys")).parent)


def shoal(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "shoal", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, env={**os.environ, **env})


@pytest.mark.parametrize("options", [(), ("--mode", "allreduce"), ("--no-shm",)], ids=["", "all-reduce", "no shm"])
def test_a_run_with_a_key_trains(script: str, keys: str, options: tuple[str, ...]) -> None:
    done = shoal("run", "--no-progress", *options, "--keys", keys, script)
    assert done.returncode == 0 and done.stdout.count("right") == 2, done.stdout + done.stderr


@contextmanager
def scheduler(*options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A scheduler that waits for a worker; its address."""
    read, write = os.pipe()
    command = [
        sys.executable,
        "-m",
        "shoal",
        "scheduler",
        "-n",
        "1",
        "-s",
        "1",
        "--port",
        "0",
        "--ready-fd",
        str(write),
    ]
    process = subprocess.Popen([*command, *options], pass_fds=(write,), stderr=subprocess.PIPE, text=True)
    os.close(write)
    try:
        with os.fdopen(read) as ready:
            yield f"127.0.0.1:{int(ready.readline())}", process
    finally:
        process.kill()
        process.communicate()


def test_who_has_not_the_key_is_turned_away_and_both_sides_say_so(script: str, keys: str, tmp_path: Path) -> None:
    other = str(new_keys(str(tmp_path / "other")).parent)
    with scheduler("--keys", keys) as (address, process):
        for given, why in (("", "it asks for the cluster's key (--keys)"), (other, "it asks for another key")):
            place = "--scheduler", address, "--keys", given
            worker = shoal("worker", *place, "--host", "127.0.0.1", "--join-timeout-s", "1", script)
            assert worker.returncode == 1
            assert f"the scheduler at {address} does not let this process in: {why}" in worker.stderr
        asked = shoal("control", "--scheduler", address)
        assert asked.returncode == 1 and "does not let this process in" in asked.stderr
        assert shoal("doctor", "--scheduler", address, "--keys", keys).returncode == 0
        process.terminate()
        _, said = process.communicate(timeout=RUN_S)
    assert "is not let in: it does not have this cluster's key" in said


def test_without_a_key_nobody_listens_where_other_machines_come(script: str) -> None:
    refused = shoal("scheduler", "-n", "1", "-s", "1", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "listening on 0.0.0.0 without a key would let in everybody" in refused.stderr
    assert "shoal keys new DIR" in refused.stderr and "--insecure" in refused.stderr


def test_a_scheduler_that_is_told_nothing_listens_as_far_as_is_safe(keys: str) -> None:
    for options, says in (((), "listening on 127.0.0.1"), (("--keys", keys), "listening on 0.0.0.0")):
        with scheduler(*options) as (_, process):
            process.terminate()
            assert says in process.communicate(timeout=RUN_S)[1]


def test_a_key_that_others_can_read_is_not_used(script: str, keys: str) -> None:
    os.chmod(keys, 0o755)
    os.chmod(f"{keys}/cluster.key", 0o644)
    refused = shoal("run", "--keys", keys, script)
    assert refused.returncode == 2 and f"chmod 600 {keys}/cluster.key" in refused.stderr
