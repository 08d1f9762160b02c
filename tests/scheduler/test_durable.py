"""A scheduler with a state directory: written before it is said, and members over sockets that wait for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import shoal
from shoal.errors import ConfigError, JoinRefusedError, MembershipError, NodeLostError, StoreTimeoutError
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import KeySpec
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.journal import Journal
from shoal.scheduler.log import Joined, Ruled
from shoal.scheduler.records import read_log
from shoal.scheduler.shell import SchedulerShell, run_scheduler
from tests.patience import until
from tests.scheduler.cluster import WAIT_S, Cluster, expects_word_within
from tests.scheduler.helpers import join

W = (KeySpec(key="w", dtype="<f4", shape=(2, 3)),)


class Watched:
    """A transport that notes what was on the disk when something was sent."""

    def __init__(self, log: Path) -> None:
        self.log, self.sent = log, list[tuple[str, bytes]]()

    def send(self, to: str, message: Message) -> None:
        self.sent.append((to, self.log.read_bytes()))


def test_nothing_is_said_before_it_is_on_the_disk_and_a_step_is_one_line(tmp_path: Path) -> None:
    journal, transport = Journal(str(tmp_path)), Watched(tmp_path / "log")
    core = SchedulerCore(SchedulerConfig(2, 1, version="1", grace_s=9.0))
    shell = SchedulerShell(cast(Transport, transport), core, lambda: None, journal=journal)
    shell.wake(0.0)
    for name in ("w0", "w1"):
        shell.receive(name, join("worker", name), 0.1)
    assert not transport.sent
    shell.wake(0.1)
    assert [to for to, _ in transport.sent] == ["w0", "w1"]
    for name, disk in transport.sent:
        assert f'"{name}"'.encode() in disk
    assert (tmp_path / "log").read_bytes().count(b"\n") == 2
    journal.close()
    again = Journal(str(tmp_path))
    again.close()
    assert [r for r in again.records if isinstance(r, Ruled)] == [Ruled(1)]
    assert sum(isinstance(r, Joined) for r in again.records) == 2


def test_when_the_disk_is_full_nobody_is_told_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, transport = Journal(str(tmp_path)), Watched(tmp_path / "log")
    core = SchedulerCore(SchedulerConfig(2, 1, version="1", grace_s=9.0))
    shell = SchedulerShell(cast(Transport, transport), core, lambda: None, journal=journal)
    shell.wake(0.0)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    shell.receive("w0", join("worker", "w0"), 0.1)
    with pytest.raises(MembershipError, match=r"cannot write its log .*: No space left on device"):
        shell.wake(0.1)
    assert not transport.sent
    journal.close()


def test_a_state_that_another_scheduler_holds_is_refused_before_anybody_is_answered(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    with pytest.raises(ConfigError, match="that is running"):
        run_scheduler("127.0.0.1", 0, 1, 1, state=str(tmp_path))
    journal.close()


def test_a_directory_serves_one_run_after_another(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_scheduler("127.0.0.1", 0, 1, 1, gather_timeout_s=0.05, state=str(tmp_path)) == 1
    ended = read_log((tmp_path / "log.ended").read_bytes(), "log").records
    assert [type(r).__name__ for r in ended] == ["Founded", "Ruled", "Aborted"]
    assert not (tmp_path / "log").exists()


# --- over sockets -----------------------------------------------------------------------------------------------------


class Mortal(Cluster):
    """A cluster whose scheduler has a directory, can be killed, and can be started again."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = str(state)
        self.options: dict[str, Any] = {}
        self.journal: Journal | None = None
        self.shell: SchedulerShell | None = None

    def scheduler(self, workers: int, servers: int = 1, **config: Any) -> None:
        self.options = {"workers": workers, "servers": servers, "grace_s": 60.0, **config}
        self.start()

    def start(self) -> None:
        transport = Transport("scheduler")
        port = int(self.address.rpartition(":")[2] or 0)
        self.address = f"127.0.0.1:{transport.bind('127.0.0.1', port)}"
        self.journal = Journal(self.state)
        config = SchedulerConfig(version=shoal.__version__, **self.options)
        core = SchedulerCore(config, past=self.journal.records)
        loop = Loop(transport, {})
        self.shell = SchedulerShell(transport, core, loop.stop, journal=self.journal)
        loop.drivers[""] = self.shell
        self.drive(loop)
        self.at = len(self.loops) - 1

    def kill(self) -> None:
        """It says nothing more, to anybody."""
        loop, thread = self.loops.pop(self.at), self.threads.pop(self.at)
        loop.stop()
        thread.join()
        loop.transport.close(0.0)
        if self.journal is not None:
            self.journal.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    made = Mortal(tmp_path / "state")
    yield made
    made.close()
    if made.journal is not None:
        made.journal.close()


@pytest.mark.net
def test_members_attach_to_a_scheduler_that_was_restarted_and_the_run_goes_on(
    mortal: Mortal, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, server = mortal.running()
    layouts = first.declare("bsp", "mean", W)
    half = mortal.call(first.barrier, "b", WAIT_S)
    mortal.kill()
    waiting = mortal.call(second.declare, "bsp", "mean", W, WAIT_S)
    mortal.start()
    assert waiting.result(WAIT_S) == layouts
    second.barrier("b", WAIT_S)
    half.result(WAIT_S)
    assert (first.rank, second.rank, server.rank) == (0, 1, 0)
    assert "worker 1: the scheduler" in caplog.text and "(term 2): attached again" in caplog.text
    assert first.goodbye({}) and second.goodbye({})


@pytest.mark.net
def test_who_says_goodbye_while_the_scheduler_is_away_is_heard_when_it_is_back(mortal: Mortal) -> None:
    first, second, server = mortal.running()
    mortal.kill()
    leaving = [mortal.call(m.goodbye, {"n": n}) for n, m in enumerate((first, second))]
    mortal.start()
    assert all(call.result(WAIT_S) for call in leaving)
    assert mortal.shell is not None
    nodes = mortal.shell.core.state.nodes
    assert [nodes["worker", n].report for n in (0, 1)] == [{"n": 0}, {"n": 1}]
    server.request_goodbye(None)


@pytest.mark.net
def test_a_scheduler_that_does_not_come_back_is_named_after_its_grace(mortal: Mortal) -> None:
    first, *_ = mortal.running(lease_s=4.0, grace_s=0.6)
    mortal.kill()
    expects_word_within(first, 0.2)
    with pytest.raises(NodeLostError, match=r"the scheduler \(127.* waited for 0.6 s \(its grace\) at most"):
        first.barrier("b", WAIT_S)


@pytest.mark.net
def test_a_wait_that_needs_the_scheduler_names_it_when_its_deadline_is_over(mortal: Mortal) -> None:
    first, *_ = mortal.running(lease_s=4.0)
    mortal.kill()
    expects_word_within(first, 0.2)
    until(lambda: first.core.hushed)
    with pytest.raises(StoreTimeoutError, match=r"for the scheduler at barrier 'b'.*does not answer"):
        first.barrier("b", 0.1)


@pytest.mark.net
def test_another_run_at_the_address_is_not_listened_to_and_is_named(mortal: Mortal, tmp_path: Path) -> None:
    first, *_ = mortal.running(lease_s=4.0, grace_s=20.0)
    mortal.kill()
    expects_word_within(first, 0.2)
    mortal.state = str(tmp_path / "other")
    mortal.options["cluster"] = "other"
    mortal.start()
    with pytest.raises(NodeLostError, match=r"another run \(other\) has taken its address"):
        first.barrier("b", WAIT_S)


@pytest.mark.net
def test_without_a_state_directory_a_restarted_scheduler_ends_the_membership_at_once(mortal: Mortal) -> None:
    first, *_ = mortal.running(lease_s=30.0, grace_s=0.0)
    mortal.kill()
    mortal.options["cluster"] = "other"
    mortal.state += "-new"
    mortal.start()
    with pytest.raises(JoinRefusedError, match="another run has taken its address"):
        first.barrier("b", WAIT_S)
