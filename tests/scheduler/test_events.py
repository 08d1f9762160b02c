"""The event log: one line of JSON for every decision, with its reason."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.eventlog import EventHandler, event, identify, keep_events
from shoal.kvstore.wire.messages import Barrier, Goodbye, Join
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.log import Reshared
from shoal.scheduler.shell import SchedulerShell
from shoal.scheduler.stalls import Stall
from shoal.scheduler.telling import tell, tell_stall
from tests.scheduler.helpers import join

Kept = Callable[[str], EventHandler]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Keeps events as `keep_events` does, and no longer than a test."""
    ours, root = logging.getLogger("shoal"), logging.getLogger()
    level, levels, made = ours.level, [(h, h.level) for h in root.handlers], []

    def keep(place: str, role: str = "scheduler", rank: int = 0) -> EventHandler:
        made.append(keep_events(place, role, rank))
        return made[-1]

    yield keep
    ours.setLevel(level)
    for handler, before in levels:
        handler.setLevel(before)
    for handler in made:
        ours.removeHandler(handler)
        handler.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Mute:
    """A transport that reaches nobody."""

    def send(self, to: str, message: Message) -> None:
        """Nobody hears it."""


def test_every_decision_of_the_scheduler_is_an_event_with_a_reason(kept: Kept, tmp_path: Path) -> None:
    kept(str(tmp_path))
    core = SchedulerCore(SchedulerConfig(2, 1, version="1"))
    shell = SchedulerShell(cast(Transport, Mute()), core, on_end=lambda: None)
    shell.wake(0.0)
    told: list[tuple[str, Message]] = [
        ("s", join("server", "s")),
        ("w0", join("worker", "w0")),
        ("x", join("worker", "x", version="2")),
        ("w1", join("worker", "w1")),
        ("w0", Barrier(name="e", index=0)),
        ("w1", Barrier(name="e", index=0)),
        ("w0", Goodbye(failed="", report={})),
        ("w1", Goodbye(failed="ran out of data", report={})),
    ]
    for sender, message in told:
        shell.receive(sender, message, 1.0)
    found = lines(tmp_path / "scheduler.jsonl")
    names = [e["event"] for e in found]
    assert names == ["joined"] * 2 + ["refused", "joined", "begun", "barrier released", "left", "failed", "aborted"]
    assert all(e["reason"] and e["role"] == "scheduler" and e["time"] > 0 for e in found)
    assert found[2]["error"] == "JoinRefusedError" and "install one version" in found[2]["reason"]
    assert found[-1]["reason"] == "ran out of data" and found[-1]["culprit"].startswith("worker 1")


def test_a_repeated_refusal_is_told_once(kept: Kept, tmp_path: Path) -> None:
    kept(str(tmp_path))
    core = SchedulerCore(SchedulerConfig(1, 1, version="1"))
    shell = SchedulerShell(cast(Transport, Mute()), core, on_end=lambda: None)
    stranger: Join = join("worker", "x", version="2")
    for _ in range(5):
        shell.receive("x", stranger, 1.0)
    assert [e["event"] for e in lines(tmp_path / "scheduler.jsonl")] == ["refused"]


def test_a_stall_is_an_event_that_names_who_is_waited_for(kept: Kept, tmp_path: Path) -> None:
    kept(str(tmp_path / "all.jsonl"))
    tell_stall(Stall(61.5, "nobody has got on", ("worker 2",)))
    tell_stall(Stall(70.0, "the run gets on again", over=True))
    first, second = lines(tmp_path / "all.jsonl")
    assert (first["event"], first["idle_s"], first["waited_for"]) == ("stalled", 61.5, ["worker 2"])
    assert second["event"] == "goes on"


@pytest.mark.parametrize(("ranks", "said"), [((0, 1, 2), False), ((0, 2), True)])
def test_a_run_that_becomes_too_small_for_its_gate_says_so_and_goes_on(
    ranks: tuple[int, ...], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    core = SchedulerCore(SchedulerConfig(3, 1, version="1", mode="backup:2"))
    with caplog.at_level(logging.WARNING):
        tell(Reshared(1, ranks, {}, {}), core)
    assert ("without the slowest 2, and with at least one other, but the run has 2 workers" in caplog.text) == said
    assert ("its rounds take those who are there" in caplog.text) == said


def test_processes_have_files_of_their_own_or_share_one(kept: Kept, tmp_path: Path) -> None:
    assert kept(str(tmp_path), "worker", 1).path == str(tmp_path / "worker-1.jsonl")
    assert "worker-pid" in kept(str(tmp_path), "worker", -1).path
    one, two = kept(str(tmp_path / "x.jsonl"), "server", 0), kept(str(tmp_path / "x.jsonl"), "worker", 3)
    assert one.path == two.path
    logging.getLogger("shoal.test").info("both")
    assert sorted((e["role"], e["rank"]) for e in lines(tmp_path / "x.jsonl")) == [("server", 0), ("worker", 3)]


def test_details_without_a_name_are_left_out_and_fields_replace_nothing(kept: Kept, tmp_path: Path) -> None:
    kept(str(tmp_path / "x.jsonl"), "worker", -1)
    identify(4)
    log = logging.getLogger("shoal.test")
    log.debug("a detail")
    log.debug("a decision", extra=event("decided", "it had to be", rank="forged", n=1, odd={1, 2}.__class__))
    (told,) = lines(tmp_path / "x.jsonl")
    assert (told["event"], told["reason"], told["rank"], told["n"]) == ("decided", "it had to be", 4, 1)


def test_the_terminal_shows_no_more_than_before(kept: Kept, tmp_path: Path) -> None:
    seen: list[str] = []
    shown, root = logging.Handler(), logging.getLogger()
    shown.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(shown)
    try:
        kept(str(tmp_path / "x.jsonl"))
        logging.getLogger("shoal.test").debug("hidden", extra=event("decided", "why"))
    finally:
        root.removeHandler(shown)
    assert seen == [] and [e["event"] for e in lines(tmp_path / "x.jsonl")] == ["decided"]


def test_a_place_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        keep_events(str(tmp_path / "file"), "worker", 1)


def test_a_full_disk_is_said_once(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("there is no /dev/full")
    handler = kept(str(tmp_path))
    os.close(handler._fd)
    handler._fd = os.open("/dev/full", os.O_WRONLY)
    for _ in range(3):
        logging.getLogger("shoal.scheduler").warning("something")
    err = capsys.readouterr().err
    assert err.count("has gaps: No space left on device") == 1 and "Traceback" not in err
