"""Gradients: ``from shoal import autograd``. See `shoal.ops.autograd`; and `shoal.func` for functions of functions.

`grad` here is MXNet's, of tensors that were recorded; `shoal.func.grad` takes a function.
"""

from shoal.ops.autograd import (
    Function,
    backward,
    grad,
    is_recording,
    is_training,
    mark_variables,
    pause,
    predict_mode,
    record,
    set_recording,
    set_training,
    train_mode,
)
from shoal.ops.func.anomaly import detect_anomaly
from shoal.ops.func.derive import jvp, value_and_grad, vjp
from shoal.ops.func.jacobians import hessian, hvp, jacobian
from shoal.ops.func.mapping import vmap
from shoal.ops.func.remat import checkpoint

__all__ = [
    "Function",
    "backward",
    "checkpoint",
    "detect_anomaly",
    "grad",
    "hessian",
    "hvp",
    "is_recording",
    "is_training",
    "jacobian",
    "jvp",
    "mark_variables",
    "pause",
    "predict_mode",
    "record",
    "set_recording",
    "set_training",
    "train_mode",
    "value_and_grad",
    "vjp",
    "vmap",
]
