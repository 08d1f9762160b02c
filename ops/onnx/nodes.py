"""The table of ONNX operators: one function for each, on Tensors, Symbols and plain arrays.

    @node("LeakyRelu")
    def leaky_relu(c: Call, x: Any) -> Any:
        return activation.leaky_relu(x, alpha=c.get("alpha", 0.01))

A function gets the node's inputs in order, None for those that are left out, and returns its output or a tuple of
them. What is only known as numbers (shapes, axes, scales) it asks for with `Call.known`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import GraphError
from shoal.ops.onnx.proto import Node
from shoal.ops.tensor import Tensor

__all__ = ["KNOWN", "NODES", "Call", "node", "supported"]

Handler = Callable[..., Any]

NODES: dict[tuple[str, str], Handler] = {}
"""By domain and name."""

KNOWN: dict[tuple[str, str], frozenset[int]] = {}
"""Positions of the inputs whose numbers must be known when a graph is traced: an initializer there is no parameter."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node, as its function sees it.

    Attributes:
        node: what the file says.
        opset: the version of the node's domain.
        run: runs a sub-graph: ``run(graph, {name: value}) -> outputs``.
        training: whether the block is in training mode.
    """

    node: Node
    opset: int
    run: Callable[..., Any]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """As the file has them."""
        return self.node.attrs

    @property
    def outputs(self) -> int:
        """How many outputs are asked for."""
        return len(self.node.outputs)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attrs.get(name, default)

    def wants(self, output: int) -> bool:
        """Whether an output is used."""
        return output < len(self.node.outputs) and bool(self.node.outputs[output])

    def known(self, x: Any, what: str) -> np.ndarray[Any, Any]:
        """The numbers of a value.

        Raises:
            GraphError: it is computed from the arguments while the model is traced.
        """
        if isinstance(x, Tensor):
            return np.asarray(x)
        if isinstance(x, np.ndarray | np.generic):
            return np.asarray(x)
        raise GraphError(
            f"{self.node}: {what} depends on the arguments' values, so a graph cannot have it; run without hybridize()"
        )

    def ints(self, x: Any, what: str) -> tuple[int, ...]:
        """Known whole numbers."""
        return tuple(int(v) for v in self.known(x, what).reshape(-1))

    def refuse(self, why: str) -> GraphError:
        """An error that names the node."""
        return GraphError(f"{self.node}: {why}")


def node(*names: str, domain: str = "", known: Collection[int] = ()) -> Callable[[Handler], Handler]:
    """Register the decorated function for these operators.

    Args:
        known: positions of inputs whose numbers it needs.
    """

    def register(made: Handler) -> Handler:
        for name in names:
            if (domain, name) in NODES:
                raise ValueError(f"two functions are for the ONNX operator {name}")
            NODES[domain, name] = made
            KNOWN[domain, name] = frozenset(known)
        return made

    return register


def supported() -> list[str]:
    """Names of the operators that can be run, sorted; with the domain if it is not ONNX's own."""
    return sorted(f"{domain}.{name}" if domain else name for domain, name in NODES)
