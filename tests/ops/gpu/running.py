"""Runs GPU kernels on the CPU, and compares them with the operator's own forward in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shoal import npx
from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.kernels.table import In
from shoal.ops.registry import OPS

assert npx  # imported for the operators
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
HALVES = [np.float16, ml_dtypes.bfloat16]
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 1.2e-3, "bfloat16": 9e-3}
"""Of the largest number of a result: some units in the last place."""

needs_compiler = pytest.mark.skipif(not emulate.available(), reason="needs a C++ compiler, and there is none here")
GUARD = 64


def placed(x: np.ndarray, shift: int = 0) -> np.ndarray:
    """``x`` copied to an address that is ``shift`` elements beyond a multiple of 64, with room around it."""
    raw = np.full(x.nbytes + 3 * GUARD + shift * x.itemsize, 0xA5, np.uint8)
    start = -raw.ctypes.data % GUARD + GUARD + shift * x.itemsize
    view = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def poisoned(shape: Sequence[int], dtype: Any, shift: int = 0) -> np.ndarray:
    """An array whose elements, all bits set, are nan or absurd."""
    return placed(
        np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(shape), shift
    )


def untouched(x: np.ndarray) -> bool:
    """Whether what is around an array of `placed` is as it was."""
    raw = x
    while isinstance(raw.base, np.ndarray):
        raw = raw.base
    start = x.ctypes.data - raw.ctypes.data
    return bool((raw[:start] == 0xA5).all() and (raw[start + x.nbytes :] == 0xA5).all())


def in_every_order(run: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """What ``run`` gives; threads take turns in three orders, and the bits must be the same."""
    found = []
    for seed in (0, 1, 5):
        with emulate.order(seed):
            found.append([x.copy() for x in run()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.tobytes() == b.tobytes(), "another order of threads gives other bits"
    return found[0]


def outputs(name: str, inputs: Sequence[Any], attrs: dict[str, Any], shift: int = 0) -> list[np.ndarray]:
    """What the operator's GPU kernel gives, in every order of threads, without a touch of what is around."""
    known = [In(x.shape, x.dtype) if isinstance(x, np.ndarray) else x for x in inputs]
    found = table.bound(emulate.NAMESPACE, name, known, attrs)
    assert found is not None, f"{name} has no GPU kernel for {known}, {attrs}"
    given = [placed(x, shift) if isinstance(x, np.ndarray) else x for x in inputs]

    def run() -> list[np.ndarray]:
        out = [poisoned(o.shape, o.dtype, shift) for o in found.outputs]
        found.run(*given, *out)
        assert all(untouched(x) for x in out)
        return out

    return in_every_order(run)


def wide(x: Any) -> Any:
    """In float64 if it holds floats."""
    floats = isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype == ml_dtypes.bfloat16)
    return x.astype(np.float64) if floats else x


def close(got: np.ndarray, expected: np.ndarray, factor: float = 1.0) -> None:
    """Within the tolerance of the result's type; nan and infinities where they should be."""
    a, b = wide(got), wide(np.asarray(expected))
    assert a.shape == b.shape
    if a.dtype.kind != "f":
        assert np.array_equal(a, b)
        return
    with np.errstate(invalid="ignore"):
        special = ~np.isfinite(b)
        assert np.array_equal(a[special], b[special], equal_nan=True)
        assert np.isfinite(a[~special]).all()
        top = np.abs(b[~special]).max(initial=0.0)
        worst = np.abs(a[~special] - b[~special]).max(initial=0.0)
    assert worst <= TOLERANCE[got.dtype.name] * factor * max(top, 1e-30), (worst, top)


def check(name: str, *inputs: Any, shift: int = 0, factor: float = 1.0, **attrs: Any) -> list[np.ndarray]:
    """Compare the GPU kernel of an operator with its forward in float64."""
    got = outputs(name, inputs, attrs, shift)
    expected = OPS[name].plain(CPU, *[wide(x) for x in inputs], **attrs)
    for a, b in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        close(a, b, factor)
    return got


def drawn(shape: Sequence[int], dtype: Any, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Normal numbers of a type."""
    return (np.random.default_rng(seed).standard_normal(tuple(shape)) * scale).astype(dtype)
