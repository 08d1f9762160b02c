"""Who has said who it is, and on which connection: what comes from others is not handled.

A worker greets a server on its connection (`Hello`), with the run's id, its rank and its incarnation. From then on the
connection is that worker's, and no other's: messages that name another rank or incarnation are refused, nobody else
is greeted under the same name, and from a connection that has not greeted nothing is handled but a greeting. So every
message is of this run, although only the greeting names it.
"""

import logging
from collections import Counter

from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.messages import Hello, Init, Stats
from shoal.kvstore.wire.schema import KINDS, Message

__all__ = ["MAX_PEERS", "Door"]

log = logging.getLogger("shoal.server")

MAX_PEERS = 1000
"""Strangers that are counted by name; a peer chooses its own, so that there may be any number of them."""

_FROM_WORKERS = [c for c in KINDS.values() if c.flow == "worker -> server"]
_NAMED = frozenset(c for c in _FROM_WORKERS if {"worker", "incarnation"} <= set(c.names))
_NAMELESS = frozenset((Init, Stats))


class Door:
    """The workers that have greeted, by connection. What a worker's connection is called is chosen at random by it."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int]] = {}
        self._peers: dict[tuple[int, int], str] = {}
        self.refused: Counter[str] = Counter()

    def knows(self, peer: str, m: Message) -> bool:
        """Whether the peer has greeted as whom the message is from. Called for every message: one look into a table."""
        held = self._held.get(peer)
        if held is None:
            return False
        kind = type(m)
        if kind in _NAMED:
            return m.worker == held[0] and m.incarnation == held[1]  # type: ignore[attr-defined, no-any-return]  # _NAMED have both
        return kind in _NAMELESS

    def objection(self, peer: str, m: Message) -> str:
        """Why a message that `knows` does not know is not handled; "" if it is a greeting that the core may judge.

        What servers say to each other is not this door's.
        """
        if m.flow == "server -> server":
            return ""
        held = self._held.get(peer)
        who = f"worker {getattr(m, 'worker', '?')} (incarnation {getattr(m, 'incarnation', '?')})"
        if not isinstance(m, Hello):
            return f"a {type(m).__name__} of {who} on a connection of {_name(held)}"
        if held is not None and held[0] != m.worker:
            return f"a greeting of {who} on a connection of {_name(held)}"
        holder = self._peers.get((m.worker, m.incarnation), peer)
        return "" if holder == peer else f"{who} has greeted on another connection; a worker has one"

    def greeted(self, peer: str, m: Hello) -> None:
        """The core has let this worker in."""
        self._held[peer] = m.worker, m.incarnation
        self._peers[m.worker, m.incarnation] = peer

    def turn_away(self, peer: str, why: str) -> bool:
        """Count a message that is not handled; whether the peer is told, as one that has greeted is, or greets."""
        name = peer if peer in self.refused or len(self.refused) < MAX_PEERS else "others"
        self.refused[name] += 1
        n = self.refused[name]
        if n & (n - 1) == 0:  # 1, 2, 4, 8, ...: a flood does not flood the log
            log.warning("not handled, %d of %s: %s", n, name, why, extra=event("stranger", why, peer=name, count=n))
        return peer in self._held

    def freeze(self) -> list[list[object]]:
        """Plain data."""
        return [[peer, *who] for peer, who in self._held.items()]

    def thaw(self, data: list[list[object]]) -> None:
        """Know those who were frozen."""
        for peer, worker, incarnation in data:
            assert isinstance(peer, str) and isinstance(worker, int) and isinstance(incarnation, int)
            self._held[peer], self._peers[worker, incarnation] = (worker, incarnation), peer


def _name(held: tuple[int, int] | None) -> str:
    return "nobody: it has not greeted" if held is None else f"worker {held[0]} (incarnation {held[1]})"
