"""Mixed precision for models: `autocast`, `init`, and graphs that have their conversions inside."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ContextDecorator, ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from shoal.ops import casting, castlists
from shoal.ops.graph import serialize
from shoal.ops.graph.casts import place_casts
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.passes import remove_identities
from shoal.ops.graph.symbol import Symbol, flatten, replay, variable
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.symbol_block import SymbolBlock
from shoal.ops.precision import is_half
from shoal.ops.registry import operator
from shoal.ops.tensor import Tensor

__all__ = ["autocast", "convert_hybrid_block", "convert_symbol", "init", "list_fp32_ops", "list_lp16_ops"]
__all__ += ["list_widest_type_cast"]

Conditions = Iterable[tuple[str, str, Sequence[Any]]]


def _policy(
    dtype: Any, low: Iterable[str] | None, conditions: Conditions | None, wide: Iterable[str] | None
) -> casting.Policy:
    """The policy for MXNet's arguments."""
    name = getattr(dtype, "__name__", None) or str(dtype)
    tests = tuple((operator, attribute, tuple(values)) for operator, attribute, values in conditions or ())
    return casting.policy_for(name, tuple(low or ()), tuple(wide or ()), tests)


class autocast(ContextDecorator):
    """A context, or a decorator, in which operators choose their precision: `torch.autocast`.

    ::

        with amp.autocast(), autograd.record():
            loss = loss_fn(net(x), y).mean()
        loss.backward()

    Products of matrices, convolutions, attention and recurrent layers take float32 inputs as halves; softmax, losses,
    norms, sums, exponentials take halves as float32; arithmetic takes the widest of its inputs; all else runs in
    what it is given. Parameters stay in float32: they are the masters, and their gradients are float32. Hybridized
    blocks are traced anew, once, and give the same bits.

    Args:
        dtype: "bfloat16", or "float16", which needs a `GradScaler`.
        enabled: False switches conversions off, also inside another context.
        target_precision_ops: operators that shall run in half precision though the tables say otherwise.
        conditional_fp32_ops: (operator, attribute, values): in float32 where the attribute has one of the values.
        fp32_ops: operators that shall run in float32.
    Raises:
        ConfigError: another dtype, or an unknown operator.
    """

    def __init__(
        self,
        dtype: Any = "bfloat16",
        enabled: bool = True,
        *,
        target_precision_ops: Iterable[str] | None = None,
        conditional_fp32_ops: Conditions | None = None,
        fp32_ops: Iterable[str] | None = None,
    ) -> None:
        self._policy = _policy(dtype, target_precision_ops, conditional_fp32_ops, fp32_ops) if enabled else None
        self._entered: list[ExitStack] = []

    def __enter__(self) -> "autocast":
        stack = ExitStack()
        stack.enter_context(casting.using(self._policy))
        if self._policy is not None and self._policy.dtype == np.float16:
            stack.enter_context(np.errstate(over="ignore"))  # infinity is what the scaler looks for
        self._entered.append(stack)
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered.pop().close()


def init(
    target_dtype: Any = "bfloat16",
    target_precision_ops: Iterable[str] | None = None,
    conditional_fp32_ops: Conditions | None = None,
    fp32_ops: Iterable[str] | None = None,
) -> None:
    """`autocast` for the rest of the program, in all threads: MXNet's ``amp.init``. None takes it back.

    Arguments and errors as `autocast`. Threads that are inside an `autocast` of their own go on with that.
    """
    policy = None
    if target_dtype is not None:
        policy = _policy(target_dtype, target_precision_ops, conditional_fp32_ops, fp32_ops)
    casting.State.policy = policy
    casting.state.__dict__.pop("policy", None)


def list_lp16_ops(target_dtype: Any = "bfloat16") -> list[str]:
    """Operators that run in half precision; the same for both kinds."""
    return sorted(castlists.names(castlists.LOW))


def list_fp32_ops(target_dtype: Any = "bfloat16") -> list[str]:
    """Operators that run in float32."""
    return sorted(castlists.names(castlists.WIDE))


def list_widest_type_cast(target_dtype: Any = "bfloat16") -> list[str]:
    """Operators that run in the widest dtype of their inputs."""
    return sorted(castlists.names(castlists.WIDEST))


def convert_symbol(
    sym: Symbol,
    target_dtype: Any = "bfloat16",
    target_precision_ops: Iterable[str] | None = None,
    conditional_fp32_ops: Conditions | None = None,
    fp32_ops: Iterable[str] | None = None,
) -> Symbol:
    """The same symbol with the conversions of `autocast` inside. Arguments and errors as `autocast`."""
    graph, nodes = flatten([sym])
    placed = place_casts(graph, _policy(target_dtype, target_precision_ops, conditional_fp32_ops, fp32_ops))
    fresh = [variable(n.name, n.specs[0], n.source, n.role) for n in nodes]
    with casting.off():
        found = replay(placed, fresh, lambda op, inputs, attrs: operator(op)(*inputs, **attrs))
    made: Symbol = found[0]
    return made


def convert_hybrid_block(
    block: HybridBlock,
    data_example: Any,
    target_dtype: Any = "bfloat16",
    target_precision_ops: Iterable[str] | None = None,
    conditional_fp32_ops: Conditions | None = None,
    fp32_ops: Iterable[str] | None = None,
    cast_params_offline: bool = False,
) -> SymbolBlock:
    """A block for prediction that has the conversions of `autocast` in its graph, and needs no context.

    Args:
        block: with values.
        data_example: an input, or a list of inputs, of the shapes and dtypes to be expected.
        cast_params_offline: keep parameters in half precision that are used in half precision only: half the memory,
            and no conversion at each call.
        target_dtype, target_precision_ops, conditional_fp32_ops, fp32_ops: as `autocast`.
    Raises:
        ConfigError: as `autocast`.
        GraphError: the model cannot be traced.
    """
    inputs = tuple(data_example) if isinstance(data_example, list | tuple) else (data_example,)
    policy = _policy(target_dtype, target_precision_ops, conditional_fp32_ops, fp32_ops)
    with casting.off():
        saved = block.described(*[x if isinstance(x, Tensor) else Tensor(np.asarray(x)) for x in inputs])
    graph = place_casts(saved.graph, policy)
    if cast_params_offline:
        kept = {p for p, role in zip(graph.inputs, saved.roles, strict=True) if role in ("param", "aux")}
        graph = _halved(graph, kept)
    made = SymbolBlock(serialize.Saved(graph, saved.roles))
    own: Mapping[str, Any] = made.collect_params()
    for name, param in block.collect_params().items():
        if name in own:
            own[name].set_data(param.data())
    return made


def _halved(graph: Graph, params: set[int]) -> Graph:
    """The graph with those of ``params`` in half precision of which nothing but that is used."""
    users: dict[int, list[int]] = {p: [] for p in params}
    for position, call in enumerate(graph.calls):
        for ref in call.refs:
            if ref[0] in users:
                users[ref[0]].append(position)
    calls = list(graph.calls)
    outputs = {position for position, _ in graph.outputs}
    for p, at in users.items():
        found = {graph.calls[u].specs[0].dtype if graph.calls[u].op == "astype" else None for u in at}
        to = found.pop() if len(found) == 1 and p not in outputs else None
        if to is not None and is_half(to):
            calls[p] = replace(calls[p], specs=(calls[p].specs[0]._replace(dtype=to),))
    return remove_identities(Graph(tuple(calls), graph.inputs, graph.outputs))
