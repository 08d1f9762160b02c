"""Sockets: who is heard, what is dropped, what is said about ports."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.kvstore.arrays import as_array, as_payload
from shoal.kvstore.wire.beside import BULK
from shoal.kvstore.wire.curve import BUFFER_BYTES, socket_of
from shoal.kvstore.wire.keys import Access
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Ack, Push, Value, Waiting
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from tests.patience import until

pytestmark = pytest.mark.net


@contextlib.contextmanager
def pair() -> Iterator[tuple[Transport, Transport]]:
    """A listener and one connected to it as "server"."""
    listener, dialer = Transport("server"), Transport("worker")
    dialer.connect("server", f"127.0.0.1:{listener.bind('127.0.0.1')}")
    try:
        yield listener, dialer
    finally:
        dialer.close(0.0)
        listener.close(0.0)


def port_of(listener: Transport) -> int:
    return listener._lanes.port


def receive(transport: Transport, n: int = 1, sender: Transport | None = None) -> list[tuple[str, Message]]:
    """What comes; a ``sender`` of more than the kernel keeps must be driven, too."""
    got: list[tuple[str, Message]] = []

    def come() -> bool:
        if sender is not None:
            assert not list(sender.poll(0.0))
        got.extend(transport.poll(0.05 if sender is None else 0.005))
        return len(got) >= n

    until(come, "nothing comes")
    return got


def ack(seq: int) -> Ack:
    return Ack(seq=seq, version=0, floor=0)


def test_messages_go_there_and_back_under_the_senders_name() -> None:
    with pair() as (listener, dialer):
        dialer.send("server", ack(1))
        ((peer, m),) = receive(listener)
        assert peer == dialer.identity and m == ack(1)
        listener.send(peer, ack(2))
        assert receive(dialer) == [("server", ack(2))]


def test_arrays_arrive_whole() -> None:
    array = np.arange(300_000, dtype=np.float32)
    with pair() as (listener, dialer):
        m = Push(worker=0, incarnation=1, seq=0, slice=0, clock=0, pulled=0, want=True, value=as_payload(array))
        dialer.send("server", m)
        ((_, got),) = receive(listener, sender=dialer)
        assert isinstance(got, Push)
        np.testing.assert_array_equal(as_array(got.value), array)


def buffers(port: int) -> tuple[dict[str, int], list[int]]:
    """What this process's connections through the unix sockets beside a port hold: accepted ones by the end of the
    socket's name, and the others."""
    accepted, dialled = {}, []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket_of(int(fd)) as found:
            if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
                continue
            holds = found.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            there, here = (bytes(n or b"").decode() for n in (found.getpeername(), found.getsockname()))
            if f":{port}" in here:  # one that listens has raised
                accepted[here.partition(f":{port}")[2]] = holds
            elif f":{port}" in there:
                dialled.append(holds)
    return accepted, dialled


def test_large_messages_have_a_unix_socket_of_their_own_and_connections_hold_more_than_usual() -> None:
    most = int(Path("/proc/sys/net/core/wmem_max").read_text())
    wide = 2 * min(BUFFER_BYTES, most)
    value = as_payload(np.arange(1 << 20, dtype=np.float32))
    with pair() as (listener, dialer):
        dialer.send("server", Value(seq=0, version=0, floor=0, value=value))
        assert len(receive(listener, sender=dialer)) == 1
        deadline = time.monotonic() + 30.0
        while True:
            accepted, dialled = buffers(port_of(listener))
            if accepted == {"": wide, BULK: wide} and wide in dialled:
                break
            assert time.monotonic() < deadline, (accepted, dialled, wide)
            assert not list(listener.poll(0.005)) and not list(dialer.poll(0.005))


def test_an_unstable_array_may_change_at_once() -> None:
    array = np.zeros(300_000, np.float32)
    with pair() as (listener, dialer):
        dialer.send("server", Value(seq=0, version=0, floor=0, value=as_payload(array)), stable=False)
        array[:] = 1
        ((_, got),) = receive(listener, sender=dialer)
        assert isinstance(got, Value) and got.value is not None
        assert (as_array(got.value) == 0).all()


def test_malformed_messages_are_counted_under_the_peers_name_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with pair() as (listener, dialer):
        dialer._lanes.put("server", [b"nonsense"], True)
        dialer.send("server", ack(7))
        assert [m for _, m in receive(listener)] == [ack(7)]
        assert listener.malformed == {dialer.identity: 1}
    assert dialer.identity in caplog.text and "dropped malformed message" in caplog.text


def test_a_frame_beyond_the_limit_ends_the_connection_that_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.kvstore.wire.lanes.MAX_FRAME_BYTES", 1 << 16)
    huge = Value(seq=0, version=0, floor=0, value=as_payload(np.zeros(1 << 17, np.uint8)))
    with pair() as (listener, dialer):
        other = Transport("other")
        other.connect("server", f"127.0.0.1:{port_of(listener)}")
        try:
            dialer.send("server", huge)
            other.send("server", ack(7))
            assert receive(listener) == [(other.identity, ack(7))]
            assert list(listener.poll(0.05)) == []
        finally:
            other.close(0.0)


def test_one_busy_peer_does_not_hold_up_a_poll() -> None:
    with pair() as (listener, dialer):
        for i in range(300):
            dialer.send("server", ack(i))
        handed: list[int] = []

        def come() -> bool:
            list(dialer.poll(0.0))
            handed.append(len(list(listener.poll(0.05))))
            return sum(handed) == 300

        until(come)
        assert max(handed) <= 64


def test_a_message_to_a_peer_that_is_gone_is_dropped() -> None:
    with pair() as (listener, _):
        listener.send("nobody", ack(1))


def test_many_messages_keep_their_order_behind_a_slow_reader() -> None:
    n = 5000
    with pair() as (listener, dialer):
        for i in range(n):
            dialer.send("server", ack(i))
        seqs: list[int] = []

        def come() -> bool:
            seqs.extend(m.seq for _, m in listener.poll(0.01) if isinstance(m, Ack))
            list(dialer.poll(0.0))
            return len(seqs) >= n

        until(come)
        assert seqs == list(range(n))


def test_a_port_in_use_says_what_to_do() -> None:
    first, second = Transport("a"), Transport("b")
    try:
        port = first.bind("127.0.0.1")
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is already in use.*--port"):
            second.bind("127.0.0.1", port)
    finally:
        first.close(0.0)
        second.close(0.0)


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    transport = Transport("a", Access(insecure=True))
    try:
        with pytest.raises(ConfigError, match="not an address of this machine"):
            transport.bind("192.0.2.1")
    finally:
        transport.close(0.0)


def test_an_address_that_is_none_is_an_error() -> None:
    transport = Transport("a")
    try:
        with pytest.raises(ConfigError, match="host:port"):
            transport.connect("server", "nonsense")
    finally:
        transport.close(0.0)


def test_wake_ends_a_poll() -> None:
    transport = Transport("a")
    try:
        transport.wake()
        assert list(transport.poll(30.0)) == []
    finally:
        transport.close(0.0)


def test_a_forked_process_is_told() -> None:
    transport = Transport("a")
    try:
        transport._pid = os.getpid() + 1
        with pytest.raises(ConfigError, match="fork"):
            transport.send("x", ack(1))
    finally:
        transport.close(0.0)


def test_closing_twice_is_harmless() -> None:
    transport = Transport("a")
    transport.close()
    transport.close()


def test_the_loop_hands_messages_to_the_driver_of_the_peer() -> None:
    heard: list[tuple[str, str, Message]] = []

    class Ear:
        def __init__(self, name: str) -> None:
            self.name = name

        def receive(self, peer: str, message: Message, now: float) -> None:
            heard.append((self.name, peer, message))

        def wake(self, now: float) -> float:
            return now + 0.05

    with pair() as (listener, dialer):
        loop = Loop(dialer, {"server": Ear("named"), "": Ear("rest")})
        dialer.send("server", ack(1))
        ((peer, _),) = receive(listener)
        listener.send(peer, Waiting(seq=3, missing=(1,)))
        until(lambda: loop.step() or heard)  # type: ignore[func-returns-value]
    assert heard == [("named", "server", Waiting(seq=3, missing=(1,)))]


def test_waking_a_transport_in_a_forked_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    t = Transport("a")
    try:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ConfigError, match="forked"):
                t.wake()
    finally:
        t.close()


def test_waking_a_closed_transport_writes_into_nobodys_file(tmp_path: Path) -> None:
    t = Transport("a")
    t.close()
    with contextlib.ExitStack() as files:
        opened = [files.enter_context((tmp_path / str(i)).open("wb")) for i in range(4)]  # take the closed numbers
        t.wake()
    assert all((tmp_path / str(i)).stat().st_size == 0 for i in range(len(opened)))
