"""A Ray cluster of several nodes on this machine, and what happens in it; `test_ray_run` starts it once.

Runs in a process of its own, which ends every process of Ray that it has started. Prints a line of JSON for each
scenario. Argument: a directory for what is written meanwhile.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "45",
    "OMP_NUM_THREADS": "1",
}

import ray
from ray.cluster_utils import Cluster

from shoal.lab.report import final_report
from shoal.scheduler.job import JobConfig
from shoal.scheduler.ray import RayLauncher, RayOptions
from shoal.scheduler.ray.calls import RayCalls
from shoal.scheduler.ray.machines import RayMachines
from shoal.scheduler.run import carry_out

HERE = Path(__file__).parent
SCRIPT = str(HERE / "ray_train_script.py")
STORE_BYTES = 80 << 20
STARTS = 3
KEEP = {"CPU": 1.0, "keep": 1.0}


SCENES: "list[Scene]" = []


class Scene:
    """One run on the cluster, and what is done to it meanwhile."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, steps: int, pause_s: float, **job: Any) -> None:
        self.cluster, self.folder, self.lines = cluster, folder / name, []
        self.folder.mkdir()
        self.enough = self.folder / "enough"
        args = (str(steps), str(pause_s), str(self.enough), str(self.folder))
        self.job = JobConfig(SCRIPT, args, lease_s=3.0, verbose=True, gather_timeout_s=120.0, **job)
        self.options = RayOptions(server=KEEP, clouds=(), cwd=str(self.folder))
        self.machines = RayMachines(self.job, self.options, RayCalls(ray), self._line)
        self.outcome: Any = None
        self.stop: list[Callable[[int], None]] = []
        self.seen: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        SCENES.append(self)

    def _line(self, source: str, stream: str, line: str) -> None:
        self.lines.append(f"{time.monotonic():.1f} [{source}] {line}")

    def _look(self, snapshot: Any) -> None:
        self.seen = snapshot

    def _run(self) -> None:
        try:
            self.outcome = carry_out(self.job, self.machines, self._line, self._look, stop=self.stop)
        except BaseException:
            self.lines.append(traceback.format_exc())

    def until(self, what: str, true: Callable[[], bool], within_s: float = 120.0) -> None:
        deadline = time.monotonic() + within_s
        while not true():
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise AssertionError(f"never: {what}")
            time.sleep(0.05)

    def steps(self, worker: int) -> int:
        """How far this worker is."""
        try:
            return int((self.folder / f"worker{worker}").read_text() or 0)
        except OSError:
            return 0

    def node(self, slot: str) -> str:
        return self.machines.slots[slot].node

    def workers(self, state: str = "running") -> list[int]:
        nodes = self.seen.nodes if self.seen is not None else ()
        return [n.rank for n in nodes if n.role == "worker" and n.state == state]

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def kill(self) -> None:
        """Stop it, whatever it does."""
        for stop in self.stop * 2:
            stop(15)
        self._thread.join(30.0)

    def end(self) -> dict[str, Any]:
        """How it ended, once it has."""
        self._thread.join(90.0)
        if self._thread.is_alive():
            self.kill()
            raise AssertionError("it did not end")
        report = final_report(self.outcome.snapshot, seed=0) if self.outcome and self.outcome.snapshot else {}
        return {
            "code": getattr(self.outcome, "code", None),
            "text": getattr(self.outcome, "text", ""),
            "report": report,
        }


class Nodes:
    """Of the cluster, by name."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.known: dict[str, Any] = {}
        self.named: dict[str, str] = {}

    def add(self, name: str, cpus: int, gpus: int = 0, **resources: float) -> str:
        for attempt in range(STARTS):
            try:
                node = self._add(cpus, gpus, resources)
                break
            except Exception:  # Ray's own processes have a few seconds each, which on a busy machine is too little
                if attempt == STARTS - 1:
                    raise
        self.known[node.node_id] = node
        self.named[name] = str(node.node_id)
        return self.named[name]

    def _add(self, cpus: int, gpus: int, resources: dict[str, float]) -> Any:
        """A node that says it has GPUs; there need not be any for Ray to hand them out."""
        return self.cluster.add_node(num_cpus=cpus, num_gpus=gpus, resources=resources, object_store_memory=STORE_BYTES)

    def kill(self, node_id: str) -> None:
        self.cluster.remove_node(self.known.pop(node_id), allow_graceful=False)

    def drain(self, node_id: str, within_s: float) -> None:
        """As a cloud that takes a spot machine back has it said to Ray."""
        from ray._raylet import GcsClient

        deadline_ms = int((time.time() + within_s) * 1000)
        accepted, why = GcsClient(address=self.cluster.address).drain_node(node_id, 2, "spot", deadline_ms)
        assert accepted, why


def same_bits(nodes: Nodes, folder: Path) -> dict[str, Any]:
    """A synchronous run that nothing happens to, whose workers ask for GPUs; an actor watches over it."""
    lines: list[tuple[str, str, str]] = []
    looks: list[str] = []
    launcher = RayLauncher(on_line=lambda *line: lines.append(line), on_snapshot=lambda s: looks.append(s.phase))
    args = ("60", "0", str(folder / "enough"), str(folder))
    job = JobConfig(SCRIPT, args, workers=2, servers=2, mode="sync")
    options = RayOptions(worker={"CPU": 1.0, "GPU": 1.0}, server=KEEP, clouds=(), cwd=str(folder))
    outcome = launcher.from_afar(ray, job, options)
    gpus = sorted(text.split()[1] for _, _, text in lines if text.startswith("gpus "))
    report = final_report(outcome.snapshot, seed=0) if outcome.snapshot is not None else {}
    told = {"gpus": gpus, "looks": looks[-1:], "lines": [str(line) for line in lines]}
    return {"code": outcome.code, "text": outcome.text, "report": report, **told}


def lost_server(nodes: Nodes, folder: Path) -> dict[str, Any]:
    """The machine of a server dies, with whatever else is there; its replica has everything."""
    job = {"workers": 2, "servers": 1, "replicas": 1, "mode": "sync", "worker_grace_s": 60.0}
    scene = Scene(nodes.cluster, folder, "server", 60, 0.1, **job)
    scene.until("training", lambda: min(scene.steps(0), scene.steps(1)) > 5)
    nodes.kill(scene.node("server 0"))
    nodes.add("spare", 2, keep=2)
    return scene.end() | {"succeeded": scene.said("is server 0 now"), "lines": scene.lines}


def come_and_go(nodes: Nodes, folder: Path) -> dict[str, Any]:
    """A machine of workers dies, another one comes, and is drained."""
    away = nodes.named["away"]
    job = {"workers": 1, "workers_most": 4, "servers": 1, "mode": "sync", "worker_grace_s": 1.0}
    scene = Scene(nodes.cluster, folder, "elastic", 0, 0.02, **job)
    scene.until("all that there is room for", lambda: len(scene.workers()) >= 3)
    there = [name for name, s in scene.machines.slots.items() if s.node == away]
    nodes.kill(away)
    scene.until(
        "they are given up, or have a place elsewhere", lambda: scene.said("given up") or scene.said("takes the")
    )
    before = scene.steps(0)
    new = nodes.add("new", 2)
    scene.until("workers on the new machine", lambda: _at(scene, new) > 0)
    scene.until("that train", lambda: all(r in scene.workers() for r in _ranks(scene, new)))
    scene.until("the others go on", lambda: scene.steps(0) > before)
    nodes.drain(new, 60.0)
    scene.until("they leave", lambda: bool(scene.workers("left")))
    scene.until("nobody is there", lambda: _at(scene, new) == 0)
    after = scene.steps(0)
    scene.until("the others go on", lambda: scene.steps(0) > after + 5)
    scene.enough.touch()
    return scene.end() | {"there": there, "lines": scene.lines}


def _ranks(scene: Scene, node: str) -> list[int]:
    here = [s for s in list(scene.machines.slots.values()) if s.node == node and s.reachable and s.process is not None]
    return [int(s.name.split()[1]) for s in here if s.process is not None and s.process.poll() is None]


def _at(scene: Scene, node: str) -> int:
    return len(_ranks(scene, node))


def main(folder: Path) -> None:
    began = time.monotonic()
    nodes = Nodes()
    try:
        for name in "ab":
            nodes.add(name, 2, keep=2)
        nodes.add("away", 2, gpus=2)
        ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="warning")
        print(json.dumps({"name": "start", "seconds": time.monotonic() - began}), flush=True)
        for scenario in (same_bits, come_and_go, lost_server):
            if len(sys.argv) > 2 and scenario.__name__ not in sys.argv[2:]:
                continue
            began = time.monotonic()
            try:
                result = scenario(nodes, folder)
            except Exception as e:
                SCENES[-1].kill()
                result = {"error": f"{type(e).__name__}: {e}", "lines": SCENES[-1].lines if SCENES else []}
            print(json.dumps({"name": scenario.__name__, "seconds": time.monotonic() - began, **result}), flush=True)
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
