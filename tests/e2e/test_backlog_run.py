"""What a worker keeps of its pushes while a server stands still: bounded, in real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal.kvstore.client.backlog import BACKLOG_BYTES
from shoal.kvstore.wire import shm
from tests.patience import RUN_S, until_run

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.skipif(bool(shm.supported()), reason="Linux only")]

PIECE_BYTES, PUSHES, BEFORE = 4 << 20, 192, 8  # 768 MB in all
SLACK_BYTES = 96 << 20
"""For what is under way, 8 MB to each server, and memory that is taken in regions of 64 MB, or mapped of the server."""

SCRIPT = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
import shoal

def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) << 10

def server():
    for task in Path(f"/proc/{{os.getppid()}}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if "server" in Path(f"/proc/{{pid}}/cmdline").read_text().split("\\0"):
                return pid

kv = shoal.kv.create("dist_async")
kv.init("w", np.zeros({PIECE_BYTES >> 2}, np.float32))
kv.set_optimizer(shoal.optim.create("sgd", learning_rate=1.0))
gradient = np.empty({PIECE_BYTES >> 2}, np.float32)
said = Path(sys.argv[1])
began = memory("VmRSS")
for i in range({PUSHES}):
    if i == {BEFORE}:
        kv.flush()
        os.kill(server(), signal.SIGSTOP)
    gradient[:] = i
    kv.push("w", gradient)
    said.write_text(f"{{os.getpid()}} {{server()}} {{i + 1}} ")
sums = kv.pull("w")
print("DONE", memory("VmHWM") - began, sums.min(), sums.max())
"""


class Progress:
    """What the worker has said last: its process, the server's, and how many pushes it has made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.worker = self.server = self.pushes = 0

    def read(self) -> "Progress":
        words = self.path.read_text().split() if self.path.exists() else []
        if len(words) == 3:
            self.worker, self.server, self.pushes = map(int, words)
        return self

    def asleep(self) -> bool:
        """Whether no thread of the worker runs, and the server is stopped."""
        threads = {_state(t / "stat") for t in Path(f"/proc/{self.worker}/task").iterdir()}
        return threads == {"S"} and _state(Path(f"/proc/{self.server}/stat")) == "T"


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("options", [[], ["--no-shm"]], ids=["shared memory", "sockets"])
def test_a_worker_keeps_no_more_than_the_bound_while_a_server_stands_still(tmp_path: Path, options: list[str]) -> None:
    script, said = tmp_path / "script.py", Progress(tmp_path / "said")
    script.write_text(SCRIPT)
    most = BACKLOG_BYTES // PIECE_BYTES
    command = [sys.executable, "-m", "shoal", "run", "-n", "1", "-s", "1", "--lease-s", "60", "--no-progress", *options]
    with subprocess.Popen([*command, str(script), str(said.path)], stdout=subprocess.PIPE, text=True) as run:
        try:
            until_run(lambda: said.read().pushes >= BEFORE + most)
            until_run(said.asleep)
            for _ in range(50):  # long enough for all the others, if they were not held up
                assert said.read().pushes == BEFORE + most
                time.sleep(0.01)
        finally:
            if said.read().server:
                os.kill(said.server, signal.SIGCONT)
        out, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 0
    found = re.search(r"DONE (\d+) (\S+) (\S+)", out)
    assert found is not None, out
    assert BACKLOG_BYTES // 2 < int(found[1]) < BACKLOG_BYTES + SLACK_BYTES
    assert float(found[2]) == float(found[3]) == -sum(range(PUSHES))
