"""NumPy's polynomials, as coefficients from the highest power down; and sliding products, of which theirs are made."""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import complexes, elementwise, index, linalg, shape
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "convolve",
    "correlate",
    "poly",
    "polyadd",
    "polyder",
    "polyfit",
    "polyint",
    "polymul",
    "polysub",
    "polyval",
    "roots",
]


def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    """The sliding product of two vectors, one of them reversed.

    Args:
        mode: "full" wherever they overlap, "same" as many elements as the longer has, "valid" where they overlap
            wholly.
    Raises:
        ShapeError: not two vectors with elements.
        ConfigError: another mode.
    """
    a, v = arraylike(a), arraylike(v)
    if a.ndim > 1 or v.ndim > 1 or not a.size or not v.size:
        raise ShapeError(f"convolve: needs two vectors with elements, got shapes {tuple(a.shape)} and {tuple(v.shape)}")
    a, v = (shape.reshape(x, shape=(-1,)) for x in (a, v))
    if v.shape[0] > a.shape[0]:
        a, v = v, a
    n, m = a.shape[0], v.shape[0]
    lengths = {"full": (m - 1, n + m - 1), "same": ((m - 1) - (m - 1) // 2, n), "valid": (0, n - m + 1)}
    if mode not in lengths:
        raise ConfigError(f"convolve: mode {mode!r}; there are 'full', 'same' and 'valid'")
    before, count = lengths[mode]
    wide = shape.pad(a, pad_width=((before, m - 1),))
    windows = index.take(wide, np.arange(count)[:, None] + np.arange(m), axis=0)
    return linalg.matmul(windows, shape.flip(v, 0))


def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    """The sliding product of two vectors; see `convolve` for the modes."""
    a, v = arraylike(a), arraylike(v)
    turned = shape.flip(complexes.conj(v) if v.dtype.kind == "c" else v, 0)
    return convolve(a, turned, mode)


def polyval(p: Any, x: Any) -> Any:
    """The values of the polynomial ``p`` at x, by Horner's rule."""
    p, x = arraylike(p), arraylike(x)
    out = elementwise.zeros_like(x)
    for i in range(p.shape[0]):
        out = out * x + p[i]
    return out


def _longer(a: Any, b: Any) -> tuple[Any, Any]:
    a, b = (shape.reshape(arraylike(x), shape=(-1,)) for x in (a, b))
    n = max(a.shape[0], b.shape[0])
    return tuple(shape.pad(x, pad_width=((n - x.shape[0], 0),)) for x in (a, b))


def polyadd(a1: Any, a2: Any) -> Any:
    """The sum of two polynomials."""
    x, y = _longer(a1, a2)
    return x + y


def polysub(a1: Any, a2: Any) -> Any:
    """The difference of two polynomials."""
    x, y = _longer(a1, a2)
    return x - y


def polymul(a1: Any, a2: Any) -> Any:
    """The product of two polynomials."""
    return convolve(a1, a2)


def polyder(p: Any, m: int = 1) -> Any:
    """The m-th derivative of a polynomial."""
    p = arraylike(p)
    for _ in range(m):
        n = p.shape[0] - 1
        p = p[:-1] * Tensor(np.arange(n, 0, -1).astype(p.dtype))
    return p


def polyint(p: Any, m: int = 1, k: float = 0.0) -> Any:
    """The m-th integral of a polynomial, each with the constant ``k``."""
    p = arraylike(p)
    for _ in range(m):
        n = p.shape[0]
        p = shape.pad(p / Tensor(np.arange(n, 0, -1).astype(p.dtype)), pad_width=((0, 1),), constant=k)
    return p


def poly(roots: Any) -> Any:
    """The polynomial with the given roots, and 1 before the highest power."""
    roots = arraylike(roots)
    out = elementwise.ones_like(roots[:1])
    for i in range(roots.shape[0]):
        out = polysub(shape.pad(out, pad_width=((0, 1),)), out * roots[i])
    return out


def roots(p: Any) -> Tensor:
    """The complex roots of a polynomial. Not recorded."""
    return Tensor(np.asarray(np.roots(np.asarray(raw(p)))))


def polyfit(x: Any, y: Any, deg: int) -> Any:
    """The polynomial of degree ``deg`` that is closest to the points (x, y) by least squares."""
    from shoal.ops.numpylike.linear import lstsq  # it needs this package's other modules
    from shoal.ops.numpylike.products import vander

    x, y = arraylike(x), arraylike(y)
    powers = vander(x, deg + 1)
    columns = shape.reshape(y, shape=(-1, 1)) if y.ndim == 1 else y
    found = lstsq(powers, columns)[0]
    return shape.reshape(found, shape=(-1,)) if y.ndim == 1 else found
