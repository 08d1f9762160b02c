"""All-reduce between machines: packets that get lost, and a machine that is cut off."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.kvstore.wire.keys import new_keys
from tests.netlab import Lab, Link, why_not
from tests.patience import RUN_S

NO_LAB = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB)]

HOSTS = ["scheduler", "alpha", "beta", "gamma"]
WORKERS = HOSTS[1:]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(HOSTS) as lab:
        yield lab


def start(lab: Lab, keys: Path, host: str, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shoal", *args]
    env = {**os.environ, "SHOAL_KEYS": str(keys)}
    return lab.popen(host, command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(lab: Lab, script: Path, source: str, lease_s: float) -> list["subprocess.Popen[str]"]:
    """A scheduler and three workers, each on a machine of its own; no servers."""
    script.write_text(source)
    options = ["-n", "3", "-s", "0", "--lease-s", str(lease_s)]
    keys = new_keys(str(script.parent / "keys"))
    scheduler = start(lab, keys, "scheduler", "scheduler", *options)
    workers = [start(lab, keys, h, "worker", "--scheduler", "scheduler:9091", str(script)) for h in WORKERS]
    return [scheduler, *workers]


def test_workers_on_three_machines_reduce_over_links_that_lose_packets(lab: Lab, tmp_path: Path) -> None:
    source = """
import numpy as np, shoal
kv = shoal.kv.create("dist", reduce="sum")
kv.init(["w", "b"], [np.zeros(300_000, np.float32), np.zeros(3, np.float32)])
for step in range(4):
    w, b = kv.pushpull(["w", "b"], [np.full(300_000, kv.rank + step, np.float32), np.ones(3, np.float32)])
    assert (w == 3 + 3 * step).all() and (b == 3).all()
print(kv.type, "right", flush=True)
"""
    lab.link_all(Link(delay_s=0.002, loss=0.01))
    _, *workers = run(lab, tmp_path / "s.py", source, lease_s=10)
    said = [w.communicate(timeout=RUN_S) for w in workers]
    assert [out for out, _ in said] == ["allreduce right\n"] * 3, said


def test_a_machine_that_is_cut_off_ends_the_run_by_its_lease(lab: Lab, tmp_path: Path) -> None:
    source = """
import numpy as np, shoal
kv = shoal.kv.create("allreduce")
kv.init("w", np.zeros(1000, np.float32))
print("ready", flush=True)
while True:
    kv.pushpull("w", np.ones(1000, np.float32))
"""
    _, *workers = run(lab, tmp_path / "s.py", source, lease_s=5)
    for w in workers:
        assert w.stdout is not None and w.stdout.readline() == "ready\n"
    lab.cut("beta")
    for w in (workers[0], workers[2]):
        _, err = w.communicate(timeout=RUN_S)
        assert w.returncode == 1 and "NodeLostError" not in err.splitlines()[-1]
        assert "the run has failed: worker" in err and "silent for" in err
