"""What the two kernels of a `fused_rows` call share, the CPU's (`rowloops`) and the GPU's (`shoal.ops.gpu.rowtext`).

A step has the level of the reductions that it depends on; those of level 0 depend on none. Each level is a loop over a
row that ends in the reductions of the next level, or writes results.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.graph.expression import Printer, Target, Unprintable, Value, type_name
from shoal.ops.graph.fused import carry_out, steps_of
from shoal.ops.graph.kernels import Site
from shoal.ops.graph.loops import Loops
from shoal.ops.graph.rowfuse import REDUCTIONS
from shoal.ops.registry import OPS, Spec

__all__ = ["RENAMED", "RowSteps", "at", "value_name"]

RENAMED = ("reshape", "expand_dims", "squeeze")
"""What gives the numbers of a row another shape, and nothing else."""


class RowSteps:
    """The steps of a call, where its arrays are, and the text of what there is once for a row.

    Attributes:
        steps: (operator, operands, attributes); operands are ``i3`` for an input, ``t3`` for a step, or numbers.
        specs: of the steps.
        arrays: specs of the inputs, then of the results.
        lead, length: the shape of the rows, and of one row.
        along: the inputs that have the shape of ``lead`` and yet go along the rows, as NumPy broadcasts them.
        level: of each step.
        loops, inner: over the rows; how far an element of an array is from the next in a row.
        row, values: the printer of a row's numbers, and those that are known, by operand.

    Raises:
        Unprintable: an operand, a type or the memory of an array has no text.
    """

    def __init__(self, site: Site, target: Target) -> None:
        self.site, self.target = site, target
        self.steps = steps_of(site.call.attrs["body"])
        self.arrays: list[Spec] = [*site.specs, *site.call.specs]
        if not all(isinstance(s, Spec) for s in self.arrays):
            raise Unprintable("an operand that is no array")
        self.specs: list[Spec] = carry_out(site.call.attrs["body"], site.specs, _inferred)
        rows = next(self.spec(operands[0]) for name, operands, _ in self.steps if name in REDUCTIONS)
        self.lead, self.length = rows.shape[:-1], rows.shape[-1]
        self.along = self._along()
        self.level = self._levels()
        self._places()
        self.row = Printer(target, "s")
        self.values: dict[str, Value] = {}

    def spec(self, x: str) -> Spec:
        """Of an operand."""
        return self.arrays[int(x[1:])] if x[0] == "i" else self.specs[int(x[1:])]

    def full(self, x: str) -> bool:
        """Whether an operand has a value for each element of a row."""
        spec = self.spec(x)
        number = spec.shape in (self.lead, (*self.lead, 1)) and x not in self.along
        return spec.ndim > 0 and spec.shape[-1] == self.length and not number

    def _along(self) -> set[str]:
        """Among square rows a shape does not tell a number of each row from a vector along them: the use does."""
        along, numbers = set[str](), set[str]()
        for n, (name, operands, _) in enumerate(self.steps):
            deep = name not in RENAMED and self.specs[n].ndim > len(self.lead)
            for x in operands if name not in REDUCTIONS else ():
                shape = self.spec(x).shape if isinstance(x, str) else ()
                if shape == self.lead and math.prod(shape) > 1:
                    (along if deep else numbers).add(x)
                elif not deep and name not in RENAMED and math.prod(shape) > 1:
                    raise Unprintable(f"numbers of rows of shape {self.lead} with an operand of shape {shape}")
        if any(x[0] == "t" for x in along) or along & numbers:
            raise Unprintable("numbers of rows that are also used along the rows")
        return along

    def reduces(self, n: int) -> bool:
        """Whether a step reduces the elements of a row to a number."""
        name, operands, _ = self.steps[n]
        return name in REDUCTIONS and self.full(operands[0])

    def ends(self, level: int) -> list[int]:
        """The reductions that the loop of a level ends in."""
        return [n for n in range(len(self.steps)) if self.level[n] == level + 1 and self.reduces(n)]

    def _levels(self) -> list[int]:
        level: list[int] = []
        for n, (_, operands, _) in enumerate(self.steps):
            before = max((level[int(x[1:])] for x in operands if isinstance(x, str) and x[0] == "t"), default=0)
            level.append(before + self.reduces(n))
        return level

    def _places(self) -> None:
        """Where the rows of the arrays begin, and how far an element is from the next."""
        outer: list[tuple[Spec, Sequence[int]]] = []
        self.inner: list[int] = []
        for spec, given in zip(self.arrays, self.site.strides, strict=True):
            strides = tuple(given or ())
            self.target.computed(spec.dtype)
            if spec.shape == self.lead and f"i{len(self.inner)}" not in self.along:
                spec, strides = Spec((*spec.shape, 1), spec.dtype), (*strides, 0)
            step = 0 if not spec.ndim or spec.shape[-1] == 1 else strides[-1] // spec.dtype.itemsize
            self.inner.append(step)
            outer.append((Spec(spec.shape[:-1], spec.dtype), strides[:-1]) if spec.ndim else (spec, strides))
        anchor = next(n for n, s in enumerate(self.inner) if s)
        self.loops = Loops.over(self.lead, [*outer, outer[anchor]])

    def begin(self, n: int) -> str:
        """Where a row begins in an array."""
        return " + ".join([f"p{n}", *[f"j{d} * {s}" for d, s in enumerate(self.loops.steps[n]) if s]])

    def numbers(self, level: int) -> list[str]:
        """The statements of what there is once for a row at a level."""
        for n, (name, operands, attrs) in enumerate(self.steps):
            if self.level[n] != level or self.full(f"t{n}") or f"t{n}" in self.values:
                continue
            if name in RENAMED:
                self.values[f"t{n}"] = self.values[operands[0]]
            else:
                found = [self.values[x] if isinstance(x, str) else x for x in operands]
                self.values[f"t{n}"] = self.row.apply(name, found, attrs)
        lines, self.row.lines = self.row.lines, []
        return lines


def at(step: int) -> str:
    """The number of an element of a row, in the loop over them."""
    return "0" if step == 0 else "i" if step == 1 else f"i * {step}"


def value_name(dtype: "np.dtype[Any]") -> str:
    """What a type is called while it is computed with."""
    return "int" if dtype == np.bool_ else type_name(dtype)


def _inferred(name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    return OPS[name].infer(*inputs, **attrs)
