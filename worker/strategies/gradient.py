"""The default: every gradient counts at once, on the store or here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.local import LocalKVStore
from shoal.worker import record
from shoal.worker.strategies.base import Snapshot, Stepper, Strategy
from shoal.worker.strategies.registry import register
from shoal.worker.strategies.site import Site, wait

__all__ = ["Gradient", "local_store"]


@register("gradient")
@dataclass(kw_only=True)
class Gradient(Strategy):
    """Push the gradient of every step, pull the weights: SGD, synchronous or not as the store's gate has it."""

    reduce: ClassVar[str] = ""

    def bind(self, site: Site) -> Stepper:
        if not site.has_store:
            return Alone(site)
        return OnStore(site) if site.on_store else Reduced(site)


class Alone(Stepper):
    """No store: the optimizer runs here."""

    def prepare(self) -> None:
        """Nobody to agree with."""

    def step(self, batch_size: int) -> None:
        self.site.update(self.site.gradients(batch_size))

    def read(self) -> None:
        """The weights here are the weights."""

    def snapshot(self) -> Snapshot:
        return Snapshot(self.site.states, {})

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        self.site.states = dict(snapshot.states)


class Reduced(Alone):
    """The store reduces the gradients, every worker makes the same update."""

    def prepare(self) -> None:
        self.site.share(None)
        record.current().weights = self.site.weights  # the store holds gradients

    def step(self, batch_size: int) -> None:
        grads = {n: self.site.scaled(n, batch_size) for n in self.site.contributing()}
        self.site.exchange(grads, grads)
        self.site.update(grads)

    def reduce_gradients(self) -> None:
        """Replace every gradient by its reduction over the workers."""
        grads = {n: p.leaf().grad.data for n, p in self.site.params.items()}
        self.site.exchange(grads, grads)


class OnStore(Stepper):
    """The store updates the weights."""

    def prepare(self) -> None:
        self.site.share(self.site.optimizer, *self.site.multipliers())

    def step(self, batch_size: int) -> None:
        site, weights = self.site, self.site.weights()
        wait(site.pushpull(n, site.scaled(n, batch_size), weights[n]) for n in site.contributing())

    def optimizer_changed(self) -> None:
        self.site.store.set_optimizer(self.site.optimizer, *self.site.multipliers())

    def snapshot(self) -> Snapshot:
        return Snapshot(local_store(self.site).optimizer_states(), {})

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        local_store(self.site).restore(params, snapshot.states)


def local_store(site: Site) -> LocalKVStore:
    """The store, whose states can be saved and restored because it is in this process.

    Raises:
        ConfigError: it is not.
    """
    store: Any = site.store
    if not isinstance(store, LocalKVStore):
        raise ConfigError(
            "the optimizer's states are on the servers; save the weights with net.save_parameters(), "
            "or train with update_on_kvstore=False to keep the states here"
        )
    return store
