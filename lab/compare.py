"""Runs side by side: one column a run, one row a question."""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.errors import ConfigError
from shoal.worker.algo import Algo

__all__ = ["compare", "comparison", "run", "show"]

Report = Mapping[str, Any]


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _ledger(report: Report) -> str:
    book = report["ledger"]
    others = [f"{book[k]:,} {k}" for k in ("rejected", "dropped") if book.get(k)]
    applied = " + ".join([f"{book['applied']:,} applied", *others]) if others else f"{book['sent']:,}"
    if book["balanced"]:
        return f"balanced: {applied}"
    counts = (f"{book[k]:,} {k}" for k in ("sent", "acknowledged", "applied", "rejected"))
    return f"DOES NOT BALANCE: {', '.join(counts)}"


_ROWS: list[tuple[str, Callable[[Report], str]]] = [
    ("workers x servers", lambda r: f"{r['workers']} x {r['servers']}"),
    ("held-out accuracy", lambda r: _number(r["accuracy"], ".4f")),
    ("time to {target}", lambda r: _seconds(r["seconds_to_target"])),
    ("training time", lambda r: _seconds(r["seconds"])),
    ("samples/s", lambda r: _number(r["samples_per_s"], ",.0f")),
    ("staleness, mean", lambda r: _number(r["staleness_mean"])),
    ("staleness, p95", lambda r: _number(r["staleness_p95"], ".0f")),
    ("pushed", lambda r: _bytes(r["bytes_pushed"])),
    ("pulled", lambda r: _bytes(r["bytes_pulled"])),
    ("ledger", _ledger),
    ("weights", lambda r: str(r["weights_sha256"])[:12]),
]


def _title(report: Report) -> str:
    """The run's mode, and what else its algorithm is made of, without defaults' sake."""
    parts = [p for p in str(report.get("algo") or "").split() if not p.startswith("gate=")]
    return " ".join([str(report["mode"]), *(p.partition("=")[2] for p in parts)])


def comparison(reports: Sequence[Report]) -> Table:
    """A table of final reports, as `shoal run --report` writes them."""
    target = next((r["target"] for r in reports if r["target"]), "the target")
    table = Table(title="shoal: the same script, the same data, another algorithm", title_justify="left")
    table.add_column("")
    for r in reports:
        table.add_column(_title(r), justify="right", overflow="fold")
    for label, cell in _ROWS:
        table.add_row(label.format(target=target), *(cell(r) for r in reports))
    return table


def compare(algos: Sequence[str], options: Sequence[str], script: Sequence[str]) -> None:
    """Train with each algorithm in turn, and show the runs side by side: also what there is when one has failed.

    Args:
        algos: as ``shoal run --algo`` takes them; all are looked at before the first run.
        options: of ``shoal run``, the same for all.
        script: its own options, the script and its arguments.
    Raises:
        SystemExit: an algorithm is none, or a run has failed; with its exit code.
    """
    for algo in algos:
        try:
            Algo.parse(algo)
        except ConfigError as e:
            print(f"--algo {algo!r}: {e}", file=sys.stderr)
            sys.exit(2)
    reports: list[Report] = []
    try:
        for algo in algos:
            reports.append(run(*options, "--algo", algo, *script))
    finally:
        if reports:
            show(reports)


def run(*words: str) -> dict[str, Any]:
    """The final report of one run through the `shoal run` command, which is shown, and whose output passes through.

    Args:
        words: its options, the script, and the script's arguments.
    Raises:
        SystemExit: it has failed; with its exit code.
    """
    print(f"\n$ shoal {shlex.join(['run', *words])}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = subprocess.run([sys.executable, "-m", "shoal", "run", "--report", str(report), *words]).returncode
        if code != 0:
            sys.exit(code)
        loaded: dict[str, Any] = json.loads(report.read_text())
    return loaded


def show(reports: Sequence[Report], console: Console | None = None) -> None:
    """Print the comparison, and whether every run accounts for each of its pushes."""
    console = console or Console()
    console.print()
    console.print(comparison(reports))
    if not all(r["ledger"]["balanced"] for r in reports):
        console.print("[bold red]A ledger does not balance: a push was lost or counted twice. Please report this.[/]")
