"""What a person sees of a local run: a live table on a terminal, a line an epoch elsewhere, and the scripts' output."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.kvstore.gates import mode_label
from shoal.kvstore.wire.messages import NodeStatus, Snapshot

__all__ = ["Display", "EpochLines", "epoch_line", "progress_table"]

PATIENCE_S = 3.0
"""Who is missing is said after this time: most clusters are complete before."""

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


class EpochLines:
    """The lines of `epoch_line` that are worth printing: each once."""

    def __init__(self) -> None:
        self._seen = ""

    def news(self, snapshot: Snapshot) -> str:
        """A line that has not been said yet; empty if there is none."""
        line = epoch_line(snapshot)
        head = line.partition(":")[0]
        if not line or head == self._seen:
            return ""
        self._seen = head
        return line


class Display:
    """Shows a run; what it is told may come from any thread. Progress goes to stderr, so that stdout is the scripts'.

    Args:
        progress: show more than what the scripts print.
    """

    def __init__(self, progress: bool = True) -> None:
        self._out, self._err = Console(soft_wrap=True), Console(soft_wrap=True, stderr=True)
        self._lock = threading.Lock()
        self._progress = progress
        self._live = Live(console=self._err, refresh_per_second=4) if progress and self._err.is_terminal else None
        self._lines = EpochLines()
        self._began = time.monotonic()

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, source: str, stream: str, text: str) -> None:
        """A line that a process printed, with its name in front."""
        with self._lock:
            console = self._out if stream == "stdout" else self._err
            if self._live is not None and console.is_terminal:
                console = self._live.console  # the only one that knows where the table is
            if console.is_terminal:
                console.print(prefix(source), Text.from_ansi(text), sep="", highlight=False)
            else:
                console.file.write(f"[{source}] {text}\n")
                console.file.flush()

    def snapshot(self, snapshot: Snapshot) -> None:
        """The state of the run, twice a second or so."""
        if not self._progress:
            return
        with self._lock:
            if self._live is not None:
                self._live.update(progress_table(snapshot))
                return
            if snapshot.phase == "gathering" and time.monotonic() < self._began + PATIENCE_S:
                return
            line = self._lines.news(snapshot)
            if line:
                self._err.file.write(f"[shoal] {line}\n")
                self._err.file.flush()

    def show(self, what: RenderableType) -> None:
        """Something after the run, such as its report."""
        self._err.print(what)


def prefix(source: str) -> Text:
    """``[worker 1] `` in the colour of worker 1."""
    role, _, rank = source.partition(" ")
    colour = COLOURS[int(rank) % len(COLOURS)] if role == "worker" and rank.isdecimal() else "bright_black"
    return Text(f"[{source}] ", style=colour)


# --- content ----------------------------------------------------------------------------------------------------------


def epoch_line(snapshot: Snapshot) -> str:
    """One line for a log: who is missing, or where training is; empty if there is nothing to say.

    What stands before the first colon changes when the line is worth printing again.
    """
    if snapshot.phase == "gathering":
        total = len(snapshot.nodes) + len(snapshot.missing)
        return f"{len(snapshot.nodes)}/{total} joined, waiting for {', '.join(snapshot.missing)}"
    states = [_status(n) for n in _of(snapshot, "worker")]
    epochs = [s["epoch"] for s in states if isinstance(s.get("epoch"), int)]
    if not epochs or len(epochs) < len(states):
        return ""
    slowest = next(s for s in states if s["epoch"] == min(epochs))
    of = f"/{slowest['epochs']}" if isinstance(slowest.get("epochs"), int) else ""
    shown = [f"{name} {_mean(states, name):.4g}" for name in ("loss", "accuracy") if _numbers(states, name)]
    shown += [f"{sum(_numbers(states, 'samples_per_s')):,.0f} samples/s"] if _numbers(states, "samples_per_s") else []
    shown += [f"staleness {_mean(states, 'staleness'):.2f}"] if _numbers(states, "staleness") else []
    return f"epoch {min(epochs)}{of}: {', '.join(shown)}"


def progress_table(snapshot: Snapshot) -> RenderableType:
    """A row for each worker, and a line about the servers."""
    if snapshot.phase == "gathering":
        return Text(epoch_line(snapshot), style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "epoch", "step", "loss", "accuracy", "samples/s", "staleness", "state"):
        table.add_column(name, justify="right")
    for node in _of(snapshot, "worker"):
        table.add_row(*_row(node))
    servers = _of(snapshot, "server")
    states = ", ".join(f"{n.rank} {_state(n)}" for n in servers)
    mode = f"mode: {mode_label(snapshot.mode) if snapshot.mode else 'not settled yet'}"
    table.caption = f"servers: {states}   {mode}" if servers else mode
    table.caption_justify = "left"
    return table


def _row(node: NodeStatus) -> Sequence[str]:
    s = _status(node)
    return (
        str(node.rank),
        _of_total(s, "epoch", "epochs"),
        _of_total(s, "step", "steps"),
        _shown(s, "loss", ".4f"),
        _shown(s, "accuracy", ".4f"),
        _shown(s, "samples_per_s", ",.0f"),
        _shown(s, "staleness", ".2f"),
        _state(node),
    )


def _state(node: NodeStatus) -> str:
    return f"silent for {node.silent_s:.0f} s" if node.state == "running" and node.silent_s > 5 else node.state


def _of(snapshot: Snapshot, role: str) -> list[NodeStatus]:
    return [n for n in snapshot.nodes if n.role == role]


def _status(node: NodeStatus) -> dict[str, Any]:
    return node.status if isinstance(node.status, dict) else {}


def _of_total(status: dict[str, Any], name: str, total: str) -> str:
    if not isinstance(status.get(name), int):
        return ""
    return f"{status[name]}/{status[total]}" if isinstance(status.get(total), int) else str(status[name])


def _shown(status: dict[str, Any], name: str, form: str) -> str:
    value = status.get(name)
    return format(value, form) if isinstance(value, int | float) else ""


def _numbers(states: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [s[name] for s in states if isinstance(s.get(name), int | float)]


def _mean(states: Sequence[dict[str, Any]], name: str) -> float:
    values = _numbers(states, name)
    return sum(values) / len(values)
