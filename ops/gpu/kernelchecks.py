"""Steps of gpu-check for kernels and libraries: numbers against float64, then what products, convolutions and attention
of two well-known models take.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from shoal.ops.backend import asnumpy
from shoal.ops.gpu import dnn
from shoal.ops.gpu.check import Check, Skipped, step
from shoal.ops.gpu.checks import seconds_of
from shoal.ops.gpu.device import gpu
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.kernels.table import In
from shoal.ops.gpu.trials import trials
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS

__all__ = ["kernels", "plans", "speeds"]

PRODUCTS = {"qkv": (768, 2304), "projection": (768, 768), "up": (768, 3072), "down": (3072, 768), "head": (768, 50304)}
"""Of GPT-2 124M: (in, out) of each layer, for 4 sequences of 1024."""

ROWS = 4096

IMAGES = {
    "56 1x1 64-256": ((32, 64, 56, 56), (256, 64, 1, 1), {}),
    "56 3x3 64": ((32, 64, 56, 56), (64, 64, 3, 3), {"pad": 1}),
    "28 3x3 128": ((32, 128, 28, 28), (128, 128, 3, 3), {"pad": 1}),
    "14 3x3 256": ((32, 256, 14, 14), (256, 256, 3, 3), {"pad": 1}),
    "7 3x3 512": ((32, 512, 7, 7), (512, 512, 3, 3), {"pad": 1}),
}
"""Of ResNet-50: images, filters, attributes."""


@step("kernels", order=31, budget_s=120.0)
def kernels(c: Check) -> None:
    """Every operator that has a kernel, against float64, with fresh numbers."""
    g, seed = gpu(c.gpu), time.time_ns() % 2**32
    c.note("kernel seed", seed)
    with g.use():
        for trial in trials(g.xp, seed):
            with c.case(trial.name):
                verdict = trial.run()
                assert verdict.passed, f"error {verdict.error:.3g}, allowed {verdict.allowed:.3g}, seed {seed}"
                if not verdict.by_kernel:
                    raise Skipped("right, but by the array namespace: the kernel's library is not installed")


@step("plans", order=33, budget_s=40.0)
def plans(c: Check) -> None:
    """Plans of cuDNN that are read back from the disk give the bits of those that were built."""
    g = gpu(c.gpu)
    with g.use(), tempfile.TemporaryDirectory(prefix="shoal-plans-") as folder:
        for name, run in _planned(g.xp):
            with c.case(name):
                built, before = _by_a_new_engine(g.xp, c.gpu, folder, run)
                again, read = _by_a_new_engine(g.xp, c.gpu, folder, run)
                assert before == 0 and read > 0, f"{read} plans were read back: the log says why not"
                assert built == again, "other bits"


def _planned(xp: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls that cuDNN has plans for."""
    rng = np.random.default_rng(time.time_ns() % 2**32)

    def drawn(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape, dtype=np.float32).astype(np.float16))

    x, w, q = drawn(4, 16, 14, 14), drawn(24, 16, 3, 3), drawn(2, 4, 128, 64)
    yield "a convolution", lambda: [OPS["convolution"].forward(xp, x, w, pad=1)]
    yield "an attention", lambda: list(OPS["attention"].forward(xp, q, q, q, causal=True))


def _by_a_new_engine(xp: Any, index: int, folder: str, run: Callable[[], Any]) -> tuple[list[bytes], int]:
    """The bits that a process finds which begins now, and how many plans it has read."""
    engine = dnn.engine_of(xp, index, folder)
    if engine is None:
        raise Skipped("cuDNN's frontend is not installed")
    with dnn.installed(engine):
        found = [asnumpy(x).tobytes() for x in run()]
    return found, engine.plans_read


@step("kernel speed", order=51, budget_s=60.0)
def speeds(c: Check) -> None:
    """Arithmetic per second of products, convolutions and attention, in bfloat16, through the operators."""
    g = gpu(c.gpu)
    with g.use():
        for name, work, operations in _timed(g.xp):
            with c.case(name):
                c.number(name, operations / seconds_of(g, work, 20) / 1e12, "TFLOP/s")


def _timed(xp: Any) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """(name, what is timed, its operations); what has no kernel here is left out."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape, dtype=np.float32).astype(BFLOAT16))

    for name, (inner, outer) in PRODUCTS.items():
        x, w = drawn(ROWS, inner), drawn(outer, inner)
        if _there(xp, "fully_connected", x, w, None):
            work = partial(OPS["fully_connected"].forward, xp, x, w)
            yield f"product {name}", work, 2.0 * ROWS * inner * outer
    for name, (shape, filters, attrs) in IMAGES.items():
        x, w = drawn(*shape), drawn(*filters)
        if _there(xp, "convolution", x, w, None, **attrs):
            work = partial(OPS["convolution"].forward, xp, x, w, **attrs)
            yield f"convolution {name}", work, 2.0 * np.prod(shape) * np.prod(filters) / filters[1]
    q = drawn(4, 12, 1024, 64)
    if _there(xp, "attention", q, q, q, None, causal=True):
        work = partial(OPS["attention"].forward, xp, q, q, q, causal=True)
        yield "attention 4x12x1024x64 causal", work, 4.0 * 4 * 12 * 1024 * 1024 * 64 / 2


def _there(xp: Any, name: str, *inputs: Any, **attrs: Any) -> bool:
    return table.bound(xp, name, [x if x is None else In(x.shape, x.dtype) for x in inputs], attrs) is not None
