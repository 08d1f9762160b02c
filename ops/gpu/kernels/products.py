"""Matrix products by cuBLASLt (`shoal.ops.gpu.gemm`): ``matmul`` and ``fully_connected`` with its bias as epilogue.

Transposed operands are not copied. What cannot be said to the library without a copy is copied, as CuPy would.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.gpu import cublaslt
from shoal.ops.gpu.cublaslt import KINDS
from shoal.ops.gpu.gemm import WORKSPACE_BYTES, Gemm, Problem, problem_of
from shoal.ops.gpu.kernels.table import Bound, In, kernel

__all__ = ["get_float32_matmul_precision", "installed", "product", "set_float32_matmul_precision"]

ROUNDS = 5
"""Times that an algorithm runs while it is timed."""

PRECISIONS = ("highest", "high")

_precision = "highest"
_installed: list[Gemm] = []
_problems: dict[Any, Problem | None] = {}


def set_float32_matmul_precision(precision: str) -> None:
    """How products and convolutions of float32 are made on a GPU, in all threads; the name is PyTorch's.

    Args:
        precision: "highest" in float32; "high" lets libraries read the operands with 10 bits of mantissa (TF32), and
            add up in float32. Recorded steps stay with what they were recorded with. Nothing changes in host memory.
    Raises:
        ConfigError: another one.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ConfigError(f"float32 products have precision {' or '.join(map(repr, PRECISIONS))}, got {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was given last; "highest" at first."""
    return _precision


@contextmanager
def installed(gemm: Gemm) -> Iterator[None]:
    """Within this context products are done by ``gemm``."""
    _installed.append(gemm)
    try:
        yield
    finally:
        _installed.remove(gemm)


def _gemm(xp: Any) -> Gemm | None:
    """Who does the products on the current GPU; None without cuBLASLt."""
    if _installed:
        return _installed[-1]
    cuda = getattr(xp.module, "cuda", None)
    return None if cuda is None else _of_gpu(xp, int(cuda.Device().id))


@cache
def _of_gpu(xp: Any, index: int) -> Gemm | None:
    library = cublaslt.found()
    if library is None:
        return None
    return Gemm(library, _Rooms(lambda: xp.module.cuda.Memory(WORKSPACE_BYTES)), _timer(xp))


class _Rooms:
    """A workspace for each stream, from the driver: no pool may give it to anybody else, nor a recording's take it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, dict[int, Any]()

    def __call__(self, stream: int) -> int:
        """The address of that of a stream."""
        found = self._made.get(stream)
        if found is None:
            found = self._made[stream] = self._make()
        return int(found.ptr)


def _timer(xp: Any) -> Callable[[Callable[[], None]], float]:
    """Seconds that work takes in the current stream; 0, so that the first choice stays, while it is recorded."""
    cuda = xp.module.cuda

    def timed(work: Callable[[], None]) -> float:
        stream = cuda.get_current_stream()
        if stream.is_capturing():
            return 0.0
        work()
        start, end = cuda.Event(), cuda.Event()
        start.record(stream)
        for _ in range(ROUNDS):
            work()
        end.record(stream)
        end.synchronize()
        return float(cuda.get_elapsed_time(start, end))

    return timed


def product(xp: Any, a: Any, b: Any, out: Any, bias: Any = None) -> bool:
    """``out = a @ b (+ bias)`` by cuBLASLt; False, and nothing done, without it."""
    gemm = _gemm(xp)
    if gemm is None:
        return False
    name = "DEFAULT" if bias is None else "BIAS"
    problem = _problem(a, b, out, name)
    if problem is None:
        a, b = xp.module.ascontiguousarray(a), xp.module.ascontiguousarray(b)
        problem = _problem(a, b, out, name)
        if problem is None:
            return False
    stream = xp.module.cuda.get_current_stream().ptr if hasattr(xp.module, "cuda") else 0
    gemm(problem, a, b, out, bias=bias, stream=int(stream))
    return True


def _problem(a: Any, b: Any, out: Any, epilogue: str) -> Problem | None:
    tf32 = _precision == "high"
    key = (a.dtype, a.shape, a.strides, b.dtype, b.shape, b.strides, out.strides, epilogue, tf32)
    if key not in _problems:
        _problems[key] = problem_of(a, b, out, epilogue, tf32=tf32)
    return _problems[key]


@kernel("matmul", "gemm")
def _matmul(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    if not _products(xp, inputs):
        return None
    x, y = inputs
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = In((*batch, x.shape[-2], y.shape[-1]), x.dtype)

    def run(x: Any, y: Any, out: Any) -> None:
        if not product(xp, x, y, out):
            xp.module.matmul(x, y, out=out)

    return Bound((out,), run, strided=True)


@kernel("fully_connected", "gemm")
def _fully_connected(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, weight, bias = inputs
    if not _products(xp, (x, weight)) or (bias is not None and bias.dtype != x.dtype):
        return None
    flat, (units, width) = attrs.get("flatten", True), weight.shape
    rows = math.prod(x.shape) // width
    out = In((rows, units) if flat else (*x.shape[:-1], units), x.dtype)
    fused = x.dtype != np.float64

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        x2, y, w = x.reshape(rows, width), out.reshape(rows, units), weight.swapaxes(0, 1)
        with_bias = bias if fused and bias is not None and bias.flags.c_contiguous else None
        if not product(xp, x2, w, y, with_bias):
            xp.module.matmul(x2, w, out=y)
            with_bias = None
        if bias is not None and with_bias is None:
            y += bias

    return Bound((out,), run, strided=True)


def _products(xp: Any, inputs: Sequence[Any]) -> bool:
    """Whether these are matrices that the library multiplies, and it is there."""
    if not all(isinstance(x, In) and len(x.shape) >= 2 and x.size > 0 for x in inputs):
        return False
    return len({x.dtype for x in inputs}) == 1 and inputs[0].dtype in KINDS and _gemm(xp) is not None
