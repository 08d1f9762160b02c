"""Generated kernels: groups of element-wise operators (`fused`), alone or around reductions of rows (`fused_rows`).

The statements come from the printer that the CPU's kernels come from (`shoal.ops.graph.expression`), so that nothing is
written down twice. Half precision is read as float32, computed in it from the first operator of a group to the last,
and rounded once, when it is written: that is more accurate than operator by operator.

An element-wise kernel goes through the elements in steps of the grid. Where an axis is dense in every array, a thread
takes 16 bytes at a time; whether the addresses allow that is looked at when it runs. A kernel of rows has a warp or a
block for a row; what a later loop needs it computes again from the inputs, which are then in the nearest cache.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import NUMBERS, OPTIONS, STORED, flat, geometry, text
from shoal.ops.gpu.kernels.table import switched_on
from shoal.ops.gpu.rowtext import row_kernel
from shoal.ops.graph.expression import CUDA, Unprintable, type_name
from shoal.ops.graph.kernels import Kernel, Site, register
from shoal.ops.graph.loops import Parts, parts_of
from shoal.ops.registry import Spec

__all__ = ["elementwise_text", "stored"]

LARGEST = 2**31 - 1
"""Elements up to which positions are 32-bit numbers, whose divisions are much faster."""


def stored(dtype: "np.dtype[Any]") -> str:
    """What a type is called in memory.

    Raises:
        Unprintable: kernels do not have it.
    """
    return STORED[dtype] if dtype in STORED else type_name(dtype)


def elementwise_text(site: Site) -> tuple[str, str, int]:
    """The kernel of a `fused` call: (name, text, elements that a thread takes at a time).

    It takes the arrays' addresses, inputs then outputs.

    Raises:
        Unprintable: an operator or a type has no text.
    """
    parts = parts_of(site, CUDA)
    arrays = [*parts.inputs, *parts.outputs]
    last = len(parts.inputs)
    arguments = ", ".join(f"{'const ' if n < last else ''}{stored(s.dtype)} *a{n}" for n, s in arrays)
    width = _width(parts, arrays)
    body = "\n".join(f"    {line}" for line in _body(parts, arrays, width))
    name = f"fused_{hashlib.blake2b((arguments + body).encode(), digest_size=8).hexdigest()}"
    names = ", ".join(f"a{n}" for n, _ in arrays)
    fits = " && ".join(f"aligned16(a{n})" for n, _ in arrays if parts.loops.steps[n][-1] == 1)
    call = (
        f"{name}_of<1>({names});"
        if width == 1
        else f"if ({fits}) {name}_of<{width}>({names}); else {name}_of<1>({names});"
    )
    code = (
        f"{text('prelude.cuh')}\ntemplate <int V> DEV void {name}_of({arguments}) {{\n{body}\n}}\n"
        f'extern "C" __global__ void {name}({arguments}) {{ {call} }}\n'
    )
    return name, code, width


def _width(parts: Parts, arrays: Sequence[tuple[int, Spec]]) -> int:
    """Elements that a thread can take at a time, if addresses allow it."""
    steps, length = parts.loops.steps, parts.loops.lengths[-1]
    dense = [s.dtype.itemsize for n, s in arrays if steps[n][-1] == 1]
    if not dense or any(steps[n][-1] not in (0, 1) for n, _ in arrays):
        return 1
    width = 16 // max(dense)
    outer = [step for n, _ in arrays if steps[n][-1] == 1 for step in steps[n][:-1]]
    return width if length % width == 0 and all(step % width == 0 for step in outer) else 1


def _body(parts: Parts, arrays: Sequence[tuple[int, Spec]], width: int) -> list[str]:
    lengths, steps, size = parts.loops.lengths, parts.loops.steps, parts.loops.size
    kind = "uint32_t" if size <= LARGEST else "uint64_t"
    lines = [
        f"for (uint64_t e = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * V; e < {size}ull; "
        "e += (uint64_t)gridDim.x * blockDim.x * V) {",
        f"    {kind} rest = ({kind})e;",
    ]
    for d in reversed(range(len(lengths))):
        lines.append(f"    const int64_t i{d} = rest{f' % {lengths[d]}u; rest /= {lengths[d]}u' if d else ''};")
    for n, spec in arrays:
        terms = [f"i{d} * {s}" for d, s in enumerate(steps[n]) if s] or ["0"]
        lines.append(f"    const int64_t o{n} = {' + '.join(terms)};")
        if n < len(parts.inputs) and steps[n][-1]:
            chunk = f"Chunk<{stored(spec.dtype)}, V>"
            lines.append(f"    const {chunk} c{n} = *(const {chunk} *)(a{n} + o{n});")
        elif n >= len(parts.inputs):
            lines.append(f"    Chunk<{stored(spec.dtype)}, V> c{n};")
    lines += ["#pragma unroll", "    for (int k = 0; k < V; k++) {"]
    for n, spec in parts.inputs:
        place = f"c{n}.v[k]" if steps[n][-1] else f"a{n}[o{n}]"
        lines.append(f"        const {value_type(spec)} x{n} = {loaded(spec, place)};")
    lines += [f"        {line}" for line in parts.lines]
    for (n, spec), value in zip(parts.outputs, parts.names, strict=True):
        lines.append(f"        c{n}.v[k] = {kept(spec, value)};")
    lines.append("    }")
    lines += [f"    *(Chunk<{stored(s.dtype)}, V> *)(a{n} + o{n}) = c{n};" for n, s in parts.outputs]
    return [*lines, "}"]


def value_type(spec: Spec) -> str:
    """What an element of an array is while it is computed with."""
    if spec.dtype == np.bool_:
        return "int"
    return "float" if spec.dtype in STORED and spec.dtype.itemsize == 2 else type_name(spec.dtype)


def loaded(spec: Spec, place: str) -> str:
    """An element that is read."""
    return f"widen({place})" if spec.dtype in STORED else place


def kept(spec: Spec, value: str) -> str:
    """An element that is written."""
    return f"narrow<{stored(spec.dtype)}>({value})" if spec.dtype in STORED else value


def _elementwise(site: Site) -> Kernel | None:
    if not _asked(site, "fused"):
        return None
    try:
        name, code, width = elementwise_text(site)
    except Unprintable:
        return None
    launch = site.xp.module.RawModule(code=code, options=OPTIONS).get_function(name)
    grid, block = flat((site.call.specs[0].shape and _size(site.call.specs[0])) or 1, width)

    def kernel(*arrays: Any) -> None:
        launch(grid, block, tuple(x for x in arrays if hasattr(x, "strides")))

    return kernel


def _size(spec: Spec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64))


def _rows(site: Site) -> Kernel | None:
    if not _asked(site, "fused_rows"):
        return None
    try:
        made = row_kernel(site)
    except Unprintable:
        return None
    launch = site.xp.module.RawModule(code=made.text, options=OPTIONS).get_function(made.name)
    grid, block = geometry(made.rows, made.length, made.itemsize)
    rows = NUMBERS["q"](made.rows)

    def kernel(*arrays: Any) -> None:
        launch(grid, block, (*[x for x in arrays if hasattr(x, "strides")], rows))

    return kernel


def _asked(site: Site, name: str) -> bool:
    return site.xp.module is not np and hasattr(site.xp.module, "RawModule") and switched_on(name)


register("fused", _elementwise)
register("fused_rows", _rows)
