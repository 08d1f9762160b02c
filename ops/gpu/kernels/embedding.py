"""Rows of tables, and their gradient: ``c/embedding.cu``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import STORED, THREADS, function
from shoal.ops.gpu.kernels.table import Bound, In, kernel

WHOLE = (np.dtype(np.int32), np.dtype(np.int64))
BLOCKS = 1024
"""Into how many blocks the rows of a table are sorted; each goes through all indices."""


@kernel("take")
def _take(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    """Along the first axis. An index that is no row gives nan: a kernel raises no error."""
    table, index = inputs
    if not _fit(table, index, attrs.get("axis"), table.shape if isinstance(table, In) else ()):
        return None
    rows, n, count = table.shape[0], math.prod(table.shape[1:]), index.size
    launch = function(xp, "embedding.cu", "take", table.dtype, index.dtype)
    grid, block = (min(-(-count // 4), 132 * 16), 1, 1), (64, 4, 1)
    out = In((*index.shape, *table.shape[1:]), table.dtype)
    return Bound((out,), lambda table, index, out: launch(grid, block, table, index, out, count, rows, n))


@kernel("take_add")
def _take_add(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    """Along the first axis, without atomics: the same bits each time."""
    g, index = inputs
    shape = tuple(attrs["shape"])
    if not _fit(g, index, attrs.get("axis"), shape):
        return None
    rows, n, count = shape[0], math.prod(shape[1:]), index.size
    launch = function(xp, "embedding.cu", "take_add", g.dtype, index.dtype)
    grid, block = (min(BLOCKS, rows), min(-(-n // THREADS), 64), 1), (THREADS, 1, 1)

    def run(g: Any, index: Any, out: Any) -> None:
        out.fill(0)
        launch(grid, block, g, index, out, count, rows, n)

    return Bound((In(shape, g.dtype),), run)


def _fit(x: Any, index: Any, axis: Any, shape: Sequence[int]) -> bool:
    if not isinstance(x, In) or not isinstance(index, In) or not x.size or not index.size or not math.prod(shape):
        return False
    return x.dtype in STORED and index.dtype in WHOLE and len(shape) > 1 and axis in (0, -len(shape))
