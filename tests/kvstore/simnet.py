"""Client cores and server cores joined by an in-memory network that loses, repeats and reorders messages."""

import copy
import heapq
import json
import random
from typing import Any

import numpy as np

from shoal.kvstore.arrays import as_array, as_payload
from shoal.kvstore.client.core import ClientCore, Complete, Dropped, Fail, Job, Transmit
from shoal.kvstore.events import (
    Accumulate,
    Alter,
    Apply,
    BeginBranch,
    Create,
    CutBranch,
    DropBranch,
    PeerGone,
    Received,
    SealBranch,
    Send,
    SendBranch,
    SendValue,
)
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.branches import Branches
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.freeze import freeze, thaw
from shoal.kvstore.server.image import Image, draw, draw_stores, hang, hang_stores
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Init, Member, Roster, Value


def roster(workers: int) -> Roster:
    members = tuple(Member(role="worker", rank=r, incarnation=1, address="", host="h", pid=r) for r in range(workers))
    return Roster(generation=1, epoch=0, members=members)


class SimServer:
    """A server core with its table."""

    def __init__(self, rank: int, workers: int) -> None:
        self.core, self.table = ServerCore(rank, 1, "run"), Table()
        self.branches = Branches(self.table)
        self.core.roster(roster(workers))
        self.applied: list[tuple[int, int, int]] = []  # slice, rank, clock
        self.rounds: dict[int, list[tuple[tuple[int, int], ...]]] = {}  # by slice, who was applied together

    def save(self) -> tuple[str, dict[int, Image]]:
        """Everything that a snapshot holds."""
        images = {i: draw(c, dict(c.parts)) for i, c in self.table.cells.items()}
        return json.dumps([freeze(self.core), draw_stores(self.table)]), images

    @classmethod
    def restored(cls, saved: tuple[str, dict[int, Image]], workers: int, incarnation: int) -> "SimServer":
        """Another process with a snapshot of this server."""
        state, stores = json.loads(saved[0])
        made = cls(state["rank"], workers)
        made.core = thaw(state, incarnation)
        made.core.recover()
        made.core.roster(roster(workers))
        hang_stores(made.table, stores)
        for slice_id, image in copy.deepcopy(saved[1]).items():
            hang(made.table, slice_id, image)
        return made

    def handle(self, sender: str, message: Any, now: float) -> list[tuple[str, Any]]:
        return self.carry_out(self.core.handle(Received(sender, message), now))

    def carry_out(self, actions: list[Any]) -> list[tuple[str, Any]]:
        out = []
        for a in actions:
            match a:
                case Send(to, m):
                    out.append((to, m))
                case SendValue():
                    self.table.was_read(a.slice, a.rank)
                    value = as_payload(as_array(self.table.payload(a.slice)).copy())
                    out.append((a.to, Value(seq=a.seq, version=a.version, floor=a.floor, taken=a.taken, value=value)))
                case Accumulate(slice_id, rank, clock, value):
                    self.table.accumulate(slice_id, rank, as_array(value), clock)
                case Apply(slice_id, parts, reduce, version):
                    self.applied += [(slice_id, p.rank, p.clock) for p in parts]
                    self.rounds.setdefault(slice_id, []).append(tuple((p.rank, p.clock) for p in parts))
                    self.table.apply(slice_id, parts, reduce, version)
                case Create(slice_id, key, value, store, segments):
                    self.table.create(slice_id, key, as_array(value), store, segments)
                case Alter(slice_id, number, settings):
                    self.table.alter(slice_id, number, settings)
                case BeginBranch() | CutBranch() | SealBranch() | DropBranch():
                    self.branches.do(a)
                case SendBranch():
                    value = as_payload(as_array(self.branches.value(a.slice, a.reader)).copy())
                    out.append((a.to, Value(seq=a.seq, version=a.version, floor=a.floor, value=value)))
        self.core.check()
        return out


class SimNet:
    """``workers`` clients, ``servers`` servers, one slice a key; key k lives on server k % servers."""

    def __init__(self, workers: int, servers: int, gate: str, seed: int = 0, loss: float = 0.0, repeat: float = 0.0):
        self.rng, self.loss, self.repeat = random.Random(seed), loss, repeat
        self.servers = [SimServer(s, workers) for s in range(servers)]
        self.clients = [ClientCore(r, 1, "run", servers) for r in range(workers)]
        for client in self.clients:
            client.silence_s = client.timeout_s  # nearly half of all messages are lost here
        self.gate, self.now, self._order = gate, 0.0, 0
        self._heap: list[tuple[float, int, Any]] = []
        self.done: list[Job] = []
        self.failed: list[Fail] = []
        self.dropped: list[Job] = []  # pushes that came too late for their round
        self.values: dict[int, np.ndarray] = {}  # by id of the job that read it

    def init(self, key: int, value: np.ndarray, reduce: str = "sum") -> None:
        server = self.servers[key % len(self.servers)]
        first = Init(seq=0, store=1, slice=key, key=str(key), gate=self.gate, reduce=reduce, value=as_payload(value))
        server.handle("w0", first, 0.0)
        for c in self.clients:
            c.register(key, parse_gate(self.gate))

    def job(self, key: int, value: np.ndarray | None, want: bool, priority: int = 0) -> Job:
        job = Job(server=key % len(self.servers), slice=key, key=str(key), want=want, priority=priority)
        if value is not None:
            job.payload, job.payload_bytes = as_payload(value), value.nbytes
        return job

    def submit(self, rank: int, jobs: list[Job]) -> list[Job]:
        self._client_actions(rank, self.clients[rank].submit(jobs, self.now))
        return jobs

    def run(self, until: float = 1e4) -> None:
        """Deliver everything, in simulated time, until nothing is under way."""
        for rank in range(len(self.clients)):
            self._at(self.now, ("wake", rank))
        while self._heap and self.now < until:
            self.step()

    def step(self) -> None:
        """The next event."""
        self.now, _, event = heapq.heappop(self._heap)
        self._happen(event)
        for c in self.clients:
            c.check()

    def _happen(self, event: Any) -> None:
        kind = event[0]
        if kind == "wake":
            rank = event[1]
            actions, due = self.clients[rank].wake(self.now)
            self._client_actions(rank, actions)
            if self._busy(self.clients[rank]):
                self._at(max(due, self.now + 1e-3), ("wake", rank))
        elif kind == "server":
            _, server, rank, message = event
            for to, answer in self.servers[server].handle(f"w{rank}", message, self.now):
                self._carry(("client", int(to[1:]), server, answer))
        else:
            _, rank, server, message = event
            self._client_actions(rank, self.clients[rank].receive(server, message, self.now))

    def leave(self, rank: int) -> None:
        """Worker ``rank`` is done: nobody waits for it any more."""
        for i, s in enumerate(self.servers):
            for to, answer in s.carry_out(s.core.handle(PeerGone(rank, self.clients[rank].incarnation), self.now)):
                self._carry(("client", int(to[1:]), i, answer))

    def replace(self, server: int, saved: tuple[str, dict[int, Image]]) -> None:
        """A server dies, with all that is under way to it and from it, and comes back with a snapshot."""
        before = self.servers[server]
        made = SimServer.restored(saved, len(self.clients), before.core.incarnation + 1)
        self.servers[server] = made
        self._heap = [e for e in self._heap if not (e[2][0] != "wake" and e[2][1 + (e[2][0] == "client")] == server)]
        heapq.heapify(self._heap)
        for rank, client in enumerate(self.clients):
            self._client_actions(rank, client.replaced(server, self.now))
            self._at(self.now, ("wake", rank))

    def busy(self, rank: int) -> bool:
        """Whether a job of worker ``rank`` is not over yet."""
        return self._busy(self.clients[rank])

    @staticmethod
    def _busy(client: ClientCore) -> bool:
        links = client.links.values()
        return bool(client.flying or any(x.ready or (not x.greeted and x.hello_since >= 0) for x in links))

    def _client_actions(self, rank: int, actions: list[Any]) -> None:
        for a in actions:
            if isinstance(a, Transmit):
                self._carry(("server", a.server, rank, a.message))
            elif isinstance(a, Complete):
                self.done.append(a.job)
                if isinstance(a.result, Value) and a.result.value is not None:
                    self.values[id(a.job)] = as_array(a.result.value)
            elif isinstance(a, Dropped):
                self.dropped.append(a.job)
            elif isinstance(a, Fail):
                self.failed.append(a)

    def _carry(self, event: Any) -> None:
        if self.rng.random() < self.loss:
            return
        self._at(self.now + self.rng.random() * 0.01, event)
        while self.rng.random() < self.repeat:
            self._at(self.now + self.rng.random() * 3.0, event)

    def _at(self, time: float, event: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, event))

    def ledger(self) -> dict[str, int]:
        books = [b for s in self.servers for b in s.core.ledgers.values()]
        counts = {k: sum(getattr(b, k) for b in books) for k in ("applied", "rejected", "dropped", "duplicate", "lost")}
        sent = sum(c.counters.sent for c in self.clients)
        return {**counts, "sent": sent, "acknowledged": sum(c.counters.acknowledged for c in self.clients)}
