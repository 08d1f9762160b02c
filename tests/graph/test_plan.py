"""The buffer plan: nothing that is alive is overwritten, and what is dead is reused."""

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.ops.graph.ir import Call, Graph, Ref
from shoal.ops.graph.plan import ALIGN_BYTES, Plan, lifetimes, nbytes, owners, plan
from shoal.ops.registry import Spec

F4 = np.dtype("float32")


def spec(n: int = 16) -> Spec:
    return Spec((n,), F4)


def chain(length: int, op: str = "exp", n: int = 16) -> Graph:
    calls = [Call("", specs=(spec(n),), name="x")]
    calls += [Call(op, ((i, 0),), specs=(spec(n),)) for i in range(length)]
    return Graph(tuple(calls), (0,), ((length, 0),)).check()


def never(call: Call) -> bool:
    return False


def is_view(call: Call) -> bool:
    return call.op == "view"


def inplace(graph: Graph) -> Callable[[int, int, Ref], bool]:
    return lambda position, output, heir: graph.calls[position].op == "exp"


def no(position: int, output: int, heir: Ref) -> bool:
    return False


def inner(graph: Graph) -> set[Ref]:
    """All values of operators that are not outputs."""
    return {(i, 0) for i, _ in graph.operators() if (i, 0) not in graph.outputs}


def test_a_chain_that_works_in_place_needs_one_buffer() -> None:
    graph = chain(10)
    found = plan(graph, inner(graph), never, inplace(graph))
    assert found.size_bytes == 64
    assert found.inplace == 8
    assert found.unshared_bytes == 9 * 64


def test_a_chain_that_does_not_work_in_place_needs_two() -> None:
    graph = chain(10)
    assert plan(graph, inner(graph), never, no).size_bytes == 2 * 64


def test_pinned_values_keep_their_own_memory() -> None:
    graph = chain(10)
    pinned = [(3, 0), (7, 0)]
    found = plan(graph, inner(graph), never, inplace(graph), pinned)
    assert found.offsets[3, 0] not in {found.offsets[i, 0] for i in range(4, 10)}
    assert found.offsets[7, 0] not in {found.offsets[i, 0] for i in (8, 9)}


def test_a_view_keeps_what_it_shows_alive() -> None:
    calls = (
        Call("", specs=(spec(),), name="x"),
        Call("exp", ((0, 0),), specs=(spec(),)),
        Call("view", ((1, 0),), specs=(spec(),)),
        Call("exp", ((0, 0),), specs=(spec(),)),  # must not take the memory of 1: 2 is used below
        Call("add", ((2, 0), (3, 0)), specs=(spec(),)),
    )
    graph = Graph(calls, (0,), ((4, 0),)).check()
    found = plan(graph, {(1, 0), (3, 0)}, is_view, inplace(graph))
    assert found.offsets[1, 0] != found.offsets[3, 0]


def test_an_operand_that_another_operand_views_is_not_overwritten() -> None:
    calls = (
        Call("", specs=(spec(),), name="x"),
        Call("exp", ((0, 0),), specs=(spec(),)),
        Call("view", ((1, 0),), specs=(spec(),)),
        Call("exp", ((1, 0), (2, 0)), specs=(spec(),)),
        Call("add", ((3, 0),), specs=(spec(),)),
    )
    graph = Graph(calls, (0,), ((4, 0),)).check()
    assert plan(graph, {(1, 0), (3, 0)}, is_view, inplace(graph)).inplace == 0


def test_another_size_is_not_written_in_place_but_may_reuse_the_memory() -> None:
    calls = (
        Call("", specs=(spec(),), name="x"),
        Call("exp", ((0, 0),), specs=(spec(32),)),
        Call("exp", ((1, 0),), specs=(spec(16),)),
        Call("exp", ((2, 0),), specs=(spec(16),)),
        Call("add", ((3, 0),), specs=(spec(),)),
    )
    found = plan(Graph(calls, (0,), ((4, 0),)).check(), {(1, 0), (2, 0), (3, 0)}, never, no)
    assert found.offsets[3, 0] == found.offsets[1, 0] == 0


def test_sizes_are_whole_cache_lines() -> None:
    assert [nbytes(Spec(s, F4)) for s in [(0,), (), (16,), (17,), (2, 3)]] == [0, 64, 64, 128, 64]


def test_outputs_live_to_the_end() -> None:
    graph = chain(3)
    assert lifetimes(graph, owners(graph, never))[3, 0] == 4


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    calls = [Call("", specs=(spec(draw(st.sampled_from([1, 16, 40]))),), name="x")]
    for i in range(1, draw(st.integers(2, 25))):
        refs = draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=3))
        op = draw(st.sampled_from(["exp", "view", "add"]))
        size = calls[refs[0]].specs[0] if op != "add" else spec(draw(st.sampled_from([1, 16, 40])))
        calls.append(Call(op, tuple((r, 0) for r in refs), specs=(size,)))
    outputs = draw(st.lists(st.integers(0, len(calls) - 1), min_size=1, max_size=3, unique=True))
    return Graph(tuple(calls), (0,), tuple((o, 0) for o in outputs)).check()


def run(graph: Graph, planned: set[Ref], found: Plan, reads: Sequence[Ref]) -> None:
    """Simulate a run byte by byte: every read must find what was written there."""
    owned = owners(graph, is_view)
    memory: dict[int, Ref] = {}

    def check(ref: Ref) -> None:
        for owner in owned[ref] & planned:
            start, lines = found.offsets[owner], nbytes(graph.spec(owner)) // ALIGN_BYTES
            assert all(memory[start // ALIGN_BYTES + i] == owner for i in range(lines)), (ref, owner)

    for position, call in enumerate(graph.calls):
        for ref in call.inputs:
            check(ref)
        if (position, 0) in planned:
            start, lines = found.offsets[position, 0], nbytes(call.specs[0]) // ALIGN_BYTES
            memory.update({start // ALIGN_BYTES + i: (position, 0) for i in range(lines)})
    for ref in reads:
        check(ref)


@given(graphs(), st.data())
@settings(max_examples=200)
def test_every_read_finds_what_was_written(graph: Graph, data: st.DataObject) -> None:
    planned = {(i, 0) for i, c in graph.operators() if c.op != "view" and data.draw(st.booleans())}
    pinned = data.draw(st.lists(st.sampled_from([(i, 0) for i in range(len(graph.calls))]), max_size=3))
    found = plan(graph, planned, is_view, inplace(graph), pinned)
    assert set(found.offsets) == planned
    assert found.size_bytes <= found.unshared_bytes
    run(graph, planned, found, [*graph.outputs, *pinned])
