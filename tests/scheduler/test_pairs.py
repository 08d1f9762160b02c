"""Servers and their replicas as the launcher sees them, told by snapshots that may be older than what happens."""

import os
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from shoal.kvstore.wire.messages import Lost, NodeStatus, Snapshot
from shoal.scheduler.child import Child
from shoal.scheduler.pairs import Pairs


def node(role: str, pid: int, host: str = socket.gethostname()) -> NodeStatus:
    return NodeStatus(
        role=role, rank=0, incarnation=1, host=host, pid=pid, state="running", silent_s=0.0, status={}, report=None
    )


class Launcher:
    def __init__(self) -> None:
        self.started: list[Child] = []
        self.children: list[Child] = []
        self.process("server 0")
        self.told: list[Lost] = []
        self.said: list[str] = []
        self.pairs = Pairs(
            self.children, 1, self.start, self.told.append, self.said.append, lambda child: None, lambda: 0.0
        )
        self.pairs.begin()
        self.server, self.replica = self.children

    def process(self, name: str) -> Child:
        child = Child(name, [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ))
        self.started.append(child)
        self.children.append(child)
        return child

    def start(self, rank: int, home: int) -> Child:
        return self.process(f"replica {rank}")

    def turn(self, *nodes: tuple[str, Child]) -> None:
        known = tuple(node(role, child.pid) for role, child in nodes)
        nodes = (*known, node("worker", 1))
        s = Snapshot(phase="running", cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=nodes)
        self.pairs.turn(s)

    def kill(self, child: Child) -> None:
        child.signal(9)
        while child.poll() is None:
            time.sleep(0.001)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    for child in made.started:
        child.reap()
        for stream in child.streams.values():
            stream.close()


def test_of_a_server_that_dies_the_scheduler_is_told(launcher: Launcher) -> None:
    launcher.kill(launcher.server)
    launcher.turn(("server", launcher.server), ("replica", launcher.replica))
    assert [(m.role, m.rank, m.pid) for m in launcher.told] == [("server", 0, launcher.server.pid)]
    assert launcher.children == [launcher.replica]


def test_a_replica_that_the_last_snapshot_does_not_know_may_take_the_place_all_the_same(launcher: Launcher) -> None:
    launcher.kill(launcher.server)
    launcher.turn(("server", launcher.server))
    assert launcher.children == [launcher.replica] and launcher.told
    launcher.turn(("server", launcher.replica))
    assert launcher.replica.name == "server 0"


def test_if_nobody_takes_its_place_a_server_is_dead(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.pairs.DOUBT_S", 0.0)
    launcher.kill(launcher.server)
    launcher.turn(("server", launcher.server))
    assert launcher.server in launcher.children
    assert "cannot take its place" in launcher.said[-1]


def test_a_replica_that_dies_in_the_place_of_the_server_is_a_server_that_has_died(launcher: Launcher) -> None:
    launcher.kill(launcher.server)
    launcher.turn(("server", launcher.server), ("replica", launcher.replica))
    launcher.kill(launcher.replica)
    launcher.turn(("server", launcher.server), ("replica", launcher.replica))
    assert launcher.children == []  # nobody takes it for a worker meanwhile
    launcher.turn(("server", launcher.replica))
    assert [str(c) for c in launcher.children] == [f"server 0 (pid {launcher.replica.pid})"]


def test_if_both_die_at_once_the_server_is_dead(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.pairs.DOUBT_S", 0.0)
    launcher.kill(launcher.server)
    launcher.kill(launcher.replica)
    for _ in range(2):
        launcher.turn(("server", launcher.server))
    assert launcher.children == [launcher.server]
