"""Mixed precision: half precision where it is safe, float32 elsewhere.

with amp.autocast(), autograd.record():  # bfloat16
    loss = loss_fn(net(x), y).mean()
loss.backward()

Names are MXNet's and PyTorch's; docs/amp.md has the tables.
"""

from shoal.ops.lossscale import LossScale
from shoal.ops.nn.mixed import (
    autocast,
    convert_hybrid_block,
    convert_symbol,
    init,
    list_fp32_ops,
    list_lp16_ops,
    list_widest_type_cast,
)
from shoal.worker.scaling import GradScaler, init_trainer, scale_loss, unscale

__all__ = [
    "GradScaler",
    "LossScale",
    "autocast",
    "convert_hybrid_block",
    "convert_symbol",
    "init",
    "init_trainer",
    "list_fp32_ops",
    "list_lp16_ops",
    "list_widest_type_cast",
    "scale_loss",
    "unscale",
]
