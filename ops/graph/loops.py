"""The kernel of a `fused` call as text: nested loops over the elements, in C. `shoal.ops.gpu.codegen` has CUDA.

The axes are put in the order in which the results lie in memory, and joined where every array allows it. So results
that lie densely and operands like them need one loop, and a bias or a channel's scale needs two.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.ops.graph.expression import C_HELPERS, C, Printer, Target, Unprintable, Value, type_name
from shoal.ops.graph.fused import carry_out
from shoal.ops.graph.kernels import Kernel, Site, Source, register
from shoal.ops.registry import Spec

__all__ = ["Loops", "Parts", "c_text", "maker", "parts_of"]

BLOCK = 4096
"""Elements of the innermost loop that one thread takes at a time."""

GRAIN = 16384
"""Elements times operators below which one thread does all."""


@dataclass(frozen=True)
class Loops:
    """Loops over the elements of several arrays at once.

    Attributes:
        lengths: of the loops, from the outermost to the innermost.
        steps: of each array, how far the next element is in each loop, in elements; 0 repeats it.
    """

    lengths: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]

    @staticmethod
    def over(shape: Sequence[int], arrays: Sequence[tuple[Spec, Sequence[int]]]) -> "Loops":
        """Loops over ``shape`` in the memory order of the last array.

        Args:
            arrays: spec and strides in bytes of each; they broadcast to the shape.
        """
        steps = [_broadcast_steps(shape, spec, strides) for spec, strides in arrays]
        axes = sorted((a for a in range(len(shape)) if shape[a] != 1), key=lambda a: (-steps[-1][a], a))
        lengths: list[int] = []
        joined: list[list[int]] = []  # per loop: the step of each array
        for axis in axes:
            here = [s[axis] for s in steps]
            if joined and all(out == inner * shape[axis] for out, inner in zip(joined[-1], here, strict=True)):
                lengths[-1] *= shape[axis]
                joined[-1] = here
            else:
                lengths.append(shape[axis])
                joined.append(here)
        if not lengths:
            lengths, joined = [1], [[0] * len(arrays)]
        return Loops(tuple(lengths), tuple(zip(*joined, strict=True)))

    @property
    def size(self) -> int:
        """Elements in all."""
        return math.prod(self.lengths)


def _broadcast_steps(shape: Sequence[int], spec: Spec, strides: Sequence[int]) -> list[int]:
    lead = len(shape) - spec.ndim
    if any(s % spec.dtype.itemsize for s in strides):
        raise Unprintable("strides that are no multiple of an element")
    own = [0 if n == 1 else s // spec.dtype.itemsize for n, s in zip(spec.shape, strides, strict=True)]
    return [0] * lead + own


@dataclass(frozen=True)
class Parts:
    """What C and CUDA need: loops, the statements of one element, and what is read and written where."""

    loops: Loops
    inputs: list[tuple[int, Spec]]
    outputs: list[tuple[int, Spec]]
    names: list[str]
    lines: list[str]
    work: int


def parts_of(site: Site, target: Target) -> Parts:
    call = site.call
    shape = call.specs[0].shape
    if any(s.shape != shape for s in call.specs):
        raise Unprintable("results of several shapes")
    printer = Printer(target)
    values: list[Any] = []
    arrays: list[tuple[Spec, Sequence[int]]] = []
    inputs: list[tuple[int, Spec]] = []
    for n, x in enumerate(site.specs):
        if isinstance(x, Spec):
            kind = target.computed(x.dtype)
            inputs.append((len(inputs), x))
            arrays.append((x, site.strides[n] or ()))
            values.append(Value(printer, f"x{len(inputs) - 1}", kind))
        else:
            values.append(x)
    for n, spec in enumerate(call.specs):
        arrays.append((spec, site.strides[len(site.specs) + n] or ()))
    found = carry_out(call.attrs["body"], values, printer.apply)
    results = [found[n] for n in call.attrs["results"]]
    results = [
        r if isinstance(r, Value) else printer.value(r, target.computed(s.dtype))
        for r, s in zip(results, call.specs, strict=True)
    ]
    outputs = [(len(inputs) + n, spec) for n, spec in enumerate(call.specs)]
    return Parts(
        Loops.over(shape, arrays), inputs, outputs, [r.text for r in results], printer.lines, len(printer.lines)
    )


def c_text(site: Site) -> Source:
    """The kernel in C.

    Raises:
        Unprintable: an operator or a type has no text.
    """
    parts = parts_of(site, C)
    loops, inner = parts.loops, len(parts.loops.lengths) - 1
    lines = [f"    {_declared(n, s, const=True)} = ({_pointer(s, const=True)})p[{n}];" for n, s in parts.inputs]
    lines += [f"    {_declared(n, s)} = ({_pointer(s)})p[{n}];" for n, s in parts.outputs]
    blocks = -(-loops.lengths[inner] // BLOCK)
    heads = [f"for (ptrdiff_t i{d} = 0; i{d} < {n}; i{d}++)" for d, n in enumerate(loops.lengths[:inner])]
    if blocks > 1:
        heads.append(f"for (ptrdiff_t b = 0; b < {blocks}; b++)")
    if heads and loops.size * max(1, parts.work) >= GRAIN:
        collapse = f" collapse({len(heads)})" if len(heads) > 1 else ""
        lines.append(f"#pragma omp parallel for num_threads(shoal_threads) schedule(static){collapse}")
    lines += ["    " + " ".join(heads) + " {"]
    lines += _rows(parts, inner)
    if blocks > 1:
        end = f"b == {blocks - 1} ? {loops.lengths[inner]} : from + {BLOCK}"
        lines.append(f"        const ptrdiff_t from = b * {BLOCK}, to = {end};")
    lines.append("#pragma GCC ivdep")
    bounds = ("from", "to") if blocks > 1 else ("0", str(loops.lengths[inner]))
    lines.append(f"        for (ptrdiff_t i = {bounds[0]}; i < {bounds[1]}; i++) {{")
    lines += [f"            {line}" for line in _loads(parts, inner, repeated=False)]
    lines += [f"            {line}" for line in parts.lines]
    for (n, _), text in zip(parts.outputs, parts.names, strict=True):
        lines.append(f"            r{n}[{_index(parts.loops.steps[n][inner], 'i')}] = {text};")
    lines += ["        }", "    }"]
    body = "\n".join(lines)
    name = f"fused_{hashlib.blake2b(body.encode(), digest_size=8).hexdigest()}"
    return Source(name, f"{C_HELPERS}EXPORT void {name}(char **p) {{\n{body}\n}}\n", exact=True)


def _rows(parts: Parts, inner: int) -> list[str]:
    """Where the innermost loop begins in each array, and the elements that it repeats."""
    lines = []
    for n, spec in (*parts.inputs, *parts.outputs):
        terms = [f"i{d} * {s}" for d, s in enumerate(parts.loops.steps[n][:inner]) if s]
        pointer = _pointer(spec, const=n < len(parts.inputs))
        lines.append(f"        {pointer}r{n} = {' + '.join([f'a{n}', *terms])};")
    return lines + [f"        {line}" for line in _loads(parts, inner, repeated=True)]


def _loads(parts: Parts, inner: int, *, repeated: bool) -> list[str]:
    lines = []
    for n, spec in parts.inputs:
        step = parts.loops.steps[n][inner]
        if (step == 0) == repeated:
            kind = "int" if spec.dtype == np.bool_ else type_name(spec.dtype)
            lines.append(f"const {kind} x{n} = r{n}[{_index(step, 'i')}];")
    return lines


def _index(step: int, name: str) -> str:
    return "0" if step == 0 else name if step == 1 else f"{name} * {step}"


def _pointer(spec: Spec, const: bool = False) -> str:
    return f"{'const ' if const else ''}{type_name(spec.dtype)} *"


def _declared(n: int, spec: Spec, const: bool = False) -> str:
    return f"{_pointer(spec, const)}const a{n}"


def maker(site: Site) -> Kernel | Source | None:
    """C text on the CPU; None where the group has no text."""
    if site.xp.module is not np:
        return None
    try:
        return c_text(site)
    except Unprintable:
        return None


register("fused", maker, exact=True)
