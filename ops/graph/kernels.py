"""Operators that can write their result where they are told: what the buffer plan can place.

An operator that is a NumPy ufunc takes ``out=`` by itself. The others here are those whose array function has an
``out`` argument and computes the very same bits with it. An operator that is not here allocates, and still works.
"""

from collections.abc import Callable, Sequence
from typing import Any

from shoal.ops.graph.ir import Call
from shoal.ops.registry import OPS, Spec

__all__ = ["Kernel", "into"]

Kernel = Callable[..., Any]
"""``kernel(*inputs, out)``"""


def into(xp: Any, call: Call, specs: Sequence[Any]) -> Kernel | None:
    """A function of the inputs and the array to write the (only) output to; None if the operator has none.

    Args:
        specs: of the inputs: a Spec, a scalar or None each.
    """
    if len(call.specs) != 1:
        return None
    ufunc = OPS[call.op].ufunc
    if ufunc is not None:
        found: Kernel | None = None if call.attrs or None in specs else _with_out(getattr(xp, ufunc))
        return found
    make = _MAKERS.get(call.op)
    return None if make is None else make(xp, call, specs)


def _relu(xp: Any, call: Call, specs: Sequence[Any]) -> Kernel:
    return lambda x, out: xp.maximum(x, 0, out=out)


def _clip(xp: Any, call: Call, specs: Sequence[Any]) -> Kernel:
    low, high = call.attrs.get("a_min"), call.attrs.get("a_max")
    return lambda x, out: xp.clip(x, low, high, out=out)


def _matmul(xp: Any, call: Call, specs: Sequence[Any]) -> Kernel | None:
    return (lambda x, y, out: xp.matmul(x, y, out=out)) if _for_blas(call, specs) else None


def _fully_connected(xp: Any, call: Call, specs: Sequence[Any]) -> Kernel | None:
    flat = call.attrs.get("flatten", True) and specs[0].ndim != 2
    rows = specs[0].shape[0]

    def kernel(x: Any, weight: Any, bias: Any, out: Any) -> None:
        xp.matmul(x.reshape(rows, -1) if flat else x, weight.T, out=out)
        if bias is not None:
            xp.add(out, bias, out=out)

    return kernel if _for_blas(call, specs) else None


def _for_blas(call: Call, specs: Sequence[Any]) -> bool:
    """Whether all arrays are matrices (or more) with elements, of one BLAS type: the others are converted first."""
    arrays = [s for s in specs if isinstance(s, Spec)]
    alike = {s.dtype for s in arrays} == {call.specs[0].dtype} and call.specs[0].dtype.char in "fd"
    return alike and all(s.ndim >= 2 for s in arrays[:2]) and all(0 not in s.shape for s in arrays)


_MAKERS: dict[str, Callable[[Any, Call, Sequence[Any]], Kernel | None]] = {
    "clip": _clip,
    "fully_connected": _fully_connected,
    "matmul": _matmul,
    "relu": _relu,
}


def _with_out(ufunc: Any) -> Kernel:
    """With the output as the last argument; by keyword, as NumPy wants it for maximum and minimum."""
    if ufunc.nin == 1:
        return lambda x, out: ufunc(x, out=out)
    return lambda x, y, out: ufunc(x, y, out=out)
