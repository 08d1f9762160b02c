"""Update rules: ``shoal.optim.SGD``, ``Adam``, ...; see `shoal.ops.optim`."""

from shoal.ops.optim import (
    NAG,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Optimizer,
    OptimizerSpec,
    RMSProp,
    Signum,
    State,
    Test,
    create,
    from_spec,
    register,
)

__all__ = [
    "NAG",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "OptimizerSpec",
    "RMSProp",
    "Signum",
    "State",
    "Test",
    "create",
    "from_spec",
    "register",
]
