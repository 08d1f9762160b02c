"""A replica's process: it handles what its primary handles, in the same order, and says nothing until it leads.

A `Driver` for every peer but the scheduler. Workers that greet it too early are not heard; they repeat it.
"""

import logging
from collections.abc import Callable
from typing import Any

from shoal.errors import CheckpointError
from shoal.kvstore.server.replication import Follower, Refusal
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.server.whole import hang_whole, put_image
from shoal.kvstore.wire.codec import decode
from shoal.kvstore.wire.loop import IDLE_S
from shoal.kvstore.wire.messages import Entered, Follow, Imaged, Kept, Offer, Refused
from shoal.kvstore.wire.schema import Message

__all__ = ["Replica"]

log = logging.getLogger("shoal.server")


class Replica:
    """A server's shell, and the stream that it follows until it leads.

    Args:
        make: a new shell; a replica that must begin anew gets another one.
    """

    def __init__(self, make: Callable[[], ServerShell]) -> None:
        self._make = make
        self.shell = self._muted()
        self.leads = False
        self._place: tuple[int, str] | None = None  # rank and run, once they are known
        self._follower: Follower[Entered | Imaged] = Follower()
        self._leader = ""  # the peer that is followed
        self._told: tuple[int, int] | None = None
        self._at = 0.0  # the primary's clock, as of the last input

    def _muted(self) -> ServerShell:
        shell = self._make()
        shell.mute()
        shell.replication = self.report
        return shell

    def place(self, rank: int, cluster: str) -> None:
        """The scheduler has taken this process in."""
        self._place = rank, cluster

    # --- following ----------------------------------------------------------------------------------------------------

    def receive(self, peer: str, m: Message, now: float) -> None:
        """A message of the primary; or of anybody, once this leads."""
        if self.leads:
            if isinstance(m, Follow | Entered | Imaged):
                self._refuse(peer, self._follower.incarnation)
            else:
                self.shell.receive(peer, m, now)
            return
        try:
            self._hear(peer, m)
        except CheckpointError as e:
            self.shell.fail(f"what its primary tells: {e}")

    def _hear(self, peer: str, m: Message) -> None:
        follower = self._follower
        match m:
            case Follow():
                self._follow(peer, m)
            case Imaged():
                if m.number <= follower.images:
                    self._told = None  # what was said of it is lost
                for image in follower.image(m.incarnation, m.number, m):
                    assert isinstance(image, Imaged)
                    self._put(image)
                follower.ready = follower.ready or (follower.complete and self.shell.core is not None)
            case Entered():
                if m.number <= follower.handled:
                    self._told = None
                follower.entered(m.incarnation, m.number, m)
        self._advance()

    def _follow(self, peer: str, m: Follow) -> None:
        if self._place is None:
            return  # it will be repeated
        if self._place != (m.rank, m.cluster):
            text = f"this is the replica of server {self._place[0]} of run {self._place[1]!r}"
            self.shell.transport.send(peer, Refused(seq=0, error="JoinRefusedError", text=text))
            return
        new = self._follower.follow(m.incarnation, m.parts)
        if isinstance(new, Refusal):
            self._refuse(peer, new.incarnation)
            return
        self._leader, self._told = peer, None
        if not new:
            return
        if self.shell.core is not None:
            self.shell = self._muted()
        if not m.parts:
            self.shell.start(m.rank, m.incarnation, m.cluster)
            self._follower.ready = True
        name, token = self.shell.transport.sharing.offer(peer)
        if name:
            self.shell.transport.send(peer, Offer(name=name, token=token))

    def _put(self, m: Imaged) -> None:
        if m.slice < 0:
            hang_whole(self.shell, bytes(m.meta.data), m.incarnation)
        else:
            put_image(self.shell, m)

    def _advance(self) -> None:
        shell = self.shell
        while not shell.failure() and (item := self._follower.next()) is not None:
            assert isinstance(item, Entered)
            self._at = item.at or self._at
            head = bytes(item.head.data)
            if not head:
                shell.woke(item.at)
                continue
            message = decode([head, *(p.data for p in item.frames)])
            if item.sender:
                shell.receive(item.sender, message, item.at)
            else:
                shell.news(message)

    def _refuse(self, peer: str, incarnation: int) -> None:
        text = f"a server of incarnation {incarnation} has taken this place: who was there before must not go on"
        self.shell.transport.send(peer, Refused(seq=0, error="StaleWorkerError", text=text))

    def wake(self, now: float) -> float:
        """Say how far this replica is, if that is news."""
        if self.leads:
            return self.shell.wake(now)
        f = self._follower
        here = f.handled, f.images
        if self._leader and self._told != here and not self.shell.failure():
            self._told = here
            kept = Kept(incarnation=f.incarnation, number=f.handled, images=f.images)
            self.shell.transport.send(self._leader, kept)
        return now + IDLE_S

    # --- leading ------------------------------------------------------------------------------------------------------

    def lead(self, incarnation: int, news: list[Message], now: float) -> None:
        """Take the primary's place, exactly where it was when it last had an answer acknowledged.

        Args:
            incarnation: of this server from now on.
            news: all that the scheduler has announced; what the primary has not handed on is made good.
        """
        shell, core = self.shell, self.shell.core
        self._follower.lead(incarnation)
        self.leads = True
        if core is None or not self._follower.ready:
            shell.fail(f"taking the place of its primary as incarnation {incarnation}: it does not have its state")
            return
        core.incarnation = incarnation
        core.snapshots.shift(now - self._at)
        shell.speak()
        for m in news:
            if getattr(m, "generation", 0) > shell.heard:
                shell.news(m)
        text = "this replica leads now: server %d (incarnation %d), at input %d"
        log.warning(text, core.rank, incarnation, self._follower.handled)

    def report(self) -> dict[str, Any]:
        """What there is to say of a replica."""
        return {"follows": self._follower.incarnation, "handled": self._follower.handled}
