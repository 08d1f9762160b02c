"""Local SGD, BMUF and DiLoCo: one recursion.

All workers start a block from the same weights theta. Each takes h steps with its own optimizer, which brings it to
theta_i, and pushes the pseudo-gradient ``theta - theta_i``. The store applies its rule, the outer optimizer, to the
mean d of the pseudo-gradients; the result is the theta of the next block, which everybody pulls.

======================  ==============================================================  ==============================
strategy                outer optimizer                                                 inner optimizer after a block
======================  ==============================================================  ==============================
`Local`                 SGD, rate 1: theta is the mean of the theta_i                   goes on
`BMUF`, classic         SGD with momentum mu, rate zeta                                 starts anew
`BMUF`, Nesterov        NAG with momentum mu, rate zeta                                 starts anew
`DiLoCo`                NAG with momentum mu, rate lr                                   goes on
======================  ==============================================================  ==============================

BMUF's paper keeps a model W that is never broadcast: ``D = mu * D + zeta * G``, ``W = W + D``, and broadcasts
``W + mu * D``. With G measured from the broadcast model, as here, the broadcast models are those of NAG on ``-G``:
``theta' - theta = D' + mu * D' - mu * D = mu * D' + zeta * G``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shoal.kvstore.arrays import Array
from shoal.ops.optim import NAG, SGD, Optimizer
from shoal.ops.optim.hyper import declare, flag, fraction, optional_real, positive, real, whole_number
from shoal.worker.strategies.base import Snapshot, Stepper, Strategy, needs_rounds, needs_store
from shoal.worker.strategies.gradient import local_store
from shoal.worker.strategies.registry import register
from shoal.worker.strategies.site import Site, States, copied

__all__ = ["BMUF", "BlockStepper", "DiLoCo", "Local"]

OUTER, START = "outer_", "theta"
"""In a checkpoint: what the names of the outer optimizer's states begin with, and what the block's start is called."""


def steps(default: int) -> int:
    """A field for a number of local steps."""
    field: int = declare(default, lambda v: whole_number(v, 1))
    return field


@register("local", "average")
@dataclass(kw_only=True)
class Local(Strategy):
    """Local SGD (Stich, arXiv:1805.09767): h local steps, then everybody takes the mean of the weights.

    Model averaging (McDonald et al., NAACL 2010) is the same thing; ``average`` is another name of it.

    Args:
        h: local steps between exchanges; 1 with plain SGD is synchronous SGD.
        lr: how far the global weights go towards the mean.
        reset: start the inner optimizer anew after each exchange.
    """

    h: int = steps(16)
    lr: float = real(1.0, "a number > 0", positive)
    reset: bool = flag(False)

    def steps_of(self, pushes: int) -> int:
        return pushes * self.h

    def bind(self, site: Site) -> Stepper:
        needs_store(self, site)
        needs_rounds(self, site)
        return BlockStepper(site, self.h, outer(self.lr, 0.0), self.reset)


@register("bmuf")
@dataclass(kw_only=True)
class BMUF(Strategy):
    """Blockwise model-update filtering, or block momentum (Chen, Huo: ICASSP 2016).

    Args:
        h: local steps to a block.
        mu: block momentum; by default 1 - 1/N for N workers.
        zeta: block learning rate.
        nesterov: broadcast the model that the momentum leads to.
        reset: start the inner optimizer anew with each block, as CNTK does.
    """

    h: int = steps(16)
    mu: float | None = optional_real("0 <= mu < 1", fraction)
    zeta: float = real(1.0, "a number > 0", positive)
    nesterov: bool = flag(True)
    reset: bool = flag(True)

    def steps_of(self, pushes: int) -> int:
        return pushes * self.h

    def bind(self, site: Site) -> Stepper:
        needs_store(self, site)
        needs_rounds(self, site)
        mu = 1.0 - 1.0 / site.workers if self.mu is None else self.mu
        return BlockStepper(site, self.h, outer(self.zeta, mu, self.nesterov), self.reset)


@register("diloco")
@dataclass(kw_only=True)
class DiLoCo(Strategy):
    """Distributed low-communication training (Douillard et al., arXiv:2311.08105).

    The paper's inner optimizer is AdamW, which the Trainer must be given.

    Args:
        h: inner steps to an outer one.
        lr: of the outer optimizer.
        mu: Nesterov momentum of the outer optimizer.
        reset: start the inner optimizer anew with each outer step.
    """

    h: int = steps(500)
    lr: float = real(0.7, "a number > 0", positive)
    mu: float = real(0.9, "0 <= mu < 1", fraction)
    reset: bool = flag(False)

    def steps_of(self, pushes: int) -> int:
        return pushes * self.h

    def bind(self, site: Site) -> Stepper:
        needs_store(self, site)
        needs_rounds(self, site)
        return BlockStepper(site, self.h, outer(self.lr, self.mu), self.reset)


def outer(lr: float, mu: float, nesterov: bool = True) -> Optimizer:
    """The store's rule for pseudo-gradients."""
    if not mu:
        return SGD(learning_rate=lr)
    return NAG(learning_rate=lr, momentum=mu) if nesterov else SGD(learning_rate=lr, momentum=mu)


class BlockStepper(Stepper):
    """h local steps, an exchange, and so on.

    Args:
        h: steps to a block.
        rule: the outer optimizer, which the store runs.
        reset: whether the inner optimizer starts anew after each exchange.
    """

    own_weights = True

    def __init__(self, site: Site, h: int, rule: Optimizer, reset: bool) -> None:
        super().__init__(site)
        self.h, self.rule, self.reset = h, rule, reset
        self.done = 0  # steps of the present block
        self._start: dict[str, Array] = {}  # theta

    def prepare(self) -> None:
        self.site.share(self.rule)
        self._start = copied(self.site.weights())

    def step(self, batch_size: int) -> None:
        self.site.update(self.site.gradients(batch_size))
        self.done += 1
        if self.done >= self.h:
            self.exchange()

    def exchange(self) -> None:
        """End the block: push the pseudo-gradients, and start the next one from what the store makes of them."""
        weights = self.site.weights()
        moved = {n: np.subtract(self._start[n], w, out=self.site.buffer(n, w)) for n, w in weights.items()}
        self.site.exchange(moved, weights)
        self._begin()

    def level(self) -> None:
        """A block that has begun counts as it is."""
        if self.done:
            self.exchange()

    def finish(self) -> None:
        self.level()
        super().finish()

    def read(self) -> None:
        super().read()
        self._begin()

    def _begin(self) -> None:
        for name, weight in self.site.weights().items():
            np.copyto(self._start[name], weight)
        if self.reset:
            self.site.states.clear()
        self.done = 0

    def snapshot(self) -> Snapshot:
        outer_states = local_store(self.site).optimizer_states()
        states: States = {}
        for name, start in self._start.items():
            t, inner = self.site.states.get(name, (0, {}))
            kept = {OUTER + slot: array for slot, array in outer_states[name][1].items()}
            states[name] = (t, {**inner, **kept, START: start})
        updates = {name: t for name, (t, _) in outer_states.items()}
        return Snapshot(states, {"outer_updates": updates, "block_steps": self.done})

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        store = local_store(self.site)
        outer_states: States = {}
        for name, (t, slots) in snapshot.states.items():
            np.copyto(self._start[name], slots[START])
            kept = {s.removeprefix(OUTER): array for s, array in slots.items() if s.startswith(OUTER)}
            outer_states[name] = (int(snapshot.meta["outer_updates"][name]), kept)
            inner = {s: array for s, array in slots.items() if s != START and not s.startswith(OUTER)}
            self.site.states.pop(name, None)
            if t:
                self.site.states[name] = (t, inner)
        store.restore(self._start, outer_states)
        self.done = int(snapshot.meta["block_steps"])
