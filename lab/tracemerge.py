"""One picture of a whole run, from the parts of its processes: Trace Event Format, for ui.perfetto.dev.

Spans of a thread are complete events ("X") that lie within each other; what goes on beside them (a push until its
answer, a round until it closes, a barrier until it opens) is asynchronous ("b", "e"). Arrows ("s", "f") go from a push,
where the worker sends it, to the update that has it, and from an update to the reads that have it first.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shoal.errors import ConfigError
from shoal.kvstore.trace.fields import Fields
from shoal.lab.traceparts import Process, load, period

__all__ = ["merge", "merged", "write"]

SCRIPT, STEPS, STORE = 1, 2, 20
"""Tracks of a process; further threads of the script come after the second, other transports after the third."""

Event = dict[str, Any]


class Reader(NamedTuple):
    """A value that arrived: where it is drawn, and what it has."""

    at: float
    process: int
    track: int
    slice: int
    version: int


def merge(directory: str, path: str) -> dict[str, Any]:
    """Write the picture of the parts in ``directory`` to ``path``; returns it.

    Raises:
        ConfigError: there are no parts, or the file cannot be written.
    """
    picture = merged(load(directory))
    write(picture, path)
    return picture


def write(picture: dict[str, Any], path: str) -> None:
    """Write it, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    place = os.path.realpath(path)  # what a link names, not the link
    beside = Path(f"{place}.tmp")
    try:
        beside.write_text(json.dumps(picture, separators=(",", ":")), encoding="utf-8")
        os.replace(beside, place)
    except OSError as e:
        raise ConfigError(f"the trace cannot be written to {path!r}: {e.strerror}") from e


def merged(processes: Sequence[Process]) -> dict[str, Any]:
    """The picture as plain data: ``traceEvents``, and ``otherData`` about clocks and what is missing."""
    start, stop = period(processes)
    for p in processes:
        p.records = [r for r in p.records if start <= r[1] and r[2] <= stop]
    picture = _Picture(processes, start)
    for p in processes:
        picture.draw(p)
    picture.arrows()
    events = sorted(picture.events, key=_order)
    here = {p.name.partition(" (")[0] for p in processes}
    members: list[str] = next((p.part.get("members", []) for p in processes if p.role == "scheduler"), [])
    other = {
        "run": next((p.part["cluster"] for p in processes if p.part.get("cluster")), ""),
        "seconds": round(stop - start, 6),
        "processes": [_told(p) for p in processes],
        "without_part": sorted(set(members) - here),
    }
    return {"traceEvents": [*picture.names(), *events], "displayTimeUnit": "ms", "otherData": other}


def _told(p: Process) -> dict[str, Any]:
    error_us = None if p.error_s is None else round(p.error_s * 1e6, 1)
    return {
        "name": p.name,
        "host": p.part["host"],
        "pid": p.part["pid"],
        "records": len(p.records),
        "forgotten": p.part["forgotten"],
        "clock_offset_us": round(p.shift_s * 1e6, 1),
        "clock_error_us": error_us,
    }


def _order(e: Event) -> tuple[float, int, float]:
    return e["ts"], ["X", "b", "s", "i", "f", "e"].index(e["ph"]), -e.get("dur", 0.0)


class _Picture:
    """Events so far, and what arrows need."""

    def __init__(self, processes: Sequence[Process], start: float) -> None:
        self.processes, self.start = processes, start
        self.events: list[Event] = []
        self.sent: dict[tuple[int, int, int], tuple[float, int, int]] = {}  # (rank, slice, clock) -> where it is drawn
        self.applied: list[tuple[float, int, int, int, list[list[int]]]] = []
        self.readers: list[Reader] = []
        self.parts: list[tuple[tuple[int, ...], bool, float, int, int]] = []  # of collectives: sent or taken
        self.tracks: dict[tuple[int, int], str] = {}
        self._identities = {i: p for p in processes for i in p.part["transports"]}
        self._asked: dict[tuple[int, str, int], Fields] = {}
        self._id = 0

    def _us(self, at: float) -> float:
        return round((at - self.start) * 1e6, 3)

    def names(self) -> Iterator[Event]:
        """Of processes and tracks."""
        for p in self.processes:
            named = {"name": "process_name", "ph": "M", "pid": p.number, "tid": 0, "args": {"name": p.name}}
            yield named
            yield {**named, "name": "process_sort_index", "args": {"sort_index": p.number}}
        for (number, track), name in sorted(self.tracks.items()):
            named = {"name": "thread_name", "ph": "M", "pid": number, "tid": track, "args": {"name": name}}
            yield named
            yield {**named, "name": "thread_sort_index", "args": {"sort_index": track}}

    # --- one process --------------------------------------------------------------------------------------------------

    def draw(self, p: Process) -> None:
        """Everything that one process did."""
        tracks: dict[int, list[Event]] = {}
        threads = {t: i for i, t in enumerate(dict.fromkeys(r[3] for r in p.of("script")))}
        purposes = list(dict.fromkeys(p.part["transports"].values()))
        for r in p.records:
            match r:
                case ["script", began, ended, thread, name]:
                    track = (
                        STEPS if name.startswith("step ") else SCRIPT + (2 + threads[thread]) * (threads[thread] > 0)
                    )
                    title = "steps" if track == STEPS else f"script {p.part['threads'].get(str(thread), '')}".strip()
                    self._span(tracks, p, track, title, name, began, ended, {})
                case ["sent" | "taken", began, ended, purpose, peer, *fields]:
                    track = STORE + purposes.index(purpose)
                    self._message(tracks, p, track, r[0], peer, Fields(*fields), began, ended)
                case ["applied", began, ended, slice_id, version, parts]:
                    args = {"slice": slice_id, "version": version, "of": [f"worker {q[0]} clock {q[1]}" for q in parts]}
                    self._span(tracks, p, STORE, "store", f"apply {p.key(slice_id)}", began, ended, args)
                    self.applied.append((began, p.number, slice_id, version, parts))
                case ["note", at, _, name, reason, fields]:
                    where = {"ph": "i", "s": "p", "pid": p.number, "tid": 0, "cat": "decision"}
                    self.events.append(
                        {**where, "name": name, "ts": self._us(at), "args": {"reason": reason, **fields}}
                    )
        for spans in tracks.values():
            self.events += _within(spans)
        self._requests(p)
        if p.role == "server":
            self._rounds(p)
        if p.role == "scheduler":
            self._barriers(p)

    def _span(
        self, tracks: dict[int, list[Event]], p: Process, track: int, title: str, name: str, began: float, ended: float,
        args: dict[str, Any],
    ) -> None:  # fmt: skip
        self.tracks[p.number, track] = title
        ts = self._us(began)
        made = {"ph": "X", "pid": p.number, "tid": track, "name": name, "ts": ts, "dur": round(self._us(ended) - ts, 3)}
        tracks.setdefault(track, []).append({**made, "args": args})

    def _message(
        self, tracks: dict[int, list[Event]], p: Process, track: int, sort: str, peer: str, f: Fields, began: float,
        ended: float,
    ) -> None:  # fmt: skip
        if f.kind in ("Push", "Pull", "Init"):
            self._asked.setdefault((p.number, peer, f.seq), f)
        asked = self._asked.get((p.number, peer, f.seq)) if f.seq >= 0 and f.slice < 0 else None
        slice_id = asked.slice if asked is not None else f.slice
        about = p.key(slice_id) if slice_id >= 0 else f.text
        other = self._identities.get(peer)
        args = {k: v for k, v in f._asdict().items() if v not in (-1, "", 0) and k != "kind"}
        args |= {"to" if sort == "sent" else "from": other.name if other is not None else peer, "slice": slice_id}
        title = p.part["transports"] and list(dict.fromkeys(p.part["transports"].values()))[track - STORE]
        verb = "send " if sort == "sent" else ""
        self._span(tracks, p, track, title or "store", f"{verb}{f.kind.lower()} {about}".strip(), began, ended, args)
        if f.kind == "Push" and sort == "sent":
            self.sent.setdefault((f.rank, f.slice, f.clock), (began, p.number, track))
        elif f.kind == "Value" and sort == "taken" and f.version >= 0 and asked is not None:
            self.readers.append(Reader(began, p.number, track, slice_id, f.version))
        elif f.kind == "Part":
            source = p if sort == "sent" else other
            goal = self._worker(peer) if sort == "sent" else p
            if source is not None and goal is not None:
                name = (source.number, goal.number, f.slice, f.clock, f.rank, f.seq)
                self.parts.append((name, sort == "sent", began, p.number, track))

    def _worker(self, peer: str) -> Process | None:
        """Who is called so by the workers of an all-reduce."""
        return next((p for p in self.processes if peer == f"worker{p.rank}" and p.role == "worker"), None)

    def _pair(self, p: Process, cat: str, name: str, began: float, ended: float, args: dict[str, Any]) -> None:
        self._id += 1
        both = {"cat": cat, "id": self._id, "pid": p.number, "tid": 0, "name": name}
        self.events.append({**both, "ph": "b", "ts": self._us(began), "args": args})
        self.events.append({**both, "ph": "e", "ts": self._us(max(began, ended))})

    def _requests(self, p: Process) -> None:
        """Of a worker: pushes and pulls from sending to the answer; Waiting is none."""
        if p.role != "worker":
            return
        asked: dict[tuple[str, int], tuple[float, Fields]] = {}
        waited: dict[int, str] = {}
        for sort, began, _, _, peer, *rest in p.of("sent", "taken"):
            f = Fields(*rest)
            if sort == "sent" and f.kind in ("Push", "Pull"):
                asked.setdefault((peer, f.seq), (began, f))
            elif f.kind == "Waiting":
                waited[f.seq] = f.text
            elif sort == "taken" and (peer, f.seq) in asked:
                since, was = asked.pop((peer, f.seq))
                args: dict[str, Any] = {
                    "seq": was.seq,
                    "clock": was.clock,
                    "bytes": max(was.nbytes, f.nbytes),
                    "slice": was.slice,
                }
                args |= {
                    "version": f.version,
                    "answer": f.kind,
                    **({"waited_for": waited[f.seq]} if f.seq in waited else {}),
                }
                kind = was.kind.lower()
                self._pair(p, kind, f"{kind} {p.key(was.slice)}", since, began, args)

    def _rounds(self, p: Process) -> None:
        """Of a server: from the first contribution of an update to the update; who came when, and who was last."""
        came: dict[tuple[int, int, int], float] = {}
        for sort, began, ended, *rest in p.of("taken", "applied"):
            if sort == "taken":
                f = Fields(*rest[2:])
                if f.kind == "Push":
                    came.setdefault((f.rank, f.slice, f.clock), began)
                continue
            slice_id, version, parts = rest
            found = {q[0]: came[q[0], slice_id, q[1]] for q in parts if (q[0], slice_id, q[1]) in came}
            if len(found) < 2:
                continue  # nobody was waited for
            first, last = min(found.values()), max(found, key=lambda rank: found[rank])
            after = {f"worker {r} after_us": round((t - first) * 1e6, 1) for r, t in sorted(found.items())}
            args = {"version": version, "waited_for": f"worker {last}", **after}
            self._pair(p, "round", f"round of {p.key(slice_id)}", first, ended, args)

    def _barriers(self, p: Process) -> None:
        """Of the scheduler: from the first that comes to a barrier to its opening."""
        came: dict[tuple[str, int], dict[str, float]] = {}
        for sort, began, _, _, peer, *rest in p.of("sent", "taken"):
            f = Fields(*rest)
            who = self._identities.get(peer)
            if sort == "taken" and f.kind == "Barrier":
                came.setdefault((f.text, f.clock), {}).setdefault(who.name if who is not None else peer, began)
            elif sort == "sent" and f.kind == "Released" and (f.text, f.clock) in came:
                found = came.pop((f.text, f.clock))
                first, last = min(found.values()), max(found, key=lambda name: found[name])
                after = {f"{name} after_us": round((t - first) * 1e6, 1) for name, t in found.items()}
                self._pair(p, "barrier", f"barrier {f.text}", first, began, {"waited_for": last, **after})

    # --- between processes --------------------------------------------------------------------------------------------

    def arrows(self) -> None:
        """From pushes to updates, from updates to reads, and from worker to worker."""
        made: dict[tuple[int, int], list[tuple[int, float, int]]] = {}  # by slice: (version, when, by whom)
        for at, number, slice_id, version, parts in self.applied:
            made.setdefault((slice_id, version), []).append((version, at, number))
            for rank, clock, _ in parts:
                if (rank, slice_id, clock) in self.sent:
                    self._arrow("push", self.sent[rank, slice_id, clock], (at, number, STORE))
        read: set[tuple[int, int]] = set()
        newest: dict[int, list[Reader]] = {}
        for r in sorted(self.readers):
            newest.setdefault(r.slice, []).append(r)
            for _, at, number in made.get((r.slice, r.version), ())[-1:]:
                read.add((r.slice, r.version))
                self._arrow("read", (at, number, STORE), (r.at, r.process, r.track))
        for (slice_id, version), updates in made.items():  # nobody has read just this version: who read it first?
            later = next((r for r in newest.get(slice_id, ()) if r.version > version), None)
            if (slice_id, version) not in read and later is not None:
                self._arrow("read", (updates[-1][1], updates[-1][2], STORE), (later.at, later.process, later.track))
        sent = {name: (at, number, track) for name, out, at, number, track in reversed(self.parts) if out}
        taken = {name: (at, number, track) for name, out, at, number, track in reversed(self.parts) if not out}
        for name in sent.keys() & taken.keys():
            self._arrow("part", sent[name], taken[name])

    def _arrow(self, cat: str, source: tuple[float, int, int], goal: tuple[float, int, int]) -> None:
        """Clocks that are not quite level must not turn an arrow round."""
        self._id += 1
        both = {"cat": cat, "name": cat, "id": self._id}
        for ph, (at, number, track) in (("s", source), ("f", goal)):
            end = {"bp": "e"} if ph == "f" else {}
            self.events.append({**both, **end, "ph": ph, "pid": number, "tid": track, "ts": self._us(at)})


def _within(spans: list[Event]) -> list[Event]:
    """Spans of one track, each within those that it began in: what a picture of a thread must be."""
    ends: list[float] = []
    for e in sorted(spans, key=lambda e: (e["ts"], -e["dur"])):
        while ends and ends[-1] <= e["ts"] and not (ends[-1] == e["ts"] and e["dur"] == 0):
            ends.pop()
        if ends and e["ts"] + e["dur"] > ends[-1]:
            e["dur"] = round(max(0.0, ends[-1] - e["ts"]), 3)
        ends.append(round(e["ts"] + e["dur"], 3))
    return spans
