"""Eigenvalues, singular values, orthogonal factors, and what follows from them; batches are leading axes.

Eigenvectors and singular vectors are determined up to a factor only, so a function of them has a meaning, and a
gradient, only if it does not depend on that. Where eigenvalues coincide, the part of a gradient that would mix their
vectors is taken as 0, which is right for such functions.

Gradient rules are written for real and complex matrices alike: cotangents are transposed, not conjugated (see
docs/decisions/0029-complex-numbers.md).
"""

import math
from typing import Any

import numpy as np

from shoal.errors import AutogradError, ConfigError, ShapeError
from shoal.ops.complexes import real_dtype
from shoal.ops.decomposition import guarded, require_factorable, square
from shoal.ops.registry import Array, Op, Spec, op

_NOT_CONVERGED = "the matrix must be finite"


def _t(xp: Any, x: Any) -> Any:
    return xp.swapaxes(x, -1, -2)


def _conj(xp: Any, x: Any) -> Any:
    return xp.conj(x) if x.dtype.kind == "c" else x


def _row(xp: Any, v: Any) -> Any:
    """Vectors that multiply columns."""
    return xp.expand_dims(v, -2)


def _column(xp: Any, v: Any) -> Any:
    """Vectors that multiply rows."""
    return xp.expand_dims(v, -1)


def _diagonal(xp: Any, v: Any) -> Any:
    return xp.diagonal_add(v, shape=(*v.shape, v.shape[-1]), axis1=-2, axis2=-1)


def _gaps(xp: Any, v: Any) -> Any:
    """1 / (v[j] - v[i]), and 0 where the two are equal."""
    apart = _row(xp, v) - _column(xp, v)
    same = apart == 0
    return xp.where(same, 0.0, 1.0 / xp.where(same, 1.0, apart))


# -- eigenvalues


def _eigen(op: Op[Any], x: Spec, UPLO: str = "L") -> tuple[Spec, Spec]:
    square(op, x)
    if UPLO not in ("L", "U"):
        raise ConfigError(f"{op.name}: UPLO must be 'L' or 'U', got {UPLO!r}")
    return Spec(x.shape[:-1], real_dtype(x.dtype)), x


@op(_eigen)
def eigh(xp: Any, x: Array, UPLO: str = "L") -> Any:
    """Eigenvalues of symmetric (Hermitian) matrices in ascending order, and eigenvectors as columns.

    The gradient is symmetric: it treats x as symmetric.

    Args:
        UPLO: whether the lower ("L") or the upper ("U") half is read.
    Raises:
        LinAlgError: no convergence, as with elements that are not finite.
    """
    w, v = guarded("eigh", xp.linalg.eigh, x, UPLO, advice=_NOT_CONVERGED)
    return w, v


@eigh.vjp
def _eigh_vjp(xp: Any, g: Any, out: Any, x: Any, UPLO: str = "L") -> Any:
    (w, v), (gw, gv) = out, g
    inside = None if gw is None else _diagonal(xp, gw)
    if gv is not None:
        turned = _gaps(xp, w) * xp.matmul(_t(xp, v), gv)
        inside = turned if inside is None else inside + turned
    full = xp.matmul(_conj(xp, v), xp.matmul(inside, _t(xp, v)))
    return (0.5 * (full + _conj(xp, _t(xp, full))),)


@op(lambda op, x, UPLO="L": _eigen(op, x, UPLO)[0])
def eigvalsh(xp: Any, x: Array, UPLO: str = "L") -> Any:
    """Eigenvalues of symmetric (Hermitian) matrices in ascending order; see `eigh`."""
    return guarded("eigvalsh", xp.linalg.eigvalsh, x, UPLO, advice=_NOT_CONVERGED)


@eigvalsh.vjp
def _eigvalsh_vjp(xp: Any, g: Any, out: Any, x: Any, UPLO: str = "L") -> Any:
    v = xp.eigh(x, UPLO=UPLO)[1]
    return (xp.matmul(_conj(xp, v) * _row(xp, g), _t(xp, v)),)


def _general(op: Op[Any], x: Spec) -> tuple[Spec, Spec]:
    square(op, x)
    dtype = np.result_type(x.dtype, np.complex64)
    return Spec(x.shape[:-1], dtype), Spec(x.shape, dtype)


@op(_general)
def eig(xp: Any, x: Array) -> Any:
    """Eigenvalues of square matrices, complex and in no order, and eigenvectors of length 1 as columns.

    Raises:
        LinAlgError: no convergence, as with elements that are not finite.
    """
    w, v = guarded("eig", xp.linalg.eig, x, advice=_NOT_CONVERGED)
    dtype = np.result_type(x.dtype, np.complex64)
    return w.astype(dtype, copy=False), v.astype(dtype, copy=False)


@eig.vjp
def _eig_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    (w, v), (gw, gv) = out, g
    inside = None if gw is None else _diagonal(xp, gw)
    if gv is not None:
        turned = xp.matmul(_t(xp, v), gv)
        stretch = _row(xp, xp.real(xp.diagonal(turned, axis1=-2, axis2=-1)))  # vectors keep their length
        turned = _gaps(xp, w) * (turned - xp.matmul(_t(xp, v), xp.conj(v)) * stretch)
        inside = turned if inside is None else inside + turned
    return (xp.matmul(_t(xp, xp.inv(v)), xp.matmul(inside, _t(xp, v))),)


# -- singular values


def _singular(op: Op[Any], x: Spec, full_matrices: bool = True) -> tuple[Spec, Spec, Spec]:
    require_factorable(op, "x", x)
    *batch, m, n = x.shape
    k = min(m, n)
    left, right = (m, n) if full_matrices else (k, k)
    return Spec((*batch, m, left), x.dtype), Spec((*batch, k), real_dtype(x.dtype)), Spec((*batch, right, n), x.dtype)


@op(_singular)
def svd(xp: Any, x: Array, full_matrices: bool = True) -> Any:
    """Singular value decomposition: (u, s, vh) with x = (u * s) @ vh, and s in descending order.

    Args:
        full_matrices: u and vh are square; then vectors beyond the number of singular values have no gradient.
    Raises:
        LinAlgError: no convergence, as with elements that are not finite.
    """
    u, s, vh = guarded("svd", xp.linalg.svd, x, full_matrices, advice=_NOT_CONVERGED)
    return u, s, vh


@svd.vjp
def _svd_vjp(xp: Any, g: Any, out: Any, x: Any, full_matrices: bool = True) -> Any:
    (u, s, vh), (gu, gs, gvh) = out, g
    k = s.shape[-1]
    m, n = x.shape[-2:]
    if full_matrices and m != n:
        if (gu is not None and m > k) or (gvh is not None and n > k):
            raise AutogradError(
                f"svd: of matrices of shape {x.shape[-2:]}, full_matrices=True gives vectors that are not determined, "
                "and have no gradient; use full_matrices=False"
            )
        u, vh = xp.getitem(u, key=_first(u, k, -1)), xp.getitem(vh, key=_first(vh, k, -2))
    if x.dtype.kind == "c" and (gu is not None or gvh is not None):
        raise AutogradError("svd: singular vectors of complex matrices have no gradient here; singular values have")
    v = _t(xp, vh)
    inside = None if gs is None else _diagonal(xp, gs)
    safe = xp.where(s == 0, 1.0, s)
    gaps = _gaps(xp, s * s) if gu is not None or gvh is not None else None
    outside = []
    if gu is not None:
        turned = gaps * xp.matmul(_t(xp, u), gu)
        part = (turned + _t(xp, turned)) * _row(xp, s)
        inside = part if inside is None else inside + part
        if m > k:
            rest = gu - xp.matmul(u, xp.matmul(_t(xp, u), gu))
            outside.append(xp.matmul(rest / _row(xp, safe), vh))
    if gvh is not None:
        gv = _t(xp, gvh)
        turned = gaps * xp.matmul(vh, gv)
        part = (turned + _t(xp, turned)) * _column(xp, s)
        inside = part if inside is None else inside + part
        if n > k:
            rest = gv - xp.matmul(v, xp.matmul(vh, gv))
            outside.append(xp.matmul(u, _t(xp, rest / _row(xp, safe))))
    result = xp.matmul(_conj(xp, u), xp.matmul(inside, _conj(xp, vh)))
    for part in outside:
        result = result + part
    return (result,)


def _first(x: Any, k: int, axis: int) -> tuple[Any, ...]:
    """The subscript of the first k places along ``axis``."""
    return tuple((None, k, None) if i == axis % x.ndim else (None, None, None) for i in range(x.ndim))


@op(lambda op, x: _singular(op, x)[1])
def svdvals(xp: Any, x: Array) -> Any:
    """Singular values in descending order; see `svd`."""
    return guarded("svdvals", lambda a: xp.linalg.svd(a, compute_uv=False), x, advice=_NOT_CONVERGED)


@svdvals.vjp
def _svdvals_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    u, _, vh = xp.svd(x, full_matrices=False)
    return (xp.matmul(_conj(xp, u) * _row(xp, g), _conj(xp, vh)),)


# -- orthogonal factors


def _orthogonal(op: Op[Any], x: Spec, mode: str = "reduced") -> tuple[Spec, Spec]:
    require_factorable(op, "x", x)
    *batch, m, n = x.shape
    k = min(m, n) if mode == "reduced" else m
    return Spec((*batch, m, k), x.dtype), Spec((*batch, k, n), x.dtype)


@op(_orthogonal)
def qr(xp: Any, x: Array, mode: str = "reduced") -> Any:
    """(q, r) with x = q @ r, q with orthonormal columns, r upper triangular.

    The gradient needs the first min(m, n) columns of x to be independent.

    Args:
        mode: "reduced": q has min(m, n) columns; "complete": m, which has a gradient for m <= n only.
    """
    if mode not in ("reduced", "complete"):
        raise ConfigError(f"qr: mode must be 'reduced' or 'complete', got {mode!r}")
    q, r = guarded("qr", xp.linalg.qr, x, mode, advice=_NOT_CONVERGED)
    return q, r


@qr.vjp
def _qr_vjp(xp: Any, g: Any, out: Any, x: Any, mode: str = "reduced") -> Any:
    (q, r), (gq, gr) = out, g
    m, n = x.shape[-2:]
    if x.dtype.kind == "c":
        raise AutogradError("qr: complex matrices have no gradient here")
    if mode == "complete" and m > n:
        raise AutogradError(f"qr: mode='complete' of {m} x {n} matrices has no gradient; use mode='reduced'")
    if m >= n:
        return (_qr_tall(xp, q, r, gq, gr),)
    left = xp.getitem(r, key=_first(r, m, -1))
    if gr is None:
        return (_widened(xp, _qr_tall(xp, q, left, gq, None), xp.zeros_like(xp.getitem(x, key=_beyond(x, m)))),)
    beyond = xp.getitem(gr, key=_beyond(gr, m))
    more = xp.matmul(xp.getitem(x, key=_beyond(x, m)), _t(xp, beyond))
    first = _qr_tall(xp, q, left, more if gq is None else gq + more, xp.getitem(gr, key=_first(gr, m, -1)))
    return (_widened(xp, first, xp.matmul(q, beyond)),)


def _widened(xp: Any, left: Any, right: Any) -> Any:
    return xp.concatenate(left, right, axis=-1)


def _beyond(x: Any, k: int) -> tuple[Any, ...]:
    """The subscript of what follows the first k columns."""
    return (*((None, None, None),) * (x.ndim - 1), (k, None, None))


def _qr_tall(xp: Any, q: Any, r: Any, gq: Any, gr: Any) -> Any:
    """The gradient for at least as many rows as columns (Walter and Lehmann, arXiv:1009.6112)."""
    inside = None if gr is None else xp.matmul(r, _t(xp, gr))
    if gq is not None:
        part = xp.matmul(_t(xp, gq), q)
        inside = -part if inside is None else inside - part
    lower = xp.tril(inside, -1)
    mirrored = xp.matmul(q, lower + _t(xp, xp.tril(inside)))
    total = mirrored if gq is None else gq + mirrored
    return _t(xp, xp.solve(r, _t(xp, total)))


# -- pseudo-inverse, least squares


def _pseudo(op: Op[Any], x: Spec, rcond: float | None = None) -> Spec:
    require_factorable(op, "x", x)
    return Spec((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)


def cutoff(x: Any, rcond: float | None) -> float:
    """Below this part of the largest singular value, the others count as 0."""
    return max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rcond is None else float(rcond)


@op(_pseudo)
def pinv(xp: Any, x: Array, rcond: float | None = None) -> Any:
    """The Moore-Penrose pseudo-inverse. Its gradient is right while the rank stays the same.

    Args:
        rcond: singular values below this part of the largest count as 0; max(m, n) times the dtype's eps by default.
    """
    return guarded("pinv", xp.linalg.pinv, x, cutoff(x, rcond), advice=_NOT_CONVERGED)


@pinv.vjp
def _pinv_vjp(xp: Any, g: Any, out: Any, x: Any, rcond: float | None = None) -> Any:
    if x.dtype.kind == "c":
        raise AutogradError("pinv: complex matrices have no gradient here")
    return (_pinv_gradient(xp, g, out, x),)


def _pinv_gradient(xp: Any, g: Any, p: Any, x: Any) -> Any:
    """Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973): of a cotangent g of the pseudo-inverse p of x."""
    pt, gt = _t(xp, p), _t(xp, g)
    back = -xp.matmul(pt, xp.matmul(g, pt))
    left = xp.matmul(gt, xp.matmul(p, pt))
    left = left - xp.matmul(x, xp.matmul(p, left))
    right = xp.matmul(xp.matmul(pt, p), gt)
    return back + left + right - xp.matmul(right, xp.matmul(p, x))


def _fitted(op: Op[Any], a: Spec, b: Spec, rcond: float | None = None) -> Spec:
    require_factorable(op, "a", a)
    require_factorable(op, "b", b)
    if a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(f"lstsq: a has shape {a.shape}, so b must have shape {(*a.shape[:-1], 'n')}, got {b.shape}")
    return Spec((*a.shape[:-2], a.shape[-1], b.shape[-1]), np.result_type(a.dtype, b.dtype))


@op(_fitted)
def least_squares(xp: Any, a: Array, b: Array, rcond: float | None = None) -> Any:
    """The x with the smallest sum of (a @ x - b)**2; of several, the shortest.

    Args:
        a: (..., m, n).
        b: (..., m, k).
        rcond: as for `pinv`.
    """
    if a.ndim == 2:
        return guarded("lstsq", lambda a, b: xp.linalg.lstsq(a, b, cutoff(a, rcond))[0], a, b, advice=_NOT_CONVERGED)
    return xp.matmul(guarded("lstsq", xp.linalg.pinv, a, cutoff(a, rcond), advice=_NOT_CONVERGED), b)


@least_squares.vjp
def _least_squares_vjp(xp: Any, g: Any, out: Any, a: Any, b: Any, rcond: float | None = None) -> Any:
    if a.dtype.kind == "c":
        raise AutogradError("lstsq: complex matrices have no gradient here")
    p = xp.pinv(a, rcond=rcond)
    return lambda: _pinv_gradient(xp, xp.matmul(g, _t(xp, b)), p, a), lambda: xp.matmul(_t(xp, p), g)


# -- exponential

_PADE: tuple[float, ...] = (
    64764752532480000.0,
    32382376266240000.0,
    7771770303897600.0,
    1187353796428800.0,
    129060195264000.0,
    10559470521600.0,
    670442572800.0,
    33522128640.0,
    1323241920.0,
    40840800.0,
    960960.0,
    16380.0,
    182.0,
    1.0,
)
_LARGEST = 5.371920351148152
"""Of matrices with a 1-norm up to this the Pade approximation of degree 13 is exact to the last bit of float64."""


@op(square)
def matrix_exp(xp: Any, x: Array) -> Any:
    """The exponential of square matrices, by scaling and squaring (Higham, SIAM J. Matrix Anal. 26, 2005).

    Raises:
        LinAlgError: an element is not finite.
    """
    if not x.size:
        return x.copy()
    if not xp.isfinite(x).all():
        raise np.linalg.LinAlgError(f"matrix_exp: an array of shape {x.shape} has elements that are not finite")
    size = float(xp.abs(x).sum(axis=-2).max())
    halvings = max(0, math.ceil(math.log2(size / _LARGEST))) if size > _LARGEST else 0
    a = x / 2.0**halvings
    one, b = xp.eye(x.shape[-1], dtype=x.dtype), _PADE
    a2 = xp.matmul(a, a)
    a4 = xp.matmul(a2, a2)
    a6 = xp.matmul(a4, a2)
    odd = xp.matmul(a6, b[13] * a6 + b[11] * a4 + b[9] * a2) + b[7] * a6 + b[5] * a4 + b[3] * a2 + b[1] * one
    even = xp.matmul(a6, b[12] * a6 + b[10] * a4 + b[8] * a2) + b[6] * a6 + b[4] * a4 + b[2] * a2 + b[0] * one
    odd = xp.matmul(a, odd)
    out = xp.linalg.solve(even - odd, even + odd)
    for _ in range(halvings):
        out = xp.matmul(out, out)
    return out


@matrix_exp.vjp
def _matrix_exp_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    n, back = x.shape[-1], _t(xp, x)
    upper = xp.concatenate(back, g, axis=-1)
    lower = xp.concatenate(xp.zeros_like(back), back, axis=-1)
    both = xp.matrix_exp(xp.concatenate(upper, lower, axis=-2))
    return (xp.getitem(both, key=(*((None, None, None),) * (x.ndim - 2), (None, n, None), (n, None, None))),)
