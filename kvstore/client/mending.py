"""Memory links to servers that have broken while both sides live: they are asked for again."""

from collections.abc import Callable, Collection

__all__ = ["PAUSE_MAX_S", "PAUSE_S", "Mending"]

PAUSE_S = 0.1
"""After a link has broken, until it is asked for; twice as long each time."""

PAUSE_MAX_S = 30.0
"""Why it broke may last: a process that may not open more files, for example."""


class Mending:
    """Whom to ask when.

    Args:
        broken: peers with whom memory was shared, and is not now.
        ask: greet a peer, which answers with an offer to share memory.
    """

    def __init__(self, broken: Collection[str], ask: Callable[[str], None]) -> None:
        self._broken, self._ask = broken, ask
        self._due: dict[str, tuple[float, float]] = {}  # by peer, when it is asked, and the pause after that

    def turn(self, now: float, due: float) -> float:
        """Ask those whose time has come; when to be called again, which is ``due`` at the latest."""
        if not self._broken:
            return due
        for peer in sorted(self._broken):
            at, pause = self._due.get(peer, (now + PAUSE_S, PAUSE_S))
            if at <= now:
                pause = min(2 * pause, PAUSE_MAX_S)
                at = now + pause
                self._ask(peer)
            self._due[peer] = at, pause
        return min(due, *(self._due[peer][0] for peer in self._broken))
