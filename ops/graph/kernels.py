"""Kernels: how a call of a graph writes its results where it is told to, which the buffer plan needs.

`kernel_for` asks, once per call when a program is bound, the makers that were registered for the call's operator, the
latest first. A maker sees the call's `Site` and gives a function of arrays (`Kernel`), or C text (`Source`), or None
where it does not fit; without any, the operator's forward allocates its result, and still works. All texts of a program
are compiled together.

An operator that is a NumPy ufunc takes ``out=`` by itself. The other makers here are those of operators whose array
function has an ``out`` argument and computes the very same bits with it.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from shoal.ops.backend import CPU
from shoal.ops.gpu.kernels import table as on_gpu
from shoal.ops.graph.ir import Call
from shoal.ops.native.table import In, bound, dense
from shoal.ops.registry import OPS, Spec

__all__ = [
    "Kernel",
    "Maker",
    "Site",
    "Source",
    "exactly",
    "inexact",
    "kernel_for",
    "kernels_for",
    "register",
    "strides_of",
]

Kernel: TypeAlias = Callable[..., Any]
"""``kernel(*inputs, *outputs)``: arrays, scalars and None as the call has them, then the arrays to write to."""

Strides: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel as C text, to be compiled with those of the whole graph by `shoal.ops.native.compiler.load`.

    Attributes:
        name: of its function, ``EXPORT void name(char **p)``; ``p`` has the addresses of the call's arrays, inputs then
            outputs (scalars and None are left out), and of the scratch memory if there is some. Equal names must mean
            equal texts: make it from a hash of the text.
        text: its definition, and all that this needs beyond the prelude.
        exact: see `shoal.ops.native.compiler.load`.
        scratch_bytes: memory that it needs while it runs, aligned to 64.
    """

    name: str
    text: str
    exact: bool = False
    scratch_bytes: int = 0


class Site(NamedTuple):
    """A call, and what is known of the arrays it will meet.

    The arrays of every run have these strides: a kernel may rely on them.

    Attributes:
        xp: the array namespace.
        call: the operator, its attributes, its result specs.
        specs: of the inputs: a Spec, a scalar or None each.
        strides: in bytes, of the inputs (None for scalars and None), then of the outputs.
    """

    xp: Any
    call: Call
    specs: tuple[Any, ...]
    strides: tuple[Strides | None, ...]

    def dense(self, n: int) -> bool:
        """Whether array ``n`` (inputs, then outputs) is contiguous in C order."""
        spec = (*self.specs, *self.call.specs)[n]
        return self.strides[n] == strides_of(spec)


Maker: TypeAlias = Callable[[Site], "Kernel | Source | None"]

_MAKERS: dict[str, list[Maker]] = {}


_INEXACT: set[str] = set()


def register(op: str, maker: Maker, *, exact: bool = False) -> Maker:
    """Let ``maker`` be asked for the kernels of the operator ``op``, before those that were registered earlier.

    Args:
        exact: whether they give the bits of the operator's own forward.
    """
    _MAKERS.setdefault(op, []).insert(0, maker)
    if not exact:
        _INEXACT.add(op)
    return maker


def inexact(op: str) -> bool:
    """Whether the operator may get a kernel that does not give the bits of its own forward."""
    return op in _INEXACT and not _exact


_exact = os.environ.get("SHOAL_NATIVE", "").strip().lower() == "exact"


@contextmanager
def exactly(on: bool = True) -> Iterator[None]:
    """Within this context, programs get only such kernels as give the bits of the operators' own forwards.

    The others sum in another order, which is as accurate, and much faster. ``SHOAL_NATIVE=exact`` asks for it in the
    whole process. It counts when a program is planned: at its second run.
    """
    global _exact
    before, _exact = _exact, on
    try:
        yield
    finally:
        _exact = before


def kernels_for(site: Site) -> "Iterator[Kernel | Source]":
    """What the makers offer for this call, best first."""
    forward = _native(site) if site.xp is CPU else _device(site)
    if forward is not None:
        yield forward
    for maker in _MAKERS.get(site.call.op, ()):
        found = maker(site)
        if found is not None and not (_exact and isinstance(found, Source) and not found.exact):
            yield found
    ufunc = OPS[site.call.op].ufunc
    if ufunc is not None and not site.call.attrs and None not in site.specs and hasattr(site.xp.module, ufunc):
        yield _with_out(getattr(site.xp, ufunc))


def kernel_for(site: Site) -> "Kernel | Source | None":
    """The best kernel for this call; None if there is none."""
    return next(kernels_for(site), None)


def strides_of(spec: Spec, order: tuple[int, ...] | None = None) -> Strides:
    """Strides in bytes of a dense array with the axes in ``order`` from the slowest to the fastest; C order if None."""
    strides, step = [0] * spec.ndim, spec.dtype.itemsize
    for axis in reversed(range(spec.ndim) if order is None else order):
        strides[axis] = step
        step *= max(1, spec.shape[axis])
    return tuple(strides)


def _native(site: Site) -> Kernel | None:
    """The kernel that the operator's forward itself uses when it is called: see `shoal.ops.native.table`."""
    inputs = [In(s.shape, s.dtype) if isinstance(s, Spec) else s for s in site.specs]
    found = bound(site.call.op, inputs, site.call.attrs)
    if found is None:
        return None
    plain, run, attrs, count = OPS[site.call.op].plain, found.run, site.call.attrs, len(inputs)
    if not all(site.dense(count + n) for n in range(len(found.outputs))):
        return None
    if found.strided:
        return run

    def kernel(*arrays: Any) -> None:
        if run(*map(dense, arrays[:count]), *arrays[count:]):
            made = plain(CPU, *arrays[:count], **attrs)
            for out, value in zip(arrays[count:], made if isinstance(made, tuple) else (made,), strict=True):
                out[...] = value

    return kernel


def _device(site: Site) -> Kernel | None:
    """The kernel that the operator's forward itself uses on a GPU: see `shoal.ops.gpu.kernels.table`."""
    inputs = [In(s.shape, s.dtype) if isinstance(s, Spec) else s for s in site.specs]
    found, xp, count = on_gpu.bound(site.xp, site.call.op, inputs, site.call.attrs), site.xp, len(inputs)
    if found is None:
        return None
    specs, strides = site.call.specs, site.strides[count:]
    dense = all(site.dense(count + n) for n in range(len(specs)))
    last = all(strides[n] == strides_of(s, (0, *range(2, s.ndim), 1)) for n, s in enumerate(specs) if s.ndim > 2)
    if not (last if found.last else dense or (found.like and last)):
        return None
    run = found.run
    if found.strided or found.last or found.like:
        return run
    return lambda *arrays: run(*[on_gpu.dense(xp, x) for x in arrays[:count]], *arrays[count:])


def _relu(site: Site) -> Kernel:
    xp = site.xp
    return lambda x, out: xp.maximum(x, 0, out=out)


def _clip(site: Site) -> Kernel:
    xp, low, high = site.xp, site.call.attrs.get("a_min"), site.call.attrs.get("a_max")
    return lambda x, out: xp.clip(x, low, high, out=out)


def _matmul(site: Site) -> Kernel | None:
    xp = site.xp
    return (lambda x, y, out: xp.matmul(x, y, out=out)) if _for_blas(site) else None


def _fully_connected(site: Site) -> Kernel | None:
    xp = site.xp
    flat = site.call.attrs.get("flatten", True) and site.specs[0].ndim != 2
    rows = site.specs[0].shape[0] if flat else math.prod(site.specs[0].shape[:-1])

    def kernel(x: Any, weight: Any, bias: Any, out: Any) -> None:
        out = out.reshape(rows, -1)
        xp.matmul(x.reshape(rows, -1), weight.T, out=out)
        if bias is not None:
            xp.add(out, bias, out=out)

    return kernel if _for_blas(site) and site.dense(len(site.specs)) else None


def _for_blas(site: Site) -> bool:
    """Whether all arrays are matrices (or more) with elements, of one BLAS type: the others are converted first."""
    arrays = [s for s in site.specs if isinstance(s, Spec)]
    result = site.call.specs[0].dtype
    alike = {s.dtype for s in arrays} == {result} and result.char in "fd"
    return alike and all(s.ndim >= 2 for s in arrays[:2]) and all(0 not in s.shape for s in arrays)


def _with_out(ufunc: Any) -> Kernel:
    """With the output as the last argument; by keyword, as NumPy wants it for maximum and minimum."""
    if ufunc.nin == 1:
        return lambda x, out: ufunc(x, out=out)
    return lambda x, y, out: ufunc(x, y, out=out)


for _name, _maker in {"clip": _clip, "fully_connected": _fully_connected, "matmul": _matmul, "relu": _relu}.items():
    register(_name, _maker, exact=True)
