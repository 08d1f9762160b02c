"""What becomes of messages on their way, as the faults in force have it. Pure: no clock, no socket."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REORDER_S", "Interference", "Rule"]

REORDER_S = 0.05
"""A message that is to be overtaken is held back for up to so long."""

REPEAT_S = 0.02
"""The second of two equal messages comes up to so much later."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault of one direction between this process and a peer.

    Args:
        fault: its number, under which messages are counted.
        what: drop, duplicate, reorder, delay or partition.
        way: "out" or "in".
        peer: its name, as transports have it.
        amount: per cent of the messages, or, of a delay, seconds.
    """

    fault: int
    what: str
    way: str
    peer: str
    amount: float


class Interference:
    """Decides about messages.

    Args:
        seed: of the plan; what becomes of the n-th message under a rule depends on nothing else.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._seen: Counter[Rule] = Counter()
        self._rules: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self.counts: Counter[int] = Counter()  # messages that were interfered with, by fault

    def use(self, rules: Sequence[Rule]) -> None:
        """These are in force from now on, and no others. May be called from any thread."""
        found: dict[tuple[str, str], tuple[Rule, ...]] = {}
        for rule in rules:
            found[rule.way, rule.peer] = (*found.get((rule.way, rule.peer), ()), rule)
        self._rules = found

    def fate(self, way: str, peer: str) -> tuple[float, ...] | None:
        """After how many seconds the next message arrives: one number for each copy; None if nothing is done to it."""
        rules = self._rules.get((way, peer))
        if not rules:
            return None
        copies = [0.0]
        for rule in rules:
            copies = self._apply(rule, copies)
        return tuple(copies)

    def _apply(self, rule: Rule, copies: list[float]) -> list[float]:
        self._seen[rule] += 1
        chance, extent = self._draw(rule, self._seen[rule])
        if rule.what not in ("delay", "partition") and chance * 100 >= rule.amount:
            return copies
        self.counts[rule.fault] += 1
        match rule.what:
            case "duplicate":
                return [*copies, *(c + extent * REPEAT_S for c in copies[:1])]
            case "reorder":
                return [c + extent * REORDER_S for c in copies]
            case "delay":
                return [c + rule.amount for c in copies]
        return []  # dropped, or cut off

    def _draw(self, rule: Rule, n: int) -> tuple[float, float]:
        """Two numbers from 0 up to 1, addressed by the rule and the message's number."""
        text = f"{self._seed}/{rule.what}/{rule.way}/{rule.peer}/{rule.fault}/{n}"
        raw = hashlib.blake2b(text.encode(), digest_size=16, person=b"shoal chaos").digest()
        return int.from_bytes(raw[:8], "little") / 2**64, int.from_bytes(raw[8:], "little") / 2**64
