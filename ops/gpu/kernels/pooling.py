"""Pooling of lines and images, in C order or with the channels last: ``c/pool.cu``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import INDICES, STORED, flat, function
from shoal.ops.gpu.kernels.table import Bound, In, kernel, layout_as, lies_last, pair


def _maker(name: str, arrays: int, unpools: bool, by_index: bool, makes_index: bool = False) -> None:
    @kernel(name)
    def make(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
        x = inputs[0]
        count = len(x.shape) - 2 if isinstance(x, In) else 0
        if count not in (1, 2) or x.dtype not in STORED or not all(isinstance(i, In) for i in inputs):
            return None
        if by_index and inputs[1].dtype not in INDICES:
            return None
        kernel_, pad = pair(attrs["kernel"], count), attrs.get("pad", 0)
        stride = kernel_ if attrs.get("stride") is None else pair(attrs["stride"], count)
        pad_ = pair(pad, count) if count == 2 else (0, pair(pad, 1)[1])
        stride = stride if count == 2 else (1, stride[1])
        image = pair(attrs["space"] if unpools else x.shape[2:], count)
        pooled = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(image, kernel_, stride, pad_, strict=True))
        if min(pooled) < 1 or x.size == 0:
            return None
        index = np.dtype(np.uint8 if math.prod(kernel_) <= 256 else np.int32)
        dtype = index if makes_index else x.dtype
        space = image if unpools else pooled
        shape = (*x.shape[:2], *space[2 - count :])
        types = [x.dtype, *([index] if makes_index else [inputs[1].dtype] if by_index else [])]
        launch = function(xp, "pool.cu", name, *types)
        grid, block = flat(math.prod(shape))
        numbers = (*x.shape[:2], *image, *pooled, *kernel_, *stride, *pad_)

        def run(*given: Any) -> None:
            last = lies_last(given[-1]) and not given[-1].flags.c_contiguous
            launch(grid, block, *[layout_as(xp, a, last) for a in given[:arrays]], given[-1], *numbers, int(last))

        return Bound((In(shape, dtype),), run, like=True)


_maker("max_pool", 1, unpools=False, by_index=False)
_maker("max_pool_index", 2, unpools=False, by_index=False, makes_index=True)
_maker("max_unpool", 2, unpools=True, by_index=True)
_maker("max_pool_take", 2, unpools=False, by_index=True)
_maker("sum_pool", 1, unpools=False, by_index=False)
_maker("sum_unpool", 1, unpools=True, by_index=False)
