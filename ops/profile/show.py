"""A profile as a table, as data, and as a picture in Trace Event Format, for ui.perfetto.dev."""

import json
import os
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.ops.profile.recorder import Recorder, Sum

__all__ = ["SORTS", "chrome", "rows", "table", "write_chrome"]

SORTS = ("total", "count", "mean", "min", "max", "memory", "flops", "name")
"""What rows may be sorted by; by their name upwards, by all else downwards."""


def rows(
    recorder: Recorder, by: str = "op", sort: str = "total", ascending: bool | None = None
) -> list[dict[str, Any]]:
    """One dictionary per operator (per operator and shapes, line, or per scope), forward and backward apart.

    Raises:
        ConfigError: an unknown ``by`` or ``sort``.
    """
    if sort not in SORTS:
        raise ConfigError(f"a profile is sorted by one of {', '.join(SORTS)}, got {sort!r}")
    groups = recorder.grouped(by)
    everything = sum(s.total for s in groups.values()) or 1.0
    made = [_row(label, s, everything) for label, s in groups.items()]
    key = {"total": "total_ms", "mean": "mean_us", "min": "min_us", "max": "max_us", "memory": "bytes"}.get(sort, sort)
    up = sort == "name" if ascending is None else ascending
    return sorted(made, key=lambda r: (r[key] is not None, r[key] or ("" if key == "name" else 0)), reverse=not up)


def _row(label: tuple[str, ...], s: Sum, everything: float) -> dict[str, Any]:
    name, kind, mode = label
    return {
        "name": name,
        "kind": kind,
        "mode": mode,
        "count": s.count,
        "total_ms": s.total * 1e3,
        "share": s.total / everything,
        "mean_us": s.total / s.count * 1e6,
        "min_us": s.shortest * 1e6,
        "max_us": s.longest * 1e6,
        "bytes": s.nbytes,
        "flops": s.flops,
    }


def table(
    recorder: Recorder, by: str = "op", sort: str = "total", ascending: bool | None = None, limit: int | None = None
) -> str:
    """The rows as text, with a line of totals below. Scopes contain each other: their shares may exceed 100 %."""
    found = rows(recorder, by, sort, ascending)
    shown = found if limit is None else found[:limit]
    head = ["operator" if by != "scope" else "scope", "part", "mode", "calls", "total ms", "share", "mean us"]
    head += ["min us", "max us", "allocated", "GFLOP", "GFLOP/s"]
    text = [head, *(_cells(r) for r in shown)]
    widths = [max(len(line[i]) for line in text) for i in range(len(head))]
    lines = [_aligned(line, widths) for line in text]
    lines.insert(1, "-" * len(lines[0]))
    if len(found) > len(shown):
        lines.append(f"... and {len(found) - len(shown)} more")
    return "\n".join([*(line.rstrip() for line in lines), "", _totals(recorder)])


def _aligned(cells: list[str], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    pairs = enumerate(zip(cells, widths, strict=True))
    return "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in pairs)


def _cells(r: dict[str, Any]) -> list[str]:
    work = r["flops"]
    seconds = r["total_ms"] / 1e3
    return [
        r["name"],
        r["kind"],
        r["mode"],
        str(r["count"]),
        f"{r['total_ms']:.3f}",
        f"{100 * r['share']:.1f}%",
        f"{r['mean_us']:.1f}",
        f"{r['min_us']:.1f}",
        f"{r['max_us']:.1f}",
        _size(r["bytes"]),
        f"{work / 1e9:.4f}" if work else "",
        f"{work / 1e9 / seconds:.2f}" if work and seconds else "",
    ]


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError


def _totals(recorder: Recorder) -> str:
    groups = recorder.grouped("op").values()
    busy, calls, wall = sum(s.total for s in groups), sum(s.count for s in groups), recorder.elapsed_s()
    text = f"{calls} operators took {busy * 1e3:.3f} ms of {wall * 1e3:.3f} ms"
    text += f" ({100 * busy / wall:.1f}%)" if wall else ""
    text += f"; they allocated {_size(sum(s.nbytes for s in groups))}"
    return text + (f", of which at most {_size(recorder.peak_bytes)} at once" if recorder.memory else "")


def chrome(recorder: Recorder, name: str = "") -> dict[str, Any]:
    """Events as `shoal trace` writes them: complete events of threads, names, and the memory as a counter."""
    pid = os.getpid()
    with recorder._lock:
        events, levels = list(recorder.events), list(recorder.levels)
    start = min([e.began for e in events] + [at for at, _ in levels], default=0.0)
    tracks = {t: i + 1 for i, t in enumerate(dict.fromkeys(e.thread for e in events))}
    drawn: list[dict[str, Any]] = []
    for e in events:
        ts = round((e.began - start) * 1e6, 3)
        dur = round(max(0.0, (e.ended - start) * 1e6 - ts), 3)
        args = {"scope": e.scope, "shapes": e.shapes, "bytes": e.nbytes, "mode": e.mode}
        args |= {} if e.flops is None else {"flops": e.flops}
        title = f"{e.name} backward" if e.kind == "backward" else e.name
        place = {"ph": "X", "pid": pid, "tid": tracks[e.thread], "name": title, "cat": e.kind, "ts": ts, "dur": dur}
        drawn.append({**place, "args": {k: v for k, v in args.items() if v not in ("", 0)}})
    for at, nbytes in levels:
        where = {"ph": "C", "pid": pid, "tid": 0, "name": "memory of results"}
        drawn.append({**where, "ts": round((at - start) * 1e6, 3), "args": {"bytes": nbytes}})
    drawn.sort(key=lambda e: (e["ts"], -e.get("dur", 0.0)))
    named = {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name or f"process {pid}"}}
    threads = [
        {"ph": "M", "pid": pid, "tid": i, "name": "thread_name", "args": {"name": recorder.threads.get(t, str(t))}}
        for t, i in tracks.items()
    ]
    other = {"run": name, "seconds": round(recorder.elapsed_s(), 6), "forgotten": recorder.count - len(events)}
    return {"traceEvents": [named, *threads, *drawn], "displayTimeUnit": "ms", "otherData": other}


def write_chrome(recorder: Recorder, path: str | os.PathLike[str], name: str = "") -> None:
    """Write `chrome`, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    beside = Path(f"{os.fspath(path)}.tmp")
    try:
        beside.write_text(json.dumps(chrome(recorder, name), separators=(",", ":")), encoding="utf-8")
        os.replace(beside, path)
    except OSError as e:
        raise ConfigError(f"the profile cannot be written to {os.fspath(path)!r}: {e.strerror}") from e
