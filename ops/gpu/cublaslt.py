"""cuBLASLt by `ctypes`: descriptors, algorithms, products.

Numbers and layouts of structures are those of the library's headers, which say that they do not change within a major
version; they are the same in versions 12 and 13.
"""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.precision import BFLOAT16

if TYPE_CHECKING:
    from shoal.ops.gpu.gemm import Problem

__all__ = ["COMPUTE", "EPILOGUES", "KINDS", "Algorithm", "Library", "Plan", "found"]

KINDS: dict[Any, int] = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2, BFLOAT16: 14}
"""``cudaDataType_t``"""

COMPUTE = {"32F": 68, "64F": 70, "32F_FAST_TF32": 77}
"""``cublasComputeType_t``"""

EPILOGUES = {
    "DEFAULT": 1,
    "BIAS": 4,
    "RELU_BIAS": 6,
    "GELU_BIAS": 36,
    "GELU_AUX": 160,
    "GELU_AUX_BIAS": 164,
    "DGELU": 192,
    "DGELU_BGRAD": 208,
    "BGRADA": 256,
    "BGRADB": 512,
}
"""``cublasLtEpilogue_t``; A and B are the library's, so BGRADB sums our A, over k, and GELU is the one by tanh."""

TRANSA, TRANSB, EPILOGUE, BIAS, AUX, AUX_LD = 3, 4, 7, 8, 11, 12
BATCH, STEP = 5, 6
WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)
PLACES = ("nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12")


class Algorithm(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``; the algorithm itself is the library's secret."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace_bytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Library:
    """The library, with a handle.

    Args:
        raw: loaded by `ctypes`.
    """

    def __init__(self, raw: ctypes.CDLL) -> None:
        self.raw = raw
        self.handle = ctypes.c_void_p()
        raw.cublasLtGetVersion.restype = ctypes.c_size_t
        self._call("cublasLtCreate", ctypes.byref(self.handle))

    @property
    def version(self) -> int:
        """As 130100 for 13.1.0."""
        return int(self.raw.cublasLtGetVersion())

    def plan(self, problem: "Problem", workspace_bytes: int, count: int) -> "Plan":
        """Descriptors for a problem, and up to ``count`` algorithms, the most promising first.

        Raises:
            ConfigError: the library has none, or refuses.
        """
        plan = Plan(self, problem)
        preference = self._new("cublasLtMatmulPreferenceCreate")
        self._set("cublasLtMatmulPreferenceSetAttribute", preference, WORKSPACE, ctypes.c_size_t(workspace_bytes))
        for attribute in ALIGNMENTS:
            align = ctypes.c_uint32(problem.align)
            self._set("cublasLtMatmulPreferenceSetAttribute", preference, attribute, align)
        results, returned = (Algorithm * count)(), ctypes.c_int()
        given = (self.handle, plan.desc, plan.first, plan.second, plan.out, plan.out, preference)
        self._call("cublasLtMatmulAlgoGetHeuristic", *given, count, results, ctypes.byref(returned))
        plan.algorithms = [results[i] for i in range(returned.value) if results[i].state == 0]
        self._call("cublasLtMatmulPreferenceDestroy", preference)
        if not plan.algorithms:
            raise ConfigError(f"gemm: cuBLASLt {self.version} has no algorithm for {problem}")
        return plan

    def _new(self, name: str, *args: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *args)
        return made

    def _set(self, name: str, what: ctypes.c_void_p, attribute: int, value: Any) -> None:
        self._call(name, what, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)))

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self.raw, name)(*args)
        if code:
            raise ConfigError(f"gemm: {name} of cuBLASLt {self.version} gave status {code}")


class Plan:
    """What the library has been told of a problem, and the algorithms for it.

    Attributes:
        desc, first, second, out: descriptors of the operation and the matrices; ``first`` is our B.
        algorithms: the most promising first.
        chosen: which of them runs.
    """

    def __init__(self, library: Library, problem: "Problem") -> None:
        from shoal.ops.gpu.gemm import compute_of

        self.library, self.chosen, p = library, 0, problem
        self.algorithms: list[Any] = []
        compute, scale = compute_of(p)
        self.scalar: Any = ctypes.c_double if p.dtype == np.float64 else ctypes.c_float
        self.desc = library._new("cublasLtMatmulDescCreate", compute, scale)
        self.attribute(TRANSA, ctypes.c_int32(p.turned_b))
        self.attribute(TRANSB, ctypes.c_int32(p.turned_a))
        self.attribute(EPILOGUE, ctypes.c_int32(EPILOGUES[p.epilogue]))
        if p.aux_ld:
            self.attribute(AUX_LD, ctypes.c_int64(p.aux_ld))
        kind = KINDS[p.dtype]
        self.first = self._layout(kind, (p.k, p.n) if p.turned_b else (p.n, p.k), p.ldb, p.batch, p.steps[1])
        self.second = self._layout(kind, (p.m, p.k) if p.turned_a else (p.k, p.m), p.lda, p.batch, p.steps[0])
        self.out = self._layout(kind, (p.n, p.m), p.ldc, p.batch, p.steps[2])

    def attribute(self, which: int, value: Any) -> None:
        """Tell the library an attribute of the operation."""
        self.library._set("cublasLtMatmulDescSetAttribute", self.desc, which, value)

    def _layout(self, kind: int, shape: tuple[int, int], ld: int, batch: int, step: int) -> ctypes.c_void_p:
        rows, columns = (ctypes.c_uint64(n) for n in shape)
        made = self.library._new("cublasLtMatrixLayoutCreate", kind, rows, columns, ctypes.c_int64(ld))
        if batch > 1:
            self.library._set("cublasLtMatrixLayoutSetAttribute", made, BATCH, ctypes.c_int32(batch))
            self.library._set("cublasLtMatrixLayoutSetAttribute", made, STEP, ctypes.c_int64(step))
        return made

    def run(
        self, where: Sequence[int], extra: Sequence[int], alpha: float, beta: float, workspace: int, stream: int
    ) -> None:
        """Put the product into a stream.

        Args:
            where: addresses of A, B and C.
            extra: those of the epilogue's vector and matrix; 0 for none.
        """
        from shoal.ops.gpu.gemm import WORKSPACE_BYTES

        for attribute, address in zip((BIAS, AUX), extra, strict=True):
            if address:
                self.attribute(attribute, ctypes.c_void_p(address))
        a, b, c = (ctypes.c_void_p(x) for x in where)
        one, add = self.scalar(alpha), self.scalar(beta)
        lib, by = self.library, ctypes.byref
        lib._call(
            "cublasLtMatmul", lib.handle, self.desc, by(one), b, self.first, a, self.second, by(add), c, self.out, c,
            self.out, by(self.algorithms[self.chosen].algo), ctypes.c_void_p(workspace),
            ctypes.c_size_t(WORKSPACE_BYTES), ctypes.c_void_p(stream),
        )  # fmt: skip


@cache
def found() -> Library | None:
    """The library of this machine; None if it is not installed, or finds no GPU."""
    for path in (
        *[str(Path(p) / place) for p in sys.path for place in PLACES],
        "libcublasLt.so.13",
        "libcublasLt.so.12",
    ):
        with suppress(OSError, ConfigError):
            return Library(ctypes.CDLL(path))
    return None
