"""Whether a trace is what the format says, and what is in it, in words."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["describe", "faults"]

SLACK_US = 0.002
"""Times are rounded to nanoseconds."""

Event = Mapping[str, Any]


def faults(trace: Mapping[str, Any]) -> list[str]:
    """What is wrong with a trace in Trace Event Format; empty if nothing is.

    Names of processes and threads; a begin for each end; spans of a thread within each other; times in order; arrows
    that begin and end at spans, and do not go back in time by more than the clocks' error.
    """
    events = [e for e in trace["traceEvents"] if e["ph"] != "M"]
    threads = _threads(events)
    return [*_unnamed(trace["traceEvents"], events), *_unordered(events), *_unpaired(events), *_crossing(threads),
            *_loose(events, threads, _error_us(trace))]  # fmt: skip


def _threads(events: Sequence[Event]) -> dict[tuple[int, int], list[Event]]:
    found: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            found[e["pid"], e["tid"]].append(e)
    return found


def _error_us(trace: Mapping[str, Any]) -> float:
    told = [p["clock_error_us"] or 0.0 for p in trace.get("otherData", {}).get("processes", [])]
    return 2 * max(told, default=0.0)


def _unnamed(everything: Sequence[Event], events: Sequence[Event]) -> list[str]:
    named = {e["pid"] for e in everything if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]) for e in everything if e["name"] == "thread_name"}
    bare = sorted({e["pid"] for e in events} - named)
    lost = sorted({(e["pid"], e["tid"]) for e in events if e["ph"] in "XBEsf"} - threads)
    return [f"process {p} has no name" for p in bare] + [f"thread {t} has no name" for t in lost]


def _unordered(events: Sequence[Event]) -> list[str]:
    last: dict[tuple[int, int], float] = {}
    wrong = []
    for e in events:
        where = e["pid"], e["tid"]
        if e["ts"] < last.get(where, 0.0) or e.get("dur", 0.0) < 0:
            wrong.append(f"{e['name']!r} at {e['ts']} us goes back in time")
        last[where] = e["ts"]
    return wrong


def _unpaired(events: Sequence[Event]) -> list[str]:
    open_: Counter[tuple[Any, ...]] = Counter()
    wrong = []
    for e in events:
        what = (e["pid"], e["tid"]) if e["ph"] in "BE" else (e.get("cat"), e.get("id"))
        if e["ph"] in "Bb":
            open_[what] += 1
        elif e["ph"] in "Ee":
            open_[what] -= 1
            if open_[what] < 0:
                wrong.append(f"{e['name']!r} ends at {e['ts']} us before it begins")
    return wrong + [f"{what} never ends" for what, n in open_.items() if n > 0]


def _crossing(threads: Mapping[tuple[int, int], list[Event]]) -> list[str]:
    wrong = []
    for where, spans in threads.items():
        ends: list[float] = []
        for e in spans:
            while ends and ends[-1] <= e["ts"] + SLACK_US:
                ends.pop()
            if ends and e["ts"] + e["dur"] > ends[-1] + SLACK_US:
                wrong.append(f"{e['name']!r} at {e['ts']} us of thread {where} ends after what it began in")
            ends.append(e["ts"] + e["dur"])
    return wrong


def _loose(events: Sequence[Event], threads: Mapping[tuple[int, int], list[Event]], error_us: float) -> list[str]:
    begun = {where: {e["ts"] for e in spans} for where, spans in threads.items()}
    ends: dict[Any, dict[str, Event]] = defaultdict(dict)
    wrong = []
    for e in events:
        if e["ph"] in "sf":
            if e["ph"] in ends[e["id"]]:
                wrong.append(f"arrow {e['id']} has two ends of one sort")
            ends[e["id"]][e["ph"]] = e
            if e["ts"] not in begun.get((e["pid"], e["tid"]), ()):
                wrong.append(f"arrow {e['id']} is bound to no span")
    for name, both in ends.items():
        if len(both) != 2:
            wrong.append(f"arrow {name} has one end")
        elif both["f"]["ts"] + error_us + SLACK_US < both["s"]["ts"]:
            wrong.append(f"arrow {name} goes back in time: from {both['s']['ts']} to {both['f']['ts']} us")
    return wrong


def describe(trace: Mapping[str, Any]) -> str:
    """What is in it: processes and their clocks, times by name, arrows, rounds and whom they waited for."""
    events, other = trace["traceEvents"], trace.get("otherData", {})
    lines = [f"run {other.get('run', '')}: {other.get('seconds', 0):.3f} s, {len(events)} events"]
    for p in other.get("processes", []):
        error = (
            "not aligned"
            if p["clock_error_us"] is None
            else f"{p['clock_offset_us']:+.1f} us, +-{p['clock_error_us']:.1f}"
        )
        gone = f", {p['forgotten']} earlier ones not kept" * bool(p["forgotten"])
        lines.append(f"  {p['name']:<24} {p['records']:>7} records{gone}; clock {error}")
    lines += [f"  {name}: killed, or it could not write" for name in other.get("without_part", [])]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            spent[names[e["pid"]], _sort(e["name"])].append(e["dur"])
    lines.append(f"  {'process':<14}{'what':<22}{'times':>7}{'mean us':>12}{'most us':>12}")
    for (who, what), took in sorted(spent.items()):
        lines.append(f"  {who:<14}{what:<22}{len(took):>7}{sum(took) / len(took):>12.1f}{max(took):>12.1f}")
    arrows = Counter(e["cat"] for e in events if e["ph"] == "f")
    lines.append("  arrows: " + (", ".join(f"{n} {cat}" for cat, n in sorted(arrows.items())) or "none"))
    for cat in ("round", "barrier"):
        late = Counter(e["args"]["waited_for"] for e in events if e["ph"] == "b" and e["cat"] == cat)
        if late:
            lines.append(f"  {cat}s waited last for: " + ", ".join(f"{who} {n}" for who, n in late.most_common(8)))
    return "\n".join(lines)


def _sort(name: str) -> str:
    """Without the key."""
    words = name.split()
    return " ".join(words[: 2 if words[0] == "send" else 1])
