"""The messages about replicas of servers; a part of `shoal.kvstore.wire.messages`, which has their names too.

A primary is the server that workers talk to; its replica is given everything that changes the primary's state, in
order, and says how far it is (docs/decisions/0026-replicas-follow-the-input.md).
"""

from shoal.kvstore.wire.membership import ToScheduler
from shoal.kvstore.wire.schema import Message, Payload, message

__all__ = ["Entered", "Follow", "Imaged", "InStep", "Kept", "Lost"]


@message(96, "primary -> replica")
class Follow(Message):
    """Begin a stream. Repeated until `Kept` or `Refused` arrives; an earlier stream of the replica is over by it."""

    cluster: str
    rank: int  # of the server
    incarnation: int  # of the primary; the replica follows no smaller one than it has followed
    parts: int  # how many `Imaged` tell the state that the stream begins with; 0: it begins with the run


@message(97, "primary -> replica")
class Entered(Message):
    """What the primary was given as number ``number``, and handles at the same time."""

    incarnation: int  # of the primary
    number: int  # from 1, in the order in which the primary handles them
    at: float  # the primary's clock, in seconds
    sender: str  # the peer that said it; "" for what the scheduler has announced
    head: Payload  # the message's header; empty if only time has passed
    frames: tuple[Payload, ...]  # and its payloads, as bytes


@message(98, "primary -> replica")
class Imaged(Message):
    """A part of the state that a stream begins with: first what the core knows, then each slice."""

    incarnation: int  # of the primary
    number: int  # from 1
    slice: int  # -1 for what the core knows
    meta: Payload  # JSON, with the names of the arrays
    arrays: tuple[Payload, ...]


@message(99, "replica -> primary")
class Kept(Message):
    """How far the replica is: it has the first ``number`` inputs, and the first ``images`` parts."""

    incarnation: int  # of the primary
    number: int
    images: int


@message(30, "server -> scheduler")
class InStep(ToScheduler):
    """The server's replica has everything, and nothing is answered before it does: it may take the server's place.

    Repeated until `Noted` arrives.
    """

    request: int
    incarnation: int  # of the replica


@message(31, "launcher or server -> scheduler")
class Lost(ToScheduler):
    """A process has ended, says who has started it; or a replica does not answer, says its server."""

    request: int = 0  # of a server: answered with `Noted`
    role: str
    rank: int
    pid: int
    host: str
    reason: str
