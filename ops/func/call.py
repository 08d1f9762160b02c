"""A block as a function of its parameters."""

from collections.abc import Mapping
from typing import Any

from shoal.errors import ConfigError, ShapeError, meant
from shoal.ops.graph import trace
from shoal.ops.nn.block import Block
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__ = ["functional_call", "parameters_of"]


def functional_call(
    block: Block,
    parameters: Mapping[str, Any],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    updates: dict[str, Any] | None = None,
) -> Any:
    """What ``block(*args, **kwargs)`` returns with other values for some of its parameters; the block stays as it is.

    The result is a function of the values: gradients go to them, not to the block, and they may be under `vmap`. A
    hybridized block runs its graph on them.

    Args:
        parameters: values by path, as in `Block.collect_params`; parameters that are not named have their own.
        args: a tuple of the arguments, or the only one.
        updates: receives what the block writes to the named parameters, such as running statistics; it is dropped
            otherwise.
    Raises:
        ConfigError: the block has no parameter of that name.
        ShapeError: a value has another shape than its parameter.

    >>> from shoal import np, nn, func
    >>> net = nn.Dense(1, in_units=2)
    >>> net.initialize()
    >>> weights = {"weight": np.array([[1.0, 2.0]]), "bias": np.array([0.5])}
    >>> func.functional_call(net, weights, np.ones((1, 2)))
    Tensor([[3.5]], dtype=float32)
    """
    own = block.collect_params()
    values, names = {}, {}
    for name, value in parameters.items():
        if name not in own:
            raise ConfigError(
                f"functional_call: {type(block).__name__} has no parameter {name!r}{meant(name, own)}. It has "
                f"{', '.join(own) or 'none'}."
            )
        given: Any = value if isinstance(value, Traced) else Tensor(value)
        if not own[name].accepts(tuple(given.shape)):
            raise ShapeError(f"functional_call: {name!r} has shape {own[name].shape}, got {tuple(given.shape)}")
        values[id(own[name])], names[id(own[name])] = given, name
    with trace.substituting(values, names) as made:
        out = block(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
    if updates is not None:
        updates.update(made.written)
    return out


def parameters_of(block: Block) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of the parameters of ``block`` that are learned, and of the others, by path; for `functional_call`.

    They are constants, and share the block's memory.
    """
    found = block.collect_params()
    learned = {n: p.current().detach() for n, p in found.items() if p.grad_req != "null"}
    return learned, {n: p.current().detach() for n, p in found.items() if p.grad_req == "null"}
