"""Custom Functions: operations with a backward of their own."""

import copy
from typing import Any

import numpy as np
import pytest

from shoal import autograd
from shoal.errors import AutogradError, GraphError, ShapeError
from shoal.ops import elementwise as F
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor, array
from tests.ops.test_autograd import gradient, variable


class Swish(autograd.Function):
    """x * sigmoid(beta * x)."""

    def forward(self, x: Any, beta: Any) -> Any:
        s = 1.0 / (1.0 + F.exp(-(beta * x)))
        self.save_for_backward(x, beta, s)
        return x * s

    def backward(self, g: Any) -> Any:
        x, beta, s = self.saved_tensors
        return g * (s + beta * x * s * (1.0 - s)), (g * x * x * s * (1.0 - s)).sum()


def test_a_custom_function_has_its_own_gradient() -> None:
    x, beta = variable(0.5, -1.0), Tensor(np.array(2.0))
    beta.attach_grad()
    with autograd.record():
        y = Swish()(x, beta)
    y.backward()
    h = 1e-6
    v = np.array([0.5, -1.0])
    swish = lambda v, b: v / (1 + np.exp(-b * v))  # noqa: E731
    np.testing.assert_allclose(gradient(x), (swish(v + h, 2.0) - swish(v - h, 2.0)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(gradient(beta), ((swish(v, 2 + h) - swish(v, 2 - h)) / (2 * h)).sum(), rtol=1e-6)


def test_a_custom_function_can_be_differentiated_twice() -> None:
    class Cube(autograd.Function):
        def forward(self, x: Any) -> Any:
            self.save_for_backward(x)
            return x**3

        def backward(self, g: Any) -> Any:
            (x,) = self.saved_tensors
            return g * 3.0 * x * x

    x = variable(2.0)
    with autograd.record():
        g = autograd.grad(Cube()(x), x, create_graph=True)
    g.backward()
    assert gradient(x) == 12.0


class Square(autograd.Function):
    def forward(self, x: Any) -> Any:
        self.save_for_backward(x)
        self.twice = 2.0 * x.item()
        return x * x

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        assert self.twice == 2.0 * x.item()
        return g * 2.0 * x


@pytest.mark.parametrize(
    ("program", "slopes"),
    [(lambda f, a, b: f(a) + f(b), (4.0, 6.0)), (lambda f, a, b: f(f(a)) * b, (96.0, 16.0))],
)
def test_each_call_of_a_custom_function_has_what_it_saved(program: Any, slopes: tuple[float, float]) -> None:
    f, a, b = Square(), variable(2.0), variable(3.0)
    with autograd.record():
        y = program(f, a, b)
    f(array([9.0]))
    y.backward()
    assert (gradient(a), gradient(b)) == slopes


def test_a_custom_function_that_was_called_can_be_copied() -> None:
    f, x = Square(), variable(2.0)
    with autograd.record():
        y = f(x)
    copy.deepcopy(f)(array([9.0]))
    y.backward()
    assert gradient(x) == 4.0


def test_a_custom_function_may_have_several_outputs_and_inputs_without_gradient() -> None:
    class Both(autograd.Function):
        def forward(self, x: Any, times: Any) -> Any:
            return x * times, x + times

        def backward(self, a: Any, b: Any) -> Any:
            return a * 3.0 + b, None

    x = variable(2.0)
    with autograd.record():
        product, total = Both()(x, 3.0)
    autograd.backward([product, total], [None, array([10.0])])
    assert gradient(x) == 13.0
    with autograd.record():
        _, total = Both()(x, 3.0)
    total.backward()
    assert gradient(x) == 1.0


def test_the_backward_of_a_custom_function_sees_the_given_mode() -> None:
    seen = []

    class Noted(autograd.Function):
        def forward(self, x: Any) -> Any:
            seen.append((autograd.is_recording(), autograd.is_training()))
            return x * 1.0

        def backward(self, g: Any) -> Any:
            seen.append((autograd.is_recording(), autograd.is_training()))
            return g

    x = variable(1.0)
    with autograd.record():
        y = Noted()(x)
    y.backward(train_mode=False)
    assert seen == [(False, True), (False, False)]


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (lambda g: (g, g), AutogradError, "2 gradients for 1 inputs"),
        (lambda g: g[:1], ShapeError, "shape (1,) for an input of (2,)"),
    ],
)
def test_a_wrong_custom_backward_is_named(result: Any, error: type[Exception], words: str) -> None:
    class Wrong(autograd.Function):
        def forward(self, x: Any) -> Any:
            return x * 1.0

        def backward(self, g: Any) -> Any:
            return result(g)

    x = variable(1.0, 2.0)
    with autograd.record():
        y = Wrong()(x)
    with pytest.raises(error, match=r"Wrong\.backward") as caught:
        y.backward()
    assert words in str(caught.value)


def test_a_custom_function_cannot_become_part_of_a_graph() -> None:
    class Symbolic(Traced):
        pass

    with pytest.raises(GraphError, match="Swish is a custom Function"):
        Swish()(Symbolic(), 1.0)
