"""What happens to a core, and what a core says shall follow.

Actions are carried out in order by a shell. Cores never see an array: payloads pass through them unopened.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from shoal.kvstore.wire.messages import Segment
from shoal.kvstore.wire.schema import Message, Payload, Plain

__all__ = [
    "Accumulate",
    "Action",
    "Alter",
    "Apply",
    "BeginBranch",
    "Branching",
    "Configure",
    "Contribution",
    "Create",
    "CutBranch",
    "DropBranch",
    "Event",
    "PeerGone",
    "Received",
    "SealBranch",
    "Send",
    "SendBranch",
    "SendValue",
    "Woke",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Received:
    """``message`` came in from ``sender``, the transport's name for the peer."""

    sender: str
    message: Message


@dataclass(frozen=True, slots=True)
class PeerGone:
    """Worker ``rank`` will push no more: it is done, or lost."""

    rank: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Woke:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to peer ``to``."""

    to: str
    message: Message


class Contribution(NamedTuple):
    """One push that waits in a round, or is applied: whose, its number among this worker's, and how stale it is.

    ``staleness`` is how many versions the slice had gone through since the value that it was computed from.
    """

    rank: int
    clock: int
    staleness: int


@dataclass(frozen=True, slots=True)
class SendValue:
    """Send the present value of ``slice`` to worker ``rank`` at ``to``, in answer to its request ``seq``.

    ``stable`` says that the value is not written before the receiver has asked again, so that it need not be copied.
    ``taken`` is false if the request was a push that was dropped. Only ``rows`` are sent if there are any; else codec
    ``reply`` may encode the value, if it is not empty.
    """

    to: str
    rank: int
    seq: int
    slice: int
    version: int
    floor: int
    stable: bool
    taken: bool = True
    rows: Payload | None = None
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    """Give ``slice`` of store ``store`` its first value; ``segments`` are its keys if it has several.

    ``width`` is the length of its rows, if they may be pushed and pulled singly.
    """

    slice: int
    key: str
    value: Payload
    store: int
    segments: tuple[Segment, ...] = ()
    width: int = 0


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Keep contribution ``clock`` of worker ``rank`` to ``slice`` until it is applied.

    ``brief`` says that this happens in the same breath, or before the sender's push is done: it need not be copied.
    ``rows`` are the numbers of the rows that the value consists of, if it is row-sparse.
    """

    slice: int
    rank: int
    clock: int
    value: Payload
    brief: bool = True
    rows: Payload | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """Reduce the kept contributions ``parts``, in this order, and update ``slice`` to ``version``."""

    slice: int
    parts: tuple[Contribution, ...]
    reduce: str
    version: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Install an update rule for the slices of store ``store``, then confirm it to ``to``, or refuse it.

    It is for all slices, or for those of ``keys`` if there are any.
    """

    to: str
    seq: int
    store: int
    name: str
    params: object
    rule: str
    lr_mult: dict[str, float]
    wd_mult: dict[str, float]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alter:
    """From the next update of ``slice`` on its optimizer has these hyper-parameters; ``number`` is the change's."""

    slice: int
    number: int
    settings: dict[str, Plain]


@dataclass(frozen=True, slots=True)
class BeginBranch:
    """A snapshot by worker ``reader`` begins: from now on ``slice`` has a branch for it."""

    slice: int
    reader: int


@dataclass(frozen=True, slots=True)
class CutBranch:
    """The branch takes what makes the slice ``version``, or, if that is -1, the first ``counts`` of each rank."""

    slice: int
    reader: int
    version: int
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class SealBranch:
    """The branch has all of its cut once it has taken ``parts``, which go on waiting to be applied to the slice."""

    slice: int
    reader: int
    parts: tuple[Contribution, ...]
    reduce: str


@dataclass(frozen=True, slots=True)
class SendBranch:
    """Send the value of a sealed branch to ``to``, in answer to its request ``seq``."""

    to: str
    seq: int
    slice: int
    reader: int
    version: int
    floor: int


@dataclass(frozen=True, slots=True)
class DropBranch:
    """The branch is not needed any more; there may be none."""

    slice: int
    reader: int


Event: TypeAlias = Received | PeerGone | Woke
Branching: TypeAlias = BeginBranch | CutBranch | SealBranch | SendBranch | DropBranch
Action: TypeAlias = Send | SendValue | Create | Accumulate | Apply | Configure | Alter | Branching
