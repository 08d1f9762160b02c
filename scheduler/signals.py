"""Signals that end a program, handed to somebody who ends it properly."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["handling", "stopped_by"]


@contextmanager
def handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Call ``handler`` with the number of each SIGINT, SIGTERM or SIGHUP that arrives inside the block.

    Also for a container's first process, for which the system has no default. Python delivers signals to its main
    thread only; in any other, nothing is changed.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        handler(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def stopped_by(number: int) -> str:
    """How people call what a signal did.

    >>> stopped_by(2), stopped_by(15)
    ('stopped by Ctrl-C', 'stopped by SIGTERM')
    """
    return "stopped by " + ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
