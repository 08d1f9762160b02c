"""A run as its launcher watches over it, until it ends, wherever its processes are.

The launcher owns them: every one is ended with all its descendants when the run ends, however it ends. The first
failure is named; it is the launcher that sees a killed process, and the scheduler that knows why one gave up. Who is
killed is started again where that helps: the scheduler, which has its log, a server with snapshots, a worker.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from shoal.kvstore.wire.keys import Access, load_keys
from shoal.kvstore.wire.messages import Lost, Snapshot
from shoal.scheduler.address import parse_address, record_address
from shoal.scheduler.child import ending_signal
from shoal.scheduler.command_lines import CommandLines
from shoal.scheduler.disturb import Calm, Disturber
from shoal.scheduler.job import JobConfig, Outcome
from shoal.scheduler.machines import Machines, Process, Where, is_node
from shoal.scheduler.pairs import Pairs
from shoal.scheduler.revival import Revivals, is_given_up
from shoal.scheduler.signals import handling, stopped_by
from shoal.scheduler.watch import Watcher

__all__ = ["ALONE", "Run", "carry_out"]

PERIOD_S = 0.05
"""How often the children are looked at; the end of their output is noticed at once."""

PAUSE_S = 5.0
"""Longer between two looks, and the launcher itself has been stopped for a while."""

VERDICT_S = 1.0
"""After a child has given up, how long the scheduler has to say whose fault it is."""

END_S = 20.0
"""After the workers, or the scheduler, have ended well, how long the others have to end too."""

ALONE = ". With --snapshot-every 30s a server that dies is started again, and the run goes on"
"""What helps against the death of a server without snapshots."""


def carry_out(
    job: JobConfig,
    machines: Machines,
    on_line: Callable[[str, str, str], None],
    on_snapshot: Callable[[Snapshot], None],
    disturber: Disturber | None = None,
    stop: list[Callable[[int], None]] | None = None,
) -> Outcome:
    """Run the job to its end on these machines; no process of it is left when this returns.

    Args:
        stop: is given a function that stops the run, as a signal of this number would.
    Raises:
        ConfigError: the machines have no room for it.
    """
    run = Run(job, machines, on_line, on_snapshot, disturber or Calm())
    if stop is not None:
        stop.append(run.interrupt)
    with handling(run.interrupt):
        try:
            code, text = run.follow()
        finally:
            run.end()
    failed = text and not run.stopped
    return Outcome(code, f"the run has failed: {text}" if failed else text, run.snapshot())


class Run:
    """One run: its children, in the order in which they were started; the scheduler is the first."""

    def __init__(
        self,
        job: JobConfig,
        machines: Machines,
        on_line: Callable[[str, str, str], None],
        on_snapshot: Callable[[Snapshot], None],
        disturber: Disturber,
    ) -> None:
        self.job, self._machines, self._disturber = job, machines, disturber
        self.children: list[Process] = []
        self.watcher: Watcher | None = None
        self._on_snapshot, self._on_line = on_snapshot, on_line
        self._address, self._port, self._lines = "", job.port, CommandLines(job, Where("", ""))
        self._revivals = Revivals()
        self._forgotten: list[Process] = []  # workers that the scheduler has given up, or that were told to leave
        self._late: list[Process] = []  # workers that came to a run that was under way
        self._scheduler_began = self._looked = 0.0
        told = self._tell, self.say, disturber.born, self._silent_s
        self._pairs = Pairs(self.children, job.servers * job.replicas, self._replica, *told)
        self._news = threading.Event()
        self._signals: list[int] = []

    @property
    def stopped(self) -> bool:
        """Whether the launcher has been told to stop."""
        return bool(self._signals)

    def interrupt(self, number: int) -> None:
        """The launcher has been told to stop; told again, it no longer waits."""
        self._signals.append(number)
        self._news.set()
        if len(self._signals) > 1:
            for child in self.children:
                child.signal(signal.SIGKILL)

    def snapshot(self) -> Snapshot | None:
        """The last that the scheduler said."""
        return self.watcher.last if self.watcher else None

    # --- starting -----------------------------------------------------------------------------------------------------

    def follow(self) -> tuple[int, str]:
        """Start everybody and wait for the end: exit code, and who failed and why."""
        ranks = self._machines.prepare(self._news.set, lambda: self.stopped)
        if self.stopped:
            return self._stopped()
        where = self._machines.where()
        self._lines = CommandLines(self.job, where)
        if not self._start_scheduler():
            return self._verdict() or (1, f"{self.children[0]} did not start")
        if self.job.run_dir:
            record_address(self.job.run_dir, self._address)
        if self.job.metrics:
            self.say(self._lines.metrics())
        for rank in range(self.job.servers):
            self._start(f"server {rank}", self._lines.server(self._address, rank))
        self._pairs.begin()
        for rank in ranks:
            self._start(f"worker {rank}", self._lines.worker(self._address, rank))
        access = Access(load_keys(where.keys) if where.keys else None)
        self.watcher = Watcher(self._address, self._take, access)
        return self._supervise()

    def hire(self, rank: int) -> None:
        """Start one more worker: it joins when the others have come to the end of a batch."""
        name = f"worker {rank}"
        if not self._revivals.allow(name):
            return
        for old in [c for c in self.children if c.name == name and c.poll() is not None]:
            old.reap()
            self.children.remove(old)
        self._late.append(self._start(name, self._lines.worker(self._address, rank)))

    def add_server(self, slot: str) -> None:
        """Start one more server, which slices move to."""
        seen = self.snapshot()
        rank = sum(n.role == "server" for n in seen.nodes) if seen is not None else self.job.servers
        self._start(f"server {rank}", self._lines.server(self._address, rank), slot)

    def forget(self, process: Process) -> None:
        """The run goes on without it: it was told to leave, or nobody waits for it."""
        self._forgotten.append(process)

    def _replica(self, rank: int, home: int) -> Process:
        """Start the replica of a server: see `Pairs`."""
        args = self._lines.replica(self._address, rank, home)
        return self._start(f"replica {rank}", args, f"replica {rank}" if home else f"server {rank}")

    def _silent_s(self) -> float:
        return self.watcher.silent_s if self.watcher is not None else 0.0

    def _tell(self, lost: Lost) -> None:
        if self.watcher is not None:
            self.watcher.tell(lost)

    def _start(self, name: str, args: list[str], slot: str = "", ready: bool = False) -> Process:
        child = self._machines.start(name, args, slot=slot or name, ready=ready)
        self._disturber.born(child)
        if name == "scheduler":
            self.children[:1], self._scheduler_began = [child], time.monotonic()
        else:
            self.children.append(child)
        return child

    def _start_scheduler(self) -> bool:
        """Whether it listens; it does not if it ends before, or the launcher is told to stop."""
        args = self._lines.scheduler(self._port, anew=not self.children)
        said = self._start("scheduler", args, ready=True).ready(lambda: self.stopped)
        if said is None:
            return False
        self._address, self._port = said, parse_address(said)[1]
        return True

    def _revive(self) -> bool:
        """If only the scheduler has been killed, start it again, with its log and on its port."""
        dead, others = self.children[0], self.children[1:]
        code = dead.poll()
        if code is None or code >= 0 or self._signals or not self._lines.state or self._gone(others):
            return False
        if not self._revivals.allow(dead.name):
            return False
        now = time.monotonic()
        self.say(f"{dead} {dead.how()}; it is started again, and the run goes on meanwhile")
        dead.reap()
        if self._start_scheduler():
            self.say(f"{self.children[0]} has its log, and goes on after {time.monotonic() - now:.2f} s")
        return True

    def _revive_others(self) -> bool:
        """If servers or workers have been killed, and nobody has given up, start them again."""
        gone = self._gone(self.children[1:])
        running = self.watcher is not None and self.watcher.last is not None and self.watcher.last.phase == "running"
        if not gone or not running or self._signals or not all(map(self._can_revive, gone)):
            return False
        restarted = [self._restart(c) for c in gone]
        return all(restarted)

    def _gone(self, children: list[Process]) -> list[Process]:
        """Who has failed, as far as that is for this class to care about: replicas are for `Pairs`."""
        return [c for c in children if c.poll() and c not in self._forgotten and not c.name.startswith("replica ")]

    def _can_revive(self, dead: Process) -> bool:
        able = self.job.snapshots != "never" if dead.name.startswith("server ") else self.job.elastic
        return able and (dead.poll() or 0) < 0

    def _restart(self, dead: Process) -> bool:
        if not self._revivals.allow(dead.name):
            return False
        role, _, number = dead.name.partition(" ")
        how = "from its newest snapshot" if role == "server" else "and goes on where it was"
        self.say(f"{dead} {dead.how()}; it is started again, {how}")
        place = self.children.index(dead)
        dead.reap()
        rank = int(number)
        if role == "server":
            self._start(dead.name, [*self._lines.server(self._address, rank), "--replaces"], dead.slot)
        else:
            self._start(dead.name, self._lines.worker(self._address, rank, "--replaces"), dead.slot)
        self.children[place] = self.children.pop()
        return True

    def _dismiss(self) -> None:
        """Workers that the scheduler has given up may end as they like; when the run is over they need not."""
        over = self.children[0].poll() == 0
        for c in self.children[1:]:
            code = c.poll()
            ends = (code or 0) > 0 or (over and code is None)
            if not ends or c in self._forgotten:
                continue
            if is_given_up(c, self.snapshot()) or (c in self._late and not self._has_joined(c)):
                self.forget(c)
                self.say(f"{c} {c.how() if code else 'was given up'}; the run goes on without it")

    def _has_joined(self, process: Process) -> bool:
        seen = self.snapshot()
        return seen is not None and any(is_node(process, n) for n in seen.nodes)

    def _end_mute(self) -> None:
        """Kill a scheduler that is there and says nothing for half of its grace: stopped, or stuck. See `_revive`."""
        now = time.monotonic()
        if now > self._looked + PAUSE_S:  # it was this process that was stopped
            self._scheduler_began = now
        self._looked = now
        if self.watcher is None or not self._lines.state or self.children[0].poll() is not None:
            return
        silent_s = min(self.watcher.silent_s, now - self._scheduler_began)
        if silent_s > max(self.job.lease_s, self.job.scheduler_grace_s / 2) and not self.watcher.final:
            self.say(f"{self.children[0]} has been silent for {silent_s:.1f} s")
            self.children[0].signal(signal.SIGKILL)

    def say(self, text: str) -> None:
        """Among the lines of the children."""
        with suppress(OSError, ValueError):  # nobody reads our output
            self._on_line("shoal run", "stderr", text)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _take(self, snapshot: Snapshot) -> None:
        if snapshot.phase == "failed":
            self._news.set()
        self._on_snapshot(snapshot)

    def _supervise(self) -> tuple[int, str]:
        ended_well, pause_s = 0.0, PERIOD_S
        while True:
            self._news.wait(min(PERIOD_S, pause_s))
            self._news.clear()
            self._end_mute()
            self._dismiss()
            self._pairs.turn(self.snapshot())
            verdict = self._verdict()
            if verdict is not None and self.job.replicas:
                self._pairs.turn(self.snapshot())  # whoever has died since the turn above may have a replica
                verdict = self._verdict()
            if verdict is not None:
                if self._revive_others() or self._revive():
                    continue
                return verdict
            self._machines.turn(self)
            pause_s = self._disturber.turn(self.snapshot())
            running = [c for c in self.children if c.poll() is None and c not in self._forgotten]
            if not running:
                if self.watcher:
                    self.watcher.wait_final(VERDICT_S)  # it has been sent; it may still be under way
                return 0, ""
            if self._should_end():
                ended_well = ended_well or time.monotonic()
                if time.monotonic() > ended_well + END_S:
                    return 1, f"the run is over, but {', '.join(map(str, running))} did not end within {END_S:g} s"

    def _should_end(self) -> bool:
        """Either the scheduler has ended well, or every worker has: nobody has a reason to stay."""
        workers = [c for c in self.children if c.name.startswith("worker")]
        return self.children[0].poll() == 0 or all(c.poll() == 0 or c in self._forgotten for c in workers)

    def _verdict(self) -> tuple[int, str] | None:
        """Exit code and reason once the run is known to have failed."""
        if self._signals:
            return self._stopped()
        gone = [(c, c.poll() or 0) for c in self._gone(self.children)]
        killed = [(c, code) for c, code in gone if code < 0]
        if killed:
            text = "; ".join(f"{c} {c.how()}" for c, _ in killed)
            alone = self.job.snapshots == "never" and all(c.name.startswith("server ") for c, _ in killed)
            return 1, text + ALONE * alone
        if gone or (self.watcher and self._failed()):
            return self._blame(gone)
        return None

    def _failed(self) -> Snapshot | None:
        final = self.watcher.final if self.watcher else None
        return final if final is not None and final.phase == "failed" else None

    def _blame(self, gone: list[tuple[Process, int]]) -> tuple[int, str]:
        """Somebody gave up: perhaps because of somebody else, which the scheduler knows."""
        if self.watcher:
            self.watcher.wait_final(VERDICT_S)
        final = self._failed()
        if final is None:
            child, code = gone[0]
            return code, f"{self._mute_scheduler()}{child} {child.how()}"
        guilty = [f"{n.role} {n.rank}" for n in final.nodes if n.state == "failed"]
        code = self._code_of([c for c in self.children if c.name in guilty])
        return code or 1, f"{final.culprit}: {final.reason}"

    def _mute_scheduler(self) -> str:
        silent_s = self._silent_s()
        if self.children[0].poll() is not None or silent_s < self.job.lease_s / 2:
            return ""
        return f"{self.children[0]} has been silent for {silent_s:.1f} s; "

    def _code_of(self, children: list[Process]) -> int:
        """The highest code with which one of them exits by itself; 0 if none does soon."""
        deadline = time.monotonic() + self.job.grace_s
        while any(c.poll() is None for c in children) and time.monotonic() < deadline and not self._signals:
            time.sleep(0.01)
        return max([0, *(c.poll() or 0 for c in children)])

    def _stopped(self) -> tuple[int, str]:
        number = self._signals[0]
        return 128 + number, stopped_by(number)

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Leave no process behind, and no thread."""
        self._disturber.end()
        scheduler, others = self.children[:1], self.children[1:]
        for child in others:
            if child.poll() is None:
                child.signal(ending_signal())
        deadline = time.monotonic() + self.job.grace_s
        while any(c.poll() is None for c in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in [*others, *scheduler]:  # the scheduler last: the others say goodbye to it
            child.reap()
        if self.watcher:
            self.watcher.close()
        self._machines.close()
        self._disturber.close()
