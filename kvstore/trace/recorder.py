"""The ring of a process, and the file that it leaves when the process ends.

A record is a tuple that begins with its sort and its two times, of the clock of `Recorder.now`:

    ("script", began, ended, thread, name)                    a stretch of the training script
    ("sent", began, ended, transport, peer, *Fields)          a message handed to the transport
    ("taken", began, ended, transport, peer, *Fields)         a message came, and was dealt with
    ("applied", began, ended, slice, version, parts)          a server's update; a part is (rank, clock, staleness)
    ("note", at, at, event, reason, fields)                   a decision, as in the event log
"""

import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.trace.window import Window

__all__ = ["FORMAT", "SUFFIX", "Recorder", "begin", "clock_id", "current", "finish"]

log = logging.getLogger("shoal.trace")

FORMAT = 1
"""Of the files that processes leave."""

SUFFIX = ".part.json"


class Recorder:
    """What this process did lately. Any thread may record; appending to a deque needs no lock.

    Args:
        directory: where `finish` writes.
        role: "scheduler", "server" or "worker".
        window: what is recorded, and how much of it is kept.
        now: seconds, monotonic; the clock that heartbeats carry.
    """

    def __init__(
        self, directory: str, role: str, window: Window | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory, self.role, self.now = directory, role, now
        self.window = window or Window()
        self.step = 0  # of the training script, as far as it has come
        self.records: deque[tuple[Any, ...]] = deque(maxlen=self.window.keep)
        self.count = 0  # all that were recorded; those that are not kept any more included
        self.transports: dict[str, str] = {}  # by what peers call it: what it is for
        self.about: Callable[[], Mapping[str, Any]] = dict  # more to say of the process when it ends
        self._began = now()
        self._threads: dict[int, str] = {}
        self._finished = False

    def admits(self, clock: int = -1) -> bool:
        """Whether what happens now is wanted.

        Args:
            clock: of the message that it is about, if it has one: a server goes by that, because it knows no steps.
        """
        window = self.window
        if window.kind == "steps":
            if self.role == "server":
                return clock >= 0 and window.holds(clock)
            return self.role == "scheduler" or window.holds(self.step)
        return not window.kind or window.holds(self.now() - self._began)

    def add(self, record: tuple[Any, ...]) -> None:
        """Keep it."""
        self.count += 1
        self.records.append(record)

    def stretch(self, name: str, began: float, ended: float) -> None:
        """The script was busy with this, in the calling thread."""
        if self.admits():
            thread = threading.get_ident()
            if thread not in self._threads:
                self._threads[thread] = threading.current_thread().name
            self.add(("script", began, ended, thread, name))

    def note(self, name: str, reason: str, fields: Mapping[str, Any]) -> None:
        """A decision, whenever it is made: there are few."""
        now = self.now()
        self.add(("note", now, now, name, reason[:400], {k: str(v)[:200] for k, v in fields.items()}))

    def finish(self) -> str:
        """Write what is kept, once; the file's name, or "" if it could not be written, which is logged."""
        if self._finished:
            return ""
        self._finished = True
        part = self._part()
        path = Path(self.directory, f"{part['role']}-{part['rank']}-{os.getpid()}{SUFFIX}")
        beside = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(part, default=str), encoding="utf-8")
            os.replace(beside, path)
        except OSError as e:
            log.warning("the trace of this process cannot be written to %s: %s", path, e.strerror)
            return ""
        return str(path)

    def _part(self) -> dict[str, Any]:
        try:
            about = dict(self.about())
        except Exception as e:  # half of a process that fails may be missing: its trace is wanted all the more
            about = {"incomplete": f"{type(e).__name__}: {e}"}
        records = list(self.records)
        return {
            "shoal_trace": FORMAT,
            "role": self.role,
            "rank": 0 if self.role == "scheduler" else -1,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "clock_id": clock_id(),
            "window": [self.window.kind, self.window.start, min(self.window.stop, 1e18)],
            "forgotten": self.count - len(records),
            "transports": dict(self.transports),
            "threads": {str(k): v for k, v in self._threads.items()},
            **about,
            "records": records,
        }


class NoteHandler(logging.Handler):
    """Hands decisions that are logged with an event to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.DEBUG)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Note it, if it names an event."""
        name = getattr(record, "event", "")
        if name:
            reason = getattr(record, "reason", "") or record.getMessage()
            self._recorder.note(name, reason, getattr(record, "fields", {}))


def clock_id() -> str:
    """Processes with the same id, which is not "", read the same clock: of one boot of one machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/time')}"
    except (OSError, UnicodeError):
        return ""


_current: Recorder | None = None


def current() -> Recorder | None:
    """The recorder of this process, if it is to be traced."""
    return _current


def begin(directory: str, role: str, window: Window | None = None) -> Recorder:
    """From now on this process is traced; before it makes its transports.

    Raises:
        ConfigError: the directory cannot be made.
    """
    global _current
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"traces cannot be written to {directory!r}: {e.strerror}") from e
    _current = Recorder(directory, role, window)
    root, ours = logging.getLogger(), logging.getLogger("shoal")
    for other in root.handlers:  # the terminal shows no more than before
        other.setLevel(max(other.level, root.level))
    ours.setLevel(logging.DEBUG)
    ours.addHandler(NoteHandler(_current))
    return _current


def finish() -> None:
    """Write what this process recorded, if it did; it may be called more than once, and in a process that fails."""
    global _current
    recorder, _current = _current, None
    if recorder is not None:
        ours = logging.getLogger("shoal")
        ours.handlers = [h for h in ours.handlers if not isinstance(h, NoteHandler)]
        recorder.finish()
