"""Whole runs on machines that come and go, with a Ray that is none: the processes are real."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.lab.report import final_report
from shoal.scheduler.job import JobConfig, Outcome
from shoal.scheduler.ray.machines import RayMachines, RayOptions
from shoal.scheduler.ray.notices import Notice
from shoal.scheduler.run import carry_out
from tests.patience import RUN_S, until_run

from .fake import FakeRay

pytestmark = pytest.mark.net

TRAIN = str(Path(__file__).parents[2] / "e2e" / "ray_train_script.py")


class Running:
    """A run on a thread of its own."""

    def __init__(self, ray: FakeRay, folder: Path, steps: int, pause_s: float, **job: Any) -> None:
        self.folder, self.enough, self.lines = folder, folder / "enough", []
        args = (str(steps), str(pause_s), str(self.enough), str(folder))
        script = job.pop("script", TRAIN)
        env = {"OMP_NUM_THREADS": "1"}
        config = JobConfig(script, args, lease_s=10.0, env=env, verbose=True, **job)
        options = RayOptions(cwd=str(folder), **OPTIONS)
        self.machines = RayMachines(config, options, ray, self._line)
        self.outcome: Outcome | None = None
        self.seen: Any = None
        self.thread = threading.Thread(target=self._run, args=(config,))
        self.thread.start()

    def _line(self, source: str, stream: str, line: str) -> None:
        self.lines.append(f"[{source}] {line}")

    def _look(self, snapshot: Any) -> None:
        self.seen = snapshot

    def _run(self, config: JobConfig) -> None:
        try:
            self.outcome = carry_out(config, self.machines, self._line, self._look)
        except ConfigError as e:
            self.lines.append(str(e))

    def states(self) -> dict[str, str]:
        return {f"{n.role} {n.rank}": n.state for n in self.seen.nodes} if self.seen is not None else {}

    def workers(self, state: str = "running") -> list[str]:
        return [name for name, s in self.states().items() if name.startswith("worker") and s == state]

    def steps(self, rank: int) -> int:
        path = self.folder / f"worker{rank}"
        return int(path.read_text() or 0) if path.exists() else 0

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def end(self) -> dict[str, Any]:
        self.thread.join(RUN_S)
        assert self.outcome is not None, "\n".join(self.lines)
        assert (self.outcome.code, self.outcome.text) == (0, ""), "\n".join(self.lines)
        assert self.outcome.snapshot is not None
        return final_report(self.outcome.snapshot, seed=0)


OPTIONS: dict[str, Any] = {"insecure": True}


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    made = FakeRay(a={"CPU": 2.0}, b={"CPU": 2.0})
    yield made
    made.close()


def test_workers_come_with_machines_and_leave_before_them(ray: FakeRay, tmp_path: Path) -> None:
    run = Running(ray, tmp_path, 0, 0.02, workers=1, workers_most=5, servers=1, mode="sync")
    until_run(lambda: len(run.workers()) == 3)
    ray.add("c", CPU=2.0)
    until_run(lambda: len(run.workers()) == 5)
    ray.drain("c", Notice(60.0, "the cloud wants it back"))
    until_run(lambda: len(run.workers("left")) == 2)
    until_run(lambda: ray.on("c") == 0)
    before = run.steps(0)
    until_run(lambda: run.steps(0) > before + 3)
    run.enough.touch()
    report = run.end()
    assert report["ledger"]["balanced"] and report["ledger"]["lost"] == 0
    assert run.said("(the cloud wants it back): worker")


def test_a_machine_that_dies_takes_nothing_along(ray: FakeRay, tmp_path: Path) -> None:
    run = Running(ray, tmp_path, 50, 0.05, workers=2, servers=1, replicas=1, mode="sync", worker_grace_s=30.0)
    until_run(lambda: min(run.steps(0), run.steps(1)) > 5)
    ray.kill("a" if run.machines.slots["server 0"].node == "a" else "b")
    ray.add("c", CPU=2.0)
    report = run.end()
    assert report["ledger"]["balanced"] and report["ledger"]["lost"] == 0
    assert run.said("its replica takes its place") and run.said("is server 0 now")
    assert [w["state"] for w in report["per_worker"]] == ["done", "done"]


def test_what_there_is_no_room_for_is_said(tmp_path: Path) -> None:
    ray = FakeRay(a={"CPU": 2.0})
    run = Running(ray, tmp_path, 1, 0.0, workers=3, servers=1, gather_timeout_s=1.0)
    run.thread.join(RUN_S)
    ray.close()
    told = "the Ray cluster has no room for worker 1, worker 2: all of it is taken"
    assert run.said(told), "\n".join(run.lines)
    assert not ray.actors


def test_a_script_that_fails_ends_the_run_with_its_code(ray: FakeRay, tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text("import shoal, sys\nprint('about to fail')\nsys.exit(7 if shoal.rank() == 1 else 0)\n")
    run = Running(ray, tmp_path, 0, 0.0, script=str(script), workers=2, servers=1)
    run.thread.join(RUN_S)
    assert run.outcome is not None and run.outcome.code == 7
    assert run.outcome.text.startswith("the run has failed: worker 1 (host ")
    assert run.said("[worker 1] about to fail")
    assert not ray.actors
