"""The faults that happen inside a process: its messages, its disk, its clock.

The launcher gives a process a socket (environment variable ``SHOAL_CHAOS``: descriptor and seed) and says through it,
in JSON lines, which faults are in force; the process answers with how many messages it has interfered with.
"""

import atexit
import errno
import heapq
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.eventlog import event
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.faults import faults
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.lab.chaos.messages import Interference, Rule

__all__ = ["Inside", "Meddler", "attach"]

log = logging.getLogger("shoal.chaos")

COUNT_S = 0.25
"""How often the launcher is told how many messages have been interfered with, if there are new ones."""


def attach(text: str) -> "Inside":
    """Let the launcher put faults into this process. To be called before the first transport is made.

    Args:
        text: "DESCRIPTOR SEED", of a socket to the launcher.
    Raises:
        ConfigError: it is something else.
    """
    fd, _, seed = text.partition(" ")
    try:
        os.set_inheritable(int(fd), False)  # not for the processes that this one may start
        control = socket.socket(fileno=int(fd))
    except (OSError, ValueError) as e:
        raise ConfigError(f"SHOAL_CHAOS is {text!r}, which only `shoal run --chaos` can set: {e}") from e
    inside = Inside(control, int(seed))
    faults.transport, faults.clock, faults.writing = inside.meddle, inside.clock, inside.writing
    inside.start()
    return inside


class Inside:
    """Faults of this process, as its launcher wants them.

    Args:
        control: a stream socket to the launcher.
        seed: of the plan.
    """

    def __init__(self, control: socket.socket, seed: int) -> None:
        self._control = control
        self._interference = Interference(seed)
        self._meddlers: list[Meddler] = []
        self._full = self._refused = False
        self._jumped_s = 0.0
        self._told: dict[int, int] = {}
        self._ready = threading.Event()

    def start(self) -> None:
        """Listen to the launcher, on a thread; what it has said already is in force when this returns."""
        threading.Thread(target=self._listen, name="shoal-chaos", daemon=True).start()
        self._ready.wait(5.0)
        atexit.register(self._tell_counts)

    def meddle(self, transport: Transport) -> None:
        """Stand between a transport and its callers."""
        self._meddlers.append(Meddler(transport, self._interference.fate))

    def clock(self) -> float:
        """Seconds on a clock that jumps when it is told to."""
        return time.monotonic() + self._jumped_s

    def writing(self, path: str) -> None:
        """Raise what a full disk does, if there is to be one."""
        if self._full:
            if not self._refused:
                text = "the disk is full on purpose: %s is not written"
                log.warning(text, path, extra=event("chaos", "full-disk", path=path))
            self._refused = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    # --- what the launcher says ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        buffer = b""
        self._control.settimeout(COUNT_S)
        while True:
            try:
                data = self._control.recv(65536)
            except TimeoutError:
                self._tell_counts()
                continue
            except OSError:
                return
            if not data:  # the launcher is gone, and this process follows it
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self.obey(json.loads(line))
            self._ready.set()

    def obey(self, order: dict[str, Any]) -> None:
        """These faults are in force from now on: ``rules``, ``full_disk``, ``jumped_s``."""
        self._interference.use([Rule(*rule) for rule in order["rules"]])
        self._full, self._refused = bool(order["full_disk"]), self._refused and bool(order["full_disk"])
        jump_s, self._jumped_s = float(order["jumped_s"]) - self._jumped_s, float(order["jumped_s"])
        if jump_s > 0:
            text = "this process's clock jumps by %g s, on purpose"
            log.debug(text, jump_s, extra=event("chaos", "clock-jump", by_s=jump_s))
        for meddler in self._meddlers:
            meddler.transport.wake()
        self._tell_counts()

    def _tell_counts(self) -> None:
        counts = dict(self._interference.counts)
        if counts != self._told:
            self._told = counts
            with suppress(OSError):
                self._control.sendall(json.dumps(counts).encode() + b"\n")


class Meddler:
    """Between one transport and its callers, on the transport's thread.

    Args:
        transport: whose messages are meddled with.
        fate: see `Interference.fate`.
    """

    def __init__(self, transport: Transport, fate: Callable[[str, str], tuple[float, ...] | None]) -> None:
        self.transport, self._fate = transport, fate
        self._send, self._poll = transport.send, transport.poll
        self._order = 0
        self._leaving: list[tuple[float, int, str, Message]] = []
        self._coming: list[tuple[float, int, str, Message]] = []
        transport.send = self.send  # type: ignore[method-assign]  # all that this process says and hears
        transport.poll = self.poll  # type: ignore[method-assign]  # goes through here

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        """As `Transport.send`."""
        fate = self._fate("out", peer)
        if fate is None:
            self._send(peer, message, stable=stable)
            return
        for delay_s in fate:
            if delay_s > 0:
                self._hold(self._leaving, delay_s, peer, message)
            else:
                self._send(peer, message, stable=stable)

    def poll(self, timeout_s: float, spins: bool = False) -> Iterator[tuple[str, Message]]:
        """As `Transport.poll`."""
        self._release()
        if held := [h[0][0] for h in (self._leaving, self._coming) if h]:
            timeout_s, spins = max(0.0, min(timeout_s, min(held) - time.monotonic())), False
        for peer, message in self._poll(timeout_s, spins):
            fate = self._fate("in", peer)
            for delay_s in (0.0,) if fate is None else fate:
                if delay_s > 0:
                    self._hold(self._coming, delay_s, peer, message)
                else:
                    yield peer, message
        self._release()
        while self._coming and self._coming[0][0] <= time.monotonic():
            _, _, peer, message = heapq.heappop(self._coming)
            yield peer, message

    def _hold(self, held: list[tuple[float, int, str, Message]], delay_s: float, peer: str, message: Message) -> None:
        """Keep a copy: the arrays may be written before it is its turn."""
        copy = decode([memoryview(bytes(frame)) for frame in encode(message)])
        self._order += 1
        heapq.heappush(held, (time.monotonic() + delay_s, self._order, peer, copy))

    def _release(self) -> None:
        while self._leaving and self._leaving[0][0] <= time.monotonic():
            _, _, peer, message = heapq.heappop(self._leaving)
            self._send(peer, message)
