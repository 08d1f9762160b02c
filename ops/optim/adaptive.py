"""Update rules with a rate for each element, beyond `Adam`, `AdaGrad` and `RMSProp`.

Formulas are torch.optim's where it has the rule (Adamax, NAdam, Adadelta), else MXNet 2's (AdaBelief, Ftrl, FTML).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from shoal.ops.optim.hyper import flag, fraction, not_negative, positive, real
from shoal.ops.optim.optimizer import Optimizer, State, Work, register

__all__ = ["FTML", "AdaBelief", "AdaDelta", "Adamax", "Ftrl", "Nadam"]


@register
@dataclass(kw_only=True)
class Adamax(Optimizer):
    """Adam with the infinity norm in the place of the variance (Kingma, Ba: arXiv:1412.6980, section 7).

    ``m = beta1 * m + (1 - beta1) * g``, ``u = max(beta2 * u, |g| + epsilon)``, ``w -= lr / (1 - beta1^t) * m / u``.

    Args:
        beta1, beta2: factors of the average and of the norm.
        epsilon: keeps the division finite; MXNet has none, and gives NaN for an element without gradient.
    """

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-8, "a number > 0", positive)

    default_lr: ClassVar[float] = 0.002

    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "norm": 0.0}

    def update(self, work: Work, state: State) -> None:
        xp, tmp, mean, norm = work.xp, work.tmp, state["mean"], state["norm"]
        work.decay_gradient()
        work.average(mean, self.beta1)
        xp.absolute(work.g, out=tmp)
        tmp += self.epsilon
        norm *= self.beta2
        xp.maximum(norm, tmp, out=norm)
        xp.divide(mean, norm, out=tmp)
        tmp *= work.lr / (1.0 - self.beta1**work.t)
        work.w -= tmp


@lru_cache(maxsize=256)
def _momentum_product(beta1: float, decay: float, t: int) -> float:
    """The product of Nadam's momenta of updates 1 to ``t``; 0 once it is too small to matter beside 1."""
    product = 1.0
    for i in range(1, t + 1):
        product *= _momentum(beta1, decay, i)
        if product < 1e-20:
            return 0.0
    return product


def _momentum(beta1: float, decay: float, t: int) -> float:
    return beta1 * (1.0 - 0.5 * math.pow(0.96, t * decay))


@register
@dataclass(kw_only=True)
class Nadam(Optimizer):
    """Adam with Nesterov's momentum, which is warmed up (Dozat 2016).

    With ``mu(t) = beta1 * (1 - 0.96^(t * schedule_decay) / 2)``:
    ``w -= lr * ((1 - mu(t)) / (1 - P(t)) * g + mu(t + 1) / (1 - P(t + 1)) * m) / (sqrt(v / (1 - beta2^t)) + epsilon)``,
    where P(t) is the product of mu(1) to mu(t).

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite.
        schedule_decay: how fast the momentum is warmed up.
    """

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-8, "a number >= 0", not_negative)
    schedule_decay: float = real(0.004, "a number >= 0", not_negative)

    default_lr: ClassVar[float] = 0.001

    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "variance": 0.0}

    def update(self, work: Work, state: State) -> None:
        mean, variance = state["mean"], state["variance"]
        work.decay_gradient()
        work.average(mean, self.beta1)
        work.average_square(variance, self.beta2)
        of_gradient, of_mean = self._weights(work.t)
        scale = work.xp.sqrt(variance, out=work.tmp)
        scale /= math.sqrt(1.0 - self.beta2**work.t)
        scale += self.epsilon
        work.g /= scale
        work.g *= work.lr * of_gradient
        work.w -= work.g
        work.xp.divide(mean, scale, out=scale)
        scale *= work.lr * of_mean
        work.w -= scale

    def _weights(self, t: int) -> tuple[float, float]:
        now, after = _momentum(self.beta1, self.schedule_decay, t), _momentum(self.beta1, self.schedule_decay, t + 1)
        product = _momentum_product(self.beta1, self.schedule_decay, t)
        return (1.0 - now) / (1.0 - product), after / (1.0 - product * after)


@register
@dataclass(kw_only=True)
class AdaBelief(Optimizer):
    """Adam that divides by how far gradients are from their average (Zhuang et al.: arXiv:2010.07468).

    ``m = beta1 * m + (1 - beta1) * g``, ``s = beta2 * s + (1 - beta2) * (g - m)^2 + epsilon``,
    ``w -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(s) + epsilon)``.

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite; it is added at both places, as in MXNet.
        correct_bias: the factor of the rate; False leaves it out.
    """

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-6, "a number >= 0", not_negative)
    correct_bias: bool = flag(True)

    default_lr: ClassVar[float] = 0.001

    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "variance": 0.0}

    def update(self, work: Work, state: State) -> None:
        mean, variance, tmp = state["mean"], state["variance"], work.tmp
        work.decay_gradient()
        work.average(mean, self.beta1)
        work.g -= mean
        work.average_square(variance, self.beta2)
        variance += self.epsilon
        work.xp.sqrt(variance, out=tmp)
        tmp += self.epsilon
        work.xp.divide(mean, tmp, out=tmp)
        tmp *= work.lr * self._correction(work.t)
        work.w -= tmp

    def _correction(self, t: int) -> float:
        return math.sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t) if self.correct_bias else 1.0


@register
@dataclass(kw_only=True)
class AdaDelta(Optimizer):
    """Steps as large as the past ones, measured against past gradients (Zeiler: arXiv:1212.5701).

    ``v = rho * v + (1 - rho) * g^2``, ``d = sqrt(u + epsilon) / sqrt(v + epsilon) * g``,
    ``u = rho * u + (1 - rho) * d^2``, ``w -= lr * d``.

    Args:
        rho: factor of both averages.
        epsilon: the square of the first steps.
    """

    rho: float = real(0.9, "0 <= rho < 1", fraction)
    epsilon: float = real(1e-6, "a number > 0", positive)

    default_lr: ClassVar[float] = 1.0

    def slots(self) -> dict[str, float]:
        return {"square": 0.0, "delta": 0.0}

    def update(self, work: Work, state: State) -> None:
        xp, tmp, square, delta = work.xp, work.tmp, state["square"], state["delta"]
        work.decay_gradient()
        work.average_square(square, self.rho)
        xp.add(square, self.epsilon, out=tmp)
        xp.sqrt(tmp, out=tmp)
        work.g /= tmp
        xp.add(delta, self.epsilon, out=tmp)
        xp.sqrt(tmp, out=tmp)
        work.g *= tmp
        work.average_square(delta, self.rho)
        work.g *= work.lr
        work.w -= work.g


@register
@dataclass(kw_only=True)
class Ftrl(Optimizer):
    """Follow the regularised leader: sparse weights, for sparse features (McMahan et al., KDD 2013).

    ``z += g - (sqrt(n + g^2) - sqrt(n)) * w / lr``, ``n += g^2``,
    ``w = -sign(z) * max(|z| - lamda1, 0) / ((beta + sqrt(n)) / lr + wd)``. An update with a rate of 0 changes nothing.

    Args:
        lamda1: the L1 regularisation that makes weights exactly 0 (MXNet's spelling).
        beta: bounds the first rates.
    """

    lamda1: float = real(0.01, "a number >= 0", not_negative)
    beta: float = real(1.0, "a number > 0", positive)

    default_lr: ClassVar[float] = 0.1

    def slots(self) -> dict[str, float]:
        return {"z": 0.0, "n": 0.0}

    def update(self, work: Work, state: State) -> None:
        if work.lr == 0.0:
            return
        xp, tmp, z, n = work.xp, work.tmp, state["z"], state["n"]
        z += work.g
        xp.sqrt(n, out=tmp)
        work.g *= work.g
        n += work.g
        root = xp.sqrt(n, out=work.g)
        xp.subtract(root, tmp, out=tmp)
        tmp *= work.w
        tmp /= work.lr
        z -= tmp
        xp.absolute(z, out=tmp)
        tmp -= self.lamda1
        xp.maximum(tmp, 0.0, out=tmp)
        root += self.beta
        root /= work.lr
        root += work.wd
        tmp /= root
        xp.copysign(tmp, z, out=tmp)
        xp.negative(tmp, out=work.w)


@register
@dataclass(kw_only=True)
class FTML(Optimizer):
    """Follow the moving leader (Zheng, Kwok: ICML 2017).

    ``v = beta2 * v + (1 - beta2) * g^2``, ``d' = (1 - beta1^t) / lr * (sqrt(v / (1 - beta2^t)) + epsilon)``,
    ``z = beta1 * z + (1 - beta1) * g - (d' - beta1 * d) * w``, ``w = -z / d'``. An update with a rate of 0 changes
    nothing.

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite.
    """

    beta1: float = real(0.6, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-8, "a number > 0", positive)

    default_lr: ClassVar[float] = 0.0025

    def slots(self) -> dict[str, float]:
        return {"d": 0.0, "variance": 0.0, "z": 0.0}

    def update(self, work: Work, state: State) -> None:
        if work.lr == 0.0:
            return
        xp, tmp, d, variance, z = work.xp, work.tmp, state["d"], state["variance"], state["z"]
        work.decay_gradient()
        work.average_square(variance, self.beta2)
        work.average(z, self.beta1)
        xp.sqrt(variance, out=tmp)
        tmp /= math.sqrt(1.0 - self.beta2**work.t)
        tmp += self.epsilon
        tmp *= (1.0 - self.beta1**work.t) / work.lr
        d *= -self.beta1
        d += tmp
        d *= work.w
        z -= d
        d[...] = tmp
        xp.divide(z, tmp, out=tmp)
        xp.negative(tmp, out=work.w)
