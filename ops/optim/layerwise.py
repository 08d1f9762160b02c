"""Update rules with a rate for each parameter, in proportion to its norm: for large batches.

They need norms of the whole parameter (`Optimizer.whole`), so a store must not cut it. Formulas are those of the papers
and of MXNet 2; as everywhere in `shoal.ops.optim`, momentum is kept free of the global rate.

A parameter with ``wd_mult=0`` is not scaled: biases and the parameters of normalisation layers, whose norms mean
nothing, are exempt from both weight decay and scaling by one setting.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from shoal.ops.optim.hyper import flag, fraction, not_negative, optional_real, positive, real
from shoal.ops.optim.optimizer import Array, Optimizer, State, Work, register

__all__ = ["LAMB", "LANS", "LARS"]


@register
@dataclass(kw_only=True)
class LARS(Optimizer):
    """SGD with a rate for each parameter in proportion to its norm (You, Gitman, Ginsburg: arXiv:1708.03888).

    ``r = eta * |w| / (|g| + wd * |w| + epsilon)``, ``m = momentum * m + r * (g + wd * w)``, ``w -= lr * m``; r is
    1 if a norm is 0, or ``wd_mult`` is.

    Args:
        momentum: in [0, 1); states: ``momentum`` if it is not 0.
        eta: the trust coefficient: how large a part of its norm a parameter moves by, at a rate of 1.
        epsilon: keeps the division finite.
    """

    momentum: float = real(0.0, "0 <= momentum < 1", fraction)
    eta: float = real(0.001, "a number > 0", positive)
    epsilon: float = real(1e-8, "a number >= 0", not_negative)

    default_lr: ClassVar[float] = 0.1
    layerwise: ClassVar[bool] = True

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0} if self.momentum else {}

    def measure(self, work: Work, state: State) -> tuple[float, ...]:
        return work.square_sum(work.w), work.square_sum(work.g)

    def update(self, work: Work, state: State) -> None:
        step, ratio = work.g, self._ratio(work)
        work.decay_gradient()
        if self.momentum:
            step *= ratio
            velocity = state["momentum"]
            velocity *= self.momentum
            velocity += step
            step = work.xp.multiply(velocity, work.lr, out=work.tmp)
        else:
            step *= work.lr * ratio
        work.w -= step

    def _ratio(self, work: Work) -> float:
        w, g = map(math.sqrt, work.sums)
        return self.eta * w / (g + work.wd * w + self.epsilon) if work.adapt and w > 0.0 and g > 0.0 else 1.0


@dataclass(kw_only=True)
class _Trusted(Optimizer):
    """What LAMB and LANS share: Adam's averages, and a step as long as the parameter's norm."""

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-6, "a number >= 0", not_negative)
    lower_bound: float | None = optional_real("a norm >= 0, or None", not_negative)
    upper_bound: float | None = optional_real("a norm > 0, or None", positive)

    default_lr: ClassVar[float] = 0.001
    layerwise: ClassVar[bool] = True

    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "variance": 0.0}

    def _advance(self, work: Work, state: State) -> None:
        """Move the averages; once an update."""
        work.average(state["mean"], self.beta1)
        work.average_square(state["variance"], self.beta2)

    def _scale(self, work: Work, state: State, bias2: float) -> Array:
        """What gradients are divided by, in ``work.tmp``."""
        scale = work.xp.sqrt(state["variance"], out=work.tmp)
        scale /= math.sqrt(bias2)
        scale += self.epsilon
        return scale

    def _ratio(self, work: Work, w_square: float, step_square: float) -> float:
        norm, step = math.sqrt(w_square), math.sqrt(step_square)
        if self.lower_bound is not None:
            norm = max(norm, self.lower_bound)
        if self.upper_bound is not None:
            norm = min(norm, self.upper_bound)
        return norm / step if work.adapt and norm > 0.0 and step > 0.0 else 1.0


@register
@dataclass(kw_only=True)
class LAMB(_Trusted):
    """Adam with a rate for each parameter in proportion to its norm (You et al.: arXiv:1904.00962).

    ``u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + wd * w`` and ``w -= lr * |w| / |u| * u``, where m
    and v are Adam's averages; the ratio is 1 if a norm is 0, or ``wd_mult`` is.

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite.
        lower_bound, upper_bound: of |w| in the ratio; None for no bound.
        bias_correction: divide by ``1 - beta^t``.
    """

    bias_correction: bool = flag(True)

    def measure(self, work: Work, state: State) -> tuple[float, ...]:
        self._advance(work, state)
        return work.square_sum(work.w), work.square_sum(self._direction(work, state))

    def update(self, work: Work, state: State) -> None:
        step = self._direction(work, state)
        step *= work.lr * self._ratio(work, *work.sums)
        work.w -= step

    def _direction(self, work: Work, state: State) -> Array:
        """u, in ``work.g``: made anew in the second walk, which takes less than keeping it would."""
        bias1 = 1.0 - self.beta1**work.t if self.bias_correction else 1.0
        bias2 = 1.0 - self.beta2**work.t if self.bias_correction else 1.0
        step = work.xp.divide(state["mean"], self._scale(work, state, bias2), out=work.g)
        step /= bias1
        work.decay_gradient()
        return step


@register
@dataclass(kw_only=True)
class LANS(_Trusted):
    """LAMB on gradients of norm 1, with Nesterov's momentum (Zheng et al.: arXiv:2006.13484).

    With ``g' = g / |g|`` and ``s = sqrt(v / (1 - beta2^t)) + epsilon``, the step is
    ``beta1 * |w| / |a| * a + (1 - beta1) * |w| / |b| * b``, where ``a = m / (1 - beta1^t) / s + wd * w`` and
    ``b = g' / s + wd * w``. (MXNet computes b with a w that has taken the first half of the step already.)

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite.
        lower_bound, upper_bound: of |w| in the ratios; None for no bound.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None:
            raise self.refuse("clip_norm", self.clip_norm, "None, because this rule gives every gradient the norm 1")

    @property
    def needs_norm(self) -> bool:
        return True

    def gradient_factor(self, norm: float) -> float:
        return 1.0 / norm if norm > 0.0 else 1.0

    def measure(self, work: Work, state: State) -> tuple[float, ...]:
        self._advance(work, state)
        work.g /= self._scale(work, state, 1.0 - self.beta2**work.t)
        work.decay_gradient()
        of_gradient = work.square_sum(work.g)
        work.xp.divide(state["mean"], self._scale(work, state, 1.0 - self.beta2**work.t), out=work.g)
        work.g /= 1.0 - self.beta1**work.t
        work.decay_gradient()
        return work.square_sum(work.w), work.square_sum(work.g), of_gradient

    def update(self, work: Work, state: State) -> None:
        w, of_mean, of_gradient = work.sums
        first = work.lr * self.beta1 * self._ratio(work, w, of_mean)
        second = work.lr * (1.0 - self.beta1) * self._ratio(work, w, of_gradient)
        step = work.g
        step *= second
        work.xp.multiply(state["mean"], first / (1.0 - self.beta1**work.t), out=work.tmp)
        step += work.tmp
        step /= self._scale(work, state, 1.0 - self.beta2**work.t)
        if work.wd:
            work.xp.multiply(work.w, work.wd * (first + second), out=work.tmp)
            step += work.tmp
        work.w -= step
