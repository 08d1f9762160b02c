"""Elastic averaging: workers explore by themselves, tied to a common centre by springs (Zhang et al., arXiv:1412.6651).

Every tau-th step a worker reads the centre c and computes the elastic difference ``e = a * (x - c)``, a = beta / N.
It moves by ``-e`` beside its gradient step, the centre by ``+e``: both use x and c as they were before. The store adds
the differences up; whether the workers do so in rounds (synchronous EASGD) or as they come is the store's gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.ops.optim import SGD, Accumulate
from shoal.ops.optim.hyper import real
from shoal.worker.strategies.base import Snapshot, Stepper, Strategy, needs_every_push, needs_store
from shoal.worker.strategies.blocks import steps
from shoal.worker.strategies.gradient import local_store
from shoal.worker.strategies.registry import register
from shoal.worker.strategies.site import Site, copied

__all__ = ["EAMSGD", "EASGD", "ElasticStepper", "NesterovStepper"]

CENTRE = "centre"
"""What the centre is called beside the optimizer's states in a checkpoint."""


@register("easgd")
@dataclass(kw_only=True)
class EASGD(Strategy):
    """Elastic averaging SGD; the trained model is the centre. The optimizer is the workers' own.

    Args:
        tau: steps between exchanges.
        beta: N * a, the sum of all springs on the centre.
    """

    reduce: ClassVar[str] = "sum"

    tau: int = steps(8)
    beta: float = real(0.9, "0 < beta <= 1", lambda v: 0.0 < v <= 1.0)

    def steps_of(self, pushes: int) -> int:
        return pushes * self.tau

    def bind(self, site: Site) -> Stepper:
        needs_store(self, site)
        needs_every_push(self, site)
        return ElasticStepper(site, self.tau, self.beta / site.workers)


@register("eamsgd")
@dataclass(kw_only=True)
class EAMSGD(EASGD):
    """EASGD whose workers use Nesterov's momentum; needs SGD, whose momentum it sets.

    Args:
        mu: the momentum; the paper's delta.
    """

    mu: float = real(0.99, "0 < mu < 1", lambda v: 0.0 < v < 1.0)

    def bind(self, site: Site) -> Stepper:
        if not isinstance(site.optimizer, SGD):
            raise ConfigError(
                f"strategy 'eamsgd' is SGD with Nesterov's momentum on every worker, got the optimizer "
                f"{site.optimizer.name!r}: use 'sgd', or 'easgd', which works with any optimizer"
            )
        needs_store(self, site)
        needs_every_push(self, site)
        site.optimizer = replace(site.optimizer, momentum=self.mu, nesterov=True)
        return NesterovStepper(site, self.tau, self.beta / site.workers)


class ElasticStepper(Stepper):
    """A step of the optimizer here, and every tau-th time an exchange of forces with the centre.

    Args:
        tau: steps between exchanges.
        a: stiffness of the spring.
    """

    own_weights = True

    def __init__(self, site: Site, tau: int, a: float) -> None:
        super().__init__(site)
        self.tau, self.a = tau, a
        self.done = 0
        self._centre: dict[str, Array] = {}

    def prepare(self) -> None:
        self.site.share(Accumulate())
        self._centre = copied(self.site.weights())

    def step(self, batch_size: int) -> None:
        self.done += 1
        forces = self._forces() if self.done % self.tau == 0 else {}
        self.site.update(self.site.gradients(batch_size))
        for name, weight in self.site.weights().items():
            if name in forces:
                weight -= forces[name]

    def level(self) -> None:
        """An exchange before its time; the next one is tau steps later."""
        if self.done % self.tau:
            forces = self._forces()
            for name, weight in self.site.weights().items():
                weight -= forces[name]
        self.done = 0

    def _forces(self) -> dict[str, Array]:
        """Push the elastic differences, and return them."""
        self.site.read(self._centre)
        forces = self._centre  # they take its place in memory
        for name, place in self.places().items():
            force = np.subtract(place, forces[name], out=forces[name])
            force *= self.a
        self.site.push(forces)
        return forces

    def places(self) -> dict[str, Array]:
        """Where the springs are fastened, by parameter."""
        return self.site.weights()

    def snapshot(self) -> Snapshot:
        local_store(self.site)
        self.site.read(self._centre)
        states = {}
        for name, centre in self._centre.items():
            t, state = self.site.states.get(name, (0, {}))
            states[name] = (t, {**state, CENTRE: centre})
        return Snapshot(states, {"elastic_steps": self.done})

    def restore(self, params: Mapping[str, Array], snapshot: Snapshot) -> None:
        centres = {n: slots[CENTRE] for n, (_, slots) in snapshot.states.items()}
        local_store(self.site).restore(centres, {})
        own = {n: (t, {s: v for s, v in slots.items() if s != CENTRE}) for n, (t, slots) in snapshot.states.items()}
        self.site.states = {n: (t, state) for n, (t, state) in own.items() if t}
        self.done = int(snapshot.meta["elastic_steps"])


class NesterovStepper(ElasticStepper):
    """With momentum the springs are fastened to x, and the parameters hold the point ``x + mu * v`` ahead of it, at
    which gradients are taken; ``v = -rate * m`` for the momentum m of `SGD`."""

    def places(self) -> dict[str, Array]:
        return {n: self._behind(n, weight) for n, weight in self.site.weights().items()}

    def _behind(self, name: str, ahead: Array) -> Array:
        if name not in self.site.states:
            return ahead
        t, state = self.site.states[name]
        rate = self.site.optimizer.rate(t) * self.site.params[name].lr_mult
        place: Array = ahead + self._momentum() * rate * state["momentum"]
        return place

    def _momentum(self) -> float:
        rule = self.site.optimizer
        return rule.momentum if isinstance(rule, SGD) else 0.0
