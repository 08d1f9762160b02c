"""Operators are opened where their gradient computes the same thing, and nowhere else; no bit changes."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal.ops import activation, loss
from shoal.ops.backend import CPU
from shoal.ops.graph.compiled import joined, trace_function
from shoal.ops.graph.executor import Program
from shoal.ops.graph.expression import C
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.passes import eliminate_common
from shoal.ops.graph.pipeline import PASSES, optimized
from shoal.ops.graph.share import share
from shoal.ops.native import table
from shoal.ops.tensor import Tensor

X = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def _without_kernels() -> Iterator[None]:
    with table.plain():
        yield


def both(fn: Any, x: Any = X) -> Graph:
    """The joint graph of a function of one tensor."""
    return joined(trace_function(fn, (Tensor(x),), {}), [True]).graph


def calls(graph: Graph) -> Counter[str]:
    return Counter(c.op for _, c in graph.operators())


def test_gelu_and_its_gradient_compute_one_error_function() -> None:
    before = both(activation.gelu)
    after = eliminate_common(share(before).check())
    assert (calls(before)["gelu"], calls(before)["erf"]) == (1, 1)
    assert (calls(after)["gelu"], calls(after)["erf"]) == (0, 1)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "softplus", "log_sigmoid"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_bit_changes(name: str, dtype: str) -> None:
    x = X.astype(dtype)
    before = both(getattr(activation, name), x)
    found = [Program(g, CPU, planned=False)(x, x) for g in (before, eliminate_common(share(before).check()))]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_without_a_gradient_nothing_is_opened() -> None:
    graph = trace_function(activation.gelu, (Tensor(X),), {}).graph()
    assert share(graph) is graph


def test_what_the_gradient_does_not_need_again_is_not_opened() -> None:
    graph = both(lambda x: activation.relu(x) * 2.0)
    assert share(graph) is graph


def test_an_opened_part_is_at_the_line_of_the_whole() -> None:
    graph = share(both(activation.gelu))
    line = next(c.line for _, c in both(activation.gelu).operators() if c.op == "gelu")
    assert next(c.line for _, c in graph.operators() if c.op == "erf") == line


def test_only_graphs_that_nothing_compiles_are_opened() -> None:
    def ops(target: Any) -> Counter[str]:
        graph = both(activation.gelu)
        return calls(
            optimized(graph, lambda c, a: (), frozenset(PASSES) - {"fold"}, target=target, forward=1, host=True)
        )

    assert ops(None)["gelu"] == 0
    assert ops(C)["gelu"] == 1 or ops(C)["fused"] > 0


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_do_not_depend_on_the_rows_that_are_gone_over_with_them(name: str) -> None:
    x = np.random.default_rng(1).standard_normal((300, 1000)).astype(np.float32)
    assert x.size > loss.BLOCK
    whole = getattr(loss, name)(Tensor(x)).asnumpy()
    each = [getattr(loss, name)(Tensor(x[n : n + 1])).asnumpy() for n in (0, 131, 299)]
    np.testing.assert_array_equal(whole[[0, 131, 299]], np.concatenate(each))


@pytest.mark.parametrize("shape", [(300, 1000), (2, 3, 50_000), (1000, 300)])
def test_a_cross_entropy_of_many_rows_is_that_of_each(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    x, label = rng.standard_normal(shape).astype(np.float32), rng.integers(0, shape[-1], shape[:-1])
    g = rng.standard_normal(shape[:-1]).astype(np.float32)
    found = loss.softmax_cross_entropy(Tensor(x), Tensor(label)).asnumpy()
    slope = loss.softmax_cross_entropy_grad(Tensor(g), Tensor(x), Tensor(label)).asnumpy()
    p = np.exp(x.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(p, label[..., None], -1)
    np.testing.assert_allclose(found, -np.log(chosen)[..., 0], rtol=1e-5)
    np.put_along_axis(p, label[..., None], chosen - 1.0, -1)
    np.testing.assert_allclose(slope, p * g[..., None], rtol=1e-4, atol=1e-6)
