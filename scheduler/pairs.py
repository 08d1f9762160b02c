"""Servers and their replicas, as a launcher keeps them: who has died is said, who is missing is started.

It is the scheduler that decides who takes whose place; the launcher tells it what it sees, sooner than leases.
"""

import signal
import time
from collections.abc import Callable

from shoal.kvstore.wire.messages import Lost, NodeStatus, Snapshot
from shoal.scheduler.machines import Process, is_node
from shoal.scheduler.revival import Revivals

__all__ = ["Pairs"]

REVIVALS = 5
"""How often a replica of one server is started again within `shoal.scheduler.revival.REVIVALS_S`."""

STOPPED = 128
"""Greater exit codes are of processes that a signal has told to end."""

DOUBT_S = 1.0
"""After the death of a server, how long its replica has to take its place, as far as the scheduler is there."""

AGAIN_S = 0.2
"""Time between two words about a process that has died, until the scheduler has taken it into account."""


class Pairs:
    """The servers and replicas of one run.

    Args:
        children: of the launcher; those that are replaced are taken out.
        servers: how many there are; 0 if they have no replicas.
        start: starts the replica of the server of this rank; its metrics are where the first server's of this rank
            were (0), or where its first replica's were (1).
        tell: says something to the scheduler.
        say: says something to the user.
        renamed: told of a process that goes by another name.
        silent_s: how long the scheduler has said nothing.
    """

    def __init__(
        self,
        children: list[Process],
        servers: int,
        start: Callable[[int, int], Process],
        tell: Callable[[Lost], None],
        say: Callable[[str], None],
        renamed: Callable[[Process], None],
        silent_s: Callable[[], float],
    ) -> None:
        self._children, self._servers, self._start = children, servers, start
        self._tell, self._say, self._renamed, self._silent_s = tell, say, renamed, silent_s
        self._dead: dict[Process, Lost] = {}  # who has died and is still taken for living
        self._doubtful: dict[int, tuple[Process, float]] = {}  # by rank, the dead server, and until when it is one
        self._fallen: dict[int, Process] = {}  # by rank, the replica of such a server, if it has died too
        self._told_at = 0.0
        self._revivals = Revivals(REVIVALS)
        self._homes: dict[Process, int] = {}  # whether its metrics are where the first server's or replica's are

    def begin(self) -> None:
        """Start all replicas."""
        for rank in range(self._servers):
            self._spawn(rank)

    def _spawn(self, rank: int) -> None:
        beside = self._child("server", rank)
        home = 1 - self._homes.get(beside, 0) if beside is not None else 1
        self._homes[self._start(rank, home)] = home

    def turn(self, s: Snapshot | None) -> None:
        """Look at the processes; to be called often."""
        if not self._servers or s is None or s.phase not in ("running", "finished"):
            return
        if s.phase == "finished" or not any(n.role == "worker" and n.state == "running" for n in s.nodes):
            self._wind_up([n for n in s.nodes if n.role in ("server", "replica")])
            return
        nodes = {(n.role, n.rank): n for n in s.nodes}
        for rank in range(self._servers):
            self._look(rank, nodes)
        self._settle(nodes)
        for child in [c for c, m in self._dead.items() if not _lives(c, nodes.get((m.role, m.rank)))]:
            del self._dead[child]
        now = time.monotonic()
        if self._dead and now >= self._told_at + AGAIN_S:
            self._told_at = now
            for lost in self._dead.values():
                self._tell(lost)

    def _wind_up(self, members: list[NodeStatus]) -> None:
        """The workers are done: nobody needs a replica that has not come yet, or has died."""
        for child in [c for c in self._children if c.name.startswith("replica ")]:
            if not any(is_node(child, n) for n in members) or child.poll():
                self._remove(child)

    def _look(self, rank: int, nodes: dict[tuple[str, int], NodeStatus]) -> None:
        server, replica = self._child("server", rank), self._child("replica", rank) or self._fallen.get(rank)
        primary, second = nodes.get(("server", rank)), nodes.get(("replica", rank))
        if replica is not None and is_node(replica, primary):
            self._succeed(rank, replica, server)
            return
        if rank in self._doubtful:
            if replica is not None and replica.poll() and rank not in self._fallen:
                self._fallen[rank] = replica  # the scheduler may have put it into the server's place before
                self._children.remove(replica)
            return
        if replica is not None and replica.poll():
            self._bury(replica, "replica", rank, "its server goes on alone until another one is filled")
            replica = None
        elif replica is not None and second is not None and is_node(replica, second) and second.state == "lost":
            self._remove(replica)  # it was silent for too long
            replica = None
        code = server.poll() or 0 if server is not None else 0
        if server is not None and (code < 0 or code > STOPPED) and replica is not None:
            # the scheduler may know of a replica that it has not told of here yet: it is the one who decides
            self._bury(server, "server", rank, "its replica takes its place")
            self._doubtful[rank] = server, time.monotonic() + DOUBT_S
            return
        alive = server is not None and server.poll() is None and _lives(server, primary)
        if replica is None and alive and not _is_live(second) and self._revivals.allow(f"replica {rank}"):
            self._say(f"another replica of server {rank} is started")
            self._spawn(rank)

    def _settle(self, nodes: dict[tuple[str, int], NodeStatus]) -> None:
        """A server whose replica has not taken its place by now is simply dead: it was still being filled, or died."""
        for rank, (dead, until) in list(self._doubtful.items()):
            if not _lives(dead, nodes.get(("server", rank))):
                del self._doubtful[rank]
            elif self._silent_s() > DOUBT_S / 2:
                self._doubtful[rank] = dead, time.monotonic() + DOUBT_S
            elif time.monotonic() >= until:
                del self._doubtful[rank], self._dead[dead]
                if rank in self._fallen:
                    self._fallen.pop(rank).reap()
                self._say(f"the replica of {dead} cannot take its place: it is dead, too, or was still being filled")
                self._children.append(dead)

    def _succeed(self, rank: int, child: Process, before: Process | None) -> None:
        """A replica has become the server."""
        self._say(f"{child} is server {rank} now")
        if before is not None:  # it is there, but was silent for too long
            self._remove(before)
        if self._fallen.pop(rank, None) is not None:
            self._children.append(child)
        child.name = f"server {rank}"
        self._renamed(child)

    def _bury(self, child: Process, role: str, rank: int, meanwhile: str) -> None:
        how = child.how()
        self._say(f"{child} {how}; {meanwhile}")
        self._dead[child] = Lost(role=role, rank=rank, pid=child.pid, host=child.host, reason=how)
        self._told_at = 0.0
        self._remove(child)

    def _remove(self, child: Process) -> None:
        child.signal(signal.SIGKILL)
        child.reap()
        self._children.remove(child)

    def _child(self, role: str, rank: int) -> Process | None:
        return next((c for c in self._children if c.name == f"{role} {rank}"), None)


def _is_live(node: NodeStatus | None) -> bool:
    """Whether somebody is taken for living."""
    return node is not None and node.state in ("joined", "running", "filling")


def _lives(process: Process, node: NodeStatus | None) -> bool:
    """Whether it is this one who is."""
    return _is_live(node) and is_node(process, node)
