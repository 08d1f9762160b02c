"""Parts of complex numbers. See docs/decisions/0029-complex-numbers.md for what their gradients are.

In gradient rules the cotangent of a complex z is the g with d(loss) = Re(sum(g * dz)), so that the rules of analytic
functions are those of real ones. What the tape delivers is its conjugate, as in PyTorch: the direction of steepest
ascent.
"""

from typing import Any

import numpy as np

from shoal.errors import DTypeError
from shoal.ops import specs
from shoal.ops.registry import Array, Op, Spec, op

_elementwise = op(specs.elementwise, elementwise=True)


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of real and imaginary parts."""
    return np.empty(0, dtype).real.dtype


def _part(op: Op[Any], x: Spec) -> Spec:
    return Spec(x.shape, real_dtype(x.dtype))


@op(_part, elementwise=True, view=True)
def real(xp: Any, x: Array) -> Any:
    """The real part; a view. Real numbers as they are."""
    return x.real


@real.vjp
def _real_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g,)


@op(_part, elementwise=True, view=True)
def imag(xp: Any, x: Array) -> Any:
    """The imaginary part; a view of complex numbers. Zeros for real ones."""
    return x.imag


@imag.vjp
def _imag_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (xp.complex(xp.zeros_like(g), -g),) if x.dtype.kind == "c" else (xp.zeros_like(g),)


@_elementwise
def conj(xp: Any, x: Array) -> Any:
    """The conjugate: with the opposite imaginary part."""
    return xp.conjugate(x)


@conj.vjp
def _conj_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (xp.conj(g),)


@_elementwise
def angle(xp: Any, x: Array) -> Any:
    """The angle of complex numbers from the positive real axis, from -pi to pi; 0 or pi for real numbers."""
    return xp.asarray(xp.arctan2(x.imag, x.real))


@angle.vjp
def _angle_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    if x.dtype.kind != "c":
        return (xp.zeros_like(g),)
    safe = xp.where(x == 0, 1.0, x)
    return (xp.where(x == 0, 0.0, xp.complex(xp.zeros_like(g), -g) / safe),)


def _joined(op: Op[Any], re: Spec, im: Spec) -> Spec:
    for x in (re, im):
        if isinstance(x, Spec) and x.dtype.kind == "c":
            raise DTypeError(f"complex: makes complex numbers of real ones, got {x.dtype}")
    return specs.elementwise(op, re, im)


@op(_joined, elementwise=True)
def complex_(xp: Any, re: Array, im: Array) -> Any:
    """The complex numbers with these real and imaginary parts: complex64 of float32, complex128 of float64."""
    dtype = np.result_type(re, im, np.complex64)
    shape = np.broadcast_shapes(getattr(re, "shape", ()), getattr(im, "shape", ()))
    out = xp.empty(shape, dtype)
    out.real, out.imag = re, im
    return out


@complex_.vjp
def _complex_vjp(xp: Any, g: Any, out: Any, re: Any, im: Any) -> Any:
    return lambda: xp.real(g), lambda: -xp.imag(g)
