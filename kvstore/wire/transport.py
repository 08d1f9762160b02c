"""Typed messages between processes over ZeroMQ: send, and poll for what has come.

It may listen (peers are known by the identity they chose) and may hold connections (known by the name given here),
which are made again when they break. Nothing is repeated at this level: what was under way on a connection that breaks
is lost, a small message may overtake a large one, and cores repeat what is not answered.
"""

import logging
import math
import os
import secrets
import select
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.faults import faults
from shoal.kvstore.wire.keys import LOOPBACK, Access, on_loopback
from shoal.kvstore.wire.lanes import Lanes, versions
from shoal.kvstore.wire.packet import PACKED, unpack
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.sharing import Sharing
from shoal.kvstore.wire.tuning import tune_malloc

__all__ = ["Transport", "tune_malloc", "versions"]

log = logging.getLogger("shoal.wire")

LARGE_A_POLL = 8
"""References to large payloads that one `poll` hands on, one by one: before each it looks for what may overtake it."""

_PACKED = bytes([PACKED])


class Transport:
    """Sockets of one thread: send and poll typed messages.

    Args:
        name: prefix of the identity that peers see; a random suffix makes each incarnation distinct.
        access: who may join; without a key it listens where only this machine reaches it, unless told otherwise.
    """

    def __init__(self, name: str, access: Access = LOOPBACK) -> None:
        self.identity = f"{name}-{secrets.token_hex(6)}"
        self.malformed: Counter[str] = Counter()
        self._pid = os.getpid()
        self._closed = False
        self._corked = False
        self._woken = False  # since the last `poll` began
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._sleeper = select.poll()
        self._sleeper.register(self._wake_in, select.POLLIN)
        self._access = access
        self._lanes = Lanes(self.identity, self._gone, self._count_malformed, access.keys)
        self.refused = self._lanes.door.refused
        self._lanes.watch(self._wake_in, self._drain_wakes)
        self.sharing = Sharing(lambda fd: self._lanes.watch(fd, self.sharing.readable), self._lanes.unwatch)
        if faults.transport is not None:
            faults.transport(self)

    def bind(self, host: str, port: int = 0, *, local: bool = True) -> int:
        """Listen on ``host`` (an address of this machine, or ``0.0.0.0``); port 0 lets the system choose.

        Args:
            local: let the processes of this machine come through a unix socket beside the port; it is faster.
        Returns:
            The port.
        Raises:
            ConfigError: the port is taken, the host is not an address of this machine, or other machines reach it and
                there is no key.
        """
        self._access.check(host)
        bound = self._lanes.listen(host, port, local)
        if self._access.keys is None and not on_loopback(host):
            log.warning("--insecure: whoever can reach %s:%d can join, read and change everything", host, bound)
        return bound

    def shut(self, peer: str) -> str:
        """Why ``peer`` does not let this process in; "" if it does, or has not been reached."""
        return self._lanes.door.shut.get(peer, "")

    def connect(self, peer: str, address: str) -> None:
        """Open a connection to ``address`` (``host:port``), from now on called ``peer``. Does not wait.

        Raises:
            ConfigError: this is no address.
        """
        self._lanes.connect(peer, address)

    def disconnect(self, peer: str) -> None:
        self._lanes.disconnect(peer)
        self._gone(peer)

    def _gone(self, peer: str) -> None:
        self.sharing.drop(peer)

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        """Hand a message over, without waiting; between `cork` and the next `poll` they leave together.

        Args:
            stable: the payload is not written until the peer has answered; otherwise what cannot be sent at once is
                copied.
        """
        self.check_process()
        frames = encode(message)
        if stable:
            frames = self.sharing.refer(peer, frames)
        if self.sharing.ring(peer, frames):
            return
        self._lanes.put(peer, frames, stable)
        if not self._corked:
            self._lanes.flush()

    def cork(self) -> None:
        """Collect what is sent until the next `poll`, so that it leaves at one go."""
        self._corked = True

    def poll(self, timeout_s: float, spins: bool = False) -> Iterator[tuple[str, Message]]:
        """Messages that are there, after waiting at most ``timeout_s`` for the first; malformed ones are counted.

        Args:
            spins: see `Lanes.wait`; for a thread that keeps no other one of its process from running.
        """
        self.check_process()
        self._lanes.flush()
        self._corked, self._woken = True, False
        try:
            events = self._lanes.wait(0.0 if self.sharing.filled else timeout_s, spins)
            for number in range(1, LARGE_A_POLL + 1):
                for peer, messages in chain(self._lanes.handle(events, self._hurried), self._shared(number == 1)):
                    for frames in messages:
                        message = self._understand(peer, frames)
                        if message is not None:
                            yield peer, message
                    self._lanes.flush()
                if number == LARGE_A_POLL or not self.sharing.filled or self._woken:
                    break
                events = self._lanes.wait(0.0)  # what has come meanwhile goes first
        finally:
            self._corked = False

    def _hurried(self) -> bool:
        """Whether somebody has called `wake` since this `poll` began."""
        return self._woken

    def _shared(self, first: bool) -> Iterator[tuple[str, list[list[Any]]]]:
        """What came through shared memory; from the second time on who has woken this `poll` goes first."""
        if first or not self._woken:
            yield from self.sharing.take()

    def _understand(self, peer: str, frames: list[Any]) -> Message | None:
        try:
            if len(frames) == 1 and frames[0][:1] == _PACKED:
                frames = unpack(frames[0])
            return decode(self.sharing.resolve(peer, frames))
        except RemoteProtocolError as e:
            self._count_malformed(peer, e)
            return None

    def _count_malformed(self, peer: str, error: RemoteProtocolError) -> None:
        self.malformed[peer] += 1
        n = self.malformed[peer]
        if n & (n - 1) == 0:  # 1, 2, 4, 8, ...: a flood does not flood the log
            extra = event("malformed", str(error), peer=peer, count=n)
            log.warning("dropped malformed message %d from %s: %s", n, peer, str(error), extra=extra)

    def wake(self) -> None:
        """End a `poll` that is waiting in another thread. Other threads may call this and `check_process` only."""
        self.check_process()
        try:
            os.write(self._wake_out, b"w")
        except (BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            return

    def sleep(self, timeout_s: float) -> bool:
        """Wait for `wake` only, in any thread; whether it was called since the last `poll`."""
        return bool(self._sleeper.poll(math.ceil(timeout_s * 1000)))

    def _drain_wakes(self, fd: int) -> None:
        self._woken = True
        try:
            while len(os.read(fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def close(self, linger_s: float = 0.5) -> None:
        """Close every socket; what was sent is given ``linger_s`` to leave this process."""
        if self._closed:
            return
        self._closed = True
        self.sharing.close()
        self._lanes.close(linger_s)
        ends, self._wake_in, self._wake_out = (self._wake_in, self._wake_out), -1, -1  # the numbers are soon others'
        for end in ends:
            os.close(end)

    def check_process(self) -> None:
        """Raise ConfigError in a process forked from the one that opened this: nobody would drive it there."""
        if os.getpid() != self._pid:
            raise ConfigError(
                "this process was forked from one that already uses shoal's network; sockets do not survive a fork. "
                'Start data-loading processes with multiprocessing.get_context("spawn").'
            )
