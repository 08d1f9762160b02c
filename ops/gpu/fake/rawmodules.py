"""``RawModule`` of a fake GPU: CUDA text that the CPU carries out, put off like all other work.

The text is compiled for the CPU by `shoal.ops.gpu.emulate`. What a kernel reads and writes is what its arguments say:
``const`` pointers are read, others are read and written. A kernel that is compiled or loaded for the first time in a
recording is refused, as `shoal.ops.gpu` must not do that either.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from shoal.errors import CaptureError, GraphError
from shoal.ops.gpu import emulate
from shoal.ops.gpu.fake.arrays import FakeArray, place, ranges, unwrapped

if TYPE_CHECKING:
    from shoal.ops.gpu.fake.gpu import FakeGpu

__all__ = ["FakeFunction", "FakeRawModule", "pointers"]

HEAD = r"^(?:KERNEL|extern \"C\" __global__ void)(?: __launch_bounds__\(\d+\))? {name}\((.*?)\)\s*\{{"


@cache
def pointers(code: str, name: str) -> tuple[str, ...]:
    """Of each argument of a kernel: ``r`` for a pointer to const, ``w`` for another one, empty for a number.

    Raises:
        GraphError: the text has no such kernel.
    """
    found = re.search(HEAD.format(name=re.escape(name)), code, re.M | re.S)
    if found is None:
        raise GraphError(f"the module's text has no kernel {name!r}")
    parts = [p.strip() for p in found[1].split(",") if p.strip()]
    return tuple("" if "*" not in p else "r" if p.startswith("const ") else "w" for p in parts)


class FakeFunction:
    """A kernel; called as CuPy calls one: ``function(grid, block, arguments)``, on the current stream."""

    def __init__(self, code: str, name: str, current: "Callable[[], FakeGpu]") -> None:
        self.name, self._kinds, self._current = name, pointers(code, name), current
        self._inner = emulate.RawModule(code).get_function(name)

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], **_: Any) -> None:
        """Put it off.

        Raises:
            GraphError: not as many arguments as the kernel has, or a number where it has a pointer to memory that is
                used: what lies there could not be told from other work's.
        """
        if len(args) != len(self._kinds):
            raise GraphError(f"kernel {self.name} takes {len(self._kinds)} arguments, got {len(args)}")
        reads: list[FakeArray] = []
        writes: list[FakeArray] = []
        for argument, kind in zip(args, self._kinds, strict=True):
            if isinstance(argument, FakeArray) and not kind:
                raise GraphError(f"kernel {self.name}: an array is given for a number")
            if kind and not isinstance(argument, FakeArray) and int(argument):
                raise GraphError(f"kernel {self.name}: the address {int(argument):#x} is given, which is no array")
            if isinstance(argument, FakeArray):
                (reads if kind == "r" else writes).append(argument)
        place(f"kernel {self.name}", tuple(args), {})
        raw, timeline = [unwrapped(x) for x in args], self._current().timeline

        def run() -> None:
            self._inner(grid, block, raw)

        if timeline.depth:
            run()
        else:
            timeline.put(self.name, run, ranges([*reads, *writes]), ranges(writes))


class FakeRawModule:
    """Stands for CuPy's class of that name, on the current fake GPU."""

    def __init__(self, current: "Callable[[], FakeGpu]", code: str) -> None:
        self.code, self._current = code, current
        self._known: dict[str, FakeFunction] = {}

    def get_function(self, name: str) -> FakeFunction:
        """A kernel of the module.

        Raises:
            CaptureError: it is compiled and loaded now, in a recording.
        """
        found = self._known.get(name)
        if found is None:
            gpu = self._current()
            if gpu.timeline.recording is not None:
                raise CaptureError(
                    f"gpu:{gpu.index}: kernel {name!r} is compiled and loaded in a recording; run the step once before"
                )
            found = self._known[name] = FakeFunction(self.code, name, self._current)
        return found
