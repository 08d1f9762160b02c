"""Who leads a shard and who follows, as one of its two processes hears it from the scheduler. Pure.

News come in order, each once; a process that has joined late hears the past first. It is concerned from the news that
name itself on.
"""

from dataclasses import dataclass

from shoal.kvstore.wire.messages import Left, Member, Replaced, Roster
from shoal.kvstore.wire.schema import Message

__all__ = ["Begin", "End", "Lead", "Succession"]


@dataclass(frozen=True, slots=True)
class Begin:
    """Be the primary of this replica; ``fresh``: both begin with the run."""

    replica: Member
    fresh: bool


@dataclass(frozen=True, slots=True)
class End:
    """There is no replica any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lead:
    """Take the primary's place, as this incarnation."""

    incarnation: int


class Succession:
    """The news as one process of a shard hears them.

    Args:
        rank: of the shard.
        address, pid: of this process.
    """

    def __init__(self, rank: int, address: str, pid: int) -> None:
        self._rank, self._me = rank, (address, pid)
        self.primary: Member | None = None
        self.replica: Member | None = None
        self.failovers = 0  # how often a replica has taken the primary's place
        self._known = False  # this process has been named
        self._leads = False

    def hear(self, m: Message) -> list[Begin | End | Lead]:
        """What follows from this piece of news."""
        before = self.replica if self._leads else None
        begins = isinstance(m, Roster)
        match m:
            case Roster(members=members):
                for member in members:
                    self._take(member)
            case Replaced(member=member):
                self._take(member)
            case Left(role="replica", rank=rank) if rank == self._rank:
                self.replica = None
            case _:
                return []
        return self._settle(before, begins)

    def _take(self, m: Member) -> None:
        if m.rank != self._rank or m.role not in ("server", "replica"):
            return
        self._known = self._known or self._is_me(m)
        if m.role == "replica":
            self.replica = m
        else:
            if self.replica is not None and (m.address, m.pid) == (self.replica.address, self.replica.pid):
                self.replica = None  # it has been promoted
                self.failovers += 1
            self.primary = m

    def _is_me(self, m: Member) -> bool:
        return (m.address, m.pid) == self._me

    def _settle(self, before: Member | None, begins: bool) -> list[Begin | End | Lead]:
        if not self._known or self.primary is None or not self._is_me(self.primary):
            return []
        found: list[Begin | End | Lead] = []
        if not self._leads:
            self._leads = True
            if not begins and self.primary.incarnation > 1:
                found.append(Lead(self.primary.incarnation))
        if self.replica == before:
            return found
        if self.replica is None:
            return [*found, End("it was lost")]
        return [*found, Begin(self.replica, begins)]
