"""What drives cores: messages in, time passing, until told to stop.

A `Loop` runs on an I/O thread. A thread that waits for an answer may drive it meanwhile instead: handing a request to
another thread and the answer back costs more than the exchange itself. The rules that make it sound:

1. Transport and drivers are touched only by the thread that holds the loop's ``role`` (a lock); also while it waits.
2. Whoever holds the role does all that the loop has to do, for everybody, and gives it back between two steps.
3. In the main thread signals are held while the role is: a handler runs, and may raise, only between two steps.
4. The I/O thread holds the role, except that it rests for `REST_S` after an answer for which somebody waited, when
   nothing else is under way; from then on it rests as long as callers come in shorter intervals. `Transport.wake` ends
   the rest. So nothing waits much longer than `LONG_REST_S` for somebody to look.
5. If a step fails in a caller's thread, the I/O thread raises that error as if it had been its own.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from shoal.kvstore.wire.faults import faults
from shoal.kvstore.wire.interrupts import Held
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["Driver", "Loop"]

IDLE_S = 1.0
"""Longest wait when no driver has asked to be woken earlier."""

REST_S = 0.002
"""How long the I/O thread leaves the role to callers after one of them was answered."""

LONG_REST_S = 0.005
"""... and how often it looks again while one of them holds it. It is not woken when a long call is over: the next one
may begin at once, and who drives it himself has no thread to wait for."""


class Driver(Protocol):
    """The shell around one core."""

    def receive(self, peer: str, message: Message, now: float) -> None:
        """A message came in."""
        ...

    def wake(self, now: float) -> float:
        """Time has passed, or another thread called `Transport.wake`; returns when to be woken next."""
        ...


class Loop:
    """Poll a transport and hand each message to the driver of its peer.

    Args:
        drivers: by peer name; the driver under ``""`` takes every peer that is not named.
        clock: seconds, monotonic; the process's if not given.
    """

    def __init__(
        self, transport: Transport, drivers: dict[str, Driver], clock: Callable[[], float] | None = None
    ) -> None:
        self.transport, self.drivers, self.clock = transport, drivers, clock or faults.clock
        self.running = True
        self._role = threading.Lock()
        self._resting = False  # the I/O thread is asked to rest
        self._rest_until = 0.0
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """End `run` soon; may be called from any thread."""
        self.running = False
        self.transport.wake()

    def run(self) -> None:
        """Drive until `stop`, on the I/O thread."""
        self._role.acquire()
        try:
            while self.running:
                self.step()
                if self._resting:
                    self._rest()
                if self._failure is not None:
                    raise self._failure
        except BaseException as e:
            self._failure = e
            raise
        finally:
            self._role.release()

    def step(self, most_s: float = IDLE_S, spins: bool = False) -> None:
        """Wake every driver, then wait for messages, at most ``most_s``, and hand them over.

        Args:
            spins: see `Transport.poll`.
        """
        self.transport.cork()
        now = self.clock()
        until = now + IDLE_S
        for each in self.drivers.values():
            until = min(until, each.wake(now))
        for peer, message in self.transport.poll(min(until - now, most_s), spins):
            driver = self.drivers.get(peer) or self.drivers.get("")
            if driver is not None:
                driver.receive(peer, message, self.clock())

    # --- callers drive ------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether nobody drives just now; who does next begins by waking every driver, within twice `REST_S`."""
        return self.running and self._failure is None and not self._role.locked()

    def rest(self) -> None:
        """By the holder of the role: a waiting caller has its answer, and nothing else is under way."""
        self._resting = True
        self._rest_until = self.clock() + REST_S

    def _rest(self) -> None:
        """Leave the role to callers until none has come for `REST_S`, or `Transport.wake` is called."""
        self._role.release()
        try:
            pause = REST_S
            while self.running and not self.transport.sleep(pause):
                if self._role.locked():
                    pause = LONG_REST_S
                elif self.clock() >= self._rest_until:
                    break
                else:
                    pause = REST_S
        finally:
            self._role.acquire()
            self._resting = False

    def drive(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Drive in the calling thread until ``done()``; false if another thread holds the role.

        It ends before, too: after ``timeout_s``, or when the loop is stopped or fails. What a signal handler raises
        comes out of it.
        """
        deadline = None if timeout_s is None else self.clock() + timeout_s
        while True:
            with Held(self.transport.wake) as held:
                if not self._role.acquire(blocking=False):
                    return False
                try:
                    over = self._drive(done, deadline, held.came)
                finally:
                    self._give_back()
            if over:
                return True

    def _drive(self, done: Callable[[], bool], deadline: float | None, came: list[int]) -> bool:
        """Step until nothing is left to be done; false if signals ``came`` meanwhile."""
        while self.running and self._failure is None and not done():
            left = IDLE_S if deadline is None else min(IDLE_S, deadline - self.clock())
            if left <= 0.0 or not self._guarded_step(left):
                break
            if came:
                return False
        return True

    def turn(self) -> bool:
        """Do what can be done at once, in the calling thread; false if another thread holds the role."""
        with Held(self.transport.wake):
            if not self._role.acquire(blocking=False):
                return False
            try:
                self._guarded_step(0.0)
            finally:
                self._give_back()
        return True

    def _guarded_step(self, most_s: float) -> bool:
        """A step in a caller's thread; false if it failed, which is then for the I/O thread to say."""
        try:
            self.step(most_s, spins=True)  # the script itself waits meanwhile
        except BaseException as e:
            self._failure = e
            if not isinstance(e, Exception):
                raise
        return self._failure is None

    def _give_back(self) -> None:
        now = self.clock()
        self._rest_until = now + REST_S
        self._role.release()
        if self._failure is not None:
            self.transport.wake()  # for the I/O thread to say
