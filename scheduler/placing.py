"""Servers that come and go, and slices that move because of it: the scheduler core's part.

Who has a slice is what the log says, and nothing else: a move counts when its `Shifted` is written, which the source
asks for once the target has the slice. What is to move is one plan, which is made anew as a whole whenever a server
comes, or is to go; sources work their part of it off by themselves.
"""

from collections.abc import Callable, Collection, Iterable
from copy import copy

from shoal.kvstore.events import Send
from shoal.kvstore.gates import mode_label
from shoal.kvstore.placement import drained, rebalanced
from shoal.kvstore.wire.messages import Drain, Draining, Handed, Join, Moved, Rebalance, Refused, Shift, Stop
from shoal.scheduler.contacts import Contacts
from shoal.scheduler.gather import ALLREDUCE, MAX_NODES, MAX_TEXT
from shoal.scheduler.log import ClusterState, Node, Rebalanced, Record, Shifted, describe

__all__ = ["Placing"]

WITH_REPLICAS = "slices of a run with replicas do not move; start it without --replicas to add and to drain servers"

_STOP = Stop(reason="this server has been drained")


class Placing:
    """Which server has what, in one run.

    Args:
        mode: of the run, canonical.
        state: of the run.
        contacts: of its members.
        commit: adds a record to the log.
    """

    def __init__(self, mode: str, state: ClusterState, contacts: Contacts, commit: Callable[[Record], None]) -> None:
        self._mode, self._state, self._contacts, self._commit = mode, state, contacts, commit
        self._told = -1  # so many news of placements have been told; those of an earlier scheduler, as members ask

    # --- servers that come --------------------------------------------------------------------------------------------

    def comes_late(self, m: Join) -> bool:
        """Whether this is a server that joins while the run is under way, and not in the place of another."""
        return m.role == "server" and self._state.phase == "running" and not m.incarnation

    def refusal(self, m: Join) -> str:
        """Why a late server cannot be taken in; empty if it can."""
        who = f"{m.role} (host {m.host}, pid {m.pid})"
        if max(map(len, (m.token, m.host, m.address))) > MAX_TEXT:
            return f"a process that names itself with more than {MAX_TEXT} characters is none of ours"
        if self._has_replicas():
            return f"{who} cannot join: {WITH_REPLICAS}"
        if self._mode == ALLREDUCE:
            return f"{who} has nothing to do: in mode {ALLREDUCE} workers reduce among themselves"
        ranks = [rank for role, rank in self._state.nodes if role == "server"]
        if len(ranks) >= MAX_NODES:
            return f"{who} is one too many: ranks are 0 to {MAX_NODES - 1}"
        if m.rank >= 0 and m.rank != len(ranks):
            return f"{who} asks for rank {m.rank}; the next server of this run has rank {len(ranks)}: ask for none"
        if not self._live("worker"):
            return f"{who} comes too late: all workers are done"
        return ""

    # --- servers that go ----------------------------------------------------------------------------------------------

    def asked(self, sender: str, m: Drain, by: str) -> list[Send]:
        """Somebody wants a server drained, or wants to know how far that is."""
        rank, s = m.server, self._state
        node = s.nodes.get(("server", rank))
        why = self._objection(rank, node)
        if why:
            return [Send(sender, Refused(seq=m.request, error="ConfigError", text=why))]
        if rank not in s.draining:
            self._plan(closed=(rank,), by=by)
        left = sum(home.server == rank for home in s.placement.homes.values())
        gone = node is not None and not node.live
        return [Send(sender, Draining(request=m.request, server=rank, left=left, gone=gone))]

    def drain(self, node: Node, sender: str, m: Drain) -> list[Send]:
        """A server has been told to end, and asks to be drained first."""
        if node.member.role != "server" or m.server != node.member.rank:
            text = "only operators drain other processes than themselves"
            return [Send(sender, Refused(seq=m.request, error="LocalProtocolError", text=text))]
        return self.asked(sender, m, describe(node.member))

    def _objection(self, rank: int, node: Node | None) -> str:
        """Why a server cannot be drained; empty if it can, or is, or has been."""
        s = self._state
        if self._mode == ALLREDUCE or not s.servers:
            return f"there is no server to drain: in mode {ALLREDUCE} workers reduce among themselves"
        if node is None:
            known = ", ".join(str(r) for (role, r), n in sorted(s.nodes.items()) if role == "server" and n.live)
            return f"there is no server {rank}; there are servers {known}"
        if rank in s.draining or node.state == "drained":
            return ""
        if self._has_replicas():
            return f"{describe(node.member)} cannot be drained: {WITH_REPLICAS}"
        if s.phase != "running" or not node.live:
            return f"{describe(node.member)} cannot be drained: the run is {s.phase}, the server is {node.state}"
        if not [r for r in s.placement.open if r != rank and self._is_live(r)]:
            return f"{describe(node.member)} is the only server left: there is none that could take its slices"
        for store, slice_id in s.pinned.items():
            if s.placement.homes[slice_id].server == rank:
                label = mode_label(s.stores[store].gate)
                return (
                    f"{describe(node.member)} gives out the places in the rounds of store {store} ({label}), and "
                    "cannot leave; drain another server"
                )
        return ""

    def may_leave(self, node: Node) -> bool:
        """Whether a server has been drained, so that the others go on without it."""
        m = node.member
        return m.role == "server" and m.rank in self._state.draining and not self._has(m.rank)

    def may_be_lost(self, nodes: Collection[Node]) -> bool:
        """Whether all of these are servers with nothing that others would miss."""
        ranks = [n.member.rank for n in nodes if n.member.role == "server"]
        left = [r for r in self._state.placement.open if r not in ranks and self._is_live(r)]
        return len(ranks) == len(nodes) and bool(left) and not any(self._has(r) for r in ranks)

    def gone(self, node: Node) -> None:
        """A process is gone; if it was a server, nothing moves to it any more."""
        if node.member.role == "server":
            self._plan(closed=(node.member.rank,), by=f"{describe(node.member)} is gone")

    def stop_for(self, node: Node) -> Stop | None:
        """What a server is told that has been drained."""
        return _STOP if node.live and self.may_leave(node) else None

    # --- slices that move ---------------------------------------------------------------------------------------------

    def handed(self, node: Node, sender: str, m: Handed) -> list[Send]:
        """The target of a move has the slice: it counts from now on, if it is still wanted."""
        shift = Shift(slice=m.slice, source=node.member.rank, target=m.target)
        if node.member.role == "server" and self._state.plan.get(m.slice) == shift and self._is_live(m.target):
            self._commit(Shifted(m.slice, m.target))
        return []

    def advance(self) -> list[Send]:
        """Begin to move slices to servers of which everybody has heard; tell everybody what is new."""
        s = self._state
        if s.phase != "running":
            return []
        if self._told < 0:
            self._told = len(s.placings) if s.term > 1 else 0
        new = [r for r in sorted(s.placement.closed) if r not in s.draining and self._is_live(r)]
        known = [r for r in new if self._is_known(r)]
        if known:
            self._plan(opened=known, by="they are new")
        told: list[Send] = []
        for news in s.placings[self._told :]:
            told += self._tell(self._live(), news)
        if told or self._told < len(s.placings):
            self._told = len(s.placings)
            told += [x for n in self._live("server") if self.may_leave(n) for x in self._tell([n], _STOP)]
        return told

    def _is_known(self, rank: int) -> bool:
        """Whether every process that runs has heard of a server that came late."""
        member = self._state.nodes["server", rank].member
        made = [a.generation for a in self._state.arrivals if (a.member.role, a.member.rank) == ("server", rank)]
        others = [n for n in self._live() if n.member != member]
        return bool(made) and all(self._contacts[n.token].generation >= made[0] for n in others)

    def _plan(self, opened: Collection[int] = (), closed: Collection[int] = (), by: str = "") -> None:
        """Make the plan anew."""
        s = self._state
        sketch = copy(s.placement)
        sketch.closed = (s.placement.closed - set(opened)) | set(closed)
        sketch.load_bytes = list(s.placement.load_bytes)
        moves: list[Shift] = []
        for rank in sorted({*s.draining, *closed}):
            if self._has(rank):
                moves += _noted(drained(sketch, rank), sketch.load_bytes, s)
        if s.arrivals and any(a.member.role == "server" for a in s.arrivals):
            moves += rebalanced(sketch, set(s.pinned.values()))
        self._commit(Rebalanced(tuple(moves), tuple(sorted(opened)), tuple(sorted(closed)), by))

    def _has_replicas(self) -> bool:
        return any(role == "replica" for role, _ in self._state.nodes) or bool(self._state.covered)

    # --- common -------------------------------------------------------------------------------------------------------

    def _has(self, rank: int) -> bool:
        return any(home.server == rank for home in self._state.placement.homes.values())

    def _is_live(self, rank: int) -> bool:
        node = self._state.nodes.get(("server", rank))
        return node is not None and node.live

    def _live(self, role: str = "") -> list[Node]:
        return [n for n in self._state.nodes.values() if n.live and role in ("", n.member.role)]

    def _tell(self, nodes: Iterable[Node], message: Rebalance | Moved | Stop) -> list[Send]:
        return [Send(self._contacts[n.token].sender, message) for n in nodes]


def _noted(moves: list[Shift], load_bytes: list[int], state: ClusterState) -> list[Shift]:
    """The same moves, once the loads are as they will be after them."""
    for m in moves:
        nbytes = state.placement.homes[m.slice].nbytes
        load_bytes[m.source] -= nbytes
        load_bytes[m.target] += nbytes
    return moves
