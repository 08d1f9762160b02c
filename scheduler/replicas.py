"""Replicas of servers, as the scheduler decides about them: who may take whose place, and who is given up. Pure.

A replica takes its server's place only when the server has said that the replica has everything (`Covered`), or both
began with the run. Who decides is the scheduler alone, in its log: a server whose replica does not answer goes on alone
when that is written, not before, so that there is never more than one primary (docs/decisions/0026).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from shoal.kvstore.events import Send
from shoal.kvstore.wire.messages import InStep, Join, Lost, Noted
from shoal.kvstore.wire.schema import Message
from shoal.scheduler.gather import check_reach
from shoal.scheduler.log import ClusterState, Covered, Forsaken, Node, Promoted, Record, describe

__all__ = ["SERVING", "Replicas", "late_replica", "place_of", "without"]

SERVING = ("server", "replica")
"""Roles that are told to stop when all workers are done."""


def without(state: ClusterState, node: Node, reason: str, gone: Collection[str] = ()) -> Promoted | Forsaken | None:
    """How a run that is going on goes on without this process; None if it cannot, or does not say.

    Args:
        gone: tokens of others that are lost at the same moment.
    """
    m = node.member
    if state.phase != "running" or not node.live:
        return None
    if m.role == "replica":
        return Forsaken(m.rank, reason)
    replica = state.nodes.get(("replica", m.rank))
    ready = replica is not None and replica.live and replica.token not in gone
    if m.role == "server" and ready and m.rank in state.covered:
        return Promoted(m.rank, m.incarnation + 1, reason)
    return None


class Replicas:
    """How a run goes on without processes that are lost.

    Args:
        commit: writes a record to the log.
        announce: tells every member.
    """

    def __init__(
        self, state: ClusterState, commit: Callable[[Record], None], announce: Callable[[Message], list[Any]]
    ) -> None:
        self._state, self._commit, self._announce = state, commit, announce

    def lose(self, node: Node, reason: str, gone: Collection[str] = ()) -> list[Any] | None:
        """Go on without a process; None if the run cannot: see `without`."""
        record = without(self._state, node, reason, gone)
        if record is None:
            return None
        self._commit(record)
        news = self._state.replacements if isinstance(record, Promoted) else self._state.departures
        return self._announce(news[-1])

    def survive(self, silent: Iterable[Node], reason: str) -> tuple[list[Any], list[Node]]:
        """Go on without those of the silent ones that the run can spare; what is said, and the others."""
        lost = sorted(silent, key=lambda n: n.member.role)  # replicas first: a lost one takes nobody's place
        tokens = {node.token for node in lost}
        said: list[Any] = []
        for node in list(lost):
            alone = self.lose(node, reason, tokens)
            if alone is not None:
                said += alone
                lost.remove(node)
        return said, lost

    def told_lost(self, sender: str, m: Lost) -> list[Any]:
        """Whoever started a process, or a server whose replica does not answer, says that it is lost."""
        noted = [Send(sender, Noted(request=m.request))] if m.request else []
        node = self._state.nodes.get((m.role, m.rank))
        if node is None or (node.member.pid, node.member.host) != (m.pid, m.host):
            return noted
        return [*noted, *(self.lose(node, m.reason[:500]) or [])]

    def in_step(self, node: Node, sender: str, m: InStep) -> list[Any]:
        """A server says that its replica may take its place."""
        s, rank = self._state, node.member.rank
        replica = _taken(s, rank)
        fits = replica is not None and replica.member.incarnation == m.incarnation
        if fits and node.live and node.member.role == "server" and s.covered.get(rank) != m.incarnation:
            self._commit(Covered(rank, m.incarnation))
        return [Send(sender, Noted(request=m.request))]


def place_of(state: ClusterState, m: Join) -> int:
    """The rank of a replica that joins a run that has begun: the one it asks for, or the first without a replica."""
    if m.rank >= 0 or m.role != "replica":
        return m.rank
    return next((r for r in range(state.servers) if not _taken(state, r)), 0)


def late_replica(state: ClusterState, m: Join) -> str:
    """Why a replica cannot join a run that has begun; empty if it can."""
    rank = place_of(state, m)
    who = f"replica (host {m.host}, pid {m.pid})"
    server, owner = state.nodes.get(("server", rank)), _taken(state, rank)
    if state.plan:
        return f"{who} cannot join while slices move between servers: {len(state.plan)} are still to move; try again"
    if state.phase != "running" or server is None or not server.live:
        return f"{who} asks to be that of server {rank}, which the run does not have, or not any more"
    if owner is not None:
        return f"{who} comes beside {describe(owner.member)}: a server has one replica"
    return check_reach(m, [n.member for n in state.nodes.values() if n.live])


def _taken(state: ClusterState, rank: int) -> Node | None:
    node = state.nodes.get(("replica", rank))
    return node if node is not None and node.live else None
