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
from shoal.kvstore.events import Received, Send
from shoal.kvstore.server.freeze import freeze
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.messages import Hello, Init, Member, Pull, Push, Refused, Roster
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
        self.sent = 0

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        self.sent += 1


def serving() -> ServerShell:
    """A server in the middle of a run of two workers, with one slice, at version 1."""
    shell = ServerShell(Wire())  # type: ignore[arg-type]
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
            shell.receive(f"stranger{n % 5}", strange(rng), float(n))
            assert not shell.failure(), shell.failure()
            if n % 200 == 0:
                for book in core.ledgers.values():  # a repetition is counted, and is all that changes
                    duplicates, book.duplicate = duplicates + book.duplicate, 0
                assert state(shell) == before
        grown = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert grown < 1 << 20
    assert core.strangers > STRANGE / 4 and duplicates > STRANGE / 8


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
