"""Who drives the loop: the I/O thread, or a caller that waits; whatever happens, every call is answered once."""

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, MembershipError
from shoal.kvstore.client.shell import Call
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.wire.interrupts import Held
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Ack
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.net


class Ticker:
    """A driver that counts on which threads it is woken, and does what it is told there."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.then: Callable[[], None] = lambda: None

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Nothing comes."""

    def wake(self, now: float) -> float:
        self.threads.append(threading.get_ident())
        self.then()
        return now + 0.001


@contextlib.contextmanager
def running(driver: Ticker | None = None) -> Iterator[tuple[Loop, Ticker, list[BaseException]]]:
    ticker = driver or Ticker()
    loop = Loop(Transport("t"), {"": ticker})
    loop.transport.bind("127.0.0.1")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            loop.run()
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop, ticker, errors
    finally:
        loop.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        loop.transport.close(0.0)


def rested(loop: Loop) -> None:
    """Wait until the I/O thread has left the role to callers; it waits for the first of them."""

    def asked() -> bool:
        loop._rest_until, loop._resting = math.inf, True  # again each time: a rest that just ends forgets it
        return not loop._role.locked()

    until(asked)


def test_a_caller_cannot_drive_while_the_io_thread_does() -> None:
    with running() as (loop, ticker, _):
        until(lambda: bool(ticker.threads))
        assert not loop.drive(lambda: True) and not loop.turn()
        assert threading.get_ident() not in ticker.threads


def test_while_the_io_thread_rests_a_caller_drives() -> None:
    with running() as (loop, ticker, _):
        rested(loop)
        assert loop.drive(lambda: ticker.threads[-3:] == [threading.get_ident()] * 3)


def test_when_no_caller_comes_the_io_thread_goes_on() -> None:
    with running() as (loop, ticker, _):
        loop.rest()
        before = len(ticker.threads)
        until(lambda: len(ticker.threads) > before + 3)


def test_a_caller_that_drives_long_is_not_interrupted_and_then_relieved() -> None:
    with running() as (loop, ticker, _):
        rested(loop)
        before = len(ticker.threads)
        driven: list[int] = []

        def done() -> bool:
            driven[:] = ticker.threads[before + 1 :]
            return len(driven) > 100

        assert loop.drive(done)
        assert set(driven) == {threading.get_ident()}
        until(lambda: ticker.threads[-1] != threading.get_ident())


def test_driving_ends_with_its_time() -> None:
    with running() as (loop, _, _):
        rested(loop)
        assert loop.drive(lambda: False, 0.01)


def test_driving_ends_when_the_loop_is_stopped() -> None:
    with running() as (loop, ticker, _):
        rested(loop)
        ticker.then = loop.stop
        assert loop.drive(lambda: False)


def test_a_wake_ends_the_rest() -> None:
    with running() as (loop, _, _):
        rested(loop)
        loop.transport.wake()
        until(loop._role.locked)


def test_an_error_in_a_callers_step_is_raised_by_the_io_thread() -> None:
    with running() as (loop, ticker, errors):
        rested(loop)
        ticker.then = lambda: (_ for _ in ()).throw(ValueError("in the middle"))
        assert loop.drive(lambda: False)
        until(lambda: bool(errors))
        assert [str(e) for e in errors] == ["in the middle"]


def test_only_one_thread_at_a_time_is_inside() -> None:
    inside = threading.Lock()

    def enter() -> None:
        assert inside.acquire(blocking=False), "two threads in one loop"
        threading.Event().wait(0.0002)
        inside.release()

    with running() as (loop, ticker, errors):
        ticker.then = enter
        stop = loop.clock() + 0.15

        def call(_: int) -> None:
            while loop.clock() < stop:
                loop.rest()
                loop.turn()
                loop.drive(lambda: False, 0.005)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, range(4)))
        assert not errors


# --- signals ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def handler(number: int, handle: Callable[..., Any]) -> Iterator[None]:
    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_signals_are_held_and_then_handled_in_order() -> None:
    seen: list[int] = []
    with handler(signal.SIGUSR1, lambda n, f: seen.append(n)), handler(signal.SIGUSR2, lambda n, f: seen.append(n)):
        with Held(lambda: None) as held:
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR1)
            assert not seen and held.came == [signal.SIGUSR2, signal.SIGUSR1]
        assert seen == [signal.SIGUSR2, signal.SIGUSR1]
        signal.raise_signal(signal.SIGUSR1)
        assert seen[2:] == [signal.SIGUSR1]


def test_a_handler_that_raises_does_so_after_the_stretch_and_the_others_are_called() -> None:
    seen: list[int] = []

    def stretch() -> None:
        with Held(lambda: None):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGUSR1)
            seen.append(0)

    with handler(signal.SIGINT, signal.default_int_handler), handler(signal.SIGUSR1, lambda n, f: seen.append(n)):
        with pytest.raises(KeyboardInterrupt):
            stretch()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert seen == [0, signal.SIGUSR1]


def test_what_ignores_a_signal_goes_on_ignoring_it() -> None:
    with handler(signal.SIGUSR1, signal.SIG_IGN):
        with Held(lambda: None) as held:
            signal.raise_signal(signal.SIGUSR1)
        assert not held.came


def test_a_signal_ends_a_drive_between_two_steps() -> None:
    within: list[bool] = []
    busy = [False]
    with running() as (loop, ticker, errors):
        rested(loop)

        def step() -> None:
            busy[0] = True
            if threading.get_ident() == threading.main_thread().ident:
                signal.raise_signal(signal.SIGUSR1)
            busy[0] = False

        ticker.then = step
        with handler(signal.SIGUSR1, lambda n, f: within.append(busy[0])):
            while len(within) < 4:
                rested(loop)
                seen = len(within)
                loop.drive(lambda seen=seen: len(within) > seen)
        assert not any(within) and not errors


def test_a_handler_may_use_the_loop_itself() -> None:
    done: list[bool] = []
    with running() as (loop, _, _):
        rested(loop)
        with handler(signal.SIGUSR1, lambda n, f: done.append(loop.drive(lambda: True))):
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            loop.drive(lambda: bool(done))  # the I/O thread may take over when the handler is called
            until(lambda: bool(done))


# --- a store under all of it ------------------------------------------------------------------------------------------


def test_blocking_calls_are_carried_out_by_their_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    with thread_cluster(1, 2, "asp") as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(4, np.float32))
        loop = cluster._clients[0].loop
        assert loop is not None
        monkeypatch.setattr(
            "shoal.kvstore.wire.loop.REST_S", PATIENCE_S
        )  # however long this thread is kept from calling
        steps: list[int] = []
        step = loop.step

        def counted(most_s: float = 1.0, spins: bool = False) -> None:
            steps.append(threading.get_ident())
            step(most_s, spins)

        loop.step = counted  # type: ignore[method-assign]
        kv.pull("w")
        until(lambda: loop.resting)
        steps.clear()
        for _ in range(100):
            kv.pull("w")
        assert set(steps) == {threading.get_ident()}


def test_many_threads_share_a_store_and_every_push_counts_once() -> None:
    with thread_cluster(1, 2, "asp") as cluster:
        kv = cluster.store(0)
        threads, rounds = 4, 40
        keys = [f"k{i}" for i in range(threads)]
        kv.init([*keys, "shared"], [np.zeros(3, np.float32)] * (threads + 1))
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))
        one = np.ones(3, np.float32)

        def work(i: int) -> None:
            for r in range(rounds):
                out = np.empty(3, np.float32)
                kv.pushpull(keys[i], one, out)
                assert (out == r + 1).all()
                waiting = kv.push_async("shared", one)
                if r % 3 == 0:
                    waiting.result()
                with contextlib.suppress(TimeoutError):
                    kv.pull_async("shared").result(0.0001)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        kv.flush()
        assert (kv.pull("shared") == threads * rounds).all()
        assert kv.ledger()["sent"] == kv.ledger()["acknowledged"] == 2 * threads * rounds


def test_ctrl_c_in_a_waiting_call_leaves_the_store_as_it_was() -> None:
    one, over, armed = np.ones(200_000, np.float32), threading.Event(), [False]
    calls = interrupted = 0

    def ctrl_c(number: int, frame: Any) -> None:
        if armed[0] and frame.f_code.co_name != "__del__":  # where Python would ignore it
            armed[0] = False
            raise KeyboardInterrupt

    def press() -> None:
        while not over.wait(0.003):
            os.kill(os.getpid(), signal.SIGINT)

    with thread_cluster(1, 2, "asp") as cluster, handler(signal.SIGINT, ctrl_c):
        kv = cluster.store(0)
        kv.init("w", np.zeros(200_000, np.float32))
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))
        pressing = threading.Thread(target=press)
        pressing.start()
        while interrupted < 20:
            calls += 1
            try:
                armed[0] = True
                kv.push("w", one)
                armed[0] = False
            except KeyboardInterrupt:
                interrupted += 1
        over.set()
        pressing.join()
        kv.flush()
        sent = kv.ledger()["sent"]
        assert calls - interrupted <= sent <= calls
        assert (kv.pull("w") == sent).all() and kv.ledger()["acknowledged"] == sent


class Interrupting:
    """A condition whose lock has just been taken, but is not known to be, when Ctrl-C comes."""

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition

    def __enter__(self) -> None:
        self._condition.acquire()
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)

    def __exit__(self, *_: object) -> None:
        self._condition.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._condition, name)


def noticed(call: Call, _: float) -> None:
    call.add_done_callback(lambda _: None)


@pytest.mark.parametrize("wait", [Call.result, Call.peek, noticed])
def test_ctrl_c_at_any_moment_of_a_wait_leaves_the_call_to_whoever_answers(wait: Callable[..., Any]) -> None:
    call = Call()
    call._condition = Interrupting(call._condition)  # type: ignore[assignment]
    with handler(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        wait(call, PATIENCE_S)
    answering = threading.Thread(target=call.set_result, args=(7,), daemon=True)
    answering.start()
    answering.join(PATIENCE_S)
    assert not answering.is_alive() and call.done()


def pull_for_ever(kv: DistKVStore) -> None:
    while True:
        kv.pull("w")


def test_when_the_cluster_is_gone_a_call_that_drives_is_told() -> None:
    with thread_cluster(1, 2, "asp") as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(4, np.float32))
        kv.pull("w")
        shell = cluster._clients[0]
        assert shell.loop is not None

        class Scheduler:
            """Says, at some step, that the run has failed."""

            steps = 0

            def receive(self, peer: str, message: Message, now: float) -> None:
                """Nothing comes."""

            def wake(self, now: float) -> float:
                self.steps += 1
                if self.steps > 50:
                    shell.fail_all(MembershipError("gone"))
                return now + 0.0001

        shell.loop.drivers["scheduler"] = Scheduler()
        with pytest.raises(MembershipError, match="gone"):
            pull_for_ever(kv)


def test_a_forked_process_neither_drives_nor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with thread_cluster(1, 2, "asp") as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(4, np.float32))
        kv.pull("w")
        pid = os.getpid()
        me = threading.get_ident()
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: pid + 1 if threading.get_ident() == me else pid)
            with pytest.raises(ConfigError, match="forked"):
                kv.pull("w")


def test_messages_that_come_while_nobody_looks_are_not_lost() -> None:
    heard: list[Message] = []

    class Ear(Ticker):
        def receive(self, peer: str, message: Message, now: float) -> None:
            heard.append(message)

    with running(Ear()) as (loop, _, _):
        other = Transport("other")
        try:
            other.connect("t", f"127.0.0.1:{loop.transport._lanes.port}")
            for i in range(20):
                loop.rest()
                other.send("t", Ack(seq=i, version=0, floor=0))
                list(other.poll(0.001))
            until(lambda: len(heard) == 20)
        finally:
            other.close(0.0)
