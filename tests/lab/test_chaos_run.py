"""What the launcher's side of chaos does to children, with children that only note it."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.kvstore.wire.membership import NodeStatus
from shoal.kvstore.wire.messages import Snapshot
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import parse_plan
from shoal.lab.chaos.run import Chaos, _rules, stops
from shoal.lab.chaos.schedule import timetable

RUNNING = Snapshot(phase="running", cluster="c", mode="asp", reason="", culprit="", missing=(), nodes=())


class Child:
    """A process that notes its signals."""

    def __init__(self, name: str) -> None:
        self.name, self.signals, self.code = name, list[int](), None

    def poll(self) -> int | None:
        return self.code

    def signal(self, number: int) -> None:
        self.signals.append(number)


class Bench:
    """Chaos, its children, and a clock that is set by hand."""

    def __init__(self, *events: dict[str, Any], folder: str = "") -> None:
        self.now, self.lines = 100.0, list[str]()
        self.socket: socket.socket | None = None
        plan, cast = parse_plan({"chaos": list(events)}), Cast(2, 1)
        self.chaos = Chaos(plan, cast, self.lines.append, folder, lambda: self.now)
        self.children = {name: self.start(name) for name in cast.names}

    def start(self, name: str) -> Any:
        fds = self.chaos.equip(name)[1]
        if self.socket is not None:
            self.socket.close()
        self.socket = socket.socket(fileno=os.dup(fds[0])) if fds else None
        child = Child(name)
        self.chaos.born(child)  # type: ignore[arg-type]
        return child

    def at(self, seconds: float, snapshot: Snapshot | None = RUNNING) -> float:
        self.now = 100.0 + seconds
        return self.chaos.turn(snapshot)

    def signals(self, name: str) -> list[int]:
        return list(self.children[name].signals)


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    benches: list[Bench] = []
    yield benches
    for bench in benches:
        bench.chaos.close()
        if bench.socket is not None:
            bench.socket.close()


def bench(made: list[Bench], *events: dict[str, Any], folder: str = "") -> Bench:
    made.append(Bench(*events, folder=folder))
    return made[-1]


def test_a_process_is_killed_when_the_run_has_gone_on_for_so_long(made: list[Bench]) -> None:
    b = bench(made, {"what": "kill", "who": "worker 1", "at_s": 12})
    b.at(-50, replace(RUNNING, phase="gathering"))
    b.at(0)
    b.at(11.9)
    assert b.signals("worker 1") == []
    b.at(12.1)
    assert b.signals("worker 1") == [signal.SIGKILL] and b.lines == ["kill worker 1 (at 12.0 s)"]
    assert b.chaos.report() == [
        {
            "at_s": 12.1,
            "what": "kill",
            "who": "worker 1",
            "amount": "",
            "why": "at 12.0 s",
            "skipped": "",
            "for_s": 0.0,
        }
    ]


def test_who_is_stopped_goes_on_afterwards(made: list[Bench]) -> None:
    b = bench(made, {"what": "stop", "who": "server 0", "at_s": 1, "for_s": 2})
    for t in (0, 1, 2, 3, 4):
        b.at(t)
    assert b.signals("server 0") == [signal.SIGSTOP, signal.SIGCONT]
    assert b.lines == ["stop server 0 for 2 s (at 1.0 s)", "over: stop server 0"]


def test_a_process_that_is_started_again_is_stopped_too(made: list[Bench]) -> None:
    b = bench(made, {"what": "stop", "who": "server 0", "at_s": 1, "for_s": 9})
    b.at(0)
    b.at(1)
    b.children["server 0"] = b.start("server 0")
    b.at(2)
    assert b.signals("server 0") == [signal.SIGSTOP]


def test_three_times_slower_is_standing_still_for_two_thirds_of_the_time(made: list[Bench]) -> None:
    b = bench(made, {"what": "slow", "who": "worker 0", "factor": 3, "at_s": 0, "for_s": 60})
    t, still_s, pauses = 0.0, 0.0, []
    while t < 6.0:
        pause = b.at(t)
        stopped = b.signals("worker 0")[-1:] == [signal.SIGSTOP]
        still_s, t = still_s + pause * stopped, t + pause
        pauses.append(pause)
    assert still_s / t == pytest.approx(2 / 3, abs=0.03) and max(pauses) <= 0.05
    assert stops(3, 0.0)[0] is False


def test_who_is_stopped_is_let_go_when_the_run_ends(made: list[Bench]) -> None:
    b = bench(made, {"what": "stop", "who": "server 0", "at_s": 0, "for_s": 99})
    b.at(0)
    b.chaos.end()
    assert b.signals("server 0") == [signal.SIGSTOP, signal.SIGCONT]


def test_nothing_is_done_any_more_when_a_worker_is_done(made: list[Bench]) -> None:
    b = bench(made, {"what": "kill", "who": "server 0", "at_s": 5})
    b.at(0)
    b.children["worker 0"].code = 0
    b.at(6)
    assert b.signals("server 0") == [] and b.chaos.report() == []


def test_who_is_not_there_is_not_killed_and_that_is_said(made: list[Bench]) -> None:
    b = bench(made, {"what": "kill", "who": "worker 1", "at_s": 1})
    b.at(0)
    b.children["worker 1"].code = -9
    b.at(1)
    assert b.signals("worker 1") == [] and b.chaos.report()[0]["skipped"] == "worker 1 is not there"
    assert b.lines == ["kill worker 1 (at 1.0 s): skipped, worker 1 is not there"]


def test_steps_are_those_that_workers_tell_the_scheduler(made: list[Bench]) -> None:
    b = bench(made, {"what": "kill", "who": "server 0", "at_step": 7})
    who: dict[str, Any] = {"role": "worker", "rank": 0, "incarnation": 1, "host": "h", "pid": 1, "state": "running"}
    node = NodeStatus(**who, silent_s=0.0, status={"steps": 6}, report=None)
    b.at(0, replace(RUNNING, nodes=(node,)))
    assert b.signals("server 0") == []
    b.at(1, replace(RUNNING, nodes=(replace(node, status={"steps": 7}),)))
    assert b.signals("server 0") == [signal.SIGKILL]


def orders(b: Bench) -> list[dict[str, Any]]:
    assert b.socket is not None
    b.socket.setblocking(False)
    try:
        return [json.loads(line) for line in b.socket.recv(65536).splitlines()]
    except BlockingIOError:
        return []


def test_a_process_is_told_which_of_its_messages_to_lose_and_when_to_stop_that(made: list[Bench]) -> None:
    b = bench(made, {"what": "partition", "who": "worker 0 <-> server 0", "at_s": 1, "for_s": 1})  # server 0 is last
    assert orders(b) == [{"rules": [], "full_disk": False, "jumped_s": 0.0}]
    b.at(0)
    b.at(1)
    found = orders(b)[0]["rules"]
    assert sorted(found) == [[1, "partition", "in", "worker0", 0.0], [1, "partition", "out", "worker0", 0.0]]
    b.at(2)
    assert orders(b) == [{"rules": [], "full_disk": False, "jumped_s": 0.0}]


def test_what_a_process_has_counted_is_in_the_report_after_its_end_too(made: list[Bench]) -> None:
    b = bench(made, {"what": "drop", "who": "server 0 <-> scheduler", "percent": 5})
    b.at(0)
    assert b.socket is not None
    b.socket.sendall(b'{"1": 3}\n{"1": 5}\n')
    b.at(1)
    b.socket.close()
    b.start("server 0")
    assert b.socket is not None
    b.socket.sendall(b'{"1": 2}\n')
    b.chaos.close()
    assert [c["messages"] for c in b.chaos.report()] == [7]


def test_full_disks_and_clocks_are_told_to_the_victim_alone(made: list[Bench]) -> None:
    events = [{"what": "full-disk", "who": "server 0"}, {"what": "clock-jump", "who": "server 0", "at_s": 1, "by_s": 9}]
    b = bench(made, *events)
    b.at(0)
    b.at(1)
    assert [(o["full_disk"], o["jumped_s"]) for o in orders(b)] == [(False, 0.0), (True, 0.0), (True, 9.0)]


def test_without_faults_inside_processes_none_is_prepared_for_them() -> None:
    b = Bench({"what": "kill", "who": "worker 1", "at_s": 12})
    assert b.chaos.equip("worker 0") == ({}, ()) and b.socket is None


def test_every_fault_is_in_the_event_log(made: list[Bench], tmp_path: Path) -> None:
    b = bench(made, {"what": "stop", "who": "server 0", "at_s": 1, "for_s": 1}, folder=str(tmp_path))
    for t in (0, 1, 2):
        b.at(t)
    b.chaos.close()
    events = [json.loads(line) for line in (tmp_path / "launcher.jsonl").read_text().splitlines()]
    assert [(e["event"], e["what"], e["who"]) for e in events] == [
        ("chaos", "stop", "server 0"),
        ("chaos is over", "stop", "server 0"),
    ]


def test_a_replica_that_takes_its_servers_place_is_met_under_its_new_name(made: list[Bench]) -> None:
    b = bench(made, {"what": "kill", "who": "server 0", "at_s": 1}, {"what": "drop", "who": "*", "percent": 1})
    replica = b.start("replica 0")
    b.children["server 0"].code = -9
    replica.name = "server 0"
    b.chaos.born(replica)
    b.at(0)
    b.at(1)
    assert replica.signals == [signal.SIGKILL] and b.signals("server 0") == []
    assert {r[3] for r in orders(b)[-1]["rules"]} == {"scheduler", "worker0", "worker1"}


def test_a_server_that_is_cut_off_from_a_replica_is_so_from_its_own() -> None:
    plan = parse_plan({"chaos": [{"what": "partition", "who": "replica 1", "at_s": 0, "for_s": 1}]})
    (fault,) = timetable(plan, Cast(1, 2, 2), 1)
    assert {r[3] for r in _rules(fault, "server 1")} == {"replica"}
    assert {r[3] for r in _rules(fault, "server 0")} == {"replica1"}  # which is the name of nobody
