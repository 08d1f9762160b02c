"""The kernel of a `fused_rows` call as C: for each row, a loop over its elements for each level of reductions.

Which loop computes what is the base's (`shoal.ops.graph.rowsteps`). Values that a later loop needs are kept in a row of
memory on the stack, or are read again where they are a result.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.graph.expression import C_HELPERS, C, Printer, Unprintable, Value, type_name
from shoal.ops.graph.kernels import Kernel, Site, Source, register
from shoal.ops.graph.loops import GRAIN
from shoal.ops.graph.rowsteps import RowSteps, at, value_name

__all__ = ["rows_text"]

STACK_BYTES = 1 << 17
"""What the kept rows of a kernel may take."""


def rows_text(site: Site) -> Source:
    """The kernel in C.

    Raises:
        Unprintable: an operator, a type or the memory of an array has no text.
    """
    made = _Rows(site)
    for level in range(made.levels + 1):
        made.loop(level)
    body = made.text()
    name = f"rows_{hashlib.blake2b(body.encode(), digest_size=8).hexdigest()}"
    return Source(name, f"{C_HELPERS}EXPORT void {name}(char **p) {{\n{body}\n}}\n", exact=True)


class _Rows(RowSteps):
    """Text in the making."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, C)
        self.levels = max(self.level)
        self.results = {n: i for i, n in reversed(list(enumerate(site.call.attrs["results"])))}
        self.lines: list[str] = []
        self.kept: list[str] = []  # rows on the stack
        self.kept_bytes = 0
        self._load_row_inputs()

    def _load_row_inputs(self) -> None:
        for n, spec in enumerate(self.site.specs):
            if not self.inner[n]:
                kind = value_name(spec.dtype)
                self.row.lines.append(f"const {kind} x{n} = r{n}[0];")
                self.values[f"i{n}"] = Value(self.row, f"x{n}", spec.dtype)

    def loop(self, level: int) -> None:
        """What is done for a row at a level: its numbers, then the loop over its elements."""
        self.lines += self.numbers(level)
        here = [n for n in range(len(self.steps)) if self.level[n] == level]
        ends = self.ends(level)
        body, accumulated = self._elements([n for n in here if self.full(f"t{n}")], ends, level)
        if not body:
            return
        self.lines += [
            f"{value_name(self.specs[n].dtype)} a{n}_ = {_start(self.steps[n][0])}; int q{n} = 0;" for n in ends
        ]
        self.lines.append(f"#pragma omp simd{_clauses(self.steps, ends)}")
        self.lines.append(f"for (ptrdiff_t i = 0; i < {self.length}; i++) {{")
        self.lines += [f"    {line}" for line in [*body, *accumulated]]
        self.lines.append("}")
        for n in ends:
            self._finish(n)

    def _elements(self, here: list[int], ends: list[int], level: int) -> tuple[list[str], list[str]]:
        """The statements of one element, and those that add it up."""
        printer = Printer(C, "t")
        known: dict[str, Value] = {}

        def operand(x: Any) -> Any:
            if not isinstance(x, str):
                return x
            if x in self.values:
                return self.values[x]
            if x not in known:
                known[x] = self._loaded(printer, x)
            return known[x]

        stores = []
        for n in here:
            name, operands, attrs = self.steps[n]
            made = printer.apply(name, [operand(x) for x in operands], attrs)
            known[f"t{n}"] = made
            stores += self._stores(n, made.text, level)
        sums = []
        for n in ends:
            value, name = operand(self.steps[n][1][0]), self.steps[n][0]
            sums.append(_accumulate(name, n, value.text))
        return printer.lines + stores, sums

    def _loaded(self, printer: Printer, x: str) -> Value:
        """An element of an input, or of a value of an earlier loop."""
        n = int(x[1:])
        spec = self.spec(x)
        if x[0] == "i":
            place, name = f"r{n}[{at(self.inner[n])}]", f"x{n}"
        elif n in self.results:
            out = len(self.site.specs) + self.results[n]
            place, name = f"r{out}[{at(self.inner[out])}]", f"v{n}"
        else:
            place, name = f"b{n}[i]", f"v{n}"
        kind = value_name(spec.dtype)
        printer.lines.append(f"const {kind} {name} = {place};")
        return Value(printer, name, spec.dtype)

    def _stores(self, n: int, text: str, level: int) -> list[str]:
        if n in self.results:
            outs = [i for i, m in enumerate(self.site.call.attrs["results"]) if m == n]
            places = [len(self.site.specs) + i for i in outs]
            return [f"r{out}[{at(self.inner[out])}] = {text};" for out in places]
        later = any(
            f"t{n}" in operands and (self.level[m] > level + self.reduces(m))
            for m, (_, operands, _) in enumerate(self.steps)
        )
        if not later:
            return []
        self.kept.append(f"{type_name(self.specs[n].dtype)} b{n}[{self.length}];")
        self.kept_bytes += self.length * self.specs[n].dtype.itemsize
        if self.kept_bytes > STACK_BYTES:
            raise Unprintable("rows that are too long to be kept")
        return [f"b{n}[i] = {text};"]

    def _finish(self, n: int) -> None:
        """What a reduction is once the loop is over."""
        name, dtype = self.steps[n][0], self.specs[n].dtype
        text = f"a{n}_ / {self.length}{'.0f' if dtype == np.float32 else '.0'}" if name == "mean" else f"a{n}_"
        text = f"q{n} ? NAN : a{n}_" if name in ("max", "min") else text
        self.row.lines.append(f"const {type_name(dtype)} m{n} = {text};")
        self.values[f"t{n}"] = Value(self.row, f"m{n}", dtype)

    def text(self) -> str:
        """The body of the function."""
        for n, i in self.results.items():
            if not self.full(f"t{n}"):
                outs = [i for i, m in enumerate(self.site.call.attrs["results"]) if m == n]
                self.row.lines += [f"r{len(self.site.specs) + i}[0] = {self.values[f't{n}'].text};" for i in outs]
        self.lines += self.row.lines
        pointers, rows = [], []
        for n, spec in enumerate(self.arrays):
            const = "const " if n < len(self.site.specs) else ""
            kind = f"{const}{type_name(spec.dtype)} *"
            pointers.append(f"    {kind}const p{n} = ({kind})p[{n}];")
            rows.append(f"{kind}r{n} = {self.begin(n)};")
        heads = [f"for (ptrdiff_t j{d} = 0; j{d} < {n}; j{d}++)" for d, n in enumerate(self.loops.lengths)]
        work = math.prod(self.lead) * self.length * len(self.steps)
        if work >= GRAIN and math.prod(self.lead) > 1:
            collapse = f" collapse({len(heads)})" if len(heads) > 1 else ""
            pointers.append(f"#pragma omp parallel for num_threads(shoal_threads) schedule(static){collapse}")
        inside = "\n".join(f"        {line}" for line in [*rows, *self.kept, *self.lines])
        return "\n".join([*pointers, f"    {' '.join(heads)} {{", inside, "    }"])


def _start(name: str) -> str:
    return {"max": "-INFINITY", "min": "INFINITY"}.get(name, "0")


def _accumulate(name: str, n: int, text: str) -> str:
    if name in ("max", "min"):
        return f"a{n}_ = {text} {'>' if name == 'max' else '<'} a{n}_ ? {text} : a{n}_; q{n} |= {text} != {text};"
    return f"a{n}_ += {text};"


def _clauses(steps: Sequence[Any], ends: Sequence[int]) -> str:
    kinds = {"max": "max", "min": "min"}
    parts = [f" reduction({kinds.get(steps[n][0], '+')}:a{n}_)" for n in ends]
    parts += [f" reduction(|:q{n})" for n in ends if steps[n][0] in kinds]
    return "".join(parts)


def _maker(site: Site) -> Kernel | Source | None:
    """C text on the CPU; on a GPU the steps are carried out one by one."""
    if site.xp.module is not np:
        return None
    try:
        return rows_text(site)
    except Unprintable:
        return None


register("fused_rows", _maker)
