"""Row-sparse gradients of tables in graphs."""

from typing import Any

import numpy as np
import pytest

from shoal import autograd, nn
from shoal import np as snp
from shoal.ops.tensor import Tensor

ONE, TWO = np.array([[4, 1], [4, -6]]), np.array([5, 1])


class Twice(nn.HybridBlock):
    """Looks a table up twice; ``how`` says what else it does with it."""

    def __init__(self, how: str, sparse: bool = True) -> None:
        super().__init__()
        self.table, self.how = nn.Embedding(6, 3, sparse_grad=sparse), how

    def forward(self, a: Any, b: Any) -> Any:
        first, second = self.table(a), self.table(b)
        if self.how == "tied":
            return snp.dot(first, self.table.weight.data().T).sum() + (second * second).sum()
        if self.how == "shown":
            return self.table.weight.data(), (first * 2.0).sum()
        if self.how == "nothing":
            return (first * 0.0).sum()
        return (first * first).sum() + (second * second * second).sum()


def gradient(how: str, active: bool, sparse: bool = True, early: bool = False) -> Any:
    net = Twice(how, sparse)
    net.initialize("normal", seed=1)
    net.hybridize(active)
    ready: list[Any] = []
    net.table.weight.data()
    if early:
        net.table.weight.leaf().ready = lambda: ready.append(net.table.weight.leaf().grad.asnumpy())
    for _ in range(2):
        with autograd.record():
            out = net(Tensor(ONE), Tensor(TWO))
            (out[1] if isinstance(out, tuple) else out).backward()
    assert not early or len(ready) == 2
    return net.table.weight.grad()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("how", ["plain", "tied", "shown", "nothing"])
def test_the_gradient_is_that_of_imperative_execution(how: str, early: bool) -> None:
    found, expected = gradient(how, True, early=early), gradient(how, False)
    np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-6)
    np.testing.assert_allclose(found.asnumpy(), gradient(how, True, sparse=False).asnumpy(), rtol=1e-6)


def test_rows_that_were_looked_up_are_there_whatever_their_gradient() -> None:
    assert gradient("nothing", True).indices.tolist() == [0, 1, 4]
    assert gradient("plain", True).indices.tolist() == [0, 1, 4, 5]


def test_the_graph_has_no_array_of_the_whole_table_but_the_table() -> None:
    net = Twice("plain")
    net.initialize()
    net.hybridize()
    with autograd.record():
        net(Tensor(ONE), Tensor(TWO)).backward()
        (found,) = net._compile().traces.values()
        (program,) = found.programs.values()
    shapes = [spec.shape for call in program.graph.calls if call.op for spec in call.specs]
    assert (6, 3) not in shapes


def test_second_derivatives_are_whole_and_right() -> None:
    results = []
    for active in (False, True):
        net = Twice("plain")
        net.initialize("normal", seed=1)
        net.hybridize(active)
        weight = net.table.weight.data()
        with autograd.record():
            (g,) = autograd.grad(net(Tensor(ONE), Tensor(TWO)), [weight], create_graph=True)
            (g * g).sum().backward()
        results.append(net.table.weight.grad().asnumpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
