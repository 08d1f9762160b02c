"""A saved graph as a block."""

import os
from collections.abc import Sequence
from typing import Any

from shoal.errors import GraphError, ShapeError
from shoal.ops.graph import serialize
from shoal.ops.graph.symbol import Symbol, replay
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.parameter import Parameter
from shoal.ops.precision import is_float
from shoal.ops.registry import operator
from shoal.ops.tensor import Tensor

__all__ = ["SymbolBlock"]


_INITIAL = {"bias": "zeros", "beta": "zeros", "gamma": "ones", "running_mean": "zeros", "running_var": "ones"}
"""What parameters of a graph without values start as, by the last part of their name."""


class SymbolBlock(HybridBlock):
    """Runs a graph that was saved by `HybridBlock.export` or `Symbol.save`: inputs that are data are its arguments.

    Its parameters have their names and can be trained further. Inputs may have other lengths than at export, as long as
    no operator has them as an attribute.

    Args:
        saved: the graph.
        inputs: names of the arguments, in order; by default all inputs whose role is "data".
    """

    def __init__(self, saved: serialize.Saved, inputs: Sequence[str] | None = None) -> None:
        super().__init__()
        roles = dict(zip(saved.names, saved.roles, strict=True))
        wanted = tuple(n for n, role in roles.items() if role == "data") if inputs is None else tuple(inputs)
        unknown = sorted(set(wanted) - set(roles))
        if unknown or len(roles) != len(saved.names):
            raise GraphError(f"the graph has the inputs {', '.join(saved.names)}; asked for {', '.join(unknown)}")
        self.saved, self.wanted = saved, wanted
        params: dict[str, Parameter] = {}
        for name, position in zip(saved.names, saved.graph.inputs, strict=True):
            if name not in wanted and roles[name] != "key":
                params[name] = _parameter(name, saved.graph.calls[position].specs[0], roles[name])
        self._reg_params.update(params)

    @staticmethod
    def imports(
        symbol_file: str | os.PathLike[str],
        input_names: Sequence[str] | str | None = None,
        param_file: str | os.PathLike[str] | None = None,
    ) -> "SymbolBlock":
        """Load what `HybridBlock.export` wrote.

        Args:
            symbol_file: the ``-symbol.json`` file.
            input_names: the arguments, such as ["data"]; by default all inputs that were arguments when it was saved.
            param_file: the ``.safetensors`` file; without it the parameters have to be initialized or loaded.
        Raises:
            GraphError: the file is not a valid graph, or lacks an input; says where.
            CheckpointError: a file is missing or damaged, or does not fit.
        """
        names = [input_names] if isinstance(input_names, str) else input_names
        block = SymbolBlock(serialize.read(symbol_file), names)
        if param_file is not None:
            block.load_parameters(param_file)
        return block

    def forward(self, *args: Any) -> Any:
        """Apply the graph's operators one by one: to tensors at once, to symbols as part of a larger graph.

        Raises:
            ShapeError: the number of arguments, their kinds of dtype or numbers of axes are not those of the graph.
        """
        graph, given = self.saved.graph, dict(zip(self.wanted, args, strict=False))
        if len(args) != len(self.wanted):
            raise ShapeError(
                f"{self._label()} takes {len(self.wanted)} inputs ({', '.join(self.wanted)}), got {len(args)}"
            )
        values = []
        for name, position, role in zip(self.saved.names, graph.inputs, self.saved.roles, strict=True):
            spec = graph.calls[position].specs[0]
            if name in given:
                values.append(_checked(self._label(), name, given[name], spec))
            else:
                values.append(_key(args, name) if role == "key" else self._reg_params[name].data())
        outputs = replay(graph, values, lambda op, inputs, attrs: operator(op)(*inputs, **attrs))
        outputs = [x if isinstance(x, (Tensor, Symbol)) else Tensor(x) for x in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def extra_repr(self) -> str:
        """Inputs and size of the graph."""
        calls = sum(1 for _ in self.saved.graph.operators())
        return f"{', '.join(self.wanted)}: {calls} operators"


def _parameter(name: str, spec: Any, role: str) -> Parameter:
    learned = role == "param" and is_float(spec.dtype)
    init = _INITIAL.get(name.rpartition(".")[2])
    return Parameter(name, "write" if learned else "null", spec.shape, spec.dtype, init=init, differentiable=learned)


def _checked(who: str, name: str, value: Any, spec: Any) -> Any:
    if len(value.shape) != len(spec.shape) or value.dtype.kind != spec.dtype.kind:
        raise ShapeError(
            f"{who}: input {name!r} must be like {spec.shape} {spec.dtype}, got {tuple(value.shape)} {value.dtype}"
        )
    return value


def _key(args: tuple[Any, ...], purpose: str) -> Any:
    return next(x for x in args if isinstance(x, (Tensor, Symbol)))._random_key(purpose)
