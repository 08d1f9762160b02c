"""The examples run as their first lines say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: str) -> str:
    got = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=RUN_S)
    assert got.returncode == 0, got.stdout + got.stderr
    return got.stdout


def test_the_comparison_trains_both_ways_and_prints_a_table() -> None:
    out = run(str(EXAMPLES / "async_vs_sync.py"), "--epochs", "3")
    for part in ("sync", "async", "held-out accuracy", "staleness, mean", "balanced:"):
        assert part in out


@pytest.mark.parametrize("arguments", [[], ["--no-hybridize"]])
def test_digits_learns_alone(arguments: list[str]) -> None:
    out = run(str(EXAMPLES / "digits.py"), "--epochs", "6", *arguments)
    assert float(out.split("accuracy")[1].split()[0]) > 0.9


def test_the_explicit_loop_learns_alone_and_in_a_cluster() -> None:
    alone = run(str(EXAMPLES / "mlp.py"))
    assert float(alone.split()[-1]) > 0.93
    together = run("-m", "shoal", "run", "-n", "2", "-s", "1", "--no-progress", str(EXAMPLES / "mlp.py"))
    assert "held-out accuracy" in together


def test_a_parameter_server_and_all_reduce_train_the_same_weights() -> None:
    out = run(str(EXAMPLES / "ps_vs_allreduce.py"), "--epochs", "2")
    for part in ("2 x 1", "2 x 0", "allreduce", "balanced:", "The weights are the same bits."):
        assert part in out


def test_hogwild_counts_what_is_lost() -> None:
    lines = run(str(EXAMPLES / "hogwild.py"), "--size", "100000", "--pushes", "20").splitlines()
    assert lines[0].startswith("no locks") and "lost" in lines[0]
    assert "lost 0 of" in lines[1]


def test_the_benchmark_of_all_reduce_checks_its_sums_and_measures() -> None:
    bench = EXAMPLES.parent / "benchmarks" / "bench_allreduce.py"
    found = json.loads(run(str(bench), "--cases", "one1kb", "--samples", "2", "--algorithms", "auto,ring"))
    ours = {name: way for name, way in found["cases"]["one1kb"].items() if name.startswith("shoal")}
    assert list(ours) == ["shoal", "shoal, in place", "shoal, ring", "shoal, ring, in place"]
    assert all(way["ms"] > 0 for way in ours.values())
