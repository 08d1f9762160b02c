"""Accuracy where a formula that is right on paper fails in float32 or float16."""

from typing import Any

import numpy as np
import pytest

from shoal import autograd, npx
from shoal.ops import activation, conv, linalg, loss, norm, reduce, shape
from shoal.ops.backend import CPU
from shoal.ops.conv import convolution
from shoal.ops.index import take_add
from shoal.ops.tensor import Tensor


def rows(mean: float, shape_: tuple[int, ...] = (4096, 3)) -> Any:
    return (np.random.default_rng(0).standard_normal(shape_) + mean).astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("shape_", [(4096, 3), (16, 3, 16, 16)])
def test_batch_statistics_survive_a_large_mean(mean: float, shape_: tuple[int, ...]) -> None:
    x = rows(mean, shape_)
    one = np.ones(3, np.float32)
    out, found, var = norm.batch_norm(x, one, 0 * one)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    np.testing.assert_allclose(found, x.mean(axes, dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, x.var(axes, dtype=np.float64), rtol=1e-4)
    assert abs(out.mean(axes, dtype=np.float64)).max() < 2e-4


@pytest.mark.parametrize("layout", ["first", "last"])
def test_batch_norm_does_not_care_in_which_order_channels_lie_in_memory(layout: str) -> None:
    x = rows(0.0, (4, 6, 5, 3))
    image = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "first" else x.transpose(0, 3, 1, 2)
    one = np.ones(3, np.float32)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(norm.batch_norm(image, one, 0 * one)[0].transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_variance_and_layer_norm_survive_a_large_mean() -> None:
    x = rows(1000.0)
    np.testing.assert_allclose(reduce.var(x, 0), x.var(0, dtype=np.float64), rtol=1e-4)
    y = norm.standardize(x.T.copy())[0]
    np.testing.assert_allclose(y.std(1, dtype=np.float64), 1.0, rtol=1e-4)


def test_sums_over_a_million_rows_keep_six_digits() -> None:
    x = np.full((1_000_000, 2), 0.1, np.float32)
    exact = x.sum(0, dtype=np.float64)
    np.testing.assert_allclose(reduce.sum_(x, 0), exact, rtol=2e-6)
    np.testing.assert_allclose(reduce.sum_to(x, (2,)), exact, rtol=2e-6)
    np.testing.assert_allclose(reduce.mean(x, 0), exact / len(x), rtol=2e-6)


def test_half_precision_is_summed_in_single_precision() -> None:
    x = np.full((4000, 2), 0.1, np.float16)
    assert reduce.mean(x, 0) == pytest.approx(0.1, rel=2e-3)
    assert reduce.var(x + np.float16(10)) == pytest.approx(0.0, abs=1e-4)
    out, mean, _ = norm.batch_norm(np.full((4000, 2), 30, np.float16), np.ones(2, np.float16), np.zeros(2, np.float16))
    assert (out.dtype, mean.dtype) == (np.float16, np.float32) and mean.tolist() == [30.0, 30.0]


@pytest.mark.parametrize("name", ["matmul", "fully_connected", "convolution"])
def test_half_precision_products_are_accumulated_in_single_precision(name: str) -> None:
    x = np.full((1, 4096), 0.1, np.float16)
    exact = 4096 * float(x[0, 0]) ** 2
    if name == "matmul":
        out = linalg.matmul(x, x.T)
    elif name == "fully_connected":
        out = linalg.fully_connected(x, x)
    else:
        out = convolution(x.reshape(1, 1, -1), x.reshape(1, 1, -1))
    assert out.dtype == np.float16 and float(out.reshape(-1)[0]) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "f",
    [
        activation.sigmoid, activation.log_sigmoid, activation.silu, activation.softplus, activation.elu,
        activation.gelu, activation.selu, activation.mish, loss.softmax, loss.log_softmax, reduce.logsumexp,
    ],
)  # fmt: skip
def test_large_arguments_neither_overflow_nor_warn(f: Any, dtype: Any) -> None:
    x = Tensor(np.array([-30000.0, -100.0, -1.0, 0.0, 1.0, 100.0, 30000.0], dtype))
    x.attach_grad()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        if dtype == np.float16 and f in (activation.gelu,):
            x = x[1:-1]
            x.attach_grad()
        with autograd.record():
            y = f(x)
        y.backward()
    assert np.isfinite(y.asnumpy()).all() and x.grad is not None and np.isfinite(x.grad.asnumpy()).all()


def test_small_probabilities_keep_their_logarithm() -> None:
    x = np.array([[0.0, 200.0]], np.float32)
    assert loss.log_softmax(x).tolist() == [[-200.0, 0.0]]
    assert loss.softmax_cross_entropy(x, np.array([0])).tolist() == [200.0]
    assert activation.log_sigmoid(np.float32(-200.0)) == -200.0
    assert activation.sigmoid(np.array(-80.0, np.float32)) == pytest.approx(np.exp(-80.0), rel=1e-5)


def test_rows_of_minus_infinity_are_masks() -> None:
    x = np.array([[1.0, -np.inf], [-np.inf, -np.inf]])
    assert loss.softmax(x[:1]).tolist() == [[1.0, 0.0]]
    assert reduce.logsumexp(x, 1).tolist() == [1.0, -np.inf]
    masked = npx.masked_softmax(Tensor(np.ones((2, 2))), Tensor(np.array([[True, False], [False, False]])))
    assert masked.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(IndexError, match="labels from 0 to 3, but the scores are for 3 classes"):
        npx.softmax_cross_entropy(Tensor(np.ones((2, 3))), Tensor(np.array([0, 3])))


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: (x * x).sum(), lambda x: x.mean(0).sum()])
def test_gradients_stay_in_the_dtype(f: Any) -> None:
    x = Tensor(np.ones((40, 3), np.float16))
    x.attach_grad()
    with autograd.record():
        y = f(x)
    y.backward()
    assert x.grad is not None and x.grad.dtype == np.float16 == y.dtype


def test_convolutions_keep_channels_last_memory_and_the_public_order_of_axes() -> None:
    x = np.ones((2, 3, 8, 8), np.float32)
    y = conv.convolution(x, np.ones((4, 3, 3, 3), np.float32))
    assert y.shape == (2, 4, 6, 6) and y.transpose(0, 2, 3, 1).flags.c_contiguous
    z = activation.relu(y)
    assert z.transpose(0, 2, 3, 1).flags.c_contiguous
    assert shape.reshape(z, (2, -1)).flags.c_contiguous
    assert CPU.channel_sum(y, 1).tolist() == [27.0 * 72] * 4


def test_a_kernel_of_one_element_copies_nothing() -> None:
    x = np.ones((2, 8, 8, 3), np.float32).transpose(0, 3, 1, 2)
    windows, space = conv._windows(CPU, x, (1, 1), 1, 0, 1, 1)
    assert np.shares_memory(windows, x) and space == (8, 8)


def test_adding_rows_at_repeated_places_adds_each_of_them() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 7, 50):
        index = rng.integers(-10, 10, count)
        g = rng.standard_normal((count, 3))
        expected = np.zeros((10, 3))
        np.add.at(expected, index, g)
        np.testing.assert_allclose(take_add(g, index, shape=(10, 3), axis=0), expected, atol=1e-12)
