"""Matrix products by cuBLASLt, without copies: transposes are flags, and what is added to a product is its epilogue.

CuPy's own products cannot be captured, and batched ones of half precision fail or are widened; this calls the library
itself. A row-major C = A @ B is the column-major product C' = B' A', so the library's first operand is our second one.
Sums are in float32 for half precision.

For each `Problem` (shapes, strides, types, epilogue) descriptors are made once, the library is asked once for
algorithms, and on a GPU the best of them are timed: all before a recording, since inside one nothing may be asked. What
is left in a call is `cublasLtMatmul`, which can be recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops.gpu.cublaslt import COMPUTE, EPILOGUES, KINDS, Library, Plan

__all__ = ["Gemm", "Problem", "problem_of", "why_illegal"]

WORKSPACE_BYTES = 32 << 20
ASKED = 16
"""Algorithms that the library is asked for."""

NEEDS_AUX = frozenset(["GELU_AUX", "GELU_AUX_BIAS", "DGELU", "DGELU_BGRAD"])
NEEDS_BIAS = frozenset(["BIAS", "GELU_BIAS", "GELU_AUX_BIAS", "DGELU_BGRAD", "BGRADA", "BGRADB", "RELU_BIAS"])


@dataclass(frozen=True)
class Problem:
    """A product C = A @ B of row-major matrices, as the library is told of it.

    Attributes:
        m, n, k: A is (m, k) and B (k, n).
        dtype: of A, B and C.
        turned_a, turned_b: A (or B) lies as its transpose.
        lda, ldb, ldc: elements from one row, as it lies in memory, to the next.
        batch: how many products.
        steps: elements from one matrix of a batch to the next, of A, B and C; 0 repeats it.
        epilogue: a name of `EPILOGUES`.
        aux_ld: elements from one row of the epilogue's matrix to the next.
        tf32: let float32 be multiplied with 10 bits of mantissa.
        align: the largest power of 2, up to 16, that all addresses are multiples of.
    """

    m: int
    n: int
    k: int
    dtype: "np.dtype[Any]"
    turned_a: bool
    turned_b: bool
    lda: int
    ldb: int
    ldc: int
    batch: int = 1
    steps: tuple[int, int, int] = (0, 0, 0)
    epilogue: str = "DEFAULT"
    aux_ld: int = 0
    tf32: bool = False
    align: int = 16


def problem_of(a: Any, b: Any, out: Any, epilogue: str = "DEFAULT", *, tf32: bool = False) -> Problem | None:
    """The product ``a @ b`` to ``out``; None if it cannot be done without a copy.

    Args:
        a, b, out: arrays, or anything with shape, strides and dtype, of two axes or more; leading ones broadcast.
    """
    if not a.dtype == b.dtype == out.dtype or a.dtype not in KINDS or min(a.ndim, b.ndim) < 2:
        return None
    sides = [_lies(a), _lies(b), _lies(out)]
    batch = tuple(out.shape[:-2])
    steps = [_step(x, batch) for x in (a, b, out)]
    if None in sides or None in steps or sides[2][0] or 0 in (*out.shape, a.shape[-1]):  # type: ignore[index]
        return None
    (turned_a, lda), (turned_b, ldb), (_, ldc) = sides  # type: ignore[misc]
    m, k, n, count = a.shape[-2], a.shape[-1], b.shape[-1], int(np.prod(batch, dtype=np.int64))
    if count > 1 and turned_a is False and steps[0] == m * lda and steps[1] == 0 and steps[2] == m * ldc:
        m, count, steps = m * count, 1, [0, 0, 0]  # one large product
    found = Problem(m, n, k, a.dtype, turned_a, turned_b, lda, ldb, ldc, count)
    given = (int(steps[0] or 0), int(steps[1] or 0), int(steps[2] or 0)) if count > 1 else (0, 0, 0)
    aux = ldc if epilogue in NEEDS_AUX else 0
    found = replace(found, steps=given, epilogue=epilogue, aux_ld=aux, tf32=tf32 and a.dtype == np.float32)
    return None if why_illegal(found) else found


def _lies(x: Any) -> tuple[bool, int] | None:
    """(whether the last two axes lie as their transpose, the leading dimension); None if neither is dense."""
    size = x.dtype.itemsize
    rows, columns = x.shape[-2:]
    down, along = x.strides[-2], x.strides[-1]
    if down % size or along % size:
        return None
    down, along = down // size, along // size
    if (along == 1 or columns == 1) and (rows == 1 or down >= max(1, columns)):
        return False, down if rows > 1 else columns
    if (down == 1 or rows == 1) and (columns == 1 or along >= max(1, rows)):
        return True, along if columns > 1 else rows
    return None


def _step(x: Any, batch: Sequence[int]) -> int | None:
    """Elements from one matrix to the next if one number says it; a missing axis, or one of length 1, repeats."""
    lead = len(batch) - (x.ndim - 2)
    shape, strides = (1,) * lead + tuple(x.shape[:-2]), (0,) * lead + tuple(x.strides[:-2])
    pairs = [(n, 0 if have == 1 else s) for n, have, s in zip(batch, shape, strides, strict=True) if n != 1]
    if not pairs:
        return 0
    step = pairs[-1][1]
    expected = step
    for n, s in reversed(pairs):
        if s != expected:
            return None
        expected = s * n
    return step // x.dtype.itemsize if step % x.dtype.itemsize == 0 else None


def why_illegal(p: Problem) -> str:
    """What the library's documentation forbids about a problem; empty if it is legal."""
    if p.epilogue not in EPILOGUES:
        return f"no epilogue is called {p.epilogue}"
    rows = {"a": (p.lda, p.m if p.turned_a else p.k), "b": (p.ldb, p.k if p.turned_b else p.n), "c": (p.ldc, p.n)}
    for name, (ld, least) in rows.items():
        if ld < least:
            return f"ld{name} is {ld}, less than a row of {least}"
    if max(p.m, p.n, p.k, p.batch) >= 2**31:
        return "a side of 2**31 or more"
    if p.epilogue in NEEDS_AUX and (p.aux_ld % 8 or p.aux_ld < p.n):
        return f"the epilogue's matrix has rows of {p.aux_ld}, which must be a multiple of 8, and {p.n} or more"
    if p.epilogue != "DEFAULT" and p.batch > 1:
        return f"the epilogue {p.epilogue} in a batch"
    if p.epilogue != "DEFAULT" and p.dtype == np.float64:
        return "epilogues of float64"
    if p.batch > 1 and p.steps[2] < (p.m - 1) * p.ldc + p.n:
        return "results of a batch that overlap"
    return ""


class Gemm:
    """Products on one GPU.

    Args:
        library: cuBLASLt.
        workspace: memory for it, `WORKSPACE_BYTES` on the GPU, kept for good: its address; or a function that gives
            that of each stream, since products of two streams may run at once.
        timed: gives the seconds that a function takes on the GPU; None takes the library's first choice untimed.
    Attributes:
        plans: what has been made, by problem.
    """

    def __init__(
        self,
        library: Library,
        workspace: int | Callable[[int], int],
        timed: Callable[[Callable[[], None]], float] | None = None,
        address: Callable[[Any], int] = lambda x: int(x.data.ptr),
    ) -> None:
        self.library, self.timed, self.address = library, timed, address
        self._workspace = workspace
        self.plans: dict[Problem, Plan] = {}

    def __call__(
        self,
        problem: Problem,
        a: Any,
        b: Any,
        out: Any,
        *,
        bias: Any = None,
        aux: Any = None,
        alpha: float = 1.0,
        beta: float = 0.0,
        stream: int = 0,
    ) -> None:
        """``out = epilogue(alpha * a @ b + beta * out)``.

        Args:
            problem: of `problem_of`, for arrays of these shapes, strides and types.
            bias: of the epilogue: added (n,), or where a gradient of a bias is written (n,; for BGRADB m,).
            aux: of the epilogue: what is before GELU, written or read, with the shape of ``out``.
            stream: the ``cudaStream_t``.
        Raises:
            ShapeError: the epilogue needs what is not given.
        """
        name = problem.epilogue
        if (bias is None) == (name in NEEDS_BIAS) or (aux is None) == (name in NEEDS_AUX):
            raise ShapeError(f"gemm: epilogue {name} with bias={bias is not None}, aux={aux is not None}")
        where = [self.address(x) for x in (a, b, out)]
        extra = [0 if x is None else self.address(x) for x in (bias, aux)]
        low = min(16, *[x & -x for x in (*where, *extra) if x])
        if low < problem.align:
            problem = replace(problem, align=low)
        plan = self.plans.get(problem)
        if plan is None:
            plan = self.plans[problem] = self._made(problem, where, extra, stream, tune=beta == 0.0)
        plan.run(where, extra, alpha, beta, self.workspace(stream), stream)

    def workspace(self, stream: int) -> int:
        """The address of the room that products of a stream have."""
        return self._workspace if isinstance(self._workspace, int) else self._workspace(stream)

    def _made(self, problem: Problem, where: Sequence[int], extra: Sequence[int], stream: int, tune: bool) -> Plan:
        """A plan with the fastest of the algorithms that the library offers.

        Timing writes to ``out``, so it is left out where the product is added to what is there.
        """
        plan = self.library.plan(problem, WORKSPACE_BYTES, ASKED)
        if self.timed is None or not tune or len(plan.algorithms) == 1:
            return plan
        seconds = []
        for number in range(len(plan.algorithms)):
            plan.chosen = number
            seconds.append(self.timed(lambda: plan.run(where, extra, 1.0, 0.0, self.workspace(stream), stream)))
        plan.chosen = min(range(len(seconds)), key=seconds.__getitem__)
        return plan


def compute_of(problem: Problem) -> tuple[int, int]:
    """The types of computation and of scaling, as the library numbers them."""
    if problem.dtype == np.float64:
        return COMPUTE["64F"], KINDS[problem.dtype]
    single = KINDS[np.dtype(np.float32)]
    return COMPUTE["32F_FAST_TF32" if problem.tf32 else "32F"], single
