"""A graph as text: one line per call, with shapes."""

from typing import Any

from shoal.ops.graph.ir import Graph, Operand

__all__ = ["listing"]

WIDTH = 72
"""Column in which shapes start, if the call is not longer."""


def listing(graph: Graph) -> str:
    """The calls of ``graph`` in order, then its outputs.

    data = input                                   (2, 3) float32
    %1 = tanh(data)                                (2, 3) float32
    return %1
    """
    names = _names(graph)
    lines = []
    for position, call in enumerate(graph.calls):
        outputs = ", ".join(names[position, n] for n in range(len(call.specs)))
        shapes = ", ".join(f"{spec.shape} {spec.dtype}" for spec in call.specs)
        lines.append(f"{f'{outputs} = {_right(graph, position, names)}':<{WIDTH}} {shapes}")
    return "\n".join([*lines, f"return {', '.join(names[ref] for ref in graph.outputs)}"])


def _names(graph: Graph) -> dict[Any, str]:
    names = {}
    for position, call in enumerate(graph.calls):
        for n in range(len(call.specs)):
            many = f".{n}" if len(call.specs) > 1 else ""
            names[position, n] = call.name if call.is_input and call.name else f"%{position}{many}"
    return names


def _right(graph: Graph, position: int, names: dict[Any, str]) -> str:
    call = graph.calls[position]
    if call.is_input:
        return "input"
    if call.is_const:
        return f"constant {_short(call.value)}"

    def operand(x: Operand) -> str:
        return names[x] if isinstance(x, tuple) else repr(x)

    attrs = [f"{k}={_attr(v)}" for k, v in call.attrs.items()]
    return f"{call.op}({', '.join([*map(operand, call.inputs), *attrs])})"


def _attr(value: Any) -> str:
    """An attribute; of the graph of a loop's body only that it is one."""
    return f"<graph of {len(value)} characters>" if isinstance(value, str) and len(value) > WIDTH else repr(value)


def _short(array: Any) -> str:
    return str(array.item()) if array.size == 1 else f"array of {array.size}"
