"""Hostile and malformed messages change nothing, allocate nothing beyond a bound, and are counted by peer."""

import hashlib
import json
import random
import tracemalloc
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from shoal.errors import RemoteProtocolError
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.client.core import ClientAction, ClientCore, Complete, Job, Transmit
from shoal.kvstore.events import Received, Send
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.door import MAX_PEERS, Door
from shoal.kvstore.server.freeze import freeze
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.messages import Ack, Done, Hello, HelloOk, Init, Member, Pull, Push, Refused, Roster
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.sharing import Sharing
from tests.kvstore.hostile import damaged, message

DECODED, STRANGE, FAULTY = 6000, 4000, 3000

SPARE_BYTES = 64 << 10
TIMES = 64
"""A message may take as much memory as this many times its own bytes, and a bit: a list of small numbers does."""


class Wire:
    """A transport that forgets what is sent."""

    def __init__(self) -> None:
        self.malformed: Counter[str] = Counter()
        self.sharing = Sharing(lambda fd: None, lambda fd: None, 0)
        self.sent: list[tuple[str, Message]] = []

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        self.sent = [*self.sent[-9:], (peer, message)]


def serving(kind: type[ServerShell] = ServerShell) -> ServerShell:
    """A server in the middle of a run of two workers, with one slice, at version 1."""
    shell = kind(Wire())  # type: ignore[arg-type]
    shell.start(0, 1, "run")
    members = tuple(Member(role="worker", rank=r, incarnation=3, address="", host="h", pid=1) for r in range(2))
    shell.roster(Roster(generation=1, epoch=0, members=members))
    value = as_payload(np.arange(4, dtype=np.float32))
    for rank in range(2):
        shell.receive(f"w{rank}", Hello(cluster="run", worker=rank, incarnation=3), 0.0)
    init = Init(seq=0, store=1, slice=7, key="a", gate="bsp", reduce="mean", value=value)
    shell.receive("w0", init, 0.0)
    for rank in range(2):
        shell.receive(f"w{rank}", genuine(rank), 0.0)
    return shell


def genuine(rank: int, **changed: Any) -> Push:
    value = as_payload(np.ones(4, np.float32))
    fields = {"worker": rank, "incarnation": 3, "seq": 1, "slice": 7, "clock": 0, "pulled": 0, "want": False}
    return Push(**{**fields, "value": value, **changed})


def state(shell: ServerShell) -> str:
    """Digest of all that the server holds but its count of strangers."""
    assert shell.core is not None
    frozen = freeze(shell.core)
    frozen["counts"][1] = 0
    values = {i: c.value.tobytes().hex() for i, c in sorted(shell.table.cells.items())}
    return hashlib.sha256(json.dumps([frozen, values], sort_keys=True, default=str).encode()).hexdigest()


def test_damaged_bytes_are_counted_by_peer_and_take_no_more_memory_than_their_length_allows() -> None:
    rng = random.Random(7)
    malformed: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for n, frames in enumerate(islice(damaged(rng), DECODED)):
            size = sum(map(len, frames))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                decode(frames)
            except RemoteProtocolError:
                malformed[f"peer{n % 3}"] += 1
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak <= SPARE_BYTES + TIMES * size, (size, peak, frames)
    finally:
        tracemalloc.stop()
    assert sum(malformed.values()) > DECODED / 2 and len(malformed) == 3


def strange(rng: random.Random) -> Message:
    """Of a run, a worker or an incarnation that is not: the stolen identity of an older one is the likeliest."""
    worker, incarnation = rng.choice(((0, 2), (1, 4), (9, 3)))
    who = {"worker": worker, "incarnation": incarnation}
    return rng.choice(
        (
            lambda: message(rng, **who, cluster="another", slice=7, store=1),
            lambda: message(rng, **who, cluster="run", slice=7, store=1),
            lambda: genuine(**{"rank": 0, **who, "clock": rng.choice((0, 1, 2)), "seq": rng.choice((1, 2, 9))}),
            lambda: genuine(rng.randrange(2)),  # replayed
        )
    )()


def test_strangers_replays_and_stolen_identities_change_nothing() -> None:
    rng, shell = random.Random(11), serving()
    core = shell.core
    assert core is not None
    before = state(shell)
    duplicates = sum(book.duplicate for book in core.ledgers.values())
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        for n in range(STRANGE):
            m = strange(rng)
            shell.receive(f"stranger{n % 5}", m, float(n))
            if isinstance(m, Push) and m.incarnation == 3 and m.worker < 2:
                shell.receive(f"w{m.worker}", m, float(n))  # replayed on the connection that it came on
            assert not shell.failure(), shell.failure()
            if n % 200 == 0:
                for book in core.ledgers.values():  # a repetition is counted, and is all that changes
                    duplicates, book.duplicate = duplicates + book.duplicate, 0
                assert state(shell) == before
        grown = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert grown < 1 << 20
    assert core.strangers > STRANGE * 3 / 4 and duplicates > STRANGE / 8
    assert set(shell.door.refused) == {f"stranger{i}" for i in range(5)}
    assert shell.report()["strangers_by_peer"] == dict(shell.door.refused)


def faulty(rng: random.Random, n: int) -> Push:
    """A push that fits its slice, with other fields as no honest worker has them."""
    ints = {name: rng.choice((0, 1, 2, -1, 2**40)) for name in ("pulled", "round", "quota")}
    flags = {name: rng.random() < 0.3 for name in ("holds", "want")}
    return genuine(0, seq=n + 2, clock=rng.choice((1, 1, 2, 2**62)), **ints, **flags)


@pytest.mark.parametrize("seed", range(3))
def test_a_member_that_sends_anything_does_not_end_the_server(seed: int) -> None:
    rng = random.Random(seed)
    for n in range(FAULTY // 3):
        if n % 20 == 0:
            shell = serving()  # after some messages, such as a goodbye, nothing else is taken
        m = message(rng, "worker -> server", worker=0, incarnation=3, cluster="run", slice=rng.choice((7, 7, 8)))
        if rng.random() < 0.3:
            m = faulty(rng, n)
        shell.receive("w0", m, float(n))
        assert not shell.failure(), (m, shell.failure())


def test_a_value_from_somebody_who_has_not_said_who_he_is_is_not_kept() -> None:
    shell = serving()
    before = state(shell)
    value = as_payload(np.zeros(1000, np.float32))
    shell.receive("nobody", Init(seq=0, store=9, slice=8, key="b", gate="asp", reduce="mean", value=value), 1.0)
    assert state(shell) == before


def test_an_honest_message_still_counts_after_all_that() -> None:
    rng, shell = random.Random(3), serving()
    for n in range(300):
        shell.receive(f"stranger{n}", strange(rng), 0.0)
    before = state(shell)
    for rank in range(2):
        again = decode([memoryview(bytes(f)) for f in encode(genuine(rank, clock=1, seq=2))])
        shell.receive(f"w{rank}", again, 1.0)
    assert shell.core is not None and shell.core.entries[7].version == 2 and state(shell) != before


def test_so_many_readers_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.kvstore.server.core.MAX_PARKED", 5)
    shell = serving()
    core = shell.core
    assert core is not None
    reads = [Pull(worker=0, incarnation=3, seq=n, slice=7, clock=2, payload=True) for n in range(10, 20)]
    said = [a.message for m in reads for a in core.handle(Received("w0", m), 0.0) if isinstance(a, Send)]
    assert len(core.entries[7].parked) == 5
    assert [m.seq for m in said if isinstance(m, Refused)] == [15, 16, 17, 18, 19]


# --- who has greeted, and as whom -------------------------------------------------------------------------------------


def answers(shell: ServerShell, peer: str, m: Message) -> list[Message]:
    """What a peer is told because of a message."""
    wire = shell.transport
    assert isinstance(wire, Wire)
    wire.sent = []
    shell.receive(peer, m, 1.0)
    return [said for to, said in wire.sent if to == peer]


def test_from_a_connection_that_has_not_greeted_only_a_greeting_is_handled() -> None:
    rng, shell = random.Random(5), serving()
    before = state(shell)
    for _ in range(2000):
        m = message(rng, worker=0, incarnation=3, cluster="run", slice=7, store=1)
        if not isinstance(m, Hello):
            assert answers(shell, "nobody", m) == [] and state(shell) == before
    assert shell.door.refused["nobody"] > 1900


def test_a_worker_that_speaks_for_another_is_refused_and_counted_by_peer() -> None:
    shell = serving()
    before = state(shell)
    (refused,) = answers(shell, "w0", genuine(1, clock=1, seq=5))
    assert isinstance(refused, Refused) and refused.seq == 5
    assert "a Push of worker 1 (incarnation 3) on a connection of worker 0 (incarnation 3)" in refused.text
    assert state(shell) == before and shell.door.refused == {"w0": 1}


def test_another_incarnation_than_the_one_that_greeted_is_refused() -> None:
    shell = serving()
    before = state(shell)
    for incarnation in (2, 4):
        (refused,) = answers(shell, "w0", genuine(0, incarnation=incarnation, clock=1, seq=5))
        assert isinstance(refused, Refused) and state(shell) == before
    assert shell.door.refused == {"w0": 2}


def test_nobody_is_greeted_under_the_name_of_a_worker_that_is_there() -> None:
    shell = serving()
    (refused,) = answers(shell, "thief", Hello(cluster="run", worker=0, incarnation=3))
    assert isinstance(refused, Refused) and "has greeted on another connection" in refused.text
    assert answers(shell, "thief", genuine(0, clock=1, seq=2)) == []
    assert [type(m) for m in answers(shell, "w0", Hello(cluster="run", worker=0, incarnation=3))] == [HelloOk]


def test_a_connection_does_not_change_hands() -> None:
    shell = serving()
    (refused,) = answers(shell, "w0", Hello(cluster="run", worker=1, incarnation=3))
    assert isinstance(refused, Refused) and shell.door.refused == {"w0": 1}
    (done,) = answers(shell, "w0", genuine(0, clock=1, seq=2))
    assert isinstance(done, Ack)


def test_a_greeting_of_another_run_opens_nothing() -> None:
    shell = serving()
    (refused,) = answers(shell, "w2", Hello(cluster="another", worker=9, incarnation=3))
    assert isinstance(refused, Refused) and "belongs to run 'another'" in refused.text
    assert answers(shell, "w2", genuine(0, clock=1, seq=2)) == []


def test_a_worker_that_was_replaced_is_told_so_on_its_own_connection() -> None:
    shell = serving()
    assert shell.core is not None
    shell.core.known[0] = shell.core.members[0] = 4
    (stale,) = answers(shell, "w0", genuine(0, clock=1, seq=2))
    assert isinstance(stale, Refused) and stale.error == "StaleWorkerError"
    assert [type(m) for m in answers(shell, "new", Hello(cluster="run", worker=0, incarnation=4))] == [HelloOk]
    assert [type(m) for m in answers(shell, "new", genuine(0, incarnation=4, clock=1, seq=0))] == [Ack]


def test_strangers_of_any_number_are_counted_in_little_memory() -> None:
    shell = serving()
    for n in range(3 * MAX_PEERS):
        shell.receive(f"stranger{n}", genuine(0), 1.0)
    assert len(shell.door.refused) == MAX_PEERS + 1 and shell.door.refused["others"] == 2 * MAX_PEERS
    assert len(shell.report()["strangers_by_peer"]) == 50


def test_servers_know_again_who_had_greeted() -> None:
    door, again = serving().door, Door()
    again.thaw(json.loads(json.dumps(door.freeze())))
    assert again.knows("w0", genuine(0)) and not again.knows("w0", genuine(1)) and not again.knows("x", genuine(0))


class Line:
    """A client core and a server shell, joined by a line that loses what it is told to."""

    def __init__(self) -> None:
        self.client, self.now = ClientCore(0, 3, "run", 1), 0.0
        self.client.register(7, parse_gate("asp"))
        self.lost: set[type[Message]] = set()
        self.done: list[Message | None] = []
        self.serve(1)

    def serve(self, incarnation: int) -> None:
        self.shell = ServerShell(Wire())  # type: ignore[arg-type]
        self.shell.start(0, incarnation, "run")
        members = (Member(role="worker", rank=0, incarnation=3, address="", host="h", pid=1),)
        self.shell.roster(Roster(generation=1, epoch=0, members=members))

    def carry(self, actions: list[ClientAction]) -> None:
        for a in actions:
            if isinstance(a, Complete):
                self.done.append(a.result)
            elif isinstance(a, Transmit) and type(a.message) not in self.lost:
                for m in answers(self.shell, "w0", a.message):
                    if type(m) not in self.lost:
                        self.carry(self.client.receive(0, m, self.now))

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            actions, due = self.client.wake(self.now)
            self.carry(actions)
            self.now = min(until, max(due, self.now + 0.01))

    def init(self) -> None:
        value = as_payload(np.zeros(4, np.float32))
        request = Init(seq=0, store=1, slice=7, key="a", gate="asp", reduce="mean", value=value)
        self.carry(self.client.submit([Job(server=0, key="a", request=request)], self.now))

    def push(self) -> None:
        job = Job(server=0, slice=7, key="a", payload=as_payload(np.ones(4, np.float32)))
        self.carry(self.client.submit([job], self.now))


@pytest.mark.parametrize("lost", [Hello, HelloOk])
def test_a_greeting_that_is_lost_is_repeated_and_nothing_is_sent_before(lost: type[Message]) -> None:
    line = Line()
    line.lost = {lost}
    line.init()
    line.sleep(3.0)
    assert line.done == [] and not line.shell.door.refused
    line.lost = set()
    line.sleep(2.0)
    line.push()
    assert isinstance(line.done[0], Done) and len(line.done) == 2 and not line.shell.door.refused


def test_to_a_server_that_was_restarted_a_worker_says_again_who_it_is() -> None:
    line = Line()
    line.init()
    line.serve(2)
    line.push()  # it does not know yet: the new process does not handle it
    assert line.shell.door.refused == {"w0": 1} and len(line.done) == 1
    line.lost = {HelloOk}
    line.carry(line.client.replaced(0, line.now))
    line.sleep(1.0)
    line.lost = set()
    line.sleep(1.0)
    line.init()
    line.sleep(10.0)
    assert line.shell.core is not None and 7 in line.shell.core.entries
    assert line.shell.core.ledgers[0].applied == 0, "its push was refused before the key was there again"
    line.push()
    assert line.shell.core.ledgers[0].applied == 1
