"""What kernels are asked to prove on a GPU: every operator that has one, against float64 on the CPU; `trials`.

The same trials run in the tests with emulated kernels, so that what a GPU is asked is known to be answerable.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from shoal.ops import optim
from shoal.ops.backend import CPU, asnumpy
from shoal.ops.gpu.arena import FlatOptimizer
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.kernels.products import get_float32_matmul_precision, set_float32_matmul_precision
from shoal.ops.gpu.kernels.table import In
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS

__all__ = ["TOLERANCE", "Trial", "Verdict", "trials"]

TOLERANCE = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 1e-2, "float64": 1e-10}
"""Of the norm of the difference, relative to that of what is expected."""

EXACT = 1e-5
"""The same for float32 whose operands are read with all their digits: with TF32's ten bits it is some 3e-4."""

SINGLE, HALF = np.dtype(np.float32), np.dtype(np.float16)
TYPES = (SINGLE, HALF, BFLOAT16)

Make = Callable[[np.random.Generator, Any], tuple[list[Any], dict[str, Any]]]


@dataclass(frozen=True)
class Verdict:
    """What a trial found.

    Attributes:
        error: the norm of the difference, relative to that of what is expected; the largest over all results.
        allowed: how large it may be.
        by_kernel: whether a kernel did it; else the array namespace did, and the kernel is unproven.
    """

    error: float
    allowed: float
    by_kernel: bool

    @property
    def passed(self) -> bool:
        """Whether the numbers are right."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class Trial:
    """One comparison: its name, and what carries it out."""

    name: str
    run: Callable[[], Verdict]


def _numbers(*shapes: Sequence[int], **attrs: Any) -> Make:
    """Normal numbers of these shapes."""
    return lambda rng, dtype: ([rng.standard_normal(tuple(s)).astype(dtype) for s in shapes], attrs)


def _labelled(shape: tuple[int, ...], graded: bool) -> Make:
    def make(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
        x, label = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[-1], shape[:-1])
        return ([np.ones(shape[:-1], dtype)] if graded else []) + [x, label], {}

    return make


def _indexed(make_first: bool) -> Make:
    def make(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
        shape = (50, 24) if make_first else (300, 24)
        attrs: dict[str, Any] = {"axis": 0} if make_first else {"axis": 0, "shape": (50, 24)}
        return [rng.standard_normal(shape).astype(dtype), rng.integers(0, 50, 300)], attrs

    return make


def _standardized(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    g, y = (rng.standard_normal((9, 200)).astype(np.float32) for _ in range(2))
    return [g, y.astype(dtype), np.ones((9, 1), np.float32)], {}


def _normalized(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    x, g = (rng.standard_normal((3, 20, 6, 5)).astype(dtype) for _ in range(2))
    one = np.ones(20, np.float32)
    return [g, x, one, np.zeros(20, np.float32), one], {}


def _channels(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    x = rng.standard_normal((3, 20, 6, 5)).astype(dtype)
    return [x, *(rng.standard_normal(20).astype(np.float32) for _ in range(2))], {}


def _attended(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    g, q, k, v = (rng.standard_normal((2, 3, 128, 64)).astype(dtype) for _ in range(4))
    out, total = OPS["attention"].plain(CPU, *map(_wide, (q, k, v)), causal=True)
    return [g, out.astype(dtype), total.astype(np.float32), q, k, v], {"causal": True}


POOL = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}
CONV = {"stride": 2, "pad": 1}

CASES: dict[str, Make] = {
    "softmax": _numbers((40, 777)),
    "log_softmax": _numbers((40, 777)),
    "softmax_grad": _numbers((40, 777), (40, 777)),
    "softmax_cross_entropy": _labelled((40, 777), False),
    "softmax_cross_entropy_grad": _labelled((40, 777), True),
    "standardize": _numbers((30, 768)),
    "standardize_grad": _standardized,
    "sum_to": _numbers((500, 96), shape=(96,)),
    "batch_norm": _channels,
    "batch_norm_grad": _normalized,
    "max_pool": _numbers((2, 8, 13, 12), **POOL),
    "sum_pool": _numbers((2, 8, 13, 12), **POOL),
    "sum_unpool": _numbers((2, 8, 7, 6), space=(13, 12), **POOL),
    "take": _indexed(True),
    "take_add": _indexed(False),
    "matmul": _numbers((3, 64, 96), (3, 96, 80)),
    "fully_connected": _numbers((40, 96), (72, 96), (72,)),
    "convolution": _numbers((2, 16, 14, 14), (24, 16, 3, 3), (24,), **CONV),
    "convolution_data": _numbers((2, 24, 7, 7), (24, 16, 3, 3), space=(14, 14), **CONV),
    "convolution_weight": _numbers((2, 24, 7, 7), (2, 16, 14, 14), kernel=(3, 3), **CONV),
    "attention": _numbers((2, 3, 128, 64), (2, 3, 128, 64), (2, 3, 128, 64), causal=True),
    "attention_grad": _attended,
}
"""Operators, and how their inputs are drawn."""


def trials(xp: Any, seed: int = 0) -> Iterator[Trial]:
    """All trials, for arrays of a namespace.

    Args:
        xp: of a GPU.
        seed: of the inputs.
    """
    for name, make in CASES.items():
        for dtype in TYPES:
            yield Trial(f"{name} {dtype}", partial(_tried, xp, name, make, dtype, seed))
    for name in [n for n in CASES if n.startswith("convolution")]:
        yield Trial(f"{name} float32 without tf32", partial(_tried, xp, name, CASES[name], SINGLE, seed, EXACT))
        yield Trial(f"{name} float32 tf32", partial(_coarse, xp, name, seed))
    yield Trial("dropout_mask bits", partial(_masks, xp, seed))
    for rule in ("sgd", "adamw"):
        yield Trial(f"arena {rule}", partial(_updates, xp, rule, seed))


def _coarse(xp: Any, name: str, seed: int) -> Verdict:
    """With operands that may be read with fewer digits."""
    before = get_float32_matmul_precision()
    set_float32_matmul_precision("high")
    try:
        return _tried(xp, name, CASES[name], SINGLE, seed)
    finally:
        set_float32_matmul_precision(before)


def _tried(xp: Any, name: str, make: Make, dtype: Any, seed: int, allowed: float = 0.0) -> Verdict:
    inputs, attrs = make(np.random.default_rng(seed), dtype)
    known: list[In | None] = [In(x.shape, x.dtype) for x in inputs]
    known += [None] * (len(OPS[name].arrays) - len(known))
    there = table.bound(xp, name, known, attrs) is not None
    found = OPS[name].forward(xp, *[xp.asarray(x) for x in inputs], **attrs)
    expected = OPS[name].plain(CPU, *map(_wide, inputs), **attrs)
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True)
    return Verdict(max(_error(asnumpy(a), b) for a, b in pairs), allowed or TOLERANCE[dtype.name], there)


def _wide(x: Any) -> Any:
    return x.astype(np.float64) if x.dtype.kind == "f" or x.dtype == BFLOAT16 else x


def _error(got: Any, expected: Any) -> float:
    """The norm of the difference, relative to that of what is expected; infinite for nan."""
    difference = float(np.linalg.norm((got.astype(np.float64) - expected).ravel()))
    found = difference / max(float(np.linalg.norm(np.asarray(expected, np.float64).ravel())), 1e-30)
    return found if np.isfinite(found) else float("inf")


def _masks(xp: Any, seed: int) -> Verdict:
    key, attrs = np.array([seed, 2, 3, 4, 5], np.uint64), {"shape": (1000, 37), "p": 0.1}
    there = table.bound(xp, "dropout_mask", [In(key.shape, key.dtype)], attrs) is not None
    found = asnumpy(OPS["dropout_mask"].forward(xp, xp.asarray(key), **attrs))
    return Verdict(float((found != OPS["dropout_mask"].plain(CPU, key, **attrs)).sum()), 0.0, there)


def _updates(xp: Any, name: str, seed: int) -> Verdict:
    rng, rule = np.random.default_rng(seed), optim.create(name, learning_rate=0.01)
    shapes = [(30, 7), (129,), (1,)]
    params = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    flat = FlatOptimizer(rule, xp, [xp.asarray(p) for p in params])
    states = [rule.init(p) for p in params]
    for t in range(1, 5):
        for p, state, view in zip(params, states, flat.grads, strict=True):
            g = rng.standard_normal(p.shape).astype(np.float32)
            view[...] = xp.asarray(g)
            rule.step(p, g, state, t=t)
        flat.step()
    worst = max(_error(asnumpy(w), p.astype(np.float64)) for w, p in zip(flat.weights, params, strict=True))
    return Verdict(worst, 1e-5, True)
