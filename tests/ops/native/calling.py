"""Native kernels called by hand: several calls, compiled together."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.ops.backend import CPU
from shoal.ops.graph import bind, kernels
from shoal.ops.graph.ir import Call
from shoal.ops.graph.kernels import Site, Source, strides_of
from shoal.ops.native import compiler, families
from shoal.ops.registry import OPS, Spec

assert families  # imported for the kernels that it registers

LAST = (0, 2, 3, 1)
FIRST = (0, 1, 2, 3)


class Made(NamedTuple):
    """A call of an operator on arrays (scalars, None), and the memory order of images among its results."""

    op: str
    arrays: list[Any]
    attrs: dict[str, Any]
    order: tuple[int, ...] = LAST


def site(made: Made) -> Site:
    """What a maker is told."""
    specs = tuple(Spec(a.shape, a.dtype) if isinstance(a, np.ndarray) else a for a in made.arrays)
    inferred = OPS[made.op].infer(*specs, **made.attrs)
    results = (inferred,) if isinstance(inferred, Spec) else tuple(inferred)
    given = [a.strides if isinstance(a, np.ndarray) else None for a in made.arrays]
    outs = [strides_of(s, made.order if s.ndim == 4 else None) for s in results]
    return Site(CPU, Call(made.op, tuple(made.arrays), made.attrs, results), specs, (*given, *outs))


def outputs(where: Site, value: float = np.nan, guard: int = 0) -> list[Any]:
    """Arrays for the results, with ``guard`` elements before and behind, all filled with ``value``."""
    found = []
    for spec, strides in zip(where.call.specs, where.strides[len(where.specs) :], strict=True):
        memory = np.full(int(np.prod(spec.shape)) + 2 * guard, value if spec.dtype.kind == "f" else 77, spec.dtype)
        found.append(np.ndarray(spec.shape, spec.dtype, memory, guard * spec.dtype.itemsize, strides))
    return found


def run(every: Sequence[Made], guard: int = 0, value: float = np.nan) -> list[list[Any]]:
    """The results of each call. Every one must have a kernel in C."""
    sites = [site(made) for made in every]
    sources = [next(kernels.kernels_for(where)) for where in sites]
    functions = bind.compiled([s for s in sources if isinstance(s, Source)])
    assert functions, compiler.why_not()
    found = []
    for made, where, source in zip(every, sites, sources, strict=True):
        assert isinstance(source, Source), made
        out = outputs(where, value, guard)
        arrays = [a for a in (*made.arrays, *out) if isinstance(a, np.ndarray)]
        scratch = np.full(source.scratch_bytes // 4 + 1, np.nan, np.float32)
        pointers = (ctypes.c_uint64 * (len(arrays) + 1))(*(bind.address(a) for a in (*arrays, scratch)))
        functions[source.name](ctypes.addressof(pointers))
        found.append(out)
    return found


def want(made: Made) -> list[Any]:
    """The results of the operator's own forward, in float64."""
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in made.arrays]
    bound, attrs = OPS[made.op].bind(wide, made.attrs)
    out = OPS[made.op].forward(CPU, *bound, **attrs)
    return list(out) if isinstance(out, tuple) else [out]


def error(got: Any, exact: Any) -> float:
    """The largest difference, in units of the largest number."""
    return float(np.abs(got - exact).max() / max(np.abs(exact).max(), 1e-30))


def lying(a: Any, order: Sequence[int]) -> Any:
    """The same numbers in another memory order."""
    return np.ascontiguousarray(a.transpose(order)).transpose([list(order).index(i) for i in range(a.ndim)])


def within_nan(a: Any) -> Any:
    """The same numbers, in the same dense memory order, with nan before and behind."""
    memory = np.full(a.size + 64, np.nan, np.float32)
    inner = np.ndarray(a.shape, a.dtype, memory, 32 * 4, a.strides)
    inner[...] = a
    return inner
