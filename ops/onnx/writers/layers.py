"""Products, convolution, pooling, normalization, softmax."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.conv import lengths
from shoal.ops.graph.ir import Call
from shoal.ops.onnx.writers.arithmetic import common, number
from shoal.ops.onnx.writers.shapes import unsqueezed
from shoal.ops.onnx.writing import Writer, writes

__all__: list[str] = []


@writes("matmul")
def matmul(w: Writer, c: Call, x: str, y: str) -> str:
    """As NumPy's."""
    found: str = w.node("MatMul", *common(w, c, (x, y)))
    return found


@writes("fully_connected")
def fully_connected(w: Writer, c: Call, x: str, weight: str, bias: str | None = None) -> str:
    """One Gemm for a matrix; a product and a sum otherwise."""
    flat = c.attrs["flatten"]
    ndim = w.specs[x].ndim
    if flat and ndim != 2:
        x, ndim = w.node("Flatten", x, axis=1), 2
    if ndim == 2:
        found: str = w.node("Gemm", x, weight, bias, transB=1)
        return found
    made = w.node("MatMul", x, w.node("Transpose", weight, perm=[1, 0]))
    found = made if bias is None else w.node("Add", made, bias)
    return found


@writes("contract")
def contract(w: Writer, c: Call, *xs: str) -> str:
    """An Einstein sum."""
    found: str = w.node("Einsum", *common(w, c, xs), equation=c.attrs["subscripts"])
    return found


def _geometry(c: Call, k: int) -> dict[str, Any]:
    pad = list(lengths(c.attrs["pad"], k))
    return {"strides": list(lengths(c.attrs["stride"], k)), "pads": pad + pad}


@writes("convolution")
def convolution(w: Writer, c: Call, x: str, weight: str, bias: str | None = None) -> str:
    """Over one to three axes."""
    k = w.specs[x].ndim - 2
    more = {"dilations": list(lengths(c.attrs["dilate"], k)), "group": c.attrs["num_group"]}
    found: str = w.node(
        "Conv", x, weight, bias, kernel_shape=list(w.specs[weight].shape[2:]), **_geometry(c, k), **more
    )
    return found


@writes("convolution_data")
def transposed_convolution(w: Writer, c: Call, g: str, weight: str) -> str:
    """What makes a convolution's input from its output."""
    k = w.specs[g].ndim - 2
    stride, pad, dilate = (lengths(c.attrs[n], k) for n in ("stride", "pad", "dilate"))
    sizes = zip(w.specs[g].shape[2:], stride, pad, dilate, w.specs[weight].shape[2:], c.attrs["space"], strict=True)
    extra = [out - ((n - 1) * s - 2 * p + d * (m - 1) + 1) for n, s, p, d, m, out in sizes]
    found: str = w.node(
        "ConvTranspose",
        g,
        weight,
        kernel_shape=list(w.specs[weight].shape[2:]),
        dilations=list(dilate),
        group=c.attrs["num_group"],
        output_padding=extra,
        **_geometry(c, k),
    )
    return found


def _windows(w: Writer, c: Call, x: str) -> dict[str, Any]:
    k = w.specs[x].ndim - 2
    kernel, stride = lengths(c.attrs["kernel"], k), c.attrs["stride"]
    pad = list(lengths(c.attrs["pad"], k))
    steps = kernel if stride is None else lengths(stride, k)
    return {"kernel_shape": list(kernel), "strides": list(steps), "pads": pad + pad}


@writes("max_pool")
def max_pool(w: Writer, c: Call, x: str) -> str:
    """The largest of each window."""
    found: str = w.node("MaxPool", x, **_windows(w, c, x))
    return found


@writes("sum_pool")
def sum_pool(w: Writer, c: Call, x: str) -> str:
    """The mean of each window, times its size."""
    given = _windows(w, c, x)
    mean = w.node("AveragePool", x, count_include_pad=1, **given)
    found: str = w.node("Mul", mean, number(w, c, float(np.prod(given["kernel_shape"]))))
    return found


@writes("softmax", "log_softmax")
def softmax(w: Writer, c: Call, x: str) -> str:
    """Along one axis."""
    axis = c.attrs["axis"] % w.specs[x].ndim
    op = "Softmax" if c.op == "softmax" else "LogSoftmax"
    if w.opset >= 13 or axis == w.specs[x].ndim - 1:
        return w.node(op, x, axis=axis)  # type: ignore[no-any-return]
    raise w.refuse("before opset 13 softmax is along the last axis only")


@writes("standardize")
def standardize(w: Writer, c: Call, x: str) -> Sequence[str]:
    """Mean 0 and variance 1 over some axes; and one over the deviation."""
    spec = w.specs[x]
    axis = c.attrs["axis"]
    axes = sorted(a % spec.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    eps = float(c.attrs["eps"])
    if w.opset >= 17 and axes == list(range(axes[0], spec.ndim)) and spec.dtype.itemsize >= 4:
        ones = w.const(np.ones(spec.shape[axes[0] :], spec.dtype))
        out, _, scale = w.node("LayerNormalization", x, ones, outputs=3, axis=axes[0], epsilon=eps)
        return out, scale
    wide = c.specs[1].dtype
    x = x if spec.dtype == wide else w.cast(x, wide)
    away = w.node("Sub", x, w.reduce("ReduceMean", x, axes, True))
    var = w.reduce("ReduceMean", w.node("Mul", away, away), axes, True)
    scale = w.node("Reciprocal", w.node("Sqrt", w.node("Add", var, w.const(eps, wide))))
    out = w.node("Mul", away, scale)
    return (out if spec.dtype == wide else w.cast(out, spec.dtype)), scale


@writes("softmax_cross_entropy")
def softmax_cross_entropy(w: Writer, c: Call, x: str, label: str) -> str:
    """One loss a sample; labels are positions."""
    axis = c.attrs["axis"] % w.specs[x].ndim
    logs = w.node("LogSoftmax", x, axis=axis)
    picked = w.node("GatherElements", logs, unsqueezed(w, w.cast(label, np.int64), [axis]), axis=axis)
    found: str = w.node("Neg", w.node("Squeeze", picked, w.ints(axis)))
    return found
