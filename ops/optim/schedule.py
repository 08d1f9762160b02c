"""Learning-rate schedules: pure functions of the number of updates.

MXNet's names and formulas (``mxnet.lr_scheduler``), without its state: there, asking for a rate changed
the scheduler, so that a resumed run began anew. Here ``schedule(t)`` is the rate of update ``t``, which counts from 1;
asking twice, backwards, or on another machine gives the same number.
"""

import bisect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shoal.ops.optim.hyper import (
    Hyper,
    Registry,
    Wire,
    choice,
    not_negative,
    optional_real,
    real,
    required,
    whole,
    whole_number,
)

__all__ = [
    "ConstantScheduler",
    "CosineScheduler",
    "FactorScheduler",
    "LRScheduler",
    "MultiFactorScheduler",
    "PolyScheduler",
    "create",
    "register",
]

_registry: "Registry[LRScheduler]" = Registry("learning-rate schedule", suffix="Scheduler")


def register(cls: "type[LRScheduler]") -> "type[LRScheduler]":
    """Class decorator: make a schedule known by its name, in every process that imports it."""
    return _registry.register(cls)


def create(name: str, /, **params: Wire) -> "LRScheduler":
    """A schedule by name: ``create("cosine", max_update=1000)`` is ``CosineScheduler(max_update=1000)``.

    Raises:
        ConfigError: the name or a parameter is unknown, or a value is out of its range.
    """
    return _registry.create(name, params)


def converted(value: Any) -> "LRScheduler | None":
    """A schedule, its travelling form ``{"name": ..., "params": {...}}``, or None."""
    if value is None or isinstance(value, LRScheduler):
        return value
    if isinstance(value, dict) and value.keys() == {"name", "params"}:
        return create(value["name"], **value["params"])
    raise TypeError("an LRScheduler such as CosineScheduler(max_update=1000)")


@dataclass(kw_only=True)
class LRScheduler(Hyper, ABC):
    """A rate that begins with a warm-up and then follows `after_warmup`.

    Args:
        base_lr: the rate at the end of the warm-up; None takes the optimizer's ``learning_rate``.
        warmup_steps: updates 1 to ``warmup_steps - 1`` belong to the warm-up.
        warmup_begin_lr: the rate that a linear warm-up starts from (at update 0), or that of a constant warm-up.
        warmup_mode: "linear" or "constant".
    """

    base_lr: float | None = optional_real("a rate >= 0", not_negative)
    warmup_steps: int = whole(0, "an integer >= 0", lambda v: v >= 0)
    warmup_begin_lr: float = real(0.0, "a rate >= 0", not_negative)
    warmup_mode: str = choice("linear", "constant")

    default_lr: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_lr is not None and self.warmup_steps and self.warmup_begin_lr > self.base_lr:
            raise self.refuse("warmup_begin_lr", self.warmup_begin_lr, f"at most base_lr = {self.base_lr}")

    def __call__(self, t: int) -> float:
        """The rate of update ``t``, counted from 1."""
        base = self.default_lr if self.base_lr is None else self.base_lr
        if t >= self.warmup_steps:
            return self.after_warmup(t, base)
        if self.warmup_mode == "constant":
            return self.warmup_begin_lr
        return self.warmup_begin_lr + (base - self.warmup_begin_lr) * t / self.warmup_steps

    @abstractmethod
    def after_warmup(self, t: int, base_lr: float) -> float:
        """The rate of update ``t >= warmup_steps``."""


@register
@dataclass(kw_only=True)
class ConstantScheduler(LRScheduler):
    """``base_lr`` after the warm-up."""

    def after_warmup(self, t: int, base_lr: float) -> float:
        return base_lr


@register
@dataclass(kw_only=True)
class FactorScheduler(LRScheduler):
    """Multiply the rate by ``factor`` after every ``step`` updates, down to ``stop_factor_lr``.

    The rate is ``base_lr * factor ** ((t - 1) // step)``: the first ``step`` updates have ``base_lr``.
    """

    step: int = required(lambda value: whole_number(value, 1))
    factor: float = real(1.0, "0 < factor <= 1", lambda v: 0.0 < v <= 1.0)
    stop_factor_lr: float = real(1e-8, "a rate >= 0", not_negative)

    def after_warmup(self, t: int, base_lr: float) -> float:
        return max(base_lr * self.factor ** (max(t - 1, 0) // self.step), min(self.stop_factor_lr, base_lr))


def _increasing(value: Any) -> tuple[int, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError("a list of update counts")
    steps = tuple(whole_number(v, 1) for v in value)
    if not steps or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError("a list of update counts, not empty and strictly increasing")
    return steps


@register
@dataclass(kw_only=True)
class MultiFactorScheduler(LRScheduler):
    """Multiply the rate by ``factor`` after each of the update counts in ``step``."""

    step: Sequence[int] = required(_increasing)
    factor: float = real(1.0, "0 < factor <= 1", lambda v: 0.0 < v <= 1.0)

    def after_warmup(self, t: int, base_lr: float) -> float:
        return base_lr * self.factor ** bisect.bisect_left(self.step, t)


@dataclass(kw_only=True)
class _Decay(LRScheduler):
    """From ``base_lr`` at the end of the warm-up to ``final_lr`` at update ``max_update``, and constant from there."""

    max_update: int = required(lambda value: whole_number(value, 1))
    final_lr: float = real(0.0, "a rate >= 0", not_negative)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_update <= self.warmup_steps:
            raise self.refuse("max_update", self.max_update, f"more than warmup_steps = {self.warmup_steps}")

    def after_warmup(self, t: int, base_lr: float) -> float:
        done = (min(t, self.max_update) - self.warmup_steps) / (self.max_update - self.warmup_steps)
        return self.final_lr + (base_lr - self.final_lr) * self.remaining(done)

    @abstractmethod
    def remaining(self, done: float) -> float:
        """How much of the way from ``final_lr`` to ``base_lr`` is left; ``done`` goes from 0 to 1."""


@register
@dataclass(kw_only=True)
class PolyScheduler(_Decay):
    """Polynomial decay with power ``pwr``, from ``base_lr`` to ``final_lr`` at update ``max_update``."""

    pwr: float = real(2.0, "a power >= 0", not_negative)

    def remaining(self, done: float) -> float:
        return float((1.0 - done) ** self.pwr)


@register
@dataclass(kw_only=True)
class CosineScheduler(_Decay):
    """Half a cosine, from ``base_lr`` to ``final_lr`` at ``max_update`` (Loshchilov, Hutter: arXiv:1608.03983)."""

    def remaining(self, done: float) -> float:
        return (1.0 + math.cos(math.pi * done)) / 2.0
