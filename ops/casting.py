"""Conversions that operators make to their inputs under `shoal.amp`: the thread's policy, and who applies it.

`Op.__call__` asks the policy whenever an operator is applied to tensors or to symbols, so that imperative execution
and the trace of a hybridized model place the same conversions, and give the same bits. Gradient rules run in the dtypes
that the forward pass had: nothing is converted there but what `astype`'s own rule converts back.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import castlists
from shoal.ops.precision import BFLOAT16

__all__ = ["Condition", "Policy", "backward", "off", "policy_for", "state", "using"]

Condition: TypeAlias = tuple[str, str, tuple[Any, ...]]
"""(operator, attribute, values): it runs in float32 if the attribute has one of the values."""

_FLOAT32 = np.dtype(np.float32)
_FLOATS = (_FLOAT32, np.dtype(np.float16), BFLOAT16)


class State(threading.local):
    """The policy of this thread; the class attribute is the default of all threads (see `shoal.amp.init`)."""

    policy: "Policy | None" = None
    scaled: bool = False
    """Whether this thread has scaled a loss: gradients may then overflow without a warning, the scaler looks."""


state = State()
"""This thread's `State`."""


class Policy:
    """What each operator wants its inputs to be. Made by `policy_for`, which gives the same object for the same lists.

    Attributes:
        dtype: the half precision that is used, bfloat16 or float16.
        rules: "low", "wide" or "widest" by operator; others take what they are given.
    """

    def __init__(
        self, dtype: np.dtype[Any], low: Sequence[str], wide: Sequence[str], conditions: Sequence[Condition]
    ) -> None:
        self.dtype, self.conditions = dtype, tuple(conditions)
        self.rules = dict.fromkeys(castlists.names(castlists.WIDEST), "widest")
        self.rules |= dict.fromkeys(castlists.names(castlists.WIDE), "wide")
        self.rules |= dict.fromkeys(castlists.names(castlists.LOW), "low")
        self.rules |= dict.fromkeys(low, "low") | dict.fromkeys(wide, "wide")

    def __repr__(self) -> str:
        return f"<casts to {self.dtype}>"

    def targets(self, name: str, dtypes: Sequence[Any], attrs: dict[str, Any]) -> list[Any] | None:
        """For each input the dtype that it is to be converted to, or None; None for all together: nothing to do.

        Args:
            dtypes: of the inputs; None for a number, or an input that is left out. float64, integers and booleans stay
                what they are, and an operator that has a float64 among its inputs takes all as they are.
        """
        rule = self._rule(name, attrs)
        if rule is None or (
            rule != "wide" and any(d is not None and d.kind in "fc" and d.itemsize > 4 for d in dtypes)
        ):
            return None
        counted = dtypes[: castlists.FIRST_INPUTS.get(name, len(dtypes))]
        floats = {d for d in counted if d in _FLOATS}
        if not floats or (rule == "widest" and len(floats) == 1):
            return None
        to = self.dtype if rule == "low" else _FLOAT32
        found = [to if d in _FLOATS and d != to else None for d in counted]
        return [*found, *[None] * (len(dtypes) - len(found))] if any(found) else None

    def _rule(self, name: str, attrs: dict[str, Any]) -> str | None:
        for operator, attribute, values in self.conditions:
            if operator == name and attrs.get(attribute) in values:
                return "wide"
        return self.rules.get(name)

    def cast(self, name: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> tuple[Any, ...]:
        """The inputs of the operator ``name``, converted where it wants them to be: by `astype`, on the tape."""
        if name not in self.rules:
            return inputs
        targets = self.targets(name, [getattr(x, "dtype", None) for x in inputs], attrs)
        if targets is None:
            return inputs
        from shoal.ops.elementwise import astype

        return tuple(x if to is None else astype(x, dtype=to.name) for x, to in zip(inputs, targets, strict=True))


@lru_cache(maxsize=64)
def policy_for(
    dtype: str = "bfloat16",
    low: tuple[str, ...] = (),
    wide: tuple[str, ...] = (),
    conditions: tuple[Condition, ...] = (),
) -> Policy:
    """The policy of the tables in `shoal.ops.castlists` with some operators moved.

    Args:
        dtype: "bfloat16" or "float16".
        low, wide: operators that run in half precision, or in float32, whatever the tables say.
        conditions: operators that run in float32 for some values of an attribute.
    Raises:
        ConfigError: another dtype, an unknown operator, or one that is in both lists.
    """
    from shoal.ops.registry import OPS

    if dtype not in ("bfloat16", "float16"):
        raise ConfigError(f"amp: half precision is 'bfloat16' or 'float16', got {dtype!r}")
    listed = {n for t in (castlists.LOW, castlists.WIDE, castlists.WIDEST) for n in castlists.names(t)}
    for name in (*low, *wide, *(c[0] for c in conditions)):
        if name not in OPS and name not in listed:  # some are not loaded yet
            raise ConfigError(f"amp: no operator is called {name!r}; shoal.amp.list_lp16_ops() has those there are")
    if both := sorted(set(low) & set(wide)):
        raise ConfigError(f"amp: {', '.join(both)} cannot run in half precision and in float32: take it from one list")
    return Policy(BFLOAT16 if dtype == "bfloat16" else np.dtype(np.float16), low, wide, conditions)


@contextmanager
def using(policy: Policy | None) -> Iterator[None]:
    """Within this context this thread's operators follow ``policy``; with None they convert nothing."""
    own, before = "policy" in state.__dict__, state.policy
    state.policy = policy
    try:
        yield
    finally:
        if own:
            state.policy = before
        else:
            del state.policy  # the default of all threads counts again


def off() -> AbstractContextManager[None]:
    """`using` no policy: for gradient rules, which run in the dtypes that there are."""
    return using(None)


@contextmanager
def backward() -> Iterator[None]:
    """What a backward pass runs in: `off`, and infinities are silent where the loss was scaled."""
    quiet = np.errstate(over="ignore", invalid="ignore") if state.scaled else nullcontext()
    with quiet, off():
        yield
