"""The parts of a trace, one for each process, on one clock: the scheduler's."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.trace.fields import Fields
from shoal.kvstore.trace.recorder import FORMAT, SUFFIX

__all__ = ["Process", "load", "period"]

_ROLES = {"scheduler": 0, "server": 1, "replica": 2, "worker": 3}


@dataclass(slots=True)
class Process:
    """One process's part.

    Args:
        number: its place in the picture, from 1; what the trace format calls pid.
        shift_s: added to its clock it gives the scheduler's.
        error_s: how wrong that can be; None if nothing is known.
    """

    role: str
    rank: int
    number: int
    part: dict[str, Any]
    shift_s: float = 0.0
    error_s: float | None = None
    records: list[list[Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as "server 1"; a later process of that rank says which it is."""
        later = self.part.get("incarnation", 1)
        if self.role == "scheduler":
            return "scheduler" if later <= 1 else f"scheduler (term {later})"
        return f"{self.role} {self.rank}" + (f" (incarnation {later})" if later > 1 else "")

    def of(self, *sorts: str) -> Iterator[list[Any]]:
        """Its records of these sorts, by time."""
        return (r for r in self.records if r[0] in sorts)

    def key(self, slice_id: int) -> str:
        """What a slice is called."""
        return str(self.part.get("keys", {}).get(str(slice_id), f"slice {slice_id}"))


def load(directory: str) -> list[Process]:
    """The parts in a directory; times are seconds of the scheduler's clock.

    Raises:
        ConfigError: there are none, or they are of several runs, or one cannot be read.
    """
    parts = [_read(path) for path in sorted(Path(directory).glob(f"*{SUFFIX}"))]
    if not parts:
        raise ConfigError(
            f"there are no parts of a trace (*{SUFFIX}) in {directory!r}: processes that are killed leave none"
        )
    clusters = sorted({str(p.get("cluster", "")) for p in parts} - {""})
    if len(clusters) > 1:
        raise ConfigError(f"{directory!r} has parts of several runs ({', '.join(clusters)}): keep one directory a run")
    parts.sort(key=lambda p: (_ROLES[p["role"]], p["rank"], p.get("incarnation", 0)))
    found = [Process(p["role"], p["rank"], i, p) for i, p in enumerate(parts, 1)]
    keys = {k: v for p in reversed(found) for k, v in p.part.get("keys", {}).items()}
    for each in found:
        _align(each, found[0])
        each.part["keys"] = {**keys, **each.part.get("keys", {})}
        each.records = sorted(_shifted(each), key=lambda r: (r[1], -r[2]))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
        if part["shoal_trace"] != FORMAT or part["role"] not in _ROLES or not isinstance(part["records"], list):
            raise ValueError(f"format {part['shoal_trace']!r} of a {part['role']!r}")
        int(part["rank"])
        for record in part["records"]:
            if len(record) < _LENGTHS[record[0]] or not record[1] <= record[2]:
                raise ValueError(f"a record {str(record)[:80]}")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        raise ConfigError(f"{str(path)!r} is no part of a trace of this version: {type(e).__name__}: {e}") from e
    return dict(part)


_LENGTHS = {"script": 5, "sent": 5 + len(Fields._fields), "taken": 5 + len(Fields._fields), "applied": 6, "note": 6}


def _align(process: Process, first: Process) -> None:
    """Whoever reads the same clock as the scheduler need not guess."""
    same = process.part.get("clock_id") and process.part.get("clock_id") == first.part.get("clock_id")
    if (process is first and first.role == "scheduler") or (same and first.role == "scheduler"):
        process.error_s = 0.0
        return
    value_s, error_s, _ = process.part.get("offset", (0.0, None, 0))
    if error_s is not None:
        process.shift_s, process.error_s = float(value_s), float(error_s)


def _shifted(process: Process) -> Iterator[list[Any]]:
    for sort, began, ended, *rest in process.part["records"]:
        yield [sort, began + process.shift_s, ended + process.shift_s, *rest]


def period(processes: Sequence[Process]) -> tuple[float, float]:
    """From when to when the picture goes.

    Where a window was asked for: while workers were in it. Else from where every process still knows what it did.
    """
    everything = [r for p in processes for r in p.records]
    if not everything:
        return 0.0, 0.0
    if any(p.part["window"][0] for p in processes):
        inside = [r for p in processes if p.role == "worker" for r in p.of("script", "sent", "taken")]
        inside = inside or everything
        return min(r[1] for r in inside), max(r[2] for r in inside)
    forgetful = [p.records[0][1] for p in processes if p.part["forgotten"] and p.records]
    return max(forgetful, default=min(r[1] for r in everything)), max(r[2] for r in everything)
