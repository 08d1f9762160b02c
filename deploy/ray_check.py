"""Runs shoal as jobs of a real Ray cluster: one of this machine's own, for as long as it takes. `make ray-check`.

What is run is what docs/ray.md says: `ray job submit`, Ray's client port from outside, a program and a notebook. Prints
a table, and exits with 1 if anything is not as it should be. Needs ``ray[default,client]``, nbconvert and ipykernel.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from checklist import carry_out

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

PROGRAM = """
from shoal.scheduler.ray import Cluster, RayOptions
lines = []
cluster = Cluster(options=RayOptions(worker={"CPU": 1}))
outcome = cluster.run("train.py", "--epochs", "1", workers=2, servers=1, on_line=lambda *line: lines.append(line))
found = any("epoch 1: accuracy" in line[2] for line in lines)
print("outcome", outcome.code, outcome.text or outcome.snapshot.phase, found, flush=True)
"""

FAILS = "import sys\nprint('no more fish', flush=True)\nsys.exit(7)\n"
WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(300)\n"
TRAIN = "-n 2 -s 1 --no-progress train.py --epochs 1"


def free_ports(first: int, last: int, count: int) -> list[int]:
    """Of so many, none of which Ray takes for its workers (10002 to 19999)."""
    found: list[int] = []
    for port in range(first, last):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                found.append(port)
        if len(found) == count:
            return found
    raise OSError("no ports are free")


class Check:
    """A cluster of one machine, and a project that is trained on it."""

    def __init__(self, folder: Path) -> None:
        head, board, client, agent = free_ports(26000, 27000, 4)
        self.env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        self.env |= {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.env |= {"RAY_raylet_start_wait_time_s": "60", "RAY_agent_register_timeout_ms": "300000"}
        self.env |= {"TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        self.jobs, self.client, self.project = f"http://127.0.0.1:{board}", f"ray://127.0.0.1:{client}", folder / "job"
        self.tmp, self.said = folder / "tmp", folder / "said.txt"
        self.call([sys.executable, "-m", "shoal", "init", str(self.project), "--name", "digits"], ROOT)
        for name, text in (("fail.py", FAILS), ("wait.py", WAITS), ("program.py", PROGRAM)):
            (self.project / name).write_text(text)
        cell = {"cell_type": "code", "metadata": {}, "source": PROGRAM, "outputs": [], "execution_count": None}
        book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        (self.project / "book.ipynb").write_text(json.dumps(book))
        start = ["ray", "start", "--block", "--head", f"--port={head}", "--dashboard-host=127.0.0.1"]
        start += [f"--dashboard-port={board}", f"--ray-client-server-port={client}", f"--temp-dir={folder}/r"]
        start += ["--num-cpus=4", "--object-store-memory=100000000", f"--dashboard-agent-listen-port={agent}"]
        self.address = f"127.0.0.1:{head}"
        with self.said.open("w") as said:
            self.head = subprocess.Popen(start, env=self.env, stdout=said, stderr=said)
        nothing = ["ray", "job", "submit", "--address", self.jobs, "--", "true"]  # refused until an agent has come
        self.wait_for(lambda: not self.call(nothing, check=False)[0], "Ray takes jobs")

    def call(self, command: list[str], cwd: Path | None = None, check: bool = True, **env: str) -> tuple[int, str]:
        """Exit code, and what was said."""
        got = subprocess.run(
            command,
            env={**self.env, **env},
            cwd=cwd or self.project,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert not check or not got.returncode, got.stdout
        return got.returncode, got.stdout

    def wait_for(self, true: Callable[[], bool], what: str, within_s: float = 180.0) -> None:
        """Until it is so."""
        deadline = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < deadline and self.head.poll() is None, f"never: {what}\n{self.said.read_text()}"
            time.sleep(0.2)

    def submitted(self, *command: str) -> tuple[int, str]:
        """What became of a job."""
        submit = ["ray", "job", "submit", "--address", self.jobs, "--working-dir", ".", "--"]
        return self.call([*submit, *command], check=False)

    def nothing_is_left(self) -> None:
        """No folder of a run, with its key, is there any more."""
        self.wait_for(lambda: not list(self.tmp.glob("shoal-*")), "the run's folders are removed", 30.0)

    # --- what is checked ----------------------------------------------------------------------------------------------

    def job(self) -> str:
        """A job that trains."""
        code, said = self.submitted("python", "-m", "shoal", "run", "--on", "ray", *TRAIN.split())
        assert code == 0 and "[worker 0] epoch 1: accuracy" in said, said
        self.nothing_is_left()
        return next(line for line in said.splitlines() if "accuracy" in line)

    def job_that_fails(self) -> str:
        """A job whose script fails."""
        code, said = self.submitted("python", "-m", "shoal", "run", "--on", "ray", "-n", "1", "fail.py")
        assert code == 1 and "no more fish" in said and "ended with exit code 7" in said, said
        self.nothing_is_left()
        return "exit code 1, and the reason"

    def job_that_is_stopped(self) -> str:
        """`ray job stop`."""
        submit = ["ray", "job", "submit", "--no-wait", "--submission-id", "stopped", "--address", self.jobs]
        run = ["python", "-m", "shoal", "run", "--on", "ray", "-n", "2", "--no-progress", "wait.py"]
        self.call([*submit, "--working-dir", ".", "--", *run])
        logs = ["ray", "job", "logs", "--address", self.jobs, "stopped"]
        self.wait_for(lambda: self.call(logs)[1].count("] ready") == 2, "both workers are ready")
        self.call(["ray", "job", "stop", "--address", self.jobs, "stopped"])
        self.nothing_is_left()
        assert "stopped by SIGTERM" in self.call(logs)[1]
        return "stopped by SIGTERM, nothing is left"

    def program_as_a_job(self) -> str:
        """`Cluster` in a program."""
        code, said = self.submitted("python", "program.py")
        assert code == 0 and "outcome 0 finished True" in said, said
        return "outcome 0"

    def client_port(self) -> str:
        """From outside of the cluster."""
        run = [sys.executable, "-m", "shoal", "run", "--on", self.client, "--working-dir", "."]
        said = self.call([*run, *TRAIN.split()])[1]
        assert "[worker 0] epoch 1: accuracy" in said, said
        return next(line for line in said.splitlines() if "accuracy" in line)

    def notebook(self) -> str:
        """`Cluster` in a notebook."""
        convert = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", "book.ipynb"]
        said = self.call(convert, RAY_ADDRESS=self.address)[1]
        assert "outcome 0 finished True" in said, said
        return "outcome 0"

    def close(self) -> None:
        """End the cluster: its first process ends the others."""
        self.head.terminate()
        try:
            self.head.wait(60)
        except subprocess.TimeoutExpired:
            self.head.kill()
            self.head.wait()


def main() -> int:
    """All of it; the exit code."""
    missing = [name for name in ("ray", "jupyter") if shutil.which(name, path=str(BIN)) is None]
    if missing:
        print(f"ray-check needs {', '.join(missing)} beside {sys.executable}: make ray-check installs it")
        return 2
    place = Path(tempfile.mkdtemp(prefix="rc-"))
    check = Check(place)
    todo: list[Callable[[], str]] = [check.job, check.job_that_fails, check.job_that_is_stopped]
    todo += [check.program_as_a_job, check.client_port, check.notebook]
    try:
        return carry_out(todo, sys.argv[1:])
    finally:
        check.close()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
