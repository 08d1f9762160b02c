"""Special functions that NumPy lacks, from rational approximations."""

from typing import Any

import numpy as np

from shoal.ops.precision import is_half

__all__ = ["erf"]

# Cephes (S. L. Moshier), ndtr.c: relative error below 4e-16 in float64. Highest power first.
_ERF_P = (
    9.60497373987051638749e0,
    9.00260197203842689217e1,
    2.23200534594684319226e3,
    7.00332514112805075473e3,
    5.55923013010394962768e4,
)
_ERF_Q = (
    1.0,
    3.35617141647503099647e1,
    5.21357949780152679795e2,
    4.59432382970980127987e3,
    2.26290000613890934246e4,
    4.92673942608635921086e4,
)
_ERFC_P = (
    2.46196981473530512524e-10,
    5.64189564831068821977e-1,
    7.46321056442269912687e0,
    4.86371970985681366614e1,
    1.96520832956077098242e2,
    5.26445194995477358631e2,
    9.34528527171957607540e2,
    1.02755188689515710272e3,
    5.57535335369399327526e2,
)
_ERFC_Q = (
    1.0,
    1.32281951154744992508e1,
    8.67072140885989742329e1,
    3.54937778887819891062e2,
    9.75708501743205489753e2,
    1.82390916687909736289e3,
    2.24633760818710981792e3,
    1.65666309194161350182e3,
    5.57535340817727675546e2,
)


def erf(x: Any) -> Any:
    """The error function to the accuracy of the dtype; float16 is computed in float32, integers in float64."""
    x = np.asarray(x)
    if x.dtype == np.float32:
        return _erf_single(x)
    kind = x.dtype if is_half(x.dtype) else np.result_type(x.dtype, np.float16)
    wide = x.astype(np.result_type(kind, np.float32), copy=False).reshape(-1)
    a = np.minimum(np.abs(wide), 6.0)  # erf is 1 to the last bit beyond
    square = a * a
    small = wide * (_horner(square, _ERF_P) / _horner(square, _ERF_Q))
    large = np.copysign(1.0 - np.exp(-square) * (_horner(a, _ERFC_P) / _horner(a, _ERFC_Q)), wide)
    return np.where(a < 1.0, small, large).reshape(x.shape).astype(kind, copy=False)


# N. Juffa's erff: x * polynomial(x * x) near 0, 1 - exp(polynomial(abs(x))) beyond. Highest power first.
_NEAR = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
_FAR = (
    -1.72853470e-5,
    3.83197126e-4,
    -3.88396438e-3,
    2.42546219e-2,
    -1.06777877e-1,
    -6.34846687e-1,
    -1.28717512e-1,
)
_TURN = 0.921875
_BLOCK = 1 << 14
"""Elements at a time: the passes over them then stay in a core's first cache."""


def _erf_single(x: Any) -> Any:
    """`erf` of float32, by blocks; without a choice by element, which takes as long as a polynomial."""
    flat, out = x.reshape(-1), np.empty(x.size, np.float32)
    v, a, near = (np.empty(min(x.size, _BLOCK), np.float32) for _ in range(3))
    for start in range(0, x.size, _BLOCK):
        far = out[start : start + _BLOCK]
        n = far.size
        v, a, near = v[:n], a[:n], near[:n]
        np.clip(flat[start : start + _BLOCK], -6.0, 6.0, out=v)
        np.abs(v, out=a)
        _horner_into(far, a, _FAR)
        far *= a
        far -= a
        np.exp(far, out=far)
        np.subtract(1.0, far, out=far)
        far *= a > _TURN
        sign = v.view(np.int32) & np.int32(-(2**31))
        bits = far.view(np.int32)
        bits |= sign
        inside = a <= _TURN
        np.multiply(a, a, out=a)
        _horner_into(near, a, _NEAR)
        near *= v
        near += v
        near *= inside
        far += near
    return out.reshape(x.shape)


def _horner_into(out: Any, x: Any, coefficients: tuple[float, ...]) -> None:
    np.multiply(x, coefficients[0], out=out)
    out += coefficients[1]
    for c in coefficients[2:]:
        out *= x
        out += c


def _horner(x: Any, coefficients: tuple[float, ...]) -> Any:
    result = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        result *= x
        result += c
    return result
