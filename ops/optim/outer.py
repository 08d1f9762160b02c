"""Rules for contributions that are no gradients: differences of weights after many local steps, and plain sums.

The outer rules of Local SGD, BMUF and DiLoCo are `SGD` and `NAG`; here is what they need beyond those.
"""

from dataclasses import dataclass
from typing import ClassVar

from shoal.ops.optim.hyper import fraction, real, whole
from shoal.ops.optim.optimizer import Optimizer, State, Work, register

__all__ = ["DN", "Accumulate"]


@register
@dataclass(kw_only=True)
class DN(Optimizer):
    """Delayed Nesterov: the outer rule of asynchronous DiLoCo (Liu et al., arXiv:2401.09135, algorithm 3).

    Every contribution moves the value at once; the momentum is renewed by every ``n``-th one only, from the mean of
    the last ``n``. Applied to each contribution, Nesterov's momentum would count it ``1 / (1 - beta)`` times, ``n``
    times as often as in a synchronous run.

    Contribution ``g`` number ``t``: ``D += g``; then, if ``n`` divides ``t``, ``m = beta * m + D / n``,
    ``w -= lr * (beta * m + g / n)`` and ``D = 0``; else ``w -= lr * g / n``. If the ``n`` contributions
    were made of one and the same value, the value after them is that of `NAG` on their mean.

    Args:
        beta: factor of the momentum, in [0, 1).
        n: contributions to a momentum: the number of workers.
        wd: 0, because weights decay in the workers' own steps.
    """

    wd: float = real(0.0, "0, because this rule has no weight decay", lambda v: v == 0.0)
    beta: float = real(0.9, "0 <= beta < 1", fraction)
    n: int = whole(1, "an integer >= 1", lambda v: v >= 1)

    default_lr: ClassVar[float] = 0.7

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0, "sum": 0.0}

    def update(self, work: Work, state: State) -> None:
        momentum, total, step = state["momentum"], state["sum"], work.g
        total += step
        step /= self.n
        if work.t % self.n == 0:
            total /= self.n
            momentum *= self.beta
            momentum += total
            total[...] = 0
            work.xp.multiply(momentum, self.beta, out=work.tmp)
            step += work.tmp
        step *= work.lr
        work.w -= step


@register
@dataclass(kw_only=True)
class Accumulate(Optimizer):
    """Add contributions up: ``w += lr * g`` with a rate of 1. The centre of EASGD, whose workers push elastic forces.

    Args:
        wd: 0, because nothing but contributions changes the value.
    """

    wd: float = real(0.0, "0, because this rule has no weight decay", lambda v: v == 0.0)

    default_lr: ClassVar[float] = 1.0

    def slots(self) -> dict[str, float]:
        return {}

    def update(self, work: Work, state: State) -> None:
        if work.lr != 1.0:
            work.g *= work.lr
        work.w += work.g
