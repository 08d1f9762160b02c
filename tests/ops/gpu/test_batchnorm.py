"""The GPU kernels of batch normalization, run on the CPU."""

from typing import Any

import numpy as np
import pytest

from shoal.ops import joined
from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels import batchnorm, table
from shoal.ops.gpu.kernels.table import lies_last
from shoal.ops.registry import OPS
from tests.ops.gpu.running import FLOATS, close, drawn, in_every_order, needs_compiler, wide

pytestmark = needs_compiler
XP = emulate.NAMESPACE
assert joined  # imported for its operators


def check(name: str, *inputs: Any, factor: float = 2.0, **attrs: Any) -> list[np.ndarray]:
    assert name in table.kernels()
    got = in_every_order(lambda: list(OPS[name].forward(XP, *inputs, **attrs)))
    for a, b in zip(got, OPS[name].plain(CPU, *map(wide, inputs), **attrs), strict=True):
        close(a, b, factor)
    return got


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 70, 9), (4, 33, 7, 7)])
def test_batch_norm_and_its_gradients_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(batchnorm, "PARTS", 3)
    table._bound.clear()
    c = shape[1]
    statistic = dtype if np.dtype(dtype).itemsize > 2 else np.float32
    x, residual, g = (drawn(shape, dtype, seed=i) for i in range(3))
    gamma, beta = drawn((c,), statistic, seed=4), drawn((c,), statistic, seed=5)
    _, mean, var = check("batch_norm", x, gamma, beta, eps=1e-3)
    check("batch_norm_relu", x, gamma, beta, residual, eps=1e-3)
    check("batch_norm_relu", np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1), gamma, beta, None)
    check("batch_norm_grad", g, x, gamma, mean, var, eps=1e-3, factor=6.0)
    table._bound.clear()


def test_results_have_the_channels_last_and_other_axes_have_no_kernel() -> None:
    x, one = drawn((2, 5, 6, 4), np.float32), np.ones(5, np.float32)
    assert lies_last(OPS["batch_norm"].forward(XP, x, one, one)[0])
    four = np.ones(4, np.float32)
    y = OPS["batch_norm"].forward(XP, x, four, four, axis=3)[0]
    close(y, OPS["batch_norm"].plain(CPU, wide(x), wide(four), wide(four), axis=3)[0])
