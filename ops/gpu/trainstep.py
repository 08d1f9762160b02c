"""A whole training step as one launch: forward, backward and the update of all parameters, recorded on a GPU.

Nothing of a step depends on Python once it is recorded: the learning rate (of a schedule, too), the number of updates,
the scale of a float16 loss and whether a step is left out are numbers in the GPU's memory
(`shoal.ops.gpu.arena.FlatOptimizer`). In host memory the same is done parameter by parameter, by the rule itself.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import autograd, casting, optim
from shoal.ops.backend import gpu_namespace, namespace
from shoal.ops.gpu.arena import FlatOptimizer
from shoal.ops.gpu.graphed import Graphed
from shoal.ops.lossscale import LossScale
from shoal.ops.optim import Optimizer
from shoal.ops.precision import is_half
from shoal.ops.tensor import Tensor

__all__ = ["TrainStep", "train_step"]


class _Update(Protocol):
    """What updates the parameters.

    Attributes:
        factor: what the loss is multiplied by: a number, or an array of a GPU.
    """

    @property
    def factor(self) -> Any:
        """See above."""

    def ahead(self) -> None:
        """Before each step."""

    def step(self) -> None:
        """By the gradients that there are."""

    def counts(self) -> tuple[int, LossScale]:
        """Updates that were made; the loss scale, which also counts steps that were left out."""

    def rate(self, lr: float) -> None:
        """The learning rate from now on."""


class _OnGpu:
    """By three launches; parameters and gradients are parts of flat arrays."""

    def __init__(self, rule: Optimizer, params: Sequence[Any], clip_norm: float | None, scaling: LossScale | None):
        values = [p.data().data for p in params]
        factors = [(p.lr_mult, p.wd_mult) for p in params]
        (kind,) = {v.dtype for v in values}
        options: dict[str, Any] = {"dtype": kind, "clip_norm": clip_norm, "factors": factors, "scaling": scaling}
        self.flat = FlatOptimizer(rule, namespace(values[0]), values, **options)
        self._numbers, self._params = scaling or LossScale(scale=1.0), list(params)
        for p, weight, grad in zip(params, self.flat.weights, self.flat.grads, strict=True):
            p.data().data, p.leaf().grad.data = weight, grad

    @property
    def factor(self) -> Any:
        """One float32 on the GPU."""
        return self.flat.loss_factor

    def ahead(self) -> None:
        """Rates of a schedule; and parameters must be where they were.

        Raises:
            ConfigError: one was moved, or converted.
        """
        for p, weight, grad in zip(self._params, self.flat.weights, self.flat.grads, strict=True):
            if p.data().data is not weight or p.leaf().grad.data is not grad:
                raise ConfigError(
                    f"train_step: parameter {p.name!r} was moved or converted after the first step; make another one"
                )
        self.flat.ahead()

    def step(self) -> None:
        """Nobody waits."""
        self.flat.step()

    def counts(self) -> tuple[int, LossScale]:
        """Waits."""
        return int(namespace(self.flat.count).module.asnumpy(self.flat.count)[0]), self.flat.loss_scale(self._numbers)

    def rate(self, lr: float) -> None:
        """A word in the GPU's memory."""
        self.flat.set(lr=lr)


class _Plain:
    """Parameter by parameter; looks at the gradients' norm before."""

    def __init__(self, rule: Optimizer, params: Sequence[Any], clip_norm: float | None, scaling: LossScale | None):
        self._rule = dataclasses.replace(rule, multi_precision=any(is_half(p.data().dtype) for p in params))
        self._params, self._clip = list(params), clip_norm
        self._scaling, self._dynamic, self._left_out = scaling or LossScale(scale=1.0), scaling is not None, 0
        self._states, self._count = [self._rule.init(p.data().data) for p in params], 0

    @property
    def factor(self) -> Any:
        """A number."""
        return self._scaling.scale

    def ahead(self) -> None:
        """Nothing to prepare."""

    def step(self) -> None:
        """Waits for the norm, on a GPU."""
        grads = [p.leaf().grad.data for p in self._params]
        xp = namespace(grads[0])
        squares = sum(float((xp.astype(g, np.float64) ** 2).sum()) for g in grads)
        unscale = 1.0 / self._scaling.scale
        norm = math.sqrt(squares) * abs(unscale * self._rule.rescale_grad)
        finite = math.isfinite(norm)
        if self._dynamic:
            self._scaling = self._scaling.after(not finite)
        if not finite:
            self._left_out += 1
            return
        self._count += 1
        factor = unscale * (self._clip / (norm + 1e-6) if self._clip and norm > self._clip else 1.0)
        for p, g, state in zip(self._params, grads, self._states, strict=True):
            scaled = g.astype(np.float32) * np.float32(factor) if g.dtype.itemsize < 8 else g * factor
            factors = {"lr_mult": p.lr_mult, "wd_mult": p.wd_mult}
            self._rule.step(p.data().data, scaled, state, self._count, **factors)

    def counts(self) -> tuple[int, LossScale]:
        """As they are."""
        scale = self._scaling
        return self._count, LossScale(scale.scale, good_steps=scale.good_steps, skipped=self._left_out)

    def rate(self, lr: float) -> None:
        """Of the rule."""
        self._rule.set_learning_rate(lr)


class TrainStep:
    """What `train_step` makes; see there."""

    def __init__(
        self,
        fn: Callable[..., Any],
        params: Sequence[Any],
        rule: Optimizer,
        clip_norm: float | None,
        scaling: LossScale | None,
        enabled: bool,
    ) -> None:
        self.fn, self.params, self.rule = fn, list(params), rule
        self._clip, self._scaling, self._enabled = clip_norm, scaling, enabled
        self._update: _Update | None = None
        self._graphed: Graphed | None = None

    def __call__(self, *tensors: Any) -> Any:
        """Make a step; gives the loss, and what else the function gives. On a GPU the next step overwrites it."""
        if self._update is None:
            self._prepare()
        assert self._update is not None
        self._update.ahead()
        return self._whole(*tensors) if self._graphed is None else self._graphed(*tensors)

    def _prepare(self) -> None:
        values = [p.data() for p in self.params]  # raises where one has none yet
        there, kinds = {v.device for v in values}, {v.dtype for v in values}
        if len(there) > 1 or (there != {"cpu"} and len(kinds) > 1):
            raise ConfigError(
                f"train_step: the parameters are on {sorted(there)} and of {sorted(map(str, kinds))}; on a GPU they "
                "are on one, and of one dtype"
            )
        kernels = there != {"cpu"} and hasattr(gpu_namespace().module, "RawModule")
        make = _OnGpu if kernels else _Plain
        self._update = make(self.rule, self.params, self._clip, self._scaling)
        if kernels:
            self._graphed = Graphed(self._whole, 2, 8, self._enabled)
            self._graphed.label = getattr(self.fn, "__qualname__", type(self.fn).__name__)

    def _whole(self, *tensors: Any) -> Any:
        """Forward, backward, update."""
        assert self._update is not None
        with autograd.record():
            found = self.fn(*tensors)
            loss = found[0] if isinstance(found, list | tuple) else found
            scaled = self._scaled(loss) if self._scaling is not None else loss
        scaled.backward()
        self._update.step()
        return found

    def _scaled(self, loss: Any) -> Any:
        assert self._update is not None
        casting.state.scaled = True
        wide, factor = loss.astype("float32") if loss.dtype.itemsize == 2 else loss, self._update.factor
        return wide * (factor if isinstance(factor, float) else Tensor(factor))

    @property
    def updates(self) -> int:
        """How many updates were made; waits for the GPU."""
        return 0 if self._update is None else self._update.counts()[0]

    @property
    def left_out(self) -> int:
        """How many steps were left out because a gradient was infinite or nan; waits for the GPU."""
        return 0 if self._update is None else self._update.counts()[1].skipped

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied by; waits for the GPU."""
        if self._update is None:
            return 1.0 if self._scaling is None else self._scaling.scale
        return self._update.counts()[1].scale

    def set_learning_rate(self, lr: float) -> None:
        """The rate from the next step on: nothing is recorded again.

        Raises:
            ConfigError: a schedule sets the rate.
        """
        self.rule.set_learning_rate(lr)
        if self._update is not None:
            self._update.rate(lr)

    def why_not(self) -> list[str]:
        """Why signatures are not recorded, for those that are not."""
        return [] if self._graphed is None else self._graphed.why_not()


def train_step(
    fn: Callable[..., Any],
    params: Mapping[str, Any] | Sequence[Any],
    optimizer: str | Optimizer,
    optimizer_params: Mapping[str, Any] | None = None,
    *,
    clip_norm: float | None = None,
    scaling: LossScale | None = None,
    enabled: bool = True,
) -> TrainStep:
    """Training steps of one process without a store, which are one launch each on a GPU.

    ::

        step = cuda.train_step(lambda x, y: loss_fn(net(x), y).mean(), net.collect_params(), "adamw")
        for x, y in batches:
            loss = step(x, y)

    Steps with an infinite or nan gradient are left out: nothing changes, and they do not count. Random numbers, the
    rate and the count go on as if nothing were recorded.

    Args:
        fn: takes tensors, gives the loss, or a tuple that begins with it; it does not look at values.
        params: those that learn among them: of `Block.collect_params`.
        optimizer, optimizer_params: as of `Trainer`; one whose update has statements for a GPU.
        clip_norm: bound of the norm of all gradients together.
        scaling: for float16: the loss is scaled, by a factor that is looked after where the parameters are.
        enabled: False never records: to compare.
    Raises:
        ConfigError: the rule clips parameter by parameter, gradients are added up or row-sparse, or nothing learns.
    """
    named = list(params.values()) if isinstance(params, Mapping) else list(params)
    learning = [p for p in dict.fromkeys(named) if p.grad_req != "null"]
    odd = [p.name for p in learning if p.grad_req != "write" or p.grad_stype != "default"]
    if odd or not learning:
        raise ConfigError(
            f"train_step: gradients are dense, and written anew in each step (grad_req='write'); not so of {odd}"
            if odd
            else "train_step: no parameter learns"
        )
    rule = optim.create(optimizer, **dict(optimizer_params or {}))
    if rule.whole:
        raise ConfigError(
            f"train_step: {type(rule).__name__} with clip_norm={rule.clip_norm} needs sums over each parameter, which "
            "one update of all does not make; clip_norm= of train_step is over all parameters"
        )
    return TrainStep(fn, learning, rule, clip_norm, scaling, enabled)
