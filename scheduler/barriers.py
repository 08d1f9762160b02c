"""Barriers: who has come to which occurrence of which name."""

from collections.abc import Callable, Mapping

__all__ = ["FINISH", "Barriers"]


MAX_CLOSED = 4096
"""Occurrences at which somebody waits; who comes to a further one comes again."""

FINISH = "finish"
"""The barrier at which a worker waits whose script has ended: it comes to no other one."""

_OF_EQUALS = ("user", "call of store ")
"""How the names of those barriers begin at which nobody does anything for the others."""


class Barriers:
    """Arrivals at barriers. An occurrence opens once, for good; a worker comes to occurrence n+1 after n has opened.

    Arrivals are soft state: who waits repeats that it has come. That a barrier has opened is not: who has passed it
    comes no more. Who waits at `FINISH` is waited for at no other barrier, with one exception: where the worker with
    the smallest rank does something for all (init, set_optimizer), an open barrier would say that it has been done.

    Args:
        opened: highest occurrence of each name that has opened.
        open: puts into the log, and thereby into ``opened``, that an occurrence has.
    """

    def __init__(self, opened: Mapping[str, int], open: Callable[[str, int], None]) -> None:
        self._arrived: dict[tuple[str, int], dict[int, float]] = {}  # by rank, since when
        self._opened, self._open = opened, open

    def opened(self, name: str, index: int) -> bool:
        """Whether this occurrence has opened."""
        return index <= self._opened.get(name, -1)

    def arrive(self, name: str, index: int, rank: int, now: float = 0.0) -> None:
        """Worker ``rank`` has come; coming again changes nothing."""
        full = len(self._arrived) >= MAX_CLOSED and (name, index) not in self._arrived
        if not self.opened(name, index) and not full:
            self._arrived.setdefault((name, index), {}).setdefault(rank, now)

    def forget(self, rank: int) -> None:
        """Worker ``rank`` is another process now, which comes itself, or is gone."""
        for ranks in self._arrived.values():
            ranks.pop(rank, None)
        self._arrived = {at: ranks for at, ranks in self._arrived.items() if ranks}

    def closed(self) -> list[tuple[str, int, dict[int, float]]]:
        """Occurrences at which somebody waits: name, index, and since when by rank."""
        return [(name, index, dict(ranks)) for (name, index), ranks in self._arrived.items()]

    def missing(self, name: str, index: int, expected: tuple[int, ...]) -> tuple[int, ...]:
        """Those of ``expected`` that have not come, and may still come."""
        here = self._arrived.get((name, index), {})
        return tuple(rank for rank in expected if rank not in here and not self._ended(name, rank, expected))

    def _ended(self, name: str, rank: int, expected: tuple[int, ...]) -> bool:
        """Whether this barrier opens without a worker, because its script has ended."""
        ended = name != FINISH and rank in self._arrived.get((FINISH, 0), {})
        return ended and (name.startswith(_OF_EQUALS) or rank != min(expected))

    def open_ready(self, expected: tuple[int, ...]) -> list[tuple[str, int, tuple[int, ...]]]:
        """Open every occurrence to which all of ``expected`` have come: name, index, who had come."""
        ready = [at for at in self._arrived if not self.missing(*at, expected)]
        for name, index in ready:
            self._open(name, index)
        return [(name, index, tuple(self._arrived.pop((name, index)))) for name, index in ready]
