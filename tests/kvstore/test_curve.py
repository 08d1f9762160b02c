"""Who is let in by a listener with a key, over real sockets, and what is said to and of those who are not."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from shoal.errors import ConfigError, MembershipError, StoreTimeoutError
from shoal.kvstore.wire.curve import MAX_ADDRESSES, NEEDLESS_KEY, NO_KEY, OTHER_KEY
from shoal.kvstore.wire.keys import LOOPBACK, Access, Keys
from shoal.kvstore.wire.messages import Watch
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.operator import change_settings
from shoal.scheduler.watch import snapshot_of
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.net

OURS, THEIRS = Access(Keys(b"o" * 32)), Access(Keys(b"t" * 32))


class Net:
    """Transports of one test, polled in turn."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.transports: list[Transport] = []
        self.heard: list[tuple[str, Message]] = []

    def add(self, name: str, access: Access) -> Transport:
        made = Transport(name, access)
        self._stack.callback(made.close, 0.0)
        self.transports.append(made)
        return made

    def listener(self, access: Access, *, local: bool = True) -> tuple[Transport, str]:
        made = self.add("server", access)
        return made, f"127.0.0.1:{made.bind('127.0.0.1', local=local)}"

    def dialer(self, address: str, access: Access) -> Transport:
        made = self.add("worker", access)
        made.connect("server", address)
        made.send("server", Watch())
        return made

    def until(self, there: Callable[[], object]) -> None:
        def polled() -> bool:
            if there():
                return True
            for t in self.transports:
                self.heard += t.poll(0.005)
            return False

        until(polled)


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack)


@pytest.mark.parametrize("local", [True, False], ids=["unix socket", "tcp"])
def test_who_has_the_key_is_let_in(net: Net, local: bool) -> None:
    server, address = net.listener(OURS, local=local)
    worker = net.dialer(address, Access(Keys(b"o" * 32)))
    net.until(lambda: net.heard)
    assert net.heard == [(worker.identity, Watch())]
    assert not server.refused and not worker.shut("server")
    server.send(worker.identity, Watch())
    net.until(lambda: len(net.heard) == 2)
    assert net.heard[1] == ("server", Watch())


@pytest.mark.parametrize("local", [True, False], ids=["unix socket", "tcp"])
@pytest.mark.parametrize(
    ("listening", "dialing", "why"),
    [(OURS, LOOPBACK, NO_KEY), (OURS, THEIRS, OTHER_KEY), (LOOPBACK, OURS, NEEDLESS_KEY)],
    ids=["no key", "another key", "a needless key"],
)
def test_who_has_it_not_is_told_why(net: Net, listening: Access, dialing: Access, why: str, local: bool) -> None:
    server, address = net.listener(listening, local=local)
    worker = net.dialer(address, dialing)
    net.until(lambda: worker.shut("server") == why)
    net.until(lambda: server.refused or listening is LOOPBACK or local)
    assert not net.heard


def test_a_refusal_is_counted_by_address_and_logged_once(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    server, address = net.listener(OURS, local=False)
    with caplog.at_level(logging.WARNING, "shoal.wire"):
        net.dialer(address, THEIRS)
        net.until(lambda: server.refused["127.0.0.1"] >= 3)
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("127.0.0.1 is not let in")]
    assert len(said) == 1 and "does not have this cluster's key" in said[0]


def test_the_public_key_of_the_listener_alone_lets_nobody_in(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that knows whom it talks to, but has a pair of its own making: the handler refuses it, by address."""
    server, address = net.listener(OURS, local=False)
    honest = Keys.derive

    def forged(keys: Keys, side: str) -> bytes:
        return os.urandom(32) if side == "connect" else honest(keys, side)

    monkeypatch.setattr(Keys, "derive", forged)
    worker = net.dialer(address, OURS)
    net.until(lambda: worker.shut("server") and server.refused["127.0.0.1"])
    assert not net.heard


def test_bytes_that_are_no_handshake_change_nothing(net: Net) -> None:
    _, address = net.listener(OURS, local=False)
    host, port = address.split(":")
    with closing(socket.create_connection((host, int(port)))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 64)
        stranger.settimeout(PATIENCE_S)
        with suppress(ConnectionResetError):
            while stranger.recv(4096):  # until it is hung up on
                pass
    worker = net.dialer(address, OURS)
    net.until(lambda: net.heard)
    assert net.heard == [(worker.identity, Watch())]


def test_a_name_that_a_member_has_is_not_taken_by_a_stranger(net: Net) -> None:
    server, address = net.listener(OURS, local=False)
    worker = net.dialer(address, OURS)
    net.until(lambda: net.heard)
    stranger = net.add("worker", THEIRS)
    stranger.identity = stranger._lanes.identity = worker.identity
    stranger.connect("server", address)
    net.until(lambda: stranger.shut("server"))
    server.send(worker.identity, Watch())
    net.until(lambda: len(net.heard) == 2)
    assert net.heard[1] == ("server", Watch()) and not stranger.malformed


def test_many_addresses_are_counted_together(net: Net) -> None:
    server, _ = net.listener(OURS)
    for n in range(MAX_ADDRESSES + 7):
        server._lanes.door._refuse(f"10.0.{n >> 8}.{n & 255}")
    assert len(server.refused) == MAX_ADDRESSES + 1 and server.refused["further addresses"] == 7


def test_a_connection_that_was_let_in_is_watched_no_longer(net: Net) -> None:
    _, address = net.listener(OURS)
    worker = net.dialer(address, OURS)
    net.until(lambda: net.heard and not worker._lanes.door._monitors)


def test_off_the_loopback_there_is_no_listening_without_a_key(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="shoal keys new"):
        net.add("server", LOOPBACK).bind("0.0.0.0")
    assert net.add("server", OURS).bind("0.0.0.0")
    assert not caplog.records
    assert net.add("server", Access(insecure=True)).bind("0.0.0.0")
    assert "--insecure: whoever can reach 0.0.0.0" in caplog.text


def test_the_unix_socket_beside_a_port_is_for_the_user_who_listens(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    _, address = net.listener(LOOPBACK)
    monkeypatch.undo()
    worker = net.dialer(address, LOOPBACK)
    assert worker._lanes._addresses["server"].startswith("ipc://")  # it would go that way, and is hung up on
    net.until(lambda: worker.shut("server"))
    assert not net.heard


def test_an_operator_without_the_key_is_told_so(net: Net) -> None:
    _, address = net.listener(OURS, local=False)

    def told(ask: Callable[[], object]) -> str:
        with suppress(StoreTimeoutError):  # within so short a time nobody has answered at all
            try:
                ask()
            except MembershipError as e:
                return str(e)
        return ""

    first = until(lambda: told(lambda: snapshot_of(address, timeout_s=0.3)))
    assert f"at {address} does not let this process in: it asks for the cluster's" in first
    second = until(lambda: told(lambda: change_settings(address, {"lr": 1}, timeout_s=0.3, access=THEIRS)))
    assert "does not let this process in: it asks for another key" in second
