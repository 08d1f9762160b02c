"""``shoal doctor --role``, and processes that a supervisor starts again."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shoal import returning
from shoal.cli import main
from shoal.commands.probing import judge
from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.returning import former
from shoal.scheduler import signals
from tests.patience import RUN_S

HERE = socket.gethostname()
NOBODY = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
DEAD = int(NOBODY.stdout)


def node(
    role: str = "server", rank: int = 0, state: str = "running", silent_s: float = 1.0, **also: object
) -> NodeStatus:
    told = {"host": "h", "pid": 6, **also}
    return NodeStatus(
        role=role, rank=rank, incarnation=1, state=state, silent_s=silent_s, status=None, report=None, **told
    )


def snapshot(*nodes: NodeStatus, phase: str = "running") -> Snapshot:
    return Snapshot(phase=phase, cluster="c1", mode="", reason="", culprit="", missing=(), nodes=nodes)


def verdict(found: Snapshot | None, role: str, kind: str, rank: int = -1) -> bool:
    return judge(found, role, kind, rank=rank, host="h", why="no scheduler answers").state == "ok"


@pytest.mark.parametrize(
    ("phase", "well"), [("gathering", True), ("running", True), ("finished", True), ("failed", False)]
)
@pytest.mark.parametrize("kind", ["ready", "live"])
def test_a_scheduler_is_well_while_it_answers_and_its_run_has_not_failed(phase: str, well: bool, kind: str) -> None:
    assert verdict(snapshot(phase=phase), "scheduler", kind) is well


def test_a_scheduler_that_does_not_answer_is_neither_ready_nor_live() -> None:
    assert not verdict(None, "scheduler", "ready") and not verdict(None, "scheduler", "live")


def test_without_a_scheduler_nobody_is_ready_and_nobody_is_killed_for_it() -> None:
    assert not verdict(None, "server", "ready") and verdict(None, "server", "live")


def test_a_server_is_ready_when_it_has_joined_and_live_before() -> None:
    assert not verdict(snapshot(), "server", "ready") and verdict(snapshot(), "server", "live")
    assert verdict(snapshot(node()), "server", "ready")


def test_a_process_that_is_silent_for_longer_than_its_lease_is_neither() -> None:
    silent = snapshot(node(silent_s=11.0))
    assert not verdict(silent, "server", "ready") and not verdict(silent, "server", "live")


def test_a_process_that_is_done_is_live_and_takes_no_part() -> None:
    done = snapshot(node("worker", state="done", silent_s=99.0))
    assert verdict(done, "worker", "live") and not verdict(done, "worker", "ready")


def test_a_replica_that_is_being_filled_is_live_and_not_ready() -> None:
    filling = snapshot(node("replica", state="filling"))
    assert verdict(filling, "replica", "live") and not verdict(filling, "replica", "ready")


def test_the_process_is_the_one_of_this_host_or_of_this_rank() -> None:
    found = snapshot(node(rank=0, silent_s=99.0, host="other"), node(rank=1))
    assert verdict(found, "server", "live") and verdict(found, "server", "live", rank=1)
    assert not verdict(found, "server", "live", rank=0) and not verdict(found, "worker", "ready")


def test_of_several_on_one_host_the_worst_counts() -> None:
    assert not verdict(snapshot(node(rank=0), node(rank=1, silent_s=11.0)), "server", "live")


def probe(*words: str) -> int:
    return main(["doctor", *words, "--answer-s", "0.05"])


@pytest.mark.net
def test_the_exit_code_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SCHEDULER", "127.0.0.1:1")
    assert probe("--role", "server") == 1 and probe("--role", "server", "--probe", "live") == 0
    assert "no scheduler answers at 127.0.0.1:1" in capsys.readouterr().out


def test_a_process_that_stays_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "done"
    monkeypatch.setenv("SHOAL_STAY", str(marker))
    marker.write_text("")
    assert probe("--role", "scheduler", "--probe", "live") == 0


def test_an_unknown_role_is_refused() -> None:
    assert main(["doctor", "--role", "boss"]) == 2


# --- coming back ------------------------------------------------------------------------------------------------------


def test_a_process_takes_the_place_of_the_one_that_died_on_its_host() -> None:
    dead = node("worker", 3, host=HERE, pid=DEAD)
    assert former((node("worker", 1, host="other"), dead), "worker") is dead


def test_it_takes_no_place_of_one_that_lives() -> None:
    assert former((node("worker", 0, host=HERE, pid=os.getppid()),), "worker") is None


def test_a_process_with_the_same_number_in_a_container_that_was_started_again_is_dead() -> None:
    before = node("worker", 0, host=HERE, pid=os.getpid())
    assert former((before,), "worker") is before


@pytest.mark.parametrize("state", returning.GONE)
def test_it_takes_no_place_of_one_that_is_gone(state: str) -> None:
    assert former((node("worker", 0, state, host=HERE, pid=DEAD),), "worker") is None


def test_where_two_have_died_on_a_host_nobody_guesses() -> None:
    two = tuple(node("worker", rank, host=HERE, pid=DEAD) for rank in (0, 1))
    assert former(two, "worker") is None


def test_a_process_with_a_rank_takes_that_one_on_whatever_host_it_was() -> None:
    there = node("server", 1, host="gone")
    assert former((node("server", 0), there), "server", 1) is there


def options(**also: object) -> argparse.Namespace:
    made = {"comes_back": True, "replaces": False, "rank": -1, "command": "server", "state": "d", "scheduler": "s:1"}
    return argparse.Namespace(**{**made, **also})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Snapshot | None]:
    """What the scheduler answers."""
    found: list[Snapshot | None] = [snapshot(node("server", 2, host=HERE, pid=DEAD))]
    monkeypatch.setattr("shoal.scheduler.watch.snapshot_of", lambda *a: found[0])
    return found


@pytest.mark.usefixtures("run")
def test_the_options_become_those_of_a_replacement() -> None:
    o = options()
    returning.take_back(o, None)  # type: ignore[arg-type]
    assert (o.rank, o.replaces) == (2, True)


@pytest.mark.usefixtures("run")
def test_a_server_without_snapshots_comes_as_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    o = options(state="")
    returning.take_back(o, None)  # type: ignore[arg-type]
    assert (o.rank, o.replaces) == (-1, False) and "kept no snapshots" in caplog.text


def test_before_the_run_begins_and_without_a_scheduler_it_just_joins(run: list[Snapshot | None]) -> None:
    for answer in (None, replace(snapshot(node("server", 2, host=HERE, pid=DEAD)), phase="gathering")):
        run[0] = answer
        o = options()
        returning.take_back(o, None)  # type: ignore[arg-type]
        assert not o.replaces


# --- staying ----------------------------------------------------------------------------------------------------------


def test_one_that_failed_or_was_told_to_end_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_STAY", str(tmp_path / "done"))
    assert returning.stay(1) == 1
    monkeypatch.setattr(signals, "arrived", {signal.SIGTERM})
    assert returning.stay(0) == 0 and not (tmp_path / "done").exists()


def test_one_that_stays_ends_when_it_is_told_to(tmp_path: Path) -> None:
    marker = tmp_path / "done"
    code = "from shoal.returning import stay; import sys; sys.exit(stay(0))"
    env = {**os.environ, "SHOAL_STAY": str(marker)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    while not marker.exists():
        assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.terminate()
    assert process.wait(RUN_S) == 0 and not marker.exists()
