"""Signals kept off a stretch of code in the main thread.

Python calls signal handlers in the main thread, between any two instructions, and a handler may raise: Ctrl-C in the
middle of a state machine's step would leave it half done. While signals are held they are only noted; their handlers
are called when the stretch is over.
"""

import signal as signals
import sys
import threading
from _signal import getsignal, signal  # type: ignore[import-not-found]  # those of `signal` make enums: 10x slower
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Held", "in_main_thread"]

_NAMES = "HUP INT QUIT USR1 USR2 ALRM TERM CHLD XCPU VTALRM PROF WINCH IO"
_NUMBERS = tuple(int(getattr(signals, f"SIG{name}")) for name in _NAMES.split() if hasattr(signals, f"SIG{name}"))


def in_main_thread() -> bool:
    """Whether this is the thread that signal handlers run in."""
    return threading.get_ident() == threading.main_thread().ident


class Held:
    """``with Held(wake) as held``: no signal handler runs inside, unless this is not the main thread, where none would.

    Args:
        wake: called when a signal has come, to end what the stretch waits for.
    """

    __slots__ = ("_before", "_main", "_wake", "_within", "came")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.came: list[int] = []  # signals that came, in order
        self._before: dict[int, Any] = {}
        self._main = in_main_thread()
        self._within = False

    def __enter__(self) -> "Held":
        if self._main:
            for number in _NUMBERS:
                handler = getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal(number, self._note)
            self._within = True
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._within:
            self.came.append(number)
            self._wake()
        else:  # entering or leaving was itself interrupted
            self._before[number](number, frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self._main:
            return
        try:
            for number, handler in self._before.items():
                signal(number, handler)
        finally:
            self._within = False
            self._deliver()

    def _deliver(self) -> None:
        """Call the handlers; one that raises does not keep the others from being called."""
        while self.came:
            number = self.came.pop(0)
            try:
                self._before[number](number, sys._getframe())
            finally:
                if self.came:
                    self._deliver()
