"""The pass that puts conversions to half precision into graphs, and what is made with it."""

from typing import Any

import numpy as np
import pytest

from shoal import amp, nn, sym
from shoal.ops import autograd, casting
from shoal.ops.backend import CPU
from shoal.ops.graph.casts import place_casts
from shoal.ops.graph.executor import evaluate
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.symbol import flatten
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import Spec
from shoal.ops.tensor import Tensor

BF16 = casting.policy_for("bfloat16")
F32 = np.dtype(np.float32)
rng = np.random.default_rng(8)


def names(graph: Graph) -> list[str]:
    return [call.op for _, call in graph.operators()]


def test_inputs_of_a_product_become_halves_and_a_sum_becomes_wide_again() -> None:
    x, w = sym.var("x", (2, 3)), sym.var("w", (3, 4))
    placed = place_casts(flatten([(x @ w).sum()])[0], BF16).check()
    assert names(placed) == ["astype", "astype", "matmul", "astype", "sum"]
    assert [c.specs[0].dtype for _, c in placed.operators()] == [BFLOAT16, BFLOAT16, BFLOAT16, F32, F32]


def test_a_value_that_several_products_use_is_converted_once() -> None:
    x, w = sym.var("x", (3, 3)), sym.var("w", (3, 3))
    placed = place_casts(flatten([(x @ w) @ (w @ x)])[0], BF16)
    assert names(placed).count("astype") == 2


def test_a_half_that_is_made_wide_and_half_again_stays_what_it_was() -> None:
    x = sym.var("x", (3, 3), BFLOAT16)
    placed = place_casts(flatten([x.astype("float32") @ x])[0], BF16)
    assert names(placed) == ["matmul"]


def test_an_empty_graph_and_one_without_products_stay_as_they_are() -> None:
    leaf = Graph((Call("", specs=(Spec((2,), F32),), name="x"),), (0,), ((0, 0),))
    assert names(place_casts(leaf, BF16)) == []
    x = sym.var("x", (2,))
    assert names(place_casts(flatten([x * 2 + x])[0], BF16)) == ["multiply", "add"]


def test_inputs_and_outputs_keep_their_order() -> None:
    x, w = sym.var("x", (2, 3)), sym.var("w", (3, 4))
    graph = flatten([x.sum(), x @ w, x], [w, x])[0]
    placed = place_casts(graph, BF16).check()
    assert [placed.calls[p].name for p in placed.inputs] == ["w", "x"]
    assert [placed.spec(r) for r in placed.outputs] == [Spec((), F32), Spec((2, 4), BFLOAT16), Spec((2, 3), F32)]


def _values(graph: Graph, arrays: dict[str, Any]) -> list[Any]:
    values: dict[Any, Any] = {(p, 0): arrays[graph.calls[p].name] for p in graph.inputs}
    for position, call in enumerate(graph.calls):
        if call.is_const:
            values[position, 0] = call.value
        elif call.op:
            given = [values[x] if isinstance(x, tuple) else x for x in call.inputs]
            values.update({(position, n): v for n, v in enumerate(evaluate(CPU, call, given))})
    return [values[ref] for ref in graph.outputs]


class Net(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.out = nn.Conv2D(4, 3), nn.BatchNorm(), nn.LayerNorm(), nn.Dense(5)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.b(self.a(x)).reshape(x.shape[0], -1)) * 0.5 + 1.0)


@pytest.fixture
def net() -> Net:
    made = Net()
    made.initialize()
    made(Tensor(rng.standard_normal((2, 3, 6, 6)).astype(np.float32)))
    return made


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_pass_and_the_dispatcher_give_the_same_bits(net: Net, dtype: str) -> None:
    x = Tensor(rng.standard_normal((2, 3, 6, 6)).astype(np.float32))
    saved = net.described(x)
    placed = place_casts(saved.graph, casting.policy_for(dtype)).check()
    arrays = {name: p.data().data for name, p in net.collect_params().items()} | {"data": x.data}
    with amp.autocast(dtype):
        expected = net(x)
    assert np.array_equal(_values(placed, arrays)[0], expected.asnumpy())
    assert names(placed) != names(saved.graph)


@pytest.mark.parametrize("offline", [False, True])
def test_a_converted_block_needs_no_context_and_gives_the_bits_of_one(net: Net, offline: bool) -> None:
    x = Tensor(rng.standard_normal((2, 3, 6, 6)).astype(np.float32))
    with amp.autocast():
        expected = net(x).asnumpy()
    made = amp.convert_hybrid_block(net, x, cast_params_offline=offline)
    assert np.array_equal(made(x).asnumpy(), expected)
    made.hybridize()
    assert np.array_equal(made(x).asnumpy(), expected)
    dtypes = {name: p.dtype for name, p in made.collect_params().items()}
    assert dtypes["out.weight"] == (BFLOAT16 if offline else F32)
    assert dtypes["norm.gamma"] == F32
    assert net.out.weight.dtype == F32


def test_a_converted_symbol_has_its_conversions_inside() -> None:
    x, w = sym.var("x", (2, 3)), sym.var("w", (3, 4))
    made = amp.convert_symbol(x @ w)
    a, b = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    with amp.autocast():
        expected = Tensor(a) @ Tensor(b)
    assert made.dtype == BFLOAT16 and made.list_arguments() == ["x", "w"]
    assert np.array_equal(made.eval(x=a, w=b)[0].asnumpy(), expected.asnumpy())
    assert not autograd.is_recording()
