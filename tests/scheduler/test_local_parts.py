"""The parts of the local launcher: addresses, children, thread limits, relayed lines, watchers."""

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from shoal.errors import ConfigError, MembershipError
from shoal.kvstore.events import Received
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Goodbye, Snapshot
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler import child
from shoal.scheduler.address import address_towards, parse_address
from shoal.scheduler.child import Child, Launched, describe_exit, follow_parent, thread_limits, usable_cores
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.relay import MAX_LINE_BYTES, Relay
from shoal.scheduler.shell import SchedulerShell, run_scheduler
from shoal.scheduler.signals import handling, insisting
from shoal.scheduler.watch import Watcher, snapshot_of
from tests.patience import PATIENCE_S
from tests.scheduler.helpers import join

pytestmark = pytest.mark.net


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "host", "host:", ":9091", "host:port", "host:0", "host:65536", "host:-1"])
def test_an_address_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"host:port, such as 10\.0\.0\.1:9091"):
        parse_address(text)


def test_the_way_to_this_machine_is_the_loopback() -> None:
    assert address_towards("127.0.0.1:9091") == "127.0.0.1"
    assert address_towards("localhost:9091") == "127.0.0.1"


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, port: int) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr("shoal.scheduler.address._route", unknown)
    with pytest.raises(MembershipError, match=r"no way to scheduler:9091 for 0\.1 s: Name or service not known"):
        address_towards("scheduler:9091", timeout_s=0.1)


# --- children ---------------------------------------------------------------------------------------------------------


def python(code: str) -> Child:
    return Child("worker 1", [sys.executable, "-c", code], dict(os.environ))


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("pass", 0), ("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM)],
)
def test_a_child_tells_how_it_ended(code: str, exit_code: int) -> None:
    made = python(code)
    os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
    assert made.poll() == exit_code
    assert made.reap() == made.poll() == exit_code
    for pipe in made.streams.values():
        pipe.close()
    made.signal(signal.SIGKILL)  # after reaping its id may be somebody else's: nothing is sent


def test_a_child_is_killed_with_all_its_descendants() -> None:
    made = python(
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True); p.wait()"
    )
    assert made.streams["stdout"].readline() == b"ready\n"
    assert made.poll() is None
    assert made.reap() == -signal.SIGKILL
    assert made.streams["stdout"].read() == b""  # ends when the last holder of the pipe has ended
    for pipe in made.streams.values():
        pipe.close()


def test_exit_codes_in_words() -> None:
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(-250) == "was killed by signal 250"
    assert describe_exit(1) == "exited with code 1"


def test_without_a_launcher_nobody_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(child.PARENT, raising=False)
    assert not follow_parent()


def test_a_process_knows_whether_its_launcher_is_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError()))
    for afar, launched in (("", Launched.HERE), ("1", Launched.AFAR)):
        monkeypatch.setenv(child.PARENT, str(os.getppid()))
        monkeypatch.setenv(child.AFAR, afar)
        assert follow_parent() is launched
        assert child.PARENT not in os.environ and child.AFAR not in os.environ


def test_a_child_whose_launcher_is_gone_already_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(child.PARENT, str(os.getpid()))  # nobody is their own parent
    monkeypatch.setattr(child.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError()))
    with pytest.raises(SystemExit):
        follow_parent()
    assert child.PARENT not in os.environ


def test_threads_are_divided_and_at_least_one() -> None:
    assert thread_limits({}, workers=3, cores=8)["OPENBLAS_NUM_THREADS"] == "2"
    assert thread_limits({}, workers=16, cores=8)["MKL_NUM_THREADS"] == "1"
    assert thread_limits({"OPENBLAS_NUM_THREADS": "4"}, workers=2, cores=8) == {}
    assert usable_cores() >= 1


def test_signals_reach_the_handler_and_no_other_code_afterwards() -> None:
    seen: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with handling(seen.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen: list[int] = []
    try:
        with handling(seen.append):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == []


def test_a_signal_that_was_seen_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.signals.INSIST_S", 0.01)
    called: list[int] = []
    with insisting(called.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert called == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_script_hears_of_its_own_signals_as_often_as_they_came(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.scheduler.signals.INSIST_S", 0.0)
    heard: list[int] = []
    before = signal.getsignal(number)
    try:
        with insisting(sys.exit):
            signal.signal(number, lambda n, _: heard.append(n))
            os.kill(os.getpid(), number)
            threading.Event().wait(0.05)  # a repetition would come at once, and cause the next one
    finally:
        signal.signal(number, before)
    assert heard == [number]


def test_a_flood_of_other_signals_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.signals.INSIST_S", 20.0)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with insisting(sys.exit):
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(SystemExit), insisting(sys.exit):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_was_noted_before_a_long_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.scheduler.signals.INSIST_S", 0.01)
    with insisting(sys.exit):
        noted = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(noted)
        os.write(noted, bytes([signal.SIGTERM]))  # all that the interpreter does when it cannot call the handler yet
        with pytest.raises(SystemExit) as e:
            threading.Event().wait(PATIENCE_S)
    assert e.value.code == signal.SIGTERM


# --- lines ------------------------------------------------------------------------------------------------------------


def relayed(*chunks: bytes) -> list[str]:
    lines: list[str] = []
    relay = Relay(lambda source, stream, line: lines.append(line), lambda: None)
    out, into = os.pipe()
    relay.add("worker 0", "stdout", os.fdopen(out, "rb"))
    for chunk in chunks:
        os.write(into, chunk)
    os.close(into)
    relay.close()
    return lines


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"\n\n"], ["", ""]),
        ([b"10%\r50%\r100%\n"], ["100%"]),
        ([b"dos\r\n"], ["dos"]),
        ([b"\xff\n"], ["\ufffd"]),
        ([], []),
    ],
)
def test_bytes_become_lines(chunks: list[bytes], lines: list[str]) -> None:
    assert relayed(*chunks) == lines


def test_a_line_without_end_is_handed_on_in_pieces() -> None:
    out, into = os.pipe()
    lines: list[str] = []
    relay = Relay(lambda source, stream, line: lines.append(line), lambda: None)
    relay.add("worker 0", "stdout", os.fdopen(out, "rb"))
    for _ in range(8):
        os.write(into, b"x" * MAX_LINE_BYTES)
    os.close(into)
    relay.close()
    assert len(lines) >= 4 and sum(map(len, lines)) == 8 * MAX_LINE_BYTES


def test_when_our_own_output_is_closed_the_children_run_on() -> None:
    eof = threading.Event()

    def closed(source: str, stream: str, line: str) -> None:
        raise BrokenPipeError

    relay = Relay(closed, eof.set)
    out, into = os.pipe()
    relay.add("worker 0", "stdout", os.fdopen(out, "rb"))
    os.write(into, b"a\nb\n")
    os.close(into)
    assert eof.wait(PATIENCE_S)
    relay.close()


# --- the scheduler's process, and watchers ----------------------------------------------------------------------------


@pytest.fixture
def scheduler() -> Iterator[tuple[str, SchedulerShell]]:
    """A scheduler of one worker and one server, both of which have joined, on a thread."""
    transport = Transport("scheduler")
    address = f"127.0.0.1:{transport.bind('127.0.0.1')}"
    core = SchedulerCore(SchedulerConfig(1, 1, version="1"))
    loop = Loop(transport, {})
    shell = SchedulerShell(transport, core, loop.stop)
    loop.drivers[""] = shell
    for name in ("worker", "server"):
        core.handle(Received(name, join(name)), loop.clock())
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield address, shell
    loop.stop()
    thread.join()
    transport.close(0.0)


def test_a_watcher_sees_the_run_and_its_end(scheduler: tuple[str, SchedulerShell]) -> None:
    address, shell = scheduler
    seen: list[Snapshot] = []
    first = threading.Event()
    watcher = Watcher(address, lambda s: (seen.append(s), first.set())[0])
    assert first.wait(PATIENCE_S) and watcher.final is None
    shell.interrupt(signal.SIGTERM)
    final = watcher.wait_final(PATIENCE_S)
    assert final is not None and (final.phase, final.reason) == ("failed", "stopped by SIGTERM")
    assert seen[0].phase == "running"
    watcher.close()


def test_one_look_at_a_run(scheduler: tuple[str, SchedulerShell]) -> None:
    snapshot = snapshot_of(scheduler[0], timeout_s=PATIENCE_S)
    assert snapshot is not None and [n.role for n in snapshot.nodes] == ["server", "worker"]


def test_a_look_at_nobody_is_none() -> None:
    assert snapshot_of("127.0.0.1:9", timeout_s=0.05) is None


def test_the_schedulers_process_serves_a_run_to_its_end() -> None:
    ours, theirs = os.pipe()
    finished: list[Snapshot] = []

    def cluster() -> None:
        with os.fdopen(ours) as pipe:
            address = f"127.0.0.1:{int(pipe.readline())}"
        for role in ("server", "worker"):
            threading.Thread(target=node, args=(role, address)).start()

    def node(role: str, address: str) -> None:
        from shoal.scheduler.client import Membership

        transport = Transport(role)
        transport.connect("scheduler", address)
        member = Membership(transport, role=role, scheduler=address)
        loop = Loop(transport, {"scheduler": member})
        goodbye = lambda *_: member.request_goodbye({"role": role})  # noqa: E731
        member.on_roster, member.on_stop = (goodbye, lambda: None) if role == "worker" else (lambda m: None, goodbye)
        while not member.gone:
            loop.step()
        transport.close()

    threading.Thread(target=cluster).start()
    code = run_scheduler("127.0.0.1", 0, 1, 1, ready_fd=theirs, on_finished=finished.append)
    assert code == 0
    assert [n.report for n in finished[0].nodes] == [{"role": "server"}, {"role": "worker"}]


def test_a_scheduler_whose_run_fails_exits_with_1() -> None:
    assert run_scheduler("127.0.0.1", 0, 1, 1, gather_timeout_s=0.05) == 1


def test_deadlines_are_positive() -> None:
    with pytest.raises(ConfigError, match="positive"):
        run_scheduler("127.0.0.1", 0, 1, 1, lease_s=0.0)


class Deaf(Transport):
    """Sends nothing."""

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        """Drop it."""


def test_the_shell_logs_what_is_decided(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="shoal.scheduler")
    transport, ended = Deaf("scheduler"), threading.Event()
    shell = SchedulerShell(transport, SchedulerCore(SchedulerConfig(1, 1, version="1")), ended.set)
    for role in ("worker", "server"):
        shell.receive(role, join(role), 0.0)
    for role in ("worker", "server"):
        shell.receive(role, Goodbye(failed="", report=None), 0.0)
    transport.close()
    assert ended.is_set()
    assert [r.message for r in caplog.records] == [
        "worker 0 (host h, pid 7) joined: 1/2, waiting for server 0",
        "server 0 (host h, pid 7) joined: 2/2",
        "everybody is here: the run begins, with 1 workers, 1 servers",
        "worker 0 (host h, pid 7) is done",
        "server 0 (host h, pid 7) is done",
        "the run is finished",
    ]
