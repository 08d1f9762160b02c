"""A primary and its replica: what comes in is handed on before it is handled, and what goes out waits.

A `Driver` under the peer name of the replica. Without replicas there is none, and the server's shell looks at one
attribute. See `shoal.kvstore.server.replication` for the rules.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.kvstore.eventlog import event
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.filling import Filling
from shoal.kvstore.server.image import Image
from shoal.kvstore.server.replication import RETRY_S, Stream
from shoal.kvstore.server.whole import as_bytes, of_image
from shoal.kvstore.wire.codec import encode
from shoal.kvstore.wire.messages import (
    Entered,
    Follow,
    Imaged,
    Kept,
    Member,
    Offer,
    Pull,
    Push,
    Refused,
    Stats,
)
from shoal.kvstore.wire.packet import size_of
from shoal.kvstore.wire.schema import Message, Payload
from shoal.kvstore.wire.shm import is_mapped

if TYPE_CHECKING:
    from shoal.kvstore.server.shell import ServerShell

__all__ = ["REPLICA", "Forwarding"]

log = logging.getLogger("shoal.server")

REPLICA = "replica"
"""The transport's name for the replica."""

FOLLOW_S = 0.1
"""Time between two requests to follow."""

IMAGES_BYTES = 32 << 20
"""Of slices that a new replica has not acknowledged; with more, no further one is copied for it."""

BACKLOG_BYTES = 256 << 20
"""Of inputs that a new replica has not acknowledged; with more, answers wait for it, and so do workers."""

SHARED_BYTES = 16 << 10
"""Larger contributions lie in memory that a replica on this host reads: one copy, instead of those of a socket."""

WAIT_S, PAUSE_S = 0.02, 1.0


class Forwarding:
    """What a server does for its replica; it may have none for a while.

    Args:
        shell: of the server.
        lease_s: a replica that acknowledges nothing for this long is given up, if the scheduler agrees.
        clock: seconds, monotonic.
        on_step: told of a replica that has everything, once.
        on_silence: told of a replica that does not acknowledge, and for how long.
    """

    def __init__(
        self,
        shell: "ServerShell",
        lease_s: float,
        clock: Callable[[], float],
        on_step: Callable[[Member], None],
        on_silence: Callable[[Member, float], None],
    ) -> None:
        self._shell, self._transport = shell, shell.transport
        self._lease_s, self._clock, self._on_step, self._on_silence = lease_s, clock, on_step, on_silence
        self.member: Member | None = None  # the replica
        self.failovers = 0  # of this server's shard
        self._stream: Stream[Message] | None = None  # None: there is no replica, or its stream cannot begin yet
        self._filling: Filling | None = None
        self._follow_at = 0.0
        self._stepped = self._blamed = False
        self._under_way: set[tuple[str, int]] = set()  # pushes that the replica has not acknowledged, by sender and seq
        self._marks: deque[tuple[int, tuple[str, int]]] = deque()
        self._alone_since = clock()
        self._alone_s = 0.0
        shell.replication = self.report

    # --- a replica comes and goes -------------------------------------------------------------------------------------

    def begin(self, member: Member, fresh: bool) -> None:
        """This is the replica from now on.

        Args:
            fresh: both begin with the run; otherwise the replica is filled first.
        """
        if self.member is not None:
            self.end("another one has taken its place")
        self.member, self._stepped, self._blamed = member, fresh, False
        self._transport.connect(REPLICA, member.address)
        if fresh:
            self._alone_s, self._alone_since = 0.0, -1.0
            self._open(Stream())

    def end(self, reason: str) -> None:
        """There is no replica any more: this server goes on alone."""
        if self.member is None:
            return
        stream, self._stream = self._stream, None
        self.member = None
        self._shell.say_through(None)
        self._under_way.clear()
        self._marks.clear()
        if self._filling is not None:
            self._filling.stop()
            self._filling = None
        if self._alone_since < 0:
            self._alone_since = self._clock()
        text = "server %d is not replicated until a new replica is in step: %s"
        rank = self._rank
        log.warning(text, rank, reason, extra=event("not replicated", reason, server=rank))
        for to, message in stream.let_go() if stream is not None else ():
            self._transport.send(to, message)
        self._transport.disconnect(REPLICA)

    def _open(self, stream: Stream[Message]) -> None:
        self._stream, self._follow_at = stream, 0.0
        self._shell.say_through(self)

    def _fill(self, core: ServerCore, now: float) -> None:
        """Begin a stream with the state as it is now."""
        filling = Filling(self._shell, core, self._image)
        stream: Stream[Message] = Stream(1 + filling.slices)
        self._filling = filling
        self._open(stream)
        first = Imaged(incarnation=core.incarnation, number=1, slice=-1, meta=as_bytes(filling.text), arrays=())
        stream.images.enter(first, len(filling.text), now)
        text = "server %d fills its replica (pid %d): %d slices"
        member = self.member
        log.info(text, core.rank, member.pid if member is not None else 0, filling.slices)

    def _image(self, slice_id: int, image: Image) -> None:
        stream, core = self._stream, self._shell.core
        if stream is None or core is None:
            return
        m = of_image(core.incarnation, stream.images.entered + 1, slice_id, image)
        stream.images.enter(m, sum(a.nbytes for a in image.arrays.values()), self._clock())
        if stream.opened:
            self._transport.send(REPLICA, m)

    @property
    def cutting(self) -> bool:
        """Whether slices are still to be copied, so that snapshots must wait."""
        return self._filling is not None

    @property
    def _rank(self) -> int:
        return self._shell.core.rank if self._shell.core is not None else -1

    # --- what the server's shell asks ---------------------------------------------------------------------------------

    def takes(self, core: ServerCore, peer: str, m: Message, now: float) -> bool:
        """Hand on what came in; false if it need not be handled: it has been, and its answer waits."""
        stream = self._stream
        if stream is None or isinstance(m, Stats):
            return True
        if isinstance(m, Pull) and _only_looks(core, peer, m) and self._shell.looks_only(m):
            return True
        if isinstance(m, Push) and stream.holding:
            mark = peer, m.seq
            if mark in self._under_way:
                return False
            self._under_way.add(mark)
            self._marks.append((stream.inputs.entered + 1, mark))
        self.enter(peer, m, now)
        return True

    def enter(self, sender: str, m: Message | None, now: float) -> None:
        """Hand on an input; None: time has passed."""
        stream, core = self._stream, self._shell.core
        if stream is None or core is None:
            return
        frames = encode(m) if m is not None else [b""]
        large = isinstance(m, Push)  # which the replica keeps no longer than it takes to acknowledge it
        payloads = [self._carried(f, large, stream.holding) for f in frames[1:]]
        entered = Entered(
            incarnation=core.incarnation,
            number=stream.inputs.entered + 1,
            at=now,
            sender=sender,
            head=as_bytes(frames[0]),
            frames=tuple(map(as_bytes, payloads)),
        )
        nbytes = sum(p.shape[0] for p in entered.frames) + entered.head.shape[0]
        stream.inputs.enter(entered, nbytes, self._clock())
        if stream.opened:
            self._transport.send(REPLICA, entered)
        if not stream.holding and stream.inputs.nbytes > BACKLOG_BYTES:
            stream.hold_from_now()

    def _carried(self, frame: Any, large: bool, holding: bool) -> Any:
        """A payload, where the replica can read it in place if it is on this host, until it has acknowledged it.

        If answers do not wait, whoever lent us this memory is answered and may write to it: then it is copied anyhow.
        """
        nbytes = size_of(frame)
        block = self._transport.sharing.place(REPLICA, nbytes) if large and nbytes >= SHARED_BYTES else None
        if block is None:
            return frame if holding or not is_mapped(frame) else bytes(frame)
        place = np.asarray(block)
        np.copyto(place, np.frombuffer(frame, np.uint8))
        return place.data

    def send(self, to: str, m: Message, *, stable: bool = True) -> None:
        """Send an answer, at once or when the replica has what it rests on."""
        stream = self._stream
        if stream is None or not stream.holds():
            self._transport.send(to, m, stable=stable)
        else:
            stream.hold((to, m if stable else _copied(m)))

    # --- driver -------------------------------------------------------------------------------------------------------

    def receive(self, peer: str, m: Message, now: float) -> None:
        """The replica says how far it is."""
        stream, core = self._stream, self._shell.core
        if stream is None or core is None:
            return
        match m:
            case Kept(incarnation=incarnation) if incarnation == core.incarnation:
                first = not stream.opened
                ready = stream.kept(m.number, m.images, now)
                for to, answer in ready:
                    self._transport.send(to, answer)
                self._forget(stream.inputs.acked)
                for item in stream.everything() if first else ():
                    self._transport.send(REPLICA, item)
                self._step(stream)
            case Offer(name=name, token=token):
                self._transport.sharing.accept(peer, name, token)
            case Refused(text=text):
                log.error("server %d leads no more: %s", core.rank, text)

    def _forget(self, acked: int) -> None:
        while self._marks and self._marks[0][0] <= acked:
            self._under_way.discard(self._marks.popleft()[1])

    def _step(self, stream: Stream[Message]) -> None:
        if self._stepped or not stream.in_step or self.member is None:
            return
        self._stepped = True
        alone_s, self._alone_s, self._alone_since = self._clock() - self._alone_since, self._seconds(), -1.0
        text = "server %d is replicated again, after %.1f s"
        log.warning(text, self._rank, alone_s, extra=event("replicated", "its replica is in step", server=self._rank))
        self._on_step(self.member)

    def wake(self, now: float) -> float:
        """Fill, repeat, and notice a replica that is silent; returns when to be woken next."""
        core, member = self._shell.core, self.member
        if core is None or member is None:
            return now + PAUSE_S
        stream = self._stream
        if stream is None:
            if self._shell.quiet:
                self._fill(core, now)
            return now + WAIT_S
        if not stream.opened and now >= self._follow_at:
            self._follow_at = now + FOLLOW_S
            parts, inc = stream.parts, core.incarnation
            self._transport.send(REPLICA, Follow(cluster=core.cluster, rank=core.rank, incarnation=inc, parts=parts))
        for item in stream.again(now):
            self._transport.send(REPLICA, item)
        if self._filling is not None:
            self._copy(self._filling, stream)
        silent_s = stream.silent_s(now)
        if silent_s > self._lease_s and not self._blamed:
            self._blamed = True
            self._on_silence(member, silent_s)
        if not stream.opened:
            return self._follow_at
        if self._filling is not None and stream.images.nbytes < IMAGES_BYTES:
            return now
        return now + (RETRY_S if stream.inputs.nbytes or stream.images.nbytes else PAUSE_S)

    def _copy(self, filling: Filling, stream: Stream[Message]) -> None:
        if stream.images.nbytes < IMAGES_BYTES:
            filling.turn()
        if filling.over:
            self._filling = None

    # --- what there is to say -----------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self._alone_s + (self._clock() - self._alone_since if self._alone_since >= 0 else 0.0)

    def report(self) -> dict[str, Any]:
        """``replicated``; ``lag``: inputs that the replica has not acknowledged; ``failovers`` of this shard;
        ``seconds`` for which this process was not replicated."""
        stream = self._stream
        return {
            "replicated": stream is not None and stream.in_step,
            "lag": stream.lag if stream is not None else 0,
            "failovers": self.failovers,
            "seconds": round(self._seconds(), 3),
        }

    def waits(self, now: float) -> list[list[Any]]:
        """Whom answers wait for: see `shoal.kvstore.server.vitals`."""
        stream = self._stream
        silent_s = stream.silent_s(now) if stream is not None and stream.held else 0.0
        if silent_s < PAUSE_S or stream is None:
            return []
        return [
            [f"{stream.held} answers, until the replica has what they rest on", [f"replica {self._rank}"], silent_s]
        ]


def _only_looks(core: ServerCore, peer: str, m: Pull) -> bool:
    """Whether a read is answered at once, and changes nothing."""
    entry = core.entries.get(m.slice)
    if entry is None:
        return True
    if m.watch or (peer, m.seq) in entry.parked:
        return False
    return m.worker not in entry.progress.clocks or entry.may_read(m.worker, m.clock)


def _copied(m: Message) -> Message:
    """A message whose payload is not written any more."""
    value = getattr(m, "value", None)
    if not isinstance(value, Payload):
        return m
    changed: Any = m
    copied: Message = dataclasses.replace(changed, value=dataclasses.replace(value, data=bytes(value.data)))
    return copied
