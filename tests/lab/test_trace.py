"""Parts of a trace become one picture, and the checker finds what would be wrong with it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.cli import main
from shoal.errors import ConfigError
from shoal.kvstore.trace.fields import Fields
from shoal.lab.tracecheck import describe, faults
from shoal.lab.tracemerge import merge

SERVER, W0, W1 = "server-aa", "worker-00", "worker-11"


def sent(at: float, peer: str, took: float = 0.1, **fields: Any) -> list[Any]:
    return ["sent", at, at + took, "store", peer, *Fields(**fields)]


def taken(at: float, peer: str, took: float = 0.5, **fields: Any) -> list[Any]:
    return ["taken", at, at + took, "store", peer, *Fields(**fields)]


def part(role: str, rank: int, identity: str, records: list[Any], **more: Any) -> dict[str, Any]:
    base = {"shoal_trace": 1, "role": role, "rank": rank, "pid": 7, "host": "h", "clock_id": "", "cluster": "c"}
    window = {
        "window": ["", 0.0, 1e18],
        "forgotten": 0,
        "transports": {identity: "store"},
        "threads": {"1": "MainThread"},
    }
    return {
        **base,
        **window,
        "incarnation": 1,
        "offset": [0.0, None, 0],
        "keys": {"5": "w"},
        **more,
        "records": records,
    }


def round_trip(worker: int, at: float, shift: float = 0.0) -> list[Any]:
    """What a worker does in a step: forward, push, wait, and the value comes."""
    at -= shift
    return [
        ["script", at, at + 1.0, 1, "forward"],
        ["script", at + 1.0, at + 6.0, 1, "exchange"],
        sent(at + 1.0, "server0", kind="Push", rank=worker, slice=5, clock=0, seq=0, nbytes=16),
        ["script", at + 1.5, at + 5.9, 1, "wait"],
        taken(at + 5.0, "server0", kind="Value", seq=0, version=1, nbytes=16),
    ]


def parts() -> list[dict[str, Any]]:
    """Two workers, of which the second comes 1 s later and has a clock 1000 s behind; one server."""
    update = [
        taken(2.0, W0, kind="Push", rank=0, slice=5, clock=0, seq=0, nbytes=16),
        taken(3.0, W1, took=1.5, kind="Push", rank=1, slice=5, clock=0, seq=0, nbytes=16),
        ["applied", 3.1, 3.5, 5, 1, [[0, 0, 0], [1, 0, 0]]],
        sent(3.6, W0, kind="Value", seq=0, version=1),
        sent(3.8, W1, kind="Value", seq=0, version=1),
    ]
    barrier = {"kind": "Barrier", "clock": 0, "text": "finish"}
    meeting = [
        taken(6.0, "sched-0", **barrier),
        taken(8.0, "sched-1", **barrier),
        sent(8.1, "sched-0", kind="Released", clock=0, text="finish"),
        sent(8.3, "sched-1", kind="Released", clock=0, text="finish"),
        ["note", 8.2, 8.2, "barrier released", "every worker has come", {}],
    ]
    both = {"sched-0": "store", W0: "store"}, {"sched-1": "store", W1: "store"}
    return [
        part("scheduler", 0, "scheduler-0", meeting, members=["server 0", "worker 0", "worker 1", "worker 2"]),
        part("server", 0, SERVER, update, offset=[0.0, 0.01, 4]),
        part("worker", 0, W0, round_trip(0, 0.9), offset=[0.0, 0.01, 4], transports=both[0]),
        part("worker", 1, W1, round_trip(1, 1.9, 1000.0), offset=[1000.0, 0.02, 4], transports=both[1]),
    ]


def picture(tmp_path: Path, those: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    for i, each in enumerate(parts() if those is None else those):
        (tmp_path / f"{each['role']}-{each['rank']}-{i}.part.json").write_text(json.dumps(each))
    return merge(str(tmp_path), str(tmp_path / "trace.json"))


def events(trace: dict[str, Any], ph: str, **fields: Any) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == ph and all(e.get(k) == v for k, v in fields.items())]


def test_a_push_has_an_arrow_to_its_update_and_the_update_one_to_each_read(tmp_path: Path) -> None:
    trace = picture(tmp_path)
    assert faults(trace) == []
    (update,) = events(trace, "X", name="apply w")
    pushes, reads = events(trace, "f", cat="push"), events(trace, "s", cat="read")
    assert [(e["pid"], e["tid"], e["ts"]) for e in (*pushes, *reads)] == [
        (update["pid"], update["tid"], update["ts"])
    ] * 4
    senders = [(e["pid"], e["ts"]) for e in events(trace, "X", name="send push w")]
    assert sorted((e["pid"], e["ts"]) for e in events(trace, "s", cat="push")) == sorted(senders)
    readers = [(e["pid"], e["ts"]) for e in events(trace, "X", name="value w")]
    assert sorted((e["pid"], e["ts"]) for e in events(trace, "f", cat="read")) == sorted(readers)


def test_clocks_are_put_on_the_schedulers_and_the_error_is_said(tmp_path: Path) -> None:
    trace = picture(tmp_path)
    forward = {e["pid"]: e["ts"] for e in events(trace, "X", name="forward")}
    assert sorted(forward.values()) == [0.0, 1e6]
    told = {p["name"]: (p["clock_offset_us"], p["clock_error_us"]) for p in trace["otherData"]["processes"]}
    assert told["worker 1"] == (1e9, 20_000.0) and told["scheduler"] == (0.0, 0.0)


def test_processes_that_read_the_same_clock_are_not_moved(tmp_path: Path) -> None:
    those = parts()
    for each in those:
        each["clock_id"] = "boot/time"
    those[3]["records"] = round_trip(1, 1.9)
    told = picture(tmp_path, those)["otherData"]["processes"]
    assert [(p["clock_offset_us"], p["clock_error_us"]) for p in told] == [(0.0, 0.0)] * 4


def test_who_was_waited_for_is_said_of_rounds_and_barriers(tmp_path: Path) -> None:
    trace = picture(tmp_path)
    (round_,) = events(trace, "b", cat="round")
    assert round_["args"]["waited_for"] == "worker 1" and round_["args"]["worker 1 after_us"] == 1e6
    (barrier,) = events(trace, "b", cat="barrier")
    assert barrier["name"] == "barrier finish" and barrier["args"]["waited_for"] == "worker 1"
    (push,) = events(trace, "b", cat="push", pid=3)
    assert push["args"] == {"seq": 0, "clock": 0, "bytes": 16, "slice": 5, "version": 1, "answer": "Value"}


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    trace = picture(tmp_path)
    assert trace["otherData"]["without_part"] == ["worker 2"]
    assert "worker 2: killed" in describe(trace)


def test_an_update_that_nobody_reads_at_once_is_read_by_whoever_reads_later(tmp_path: Path) -> None:
    those = parts()
    server, worker = those[1]["records"], those[2]["records"]
    server.append(taken(5.0, W1, kind="Push", rank=1, slice=5, clock=1, seq=1))
    server.append(["applied", 5.1, 5.2, 5, 2, [[1, 1, 0]]])
    server.append(["applied", 5.6, 5.7, 5, 3, [[1, 2, 0]]])
    worker.append(sent(6.0, "server0", kind="Pull", slice=5, clock=1, seq=1))
    worker.append(taken(7.0, "server0", kind="Value", seq=1, version=3))
    trace = picture(tmp_path, those)
    assert faults(trace) == []
    ends = {e["id"]: e["ts"] for e in events(trace, "f", cat="read")}
    updates = {e["ts"]: e["args"]["version"] for e in events(trace, "X", name="apply w")}
    last = max(ends.values())
    assert sorted(updates[e["ts"]] for e in events(trace, "s", cat="read") if ends[e["id"]] == last) == [2, 3]


def test_where_a_process_has_forgotten_its_beginning_the_picture_begins_later(tmp_path: Path) -> None:
    those = parts()
    those[1]["forgotten"] = 3
    trace = picture(tmp_path, those)
    assert trace["otherData"]["seconds"] == 6.5
    assert not events(trace, "X", name="forward"), "both were before what the server remembers"
    assert faults(trace) == []


def test_a_span_that_crosses_the_end_of_another_is_cut(tmp_path: Path) -> None:
    those = parts()
    those[2]["records"].append(["script", 1.4, 2.4, 1, "backward"])  # crosses the end of forward
    assert faults(picture(tmp_path, those)) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda e: e.remove(next(x for x in e if x["ph"] == "e")), "never ends"),
        (lambda e: e.remove(next(x for x in e if x["ph"] == "b")), "before it begins"),
        (lambda e: e.remove(next(x for x in e if x["name"] == "process_name")), "has no name"),
        (lambda e: e.remove(next(x for x in e if x["name"] == "thread_name")), "has no name"),
        (lambda e: e.remove(next(x for x in e if x["ph"] == "s")), "has one end"),
        (lambda e: next(x for x in e if x["ph"] == "f").update(ts=1.5), "bound to no span"),
        (lambda e: next(x for x in e if x["name"] == "wait").update(dur=9e9), "ends after what it began in"),
        (lambda e: next(x for x in e if x["name"] == "forward").update(ts=9e9), "back in time"),
    ],
)
def test_the_checker_finds_damage(tmp_path: Path, damage: Any, found: str) -> None:
    trace = copy.deepcopy(picture(tmp_path))
    damage(trace["traceEvents"])
    assert found in " ".join(faults(trace))


def test_parts_of_two_runs_are_not_mixed(tmp_path: Path) -> None:
    those = parts()
    those[1]["cluster"] = "d"
    with pytest.raises(ConfigError, match=r"several runs \(c, d\)"):
        picture(tmp_path, those)
    with pytest.raises(ConfigError, match="no parts of a trace"):
        merge(str(tmp_path / "nowhere"), "x")


@pytest.mark.parametrize("text", ["", "{}", '{"shoal_trace": 9, "role": "worker", "rank": 0, "records": []}'])
def test_a_file_that_is_no_part_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "worker-0.part.json").write_text(text)
    with pytest.raises(ConfigError, match="is no part of a trace of this version"):
        merge(str(tmp_path), str(tmp_path / "trace.json"))


def test_the_command_merges_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path)
    assert main(["trace", "merge", str(tmp_path), "-o", str(tmp_path / "out.json")]) == 0
    assert main(["trace", "show", str(tmp_path / "out.json")]) == 0
    assert "arrows: 2 push, 2 read" in capsys.readouterr().out
    assert main(["trace", "merge", str(tmp_path)]) == 2
    assert main(["trace", "show", str(tmp_path / "none.json")]) == 2
