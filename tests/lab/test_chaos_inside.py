"""What a process does to its own messages, disk and clock when it is told to."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.errors import CheckpointError, ConfigError, MembershipError
from shoal.kvstore.server.statefiles import StateFiles
from shoal.kvstore.wire.faults import faults
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Refused
from shoal.lab.chaos import inside
from shoal.lab.chaos.inside import Inside, Meddler
from shoal.lab.chaos.messages import REORDER_S, Interference, Rule
from shoal.scheduler.journal import Journal
from shoal.scheduler.log import Opened

PARTITION = Rule(1, "partition", "out", "server1", 0.0)


def answer(seq: int) -> Refused:
    return Refused(seq=seq, error="StoreError", text="")


class Wire:
    """A transport that keeps what it is to send, and gives what it was given."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.coming: list[Any] = []

    def send(self, peer: str, message: Any, *, stable: bool = True) -> None:
        self.sent.append((peer, message.seq))

    def poll(self, timeout_s: float, spins: bool = False) -> Iterator[Any]:
        self.waited_s = timeout_s
        coming, self.coming = self.coming, []
        yield from coming


class Inform(Inside):
    """An `Inside` whose launcher is this test."""

    def __init__(self) -> None:
        self.launcher, theirs = socket.socketpair()
        super().__init__(theirs, seed=0)

    def told(self, **order: Any) -> None:
        self.obey({"rules": [], "full_disk": False, "jumped_s": 0.0, **order})

    def close(self) -> None:
        self.launcher.close()
        self._control.close()


@pytest.fixture
def process() -> Iterator[Inform]:
    made = Inform()
    yield made
    made.close()


# --- messages ---------------------------------------------------------------------------------------------------------


def test_without_a_rule_nothing_is_done() -> None:
    assert Interference(0).fate("out", "server1") is None


def test_a_partition_loses_everything_one_way() -> None:
    cut = Interference(0)
    cut.use([PARTITION])
    assert [cut.fate("out", "server1") for _ in range(9)] == [()] * 9 and cut.counts == {1: 9}
    assert cut.fate("in", "server1") is None and cut.fate("out", "server0") is None
    cut.use([])
    assert cut.fate("out", "server1") is None


@pytest.mark.parametrize("what", ["drop", "duplicate", "reorder"])
def test_so_many_per_cent_of_the_messages_are_met(what: str) -> None:
    net = Interference(5)
    net.use([Rule(7, what, "in", "server0", 10.0)])
    fates = [net.fate("in", "server0") for _ in range(4000)]
    met = [f for f in fates if f != (0.0,)]
    assert len(met) == net.counts[7] and 0.08 < len(met) / 4000 < 0.12
    copies = {"drop": 0, "duplicate": 2, "reorder": 1}[what]
    assert all(f is not None and len(f) == copies and all(0 <= d <= REORDER_S for d in f) for f in met)


def test_what_becomes_of_the_nth_message_depends_on_the_seed_alone() -> None:
    def fates(seed: int) -> list[Any]:
        net = Interference(seed)
        net.use([Rule(1, "drop", "in", "server0", 50.0)])
        return [net.fate("in", "server0") for _ in range(64)]

    assert fates(1) == fates(1) != fates(2)


def test_rules_add_up() -> None:
    net = Interference(0)
    net.use([Rule(1, "delay", "out", "server0", 0.5), Rule(2, "duplicate", "out", "server0", 100.0)])
    found = net.fate("out", "server0")
    assert found is not None and len(found) == 2 and min(found) == 0.5


def test_messages_that_are_held_back_come_later_and_others_overtake_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(inside, "time", SimpleNamespace(monotonic=lambda: now[0]))
    wire: Any = Wire()
    fates = {("out", "late"): (0.02,), ("in", "late"): (0.02,)}
    Meddler(wire, lambda way, peer: fates.get((way, peer)))
    wire.send("late", answer(1))
    wire.send("server0", answer(2))
    wire.coming = [("late", answer(3)), ("server0", answer(4))]
    assert wire.sent == [("server0", 2)]
    assert [m.seq for _, m in wire.poll(1.0)] == [4]
    assert wire.waited_s == pytest.approx(0.02)
    now[0] += 0.01
    assert list(wire.poll(1.0)) == [] and wire.waited_s == pytest.approx(0.01)
    now[0] += 0.011
    assert [m.seq for _, m in wire.poll(1.0)] == [3] and wire.sent == [("server0", 2), ("late", 1)]


# --- what the launcher says -------------------------------------------------------------------------------------------


def test_messages_that_were_met_are_told_to_the_launcher(process: Inform) -> None:
    process.told(rules=[[1, "partition", "out", "server1", 0.0]])
    process._interference.fate("out", "server1")
    process.told()
    assert json.loads(process.launcher.recv(100)) == {"1": 1}


def test_a_clock_jumps_once_for_each_order(process: Inform) -> None:
    before = process.clock()
    process.told(jumped_s=30.0)
    process.told(jumped_s=30.0)
    assert 30 <= process.clock() - before < 60


def test_loops_take_the_clock_that_was_put_in(process: Inform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "clock", process.clock)
    loop: Any = Loop(Wire(), {})  # type: ignore[arg-type]
    process.told(jumped_s=50.0)
    before, told = process.clock(), loop.clock()
    assert before <= told <= process.clock()


def test_on_a_full_disk_no_snapshot_is_written_and_later_one_is(
    process: Inform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(faults, "writing", process.writing)
    files = StateFiles(tmp_path)
    process.told(full_disk=True)
    with pytest.raises(CheckpointError, match="No space left on device"):
        files.write({}, [], {})
    process.told()
    assert files.write({}, [], {}) == 0 and files.number == 1


def test_on_a_full_disk_the_scheduler_stops_and_its_log_is_as_it_was(
    process: Inform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(faults, "writing", process.writing)
    journal = Journal(str(tmp_path))
    journal.append([Opened("a", 0)])
    process.told(full_disk=True)
    with pytest.raises(MembershipError, match="No space left on device"):
        journal.append([Opened("a", 1)])
    journal.close()
    process.told()
    again = Journal(str(tmp_path))
    assert again.records == [Opened("a", 0)]
    again.close()


@pytest.mark.parametrize("text", ["", "x 0", "99999 0", "0 x"])
def test_a_variable_that_no_launcher_has_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="only `shoal run --chaos` can set"):
        inside.attach(text)


def test_nothing_is_put_in_unless_somebody_asks() -> None:
    assert faults.transport is None and faults.writing is None and faults.clock.__name__ == "monotonic"
