"""The shells: what becomes of callers when the thread, the process or the server under them fails."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, MembershipError, StoreTimeoutError
from shoal.kvstore.client.core import ClientCore, Job
from shoal.kvstore.client.shell import Call, ClientShell, Group
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.messages import Hello, HelloOk, Init, Pull, Push, Refused, SetOptimizer
from shoal.kvstore.wire.schema import Message, Payload
from shoal.kvstore.wire.sharing import Sharing
from tests.kvstore.simnet import roster


class Wire:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.malformed: dict[str, int] = {}
        self.fails = self.forked = False
        self.sharing = Sharing(lambda fd: None, lambda fd: None, 0)

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        if self.fails:
            raise OSError("no network")
        self.sent.append(message)

    def wake(self) -> None:
        """Nobody polls."""

    def check_process(self) -> None:
        if self.forked:
            raise ConfigError("forked")


def client(wire: Wire) -> ClientShell:
    shell = ClientShell(wire, ClientCore(0, 1, "run", 1))  # type: ignore[arg-type]
    shell.register([(0, parse_gate("asp"))])
    return shell


def read(shell: ClientShell, slice_id: int = 0) -> Call:
    group = Group(1)
    shell.submit([Job(server=0, slice=slice_id, key="w", want=True, token=(group, None))])
    return group.future


def test_when_the_io_thread_fails_every_call_does_wherever_it_was() -> None:
    shell = client(Wire())
    under_way = [read(shell), read(shell)]
    shell.wake(0.0)
    handed_over = read(shell)
    shell.fail_all(MembershipError("gone"))
    for call in [*under_way, handed_over]:
        with pytest.raises(MembershipError, match="gone"):
            call.result(0)
    with pytest.raises(MembershipError, match="gone"):
        read(shell)


def test_calls_are_failed_without_the_network_that_failed() -> None:
    wire = Wire()
    shell = client(wire)
    calls, wire.fails = [read(shell)], True
    with pytest.raises(OSError, match="no network"):
        shell.wake(0.0)
    calls.append(read(shell))
    shell.fail_all(MembershipError("gone"))
    assert all(isinstance(c.peek(0), MembershipError) for c in calls)


def test_a_call_that_the_core_cannot_take_fails_with_the_rest() -> None:
    shell = client(Wire())
    call = read(shell, slice_id=99)
    with pytest.raises(KeyError):
        shell.wake(0.0)
    shell.fail_all(MembershipError("gone"))
    assert isinstance(call.peek(0), MembershipError)


def test_a_forked_process_is_told_instead_of_waiting_for_a_thread_that_it_does_not_have() -> None:
    wire = Wire()
    shell = client(wire)
    wire.forked = True
    with pytest.raises(ConfigError, match="forked"):
        read(shell)


def test_a_forked_process_does_not_wait_for_an_answer_that_goes_to_its_parent() -> None:
    wire = Wire()
    call = read(client(wire))
    wire.forked = True
    with pytest.raises(ConfigError, match="forked"):
        call.result()


def test_only_looking_does_not_take_an_error() -> None:
    call = Call()
    call.set_exception(ValueError("x"))
    assert isinstance(call.peek(), ValueError) and not call.taken
    assert isinstance(call.exception(), ValueError) and call.taken


def server(dtype: str = "<f4") -> tuple[ServerShell, Wire]:
    wire = Wire()
    shell = ServerShell(wire)  # type: ignore[arg-type]
    shell.start(0, 1, "run")
    shell.roster(roster(1))
    value = Payload(dtype=dtype, shape=(1,), data=np.zeros(1, dtype))
    shell.receive("w0", Hello(cluster="run", worker=0, incarnation=1), 0.0)
    shell.receive("w0", Init(seq=0, store=1, slice=0, key="w", gate="bsp", reduce="sum", value=value), 0.0)
    wire.sent.clear()
    return shell, wire


def push(clock: int = 0) -> Push:
    value = Payload(dtype="<f4", shape=(1,), data=np.ones(1, np.float32))
    return Push(worker=0, incarnation=1, seq=1, slice=0, clock=clock, pulled=0, want=False, value=value)


def broken(*args: Any) -> None:
    raise RuntimeError("out of order")


@pytest.mark.parametrize("part", ["apply", "handle"])
def test_a_server_that_fails_says_where_and_answers_no_more(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell, wire = server()
    monkeypatch.setattr(shell.table if part == "apply" else shell.core, part, broken)
    shell.receive("w0", push(), 0.0)
    failure = shell.failure()
    assert failure.startswith("server failed on ") and failure.endswith("RuntimeError: out of order\n")
    assert "Traceback" in failure and "test_shells.py" in failure
    monkeypatch.undo()
    shell.receive("w0", push(), 0.0)
    shell.receive("w0", Pull(worker=0, incarnation=1, seq=2, slice=0, clock=0, payload=True), 0.0)
    assert wire.sent == [] and shell.failure() == failure


def test_a_healthy_server_has_no_failure() -> None:
    shell, wire = server()
    shell.receive("w0", push(), 0.0)
    assert shell.failure() == "" and len(wire.sent) == 1


def test_a_refused_optimizer_is_refused_again_when_it_is_asked_for_again() -> None:
    shell, wire = server("<i8")
    ask = SetOptimizer(
        worker=0, incarnation=1, seq=5, store=1, name="sgd", params={"learning_rate": 0.1}, lr_mult={}, wd_mult={}
    )
    for _ in range(2):
        shell.receive("w0", ask, 0.0)
    first, again = wire.sent
    assert isinstance(first, Refused) and first == again and first.error == "DTypeError"


@pytest.mark.parametrize("greeted", [True, False])
def test_a_worker_that_was_stopped_itself_blames_no_server_for_that_time(greeted: bool) -> None:
    """The process was suspended for a quarter of an hour; the answers are there, and are read after it has looked."""
    wire = Wire()
    shell = client(wire)
    shell.core.timeout_s = 300.0
    call = read(shell)
    shell.wake(0.0)
    if greeted:
        shell.receive("server0", HelloOk(server=0, incarnation=1), 0.1)
    shell.wake(0.2)
    shell.wake(900.0)
    assert not call.done()
    for second in range(1, 70):
        shell.wake(900.0 + second)
    assert isinstance(call.peek(0), StoreTimeoutError)
