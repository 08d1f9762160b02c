"""A run whose launcher is outside of the Ray cluster (``ray://HOST:10001``): an actor on the head watches over it.

A client of Ray reaches the head's port only, not the processes of a run; the actor does. It ends with the client.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from shoal.errors import ConfigError, ShoalError
from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.job import OnLine, OnSnapshot, Outcome
from shoal.scheduler.signals import handling

__all__ = ["Overseer", "follow"]

LINES = 20_000

FOLLOW_S = 1.0


class Overseer:
    """Watches over one run; plain Python, of which `shoal.scheduler.ray.calls` makes an actor.

    Args:
        launch: runs it: given what takes lines and states, and a list to put a function in that stops it.
    """

    def __init__(self, launch: Callable[[OnLine, OnSnapshot, list[Callable[[int], None]]], Outcome]) -> None:
        self._launch = launch
        self._news = threading.Condition()
        self._lines: deque[tuple[int, str, str, str]] = deque(maxlen=LINES)
        self._count = self._looks = 0
        self._seen: Snapshot | None = None
        self._outcome: Outcome | None = None
        self._error: tuple[bool, str] | None = None
        self._stop: list[Callable[[int], None]] = []
        self._thread = threading.Thread(target=self._run, name="shoal-overseer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            outcome = self._launch(self._line, self._look, self._stop)
        except ShoalError as e:
            self._error = isinstance(e, ConfigError), str(e)
        else:
            self._outcome = outcome
        with self._news:
            self._news.notify_all()

    def _line(self, source: str, stream: str, line: str) -> None:
        with self._news:
            self._count += 1
            self._lines.append((self._count, source, stream, line))
            self._news.notify_all()

    def _look(self, snapshot: Snapshot) -> None:
        with self._news:
            self._looks, self._seen = self._looks + 1, snapshot
            self._news.notify_all()

    def _over(self) -> bool:
        return self._outcome is not None or self._error is not None

    def news(self, lines: int, looks: int, wait_s: float) -> dict[str, Any]:
        """What is new behind so many lines and states."""
        with self._news:
            while self._lines and self._lines[0][0] <= lines:
                self._lines.popleft()
            self._news.wait_for(lambda: bool(self._lines) or self._looks > looks or self._over(), wait_s)
            return {
                "lines": list(self._lines),
                "looks": self._looks,
                "seen": self._seen if self._looks > looks else None,
                "outcome": self._outcome,
                "error": self._error,
            }

    def stop(self, number: int) -> None:
        """As a signal of this number to a launcher."""
        for stop in self._stop:
            stop(number)


def follow(
    news: Callable[[int, int, float], dict[str, Any]],
    stop: Callable[[int], None],
    on_line: OnLine,
    on_snapshot: OnSnapshot,
) -> Outcome:
    """Hand on what an overseer tells, until its run is over.

    Raises:
        ConfigError: the run makes no sense, or there is no room for it.
    """
    lines = looks = 0
    with handling(stop):
        while True:
            told = news(lines, looks, FOLLOW_S)
            for number, source, stream, line in told["lines"]:
                if number > lines:
                    lines = number
                    on_line(source, stream, line)
            looks = told["looks"]
            if told["seen"] is not None:
                on_snapshot(told["seen"])
            if told["error"] is not None:
                wrong, text = told["error"]
                raise (ConfigError if wrong else ShoalError)(text)
            if told["outcome"] is not None:
                outcome: Outcome = told["outcome"]
                return outcome
