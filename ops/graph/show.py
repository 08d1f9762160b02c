"""Graphs for people: a trace before and after its passes, as text, as a table of operators, as a picture."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shoal.errors import CheckpointError
from shoal.ops.backend import CPU
from shoal.ops.graph.compiled import Trace, joined
from shoal.ops.graph.executor import evaluate
from shoal.ops.graph.expression import C
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.listing import listing
from shoal.ops.graph.pipeline import chosen, optimized
from shoal.ops.graph.svg import drawing

__all__ = ["Pair", "pair", "pair_of_graph"]


class Pair(NamedTuple):
    """A graph before and after its passes.

    Attributes:
        before, after: the graphs.
        forward: how many of the outputs are those of the forward part.
    """

    before: Graph
    after: Graph
    forward: int

    def text(self) -> str:
        """Both as listings."""
        parts = [("before", self.before), ("after", self.after)]
        return "\n\n".join(f"# {name}: {_calls(graph)} calls\n{listing(graph)}" for name, graph in parts)

    def table(self) -> str:
        """How often each operator is called, before and after."""
        old, new = (Counter(c.op for _, c in graph.operators()) for graph in (self.before, self.after))
        lines = [f"{'operator':<32} {'before':>7} {'after':>7}"]
        lines += [f"{name:<32} {old[name]:>7} {new[name]:>7}" for name in sorted(old | new, key=lambda n: (-old[n], n))]
        return "\n".join([*lines, f"{'all':<32} {sum(old.values()):>7} {sum(new.values()):>7}"])

    def svg(self) -> str:
        """Both as one picture."""
        parts = [("before", self.before), ("after", self.after)]
        return drawing([(f"{name}: {_calls(graph)} calls", graph) for name, graph in parts], self.forward)

    def write_svg(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file.

        Raises:
            CheckpointError: the disk refuses.
        """
        try:
            Path(path).write_text(self.svg(), encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {os.fspath(path)}: {error}") from error


def pair(found: Trace, passes: str | Sequence[str] | None = None, *, gradient: bool = True) -> Pair:
    """The graph of a trace before and after its passes.

    Args:
        passes: as of `HybridBlock.hybridize`.
        gradient: with the gradient of all learned parameters; otherwise the forward part only.
    """
    inputs = [*found.arguments, *found.captured]
    wants = [gradient and s.node.role == "param" and s.dtype.kind == "f" for s in inputs]
    joint = joined(found, wants)
    return pair_of_graph(joint.graph, passes, joint.forward)


def pair_of_graph(graph: Graph, passes: str | Sequence[str] | None = None, forward: int | None = None) -> Pair:
    """A graph before and after its passes, as they would be with a compiler."""
    count = len(graph.outputs) if forward is None else forward

    def run(call: Any, arrays: list[Any]) -> tuple[Any, ...]:
        return evaluate(CPU, call, arrays)

    return Pair(graph, optimized(graph, run, chosen(passes), target=C, forward=count), count)


def _calls(graph: Graph) -> int:
    return sum(1 for _ in graph.operators())
