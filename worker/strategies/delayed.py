"""Asynchronous DiLoCo (Liu et al., arXiv:2401.09135): delayed Nesterov momentum, shorter blocks for slower workers.

A worker pushes its pseudo-gradient when its block is done and goes on from what the store has then; nobody waits. The
store runs `shoal.optim.DN`. Slow workers take fewer steps (dynamic local updates, DyLU), so that the pseudo-gradients
of all are about equally old: worker i takes ``floor(h * speed_i / max speed)`` steps, at least 1.
"""

from dataclasses import dataclass

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.ops.optim import DN, Accumulate, Optimizer
from shoal.ops.optim.hyper import flag, fraction, positive, real
from shoal.worker.strategies.base import Stepper, Strategy, needs_store
from shoal.worker.strategies.blocks import BlockStepper, steps
from shoal.worker.strategies.registry import register
from shoal.worker.strategies.site import Site, applies_at_once

__all__ = ["AsyncDiLoCo", "PacedStepper", "Speeds"]


@register("async-diloco", "dn")
@dataclass(kw_only=True)
class AsyncDiLoCo(Strategy):
    """DiLoCo without rounds; needs an asynchronous store, or a single worker.

    Args:
        h: inner steps of the fastest worker to an outer one.
        lr: of the outer optimizer; the paper's epsilon.
        beta: outer momentum.
        dylu: let slower workers take fewer steps; False gives every worker h.
        reset: start the inner optimizer anew with each block.
    """

    h: int = steps(500)
    lr: float = real(0.7, "a number > 0", positive)
    beta: float = real(0.9, "0 <= beta < 1", fraction)
    dylu: bool = flag(True)
    reset: bool = flag(False)

    def steps_of(self, pushes: int) -> int:
        """At most: a slow worker's blocks are shorter, if ``dylu`` is set."""
        return pushes * self.h

    def bind(self, site: Site) -> Stepper:
        needs_store(self, site)
        if site.workers > 1 and not applies_at_once(site.store):
            raise ConfigError(
                "strategy 'async-diloco' applies every worker's contribution as it comes; this store is "
                f"{site.store!r}. Start the run with --mode async, or use 'diloco', which is the synchronous one"
            )
        rule = DN(learning_rate=self.lr, beta=self.beta, n=site.workers)
        if self.dylu and site.workers > 1:
            return PacedStepper(site, self.h, rule, self.reset)
        return BlockStepper(site, self.h, rule, self.reset)


class Speeds:
    """Steps per second of every worker, which they tell each other through a store of their own.

    The store adds: each worker changes its own element by what is missing, and nobody else's.
    """

    KEY = "steps per second"

    def __init__(self, store: KVStore) -> None:
        self._store = store
        store.init(self.KEY, np.zeros(store.num_workers))
        store.set_optimizer(Accumulate())

    def exchange(self, own: float) -> Array:
        """Tell ``own``; the speeds of all by rank, 0 for a worker that has not told its own yet."""
        speeds: Array = self._store.pull(self.KEY)
        if self._store.rank >= len(speeds):  # it has joined later: nobody has room for its speed
            return speeds
        change = np.zeros_like(speeds)
        change[self._store.rank] = own - speeds[self._store.rank]
        self._store.push(self.KEY, change).result()
        speeds[self._store.rank] = own
        return speeds


class PacedStepper(BlockStepper):
    """Blocks whose length follows the worker's speed, measured over its last block; the first one has h steps."""

    def __init__(self, site: Site, h: int, rule: Optimizer, reset: bool) -> None:
        super().__init__(site, h, rule, reset)
        self._longest, self._began = h, 0.0
        self._speeds: Speeds | None = None

    def prepare(self) -> None:
        super().prepare()
        try:
            store = self.site.store.private("asp", "sum")
        except ConfigError as e:
            raise ConfigError(
                f"async-diloco tells speeds through a store of their own: {e}. Give it dylu=false."
            ) from e
        self._speeds = Speeds(store)
        self._began = self.site.clock()

    def exchange(self) -> None:
        seconds = self.site.clock() - self._began
        if seconds > 0.0 and self._speeds is not None:
            self.h = pace(self._longest, self.done / seconds, self._speeds.exchange(self.done / seconds))
        super().exchange()
        self._began = self.site.clock()


def pace(longest: int, own: float, all_speeds: Array) -> int:
    """How many local steps a worker takes that makes ``own`` steps per second: DyLU's ``floor(H * speed / max)``.

    >>> pace(100, 2.0, np.array([2.0, 8.0]))
    25
    """
    fastest = max(own, float(np.max(all_speeds)))
    return max(1, int(longest * (own / fastest)))
