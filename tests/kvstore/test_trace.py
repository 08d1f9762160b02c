"""What a process records of itself, and where it leaves it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.eventlog import event
from shoal.kvstore.events import Apply, Contribution
from shoal.kvstore.trace import recorder as tracing
from shoal.kvstore.trace.fields import Fields, fields_of
from shoal.kvstore.trace.recorder import Recorder
from shoal.kvstore.trace.tap import TracedTransport, open_transport, traced_apply
from shoal.kvstore.trace.window import LATEST, Window, parse_steps, parse_time
from shoal.kvstore.wire.keys import LOOPBACK
from shoal.kvstore.wire.messages import Done, Hello, Push
from shoal.kvstore.wire.schema import KINDS
from shoal.kvstore.wire.transport import Transport


class Clock:
    """Says what it is told to, a second later each time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def recorder(tmp_path: Path, role: str = "worker", window: Window | None = None) -> Recorder:
    return Recorder(str(tmp_path), role, window, Clock())


def push(clock: int = 3) -> Push:
    value = as_payload(np.zeros(4, np.float32))
    return Push(worker=1, incarnation=1, seq=9, slice=5, clock=clock, pulled=2, want=True, value=value)


def test_windows_are_said_as_two_numbers() -> None:
    assert parse_steps("10:30").holds(10) and not parse_steps("10:30").holds(30)
    assert parse_steps(":30").holds(0) and parse_time("2.5:").holds(1e9)
    for wrong in ("10", "30:10", "a:b", "-1:4", "1:2:3"):
        with pytest.raises(ConfigError, match="--trace-steps is A:B"):
            parse_steps(wrong)


def test_of_a_message_only_numbers_are_kept() -> None:
    assert fields_of(push()) == Fields("Push", 1, 5, 3, 9, 2, 16)
    for cls in KINDS.values():
        assert all(isinstance(hint, int | str) for hint in Fields(cls.__name__))


def test_the_ring_keeps_the_latest(tmp_path: Path) -> None:
    r = recorder(tmp_path)
    for i in range(LATEST + 5):
        r.add(("note", i, i, "x", "", {}))
    assert len(r.records) == LATEST and r.records[0][1] == 5
    path = r.finish()
    assert json.loads(Path(path).read_text())["forgotten"] == 5
    assert r.finish() == "", "it is written once"


def test_a_worker_records_the_steps_that_are_asked_for(tmp_path: Path) -> None:
    r = recorder(tmp_path, window=parse_steps("2:3"))
    for r.step in range(5):
        r.stretch("forward", 1.0 + r.step, 1.5 + r.step)
    assert [record[1] for record in r.records] == [3.0]


def test_a_server_goes_by_the_clocks_of_contributions(tmp_path: Path) -> None:
    r = recorder(tmp_path, "server", parse_steps("2:4"))
    applied: list[Apply] = []
    carry_out = traced_apply(applied.append, r)
    for clock in range(6):
        carry_out(Apply(5, (Contribution(0, clock, 0),), "mean", clock + 1))
    assert len(applied) == 6 and [record[4] for record in r.records] == [3, 4]


def test_what_a_replica_applies_is_not_drawn_twice(tmp_path: Path) -> None:
    r, muted = recorder(tmp_path, "server"), [True]
    carry_out = traced_apply(lambda a: None, r, lambda: not muted[0])
    for clock in range(3):
        muted[0] = clock < 2
        carry_out(Apply(5, (Contribution(0, clock, 0),), "mean", clock + 1))
    assert [record[4] for record in r.records] == [3]


def test_seconds_count_from_the_beginning_of_the_process(tmp_path: Path) -> None:
    r = recorder(tmp_path, window=parse_time("2:4"))
    assert [r.admits() for _ in range(5)] == [False, True, True, False, False]


def test_what_cannot_be_said_at_the_end_does_not_lose_the_rest(tmp_path: Path) -> None:
    r = recorder(tmp_path)
    r.about = lambda: {"rank": 1 // 0}
    part = json.loads(Path(r.finish()).read_text())
    assert part["rank"] == -1 and "ZeroDivisionError" in part["incomplete"]


def test_a_directory_that_cannot_be_written_is_said_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert Recorder(str(tmp_path / "file"), "worker").finish() == ""
    assert "cannot be written" in caplog.text


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Recorder]:
    yield tracing.begin(str(tmp_path), "worker")
    tracing.finish()
    assert tracing.current() is None


def test_without_a_trace_transports_are_plain() -> None:
    transport = open_transport("worker")
    try:
        assert type(transport) is Transport
    finally:
        transport.close()


def test_decisions_in_the_log_are_notes_of_the_trace(traced: Recorder) -> None:
    tracing.log.debug("a detail")
    tracing.log.info("worker 1 joined", extra=event("joined", "there was a place", node="worker 1"))
    ((sort, _, _, name, reason, fields),) = traced.records
    assert (sort, name, reason, fields) == ("note", "joined", "there was a place", {"node": "worker 1"})


@pytest.mark.net
def test_messages_are_recorded_where_they_are_sent_and_taken(tmp_path: Path) -> None:
    here, there = Recorder(str(tmp_path), "server"), Recorder(str(tmp_path), "worker")
    server = TracedTransport("server", LOOPBACK, "store", here)
    worker = TracedTransport("worker", LOOPBACK, "store", there)
    try:
        worker.connect("server0", f"127.0.0.1:{server.bind('127.0.0.1')}")
        worker.send("server0", Hello(cluster="c", worker=1, incarnation=1))
        worker.send("server0", push())
        answered = 0
        while answered < 2:
            for peer, message in server.poll(1.0):
                if isinstance(message, Push):
                    server.send(peer, Done(seq=9))
                answered += 1
        while not [m for _, m in worker.poll(1.0) if isinstance(m, Done)]:
            pass
    finally:
        worker.close()
        server.close()
    assert [(r[0], r[5]) for r in there.records] == [("sent", "Hello"), ("sent", "Push"), ("taken", "Done")]
    assert [(r[0], r[5]) for r in here.records] == [("taken", "Hello"), ("sent", "Done"), ("taken", "Push")]
    (_, sent), (_, taken) = [(r[0], r) for r in here.records][1:]
    assert taken[1] <= sent[1] <= sent[2] <= taken[2], "the answer lies within"
    assert set(here.transports.values()) == {"store"}
