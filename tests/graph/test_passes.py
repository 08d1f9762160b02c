"""Each pass removes what it should, keeps the inputs, and changes no value."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import GraphError
from shoal.ops.graph import passes
from shoal.ops.graph.ir import Call, Graph, frozen, positions
from shoal.ops.registry import Spec

S = Spec((3,), np.dtype("float64"))
FUNCTIONS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "neg": np.negative, "modf": np.modf}


def evaluate(call: Call, arrays: list[Any]) -> tuple[Any, ...]:
    out = FUNCTIONS[call.op](*arrays)
    return out if isinstance(out, tuple) else (out,)


def run(graph: Graph, *arrays: Any) -> list[Any]:
    values = {(p, 0): x for p, x in zip(graph.inputs, arrays, strict=True)}
    for position, call in enumerate(graph.calls):
        if call.is_const:
            values[position, 0] = call.value
        elif call.op:
            args = [values[x] if isinstance(x, tuple) else x for x in call.inputs]
            values.update({(position, n): v for n, v in enumerate(evaluate(call, args))})
    return [values[ref] for ref in graph.outputs]


def leaf(name: str) -> Call:
    return Call("", specs=(S,), name=name)


def const(*values: float) -> Call:
    return Call("", specs=(S,), value=np.array(values))


def call(op: str, *inputs: Any, **attrs: Any) -> Call:
    refs = tuple((x, 0) if isinstance(x, int) and not isinstance(x, bool) else x for x in inputs)
    return Call(op, refs, attrs, (S, S) if op == "modf" else (S,))


def graph(*calls: Call, outputs: tuple[int, ...] | None = None) -> Graph:
    inputs = tuple(i for i, c in enumerate(calls) if c.is_input)
    return Graph(calls, inputs, tuple((o, 0) for o in outputs or (len(calls) - 1,))).check()


def test_dead_calls_are_removed_and_inputs_stay() -> None:
    made = passes.remove_dead(graph(leaf("x"), leaf("y"), call("neg", 1), call("neg", 0)))
    assert [c.name or c.op for c in made.check().calls] == ["x", "y", "neg"]
    assert made.inputs == (0, 1)


def test_a_call_of_which_one_output_is_used_stays() -> None:
    first = graph(leaf("x"), call("modf", 0), call("neg", 0))
    made = Graph(first.calls, first.inputs, ((1, 1),))
    assert [c.op for c in passes.remove_dead(made).calls] == ["", "modf"]


def test_equal_calls_become_one() -> None:
    made = passes.eliminate_common(graph(leaf("x"), call("neg", 0), call("neg", 0), call("add", 1, 2)))
    assert [c.op for c in made.check().calls] == ["", "neg", "add"]
    assert made.calls[2].inputs == ((1, 0), (1, 0))


def test_equal_chains_become_one() -> None:
    made = passes.eliminate_common(
        graph(leaf("x"), call("neg", 0), call("neg", 1), call("neg", 0), call("neg", 3), call("add", 2, 4))
    )
    assert [c.op for c in made.check().calls] == ["", "neg", "neg", "add"]


def test_equal_constants_become_one() -> None:
    made = passes.eliminate_common(graph(const(1, 2, 3), const(1, 2, 3), call("add", 0, 1)))
    assert len(made.check().calls) == 2


@pytest.mark.parametrize("pair", [(0.0, -0.0), (1, True), (1, 1.0), (1.0, np.nextafter(1.0, 2.0))])
def test_operands_that_differ_in_any_bit_or_type_are_not_equal(pair: tuple[Any, Any]) -> None:
    calls = [Call("add", ((0, 0), x), {}, (S,)) for x in pair]
    made = graph(leaf("x"), *calls, call("add", 1, 2))
    assert passes.eliminate_common(made) is made


def test_other_attributes_are_not_equal() -> None:
    made = graph(leaf("x"), call("neg", 0, axis=0), call("neg", 0, axis=1), call("add", 1, 2))
    assert passes.eliminate_common(made) is made


def test_nan_constants_are_equal_by_their_bits() -> None:
    assert frozen(float("nan")) == frozen(float("nan"))


def test_two_inputs_are_never_equal() -> None:
    made = graph(leaf("x"), leaf("x"), call("add", 0, 1))
    assert passes.eliminate_common(made) is made


def test_calls_on_constants_become_constants() -> None:
    made = passes.fold_constants(graph(const(1, 2, 3), call("neg", 0), leaf("x"), call("add", 1, 2)), evaluate).check()
    assert [c.op for c in made.calls] == ["", "", "add"]
    np.testing.assert_array_equal(made.calls[0].value, [-1, -2, -3])


def test_all_outputs_of_a_folded_call_are_constants() -> None:
    first = graph(const(1.5, 2.5, 3.5), call("modf", 0))
    made = passes.fold_constants(Graph(first.calls, (), ((1, 0), (1, 1))), evaluate).check()
    assert [c.is_const for c in made.calls] == [True, True]


def test_conversions_that_change_nothing_are_removed() -> None:
    made = passes.remove_identities(
        graph(leaf("x"), call("astype", 0), call("reshape", 1), call("neg", 2), call("astype", 3), call("neg", 4))
    )
    assert [c.name or c.op for c in made.check().calls] == ["x", "neg", "neg"]


def test_conversions_that_change_something_or_are_outputs_stay() -> None:
    wider = Call("astype", ((0, 0),), {}, (Spec((3,), np.dtype("float32")),))
    made = graph(leaf("x"), wider, call("astype", 0), outputs=(1, 2))
    assert passes.remove_identities(made) is made


def test_large_results_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "FOLD_LIMIT_BYTES", 8)
    made = passes.fold_constants(graph(const(1, 2, 3), call("neg", 0)), evaluate)
    assert [c.op for c in made.calls] == ["", "neg"]


def test_a_reference_to_a_later_call_is_refused() -> None:
    with pytest.raises(GraphError, match="not before it"):
        Graph((call("neg", 0),), (), ((0, 0),)).check()


def test_a_missing_output_is_refused() -> None:
    with pytest.raises(GraphError, match="does not exist"):
        Graph((leaf("x"),), (0,), ((0, 1),)).check()


def test_inputs_that_are_not_the_leaves_are_refused() -> None:
    with pytest.raises(GraphError, match="are not the input leaves"):
        Graph((leaf("x"),), (), ((0, 0),)).check()


def test_positions_are_what_values_depend_on() -> None:
    made = graph(leaf("x"), leaf("y"), call("neg", 0), call("neg", 1), call("neg", 2))
    assert positions(made, made.outputs) == {0, 2, 4}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    calls = [leaf("x"), const(1.0, -0.0, 0.5)]
    for _ in range(draw(st.integers(1, 20))):
        operand = st.integers(0, len(calls) - 1)
        op = draw(st.sampled_from(["add", "mul", "neg"]))
        calls.append(call(op, *[draw(operand) for _ in range(1 if op == "neg" else 2)]))
    outputs = draw(st.lists(st.integers(0, len(calls) - 1), min_size=1, max_size=3))
    return graph(*calls, outputs=tuple(outputs))


@given(graphs())
@settings(max_examples=150)
def test_passes_change_no_bit_of_any_output(made: Graph) -> None:
    x = np.array([1.25, -3.0, 0.0])
    before = run(made, x)
    done = passes.optimize(made, evaluate).check()
    assert len(done.calls) <= len(made.calls)
    for a, b in zip(before, run(done, x), strict=True):
        assert a.tobytes() == b.tobytes()


@given(graphs())
@settings(max_examples=50)
def test_optimizing_twice_changes_nothing_more(made: Graph) -> None:
    once = passes.optimize(made, evaluate)
    assert len(passes.optimize(once, evaluate).calls) == len(once.calls)
