"""Updates of all parameters at once: `FlatOptimizer` keeps them in a flat arena on the GPU; a step is three launches.

Values (float32 masters), states and gradients are one array each; a model's parameters and gradients are views of them.
A step adds up the squares of all gradients, then works out, on the GPU, whether one of them is infinite or nan, the
factor that clips the norm, and the rule's numbers for this update, then updates everything, and writes the weights in
half precision if there are such. Rates, the scale of the loss and the count of updates are words in the GPU's memory:
a recorded step never changes, and nobody waits to learn whether a step was left out.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.gpu.arenatext import BAD, BEGIN, CLIP, FACTOR, FIRST, GOOD, LAST, NORM, ROOM, SKIP, UNSCALE, texts
from shoal.ops.gpu.kernels.program import NUMBERS, OPTIONS, STORED, flat
from shoal.ops.lossscale import LossScale
from shoal.ops.optim import Optimizer
from shoal.ops.precision import is_half

__all__ = ["FlatOptimizer"]

ALIGN = 64
"""Elements that the beginning of each parameter is a multiple of."""

PARTS = 256
"""Blocks that add up squares, each to one partial sum."""

RATES = 1024
"""Learning rates of a schedule that lie on the GPU at a time."""

SINGLE = np.dtype(np.float32)


class FlatOptimizer:
    """A rule over all parameters of a model.

    The norm that is clipped to is that over all gradients together.

    Args:
        rule: SGD, NAG, Adam, AdamW, RMSProp, AdaGrad, Signum or Lion, or another whose `compiled` says its update;
            its ``clip_norm`` (of each parameter) is not used here.
        xp: the array namespace of a GPU.
        params: the first values, in order.
        dtype: of the weights that the model computes with; None keeps float32.
        grad_dtype: of the gradients; None takes that of the weights.
        clip_norm: bound of the norm of all gradients; None for none.
        factors: of each parameter, on rate and weight decay; None for 1 each.
        scaling: the loss is multiplied by `loss_factor`, which is halved and doubled on the GPU, as this says.
    Attributes:
        weights, grads: views of the arenas, one a parameter, in its shape.
        master, grad: the arenas; gradients of several devices are reduced over ``grad`` in one go.
        states: arenas of the rule's states, by name.
        count: how many updates there were: one int64 on the GPU.
        loss_factor: what the loss is to be multiplied by: one float32 on the GPU.
    Raises:
        ConfigError: the rule has no statements for a GPU.
    """

    def __init__(
        self,
        rule: Optimizer,
        xp: Any,
        params: Sequence[Any],
        *,
        dtype: Any = None,
        grad_dtype: Any = None,
        clip_norm: float | None = None,
        factors: Sequence[tuple[float, float]] | None = None,
        scaling: LossScale | None = None,
    ) -> None:
        kind = np.dtype(dtype or np.float32)
        grads = np.dtype(grad_dtype or kind)
        if kind not in STORED or grads not in STORED or np.float64 in (kind, grads):
            raise ConfigError(
                f"FlatOptimizer: weights of {kind} and gradients of {grads}; float16, bfloat16 or float32"
            )
        self.xp, self.rule = xp, rule
        self.shapes = [tuple(p.shape) for p in params]
        pairs = [(1.0, 1.0)] * len(self.shapes) if factors is None else [(float(a), float(b)) for a, b in factors]
        self.groups = list(dict.fromkeys(pairs)) or [(1.0, 1.0)]
        self.starts, self.edges = _laid_out([math.prod(s) for s in self.shapes], [self.groups.index(p) for p in pairs])
        self.size = self.edges[-1]
        zeros = xp.module.zeros
        self.master, self.grad = zeros((self.size,), SINGLE), zeros((self.size,), grads)
        self.half = zeros((self.size,), kind) if is_half(kind) else None
        self.states = {name: xp.module.full((self.size,), v, SINGLE) for name, v in rule.slots().items()}
        model = self.master if self.half is None else self.half
        self.weights, self.grads = self._views(model), self._views(self.grad)
        for view, master, p in zip(self.weights, self._views(self.master), params, strict=True):
            master[...] = p.astype(SINGLE)
            view[...] = p.astype(kind)
        self._words_of_a_step(clip_norm, scaling)
        kernels = texts(rule, self.groups, grads, kind, scaling)
        self.text = "".join(kernels.values())
        module = xp.module.RawModule(code=self.text, options=OPTIONS)
        self._launches = [module.get_function(name) for name in kernels]

    def _words_of_a_step(self, clip_norm: float | None, scaling: LossScale | None) -> None:
        xp, zeros = self.xp, self.xp.module.zeros
        self.count = zeros((1,), np.int64)
        self._parts, self._words = zeros((PARTS,), np.float64), zeros((FIRST + ROOM * len(self.groups),), np.float64)
        self._rates = xp.module.full((RATES,), self.rule.rate(1), np.float64)
        self._given = xp.asarray(np.array([1.0, clip_norm or 0.0, 1.0, 0.0]))
        factor = 1.0 if scaling is None else scaling.scale
        self._scaling = xp.asarray(
            np.array([factor, scaling.good_steps if scaling else 0, scaling.skipped if scaling else 0], np.float64)
        )
        self.loss_factor = xp.module.full((1,), factor, SINGLE)
        self._begun, self._left = False, 0  # steps that the rates on the GPU still are for

    def _views(self, arena: Any) -> list[Any]:
        pairs = zip(self.starts, self.shapes, strict=True)
        return [arena[at : at + math.prod(shape)].reshape(shape) for at, shape in pairs]

    def step(self) -> None:
        """Update everything by the gradients that lie in ``grad``; nobody waits.

        A step whose gradients hold an infinity or nan changes nothing and does not count; `skipped` says so.
        """
        squares, prepare, *steps = self._launches
        squares((PARTS, 1, 1), (256, 1, 1), (self.grad, self._parts, NUMBERS["q"](self.size)))
        words = (self._words, self._scaling, self.loss_factor)
        given = (self._parts, self._given, self._rates, self.count, *words, NUMBERS["i"](PARTS))
        prepare((1, 1, 1), (32, 1, 1), given)
        for step, a, b in zip(steps, self.edges[:-1], self.edges[1:], strict=True):
            half = np.uint64(0) if self.half is None else self.half[a:b]
            states = [s[a:b] for s in self.states.values()]
            grid, block = flat(b - a, 8)
            given = (self.master[a:b], self.grad[a:b], half, *states, self._words, NUMBERS["q"](b - a))
            step(grid, block, given)

    def ahead(self) -> None:
        """Before each step, outside of what is recorded: see to the rates of a rule with a schedule.

        The next 1024 rates lie on the GPU, whose count says which of them holds. So the host waits for that count once
        in 1024 steps, and never without a schedule.
        """
        if self.rule.lr_scheduler is None:
            return
        if not self._left:
            first = 1 + (int(_fetched(self.count)[0]) if self._begun else 0)
            self._rates[...] = self.xp.asarray(np.array([self.rule.rate(first + i) for i in range(RATES)]))
            self._put(BEGIN, float(first))
            self._put(LAST, float(RATES - 1))
            self._left, self._begun = RATES, True
        self._left -= 1

    def set(self, *, lr: float | None = None, scale: float | None = None, clip_norm: float | None = None) -> None:
        """Change what the next steps use, in the GPU's memory: between steps, also of a recorded one.

        Args:
            lr: the learning rate, of a rule without a schedule.
            scale: the loss was multiplied with it, besides `loss_factor`; gradients are divided by it.
            clip_norm: bound of the norm of all gradients, after that; 0 for none.
        """
        if lr is not None:
            self._rates[:1] = lr
            self._put(LAST, 0.0)
        if scale is not None:
            self._put(UNSCALE, 1.0 / scale)
        if clip_norm is not None:
            self._put(CLIP, clip_norm)

    def _put(self, place: int, value: float) -> None:
        self._given[place : place + 1] = value

    @property
    def norm(self) -> Any:
        """The norm of all gradients of the last step, before clipping: one float64 on the GPU."""
        return self._words[NORM : NORM + 1]

    @property
    def skipped(self) -> Any:
        """1 if the last step was left out, for an infinity or nan, else 0: one float64 on the GPU."""
        return self._words[SKIP : SKIP + 1]

    @property
    def left_out(self) -> Any:
        """How many steps were left out: one float64 on the GPU."""
        return self._scaling[BAD : BAD + 1]

    def loss_scale(self, numbers: LossScale) -> LossScale:
        """The state of the loss scale, with the other numbers as of ``numbers``; waits for the GPU."""
        found = _fetched(self._scaling)
        growth = (numbers.growth_factor, numbers.backoff_factor, numbers.growth_interval)
        return LossScale(float(found[FACTOR]), *growth, int(found[GOOD]), int(found[BAD]))


def _fetched(x: Any) -> Any:
    """In host memory; waits."""
    return x.get() if hasattr(x, "get") else x


def _laid_out(sizes: Sequence[int], groups: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where each parameter begins, and where each group does, and the end of all; groups lie one after another."""
    starts, edges, at = [0] * len(sizes), [0], 0
    for group in range(max(groups, default=0) + 1):
        for i, n in enumerate(sizes):
            if groups[i] == group:
                starts[i] = at
                at += -(-n // ALIGN) * ALIGN
        at = max(at, edges[-1] + ALIGN)
        edges.append(at)
    return starts, edges
