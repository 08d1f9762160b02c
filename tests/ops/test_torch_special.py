"""Special functions, compared with PyTorch, with exact values, and with the identities that they obey."""

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as onp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import autograd, np, npx, special
from shoal.errors import AutogradError, DTypeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import TOLERANCE, Pair, arrays, compare, strided

T, X = torch.special, ((3, 5),)
PAIRS: dict[str, Pair] = {
    "gammaln": Pair(npx.gammaln, torch.lgamma, X, 0.1, 30.0),
    "gammaln below 0": Pair(npx.gammaln, torch.lgamma, X, -4.9, -0.1, half=False, loose=10),
    "digamma": Pair(npx.digamma, torch.digamma, X, 0.2, 30.0, half=False, loose=10),
    "digamma below 0": Pair(npx.digamma, torch.digamma, X, -4.9, -0.2, half=False, loose=100),
    "polygamma 2": Pair(
        lambda x: npx.polygamma(x, n=2), lambda x: torch.polygamma(2, x), X, 0.5, 9.0, half=False, loose=10
    ),
    "erf": Pair(npx.erf, torch.erf, X, -4.0, 4.0),
    "erfc": Pair(npx.erfc, torch.erfc, X, -4.0, 4.0),
    "erfinv": Pair(npx.erfinv, torch.erfinv, X, -0.95, 0.95, half=False),
    "i0": Pair(npx.i0, T.i0, X, -5.0, 5.0, half=False),
    "i0e": Pair(npx.i0e, T.i0e, X, -40.0, 40.0, half=False),
    "i1": Pair(npx.i1, T.i1, X, -5.0, 5.0, half=False),
    "i1e": Pair(npx.i1e, T.i1e, X, -40.0, 40.0, half=False),
    "sinc": Pair(np.sinc, torch.sinc, X, -3.0, 3.0),
    "xlogy": Pair(npx.xlogy, torch.xlogy, ((3, 4), (4,)), 0.1, 3.0),
    "xlogy of a number": Pair(lambda x: npx.xlogy(x, 2.5), lambda x: torch.xlogy(x, 2.5)),
    "xlog1py": Pair(npx.xlog1py, T.xlog1py, ((3, 1), (4,)), -0.9, 3.0),
    "logit": Pair(npx.logit, torch.logit, X, 0.02, 0.98),
    "logit eps": Pair(lambda x: npx.logit(x, 0.2), lambda x: torch.logit(x, 0.2), X, -0.5, 1.5),
    "entr": Pair(npx.entr, T.entr, X, 0.1, 3.0),
    "ndtr": Pair(npx.ndtr, T.ndtr, X, -4.0, 4.0),
    "ndtri": Pair(npx.ndtri, T.ndtri, X, 0.05, 0.95, half=False),
    "multigammaln": Pair(
        lambda x: npx.multigammaln(x, 3), lambda x: torch.mvlgamma(x, 3), X, 1.5, 9.0, half=False, loose=10
    ),
    "expit": Pair(special.expit, T.expit, X, -9.0, 9.0),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair = PAIRS[name]
    if dtype == "float16" and not pair.half:
        return
    inputs = arrays(name, pair, dtype)
    for shaped in (inputs, [strided(x) for x in inputs], [inputs[0][:0], *inputs[1:]]):
        compare(pair.ours, pair.theirs, shaped, pair.loose * TOLERANCE[dtype])


EDGES = onp.array([0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 0.5, 1e-8, 30.0, -30.0, onp.inf, -onp.inf, onp.nan])


@pytest.mark.parametrize("name", ["gammaln", "digamma", "erfc", "erfinv", "i0e", "i1e", "sinc", "entr", "logit"])
def test_limits_are_those_of_pytorch(name: str) -> None:
    theirs = {"gammaln": torch.lgamma, "logit": torch.logit, "sinc": torch.sinc}.get(name) or getattr(T, name)
    at = EDGES[:-3] if name in ("i0e", "i1e", "sinc") else EDGES
    with onp.errstate(all="ignore"):
        found = getattr(special, name)(Tensor(at)).asnumpy()
    onp.testing.assert_allclose(found, theirs(torch.tensor(at)).numpy(), rtol=1e-12, atol=1e-15)


def test_the_gamma_function_is_that_of_the_standard_library() -> None:
    x = onp.concatenate([onp.linspace(-9.93, 30.0, 400), [100.5, 150.0, 170.0]])
    expected = [math.gamma(v) for v in x]
    onp.testing.assert_allclose(npx.gamma(Tensor(x)).asnumpy(), expected, rtol=1e-12)
    onp.testing.assert_allclose(
        npx.gamma(Tensor(onp.arange(1.0, 20.0))).asnumpy(), [math.factorial(n) for n in range(19)]
    )


def test_trigamma_has_its_exact_values() -> None:
    found = npx.polygamma(Tensor(onp.array([0.5, 1.0, -0.5])), n=1).asnumpy()
    onp.testing.assert_allclose(found, [math.pi**2 / 2, math.pi**2 / 6, math.pi**2 / 2 + 4], rtol=1e-14)


def test_log_beta_is_symmetric_and_right() -> None:
    a, b = onp.array([2.0, 3.5]), onp.array([3.0, 0.5])
    onp.testing.assert_allclose(npx.betaln(Tensor(a), Tensor(b)).asnumpy(), npx.betaln(b, a), rtol=1e-13)
    onp.testing.assert_allclose(npx.beta(2.0, onp.array([3.0])), [1 / 12])


@pytest.mark.parametrize("a", [1, 3, 10, 40])
def test_incomplete_gamma_functions_have_their_exact_values(a: int) -> None:
    for x in (0.5, 4.25, 9.5, 30.0, 55.0):
        with localcontext() as context:
            context.prec = 120
            upper = (-Decimal(x)).exp() * sum(Decimal(x) ** k / math.factorial(k) for k in range(a))
            lower = 1 - upper
        onp.testing.assert_allclose(special.gammaincc(float(a), onp.array([x])), [float(upper)], rtol=1e-11)
        onp.testing.assert_allclose(special.gammainc(float(a), onp.array([x])), [float(lower)], rtol=1e-11)


def test_the_incomplete_gamma_function_has_pytorchs_gradient_of_x() -> None:
    a = onp.array([0.5, 2.0, 7.5])
    compare(
        lambda x: special.gammainc(a, x), lambda x: T.gammainc(torch.tensor(a), x), [onp.array([0.3, 2.0, 9.0])], 1e-9
    )
    t = Tensor(a)
    t.attach_grad()
    with autograd.record():
        out = special.gammainc(t, 1.0)
    with pytest.raises(AutogradError, match="gammainc has no gradient with respect to a"):
        out.backward()


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 1.0))
def test_the_incomplete_beta_function_is_a_binomial_sum(a: int, b: int, x: float) -> None:
    n = a + b - 1
    expected = sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))
    found = special.betainc(float(a), float(b), onp.array([x]))
    onp.testing.assert_allclose(found, [expected], rtol=1e-10, atol=1e-14)


@settings(max_examples=40)
@given(st.floats(-0.999, 0.999))
def test_the_inverse_error_function_inverts(y: float) -> None:
    x = npx.erfinv(Tensor(onp.array([y])))
    onp.testing.assert_allclose(npx.erf(x).asnumpy(), [y], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_slope_of_sinc_is_smooth_through_zero(dtype: str) -> None:
    x = onp.array([0.0, 1e-9, -1e-4, 0.01, 0.159, 0.161, -0.3], dtype)
    t = Tensor(x)
    t.attach_grad()
    with autograd.record():
        out = np.sinc(t)
        (slope,) = autograd.grad(out.sum(), [t], create_graph=True)
        total = slope.sum()
    total.backward()
    u = math.pi * onp.where(x == 0, 1.0, x.astype("float64"))
    exact = onp.where(onp.abs(u) < 1e-3, -u / 3, (onp.cos(u) - onp.sin(u) / u) / u) * math.pi
    onp.testing.assert_allclose(slope.asnumpy()[1:], exact[1:], rtol=2e-6 if dtype == "float32" else 1e-6)
    onp.testing.assert_allclose([slope.asnumpy()[0], t.grad.asnumpy()[0]], [0.0, -(math.pi**2) / 3], rtol=1e-6)


def test_zero_times_the_logarithm_of_zero_is_zero() -> None:
    assert npx.xlogy(onp.array([0.0, 0.0]), onp.array([0.0, 2.0])).tolist() == [0.0, 0.0]
    assert onp.isnan(npx.xlogy(onp.array([0.0]), onp.array([onp.nan]))).all()
    assert npx.xlogy(0.0, onp.array([0.0], "float32")).dtype == onp.float32


def test_integers_give_float64_and_complex_numbers_are_refused() -> None:
    assert npx.gammaln(Tensor(onp.array([1, 2, 5]))).dtype == onp.float64
    with pytest.raises(DTypeError, match=r"gammaln.*complex128"):
        npx.gammaln.infer(complex_spec())


def complex_spec() -> Any:
    from shoal.ops.registry import spec_of

    return spec_of(onp.ones(2, complex))


EINSUMS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "chain": ("ab,bc,cd->ad", ((3, 4), (4, 5), (5, 2))),
    "batch": ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
    "heads": ("bihd,bjhd->bhij", ((2, 3, 4, 5), (2, 6, 4, 5))),
    "bilinear": ("bi,ijk,bk->bj", ((2, 3), (3, 4, 5), (2, 5))),
    "ellipsis": ("...ij,jk->...ik", ((2, 2, 3, 4), (4, 5))),
    "trace": ("ii->", ((4, 4),)),
    "diagonal": ("bii->bi", ((2, 3, 3),)),
    "weighted diagonal": ("ii,i->i", ((3, 3), (3,))),
    "outer": ("i,j,k->kij", ((2,), (3,), (4,))),
    "implicit": ("ij,jk", ((2, 3), (3, 4))),
    "hadamard": ("ij,ij->ij", ((2, 3), (2, 3))),
    "sums": ("ij,kl->", ((2, 3), (4, 5))),
    "transposed": ("kji->ijk", ((2, 3, 4),)),
    "empty": ("ij,jk->ik", ((2, 0), (0, 3))),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_is_that_of_pytorch(name: str, dtype: str) -> None:
    text, shapes = EINSUMS[name]
    inputs = arrays(name, Pair(np.einsum, torch.einsum, shapes, -1.0, 1.0), dtype)
    for given_ in (inputs, [strided(x) for x in inputs]):
        compare(lambda *x: np.einsum(text, *x), lambda *x: torch.einsum(text, *x), given_, 2 * TOLERANCE[dtype])


def test_einsum_takes_numbers_for_letters() -> None:
    x, y = onp.arange(6.0).reshape(2, 3), onp.arange(12.0).reshape(3, 4)
    onp.testing.assert_allclose(np.einsum(x, [0, 1], y, [1, 2], [2, 0]), onp.einsum("ab,bc->ca", x, y))
    onp.testing.assert_allclose(np.einsum(x, [0, ...], x, [0, ...]), onp.einsum("a...,a...", x, x))


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), min_size=1, max_size=4), st.data()
)
def test_any_contraction_is_that_of_numpy(terms: list[list[str]], data: Any) -> None:
    sizes = dict(zip("abcd", (2, 3, 1, 4), strict=True))
    letters = sorted({c for t in terms for c in t})
    output = data.draw(st.permutations(letters))[: data.draw(st.integers(0, len(letters)))]
    text = ",".join("".join(t) for t in terms) + "->" + "".join(output)
    rng = onp.random.default_rng(0)
    xs = [rng.standard_normal([sizes[c] for c in t]) for t in terms]
    onp.testing.assert_allclose(np.einsum(text, *map(Tensor, xs)).asnumpy(), onp.einsum(text, *xs), atol=1e-10)
