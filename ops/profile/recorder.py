"""What a profile keeps: sums for each operator, and the latest events for a picture."""

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

from shoal.errors import ConfigError
from shoal.ops import instrument, lines, probe
from shoal.ops.nn.block import Block
from shoal.ops.profile.flops import flops

__all__ = ["GROUPS", "Event", "Recorder", "Sum"]

KEPT = 200_000
"""Events that are kept for a picture; the sums count all."""

GROUPS = ("op", "shapes", "line", "scope")
"""What rows of a table may be of."""


class Event(NamedTuple):
    """A stretch of time of a thread: an operator, or a scope.

    Attributes:
        name: of the operator or the scope.
        kind: "forward", "backward" or "scope".
        mode: "imperative" or "hybrid"; "" for a scope.
        began, ended: seconds of the monotonic clock.
        thread: its number.
        scope: names of the scopes around it, joined by "/".
        shapes: of the inputs, in words.
        nbytes: that it allocated.
        flops: None if not known.
    """

    name: str
    kind: str
    mode: str
    began: float
    ended: float
    thread: int
    scope: str
    shapes: str
    nbytes: int
    flops: int | None


class Sum:
    """Of all events that are the same in some way. Times in seconds."""

    __slots__ = ("count", "flops", "longest", "nbytes", "shortest", "total")

    def __init__(self) -> None:
        self.count, self.total, self.shortest, self.longest, self.nbytes = 0, 0.0, float("inf"), 0.0, 0
        self.flops: int | None = 0

    def add(self, seconds: float, nbytes: int, flops: int | None) -> None:
        """Count one more."""
        self.count += 1
        self.total += seconds
        self.nbytes += nbytes
        self.shortest, self.longest = min(self.shortest, seconds), max(self.longest, seconds)
        self.flops = None if flops is None or self.flops is None else self.flops + flops


Key = tuple[str, str, str, str, str, str]
"""Name, kind, mode, shapes, line, scope."""


class Recorder:
    """Is told of operators between `start` and `stop`, any number of times.

    Args:
        memory: follow how much memory the results of operators hold, and its peak.
        blocks: blocks that are called are scopes.
    """

    def __init__(self, *, memory: bool = False, blocks: bool = True) -> None:
        self.memory, self.blocks = memory, blocks
        self.sums: dict[Key, Sum] = {}
        self.events: deque[Event] = deque(maxlen=KEPT)
        self.levels: deque[tuple[float, int]] = deque(maxlen=KEPT)  # (when, bytes alive)
        self.count, self.live_bytes, self.peak_bytes, self.wall_s = 0, 0, 0, 0.0
        self.threads: dict[int, str] = {}
        self._began: float | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether it is told."""
        return self._began is not None

    def start(self) -> None:
        """Be told from now on."""
        if self._began is None:
            self._began = monotonic()
            instrument.start(self._told)
            _scopes.add(self)

    def stop(self) -> None:
        """Be told no more; what was recorded stays."""
        if self._began is not None:
            instrument.stop(self._told)
            _scopes.remove(self)
            self.wall_s += monotonic() - self._began
            self._began = None

    def clear(self) -> None:
        """Forget what was recorded."""
        self.sums.clear()
        self.events.clear()
        self.levels.clear()
        self.count, self.peak_bytes, self.wall_s = 0, self.live_bytes, 0.0
        self._began = None if self._began is None else monotonic()

    def _told(self, h: instrument.Happened) -> None:
        if h.mode == "recorded":  # the operators of the rule are told of themselves
            return
        fresh = _allocated(h)
        nbytes = sum(x.nbytes for x in fresh)
        shapes = ", ".join("x".join(map(str, x.shape)) or "()" if hasattr(x, "shape") else repr(x) for x in h.inputs)
        work, scope = flops(h), current_scope()
        self._add(
            Event(instrument.title(h), h.part, h.mode, h.began, h.ended, self._thread(), scope, shapes, nbytes, work),
            h.place,
        )
        if self.memory:
            for x in fresh:
                self._follow(x, h.ended)

    def _add(self, e: Event, place: lines.Place | None) -> None:
        key = (e.name, e.kind, e.mode, e.shapes, _line(place), e.scope)
        with self._lock:
            self.events.append(e)
            self.count += 1
            self.sums.setdefault(key, Sum()).add(e.ended - e.began, e.nbytes, e.flops)
        if probe.note is not None:  # a trace of the run has it too
            probe.note(e.name if e.kind != "backward" else f"{e.name} backward", e.began, e.ended)

    def _thread(self) -> int:
        number = threading.get_ident()
        if number not in self.threads:
            self.threads[number] = threading.current_thread().name
        return number

    def _follow(self, array: Any, now: float) -> None:
        """Count the memory of ``array`` until it is freed."""
        nbytes = array.nbytes
        self._level(nbytes, now)
        weakref.finalize(array, self._freed, nbytes).atexit = False

    def _freed(self, nbytes: int) -> None:
        self._level(-nbytes, monotonic())

    def _level(self, change: int, now: float) -> None:
        with self._lock:
            self.live_bytes += change
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            self.levels.append((now, self.live_bytes))

    def scoped(self, name: str, scope: str, began: float, ended: float) -> None:
        """A scope has ended."""
        self._add(Event(name, "scope", "", began, ended, self._thread(), scope, "", 0, None), None)

    def grouped(self, by: str = "op") -> dict[tuple[str, ...], Sum]:
        """The sums of operators, or of scopes: by (label, kind, mode).

        Args:
            by: one of `GROUPS`.
        Raises:
            ConfigError: it is none of them.
        """
        if by not in GROUPS:
            raise ConfigError(f"a profile is grouped by one of {', '.join(GROUPS)}, got {by!r}")
        found: dict[tuple[str, ...], Sum] = {}
        with self._lock:
            items = list(self.sums.items())
        for (name, kind, mode, shapes, line, scope), s in items:
            if (kind == "scope") != (by == "scope"):
                continue
            label = {"op": name, "shapes": f"{name} ({shapes})", "line": f"{name} at {line}"}.get(by) or (
                f"{scope}/{name}" if scope else name
            )
            total = found.setdefault((label, kind, mode), Sum())
            total.count, total.total, total.nbytes = (
                total.count + s.count,
                total.total + s.total,
                total.nbytes + s.nbytes,
            )
            total.shortest, total.longest = min(total.shortest, s.shortest), max(total.longest, s.longest)
            total.flops = None if s.flops is None or total.flops is None else total.flops + s.flops
        return found

    def elapsed_s(self) -> float:
        """Wall-clock time while it was told, up to now."""
        return self.wall_s + (0.0 if self._began is None else monotonic() - self._began)


def _root(x: Any) -> Any:
    """The array that owns the memory of ``x``."""
    while getattr(x, "base", None) is not None and hasattr(x.base, "nbytes"):
        x = x.base
    return x


def _allocated(h: instrument.Happened) -> list[Any]:
    """The arrays that an operator has made memory for: not views of what was there, nor places in planned memory."""
    old = {id(_root(x)) for x in (*h.inputs, *h.operands, *h.given) if hasattr(x, "nbytes")}
    found: dict[int, Any] = {}
    for x in h.outputs:
        if hasattr(x, "nbytes"):
            root = _root(x)
            planned = h.mode == "hybrid" and root.nbytes != x.nbytes
            if id(root) not in old and not planned and not isinstance(root, memoryview):
                found[id(root)] = root
    return list(found.values())


def _line(place: lines.Place | None) -> str:
    """``file.py:12 `source` ``."""
    if place is None:
        return "?"
    found = _known_lines.get(place)
    if found is None:
        where, _, source = lines.text(place).partition(": ")
        found = _known_lines[place] = f"{where.partition(', in ')[0].rpartition('/')[2]} {source}"
    return found


_known_lines: dict[lines.Place, str] = {}


# -- scopes


class _Scopes:
    """Who is told of scopes. While anybody is, blocks tell when they are called."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []
        self._call = Block.__call__

    def add(self, recorder: Recorder) -> None:
        self.recorders.append(recorder)
        if any(r.blocks for r in self.recorders):
            Block.__call__ = _called  # type: ignore[method-assign]  # so that it costs nothing while nobody looks

    def remove(self, recorder: Recorder) -> None:
        self.recorders.remove(recorder)
        if not any(r.blocks for r in self.recorders):
            Block.__call__ = self._call  # type: ignore[method-assign]

    def call(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with scope(block._path.rpartition(".")[2] or type(block).__name__):
            return self._call(block, *args, **kwargs)


_scopes = _Scopes()


def _called(self: Block, *args: Any, **kwargs: Any) -> Any:
    """`Block.__call__`, as a scope."""
    return _scopes.call(self, args, kwargs)


class _Local(threading.local):
    path: tuple[str, ...] = ()


_local = _Local()


def current_scope() -> str:
    """The scopes that this thread is in, joined by "/"."""
    return "/".join(_local.path)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """What is done in this context is shown under ``name``; costs nearly nothing while nobody looks."""
    recorders = tuple(_scopes.recorders)
    if not recorders:
        yield
        return
    before, began = _local.path, monotonic()
    _local.path = (*before, name)
    try:
        yield
    finally:
        _local.path, ended = before, monotonic()
        for recorder in recorders:
            if recorder.running:
                recorder.scoped(name, "/".join(before), began, ended)
