"""The command ``shoal ledger``: what became of every push of a finished run, worker by worker."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError

__all__ = ["COLUMNS", "REPORT", "add_options", "difference", "ledger", "read_rows", "table"]

REPORT = "report.json"
"""Name of the report in a run's directory."""

COLUMNS = ("sent", "acknowledged", "applied", "rejected", "dropped", "duplicate", "lost")
"""What is counted; a duplicate is a repetition that was recognised, and changes nothing."""

_ENDS = ("applied", "rejected", "dropped", "lost")


def add_options(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument("run", metavar="RUN", help=f"a run's directory (--run-dir), or its report (--report {REPORT})")
    p.add_argument("--json", action="store_true", help="print JSON")


def ledger(o: argparse.Namespace) -> int:
    """Print the ledger of a run; 1 if it does not balance.

    Raises:
        ConfigError: there is no report, or it is none.
    """
    rows = read_rows(o.run)
    wrong = {row["worker"]: text for row in rows if (text := difference(row))}
    if o.json:
        found = [{**row, "balanced": row["worker"] not in wrong} for row in rows]
        print(json.dumps({"workers": found, "balanced": not wrong}, indent=2))
    else:
        print(table(rows))
    return 1 if wrong else 0


def read_rows(run: str) -> list[dict[str, int]]:
    """``worker`` and `COLUMNS` of each worker, from a report or a directory that has one.

    Raises:
        ConfigError: there is no report, or it is none.
    """
    path = Path(run) / REPORT if Path(run).is_dir() else Path(run)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(row) for row in report["per_worker"]]
    except OSError as e:
        advice = f"a run that has finished writes one with --run-dir DIR (DIR/{REPORT}) or --report FILE"
        raise ConfigError(f"there is no report {str(path)!r} ({e.strerror}): {advice}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ConfigError(f"{str(path)!r} is no report of shoal run: {type(e).__name__}: {e}") from e
    return rows


def _row(row: Mapping[str, Any]) -> dict[str, int]:
    return {"worker": int(row["rank"]), **{name: int(row.get(name, 0)) for name in COLUMNS}}


def difference(row: Mapping[str, int]) -> str:
    """What is wrong with a worker's account; "" if it balances.

    >>> difference({"sent": 5, "acknowledged": 5, "applied": 3, "rejected": 0, "dropped": 1, "lost": 1})
    ''
    >>> difference({"sent": 5, "acknowledged": 4, "applied": 5, "rejected": 0, "dropped": 0, "lost": 0})
    '1 of 5 sent is not acknowledged; 1 more is accounted for than was acknowledged'
    """
    sent, acknowledged = row["sent"], row["acknowledged"]
    missing = acknowledged - sum(row[name] for name in _ENDS)
    found = []
    if sent != acknowledged:
        found.append(f"{sent - acknowledged} of {sent} sent {_is(sent - acknowledged)} not acknowledged")
    if missing > 0:
        found.append(f"{missing} acknowledged {_is(missing)} not accounted for")
    if missing < 0:
        found.append(f"{-missing} more {_is(-missing)} accounted for than was acknowledged")
    return "; ".join(found)


def _is(n: int) -> str:
    return "is" if n == 1 else "are"


def table(rows: Sequence[Mapping[str, int]]) -> str:
    """A line for each worker, one for all, and the verdict."""
    total = {"worker": -1, **{name: sum(row[name] for row in rows) for name in COLUMNS}}
    widths = {name: max(len(name), *(len(str(row[name])) for row in (*rows, total))) for name in COLUMNS}
    lines = ["  ".join(["worker", *(name.rjust(widths[name]) for name in COLUMNS)])]
    for row in (*rows, total):
        who = "all" if row is total else str(row["worker"])
        verdict = "" if row is total else f"  {difference(row) or 'balanced'}"
        lines.append("  ".join([who.rjust(6), *(str(row[name]).rjust(widths[name]) for name in COLUMNS)]) + verdict)
    balanced = not any(difference(row) for row in rows)
    return "\n".join([*lines, "balanced" if balanced else "DOES NOT BALANCE: a push was lost or counted twice"])
