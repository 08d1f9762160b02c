"""Exported models run without their class, at other batch sizes, can be trained on, and refuse what does not fit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import init, nn, sym
from shoal.errors import CheckpointError, ConfigError, GraphError, ShapeError
from shoal.ops import autograd
from shoal.ops.graph import kernels
from shoal.ops.tensor import Tensor, array


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Graphs are compared with imperative execution bit by bit."""
    with kernels.exactly():
        yield


def lenet() -> nn.HybridSequential:
    net = nn.HybridSequential(
        nn.Conv2D(4, 3, activation="relu"),
        nn.BatchNorm(),
        nn.MaxPool2D(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Dense(8, "gelu"),
        nn.LayerNorm(),
        nn.Dense(3),
    )
    net.initialize(init.Xavier(), seed=2)
    with autograd.record():
        net(images(6))  # running statistics that are not those of the start
    return net


def images(n: int) -> Tensor:
    return Tensor(np.random.default_rng(n).standard_normal((n, 1, 10, 10)).astype("float32"))


def test_an_exported_model_gives_the_same_bits(tmp_path: Path) -> None:
    net = lenet()
    files = net.export(tmp_path / "net", images(2))
    assert [f.name for f in files] == ["net-symbol.json", "net.safetensors"]
    again = nn.SymbolBlock.imports(files[0], ["data"], files[1])
    for n in (2, 1, 5):
        np.testing.assert_array_equal(again(images(n)).asnumpy(), net(images(n)).asnumpy())
    again.hybridize()
    for n in (2, 5, 2):
        np.testing.assert_array_equal(again(images(n)).asnumpy(), net(images(n)).asnumpy())


def test_exporting_a_hybridized_model_is_the_same(tmp_path: Path) -> None:
    net = lenet()
    plain = net.export(tmp_path / "a", images(2))[0].read_text()
    net.hybridize()
    net(images(2))
    assert net.export(tmp_path / "b", images(2))[0].read_text() == plain


def test_the_graph_names_parameters_by_path_and_tells_the_learned_from_the_kept(tmp_path: Path) -> None:
    symbol = sym.load(lenet().export(tmp_path / "net", images(2))[0])
    assert symbol.list_arguments()[:1] == ["data"]
    assert {"0.weight", "0.bias", "1.gamma", "5.weight", "7.bias"} <= set(symbol.list_arguments())
    assert symbol.list_auxiliary_states() == ["1.running_mean", "1.running_var"]
    assert "dropout" not in str(symbol)


def test_an_imported_model_can_be_trained_further(tmp_path: Path) -> None:
    net = lenet()
    files = net.export(tmp_path / "net", images(2))
    again = nn.SymbolBlock.imports(files[0], "data", files[1])
    x, grads = images(4), []
    for model, hybrid in ((net, False), (again, False), (again, True)):
        model.hybridize(hybrid)
        with autograd.record(train_mode=False):
            (model(x) ** 2).sum().backward()
        params = model.collect_params()
        grads.append({n: p.grad().asnumpy().copy() for n, p in params.items() if p.grad_req != "null"})
    assert list(grads[0]) == sorted(grads[0], key=list(grads[0]).index) and set(grads[0]) == set(grads[1])
    for name, expected in grads[0].items():
        np.testing.assert_array_equal(grads[1][name], expected)
        np.testing.assert_array_equal(grads[2][name], expected)


def test_a_symbol_runs_by_itself_with_the_parameters_of_the_file(tmp_path: Path) -> None:
    from shoal.ops.tensorfile import load_tensors

    net = lenet()
    files = net.export(tmp_path / "net", images(2))
    (found,) = sym.load(files[0]).eval(data=images(2), **load_tensors(files[1])[0])
    np.testing.assert_array_equal(found.asnumpy(), net(images(2)).asnumpy())


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    class Two(nn.HybridBlock):
        def forward(self, a: Any, b: Any) -> Any:
            return a + b, a * b

    files = Two().export(tmp_path / "two", array([1.0, 2.0]), array([3.0, 4.0]))
    again = nn.SymbolBlock.imports(files[0], ["data0", "data1"], files[1])
    total, product = again(array([1.0, 2.0]), array([3.0, 4.0]))
    assert total.tolist() == [4.0, 6.0] and product.tolist() == [3.0, 8.0]


def test_a_tensor_of_the_surroundings_becomes_a_constant(tmp_path: Path) -> None:
    outer = array([1.0, 2.0])

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x + outer

    files = Using().export(tmp_path / "u", array([0.0, 0.0]))
    assert nn.SymbolBlock.imports(files[0])(array([1.0, 1.0])).tolist() == [2.0, 3.0]


def test_a_random_model_draws_anew_after_import(tmp_path: Path) -> None:
    class Noisy(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            from shoal import npx

            return npx.dropout(x, p=0.5, mode="always")

    x = Tensor(np.ones((4, 40), dtype="float32"))
    files = Noisy().export(tmp_path / "n", x)
    again = nn.SymbolBlock.imports(files[0])
    assert not np.array_equal(again(x).asnumpy(), again(x).asnumpy())
    again.hybridize()
    assert not np.array_equal(again(x).asnumpy(), again(x).asnumpy())


def test_a_graph_without_parameters_has_to_be_initialized_or_loaded(tmp_path: Path) -> None:
    files = lenet().export(tmp_path / "net", images(2))
    again = nn.SymbolBlock.imports(files[0])
    again.initialize(init.Normal(0.1))
    assert again(images(1)).shape == (1, 3)
    again.load_parameters(files[1])


def test_export_needs_inputs() -> None:
    with pytest.raises(ConfigError, match="needs inputs of the shapes that the graph is for"):
        lenet().export("nowhere")


def test_a_model_that_writes_parameters_in_prediction_is_not_exported(tmp_path: Path) -> None:
    class Counting(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Parameter("count", "null", shape=(1,), init="zeros")

        def forward(self, x: Any) -> Any:
            self.count.set_data(self.count.data() + 1.0)
            return x * self.count.data()

    net = Counting()
    net.initialize()
    net.hybridize()
    assert [net(array([1.0])).tolist() for _ in range(3)] == [[1.0], [2.0], [3.0]]
    with pytest.raises(GraphError, match="writes to count in predict mode"):
        net.export(tmp_path / "c", array([1.0]))


def test_wrong_inputs_of_an_imported_model_are_refused(tmp_path: Path) -> None:
    files = lenet().export(tmp_path / "net", images(2))
    again = nn.SymbolBlock.imports(files[0], ["data"], files[1])
    with pytest.raises(ShapeError, match=r"takes 1 inputs \(data\), got 2"):
        again(images(1), images(1))
    with pytest.raises(ShapeError, match=r"input 'data' must be like \(2, 1, 10, 10\) float32, got \(100,\) float32"):
        again(Tensor(np.zeros(100, dtype="float32")))
    with pytest.raises(ShapeError, match=r"got \(2, 1, 10, 10\) int64"):
        again(Tensor(np.zeros((2, 1, 10, 10), dtype="int64")))
    assert again(Tensor(np.zeros((2, 1, 10, 10)))).dtype == np.float64
    with pytest.raises(ShapeError, match=r"reshape: the 200 elements"):
        again(Tensor(np.zeros((2, 1, 12, 12), dtype="float32")))


def test_an_input_that_the_graph_lacks_is_refused(tmp_path: Path) -> None:
    files = lenet().export(tmp_path / "net", images(2))
    with pytest.raises(GraphError, match=r"asked for pixels"):
        nn.SymbolBlock.imports(files[0], ["pixels"], files[1])


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    files = lenet().export(tmp_path / "net", images(2))
    other = nn.HybridSequential(nn.Dense(3, in_units=4))
    other.initialize()
    other.save_parameters(tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"SymbolBlock: the file lacks '1\.beta'.*'0\.bias' has shape \(4,\) in the model and \(3,\) in the file",
    ):
        nn.SymbolBlock.imports(files[0], ["data"], tmp_path / "other.safetensors")


def test_the_file_has_no_code_in_it(tmp_path: Path) -> None:
    data = json.loads(lenet().export(tmp_path / "net", images(2))[0].read_text())
    assert set(data) == {"format", "version", "nodes", "inputs", "outputs"}
    assert {"convolution", "fully_connected", "max_pool"} <= {node.get("op") for node in data["nodes"]}


def test_an_imported_model_shows_its_size(tmp_path: Path) -> None:
    files = lenet().export(tmp_path / "net", images(2))
    assert repr(nn.SymbolBlock.imports(files[0])).startswith("SymbolBlock(data: ")


def test_a_symbol_of_a_model_can_be_printed() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=3))
    net.initialize()
    assert "fully_connected(data, 0.weight, 0.bias" in str(net.symbol(Tensor(np.zeros((4, 3), dtype="float32"))))


def test_a_model_applied_to_a_symbol_gives_a_symbol() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=3), nn.Dense(1))
    net.initialize()
    y = net(sym.var("x", (4, 3)))
    assert isinstance(y, sym.Symbol) and y.shape == (4, 1)
    assert set(y.list_arguments()) == {"x", "0.weight", "0.bias", "1.weight", "1.bias"}
