"""What a state machine knew when something went wrong: a file for whoever looks into it. No arrays, and no keys.

A dump is written when a core is not what it must be any more, or when a shell fails. With ``--check`` each core is
looked at after each event, and what happened last is in the dump, too; without, nothing is looked at or kept.
"""

import json
import logging
import os
import platform
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from shoal.errors import LocalProtocolError
from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.loop import Driver
from shoal.kvstore.wire.messages import PROTOCOL
from shoal.kvstore.wire.schema import Message, Payload
from shoal.version import VERSION

__all__ = ["FORMAT", "RECENT", "SUFFIX", "Checked", "Dumps", "Recent", "dumps", "plain", "settle", "write"]

log = logging.getLogger("shoal.dump")

FORMAT = 1
"""Of the files."""

SUFFIX = ".dump.json"

RECENT = 100
"""Events and actions that are kept."""

TEXT_CHARS = 400
"""Of each of them."""

DEPTH, ITEMS = 10, 5000
"""How deep and how far into a collection a dump goes."""


@dataclass(frozen=True, slots=True)
class Dumps:
    """What this process does about dumps.

    Args:
        role: of the process.
        directory: where they are written; "" writes none.
        check: whether cores are looked at after each event.
    """

    role: str = ""
    directory: str = ""
    check: bool = False


_dumps = Dumps()


def dumps() -> Dumps:
    """What this process does about dumps."""
    return _dumps


def settle(settings: Dumps) -> None:
    """From now on this process does so."""
    global _dumps
    _dumps = settings


class Recent:
    """The latest events and actions of a core, as lines."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=RECENT)

    def event(self, now: float, text: str) -> None:
        """Something happened to it."""
        self.lines.append(f"{now:.6f} {text[:TEXT_CHARS]}")

    def acted(self, actions: Sequence[object]) -> None:
        """That is what followed."""
        self.lines.extend(f"    -> {action!r:.{TEXT_CHARS}}" for action in actions)

    def watched(self, carry_out: Callable[[Any], None]) -> Callable[[Any], None]:
        """What carries out an action, and keeps it."""

        def kept(action: Any) -> None:
            self.acted((action,))
            carry_out(action)

        return kept


class Checked:
    """A `Driver` whose core is looked at after each event; see `shoal.kvstore.wire.loop`.

    Args:
        driver: the shell.
        core: gives the state machine, as soon as there is one; it has a method ``check`` that raises.
        recent: takes what happens.
        broken: is told why the core is not what it must be, in the handler of the exception, and sees to it that the
            process ends; by default it raises.
    """

    def __init__(
        self, driver: Driver, core: Callable[[], Any], recent: Recent, broken: Callable[[str], None] | None = None
    ) -> None:
        self._driver, self._core, self._recent, self._broken = driver, core, recent, broken or _raise
        self._found = False

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Hand the message on, and look."""
        self._recent.event(now, f"{peer}: {message!r}")
        self._driver.receive(peer, message, now)
        self._look(f"after {type(message).__name__} of {peer}")

    def wake(self, now: float) -> float:
        """Hand the time on, and look."""
        due = self._driver.wake(now)
        self._look("after time has passed")
        return due

    def _look(self, when: str) -> None:
        core = self._core()
        if core is None or self._found:
            return
        try:
            core.check()
        except Exception as e:  # whatever it is, the core is not what it must be
            self._found = True
            self._broken(f"an invariant is broken {when}: {type(e).__name__}: {e}")


def _raise(why: str) -> None:
    raise LocalProtocolError(why)


def write(who: Mapping[str, Any], core: Any, reason: str, recent: Recent | None = None, frozen: Any = None) -> str:
    """Write a dump, in the handler of an exception.

    Args:
        who: rank, incarnation, cluster, as far as they are known.
        core: the state machine.
        reason: why.
        recent: what happened last, if that was kept.
        frozen: the core in a form that can be read back, if there is one.
    Returns:
        What to add to the error's first line: where the dump is, or why there is none; "" if none is wanted.
    """
    settings = _dumps
    if not settings.directory:
        return ""
    told = {
        "shoal_dump": FORMAT,
        "role": settings.role,
        **who,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": round(time.time(), 3),
        "versions": {"shoal": VERSION, "protocol": PROTOCOL, "python": platform.python_version()},
        "reason": reason,
        "traceback": traceback.format_exc(),
        "recent": list(recent.lines) if recent is not None else None,
        "core": plain(core),
        "frozen": plain(frozen),
    }
    name = f"{settings.role}-{who.get('rank', 'x')}-{os.getpid()}{SUFFIX}"
    path = os.path.join(settings.directory, name)
    try:
        Path(settings.directory).mkdir(parents=True, exist_ok=True)
        _save(path, json.dumps(told, indent=1, default=str))
    except OSError as e:
        return f" (its state could not be written to {path}: {e.strerror})"
    log.error("the state is in %s", path, extra=event("dumped", reason, path=path))
    return f" (its state at that moment: shoal dump {path})"


def _save(path: str, text: str) -> None:
    """For the user only, whatever the umask is: keys' names and texts of errors are in it."""
    beside = f"{path}.tmp"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as f:
        os.fchmod(f.fileno(), 0o600)
        f.write(text)
    os.replace(beside, path)


def plain(value: Any, depth: int = DEPTH) -> Any:
    """Anything as JSON has it. Arrays and what their memory holds are left out: there are no weights in a dump."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, Payload):
        return f"<payload {value.dtype} {value.shape}>"
    if isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "__array_interface__"):
        return f"<{type(value).__name__} of {getattr(value, 'nbytes', None) or len(value)} bytes>"
    if depth <= 0 or callable(value):
        return f"<{type(value).__name__}>"
    return _structure(value, depth - 1)


def _structure(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_name(k): plain(v, depth) for k, v in list(value.items())[:ITEMS]}
    if isinstance(value, set | frozenset):
        return [plain(v, depth) for v in sorted(value, key=repr)[:ITEMS]]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {n: plain(getattr(value, n), depth) for n in value._fields}
    if isinstance(value, list | tuple | deque):
        return [plain(v, depth) for v in list(value)[:ITEMS]]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name, None), depth) for f in fields(value)}
    names = [*getattr(value, "__dict__", ()), *(s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()))]
    found = {n: getattr(value, n) for n in names if hasattr(value, n)}
    return {n: plain(v, depth) for n, v in found.items() if not callable(v) and n != "_handlers"}


def _name(key: Any) -> str:
    if isinstance(key, tuple):
        return ", ".join(map(str, key))
    return key.__name__ if isinstance(key, type) else str(key)
