"""Signals that end a program, handed to somebody who ends it properly."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["arrived", "handling", "insisting", "stopped_by"]

INSIST_S = 0.2
"""A signal is repeated after this time, in case that it was not looked at."""

REPETITION_S = 1.0
"""The same signal within this time is the repetition."""

arrived: set[int] = set()
"""Signals that `handling` has handed over: of a process that was told to end, whatever became of that."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Call ``handler`` with the number of each SIGINT, SIGTERM or SIGHUP that arrives inside the block.

    Also for a container's first process, for which the system has no default. Python delivers signals to its main
    thread only; in any other, nothing is changed. A SIGHUP that is ignored (``nohup``) stays ignored.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        arrived.add(number)
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


@contextmanager
def insisting(handler: Callable[[int], None]) -> Iterator[None]:
    """As `handling`, for code that may sleep long: a signal that comes just before a sleep does not wait for its end.

    Python only notes a signal, and calls the handler between two instructions. One that comes after the last look and
    before ``time.sleep`` has begun would be looked at when the sleep is over. A thread therefore sends each signal to
    the main thread once more, which ends the system call; ``handler`` is not called for the repetition.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: dict[int, float] = {}

    def once(number: int) -> None:
        last, seen[number] = seen.get(number, -REPETITION_S), time.monotonic()
        if seen[number] - last >= REPETITION_S:
            handler(number)

    told, tell = os.pipe()
    over = threading.Event()
    os.set_blocking(tell, False)
    thread = threading.Thread(target=_insist, args=(told, seen, over), name="shoal-signals", daemon=True)
    with handling(once):  # until the thread has ended: its repetition must meet the handler, not the system's default
        thread.start()
        before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            over.set()
            os.close(tell)
            thread.join()
            os.close(told)


def _insist(told: int, seen: dict[int, float], over: threading.Event) -> None:
    """Repeat each of our signals that the handler has not seen a moment later, until the pipe ends.

    How late this thread is told is unknown, so a handler that was called shortly before has seen it.
    """
    main = threading.main_thread().ident or 0
    while number := os.read(told, 1):
        came = time.monotonic()
        if number[0] not in _ENDING or over.wait(INSIST_S):
            continue
        module = getattr(signal.getsignal(number[0]), "__module__", "") or ""
        ours = module.startswith("shoal.")  # a script's own handlers hear of a signal as often as it came
        if ours and seen.get(number[0], -REPETITION_S) <= came - REPETITION_S:
            signal.pthread_kill(main, number[0])


def stopped_by(number: int) -> str:
    """How people call what a signal did.

    >>> stopped_by(2), stopped_by(15)
    ('stopped by Ctrl-C', 'stopped by SIGTERM')
    """
    return "stopped by " + ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
