"""What a process does to itself when a container's variables ask for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shoal import disturbing
from shoal.errors import ConfigError
from shoal.kvstore.wire.faults import faults
from shoal.lab.chaos.alone import MAX_PEERS, Alone, attach_alone, parse_alone
from tests.patience import RUN_S


@pytest.fixture(autouse=True)
def _calm_again() -> Iterator[None]:
    before = faults.transport
    yield
    faults.transport = before


def test_the_words_are_those_of_the_class() -> None:
    assert parse_alone("self: drop=2 kill_s=30 seed=7") == Alone(drop=2, kill_s=30, seed=7)
    assert parse_alone("self:") == Alone()


@pytest.mark.parametrize("word", ["dorp=2", "drop=many", "drop=-1", "drop", "delay_s=inf"])
def test_a_word_that_makes_no_sense_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=NUMBER"):
        parse_alone(f"self: {word}")


def test_messages_with_servers_are_interfered_with_both_ways_and_those_with_the_scheduler_are_not() -> None:
    rules = Alone(drop=2, delay_s=0.1).rules()
    assert len(rules) == 2 * 2 * MAX_PEERS and {r.way for r in rules} == {"in", "out"}
    assert all(r.peer.startswith("server") for r in rules) and {r.what for r in rules} == {"drop", "delay"}


def test_nothing_is_put_in_where_nothing_is_asked_for() -> None:
    attach_alone("self: seed=1")
    assert faults.transport is None


def test_the_variable_is_understood_and_does_not_reach_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(disturbing.VARIABLE, "self: drop=1")
    disturbing.attach()
    assert faults.transport is not None and disturbing.VARIABLE not in os.environ


def run(text: str, script: str) -> int:
    code = f"from shoal.lab.chaos.alone import attach_alone\nattach_alone({text!r})\n{script}"
    return subprocess.run([sys.executable, "-c", code], timeout=RUN_S).returncode


def test_it_kills_itself_as_kill_9_does() -> None:
    assert run("self: kill_s=0.01", "import threading; threading.Event().wait(3600)") == -signal.SIGKILL


def test_it_stands_still_and_goes_on() -> None:
    wait = "import time\nfor _ in range(40): time.sleep(0.01)"
    assert run("self: stop_s=0.05 every_s=0.1", wait) == 0
