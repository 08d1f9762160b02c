"""Normalization over the last axes, and sums over the first ones: ``c/norm.cu``.

`standardize` and its gradient are operators. The others are what a step that is written by hand uses: a transformer's
residual and layer norm in one pass (`residual_norm`), its gradient, and RMS norm.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import STORED, THREADS, function, geometry
from shoal.ops.gpu.kernels.table import Bound, In, kernel
from shoal.ops.precision import is_half

__all__ = ["columns", "residual_norm", "residual_norm_grad", "rms_norm", "rms_norm_grad"]

SINGLE = np.dtype(np.float32)
PARTS = 128
"""How many partial sums a sum over rows has, at most: one pass adds rows to them, a second one adds them."""


def _rows(x: Any, axis: Any) -> tuple[int, ...] | None:
    """The shape with the normalized axes at length 1, if these are the last ones of an array with elements."""
    if not isinstance(x, In) or x.dtype not in STORED or not x.size or not x.shape:
        return None
    axes = sorted(a % len(x.shape) for a in ((axis,) if isinstance(axis, int) else axis))
    kept = len(x.shape) - len(axes)
    return (*x.shape[:kept], *[1] * len(axes)) if axes == list(range(kept, len(x.shape))) else None


def _statistic(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    return SINGLE if is_half(dtype) else dtype


@kernel("standardize")
def _standardize(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    (x,) = inputs
    kept = _rows(x, attrs.get("axis", -1))
    if kept is None:
        return None
    rows, eps, statistic = math.prod(kept), float(attrs.get("eps", 1e-5)), _statistic(x.dtype)
    n, launch = x.size // rows, function(xp, "norm.cu", "standardize", x.dtype, statistic)
    grid, block = geometry(rows, n, x.dtype.itemsize)
    return Bound((x, In(kept, statistic)), lambda x, y, inv: launch(grid, block, x, y, inv, rows, n, eps))


@kernel("standardize_grad")
def _standardize_grad(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, y, inv = inputs
    kept = _rows(y, attrs.get("axis", -1))
    if kept is None or not isinstance(g, In) or not isinstance(inv, In) or g.shape != y.shape or inv.shape != kept:
        return None
    if g.dtype not in STORED or inv.dtype not in STORED:
        return None
    out = np.result_type(g.dtype, y.dtype, inv.dtype)
    rows = math.prod(kept)
    n, launch = y.size // rows, function(xp, "norm.cu", "standardize_grad", g.dtype, y.dtype, inv.dtype, out)
    grid, block = geometry(rows, n, out.itemsize)
    return Bound((In(y.shape, out),), lambda g, y, inv, dx: launch(grid, block, g, y, inv, dx, rows, n))


@kernel("sum_to")
def _sum_to(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    """Over leading axes, as the gradient of a bias or of a scale: in float32 for half precision."""
    x, shape = inputs[0], tuple(attrs["shape"])
    if not isinstance(x, In) or x.dtype not in STORED or not x.size:
        return None
    n = math.prod(shape)
    lead = len(x.shape) - len(shape)
    ones = next((i for i, k in enumerate(shape) if k != 1), len(shape))
    if n < 2 or lead < 0 or x.shape[lead + ones :] != shape[ones:] or x.size == n:
        return None
    rows = x.size // n

    def run(x: Any, out: Any) -> None:
        columns(xp, x, out, rows, n)

    return Bound((In(shape, x.dtype),), run)


def columns(xp: Any, x: Any, out: Any, rows: int, n: int) -> None:
    """The sums of the columns of x (rows, n), which lies in C order, to ``out``: in a fixed order, in float32 at least.

    Args:
        rows, n: x is taken as of this shape, ``out`` as of (n,).
    """
    parts = min(PARTS, -(-rows // 32))
    block, width = (THREADS, 1, 1), -(-n // THREADS)
    if parts < 2:
        function(xp, "norm.cu", "columns", x.dtype, out.dtype)((width, 1, 1), block, x, out, rows, n)
        return
    partial = xp.module.empty((parts, n), _statistic(x.dtype))
    function(xp, "norm.cu", "columns", x.dtype, partial.dtype)((width, parts, 1), block, x, partial, rows, n)
    function(xp, "norm.cu", "columns", partial.dtype, out.dtype)((width, 1, 1), block, partial, out, parts, n)


def residual_norm(
    xp: Any, x: Any, gamma: Any, beta: Any, residual: Any = None, eps: float = 1e-5
) -> tuple[Any, Any, Any, Any]:
    """Layer normalization of ``x + residual`` over the last axis, in one pass.

    Args:
        x, residual: in C order, of one shape and type; a residual of None is none.
        gamma, beta: of the last axis, of one type.
    Returns:
        (y, the sum (x itself without a residual), mean, 1 / std); the last two are what the gradient needs.
    """
    n = x.shape[-1]
    rows, statistic = x.size // n, _statistic(x.dtype)
    y, mean, inverse = (
        xp.module.empty(x.shape, x.dtype),
        xp.module.empty((rows,), statistic),
        xp.module.empty((rows,), statistic),
    )
    total = x if residual is None else xp.module.empty(x.shape, x.dtype)
    launch = function(xp, "norm.cu", "residual_norm", x.dtype, statistic, gamma.dtype)
    no = np.uint64(0)
    pair = (no, no) if residual is None else (residual, total)
    launch(*geometry(rows, n, x.dtype.itemsize), x, pair[0], gamma, beta, pair[1], y, mean, inverse, rows, n, eps)
    return y, total, mean, inverse


def residual_norm_grad(
    xp: Any, g: Any, total: Any, gamma: Any, mean: Any, inverse: Any, other: Any = None
) -> tuple[Any, Any, Any]:
    """The gradients of `residual_norm`, given that of y: for the sum (and so for x and the residual), gamma and beta.

    Args:
        other: what comes to the sum by other ways, of its shape; it is added. None for nothing.
    Returns:
        (dx, dgamma, dbeta), the latter two in float32.
    """
    n = total.shape[-1]
    rows, empty = total.size // n, xp.module.empty
    dx = empty(total.shape, total.dtype)
    launch = function(xp, "norm.cu", "residual_norm_grad", total.dtype, mean.dtype, gamma.dtype)
    way = np.uint64(0) if other is None else other
    launch(*geometry(rows, n, total.dtype.itemsize), g, total, gamma, mean, inverse, way, dx, rows, n)
    parts = min(PARTS, -(-rows // 32))
    partial = [empty((parts, n), np.float32) for _ in range(2)]
    launch = function(xp, "norm.cu", "norm_parts", total.dtype, mean.dtype)
    grid = (-(-n // THREADS), parts, 1)
    launch(grid, (THREADS, 1, 1), g, total, mean, inverse, *partial, rows, n)
    found = [empty((n,), np.float32) for _ in range(2)]
    for part, out in zip(partial, found, strict=True):
        columns(xp, part, out, parts, n)
    return dx, found[0], found[1]


def rms_norm(xp: Any, x: Any, gamma: Any, eps: float = 1e-6) -> tuple[Any, Any]:
    """x / sqrt(mean(x**2) + eps) * gamma over the last axis, and the inverse of that root."""
    n = x.shape[-1]
    rows, statistic = x.size // n, _statistic(x.dtype)
    y, inverse = xp.module.empty(x.shape, x.dtype), xp.module.empty((rows,), statistic)
    launch = function(xp, "norm.cu", "rms", x.dtype, statistic, gamma.dtype)
    launch(*geometry(rows, n, x.dtype.itemsize), x, gamma, y, inverse, rows, n, eps)
    return y, inverse


def rms_norm_grad(xp: Any, g: Any, x: Any, gamma: Any, inverse: Any) -> tuple[Any, Any]:
    """The gradients of `rms_norm` for x and, in float32, for gamma."""
    n = x.shape[-1]
    rows, empty = x.size // n, xp.module.empty
    dx, zeros = empty(x.shape, x.dtype), xp.module.zeros((rows,), inverse.dtype)
    launch = function(xp, "norm.cu", "rms_grad", x.dtype, inverse.dtype, gamma.dtype)
    launch(*geometry(rows, n, x.dtype.itemsize), g, x, gamma, inverse, dx, rows, n)
    parts = min(PARTS, -(-rows // 32))
    partial = [empty((parts, n), np.float32) for _ in range(2)]
    launch = function(xp, "norm.cu", "norm_parts", x.dtype, inverse.dtype)
    launch((-(-n // THREADS), parts, 1), (THREADS, 1, 1), g, x, zeros, inverse, *partial, rows, n)
    dgamma = empty((n,), np.float32)
    columns(xp, partial[0], dgamma, parts, n)
    return dx, dgamma
