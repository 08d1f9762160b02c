"""NumPy's protocols: NumPy's own functions, called with Tensors or Symbols, are ours, and keep the tape.

``numpy.sin(x)``, ``numpy.concatenate([x, y])`` and ``array * x`` come here. Each is looked up, by the function, among
those of `shoal.np`, `shoal.np.linalg` and `shoal.np.fft`. What these do not have is computed by NumPy on the values,
unless that would lose a gradient or a graph.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from shoal.errors import AutogradError, DTypeError
from shoal.ops import tape
from shoal.ops.elementwise import astype, where
from shoal.ops.registry import Traced
from shoal.ops.shape import reshape
from shoal.ops.tensor import Tensor

__all__ = ["call_function", "call_ufunc", "counterpart"]


@cache
def _counterparts() -> dict[Any, Callable[..., Any]]:
    """Our functions by NumPy's."""
    from shoal import np as ours  # the facade is the table of names; it is made of this package

    found: dict[Any, Callable[..., Any]] = {}
    for module, theirs in ((ours, np), (ours.linalg, np.linalg), (getattr(ours, "fft", None), np.fft)):
        for name in getattr(module, "__all__", ()):
            function = getattr(theirs, name, None)
            if callable(function) and not isinstance(function, type):
                found[function] = getattr(module, name)
    return found


def counterpart(function: Any) -> Callable[..., Any] | None:
    """Our function of the name and meaning of NumPy's ``function``; None if there is none."""
    return _counterparts().get(function)


_REDUCTIONS = {
    np.add: np.sum,
    np.multiply: np.prod,
    np.maximum: np.max,
    np.minimum: np.min,
    np.logical_and: np.all,
    np.logical_or: np.any,
}
_SCANS = {np.add: np.cumsum, np.multiply: np.cumprod}


def call_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What ``ufunc.method(*inputs, **options)`` gives.

    Raises:
        AutogradError: it would lose a gradient.
        DTypeError: an option that tensors do not take.
    """
    if any(_foreign(x) for x in inputs):
        return NotImplemented
    out = options.pop("out", None)
    if method == "__call__":
        result = _called(ufunc, inputs, options)
    elif method in ("reduce", "accumulate") and (table := _REDUCTIONS if method == "reduce" else _SCANS).get(ufunc):
        options = {"axis": 0, **{k: v for k, v in options.items() if v is not None or k == "axis"}}
        result = _call(table[ufunc], inputs, options)
    elif method == "outer":
        x, y = (i if hasattr(i, "ndim") else np.asarray(i) for i in inputs)
        result = _called(ufunc, (reshape(x, shape=(*x.shape, *(1,) * y.ndim)), y), options)
    else:
        result = _plainly(getattr(ufunc, method), inputs, options)
    return result if out is None else _written(out, result)


def _called(ufunc: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    ours = counterpart(ufunc)
    if ours is None:
        return _plainly(ufunc, inputs, options)
    options = {k: v for k, v in options.items() if not (k in _HINTS and v == _HINTS[k])}
    dtype, chosen = options.pop("dtype", None), options.pop("where", True)
    if options:
        raise DTypeError(f"numpy.{ufunc.__name__} of tensors does not take {', '.join(options)}")
    if dtype is not None:
        inputs = tuple(astype(x, dtype=dtype) if hasattr(x, "dtype") else x for x in inputs)
    result = ours(*inputs)
    return result if chosen is True else where(chosen, result, 0)


_HINTS = {"casting": "same_kind", "order": "K", "subok": True}
"""Options that change nothing at their defaults."""


def _written(out: tuple[Any, ...], result: Any) -> Any:
    """Put results where ``out=`` says."""
    results = result if isinstance(result, tuple) else (result,)
    for target, value in zip(out, results, strict=True):
        if target is None:
            continue
        if isinstance(target, Tensor):
            target[...] = value
        elif _recorded(value):
            raise AutogradError("out= a NumPy array: the gradient of what is written there would be lost")
        else:
            np.copyto(target, np.asarray(value), casting="same_kind")
    found = tuple(r if t is None else t for t, r in zip(out, results, strict=True))
    return found if isinstance(result, tuple) else found[0]


def call_function(function: Any, types: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What NumPy's ``function(*args, **options)`` gives."""
    if not all(issubclass(t, (Traced, np.ndarray, np.generic)) for t in types):
        return NotImplemented
    return _call(function, args, options)


def _call(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    ours = counterpart(function)
    if ours is None:
        return _plainly(function, args, options)
    out = options.pop("out", None) if "out" in options else None
    result = ours(*args, **options)
    return result if out is None else _written((out,), result)


def _plainly(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """NumPy's function on the values.

    Raises:
        AutogradError: a value is on the tape, from which the result would be missing.
        GraphError: a value is a symbol.
    """
    if tape.state.recording and _any_recorded((args, options)):
        raise AutogradError(
            f"numpy.{getattr(function, '__name__', function)} has no counterpart in shoal.np that keeps gradients. "
            "Call it on x.detach(), or inside autograd.pause()."
        )
    return _wrapped(function(*_unwrapped(args), **_unwrapped(options)))


def _foreign(x: Any) -> bool:
    """Whether x is of another library that has a say in NumPy's operators."""
    theirs = getattr(type(x), "__array_ufunc__", None)
    return theirs is not None and not isinstance(x, (Traced, np.ndarray, np.generic))


def _recorded(x: Any) -> bool:
    return tape.state.recording and isinstance(x, Tensor) and x.node is not None


def _any_recorded(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_any_recorded, value))
    return any(map(_any_recorded, value.values())) if isinstance(value, dict) else _recorded(value)


def _unwrapped(value: Any) -> Any:
    """Tensors as arrays, inside lists, tuples and dicts too."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrapped, value))
    if isinstance(value, dict):
        return {k: _unwrapped(v) for k, v in value.items()}
    if isinstance(value, Traced):
        return value.data if isinstance(value, Tensor) else np.asarray(value)  # a Symbol says why it has no values
    return value


def _wrapped(value: Any) -> Any:
    """Arrays as tensors, inside lists and tuples too."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(_wrapped, value))
    return Tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fciubV" else value
