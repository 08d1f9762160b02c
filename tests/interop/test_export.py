"""Blocks as ONNX files: ONNX Runtime, and our own loader, give the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import shoal
from shoal import nn, rnn
from shoal.errors import ConfigError, GraphError
from shoal.ops.registry import OPS
from shoal.worker import zoo
from tests.ops.cases import CASES, Case

OPSETS = (13, 18, 23)


def in_runtime(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}))


def outputs(found: Any) -> list[np.ndarray]:
    return [x.asnumpy() for x in (found if isinstance(found, tuple) else (found,))]


def check(net: Any, path: Path, *inputs: np.ndarray, opset: int = 18, twice: bool = True) -> None:
    """The file gives what the block gives, for the batch it was written with and for one twice as large."""
    tensors = [shoal.np.array(x) for x in inputs]
    want = outputs(net(*tensors))
    shoal.onnx.export(net, path, *tensors, opset=opset)
    again = shoal.onnx.load(path)
    again.hybridize()
    for found in (in_runtime(path, *inputs), outputs(again(*tensors))):
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    if twice:
        double = [np.concatenate([x, x]) for x in inputs]
        for a, b in zip(in_runtime(path, *double), outputs(net(*map(shoal.np.array, double))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def made(*layers: Any) -> Any:
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(shoal.init.Xavier())
    return net


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ELU(),
        lambda: nn.SELU(),
        lambda: nn.SiLU(),
        lambda: nn.GELU(),
        lambda: nn.LeakyReLU(0.1),
        lambda: nn.PReLU(),
        lambda: nn.BatchNorm(),
        lambda: nn.GroupNorm(2),
        lambda: nn.InstanceNorm(),
        lambda: nn.LayerNorm(),
        lambda: nn.RMSNorm(),
        lambda: nn.Dropout(0.5),
        lambda: nn.MaxPool2D(2),
        lambda: nn.AvgPool2D(3, strides=1, padding=1),
        lambda: nn.Conv2D(4, 3, padding=1, groups=2, dilation=1),
        lambda: nn.Conv2DTranspose(4, 3, strides=2, padding=1, output_padding=1),
    ],
)
def test_layers_are_written(layer: Any, opset: int, tmp_path: Path) -> None:
    check(made(layer()), tmp_path / "m.onnx", normal(2, 4, 6, 6), opset=opset)


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20"])
def test_models_are_written_with_a_free_batch(name: str, tmp_path: Path) -> None:
    example = zoo.build(name)
    example.net.initialize(shoal.init.Xavier())
    check(example.net, tmp_path / "m.onnx", example.inputs.asnumpy()[:2])


@pytest.mark.parametrize("name", ["lstm", "gpt"])
def test_language_models_are_written(name: str, tmp_path: Path) -> None:
    example = zoo.build(name)
    example.net.initialize(shoal.init.Xavier())
    check(example.net, tmp_path / "m.onnx", example.inputs.asnumpy()[:2], twice=False)


@pytest.mark.parametrize("layer", [rnn.LSTM, rnn.GRU, rnn.RNN])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_recurrent_layers_become_one_node_a_direction(layer: Any, both: bool, tmp_path: Path) -> None:
    net = layer(5, num_layers=2, bidirectional=both, input_size=3)
    net.initialize(shoal.init.Xavier())
    check(net, tmp_path / "m.onnx", normal(4, 2, 3), twice=False)


class Applied(nn.HybridBlock):
    """One operator."""

    def __init__(self, name: str, case: Case) -> None:
        super().__init__()
        self.op, self.case = OPS[name], case

    def forward(self, *xs: Any) -> Any:
        given = iter(xs)
        inputs = [next(given) if isinstance(x, np.ndarray) else x for x in self.case.make(self.op.name, np.float32)]
        out = self.op(*inputs, **self.case.attrs)
        return out[: SEEN[self.op.name]] if self.op.name in SEEN else out


def _cases() -> list[Any]:
    found = []
    for name in shoal.onnx.exportable():
        for i, c in enumerate(CASES.get(name, [])):
            found.append(pytest.param(name, i, c, id=f"{name}-{i}"))
    return found


REFUSED = frozenset([("getitem", 3), ("lstm_sequence", 3), ("norm", 3), ("norm", 4), ("repeat", 0), ("roll", 0)])
"""Cases of operators of which some forms have no counterpart, which is said."""

SEEN = {"gru_sequence": 2, "lstm_sequence": 3}
"""How many outputs are those of the layer; the others are for its gradient."""


@pytest.mark.parametrize(("name", "number", "case"), _cases())
def test_every_operator_that_can_be_written_gives_the_same_numbers(
    name: str, number: int, case: Case, tmp_path: Path
) -> None:
    net = Applied(name, case)
    inputs = [x for x in case.make(name, np.float32) if isinstance(x, np.ndarray)]
    if (name, number) in REFUSED:
        with pytest.raises(GraphError, match=rf"operator {name} \(call"):
            shoal.onnx.export(net, tmp_path / "m.onnx", *inputs, dynamic_batch=False)
        return
    shoal.onnx.export(net, tmp_path / "m.onnx", *inputs, dynamic_batch=False)
    want = outputs(net(*map(shoal.np.array, inputs)))
    for a, b in zip(in_runtime(tmp_path / "m.onnx", *inputs), want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    class Odd(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return shoal.np.linalg.cholesky(x) if hasattr(shoal.np, "linalg") else shoal.linalg.cholesky(x)

    with pytest.raises(GraphError, match=r"operator cholesky \(call 1, .*\) cannot be written as ONNX \(opset 18\)"):
        shoal.onnx.export(Odd(), tmp_path / "m.onnx", np.eye(3, dtype=np.float32))
    assert list(tmp_path.iterdir()) == []


def test_the_inputs_may_be_those_of_the_last_call(tmp_path: Path) -> None:
    net = made(nn.Dense(3))
    with pytest.raises(ConfigError, match="needs inputs of the shapes"):
        shoal.onnx.export(net, tmp_path / "m.onnx")
    net.hybridize()
    want = net(shoal.np.ones((2, 4))).asnumpy()
    shoal.onnx.export(net, tmp_path / "m.onnx")
    (got,) = in_runtime(tmp_path / "m.onnx", np.ones((2, 4), np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_an_opset_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="opset 5; 13 to 26 can be written"):
        shoal.onnx.export(made(nn.Dense(1)), tmp_path / "m.onnx", normal(1, 1), opset=5)
