"""``numpy.fft``: Fourier transforms of Tensors, Symbols and arrays, with gradients.

float32 gives complex64. ``n`` and ``s`` are lengths of the transformed axes: longer ones are padded with zeros, others
cut. ``norm`` is None or "backward", "ortho", "forward".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import fourier, shape
from shoal.ops.complexes import conj
from shoal.ops.index import getitem
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.tensor import Tensor

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifft2",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfft2",
    "irfftn",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
]

Axes = Sequence[int] | None


def _resized(name: str, x: Any, axis: int, n: int | None) -> Any:
    """x with ``n`` elements along ``axis``: cut, or padded with zeros behind."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{name}: there is no axis {axis} in shape {tuple(x.shape)}")
    have = x.shape[axis]
    if n is None or n == have:
        return x
    if n < 1:
        raise ShapeError(f"{name}: needs at least one element along an axis, got n={n}")
    along = [i == axis % x.ndim for i in range(x.ndim)]
    if n < have:
        return getitem(x, key=tuple((None, n if here else None, None) for here in along))
    return shape.pad(x, pad_width=tuple((0, n - have if here else 0) for here in along))


def _lengths(name: str, x: Any, s: Sequence[int] | None, axes: Axes) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """The transformed axes, and their new lengths (None: as it is)."""
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    axes = tuple(axes)
    lengths: tuple[int | None, ...] = (None,) * len(axes) if s is None else tuple(n if n > 0 else None for n in s)
    if len(lengths) != len(axes):
        raise ShapeError(f"{name}: s={s} has {len(lengths)} lengths for {len(axes)} axes {axes}")
    return axes, lengths


def _all(name: str, x: Any, s: Sequence[int] | None, axes: Axes, norm: str | None, inverse: bool) -> Any:
    x = arraylike(x)
    over, lengths = _lengths(name, x, s, axes)
    for axis, n in zip(over, lengths, strict=True):
        x = _resized(name, x, axis, n)
    return fourier.fftn(x, axes=over, norm=norm or "backward", inverse=inverse) if over else x


def fft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The discrete Fourier transform along ``axis``."""
    return _all("fft", x, None if n is None else (n,), (axis,), norm, False)


def ifft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `fft`."""
    return _all("ifft", x, None if n is None else (n,), (axis,), norm, True)


def fftn(x: Any, s: Sequence[int] | None = None, axes: Axes = None, norm: str | None = None) -> Any:
    """The Fourier transform over ``axes``: all, or the last len(s), by default."""
    return _all("fftn", x, s, axes, norm, False)


def ifftn(x: Any, s: Sequence[int] | None = None, axes: Axes = None, norm: str | None = None) -> Any:
    """The inverse of `fftn`."""
    return _all("ifftn", x, s, axes, norm, True)


def fft2(x: Any, s: Sequence[int] | None = None, axes: Axes = (-2, -1), norm: str | None = None) -> Any:
    """`fftn` over two axes."""
    return _all("fft2", x, s, axes, norm, False)


def ifft2(x: Any, s: Sequence[int] | None = None, axes: Axes = (-2, -1), norm: str | None = None) -> Any:
    """The inverse of `fft2`."""
    return _all("ifft2", x, s, axes, norm, True)


# -- of real numbers


def rfftn(x: Any, s: Sequence[int] | None = None, axes: Axes = None, norm: str | None = None) -> Any:
    """`fftn` of real numbers: of the last of the ``axes`` only the first half, n // 2 + 1 elements."""
    x = arraylike(x)
    over, lengths = _lengths("rfftn", x, s, axes)
    for axis, n in zip(over, lengths, strict=True):
        x = _resized("rfftn", x, axis, n)
    half = fourier.rfft(x, axis=over[-1], norm=norm or "backward")
    return fourier.fftn(half, axes=over[:-1], norm=norm or "backward") if over[:-1] else half


def irfftn(x: Any, s: Sequence[int] | None = None, axes: Axes = None, norm: str | None = None) -> Any:
    """The inverse of `rfftn`, real. Without ``s`` the last length is taken to have been even."""
    x = arraylike(x)
    over, lengths = _lengths("irfftn", x, s, axes)
    last = lengths[-1] or 2 * (x.shape[over[-1]] - 1)
    if last < 1:
        raise ShapeError(f"irfftn: axis {over[-1]} of shape {tuple(x.shape)} and s={s} give no elements")
    for axis, n in zip(over[:-1], lengths[:-1], strict=True):
        x = _resized("irfftn", x, axis, n)
    x = _resized("irfftn", x, over[-1], last // 2 + 1)
    if over[:-1]:
        x = fourier.fftn(x, axes=over[:-1], norm=norm or "backward", inverse=True)
    return fourier.irfft(x, n=last, axis=over[-1], norm=norm or "backward")


def rfft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The first half, n // 2 + 1 elements, of the Fourier transform of real numbers along ``axis``."""
    return rfftn(x, None if n is None else (n,), (axis,), norm)


def irfft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `rfft`, real: ``n`` elements, 2 * (m - 1) by default."""
    return irfftn(x, None if n is None else (n,), (axis,), norm)


def rfft2(x: Any, s: Sequence[int] | None = None, axes: Axes = (-2, -1), norm: str | None = None) -> Any:
    """`rfftn` over two axes."""
    return rfftn(x, s, axes, norm)


def irfft2(x: Any, s: Sequence[int] | None = None, axes: Axes = (-2, -1), norm: str | None = None) -> Any:
    """The inverse of `rfft2`, real."""
    return irfftn(x, s, axes, norm)


def hfft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The Fourier transform, which is real, of numbers whose other half is their mirror image, conjugated."""
    return irfft(conj(arraylike(x)), n, axis, fourier.SWAPPED.get(norm or "backward", norm))


def ihfft(x: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Any:
    """The inverse of `hfft`: the first half."""
    return conj(rfft(x, n, axis, fourier.SWAPPED.get(norm or "backward", norm)))


# -- frequencies


def _shift(x: Any, axes: int | Axes, sign: int) -> Any:
    x = arraylike(x)
    over = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    by = tuple(x.shape[a] // 2 if sign > 0 else -(x.shape[a] // 2) for a in over)
    return shape.roll(x, shift=by, axis=over)


def fftshift(x: Any, axes: int | Axes = None) -> Any:
    """With the frequency 0 in the middle of ``axes`` (all by default)."""
    return _shift(x, axes, 1)


def ifftshift(x: Any, axes: int | Axes = None) -> Any:
    """The inverse of `fftshift`."""
    return _shift(x, axes, -1)


def fftfreq(n: int, d: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """The frequencies of `fft` of ``n`` samples at distances ``d``, in cycles per unit of d."""
    return Tensor(np.fft.fftfreq(n, d).astype(dtype))


def rfftfreq(n: int, d: float = 1.0, dtype: Any = np.float32) -> Tensor:
    """The frequencies of `rfft` of ``n`` samples at distances ``d``."""
    return Tensor(np.fft.rfftfreq(n, d).astype(dtype))
