"""The protocol: every message between scheduler, servers, workers and watchers, declared once.

Encoder, decoder, validation and ``docs/protocol.md`` are derived from these classes. Kinds are never reused. Repeating
any request is harmless: that is how lost messages are survived.
"""

from shoal.kvstore.wire.collective import Ask, Greet, Greeted, Part, Ready, Standing, Took
from shoal.kvstore.wire.membership import (
    Abort,
    Alive,
    Arrived,
    Attach,
    Barrier,
    BarrierWaiting,
    Change,
    Changed,
    Control,
    Controlled,
    Declare,
    Farewell,
    FromScheduler,
    Goodbye,
    Heartbeat,
    Join,
    KeyLayout,
    KeySpec,
    Left,
    Meet,
    Member,
    Met,
    NodeStatus,
    Noted,
    Placed,
    Released,
    Replaced,
    Roster,
    Seat,
    Settle,
    Shared,
    Shift,
    Slice,
    Snapshot,
    Stop,
    ToScheduler,
    Wait,
    Watch,
    Welcome,
)
from shoal.kvstore.wire.moving import (
    Drain,
    Draining,
    Elsewhere,
    Handed,
    HandOver,
    Have,
    Moved,
    Propose,
    Rebalance,
)
from shoal.kvstore.wire.schema import Message, Payload, Plain, message, record
from shoal.kvstore.wire.standby import Entered, Follow, Imaged, InStep, Kept, Lost

__all__ = [
    "PROTOCOL",
    "Abort",
    "Ack",
    "Alive",
    "Arrived",
    "Ask",
    "Attach",
    "Barrier",
    "BarrierWaiting",
    "Call",
    "CallPart",
    "Called",
    "Change",
    "Changed",
    "Control",
    "Controlled",
    "Count",
    "Counted",
    "Declare",
    "Done",
    "Drain",
    "Draining",
    "Elsewhere",
    "Entered",
    "Farewell",
    "Fetch",
    "Follow",
    "Forget",
    "FromScheduler",
    "Goodbye",
    "Granted",
    "Greet",
    "Greeted",
    "HandOver",
    "Handed",
    "Have",
    "Heartbeat",
    "Hello",
    "HelloOk",
    "Imaged",
    "InStep",
    "Init",
    "Join",
    "Kept",
    "KeyLayout",
    "KeySpec",
    "Left",
    "Lost",
    "Meet",
    "Member",
    "Met",
    "Moved",
    "NodeStatus",
    "Noted",
    "Offer",
    "Part",
    "Placed",
    "Propose",
    "Pull",
    "Push",
    "Ready",
    "Rebalance",
    "Recall",
    "Recalled",
    "Refused",
    "Released",
    "Replaced",
    "Restate",
    "Retire",
    "Roster",
    "Seat",
    "Segment",
    "SetOptimizer",
    "Settle",
    "Shared",
    "Shift",
    "Slice",
    "Snapshot",
    "Stand",
    "Standing",
    "Stated",
    "Stats",
    "StatsReply",
    "Stood",
    "StoodStore",
    "Stop",
    "Survey",
    "Surveyed",
    "Ticket",
    "ToScheduler",
    "Took",
    "Turn",
    "Value",
    "Wait",
    "Waiting",
    "Watch",
    "Welcome",
]  # fmt: skip

PROTOCOL = 1
"""Version of the whole protocol: peers with another version are refused by name."""


@record
class Segment:
    """A key's part of a slice that several keys share: elements ``start:stop`` of the slice."""

    key: str
    start: int
    stop: int


@record
class CallPart:
    """Elements ``start:stop`` of a key's flattened value, which lie at ``offset`` of slice ``slice``."""

    slice: int
    key: str
    start: int
    stop: int
    offset: int = 0


@record
class Count:
    """The first ``clock`` contributions of worker ``rank``."""

    rank: int
    clock: int


@record
class Stood:
    """How far a worker is with a slice: contributions that were acknowledged, and the newest version it has heard of.

    ``mark`` is how many there were when it last came to a barrier of the store.
    """

    slice: int
    clock: int
    mark: int
    version: int


@record
class StoodStore:
    """How far a worker is with a store: the last barrier that it came to, and whether it pushes no more."""

    store: int
    barrier: int
    retired: bool


@record
class Counted:
    """What a server has counted of a worker's contributions to a slice: how many; and how many at the last barrier."""

    slice: int
    store: int
    clock: int
    mark: int
    version: int  # of the slice
    touched: bool  # anybody has contributed to it
    round: int = -1  # that the worker last contributed to, if it waits for its end


@record
class Turn:
    """The last place in a round of a store that a worker was given, and for which of its contributions that was."""

    store: int
    index: int
    round: int
    taken: bool


# --- the store: worker <-> server -------------------------------------------------------------------------------------


@message(32, "worker -> server")
class Hello(Message):
    """First message of a worker to a server. Repeated until `HelloOk` or `Refused` arrives."""

    cluster: str
    worker: int
    incarnation: int


@message(33, "server -> worker")
class HelloOk(Message):
    """The server knows the worker and will take its pushes; if it ``asks``, not before it has had a `Stand`."""

    server: int
    incarnation: int
    asks: bool = False  # it was restored from a snapshot, and must hear from every worker how far it is


@message(58, "worker -> server")
class Stand(Message):
    """How far the worker is with what the server holds; repeated until `HelloOk` no longer asks."""

    worker: int
    incarnation: int
    server: int  # incarnation of the server that asked
    slices: tuple[Stood, ...]
    stores: tuple[StoodStore, ...]
    shared: int = 0  # number of the last change of the set of workers that it has heard of
    meets: bool = False  # it waits for the next one


@message(46, "server -> worker")
class Offer(Message):
    """Where a worker on the same host may connect to share memory: an abstract unix socket, and what to say there."""

    name: str
    token: str  # hexadecimal; serves once


@message(34, "worker -> server")
class Init(Message):
    """Set the first value of a slice. A slice that has a value keeps it."""

    seq: int
    store: int  # stores of a run are numbered from 1, in the order in which the script uses them
    slice: int
    key: str
    gate: str
    reduce: str
    segments: tuple[Segment, ...] = ()  # the keys that share the slice, if several do
    width: int = 0  # elements of a row, if the key is cut between rows
    value: Payload


@message(35, "worker -> server")
class Push(Message):
    """Add one contribution to a slice. Counted once, however often it arrives."""

    worker: int
    incarnation: int
    seq: int  # of this worker's incarnation; a repetition has the same
    slice: int
    clock: int  # how many contributions to this slice this worker has made before
    pulled: int  # version of the slice that the contribution was computed from
    round: int = 0  # that the contribution belongs to: the one granted, or the newest version that the worker knew of
    quota: int = 0  # how many contributions close that round; 0: as the gate says
    holds: bool = False  # the worker reads only after that round has closed
    want: bool  # also answer with the value that the next clock may read
    reply: str = ""  # that may come encoded by this codec, such as "bf16"
    codec: str = ""  # "" for a plain contribution, else what decodes it, such as "2bit:threshold=0.5"
    value: Payload  # the contribution, or the first part of a compressed one
    more: tuple[Payload, ...] = ()  # its further parts
    rows: Payload | None = None  # the value is these rows of the slice only: their numbers, in ascending order


@message(36, "worker -> server")
class Pull(Message):
    """Read a slice as the worker's ``clock`` may see it; answered when the gate lets it.

    With ``payload`` false only the version is sent: the worker asks whether it may push.
    """

    worker: int
    incarnation: int
    seq: int
    slice: int
    clock: int
    payload: bool
    reply: str = ""  # the value may come encoded by this codec, such as "bf16"
    watch: bool = False  # from now on send new values of the slice under this seq, without being asked
    rows: Payload | None = None  # only these rows of the slice, in this order


@message(37, "server -> worker")
class Ack(Message):
    """The push is counted. ``floor`` is the smallest clock among the workers, ``version`` the slice's."""

    seq: int
    version: int
    floor: int
    taken: bool = True  # false: it came too late for its round, and was dropped


@message(38, "server -> worker")
class Value(Message):
    """A slice's value at ``version``; for a push it also acknowledges."""

    seq: int
    version: int
    floor: int
    taken: bool = True  # of the push that this answers, as in `Ack`
    codec: str = ""  # "" for the value as it is, else what decodes it
    value: Payload | None  # the value, or the first part of an encoded one
    more: tuple[Payload, ...] = ()  # its further parts


@message(39, "server -> worker")
class Waiting(Message):
    """Nothing is lost: the answer waits for these workers to push."""

    seq: int
    missing: tuple[int, ...]


@message(40, "worker -> server")
class SetOptimizer(Message):
    """Install a store's update rule: a name and numbers, never code. A repetition changes nothing."""

    worker: int
    incarnation: int
    seq: int
    store: int
    name: str
    params: Plain
    rule: str = ""  # what corrects contributions before the update, such as "dcasgd:lam=0.04"
    keys: tuple[str, ...] = ()  # only these; none: all of the store
    lr_mult: dict[str, float]  # by key, where it is not 1
    wd_mult: dict[str, float]


@message(41, "server -> worker")
class Done(Message):
    """The request is carried out."""

    seq: int


@message(42, "any -> any")
class Refused(FromScheduler):
    """The request is not carried out. ``error`` is the name of the exception class that the requester raises."""

    seq: int
    error: str
    text: str
    counted: bool = False  # of a push: it has been counted, and nothing of it was applied


@message(45, "worker -> server")
class Retire(Message):
    """The worker pushes no more to this store: nobody waits for it from now on. It may still read what is there.

    With a ``barrier``, or a ``meeting``, it only rests there: until all have come to it, or it pushes again.
    """

    worker: int
    incarnation: int
    seq: int
    store: int
    barrier: int = 0  # the store's barrier that it waits at, from 1
    meeting: int = 0  # number of the `Shared` that it waits for


@message(80, "worker -> server")
class Recall(Message):
    """Ask how much of what worker ``of`` has ever pushed is counted: by its successor, or when it is gone.

    Not answered as long as the server still takes pushes of ``of``, unless that is the worker itself.
    """

    worker: int
    incarnation: int
    seq: int
    of: int


@message(81, "server -> worker")
class Recalled(Message):
    """What the server has of a worker: by slice, the last barriers it came to, and its account."""

    seq: int
    server: int
    of: int
    slices: tuple[Counted, ...]
    stores: tuple[StoodStore, ...]
    turns: tuple[Turn, ...] = ()
    pushes: int  # applied, rejected, dropped, lost, or waiting in a round: all that were sent and acknowledged


@message(50, "worker -> server")
class Ticket(Message):
    """Ask, of the server that owns a store's first slice, for a place in a round, for contributions to all slices."""

    worker: int
    incarnation: int
    seq: int
    store: int
    index: int  # how many places this worker has asked for before
    base: int  # smallest version that the contribution was computed from; -1 if nothing was read


@message(51, "server -> worker")
class Granted(Message):
    """A place in ``round``; or none (``taken`` false), because the contribution would come too late."""

    seq: int
    round: int
    quota: int  # how many places the round has
    holds: bool  # read only after the round has closed
    taken: bool


@message(52, "worker -> server")
class Call(Message):
    """Run the function that is registered as ``name`` on these parts of slices.

    A function that writes is run once for all workers, each of which asks under the same ``index``.
    """

    worker: int
    incarnation: int
    seq: int
    store: int
    name: str
    args: dict[str, Plain]
    parts: tuple[CallPart, ...]
    index: int = -1  # how many calls of functions that write came before it; -1: it only reads


@message(53, "server -> worker")
class Called(Message):
    """What the function returned, by part."""

    seq: int
    server: int
    results: tuple[Plain, ...]


@message(54, "worker -> server")
class Survey(Message):
    """Begin a snapshot: from now on these slices of ``store`` can be read as an earlier state. How far are they?"""

    worker: int
    incarnation: int
    seq: int
    store: int
    number: int  # of the snapshot, among this worker's, from 1
    slices: tuple[int, ...]


@message(55, "server -> worker")
class Surveyed(Message):
    """How far the furthest of the slices is: its version, where rounds are the same for all; else by worker."""

    seq: int
    version: int  # -1 where each slice applies contributions as they come
    counts: tuple[Count, ...]


@message(56, "worker -> server")
class Fetch(Message):
    """Read a slice at the snapshot's cut: at ``version``, or with the contributions ``counts`` and no others.

    Answered with `Value` when the slice has got there.
    """

    worker: int
    incarnation: int
    seq: int
    store: int
    number: int
    slice: int
    version: int
    counts: tuple[Count, ...]
    states: bool = False  # answer with `Stated`, which has what the optimizer keeps of the slice, too


@message(47, "server -> worker")
class Stated(Message):
    """A slice at a snapshot's cut, and its optimizer at the same: how many updates it has made, and what it keeps."""

    seq: int
    version: int
    updates: int
    slots: tuple[str, ...]  # names of the states
    value: Payload
    states: tuple[Payload, ...]  # in the order of their names


@message(48, "worker -> server")
class Restate(Message):
    """Let the optimizer of a slice go on from these states. Taken only before anybody has contributed to the slice."""

    worker: int
    incarnation: int
    seq: int
    slice: int
    updates: int  # that the states come from
    slots: tuple[str, ...]  # names of the states
    states: tuple[Payload, ...]  # in the order of their names


@message(57, "worker -> server")
class Forget(Message):
    """The snapshot has been read, or is given up."""

    worker: int
    incarnation: int
    seq: int
    store: int
    number: int


@message(43, "worker -> server")
class Stats(Message):
    """Ask for a server's counters."""

    seq: int


@message(44, "server -> worker")
class StatsReply(Message):
    """A server's counters: ledger, staleness histograms, traffic."""

    seq: int
    data: Plain
