"""Algebraic rules: what they make simpler, and that they keep every bit unless they are loose."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal.np
from shoal.errors import ConfigError
from shoal.ops import elementwise, shape
from shoal.ops.backend import CPU
from shoal.ops.graph.algebra import simplify
from shoal.ops.graph.executor import Program
from shoal.ops.graph.pipeline import OPTIONAL, PASSES, chosen
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.registry import OPS, Spec

assert shoal.np

X = variable("x", Spec((2, 3, 4), np.dtype("float32")))
ROW = variable("row", Spec((1, 3, 1), np.dtype("float32")))

spread, minus = OPS["broadcast_to"], OPS["negative"]

SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-40, 3e38, 1.5, -2.25, 1 / 3, 7e-39] * 2, "float32")


def left(build: Callable[..., Any], loose: bool = False) -> tuple[list[str], bool]:
    """The operators that are left of ``abs(build(x, row))``, and whether the bits are those of the plain graph."""
    graph, _ = flatten([elementwise.abs_(build(X, ROW))], [X, ROW])
    simple = simplify(graph, loose=loose).check()
    arrays = [SPECIAL.reshape(2, 3, 4), np.array([1.0, -0.0, 3.0], "float32").reshape(1, 3, 1)]
    with np.errstate(all="ignore"):
        a, b = Program(graph, CPU)(*arrays)[0], Program(simple, CPU)(*arrays)[0]
    ops = [c.op for _, c in simple.operators()]
    assert ops.pop() == "abs" and a.dtype == b.dtype and a.shape == b.shape
    return ops, np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


CASES: list[tuple[str, Callable[..., Any], list[str]]] = [
    ("x * 1", lambda x, r: x * 1.0, []),
    ("1 * x", lambda x, r: 1.0 * x, []),
    ("x / 1", lambda x, r: x / 1.0, []),
    ("x ** 1", lambda x, r: x**1.0, []),
    ("x - 0", lambda x, r: x - 0.0, []),
    ("x + (-0)", lambda x, r: x + -0.0, []),
    ("x + 0 turns -0 into 0", lambda x, r: x + 0.0, ["add"]),
    ("an integer times 1.0 is a float", lambda x, r: x.astype("int32") * 1.0, ["astype", "multiply"]),
    ("-(-x)", lambda x, r: minus(-x), []),
    ("x + (-y)", lambda x, r: x + (-(x * r)), ["multiply", "subtract"]),
    ("x - (-y)", lambda x, r: x - (-(x * r)), ["multiply", "add"]),
    ("x * -1", lambda x, r: x * -1.0, ["negative"]),
    ("x / 8", lambda x, r: x / 8.0, ["multiply"]),
    ("x / 3", lambda x, r: x / 3.0, ["divide"]),
    ("two transposes", lambda x, r: x.transpose((1, 2, 0)).transpose((2, 0, 1)), []),
    ("three transposes", lambda x, r: shape.swapaxes(x.transpose((1, 2, 0)).transpose(), 0, 1), ["transpose"]),
    ("swapped twice", lambda x, r: shape.swapaxes(shape.swapaxes(x, 0, 2), 2, 0), []),
    ("moved there and back", lambda x, r: shape.moveaxis(shape.moveaxis(x, 0, 2), 2, 0), []),
    ("reshapings", lambda x, r: x.reshape((6, 4)).reshape((24,)).reshape((2, 12)), ["reshape"]),
    ("reshaped there and back", lambda x, r: shape.squeeze(shape.expand_dims(x, 1), 1), []),
    ("spread twice", lambda x, r: spread(spread(r, shape=(2, 3, 1)), shape=(2, 3, 4)), ["broadcast_to"]),
    ("widened and back", lambda x, r: x.astype("float64").astype("float32"), []),
    ("narrowed and back", lambda x, r: x.astype("float16").astype("float32"), ["astype", "astype"]),
    ("widened, then narrowed", lambda x, r: x.astype("float64").astype("float16"), ["astype"]),
    ("where(c, x, x)", lambda x, r: elementwise.where(x > 0, x, x), []),
    ("a sum of one", lambda x, r: shape.expand_dims(x, 0).sum(axis=0), []),
    ("a chain of rules", lambda x, r: (minus(-(x * 1.0)) - 0.0) / 1.0, []),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_exact_rules_simplify_and_keep_every_bit(build: Callable[..., Any], expected: list[str]) -> None:
    ops, same = left(build)
    assert ops == expected and same


LOOSE: list[tuple[str, Callable[..., Any], list[str]]] = [
    ("x + 0", lambda x, r: x + 0.0, []),
    ("0 + x", lambda x, r: 0.0 + x, []),
    ("x ** 2", lambda x, r: x**2.0, ["square"]),
    ("x ** 0.5", lambda x, r: x**0.5, ["sqrt"]),
    ("x ** -1", lambda x, r: x**-1.0, ["reciprocal"]),
    ("x * 3 * 7", lambda x, r: x * 3.0 * 7.0, ["multiply"]),
]


@pytest.mark.parametrize(("build", "expected"), [c[1:] for c in LOOSE], ids=[c[0] for c in LOOSE])
def test_loose_rules_are_used_only_where_they_are_asked_for(build: Callable[..., Any], expected: list[str]) -> None:
    assert left(build, loose=True)[0] == expected
    assert left(build)[0] != expected


def test_a_result_of_the_graph_is_never_the_memory_of_an_input() -> None:
    graph, _ = flatten([X * 1.0], [X])
    assert simplify(graph) is graph


def test_a_graph_without_anything_to_simplify_is_the_same_object() -> None:
    graph, _ = flatten([elementwise.exp(X) + ROW], [X, ROW])
    assert simplify(graph) is graph


def test_passes_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = set(PASSES) - OPTIONAL
    assert chosen("all") == everything and chosen("none") == frozenset()
    assert chosen("-fuse") == everything - {"fuse"}
    assert chosen("dead, common") == {"dead", "common"} == chosen(["dead", "common"])
    assert chosen("+loose") == everything | {"loose"}
    monkeypatch.setenv("SHOAL_PASSES", "-algebra")
    assert chosen() == everything - {"algebra"}
    with pytest.raises(ConfigError, match="no pass is called fuze; there are dead"):
        chosen("fuze")
