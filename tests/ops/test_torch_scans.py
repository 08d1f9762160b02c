"""Running results and order statistics, compared with PyTorch and NumPy: values and gradients."""

from typing import Any

import numpy as onp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from shoal import autograd, np, npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import TOLERANCE, Pair, arrays, compare, strided

X = ((3, 4),)
Q = [0.0, 0.25, 0.6, 1.0]
PAIRS: dict[str, Pair] = {
    "cumsum": Pair(lambda x: np.cumsum(x, 0), lambda x: x.cumsum(0), ((50, 3),)),
    "cumprod": Pair(lambda x: np.cumprod(x, 1), lambda x: x.cumprod(1), X),
    "cumprod of all": Pair(np.cumprod, lambda x: x.flatten().cumprod(0), X),
    "cummax": Pair(lambda x: npx.cummax(x, 0), lambda x: tuple(x.cummax(0)), ((9, 4),)),
    "cummin": Pair(lambda x: npx.cummin(x, -1), lambda x: tuple(x.cummin(-1)), ((2, 9),)),
    "logcumsumexp": Pair(lambda x: npx.logcumsumexp(x, 1), lambda x: x.logcumsumexp(1), X, -20.0, 20.0),
    "diff": Pair(lambda x, a: np.diff(x, 2, 1, prepend=a), lambda x, a: x.diff(2, 1, prepend=a), ((3, 4), (3, 1))),
    "diff append": Pair(lambda x: np.diff(x, append=1.0), lambda x: x.diff(append=torch.ones(3, 1).to(x)), X),
    "trapezoid": Pair(lambda y: np.trapezoid(y, dx=0.5, axis=0), lambda y: torch.trapezoid(y, dx=0.5, dim=0), X),
    "trapezoid of x": Pair(lambda y, x: np.trapezoid(y, x), torch.trapezoid, ((3, 4), (4,))),
    "gradient": Pair(
        lambda x: tuple(np.gradient(x, 2.0, 0.5)), lambda x: tuple(torch.gradient(x, spacing=(2.0, 0.5))), ((4, 5),)
    ),
    "sort": Pair(lambda x: np.sort(x, 0, descending=True), lambda x: x.sort(0, descending=True).values, X),
    "sort of all": Pair(lambda x: np.sort(x, None), lambda x: x.flatten().sort().values, X),
    "argsort": Pair(lambda x: np.argsort(x, descending=True), lambda x: x.argsort(descending=True), X),
    "quantile": Pair(
        lambda x: np.quantile(x, Q, 1), lambda x: x.quantile(torch.tensor(Q, dtype=x.dtype), 1), X, half=False
    ),
    "quantile keeps": Pair(
        lambda x: np.quantile(x, 0.3, 0, keepdims=True), lambda x: x.quantile(0.3, 0, keepdim=True), X, half=False
    ),
    **{
        m: Pair(
            lambda x, m=m: np.quantile(x, 0.37, 1, method=m),
            lambda x, m=m: x.quantile(0.37, 1, interpolation=m),
            ((3, 8),),
            half=False,
        )
        for m in ("lower", "higher", "nearest", "midpoint")
    },
    "median of odd": Pair(lambda x: np.median(x, 0), lambda x: x.median(0).values, ((3, 5),)),
    "kth smallest": Pair(lambda x: np.partition(x, 2, 0)[2], lambda x: x.kthvalue(3, 0).values, ((7, 3),)),
    "bincount": Pair(
        lambda w: np.bincount(onp.array([0, 3, 3, 1]), w, 6),
        lambda w: torch.zeros(6, dtype=w.dtype).index_add(0, torch.tensor([0, 3, 3, 1]), w),
        ((4,),),
    ),
    "cov": Pair(np.cov, torch.cov, ((3, 9),), half=False),
    "corrcoef": Pair(np.corrcoef, torch.corrcoef, ((3, 9),), half=False, loose=4.0),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair = PAIRS[name]
    if dtype == "float16" and not pair.half:
        return
    inputs = arrays(name, pair, dtype)
    compare(pair.ours, pair.theirs, inputs, pair.loose * TOLERANCE[dtype])
    compare(pair.ours, pair.theirs, [strided(x) for x in inputs], pair.loose * TOLERANCE[dtype])


def nan_variance(x: Any, d: int) -> Any:
    return torch.where(x == x, x - x.nanmean(d, keepdim=True), 0).square().sum(d) / (x == x).sum(d)


NAN = {
    "nansum": (np.nansum, torch.nansum),
    "nanmean": (np.nanmean, torch.nanmean),
    "nanmedian": (np.nanmedian, lambda x, d: x.nanquantile(0.5, d)),
    "nanquantile": (lambda x, d: np.nanquantile(x, 0.3, d), lambda x, d: x.nanquantile(0.3, d)),
    "nanvar": (
        np.nanvar,
        nan_variance,
    ),
    "nanmax": (np.nanmax, lambda x, d: x.nan_to_num(-9.0).amax(d)),
    "nanmin": (np.nanmin, lambda x, d: x.nan_to_num(9.0).amin(d)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAN)
def test_what_is_not_a_number_is_left_out_also_of_the_gradient(name: str, dtype: str) -> None:
    ours, theirs = NAN[name]
    x = onp.random.default_rng(4).standard_normal((3, 7)).astype(dtype)
    x[0, 2] = x[1, 1] = x[1, 3] = x[2, 0] = x[2, 6] = onp.nan
    compare(lambda t: ours(t, 1), lambda t: theirs(t, 1), [x], TOLERANCE[dtype])


PLAIN = ("sum", "prod", "mean", "var", "std", "max", "min", "argmax", "argmin", "cumsum", "cumprod")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("name", [n for n in dir(np) if n.startswith("nan") and n[3:] in PLAIN])
def test_nan_reductions_are_those_of_numpy(name: str, dtype: str) -> None:
    x = onp.random.default_rng(5).uniform(0.5, 3.0, (4, 5)).astype(dtype)
    if dtype != "int64":
        x[1, 2] = x[3, 0] = onp.nan
    for axis in (None, 0, 1):
        found, expected = getattr(np, name)(Tensor(x), axis), getattr(onp, name)(x, axis)
        onp.testing.assert_allclose(found.asnumpy(), expected, rtol=2e-2 if dtype == "float16" else 1e-5)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("method", ["hazen", "weibull", "median_unbiased", "normal_unbiased", "linear"])
def test_methods_of_quantiles_are_those_of_numpy(method: str) -> None:
    x, q = onp.random.default_rng(6).standard_normal((3, 4, 5)), [[0.0, 0.1], [0.5, 1.0]]
    for axis in (None, 1, (0, 2)):
        for keep in (False, True):
            found = np.quantile(Tensor(x), q, axis, method=method, keepdims=keep).asnumpy()
            expected = onp.quantile(x, q, axis, method=method, keepdims=keep)  # type: ignore[call-overload]  # a str here
            assert found.shape == expected.shape
            onp.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_percentiles_of_integers_and_medians_of_even_numbers_are_those_of_numpy() -> None:
    x = onp.random.default_rng(7).integers(0, 50, (4, 6))
    onp.testing.assert_allclose(np.percentile(Tensor(x), [5, 50], 1).asnumpy(), onp.percentile(x, [5, 50], 1))
    onp.testing.assert_allclose(np.median(Tensor(x), (0, 1)).asnumpy(), onp.median(x))
    y = x.astype(float)
    y[2, 3] = onp.nan
    onp.testing.assert_allclose(np.median(Tensor(y), 1).asnumpy(), onp.median(y, 1))
    onp.testing.assert_allclose(np.nanpercentile(Tensor(y), 30, 1).asnumpy(), onp.nanpercentile(y, 30, 1))


def test_a_row_without_numbers_has_no_statistics_and_raises_no_warning() -> None:
    x = Tensor(onp.array([[onp.nan, onp.nan], [1.0, onp.nan]]))
    for name in ("nanmean", "nanvar", "nanmax", "nanmin", "nanmedian"):
        found = getattr(np, name)(x, axis=1).asnumpy()
        assert onp.isnan(found[0]) and not onp.isnan(found[1]), name


def test_a_long_running_sum_in_float32_is_accurate() -> None:
    x = onp.full(1_000_000, 0.1, onp.float32)
    assert abs(np.cumsum(Tensor(x)).asnumpy()[-1] / x.astype("float64").sum() - 1) < 1e-7


@settings(max_examples=25)
@given(
    arrays_of.arrays("float64", (7, 2), elements=st.sampled_from([0.0, -1.0, 0.5, 2.0])),
    st.booleans(),
)
def test_a_linear_recurrence_is_its_definition(decay: Any, reverse: bool) -> None:
    x = onp.random.default_rng(1).standard_normal((7, 2))
    expected, s = onp.empty_like(x), onp.zeros(2)
    for t in reversed(range(7)) if reverse else range(7):
        s = expected[t] = decay[t] * s + x[t]
    found = npx.linear_recurrence(Tensor(x), Tensor(decay), axis=0, reverse=reverse).asnumpy()
    onp.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(arrays_of.arrays("float64", (2, 6), elements=st.sampled_from([0.0, 1.0, -2.0, 0.5])))
def test_the_gradient_of_a_running_product_is_right_at_zeros(x: Any) -> None:
    compare(lambda t: np.cumprod(t, 1), lambda t: t.cumprod(1), [x], 1e-12)


def test_minus_infinity_in_a_log_sum_has_no_share_of_the_gradient() -> None:
    x = Tensor(onp.array([-onp.inf, -onp.inf, 0.5, -onp.inf, 1.0]))
    x.attach_grad()
    with autograd.record():
        out = npx.logcumsumexp(x)
        total = out[2:].sum()
    total.backward()
    expected = torch.tensor(x.asnumpy(), requires_grad=True)
    expected.logcumsumexp(0)[2:].sum().backward()
    onp.testing.assert_allclose(out.asnumpy(), expected.logcumsumexp(0).detach().numpy())
    onp.testing.assert_allclose(x.grad.asnumpy(), [0, 0, expected.grad[2], 0, expected.grad[4]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_searches_are_those_of_numpy_and_pytorch(side: str) -> None:
    rng = onp.random.default_rng(8)
    a, v = onp.sort(rng.integers(0, 9, 12)), rng.integers(-1, 11, (3, 4))
    onp.testing.assert_array_equal(np.searchsorted(Tensor(a), Tensor(v), side).asnumpy(), onp.searchsorted(a, v, side))
    order = rng.permutation(12)
    found = np.searchsorted(Tensor(a[order]), Tensor(v), side, sorter=onp.argsort(a[order]))
    onp.testing.assert_array_equal(found.asnumpy(), onp.searchsorted(a, v, side))
    rows, wanted = onp.sort(rng.standard_normal((2, 3, 5))), rng.standard_normal((2, 3, 2))
    expected = torch.searchsorted(torch.tensor(rows), torch.tensor(wanted), side=side)
    onp.testing.assert_array_equal(np.searchsorted(Tensor(rows), Tensor(wanted), side).asnumpy(), expected.numpy())


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("bins", [[0.0, 1.0, 1.0, 2.5], [2.5, 1.0, 0.0], [1.0]])
def test_digitize_is_that_of_numpy(bins: list[float], right: bool) -> None:
    x = onp.array([[-1.0, 0.0, 0.5], [1.0, 2.5, 9.0]])
    onp.testing.assert_array_equal(np.digitize(Tensor(x), bins, right).asnumpy(), onp.digitize(x, bins, right))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique_is_that_of_numpy_and_its_values_have_a_gradient(axis: int | None) -> None:
    x = onp.array([[3.0, 1.0, 3.0], [2.0, 1.0, 2.0], [3.0, 1.0, 3.0]])
    t = Tensor(x)
    t.attach_grad()
    with autograd.record():
        found = np.unique(t, True, True, True, axis=axis)
    expected = onp.unique(x, True, True, True, axis=axis)
    for a, b in zip(found, expected, strict=True):
        onp.testing.assert_array_equal(a.asnumpy(), b)
    found[0].backward()
    assert t.grad.asnumpy().sum() == found[0].size


def test_sets_are_those_of_numpy() -> None:
    a, b = onp.array([[1, 5, 2], [2, 7, 1]]), onp.array([2, 3, 7])
    for name in ("intersect1d", "union1d", "setdiff1d", "setxor1d"):
        onp.testing.assert_array_equal(getattr(np, name)(Tensor(a), Tensor(b)).asnumpy(), getattr(onp, name)(a, b))
    for invert in (False, True):
        for other in (b, onp.zeros(0, int)):
            found = np.isin(Tensor(a), Tensor(other), invert=invert).asnumpy()
            onp.testing.assert_array_equal(found, onp.isin(a, other, invert=invert))
    keys = onp.array([[1, 1, 0, 2, 0], [3, 3, 3, 1, 1]])
    onp.testing.assert_array_equal(np.lexsort(Tensor(keys)).asnumpy(), onp.lexsort(keys))


def test_descending_order_is_stable() -> None:
    x = onp.array([2, 1, 2, 3, 1])
    assert np.argsort(Tensor(x), descending=True).tolist() == [3, 0, 2, 1, 4]


def test_counts_and_edges_are_those_of_numpy() -> None:
    x = onp.random.default_rng(9).standard_normal(50)
    for options in ({}, {"bins": 5, "range": (-1.0, 1.0)}, {"density": True}, {"weights": onp.abs(x)}):
        for a, b in zip(np.histogram(Tensor(x), **options), onp.histogram(x, **options), strict=True):  # type: ignore[call-overload]  # a dict
            onp.testing.assert_allclose(a.asnumpy(), b)
    onp.testing.assert_array_equal(np.histogram_bin_edges(x, "auto").asnumpy(), onp.histogram_bin_edges(x, "auto"))
    assert np.bincount(onp.array([1, 1, 4])).tolist() == [0, 2, 0, 0, 1]


def test_interpolation_is_that_of_numpy_with_gradients_for_all_inputs() -> None:
    xp, fp = onp.array([0.0, 1.0, 3.0]), onp.array([1.0, -1.0, 4.0])
    x = onp.array([-1.0, 0.0, 0.25, 1.0, 2.5, 3.0, 7.0])
    onp.testing.assert_allclose(np.interp(x, xp, fp), onp.interp(x, xp, fp))
    onp.testing.assert_allclose(np.interp(x, xp, fp, -5.0, 9.0), onp.interp(x, xp, fp, -5.0, 9.0))
    t = [Tensor(v) for v in (onp.array([0.25, 2.5]), xp, fp)]
    for v in t:
        v.attach_grad()
    with autograd.record():
        out = np.interp(*t)
    out.backward()
    onp.testing.assert_allclose(t[0].grad.asnumpy(), [-2.0, 2.5])
    onp.testing.assert_allclose(t[2].grad.asnumpy(), [0.75, 0.5, 0.75])


def test_running_sums_of_the_array_standard_may_begin_with_their_neutral_element() -> None:
    x = Tensor(onp.array([[1.0, 2.0], [3.0, 4.0]]))
    assert np.cumulative_sum(x, axis=1, include_initial=True).tolist() == [[0, 1, 3], [0, 3, 7]]
    assert np.cumulative_prod(x, axis=0, include_initial=True).tolist() == [[1, 1], [1, 2], [3, 8]]
    with pytest.raises(ShapeError, match="axis"):
        np.cumulative_sum(x)


def test_what_does_not_fit_is_said() -> None:
    x = Tensor(onp.ones((3, 4)))
    with pytest.raises(ConfigError, match=r"quantile.*from 0 to 1.*1\.5"):
        np.quantile(x, 1.5)
    with pytest.raises(ConfigError, match="method 'odd'"):
        np.quantile(x, 0.5, method="odd")
    with pytest.raises(ShapeError, match=r"median: .*\(0, 3\)"):
        np.median(Tensor(onp.ones((0, 3))), 0)
    with pytest.raises(ShapeError, match=r"argpartition: kth=4.*\(3, 4\)"):
        np.partition(x, 4)
    with pytest.raises(ShapeError, match=r"linear_recurrence: .*\(3, 4\).*\(5,\)"):
        npx.linear_recurrence(x, Tensor(onp.ones(5)))
    with pytest.raises(ConfigError, match="side"):
        np.searchsorted(onp.ones(3), Tensor(onp.ones(2)), side="middle")
    with pytest.raises(ShapeError, match=r"searchsorted.*\(4, 2\).*\(3, 4\)"):
        np.searchsorted(x, Tensor(onp.ones((4, 2))))
    with pytest.raises(ShapeError, match="bincount"):
        np.bincount(onp.array([1, 2]), Tensor(onp.ones(3)))
    with pytest.raises(IndexError, match="-1"):
        np.bincount(onp.array([-1, 2]), Tensor(onp.ones(2)))


@pytest.mark.parametrize("is_ascend", [False, True])
@pytest.mark.parametrize("k", [1, 3, 16])
def test_the_best_of_many_are_the_first_of_all_in_order(k: int, is_ascend: bool) -> None:
    rng = onp.random.default_rng(k)
    for x in (rng.integers(0, 9, (4, 3, 90)), rng.standard_normal((2, 500)).astype("float32"), onp.ones((2, 70))):
        values, places = npx.topk(Tensor(x), k=k, ret_typ="both", is_ascend=is_ascend)
        order = onp.argsort(x if is_ascend else -x, axis=-1, kind="stable")[..., :k]
        onp.testing.assert_array_equal(places.asnumpy(), order)
        onp.testing.assert_array_equal(values.asnumpy(), onp.take_along_axis(x, order, -1))


def test_the_largest_of_many_with_nan_begin_with_it_as_in_pytorch() -> None:
    x = onp.random.default_rng(0).standard_normal((2, 100))
    x[0, 7] = onp.nan
    values, places = npx.topk(Tensor(x), k=3, ret_typ="both")
    theirs = torch.tensor(x).topk(3)
    onp.testing.assert_array_equal(values.asnumpy(), theirs.values.numpy())
    onp.testing.assert_array_equal(places.asnumpy(), theirs.indices.numpy())
