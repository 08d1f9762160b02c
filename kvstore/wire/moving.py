"""The protocol of slices that go from one server to another: news of the scheduler, and what servers say."""

from shoal.kvstore.wire.membership import FromScheduler, Shift, ToScheduler
from shoal.kvstore.wire.schema import Message, Payload, message

__all__ = [
    "Drain",
    "Draining",
    "Elsewhere",
    "HandOver",
    "Handed",
    "Have",
    "Moved",
    "Propose",
    "Rebalance",
]


@message(100, "scheduler -> node")
class Rebalance(FromScheduler):
    """These slices are to move; whatever was to move before and is not among them stays. Each is a generation."""

    generation: int
    moves: tuple[Shift, ...]


@message(101, "scheduler -> node")
class Moved(FromScheduler):
    """From now on ``server`` has the slice: the placement epoch has grown to ``epoch``. Each is a generation."""

    generation: int
    epoch: int
    slice: int
    server: int


@message(102, "server -> scheduler")
class Handed(ToScheduler):
    """Server ``target`` has the slice, and keeps it; the sender answers nothing about it. Repeated until `Moved`."""

    slice: int
    target: int


@message(103, "server or operator -> scheduler")
class Drain(ToScheduler):
    """Move everything away from a server, and let it go. Repeated until `Draining` says that it is gone."""

    request: int
    token: str = ""  # random, of an operator, who is no member of the run; "" of the server itself
    by: str = ""  # what an operator is called
    server: int


@message(104, "scheduler -> server or operator")
class Draining(FromScheduler):
    """So many slices are still to leave the server; ``gone``: it has said goodbye."""

    request: int
    server: int
    left: int
    gone: bool


@message(105, "server -> server")
class Propose(Message):
    """Would the receiver take this slice now? ``position`` is what the sender has heard so far; see `HandOver`."""

    cluster: str
    server: int  # the sender
    incarnation: int
    slice: int
    attempt: int  # grows with each message of this kind and of `HandOver`
    position: str


@message(106, "server -> server")
class HandOver(Message):
    """A slice: its clocks, the contributions that wait, the state of its optimizer and of its rule, and its arrays."""

    cluster: str
    server: int  # the sender
    incarnation: int
    slice: int
    attempt: int
    position: str  # JSON: workers, barriers, changes and optimizers that the sender has heard of
    state: str  # JSON: the slice as the server's core has it, and what the arrays are
    labels: tuple[str, ...]
    arrays: tuple[Payload, ...]  # by these labels


@message(107, "server -> server")
class Have(Message):
    """Answer to `Propose` (``trial``) and `HandOver`: the receiver would take the slice, or has it; or not, and why."""

    slice: int
    attempt: int
    trial: bool
    taken: bool
    why: str = ""


@message(108, "server -> worker")
class Elsewhere(Message):
    """The slice has moved: ask ``server``, which has it since placement epoch ``epoch``."""

    seq: int
    slice: int
    server: int
    epoch: int
