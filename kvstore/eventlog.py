"""The log of a process as JSON lines, for programs: what has been decided, and why.

Whoever logs a decision names it: ``log.info("%s joined", who, extra=event("joined", reason, node=who))``. Where nobody
asks for an event log that costs nothing beyond the log line.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError

__all__ = ["EventHandler", "event", "identify", "keep_events"]

SUFFIX = ".jsonl"

TEXT_CHARS = 4000
"""Of a reason, what is kept: a line is written at once, and other processes may append to the same file."""


def event(name: str, reason: str = "", /, **fields: object) -> dict[str, object]:
    """The ``extra`` of a log call: the event's name, why it has happened, and plain fields."""
    return {"event": name, "reason": reason, "fields": fields}


class EventHandler(logging.Handler):
    """Appends a JSON line for each record: time (seconds since 1970), role, rank, pid, event, reason, fields, text.

    A record that names no event is one called "message", if it is no mere detail (level info or above).

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: str, role: str, rank: int) -> None:
        super().__init__()
        self.role, self.rank, self.path, self._failed = role, rank, path, False
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise ConfigError(f"the event log cannot be written to {path!r}: {e.strerror}") from e

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, unless it is a detail."""
        name = getattr(record, "event", "")
        if self._fd < 0 or (not name and record.levelno < logging.INFO):
            return
        try:
            os.write(self._fd, self.line(record, name).encode("utf-8", "backslashreplace"))
        except OSError as e:  # a full disk: said once, and tried again with the next record
            if not self._failed:
                print(f"shoal: the event log {self.path!r} has gaps: {e.strerror}", file=sys.stderr, flush=True)
            self._failed = True
        except Exception:  # as every handler of the library does
            self.handleError(record)

    def line(self, record: logging.LogRecord, name: str) -> str:
        """What is written of a record."""
        text = record.getMessage()
        told: dict[str, Any] = {
            "time": round(record.created, 6),
            "role": self.role,
            "rank": self.rank,
            "pid": record.process,
            "event": name or "message",
            "reason": (getattr(record, "reason", "") or text)[:TEXT_CHARS],
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": text[:TEXT_CHARS],
            **{k: v for k, v in getattr(record, "fields", {}).items() if k not in _OWN},
        }
        return json.dumps(told, default=str) + "\n"

    def close(self) -> None:
        """Write no more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().close()


_OWN = ("time", "role", "rank", "pid", "event", "reason", "level", "logger", "text")


def keep_events(place: str, role: str, rank: int) -> EventHandler:
    """From now on what loggers of shoal say is kept as events, too; the terminal shows no more than before.

    Args:
        place: a file, if it ends with ``.jsonl``, to which several processes may append; else a directory, in which
            each has a file of its own, such as ``worker-1.jsonl`` (or with its pid, as long as it has no rank).
    Raises:
        ConfigError: it cannot be written.
    """
    name = role if role == "scheduler" else f"{role}-{rank if rank >= 0 else f'pid{os.getpid()}'}"
    path = place if place.endswith(SUFFIX) else os.path.join(place, name + SUFFIX)
    handler = EventHandler(path, role, rank)
    root, ours = logging.getLogger(), logging.getLogger("shoal")
    for other in root.handlers:
        other.setLevel(max(other.level, root.level))
    ours.setLevel(logging.DEBUG)
    ours.addHandler(handler)
    return handler


def identify(rank: int) -> None:
    """This process has been given its rank."""
    for handler in logging.getLogger("shoal").handlers:
        if isinstance(handler, EventHandler):
            handler.rank = rank
