"""The protocol between scheduler, nodes and watchers: who is in the cluster, what it has settled on."""

from dataclasses import field

from shoal.kvstore.wire.schema import Message, Plain, message, record, stem

__all__ = [
    "Abort",
    "Alive",
    "Arrived",
    "Attach",
    "Barrier",
    "BarrierWaiting",
    "Change",
    "Changed",
    "Control",
    "Controlled",
    "Declare",
    "Farewell",
    "FromScheduler",
    "Goodbye",
    "Heartbeat",
    "Join",
    "KeyLayout",
    "KeySpec",
    "Left",
    "Meet",
    "Member",
    "Met",
    "NodeStatus",
    "Noted",
    "Placed",
    "Released",
    "Replaced",
    "Roster",
    "Seat",
    "Settle",
    "Shared",
    "Shift",
    "Slice",
    "Snapshot",
    "Stop",
    "ToScheduler",
    "Wait",
    "Watch",
    "Welcome",
]


@stem
class FromScheduler(Message):
    """What a scheduler says. Who speaks is no part of what is said: messages that differ only in it are equal."""

    cluster: str = field(default="", compare=False)  # id of the run
    term: int = field(default=0, compare=False)  # grows with every start of the run's scheduler; 0: nobody says


@stem
class ToScheduler(Message):
    """What is said to a scheduler."""

    cluster: str = field(default="", compare=False)  # id of the run that is meant; "" if not known yet
    term: int = field(default=0, compare=False)  # the greatest that the sender has heard of


@record
class Member:
    """One process of the cluster."""

    role: str  # "worker", "server" or "replica"
    rank: int
    incarnation: int  # grows each time that a process takes this role and rank
    address: str  # where it listens; "" if it does not
    host: str
    pid: int


@record
class KeySpec:
    """A key as a worker declares it."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    cut: str = (
        ""  # how it is sliced: "" by bytes, "rows" between rows, "whole" not at all, "fuse" with other small keys
    )


@record
class Slice:
    """Elements ``start:stop`` of a key's flattened value, and the server that owns them.

    They lie at ``offset`` of slice ``id``, which has ``size`` elements; small keys that were fused share a slice.
    """

    id: int
    server: int
    start: int
    stop: int
    offset: int = 0
    size: int


@record
class KeyLayout:
    """Where the slices of a key live, under the current placement epoch."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    slices: tuple[Slice, ...]
    cut: str = ""


@record
class Shift:
    """A slice is to go from one server to another."""

    slice: int
    source: int
    target: int


@record
class Seat:
    """A slice that is not where it was first: which server has it, since which placement epoch."""

    slice: int
    server: int
    epoch: int


@record
class Change:
    """New settings of a store while it is in use, as the scheduler's log numbers them."""

    number: int  # from 1
    store: int
    settings: dict[str, Plain]  # hyper-parameters by name; s and max, of the gate; codec
    at_clock: int  # each slice takes it when its version is this; -1: at once
    by: str  # who asked for it


@record
class NodeStatus:
    """What the scheduler knows of one process."""

    role: str
    rank: int
    incarnation: int
    host: str
    pid: int
    state: str  # "joined", "running", "filling", "done", "failed", "lost"
    silent_s: float  # since its last sign of life
    status: Plain  # what its last heartbeat said
    report: Plain  # what its goodbye said; None until then
    address: str = ""  # where it listens
    age_s: float = 0.0  # since this scheduler first heard of it


@record
class Wait:
    """Who waits for whom."""

    what: str  # such as "barrier 'epoch' (occurrence 3)"
    who: tuple[str, ...]  # waits, such as "worker 0"
    on: tuple[str, ...]  # is waited for
    for_s: float  # since the first of them came


@message(1, "node -> scheduler")
class Join(ToScheduler):
    """Ask to be taken into the cluster. Repeated until `Welcome` or `Refused` arrives."""

    role: str
    rank: int  # the rank it would like, or -1
    token: str  # random; the same in every repetition, so that a repeated join is the same process
    address: str
    host: str
    pid: int
    version: str  # of shoal, for the error text
    incarnation: int = 0  # of a member that attaches again to a scheduler that was restarted: who it is, and
    generation: int = 0  # what it has heard of
    replaces: bool = False  # the process with this rank is dead; of a server, its snapshots are here


@message(2, "scheduler -> node")
class Welcome(FromScheduler):
    """The node is in; the cluster starts when `Roster` arrives."""

    rank: int
    incarnation: int
    lease_s: float
    grace_s: float = 0.0  # how long a silent scheduler is waited for; 0: not longer than the lease, it cannot come back
    mode: str  # the run's consistency mode, or "" when the script decides
    algo: str = ""  # the rest of the run's algorithm: rule, strategy and codec, as far as the run decides them
    seed: int
    present: tuple[str, ...]  # who has joined so far
    missing: tuple[str, ...]  # who is still waited for
    elastic: bool = False  # the run goes on when its workers change
    late: bool = False  # the run had begun, and nobody's place is taken: it takes part once it has come to a `Meet`
    opened: dict[str, int] = field(
        default_factory=dict
    )  # to one that comes later: by barrier, the last that has opened


@message(3, "scheduler -> node")
class Roster(FromScheduler):
    """The cluster is complete, or has changed: who is in it, under which generation."""

    generation: int
    epoch: int
    members: tuple[Member, ...]
    seats: tuple[Seat, ...] = ()  # of slices that have moved


@message(4, "node -> scheduler")
class Heartbeat(ToScheduler):
    """Sign of life, at a third of the lease or faster, with what the node wants shown of its progress."""

    status: Plain
    generation: int = 0  # what the node has heard of, without gaps; said at once when a `Changed` has come
    sent: float = field(default=0.0, compare=False)  # the node's clock, in seconds; comes back in the answer


@message(5, "scheduler -> node")
class Alive(FromScheduler):
    """The scheduler's own sign of life, in answer to `Heartbeat`."""

    generation: int
    change: int = 0  # to a worker: number of the `Shared` that is to come, and that it is waited for; 0: of none
    sent: float = field(default=0.0, compare=False)  # as in the heartbeat
    clock: float = field(default=0.0, compare=False)  # the scheduler's, when it heard the heartbeat


@message(6, "worker -> scheduler")
class Barrier(ToScheduler):
    """Wait until every worker has come to occurrence ``index`` of barrier ``name``. Repeated until released."""

    name: str
    index: int


@message(7, "scheduler -> worker")
class Released(FromScheduler):
    """Every worker has come to the barrier."""

    name: str
    index: int


@message(8, "scheduler -> worker")
class BarrierWaiting(FromScheduler):
    """The barrier is still closed; names who has not come."""

    name: str
    index: int
    missing: tuple[str, ...]


@message(9, "worker -> scheduler")
class Declare(ToScheduler):
    """Register keys. The first declaration of a key fixes its shape, dtype and placement; later ones must agree.

    Without keys it asks for all that have been declared, in all stores.
    """

    request: int
    gate: str  # canonical name of the consistency gate, such as "bsp" or "ssp:3"
    reduce: str  # "mean" or "sum"
    store: int = 1  # stores of a run are numbered from 1; each settles its own gate and reduction
    private: bool = False  # made by the library for its own needs: not bound to the run's mode
    keys: tuple[KeySpec, ...]


@message(10, "scheduler -> worker")
class Placed(FromScheduler):
    """Where the declared keys live; the same answer for every worker."""

    request: int
    layouts: tuple[KeyLayout, ...]


@message(11, "node -> scheduler")
class Goodbye(ToScheduler):
    """The node is done (``failed`` is empty) or gives up (``failed`` says why). Repeated until `Farewell`."""

    failed: str
    left: str = ""  # a worker is not done, and goes all the same, for this reason: the others go on without it
    detail: str = ""  # such as a traceback
    report: Plain


@message(12, "scheduler -> node")
class Farewell(FromScheduler):
    """The goodbye is recorded: the node may exit."""


@message(13, "scheduler -> node")
class Left(FromScheduler):
    """A worker has finished, has left before, or was given up, or a replica is lost; nobody need wait for it."""

    role: str
    rank: int
    incarnation: int
    generation: int


@message(14, "scheduler -> node")
class Abort(FromScheduler):
    """The run has failed: every process stops, and says why."""

    culprit: str  # such as "worker 1 (host a, pid 4711)"
    reason: str
    detail: str = ""  # such as the culprit's traceback


@message(15, "scheduler -> server")
class Stop(FromScheduler):
    """All workers are done: report and exit."""

    reason: str


@message(16, "watcher -> scheduler")
class Watch(ToScheduler):
    """Ask for a `Snapshot`; a watcher is not a member and is never waited for."""


@message(17, "scheduler -> watcher")
class Snapshot(FromScheduler):
    """The state of the run."""

    phase: str  # "gathering", "running", "finished", "failed"
    mode: str
    reason: str
    culprit: str
    missing: tuple[str, ...]
    nodes: tuple[NodeStatus, ...]
    changes: tuple[Change, ...] = ()  # of settings, so far
    generation: int = 0  # grows with every change of membership or of settings
    age_s: float = 0.0  # since this scheduler was started
    idle_s: float = 0.0  # since any process got on; 0 before the run begins
    waits: tuple[Wait, ...] = ()  # longest first


@message(18, "worker or operator -> scheduler")
class Control(ToScheduler):
    """Ask for new settings of a store. Repeated until `Controlled` says that nobody is missing, or `Refused`."""

    request: int
    token: str  # random, of an operator, who is no member of the run; "" of a worker
    by: str  # what an operator is called
    store: int
    settings: dict[str, Plain]
    at_clock: int


@message(19, "scheduler -> node")
class Changed(FromScheduler):
    """A store has new settings. Like departures, changes come in order: each is a generation."""

    generation: int
    change: Change


@message(20, "scheduler -> worker or operator")
class Controlled(FromScheduler):
    """The change is in the log; it is in force when ``missing``, the processes that have not heard of it, is empty."""

    request: int
    change: Change
    missing: tuple[str, ...]


@message(21, "worker -> scheduler")
class Settle(ToScheduler):
    """The servers have installed this optimizer for a store: what changes are checked against."""

    request: int
    store: int
    optimizer: str
    params: Plain
    gradients: bool  # whether gradients are pushed, and not differences of weights


@message(22, "scheduler -> worker")
class Noted(FromScheduler):
    """Answer to `Settle`."""

    request: int


@message(24, "scheduler -> node")
class Replaced(FromScheduler):
    """Another process has taken the place of one that died, or has come as a replica.

    Like departures, in order: each is a generation.
    """

    generation: int
    member: Member


@message(28, "scheduler -> node")
class Arrived(FromScheduler):
    """A process has joined while the run is under way.

    A worker may read; it takes part from the `Shared` on that names it. A server has nothing until slices move to it.
    """

    generation: int
    member: Member


@message(25, "scheduler -> node")
class Shared(FromScheduler):
    """Who takes part from now on. Every worker of the set before that still ran had come to the end of a batch."""

    generation: int
    number: int  # 0 is the set with which the run began
    ranks: tuple[int, ...]
    cursors: dict[str, Plain]  # by rank, of the set before, that were there: how far it was with its data
    counted: dict[str, tuple[int, ...]]  # by rank, of those that were not: fewest and most pushes to a slice of store 1


@message(26, "worker -> scheduler")
class Meet(ToScheduler):
    """The worker has come to the end of a batch, its pushes are counted, and it waits for `Shared` ``number``.

    Repeated until `Met` says that nobody is waited for, or that it should go on and come again.
    """

    number: int
    cursor: Plain  # how far it is with its data; None of a worker that joined late, and was in no set yet
    counted: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what it has heard of ranks that are gone


@message(27, "scheduler -> worker")
class Met(FromScheduler):
    """Who is waited for before `Shared` ``number`` counts; it does when that is nobody."""

    number: int
    missing: tuple[str, ...]
    later: bool = False  # somebody waits at a barrier for this worker: it goes on, and comes again after its next batch
    gone: tuple[int, ...] = ()  # ranks of the set before that are gone: somebody must ask the servers about them


@message(23, "scheduler -> node")
class Attach(FromScheduler):
    """The scheduler has been restarted: say who you are (`Join`), and repeat what has not been answered."""
