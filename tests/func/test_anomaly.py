"""Which operator made the first NaN."""

from typing import Any

import numpy as np
import pytest

from shoal import autograd, func, nn
from shoal import np as mnp
from shoal.errors import AutogradError
from shoal.ops.tensor import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")


def variable(*values: float) -> Tensor:
    x = Tensor(np.array(values))
    x.attach_grad()
    return x


def test_the_forward_operator_that_made_it_is_named_with_its_line_and_the_range_of_its_inputs() -> None:
    y = mnp.exp(variable(1.0, -2.0, 3.0)) - 1.0
    with pytest.raises(AutogradError) as caught, autograd.detect_anomaly():
        mnp.log(y)  # here
    text = str(caught.value)
    assert "first NaN, in the forward pass (imperative): 1 of 3 elements of the result of operator 'log'" in text
    assert "test_anomaly.py" in text and "# here" in text and "from -0.8647 to 19.09" in text
    assert "maximum(x, eps)" in text


def test_the_gradient_rule_that_made_it_is_named_with_the_line_of_its_forward() -> None:
    x = variable(0.0, 4.0)
    with autograd.detect_anomaly(), autograd.record():
        y = mnp.sqrt(x)  # its slope at 0 is infinite
        loss = (y * Tensor(np.array([0.0, 1.0]))).sum()
        with pytest.raises(AutogradError) as caught:
            loss.backward()
    text = str(caught.value)
    assert "in the backward pass (imperative): 1 of 2 elements of the gradient 0 of operator 'sqrt'" in text
    assert "# its slope at 0 is infinite" in text


def test_a_nan_that_came_with_the_data_is_said_to() -> None:
    came = r"'add'.*It came in with input 1, which no operator here has made"
    with pytest.raises(AutogradError, match=came), autograd.detect_anomaly():
        _ = Tensor(np.ones(2)) + Tensor(np.array([1.0, np.nan]))


class Logarithm(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        return mnp.log(x - 1.0) * 2.0  # of a negative number


class Root(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        return mnp.sqrt(x * x).sum() * 0.0  # no slope


def test_a_hybridized_run_names_the_operator_and_the_line_of_the_forward() -> None:
    net = Logarithm()
    net.hybridize()
    for _ in range(3):
        net(Tensor(np.full(2, 3.0)))
    said = r"forward pass \(hybrid\).*'log'.*# of a negative number"
    with pytest.raises(AutogradError, match=said), autograd.detect_anomaly():
        net(Tensor(np.full(2, 0.5)))


def test_a_hybridized_backward_pass_too() -> None:
    net, x = Root(), variable(0.0, 1.0)
    net.hybridize()
    with autograd.detect_anomaly(), autograd.record():
        y = net(x)
        with pytest.raises(AutogradError, match=r"backward pass \(hybrid\).*# no slope"):
            y.backward()


def test_infinities_are_looked_for_if_asked() -> None:
    x = Tensor(np.array([0.0, 1.0]))
    with autograd.detect_anomaly():
        assert mnp.log(x).shape == (2,)
    with pytest.raises(AutogradError, match="the first inf"), autograd.detect_anomaly(check_inf=True):
        mnp.log(x)


def test_inside_functions_of_functions() -> None:
    with pytest.raises(AutogradError, match="'log'"), autograd.detect_anomaly():
        func.vmap(func.grad(lambda x: mnp.log(x)))(Tensor(np.array([-1.0, 2.0])))


def test_with_lines_only_nothing_is_looked_for_but_errors_know_the_line() -> None:
    x = variable(-1.0)
    with autograd.detect_anomaly(check_nan=False), autograd.record():
        y = mnp.log(x)  # recorded here
    y.backward()
    with pytest.raises(
        AutogradError, match=r"freed by an earlier backward pass \(at operator 'log', called at .*# rec"
    ):
        y.backward()


def test_outside_nothing_is_looked_for() -> None:
    assert np.isnan(mnp.log(Tensor(np.array(-1.0))).item())
