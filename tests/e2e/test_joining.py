"""A worker that joins real processes: what the others do meanwhile, and that nobody waits for what it does alone."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from bench_join import Run, read  # noqa: E402

pytestmark = pytest.mark.net

WORKERS = 2
OPTIONS = {"workers": WORKERS, "step_ms": 10.0, "urgent": False}


def joined(folder: Path, mode: str) -> tuple[float, list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """When the scheduler counted the newcomer, and the books of the newcomer and of the others."""
    run = Run(folder, SimpleNamespace(**OPTIONS, mode=mode))  # type: ignore[arg-type]
    try:
        run.measure()
        events = read(folder / "scheduler.jsonl")
    finally:
        run.end()
    mine = run.book(WORKERS)
    counted = [e["time"] for e in events if e["event"] == "joined" and str(mine[0]["pid"]) in json.dumps(e)]
    assert len(counted) == 1
    return counted[0], mine, [run.book(rank) for rank in range(WORKERS)]


def at(book: list[dict[str, Any]], what: str) -> float:
    return float(next(m["time"] for m in book if m["what"] == what))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_others_go_on_while_a_worker_joins(mode: str, tmp_path: Path) -> None:
    counted, mine, others = joined(tmp_path, mode)
    ready, first = at(mine, "ready"), at(mine, "step")
    assert counted < at(mine, "script") < ready < first
    for book in others:
        steps = [m["time"] for m in book if m["what"] == "step"]
        alone = [end for begin, end in pairwise(steps) if counted < begin and end < ready]
        assert alone, "it makes steps between the other's first message and its wish to be let in"


def test_under_sync_the_newcomers_first_step_is_the_next_round_of_the_others(tmp_path: Path) -> None:
    _, mine, others = joined(tmp_path, "sync")
    entered = at(mine, "entered")
    first = at(mine, "step")
    for book in others:
        without = [m for m in book if m["what"] == "step" and entered < m["time"] <= first]
        assert len(without) <= 2, "that round, and one that had been made and not yet written down"
