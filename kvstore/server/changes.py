"""Changes of settings on one server: which slices have yet to take them, and when they did."""

from collections.abc import Callable, Collection
from typing import Any

from shoal.kvstore.wire.messages import Change

__all__ = ["Changes", "of_gate", "of_optimizer"]

_GATE = ("s", "max")


def of_gate(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are the gate's."""
    return {n: v for n, v in settings.items() if n in _GATE}


def of_optimizer(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are the optimizer's."""
    return {n: v for n, v in settings.items() if n not in (*_GATE, "codec")}


class Changes:
    """The changes that were announced to a server, by store."""

    def __init__(self) -> None:
        self._known: dict[int, list[Change]] = {}
        self._over: set[int] = set()  # numbers of those whose optimizer has been replaced since
        self._taken: dict[int, list[int]] = {}  # by number: slices, lowest and highest version at which they took it

    def add(self, change: Change) -> None:
        """A change has been announced."""
        self._known.setdefault(change.store, []).append(change)

    def of(self, store: int) -> list[Change]:
        """What a new slice of a store has yet to take."""
        return [c for c in self._known.get(store, ()) if c.number not in self._over or of_gate(c.settings)]

    def numbers(self, store: int) -> list[int]:
        """The numbers of the changes of a store that were announced."""
        return sorted(c.number for c in self._known.get(store, ()))

    def over(self, numbers: Collection[int] = ()) -> list[int]:
        """The numbers of the changes whose optimizer has been replaced since; ``numbers`` are some more."""
        self._over |= set(numbers)
        return sorted(self._over)

    def in_force(self, c: Change) -> dict[str, Any]:
        """The settings of a change that count for a slice that takes it now."""
        return of_gate(c.settings) if c.number in self._over else {n: v for n, v in c.settings.items() if n != "codec"}

    def replaced(self, store: int, waited_for: set[int]) -> None:
        """The store has another optimizer: changes of the old one are over, but those that slices still wait for."""
        self._over |= {c.number for c in self._known.get(store, ())} - waited_for

    def took(self, change: Change, version: int) -> None:
        """A slice has taken a change at ``version``."""
        slices, first, last = self._taken.get(change.number, [0, version, version])
        self._taken[change.number] = [slices + 1, min(first, version), max(last, version)]

    def freeze(self, write: Callable[[Change], list[Any]]) -> list[Any]:
        """As plain data."""
        known = [[store, [write(c) for c in changes]] for store, changes in self._known.items()]
        return [known, sorted(self._over), [[number, *taken] for number, taken in self._taken.items()]]

    @classmethod
    def thaw(cls, data: Any, read: Callable[[list[Any]], Change]) -> "Changes":
        """What was frozen."""
        made, (known, over, taken) = cls(), data
        made._known = {store: [read(c) for c in changes] for store, changes in known}
        made._over, made._taken = set(over), {number: list(rest) for number, *rest in taken}
        return made

    def knows(self, change: Change) -> bool:
        """Whether it has been announced before."""
        return any(c.number == change.number for c in self._known.get(change.store, ()))

    def report(self) -> dict[str, list[int]]:
        """By number of the change: slices that have taken it, and the first and the last version at which one did."""
        return {str(number): taken for number, taken in self._taken.items()}
