"""What a read of several keys in one state gives, and which state that is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["GIVEN_UP", "Cut", "Snapshot", "States"]

States: TypeAlias = dict[str, tuple[int, dict[str, Any]]]
"""Of each key, how many updates it has had, and what its optimizer keeps: arrays of the key's shape, by name."""

GIVEN_UP = "has been given up: take another"
"""What a server says of a snapshot that it does not know, or knows no more."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which contributions a state consists of.

    Args:
        version: under gates whose rounds are the same for all keys (bsp, backup, ksync, kbatch, kasync): how many
            rounds are in. None under every other.
        clocks: by rank, where there is no version: the first so many contributions of that worker, and no others.
            Workers that have left are among them.
    """

    version: int | None = None
    clocks: Mapping[int, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON-like data, to be written beside a checkpoint.

        >>> Cut(clocks={0: 12, 1: 9}).plain()
        {'version': None, 'clocks': {'0': 12, '1': 9}}
        """
        return {"version": self.version, "clocks": {str(r): c for r, c in sorted(self.clocks.items())}}


class Snapshot(dict[str, Any]):
    """Values by key, all in the state that ``cut`` says; with ``states`` of the optimizer, if they were asked for."""

    def __init__(self, values: Mapping[str, Any], cut: Cut, states: States | None = None) -> None:
        super().__init__(values)
        self.cut, self.states = cut, states or {}
