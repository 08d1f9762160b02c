"""Payloads by reference between two transports: how a link comes about, what it refuses, how it ends."""

import contextlib
import gc
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.wire import sharing as sharing_module
from shoal.kvstore.wire import shm
from shoal.kvstore.wire.codec import encode
from shoal.kvstore.wire.messages import Ack, Push, Value
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.shm import address_of
from shoal.kvstore.wire.transport import Transport
from tests.patience import PATIENCE_S, until

pytestmark = [pytest.mark.net, pytest.mark.skipif(bool(shm.supported()), reason="Linux only")]

N = 100_000


@contextlib.contextmanager
def pair() -> Iterator[tuple[Transport, Transport]]:
    """A listener and one connected to it as "server", who has been heard."""
    listener, dialer = Transport("server"), Transport("worker")
    dialer.connect("server", f"127.0.0.1:{listener.bind('127.0.0.1')}")
    try:
        yield listener, dialer
    finally:
        dialer.close(0.0)
        listener.close(0.0)


@contextlib.contextmanager
def linked() -> Iterator[tuple[Transport, Transport]]:
    """... and that share memory."""
    with pair() as (listener, dialer):
        link(listener, dialer)
        yield listener, dialer


def link(listener: Transport, dialer: Transport) -> None:
    dialer.sharing.accept("server", *listener.sharing.offer(dialer.identity))
    turn(listener, dialer, lambda: listener.sharing.shares(dialer.identity))


def turn(a: Transport, b: Transport, there: Callable[[], object]) -> list[tuple[str, Message]]:
    """Let both work until something is so; what they have received."""
    got: list[tuple[str, Message]] = []

    def polled() -> bool:
        if there():
            return True
        got.extend([*a.poll(0.01), *b.poll(0.01)])
        return False

    until(polled)
    return got


def shared_array(owner: Transport, other: Transport, peer: str, n: int = N) -> Array:
    """Numbers in memory that ``peer`` of ``owner`` has mapped."""
    array = owner.sharing.arena.array((n,), np.float32)
    assert array is not None
    array[:] = np.arange(n)
    found = owner.sharing.arena.find(address_of(array), array.nbytes)
    assert found is not None
    linked = owner.sharing._links[peer]
    owner.sharing._knows(linked, found[0])
    turn(owner, other, lambda: owner.sharing._knows(linked, found[0]))
    return array


def push(array: Array, seq: int = 0) -> Push:
    return Push(worker=0, incarnation=1, seq=seq, slice=0, clock=0, pulled=0, want=True, value=as_payload(array))


def value(array: Array) -> Value:
    return Value(seq=0, version=0, floor=0, value=as_payload(array))


def received(a: Transport, b: Transport) -> Array:
    """The payload of the next message that either gets."""
    _, m = turn_for_one(a, b)[0]
    assert isinstance(m, Push | Value) and m.value is not None
    return as_array(m.value)


def is_mapping(array: Array, owner: Transport) -> bool:
    """Whether the array lies in memory that a peer shares, not in a message."""
    address = address_of(array)
    maps = [m for x in owner.sharing._links.values() for m in x.theirs.values()]
    return any(m.address <= address < m.address + m.size for m in maps)


def test_an_array_in_a_shared_region_is_read_where_it_lies_in_both_directions() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        dialer.send("server", push(a))
        got = received(listener, dialer)
        assert is_mapping(got, listener) and not got.flags.writeable
        np.testing.assert_array_equal(got, np.arange(N))
        a[7] = -1
        assert got[7] == -1  # no copy anywhere
        b = shared_array(listener, dialer, dialer.identity)
        listener.send(dialer.identity, value(b))
        assert is_mapping(received(listener, dialer), dialer)


def test_only_the_header_travels() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        assert sum(len(f) for f in dialer.sharing.refer("server", encode(push(a)))) < 200


def test_an_array_elsewhere_travels_in_the_message() -> None:
    with linked() as (listener, dialer):
        shared_array(dialer, listener, "server")
        dialer.send("server", push(np.ones(N, np.float32)))
        got = received(listener, dialer)
        assert not is_mapping(got, listener) and (got == 1).all()


def test_small_payloads_travel_in_the_message() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server", 1000)
        dialer.send("server", push(a))
        assert not is_mapping(received(listener, dialer), listener)


def test_what_may_be_written_before_the_answer_travels_in_the_message() -> None:
    with linked() as (listener, dialer):
        a = shared_array(listener, dialer, dialer.identity)
        listener.send(dialer.identity, value(a), stable=False)
        got = received(listener, dialer)
        assert not is_mapping(got, dialer)
        np.testing.assert_array_equal(got, a)


def test_payloads_by_reference_and_others_keep_their_places_in_one_message() -> None:
    with linked() as (listener, dialer):
        a, b = shared_array(dialer, listener, "server"), np.full(3, 5, np.float32)
        for first, more in ((a, (b, a, b)), (b, (a, a)), (b, (b,))):
            m = Push(
                worker=0, incarnation=1, seq=0, slice=0, clock=0, pulled=0, want=False, codec="x",
                value=as_payload(first), more=tuple(as_payload(x) for x in more),
            )  # fmt: skip
            dialer.send("server", m)
            ((_, got),) = turn_for_one(listener, dialer)
            assert isinstance(got, Push)
            for have, want in zip((got.value, *got.more), (first, *more), strict=True):
                np.testing.assert_array_equal(as_array(have), want)


def turn_for_one(a: Transport, b: Transport) -> list[tuple[str, Message]]:
    return until(lambda: [*a.poll(0.01), *b.poll(0.01)], "nothing comes")


def test_until_a_region_is_confirmed_arrays_in_it_travel_in_the_message() -> None:
    with linked() as (listener, dialer):
        a = dialer.sharing.arena.array((N,), np.float32)
        assert a is not None
        a[:] = 3
        dialer.send("server", push(a))
        got = received(listener, dialer)
        assert (got == 3).all() and not is_mapping(got, listener)
        turn(listener, dialer, lambda: dialer.sharing._links["server"].confirmed == {0})
        dialer.send("server", push(a))
        assert is_mapping(received(listener, dialer), listener)


def test_placed_memory_is_only_given_where_the_peer_can_read_it() -> None:
    with linked() as (listener, dialer):
        assert dialer.sharing.place("nobody", 1 << 16) is None
        assert dialer.sharing.place("server", 100) is None
        assert dialer.sharing.place("server", 1 << 16) is None  # a new region: the peer hears of it now
        turn(listener, dialer, lambda: dialer.sharing._links["server"].confirmed == {0})
        block = dialer.sharing.place("server", 1 << 16)
        assert block is not None and block.nbytes == 1 << 16


def test_without_a_link_nothing_is_different() -> None:
    with pair() as (listener, dialer):
        a = dialer.sharing.arena.array((N,), np.float32)
        assert a is not None
        a[:] = 2
        dialer.send("server", push(a))
        assert (received(listener, dialer) == 2).all()


# --- what is refused --------------------------------------------------------------------------------------------------


def forged(m: Message, *references: tuple[int, int, int, int]) -> list[bytes]:
    packed = b"".join(sharing_module._REFERENCE.pack(*r) for r in references)
    return [struct.pack("<BB", sharing_module.TAG, len(references)) + packed + encode(m)[0]]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ((0, 0, 0, 1 << 40), "a reference to 1099511627776 bytes at 0 of a region of"),
        ((0, 0, (1 << 64) - 8, 400), "of a region of"),
        ((0, 9, 64, 400), "region 9, which .* does not share"),
        ((3, 0, 64, 400), "payload 3 of 0"),
    ],
)
def test_a_bad_reference_is_a_malformed_message(
    reference: tuple[int, int, int, int], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with linked() as (listener, dialer):
        shared_array(dialer, listener, "server")
        m = push(np.zeros(100, np.float32))
        assert dialer.sharing.ring("server", forged(m, reference))
        dialer.send("server", Ack(seq=1, version=0, floor=0))
        assert turn_for_one(listener, dialer) == [(dialer.identity, Ack(seq=1, version=0, floor=0))]
        assert listener.malformed == {dialer.identity: 1}
    assert any(re.search(says, r.getMessage()) for r in caplog.records)


def test_nobody_reads_what_another_peer_shares() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        other = Transport("other")
        other.connect("server", f"127.0.0.1:{listener_port(listener)}")
        try:
            frames = dialer.sharing.refer("server", encode(push(a)))
            other._lanes.put("server", frames, True)
            other.send("server", Ack(seq=1, version=0, floor=0))
            assert turn_for_one(listener, dialer) == [(other.identity, Ack(seq=1, version=0, floor=0))]
            assert listener.malformed == {other.identity: 1}
        finally:
            other.close(0.0)


def listener_port(listener: Transport) -> int:
    return listener._lanes.port


def test_a_reference_whose_header_ends_too_early_is_malformed() -> None:
    with linked() as (listener, dialer):
        assert dialer.sharing.ring("server", [bytes([sharing_module.TAG, 3, 0])])
        dialer.send("server", Ack(seq=1, version=0, floor=0))
        assert turn_for_one(listener, dialer)[0][1] == Ack(seq=1, version=0, floor=0)
        assert sum(listener.malformed.values()) == 1


def stranger(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(f"\0{name}")
    sock.settimeout(PATIENCE_S)
    return sock


def hung_up(sock: socket.socket) -> bool:
    """Whether the other end has closed; it has not said anything."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return sock.recv(10) == b""
    return False


def test_a_wrong_token_is_turned_away() -> None:
    with pair() as (listener, dialer):
        name, _ = listener.sharing.offer(dialer.identity)
        with stranger(name) as sock:
            sock.send(bytes(16))
            turn(listener, dialer, lambda: hung_up(sock))
        assert listener.sharing.peers() == []


def test_a_token_serves_once() -> None:
    with pair() as (listener, dialer):
        name, token = listener.sharing.offer(dialer.identity)
        with stranger(name) as one, stranger(name) as two:
            one.send(bytes.fromhex(token))
            turn(listener, dialer, lambda: listener.sharing.shares(dialer.identity))
            two.send(bytes.fromhex(token))
            turn(listener, dialer, lambda: hung_up(two))
            assert listener.sharing.shares(dialer.identity)


def test_who_asks_again_before_it_has_connected_may_connect_with_the_first_answer() -> None:
    """A busy server answers two greetings of a worker, which has connected with the first answer meanwhile."""
    with pair() as (listener, dialer):
        first = listener.sharing.offer(dialer.identity)
        dialer.sharing.accept("server", *first)
        assert listener.sharing.offer(dialer.identity) == first
        turn(listener, dialer, lambda: listener.sharing.shares(dialer.identity))
        assert dialer.sharing.shares("server")
        assert listener.sharing.offer(dialer.identity) != first


@pytest.mark.parametrize("end", ["listener", "dialer"])
def test_a_process_of_another_user_shares_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as (listener, dialer):
        offer = listener.sharing.offer(dialer.identity)
        if end == "dialer":
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
            dialer.sharing.accept("server", *offer)
            assert dialer.sharing.peers() == []
        else:
            dialer.sharing.accept("server", *offer)
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
            turn(listener, dialer, lambda: dialer.sharing.peers() == [])
        assert listener.sharing.peers() == []


def test_an_offer_of_another_host_is_taken_up_in_vain_and_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with pair() as (_, dialer):
        dialer.sharing.accept("server", "shoal-of-another-host", "00" * 16)
        assert dialer.sharing.peers() == []
        assert not [r for r in caplog.records if r.levelname in ("INFO", "WARNING", "ERROR")]


def test_a_region_that_cannot_be_mapped_ends_the_link_and_the_payload_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, *args: object) -> None:
        os.close(fd)
        raise OSError("no room for a mapping")

    with linked() as (listener, dialer):
        monkeypatch.setattr(sharing_module, "Mapped", refuse)
        a = dialer.sharing.arena.array((N,), np.float32)
        assert a is not None
        a[:] = 4
        dialer.send("server", push(a))
        assert (received(listener, dialer) == 4).all()
        turn(listener, dialer, lambda: not listener.sharing.peers() and not dialer.sharing.peers())
        dialer.send("server", push(a))
        assert (received(listener, dialer) == 4).all()


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_a_peer_that_closes_is_forgotten_but_what_was_read_stays() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        dialer.send("server", push(a))
        got = received(listener, dialer)
        dialer.sharing.close()
        turn(listener, dialer, lambda: not listener.sharing.peers())
        np.testing.assert_array_equal(got, np.arange(N))


def test_a_link_can_be_made_anew() -> None:
    with linked() as (listener, dialer):
        link(listener, dialer)
        a = shared_array(dialer, listener, "server")
        dialer.send("server", push(a))
        assert is_mapping(received(listener, dialer), listener)
        assert len(listener.sharing._sockets) == 1


def test_no_file_descriptor_is_left() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with linked() as (listener, dialer):
        shared_array(dialer, listener, "server")
        shared_array(listener, dialer, dialer.identity)
    gc.collect()
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # ZeroMQ closes its sockets in a thread of its own


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SHM", "0")
    with pair() as (listener, dialer):
        assert listener.sharing.offer(dialer.identity) == ("", "")
        dialer.sharing.accept("server", "", "")
        assert dialer.sharing.peers() == []


def test_a_system_without_unix_sockets_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError("Address family not supported")

    with pair() as (listener, dialer):
        monkeypatch.setattr(socket, "socket", none)
        assert listener.sharing.offer(dialer.identity) == ("", "")


def test_arrays_may_be_made_in_any_thread() -> None:
    with linked() as (listener, dialer):
        made: list[Array | None] = []
        work = threading.Thread(target=lambda: made.append(dialer.sharing.arena.array((N,), np.float32)))
        work.start()
        work.join()
        assert made[0] is not None
        made[0][:] = 1
        dialer.send("server", push(made[0]))
        assert (received(listener, dialer) == 1).all()


# --- small messages ---------------------------------------------------------------------------------------------------


def test_small_messages_take_the_socket_of_the_link_and_keep_their_order() -> None:
    with linked() as (listener, dialer):
        messages: list[Message] = [Ack(seq=i, version=0, floor=0) for i in range(100)]
        for m in messages:
            assert dialer.sharing.ring("server", encode(m))
        got: list[tuple[str, Message]] = []

        def come() -> bool:
            got.extend(listener.poll(0.01))
            return len(got) >= len(messages)

        until(come)
        assert got == [(dialer.identity, m) for m in messages]


def test_a_small_array_arrives_through_the_link_aligned_and_whole() -> None:
    with linked() as (listener, dialer):
        array = np.arange(250, dtype=np.float64)
        assert dialer.sharing.ring("server", encode(push(array)))
        got = received(listener, dialer)
        np.testing.assert_array_equal(got, array)
        assert got.flags.aligned


def test_large_messages_take_no_link() -> None:
    with linked() as (_, dialer):
        assert not dialer.sharing.ring("server", encode(push(np.zeros(N, np.float32))))


def test_messages_to_a_peer_that_does_not_read_the_link_go_another_way() -> None:
    with linked() as (listener, dialer):
        sent = 0
        while dialer.sharing.ring("server", encode(Ack(seq=sent, version=0, floor=0))):
            sent += 1
        dialer.send("server", Ack(seq=sent, version=0, floor=0))
        seqs: set[int] = set()

        def heard() -> bool:
            seqs.update(m.seq for _, m in listener.poll(0.01) if isinstance(m, Ack))
            list(dialer.poll(0.0))
            return len(seqs) > sent

        until(heard)
        assert seqs == set(range(sent + 1))


def test_one_busy_peer_of_a_link_does_not_hold_up_a_poll() -> None:
    with linked() as (listener, dialer):
        for i in range(200):
            dialer.sharing.ring("server", encode(Ack(seq=i, version=0, floor=0)))
        assert max(len(list(listener.poll(0.05))) for _ in range(10)) <= sharing_module.BURST


@pytest.mark.parametrize("packet", [b"", b"\xc5", b"\xc5\x01\xff\xff\xff\x7f\0\0", b"nonsense", b"\x42\x01"])
def test_what_is_no_message_is_counted_under_the_peer_of_the_link(packet: bytes) -> None:
    with linked() as (listener, dialer):
        assert dialer.sharing.ring("server", [packet])
        dialer.send("server", Ack(seq=1, version=0, floor=0))
        assert turn_for_one(listener, dialer) == [(dialer.identity, Ack(seq=1, version=0, floor=0))]
        assert listener.malformed == {dialer.identity: 1}


def test_a_stranger_cannot_send_messages_through_the_socket() -> None:
    with pair() as (listener, dialer):
        name, _ = listener.sharing.offer(dialer.identity)
        with stranger(name) as sock:
            sock.send(sharing_module._MESSAGE + encode(Ack(seq=1, version=0, floor=0))[0])
            assert turn(listener, dialer, lambda: hung_up(sock)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_the_kernel_tells_who_connects() -> None:
    """A real process of another user, with the right token."""
    with pair() as (listener, dialer):
        name, token = listener.sharing.offer(dialer.identity)
        child = os.fork()
        if not child:
            code = 2
            try:
                os.setuid(65534)
                with stranger(name) as sock:
                    sock.send(bytes.fromhex(token))
                    code = 0 if sock.recv(10) == b"" else 1
            except ConnectionError:
                code = 0
            finally:
                os._exit(code)

        def ended() -> tuple[int, int] | None:
            assert list(listener.poll(0.02)) == []
            found = os.waitpid(child, os.WNOHANG)
            return found if found[0] else None

        _, status = until(ended) or (0, 1)
        assert os.waitstatus_to_exitcode(status) == 0 and listener.sharing.peers() == []


def test_small_messages_overtake_those_that_stand_for_large_payloads() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        for _ in range(5):
            dialer.send("server", push(a))
        dialer.send("server", Ack(seq=9, version=0, floor=0))
        got: list[Message] = []
        while len(got) < 6:
            got += [m for _, m in listener.poll(0.05)]
            list(dialer.poll(0.0))
    assert got[0] == Ack(seq=9, version=0, floor=0)


def test_a_small_message_waits_for_one_large_payload_at_most_also_if_many_came_at_once() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        for _ in range(5):
            dialer.send("server", push(a))
        got: list[Message] = []
        while len(got) < 7:
            for _, message in listener.poll(0.05):
                got.append(message)
                if len(got) in (1, 4):  # while the first is dealt with, and another one
                    dialer.send("server", Ack(seq=len(got), version=0, floor=0))
            list(dialer.poll(0.0))
    assert [i for i, m in enumerate(got) if isinstance(m, Ack)] == [1, 4]


def test_a_poll_that_is_woken_leaves_the_other_large_payloads_to_the_next() -> None:
    with linked() as (listener, dialer):
        a = shared_array(dialer, listener, "server")
        for _ in range(4):
            dialer.send("server", push(a))
        handed: list[int] = []
        while sum(handed) < 4:
            handed.append(0)
            for _ in listener.poll(0.05):
                handed[-1] += 1
                if sum(handed) == 2:
                    listener.wake()
            list(dialer.poll(0.0))
        assert [n for n in handed if n] == [2, 2]
