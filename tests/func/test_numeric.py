"""The checks that users run on their own functions and operators: they pass what is right and name what is wrong."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal import autograd, nn
from shoal import np as mnp
from shoal.errors import ConfigError
from shoal.ops import specs
from shoal.ops.registry import OPS, Array, Op, Spec, op, operator
from shoal.testing import check_gradient, check_operator

X = np.random.default_rng(4).standard_normal((3, 2))


class Cubed(autograd.Function):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Any) -> Any:
        self.save_for_backward(x)
        return x**3

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        return self.factor * g * x**2


def test_a_right_gradient_passes_and_a_wrong_one_is_named_with_its_element_and_both_numbers() -> None:
    check_gradient(lambda x: Cubed(3.0)(x), X)
    with pytest.raises(AssertionError, match=r"gradient of input 0, of shape \(3, 2\), is wrong at element \(0, 0\)"):
        check_gradient(lambda x: Cubed(2.0)(x), X)
    with pytest.raises(AssertionError, match="random direction 0"):
        check_gradient(lambda x: Cubed(2.0)(x), X, directions=3)


def test_nested_inputs_and_results_of_which_some_are_not_varied() -> None:
    def fn(p: Any, index: Any, scale: float) -> Any:
        return {"y": p["w"].take(index, axis=0) * scale}, (p["b"] * 2.0, 3)

    check_gradient(fn, {"w": X, "b": X[0]}, np.array([0, 2, 2]), 2.0, second=True)


def test_a_block_is_checked_with_its_parameters() -> None:
    net = nn.HybridSequential(nn.Dense(3, in_units=2, activation="tanh"), nn.LayerNorm(in_channels=3))
    net.initialize("normal")
    net.cast("float64")
    check_gradient(net, X, second=True)
    net.hybridize()
    check_gradient(net, X)


def test_a_wrong_second_derivative_is_found() -> None:
    class Rough(autograd.Function):
        def forward(self, x: Any) -> Any:
            self.save_for_backward(x)
            return mnp.sin(x)

        def backward(self, g: Any) -> Any:
            return g * mnp.cos(self.saved_tensors[0].detach())  # right, but a constant

    check_gradient(lambda x: Rough()(x), X)
    with pytest.raises(AssertionError, match="second derivative"):
        check_gradient(lambda x: Rough()(x), X, second=True)


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(ConfigError, match="input 0 is float32"):
        check_gradient(lambda x: x, X.astype(np.float32))
    with pytest.raises(ConfigError, match="no input holds"):
        check_gradient(lambda x: x, np.arange(3))


@pytest.fixture
def register() -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        OPS.pop(name, None)


def declared(names: list[str], *, wrong: str = "") -> Op[Any]:
    """Softsign, with a mistake."""

    def infer(op: Op[Any], x: Spec) -> Spec:
        return Spec((*x.shape, 1) if wrong == "infer" else x.shape, specs.result_dtype(op, [x]))

    @op(infer, elementwise=True)
    def my_softsign(xp: Any, x: Array) -> Any:
        """x / (1 + |x|)."""
        if wrong == "writes":
            x += 1.0
        return x / (1.0 + xp.abs(x))

    @my_softsign.vjp
    def rule(xp: Any, g: Any, out: Any, x: Any) -> Any:
        return (g / (1.0 + xp.abs(x)) if wrong == "rule" else g / xp.square(1.0 + xp.abs(x)),)

    assert rule is not None
    names.append("my_softsign")
    return my_softsign


def test_a_right_operator_passes(register: list[str]) -> None:
    check_operator(declared(register), X)
    check_operator(operator("matmul"), X, X.T.copy())
    check_operator(operator("take"), X, np.array([1, 0]), axis=0)
    check_operator(operator("argmax"), X, axis=1)


@pytest.mark.parametrize(
    ("wrong", "said"), [("infer", "infers"), ("writes", "writes to its inputs"), ("rule", "the gradient of input 0")]
)
def test_a_wrong_operator_is_found(register: list[str], wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_operator(declared(register, wrong=wrong), X)
