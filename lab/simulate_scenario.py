"""What is simulated."""

from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.kvstore.gates import check_workers, parse_gate
from shoal.lab.chaos.plan import Plan
from shoal.lab.simulate_chaos import check_chaos
from shoal.lab.simulate_laws import Exponential, Law
from shoal.lab.simulate_problems import Problem
from shoal.lab.simulate_time import Network
from shoal.ops.optim import Optimizer

__all__ = ["Scenario"]

ENDLESS = 1 << 62
ONE_SECOND = Exponential(1.0)
INSTANT = Network()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated. A run ends at the first limit that it reaches; without one, after 100 rounds.

    Args:
        workers: how many.
        gate: the consistency model, such as ``"ssp:3"`` or ``"backup:1"``.
        compute: how long a gradient takes.
        rounds: ends when the workers have pushed this many contributions each, on average.
        updates: ends at this version of the weights.
        until: ends at this time, in seconds.
        seed: of everything random.
        problem: what is computed; by default nothing, so that only time passes.
        optimizer: the servers' update rule; by default, where there is a problem, SGD with a learning rate of 0.1.
        rule: what corrects contributions before the update, such as ``"dcasgd:lam=0.04"``; "" for nothing.
        reduce: "mean" or "sum" of the contributions to an update.
        servers, slices: the weights are cut into equal slices, which are dealt to the servers in turn.
        network: how messages travel; by default in no time.
        model_bytes: how big the weights are for the network; by default as big as the problem's are.
        restart: a worker that computes for a round which closes gives up and begins anew, as theory has it for
            backup workers and K-sync. Else it finishes, as in a real run, and the gate drops or keeps what it found.
        record: keep the weights at each version.
        chaos: what goes wrong on purpose, and when: `shoal.lab.chaos.plan.read_plan`.
    Raises:
        ConfigError: an argument is out of its range; says what is expected.
    """

    workers: int = 8
    gate: str = "bsp"
    compute: Law = ONE_SECOND
    rounds: int | None = None
    updates: int | None = None
    until: float | None = None
    seed: int = 0
    problem: Problem | None = None
    optimizer: Optimizer | None = None
    rule: str = ""
    reduce: str = "mean"
    servers: int = 1
    slices: int = 1
    network: Network = INSTANT
    model_bytes: int | None = None
    restart: bool = False
    record: bool = True
    chaos: Plan | None = None

    def __post_init__(self) -> None:
        parse_gate(self.gate)
        for name in ("workers", "servers", "slices", "rounds", "updates", "model_bytes"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not whole and (value is not None or name in ("workers", "servers", "slices")):
                raise ConfigError(f"a simulation needs {name} >= 1, got {value!r}")
        check_workers(self.gate, self.workers)
        if self.until is not None and not 0 < self.until < float("inf"):
            raise ConfigError(f"a simulation ends at a positive time, got until={self.until!r}")
        if self.servers > self.slices:
            raise ConfigError(f"{self.servers} servers need at least as many slices, got slices={self.slices}")
        self.compute.check(self.workers)
        if self.chaos is not None:
            check_chaos(self.chaos, self.workers, self.servers)
        if isinstance(self.network.delay, Law):
            self.network.delay.check(self.workers)

    def limits(self) -> tuple[int, int, float]:
        """Contributions, updates and seconds at which the run ends."""
        rounds = 100 if self.rounds is None and self.updates is None and self.until is None else self.rounds
        pushes = ENDLESS if rounds is None else rounds * self.workers
        return pushes, self.updates or ENDLESS, float("inf") if self.until is None else self.until
