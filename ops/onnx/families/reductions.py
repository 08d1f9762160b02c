"""Sums, extremes, orders and products of matrices."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.ops import decomposition, elementwise, index, linalg, neural, reduce, scan
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.shapes import axes_of
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []


def _l1(x: Any, axis: Any, keepdims: bool) -> Any:
    return reduce.sum_(elementwise.abs_(x), axis=axis, keepdims=keepdims)


def _l2(x: Any, axis: Any, keepdims: bool) -> Any:
    return elementwise.sqrt(reduce.sum_(elementwise.square(x), axis=axis, keepdims=keepdims))


def _squares(x: Any, axis: Any, keepdims: bool) -> Any:
    return reduce.sum_(elementwise.square(x), axis=axis, keepdims=keepdims)


def _log_sum(x: Any, axis: Any, keepdims: bool) -> Any:
    return elementwise.log(reduce.sum_(x, axis=axis, keepdims=keepdims))


def _max(x: Any, axis: Any, keepdims: bool) -> Any:
    return _extreme(reduce.max_, x, axis, keepdims, top=False)


def _min(x: Any, axis: Any, keepdims: bool) -> Any:
    return _extreme(reduce.min_, x, axis, keepdims, top=True)


def _extreme(f: Callable[..., Any], x: Any, axis: Any, keepdims: bool, top: bool) -> Any:
    """Of no elements: what any other would replace."""
    dtype = np.dtype(x.dtype)
    axes = tuple(a % x.ndim for a in axis) if axis is not None else tuple(range(x.ndim))
    if all(x.shape[a] for a in axes):
        if dtype.kind == "b":
            return f(x.astype("uint8"), axis=axis, keepdims=keepdims).astype("bool")
        return f(x, axis=axis, keepdims=keepdims)
    if dtype.kind == "f":
        limit: Any = np.inf if top else -np.inf
    else:
        limit = top if dtype.kind == "b" else getattr(np.iinfo(dtype), "max" if top else "min")
    shape = [1 if a in axes else n for a, n in enumerate(x.shape) if keepdims or a not in axes]
    return np.full(shape, limit, dtype)


def _summed(x: Any, axis: Any, keepdims: bool) -> Any:
    return reduce.sum_(x, axis=axis, keepdims=keepdims).astype(np.dtype(x.dtype).name)


def _product(x: Any, axis: Any, keepdims: bool) -> Any:
    return reduce.prod(x, axis=axis, keepdims=keepdims).astype(np.dtype(x.dtype).name)


REDUCTIONS: dict[str, Callable[[Any, Any, bool], Any]] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": lambda x, axis, keepdims: reduce.logsumexp(x, axis=axis, keepdims=keepdims),
    "ReduceMax": _max,
    "ReduceMean": lambda x, axis, keepdims: reduce.mean(x, axis=axis, keepdims=keepdims),
    "ReduceMin": _min,
    "ReduceProd": _product,
    "ReduceSum": _summed,
    "ReduceSumSquare": _squares,
}


def _reduction(name: str, f: Callable[[Any, Any, bool], Any]) -> None:
    @node(name, known=[1])
    def apply(c: Call, x: Any, axes: Any = None) -> Any:
        axis = axes_of(c, axes)
        if not axis:
            if c.get("noop_with_empty_axes", 0):
                return _alone(name, x)
            axis = None
        return f(x, axis, bool(c.get("keepdims", 1)))


def _alone(name: str, x: Any) -> Any:
    """A reduction over no axes: of each element for itself."""
    if name in ("ReduceL1", "ReduceL2"):
        return elementwise.abs_(x)
    if name == "ReduceLogSum":
        return elementwise.log(x)
    return elementwise.square(x) if name == "ReduceSumSquare" else x


for _name, _f in REDUCTIONS.items():
    _reduction(_name, _f)


def _position(name: str, f: Callable[..., Any]) -> None:
    @node(name)
    def apply(c: Call, x: Any) -> Any:
        axis, keep = int(c.get("axis", 0)), bool(c.get("keepdims", 1))
        if not c.get("select_last_index", 0):
            return f(x, axis=axis, keepdims=keep).astype("int64")
        n = int(x.shape[axis])
        return (n - 1 - f(shaping.flip(x, axis=axis), axis=axis, keepdims=keep)).astype("int64")


_position("ArgMax", reduce.argmax)
_position("ArgMin", reduce.argmin)


def _running(name: str, f: Callable[..., Any], first: int) -> None:
    @node(name, known=[1])
    def apply(c: Call, x: Any, axis: Any) -> Any:
        a = c.ints(axis, "the axis")[0] % x.ndim
        x = shaping.flip(x, axis=a) if c.get("reverse", 0) else x
        if c.get("exclusive", 0):
            width, key = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
            width[a], key[a] = (1, 0), slice(0, int(x.shape[a]))
            x = shaping.pad(x, tuple(width), first)[tuple(key)]
        out = f(x, axis=a).astype(np.dtype(x.dtype).name)
        return shaping.flip(out, axis=a) if c.get("reverse", 0) else out


_running("CumSum", reduce.cumsum, 0)
_running("CumProd", scan.cumprod, 1)


@node("TopK", known=[1])
def top_k(c: Call, x: Any, k: Any = None) -> Any:
    """The largest or smallest along an axis, and where they are; earlier ones first among equals."""
    count = int(c.get("k")) if k is None else c.ints(k, "k")[0]
    axis = int(c.get("axis", -1))
    array = c.known(x, "the order") if not hasattr(x, "asnumpy") else x.asnumpy()
    ranked = np.argsort(_descending(array) if c.get("largest", 1) else array, axis=axis, kind="stable")
    where = np.take(ranked, np.arange(count), axis=axis).astype(np.int64)
    return index.take_along_axis(x, where, axis=axis), where


def _descending(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.kind == "u":
        return np.iinfo(array.dtype).max - array
    return ~array if array.dtype.kind == "i" else -array


@node("Hardmax")
def hardmax(c: Call, x: Any) -> Any:
    """1 at the first largest element along an axis, 0 elsewhere."""
    flat, axis = _coerced(c, x)
    n = int(flat.shape[axis])
    shape = [1] * flat.ndim
    shape[axis] = n
    hit = reduce.argmax(flat, axis=axis, keepdims=True) == np.arange(n).reshape(shape)
    return shaping.reshape(hit.astype(np.dtype(x.dtype).name), tuple(x.shape))


def _coerced(c: Call, x: Any) -> tuple[Any, int]:
    """Before opset 13 softmax and its like work on a matrix: the axes from ``axis`` on are one."""
    if c.opset >= 13:
        return x, int(c.get("axis", -1)) % x.ndim
    axis = int(c.get("axis", 1)) % x.ndim
    rows = int(np.prod(tuple(x.shape)[:axis], dtype=np.int64))
    return shaping.reshape(x, (rows, -1)), 1


@node("Softmax", "LogSoftmax")
def softmax(c: Call, x: Any) -> Any:
    """Exponentials that sum to 1, or their logarithms."""
    flat, axis = _coerced(c, x)
    f = neural.softmax if c.node.op == "Softmax" else neural.log_softmax
    return shaping.reshape(f(flat, axis=axis), tuple(x.shape))


# --- matrices ---------------------------------------------------------------------------------------------------------


@node("MatMul")
def matmul(c: Call, x: Any, y: Any) -> Any:
    """The product of matrices, broadcast over the axes before."""
    return linalg.matmul(x, y)


@node("Gemm")
def gemm(c: Call, a: Any, b: Any, bias: Any = None) -> Any:
    """``alpha`` a b + ``beta`` bias, with a or b transposed."""
    a = a.T if c.get("transA", 0) else a
    b = b.T if c.get("transB", 0) else b
    out, alpha, beta = linalg.matmul(a, b), c.get("alpha", 1.0), c.get("beta", 1.0)
    out = out if alpha == 1 else out * _factor(out, alpha)
    if bias is None:
        return out
    return out + (bias if beta == 1 else bias * _factor(out, beta))


def _factor(x: Any, number: float) -> Any:
    return int(number) if np.dtype(x.dtype).kind in "iu" else float(number)


@node("Einsum")
def einsum(c: Call, *xs: Any) -> Any:
    """Products and sums over named axes."""
    return linalg.einsum(str(c.get("equation")).replace(" ", ""), *xs)


@node("Det")
def det(c: Call, x: Any) -> Any:
    """The determinant of each matrix."""
    return decomposition.det(x)
