"""Discrete Fourier transforms: complex to complex over any axes, real to half a spectrum over one axis, and back.

All others (`shoal.ops.numpylike.fourier`) are made of these three. Their matrices are symmetric, so a transform is its
own gradient rule: cotangents are transposed, not conjugated (see `shoal.ops.complexes`).

``norm`` says where the factor 1/n goes: "backward" (to the inverse), "forward", or "ortho" (its root to both).
"""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import specs
from shoal.ops.complexes import real_dtype
from shoal.ops.precision import is_half, wide
from shoal.ops.registry import Array, Op, Spec, op

SWAPPED = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _complex(dtype: Any) -> np.dtype[Any]:
    single = is_half(dtype) or dtype in (np.float32, np.complex64)
    return np.dtype(np.complex64 if single else np.complex128)


def _check_norm(op: Op[Any], norm: str) -> None:
    if norm not in SWAPPED:
        raise ConfigError(f"{op.name}: norm must be 'backward', 'ortho' or 'forward', got {norm!r}")


def _full(op: Op[Any], x: Spec, *, axes: tuple[int, ...], norm: str = "backward", inverse: bool = False) -> Spec:
    _check_norm(op, norm)
    for a in specs.axes_of(op, axes, x.ndim):
        if not x.shape[a]:
            raise ShapeError(f"{op.name}: axis {a} of shape {x.shape} has no elements to transform")
    return Spec(x.shape, _complex(x.dtype))


@op(_full)
def fftn(xp: Any, x: Array, axes: tuple[int, ...], norm: str = "backward", inverse: bool = False) -> Any:
    """The discrete Fourier transform over ``axes``, or its inverse: complex64 of float16 and float32.

    y[k] = sum over t of x[t] * exp(-2 pi i k t / n), for each axis; with a plus if ``inverse``.
    """
    function = xp.fft.ifftn if inverse else xp.fft.fftn
    return function(wide(x), axes=axes, norm=norm).astype(_complex(x.dtype), copy=False)


@fftn.vjp
def _fftn_vjp(
    xp: Any, g: Any, out: Any, x: Any, axes: tuple[int, ...], norm: str = "backward", inverse: bool = False
) -> Any:
    return (xp.fftn(g, axes=axes, norm=norm, inverse=inverse),)


def _half(op: Op[Any], x: Spec, axis: int = -1, norm: str = "backward") -> Spec:
    _check_norm(op, norm)
    axis = specs.axis_of(op, axis, x.ndim)
    if x.dtype.kind == "c":
        raise DTypeError(f"rfft: transforms real numbers, got {x.dtype}; use fft")
    if not x.shape[axis]:
        raise ShapeError(f"rfft: axis {axis} of shape {x.shape} has no elements to transform")
    shape = tuple(n // 2 + 1 if i == axis else n for i, n in enumerate(x.shape))
    return Spec(shape, _complex(x.dtype))


@op(_half)
def rfft(xp: Any, x: Array, axis: int = -1, norm: str = "backward") -> Any:
    """The first n // 2 + 1 elements along ``axis`` of the Fourier transform of real numbers; the rest mirrors them."""
    return xp.fft.rfft(wide(x), axis=axis, norm=norm).astype(_complex(x.dtype), copy=False)


@rfft.vjp
def _rfft_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int = -1, norm: str = "backward") -> Any:
    missing = x.shape[axis] - g.shape[axis]
    width = tuple((0, missing if i == axis % x.ndim else 0) for i in range(x.ndim))
    return (xp.real(xp.fftn(xp.pad(g, pad_width=width), axes=(axis,), norm=norm)),)


def _back(op: Op[Any], x: Spec, *, n: int, axis: int = -1, norm: str = "backward") -> Spec:
    _check_norm(op, norm)
    axis = specs.axis_of(op, axis, x.ndim)
    if n < 1 or x.shape[axis] != n // 2 + 1:
        raise ShapeError(
            f"irfft: a spectrum of {n} numbers has {n // 2 + 1} elements, axis {axis} of shape {x.shape} has not"
        )
    shape = tuple(n if i == axis else m for i, m in enumerate(x.shape))
    return Spec(shape, real_dtype(_complex(x.dtype)))


@op(_back)
def irfft(xp: Any, x: Array, n: int, axis: int = -1, norm: str = "backward") -> Any:
    """The ``n`` real numbers along ``axis`` of whose Fourier transform x is the first half: the inverse of `rfft`."""
    return xp.fft.irfft(wide(x), n, axis=axis, norm=norm).astype(real_dtype(_complex(x.dtype)), copy=False)


@irfft.vjp
def _irfft_vjp(xp: Any, g: Any, out: Any, x: Any, n: int, axis: int = -1, norm: str = "backward") -> Any:
    found = xp.conj(xp.rfft(g, axis=axis, norm=SWAPPED[norm]))
    if n <= 2:
        return (found,)
    stop = (n + 1) // 2  # between these ends an element stands for its mirror image too
    parts = [_part(xp, found, axis, 0, 1), _part(xp, found, axis, 1, stop) * 2.0]
    if n % 2 == 0:
        parts.append(_part(xp, found, axis, stop, None))
    return (xp.concatenate(*parts, axis=axis),)


def _part(xp: Any, x: Any, axis: int, start: int, stop: int | None) -> Any:
    return xp.getitem(
        x, key=tuple((start, stop, None) if i == axis % x.ndim else (None, None, None) for i in range(x.ndim))
    )
