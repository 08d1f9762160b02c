"""What every strategy is: a description by name and numbers, and the object that carries it out for one Trainer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.gates import Gate, parse_gate
from shoal.ops.optim.hyper import Hyper
from shoal.worker.strategies.site import Site, States

__all__ = ["Snapshot", "Stepper", "Strategy", "gate_of", "needs_every_push", "needs_rounds", "needs_store"]


@dataclass(kw_only=True)
class Strategy(Hyper, ABC):
    """What a worker does at each step with its gradients, its optimizer and the store.

    A subclass is a dataclass of numbers, registered with `shoal.worker.strategies.register`; `bind` makes the object
    that does the work.
    """

    kind: ClassVar[str] = "strategy"
    reduce: ClassVar[str] = "mean"
    """What the store must do with the contributions of a round: "mean", "sum", or "" if either will do."""

    def __str__(self) -> str:
        """The text that `parse` reads: ``"diloco:h=500,lr=0.7,mu=0.9"``."""
        values = ",".join(f"{k}={str(v).lower()}" for k, v in self.hyper_parameters().items())
        return f"{self.name}:{values}" if values else self.name

    @abstractmethod
    def bind(self, site: Site) -> "Stepper":
        """The object that carries this out with the parameters and the store of ``site``.

        Raises:
            ConfigError: the store or the optimizer is of a kind with which it cannot work; says which, and why.
        """

    def steps_of(self, pushes: int) -> int:
        """How many training steps a worker has contributed that has pushed so often: here, one each."""
        return pushes


@dataclass(frozen=True)
class Snapshot:
    """What a stepper must remember beside the parameters: update counts and arrays by parameter, and numbers.

    Args:
        params: the global weights in the same state, where a store has them; None: those of the parameters.
    """

    states: States
    meta: Mapping[str, Any]
    params: Mapping[str, Array] | None = None


class Stepper(ABC):
    """A strategy at work in one Trainer."""

    own_weights: ClassVar[bool] = False
    """Whether the parameters are this worker's own between exchanges, and differ from those in the store."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @abstractmethod
    def prepare(self) -> None:
        """Once, when every parameter has a value: equal weights everywhere, the store ready."""

    @abstractmethod
    def step(self, batch_size: int) -> None:
        """The gradients of a batch are there: use them."""

    def overlap(self, batch_size: int) -> AbstractContextManager[None]:
        """A context for a backward pass, in which gradients leave as soon as they are final, where that is possible."""
        return nullcontext()

    def finish(self) -> None:
        """Training is over: contribute what has not been contributed yet, and wait until it is counted."""
        self.site.store.flush()

    def level(self) -> None:
        """The set of workers is about to change: contribute what only this worker has, so that its steps count."""
        return

    def read(self) -> None:
        """Take over the store's weights, as this worker's clock may see them; own weights are given up."""
        self.site.read(self.site.weights())

    def optimizer_changed(self) -> None:
        """``site.optimizer`` is another one, of the same name. One that runs here is simply used from now on."""
        return

    def kept(self) -> Snapshot:
        """What a checkpoint of the run holds: the global weights, and what the optimizer keeps that updates them."""
        store = self.site.store
        if not store.is_capable("states"):
            return Snapshot({}, {})
        shot = store.snapshot(list(self.site.params), states=True)
        return Snapshot(shot.states, {}, shot)

    def begin_from(self, states: States) -> None:
        """Before `prepare`: let the optimizer that updates the global weights begin with these states, not anew."""
        self.site.given = states

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """What a checkpoint must hold beside the parameters.

        Raises:
            ConfigError: a part of it is on the servers of a cluster.
        """

    @abstractmethod
    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        """Go on from a checkpoint; the parameters have ``params`` already. Raises as `snapshot`."""


def needs_store(strategy: Strategy, site: Site) -> None:
    """Raise unless the site has a store that updates and reduces as the strategy needs it.

    Raises:
        ConfigError: says what to change.
    """
    if not site.has_store:
        raise ConfigError(f"strategy {strategy.name!r} exchanges weights through a kvstore, got kvstore=None")
    if not site.store.is_capable("optimizer"):
        raise ConfigError(
            f"strategy {strategy.name!r} needs a store that updates its values; {site.store!r} only reduces"
        )
    if not site.on_store:
        raise ConfigError(
            f"strategy {strategy.name!r} needs the store to combine the workers' weights, got update_on_kvstore=False: "
            "leave it out; the optimizer runs on the workers anyway"
        )
    if strategy.reduce and site.store.reduce != strategy.reduce:
        raise ConfigError(
            f"strategy {strategy.name!r} needs a store with reduce={strategy.reduce!r}, got {site.store!r}: create it "
            f"with shoal.kv.create(..., reduce={strategy.reduce!r}), or let the Trainer make it"
        )


def needs_rounds(strategy: Strategy, site: Site) -> None:
    """Raise unless the store reduces the contributions of several workers before it applies them.

    Raises:
        ConfigError: says what to use instead.
    """
    gate = gate_of(site.store)
    if site.workers > 1 and gate is not None and not (gate.rounds or (gate.waits and gate.late == "drop")):
        raise ConfigError(
            f"strategy {strategy.name!r} takes the mean of the workers' weights; in {site.store!r} each worker would "
            "move the model by its whole way. Use a synchronous store, or the strategy async-diloco or easgd"
        )


def needs_every_push(strategy: Strategy, site: Site) -> None:
    """Raise if the store may drop a contribution.

    Raises:
        ConfigError: says what to use instead.
    """
    gate = gate_of(site.store)
    if gate is not None and (gate.late == "drop" or gate.max_staleness is not None):
        raise ConfigError(
            f"strategy {strategy.name!r} moves worker and centre by the same difference, and {site.store!r} may drop "
            "it at one end. Use mode sync, async or ssp:S"
        )


def gate_of(store: KVStore) -> Gate | None:
    """The gate of a store that has one."""
    if store.type.startswith("dist_"):
        return parse_gate(store.type.removeprefix("dist_").removeprefix("device_"))
    return parse_gate("asp") if store.type == "hogwild" else None
