"""What a soak has found: whether all held, and how long recovery took, from the runs' reports and event logs."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

__all__ = ["judge", "read_events", "recoveries", "summaries", "tables"]

GRAIN = 0.01
"""Accuracies that differ by less are not told apart: the held-out data are a few hundred samples."""

KINDS = ("kill", "stop", "partition")
"""Of faults that one recovers from; the others go on all the time."""

Row = dict[str, Any]


def read_events(folder: Path) -> list[Row]:
    """All processes' events in the order of time; a last line that a kill has torn is left out."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return sorted(found, key=lambda e: float(e["time"]))


def recoveries(events: Sequence[Row], workers: int) -> list[Row]:
    """For each fault: ``what``, ``who``, ``role``, and after how many seconds everybody was served again.

    That is when every worker has made a whole step that it began after the fault (of what lasts: after its end), and
    every process that had missed the scheduler has it back. ``seconds`` is None if the run ended before.
    """
    steps: dict[int, list[float]] = {rank: [] for rank in range(workers)}
    back: list[float] = []
    for e in events:
        if e["event"] == "step" and e["role"] == "worker" and e["rank"] in steps:
            steps[e["rank"]].append(e["time"])
        elif e["event"] == "scheduler is back":
            back.append(e["time"])
    faults = [
        e
        for e in events
        if e["event"] == "chaos" and e["role"] == "launcher" and not e.get("skipped") and e["what"] in KINDS
    ]
    over = {e["number"]: e["time"] for e in events if e["event"] == "chaos is over"}
    rows = []
    for i, fault in enumerate(faults):
        began = fault["time"] if fault["what"] == "kill" else over.get(fault["number"])
        until = faults[i + 1]["time"] if i + 1 < len(faults) else float("inf")
        seconds = None if began is None else _recovered(began, until, steps.values(), back)
        role = str(fault["who"]).split()[0]
        rows.append({"what": fault["what"], "who": fault["who"], "role": role, "seconds": seconds})
    return rows


def _recovered(began: float, until: float, steps: Iterable[list[float]], back: Sequence[float]) -> float | None:
    served = []
    for times in steps:
        later = [t for t in times if t > began][:2]  # the first one may have begun before
        if len(later) < 2:
            return None
        served.append(later[1])
    attached = [t for t in back if began < t < until]
    return max(*served, *attached, began) - began


def summaries(rows: Sequence[Row]) -> list[Row]:
    """Recovery by role and kind: how many, median, 95th percentile and the longest, in seconds."""
    found = []
    for role, what in sorted({(r["role"], r["what"]) for r in rows}):
        times = sorted(
            r["seconds"] for r in rows if (r["role"], r["what"]) == (role, what) and r["seconds"] is not None
        )
        if times:
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            found.append(
                {"role": role, "what": what, "count": len(times), "median": median(times), "p95": p95, "max": times[-1]}
            )
    return found


def judge(quiet: Sequence[Row], ran: Row, mode: str, replicas: int) -> Row:
    """A disturbed run beside undisturbed ones, of which the first has its seed; ``broken`` says what did not hold."""
    report = ran["report"]
    accuracies = [q["report"].get("accuracy") or 0.0 for q in quiet]
    same = _same(quiet, report)
    # whoever takes the place of one that died in the middle of a push may see newer weights of the slices that had it
    killed = any(c["what"] == "kill" and str(c["who"]).startswith("worker") for c in report.get("chaos") or ())
    found: Row = {
        "completed": ran["code"] == 0 and bool(report),
        "code": ran["code"],
        "seconds": report.get("seconds"),
        "accuracy": report.get("accuracy"),
        "undisturbed": accuracies,
        "ledger": report.get("ledger") or {},
        "lost": (report.get("ledger") or {}).get("lost", 0),
        "said_lost": _said(report.get("restored") or ()),
        "doubled": sum(_doubled(row) for row in report.get("per_worker") or ()),
        "same_bits": same,
        "faults": report.get("chaos") or [],
        "end": [] if ran["code"] == 0 else ran["end"],
    }
    checks = {
        "an undisturbed run failed": all(q["code"] == 0 for q in quiet),
        "the disturbed run failed": found["completed"],
        "its accuracy is not within the spread": _within(found["accuracy"], accuracies),
        "its ledger does not balance": bool(found["ledger"].get("balanced")),
        "something was counted twice": found["doubled"] == 0,
        "something was lost": found["lost"] == 0 or not replicas,
        "not all that was lost was said": found["lost"] == found["said_lost"],
        "its weights are other bits": same is not False or mode not in ("sync", "bsp") or found["lost"] > 0 or killed,
    }
    return found | {"broken": [text for text, held in checks.items() if not held]}


def _same(quiet: Sequence[Row], report: Mapping[str, Any]) -> bool | None:
    first = quiet[0]["report"].get("weights_sha256") if quiet else None
    here = report.get("weights_sha256")
    return None if first is None or here is None else bool(first == here)


def _within(accuracy: float | None, others: Sequence[float]) -> bool:
    """Not worse than the worst of the others by more than they differ."""
    if accuracy is None or not others:
        return False
    return accuracy >= min(others) - max(max(others) - min(others), GRAIN)


def _said(restored: Iterable[str]) -> int:
    return sum(int(n) for text in restored for n in re.findall(r"(\d+) in the ledger", text))


def _doubled(row: Mapping[str, Any]) -> int:
    """Contributions of a worker that servers have booked beyond those that it made."""
    booked = sum(row[name] for name in ("applied", "rejected", "dropped", "lost"))
    return max(0, int(booked - row["sent"]))


def tables(found: Mapping[str, Any]) -> RenderableType:
    """The result for people."""
    runs = Table(title="soak: " + ("everything held" if found["held"] else "NOT EVERYTHING HELD"), title_justify="left")
    for name in ("task", "accuracy", "undisturbed", "faults", "sent", "lost", "doubled", "balanced", "same bits", ""):
        runs.add_column(name, justify="right")
    for task, r in found["tasks"].items():
        book = r["ledger"]
        accuracy = "-" if r["accuracy"] is None else f"{r['accuracy']:.4f}"
        spread = f"{min(r['undisturbed']):.4f} to {max(r['undisturbed']):.4f}" if r["undisturbed"] else "-"
        numbers = [str(len(r["faults"])), str(book.get("sent", "-")), str(r["lost"]), str(r["doubled"])]
        words = ["yes" if book.get("balanced") else "NO", {True: "yes", False: "no", None: "-"}[r["same_bits"]]]
        runs.add_row(task, accuracy, spread, *numbers, *words, "; ".join(r["broken"]) or "held")
    times = Table(title="seconds until everybody was served again", title_justify="left")
    for name in ("who", "what", "times", "median", "p95", "longest"):
        times.add_column(name, justify="right")
    for s in found["recovery_s"]:
        times.add_row(s["role"], s["what"], str(s["count"]), *(f"{s[k]:.2f}" for k in ("median", "p95", "max")))
    return Group(runs, times)
