"""Whether a run gets on, and who is waited for if it does not. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from shoal.kvstore.wire.messages import Snapshot

__all__ = ["Stall", "StallWatch"]

MAX_NAMED = 6
"""Waits that are told; the rest is counted."""

QUIET_S = 3.0
"""A process that has been silent for longer is named."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A run has stopped to get on, or, if it is ``over``, gets on again.

    Args:
        idle_s: for how long nobody has got on.
        text: who is waited for, and by whom.
        waited_for: them, such as "worker 1", those for whom most wait first.
    """

    idle_s: float
    text: str
    waited_for: tuple[str, ...] = ()
    over: bool = False


class StallWatch:
    """Tells once of a run that does not get on, and again when it does.

    Args:
        after_s: for how long no count of any process grows; 0 tells of nothing.
    """

    def __init__(self, after_s: float) -> None:
        self.after_s, self._longest = after_s, 0.0

    def look(self, s: Snapshot) -> Stall | None:
        """What is new; to be called every now and then while the run goes on."""
        if not self.after_s or s.phase != "running":
            return None
        if s.idle_s >= self.after_s:
            first, self._longest = not self._longest, max(s.idle_s, self._longest)
            return Stall(s.idle_s, _reason(s), _waited_for(s)) if first else None
        if not self._longest:
            return None
        longest, self._longest = self._longest, 0.0
        return Stall(longest, f"the run gets on again, after {longest:.0f} s", over=True)


def _reason(s: Snapshot) -> str:
    told = list(_waits(s))
    more = [f"{len(told) - MAX_NAMED} waits more"] if len(told) > MAX_NAMED else []
    told = [*told[:MAX_NAMED], *more, *_silent(s)]
    nobody = "no process says that it waits: the workers compute, or wait for something else than shoal"
    return f"nobody has got on for {s.idle_s:.0f} s: {'; '.join(told) or nobody}"


def _waits(s: Snapshot) -> Iterator[str]:
    for w in s.waits:
        waits = "wait" if len(w.who) > 1 else "waits"
        yield f"{', '.join(w.who)} {waits} {w.for_s:.0f} s for {', '.join(w.on) or 'the scheduler'} ({w.what})"


def _silent(s: Snapshot) -> Iterator[str]:
    for node in s.nodes:
        if node.state == "running" and node.silent_s > QUIET_S:
            who = f"{node.role} {node.rank} (host {node.host}, pid {node.pid})"
            yield f"{who} has been silent for {node.silent_s:.0f} s"


def _waited_for(s: Snapshot) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for wait in s.waits:
        for name in wait.on:
            counts[name] = counts.get(name, 0) + len(wait.who)
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))
