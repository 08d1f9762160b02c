"""The common update rules. Names and arguments are MXNet 2's, formulas and their order of operations are torch.optim's.

The two agree up to rounding for a constant learning rate; where they differ for a changing one (MXNet folds the rate
into the momentum) or in the place of epsilon (MXNet's Adam adds it before the bias correction), PyTorch's form is used:
it is the one in the papers, and the tests compare with it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shoal.ops import random
from shoal.ops.optim.hyper import flag, fraction, not_negative, optional_whole, real
from shoal.ops.optim.optimizer import Array, Optimizer, State, Work, register

Compiled = tuple[str, dict[str, float]]
"""C for one element, and the numbers in it."""

DECAYED = "g = g + w * wd;"
"""The classical weight decay, in C."""

__all__ = ["NAG", "SGD", "SGLD", "AdaGrad", "Adam", "AdamW", "Lion", "RMSProp", "Signum", "Test"]


@register
@dataclass(kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent: ``w -= lr * g``, with optional momentum.

    With momentum: ``m = momentum * m + g`` and ``w -= lr * m``; with Nesterov's: ``w -= lr * (g + momentum * m)``.

    Args:
        momentum: in [0, 1); states: ``momentum`` if it is not 0.
        nesterov: look ahead along the momentum; needs one.
    """

    momentum: float = real(0.0, "0 <= momentum < 1", fraction)
    nesterov: bool = flag(False)

    default_lr: ClassVar[float] = 0.1
    keeps_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise self.refuse("momentum", self.momentum, "0 < momentum < 1, because nesterov is True")

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0} if self.momentum else {}

    def update(self, work: Work, state: State) -> None:
        work.decay_gradient()
        step = work.tmp
        if self.momentum:
            velocity = state["momentum"]
            velocity *= self.momentum
            velocity += work.g
            work.xp.multiply(velocity, self.momentum if self.nesterov else work.lr, out=step)
        else:
            work.xp.multiply(work.g, work.lr, out=step)
        if self.nesterov:
            step += work.g
            step *= work.lr
        work.w -= step

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        code, numbers = "w = w - g * lr;", {"lr": lr, "beta": self.momentum, "wd": wd}
        if self.momentum:
            step = "(momentum * beta + g) * lr" if self.nesterov else "momentum * lr"
            code = f"momentum = momentum * beta + g; w = w - {step};"
        return (DECAYED if wd else "") + code, numbers


@register
@dataclass(kw_only=True)
class NAG(SGD):
    """Nesterov's accelerated gradient: `SGD` with ``nesterov=True`` and momentum 0.9."""

    momentum: float = real(0.9, "0 < momentum < 1", lambda v: 0.0 < v < 1.0)
    nesterov: bool = flag(True)


ADAM = """mean = mean * beta1 + g * rest1;
variance = variance * beta2 + g * g * rest2;
w = w - mean / (SQRT(variance) / root + epsilon) * rate;"""


@register
@dataclass(kw_only=True)
class Adam(Optimizer):
    """Adam with bias correction (Kingma, Ba: arXiv:1412.6980).

    ``m`` and ``v`` are decaying averages of the gradient and its square; weight decay is added to the gradient.
    ``w -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)``.

    Args:
        beta1, beta2: factors of the averages.
        epsilon: keeps the division finite.
        correct_bias: divide by ``1 - beta^t``, as the paper does; False leaves that out.
    """

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.999, "0 <= beta2 < 1", fraction)
    epsilon: float = real(1e-8, "a number >= 0", not_negative)
    correct_bias: bool = flag(True)

    default_lr: ClassVar[float] = 0.001

    def slots(self) -> dict[str, float]:
        return {"mean": 0.0, "variance": 0.0}

    def update(self, work: Work, state: State) -> None:
        work.decay_gradient()
        self._move(work, state)

    def _move(self, work: Work, state: State) -> None:
        mean, variance = state["mean"], state["variance"]
        bias1 = 1.0 - self.beta1**work.t if self.correct_bias else 1.0
        bias2 = 1.0 - self.beta2**work.t if self.correct_bias else 1.0
        work.average(mean, self.beta1)
        work.average_square(variance, self.beta2)
        step = work.xp.sqrt(variance, out=work.tmp)
        step /= math.sqrt(bias2)
        step += self.epsilon
        work.xp.divide(mean, step, out=step)
        step *= work.lr / bias1
        work.w -= step

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        return (DECAYED if wd else "") + ADAM, {"wd": wd, **self._numbers(lr, t)}

    def _numbers(self, lr: float, t: int) -> dict[str, float]:
        bias1 = 1.0 - self.beta1**t if self.correct_bias else 1.0
        bias2 = 1.0 - self.beta2**t if self.correct_bias else 1.0
        factors = {"beta1": self.beta1, "beta2": self.beta2, "rest1": 1.0 - self.beta1, "rest2": 1.0 - self.beta2}
        return {**factors, "root": math.sqrt(bias2), "epsilon": self.epsilon, "rate": lr / bias1}


@register
@dataclass(kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``w *= 1 - lr * wd`` first (Loshchilov, Hutter: arXiv:1711.05101).

    Args:
        wd: 0.01 by default, as in PyTorch; MXNet's default of 0 would make it `Adam`.
    """

    wd: float = real(0.01, "a number >= 0", not_negative)

    def update(self, work: Work, state: State) -> None:
        if work.wd:
            work.w *= 1.0 - work.lr * work.wd
        self._move(work, state)

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        return ("w = w * keep;" if wd else "") + ADAM, {"keep": 1.0 - lr * wd, **self._numbers(lr, t)}


@register
@dataclass(kw_only=True)
class RMSProp(Optimizer):
    """Divide the gradient by a decaying average of its magnitude (Tieleman, Hinton 2012; centered: arXiv:1308.0850).

    Args:
        rho: factor of the averages.
        momentum: of the divided gradient.
        epsilon: added after the root.
        centered: divide by an estimate of the standard deviation instead of the magnitude.
    """

    rho: float = real(0.9, "0 <= rho < 1", fraction)
    momentum: float = real(0.0, "0 <= momentum < 1", fraction)
    epsilon: float = real(1e-8, "a number >= 0", not_negative)
    centered: bool = flag(False)

    default_lr: ClassVar[float] = 0.001

    def slots(self) -> dict[str, float]:
        wanted = {"square": True, "mean": self.centered, "momentum": self.momentum > 0.0}
        return {name: 0.0 for name, needed in wanted.items() if needed}

    def update(self, work: Work, state: State) -> None:
        work.decay_gradient()
        work.g /= self._magnitude(work, state)
        step = work.g
        if self.momentum:
            velocity = state["momentum"]
            velocity *= self.momentum
            velocity += step
            step = velocity
        work.xp.multiply(step, work.lr, out=work.tmp)
        work.w -= work.tmp

    def _magnitude(self, work: Work, state: State) -> Array:
        xp, tmp, square = work.xp, work.tmp, state["square"]
        work.average_square(square, self.rho)
        if self.centered:
            work.average(state["mean"], self.rho)
            xp.multiply(state["mean"], state["mean"], out=tmp)
            xp.subtract(square, tmp, out=tmp)
            xp.maximum(tmp, 0.0, out=tmp)  # rounding may leave a variance just below 0
            xp.sqrt(tmp, out=tmp)
        else:
            xp.sqrt(square, out=tmp)
        tmp += self.epsilon
        return tmp

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        code = "square = square * rho + g * g * rest; T size = square;"
        if self.centered:
            code += "mean = mean * rho + g * rest; size = square - mean * mean; size = size < 0 ? 0 : size;"
        code += "g = g / (SQRT(size) + epsilon);"
        code += "momentum = momentum * beta + g; w = w - momentum * lr;" if self.momentum else "w = w - g * lr;"
        numbers = {"rho": self.rho, "rest": 1.0 - self.rho, "epsilon": self.epsilon, "beta": self.momentum, "lr": lr}
        return (DECAYED if wd else "") + code, {"wd": wd, **numbers}


@register
@dataclass(kw_only=True)
class AdaGrad(Optimizer):
    """Divide the gradient by the root of the sum of its squares (Duchi, Hazan, Singer: JMLR 12, 2011).

    Args:
        epsilon: added after the root.
        initial_accumulator_value: what the sum of squares starts from.
    """

    epsilon: float = real(1e-6, "a number >= 0", not_negative)
    initial_accumulator_value: float = real(0.0, "a number >= 0", not_negative)

    def slots(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    def update(self, work: Work, state: State) -> None:
        work.decay_gradient()
        work.xp.multiply(work.g, work.g, out=work.tmp)
        state["sum"] += work.tmp
        work.xp.sqrt(state["sum"], out=work.tmp)
        work.tmp += self.epsilon
        work.g /= work.tmp
        work.g *= work.lr
        work.w -= work.g

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        code = "sum = sum + g * g; w = w - g / (SQRT(sum) + epsilon) * lr;"
        return (DECAYED if wd else "") + code, {"wd": wd, "epsilon": self.epsilon, "lr": lr}


@register
@dataclass(kw_only=True)
class Signum(Optimizer):
    """Move by the rate in the direction of the sign of the averaged gradient (Bernstein et al.: arXiv:1802.04434).

    ``m = momentum * m + (1 - momentum) * g`` and ``w = (1 - lr * wd_lh) * w - lr * sign(m)``.

    Args:
        momentum: 0 uses the sign of the gradient itself (signSGD).
        wd_lh: decoupled weight decay, beside the classical ``wd``.
    """

    momentum: float = real(0.9, "0 <= momentum < 1", fraction)
    wd_lh: float = real(0.0, "a number >= 0", not_negative)

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0} if self.momentum else {}

    def update(self, work: Work, state: State) -> None:
        work.decay_gradient()
        direction = work.g
        if self.momentum:
            direction = state["momentum"]
            work.average(direction, self.momentum)
        work.xp.sign(direction, out=work.tmp)
        work.tmp *= work.lr
        if self.wd_lh:
            work.w *= 1.0 - work.lr * self.wd_lh
        work.w -= work.tmp

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        code = "momentum = momentum * beta + g * rest; g = momentum;" if self.momentum else ""
        code += ("w = w * keep;" if self.wd_lh else "") + "w = w - SIGN(g) * lr;"
        numbers = {"beta": self.momentum, "rest": 1.0 - self.momentum, "keep": 1.0 - lr * self.wd_lh, "lr": lr}
        return (DECAYED if wd else "") + code, {"wd": wd, **numbers}


@register
@dataclass(kw_only=True)
class Lion(Optimizer):
    """Move by the rate in the direction of the sign of an interpolated momentum (Chen et al.: arXiv:2302.06675).

    ``w -= lr * (sign(beta1 * m + (1 - beta1) * g) + wd * w)``, then ``m = beta2 * m + (1 - beta2) * g``. The rate
    should be 3 to 10 times smaller than AdamW's, and ``wd`` as many times larger.

    Args:
        beta1: how much of the momentum goes into the direction.
        beta2: factor of the momentum.
    """

    beta1: float = real(0.9, "0 <= beta1 < 1", fraction)
    beta2: float = real(0.99, "0 <= beta2 < 1", fraction)

    default_lr: ClassVar[float] = 0.0001

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0}

    def update(self, work: Work, state: State) -> None:
        xp, tmp, velocity = work.xp, work.tmp, state["momentum"]
        if work.wd:
            work.w *= 1.0 - work.lr * work.wd
        xp.subtract(velocity, work.g, out=tmp)
        tmp *= self.beta1
        tmp += work.g
        xp.sign(tmp, out=tmp)
        tmp *= work.lr
        work.w -= tmp
        work.average(velocity, self.beta2)

    def compiled(self, lr: float, wd: float, t: int) -> Compiled | None:
        code = "T d = (momentum - g) * beta1 + g; w = w - SIGN(d) * lr; momentum = momentum * beta2 + g * rest2;"
        numbers = {"beta1": self.beta1, "beta2": self.beta2, "rest2": 1.0 - self.beta2, "lr": lr}
        return ("w = w * keep;" if wd else "") + code, {"keep": 1.0 - lr * wd, **numbers}


@register
@dataclass(kw_only=True)
class SGLD(Optimizer):
    """Stochastic gradient Langevin dynamics: draws from a posterior instead of going to its top (Welling, Teh 2011).

    ``w -= lr / 2 * (g + wd * w) + sqrt(lr) * noise``, with noise of the standard normal distribution. The noise has
    an address, (seed, name of the parameter, update), so that any number of servers, and any replay, add the same.

    Args:
        seed: None takes that of the run when the optimizer is made.
    """

    seed: int | None = optional_whole("an integer of 64 bits", lambda v: -(2**63) <= v < 2**63)

    default_lr: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is None:
            self.seed = random.current_seed()

    @property
    def whole(self) -> bool:
        return True  # the noise is drawn for the whole parameter

    def slots(self) -> dict[str, float]:
        return {}

    def noise(self, name: str, t: int) -> np.random.Generator | None:
        return random.stream(self.seed or 0, f"sgld {name}", step=t)

    def update(self, work: Work, state: State) -> None:
        if work.noise is None:
            raise self.refuse("noise", None, "a generator of random numbers")
        work.decay_gradient()
        work.g *= 0.5 * work.lr
        work.w -= work.g
        work.tmp[...] = work.xp.asarray(work.noise.standard_normal(work.tmp.shape, dtype=work.tmp.dtype))
        work.tmp *= math.sqrt(work.lr)
        work.w += work.tmp


@register
@dataclass(kw_only=True)
class Test(Optimizer):
    """MXNet's rule for testing a store: ``w += lr * rescale_grad * grad``, with a rate of 1: pushes add up exactly."""

    wd: float = real(0.0, "0, because this rule has no weight decay", lambda v: v == 0.0)

    default_lr: ClassVar[float] = 1.0
    __test__: ClassVar[bool] = False  # not a test case, whatever its name

    def slots(self) -> dict[str, float]:
        return {}

    def update(self, work: Work, state: State) -> None:
        work.g *= work.lr
        work.w += work.g
