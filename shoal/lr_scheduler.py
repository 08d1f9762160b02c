"""Learning-rate schedules: ``shoal.lr_scheduler.CosineScheduler`` and others; see `shoal.ops.optim.schedule`."""

from shoal.ops.optim.schedule import (
    ConstantScheduler,
    CosineScheduler,
    FactorScheduler,
    LRScheduler,
    MultiFactorScheduler,
    PolyScheduler,
    create,
    register,
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
