"""Where a codec pays: push and pull over links of 0.1, 1 and 10 Gbit/s. Needs root, and Linux's tc.

    python benchmarks/bench_links.py [--rates 0.1,1,10] [--codecs none,fp16,...] [--megabytes 16] [--rounds 5]

The server (with the scheduler) and the worker live in network namespaces of their own, joined by a virtual cable whose
rate the kernel limits in each direction (token bucket, tbf). They are a real cluster over TCP; the codecs are stores of
one run and take turns. A codec is PUSH/PULL, or PUSH alone. Three times are told: ``push_ms`` until the server has
counted it, ``pull_ms``, and ``pushpull_ms`` for both at once, which overlap on a full-duplex link: there a codec for
pushes alone gains nothing. ``pays`` names the codecs that beat ``none``. Prints a JSON object a rate; where it cannot
run, one that says why.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kv_control import Meeting, System, prefer, stop

__all__ = ["Cable", "pays", "why_not"]

HERE = Path(__file__).parent
CODECS = "none,fp16/fp16,bf16/bf16,int8/int8,2bit:threshold=0.5/bf16,topk:ratio=0.01/bf16,2bit:threshold=0.5"
SERVER_IP, WORKER_IP, PORT = "10.99.0.1", "10.99.0.2", 9091
WAYS = ("push", "pull", "pushpull")
TENSOR_BYTES = 1 << 20


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


class Cable:
    """Two hosts, ``server`` and ``worker``, and the cable between them."""

    def __init__(self) -> None:
        self.space = {host: f"kvlink-{os.getpid()}-{host}" for host in ("server", "worker")}

    def __enter__(self) -> "Cable":
        try:
            for space in self.space.values():
                _ip(f"netns add {space}")
            a, b = self.space["server"], self.space["worker"]
            _ip(f"link add eth0 netns {a} type veth peer name eth0 netns {b}")
            for space, address in ((a, SERVER_IP), (b, WORKER_IP)):
                _ip(f"-n {space} addr add {address}/24 dev eth0")
                _ip(f"-n {space} link set eth0 up")
                _ip(f"-n {space} link set lo up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hosts, and with them the cable."""
        for space in self.space.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def set_rate(self, gbit_s: float) -> None:
        """Limit both directions; 0 is as fast as it goes."""
        for space in self.space.values():
            tc = ["tc", "-n", space, "qdisc"]
            if not gbit_s:
                subprocess.run([*tc, "del", "dev", "eth0", "root"], capture_output=True)
                continue
            burst = max(64_000, int(gbit_s * 1e9 / 8 / 250))  # what may leave between two ticks of the kernel's clock
            limit = ["rate", f"{round(gbit_s * 1e6)}kbit", "burst", str(burst), "limit", str(4 * burst + 1_000_000)]
            subprocess.run([*tc, "replace", "dev", "eth0", "root", "tbf", *limit], check=True, capture_output=True)

    def inside(self, host: str, *arguments: str) -> list[str]:
        """The command that runs shoal with these arguments on a host."""
        return ["ip", "netns", "exec", self.space[host], sys.executable, "-m", "shoal", *arguments]


def why_not() -> str:
    """Why links cannot be emulated here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [c for c in ("ip", "tc") if shutil.which(c) is None]
    if missing:
        return f"there is no `{missing[0]}` command (Debian package iproute2)"
    try:
        with Cable() as cable:
            cable.set_rate(1.0)
    except subprocess.CalledProcessError as e:
        return f"`{' '.join(e.cmd)}` fails here: {str(e.stderr).strip()}"
    return ""


def pays(ms: Mapping[str, float]) -> list[str]:
    """The codecs that beat ``none``, fastest first.

    >>> pays({"none": 10.0, "fp16": 6.0, "2bit": 2.0, "topk": 11.0})
    ['2bit', 'fp16']
    """
    return sorted((c for c in ms if ms[c] < ms["none"]), key=lambda c: ms[c])


def start_cluster(cable: Cable, codecs: Sequence[str], log: Path) -> tuple[System, list[Any]]:
    """Scheduler and server on one host, the worker, which will take orders, on the other."""
    where = f"{SERVER_IP}:{PORT}"
    out = log.with_name("nodes.log").open("wb")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SHOAL_LOG": "warning", "SHOAL_INSECURE": "1"}
    scheduler = cable.inside("server", "scheduler", "-n", "1", "-s", "1", "--host", SERVER_IP, "--port", str(PORT))
    server = cable.inside("server", "server", "--scheduler", where, "--host", SERVER_IP)
    nodes = [
        subprocess.Popen(c, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out) for c in (scheduler, server)
    ]
    script = [str(HERE / "kv_codec_worker.py"), *codecs]
    begin = cable.inside("worker", "worker", "--scheduler", where, *script)
    worker = System("worker", begin, 1, log, env={"SHOAL_INSECURE": "1"})
    return worker, nodes


def one_rate(worker: System, cable: Cable, gbit_s: float, codecs: Sequence[str], rounds: int) -> dict[str, Any]:
    """All codecs take turns on a link of this rate."""
    cable.set_rate(gbit_s)
    ms: dict[str, list[float]] = {f"{c} {w}": [] for c in codecs for w in WAYS}
    for _ in range(rounds):
        for way, found in ms.items():
            found += worker.order(way=way, warm=0, run=1 if gbit_s and gbit_s < 1 else 3)[0]["ms"]
    medians = {way: statistics.median(found) for way, found in ms.items()}
    rows = {c: {f"{w}_ms": round(medians[f"{c} {w}"], 2) for w in WAYS} for c in codecs}
    compared = {w: {c: rows[c][f"{w}_ms"] for c in codecs} for w in ("push", "pushpull")}
    return {"gbit_s": gbit_s or "unlimited", "codecs": rows, **{f"pays_{w}": pays(t) for w, t in compared.items()}}


def measure(
    rates: Sequence[float], codecs: Sequence[str], shapes: list[list[int]], rounds: int, urgent: bool = False
) -> None:
    """Print a line a rate."""
    with Cable() as cable, tempfile.TemporaryDirectory(prefix="kvlinks") as folder:
        meeting = Meeting(Path(folder) / "orders")
        worker, nodes = start_cluster(cable, codecs, Path(folder) / "worker.log")
        try:
            failed = meeting.gather([worker], {"shapes": shapes, "sgd": True, "servers": 1, "workers": 1})
            if failed:
                raise SystemExit(f"the cluster did not start: {failed['worker']}")
            if urgent:
                prefer(n.pid for n in nodes)
                prefer([worker.process.pid] if worker.process else [])
            for rate in rates:
                row = one_rate(worker, cable, rate, codecs, rounds)
                print(json.dumps({"benchmark": "links", "MB": sum(s[0] for s in shapes) * 4 / 1e6, **row}), flush=True)
        finally:
            cable.set_rate(0)
            stop([worker])
            meeting.close()
            for node in nodes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    node.wait(5.0)
                node.kill()
                node.wait()


def main() -> None:
    """Measure and print, or say why not."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rates", default="0.1,1,10,0", help="Gbit/s; 0 is unlimited")
    p.add_argument("--codecs", default=CODECS)
    p.add_argument("--megabytes", type=int, default=16)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine")
    o = p.parse_args()
    reason = why_not()
    if reason:
        print(json.dumps({"benchmark": "links", "error": reason}))
        return
    codecs = list(dict.fromkeys(["none", *o.codecs.split(",")]))
    shapes = [[TENSOR_BYTES // 4]] * max(1, o.megabytes * 1_000_000 // TENSOR_BYTES)
    measure([float(r) for r in o.rates.split(",")], codecs, shapes, o.rounds, o.urgent)


if __name__ == "__main__":
    main()
