"""The default: every gradient counts at once, on the store or here."""

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.local import LocalKVStore
from shoal.worker import record
from shoal.worker.strategies.base import Snapshot, Stepper, Strategy
from shoal.worker.strategies.overlap import Outbox
from shoal.worker.strategies.registry import register
from shoal.worker.strategies.site import Site, States, wait

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

    def kept(self) -> Snapshot:
        return self.snapshot()

    def begin_from(self, states: States) -> None:
        self.site.states = dict(states)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.site.states, {})

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        self.site.states = dict(snapshot.states)


class Reduced(Alone):
    """The store reduces the gradients, every worker makes the same update."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._outbox = Outbox(site, self._place)

    def prepare(self) -> None:
        self.site.share(None)
        record.current().weights = self.site.weights  # the store holds gradients

    def _place(self, name: str) -> Array:
        """Where a reduced gradient goes: where it came from."""
        return self.site.buffer(name, self.site.params[name].current().data)

    def overlap(self, batch_size: int) -> AbstractContextManager[None]:
        return self._outbox.opened(batch_size) if gains(self.site) else nullcontext()

    def step(self, batch_size: int) -> None:
        sent, _ = self._outbox.complete(batch_size, self._place)
        wait(sent.values())
        left_out = frozenset[str]() if self.site.alone is None else self.site.stale
        site = self.site
        site.update({n: site.thinned(n, self._place(n)) for n in site.params if n not in left_out})

    def reduce_gradients(self) -> None:
        """Replace every gradient by its reduction over the workers."""
        leaves = {n: p.leaf() for n, p in self.site.params.items()}
        grads = {n: leaf.grad.data if leaf.receive is None else leaf.grad.dense() for n, leaf in leaves.items()}
        self.site.exchange(grads, grads)
        for name, leaf in leaves.items():
            if leaf.receive is not None:
                leaf.receive(grads[name], False)


class OnStore(Stepper):
    """The store updates the weights."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._outbox = Outbox(site, self._landing)
        self._landings: dict[str, Array] = {}
        self._written: dict[str, int] = {}

    def prepare(self) -> None:
        self.site.share(self.site.optimizer, *self.site.multipliers())
        self._written = {n: p.written for n, p in self.site.params.items()}

    def _take_writes(self, weights: Mapping[str, Array]) -> None:
        """Weights that the script has written meanwhile are the weights, where the store is in this process.

        Raises:
            ConfigError: they are on the servers, and what was written would be lost without a word.
        """
        if self.site.alone is not None:
            self.site.alone.adopt(weights)
            return
        written = [n for n, p in self.site.params.items() if p.written != self._written[n]]
        if written:
            raise ConfigError(
                f"{written[0]!r} was written (set_data, load_parameters, initialize) after the first step: the weights "
                f"of {self.site.store!r} would replace yours. Write them before the first step, begin a new run with "
                "them, or train with update_on_kvstore=False"
            )

    def _landing(self, name: str) -> Array:
        """Where a weight goes that comes before the step."""
        if name not in self._landings:
            self._landings[name] = np.empty_like(self.site.params[name].current().data)
        return self._landings[name]

    def overlap(self, batch_size: int) -> AbstractContextManager[None]:
        return self._outbox.opened(batch_size) if gains(self.site) else nullcontext()

    def step(self, batch_size: int) -> None:
        weights = self.site.weights()
        self._take_writes(weights)
        alone = self.site.alone
        with nullcontext() if alone is None else alone.leaving_out(self.site.stale):
            sent, early = self._outbox.complete(batch_size, weights.__getitem__)
        if not early:
            wait(sent.values())
        for group, future in sent.items() if early else ():
            for name in group:
                landed = self._landings[name] if group in early else None
                self.site.params[name].arrives(partial(take_over, future, weights[name], landed))

    def optimizer_changed(self) -> None:
        self.site.store.set_optimizer(self.site.optimizer, *self.site.multipliers(), self.site.correction or None)

    def snapshot(self) -> Snapshot:
        if not self.site.store.is_capable("states"):
            raise ConfigError(f"{self.site.store!r} does not tell what its optimizer keeps: save net.save_parameters()")
        return self.kept()

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        local_store(self.site).restore(params, snapshot.states)


def gains(site: Site) -> bool:
    """Whether the store answers later than at once, so that there is something to overlap with."""
    return site.store.type != "local"


def take_over(future: "Future[Any]", weight: Array, landed: Array | None) -> None:
    """Wait for a weight, and put it in its place."""
    future.result()
    if landed is not None:
        np.copyto(weight, landed)


def local_store(site: Site) -> LocalKVStore:
    """The store, whose states can be saved and restored because it is in this process.

    Raises:
        ConfigError: it is not.
    """
    if site.alone is None:
        raise ConfigError(
            "weights and the optimizer's states are on the servers: load states before the first step. Of a strategy "
            "with local steps shoal.fit keeps what is global (docs/cloud.md); save the rest with net.save_parameters()"
        )
    return site.alone
