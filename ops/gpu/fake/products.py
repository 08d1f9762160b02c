"""cuBLASLt of a fake GPU: products that are put off, on the stream that the library is told of.

What the real library allows and what not is kept: algorithms are asked for before a recording, never in one, and the
workspace is memory like any other, so that two streams with one workspace are a race.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shoal.errors import CaptureError
from shoal.ops.gpu.cublaslt import Library
from shoal.ops.gpu.fake.arrays import place, ranges, unwrapped
from shoal.ops.gpu.gemm import WORKSPACE_BYTES, Gemm, Problem
from shoal.ops.precision import is_half

if TYPE_CHECKING:
    from shoal.ops.gpu.fake.gpu import FakeGpu

__all__ = ["FakeGemm"]

ROOM = 1 << 60
"""Address of the first workspace: memory that nobody uses."""


class FakeGemm(Gemm):
    """Products of `shoal.ops.gpu.gemm` on fake GPUs."""

    def __init__(self, current: "Callable[[], FakeGpu]") -> None:
        self._rooms: dict[int, int] = {}
        super().__init__(cast(Library, _FakeLibrary(self, current)), self._room)
        self.held: tuple[Any, ...] = ()

    def _room(self, stream: int) -> int:
        return self._rooms.setdefault(stream, ROOM + WORKSPACE_BYTES * len(self._rooms))

    def __call__(self, problem: Problem, a: Any, b: Any, out: Any, *, bias: Any = None, **more: Any) -> None:
        """As of `Gemm`, which knows addresses only; the arrays are kept at hand."""
        self.held = (a, b, out, bias)
        super().__call__(problem, a, b, out, bias=bias, **more)
        self.held = ()


class _FakeLibrary:
    def __init__(self, gemm: FakeGemm, current: "Callable[[], FakeGpu]") -> None:
        self.gemm, self.current, self.version = gemm, current, 0

    def plan(self, problem: Problem, workspace_bytes: int, count: int) -> "_FakePlan":
        """Two algorithms, which give the same.

        Raises:
            CaptureError: they are asked for in a recording.
        """
        gpu = self.current()
        if gpu.timeline.recording is not None:
            raise CaptureError(
                f"gpu:{gpu.index}: cuBLASLt is asked for algorithms in a recording, for a product that has not been "
                f"before: {problem}; run the step once before"
            )
        return _FakePlan(self, problem)


class _FakePlan:
    def __init__(self, library: _FakeLibrary, problem: Problem) -> None:
        self.library, self.problem, self.algorithms, self.chosen = library, problem, [0, 1], 0

    def run(
        self, where: Sequence[int], extra: Sequence[int], alpha: float, beta: float, workspace: int, stream: int
    ) -> None:
        """Put the product off."""
        gpu, (a, b, out, bias) = self.library.current(), self.library.gemm.held
        timeline = gpu.timeline
        assert stream == timeline.current.ptr, "a product is asked for on another stream than the current one"
        assert [x.data.ptr for x in (a, b, out)] == list(where)
        place("cublasLtMatmul", (a, b, out, bias), {})
        reads = [x for x in (a, b, bias) if x is not None]
        raw, tf32 = [unwrapped(x) for x in (a, b, out, bias)], self.problem.tf32

        def run() -> None:
            with np.errstate(all="ignore"):
                _product(raw[0], raw[1], raw[2], raw[3], alpha, beta, tf32)

        room = [(workspace, workspace + WORKSPACE_BYTES)]
        if timeline.depth:
            run()
        else:
            timeline.put("cublasLtMatmul", run, ranges([*reads, *([out] if beta else [])]), ranges([out]) + room)


def _product(a: Any, b: Any, out: Any, bias: Any, alpha: float, beta: float, tf32: bool) -> None:
    """Halves are multiplied in float32, and rounded once, behind what is added."""
    wide = np.dtype(np.float32) if is_half(a.dtype) else a.dtype
    first, second = a.astype(wide, copy=False), b.astype(wide, copy=False)
    found = np.matmul(_shortened(first), _shortened(second)) if tf32 else np.matmul(first, second)
    if alpha != 1.0:
        found *= wide.type(alpha)
    if beta:
        found += out.astype(wide) * wide.type(beta)
    if bias is not None:
        found += bias.astype(wide, copy=False)
    out[...] = found


def _shortened(x: Any) -> Any:
    """float32 with 10 bits of mantissa: the nearest, of two the even one."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return rounded.view(np.float32)
