"""Gates: who may proceed, and when a round closes.

A *clock* counts the contributions that a worker has made to a slice; the *floor* is the smallest clock among the
workers. A worker at clock c may read or push when ``c - floor <= s``:

=========  =========  ===========================================================================================
gate       s          contributions are applied
=========  =========  ===========================================================================================
``bsp``    0          once a round, reduced in rank order, when every worker has contributed (bulk synchronous)
``ssp:s``  s >= 1     each at once; nobody runs more than s clocks ahead (stale synchronous: Ho et al., NIPS 2013)
``asp``    unbounded  each at once (asynchronous: Downpour, Dean et al., NIPS 2012)
=========  =========  ===========================================================================================
"""

import re
from dataclasses import dataclass

from shoal.errors import ConfigError

__all__ = ["Gate", "Progress", "canonical_mode", "mode_label", "parse_gate"]

_SYNONYMS = {"sync": "bsp", "async": "asp", "ssp:0": "bsp"}
_KNOWN = "sync (bsp), async (asp), ssp:S with S >= 0, such as ssp:3"


@dataclass(frozen=True, slots=True)
class Gate:
    """A consistency model.

    Args:
        name: canonical name.
        slack: how many clocks a worker may be ahead of the slowest; None is unbounded.
        rounds: contributions wait for the round to close.
    """

    name: str
    slack: int | None
    rounds: bool

    def ready(self, clock: int, floor: int) -> bool:
        """Whether a worker at ``clock`` may read, and push its next contribution."""
        return self.slack is None or clock - floor <= self.slack


def canonical_mode(name: str) -> str:
    """``bsp``, ``asp`` or ``ssp:S`` for any accepted spelling.

    Raises:
        ConfigError: lists the spellings that are known.
    """
    name = _SYNONYMS.get(name.strip().lower(), name.strip().lower())
    if name in ("bsp", "asp") or re.fullmatch(r"ssp:[1-9]\d{0,8}", name):
        return name
    raise ConfigError(f"unknown mode {name!r}; known: {_KNOWN}")


def mode_label(name: str) -> str:
    """How users spell a canonical mode: ``sync``, ``async``, ``ssp:S``; "" stays "".

    >>> mode_label("bsp"), mode_label("ssp:3")
    ('sync', 'ssp:3')
    """
    return {"bsp": "sync", "asp": "async"}.get(name, name)


def parse_gate(name: str) -> Gate:
    """The gate of this name; see `canonical_mode`."""
    name = canonical_mode(name)
    if name == "bsp":
        return Gate("bsp", 0, True)
    if name == "asp":
        return Gate("asp", None, False)
    return Gate(name, int(name[4:]), False)


class Progress:
    """The clock of each worker that is still waited for, and their floor."""

    __slots__ = ("clocks", "floor")

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.clocks = dict.fromkeys(sorted(ranks), 0)
        self.floor = 0

    def advance(self, rank: int) -> None:
        """Worker ``rank`` has contributed once more."""
        self.clocks[rank] += 1
        self._settle()

    def drop(self, rank: int) -> None:
        """Nobody waits for worker ``rank`` any more; the floor may rise."""
        if self.clocks.pop(rank, None) is not None:
            self._settle()

    def behind(self, clock: int) -> tuple[int, ...]:
        """Workers whose clock is less than ``clock``."""
        return tuple(r for r, c in self.clocks.items() if c < clock)

    def _settle(self) -> None:
        self.floor = max(self.floor, min(self.clocks.values(), default=self.floor))
