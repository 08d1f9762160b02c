"""How a run comes together: who may join, whom it waits for, when it begins. Pure.

The number of each role's processes is known beforehand ("4"), or only the least is ("1+"): then whoever comes is taken
in, and the run begins when nobody has joined for a while. That is for launchers that start as many processes as they
are told and cannot tell the scheduler, as ``docker compose up --scale worker=4``. A run that has begun takes nobody.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shoal.errors import ConfigError
from shoal.kvstore.gates import mode_label
from shoal.kvstore.wire.messages import Join, Member

__all__ = [
    "ALLREDUCE",
    "MAX_NODES",
    "Count",
    "Gathering",
    "Place",
    "as_count",
    "check_reach",
    "check_replicas",
    "check_servers",
    "member_of",
    "parse_count",
    "unreachable",
]

ALLREDUCE = "allreduce"
"""The mode of a run that needs no servers."""

MAX_NODES = 4096
"""Most processes of one role."""

MAX_TEXT = 512
"""Characters of each text by which a process says who it is."""

Place = tuple[str, int]
"""Role and rank."""


class Count(NamedTuple):
    """How many processes of a role a run has: ``least``, or with ``more`` at least so many."""

    least: int
    more: bool = False

    def __str__(self) -> str:
        return f"{self.least}+" if self.more else str(self.least)


def as_count(number: int | Count) -> Count:
    """A plain number is meant exactly."""
    return number if isinstance(number, Count) else Count(number)


def check_servers(servers: int, mode: str) -> None:
    """Raise ConfigError unless this number of servers, or the least, fits the mode ("" if the script decides)."""
    if servers < 0 or (servers == 0 and mode not in ("", ALLREDUCE)):
        raise ConfigError(
            f"mode {mode_label(mode) or 'sync'} needs at least 1 server to hold the weights, got {servers}. Without "
            f"servers the mode is {ALLREDUCE}: workers reduce among themselves."
        )


def check_replicas(replicas: int, servers: "int | Count") -> None:
    """Raise ConfigError unless each of these servers can have so many replicas."""
    if replicas not in (0, 1):
        raise ConfigError(
            f"a server has 0 or 1 replica, got --replicas {replicas}: a second one would cost another copy of every "
            "push, and helps only if both others are lost before a new one is filled"
        )
    count = as_count(servers)
    if replicas and count.more:
        raise ConfigError(f"with --replicas the number of servers must be known, got {count}: say --servers N")
    if replicas and not count.least:
        raise ConfigError(
            "--replicas is for servers; a run without any reduces among its workers, who have all there is"
        )


def parse_count(text: str, least: int = 1) -> Count:
    """``"4"`` or ``"1+"``.

    >>> parse_count("1+")
    Count(least=1, more=True)

    Args:
        least: the smallest number that is one.
    Raises:
        ConfigError: it is neither.
    """
    number = text.strip().removesuffix("+")
    if not number.isdecimal() or not least <= int(number) <= MAX_NODES:
        raise ConfigError(
            f"a number of processes is {least} to {MAX_NODES}, such as 4, or such as 2+ for at least two; got {text!r}"
        )
    return Count(int(number), text.strip().endswith("+"))


def member_of(m: Join, rank: int, incarnation: int) -> Member:
    """Whoever asks to join, at its place."""
    return Member(role=m.role, rank=rank, incarnation=incarnation, address=m.address, host=m.host, pid=m.pid)


class Gathering:
    """The rules by which a run comes together.

    Args:
        counts: of each role.
        settle_s: with a role of which more may come, nobody must have joined for this long before the run begins.
    """

    def __init__(self, counts: Mapping[str, Count], settle_s: float) -> None:
        self.counts = dict(counts)
        self.settle_s = settle_s if any(c.more for c in counts.values()) else 0.0

    def places(self, taken: Mapping[Place, Any]) -> list[Place]:
        """Every place that has to be filled before the run begins, given those that are."""
        most = {role: count.least for role, count in sorted(self.counts.items())}
        for role, rank in taken:
            most[role] = max(most[role], rank + 1)
        return [(role, rank) for role, n in most.items() for rank in range(n)]

    def missing(self, taken: Mapping[Place, Any]) -> tuple[str, ...]:
        """Who is waited for, such as "worker 1"."""
        return tuple(f"{role} {rank}" for role, rank in self.places(taken) if (role, rank) not in taken)

    def begins_at(self, taken: Mapping[Place, Any], last_join: float) -> float | None:
        """When the run begins if nobody else joins; None while somebody is missing."""
        return None if self.missing(taken) else last_join + self.settle_s

    def lowest_free(self, role: str, taken: Mapping[Place, Any]) -> int:
        """The rank of the next process that does not ask for one."""
        return next(rank for rank in itertools.count() if (role, rank) not in taken)

    def objection(self, m: Join, taken: Mapping[Place, Member], begun: bool) -> str:
        """Why this process cannot be taken in; empty when it can."""
        if max(map(len, (m.role, m.token, m.host, m.address))) > MAX_TEXT:
            return f"a process that names itself with more than {MAX_TEXT} characters is none of ours"
        who = f"{m.role} (host {m.host}, pid {m.pid})"
        count = self.counts.get(m.role)
        if count is None:
            return f"{who}: unknown role; known: {', '.join(sorted(self.counts))}"
        limit = MAX_NODES if count.more else count.least
        if m.rank >= limit:
            return f"{who} asks for rank {m.rank}, but the run has {limit} {m.role}s, ranks 0 to {limit - 1}"
        owner = taken.get((m.role, m.rank))
        if owner:
            return f"rank {m.rank} is taken by pid {owner.pid} on {owner.host}; ask for another rank, or for none"
        hidden = check_reach(m, taken.values())
        if hidden:
            return hidden
        here = sum(role == m.role for role, _ in taken)
        if count.more and begun:
            return (
                f"{who} comes too late: the run has begun, with {here} {m.role}s. Start all of them within "
                f"{self.settle_s:g} s of each other, give the scheduler a longer --settle-s, or tell it how many will "
                f"come: {_option(m.role, here + 1)}."
            )
        if here >= limit:
            return (
                f"all {limit} {m.role}s are here; {who} is one too many. "
                f"Start the scheduler with {_option(m.role, limit + 1)}, or one {m.role} fewer."
            )
        return ""


def _option(role: str, number: int) -> str:
    """
    >>> _option("worker", 3)
    '--workers 3 (SHOAL_WORKERS=3)'
    """
    return f"--{role}s {number} (SHOAL_{role.upper()}S={number})"


def _only_here(address: str) -> bool:
    """Whether ``host:port`` is an address that other machines cannot reach.

    >>> _only_here("127.0.0.1:4242"), _only_here("10.0.0.1:4242")
    (True, False)
    """
    host = address.rpartition(":")[0]
    return host.startswith("127.") or host in ("localhost", "0.0.0.0")


def unreachable(workers: Iterable[Member]) -> str:
    """Which of these workers another of them cannot reach; empty if all reach all, as an all-reduce needs."""
    everybody = list(workers)
    for m in everybody:
        others = [o for o in everybody if o.host != m.host]
        if not m.address or (others and _only_here(m.address)):
            where = "listens nowhere"
            if m.address:
                where = f"is reached at {m.address}, which means nothing to worker {others[0].rank} on {others[0].host}"
            return (
                f"worker {m.rank} (host {m.host}, pid {m.pid}) {where}: an all-reduce goes from worker to worker. "
                "Start that worker with the scheduler's address as other machines know it, or with --advertise."
            )
    return ""


def check_reach(m: Join, members: Iterable[Member]) -> str:
    """Which server cannot be reached by a process on another machine, now that ``m`` comes; empty if all can."""
    for other in members:
        for server, reader in ((m, other), (other, m)):
            if server.role != "worker" and _only_here(server.address) and server.host != reader.host:
                return (
                    f"the {server.role} on {server.host} (pid {server.pid}) is reached at {server.address}, which "
                    f"means nothing to the {reader.role} on {reader.host}. Start that {server.role} with the "
                    "scheduler's address as other machines know it, or with --advertise."
                )
    return ""
