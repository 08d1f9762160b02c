"""Every way in which a small store can go: an exhaustive search over the real state machines.

A few workers contribute to one slice on each of a few servers, and read it back. Between them is a network that may
deliver in any order, lose, repeat, and a worker may die at any moment. The search tries every possible next event in
every state that can be reached, and checks after each one what must always hold. States that differ only in times are
one. In the end it checks that from every state some way leads to the end: nobody waits for ever.

What is left out: a request is repeated only when nothing of its sender is under way any more (a repetition beside the
original is what the network does); there are no values, only who contributed what.

``python -m shoal.lab.explore`` prints how many states and which rules.
"""

import argparse
import copy
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from shoal.kvstore.client.core import ClientCore, Complete, Fail, Job, Transmit
from shoal.kvstore.events import Apply, PeerGone, Received, Send, SendValue
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.wire.messages import Init, Member, Roster, Value
from shoal.kvstore.wire.schema import Payload

__all__ = ["RULES", "Broken", "Found", "Scope", "explore"]

RULES = (
    "no contribution is applied twice, or that was not made",
    "what a worker was told is counted is counted",
    "every update makes the next version",
    "a synchronous read sees exactly the rounds before it",
    "nobody reads further ahead than its gate allows",
    "the cores' own invariants",
    "no request fails",
    "from every state some way leads to the end",
)

_TIMES = frozenset(
    ("since", "due", "warned", "began", "pause", "heard", "trip_s", "landed", "hello_due", "hello_since")
)
_TIMES_OF_CORES = frozenset(("_look_due", "_push_seen", "_now", "counters", "_handlers"))


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
    """

    gate: str = "bsp"
    workers: int = 2
    servers: int = 2
    turns: int = 1
    losses: int = 0
    repeats: int = 0
    deaths: int = 0


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


@dataclass(frozen=True)
class _State:
    clients: tuple[_Client | None, ...]  # None: dead
    servers: tuple[_Server, ...]
    net: tuple[tuple[Flight, int], ...]  # with how many of each
    losses: int
    repeats: int
    deaths: int

    @property
    def key(self) -> Key:
        nodes = tuple(None if c is None else (c.key, c.left, c.open) for c in self.clients)
        servers = tuple((s.key, s.applied) for s in self.servers)
        return nodes, servers, frozenset(self.net), self.losses, self.repeats, self.deaths

    @property
    def over(self) -> bool:
        """Whether every worker that lives has done its part."""
        return all(c is None or (c.left == 0 and c.open == 0) for c in self.clients)


def frozen(value: Any) -> Key:
    """What makes up a core's state, without times, as something hashable."""
    if isinstance(value, str | int | float | bytes | bool | None | Enum):
        return value
    if isinstance(value, dict):
        return tuple(sorted(((frozen(k), frozen(v)) for k, v in value.items()), key=repr))
    if isinstance(value, set | frozenset):
        return frozenset(map(frozen, value))
    if isinstance(value, tuple | list | deque):
        return tuple(map(frozen, value))
    if isinstance(value, Payload):
        return value.shape
    if is_dataclass(value):
        return type(value).__name__, *(frozen(getattr(value, f.name)) for f in fields(value) if f.name not in _TIMES)
    if callable(value):
        return None
    names = getattr(value, "__slots__", None) or vars(value)
    return type(value).__name__, *((n, frozen(getattr(value, n))) for n in names if n not in _TIMES_OF_CORES)


class Explorer:
    """One search."""

    def __init__(self, scope: Scope) -> None:
        self.scope, self.gate = scope, parse_gate(scope.gate)

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
        made = tuple(_Server(x, frozenset(), frozen(x)) for x in servers)
        state = _State((None,) * s.workers, made, (), s.losses, s.repeats, s.deaths)
        net: Counter[Flight] = Counter()
        begun = []
        for r, client in enumerate(clients):
            begun.append(self._turn(r, client, s.turns, 0.0, net))
        return replace(state, clients=tuple(begun), net=_flights(net))

    def _turn(self, rank: int, core: ClientCore, left: int, now: float, net: Counter[Flight]) -> _Client:
        """Begin the next contribution to every slice, if any is left. ``core`` is the caller's own."""
        if left == 0:
            return _Client(core, 0, 0, now, frozen(core))
        jobs = [
            Job(server=i, slice=i, key=f"k{i}", payload=_ONE, payload_bytes=4, want=True)
            for i in range(self.scope.servers)
        ]
        self._send(rank, core.submit(jobs, now), net)
        return _Client(core, left - 1, len(jobs), now, frozen(core))

    @staticmethod
    def _send(rank: int, actions: list[Any], net: Counter[Flight]) -> int:
        """Put what a worker sends on the net; how many jobs are done."""
        done = 0
        for a in actions:
            if isinstance(a, Transmit):
                net["server", a.server, rank, a.message] += 1
            elif isinstance(a, Complete):
                done += 1
            elif isinstance(a, Fail):
                raise Broken(f"{RULES[6]}: worker {rank}: {a.error}: {a.text}")
        return done

    # --- events -------------------------------------------------------------------------------------------------------

    def events(self, s: _State) -> Iterator[tuple[str, _State]]:
        """All that may happen next: what it is called, and what it leads to."""
        for flight, _ in s.net:
            kind, to, by, message = flight
            name = type(message).__name__
            where = f"{name} of worker {by} to server {to}" if kind == "server" else f"{name} of server {by} to {to}"
            yield f"{where} arrives", self._arrive(_without(s, flight), flight)
            if isinstance(message, PeerGone):
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
            if client.open and not any(rank == (f[1] if f[0] == "client" else f[2]) for f, _ in s.net):
                yield f"worker {rank} repeats itself", self._repeat(s, rank)

    def _arrive(self, s: _State, flight: Flight) -> _State:
        return self._at_server(s, *flight[1:]) if flight[0] == "server" else self._at_client(s, *flight[1:])

    def _at_server(self, s: _State, index: int, rank: int, message: Any) -> _State:
        server = s.servers[index]
        core = copy.deepcopy(server.core)
        before = {i: e.version for i, e in core.entries.items()}
        event = message if isinstance(message, PeerGone) else Received(f"w{rank}", message)
        applied, net, updates = set(server.applied), Counter(dict(s.net)), Counter[int]()
        for a in core.handle(event, 0.0):
            if isinstance(a, Apply):
                updates[a.slice] += 1
                for p in a.parts:
                    if (p.rank, p.clock) in applied or p.clock >= self._made(s, p.rank):
                        raise Broken(f"{RULES[0]}: {p} of slice {a.slice}")
                    applied.add((p.rank, p.clock))
            elif isinstance(a, Send | SendValue):
                self._answer(s, net, index, a)
        for i, entry in core.entries.items():
            if entry.version < before[i] + updates[i]:
                raise Broken(f"{RULES[2]}: slice {i} went from {before[i]} to {entry.version} by {updates[i]} updates")
        core.check()
        servers = list(s.servers)
        servers[index] = _Server(core, frozenset(applied), frozen(core))
        return replace(s, servers=tuple(servers), net=_flights(net))

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
        core, net = copy.deepcopy(client.core), Counter(dict(s.net))
        flying = core.flying.get(getattr(message, "seq", -1))
        actions = core.receive(index, message, client.now)
        core.check()
        done = self._send(rank, actions, net)
        if done and flying is not None and flying.slice >= 0:
            self._check_read(s, rank, index, flying, actions)
        left = client.open - done
        if left:
            made = _Client(core, client.left, left, client.now, frozen(core))
        else:
            made = self._turn(rank, core, client.left, client.now, net)
        return replace(s, clients=_with(s.clients, rank, made), net=_flights(net))

    def _check_read(self, s: _State, rank: int, index: int, job: Job, actions: list[Any]) -> None:
        entry = s.servers[index].core.entries[index]
        if entry.counted(rank) <= job.clock and job.payload is not None:
            raise Broken(f"{RULES[1]}: push {job.clock} of worker {rank} to slice {index}")
        for a in actions:
            value = a.result if isinstance(a, Complete) else None
            if not isinstance(value, Value) or a.job is not job:
                continue
            alone = any(c is None for c in s.clients)
            if self.gate.rounds and not alone and value.version != job.clock + 1:
                raise Broken(f"{RULES[3]}: worker {rank} at clock {job.clock} has read version {value.version}")
            slack = self.gate.slack
            if slack is not None and not alone and value.floor < job.clock + 1 - slack:
                raise Broken(f"{RULES[4]}: worker {rank} at clock {job.clock} has read floor {value.floor}")

    def _die(self, s: _State, rank: int) -> _State:
        net = Counter({f: n for f, n in s.net if f[:2] != ("client", rank)})
        for i in range(self.scope.servers):
            net["server", i, rank, PeerGone(rank, 1)] += 1
        return replace(s, clients=_with(s.clients, rank, None), net=_flights(net), deaths=s.deaths - 1)

    def _repeat(self, s: _State, rank: int) -> _State:
        client = s.clients[rank]
        assert client is not None
        core, net = copy.deepcopy(client.core), Counter(dict(s.net))
        now = min((j.due for j in core.flying.values()), default=client.now)
        now = max(now, client.now)
        core._look_due = now
        for link in core.links.values():
            link.heard = now  # that a server is silent for a minute is not explored
        for job in core.flying.values():
            job.since = job.warned = now
        actions, _ = core.wake(now)
        self._send(rank, actions, net)
        made = replace(client, core=core, now=now, key=frozen(core))
        return replace(s, clients=_with(s.clients, rank, made), net=_flights(net))


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
        raise Broken(f"{scope}: {RULES[7]}, but from here none does:\n{_way(came, stuck)}")


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
)
"""What is explored if nothing else is asked for."""


def main(argv: list[str] | None = None) -> int:
    """Explore, and print a line for each scope."""
    p = argparse.ArgumentParser(prog="python -m shoal.lab.explore", description=__doc__.splitlines()[0])
    p.add_argument("--gate", help="this one only; see docs/algorithms.md")
    for name in ("workers", "servers", "turns", "losses", "repeats", "deaths"):
        p.add_argument(f"--{name}", type=int, default=getattr(Scope(), name))
    o = p.parse_args(argv)
    chosen = SCOPES
    if o.gate:
        chosen = (Scope(o.gate, o.workers, o.servers, o.turns, o.losses, o.repeats, o.deaths),)
    for scope in chosen:
        found = explore(scope)
        limits = f"{scope.losses} losses, {scope.repeats} repeats, {scope.deaths} deaths"
        size = f"{scope.workers} workers x {scope.servers} servers x {scope.turns} turns"
        print(f"{scope.gate:8} {size}, {limits}: {found.states} states, {found.events} events, {found.seconds:.1f} s")
    print(f"{len(RULES)} rules held after every event: {'; '.join(RULES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
