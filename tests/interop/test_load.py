"""ONNX files as blocks: weights are parameters, graphs hybridize and train, errors name the node."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import shoal
from shoal import autograd
from shoal.errors import CheckpointError, GraphError, ShapeError

FLOAT = TensorProto.FLOAT


def model(nodes: list[Any], inputs: list[Any], outputs: list[str], weights: dict[str, Any], opset: int = 18) -> Any:
    arguments = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    results = [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs]
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", arguments, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


W, B = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([1, -1], np.float32)


def linear() -> Any:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["y", "b"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["out"]),
    ]
    weights = {"w": W, "b": B, "shape": np.array([-1], np.int64)}
    return model(nodes, [("x", FLOAT, ["batch", 3])], ["out"], weights)


def test_float_weights_are_parameters_and_shapes_are_numbers() -> None:
    net = shoal.onnx.load(linear())
    assert sorted(net.collect_params()) == ["b", "w"]
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(net(shoal.np.array(x)).asnumpy(), (x @ W + B).reshape(-1))


def test_a_file_its_bytes_and_its_proto_are_the_same_model(tmp_path: Path) -> None:
    proto = linear()
    onnx.save(proto, tmp_path / "m.onnx")
    x = shoal.np.ones((2, 3))
    found = [shoal.onnx.load(s)(x).asnumpy() for s in (proto, proto.SerializeToString(), tmp_path / "m.onnx")]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])


def test_a_loaded_model_hybridizes_and_trains() -> None:
    net = shoal.onnx.load(linear())
    x = shoal.np.ones((2, 3))
    want = net(x).asnumpy()
    net.hybridize()
    assert np.array_equal(net(x).asnumpy(), want)
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    losses = []
    for _ in range(20):
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        trainer.step(1)
        losses.append(float(loss.asnumpy()))
    assert losses[-1] < 0.1 * losses[0]


def test_the_graph_depends_on_no_value_but_says_which_node_would_want_one() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["out"], name="odd")]
    net = shoal.onnx.load(model(nodes, [("x", FLOAT, [4]), ("shape", TensorProto.INT64, [2])], ["out"], {}))
    x, shape = shoal.np.ones((4,)), shoal.np.array([2, 2])
    assert net(x, shape).shape == (2, 2)
    net.hybridize()
    with pytest.raises(GraphError, match=r"Reshape 'odd' -> out: the shape depends on the arguments' values"):
        net(x, shape)


def test_unknown_operators_are_named_with_their_nodes() -> None:
    nodes = [helper.make_node("Frobnicate", ["x"], ["y"], name="f1"), helper.make_node("Relu", ["y"], ["z"])]
    with pytest.raises(GraphError, match=r"not known here: Frobnicate 'f1' -> y\."):
        shoal.onnx.load(model(nodes, [("x", FLOAT, [2])], ["z"], {}))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="no ONNX model"):
        shoal.onnx.load(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="No such file"):
        shoal.onnx.load(tmp_path / "none.onnx")


def test_the_number_of_arguments_is_checked() -> None:
    with pytest.raises(ShapeError, match=r"takes 1 inputs \(x\), got 2"):
        shoal.onnx.load(linear())(shoal.np.ones((1, 3)), shoal.np.ones((1, 3)))


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(shoal.errors.ConfigError, match=r"pip install 'shoal\[onnx\]'"):
        shoal.onnx.load(b"")
