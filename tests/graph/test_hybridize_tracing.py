"""What a trace takes: inputs and outputs of every structure, surroundings, branches; and what it refuses, where."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import GraphError, ShapeError
from shoal.ops import autograd
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor, array
from tests.graph.hybrids import floats, initialized, mlp


def test_nested_inputs_and_outputs_keep_their_structure() -> None:
    class Nested(nn.HybridBlock):
        def forward(self, pair: Any, scale: float, extra: Any = None) -> Any:
            a, b = pair
            out = {"sum": (a + b) * scale, "parts": [a, (b, "name", None)]}
            if extra is not None:
                out["extra"] = extra["x"] - a
            return out

    net = Nested()
    a, b = array([1.0, 2.0]), array([3.0, 5.0])
    plain = net([a, b], 2.0, {"x": b})
    net.hybridize()
    for _ in range(3):
        found = net([a, b], 2.0, {"x": b})
        assert list(found) == ["sum", "parts", "extra"]
        assert found["sum"].tolist() == plain["sum"].tolist() == [8.0, 14.0]
        assert found["parts"][0].tolist() == [1.0, 2.0]
        assert found["parts"][1][1:] == ("name", None)
        assert found["extra"].tolist() == [2.0, 3.0]
    assert net([a, b], 3.0)["sum"].tolist() == [12.0, 21.0]


def test_a_tensor_of_the_surroundings_is_read_at_each_call_and_gets_its_gradient() -> None:
    outer = array([2.0, 3.0])
    outer.attach_grad()

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x * outer

    net = Using()
    net.hybridize()
    with autograd.record():
        net(array([1.0, 10.0])).backward()
    assert outer.grad is not None and outer.grad.tolist() == [1.0, 10.0]
    outer.data[...] = 5.0
    assert net(array([1.0, 10.0])).tolist() == [5.0, 50.0]


def test_arrays_are_constants_that_the_caller_cannot_reach() -> None:
    table = np.array([1.0, 2.0], dtype="float32")

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x + table, nn.Identity()(x) * 0.0 + 1.0

    net = Using()
    net.hybridize()
    one, _ = net(array([0.0, 0.0]))
    one.data[...] = 99.0
    assert net(array([0.0, 0.0]))[0].tolist() == [1.0, 2.0]


def test_a_wrong_shape_names_the_layer_as_it_does_imperatively() -> None:
    net = nn.HybridSequential(nn.Dense(4, in_units=3), nn.Dense(2, in_units=4))
    net.initialize()
    net.hybridize()
    with pytest.raises(ShapeError, match=r"Dense '0'.*\(5, 7\)"):
        net(Tensor(np.ones((5, 7), dtype="float32")))


class Branching(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0.0:  # the line to blame
            return x * 2.0
        return x * 3.0


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "the truth value": lambda x: x if x.sum() > 0.0 else -x,
    "float()": lambda x: x * float(x.sum()),
    "int()": lambda x: x * int(x.sum()),
    "an index": lambda x: x * range(5)[x.sum()],
    ".asnumpy": lambda x: x * x.asnumpy(),
    ".item": lambda x: x * x.sum().item(),
    "a NumPy array": lambda x: x * np.asarray(x),
    ".backward": lambda x: x.backward(),
    ".tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_asking_a_symbol_for_values_points_at_the_line(what: str) -> None:
    class Asking(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return QUESTIONS[what](x)

    net = Asking()
    net.hybridize()
    with pytest.raises(
        GraphError, match=r"test_hybridize_tracing\.py:\d+, in <lambda>: `.*lambda x:.*` needs " + "?"
    ) as caught:
        net(array([1.0, 2.0]))
    assert f"needs {what} of <Symbol" in str(caught.value)
    assert "where()" in str(caught.value)


def test_writing_into_a_symbol_points_at_the_line() -> None:
    class Writing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            x[0] = 1.0
            return x

    net = Writing()
    net.hybridize()
    with pytest.raises(GraphError, match=r"in forward: `x\[0\] = 1\.0` assigns to a part of"):
        net(array([1.0, 2.0]))


def test_a_branch_on_values_is_an_error_that_names_the_way_out() -> None:
    net = nn.HybridSequential(Branching())
    net.hybridize()
    with pytest.raises(GraphError, match=r"`if x\.sum\(\) > 0\.0:.*strict=False"):
        net(array([1.0]))


def test_without_strict_it_runs_imperatively_and_says_so_once() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=1), Branching())
    net.initialize(init.One())
    net.hybridize(strict=False)
    with pytest.warns(RuntimeWarning, match="HybridSequential runs imperatively.*the line to blame") as caught:
        assert net(array([[1.0]])).tolist() == [[2.0, 2.0]]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert net(array([[-1.0]])).tolist() == [[-3.0, -3.0]]


def test_branches_on_shapes_and_modes_are_fine() -> None:
    class Choosing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            if x.shape[0] > 2 and autograd.is_training():
                return x * 2.0
            return x

    net = Choosing()
    net.hybridize()
    three = array([1.0, 1.0, 1.0])
    with autograd.record():
        assert net(three).tolist() == [2.0, 2.0, 2.0]
    assert net(three).tolist() == [1.0, 1.0, 1.0]
    with autograd.record():
        assert net(array([1.0])).tolist() == [1.0]


def test_an_exception_in_forward_leaves_no_trace_behind() -> None:
    class Failing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            raise ValueError("mine")

    net = Failing()
    net.hybridize()
    with pytest.raises(ValueError, match="mine"), autograd.record():
        net(array([1.0]))
    other = initialized(mlp, False)
    assert isinstance(other(floats(2, 4)(np.random.default_rng(0))), Tensor)
    assert not autograd.is_recording()


def test_a_custom_function_cannot_be_traced() -> None:
    class Double(autograd.Function):
        def forward(self, x: Any) -> Any:
            return x * 2.0

        def backward(self, dy: Any) -> Any:
            return dy * 2.0

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return Double()(x)

    net = Using()
    net.hybridize()
    with pytest.raises(GraphError, match="Double is a custom Function"):
        net(array([1.0]))


def test_any_function_of_tensors_can_be_compiled() -> None:
    compiled = Compiled(lambda x, y: (x * y).sum(), "product")
    x = array([1.0, 2.0])
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            compiled(x, array([3.0, 4.0])).backward()
        assert x.grad is not None and x.grad.tolist() == [3.0, 4.0]


def test_arguments_can_be_given_by_name() -> None:
    class Masked(nn.HybridBlock):
        def forward(self, x: Any, mask: Any = None, scale: float = 1.0) -> Any:
            return (x if mask is None else x * mask) * scale

    net = Masked()
    net.hybridize()
    x, mask = array([1.0, 2.0]), array([0.0, 1.0])
    for _ in range(2):
        assert net(x).tolist() == [1.0, 2.0]
        assert net(x, mask=mask).tolist() == [0.0, 2.0]
        assert net(x, scale=3.0, mask=mask).tolist() == [0.0, 6.0]


def test_arrays_as_arguments_become_tensors() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=3))
    net.initialize()
    plain = net(np.ones((1, 3), dtype="float32")).tolist()
    net.hybridize()
    assert [net(np.ones((1, 3), dtype="float32")).tolist() for _ in range(2)] == [plain] * 2
    assert net._compiled is not None and len(net._compiled.traces) == 1


def test_an_argument_that_cannot_be_compared_is_refused() -> None:
    class Taking(nn.HybridBlock):
        def forward(self, x: Any, options: Any) -> Any:
            return x

    net = Taking()
    net.hybridize()
    with pytest.raises(GraphError, match="argument of type set"):
        net(array([1.0]), {1, 2})


def test_a_tensor_that_was_computed_outside_while_recording_is_refused() -> None:
    x = array([1.0])
    x.attach_grad()
    outer: list[Tensor] = []

    class Using(nn.HybridBlock):
        def forward(self, y: Any) -> Any:
            return y * outer[0]

    net = Using()
    net.hybridize()
    with autograd.record():
        outer.append(x * 2.0)
        with pytest.raises(
            GraphError, match=r"a tensor of shape \(1,\) that was computed outside.*Pass it as an argument"
        ):
            net(x)
