"""Update rules as compiled loops: one pass over memory instead of ten, and the same bits.

A rule says in C what it does to one element, in the order of operations of its NumPy form. The loop around it is
compiled with `load`'s ``exact``, so that every operation rounds as NumPy's does: a worker that has a compiler and a
server that has none compute the same numbers.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from operator import is_
from typing import Any

import numpy as np

from shoal.ops.native import compiler

__all__ = ["Prepared", "step"]

_NOTHING = ctypes.c_char * 0
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

LOOP = """
#define T {kind}
#define SQRT {sqrt}
#define ABS {abs}
#define SIGN(x) ((x) > 0 ? (T)1 : (x) < 0 ? (T)-1 : (x))
#define BLOCK 128
#define AHEAD 4096
#define FETCH(array, written) __builtin_prefetch((const char *)(array + from) + at, written);

EXPORT void step(long n, T *restrict W, const T *restrict G{states}, const double *h) {{
    const T rescale = (T)h[0], bound = (T)h[1];
    {numbers}
    {pragma}
    for (long from = 0; from < n; from += BLOCK) {{
        const long to = from + BLOCK < n ? from + BLOCK : n;
        for (long at = AHEAD; at < AHEAD + BLOCK * (long)sizeof(T); at += 64) {{
            FETCH(W, 1) FETCH(G, 0) {fetches}
        }}
#pragma omp simd
        for (long i = from; i < to; i++) {{
            T w = W[i], g = G[i] * rescale;
            g = g < -bound ? -bound : g;
            g = g > bound ? bound : g;
            {loads}
            {code}
            W[i] = w;
            {stores}
        }}
    }}
}}
"""

PRAGMA = f'_Pragma("omp parallel for schedule(static) num_threads(n < {1 << 17} ? 1 : shoal_threads)")'
"""Updates are short of memory bandwidth, not of arithmetic: threads pay from a few hundred thousand elements on, and
memory is asked for 4 KB before it is needed, as the processor by itself does not look beyond a page."""


def step(
    code: str,
    numbers: Mapping[str, float],
    param: Any,
    grad: Any,
    state: Mapping[str, Any],
    rescale: float = 1.0,
    bound: float | None = None,
) -> bool:
    """Update ``param`` and ``state`` in place; False, and nothing done, where that cannot be done here.

    Args:
        code: C statements on ``w``, ``g`` (already multiplied by ``rescale`` and clipped to ``bound``), the states and
            the ``numbers`` by their names, all of type ``T``; ``SQRT``, ``ABS`` and ``SIGN`` exist.
        param, grad: flat.
    """
    prepared = Prepared.of(param, state)
    return prepared is not None and prepared.step(code, numbers, grad, rescale, bound)


class Prepared:
    """A parameter and its states, looked at once, for update after update. One thread uses it at a time."""

    __slots__ = ("_addresses", "_code", "_h", "_kept", "_kind", "_loop", "_names", "_size", "shape")

    def __init__(self, arrays: tuple[Any, ...], names: tuple[str, ...]) -> None:
        self._kept, self._names = arrays, names
        param = arrays[0]
        self.shape, self._size, self._kind = param.shape, param.size, param.dtype
        self._addresses = [_address(a) for a in arrays]
        self._code: str | None = None  # of the rule that the next two are of
        self._loop: Any = None
        self._h: Any = None

    @classmethod
    def of(cls, param: Any, state: Mapping[str, Any]) -> "Prepared | None":
        """None unless all are C-contiguous arrays of one kind of floats that can be written to."""
        if type(param) is not np.ndarray:
            return None
        kind, arrays = param.dtype, (param, *state.values())
        if kind not in (SINGLE, DOUBLE) or any(a.dtype != kind or not a.flags.carray for a in arrays):
            return None
        return cls(arrays, tuple(state))

    def holds(self, param: Any, state: Mapping[str, Any]) -> bool:
        """Whether it is of these very arrays."""
        kept = self._kept
        return kept[0] is param and len(kept) == len(state) + 1 and all(map(is_, kept[1:], state.values()))

    def step(self, code: str, numbers: Mapping[str, float], grad: Any, rescale: float, bound: float | None) -> bool:
        """See `step`; ``grad`` has as many elements as the parameter."""
        if type(grad) is not np.ndarray or grad.dtype != self._kind or grad.size != self._size:
            return False
        flags = grad.flags
        if not (flags.c_contiguous and flags.aligned):
            return False
        if code != self._code:
            self._loop, self._code = _loop(code, self._names, tuple(numbers), self._kind.char), code
            self._h = (ctypes.c_double * (2 + len(numbers)))()
        if self._loop is None:
            return False
        self._h[:] = (rescale, np.inf if bound is None else bound, *numbers.values())
        param, *states = self._addresses
        self._loop(self._size, param, _address(grad), *states, self._h)
        return True


def _address(array: Any) -> int:
    if array.flags.writeable:
        return ctypes.addressof(_NOTHING.from_buffer(array))  # in a quarter of the time of what follows
    return int(array.__array_interface__["data"][0])


@cache
def _loop(code: str, states: tuple[str, ...], numbers: tuple[str, ...], kind: str) -> Any:
    """The compiled function of a rule; None if nothing can be compiled."""
    suffix, name = ("f", "float") if kind == "f" else ("", "double")
    library = compiler.load(
        LOOP.format(
            kind=name,
            sqrt=f"__builtin_sqrt{suffix}",
            abs=f"__builtin_fabs{suffix}",
            pragma=PRAGMA,
            code=code,
            states="".join(f", T *restrict {s}_" for s in states),
            numbers=" ".join(f"const T {n} = (T)h[{i}];" for i, n in enumerate(numbers, 2)),
            loads=" ".join(f"T {s} = {s}_[i];" for s in states),
            stores=" ".join(f"{s}_[i] = {s};" for s in states),
            fetches=" ".join(f"FETCH({s}_, 1)" for s in states),
        ),
        exact=True,
    )
    if library is None:
        return None
    library.step.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * (2 + len(states)), ctypes.POINTER(ctypes.c_double)]
    library.step.restype = None
    return library.step
