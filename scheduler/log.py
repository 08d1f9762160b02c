"""The ordered log of a run, and the state that it adds up to.

Whatever changes who is in the cluster, or what its keys are, is one record here. `ClusterState` is nothing but the sum
of the records, in order: applying a log to a fresh state gives the same state again.
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from shoal.errors import LocalProtocolError
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.placement import Placement
from shoal.kvstore.wire.messages import (
    Arrived,
    Change,
    Changed,
    KeySpec,
    Left,
    Member,
    Moved,
    Rebalance,
    Replaced,
    Roster,
    Seat,
    Shared,
    Shift,
)
from shoal.kvstore.wire.schema import Plain

__all__ = [
    "Aborted",
    "Added",
    "Altered",
    "Answered",
    "ClusterState",
    "Configured",
    "Covered",
    "Declared",
    "Departed",
    "Dropped",
    "Finished",
    "Forsaken",
    "Founded",
    "GivenUp",
    "Joined",
    "Node",
    "Opened",
    "Promoted",
    "Rebalanced",
    "Record",
    "Reshared",
    "Ruled",
    "Shifted",
    "Started",
    "Succeeded",
    "describe",
]


def describe(m: Member) -> str:
    """How a process is named in every text that people read.

    >>> describe(Member(role="worker", rank=1, incarnation=1, address="", host="a", pid=4711))
    'worker 1 (host a, pid 4711)'
    """
    return f"{m.role} {m.rank} (host {m.host}, pid {m.pid})"


@dataclass(frozen=True, slots=True)
class Founded:
    """What the run is: the first record. ``workers`` and ``servers`` are texts such as "2" or "2+"."""

    cluster: str
    version: str
    workers: str
    servers: str
    mode: str
    algo: str
    seed: int
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Ruled:
    """The scheduler has been started for the ``term``-th time: it speaks to nobody before this is written."""

    term: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A process has taken a place in the cluster; ``sender`` is how its messages came, and how it is reached."""

    member: Member
    token: str
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A process has taken the place of one that died during the run, or has come as a replica.

    ``sender`` as of `Joined`.
    """

    member: Member
    token: str
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Covered:
    """The replica of server ``rank``, of this incarnation, has everything: it may take the server's place."""

    rank: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """Server ``rank`` was lost: its replica has its place, as this incarnation of the server."""

    rank: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Forsaken:
    """The replica of server ``rank`` was lost: the server goes on alone."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A process fell silent before the run began: its place is free again."""

    token: str


@dataclass(frozen=True, slots=True)
class Started:
    """Everybody is here: the run begins."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A worker has declared keys, in this order; the first declaration of a store settles its gate and reduction."""

    by: str
    gate: str
    reduce: str
    keys: tuple[KeySpec, ...]
    store: int = 1
    private: bool = False


@dataclass(frozen=True, slots=True)
class Configured:
    """The servers have installed an optimizer for a store."""

    by: str
    request: int
    store: int
    optimizer: str
    params: Plain
    gradients: bool


@dataclass(frozen=True, slots=True)
class Altered:
    """A worker or an operator, named by ``token``, has asked for new settings of a store in its ``request``."""

    change: Change
    token: str = ""
    request: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """Another worker has asked for the same settings: its request is answered by the change that is there."""

    token: str
    request: int
    number: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Everybody has come to an occurrence of a barrier: it is open, for good."""

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Departed:
    """A process has said goodbye. ``state`` is "done", "left" (before that), or "stopped" in a run that had failed."""

    token: str
    state: str
    report: Plain


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A worker has been silent for too long: the others go on without it. ``silent_s`` is for how long."""

    token: str
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Added:
    """A process has joined while the run is under way; ``sender`` as of `Joined`."""

    member: Member
    token: str
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Reshared:
    """Who takes part from now on; see `Shared`."""

    number: int
    ranks: tuple[int, ...]
    cursors: dict[str, Plain]
    counted: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """What is to move from now on, all of it; servers that may be given slices from now on, and that may not.

    ``by`` says who wants it, or why.
    """

    moves: tuple[Shift, ...]
    opened: tuple[int, ...]
    closed: tuple[int, ...]
    by: str


@dataclass(frozen=True, slots=True)
class Shifted:
    """From now on ``server`` has the slice: the next placement epoch."""

    slice: int
    server: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The run has failed. ``tokens`` are the processes to blame, if they were members; ``state`` is theirs from now."""

    culprit: str
    reason: str
    tokens: tuple[str, ...]
    state: str
    report: Plain
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """Everybody has said goodbye: the run is complete."""


Record: TypeAlias = (
    Founded
    | Ruled
    | Joined
    | Succeeded
    | Covered
    | Promoted
    | Forsaken
    | Dropped
    | Started
    | Declared
    | Configured
    | Altered
    | Answered
    | Opened
    | Departed
    | GivenUp
    | Added
    | Reshared
    | Rebalanced
    | Shifted
    | Aborted
    | Finished
)


News: TypeAlias = Arrived | Changed | Left | Moved | Rebalance | Replaced | Shared
"""What every member hears of, in order: each is a generation."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How the first declaration of a store by a worker ``by`` settled it for all."""

    gate: str
    reduce: str
    by: str


@dataclass(slots=True)
class Node:
    """A process that has joined.

    ``state``: "joined", "running", "done", "left", "drained", "stopped", "failed" or "lost".
    """

    member: Member
    token: str
    state: str = "joined"
    report: Plain = None
    late: bool = False  # a worker that came after the beginning, and takes no part yet
    opened: dict[str, int] = field(default_factory=dict)  # barriers that had opened when it came

    @property
    def live(self) -> bool:
        """Whether it is still waited for."""
        return self.state in ("joined", "running")


@dataclass(slots=True)
class ClusterState:
    """What the log adds up to.

    Args:
        workers: how many workers the run has; until it begins, the least that it can have.
        servers: how many servers, likewise.
    """

    workers: int
    servers: int
    cluster: str = ""  # id of the run
    term: int = 0  # how often its scheduler has been started
    phase: str = "gathering"  # then "running", then "finished" or "failed"
    generation: int = 0  # grows with every change of membership or of settings
    epoch: int = 1  # of the placement
    culprit: str = ""
    reason: str = ""
    detail: str = ""
    gate: str = ""  # of the first store that a script made, for display
    stores: dict[int, Settled] = field(default_factory=dict)  # by number
    nodes: dict[tuple[str, int], Node] = field(default_factory=dict)
    tokens: dict[str, Node] = field(default_factory=dict)  # of every process that ever joined
    senders: dict[str, str] = field(default_factory=dict)  # by token, as it first joined
    incarnations: dict[tuple[str, int], int] = field(default_factory=dict)
    declared_by: dict[str, str] = field(default_factory=dict)
    roster: Roster | None = None  # as the run began
    replacements: list[Replaced] = field(default_factory=list)  # each with the generation that it made, and so are
    arrivals: list[Arrived] = field(default_factory=list)  # of workers, servers and replicas,
    shares: list[Shared] = field(default_factory=list)  # who takes part, but for the first: with which the run began,
    departures: list[Left] = field(default_factory=list)  # of workers and replicas, and of servers that had nothing,
    optimizers: dict[int, Configured] = field(default_factory=dict)  # by store
    changes: list[Changed] = field(default_factory=list)  # of settings
    requests: dict[tuple[str, int], int] = field(default_factory=dict)  # token, request: number of its change
    covered: dict[int, int] = field(default_factory=dict)  # by rank of server, its replica that may take its place
    opened: dict[str, int] = field(default_factory=dict)  # highest occurrence of each barrier that has opened
    placement: Placement = field(init=False)
    placings: list[Rebalance | Moved] = field(default_factory=list)  # what was to move, and has
    plan: dict[int, Shift] = field(default_factory=dict)  # by slice, what is to move
    draining: dict[int, str] = field(default_factory=dict)  # servers that are to go, or have gone: who wants it
    pinned: dict[int, int] = field(default_factory=dict)  # by store, the slice that cannot move: its rounds' desk

    def __post_init__(self) -> None:
        self.placement = _placement(self.servers)

    def apply(self, record: Record) -> None:
        """Take one record into account."""
        match record:
            case Founded():
                self.cluster = record.cluster
            case Ruled(term):
                self._rule(term)
            case Joined(member, token, sender):
                self._join(member, token)
                self.senders[token] = sender
            case Succeeded(member, token, sender):
                self._succeed(member, token)
                self.senders[token] = sender
            case Covered(rank, incarnation):
                self.covered[rank] = incarnation
            case Promoted(rank, incarnation):
                self._promote(rank, incarnation)
            case Forsaken(rank):
                self._forsake(rank)
            case Dropped(token):
                node = self.tokens[token]
                node.state = "lost"
                del self.nodes[node.member.role, node.member.rank]
                self.generation += 1
            case Started():
                self._start()
            case Declared():
                self._declare(record)
            case Configured():
                self.optimizers[record.store] = record
            case Altered(change, token, request):
                self.generation += 1
                self.changes.append(Changed(generation=self.generation, change=change))
                self.requests[token, request] = change.number
            case Answered(token, request, number):
                self.requests[token, request] = number
            case Opened(name, index):
                self.opened[name] = max(index, self.opened.get(name, -1))
            case Departed(token, state, report):
                self._depart(self.tokens[token], state, report)
            case GivenUp(token):
                self._depart(self.tokens[token], "lost", None)
            case Added(member, token, sender):
                self._add(member, token)
                self.senders[token] = sender
            case Reshared():
                self._share(record)
            case Rebalanced():
                self._rebalance(record)
            case Shifted(slice=slice_id, server=server):
                self._shift(slice_id, server)
            case Aborted(culprit, reason, tokens, state, report, detail):
                self.phase, self.culprit, self.reason, self.detail = "failed", culprit, reason, detail
                for token in tokens:
                    self.tokens[token].state, self.tokens[token].report = state, report
            case Finished():
                self.phase = "finished"

    def _rule(self, term: int) -> None:
        if term <= self.term:
            raise LocalProtocolError(f"term {term} of run {self.cluster} does not follow term {self.term}")
        self.term = term

    def _join(self, m: Member, token: str) -> None:
        place = m.role, m.rank
        if place in self.nodes or token in self.tokens:
            raise LocalProtocolError(f"{describe(m)} joins a place that is taken, or joins twice")
        self.nodes[place] = self.tokens[token] = Node(m, token)
        self.incarnations[place] = m.incarnation
        self.generation += 1

    def _succeed(self, m: Member, token: str) -> None:
        place = m.role, m.rank
        if token in self.tokens:
            raise LocalProtocolError(f"{describe(m)} joins twice")
        before = self.nodes.get(place)
        if before is not None:
            before.state = "lost"
        if m.role in ("server", "replica"):
            self.covered.pop(m.rank, None)  # what the one has the other has not
        late, opened = before is not None and before.late, dict(self.opened)
        self.nodes[place] = self.tokens[token] = Node(m, token, "running", late=late, opened=opened)
        self.incarnations[place] = m.incarnation
        self.generation += 1
        self.replacements.append(Replaced(generation=self.generation, member=m))

    def _add(self, m: Member, token: str) -> None:
        place, before = (m.role, m.rank), self.nodes.get((m.role, m.rank))
        if token in self.tokens or (before is not None and before.live):
            raise LocalProtocolError(f"{describe(m)} joins a place that is taken, or joins twice")
        self.nodes[place] = self.tokens[token] = Node(m, token, "running", opened=dict(self.opened))
        self.nodes[place].late = m.role == "worker"
        self.incarnations[place] = m.incarnation
        self.workers, self.servers = (sum(role == r for r, _ in self.nodes) for role in ("worker", "server"))
        if m.role == "server":
            self.placement.closed.add(self.placement.grow())
        self.generation += 1
        self.arrivals.append(Arrived(generation=self.generation, member=m))

    def _share(self, r: Reshared) -> None:
        for rank in r.ranks:
            self.nodes["worker", rank].late = False
        self.generation += 1
        self.shares.append(
            Shared(
                generation=self.generation, number=r.number, ranks=r.ranks, cursors=r.cursors, counted=dict(r.counted)
            )
        )

    def _rebalance(self, r: Rebalanced) -> None:
        self.placement.closed -= set(r.opened)
        self.placement.closed |= set(r.closed)
        self.draining |= dict.fromkeys(r.closed, r.by)
        self.plan = {m.slice: m for m in r.moves}
        self.generation += 1
        self.placings.append(Rebalance(generation=self.generation, moves=r.moves))

    def _shift(self, slice_id: int, server: int) -> None:
        self.placement.move(slice_id, server)
        self.plan.pop(slice_id, None)
        self.generation += 1
        self.epoch += 1
        moved = Moved(generation=self.generation, epoch=self.epoch, slice=slice_id, server=server)
        self.placings.append(moved)

    def current_roster(self) -> Roster | None:
        """Who was there as the run began, with the servers that are there now, and the slices that have moved."""
        if self.roster is None or not (self.placings or self.replacements or self.arrivals):
            return self.roster
        workers = [m for m in self.roster.members if m.role == "worker"]
        servers = [n.member for (role, _), n in sorted(self.nodes.items()) if role == "server" and n.live]
        last = {m.slice: m for m in self.placings if isinstance(m, Moved)}
        seats = tuple(Seat(slice=i, server=m.server, epoch=m.epoch) for i, m in last.items())
        return replace(self.roster, members=(*servers, *workers), seats=seats)

    def name_of(self, place: tuple[str, int]) -> str:
        """Who is at a place, for texts."""
        node = self.nodes.get(place)
        return describe(node.member) if node else f"{place[0]} {place[1]} (not joined yet)"

    def _placed(self) -> list[Rebalance | Moved]:
        """As `placings`; but of old plans it is not told any more what they were."""
        plan = tuple(self.plan.values())
        return [replace(m, moves=plan) if isinstance(m, Rebalance) else m for m in self.placings]

    def news(self, about: Member | None = None) -> list[News]:
        """What has happened since the run began, in order; not that ``about`` has left."""
        gone = [x for x in self.departures if about is None or not _is_about(x, about)]
        told: list[News] = [*gone, *self.changes, *self.replacements, *self._placed()]
        return sorted([*told, *self.arrivals, *self.shares[1:]], key=lambda m: m.generation)

    def _promote(self, rank: int, incarnation: int) -> None:
        node = self.nodes.pop(("replica", rank))
        self.nodes["server", rank].state = "lost"
        node.member = replace(node.member, role="server", incarnation=incarnation)
        self.nodes["server", rank] = node
        self.incarnations["server", rank] = incarnation
        self.covered.pop(rank, None)
        self.generation += 1
        self.replacements.append(Replaced(generation=self.generation, member=node.member))

    def _forsake(self, rank: int) -> None:
        node = self.nodes["replica", rank]
        node.state = "lost"
        self.covered.pop(rank, None)
        self._left(node.member)

    def _start(self) -> None:
        self.phase = "running"
        self.generation += 1
        self.workers, self.servers = (sum(role == r for r, _ in self.nodes) for role in ("worker", "server"))
        self.placement = _placement(self.servers)
        for node in self.nodes.values():
            node.state = "running"
        self.covered = {rank: n.member.incarnation for (role, rank), n in self.nodes.items() if role == "replica"}
        members = tuple(self.nodes[place].member for place in sorted(self.nodes))
        self.roster = Roster(generation=self.generation, epoch=self.epoch, members=members)
        ranks = tuple(m.rank for m in members if m.role == "worker")
        self.shares = [Shared(generation=self.generation, number=0, ranks=ranks, cursors={}, counted={})]

    def _declare(self, d: Declared) -> None:
        self.stores.setdefault(d.store, Settled(d.gate, d.reduce, d.by))
        if not self.gate and not d.private:
            self.gate = d.gate
        layouts = self.placement.add(d.keys)
        if layouts and d.store not in self.pinned and parse_gate(self.stores[d.store].gate).asks:
            self.pinned[d.store] = layouts[0].slices[0].id
        self.declared_by.update((spec.key, d.by) for spec in d.keys)

    def _depart(self, node: Node, state: str, report: Plain) -> None:
        node.state, node.report = state, report
        said = {"worker": ("done", "left", "lost"), "server": ("drained", "lost")}
        if state in said.get(node.member.role, ()):
            self._left(node.member)

    def _left(self, m: Member) -> None:
        self.generation += 1
        self.departures.append(Left(role=m.role, rank=m.rank, incarnation=m.incarnation, generation=self.generation))


def _is_about(left: Left, m: Member) -> bool:
    return (left.role, left.rank, left.incarnation) == (m.role, m.rank, m.incarnation)


def _placement(servers: int) -> Placement:
    """Keys are cut and numbered in a run without servers too, as if there were one."""
    return Placement(max(1, servers))
