"""What it gains to send gradients during the backward pass, over links of 1, 2.5 and 10 Gbit/s. Needs root, and tc.

    python benchmarks/bench_overlap.py [--rates 1,2.5,10] [--layers 8] [--width 512] [--batch 256] [--steps 12]

Server and worker live in network namespaces that a virtual cable joins (see ``bench_links.py``). The worker trains one
network with and without `Trainer.overlap`, in turns; both have the same bits, which is checked. Prints a JSON object a
rate: milliseconds a step, the best of five turns, and what a step takes without a cluster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_links import PORT, SERVER_IP, Cable, why_not

__all__ = ["one_rate"]

WORKER = Path(__file__).with_name("overlap_worker.py")


def one_rate(cable: Cable, gbit_s: float, arguments: Sequence[str]) -> dict[str, Any]:
    """A run of its own on a link of this rate: what the worker measured."""
    cable.set_rate(gbit_s)
    where = f"{SERVER_IP}:{PORT}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SHOAL_LOG": "warning", "SHOAL_INSECURE": "1"}
    quiet: dict[str, Any] = {"env": env, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    scheduler = cable.inside("server", "scheduler", "-n", "1", "-s", "1", "--host", SERVER_IP, "--port", str(PORT))
    server = cable.inside("server", "server", "--scheduler", where, "--host", SERVER_IP)
    nodes = [subprocess.Popen(c, stderr=subprocess.DEVNULL, **quiet) for c in (scheduler, server)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "found.json"
            worker = cable.inside("worker", "worker", "--scheduler", where, str(WORKER), str(out), *arguments)
            subprocess.run(worker, env=env, check=True, timeout=300, stdout=subprocess.DEVNULL)
            return {"gbit_s": gbit_s, **json.loads(out.read_text())}
    finally:
        for node in nodes:
            node.terminate()
            node.wait(20)


def main() -> None:
    """Measure each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="1,2.5,10", help="Gbit/s")
    for name, default in (("layers", 8), ("width", 512), ("batch", 256), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    wrong = why_not()
    if wrong:
        print(json.dumps({"error": wrong}))
        sys.exit(1)
    with Cable() as cable:
        for rate in given.rates.split(","):
            arguments = [str(given.layers), str(given.width), str(given.batch), str(given.steps)]
            print(json.dumps(one_rate(cable, float(rate), arguments)), flush=True)


if __name__ == "__main__":
    main()
