"""Chaos in virtual time: the same file as of a real run, as far as it makes sense to a simulation.

Messages are lost, repeated, overtaken and late; links are cut; workers are slow, stand still, or are killed, which for
the others is that they have left. The rest is refused by name.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast, Link
from shoal.lab.chaos.messages import Interference, Rule
from shoal.lab.chaos.plan import NETWORK, Plan
from shoal.lab.chaos.schedule import Facts, Fault, Schedule

if TYPE_CHECKING:
    from shoal.lab.simulate_time import Timeline

__all__ = ["Disturbance", "cast_of", "check_chaos"]

KINDS = (*NETWORK, "kill", "stop", "slow")

PATIENCE_S = 1e6
"""Nobody gives up before: how long computing takes here has nothing to do with real deadlines."""


def cast_of(workers: int, servers: int) -> Cast:
    """Who is in a simulation: it has no scheduler."""
    return Cast(workers, servers, scheduler=False)


def check_chaos(plan: Plan, workers: int, servers: int) -> None:
    """Find out before the simulation what it cannot do.

    Raises:
        ConfigError: a kind that it does not have, or that it has for workers only, or somebody who is not there.
    """
    plan.refuse(KINDS, "the simulator")
    plan.check(cast_of(workers, servers))
    for n, event in enumerate(plan.events, 1):
        alone = [what for what in event.what if what not in NETWORK]
        others = [w for w in event.who if not isinstance(w, Link) and w.role != "worker"]
        if alone and others:
            raise ConfigError(
                f"{plan.name}, event {n}: the simulator can {alone[0]} workers only, not {others[0]}: name 'worker 1' "
                "or 'random worker'"
            )


class Disturbance:
    """What a plan does to one simulation.

    Args:
        plan: what is to happen.
        cast: to whom.
        line: of the simulation.
        progress: how far each worker is, by name.
        pace: called with a rank and how many times slower it is from now on; infinity: it stands still.
        kill: called with a rank.
    """

    def __init__(
        self,
        plan: Plan,
        cast: Cast,
        line: "Timeline",
        progress: Callable[[], dict[str, int]],
        pace: Callable[[int, float], None],
        kill: Callable[[int], None],
    ) -> None:
        self._line, self._progress, self._pace, self._kill = line, progress, pace, kill
        self._schedule, self._net = Schedule(plan, cast), Interference(plan.seed)
        self._active: list[Fault] = []
        self._planned = float("inf")
        self._clocks: dict[tuple[int, int], int] = {}
        self.faults: list[Fault] = []

    @property
    def met(self) -> int:
        """Messages that were interfered with."""
        return self._net.counts.total()

    def look(self) -> None:
        """Do what is due by now; to be called when a worker has made a step, too."""
        facts = Facts(self._line.now, steps := self._progress(), steps)
        for found in self._schedule.due(facts):
            if isinstance(found, Fault):
                self._begin(found)
            else:
                self._active.remove(found.fault)
                self._changed(found.fault)
        coming = self._schedule.next_s()
        if coming != self._planned and coming < float("inf"):
            self._planned = coming
            self._line.at(coming, self.look)

    def _begin(self, fault: Fault) -> None:
        self.faults.append(fault)
        if fault.what == "kill":
            for name in fault.victims:
                self._kill(_rank(name))
            return
        self._active.append(fault)
        self._changed(fault)

    def _changed(self, fault: Fault) -> None:
        """A fault has begun, or is over."""
        if fault.links:
            self._net.use([r for f in self._active for r in _rules(f)])
        for name in fault.victims:
            factors = [_factor(f) for f in self._active if name in f.victims]
            self._pace(_rank(name), max(factors, default=1.0))

    def carry(self, source: str, to: str, send: Callable[[], None]) -> None:
        """Let a message go its way, as often and as late as it does."""
        fate = self._net.fate(source, to)
        for delay_s in (0.0,) if fate is None else fate:
            if delay_s > 0:
                self._line.at(self._line.now + delay_s, send)
            else:
                send()

    def first(self, rank: int, slice_id: int, clock: int) -> bool:
        """Whether this contribution comes to its server for the first time."""
        new = clock > self._clocks.get((rank, slice_id), -1)
        if new:
            self._clocks[rank, slice_id] = clock
        return new


def _rank(name: str) -> int:
    return int(name.split()[1])


def _factor(fault: Fault) -> float:
    return float("inf") if fault.what == "stop" else fault.event.factor


def _rules(fault: Fault) -> Sequence[Rule]:
    amount = fault.event.delay_s if fault.what == "delay" else fault.event.percent
    return [Rule(fault.number, fault.what, source, to, amount) for source, to in fault.links]
