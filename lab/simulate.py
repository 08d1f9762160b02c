"""Simulation of whole runs in virtual time, on the store's own state machines.

The cores of servers and clients, the tables and the update rules are those of a real run; what is simulated is how long
computing and messages take. There is no thread, no socket and no waiting: thousands of workers, or tens of
thousands of rounds, take seconds. Unless a chaos file says otherwise the network
loses nothing, so nothing is repeated.

>>> from shoal.lab.simulate_problems import Quadratic
>>> run = simulate(workers=4, gate="bsp", rounds=10, problem=Quadratic())
>>> run.updates, round(float(run.weights[-1, 0]), 6)
(10, 0.348678)
"""

import dataclasses
import itertools
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from shoal.errors import ConfigError, StoreError, named
from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.client.core import ClientCore, Complete, Dropped, Fail, Job, Transmit
from shoal.kvstore.client.jobs import RETRY_S
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import Push, Value
from shoal.kvstore.wire.schema import Message
from shoal.lab.simulate_chaos import PATIENCE_S, Disturbance, cast_of
from shoal.lab.simulate_problems import Problem, Still
from shoal.lab.simulate_result import SimulationResult
from shoal.lab.simulate_scenario import Scenario
from shoal.lab.simulate_server import SimulatedServer
from shoal.lab.simulate_time import Timeline
from shoal.ops import optim

__all__ = ["Scenario", "simulate"]

CLUSTER = "simulation"


def simulate(scenario: Scenario | None = None, /, **changes: Any) -> SimulationResult:
    """Simulate one run: ``simulate(workers=8, gate="ssp:3")``, or ``simulate(scenario, gate="asp")``.

    Args:
        scenario: what is simulated; by default ``Scenario()``.
        changes: any of `Scenario`'s arguments.
    Raises:
        ConfigError: an argument is out of its range, or a server refuses the gate, the reduction or the rule.
        ShapeError, StoreError: as a real worker's push would; or all workers wait for one another.
    """
    return _Simulation(dataclasses.replace(scenario or Scenario(), **changes)).run()


@dataclass(slots=True, eq=False)
class _Worker:
    """One simulated worker: reads all slices, computes, pushes all slices and reads them again."""

    rank: int
    core: ClientCore
    durations: Iterator[float]
    values: list[Array]  # by slice
    answers: int = 0  # that it waits for
    step: int = 0
    task: int = 0  # number of the computation that is under way; one that is given up is not finished
    since: float = -1.0  # when it began to compute, or -1
    computing_s: float = 0.0
    abandoned_s: float = 0.0
    dropped: int = 0
    begun: list[float] = field(default_factory=list)  # when it had read all values
    pace: float = 1.0  # how many times slower than usual it is
    left: float = 0.0  # of what it computes, in usual seconds, at the time ``moved``
    moved: float = 0.0
    watched: bool = False  # it will be looked whether something must be repeated
    gone: bool = False

    def stop(self, now: float) -> float:
        """Computing is over; how long it has taken."""
        took, self.since = now - self.since, -1.0
        self.task += 1
        self.computing_s += took
        return took


class _Books:
    """What is written down while a run goes on."""

    def __init__(self, workers: int, first: list[Array]) -> None:
        self.push_times, self.push_workers = array("d"), array("q")
        self.versions = [0] * len(first)
        self.times: list[Any] = [array("d") for _ in first]
        self.values = [[v.copy()] for v in first]
        self.closed = [0] * workers


class _Simulation:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.gate, self.limits = parse_gate(scenario.gate), scenario.limits()
        self.problem: Problem = scenario.problem or Still(scenario.slices)
        self.line = Timeline(scenario.network, scenario.seed)
        start = np.ascontiguousarray(self.problem.start())
        self.cuts = _cuts(start, scenario.slices)
        self.slice_bytes = (scenario.model_bytes or start.nbytes) // scenario.slices
        self.servers = [self._server(s) for s in range(scenario.servers)]
        self.workers = [self._worker(r) for r in range(scenario.workers)]
        self.books = _Books(scenario.workers, [start[a:b] for a, b in self.cuts])
        self.running = True
        self.chaos = self._disturbance()
        self._prepare(start)

    def run(self) -> SimulationResult:
        """Go on until a limit is reached, or nothing is left to do."""
        *_, until = self.limits
        if self.chaos is not None:
            self.chaos.look()
        for w in self.workers:
            self._read(w)
        self.line.settle()
        while self.running and self.line.next() <= until and self.line.next() < float("inf"):
            self.line.step()
        if self.running and until < float("inf"):
            self.line.now = until
        elif self.running and any(w.answers and not w.gone for w in self.workers):
            waiting = tuple(w.rank for w in self.workers if w.answers and not w.gone)
            raise StoreError(
                f"gate {self.gate.name}: at {self.line.now:g} s nothing can happen, workers {waiting} wait"
            )
        return self._result()

    # --- the cast -----------------------------------------------------------------------------------------------------

    def _server(self, rank: int) -> SimulatedServer:
        def send(to: int, message: Message) -> None:
            size = self.slice_bytes if isinstance(message, Value) and message.value is not None else 0
            if self.chaos is None:
                self.line.down(to, rank, size, self.answered, to, rank, message)
            else:
                down = partial(self.line.down, to, rank, size, self.answered, to, rank, message)
                self.chaos.carry(f"server {rank}", f"worker {to}", down)

        return SimulatedServer(rank, self.scenario.workers, CLUSTER, send, self._updated)

    def _worker(self, rank: int) -> _Worker:
        core = ClientCore(rank, 1, CLUSTER, self.scenario.servers)
        for i in range(len(self.cuts)):
            core.register(i, self.gate)
        if self.scenario.chaos is not None:
            core.timeout_s = core.silence_s = PATIENCE_S
        durations = self.scenario.compute.times(self.scenario.seed, "compute", rank)
        return _Worker(rank, core, durations, [np.empty(0)] * len(self.cuts))

    def _prepare(self, start: Array) -> None:
        """Before time begins every slice gets its value, and every server its optimizer."""
        scenario = self.scenario
        for i, (a, b) in enumerate(self.cuts):
            self._home(i).create(i, start[a:b], self.gate.name, scenario.reduce)
        if scenario.problem is not None or scenario.optimizer is not None or scenario.rule:
            for server in self.servers:
                server.configure(scenario.optimizer or optim.SGD(learning_rate=0.1), scenario.rule)

    def _home(self, i: int) -> SimulatedServer:
        """The server of slice ``i``."""
        return self.servers[i % len(self.servers)]

    # --- workers ------------------------------------------------------------------------------------------------------

    def _read(self, w: _Worker) -> None:
        """Read all slices, without pushing."""
        self._submit(w, [self._job(i, None) for i in range(len(self.cuts))])

    def _job(self, i: int, gradient: Array | None) -> Job:
        job = Job(server=i % len(self.servers), slice=i, key=f"w{i}", want=True, token=i)
        if gradient is not None:
            job.payload, job.payload_bytes = as_payload(gradient), gradient.nbytes
        return job

    def _submit(self, w: _Worker, jobs: list[Job]) -> None:
        w.answers += len(jobs)
        self._carry_out(w, w.core.submit(jobs, self.line.now))
        self._watch(w)

    def answered(self, rank: int, server: int, message: Message) -> None:
        """A server's message has come to worker ``rank``."""
        w = self.workers[rank]
        if not w.gone:
            self._carry_out(w, w.core.receive(server, message, self.line.now))
            self._watch(w)

    def _carry_out(self, w: _Worker, actions: list[Any]) -> None:
        for a in actions:
            match a:
                case Transmit(server, message):
                    push = isinstance(message, Push)
                    size = self.slice_bytes if push else 0
                    if self.chaos is None:
                        self.line.up(w.rank, server, size, push, self._received, server, w.rank, message)
                    else:
                        up = partial(self.line.up, w.rank, server, size, push, self._received, server, w.rank, message)
                        self.chaos.carry(f"worker {w.rank}", f"server {server}", up)
                case Complete(job, Value(value=value)) if value is not None:
                    w.values[job.token] = as_array(value)
                    w.answers -= 1
                    if w.answers == 0:
                        self._compute(w)
                case Dropped(job):
                    w.dropped += 1
                    if job.payload is None:  # not even sent
                        self._ended(job.slice, w.rank)
                case Fail(_, error, text):
                    raise named(error, text, StoreError)

    def _compute(self, w: _Worker) -> None:
        if not self.running or w.gone:
            return
        w.begun.append(self.line.now)
        seconds = next(w.durations, None)
        if seconds is None:
            for server in self.servers:
                server.left(w.rank, self.line.now)
            return
        w.since, w.left = self.line.now, seconds
        self._go_on(w)

    def _go_on(self, w: _Worker) -> None:
        w.moved = self.line.now
        if w.pace < float("inf"):
            self.line.at(self.line.now + w.left * w.pace, self._computed, w, w.task)

    def _computed(self, w: _Worker, task: int) -> None:
        if task != w.task:
            return
        w.stop(self.line.now)
        weights = w.values[0] if len(w.values) == 1 else np.concatenate(w.values)
        gradient = np.ascontiguousarray(self.problem.gradient(weights, w.rank, w.step), weights.dtype)
        w.step += 1
        if self.chaos is not None:
            self.chaos.look()
            if w.gone:
                return
        self._submit(w, [self._job(i, gradient[a:b]) for i, (a, b) in enumerate(self.cuts)])

    def _give_up(self, w: _Worker, task: int) -> None:
        """The round that ``w`` computes for is over: it begins anew, from the newest value."""
        if task == w.task and w.since >= 0:
            w.abandoned_s += w.stop(self.line.now)
            self._read(w)

    # --- chaos --------------------------------------------------------------------------------------------------------

    def _disturbance(self) -> Disturbance | None:
        if self.scenario.chaos is None:
            return None
        cast = cast_of(self.scenario.workers, self.scenario.servers)
        return Disturbance(self.scenario.chaos, cast, self.line, self._progress, self._slow_down, self._kill)

    def _progress(self) -> dict[str, int]:
        return {f"worker {w.rank}": w.step for w in self.workers}

    def _slow_down(self, rank: int, pace: float) -> None:
        """From now on worker ``rank`` is so many times slower, also with what it is at."""
        w = self.workers[rank]
        if w.since >= 0 and not w.gone:
            w.left -= (self.line.now - w.moved) / w.pace
            w.task += 1
        w.pace = pace
        if w.since >= 0 and not w.gone:
            self._go_on(w)

    def _kill(self, rank: int) -> None:
        w = self.workers[rank]
        if w.gone:
            return
        w.gone = True
        if w.since >= 0:
            w.abandoned_s += w.stop(self.line.now)
        for server in self.servers:
            server.left(rank, self.line.now)

    def _watch(self, w: _Worker) -> None:
        """Where messages may be lost, look now and then whether something must be repeated."""
        if self.chaos is None:
            return
        actions, due = w.core.wake(self.line.now)
        self._carry_out(w, actions)
        if w.answers and not w.watched:
            w.watched = True
            self.line.at(min(max(due, self.line.now + 1e-6), self.line.now + RETRY_S), self._look, w)

    def _look(self, w: _Worker) -> None:
        w.watched = False
        if w.answers and not w.gone and self.running:
            self._watch(w)

    # --- servers ------------------------------------------------------------------------------------------------------

    def _received(self, server: int, rank: int, message: Message) -> None:
        self.servers[server].receive(rank, message, self.line.now)
        if isinstance(message, Push) and (self.chaos is None or self.chaos.first(rank, message.slice, message.clock)):
            self._ended(message.slice, rank)

    def _updated(self, i: int, rank: int) -> None:
        """Slice ``i`` has a new version, through a message of worker ``rank``."""
        books = self.books
        books.versions[i] += 1
        books.times[i].append(self.line.now)
        if self.scenario.record:
            books.values[i].append(self._home(i).value(i).copy())
        if i == 0:
            self._round_over(rank)

    def _ended(self, i: int, rank: int) -> None:
        """A contribution to slice ``i`` is in, or given up as too late; the run may be over."""
        books, (pushes, updates, _) = self.books, self.limits
        if i == 0:
            books.push_times.append(self.line.now)
            books.push_workers.append(rank)
        if len(books.push_times) >= pushes or books.versions[i] >= updates <= min(books.versions):
            self.running = False

    def _round_over(self, rank: int) -> None:
        self.books.closed[rank] += 1
        if self.scenario.restart:
            for w in self.workers:
                if w.since >= 0:
                    self.line.down(w.rank, 0, 0, self._give_up, w, w.task)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _result(self) -> SimulationResult:
        books = self.books
        for w in self.workers:
            if w.since >= 0:
                w.stop(self.line.now)
        accounts = [[server.account(w.rank) for server in self.servers] for w in self.workers]
        versions = min(books.versions)
        counts = Counter(books.push_workers)
        return SimulationResult(
            gate=self.gate.name,
            workers=len(self.workers),
            seconds=self.line.now,
            update_times=np.max([np.array(t)[:versions] for t in books.times], axis=0),
            weights=self._weights(versions),
            clocks=tuple(counts[w.rank] for w in self.workers),
            applied=tuple(sum(applied for applied, _ in mine) for mine in accounts),
            dropped=tuple(w.dropped for w in self.workers),
            staleness=tuple(sum((taus for _, taus in mine), Counter[int]()) for mine in accounts),
            computing_s=tuple(w.computing_s for w in self.workers),
            abandoned_s=tuple(w.abandoned_s for w in self.workers),
            closed=tuple(books.closed),
            begun=tuple(tuple(w.begun) for w in self.workers),
            push_times=np.array(books.push_times),
            push_workers=np.array(books.push_workers),
            faults=tuple(map(str, self.chaos.faults)) if self.chaos else (),
            met=self.chaos.met if self.chaos else 0,
            duplicates=sum(server.core.ledgers[w.rank].duplicate for server in self.servers for w in self.workers),
        )

    def _weights(self, versions: int) -> Array:
        if self.scenario.record:
            return np.concatenate([np.stack(v[: versions + 1]) for v in self.books.values], axis=1)
        return np.concatenate([self._home(i).value(i) for i in range(len(self.cuts))])[np.newaxis]


def _cuts(start: Array, slices: int) -> list[tuple[int, int]]:
    if start.ndim != 1 or start.dtype.kind != "f" or start.size < slices:
        raise ConfigError(
            f"a problem's weights are one-dimensional floats, at least one for each of the {slices} slices; "
            f"got {start.dtype} {start.shape}"
        )
    edges = [start.size * i // slices for i in range(slices + 1)]
    return list(itertools.pairwise(edges))
