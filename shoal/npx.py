"""MXNet's neural functions: ``from shoal import npx``. See `shoal.ops.neural` for those with MXNet's arguments."""

from shoal.ops.activation import (
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    log_sigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
)
from shoal.ops.activation import (
    silu as swish,
)
from shoal.ops.elementwise import (
    erf,
    rsqrt,
    stop_gradient,
)
from shoal.ops.index import (
    one_hot,
    pick,
)
from shoal.ops.linalg import (
    fully_connected,
)
from shoal.ops.loss import (
    masked_softmax,
    sigmoid_cross_entropy,
    smooth_l1,
    softmax_cross_entropy,
)
from shoal.ops.neural import (
    activation,
    arange_like,
    batch_dot,
    batch_flatten,
    batch_norm,
    convolution,
    deconvolution,
    dropout,
    embedding,
    layer_norm,
    leaky_relu,
    log_softmax,
    pooling,
    sequence_mask,
    softmax,
    topk,
)
from shoal.ops.norm import (
    group_norm,
    instance_norm,
    rms_norm,
)
from shoal.ops.norm import (
    l2_normalize as l2_normalization,
)
from shoal.ops.pool import (
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    sum_pool,
)
from shoal.ops.reduce import (
    logsumexp,
)

__all__ = [
    "activation",
    "arange_like",
    "avg_pool",
    "batch_dot",
    "batch_flatten",
    "batch_norm",
    "convolution",
    "deconvolution",
    "dropout",
    "elu",
    "embedding",
    "erf",
    "fully_connected",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "instance_norm",
    "l2_normalization",
    "layer_norm",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "masked_softmax",
    "max_pool",
    "mish",
    "one_hot",
    "pick",
    "pooling",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "rsqrt",
    "selu",
    "sequence_mask",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "smooth_l1",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "softsign",
    "stop_gradient",
    "sum_pool",
    "swish",
    "topk",
]
