"""Time and memory of a training step (forward, backward, update), against PyTorch and MXNet where they are installed.

python benchmarks/bench_hybridize.py [--models mlp,lenet,resnet20,lstm,gpt] [--rounds 7] [--threads 2] [--eager]
    [--numpy] [--compile] [--mxnet PYTHON] [--torch PYTHON]

Contestants: "shoal-hybrid", "torch-eager" and, for images, "torch-last" (its channels-last layout) always; with the
options also shoal imperative ("shoal-eager"), shoal hybridized without compiled kernels ("shoal-numpy"), torch.compile,
and MXNet hybridized, for which PYTHON is an interpreter that has it. Each has a process of its own with as many threads
as the others, and chooses kernels for the processor by itself (variables that forbid it some are taken away). All take
turns in each round, so that a change of the machine's speed meets all of them.

Prints one JSON object per model: medians over the rounds in milliseconds, the ratio of shoal-hybrid to each of the
others (median over the rounds of the ratio within a round) and to the fastest, the time of all threads together
(cpu_ms: the steadier figure on a machine that does other things), compile time, and the peak of memory that building
and running the model took beyond the imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("steps") / "worker.py"
OURS = "shoal-hybrid"
KERNELS = ("OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables that keep one library from the processor's instructions and leave them to the others."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="mlp,lenet,resnet20,lstm,gpt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn, about")
    parser.add_argument("--eager", action="store_true", help="also shoal imperative")
    parser.add_argument("--numpy", action="store_true", help="also shoal hybridized without compiled kernels")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--torch", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--mxnet", metavar="PYTHON")
    parser.add_argument("--json", metavar="FILE", help="append the results to it, too")
    args = parser.parse_args()
    for model in args.models.split(","):
        line = json.dumps(duel(model, args))
        print(line, flush=True)
        if args.json:
            with open(args.json, "a") as out:
                out.write(line + "\n")


def contestants(model: str, args: argparse.Namespace) -> dict[str, str]:
    """Name to interpreter."""
    found = {OURS: sys.executable}
    if args.eager:
        found["shoal-eager"] = sys.executable
    if args.numpy:
        found["shoal-numpy"] = sys.executable
    if _has(args.torch, "torch"):
        found["torch-eager"] = args.torch
        if model in ("lenet", "resnet20"):
            found["torch-last"] = args.torch
        if args.compile:
            found["torch-compile"] = args.torch
    if args.mxnet:
        found["mxnet-hybrid"] = args.mxnet
    return found


def duel(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Let the contestants take turns, and report."""
    runners: dict[str, Runner] = {}
    try:
        for name, python in contestants(model, args).items():
            runners[name] = Runner(name, python, model, args.threads)
        counts = {n: max(1, round(args.seconds / max(r.run(1)["ms"] / 1e3, 1e-4))) for n, r in runners.items()}
        rounds = [{n: r.run(counts[n]) for n, r in runners.items()} for _ in range(args.rounds)]
    finally:
        for runner in runners.values():
            runner.close()
    return report(model, args, {n: r.ready for n, r in runners.items()}, rounds)


def report(model: str, args: argparse.Namespace, ready: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of what was measured."""
    peers = [n for n in ready if not n.startswith("shoal")]

    def ratio(name: str) -> float:
        return round(statistics.median(r[OURS]["ms"] / r[name]["ms"] for r in rounds), 3)

    step = {n: round(statistics.median(r[n]["ms"] for r in rounds), 3) for n in ready}
    faster = [n for n in peers if n != "torch-compile"]  # the bar; torch.compile is told, too
    best = min(faster, key=step.__getitem__) if faster else None
    return {
        "benchmark": "hybridize",
        "model": model,
        "rounds": args.rounds,
        "threads": args.threads,
        "load": round(os.getloadavg()[0], 1),
        "step_ms": step,
        "ratio": {n: ratio(n) for n in ready if n != OURS},
        "cpu_ms": {n: round(statistics.median(r[n]["cpu_ms"] for r in rounds), 1) for n in ready},
        "fastest_peer": best,
        "to_fastest": ratio(best) if best else None,
        "peak_mb": {n: round(max(r[n]["peak_mb"] for r in rounds), 1) for n in ready},
        "first_step_s": {n: round(r["first_s"] + r["second_s"], 2) for n, r in ready.items()},
        "params": {n: r["params"] for n, r in ready.items()},
        "loss": {n: round(r["loss"], 3) for n, r in ready.items()},
    }


class Runner:
    """A contestant's process."""

    def __init__(self, name: str, python: str, model: str, threads: int) -> None:
        counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {n: v for n, v in os.environ.items() if n not in KERNELS}
        env |= {**{c: str(threads) for c in counts}, "SHOAL_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [python, str(WORKER), name, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.name = name
        self.ready = self._answer()

    def run(self, count: int) -> dict[str, Any]:
        """Milliseconds a step, and the peak of memory, of ``count`` steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}; what it said is above")
        found: dict[str, Any] = json.loads(line)
        return found


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    main()
