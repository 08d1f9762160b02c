"""MXNet's neural functions: ``from shoal import npx``. See `shoal.ops.neural` for those with MXNet's arguments."""

from shoal import image
from shoal.ops import likes as _likes
from shoal.ops import scatter as _scatter
from shoal.ops import specials as _specials
from shoal.ops.activation import (
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    hard_tanh,
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
from shoal.ops.activation import hard_swish as hardswish
from shoal.ops.activation import hard_tanh as hardtanh
from shoal.ops.activation import log_sigmoid as logsigmoid
from shoal.ops.activation import silu as swish
from shoal.ops.activation import softplus as softrelu
from shoal.ops.attention import causal_mask, scaled_dot_product_attention
from shoal.ops.boxes import box_area, box_convert, box_iou, box_nms, nms
from shoal.ops.control import cond, foreach, while_loop
from shoal.ops.csr import csr_matmul
from shoal.ops.ctc import ctc, ctc_loss
from shoal.ops.deform import deformable_convolution
from shoal.ops.dropout import alpha_dropout, dropout, feature_alpha_dropout, feature_dropout
from shoal.ops.elementwise import erf, rsqrt, stop_gradient
from shoal.ops.embedding import embedding, embedding_bag
from shoal.ops.gru import gru_sequence
from shoal.ops.index import one_hot, pick
from shoal.ops.likes import *
from shoal.ops.linalg import fully_connected
from shoal.ops.loss import masked_softmax, sigmoid_cross_entropy, smooth_l1, softmax_cross_entropy
from shoal.ops.lstm import lstm_sequence
from shoal.ops.multibox import match_boxes, multibox_detection, multibox_prior, multibox_target
from shoal.ops.neural import (
    activation,
    arange_like,
    batch_dot,
    batch_flatten,
    batch_norm,
    convolution,
    deconvolution,
    layer_norm,
    leaky_relu,
    log_softmax,
    pooling,
    softmax,
    topk,
)
from shoal.ops.norm import group_norm, instance_norm, local_response_norm, rms_norm
from shoal.ops.norm import l2_normalize as l2_normalization
from shoal.ops.norm import local_response_norm as lrn
from shoal.ops.padding import channel_shuffle, depth_to_space, pad, pixel_shuffle, pixel_unshuffle, space_to_depth
from shoal.ops.points import affine_grid, bilinear_sampler, grid_sample
from shoal.ops.pool import global_avg_pool, global_max_pool
from shoal.ops.pooling import adaptive_max_pool, avg_pool, global_lp_pool, lp_pool, max_pool, max_unpool, sum_pool
from shoal.ops.position import rotary_embedding, rotary_tables, sinusoidal_positions
from shoal.ops.recurrent import rnn_sequence
from shoal.ops.reduce import cumsum, logsumexp
from shoal.ops.regions import roi_align, roi_pool
from shoal.ops.regions import roi_pool as roi_pooling
from shoal.ops.resample import adaptive_avg_pool, interpolate
from shoal.ops.rnn import rnn
from shoal.ops.scan import cummax, cummin, cumprod, linear_recurrence, logcumsumexp
from shoal.ops.scatter import *
from shoal.ops.sequence import sequence_last, sequence_mask, sequence_reverse
from shoal.ops.specials import *
from shoal.ops.threshold import (
    celu,
    geglu,
    glu,
    gumbel_softmax,
    hard_shrink,
    hardsigmoid,
    quick_gelu,
    reglu,
    rrelu,
    shrink,
    soft_shrink,
    softmin,
    squared_relu,
    swiglu,
    tanh_shrink,
    threshold,
)
from shoal.ops.threshold import hard_shrink as hardshrink
from shoal.ops.threshold import soft_shrink as softshrink
from shoal.ops.threshold import tanh_shrink as tanhshrink
from shoal.ops.windows import fold, unfold
from shoal.ops.windows import fold as col2im
from shoal.ops.windows import unfold as im2col

__all__ = [
    "activation",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "affine_grid",
    "alpha_dropout",
    "arange_like",
    "avg_pool",
    "batch_dot",
    "batch_flatten",
    "batch_norm",
    "bilinear_sampler",
    "box_area",
    "box_convert",
    "box_iou",
    "box_nms",
    "causal_mask",
    "celu",
    "channel_shuffle",
    "col2im",
    "cond",
    "convolution",
    "csr_matmul",
    "ctc",
    "ctc_loss",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "deconvolution",
    "deformable_convolution",
    "depth_to_space",
    "dropout",
    "elu",
    "embedding",
    "embedding_bag",
    "erf",
    "feature_alpha_dropout",
    "feature_dropout",
    "fold",
    "foreach",
    "fully_connected",
    "geglu",
    "gelu",
    "global_avg_pool",
    "global_lp_pool",
    "global_max_pool",
    "glu",
    "grid_sample",
    "group_norm",
    "gru_sequence",
    "gumbel_softmax",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "im2col",
    "image",
    "instance_norm",
    "interpolate",
    "l2_normalization",
    "layer_norm",
    "leaky_relu",
    "linear_recurrence",
    "local_response_norm",
    "log_sigmoid",
    "log_softmax",
    "logcumsumexp",
    "logsigmoid",
    "logsumexp",
    "lp_pool",
    "lrn",
    "lstm_sequence",
    "masked_softmax",
    "match_boxes",
    "max_pool",
    "max_unpool",
    "mish",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "one_hot",
    "pad",
    "pick",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pooling",
    "prelu",
    "quick_gelu",
    "reglu",
    "relu",
    "relu6",
    "rms_norm",
    "rnn",
    "rnn_sequence",
    "roi_align",
    "roi_pool",
    "roi_pooling",
    "rotary_embedding",
    "rotary_tables",
    "rrelu",
    "rsqrt",
    "scaled_dot_product_attention",
    "selu",
    "sequence_last",
    "sequence_mask",
    "sequence_reverse",
    "shrink",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "sinusoidal_positions",
    "smooth_l1",
    "soft_shrink",
    "softmax",
    "softmax_cross_entropy",
    "softmin",
    "softplus",
    "softrelu",
    "softshrink",
    "softsign",
    "space_to_depth",
    "squared_relu",
    "stop_gradient",
    "sum_pool",
    "swiglu",
    "swish",
    "tanh_shrink",
    "tanhshrink",
    "threshold",
    "topk",
    "unfold",
    "while_loop",
]
__all__ += _scatter.__all__
__all__ += _specials.__all__
__all__ += _likes.__all__
