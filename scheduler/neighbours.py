"""The other servers of a run, as one of them reaches them: connected when a slice is to go there."""

from shoal.kvstore.wire.messages import Arrived, Handed, Left, Member, Replaced, Roster
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.client import Membership

__all__ = ["Neighbourhood"]


class Neighbourhood:
    """See `shoal.kvstore.server.mover.Neighbours`; on the loop's thread.

    Args:
        transport: of this server.
        membership: of this server.
    """

    def __init__(self, transport: Transport, membership: Membership) -> None:
        self._transport, self._membership = transport, membership
        self._members: dict[int, Member] = {}
        self._connected: dict[int, Member] = {}

    def hear(self, m: Message) -> None:
        """News of the scheduler."""
        match m:
            case Roster(members=members):
                self._members |= {x.rank: x for x in members if x.role == "server"}
            case Arrived(member=member) | Replaced(member=member) if member.role == "server":
                known = self._members.get(member.rank)
                if known is None or known.incarnation < member.incarnation:
                    self._members[member.rank] = member
            case Left(role="server", rank=rank):
                self._members.pop(rank, None)
                if self._connected.pop(rank, None) is not None:
                    self._transport.disconnect(_peer(rank))

    def reach(self, rank: int) -> str:
        """See `Neighbours.reach`."""
        member = self._members.get(rank)
        if member is None:
            return ""
        if self._connected.get(rank) != member:
            self._transport.connect(_peer(rank), member.address)
            self._connected[rank] = member
        return _peer(rank)

    def incarnation(self, rank: int) -> int:
        """See `Neighbours.incarnation`."""
        member = self._members.get(rank)
        return 0 if member is None else member.incarnation

    def tell(self, message: Handed) -> None:
        """See `Neighbours.tell`."""
        self._membership.repeat(_key(message.slice), message)

    def hush(self, slice_id: int) -> None:
        """See `Neighbours.hush`."""
        self._membership.hush(_key(slice_id))


def _peer(rank: int) -> str:
    return f"neighbour{rank}"


def _key(slice_id: int) -> str:
    return f"handed {slice_id}"
