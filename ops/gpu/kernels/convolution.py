"""Convolution of images, and its gradients, by cuDNN (`shoal.ops.gpu.dnn`).

Images and filters have their channels last in memory, as the operators' own results have; what lies otherwise is
copied. float32 is exact unless `shoal.cuda.set_float32_matmul_precision` says "high". Groups, one and three spatial
axes, and float64 stay with the array namespace.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu import dnn
from shoal.ops.gpu.dnn import TYPES, Convolution, address, dnn_of, stream_of
from shoal.ops.gpu.kernels.products import get_float32_matmul_precision
from shoal.ops.gpu.kernels.table import Bound, In, kernel, layout_as, pair

__all__ = ["signature"]


def signature(x: Sequence[int], weight: Sequence[int], y: Sequence[int], dtype: Any, attrs: dict[str, Any]) -> Any:
    """The `Convolution` of these shapes and attributes."""
    stride, pad, dilate = (pair(attrs.get(name, usual)) for name, usual in (("stride", 1), ("pad", 0), ("dilate", 1)))
    return Convolution(tuple(x), tuple(weight), tuple(y), stride, pad, dilate, dtype)


def _images(xp: Any, arrays: Sequence[Any], attrs: dict[str, Any]) -> bool:
    """Whether cuDNN is here and takes these: images, of one type that it has, without groups."""
    if dnn_of(xp) is None or attrs.get("num_group", 1) != 1:
        return False
    fits = all(isinstance(a, In) and len(a.shape) == 4 and a.size > 0 for a in arrays)
    return fits and len({a.dtype for a in arrays}) == 1 and arrays[0].dtype in TYPES


def _runner(xp: Any, part: str, c: Convolution, names: Sequence[int]) -> Any:
    def run(*arrays: Any) -> None:
        engine = dnn_of(xp)
        assert engine is not None
        asked = c._replace(tf32=c.dtype == np.float32 and get_float32_matmul_precision() == "high")
        given = [layout_as(xp, a, True) for a in arrays[:-1]]
        where = {name: address(a) for name, a in zip(names, (*given, arrays[-1]), strict=True)}
        engine.convolve(part, asked, where, stream_of(xp))

    return run


@kernel("convolution", "dnn")
def _convolution(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    from shoal.ops.registry import OPS, Spec  # it imports this module

    x, weight, bias = inputs
    if not _images(xp, (x, weight), attrs) or (bias is not None and bias.dtype != x.dtype):
        return None
    y = OPS["convolution"].infer(Spec(*x), Spec(*weight), **attrs)
    c = signature(x.shape, weight.shape, y.shape, x.dtype, attrs)
    forward = _runner(xp, "forward", c, (dnn.X, dnn.WEIGHT, dnn.Y))

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        forward(x, weight, out)
        if bias is not None:
            out += bias.reshape(1, -1, 1, 1)

    return Bound((In(y.shape, x.dtype),), run, last=True)


@kernel("convolution_data", "dnn")
def _data(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, weight = inputs
    if not _images(xp, inputs, attrs):
        return None
    shape = (g.shape[0], weight.shape[1], *attrs["space"])
    c = signature(shape, weight.shape, g.shape, g.dtype, attrs)
    return Bound((In(shape, g.dtype),), _runner(xp, "data", c, (dnn.Y, dnn.WEIGHT, dnn.X)), last=True)


@kernel("convolution_weight", "dnn")
def _weight(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, x = inputs
    if not _images(xp, inputs, attrs):
        return None
    shape = (g.shape[1], x.shape[1], *attrs["kernel"])
    c = signature(x.shape, shape, g.shape, g.dtype, attrs)
    return Bound((In(shape, g.dtype),), _runner(xp, "weight", c, (dnn.Y, dnn.X, dnn.WEIGHT)), last=True)
