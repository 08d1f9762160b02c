"""Which processes of a run that have died are started again, and how often."""

import time
from collections.abc import Callable

from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.machines import Process, is_node

__all__ = ["REVIVALS", "REVIVALS_S", "Revivals", "is_given_up"]

REVIVALS = 3
"""How often a process that is killed is started again ..."""

REVIVALS_S = 60.0
"""... within this time: more often, and something is wrong that starting it again does not mend."""


class Revivals:
    """When each process was started again.

    Args:
        most: how often one may be within `REVIVALS_S`.
        clock: seconds.
    """

    def __init__(self, most: int = REVIVALS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._times: dict[str, list[float]] = {}

    def allow(self, name: str) -> bool:
        """Whether a process may be started once more; if so, it counts as started."""
        now = self._clock()
        times = self._times[name] = [t for t in self._times.get(name, ()) if now - t < REVIVALS_S]
        if len(times) >= self._most:
            return False
        times.append(now)
        return True


def is_given_up(child: Process, seen: Snapshot | None) -> bool:
    """Whether a worker that has ended is one that the scheduler has given up before: nobody waits for it."""
    nodes = () if seen is None else seen.nodes
    role, _, rank = child.name.partition(" ")
    mine = [n for n in nodes if role == "worker" == n.role and str(n.rank) == rank]
    return any(n.state == "lost" if is_node(child, n) else n.state != "failed" for n in mine)
