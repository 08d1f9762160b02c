"""NumPy's own functions, called with tensors and symbols."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import autograd, nn
from shoal.errors import AutogradError, DTypeError, GraphError
from shoal.ops.protocols import counterpart
from shoal.ops.tensor import Tensor

A = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
B = np.array([0.5, 1.0, 2.0])


def variable(values: Any) -> Tensor:
    x = Tensor(values.copy())
    x.attach_grad()
    return x


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "sin": lambda x, y: np.sin(x),
    "add": lambda x, y: np.add(y, x),
    "array times tensor": lambda x, y: B * x,
    "array minus tensor": lambda x, y: B - x,
    "array over tensor": lambda x, y: A / y,
    "array to the tensor": lambda x, y: B**y,
    "array matmul tensor": lambda x, y: A @ y,
    "scalar times tensor": lambda x, y: np.float64(3.0) * x,
    "concatenate": lambda x, y: np.concatenate([x, x * y], axis=1),
    "stack": lambda x, y: np.stack([y, y * y]),
    "vstack": lambda x, y: np.vstack([x, y]),
    "sum": lambda x, y: np.sum(x * y, axis=0),
    "mean": lambda x, y: np.mean(x, axis=1, keepdims=True),
    "max": lambda x, y: np.max(x, axis=0),
    "where": lambda x, y: np.where(x > 0, x, y),
    "reshape": lambda x, y: np.reshape(x, (3, 2)),
    "transpose": lambda x, y: np.transpose(x),
    "expand_dims": lambda x, y: np.expand_dims(x, 0),
    "matmul": lambda x, y: np.matmul(x, y),
    "dot": lambda x, y: np.dot(x, y),
    "einsum": lambda x, y: np.einsum("ij,j->i", x, y),
    "tensordot": lambda x, y: np.tensordot(x, y, 1),
    "clip": lambda x, y: np.clip(x, -1.5, 2.5),
    "clip by arrays": lambda x, y: np.clip(x, -y, y),
    "cumsum": lambda x, y: np.cumsum(x, axis=1),
    "add.reduce": lambda x, y: np.add.reduce(x * y),
    "add.reduce over all": lambda x, y: np.add.reduce(x * y, axis=None),
    "maximum.reduce": lambda x, y: np.maximum.reduce(x, axis=1),
    "multiply.reduce": lambda x, y: np.multiply.reduce(x, axis=1),
    "add.accumulate": lambda x, y: np.add.accumulate(x, axis=1),
    "multiply.outer": lambda x, y: np.multiply.outer(x, y),
    "subtract.outer": lambda x, y: np.subtract.outer(B, y),
    "where=": lambda x, y: np.exp(y, where=np.array([True, True, True]), out=None),
    "dtype=": lambda x, y: np.exp(y, dtype=np.float64),
    "divmod": lambda x, y: np.divmod(x + 0.1, y)[1],
    "linalg.norm": lambda x, y: np.linalg.norm(x, axis=1),
    "pad": lambda x, y: np.pad(x, 1),
    "sort": lambda x, y: np.sort(x, axis=1),
    "square and sqrt": lambda x, y: np.sqrt(np.square(x) + 1.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_numpy_function_of_tensors_is_ours_and_keeps_the_tape(name: str) -> None:
    x, y = variable(A), variable(B)
    with autograd.record():
        out = CALLS[name](x, y)
        (out * out).sum().backward()
    expected = CALLS[name](A, B)
    assert type(out) is Tensor and out.dtype == expected.dtype
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=1e-12)
    rng = np.random.default_rng(3)
    dx, dy, step = rng.standard_normal(A.shape), rng.standard_normal(B.shape), 1e-6
    up, down = (np.square(CALLS[name](A + s * dx, B + s * dy)).sum() for s in (step, -step))
    assert x.grad is not None and y.grad is not None
    slope = float((x.grad.asnumpy() * dx).sum() + (y.grad.asnumpy() * dy).sum())
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "divmod"])
def test_a_model_written_with_numpys_functions_hybridizes(name: str) -> None:
    class Model(nn.HybridBlock):  # type: ignore[misc]  # nn is typed loosely for tests
        def forward(self, x: Any, y: Any) -> Any:
            return CALLS[name](x, y)

    model = Model()
    model.hybridize()
    out = model(Tensor(A), Tensor(B))
    np.testing.assert_allclose(out.asnumpy(), CALLS[name](A, B), rtol=1e-12)


def test_what_only_numpy_has_is_computed_by_numpy_off_the_tape() -> None:
    assert counterpart(np.unwrap) is None
    x = Tensor(B)
    out = np.unwrap(x)
    assert type(out) is Tensor
    np.testing.assert_array_equal(out.asnumpy(), np.unwrap(B))
    assert np.array2string(x) == np.array2string(B)


def test_what_only_numpy_has_would_lose_the_gradient_and_says_so() -> None:
    x = variable(B)
    with autograd.record():
        with pytest.raises(AutogradError, match=r"numpy\.unwrap .*detach"):
            np.unwrap(x)
        with pytest.raises(AutogradError, match=r"numpy\.reduceat"):
            np.add.reduceat(x, [0, 1])
        assert type(np.unwrap(x.detach())) is Tensor


def test_what_only_numpy_has_cannot_be_in_a_graph_and_says_where() -> None:
    class Model(nn.HybridBlock):  # type: ignore[misc]  # nn is typed loosely for tests
        def forward(self, x: Any) -> Any:
            return np.unwrap(x)

    model = Model()
    model.hybridize()
    with pytest.raises(GraphError, match=r"np\.unwrap"):
        model(Tensor(B))


def test_out_is_written_to_tensors_and_arrays_and_never_loses_a_gradient() -> None:
    x, into = Tensor(B), Tensor(np.zeros(3))
    assert np.add(x, 1.0, out=into) is into and into.tolist() == (B + 1.0).tolist()
    values = np.zeros(3)
    values += x
    assert type(values) is np.ndarray and values.tolist() == B.tolist()
    assert np.sum(Tensor(A), axis=0, out=into) is into and into.tolist() == A.sum(0).tolist()
    with autograd.record(), pytest.raises(AutogradError, match="would be lost"):
        values += variable(B)
    y = variable(B)
    with autograd.record():
        into = Tensor(np.zeros(3))
        np.multiply(y, 2.0, out=into)
        into.backward()
    assert y.grad is not None and y.grad.tolist() == [2.0, 2.0, 2.0]


def test_options_that_tensors_do_not_take_are_named() -> None:
    with pytest.raises(DTypeError, match="casting"):
        np.add(Tensor(B), 1.0, casting="unsafe")


def test_other_libraries_have_the_first_say() -> None:
    class Other:
        def __array_ufunc__(self, *args: Any, **options: Any) -> str:
            return "other"

        def __array_function__(self, *args: Any) -> str:
            return "other"

    assert np.add(Tensor(B), Other()) == "other"
    assert np.concatenate([Tensor(B), Other()]) == "other"


# -- arrays and memory


def test_conversion_to_an_array_copies_only_if_asked_or_needed() -> None:
    x = Tensor(B.copy())
    assert np.asarray(x) is x.data and np.asarray(x, copy=False) is x.data
    assert not np.shares_memory(np.array(x), x.data) and not np.shares_memory(np.asarray(x, copy=True), x.data)
    assert np.asarray(x, dtype="float32").dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype="float32", copy=False)


def test_a_recorded_tensor_converts_to_its_values() -> None:
    x = variable(B)
    with autograd.record():
        assert np.asarray(x * 2.0).tolist() == (B * 2.0).tolist()
