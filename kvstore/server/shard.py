"""One of the processes that hold a shard of the store, as a primary or as its replica, as the scheduler decides."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.kvstore.server.forwarding import REPLICA, Forwarding
from shoal.kvstore.server.replica import Replica
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.server.succession import Begin, End, Lead, Succession
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Member, Roster
from shoal.kvstore.wire.schema import Message

__all__ = ["Identity", "Shard"]

log = logging.getLogger("shoal.server")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the scheduler has made of a process, and where it listens."""

    rank: int
    incarnation: int
    cluster: str
    lease_s: float
    address: str
    pid: int


class Shard:
    """A server's store, and what it does for, or as, a replica.

    Args:
        make: a new store; called again should a replica have to begin anew.
        loop: what drives them.
        replica: this process begins as a replica.
        on_step: told when this server's replica may take its place.
        on_silence: told when the replica does not acknowledge, and for how long.
    """

    def __init__(
        self,
        make: Callable[[], ServerShell],
        loop: Loop,
        *,
        replica: bool = False,
        on_step: Callable[[Member], None] = lambda member: None,
        on_silence: Callable[[Member, float], None] = lambda member, silent_s: None,
    ) -> None:
        self._replica = Replica(make) if replica else None
        self._store = self._replica.shell if self._replica is not None else make()
        self._loop, self._clock = loop, loop.clock
        self._on_step, self._on_silence = on_step, on_silence
        self.forwarding: Forwarding | None = None
        self._me: Identity | None = None
        self._succession: Succession | None = None
        self._past: list[Message] = []  # news, as long as this is a replica
        loop.drivers[""] = self._replica or self._store

    @property
    def store(self) -> ServerShell:
        """The store as it is now."""
        return self._store if self._replica is None else self._replica.shell

    @property
    def follows(self) -> bool:
        """Whether this is a replica."""
        return self._replica is not None and not self._replica.leads

    def begin(self, me: Identity) -> None:
        """The scheduler has taken this process in, and the run has begun."""
        self._me, self._succession = me, Succession(me.rank, me.address, me.pid)
        if self._replica is not None:
            self._replica.place(me.rank, me.cluster)
        else:
            self.store.start(me.rank, me.incarnation, me.cluster)

    def hear(self, m: Message) -> None:
        """The scheduler has announced something; each piece once, in order, the first is the roster."""
        followed = self.follows
        if followed:
            self._past.append(m)
        for step in self._succession.hear(m) if self._succession is not None else ():
            match step:
                case Lead(incarnation) if self._replica is not None:
                    self._replica.lead(incarnation, self._past, self._clock())
                    self._past = []
                    self._forward()
                case Begin(member, fresh):
                    self._forward().begin(member, fresh and isinstance(m, Roster))
                case End(reason):
                    self._forward().end(reason)
        if not followed:
            self.store.news(m)

    def _forward(self) -> Forwarding:
        if self.forwarding is None and self._me is not None:
            made = Forwarding(self.store, self._me.lease_s, self._clock, self._on_step, self._on_silence)
            self.forwarding = made
            self._loop.drivers = {**self._loop.drivers, REPLICA: made}
        assert self.forwarding is not None
        self.forwarding.failovers = self._succession.failovers if self._succession is not None else 0
        return self.forwarding

    def vitals(self, now: float) -> dict[str, Any]:
        """What there is to show of replicas while the run goes on; nothing where there are none."""
        store = self.store
        if store.replication is None:
            return {}
        waits = self.forwarding.waits(now) if self.forwarding is not None else []
        return {"replication": store.replication(), **({"waits": waits} if waits else {})}
