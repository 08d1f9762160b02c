"""What happens to a core, and what a core says shall follow.

Actions are carried out in order by a shell. Cores never see an array: payloads pass through them unopened.
"""

from typing import NamedTuple, TypeAlias

from shoal.kvstore.wire.messages import Segment
from shoal.kvstore.wire.schema import Message, Payload, Plain, fixed

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


@fixed
class Received:
    """``message`` came in from ``sender``, the transport's name for the peer."""

    sender: str
    message: Message


@fixed
class PeerGone:
    """Worker ``rank`` will push no more: it is done, or lost."""

    rank: int
    incarnation: int


@fixed
class Woke:
    """Time has passed."""


@fixed
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


@fixed
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


@fixed
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


@fixed
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


@fixed
class Apply:
    """Reduce the kept contributions ``parts``, in this order, and update ``slice`` to ``version``."""

    slice: int
    parts: tuple[Contribution, ...]
    reduce: str
    version: int


@fixed
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


@fixed
class Reinstate:
    """Let the optimizer of ``slice`` go on from these states, then confirm it to ``to``, or refuse it."""

    to: str
    seq: int
    slice: int
    updates: int
    names: tuple[str, ...]
    states: tuple[Payload, ...]


@fixed
class Alter:
    """From the next update of ``slice`` on its optimizer has these hyper-parameters; ``number`` is the change's."""

    slice: int
    number: int
    settings: dict[str, Plain]


@fixed
class BeginBranch:
    """A snapshot by worker ``reader`` begins: from now on ``slice`` has a branch for it."""

    slice: int
    reader: int


@fixed
class CutBranch:
    """The branch takes what makes the slice ``version``, or, if that is -1, the first ``counts`` of each rank."""

    slice: int
    reader: int
    version: int
    counts: dict[int, int]


@fixed
class SealBranch:
    """The branch has all of its cut once it has taken ``parts``, which go on waiting to be applied to the slice."""

    slice: int
    reader: int
    parts: tuple[Contribution, ...]
    reduce: str
    states: bool = False  # what the optimizer keeps is wanted, too


@fixed
class SendBranch:
    """Send the value of a sealed branch to ``to``, in answer to its request ``seq``; with the ``states``, if wanted."""

    to: str
    seq: int
    slice: int
    reader: int
    version: int
    floor: int
    states: bool = False


@fixed
class DropBranch:
    """The branch is not needed any more; there may be none."""

    slice: int
    reader: int


Event: TypeAlias = Received | PeerGone | Woke
Branching: TypeAlias = BeginBranch | CutBranch | SealBranch | SendBranch | DropBranch
Action: TypeAlias = Send | SendValue | Create | Accumulate | Apply | Configure | Reinstate | Alter | Branching
