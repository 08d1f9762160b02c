"""Numbers of 8 bits: quantization and products of quantized arrays."""

from typing import Any

import numpy as np

from shoal.ops import elementwise, linalg
from shoal.ops import reduce as reducing
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast, dtype_of
from shoal.ops.onnx.families.layers import convolution
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

UINT8 = 2
"""ONNX's number of it."""


def _fitted(v: Any, x: Any, axis: int) -> Any:
    """A scale or zero point, per array or along an axis, in a shape that broadcasts with x; blocks are repeated."""
    if v is None or not v.ndim or int(np.prod(tuple(v.shape))) == 1:
        return v if v is None or not v.ndim else shaping.reshape(v, ())
    if v.ndim == 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return shaping.reshape(v, tuple(shape))
    for a, (n, m) in enumerate(zip(x.shape, v.shape, strict=True)):
        if n != m and m != 1:
            v = np.repeat(np.asarray(v.asnumpy() if hasattr(v, "asnumpy") else v), -(-n // m), axis=a)
            v = v[tuple(slice(0, n) if i == a else slice(None) for i in range(v.ndim))]
    return v


@node("QuantizeLinear")
def quantize(c: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    """round(x / scale) + zero point, kept in range."""
    dtype = dtype_of(int(c.get("output_dtype", 0)) or UINT8) if zero is None else np.dtype(zero.dtype)
    if dtype.kind not in "iu" or dtype.name.startswith(("int4", "uint4")):
        raise c.refuse(f"it quantizes to {dtype}; int8, uint8, int16, uint16 and int32 are known here")
    axis = int(c.get("axis", 1)) % max(1, x.ndim)
    down = elementwise.rint(x / _fitted(scale, x, axis))
    shift = 0 if zero is None else _fitted(zero, x, axis).astype("float32")
    limits = np.iinfo(dtype)
    return cast(elementwise.clip(down + shift, float(limits.min), float(limits.max)), dtype)


@node("DequantizeLinear")
def dequantize(c: Call, x: Any, scale: Any, zero: Any = None) -> Any:
    """(x - zero point) scale."""
    axis, dtype = int(c.get("axis", 1)) % max(1, x.ndim), np.dtype(scale.dtype)
    wide = cast(x, np.dtype(np.float32))
    if zero is not None:
        wide = wide - cast(_fitted(zero, x, axis), np.dtype(np.float32))
    return cast(wide * _fitted(scale, x, axis), dtype)


@node("DynamicQuantizeLinear")
def dynamic_quantize(c: Call, x: Any) -> Any:
    """To 0..255 by the array's own range, in which 0 is."""
    low = elementwise.minimum(reducing.min_(x), 0.0)
    high = elementwise.maximum(reducing.max_(x), 0.0)
    scale = (high - low) / 255.0
    zero = elementwise.clip(elementwise.rint(-low / scale), 0.0, 255.0)
    out = elementwise.clip(elementwise.rint(x / scale) + zero, 0.0, 255.0)
    kind = np.dtype(np.uint8)
    return cast(out, kind), scale, cast(zero, kind)


def _centred(x: Any, zero: Any, axis: int = -1) -> Any:
    wide = cast(x, np.dtype(np.int32))
    if zero is None:
        return wide
    zero = cast(zero, np.dtype(np.int32))
    if zero.ndim == 1 and int(zero.shape[0]) != 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        zero = shaping.reshape(zero, tuple(shape))
    return wide - zero


@node("MatMulInteger")
def matmul_integer(c: Call, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """A product of 8-bit matrices in 32 bits."""
    return cast(linalg.matmul(_centred(a, a_zero, -2), _centred(b, b_zero)), np.dtype(np.int32))


@node("QLinearMatMul")
def qlinear_matmul(c: Call, a: Any, sa: Any, za: Any, b: Any, sb: Any, zb: Any, sy: Any, zy: Any) -> Any:
    """A product of quantized matrices, quantized."""
    wide = np.dtype(np.float32)
    exact = cast(linalg.matmul(_centred(a, za, -2), _centred(b, zb)), wide)
    return quantize(c, exact * cast(sa, wide) * cast(sb, wide), cast(sy, wide), zy)


@node("ConvInteger")
def conv_integer(c: Call, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None) -> Any:
    """A convolution of 8-bit arrays in 32 bits; float64 holds such sums exactly."""
    wide = np.dtype(np.float64)
    return cast(convolution(c, cast(_centred(x, x_zero), wide), cast(_centred(w, w_zero, 0), wide)), np.dtype(np.int32))


@node("QLinearConv")
def qlinear_conv(
    c: Call, x: Any, sx: Any, zx: Any, w: Any, sw: Any, zw: Any, sy: Any, zy: Any, bias: Any = None
) -> Any:
    """A convolution of quantized arrays, quantized."""
    wide = np.dtype(np.float64)
    out = convolution(c, cast(_centred(x, zx), wide), cast(_centred(w, zw, 0), wide))
    if bias is not None:
        out = out + shaping.reshape(cast(bias, wide), (-1,) + (1,) * (x.ndim - 2))
    scale = sx * (shaping.reshape(sw, (-1,) + (1,) * (x.ndim - 2)) if sw.ndim and int(sw.shape[0]) > 1 else sw)
    return quantize(c, cast(out * scale, np.dtype(np.float32)), sy, zy)
