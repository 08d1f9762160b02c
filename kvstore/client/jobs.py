"""What a worker's client is asked to do, what it says shall follow, and what it counts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from shoal.kvstore.wire.messages import Granted, Value
from shoal.kvstore.wire.schema import Message, Payload, fixed

__all__ = [
    "RETRY_S",
    "ClientAction",
    "Complete",
    "Counters",
    "Dropped",
    "Fail",
    "Job",
    "Place",
    "Stage",
    "Transmit",
    "Warn",
    "value_bytes",
]

RETRY_S = 1.0
"""Pause before a request is repeated for the first time."""


class Stage(Enum):
    """What a job waits for."""

    QUEUED = "queued"
    ENTER = "permission to push"
    PUSH = "acknowledgement"
    READ = "value"
    REQUEST = "answer"
    OVER = "over"


@dataclass(slots=True, eq=False)
class Job:
    """One request. ``payload`` makes it a push, ``want`` a read; ``request`` is any other message, sent as it is."""

    server: int
    slice: int = -1
    key: str = ""
    priority: int = 0
    payload: Payload | None = None
    payload_bytes: int = 0
    codec: str = ""  # how the payload is compressed
    more: tuple[Payload, ...] = ()  # further parts of a compressed payload
    rows: Payload | None = None  # only these rows are pushed, or read
    load: Callable[[], None] | None = None  # what the caller does before it submits a push: encode the payload
    sure: bool = False  # that cannot fail
    undo: Callable[[], None] | None = None  # a push that is refused or dropped returns what it held
    dense_bytes: int = 0  # what it would be without compression
    want: bool = False
    reply: str = ""  # what may encode the value that is wanted
    request: Message | None = None
    token: Any = None  # the caller's; the core never looks at it
    timeout_s: float = 0.0  # 0: as long as any
    ticket: "Place | None" = None  # what the push belongs to; of a request: what it asks for
    seq: int = -1
    clock: int = 0
    stage: Stage = Stage.QUEUED
    since: float = 0.0
    due: float = 0.0
    pause: float = RETRY_S
    warned: float = 0.0
    missing: tuple[int, ...] = ()
    credit: int = 0
    began: float = 0.0  # when the push was sent first


@fixed
class Transmit:
    """Send ``message`` to server ``server``."""

    server: int
    message: Message


@fixed
class Complete:
    """``job`` is done; ``result`` is the answer's message, if it has one."""

    job: Job
    result: Message | None


@fixed
class Fail:
    """``job`` cannot be done: raise the exception class named ``error``."""

    job: Job
    error: str
    text: str


@fixed
class Dropped:
    """The push of ``job`` came too late and was dropped; the job itself goes on."""

    job: Job


@fixed
class Warn:
    """Worth telling the user once: a job has waited long."""

    text: str


ClientAction: TypeAlias = Transmit | Complete | Dropped | Fail | Warn


@dataclass(slots=True)
class Place:
    """A place in a round for one contribution to every slice of a store, and the jobs that wait for it."""

    granted: Granted | None = None
    waiting: list[Job] = field(default_factory=list)


@dataclass(slots=True)
class Counters:
    """The worker's side of the ledger."""

    sent: int = 0
    acknowledged: int = 0
    dropped: int = 0  # acknowledged, but too late for their round
    skipped: int = 0  # not sent, because they would have come too late for their round
    retries: int = 0
    bytes_pushed: int = 0
    bytes_dense: int = 0  # what bytes_pushed would be without compression
    bytes_pulled: int = 0
    bytes_acknowledged: int = 0  # of bytes_pushed, and of the values that came with acknowledgements
    pushing_s: float = 0.0  # while a push was under way
    skew: Counter[int] = field(default_factory=Counter)  # newest less oldest version in a read of several slices
    staleness: float = 0.0  # moving average over the latest pushes, for the eye; servers count every push


def value_bytes(m: Value) -> int:
    """Bytes of a value, as it travels."""
    return sum(p.data.nbytes for p in (m.value, *m.more) if p is not None)
