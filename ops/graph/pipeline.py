"""Which passes a graph goes through, in which order, and how to switch them off.

A choice is text: ``"all"``, ``"none"``, names (``"dead,common"``: these only), names with a minus (``"-fuse"``: all
others), or with a plus (``"+loose"``: also one that is off by itself). `HybridBlock.hybridize` takes one as ``passes``;
the variable ``SHOAL_PASSES`` is used where it is not given.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.graph import passes
from shoal.ops.graph.algebra import simplify
from shoal.ops.graph.expression import CUDA, C, Target, printable
from shoal.ops.graph.fuse import WORTH_US, fuse
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.join import join
from shoal.ops.graph.rowfuse import fuse_rows
from shoal.ops.graph.share import share

__all__ = ["PASSES", "chosen", "optimized"]

Evaluate = Callable[[Call, list[Any]], tuple[Any, ...]]

PASSES = {
    "dead": "calls that no output depends on are removed",
    "identities": "conversions and reshapings that change nothing are removed",
    "algebra": "x*1, -(-x), chains of transposes and reshapings and the like are simplified; no bit changes",
    "loose": "x+0, small powers, products of constants are simplified; last bits may change (off by itself)",
    "fold": "calls on constants are replaced by their values",
    "share": "without compiled code: operators are opened for what their gradient computes too, such as erf of GELU",
    "common": "calls of the same operator on the same values become one",
    "join": "convolutions and batch normalizations take over the ReLU and the addition behind them",
    "rows": "reductions over the last axis and the element-wise calls around them become one loop over rows",
    "fuse": "element-wise calls of one shape become one loop, where it can be compiled",
}
"""Name and meaning of each pass, in the order in which they run."""

OPTIONAL = frozenset(["loose"])
"""Passes that are used only when they are asked for."""


def chosen(choice: str | Iterable[str] | None = None) -> frozenset[str]:
    """The passes that a choice means; None asks the environment.

    Raises:
        ConfigError: an unknown name; lists those there are.
    """
    text = os.environ.get("SHOAL_PASSES", "all") if choice is None else choice
    names = [n.strip() for n in text.split(",")] if isinstance(text, str) else list(text)
    names = [n for n in names if n]
    unknown = [n for n in names if n.lstrip("+-") not in PASSES and n not in ("all", "none")]
    if unknown:
        raise ConfigError(f"no pass is called {', '.join(unknown)}; there are {', '.join(PASSES)} (and all, none)")
    only = {n for n in names if n in PASSES}
    found = only if only or "none" in names else set(PASSES) - OPTIONAL
    found |= {n[1:] for n in names if n[0] == "+"}
    return frozenset(found - {n[1:] for n in names if n[0] == "-"})


def optimized(
    graph: Graph,
    evaluate: Evaluate,
    wanted: frozenset[str],
    *,
    target: Target | None = None,
    forward: int | None = None,
    worth_us: float = WORTH_US,
    host: bool = False,
) -> Graph:
    """The graph after the ``wanted`` passes.

    Args:
        evaluate: computes one call from its arrays, as the executor would.
        target: the language that kernels can be made in; None for none.
        forward: how many of the outputs are those of the forward part.
        worth_us: what fusion must gain in a run.
        host: NumPy carries out what no kernel does.
    """
    if "dead" in wanted:
        graph = passes.remove_dead(graph)
    if "identities" in wanted:
        graph = passes.remove_identities(graph)
    if "algebra" in wanted or "loose" in wanted:
        graph = simplify(graph, loose="loose" in wanted)
    if "fold" in wanted:
        graph = passes.fold_constants(graph, evaluate)
    if "share" in wanted and host and target is None:
        graph = share(graph)
    if "common" in wanted:
        graph = passes.eliminate_common(graph)
    if "join" in wanted and target is not None:
        graph = join(graph)
    able = None if target is None else _Able(target)
    if "rows" in wanted and able is not None:
        graph = fuse_rows(graph, able, forward=forward, worth_us=worth_us)
    if "fuse" in wanted and able is not None:
        graph = fuse(graph, able, forward=forward, worth_us=worth_us)
    return graph


def target_of(xp: Any) -> Target | None:
    """The language that kernels for arrays of ``xp`` are made in here; None where nothing compiles them."""
    if xp.module is not np:
        return CUDA if hasattr(xp.module, "RawModule") else None  # most GPUs of NumPy have no compiler
    from shoal.ops.native import compiler

    return None if compiler.why_not() else C


class _Able:
    """Whether a kernel can be made of an operator on these specs; remembers."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.known: dict[Any, bool] = {}

    def __call__(self, name: str, specs: Any, attrs: dict[str, Any]) -> bool:
        kinds = tuple(s.dtype if hasattr(s, "dtype") else type(s) for s in specs)
        key = (name, kinds, tuple(attrs.items()))
        if key not in self.known:
            self.known[key] = printable(self.target, name, specs, attrs)
        return self.known[key]
