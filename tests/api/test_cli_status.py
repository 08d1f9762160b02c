"""What ``shoal status`` and ``shoal top`` find, print, and exit with."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from shoal.board import WIDTH, board
from shoal.cli import main
from shoal.kvstore.wire.messages import NodeStatus, Snapshot, Wait
from shoal.scheduler.address import record_address
from tests.scheduler.cluster import Cluster


def worker(rank: int, state: str = "running", silent_s: float = 0.2) -> NodeStatus:
    status = {
        "steps": 123_456_789,
        "samples_per_s": 1_234_567.0,
        "staleness": 12.345,
        "bytes_pushed": 999_900_000_000,
        "bytes_pulled": 12_300_000,
        "in_flight": 1234,
        "waits": [],
    }
    return NodeStatus(
        role="worker",
        rank=rank,
        incarnation=1,
        host="node-17",
        pid=4_194_304,
        state=state,
        silent_s=silent_s,
        status=status,
        report=None,
        address="192.168.100.100:65535",
        age_s=86_399.0,
    )


def snapshot(phase: str = "running", **more: object) -> Snapshot:
    base: dict[str, object] = {"cluster": "c0ffee00", "mode": "bsp", "reason": "", "culprit": "", "missing": ()}
    return Snapshot(phase=phase, nodes=(worker(0), worker(11, "lost", 12.0)), **(base | more))  # type: ignore[arg-type]


def shown(s: Snapshot) -> str:
    console = Console(width=WIDTH, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(board(s, members=True))
        return console.export_text()


def test_the_board_fits_its_width_with_large_numbers() -> None:
    wait = Wait(what="value of 'layer0.weight' at clock 7", who=("worker 0",), on=("worker 11",), for_s=12.3)
    text = shown(snapshot(waits=(wait,), idle_s=12.0, generation=7))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= WIDTH
    for part in (
        "worker 11",
        "lost",
        "123.46M",
        "1.23M",
        "12.35",
        "23h59m",
        "4194304",
        "192.168.100.100:65535",
        "worker 0 has waited 12 s for",
    ):
        assert part in text
    assert "nobody has got on for 12 s" in text


def test_many_waits_are_counted() -> None:
    waits = tuple(Wait(what="x", who=(f"worker {i}",), on=("server 0",), for_s=1.0) for i in range(20))
    assert "and 8 waits more" in shown(snapshot(waits=waits))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def test_status_shows_everybody(cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cluster.running()
    assert main(["status", "--scheduler", cluster.address]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("worker 0", "worker 1", "server 0", "running"))
    record_address(str(tmp_path), cluster.address)
    assert main(["status", "--run-dir", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["phase"] == "running" and [n["role"] for n in told["nodes"]] == ["server", "worker", "worker"]


def test_top_without_a_terminal_shows_it_once(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.running()
    monkeypatch.setenv("SHOAL_SCHEDULER", cluster.address)
    assert main(["top"]) == 0
    assert "worker 1" in capsys.readouterr().out


def test_nobody_is_drained_where_no_scheduler_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.scheduler.watch.snapshot_of", lambda *_, **__: None)
    assert main(["drain", "server", "0", "--scheduler", "127.0.0.1:1"]) == 2
    assert "shoal drain: no scheduler answers at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "top"])
def test_where_no_scheduler_answers_the_exit_code_is_2(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.observing.ANSWER_S", 0.05)
    assert main([command, "--scheduler", "127.0.0.1:1"]) == 2
    assert f"shoal {command}: no scheduler answers at 127.0.0.1:1" in capsys.readouterr().err


def test_a_directory_that_is_no_runs_is_said_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["status", "--run-dir", str(tmp_path / "none")]) == 2
    assert "expected the directory that was given to shoal run --run-dir" in capsys.readouterr().err
