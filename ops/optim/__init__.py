"""Update rules that worker and server share, and learning-rate schedules.

>>> import numpy as np
>>> rule = create("sgd", learning_rate=0.5, momentum=0.9)
>>> w = np.ones(3, "float32")
>>> state = rule.init(w)
>>> rule.step(w, np.ones(3, "float32"), state, t=1)
>>> w
array([0.5, 0.5, 0.5], dtype=float32)
>>> from_spec(rule.spec()) == rule
True
"""

from shoal.ops.optim.adaptive import FTML, AdaBelief, AdaDelta, Adamax, Ftrl, Nadam
from shoal.ops.optim.clipping import clip_global_norm
from shoal.ops.optim.layerwise import LAMB, LANS, LARS
from shoal.ops.optim.optimizer import Optimizer, OptimizerSpec, State, create, from_spec, register, state_dtype
from shoal.ops.optim.outer import DN, Accumulate
from shoal.ops.optim.rules import NAG, SGD, SGLD, AdaGrad, Adam, AdamW, Lion, RMSProp, Signum, Test
from shoal.ops.optim.schedule import (
    ConstantScheduler,
    CosineScheduler,
    FactorScheduler,
    LRScheduler,
    MultiFactorScheduler,
    PolyScheduler,
)

__all__ = [
    "DN",
    "FTML",
    "LAMB",
    "LANS",
    "LARS",
    "NAG",
    "SGD",
    "SGLD",
    "Accumulate",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ConstantScheduler",
    "CosineScheduler",
    "FactorScheduler",
    "Ftrl",
    "LRScheduler",
    "Lion",
    "MultiFactorScheduler",
    "Nadam",
    "Optimizer",
    "OptimizerSpec",
    "PolyScheduler",
    "RMSProp",
    "Signum",
    "State",
    "Test",
    "clip_global_norm",
    "create",
    "from_spec",
    "register",
    "state_dtype",
]
