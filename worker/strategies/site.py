"""What a strategy works with in one process: the parameters, the optimizer with its states, and the store."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.local import LocalKVStore
from shoal.ops.nn.parameter import Parameter
from shoal.ops.optim import Optimizer, State
from shoal.ops.optim.rows import step_rows
from shoal.ops.rows import RowSparse
from shoal.worker.strategies.flat import Flat, flattened

__all__ = ["Group", "Site", "States", "applies_at_once", "copied", "wait"]

Group: TypeAlias = tuple[str, ...]
"""Names of parameters that are pushed in one call."""

States: TypeAlias = dict[str, tuple[int, State]]
"""Update count and optimizer state by parameter name."""


class Site:
    """One Trainer's parameters, optimizer and store.

    Args:
        params: those that learn, each once, under the names of their keys; the first layer's first.
        optimizer: what the Trainer was given; a strategy may run it here or hand it to the store.
        store: None for a Trainer without one.
        on_store: whether the store applies the updates.
        correction: the rule that corrects contributions in the store; a spec of `shoal.kvstore.rules`.
        clock: seconds, on any clock that never goes back.
    Attributes:
        states: of the updates that are made here.
        given: states that the store's optimizer shall begin with, if it is not to begin anew.
        stale: parameters whose gradient is an old one, to be left out of this step.
        pushes: how often every parameter has been pushed.
    """

    def __init__(
        self,
        params: Mapping[str, Parameter],
        optimizer: Optimizer,
        store: KVStore | None,
        on_store: bool,
        correction: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.params, self.optimizer, self.clock = params, optimizer, clock
        self.on_store, self.correction = on_store, correction
        self.states: States = {}
        self.given: States = {}
        self.stale: frozenset[str] = frozenset()
        self.pushes = 0
        self._store = store
        self._buffers: dict[str, Array] = {}
        self._place = {n: i for i, n in enumerate(params)}

    @property
    def store(self) -> KVStore:
        """The store.

        Raises:
            ConfigError: there is none.
        """
        if self._store is None:
            raise ConfigError("no kvstore")
        return self._store

    @property
    def has_store(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    @property
    def workers(self) -> int:
        """How many workers share the store; 1 without a store."""
        return 1 if self._store is None else self._store.num_workers

    def weights(self) -> dict[str, Array]:
        """The memory of the parameters' values, by name."""
        return {n: p.current().data for n, p in self.params.items()}

    def scaled(self, name: str, batch_size: int) -> Any:
        """A parameter's gradient divided by the batch size, in a buffer of its own: a store may still be sending it.

        Zero for one that is `stale`. Of a parameter with a row-sparse gradient its rows, where they can be used; else
        the whole array.
        """
        p = self.params[name]
        p.current()  # once its value has come, the buffer is no longer being sent
        found = p.leaf().grad
        if isinstance(found, RowSparse):
            rows = found.scaled(0.0 if name in self.stale else 1.0 / batch_size)
            return rows if self.by_rows(name) else rows.dense()
        grad: Array = found.data
        scaled = self.buffer(name, grad)
        if name in self.stale:
            scaled[...] = 0
        else:
            np.multiply(grad, 1.0 / batch_size, out=scaled)
        return scaled

    def by_rows(self, name: str) -> bool:
        """Whether a parameter's gradient is used row by row: it is row-sparse, and so are the updates."""
        if self._store is not None and not (self.on_store and keeps_rows(self._store)):
            return False
        return isinstance(self.params[name].leaf().grad, RowSparse) and not self.optimizer.whole

    def gradients(self, batch_size: int) -> dict[str, Any]:
        """What `update` takes: `scaled`, of every parameter that is not stale."""
        return {n: self.thinned(n, self.scaled(n, batch_size)) for n in self.params if n not in self.stale}

    def thinned(self, name: str, grad: Any) -> Any:
        """A gradient that may have been through a store as a whole array: of one that is row-sparse the rows that are
        not zero, since those that occur nowhere are not to be updated."""
        lazy = self.optimizer.lazy_update and not self.optimizer.whole
        sparse = lazy and isinstance(self.params[name].leaf().grad, RowSparse) and not isinstance(grad, RowSparse)
        return RowSparse.from_dense(grad) if sparse else grad

    def buffer(self, name: str, like: Array) -> Array:
        """Memory for what is sent for a parameter: content undefined, the same at each call."""
        if self._store is None:
            _ = self._flats  # whose memory comes first
        if name not in self._buffers:
            self._buffers.update(self._rooms(name, like))
        return self._buffers[name]

    @cached_property
    def _flats(self) -> list[Flat]:
        """Parameters that one call updates together, where no store has to do with them; see `Flat`."""
        if self._store is not None:
            return []
        dense = [n for n in self.params if not self.by_rows(n)]
        flats = flattened(self.params, self.optimizer, dense)
        self._buffers.update({n: flat.views[n]["grad"] for flat in flats for n in flat.params})
        return flats

    def _rooms(self, name: str, like: Array) -> dict[str, Array]:
        """Memory for what is sent with this parameter, which servers on this host read in place, if there are any."""
        if self._store is None or not isinstance(like, np.ndarray):
            return {name: np.empty_like(like)}
        group = next(g for g in self.groups if name in g)
        likes = [self.params[n].current().data for n in group]
        return dict(zip(group, self._store.alloc_like(group, likes), strict=True))

    def update(self, grads: Mapping[str, Any]) -> None:
        """One step of the optimizer here, on the parameters that have a gradient in ``grads``."""
        done: set[str] = set()
        for flat in self._flats:
            if flat.step(self.optimizer, grads, self.states):
                done |= flat.params.keys()
        for name, grad in grads.items():
            if name in done:
                continue
            p = self.params[name]
            weight = p.current().data
            t, state = self.states.get(name) or (0, self.optimizer.init(weight))
            self.states[name] = (t + 1, state)
            step = partial(step_rows, self.optimizer) if isinstance(grad, RowSparse) else self.optimizer.step
            step(weight, grad, state, t + 1, lr_mult=p.lr_mult, wd_mult=p.wd_mult, name=name)

    @property
    def alone(self) -> LocalKVStore | None:
        """The store, if it is in this process, where nobody waits for a contribution."""
        return self._store if isinstance(self._store, LocalKVStore) and self._store.type == "local" else None

    def multipliers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Factors on rate and decay, where they are not 1."""
        lr = {n: p.lr_mult for n, p in self.params.items() if p.lr_mult != 1.0}
        wd = {n: p.wd_mult for n, p in self.params.items() if p.wd_mult != 1.0}
        return lr, wd

    # --- with the store -----------------------------------------------------------------------------------------------

    def share(
        self, rule: Optimizer | None, lr_mult: dict[str, float] | None = None, wd_mult: dict[str, float] | None = None
    ) -> None:
        """Give the store worker 0's weights and a rule, and all workers the store's weights."""
        weights = self.weights()
        names, values = list(weights), list(weights.values())
        apart = [n for n in names if self.by_rows(n)]
        together = [n for n in names if n not in apart]
        if together:
            self.store.init(together, [weights[n] for n in together], fuse=True, whole=rule is not None and rule.whole)
        if apart:
            self.store.init(apart, [weights[n] for n in apart], rows=True)
        if rule is not None:
            self.store.set_optimizer(rule, lr_mult, wd_mult, self.correction or None)
        if rule is not None and self.given:
            self.store.load_states({n: kept for n, kept in self.given.items() if n in weights})
            self.given = {}
        self.store.pull(names, values)

    @cached_property
    def groups(self) -> list[Group]:
        """Parameters that are pushed in one call: those that the store has fused; each of the others by itself.

        In the order of their first parameters, of which the first has the highest priority: it is needed first.
        """
        dense = {n: w.nbytes for n, w in self.weights().items() if not self.by_rows(n)}
        together = self.store.batches(dense)
        return sorted([*together, *((n,) for n in self.params if n not in dense)], key=lambda g: self._place[g[0]])

    def exchange(self, values: Mapping[str, Array], into: Mapping[str, Array]) -> None:
        """Push ``values``, pull ``into``, and wait."""
        self.pushes += 1
        wait([self.pushpull(g, [values[n] for n in g], [into[n] for n in g]) for g in self.groups])

    def pushpull(self, group: Group, values: list[Any], into: list[Array]) -> "Future[Any]":
        """Push ``values`` and pull ``into``; neither may be touched before the future is done."""
        place = self._place[group[0]]
        if isinstance(values[0], RowSparse):
            self.store.push_async(group[0], values[0], -place)
            return self.store.pull_async(group[0], into[0], -place)
        if len(group) == 1:
            return self.store.pushpull_async(group[0], values[0], into[0], priority=-place)
        return self.store.pushpull_async(group, values, into, priority=-place)

    def push(self, values: Mapping[str, Array]) -> None:
        """Push copies of ``values``, without waiting."""
        self.pushes += 1
        for group in self.groups:
            self.store.push_async(group, [values[n] for n in group], -self._place[group[0]])

    def read(self, into: Mapping[str, Array]) -> None:
        """Pull the store's values."""
        wait([self.store.pull_async(g, [into[n] for n in g], -self._place[g[0]]) for g in self.groups])


def keeps_rows(store: KVStore) -> bool:
    """Whether rows of a key can be pushed to the store."""
    if store.type.startswith("dist_device"):
        return False
    return store.type in ("local", "hogwild") or store.type.startswith("dist_")


def applies_at_once(store: KVStore) -> bool:
    """Whether the store applies each contribution as it comes, without gathering any."""
    if store.type.startswith("dist_"):
        return parse_gate(store.type.removeprefix("dist_").removeprefix("device_")).need == 1
    return store.type == "hogwild"


def wait(futures: "Iterable[Future[Any]]") -> None:
    """Wait for all of them."""
    for future in futures:
        future.result()


def copied(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Copies, by the same names."""
    return {n: w.copy() for n, w in weights.items()}
