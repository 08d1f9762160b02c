"""Every way in which a small store can go: an exhaustive search over the real state machines.

A few workers contribute to one slice on each of a few servers, and read it back. Between them is a network that may
deliver in any order, lose, repeat, and a worker may die at any moment, and be given up at any later one. A server may
die and come back from its last snapshot, of which it may take some at any moment; what was on its way to it is gone,
what it had said may still arrive, until a worker hears of its successor. The search tries every possible next event in
every state that can be reached, and checks after each one what must always hold. States that differ only in times are
one. In the end it checks that from every state some way leads to the end: nobody waits for ever.

What is left out: a request is repeated only when nothing of its sender is under way any more (a repetition beside the
original is what the network does); there are no values, only who contributed what.

``python -m shoal.lab.explore`` prints how many states and which rules.
"""

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from shoal.kvstore.client.core import ClientCore, Complete, Fail, Job, Transmit
from shoal.kvstore.events import Apply, PeerGone, Received, Send, SendValue
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.freeze import freeze, thaw
from shoal.kvstore.wire.messages import Hello, HelloOk, Init, Member, Replaced, Roster, Value
from shoal.kvstore.wire.schema import Payload
from shoal.lab.clones import clone, frozen

__all__ = ["RULES", "Broken", "Found", "Scope", "explore"]

RULES = (
    "no contribution is applied twice, or that was not made",
    "what a worker was told is counted is counted",
    "every update makes the next version",
    "a synchronous read sees exactly the rounds before it",
    "nobody reads further ahead than its gate allows",
    "the cores' own invariants",
    "no request fails",
    "what a server had counted and has lost is booked as lost",
    "nobody reads an older version than before",
    "from every state some way leads to the end",
)
APPLIED, KEPT, NEXT, ROUNDS, SLACK, OWN, FAILS, BOOKED, BACK, PROGRESS = RULES


class _Number:
    """The data of every contribution and value: cores never look at it."""

    nbytes = 4

    def __deepcopy__(self, memo: Any) -> "_Number":
        return self


_ONE = Payload("<f4", (1,), _Number())

Key: TypeAlias = Any
Flight: TypeAlias = tuple[str, int, int, Any]
"""("server", server, worker, message) or ("client", worker, server, message); `PeerGone` tells of a death."""


class Broken(AssertionError):
    """A rule does not hold; the text tells the events that led there."""


@dataclass(frozen=True)
class Scope:
    """What is explored.

    Args:
        gate: the store's.
        workers, servers: how many.
        turns: contributions of each worker to each slice.
        losses, repeats, deaths: how many of them in one way, at most.
        crashes: of servers, which come back from their last snapshot; the first is of when the keys had got values.
        snapshots: further ones that servers take.
        leaves: whether workers that are done leave.
    """

    gate: str = "bsp"
    workers: int = 2
    servers: int = 2
    turns: int = 1
    losses: int = 0
    repeats: int = 0
    deaths: int = 0
    crashes: int = 0
    snapshots: int = 0
    leaves: bool = False


@dataclass(frozen=True)
class Found:
    """What the search has seen."""

    scope: Scope
    states: int
    events: int
    ends: int
    seconds: float


@dataclass(frozen=True)
class _Client:
    """A worker: its core, what it still has to do, and its clock. Never changed: an event makes another one."""

    core: ClientCore
    left: int
    open: int  # jobs of the present turn
    now: float
    key: Key


@dataclass(frozen=True)
class _Server:
    core: ServerCore
    applied: frozenset[tuple[int, int]]  # (rank, clock)
    key: Key
    saved: "_Saved"


@dataclass(frozen=True)
class _Saved:
    """A snapshot of a server."""

    data: dict[str, Any]
    applied: frozenset[tuple[int, int]]
    key: Key


@dataclass(frozen=True)
class _State:
    clients: tuple[_Client | None, ...]  # None: dead, or done and gone
    servers: tuple[_Server, ...]
    net: tuple[tuple[Flight, int], ...]  # with how many of each
    losses: int
    repeats: int
    deaths: int
    crashes: int
    snapshots: int

    @property
    def key(self) -> Key:
        nodes = tuple(None if c is None else (c.key, c.left, c.open) for c in self.clients)
        kept = self.crashes > 0  # else snapshots do not matter any more
        servers = tuple((s.key, s.applied, *((s.saved.key, s.saved.applied) if kept else ())) for s in self.servers)
        left = self.losses, self.repeats, self.deaths, self.crashes, self.snapshots * kept
        return nodes, servers, frozenset(self.net), left

    @property
    def over(self) -> bool:
        """Whether every worker that lives has done its part."""
        return all(c is None or (c.left == 0 and c.open == 0) for c in self.clients)


class Explorer:
    """One search."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.gate = scope, parse_gate(scope.gate)
        self._keys: dict[Key, int] = {}
        self._steps: dict[Key, tuple[Any, int, Any]] = {}

    def _key(self, core: Any) -> int:
        """The same for cores that differ in nothing but times."""
        return self._keys.setdefault(frozen(core), len(self._keys))

    def _step(self, name: Key, core: Any, act: Callable[[Any], Any]) -> tuple[Any, int, Any]:
        """What a core becomes by a step, its key, and what ``act`` gives; the same step of the same core is taken once.

        Args:
            name: of the step and of the core's state.
        """
        found = self._steps.get(name)
        if found is None:
            made = clone(core)
            given = act(made)
            made.check()
            found = self._steps[name] = made, self._key(made), given
        return found

    def _saved(self, core: ServerCore, applied: frozenset[tuple[int, int]]) -> _Saved:
        data = freeze(core)
        return _Saved(data, applied, self._key(data))

    # --- the beginning ------------------------------------------------------------------------------------------------

    def start(self) -> _State:
        """Everybody has greeted everybody, and the keys have values."""
        s = self.scope
        members = tuple(
            Member(role="worker", rank=r, incarnation=1, address="", host="", pid=r) for r in range(s.workers)
        )
        servers = [ServerCore(i, 1, "run") for i in range(s.servers)]
        clients = [ClientCore(r, 1, "run", s.servers) for r in range(s.workers)]
        for i, server in enumerate(servers):
            server.roster(Roster(generation=1, epoch=0, members=members))
            first = Init(seq=0, store=1, slice=i, key=f"k{i}", gate=self.gate.name, reduce="sum", value=_ONE)
            server.handle(Received("w0", first), 0.0)
        for r, client in enumerate(clients):
            for i, server in enumerate(servers):
                client.register(i, self.gate)
                for hello in client._greet(i, client.links[i], 0.0):
                    assert isinstance(hello, Transmit)
                    for answer in server.handle(Received(f"w{r}", hello.message), 0.0):
                        assert isinstance(answer, Send)
                        client.receive(i, answer.message, 0.0)
        made = tuple(_Server(x, frozenset(), self._key(x), self._saved(x, frozenset())) for x in servers)
        state = _State((None,) * s.workers, made, (), s.losses, s.repeats, s.deaths, s.crashes, s.snapshots)
        net: Counter[Flight] = Counter()
        begun = []
        for r, client in enumerate(clients):
            begun.append(self._turn(r, client, self._key(client), s.turns, 0.0, net))
        return replace(state, clients=tuple(begun), net=_flights(net))

    def _turn(self, rank: int, core: ClientCore, key: int, left: int, now: float, net: Counter[Flight]) -> _Client:
        """Begin the next contribution to every slice, if any is left."""
        if left == 0:
            return _Client(core, 0, 0, now, key)
        servers = range(self.scope.servers)

        def begin(c: ClientCore) -> Any:
            jobs = [Job(server=i, slice=i, key=f"k{i}", payload=_ONE, payload_bytes=4, want=True) for i in servers]
            return c.submit(jobs, now)

        core, key, actions = self._step(("turn", rank, key), core, begin)
        self._send(rank, actions, net)
        return _Client(core, left - 1, len(servers), now, key)

    @staticmethod
    def _send(rank: int, actions: list[Any], net: Counter[Flight]) -> int:
        """Put what a worker sends on the net; how many jobs are done."""
        done = 0
        for a in actions:
            if isinstance(a, Transmit):
                if not _unaware(net, rank, a.server):  # what is sent to a process that is gone is lost
                    net["server", a.server, rank, a.message] += 1
            elif isinstance(a, Complete):
                done += 1
            elif isinstance(a, Fail):
                raise Broken(f"{FAILS}: worker {rank}: {a.error}: {a.text}")
        return done

    # --- events -------------------------------------------------------------------------------------------------------

    def events(self, s: _State) -> Iterator[tuple[str, _State]]:
        """All that may happen next: what it is called, and what it leads to."""
        for flight, _ in s.net:
            kind, to, by, message = flight
            name = type(message).__name__
            where = f"{name} of worker {by} to server {to}" if kind == "server" else f"{name} of server {by} to {to}"
            yield f"{where} arrives", self._arrive(_without(s, flight), flight)
            if isinstance(message, PeerGone | Replaced):
                continue  # the scheduler repeats this until it is answered
            if s.losses:
                yield f"{where} is lost", replace(_without(s, flight), losses=s.losses - 1)
            if s.repeats:
                yield f"{where} arrives, and will again", self._arrive(replace(s, repeats=s.repeats - 1), flight)
        for rank, client in enumerate(s.clients):
            if client is None:
                continue
            if s.deaths and client.open:
                yield f"worker {rank} dies", self._die(s, rank)
            asks = client.open or any(not x.greeted for x in client.core.links.values())
            if asks and not any(rank == (f[1] if f[0] == "client" else f[2]) for f, _ in s.net):
                yield f"worker {rank} repeats itself", self._repeat(s, rank)
            if self.scope.leaves and not asks and not client.left:
                yield f"worker {rank} leaves", replace(self._die(s, rank), deaths=s.deaths)
        for i, server in enumerate(s.servers):
            if s.crashes:
                yield f"server {i} dies, and comes back", self._crash(s, i)
            if s.crashes and s.snapshots and server.core.recovery is None:
                yield f"server {i} takes a snapshot", self._snapshot(s, i)

    def _arrive(self, s: _State, flight: Flight) -> _State:
        return self._at_server(s, *flight[1:]) if flight[0] == "server" else self._at_client(s, *flight[1:])

    def _at_server(self, s: _State, index: int, rank: int, message: Any) -> _State:
        server = s.servers[index]
        before = {i: e.version for i, e in server.core.entries.items()}
        event = message if isinstance(message, PeerGone) else Received(f"w{rank}", message)
        name = "server", index, server.key, event
        core, key, actions = self._step(name, server.core, lambda c: c.handle(event, 0.0))
        applied, net, updates = set(server.applied), Counter(dict(s.net)), Counter[int]()
        for a in actions:
            if isinstance(a, Apply):
                updates[a.slice] += 1
                for p in a.parts:
                    if (p.rank, p.clock) in applied or p.clock >= self._made(s, p.rank):
                        raise Broken(f"{APPLIED}: {p} of slice {a.slice}")
                    applied.add((p.rank, p.clock))
            elif isinstance(a, Send | SendValue):
                self._answer(s, net, index, a)
        self._check_books(core)
        for i, entry in core.entries.items():
            if entry.version < before[i] + updates[i]:
                raise Broken(f"{NEXT}: slice {i} went from {before[i]} to {entry.version} by {updates[i]} updates")
        made = replace(server, core=core, applied=frozenset(applied), key=key)
        return replace(s, servers=_placed(s.servers, index, made), net=_flights(net))

    def _made(self, s: _State, rank: int) -> int:
        """Contributions that a worker has begun; at most, if it is dead."""
        client = s.clients[rank]
        return self.scope.turns - (0 if client is None else client.left)

    @staticmethod
    def _answer(s: _State, net: Counter[Flight], index: int, a: Send | SendValue) -> None:
        to = int(a.to[1:])
        if isinstance(a, SendValue):
            answer: Any = Value(seq=a.seq, version=a.version, floor=a.floor, taken=a.taken, value=_ONE)
        else:
            answer = a.message
        if s.clients[to] is not None:
            net["client", to, index, answer] += 1

    def _at_client(self, s: _State, rank: int, index: int, message: Any) -> _State:
        client = s.clients[rank]
        assert client is not None
        if isinstance(message, Replaced):
            return self._hear(s, rank, index, client)
        seq, net = getattr(message, "seq", -1), Counter(dict(s.net))
        name = "client", rank, client.key, index, message
        core, key, (flying, actions) = self._step(
            name, client.core, lambda c: (c.flying.get(seq), c.receive(index, message, client.now))
        )
        done = self._send(rank, actions, net)
        if done and flying is not None and flying.slice >= 0:
            self._check_read(s, rank, index, flying, actions)
        left = client.open - done
        if left:
            made = _Client(core, client.left, left, client.now, key)
        else:
            made = self._turn(rank, core, key, client.left, client.now, net)
        return replace(s, clients=_with(s.clients, rank, made), net=_flights(net))

    def _check_read(self, s: _State, rank: int, index: int, job: Job, actions: list[Any]) -> None:
        entry, client = s.servers[index].core.entries[index], s.clients[rank]
        assert client is not None
        current = not _unaware(s.net, rank, index)  # else a process has said this that is gone
        if current and entry.counted(rank) <= job.clock and job.payload is not None:
            raise Broken(f"{KEPT}: push {job.clock} of worker {rank} to slice {index}")
        for a in actions:
            value = a.result if isinstance(a, Complete) else None
            if not isinstance(value, Value) or a.job is not job:
                continue
            if value.version < client.core.lanes[index].pulled:
                raise Broken(f"{BACK}: worker {rank} reads version {value.version}")
            alone = any(c is None for c in s.clients)
            lost = s.crashes < self.scope.crashes  # then versions may be ahead of clocks (decision 23)
            due = job.clock + 1
            if self.gate.rounds and not alone and (value.version < due or (value.version > due and not lost)):
                raise Broken(f"{ROUNDS}: worker {rank} at clock {job.clock} has read version {value.version}")
            slack = self.gate.slack
            if slack is not None and not alone and value.floor < job.clock + 1 - slack:
                raise Broken(f"{SLACK}: worker {rank} at clock {job.clock} has read floor {value.floor}")

    def _die(self, s: _State, rank: int) -> _State:
        net = Counter({f: n for f, n in s.net if f[:2] != ("client", rank)})
        for i in range(self.scope.servers):
            net["server", i, rank, PeerGone(rank, 1)] += 1
        return replace(s, clients=_with(s.clients, rank, None), net=_flights(net), deaths=s.deaths - 1)

    # --- a server dies, and comes back --------------------------------------------------------------------------------

    def _snapshot(self, s: _State, index: int) -> _State:
        server = s.servers[index]
        saved = replace(server, saved=self._saved(server.core, server.applied))
        return replace(s, servers=_placed(s.servers, index, saved), snapshots=s.snapshots - 1)

    def _crash(self, s: _State, index: int) -> _State:
        """What was on its way to it is gone; its successor hears of who has left, and everybody hears of it."""
        server = s.servers[index]
        incarnation = server.core.incarnation + 1
        core = thaw(server.saved.data, incarnation)
        core.recover()
        core.check()
        net = Counter({f: n for f, n in s.net if f[:2] != ("server", index)})
        member = Member(role="server", rank=index, incarnation=incarnation, address="", host="", pid=index)
        for rank, client in enumerate(s.clients):
            if client is None:
                net["server", index, rank, PeerGone(rank, 1)] += 1
            else:
                net["client", rank, index, Replaced(generation=incarnation, member=member)] += 1
        made = replace(server, core=core, applied=server.saved.applied, key=self._key(core))
        return replace(s, servers=_placed(s.servers, index, made), net=_flights(net), crashes=s.crashes - 1)

    def _hear(self, s: _State, rank: int, index: int, client: _Client) -> _State:
        """A worker hears of a server's successor: what its predecessor has said is heard no more.

        Where nothing is lost it has greeted the successor before anything else happens; that changes nothing for
        others.
        """
        net = Counter({f: n for f, n in s.net if f[:3] != ("client", rank, index) or isinstance(f[3], Replaced)})
        name = "hears", rank, client.key, index
        core, key, actions = self._step(name, client.core, lambda c: c.replaced(index, client.now))
        self._send(rank, actions, net)
        made = replace(client, core=core, key=key)
        s = replace(s, clients=_with(s.clients, rank, made), net=_flights(net))
        while not self.scope.losses:
            hello = next((f for f, _ in s.net if _greets(f, rank, index)), None)
            if hello is None:
                break
            s = self._arrive(_without(s, hello), hello)
        return s

    @staticmethod
    def _check_books(core: ServerCore) -> None:
        """Each server has one slice: its ledger is that slice's."""
        if core.recovery is not None:
            return
        for entry in core.entries.values():
            for rank, book in core.ledgers.items():
                waiting = sum(p.rank == rank for parts in entry.pending.values() for p in parts)
                known = book.applied + book.dropped + book.lost + waiting
                if rank in core.members and known != entry.counted(rank):
                    raise Broken(f"{BOOKED}: worker {rank} at {entry.counted(rank)}, in the ledger {known}")

    def _repeat(self, s: _State, rank: int) -> _State:
        client = s.clients[rank]
        assert client is not None
        net = Counter(dict(s.net))
        core, key, (actions, now) = self._step(
            ("repeats", rank, client.key), client.core, lambda c: self._wake(c, client.now)
        )
        self._send(rank, actions, net)
        made = replace(client, core=core, now=now, key=key)
        return replace(s, clients=_with(s.clients, rank, made), net=_flights(net))

    @staticmethod
    def _wake(core: ClientCore, before: float) -> tuple[list[Any], float]:
        """It is time to repeat everything that is not answered; what follows, and when that is."""
        due = [j.due for j in core.flying.values()]
        due += [x.hello_due for x in core.links.values() if not x.greeted]
        now = max(before, *due) if due else before
        core._look_due = now
        for link in core.links.values():
            link.heard = now  # that a server is silent for a minute is not explored
            link.hello_since = now if link.hello_since >= 0 else link.hello_since
        for job in core.flying.values():
            job.since = job.warned = now
        return core.wake(now)[0], now


def explore(scope: Scope, most: int = 2_000_000) -> Found:
    """Go every way.

    Args:
        most: give up after so many states.
    Raises:
        Broken: a rule does not hold; says which, and the shortest way there.
    """
    began, explorer = time.perf_counter(), Explorer(scope)
    first = explorer.start()
    numbers: dict[Key, int] = {first.key: 0}
    came: list[tuple[int, str]] = [(-1, "")]  # from which state, and by what
    into: list[list[int]] = [[]]  # predecessors
    ends: list[int] = []
    queue, events = deque([(0, first)]), 0
    while queue:
        number, state = queue.popleft()
        if state.over:
            ends.append(number)
        steps = explorer.events(state)
        while True:
            try:
                step = next(steps, None)
            except AssertionError as e:
                raise Broken(f"{scope}: {e}\n{_way(came, number)}") from e
            if step is None:
                break
            name, after = step
            events += 1
            known = numbers.setdefault(after.key, len(came))
            if known == len(came):
                came.append((number, name))
                into.append([])
                queue.append((known, after))
            into[known].append(number)
        if len(came) > most:
            raise Broken(f"{scope}: more than {most} states")
    _check_progress(scope, came, into, ends)
    return Found(scope, len(came), events, len(ends), time.perf_counter() - began)


def _check_progress(scope: Scope, came: list[tuple[int, str]], into: list[list[int]], ends: list[int]) -> None:
    """Raise unless an end can be reached from everywhere."""
    reached, queue = set(ends), deque(ends)
    while queue:
        for before in into[queue.popleft()]:
            if before not in reached:
                reached.add(before)
                queue.append(before)
    stuck = next((n for n in range(len(came)) if n not in reached), None)
    if stuck is not None:
        raise Broken(f"{scope}: {PROGRESS}, but from here none does:\n{_way(came, stuck)}")


def _way(came: list[tuple[int, str]], number: int) -> str:
    names = []
    while number > 0:
        number, name = came[number]
        names.append(name)
    return "\n".join(f"  {i}. {name}" for i, name in enumerate(reversed(names), 1)) or "  (at the beginning)"


def _flights(net: Counter[Flight]) -> tuple[tuple[Flight, int], ...]:
    return tuple((f, n) for f, n in net.items() if n > 0)


def _without(s: _State, flight: Flight) -> _State:
    net = Counter(dict(s.net))
    net[flight] -= 1
    return replace(s, net=_flights(net))


def _unaware(net: Iterable[Any], rank: int, server: int) -> bool:
    """Whether a worker has not heard yet that another process has taken the place of a server."""
    flights = net if isinstance(net, Counter) else (f for f, _ in net)
    return any(f[:3] == ("client", rank, server) and isinstance(f[3], Replaced) for f in flights)


def _greets(flight: Flight, rank: int, server: int) -> bool:
    """Whether this is a part of the greeting between the two."""
    ends = ("client", rank, server), ("server", server, rank)
    return flight[:3] in ends and isinstance(flight[3], Hello | HelloOk)


def _placed(servers: tuple[_Server, ...], index: int, server: _Server) -> tuple[_Server, ...]:
    return (*servers[:index], server, *servers[index + 1 :])


def _with(clients: tuple[_Client | None, ...], rank: int, client: _Client | None) -> tuple[_Client | None, ...]:
    return (*clients[:rank], client, *clients[rank + 1 :])


SCOPES = (
    Scope("asp", losses=1, repeats=1),
    Scope("asp", losses=1, deaths=1),
    Scope("ssp:1", losses=1, repeats=1),
    Scope("ssp:1", turns=2),
    *(Scope(gate) for gate in ("backup:1", "ksync:2", "kasync:2", "essp:1")),
    Scope("bsp", deaths=1),
    Scope("bsp", losses=1),
    Scope("bsp", repeats=1),
    Scope("asp", servers=1, crashes=1, snapshots=1),
    Scope("asp", servers=1, crashes=1, repeats=1),
    Scope("fedbuff:2", servers=1, crashes=1, snapshots=1),
    Scope("ssp:1", servers=1, crashes=1, deaths=1),
    Scope("bsp", servers=1, crashes=1, snapshots=1),
    Scope("bsp", servers=1, crashes=1, deaths=1),
    Scope("bsp", servers=1, crashes=1, losses=1),
    Scope("bsp", servers=1, turns=2, deaths=1, leaves=True),
)
"""What is explored if nothing else is asked for."""


def main(argv: list[str] | None = None) -> int:
    """Explore, and print a line for each scope."""
    p = argparse.ArgumentParser(prog="python -m shoal.lab.explore", description=__doc__.splitlines()[0])
    p.add_argument("--gate", help="this one only; see docs/algorithms.md")
    names = ("workers", "servers", "turns", "losses", "repeats", "deaths", "crashes", "snapshots")
    for name in names:
        p.add_argument(f"--{name}", type=int, default=getattr(Scope(), name))
    p.add_argument("--leaves", action="store_true", help="workers that are done leave")
    o = p.parse_args(argv)
    chosen = SCOPES
    if o.gate:
        chosen = (Scope(o.gate, leaves=o.leaves, **{name: getattr(o, name) for name in names}),)
    for scope in chosen:
        found = explore(scope)
        limits = f"{scope.losses} losses, {scope.repeats} repeats, {scope.deaths} deaths"
        limits += f", {scope.crashes} crashes, {scope.snapshots} snapshots" * bool(scope.crashes)
        size = f"{scope.workers} workers x {scope.servers} servers x {scope.turns} turns"
        print(f"{scope.gate:8} {size}, {limits}: {found.states} states, {found.events} events, {found.seconds:.1f} s")
    print(f"{len(RULES)} rules held after every event: {'; '.join(RULES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
