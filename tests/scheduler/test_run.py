"""What a launcher makes of the ways in which processes end."""

import signal
import sys
from typing import cast

import pytest

from shoal.scheduler.attend import Order
from shoal.scheduler.disturb import Calm
from shoal.scheduler.hosts import Host
from shoal.scheduler.job import JobConfig
from shoal.scheduler.machines import Machines, Process
from shoal.scheduler.reach import LOST, Ssh
from shoal.scheduler.remote import RemoteProcess
from shoal.scheduler.run import Run


class Ended(Ssh):
    """Exits at once, with this code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def command(self, host: Host) -> list[str]:
        """A program that does."""
        return [sys.executable, "-c", f"raise SystemExit({self.code})"]


@pytest.mark.parametrize(("code", "says"), [(3, 3), (128 + signal.SIGTERM, 143), (0, 0), (137, 0), (LOST, 0)])
def test_a_run_fails_with_the_code_of_who_is_to_blame_if_that_process_chose_one(code: int, says: int) -> None:
    """Whoever was killed, or has lost its connection, chose none."""
    process = RemoteProcess("worker 0", "worker 0", Host("h"), Ended(code), Order([]))
    run = Run(JobConfig(__file__), cast("Machines", None), lambda *_: None, lambda _: None, Calm())
    try:
        assert run._code_of([cast("Process", process)]) == says
    finally:
        process.reap()
        for pipe in process.streams.values():
            pipe.close()
