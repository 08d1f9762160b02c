"""A scheduler that runs by itself tells how the run is going."""

from typing import cast

from shoal.kvstore.wire.messages import Join, Snapshot
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.shell import PROGRESS_S, SchedulerShell


class Mute:
    """A transport that reaches nobody."""

    def send(self, to: str, message: Message) -> None:
        """Nobody hears it."""


def member(role: str) -> Join:
    return Join(role=role, rank=-1, token=role, address="", host="h", pid=1, version="")


def test_progress_is_shown_while_the_run_runs_and_not_too_often() -> None:
    seen: list[Snapshot] = []
    core = SchedulerCore(SchedulerConfig(1, 1))
    shell = SchedulerShell(cast(Transport, Mute()), core, on_end=lambda: None, on_progress=seen.append)
    shell.wake(0.0)
    shell.receive("s", member("server"), 0.1)
    shell.wake(0.2)
    assert not seen  # nothing to tell before the run has begun
    shell.receive("w", member("worker"), 0.3)
    for now in (0.4, 0.41, 0.4 + PROGRESS_S / 2, 0.4 + PROGRESS_S, 0.4 + PROGRESS_S * 1.5):
        shell.wake(now)
    assert [s.phase for s in seen] == ["running", "running"]
