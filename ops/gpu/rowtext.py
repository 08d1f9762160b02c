"""The kernel of a `fused_rows` call as CUDA: a warp or a block for each row.

Which loop computes what is the base's (`shoal.ops.graph.rowsteps`); every loop begins at the inputs.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import STORED, text
from shoal.ops.graph.expression import CUDA, Printer, Unprintable, Value, type_name
from shoal.ops.graph.kernels import Site
from shoal.ops.graph.rowsteps import RENAMED, RowSteps, at, value_name
from shoal.ops.registry import Spec

__all__ = ["RowKernel", "row_kernel"]

MERGE = {"max": ("Max", "-INFINITY"), "min": ("Min", "INFINITY")}


@dataclass(frozen=True)
class RowKernel:
    """A kernel: it takes the addresses of inputs and outputs, and the number of rows."""

    name: str
    text: str
    rows: int
    length: int
    itemsize: int


def row_kernel(site: Site) -> RowKernel:
    """The kernel in CUDA.

    Raises:
        Unprintable: an operator, a type or the memory of an array has no text.
    """
    made = _Rows(site)
    body = "\n".join(f"    {line}" for line in made.body())
    arguments = ", ".join([*made.arguments(), "int64_t rows"])
    name = f"rows_{hashlib.blake2b((arguments + body).encode(), digest_size=8).hexdigest()}"
    code = f'{text("prelude.cuh")}\nextern "C" __global__ void {name}({arguments}) {{\n{body}\n}}\n'
    widest = max(s.dtype.itemsize for s in made.arrays)
    return RowKernel(name, code, math.prod(made.lead), made.length, widest)


class _Rows(RowSteps):
    """Text in the making."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, CUDA)
        self.results = site.call.attrs["results"]

    def arguments(self) -> list[str]:
        """The parameters."""
        last = len(self.site.specs)
        return [f"{'const ' if n < last else ''}{_stored(s)} *p{n}" for n, s in enumerate(self.arrays)]

    def body(self) -> list[str]:
        """All statements."""
        lines = [
            "SHARED(double, room, 32);",
            "int64_t rest = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;",
            "if (rest >= rows) return;",
        ]
        for d in reversed(range(len(self.loops.lengths))):
            n = self.loops.lengths[d]
            lines.append(f"const int64_t j{d} = rest{f' % {n}; rest /= {n}' if d else ''};")
        for n, spec in enumerate(self.arrays):
            const = "const " if n < len(self.site.specs) else ""
            lines.append(f"{const}{_stored(spec)} *r{n} = {self.begin(n)};")
        for n, spec in enumerate(self.site.specs):
            if not self.inner[n]:
                self.values[f"i{n}"] = Value(self.row, f"y{n}", _computed(spec.dtype))
                lines.append(f"const {value_name(_computed(spec.dtype))} y{n} = {_load(spec, f'r{n}[0]')};")
        for level in range(max(self.level) + 1):
            lines += self._at(level)
        lines += self._numbers()
        return lines

    def _at(self, level: int) -> list[str]:
        """What is done at a level: the numbers of a row, then the loop over its elements."""
        lines, ends = self.numbers(level), self.ends(level)
        writes = [(i, n) for i, n in enumerate(self.results) if self.level[n] == level and self.full(f"t{n}")]
        if not ends and not writes:
            return lines
        printer, known = Printer(CUDA, f"t{level}_"), dict[str, Value]()
        stores = [self._store(i, self._element(f"t{n}", printer, known)) for i, n in writes]
        sums = [self._accumulate(n, self._element(self.steps[n][1][0], printer, known)) for n in ends]
        lines += [f"{value_name(self._sum_type(n))} a{n} = {MERGE.get(self.steps[n][0], ('', '0'))[1]};" for n in ends]
        lines.append(f"for (int64_t i = threadIdx.x; i < {self.length}; i += blockDim.x) {{")
        lines += [f"    {line}" for line in [*printer.lines, *stores, *sums]]
        lines.append("}")
        return lines + [line for n in ends for line in self._reduced(n)]

    def _sum_type(self, n: int) -> "np.dtype[Any]":
        return _computed(self.specs[n].dtype)

    def _element(self, x: Any, printer: Printer, known: dict[str, Value]) -> Any:
        """The value of an operand for one element, computed from the inputs."""
        if not isinstance(x, str):
            return x
        if x in self.values:
            return self.values[x]
        if x not in known:
            n = int(x[1:])
            if x[0] == "i":
                spec, step = self.spec(x), self.inner[n]
                place = f"r{n}[{at(step)}]"
                printer.lines.append(f"const {value_name(_computed(spec.dtype))} x{n} = {_load(spec, place)};")
                known[x] = Value(printer, f"x{n}", _computed(spec.dtype))
            else:
                name, operands, attrs = self.steps[n]
                if name in RENAMED:
                    raise Unprintable(name)
                known[x] = printer.apply(name, [self._element(o, printer, known) for o in operands], attrs)
        return known[x]

    def _store(self, result: int, value: Value) -> str:
        n = len(self.site.specs) + result
        step = self.inner[n]
        return f"r{n}[{at(step)}] = {_narrowed(self.arrays[n], value.text)};"

    def _accumulate(self, n: int, value: Value) -> str:
        merge = MERGE.get(self.steps[n][0], ("Add", ""))[0]
        return f"a{n} = {merge}::of(a{n}, ({value_name(self._sum_type(n))}){value.text});"

    def _reduced(self, n: int) -> list[str]:
        """What a reduction is once the loop is over."""
        name, kind = self.steps[n][0], value_name(self._sum_type(n))
        merge = MERGE.get(name, ("Add", ""))[0]
        self.values[f"t{n}"] = Value(self.row, f"m{n}", self._sum_type(n))
        mean = f" / ({kind}){self.length}" if name == "mean" else ""
        return [f"const {kind} m{n} = row_reduce<{merge}>(a{n}, ({kind} *)room){mean};"]

    def _numbers(self) -> list[str]:
        """Results that there are once for a row."""
        lines = []
        for i, n in enumerate(self.results):
            if not self.full(f"t{n}"):
                at = len(self.site.specs) + i
                lines.append(
                    f"if (threadIdx.x == 0) r{at}[0] = {_narrowed(self.arrays[at], self.values[f't{n}'].text)};"
                )
        return lines


_computed = CUDA.computed


def _stored(spec: Spec) -> str:
    return STORED[spec.dtype] if spec.dtype in STORED else type_name(spec.dtype)


def _load(spec: Spec, place: str) -> str:
    return f"widen({place})" if spec.dtype in STORED else place


def _narrowed(spec: Spec, value: str) -> str:
    return f"narrow<{_stored(spec)}>({value})" if spec.dtype in STORED else value
