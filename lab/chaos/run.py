"""Chaos in a run of real processes: what the schedule says is done to the launcher's children.

Kill, stop and slow are signals; they need nothing in the victim. What happens inside a process it does itself, when
told through its socket (`shoal.lab.chaos.inside`).
"""

import json
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from shoal.kvstore.eventlog import SUFFIX, EventHandler, event
from shoal.kvstore.wire.messages import Snapshot
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import SIGNALS, Plan
from shoal.lab.chaos.schedule import Facts, Fault, Schedule
from shoal.scheduler.machines import Process

__all__ = ["Chaos", "stops"]

log = logging.getLogger("shoal.chaos")

SLOW_S = 0.06
"""A slow process runs and stands still in turns of so long together."""

PERIOD_S = 0.05
"""How often is looked who has made how many steps, and what has been interfered with."""


def stops(factor: float, at_s: float) -> tuple[bool, float]:
    """Whether a process that is to be so many times slower stands still at this time, and until when.

    >>> [stops(3, t)[0] for t in (0.0, 0.01, 0.03, 0.05, 0.07)]
    [False, False, True, True, False]
    """
    turn, phase_s = divmod(at_s, SLOW_S)
    runs_s = SLOW_S / factor
    return (False, turn * SLOW_S + runs_s) if phase_s < runs_s else (True, (turn + 1) * SLOW_S)


class _Victim:
    """A process, as long as it lives."""

    def __init__(self, child: Process, sock: socket.socket | None) -> None:
        self.child, self.sock = child, sock
        self.name = child.name
        self.stopped = False
        self.jumped_s = 0.0
        self.order = ""  # the last that it was given
        self.counts: dict[str, int] = {}  # messages by fault
        self._buffer = b""

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def stop(self, stopped: bool) -> None:
        """Let it stand still, or go on."""
        if stopped != self.stopped and self.alive:
            self.child.signal(signal.SIGSTOP if stopped else signal.SIGCONT)
            self.stopped = stopped

    def tell(self, order: str) -> None:
        """What is in force for it, if that is new."""
        if self.sock is not None and order != self.order:
            self.order = order
            with suppress(OSError):  # it has ended
                self.sock.send(order.encode() + b"\n")

    def read(self) -> None:
        """What it has counted."""
        if self.sock is None:
            return
        with suppress(OSError):
            while data := self.sock.recv(65536):
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                for line in lines:
                    self.counts = json.loads(line)

    def close(self) -> None:
        """It has ended, or is about to."""
        self.read()
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class Chaos:
    """A `Disturber` that follows a plan, from when the run begins until the first worker is done.

    Args:
        plan: what happens.
        cast: who is in the run.
        say: shows a line.
        events: directory of the processes' event logs, to which one of the launcher's comes, or a file; "" for none.
        clock: seconds, monotonic.
    Raises:
        ConfigError: the plan names somebody who is not in the run.
    """

    def __init__(
        self,
        plan: Plan,
        cast: Cast,
        say: Callable[[str], None],
        events: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schedule = Schedule(plan, cast)
        self._plan, self._say, self._clock = plan, say, clock
        self._inside = any(what not in SIGNALS for e in plan.events for what in e.what)
        self._victims: dict[str, _Victim] = {}
        self._lent: dict[str, tuple[socket.socket, socket.socket]] = {}  # our end, and that which a process inherits
        self._active: list[Fault] = []
        self._began = -1.0
        self._over = False
        self._done: dict[int, dict[str, Any]] = {}
        self._counts: Counter[str] = Counter()  # messages by fault, of processes that have ended
        self._handler = EventHandler(_event_file(events), "launcher", 0) if events else None
        if self._handler is not None:
            log.addHandler(self._handler)
            log.setLevel(logging.INFO)
        log.propagate = False  # `say` shows what there is to be seen

    def report(self) -> list[dict[str, Any]]:
        """What was done, by fault: ``at_s``, ``what``, ``who``, ``amount``, ``why``, ``for_s`` (0: a moment, None: to
        the end), ``skipped`` (why it was not done, or "") and, of those of messages, how many ``messages`` it met."""
        for number, done in self._done.items():
            if "messages" in done:
                living = sum(v.counts.get(str(number), 0) for v in self._victims.values())
                done["messages"] = self._counts[str(number)] + living
        return list(self._done.values())

    # --- processes ----------------------------------------------------------------------------------------------------

    def equip(self, name: str) -> tuple[dict[str, str], tuple[int, ...]]:
        """See `Disturber.equip`."""
        if not self._inside:
            return {}, ()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._lent[name] = ours, theirs
        return {"SHOAL_CHAOS": f"{theirs.fileno()} {self._plan.seed}"}, (theirs.fileno(),)

    def born(self, child: Process) -> None:
        """See `Disturber.born`."""
        victim = next((v for v in self._victims.values() if v.child is child), None)
        if victim is not None:  # it goes by another name from now on
            del self._victims[victim.name]
            victim.name = child.name
        else:
            ours, theirs = self._lent.pop(child.name, (None, None))
            if theirs is not None:
                theirs.close()
            victim = _Victim(child, ours)
        self._drop(child.name)
        self._victims[child.name] = victim
        self._order(victim)

    def _drop(self, name: str) -> None:
        if (before := self._victims.pop(name, None)) is not None:
            before.close()
            self._counts.update(before.counts)

    def _order(self, victim: _Victim) -> None:
        """Tell a process what is in force for it."""
        name = victim.name
        rules = [r for fault in self._active for r in _rules(fault, name)]
        full = any(f.what == "full-disk" and name in f.victims for f in self._active)
        victim.tell(json.dumps({"rules": rules, "full_disk": full, "jumped_s": victim.jumped_s}))

    # --- time ---------------------------------------------------------------------------------------------------------

    def turn(self, snapshot: Snapshot | None) -> float:
        """See `Disturber.turn`."""
        for victim in self._victims.values():
            victim.read()
        if self._over or snapshot is None or (snapshot.phase != "running" and self._began < 0):
            return PERIOD_S
        if self._began < 0:
            self._began = self._clock()
        if self._ended(snapshot):
            self.end()
            return PERIOD_S
        now_s = self._clock() - self._began
        for found in self._schedule.due(_facts(now_s, snapshot)):
            if isinstance(found, Fault):
                self._begin(found, now_s)
            else:
                self._finish(found.fault)
        return min(PERIOD_S, self._schedule.next_s() - now_s, self._pulse(now_s))

    def _ended(self, snapshot: Snapshot) -> bool:
        """From now on processes leave, and who is killed then is not started again."""
        left = any(n.role == "worker" and n.state == "done" for n in snapshot.nodes)
        gone = any(v.child.poll() == 0 for name, v in self._victims.items() if name.startswith("worker"))
        return snapshot.phase != "running" or left or gone

    def _begin(self, fault: Fault, now_s: float) -> None:
        absent = [v for v in fault.victims if v not in self._victims or not self._victims[v].alive]
        skipped = f"{', '.join(absent)} is not there" if absent else ""
        lasts = fault.until_s - fault.at_s
        done: dict[str, Any] = {"at_s": round(now_s, 3), "what": fault.what, "who": fault.named}
        done |= {"amount": fault.event.amount(fault.what), "why": fault.about, "skipped": skipped}
        done["for_s"] = lasts if lasts < float("inf") else None
        if fault.links:
            done["messages"] = 0
        self._done[fault.number] = done
        self._tell(fault, f"{fault}" + f": skipped, {skipped}" * bool(skipped), skipped=skipped)
        for name in fault.victims:
            victim = self._victims.get(name)
            if victim is None or name in absent:
                continue
            if fault.what == "kill":
                victim.child.signal(signal.SIGKILL)
            elif fault.what == "clock-jump":
                victim.jumped_s += fault.event.by_s
        if fault.until_s > fault.at_s:
            self._active.append(fault)
        self._order_all()

    def _finish(self, fault: Fault) -> None:
        self._active = [f for f in self._active if f.number != fault.number]
        self._order_all()
        self._tell(fault, f"over: {fault.what} {fault.named}", name="chaos is over")

    def _tell(self, fault: Fault, text: str, name: str = "chaos", **more: object) -> None:
        self._say(text)
        fields = {"number": fault.number, "what": fault.what, "who": fault.named, **more}
        log.info("%s", text, extra=event(name, fault.about, **fields))

    def _order_all(self) -> None:
        for victim in self._victims.values():
            self._order(victim)

    def _pulse(self, now_s: float) -> float:
        """Let stand still who is to, and the others go on; seconds until that changes."""
        still: dict[str, bool] = {}
        change_s = float("inf")
        for fault in self._active:
            for name in fault.victims if fault.what in ("stop", "slow") else ():
                stopped, until_s = (True, float("inf")) if fault.what == "stop" else stops(fault.event.factor, now_s)
                still[name] = still.get(name, False) or stopped
                change_s = min(change_s, until_s)
        for name, victim in self._victims.items():
            victim.stop(still.get(name, False))
        return max(0.001, change_s - now_s)

    def end(self) -> None:
        """See `Disturber.end`."""
        if not self._over:
            self._over, self._active = True, []
            self._order_all()
            for victim in self._victims.values():
                victim.stop(False)

    def close(self) -> None:
        """See `Disturber.close`."""
        self.end()
        for name in list(self._victims):
            self._drop(name)
        for ends in self._lent.values():
            for end in ends:
                end.close()
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()


def _event_file(place: str) -> str:
    return place if place.endswith(SUFFIX) else str(Path(place) / f"launcher{SUFFIX}")


def _facts(now_s: float, snapshot: Snapshot) -> Facts:
    status = {
        f"{n.role} {n.rank}": n.status for n in snapshot.nodes if n.role == "worker" and isinstance(n.status, dict)
    }
    return Facts(now_s, _numbers(status, "steps"), _numbers(status, "clock"))


def _numbers(status: dict[str, Any], key: str) -> dict[str, int]:
    return {name: s[key] for name, s in status.items() if isinstance(s.get(key), int)}


def _rules(fault: Fault, name: str) -> Sequence[tuple[int, str, str, str, float]]:
    """What a process has to do about a fault of links: those that it has opened it knows by the peer's name."""
    amount = fault.event.delay_s if fault.what == "delay" else fault.event.percent
    out = [(fault.number, fault.what, "out", _peer(name, to), amount) for source, to in fault.links if source == name]
    into = [(fault.number, fault.what, "in", _peer(name, source), amount) for source, to in fault.links if to == name]
    return [*out, *into]


def _peer(name: str, other: str) -> str:
    """As the transport of ``name`` calls the other: "server 1" is server1; a server knows its own replica only."""
    own = other.startswith("replica") and other.split()[1:] == name.split()[1:]
    return "replica" if own else other.replace(" ", "")
