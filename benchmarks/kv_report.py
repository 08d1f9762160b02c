"""From milliseconds to figures: medians, rates, CPU seconds a GB, ratios."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.lab.kvcases import Shape, percentile, rates, set_bytes

__all__ = ["Turns", "figures", "markdown", "ratio"]


SHORT_S = 0.2
"""The kernel counts CPU time in hundredths of seconds: over less than this it says nothing."""


@dataclass
class Turns:
    """What one way of using one system has shown so far, turn by turn.

    Args:
        turns: of each turn, milliseconds of every cycle of every worker.
        cpu_s: spent by all its processes.
        cycles: that ``cpu_s`` is for, of all workers together.
        other_s: CPU seconds that processes of others took meanwhile.
        wall_s: how long the turns were.
    """

    turns: list[list[float]] = field(default_factory=list)
    cpu_s: float = 0.0
    cycles: int = 0
    other_s: float = 0.0
    wall_s: float = 0.0

    @property
    def median_ms(self) -> float:
        """Of all cycles."""
        return statistics.median([ms for turn in self.turns for ms in turn])


def best_way(ways: Mapping[str, Turns]) -> str:
    """The way with the smallest median: a system is judged by its best."""
    return min(ways, key=lambda w: ways[w].median_ms)


def ratio(theirs: Turns, ours: Turns) -> float:
    """How many times as long they take: the median over the turns, each beside ours of the same round.

    >>> ratio(Turns([[4.0], [6.0], [80.0]]), Turns([[2.0], [2.0], [20.0]]))
    3.0
    """
    pairs = zip(theirs.turns, ours.turns, strict=False)
    return statistics.median([statistics.median(t) / statistics.median(o) for t, o in pairs])


def figures(shapes: Sequence[Shape], t: Turns) -> dict[str, Any]:
    """The row of one way of using one system."""
    flat = [ms for turn in t.turns for ms in turn]
    moved = set_bytes(shapes) * t.cycles / 1e9
    return {
        "ms": {
            "median": _short(t.median_ms),
            "min": _short(min(flat)),
            "p99": _short(percentile(flat, 0.99)),
            "max": _short(max(flat)),
            "n": len(flat),
        },
        **{k: _short(v) for k, v in rates(shapes, t.median_ms).items()},
        "cpu_s_per_GB": _short(t.cpu_s / moved) if moved else None,
        "other_cpu": _short(max(0.0, t.other_s / t.wall_s)) if t.wall_s > SHORT_S else None,
    }


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """One table a case: a row a system and configuration, with what ours is compared to it."""
    lines: list[str] = []
    for case in dict.fromkeys(r["case"] for r in results):
        lines += ["", f"### {case}", "", "| configuration | system | ms, median | GB/s | keys/s | CPU s/GB | ours is |"]
        lines.append("|---|---|---|---|---|---|---|")
        for r in results:
            if r["case"] == case:
                lines += _rows(r)
    return "\n".join(lines)


def _rows(r: Mapping[str, Any]) -> list[str]:
    where = f"{r['topology']} {'SGD' if r['sgd'] else 'sum'}"
    rows = []
    for s in r["systems"]:
        name = f"{s['system']} ({s['way']})" if s.get("way") else s["system"]
        if "error" in s:
            rows.append(f"| {where} | {name} | not measured: {s['error'][:120]} | | | | |")
            continue
        ratios = ", ".join(f"{k} {v:.2f}x" for k, v in s.get("times_as_long_as", {}).items())
        cpu = "" if s["cpu_s_per_GB"] is None else f"{s['cpu_s_per_GB']:.2f}"
        rows.append(
            f"| {where} | {name} | {s['ms']['median']:.4g} ({s['ms']['min']:.4g} - {s['ms']['max']:.4g}) "
            f"| {s['GBps']:.3g} | {s['keys_per_s']:.3g} | {cpu} | {ratios} |"
        )
    return rows
