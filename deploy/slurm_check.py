"""Runs shoal on a real Slurm: one of this machine's own, with two nodes, for as long as it takes. `make slurm-check`.

What is run is what docs/slurm.md and `shoal deploy render --target slurm` say. Prints a table, and exits with 1 if
anything is not as it should be. Nothing is left running. The nodes are one machine: its network is the loopback.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from checklist import carry_out
from private_slurm import MISSING, PrivateSlurm, until

ROOT = Path(__file__).parents[1]
MARK = "SHOAL_SLURM_CHECK"

TOML = """
[job]
name = "digits"
script = "train.py"
args = ["--epochs", "2"]
report = "report.json"
[cluster]
workers = 4
servers = 2
[targets.slurm]
nodes = 2
python = "{python}"
time = "00:10:00"
"""

STEADY = """
import time, shoal
from shoal import autograd, nn, np
net = nn.Dense(3)
net.initialize(shoal.init.Xavier())
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
data = shoal.data.DataLoader(shoal.data.ArrayDataset(np.ones((400, 2))), batch_size=2, shuffle=True)
for step, x in enumerate(data):
    time.sleep(0.03)
    if step == 5:
        print("under way", flush=True)
    with autograd.record():
        loss = (net(x) ** 2).mean()
    loss.backward()
    trainer.step(2)
print("done", flush=True)
"""

WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(300)\n"


class Check:
    """A project's folder, the Slurm that it is run on, and what was seen."""

    def __init__(self, slurm: PrivateSlurm, folder: Path) -> None:
        self.slurm, self.folder, self.mark = slurm, folder, uuid.uuid4().hex
        slurm.env |= {MARK: self.mark, "OMP_NUM_THREADS": "1"}
        slurm.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.shoal("init", str(folder), "--name", "digits")
        (folder / "shoal.toml").write_text(TOML.format(python=sys.executable))
        (folder / "steady.py").write_text(STEADY)
        (folder / "wait.py").write_text(WAITS)
        (folder / "fail.py").write_text("import sys\nprint('no more fish', flush=True)\nsys.exit(7)\n")
        self.shoal("deploy", "render", "--target", "slurm", "--output", ".", cwd=folder)

    def shoal(self, *args: str, cwd: Path | None = None) -> str:
        """A command of shoal, on this machine."""
        command = [sys.executable, "-m", "shoal", *args]
        return subprocess.run(
            command, env=self.slurm.env, cwd=cwd or ROOT, check=True, capture_output=True, text=True, timeout=300
        ).stdout

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(self, script: str) -> str:
        """The id of a job."""
        said = self.slurm.ask("sbatch", "--parsable", script, cwd=self.folder)
        assert said.returncode == 0, said.stderr
        return said.stdout.strip()

    def job(self, text: str, ntasks: int = 1) -> str:
        """The script of docs/slurm.md with another command."""
        lines = docs_script().splitlines()
        at = lines.index("#SBATCH --ntasks-per-node=4")
        lines[at] = f"#SBATCH --ntasks-per-node={ntasks}"
        lines[-1] = f"exec {sys.executable} -m shoal run --on slurm --no-progress {text}"
        (self.folder / "job.sh").write_text("\n".join(lines) + "\n")
        return self.submit("job.sh")

    def said(self, job: str) -> str:
        """By the job, until now."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def until_said(self, job: str, text: str, times: int) -> None:
        """Wait until it has been said so often."""
        what = f"{text!r} {times} times in the output of job {job}"
        until(lambda: self.said(job).count(text) >= times or self.state(job)[0] not in BEFORE, 240, what)
        assert self.said(job).count(text) >= times, self.said(job)

    def state(self, job: str) -> tuple[str, str]:
        """State and exit code, such as ("COMPLETED", "0:0")."""
        told = self.slurm.ask("scontrol", "--oneliner", "show", "job", job).stdout
        found = re.search(r"JobState=(\S+)", told), re.search(r" ExitCode=(\S+)", told)
        return (found[0][1] if found[0] else "?"), (found[1][1] if found[1] else "?")

    def end(self, job: str) -> tuple[str, str]:
        """How it ended."""
        until(lambda: self.state(job)[0] not in (*BEFORE, "COMPLETING"), 240, f"job {job} ends")
        return self.state(job)

    # --- processes ----------------------------------------------------------------------------------------------------

    def pids(self, *words: str) -> list[int]:
        """Processes of shoal that this check started, whose command line has all the words."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
                ours = f"{MARK}={self.mark}".encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours and "shoal" in line and all(w in line for w in words):
                found.append(int(name))
        return found

    def nobody_left(self) -> None:
        """Every process of the job has ended, soon."""
        until(lambda: not self.pids(), 60, "all processes of shoal have ended")

    def cancel_all(self) -> None:
        """Of a check that failed, no job goes on."""
        for job in self.slurm.jobs():
            self.slurm.ask("scancel", job)

    # --- what is checked ----------------------------------------------------------------------------------------------

    def rendered(self) -> str:
        """What `shoal deploy render` writes trains to the end, with the bits of the local launcher."""
        job = self.submit("slurm.sh")
        assert self.end(job) == ("COMPLETED", "0:0"), self.said(job)
        there = json.loads((self.folder / "report.json").read_text())
        self.shoal("run", "--no-progress", "--report", "here.json", cwd=self.folder)
        here = json.loads((self.folder / "here.json").read_text())
        assert there["weights_sha256"] == here["weights_sha256"], (there, here)
        assert "srun:" not in self.said(job), self.said(job)
        return f"accuracy {there['accuracy']:.4f}, weights {there['weights_sha256'][:12]}, the same here"

    def documented(self) -> str:
        """The script of docs/slurm.md, as it stands there, but for the Python."""
        text = docs_script().replace("python3", sys.executable)
        (self.folder / "docs.sh").write_text(text)
        job = self.submit("docs.sh")
        assert self.end(job) == ("COMPLETED", "0:0"), self.said(job)
        return "8 workers, 2 servers on 2 nodes"

    def fails(self) -> str:
        """A script that fails ends the job with its code."""
        job = self.job("-n 2 fail.py")
        assert self.end(job) == ("FAILED", "7:0"), (self.state(job), self.said(job))
        assert "the run has failed" in self.said(job)
        self.nobody_left()
        return "exit code 7"

    def worker_killed(self) -> str:
        """A worker that is killed is started again in another step."""
        job = self.job("-n 2 steady.py")
        self.until_said(job, "under way", 2)
        (victim,) = self.pids("worker", "--rank", "1")
        os.kill(victim, signal.SIGKILL)
        assert self.end(job) == ("COMPLETED", "0:0"), self.said(job)
        assert "was killed by SIGKILL; it is started again" in self.said(job), self.said(job)
        return "started again, the job completes"

    def step_cancelled(self) -> str:
        """A step that is taken away (scancel JOB.STEP) is one worker that leaves, or is started again."""
        job = self.job("-n 2 steady.py")
        self.until_said(job, "under way", 2)
        steps = self.slurm.ask("squeue", "-h", "-s", "-j", job, "-o", "%i").stdout.split()
        step = max((s for s in steps if s.split(".")[1].isdigit()), key=lambda s: int(s.split(".")[1]))
        self.slurm.ask("scancel", step)
        state = self.end(job)
        assert state == ("COMPLETED", "0:0"), (state, self.said(job))
        self.nobody_left()
        told = [line for line in self.said(job).splitlines() if line.startswith("[shoal run]")]
        return told[0].removeprefix("[shoal run] ") if told else "it leaves, the job completes"

    def cancelled(self) -> str:
        """scancel ends all of it."""
        job = self.job("-n 2 wait.py")
        self.until_said(job, "ready", 2)
        began = time.monotonic()
        self.slurm.ask("scancel", job)
        self.nobody_left()
        took = time.monotonic() - began
        assert self.end(job)[0] == "CANCELLED", self.said(job)
        return f"nobody is left after {took:.1f} s"

    def launcher_killed(self) -> str:
        """A launcher that is killed takes everybody with it."""
        job = self.job("-n 2 wait.py")
        self.until_said(job, "ready", 2)
        (launcher,) = self.pids("run")
        os.kill(launcher, signal.SIGKILL)
        self.nobody_left()
        state = self.end(job)
        assert state[0] == "FAILED", state
        return "nobody is left, the job has failed"

    def salloc(self) -> str:
        """In an allocation from the command line."""
        run = [sys.executable, "-m", "shoal", "run", "--on", "slurm", "--no-progress", "-n", "2", "fail.py"]
        said = self.slurm.ask("salloc", "-N2", "--ntasks-per-node=1", *run, cwd=self.folder, timeout_s=240)
        assert said.returncode == 7 and "no more fish" in said.stdout, said
        return "lines and exit code 7 come back"


BEFORE = ("PENDING", "CONFIGURING", "RUNNING")


def docs_script() -> str:
    """The script for sbatch of docs/slurm.md."""
    found = re.search(r"```text\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "slurm.md").read_text(), re.S)
    assert found, "docs/slurm.md has no script"
    return found[1]


def main() -> int:
    """All of it; the exit code."""
    missing = PrivateSlurm.missing()
    if missing:
        print(f"slurm-check needs Slurm's programs, and there is no {', '.join(missing)}: {MISSING}")
        return 2
    with tempfile.TemporaryDirectory(prefix="slurm-") as place, PrivateSlurm(_made(place, "slurm")) as slurm:
        print(slurm.ask("sinfo", "--version").stdout.strip(), flush=True)
        check = Check(slurm, _made(place, "digits"))
        todo: list[Callable[[], str]] = [check.rendered, check.documented, check.fails, check.worker_killed]
        todo += [check.step_cancelled, check.cancelled, check.launcher_killed, check.salloc]
        return carry_out(todo, sys.argv[1:], check.cancel_all)


def _made(place: str, name: str) -> Path:
    path = Path(place) / name
    path.mkdir()
    return path


if __name__ == "__main__":
    sys.exit(main())
