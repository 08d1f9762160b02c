"""What the core of a worker's collectives works on, and what it says shall follow."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from shoal.kvstore.ring.schedule import Block, Step
from shoal.kvstore.wire.messages import Part
from shoal.kvstore.wire.schema import Message, Payload

__all__ = [
    "Action",
    "Collective",
    "Combine",
    "Complete",
    "Fail",
    "Finish",
    "Flight",
    "Forsake",
    "Held",
    "Keep",
    "Send",
    "State",
    "Take",
    "Transmit",
    "Warn",
]

Name: TypeAlias = tuple[int, int]
"""Key and clock of a collective."""


@dataclass(slots=True, eq=False)
class Collective:
    """One collective, as a worker starts it.

    Args:
        key: number of the key, the same on every worker.
        about: the key's name, for texts.
        size: elements of the array.
        dtype: wire name.
        item_bytes: of one element.
        blocks: this worker's programs.
        token: the shell's; the core never looks at it.
    """

    key: int
    about: str
    size: int
    dtype: str
    item_bytes: int
    blocks: list[Block]
    priority: int = 0
    token: Any = None
    clock: int = -1
    since: float = 0.0
    warned: float = 0.0
    ask_due: float = 0.0
    over: bool = False
    places: list[int] = field(default_factory=list)  # next step, by block
    fresh: list[bool] = field(default_factory=list)  # nothing has been added yet, by block
    left: int = 0  # blocks that are not done
    untaken: int = 0  # messages that the caller's memory is needed for
    inbox: dict[tuple[int, int], "Held"] = field(default_factory=dict)
    standings: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def name(self) -> Name:
        return self.key, self.clock


@dataclass(slots=True, eq=False)
class Held:
    """What has come in a message and is not used yet."""

    value: Payload


class State(Enum):
    """Where a message to a peer is."""

    QUEUED = "queued"
    FLYING = "flying"
    PARKED = "parked"  # the peer has not started the collective, and has too much in store for others
    OVER = "over"


@dataclass(slots=True, eq=False)
class Flight:
    """A message to ``peer``; ``message`` is the shell's."""

    op: Collective
    peer: int
    block: int
    step: Step
    fresh: bool  # the worker's own part; otherwise the sum so far
    nbytes: int
    kept: bool  # its bytes are copied
    pause: float  # until it is sent again
    due: float = 0.0
    state: State = State.QUEUED
    message: Part | None = None

    @property
    def label(self) -> tuple[Name, int, int]:
        """What it is called on both sides."""
        return self.op.name, self.block, self.step.tag


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to ``to``: the rank of a peer, or the transport's name of whoever asked."""

    to: int | str
    message: Message


@dataclass(frozen=True, slots=True)
class Take:
    """Copy now what ``flight`` will carry: the memory is written before it can be sent."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Keep:
    """Make sure that ``held`` stays as it is after its sender has been told that it was taken."""

    held: Held


@dataclass(frozen=True, slots=True)
class Forsake:
    """``flight`` is given up, but its peer may still read it: never use its memory again."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send ``flight``."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Combine:
    """Add ``value`` to elements ``start:stop`` of the sum, or put it there; ``fresh``: the sum is still this worker's
    own part."""

    op: Collective
    step: Step
    fresh: bool
    value: Payload


@dataclass(frozen=True, slots=True)
class Finish:
    """Elements ``start:stop`` are summed: make them the result."""

    op: Collective
    step: Step
    fresh: bool


@dataclass(frozen=True, slots=True)
class Complete:
    """The collective is done, and the caller's memory is the caller's again."""

    op: Collective


@dataclass(frozen=True, slots=True)
class Fail:
    """The collective cannot be done: raise the exception class named ``error``."""

    op: Collective
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Worth telling the user once: a collective has waited long."""

    text: str


Action: TypeAlias = Send | Take | Keep | Forsake | Transmit | Combine | Finish | Complete | Fail | Warn
