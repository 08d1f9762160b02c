"""Special functions: gamma and its relatives, error functions, Bessel functions, logarithms that know their limits.

Element by element, accurate to the dtype (they are computed in float64: see `shoal.ops.cephes`). Names are SciPy's and
MXNet's.
"""

import math
from typing import Any

from shoal.errors import AutogradError, DTypeError
from shoal.ops import specs
from shoal.ops.elementwise import exp
from shoal.ops.registry import Array, Op, Spec, op

__all__ = [
    "beta",
    "betainc",
    "betaln",
    "digamma",
    "entr",
    "erfc",
    "erfinv",
    "gamma",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "lgamma",
    "logit",
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "sinc",
    "xlog1py",
    "xlogy",
]


def _real(op: Op[Any], *inputs: Any, **attrs: Any) -> Spec:
    for x in inputs:
        if isinstance(x, Spec) and x.dtype.kind == "c":
            raise DTypeError(f"{op.name}: takes real numbers, got {x.dtype}")
    return specs.elementwise(op, *inputs, **attrs)


_special = op(_real, elementwise=True)

_ROOT_PI = math.sqrt(math.pi)


@_special
def gammaln(xp: Any, x: Array) -> Any:
    """The logarithm of the absolute value of the gamma function."""
    return xp.raw_special("gammaln", x)


@gammaln.vjp
def _gammaln_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.digamma(x),)


@_special
def gamma(xp: Any, x: Array) -> Any:
    """The gamma function: (x - 1)! for integers from 1."""
    return xp.raw_special("gamma", x)


@gamma.vjp
def _gamma_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * out * xp.digamma(x),)


@_special
def digamma(xp: Any, x: Array) -> Any:
    """The derivative of `gammaln`."""
    return xp.raw_special("digamma", x)


@digamma.vjp
def _digamma_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.polygamma(x, n=1),)


@_special
def polygamma(xp: Any, x: Array, n: int) -> Any:
    """The ``n``-th derivative of `digamma`; `digamma` itself for 0."""
    return xp.raw_special("polygamma", n, x) if n else xp.raw_special("digamma", x)


@polygamma.vjp
def _polygamma_vjp(xp: Any, g: Any, out: Any, x: Any, n: int) -> Any:
    return (g * xp.polygamma(x, n=n + 1),)


@_special
def erfc(xp: Any, x: Array) -> Any:
    """1 - erf(x), accurate for large x."""
    return xp.raw_special("erfc", x)


@erfc.vjp
def _erfc_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.exp(-x * x) * (-2.0 / _ROOT_PI),)


@_special
def erfinv(xp: Any, x: Array) -> Any:
    """The inverse of `erf`: infinite at -1 and 1, nan beyond."""
    return xp.raw_special("erfinv", x)


@erfinv.vjp
def _erfinv_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.exp(out * out) * (0.5 * _ROOT_PI),)


# -- Bessel functions


@_special
def i0(xp: Any, x: Array) -> Any:
    """The modified Bessel function of the first kind of order 0."""
    return xp.raw_special("i0", x)


@i0.vjp
def _i0_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.i1(x),)


@_special
def i0e(xp: Any, x: Array) -> Any:
    """exp(-abs(x)) * i0(x), which does not overflow."""
    return xp.raw_special("i0e", x)


@i0e.vjp
def _i0e_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (xp.i1e(x) - xp.sign(x) * out),)


@_special
def i1(xp: Any, x: Array) -> Any:
    """The modified Bessel function of the first kind of order 1."""
    return xp.raw_special("i1", x)


@i1.vjp
def _i1_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (xp.i0(x) - xp.where(x == 0, 0.5, out / xp.where(x == 0, 1.0, x))),)


@_special
def i1e(xp: Any, x: Array) -> Any:
    """exp(-abs(x)) * i1(x), which does not overflow."""
    return xp.raw_special("i1e", x)


@i1e.vjp
def _i1e_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    fraction = xp.where(x == 0, 0.5, out / xp.where(x == 0, 1.0, x))
    return (g * (xp.i0e(x) - xp.sign(x) * out - fraction),)


# -- sinc


@_special
def sinc(xp: Any, x: Array) -> Any:
    """sin(pi x) / (pi x), and 1 at 0."""
    safe = xp.where(x == 0, 1.0, x) * math.pi
    return xp.where(x == 0, 1.0, xp.sin(safe) / safe)


_SINC_SLOPE = tuple((-1) ** k * 2 * k / math.factorial(2 * k + 1) for k in range(1, 9))
"""Of u, u**3, ... in the derivative of sin(u) / u."""


@sinc.vjp
def _sinc_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    small = xp.abs(x) < 0.16
    u = xp.where(small, x, 0.0) * math.pi
    square, series = u * u, 0.0
    for c in reversed(_SINC_SLOPE):
        series = series * square + c
    far = xp.where(small, 1.0, x)
    slope = (xp.cos(far * math.pi) - xp.sinc(far)) / far
    return (g * xp.where(small, series * u * math.pi, slope),)


# -- logarithms


@_special
def xlogy(xp: Any, x: Array, y: Array) -> Any:
    """x * log(y), and 0 where x is 0 and y is not nan."""
    x, y = _numbers(xp, x, y)
    nothing = (x == 0) & (y == y)
    return x * xp.log(xp.where(nothing, xp.ones_like(y), y))


def _numbers(xp: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Two arrays: a number becomes one of the other's dtype."""
    if isinstance(x, (int, float)):
        return (xp.asarray(x, y.dtype) if hasattr(y, "dtype") else xp.asarray(float(x))), xp.asarray(y)
    return x, xp.asarray(y, x.dtype) if isinstance(y, (int, float)) else y


@xlogy.vjp
def _xlogy_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    def wrt_x() -> Any:
        if isinstance(y, (int, float)):
            return g * math.log(y) if y > 0 else xp.xlogy(g * (x != 0), y)
        return g * xp.log(xp.where(xp.logical_and(xp.equal(x, 0), xp.less_equal(y, 0)), 1.0, y))

    return wrt_x, lambda: g * x / y


@_special
def xlog1py(xp: Any, x: Array, y: Array) -> Any:
    """x * log(1 + y), and 0 where x is 0 and y is not nan."""
    x, y = _numbers(xp, x, y)
    nothing = (x == 0) & (y == y)
    return x * xp.log1p(xp.where(nothing, xp.zeros_like(y), y))


@xlog1py.vjp
def _xlog1py_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    def wrt_x() -> Any:
        if isinstance(y, (int, float)):
            return g * math.log1p(y) if y > -1 else xp.xlog1py(g * (x != 0), y)
        return g * xp.log1p(xp.where(xp.logical_and(xp.equal(x, 0), xp.less_equal(y, -1)), 0.0, y))

    return wrt_x, lambda: g * x / (y + 1.0)


@_special
def logit(xp: Any, x: Array, eps: float | None = None) -> Any:
    """log(x / (1 - x)), the inverse of `sigmoid`.

    Args:
        eps: x counts as at least ``eps`` and at most 1 - ``eps``; there the gradient is 0.
    """
    if eps is not None:
        x = xp.clip(x, eps, 1.0 - eps)
    return xp.log(x) - xp.log1p(-x)


@logit.vjp
def _logit_vjp(xp: Any, g: Any, out: Any, x: Any, eps: float | None = None) -> Any:
    if eps is None:
        return (g / (x * (1.0 - x)),)
    inside = xp.logical_and(x >= eps, x <= 1.0 - eps)
    safe = xp.where(inside, x, 0.5)
    return (xp.where(inside, g / (safe * (1.0 - safe)), 0.0),)


@_special
def entr(xp: Any, x: Array) -> Any:
    """-x * log(x): 0 at 0, -inf below."""
    some = x > 0
    found = -x * xp.log(xp.where(some, x, xp.ones_like(x)))
    rest = xp.where(x == 0, 0.0, xp.where(x < 0, -math.inf, math.nan)).astype(found.dtype)
    return xp.where(some, found, rest)


@entr.vjp
def _entr_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (-g * (xp.log(x) + 1.0),)


# -- incomplete functions


def _shape_only(name: str, parameter: str) -> Any:
    """What stands for a gradient that nobody has a formula for: it is refused when it is needed."""

    def refuse() -> Any:
        raise AutogradError(f"{name} has no gradient with respect to {parameter}; only with respect to x")

    return refuse


@_special
def gammainc(xp: Any, a: Array, x: Array) -> Any:
    """The regularized lower incomplete gamma function; the gradient is with respect to x only."""
    return xp.raw_special("gammainc", a, x)


@gammainc.vjp
def _gammainc_vjp(xp: Any, g: Any, out: Any, a: Any, x: Any) -> Any:
    return _shape_only("gammainc", "a"), lambda: g * _gamma_density(xp, a, x)


@_special
def gammaincc(xp: Any, a: Array, x: Array) -> Any:
    """1 - gammainc(a, x), accurate where it is small; the gradient is with respect to x only."""
    return xp.raw_special("gammaincc", a, x)


@gammaincc.vjp
def _gammaincc_vjp(xp: Any, g: Any, out: Any, a: Any, x: Any) -> Any:
    return _shape_only("gammaincc", "a"), lambda: -g * _gamma_density(xp, a, x)


def _gamma_density(xp: Any, a: Any, x: Any) -> Any:
    return xp.exp(xp.xlogy(a - 1.0, x) - x - xp.gammaln(a))


@_special
def betainc(xp: Any, a: Array, b: Array, x: Array) -> Any:
    """The regularized incomplete beta function; the gradient is with respect to x only."""
    return xp.raw_special("betainc", a, b, x)


@betainc.vjp
def _betainc_vjp(xp: Any, g: Any, out: Any, a: Any, b: Any, x: Any) -> Any:
    def wrt_x() -> Any:
        scale = xp.gammaln(a + b) - xp.gammaln(a) - xp.gammaln(b)
        return g * xp.exp(xp.xlogy(a - 1.0, x) + xp.xlog1py(b - 1.0, -x) + scale)

    return _shape_only("betainc", "a"), _shape_only("betainc", "b"), wrt_x


# -- made of these

lgamma = gammaln


def betaln(a: Any, b: Any) -> Any:
    """The logarithm of the beta function."""
    return gammaln(a) + gammaln(b) - gammaln(a + b)


def beta(a: Any, b: Any) -> Any:
    """The beta function of positive numbers."""
    return exp(betaln(a, b))


def multigammaln(a: Any, p: int) -> Any:
    """The logarithm of the multivariate gamma function of dimension ``p``."""
    found = gammaln(a)
    for i in range(1, p):
        found = found + gammaln(a - 0.5 * i)
    return found + 0.25 * p * (p - 1) * math.log(math.pi)


def ndtr(x: Any) -> Any:
    """The distribution function of the standard normal distribution."""
    return erfc(x * -math.sqrt(0.5)) * 0.5


def ndtri(p: Any) -> Any:
    """The inverse of `ndtr`."""
    return erfinv(p * 2.0 - 1.0) * math.sqrt(2.0)
