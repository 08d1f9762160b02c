"""Symbols: composing, inferring, printing, evaluating, differentiating, saving."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import np as snp
from shoal import sym
from shoal.errors import CheckpointError, DTypeError, GraphError, ShapeError
from shoal.ops.graph import serialize
from shoal.ops.tensor import Tensor


def example() -> tuple[sym.Symbol, sym.Symbol, sym.Symbol]:
    x, w = sym.var("x", (2, 3)), sym.var("w", (3,))
    return x, w, (snp.tanh(x * w) + 1.0).sum(axis=1)


def test_shapes_and_dtypes_are_inferred() -> None:
    _, _, y = example()
    assert y.shape == (2,) and y.dtype == np.float32 and y.ndim == 1 and y.size == 2 and len(y) == 2


def test_a_python_scalar_does_not_widen() -> None:
    assert (sym.var("x", (2,), "float16") * 2.0).dtype == np.float16


def test_shapes_that_do_not_fit_are_refused_when_composing() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(4,\)"):
        sym.var("x", (2, 3)) * sym.var("y", (4,))


def test_dtypes_that_do_not_fit_are_refused_when_composing() -> None:
    with pytest.raises(DTypeError):
        ~sym.var("x", (2,))


def test_a_listing_has_every_call_with_its_shape() -> None:
    lines = str(example()[2]).splitlines()
    assert [line.split()[0] for line in lines] == ["x", "w", "%2", "%3", "%4", "%5", "return"]
    assert lines[2].startswith("%2 = multiply(x, w) ") and lines[2].endswith("(2, 3) float32")
    assert lines[4].startswith("%4 = add(%3, 1.0) ")
    assert lines[-1] == "return %5"


def test_repr_is_short() -> None:
    x, _, y = example()
    assert repr(x) == "<Symbol x (2, 3) float32>"
    assert repr(y).startswith("<Symbol sum") and repr(y).endswith("(2,) float32>")


def test_inputs_are_listed_in_order_of_creation() -> None:
    y = example()[2]
    assert y.list_arguments() == ["x", "w"] and y.list_auxiliary_states() == []
    assert len(y.list_outputs()) == 1 and y.list_outputs()[0].endswith("_output")


def test_eval_takes_arrays_and_tensors_by_name() -> None:
    y = example()[2]
    x, w = np.ones((2, 3), dtype="float32"), np.full(3, 2.0, dtype="float32")
    (found,) = y.eval(x=x, w=Tensor(w))
    np.testing.assert_allclose(found.asnumpy(), (np.tanh(x * w) + 1).sum(axis=1), rtol=1e-6)


def test_eval_takes_other_lengths() -> None:
    assert example()[2].eval(x=np.ones((5, 3), dtype="float32"), w=np.ones(3, dtype="float32"))[0].shape == (5,)


def test_eval_says_what_is_missing_unknown_or_of_another_rank() -> None:
    y = example()[2]
    x, w = np.ones((2, 3)), np.ones(3)
    with pytest.raises(GraphError, match="needs values of w; it has x"):
        y.eval(x=x)
    with pytest.raises(GraphError, match="no input is called z; the graph has x, w"):
        y.eval(x=x, w=w, z=x)
    with pytest.raises(ShapeError, match="'x' must have 2 axes"):
        y.eval(x=w, w=w)


def test_infer_shape_follows_other_inputs() -> None:
    assert example()[2].infer_shape(x=(7, 3)) == ({"x": (7, 3), "w": (3,)}, [(7,)])
    with pytest.raises(ShapeError):
        example()[2].infer_shape(x=(7, 4))


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(GraphError, match="several inputs called x"):
        (sym.var("x", (1,)) + sym.var("x", (1,))).eval(x=np.ones(1))


def test_the_gradient_of_a_symbol_is_a_symbol() -> None:
    x, w, y = example()
    dx, dw = sym.gradient(y, [x, w])
    a, b = np.array([[1.0, 2.0, 3.0]] * 2, dtype="float32"), np.array([0.1, 0.2, 0.3], dtype="float32")
    slope = 1 - np.tanh(a * b) ** 2
    np.testing.assert_allclose(dx.eval(x=a, w=b)[0].asnumpy(), slope * b, rtol=1e-5)
    np.testing.assert_allclose(dw.eval(x=a, w=b)[0].asnumpy(), (slope * a).sum(axis=0), rtol=1e-5)


def test_the_gradient_of_the_gradient_is_a_symbol_too() -> None:
    x = sym.var("x", (3,), "float64")
    (dx,) = sym.gradient(x * x * x, [x])
    (ddx,) = sym.gradient(dx, [x])
    np.testing.assert_allclose(ddx.eval(x=np.array([1.0, 2.0, 3.0]))[0].asnumpy(), [6, 12, 18])


def test_the_gradient_of_what_does_not_matter_is_zero() -> None:
    x, z = sym.var("x", (3,)), sym.var("z", (2,))
    assert sym.gradient(x, [z])[0].eval()[0].tolist() == [0, 0]


def test_a_detached_symbol_is_a_constant_of_the_gradient() -> None:
    x = sym.var("x", (1,))
    (dx,) = sym.gradient(x * x.detach(), [x])
    assert dx.eval(x=np.array([3.0], dtype="float32"))[0].tolist() == [3.0]


def test_symbols_iterate_and_index_along_the_first_axis() -> None:
    x = sym.var("x", (3, 2))
    rows = list(x)
    assert [r.shape for r in rows] == [(2,)] * 3
    assert x[1:, 0].shape == (2,)
    a, b, c = x
    assert (a + b + c).eval(x=np.ones((3, 2)))[0].tolist() == [3, 3]


def test_a_number_has_no_length() -> None:
    with pytest.raises(ShapeError, match="no length"):
        len(sym.var("x", ()))


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    assert not hasattr(sym.var("x", ()), "nonsense")


def test_several_symbols_are_a_group() -> None:
    x, w, y = example()
    group = sym.Group([y, x * w])
    assert len(group) == 2 and group[0] is y and [s.shape for s in group] == [(2,), (2, 3)]
    assert [v.shape for v in group.eval(x=np.ones((2, 3)), w=np.ones(3))] == [(2,), (2, 3)]
    assert str(group).splitlines()[-1] == "return %5, %6"
    assert repr(group).startswith("<Group of <Symbol sum")


def test_a_saved_symbol_comes_back(tmp_path: Path) -> None:
    y = example()[2]
    y.save(tmp_path / "deep" / "y.json")
    again = sym.load(tmp_path / "deep" / "y.json")
    assert str(again) == str(y)
    given = {"x": np.ones((2, 3), dtype="float32"), "w": np.ones(3, dtype="float32")}
    assert again.eval(**given)[0].tolist() == y.eval(**given)[0].tolist()


def test_a_group_comes_back_as_a_group() -> None:
    x, _, y = example()
    again = sym.fromjson(sym.Group([y, x]).tojson())
    assert isinstance(again, sym.Group) and [s.shape for s in again] == [(2,), (2, 3)]


def test_constants_scalars_and_infinities_are_saved_to_the_bit() -> None:
    x = sym.var("x", (2,), "float64")
    table = np.array([0.1, -0.0])
    y = snp.where(x > float("-inf"), snp.clip(x, None, float("inf")) * table + 1e-300, float("nan"))
    again = sym.fromjson(y.tojson())
    given = np.array([0.3, 5.0])
    assert again.eval(x=given)[0].asnumpy().tobytes() == y.eval(x=given)[0].asnumpy().tobytes()


def test_a_loaded_symbol_can_be_composed_further() -> None:
    y = sym.fromjson(example()[2].tojson())
    assert (y * 2.0).eval(x=np.zeros((2, 3)), w=np.ones(3))[0].tolist() == [6, 6]


def test_a_long_chain_is_no_problem() -> None:
    x = sym.var("x", (1,))
    y = x
    for _ in range(3000):
        y = y + 1.0
    (dx,) = sym.gradient(y, [x])
    assert sym.fromjson(y.tojson()).eval(x=np.zeros(1))[0].tolist() == [3000]
    assert dx.eval()[0].tolist() == [1.0]


# -- files that are not what they should be


def broken(change: Any) -> str:
    data = json.loads(example()[2].tojson())
    change(data)
    return json.dumps(data)


def setting(*path: Any, to: Any) -> Any:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


BROKEN: list[tuple[Any, str]] = [
    (setting("format", to="mxnet"), "is not a saved symbol"),
    (setting("version", to=2), "has version 2 of the symbol format; this shoal reads 1"),
    (setting("nodes", to={}), "'nodes' must be a list"),
    (setting("inputs", to=None), "'inputs' must be a list"),
    (setting("outputs", to=[[9, 0]]), "output .9, 0. does not exist"),
    (setting("outputs", to=[["a", 0]]), r"an output must be \[node, output\]"),
    (setting("inputs", to=[0]), "are not the input leaves"),
    (setting("inputs", to=["x", "w"]), "must be numbers of nodes"),
    (setting("nodes", 0, to=7), "node 0: a node must be an object"),
    (setting("nodes", 0, "name", to=""), "node 0: an input needs a name"),
    (setting("nodes", 0, "role", to="weights"), "node 0: the role of an input must be one of"),
    (setting("nodes", 0, "shape", to=[2, -3]), "node 0: a shape must be a list of lengths"),
    (setting("nodes", 0, "shape", to=[2, True]), "a shape must be a list of lengths"),
    (setting("nodes", 0, "shape", to=[1] * 40), "a shape must be a list of lengths"),
    (setting("nodes", 0, "dtype", to="object"), "'object' is not a dtype of numbers"),
    (setting("nodes", 0, "dtype", to="float33"), "'float33' is not a dtype"),
    (setting("nodes", 2, "op", to="system"), "node 2: operator 'system' is not known"),
    (setting("nodes", 2, "op", to="__class__"), "operator '__class__' is not known"),
    (setting("nodes", 2, "op", to=["add"]), "is not known"),
    (setting("nodes", 2, "op", to="matmul"), "operator 'matmul' gives|operator 'matmul' does not accept"),
    (setting("nodes", 2, "inputs", to=[[0, 0]]), "does not accept its inputs"),
    (setting("nodes", 2, "inputs", to=[[0, 0], [2, 0]]), r"operand \[2, 0\] is not an earlier node"),
    (setting("nodes", 2, "inputs", to=[[0, 0], [-1, 0]]), "is not an earlier node"),
    (setting("nodes", 2, "inputs", to=[[0, 0], [1, 1]]), r"operand \[1, 1\] does not exist"),
    (setting("nodes", 2, "inputs", to=[[0, 0], "w"]), "an operand must be"),
    (setting("nodes", 2, "inputs", to=[[0, 0], {"scalar": "one"}]), "expected a number, got 'one'"),
    (setting("nodes", 5, "attrs", "axes", to=1), "operator 'sum' has no attribute axes"),
    (setting("nodes", 5, "attrs", "axis", to=9), "does not accept its inputs or attributes"),
    (setting("nodes", 5, "attrs", "axis", to={"slice": [0]}), "expected a number"),
    (setting("nodes", 5, "attrs", "axis", to=[1]), "an attribute cannot be"),
    (setting("nodes", 5, "attrs", to=[]), "'attrs' must be an object"),
    (setting("nodes", 5, "outputs", 0, "shape", to=[3]), r"gives \(2,\) float32, but the file says \(3,\) float32"),
    (setting("nodes", 1, to={"constant": [1, 2], "shape": [3], "dtype": "float32"}), "needs 3 numbers"),
    (setting("nodes", 1, to={"constant": ["a"] * 3, "shape": [3], "dtype": "float32"}), "expected a number"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_file_that_is_not_a_graph_is_refused_with_the_place(change: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        sym.fromjson(broken(change))


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", "null", '"x"', "[" * 100_000])
def test_text_that_is_not_json_or_not_ours_is_refused(text: str) -> None:
    with pytest.raises(GraphError, match="is not"):
        serialize.from_json(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.json"):
        sym.load(tmp_path / "missing.json")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraphError, match=r"x\.json"):
        sym.load(tmp_path / "x.json")


def test_saving_leaves_no_other_file(tmp_path: Path) -> None:
    example()[2].save(tmp_path / "y.json")
    assert [p.name for p in tmp_path.iterdir()] == ["y.json"]
