"""A running cluster as text: who is in it, how far each process is, who waits for whom."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.kvstore.gates import mode_label
from shoal.kvstore.wire.messages import NodeStatus, Snapshot, Wait

__all__ = ["WIDTH", "amount", "board", "span", "wait_line"]

WIDTH = 100
"""Columns that the board needs."""

MAX_WAITS = 12
"""Waits that are shown, the longest."""

QUIET_S = 5.0
"""A process that has not been heard for longer is shown in red."""

GOOD = ("joined", "running", "draining", "drained", "done", "filling")
"""States of a process that need nobody's attention."""

_PROGRESS = ("node", "state", "heard", "step", "samples/s", "stale", "out", "in", "waiting", "address")
_MEMBERS = ("node", "incarnation", "host", "pid", "state", "age", "heard", "address")
_LEFT = ("node", "state", "host", "address")


def board(s: Snapshot, members: bool = False) -> RenderableType:
    """The state of a run, for 100 columns.

    Args:
        members: also which processes they are.
    """
    parts: list[RenderableType] = [Text(_head(s)), *_trouble(s), Text("")]
    if members:
        parts += [_table(_MEMBERS, s, _member), Text("")]
    return Group(*parts, _table(_PROGRESS, s, _progress), *_waits(s))


def _table(columns: Sequence[str], s: Snapshot, row: Callable[[NodeStatus], Iterator[str | Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True, overflow="ellipsis")
    for node in s.nodes:
        table.add_row(*row(node), style="" if node.state in GOOD else "red")
    return table


def _head(s: Snapshot) -> str:
    mode = mode_label(s.mode) if s.mode else "not settled yet"
    where = f"generation {s.generation}, scheduler's term {s.term}, up {span(s.age_s)}"
    return f"run {s.cluster}: {s.phase}, mode {mode}, {where}"


def _trouble(s: Snapshot) -> Iterator[Text]:
    if s.phase == "failed":
        yield Text(f"{s.culprit}: {s.reason}", style="red")
    if s.missing:
        yield Text(f"not joined yet: {', '.join(s.missing)}", style="yellow")
    if s.idle_s > QUIET_S:
        yield Text(f"nobody has got on for {span(s.idle_s)}", style="yellow")


def _member(node: NodeStatus) -> Iterator[str | Text]:
    yield f"{node.role} {node.rank}"
    yield str(node.incarnation)
    yield node.host
    yield str(node.pid)
    yield node.state
    yield span(node.age_s)
    yield _heard(node)
    yield node.address


def _progress(node: NodeStatus) -> Iterator[str | Text]:
    s: dict[str, Any] = node.status if isinstance(node.status, dict) else {}
    yield f"{node.role} {node.rank}"
    yield node.state
    yield _heard(node)
    yield _count(s.get("steps", s.get("version")))
    yield _count(s.get("samples_per_s"))
    yield f"{s['staleness']:.2f}" if isinstance(s.get("staleness"), int | float) else ""
    yield _amount(s.get("bytes_pushed", s.get("bytes_out")))
    yield _amount(s.get("bytes_pulled", s.get("bytes_in")))
    yield _count(s.get("in_flight", s.get("parked")))
    yield node.address


def _heard(node: NodeStatus) -> Text:
    quiet = node.state == "running" and node.silent_s > QUIET_S
    return Text(span(node.silent_s), style="red" if quiet else "")


def _waits(s: Snapshot) -> Iterator[Text]:
    if s.waits:
        yield Text("")
    for wait in s.waits[:MAX_WAITS]:
        yield Text(wait_line(wait), style="yellow" if wait.for_s > QUIET_S else "")
    if len(s.waits) > MAX_WAITS:
        yield Text(f"and {len(s.waits) - MAX_WAITS} waits more", style="dim")


def wait_line(w: Wait) -> str:
    """Who waits for whom, since when, for what.

    >>> wait_line(Wait(what="value of 'w' at clock 7", who=("worker 0",), on=("worker 1",), for_s=12.3))
    "worker 0 has waited 12 s for worker 1: value of 'w' at clock 7"
    """
    have = "have" if len(w.who) > 1 else "has"
    return f"{', '.join(w.who)} {have} waited {span(w.for_s)} for {', '.join(w.on) or 'the scheduler'}: {w.what}"


def span(seconds: float) -> str:
    """A time, short.

    >>> span(0.24), span(42.3), span(125), span(7260)
    ('0.2 s', '42 s', '2m05s', '2h01m')
    """
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole // 60 % 60:02}m"


def amount(nbytes: float) -> str:
    """Bytes, short, in powers of 1000.

    >>> amount(999), amount(1536000), amount(2.5e9)
    ('999 B', '1.5 MB', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def _amount(value: Any) -> str:
    return amount(value) if isinstance(value, int | float) else ""


def _count(value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    if value < 999_999.5:
        return f"{value:,.0f}"
    return f"{value / 1e6:.2f}M" if value < 999.995e6 else f"{value / 1e9:.2f}G"
