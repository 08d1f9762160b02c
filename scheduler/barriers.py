"""Barriers: who has come to which occurrence of which name."""

from collections.abc import Iterable

__all__ = ["Barriers"]


class Barriers:
    """Arrivals at barriers. An occurrence opens once, for good; a worker comes to occurrence n+1 after n has opened."""

    def __init__(self) -> None:
        self._arrived: dict[tuple[str, int], dict[int, None]] = {}
        self._opened: dict[str, int] = {}  # highest occurrence of each name that has opened

    def opened(self, name: str, index: int) -> bool:
        """Whether this occurrence has opened."""
        return index <= self._opened.get(name, -1)

    def arrive(self, name: str, index: int, rank: int) -> None:
        """Worker ``rank`` has come; coming again changes nothing."""
        if not self.opened(name, index):
            self._arrived.setdefault((name, index), {})[rank] = None

    def missing(self, name: str, index: int, expected: Iterable[int]) -> tuple[int, ...]:
        """Those of ``expected`` that have not come."""
        here = self._arrived.get((name, index), {})
        return tuple(rank for rank in expected if rank not in here)

    def open_ready(self, expected: tuple[int, ...]) -> list[tuple[str, int, tuple[int, ...]]]:
        """Open every occurrence to which all of ``expected`` have come: name, index, who had come."""
        ready = [at for at in self._arrived if not self.missing(*at, expected)]
        return [(name, index, self._open(name, index)) for name, index in ready]

    def _open(self, name: str, index: int) -> tuple[int, ...]:
        self._opened[name] = max(index, self._opened.get(name, -1))
        return tuple(self._arrived.pop((name, index)))
