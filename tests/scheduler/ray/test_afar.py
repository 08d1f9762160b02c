"""A run that an actor watches over, for a launcher that is outside of the cluster."""

import threading
from collections.abc import Callable

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.job import OnLine, OnSnapshot, Outcome
from shoal.scheduler.ray.afar import Overseer, follow
from tests.patience import PATIENCE_S


def snapshot(phase: str) -> Snapshot:
    return Snapshot(phase=phase, cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=())


def test_lines_states_and_the_end_are_handed_on() -> None:
    def launch(on_line: OnLine, on_snapshot: OnSnapshot, stop: list[Callable[[int], None]]) -> Outcome:
        on_snapshot(snapshot("running"))
        for i in range(3):
            on_line("worker 0", "stdout", f"line {i}")
        on_snapshot(snapshot("finished"))
        return Outcome(0, "", snapshot("finished"))

    seer, lines, looks = Overseer(launch), [], []
    outcome = follow(seer.news, seer.stop, lambda *line: lines.append(line), lambda s: looks.append(s.phase))
    assert (outcome.code, looks[-1]) == (0, "finished")
    assert lines == [("worker 0", "stdout", f"line {i}") for i in range(3)]


def test_what_is_wrong_with_a_run_is_wrong_here() -> None:
    def launch(on_line: OnLine, on_snapshot: OnSnapshot, stop: list[Callable[[int], None]]) -> Outcome:
        raise ConfigError("there is no room")

    seer = Overseer(launch)
    with pytest.raises(ConfigError, match="there is no room"):
        follow(seer.news, seer.stop, lambda *line: None, lambda s: None)


def test_a_run_can_be_stopped_from_afar() -> None:
    stopped = threading.Event()
    numbers: list[int] = []

    def launch(on_line: OnLine, on_snapshot: OnSnapshot, stop: list[Callable[[int], None]]) -> Outcome:
        stop.append(lambda number: (numbers.append(number), stopped.set()))
        on_line("shoal run", "stderr", "begun")
        assert stopped.wait(PATIENCE_S)
        return Outcome(128 + numbers[0], "stopped by SIGTERM", None)

    seer = Overseer(launch)
    outcome = follow(seer.news, seer.stop, lambda *line: seer.stop(15), lambda s: None)
    assert outcome == Outcome(143, "stopped by SIGTERM", None)
