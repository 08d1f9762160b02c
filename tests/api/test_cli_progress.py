"""What a person sees while a run goes on."""

import io
from typing import Any

import pytest
from rich.console import Console

from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.progress import PATIENCE_S, Display, epoch_line, prefix, progress_table


def node(rank: int, role: str = "worker", state: str = "running", silent_s: float = 0.0, **status: Any) -> NodeStatus:
    return NodeStatus(
        role=role,
        rank=rank,
        incarnation=1,
        host="h",
        pid=1,
        state=state,
        silent_s=silent_s,
        status=status or None,
        report=None,
    )


def snapshot(*nodes: NodeStatus, phase: str = "running", missing: tuple[str, ...] = (), mode: str = "bsp") -> Snapshot:
    return Snapshot(phase=phase, cluster="c", mode=mode, reason="", culprit="", missing=missing, nodes=nodes)


def shown(what: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(what)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_line_is_about_the_slowest_worker() -> None:
    fast = node(0, epoch=4, epochs=9, loss=0.1, samples_per_s=100.0)
    slow = node(1, epoch=3, epochs=9, loss=0.3, samples_per_s=50.0, staleness=1.5)
    assert epoch_line(snapshot(fast, slow)) == "epoch 3/9: loss 0.2, 150 samples/s, staleness 1.50"


def test_there_is_no_line_before_everybody_has_an_epoch() -> None:
    assert epoch_line(snapshot(node(0, epoch=1), node(1))) == ""
    assert epoch_line(snapshot(node(0, step=5))) == ""


def test_who_is_missing_is_said() -> None:
    gathering = snapshot(node(0), phase="gathering", missing=("server 0", "worker 1"))
    assert epoch_line(gathering) == "1/3 joined, waiting for server 0, worker 1"
    assert "waiting for server 0, worker 1" in shown(progress_table(gathering))


def test_a_table_has_a_row_for_each_worker_and_a_line_about_the_servers() -> None:
    first = node(0, epoch=1, epochs=3, step=7, loss=0.5, accuracy=0.9, samples_per_s=1234.5, staleness=0.25)
    text = shown(progress_table(snapshot(node(0, "server"), first, node(1, state="done"))))
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "1/3", "7", "0.5000", "0.9000", "1,234", "0.25", "running"] in rows
    assert ["1", "done"] in rows
    assert "servers: 0 running   mode: sync" in text


def test_a_worker_that_is_silent_is_shown_as_such() -> None:
    assert "silent for 7 s" in shown(progress_table(snapshot(node(0, silent_s=7.2))))


@pytest.mark.parametrize("status", [{"epoch": "one"}, {"loss": None}, {"samples_per_s": "fast"}])
def test_a_status_of_another_form_breaks_nothing(status: dict[str, Any]) -> None:
    shown(progress_table(snapshot(node(0, **status))))
    epoch_line(snapshot(node(0, **status)))


def test_every_worker_has_a_colour_and_the_others_are_grey() -> None:
    assert prefix("worker 0").plain == "[worker 0] "
    assert prefix("worker 0").style != prefix("worker 1").style
    assert prefix("server 1").style == prefix("scheduler").style == "bright_black"


# --- not on a terminal ------------------------------------------------------------------------------------------------


def test_lines_keep_their_stream_and_get_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.line("worker 0", "stdout", "[bold]not markup[/bold]")
        display.line("worker 1", "stderr", "warning")
    out, err = capsys.readouterr()
    assert (out, err) == ("[worker 0] [bold]not markup[/bold]\n", "[worker 1] warning\n")


def test_an_epoch_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        for epoch in (1, 1, 2, 2):
            display.snapshot(snapshot(node(0, epoch=epoch, loss=1.0 / epoch)))
    assert capsys.readouterr().err == "[shoal] epoch 1: loss 1\n[shoal] epoch 2: loss 0.5\n"


def test_who_is_missing_is_said_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("shoal.progress.time.monotonic", lambda: now[0])
    display = Display()
    waiting = snapshot(phase="gathering", missing=("worker 0",))
    display.snapshot(waiting)
    assert capsys.readouterr().err == ""
    now[0] = PATIENCE_S
    for _ in range(3):
        display.snapshot(waiting)
    assert capsys.readouterr().err == "[shoal] 0/1 joined, waiting for worker 0\n"


def test_no_progress_is_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(progress=False) as display:
        display.snapshot(snapshot(node(0, epoch=1, loss=1.0)))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_live_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Display() as display:
        display.snapshot(snapshot(node(0, epoch=1, epochs=2, loss=0.5)))
        display.line("worker 0", "stdout", "hello [1]")
    out, err = capsys.readouterr()
    assert "hello [1]" in err + out and "1/2" in err
