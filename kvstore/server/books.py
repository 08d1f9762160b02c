"""What became of each worker's pushes to a server."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from shoal.kvstore.events import Send

__all__ = ["MAX_KEYS_REPORTED", "Ledger", "accounts", "staleness_by_key"]

MAX_KEYS_REPORTED = 4096
"""Slices whose staleness is listed one by one in a report."""

MAX_REFUSALS = 1024
"""Refusals remembered for each worker; a worker stops at its first one."""


@dataclass(slots=True)
class Ledger:
    """What became of one worker's pushes to this server."""

    applied: int = 0
    rejected: int = 0
    dropped: int = 0
    duplicate: int = 0
    lost: int = 0  # acknowledged, and not in the snapshot from which the server was restored
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


def accounts(books: Mapping[int, Ledger]) -> dict[str, dict[str, Any]]:
    """Ledgers and histograms of staleness by worker, as plain data."""
    columns = ("applied", "rejected", "dropped", "duplicate", "lost")
    return {
        "ledger": {str(r): {name: getattr(book, name) for name in columns} for r, book in books.items()},
        "staleness": {str(r): {str(tau): n for tau, n in sorted(b.staleness.items())} for r, b in books.items()},
    }


def staleness_by_key(slices: Iterable[tuple[str, list[int]]]) -> dict[str, list[int]]:
    """By key: contributions to its slices, and the sum and the maximum of their staleness; from these of each slice."""
    found: dict[str, list[int]] = {}
    for key, (count, total, most) in islice(slices, MAX_KEYS_REPORTED):
        n, sum_, max_ = found.get(key, [0, 0, 0])
        found[key] = [n + count, sum_ + total, max(max_, most)]
    return found
