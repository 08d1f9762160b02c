"""Which part of a run is traced."""

from dataclasses import dataclass

from shoal.errors import ConfigError

__all__ = ["LATEST", "WINDOWED", "Window", "parse_steps", "parse_time"]

LATEST = 20_000
"""Records that a process keeps where no part of the run is named: the latest; about 4 MB of the file."""

WINDOWED = 200_000
"""... and where one is."""


@dataclass(frozen=True, slots=True)
class Window:
    """Steps, or seconds since each process began to trace; ``kind`` is "steps", "time", or "" for everything."""

    kind: str = ""
    start: float = 0.0
    stop: float = float("inf")

    @property
    def keep(self) -> int:
        """How many records a process keeps; older ones make room."""
        return WINDOWED if self.kind else LATEST

    def holds(self, at: float) -> bool:
        """Whether this step, or second, is in it."""
        return self.start <= at < self.stop


def parse_steps(text: str) -> Window:
    """``"10:30"`` is steps 10 to 29; either end may be left out.

    Raises:
        ConfigError: it is not A:B.
    """
    return _parse(text, "steps", int, "--trace-steps is A:B, such as 10:30 for the steps from 10 to 29")


def parse_time(text: str) -> Window:
    """``"5:15"`` is seconds 5 to 15 of each process; either end may be left out.

    Raises:
        ConfigError: it is not FROM:TO.
    """
    return _parse(text, "time", float, "--trace-time is FROM:TO in seconds, such as 5:15")


def _parse(text: str, kind: str, number: type[int] | type[float], expected: str) -> Window:
    first, colon, last = text.partition(":")
    try:
        start, stop = number(first or 0), number(last) if last else float("inf")
    except ValueError:
        start, stop = 0, -1
    if not colon or not 0 <= start < stop:
        raise ConfigError(f"{expected}; got {text!r}")
    return Window(kind, float(start), float(stop))
