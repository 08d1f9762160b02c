"""Conversions under `shoal.amp`: which operators get them, when they are off, and that graphs have the same bits."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal import amp, autograd, func, linalg, nn, npx, special
from shoal import np as facade
from shoal.errors import ConfigError
from shoal.ops import casting, castlists, random
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS, operator
from shoal.ops.tensor import Tensor

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
assert linalg and npx and special and facade.sin and facade.copysign and facade.linalg  # all operators are loaded
TABLES = [castlists.LOW, castlists.WIDE, castlists.WIDEST]
rng = np.random.default_rng(3)


def tensor(*shape: int, dtype: Any = np.float32) -> Tensor:
    return Tensor(rng.standard_normal(shape).astype(dtype))


@pytest.fixture
def _everywhere() -> Iterator[None]:
    yield
    amp.init(None)


def test_every_name_in_the_tables_is_an_operator_and_stands_in_one_table() -> None:
    names = [n for table in TABLES for n in castlists.names(table)]
    assert len(set(names)) == len(names)
    assert set(names) <= OPS.keys()
    assert amp.list_lp16_ops() == sorted(castlists.names(castlists.LOW))
    assert set(amp.list_fp32_ops()) & {"softmax", "standardize", "sum", "softmax_cross_entropy"}
    assert "add" in amp.list_widest_type_cast()


@pytest.mark.parametrize(
    ("name", "dtypes", "expected"),
    [
        ("matmul", [F32, F32], [BFLOAT16, BFLOAT16]),
        ("matmul", [BFLOAT16, F32], [None, BFLOAT16]),
        ("matmul", [BFLOAT16, BFLOAT16], None),
        ("matmul", [np.dtype(np.float64), F32], None),
        ("matmul", [np.dtype(np.complex64), F32], None),
        ("fully_connected", [F32, F32, None], [BFLOAT16, BFLOAT16, None]),
        ("softmax", [BFLOAT16], [F32]),
        ("softmax", [F16], [F32]),
        ("softmax", [F32], None),
        ("softmax", [np.dtype(np.float64)], None),
        ("add", [BFLOAT16, F32], [F32, None]),
        ("add", [BFLOAT16, BFLOAT16], None),
        ("add", [BFLOAT16, F16], [F32, F32]),
        ("add", [BFLOAT16, None], None),
        ("where", [np.dtype(bool), F32, BFLOAT16], [None, None, F32]),
        ("attention", [F32, F32, F32, F32], [BFLOAT16, BFLOAT16, BFLOAT16, None]),
        ("relu", [BFLOAT16], None),
        ("transpose", [F32], None),
    ],
)
def test_an_operator_wants(name: str, dtypes: list[Any], expected: Any) -> None:
    assert casting.policy_for("bfloat16").targets(name, dtypes, {}) == expected


def test_conditions_and_lists_of_ones_own_move_operators() -> None:
    policy = casting.policy_for("float16", ("add",), ("matmul",), (("relu", "slope", (2,)),))
    assert policy.targets("add", [F32, F32], {}) == [F16, F16]
    assert policy.targets("matmul", [F16, F32], {}) == [F32, None]
    assert policy.targets("relu", [F16], {"slope": 2}) == [F32]
    assert policy.targets("relu", [F16], {"slope": 1}) is None


def test_the_same_lists_are_the_same_policy_so_that_graphs_are_kept() -> None:
    assert casting.policy_for("bfloat16") is casting.policy_for("bfloat16")
    assert "bfloat16" in repr(casting.policy_for("bfloat16"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dtype": "int8"}, "'bfloat16' or 'float16'"),
        ({"fp32_ops": ["nonsense"]}, "no operator is called 'nonsense'"),
        ({"fp32_ops": ["add"], "target_precision_ops": ["add"]}, "cannot run in half precision and in float32"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        amp.autocast(**arguments)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dense_layer_runs_in_half_precision_and_its_parameters_stay(dtype: str) -> None:
    net = nn.Dense(4, in_units=3)
    net.initialize()
    x = tensor(2, 3)
    with amp.autocast(dtype), autograd.record():
        y = net(x)
        loss = y.sum()
    loss.backward()
    assert y.dtype == dtype and loss.dtype == F32
    assert net.weight.data().dtype == F32 and net.weight.grad().dtype == F32
    low = operator("astype")
    expected = operator("fully_connected")(*(low(v, dtype=dtype) for v in (x, net.weight.data(), net.bias.data())))
    assert np.array_equal(y.asnumpy(), expected.asnumpy())


def test_contexts_nest_and_can_be_switched_off_inside() -> None:
    x = tensor(2, 2)
    with amp.autocast():
        with amp.autocast(enabled=False):
            assert (x @ x).dtype == F32
        with amp.autocast("float16"):
            assert (x @ x).dtype == F16
        assert (x @ x).dtype == BFLOAT16
    assert (x @ x).dtype == F32


def test_a_function_can_be_decorated() -> None:
    @amp.autocast()
    def product(x: Any) -> Any:
        return x @ x

    assert product(tensor(2, 2)).dtype == BFLOAT16 and casting.state.policy is None


def test_integers_numbers_and_arrays_of_numpy_are_left_alone() -> None:
    x = np.ones((2, 2), np.float32)
    with amp.autocast():
        assert operator("matmul")(x, x).dtype == np.float32
        assert (Tensor(np.arange(4)) + 1).dtype.kind == "i"
        assert (Tensor(x.astype(np.float64)) @ Tensor(x.astype(np.float64))).dtype == np.float64


@pytest.mark.usefixtures("_everywhere")
def test_init_counts_in_all_threads_until_it_is_taken_back() -> None:
    x, found = tensor(2, 2), []
    with amp.autocast("float16"):
        pass  # this thread has been in a context before
    amp.init("bfloat16")
    thread = threading.Thread(target=lambda: found.append((x @ x).dtype))
    thread.start()
    thread.join()
    assert found == [BFLOAT16] and (x @ x).dtype == BFLOAT16
    amp.init(None)
    assert (x @ x).dtype == F32


def test_gradients_are_computed_in_the_dtypes_of_the_forward_pass() -> None:
    x = tensor(3, 3)
    x.attach_grad()
    with amp.autocast():
        with autograd.record():
            y = (x @ x).astype("float32").sum()
        y.backward()
    inside = x.grad.asnumpy().copy()
    with amp.autocast(), autograd.record():
        y = (x @ x).astype("float32").sum()
    y.backward()
    assert np.array_equal(inside, x.grad.asnumpy())


def test_second_derivatives_work_under_autocast() -> None:
    x = tensor(3, 3)
    with amp.autocast():
        second = func.grad(lambda v: (func.grad(lambda w: (w @ w).sum())(v) ** 2).sum())(x)
    assert second.dtype == F32 and np.isfinite(second.asnumpy()).all()


def test_a_checkpoint_computes_again_under_the_same_policy() -> None:
    net = nn.Dense(4, in_units=4)
    net.initialize()
    x = tensor(2, 4)

    def gradient(again: bool) -> Any:
        with amp.autocast(), autograd.record():
            y = func.checkpoint(net, x) if again else net(x)
            loss = (y * y).sum()
        loss.backward()
        return net.weight.grad().asnumpy().copy()

    assert np.array_equal(gradient(True), gradient(False))


class Attends(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm, self.out = nn.MultiHeadAttention(8, 2), nn.LayerNorm(), nn.Dense(3)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.cell(x, x, x) + x))


class Recurrent(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        from shoal import rnn

        self.lstm, self.out = rnn.LSTM(6, input_size=8, layout="NTC"), nn.Dense(3)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(x))


def convolutional() -> nn.HybridSequential:
    layers = [nn.Conv2D(4, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2), nn.Flatten()]
    return nn.HybridSequential(*layers, nn.Dropout(0.3), nn.Dense(16, "relu"), nn.LayerNorm(), nn.Dense(3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("make", "shape"), [(convolutional, (4, 3, 8, 8)), (Attends, (2, 5, 8)), (Recurrent, (2, 5, 8))]
)
def test_hybrid_and_imperative_have_the_same_bits(make: Any, shape: tuple[int, ...], dtype: str) -> None:
    random.seed(11)
    net = make()
    net.initialize()
    x, labels = tensor(*shape), Tensor(np.arange(shape[0]) % 3)
    net(x)
    start = {k: p.data().asnumpy().copy() for k, p in net.collect_params().items()}
    loss_of = nn.SoftmaxCrossEntropyLoss()

    def run() -> list[Any]:
        random.seed(5)
        for k, p in net.collect_params().items():
            p.set_data(start[k])
        with amp.autocast(dtype), autograd.record():
            out = net(x)
            loss = loss_of(out, labels).mean()
        loss.backward()
        params = net.collect_params().values()
        return [out.asnumpy(), loss.asnumpy(), *(p.grad().asnumpy().copy() for p in params if p.grad_req != "null")]

    imperative = run()
    net.hybridize()
    hybrid = run()
    assert imperative[0].dtype == dtype and imperative[1].dtype == F32
    for a, b in zip(imperative, hybrid, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


def test_a_hybridized_block_keeps_a_graph_for_each_policy() -> None:
    net = nn.Dense(2, in_units=2)
    net.initialize()
    net.hybridize()
    x = tensor(2, 2)
    assert net(x).dtype == F32
    for _ in range(2):
        with amp.autocast():
            assert net(x).dtype == BFLOAT16
    with amp.autocast("float16"):
        assert net(x).dtype == F16
    assert net(x).dtype == F32
    assert net._compiled is not None and len(net._compiled.traces) == 3


@pytest.mark.parametrize("name", ["sum", "mean", "var", "softmax", "log_softmax", "logsumexp", "standardize", "norm"])
def test_what_loses_digits_is_computed_and_answered_in_float32(name: str) -> None:
    x = tensor(5, 700).astype("bfloat16")
    attrs = {"eps": 1e-5} if name == "standardize" else {}
    with amp.autocast():
        got = operator(name)(x, **attrs)
    wanted = operator(name)(x.astype("float32"), **attrs)
    first, same = (got[0], wanted[0]) if isinstance(got, tuple) else (got, wanted)
    assert first.dtype == F32 and np.array_equal(first.asnumpy(), same.asnumpy())
