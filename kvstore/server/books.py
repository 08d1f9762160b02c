"""What became of each worker's pushes to a server."""

from collections import Counter
from dataclasses import dataclass, field

from shoal.kvstore.events import Send

__all__ = ["Ledger"]

MAX_REFUSALS = 1024
"""Refusals remembered for each worker; a worker stops at its first one."""


@dataclass(slots=True)
class Ledger:
    """What became of one worker's pushes to this server."""

    applied: int = 0
    rejected: int = 0
    dropped: int = 0
    duplicate: int = 0
    refusals: dict[int, Send] = field(default_factory=dict)  # by seq, to answer a repetition the same way
    staleness: Counter[int] = field(default_factory=Counter)

    def reject(self, seq: int, refusal: Send) -> Send:
        """A push has been refused: its repetitions are answered in the same way."""
        self.rejected += 1
        return self.remember(seq, refusal)

    def remember(self, seq: int, refusal: Send) -> Send:
        """How the repetitions of a push are answered."""
        self.refusals[seq] = refusal
        if len(self.refusals) > MAX_REFUSALS:
            del self.refusals[next(iter(self.refusals))]
        return refusal

    def disown(self, staleness: int) -> None:
        """A contribution of this staleness was booked as applied, and could not be."""
        self.applied -= 1
        self.rejected += 1
        self.staleness[staleness] -= 1
