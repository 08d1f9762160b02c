"""What happens to a core, and what a core says shall follow.

Actions are carried out in order by a shell. Cores never see an array: payloads pass through them unopened.
"""

from dataclasses import dataclass
from typing import TypeAlias

from shoal.kvstore.wire.schema import Message, Payload

__all__ = [
    "Accumulate",
    "Action",
    "Apply",
    "Configure",
    "Create",
    "Event",
    "PeerGone",
    "Received",
    "Send",
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


@dataclass(frozen=True, slots=True)
class SendValue:
    """Send the present value of ``slice`` to peer ``to``, in answer to its request ``seq``.

    ``stable`` says that the value is not written before the receiver has asked again, so that it need not be copied.
    """

    to: str
    seq: int
    slice: int
    version: int
    floor: int
    stable: bool


@dataclass(frozen=True, slots=True)
class Create:
    """Give ``slice`` of store ``store`` its first value."""

    slice: int
    key: str
    value: Payload
    store: int


@dataclass(frozen=True, slots=True)
class Accumulate:
    """Keep the contribution of worker ``rank`` to ``slice`` until the next `Apply`."""

    slice: int
    rank: int
    value: Payload


@dataclass(frozen=True, slots=True)
class Apply:
    """Reduce the kept contributions of ``ranks``, in this order, and update ``slice`` to ``version``."""

    slice: int
    ranks: tuple[int, ...]
    reduce: str
    version: int


@dataclass(frozen=True, slots=True)
class Configure:
    """Install an update rule for every slice of store ``store``, then confirm it to ``to``, or refuse it."""

    to: str
    seq: int
    store: int
    name: str
    params: object
    lr_mult: dict[str, float]
    wd_mult: dict[str, float]


Event: TypeAlias = Received | PeerGone | Woke
Action: TypeAlias = Send | SendValue | Create | Accumulate | Apply | Configure
