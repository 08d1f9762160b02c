"""Convolutions and batch normalizations take over what only they feed."""

from typing import Any

import numpy as np
import pytest

import shoal.npx
from shoal import init, nn
from shoal.ops import autograd
from shoal.ops.backend import CPU
from shoal.ops.graph.executor import Program
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.join import join
from shoal.ops.graph.symbol import Symbol, flatten, variable
from shoal.ops.registry import OPS, Spec
from shoal.ops.tensor import Tensor

assert shoal.npx  # imported for the operators that it registers

F4 = np.dtype("float32")
RNG = np.random.default_rng(3)


def image(name: str = "x") -> Symbol:
    return variable(name, Spec((2, 3, 4, 5), F4))


def vector(name: str) -> Symbol:
    return variable(name, Spec((3,), F4))


def kernel(name: str = "w") -> Symbol:
    return variable(name, Spec((3, 3, 3, 3), F4))


def norm(x: Any) -> Any:
    return OPS["batch_norm"](x, vector("gamma"), vector("beta"))


def ops_of(graph: Graph) -> list[str]:
    return [call.op for _, call in graph.operators()]


def same(outputs: list[Any]) -> Graph:
    """The joined graph, after proving that it computes the same bits."""
    graph, _ = flatten(outputs)
    made = join(graph).check()
    arrays = [RNG.standard_normal(graph.spec((p, 0)).shape).astype(F4) for p in graph.inputs]
    for a, b in zip(Program(graph, CPU)(*arrays), Program(made, CPU)(*arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    return made


def test_a_relu_goes_into_the_convolution_before_it() -> None:
    assert ops_of(same([OPS["relu"](OPS["convolution"](image(), kernel(), vector("b"), pad=1))])) == [
        "convolution_relu"
    ]


def test_a_relu_goes_into_the_normalization_before_it_and_the_statistics_are_still_there() -> None:
    y, mean, var = norm(image())
    made = same([OPS["relu"](y), mean * 2.0, var + 1.0])
    assert ops_of(made) == ["batch_norm_relu", "multiply", "add"]


def test_statistics_that_are_used_before_the_relu_come_after_the_joined_call() -> None:
    y, mean, _ = norm(image())
    follow = mean * 2.0
    made = same([follow, OPS["relu"](y)])
    assert ops_of(made) == ["batch_norm_relu", "multiply"]


@pytest.mark.parametrize("first", [True, False])
def test_the_addition_of_a_shortcut_goes_with_it(first: bool) -> None:
    x = image()
    y, _, _ = norm(OPS["convolution"](x, kernel(), None, pad=1))
    made = same([OPS["relu"](y + x if first else x + y)])
    assert ops_of(made) == ["convolution", "batch_norm_relu"]


def test_a_shortcut_that_is_computed_later_comes_before_the_joined_call() -> None:
    x = image()
    y, _, _ = norm(x)
    shortcut, _, _ = norm(OPS["convolution"](x, kernel(), None, pad=1))
    made = same([OPS["relu"](y + shortcut)])
    assert ops_of(made) == ["convolution", "batch_norm", "batch_norm_relu"]


def test_what_somebody_else_uses_stays() -> None:
    y, _, _ = norm(image())
    assert "relu" in ops_of(same([OPS["relu"](y), y * 2.0]))
    c = OPS["convolution"](image(), kernel(), None, pad=1)
    assert "relu" in ops_of(same([OPS["relu"](c), c]))
    total = norm(image())[0] + image("z")
    assert "relu" in ops_of(same([OPS["relu"](total), total]))


def test_a_shortcut_that_broadcasts_stays_outside() -> None:
    y, _, _ = norm(image())
    assert "add" in ops_of(same([OPS["relu"](y + variable("s", Spec((4, 5), F4)))]))


def test_a_value_added_to_itself_stays() -> None:
    y, _, _ = norm(image())
    assert "batch_norm_relu" not in ops_of(same([OPS["relu"](y + y)]))


def test_two_rectified_sums_of_one_normalization_stay() -> None:
    y, _, _ = norm(image())
    made = same([OPS["relu"](y + image("a")), OPS["relu"](y + image("b"))])
    assert "batch_norm" in ops_of(made)


def test_a_graph_without_such_calls_is_returned_as_it_is() -> None:
    graph, _ = flatten([OPS["relu"](image() * 2.0)])
    assert join(graph) is graph


class Residual(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2D(4, 3, padding=1, use_bias=False), nn.BatchNorm()
        self.c, self.d = nn.Conv2D(4, 3, padding=1), nn.BatchNorm()
        self.act = nn.Activation("relu")

    def forward(self, x: Any) -> Any:
        return self.act(self.d(self.c(self.act(self.b(self.a(x))))) + x)


def test_a_hybridized_block_has_the_same_gradients_and_running_averages_with_and_without() -> None:
    results = []
    for passes in ("all", "-join", "none"):
        block = Residual()
        block.initialize(init.Xavier(), seed=5)
        block.hybridize(passes=passes)
        x = Tensor(np.random.default_rng(1).standard_normal((2, 4, 6, 6)).astype("float32"))
        for _ in range(3):
            with autograd.record():
                out = block(x)
            out.backward()
        params = block.collect_params().values()
        found = [p.grad().asnumpy() for p in params if p.grad_req != "null"]
        results.append([out.asnumpy(), *found, *(p.data().asnumpy() for p in params)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
