"""Loss scaling for training in float16: who scales, who unscales, and how workers agree to skip a step.

A step in which a gradient is not finite is skipped. In a synchronous run all workers skip it, or none: before they
push, they add up their flags in a store of their own, one small message each way. Zeros from one worker instead would
shrink the mean of the others' gradients, and a server that met an infinity could skip its own keys only. Where the
store applies each contribution by itself, as in an asynchronous run, a worker skips alone: nobody waits for what it
does not push. Stores that reduce on the host first have workers of one host skip together.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore, create
from shoal.kvstore.group.base import GroupStore
from shoal.ops import casting
from shoal.ops.backend import namespace
from shoal.ops.graph import trace
from shoal.ops.lossscale import LossScale
from shoal.ops.nn.parameter import Parameter

__all__ = ["Agreement", "GradScaler", "init_trainer", "scale_loss", "unscale", "unscaled"]

log = logging.getLogger("shoal.worker")


def unscaled(params: Mapping[str, Parameter], factor: float) -> bool:
    """Multiply the new gradients of ``params`` by ``factor``, in place; whether one is not finite.

    On a GPU the answer is waited for once, not once for each parameter.
    """
    found: Any = False
    for param in params.values():
        leaf = param.leaf()
        if not leaf.fresh:
            continue
        if leaf.receive is not None:
            leaf.receive(leaf.grad.scaled(factor), False)
            grad = leaf.grad.rows
        else:
            grad = leaf.grad.data
            grad *= grad.dtype.type(factor)
        found = found | ~namespace(grad).isfinite(grad).all()
    return bool(found)


class Agreement:
    """Whether all workers of a synchronous store skip a step together; without such a store, each for itself.

    Args:
        store: the Trainer's, or None. Every worker makes an agreement at the same point of its program.
    """

    KEY = "amp/overflow"

    def __init__(self, store: KVStore | None) -> None:
        self._store: KVStore | None = None
        self._group: GroupStore | None = None
        if store is None or store.type == "local":
            return
        if store.type in ("dist_sync", "dist_device_sync"):
            self._store = store.private("bsp", "sum")
        elif isinstance(store, GroupStore):
            self._group = store
        elif not store.is_capable("optimizer"):
            self._store = create(store.type, reduce="sum")
        if self._store is not None:
            self._store.init(self.KEY, np.zeros(1, np.float32))

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds at one of the workers at least. Every worker calls it once a step."""
        if self._group is not None:
            return self._group.agree(flag)
        if self._store is None:
            return flag
        return bool(self._store.pushpull(self.KEY, np.full(1, flag, np.float32), np.empty(1, np.float32))[0])


class GradScaler:
    """Scales losses, unscales gradients, skips steps that overflow: `torch.amp.GradScaler`, with a `Trainer`.

    ::

        scaler = amp.GradScaler()
        with amp.autocast("float16"), autograd.record():
            loss = loss_fn(net(x), y).mean()
        scaler.scale(loss).backward()
        scaler.step(trainer, 1)
        scaler.update()

    The factor begins at 65536, is halved after each overflow and doubled after 2000 steps without one. bfloat16 has the
    range of float32, and needs no scaler.

    Args:
        init_scale, growth_factor, backoff_factor, growth_interval: see `shoal.ops.lossscale.LossScale`.
        enabled: False makes every method pass on what it is given.
    Raises:
        ConfigError: a number is out of its range.
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self.state = LossScale(float(init_scale), growth_factor, backoff_factor, growth_interval)
        self.enabled = enabled
        self.automatic = False
        self._overflow: bool | None = None  # of the gradients that are unscaled already
        self._agreement: Agreement | None = None

    def __repr__(self) -> str:
        return f"<GradScaler {self.state.scale:g}, {self.state.skipped} steps skipped>"

    def is_enabled(self) -> bool:
        """Whether it scales."""
        return self.enabled

    def get_scale(self) -> float:
        """What losses are multiplied by now; 1 if it is not enabled."""
        return self.state.scale if self.enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """A loss, or a list of losses, times the factor; in float32, and recorded also outside of ``record()``."""
        if isinstance(outputs, list | tuple):
            return type(outputs)(self.scale(x) for x in outputs)
        if not self.enabled:
            return outputs
        casting.state.scaled = True
        with trace.mode(recording=True):
            wide = outputs.astype("float32") if outputs.dtype.itemsize == 2 else outputs
            return wide * self.state.scale

    def unscale_(self, trainer: Any) -> None:
        """Divide the gradients of ``trainer`` by the factor now, so that they can be looked at, or clipped by hand.

        `step` does it otherwise, before the optimizer clips.

        Raises:
            ConfigError: they are unscaled already.
        """
        if not self.enabled:
            return
        if self._overflow is not None:
            raise ConfigError("unscale: the gradients are unscaled already since the last step; call it once")
        self._overflow = unscaled(trainer.learning, 1.0 / self.state.scale)

    def step(self, trainer: Any, batch_size: int = 1, ignore_stale_grad: bool = False) -> bool:
        """``trainer.step(batch_size)``, unless a gradient is not finite; whether the step was made."""
        before, trainer.scaler = trainer.scaler, self if self.enabled else None
        self.automatic = False
        try:
            trainer.step(batch_size, ignore_stale_grad)
        finally:
            trainer.scaler = before
        return not self._overflow

    def update(self, new_scale: float | None = None) -> None:
        """After `step`: the factor of the next step; ``new_scale`` sets it."""
        if self.enabled:
            self._after(bool(self._overflow))
            if new_scale is not None:
                self.load_state_dict({**self.state_dict(), "scale": float(new_scale)})

    def state_dict(self) -> dict[str, Any]:
        """Numbers for a checkpoint."""
        return asdict(self.state)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.state = LossScale(**state_dict)

    def admits(self, trainer: Any, together: bool = True) -> bool:
        """Whether a step may be made: no gradient of any worker has overflowed. What `Trainer` asks.

        Args:
            together: whether workers have different gradients, and must agree.
        """
        if self._overflow is None:
            self._overflow = unscaled(trainer.learning, 1.0 / self.state.scale)
        if together:
            if self._agreement is None:
                self._agreement = Agreement(trainer.kvstore)
            self._overflow = self._agreement.any(self._overflow)
        admitted = not self._overflow
        if self.automatic:
            self._after(self._overflow)
        return admitted

    def _after(self, overflow: bool) -> None:
        smallest = overflow and self.state.after(True).scale == self.state.scale
        self.state, self._overflow = self.state.after(overflow), None
        if smallest:
            log.warning(
                "gradients overflow at the smallest loss scale, %g: they are infinite or nan whatever the scale. Look "
                "at them with autograd.detect_anomaly()",
                self.state.scale,
            )


def init_trainer(trainer: Any, **numbers: Any) -> None:
    """Give ``trainer`` a loss scale of its own, which `scale_loss` uses and its ``step`` looks after: MXNet's call.

    Args:
        numbers: what `GradScaler` takes.
    """
    trainer.scaler = GradScaler(**numbers)
    trainer.scaler.automatic = True


@contextmanager
def scale_loss(loss: Any, trainer: Any) -> Iterator[Any]:
    """A context with the scaled loss, or losses, for the backward pass.

    ::

        amp.init_trainer(trainer)
        with autograd.record():
            loss = loss_fn(net(x), y)
            with amp.scale_loss(loss, trainer) as scaled:
                autograd.backward(scaled)
        trainer.step(len(x))

    Raises:
        ConfigError: `init_trainer` has not been called.
    """
    yield _scaler_of(trainer, "scale_loss").scale(loss)


def unscale(trainer: Any) -> None:
    """`GradScaler.unscale_` for a trainer of `init_trainer`. Raises as that and `scale_loss`."""
    _scaler_of(trainer, "unscale").unscale_(trainer)


def _scaler_of(trainer: Any, who: str) -> GradScaler:
    found: GradScaler | None = trainer.scaler
    if found is None:
        raise ConfigError(f"{who}: this trainer has no loss scale; call shoal.amp.init_trainer(trainer) first")
    return found
