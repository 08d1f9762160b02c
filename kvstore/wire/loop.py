"""One thread that drives cores: messages in, time passing, until told to stop."""

import time
from collections.abc import Callable
from typing import Protocol

from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["Driver", "Loop"]

IDLE_S = 1.0
"""Longest wait when no driver has asked to be woken earlier."""


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
        clock: seconds, monotonic.
    """

    def __init__(
        self, transport: Transport, drivers: dict[str, Driver], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.transport, self.drivers, self.clock = transport, drivers, clock
        self.running = True

    def stop(self) -> None:
        """End `run` soon; may be called from any thread."""
        self.running = False
        self.transport.wake()

    def run(self) -> None:
        """Drive until `stop`."""
        while self.running:
            self.step()

    def step(self) -> None:
        """Wake every driver, then wait for messages and hand them over."""
        now = self.clock()
        until = min((d.wake(now) for d in self.drivers.values()), default=now + IDLE_S)
        for peer, message in self.transport.poll(min(until - self.clock(), IDLE_S)):
            driver = self.drivers.get(peer) or self.drivers.get("")
            if driver is not None:
                driver.receive(peer, message, self.clock())
