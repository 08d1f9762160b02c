"""Convolution, normalization, dropout."""

from typing import Any

import numpy as np

from shoal.ops import convolve, elementwise, norm, tape
from shoal.ops import dropout as dropping
from shoal.ops import reduce as reducing
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast
from shoal.ops.onnx.families.pooling import padding_of
from shoal.ops.onnx.nodes import Call, node
from shoal.ops.tensor import Tensor

__all__: list[str] = []


def _geometry(c: Call, x: Any) -> dict[str, Any]:
    k = x.ndim - 2
    stride, dilate = (tuple(c.get(name, (1,) * k)) for name in ("strides", "dilations"))
    return {"stride": stride, "pad": padding_of(c, k), "dilate": dilate, "num_group": int(c.get("group", 1))}


@node("Conv")
def convolution(c: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    """With strides, padding (also by "SAME_UPPER" and its like), dilation and groups."""
    return convolve.convolution(x, weight, bias, **_geometry(c, x))


@node("ConvTranspose")
def conv_transpose(c: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    """What convolution does to gradients; padding cuts off."""
    k, given, wanted = x.ndim - 2, _geometry(c, x), c.get("output_shape")
    if wanted is not None and c.get("auto_pad", "NOTSET") != "SAME_UPPER":
        given["pad"] = "same_lower"  # an odd element is cut off at the beginning
    extra = tuple(c.get("output_padding", (0,) * k))
    target = None if wanted is None else tuple(wanted[-k:])
    return convolve.deconvolution(x, weight, bias, **given, adj=extra, target_shape=target)


@node("BatchNormalization")
def batch_norm(c: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    """With the given statistics, or, in training mode, with the batch's, which the running ones move to."""
    eps, momentum = float(c.get("epsilon", 1e-5)), float(c.get("momentum", 0.9))
    training = c.get("training_mode", 0) or tape.state.training
    if not training:
        return norm.batch_norm_inference(x, scale, bias, mean, var, eps=eps)
    out, now, spread = norm.batch_norm(x, scale, bias, eps=eps)
    new = tuple(momentum * old + (1.0 - momentum) * n for old, n in ((mean, now), (var, spread)))
    if not c.get("training_mode", 0):
        for old, n in zip((mean, var), new, strict=True):
            if isinstance(old, Tensor) and isinstance(n, Tensor):
                old.data[...] = n.data
        return out
    return out, *new


def _per_channel(v: Any, ndim: int) -> Any:
    return shaping.reshape(v, (-1,) + (1,) * (ndim - 2))


@node("InstanceNormalization")
def instance_norm(c: Call, x: Any, scale: Any, bias: Any) -> Any:
    """Each channel of each sample by itself."""
    standard = norm.standardize(x, axis=tuple(range(2, x.ndim)), eps=float(c.get("epsilon", 1e-5)))[0]
    return standard * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@node("GroupNormalization")
def group_norm(c: Call, x: Any, scale: Any, bias: Any) -> Any:
    """Groups of channels of each sample; scale and bias are per group before opset 21, per channel since."""
    groups, shape = int(c.get("num_groups")), tuple(x.shape)
    parts = shaping.reshape(x, (shape[0], groups, -1))
    standard = norm.standardize(parts, axis=2, eps=float(c.get("epsilon", 1e-5)))[0]
    if c.opset < 21 and int(scale.shape[0]) == groups:
        standard = standard * shaping.reshape(scale, (1, -1, 1)) + shaping.reshape(bias, (1, -1, 1))
        return shaping.reshape(standard, shape)
    return shaping.reshape(standard, shape) * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@node("LayerNormalization")
def layer_norm(c: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    """Over the axes from ``axis`` on; also gives the mean and one over the deviation."""
    axes = tuple(range(int(c.get("axis", -1)) % x.ndim, x.ndim))
    eps = float(c.get("epsilon", 1e-5))
    standard = norm.standardize(x, axis=axes, eps=eps)[0]
    out = standard * scale if bias is None else standard * scale + bias
    if not c.wants(1) and not c.wants(2):
        return out
    mean = reducing.mean(x, axis=axes, keepdims=True)
    var = reducing.mean(elementwise.square(x - mean), axis=axes, keepdims=True)
    return out, mean, elementwise.rsqrt(var + eps)


@node("RMSNormalization")
def rms_norm(c: Call, x: Any, scale: Any) -> Any:
    """Divided by the root of the mean square over the axes from ``axis`` on."""
    axes, dtype = tuple(range(int(c.get("axis", -1)) % x.ndim, x.ndim)), np.dtype(x.dtype)
    wide = cast(x, np.dtype(np.float32)) if dtype.itemsize < 4 else x
    square = reducing.mean(elementwise.square(wide), axis=axes, keepdims=True)
    return cast(wide * elementwise.rsqrt(square + float(c.get("epsilon", 1e-5))), dtype) * scale


@node("LpNormalization")
def lp_normalization(c: Call, x: Any) -> Any:
    """Divided by the 1- or 2-norm along an axis; what is all zero stays."""
    axis = int(c.get("axis", -1))
    if int(c.get("p", 2)) == 1:
        length = reducing.sum_(elementwise.abs_(x), axis=axis, keepdims=True)
    else:
        length = elementwise.sqrt(reducing.sum_(elementwise.square(x), axis=axis, keepdims=True))
    return x / elementwise.where(length > 0, length, elementwise.ones_like(length))


@node("MeanVarianceNormalization")
def mean_variance_normalization(c: Call, x: Any) -> Any:
    """Mean 0 and variance 1 over some axes."""
    axes = tuple(c.get("axes", (0, 2, 3)))
    mean = reducing.mean(x, axis=axes, keepdims=True)
    var = reducing.mean(elementwise.square(x), axis=axes, keepdims=True) - elementwise.square(mean)
    return (x - mean) / (elementwise.sqrt(var) + 1e-9)


@node("LRN")
def local_response_norm(c: Call, x: Any) -> Any:
    """Divided by a power of the squares of neighbouring channels (Krizhevsky et al., 2012)."""
    size, channels = int(c.get("size")), int(x.shape[1])
    before = (size - 1) // 2
    width = ((0, 0), (before, size - 1 - before)) + ((0, 0),) * (x.ndim - 2)
    squares = shaping.pad(elementwise.square(x), width)
    total = squares[:, :channels]
    for i in range(1, size):
        total = total + squares[:, i : i + channels]
    alpha, beta = float(c.get("alpha", 1e-4)), float(c.get("beta", 0.75))
    return x / (float(c.get("bias", 1.0)) + alpha / size * total) ** beta


@node("Dropout", known=[1, 2])
def dropout(c: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """In training mode elements are dropped; the mask is the second output."""
    p = float(c.known(ratio, "the ratio")) if ratio is not None else float(c.get("ratio", 0.5))
    on = bool(c.known(training, "the mode")) if training is not None else tape.state.training
    if not on or p == 0.0:
        return x, np.ones(tuple(x.shape), bool)
    if not c.wants(1):
        return dropping.dropout(x, p, mode="always")
    mask = dropping.dropout(elementwise.ones_like(x), p, mode="always")
    return x * mask, mask > 0
