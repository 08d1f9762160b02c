"""Batch normalization, with what joins it (an addition, a ReLU), and its gradients: ``c/batchnorm.cu``.

The channels are the last axis in memory, as convolutions give them; what lies otherwise is copied.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import STORED, THREADS, flat, function
from shoal.ops.gpu.kernels.table import Bound, In, kernel, layout_as
from shoal.ops.precision import is_half

PARTS = 512
"""Partial sums over rows, at most."""


class _Shape:
    """Rows of channels, and the launches for them."""

    def __init__(self, xp: Any, x: In) -> None:
        self.xp, self.dtype = xp, x.dtype
        self.n = x.shape[1]
        self.rows = x.size // self.n
        self.statistic = np.dtype(np.float32) if is_half(x.dtype) else x.dtype
        self.parts = min(PARTS, -(-self.rows // 64))
        self.grid, self.block = (-(-self.n // 32), self.parts, 1), (32, 8, 1)

    def channels(self, *lead: int) -> Any:
        """A new array of numbers per channel."""
        return self.xp.module.empty((*lead, self.n), self.statistic)

    def launch(self, name: str, *types: Any) -> Any:
        """A kernel."""
        return function(self.xp, "batchnorm.cu", name, *types)

    def mean(self, parts: Any, out: Any) -> None:
        """Partial sums to a mean over the rows."""
        grid = (-(-self.n // THREADS), 1, 1)
        self.launch("bn_mean", self.statistic)(grid, (THREADS, 1, 1), parts, out, self.parts, self.n, self.rows)

    def statistics(self, x: Any, mean: Any, var: Any) -> None:
        """The mean, then the mean square distance from it."""
        parts = self.channels(self.parts)
        kinds = (self.dtype, self.statistic)
        self.launch("bn_sums", *kinds)(self.grid, self.block, x, parts, self.rows, self.n)
        self.mean(parts, mean)
        self.launch("bn_squares", *kinds)(self.grid, self.block, x, mean, parts, self.rows, self.n)
        self.mean(parts, var)


def _fits(inputs: Sequence[Any], attrs: dict[str, Any]) -> bool:
    x, gamma = inputs[0], inputs[1]
    if not isinstance(x, In) or len(x.shape) not in (3, 4) or x.dtype not in STORED or not x.size:
        return False
    given = [i for i in inputs if i is not None]
    kinds = all(isinstance(i, In) and i.dtype in STORED for i in given)
    return kinds and attrs.get("axis", 1) in (1, 1 - len(x.shape)) and gamma.dtype in STORED


def _forward(name: str, relu: bool) -> None:
    @kernel(name)
    def make(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
        x, gamma, beta = inputs[:3]
        residual = inputs[3] if len(inputs) > 3 else None
        if not _fits(inputs, attrs) or gamma.dtype != beta.dtype or (residual is not None and residual != x):
            return None
        s, eps, size = _Shape(xp, x), float(attrs.get("eps", 1e-5)), x.size
        grid, block = flat(size)

        def run(x: Any, gamma: Any, beta: Any, *rest: Any) -> None:
            more, (y, mean, var) = rest[:-3], rest[-3:]
            x = layout_as(xp, x, True)
            other = np.uint64(0) if not more or more[0] is None else layout_as(xp, more[0], True)
            s.statistics(x, mean, var)
            apply = s.launch("bn_apply", s.dtype, s.statistic, gamma.dtype)
            apply(grid, block, x, gamma, beta, mean, var, other, y, size, s.n, eps, int(relu))

        channels = In((s.n,), s.statistic)
        return Bound((x, channels, channels), run, last=True)


_forward("batch_norm", relu=False)
_forward("batch_norm_relu", relu=True)


@kernel("batch_norm_grad")
def _grad(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, x, gamma, mean, var = inputs
    if not _fits((x, gamma, g, mean, var), attrs) or g != x:
        return None
    s, eps, size = _Shape(xp, x), float(attrs.get("eps", 1e-5)), x.size
    if (mean, var) != (In((s.n,), s.statistic),) * 2:
        return None
    grid, block = flat(size)

    def run(g: Any, x: Any, gamma: Any, mean: Any, var: Any, dx: Any, dgamma: Any, dbeta: Any) -> None:
        g, x = layout_as(xp, g, True), layout_as(xp, x, True)
        sums = [s.channels(s.parts), s.channels(s.parts)]
        means = [s.channels(), s.channels()]
        add = s.launch("bn_grad_sums", s.dtype, s.statistic)
        add(s.grid, s.block, g, x, mean, var, *sums, s.rows, s.n, eps)
        for part, out, result in zip(sums, means, (dbeta, dgamma), strict=True):
            s.mean(part, out)
            scale = s.launch("bn_scaled", s.statistic, gamma.dtype)
            scale((-(-s.n // THREADS), 1, 1), (THREADS, 1, 1), out, result, s.n, s.rows)
        apply = s.launch("bn_grad", s.dtype, s.statistic, gamma.dtype)
        apply(grid, block, g, x, gamma, mean, var, *means, dx, size, s.n, eps)

    channels = In((s.n,), gamma.dtype)
    return Bound((x, channels, channels), run, last=True)
