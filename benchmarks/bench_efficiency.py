"""How well workers add up: steps a second of 1 to 4 workers over links of a stated rate. Needs root, and Linux's tc.

    python benchmarks/bench_efficiency.py [--workers 1,2,3,4] [--servers 1,2,4] [--rates 0.1,0.25] [--modes sync,async]

Each worker and each server is a process in a network namespace of its own, whose one link, to a switch, the kernel
limits in each direction (token bucket, tbf). **Computing is a timer**: a worker sleeps for ``--compute-s``, then
pushes and pulls ``--megabytes`` MiB. That is the model of a GPU that computes while the processor is idle; it keeps
the cores of this machine from being what is measured, and ``cpu_share`` says how busy they were. Nothing overlaps:
all bytes move after computing.

``efficiency`` is ``compute_s`` by the time of a step: what a worker that needs nobody would do is 1. Prints a JSON
object a configuration; ``--out`` also writes them as one list.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bench_links import why_not
from kv_control import Meeting, System, cpu_seconds, descendants, prefer, stop

__all__ = ["Star", "burst_of", "row_of"]

HERE = Path(__file__).parent
TENSOR = 1 << 18
"""Elements of a tensor: 1 MiB of float32, one slice."""

NET, PORT = "10.99.1", 9091


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


def burst_of(gbit_s: float) -> float:
    """Seconds of its rate that a link's token bucket holds: what may leave between two ticks of the kernel's clock.

    >>> burst_of(1.0), burst_of(0.032), burst_of(0.0)
    (0.004, 0.008, 0.0)
    """
    return max(1 / 250, 32_000 / (gbit_s * 1e9 / 8)) if gbit_s else 0.0


class Star:
    """Hosts around a switch: ``hub``, where the scheduler lives unlimited, and one for each of ``names``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.address = {"hub": f"{NET}.254", **{n: f"{NET}.{i}" for i, n in enumerate(names, 1)}}
        self._tag = f"kve{os.getpid()}"

    def space(self, host: str) -> str:
        """The network namespace that is ``host``."""
        return f"{self._tag}-{host}"

    def __enter__(self) -> "Star":
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def _build(self) -> None:
        hub = self.space("hub")
        _ip(f"netns add {hub}")
        _ip(f"-n {hub} link add br0 type bridge")
        for i, name in enumerate(self.names, 1):
            space = self.space(name)
            _ip(f"netns add {space}")
            _ip(f"link add p{i} netns {hub} type veth peer name eth0 netns {space}")
            _ip(f"-n {hub} link set p{i} master br0 up")
            _ip(f"-n {space} addr add {self.address[name]}/24 dev eth0")
            _ip(f"-n {space} link set eth0 up")
            _ip(f"-n {space} link set lo up")
        _ip(f"-n {hub} addr add {self.address['hub']}/24 dev br0")
        _ip(f"-n {hub} link set br0 up")
        _ip(f"-n {hub} link set lo up")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hosts, and with them their links."""
        for host in (*self.names, "hub"):
            subprocess.run(["ip", "netns", "del", self.space(host)], capture_output=True)

    def set_rate(self, gbit_s: float) -> None:
        """Limit both directions of every link; 0 is as fast as it goes."""
        ends = [(self.space("hub"), f"p{i}") for i in range(1, len(self.names) + 1)]
        for space, device in [*ends, *((self.space(n), "eth0") for n in self.names)]:
            tc = ["tc", "-n", space, "qdisc"]
            if not gbit_s:
                subprocess.run([*tc, "del", "dev", device, "root"], capture_output=True)
                continue
            burst = round(burst_of(gbit_s) * gbit_s * 1e9 / 8)
            limit = ["rate", f"{round(gbit_s * 1e6)}kbit", "burst", str(burst), "limit", str(4 * burst + 1_000_000)]
            subprocess.run([*tc, "replace", "dev", device, "root", "tbf", *limit], check=True, capture_output=True)

    def inside(self, host: str, *arguments: str) -> list[str]:
        """The command that runs shoal with these arguments on a host."""
        return ["ip", "netns", "exec", self.space(host), sys.executable, "-m", "shoal", *arguments]


class Cluster:
    """A scheduler, servers and workers around a star; the workers obey orders, all at once."""

    def __init__(self, star: Star, workers: int, servers: int, modes: Sequence[str], folder: Path) -> None:
        self.folder, self.nodes = folder, []
        self._env = {"OMP_NUM_THREADS": "1", "SHOAL_LOG": "warning", "SHOAL_INSECURE": "1", "SHOAL_SHM": "0"}
        hub, where = star.address["hub"], f"{star.address['hub']}:{PORT}"
        counts = ["-n", str(workers), "-s", str(servers)]
        self._node(star.inside("hub", "scheduler", *counts, "--host", hub, "--port", str(PORT)))
        for i in range(servers):
            home = ["--scheduler", where, "--host", star.address[f"s{i}"]]
            self._node(star.inside(f"s{i}", "server", *home))
        script = [str(HERE / "efficiency_worker.py"), *modes]
        self.workers = [
            System(
                f"w{i}", star.inside(f"w{i}", "worker", "--scheduler", where, *script), 1, folder / f"w{i}", self._env
            )
            for i in range(workers)
        ]

    def _node(self, command: list[str]) -> None:
        with (self.folder / "nodes.log").open("ab") as out:
            env = {**os.environ, **self._env}
            self.nodes.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    def order(self, **what: Any) -> list[list[float]]:
        """Milliseconds of each step of each worker."""
        for w in self.workers:
            w.lines[0].say(what)
        return [w.lines[0].hear(300.0, w)["ms"] for w in self.workers]

    def pids(self) -> list[int]:
        """Of all its processes."""
        roots = [n.pid for n in self.nodes] + [w.process.pid for w in self.workers if w.process]
        return [p for root in roots for p in descendants(root)]

    def end(self) -> None:
        """Leave no process behind."""
        stop(self.workers)
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(5.0)
            node.kill()
            node.wait()


@contextlib.contextmanager
def running(star: Star, workers: int, servers: int, task: dict[str, Any], modes: Sequence[str]) -> Iterator[Cluster]:
    """A cluster that has gathered."""
    with tempfile.TemporaryDirectory(prefix="kveff") as name:
        meeting = Meeting(Path(name) / "orders")
        cluster = Cluster(star, workers, servers, modes, Path(name))
        try:
            failed = meeting.gather(cluster.workers, task)
            if failed:
                raise SystemExit(f"the cluster did not start: {failed}\n{(Path(name) / 'nodes.log').read_text()}")
            yield cluster
        finally:
            cluster.end()
            meeting.close()


def row_of(turns: Sequence[Sequence[Sequence[float]]], compute_s: float) -> dict[str, float]:
    """Figures of turns of workers of steps, in milliseconds; a turn's step time is the mean over all of its steps.

    >>> row_of([[[200.0, 200.0], [220.0, 220.0]], [[250.0], [250.0]], [[210.0], [230.0]]], 0.11)
    {'step_s': 0.22, 'spread': 0.182, 'efficiency': 0.5, 'steps_per_s': 9.091}
    """
    means = [statistics.fmean(ms for worker in turn for ms in worker) / 1e3 for turn in turns]
    step_s, workers = statistics.median(means), len(turns[0])
    return {
        "step_s": round(step_s, 5),
        "spread": round((max(means) - min(means)) / step_s, 3),
        "efficiency": round(compute_s / step_s, 4),
        "steps_per_s": round(workers / step_s, 3),
    }


def _cpu(pids: Sequence[int]) -> float:
    return sum(map(cpu_seconds, pids))


def measure_cluster(o: argparse.Namespace, star: Star, workers: int, servers: int) -> Iterator[dict[str, Any]]:
    """A row for each rate and mode; the turns of the modes alternate."""
    tensors, modes = int(o.megabytes), o.modes.split(",")
    task = {"shapes": [[TENSOR]] * tensors, "compute_s": o.compute_s}
    with running(star, workers, servers, task, modes) as cluster:
        pids = cluster.pids()
        if o.urgent:
            prefer(pids)
        for rate in map(float, o.rates.split(",")):
            star.set_rate(rate)
            turns: dict[str, list[list[list[float]]]] = {m: [] for m in modes}
            cpu, wall = _cpu(pids), time.monotonic()
            for m in modes * o.rounds:
                turns[m].append(cluster.order(way=m, warm=1, run=o.steps))
            busy = (_cpu(pids) - cpu) / (time.monotonic() - wall) / (os.cpu_count() or 1)
            star.set_rate(0)
            about = {"workers": workers, "servers": servers, "gbit_s": rate, "tensors": tensors}
            about |= {"burst_s": burst_of(rate)}
            about |= {"model_bytes": tensors * TENSOR * 4, "compute_s": o.compute_s, "steps": o.steps}
            about |= {"cpu_share": round(busy, 3)}
            for m in modes:
                yield {"benchmark": "efficiency", "mode": m, **about, **row_of(turns[m], o.compute_s)}


def main() -> None:
    """Measure and print, or say why not."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workers", default="1,2,3,4")
    p.add_argument("--servers", default="1,2,4")
    p.add_argument("--rates", default="0.1,0.25,0.5", help="Gbit/s; 0 is unlimited")
    p.add_argument("--modes", default="sync,ssp:2,async")
    p.add_argument("--compute-s", type=float, default=0.2, help="how long a worker sleeps instead of computing")
    p.add_argument("--megabytes", type=int, default=4, help="MiB of the model; each is a tensor")
    p.add_argument("--steps", type=int, default=5, help="of each worker in a turn, after one that is not counted")
    p.add_argument("--rounds", type=int, default=3, help="turns")
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine")
    p.add_argument("--out", default="", help="file for all rows, as JSON")
    o = p.parse_args()
    reason = why_not()
    if reason:
        print(json.dumps({"benchmark": "efficiency", "error": reason}))
        return
    rows = []
    for workers, servers in itertools.product(map(int, o.workers.split(",")), map(int, o.servers.split(","))):
        with Star([*(f"w{i}" for i in range(workers)), *(f"s{i}" for i in range(servers))]) as star:
            for row in measure_cluster(o, star, workers, servers):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if o.out:
        Path(o.out).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
