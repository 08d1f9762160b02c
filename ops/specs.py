"""Shape and dtype rules that several families of operators share.

Result dtypes are NumPy's (NEP 50): Python scalars do not widen an array. They are not written down a second time here:
a rule asks the forward itself, on arrays with one element, and keeps the answer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import DTypeError, ShapeError
from shoal.ops.backend import CPU
from shoal.ops.precision import is_float, narrow_numbers
from shoal.ops.registry import Op, Shape, Spec, broadcast_shape

__all__ = [
    "axes_of",
    "axis_of",
    "elementwise",
    "folded",
    "reduced",
    "reduced_shape",
    "require_float",
    "require_ndim",
    "result_dtype",
    "same",
]

_dtypes: dict[Any, tuple[np.dtype[Any], ...]] = {}


def result_dtype(
    op: Op[Any], specs: Sequence[Any], attrs: dict[str, Any] | None = None, output: int = 0
) -> np.dtype[Any]:
    """Dtype of an output of ``op``, found by a trial on arrays of shape (1,).

    Raises:
        DTypeError: the operator does not take these dtypes.
    """
    attrs = attrs or {}
    key = (op.name, tuple(s.dtype if isinstance(s, Spec) else type(s) for s in specs), tuple(attrs.items()))
    found = _dtypes.get(key)
    if found is None:
        trial = narrow_numbers([np.ones(1, s.dtype) if isinstance(s, Spec) else s for s in specs], op.ufunc)
        try:
            with np.errstate(all="ignore"):
                out = op.plain(CPU, *trial, **attrs)
        except TypeError:
            names = ", ".join(str(s.dtype) if isinstance(s, Spec) else repr(s) for s in specs)
            raise DTypeError(f"{op.name} does not take inputs of dtype {names}; convert them with astype") from None
        found = tuple(o.dtype for o in out) if isinstance(out, tuple) else (out.dtype,)
        _dtypes[key] = found
    return found[output]


def elementwise(op: Op[Any], *specs: Any, **attrs: Any) -> Spec:
    """All inputs broadcast against each other."""
    shape = broadcast_shape(op.name, specs)
    return Spec(shape, result_dtype(op, specs, attrs))


def same(op: Op[Any], x: Spec, *_: Any, **__: Any) -> Spec:
    """As the first input."""
    return Spec(x.shape, x.dtype)


def axis_of(op: Op[Any] | str, axis: int, ndim: int) -> int:
    """``axis`` counted from the front, for an operator or whatever has this name.

    Raises:
        ShapeError: there is no such axis.
    """
    if not -ndim <= axis < ndim:
        name, expected = getattr(op, "name", op), f"expected {-ndim} to {ndim - 1}" if ndim else "expected None"
        raise ShapeError(f"{name}: axis {axis} of an array with {ndim} axes; {expected}")
    return axis % ndim


def axes_of(op: Op[Any] | str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes meant by ``axis``, counted from the front; all if None.

    Raises:
        ShapeError: an axis does not exist, or is named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(axis_of(op, a, ndim) for a in ((axis,) if isinstance(axis, int) else axis))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{getattr(op, 'name', op)}: axis {axis} names one axis twice")
    return axes


def reduced_shape(op: Op[Any], shape: Shape, axis: int | Sequence[int] | None, keepdims: bool) -> Shape:
    """``shape`` after a reduction over ``axis``."""
    axes = axes_of(op, axis, len(shape))
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def reduced(op: Op[Any], x: Spec, axis: Any = None, keepdims: bool = False, **attrs: Any) -> Spec:
    """A reduction over ``axis``, all axes if None."""
    return Spec(reduced_shape(op, x.shape, axis, keepdims), result_dtype(op, [x], attrs))


def folded(op: Op[Any], x: Spec, axis: Any = None, keepdims: bool = False, **attrs: Any) -> Spec:
    """`reduced` by a NumPy ufunc: these, and not means, let axis 0 or -1 of an array without axes pass."""
    return reduced(op, x, None if not x.ndim and axis in (0, -1) else axis, keepdims, **attrs)


def require_ndim(op: Op[Any], name: str, x: Spec, *allowed: int) -> None:
    """Raise a ShapeError unless ``x`` has one of the ``allowed`` numbers of axes."""
    if x.ndim not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ShapeError(f"{op.name}: {name} must have {wanted} axes, got shape {x.shape}")


def require_float(op: Op[Any], name: str, x: Spec) -> None:
    """Raise a DTypeError unless ``x`` holds floating-point numbers."""
    if not is_float(x.dtype):
        raise DTypeError(f"{op.name}: {name} must hold floating-point numbers, got {x.dtype}; use astype('float32')")
