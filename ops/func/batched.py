"""One example of a batch: what a function under `vmap` computes with.

A `Batched` value looks like one example, and holds the whole batch, along its first axis. An operator applied to it is
applied to the batch, by the rule of `shoal.ops.func.rules` that the operator has. Values nest: the innermost `vmap` is
the outermost wrapper, and in memory the axis of the outermost `vmap` comes first.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar, NoReturn

import numpy as np

from shoal.errors import AutogradError
from shoal.ops import index, lines, random
from shoal.ops.methods import ArrayMethods
from shoal.ops.registry import OPS, Op, Traced
from shoal.ops.tensor import Tensor

__all__ = [
    "Batched",
    "Level",
    "active",
    "arranged",
    "each",
    "entered",
    "expanded",
    "innermost",
    "unwrapped",
    "wrapped",
]

_numbers = count(1)


class Level:
    """One `vmap` that is under way.

    Attributes:
        number: inner ones have larger numbers.
        size: examples of the batch.
    """

    __slots__ = ("number", "open", "size")

    def __init__(self, size: int) -> None:
        self.number, self.size, self.open = next(_numbers), size, True

    def __repr__(self) -> str:
        return f"vmap of {self.size}"


class _Local(threading.local):
    levels: tuple[Level, ...] = ()


_local = _Local()


def active() -> tuple[Level, ...]:
    """The levels that this thread is inside of, outermost first."""
    return _local.levels


@contextmanager
def entered(size: int, randomness: str) -> Iterator[Level]:
    """Within this context this thread is inside of one more `vmap`.

    Args:
        randomness: "error", "different" or "same"; see `vmap`.
    """
    level, before = Level(size), _local.levels
    _local.levels = (*before, level)
    try:
        if randomness == "same":
            yield level
        else:
            with random.keys_from(_keys(level, randomness, random.key_source())):
                yield level
    finally:
        _local.levels, level.open = before, False


def _keys(level: Level, randomness: str, outer: Any) -> Any:
    def different(purpose: str) -> Any:
        return Batched(OPS["stack"](*[_tensor(outer(purpose)) for _ in range(level.size)]), level)

    def refused(purpose: str) -> NoReturn:
        raise AutogradError(
            f"{lines.user_line()} draws random numbers ({purpose}) under vmap: say vmap(..., randomness='different') "
            "for numbers of its own for each example, or 'same'"
        )

    return different if randomness == "different" else refused


def _tensor(x: Any) -> Any:
    return x if isinstance(x, Traced) else Tensor(x)


class Batched(ArrayMethods):
    """One example of a batch: the shape and dtype of one, the numbers of all.

    Attributes:
        value: Tensor, Symbol or `Batched` of an outer level, with the batch along its first axis.
        level: the `vmap` it belongs to.
    """

    __slots__ = ("level", "value")
    _rank: ClassVar[int] = 3

    def __init__(self, value: Any, level: Level) -> None:
        self.value, self.level = value, level

    @classmethod
    def _invoke(cls, op: Op[Any], inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        from shoal.ops.func import rules

        level = max((x.level for x in inputs if isinstance(x, Batched)), key=lambda at: at.number)
        if not level.open:
            raise AutogradError(
                f"{lines.user_line()} uses a value of a vmap that has ended (in {op.name}): a function under vmap "
                "returns its results, and does not store them elsewhere"
            )
        on = [isinstance(x, Batched) and x.level is level for x in inputs]
        values = [x.value if flag else x for x, flag in zip(inputs, on, strict=True)]
        out = rules.apply(op, values, on, level, attrs)
        return tuple(Batched(o, level) for o in out) if type(out) is tuple else Batched(out, level)

    def _random_key(self, purpose: str) -> Any:
        return _tensor(random.key(purpose))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis of one example."""
        return self.value.shape[1:]  # type: ignore[no-any-return]  # value is Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.value.dtype  # type: ignore[no-any-return]  # value is Any

    @property
    def backend(self) -> Any:
        """The namespace of the raw arrays."""
        return self.value.backend

    @property
    def device(self) -> str:
        """Where the values are."""
        return str(self.value.device)

    def detach(self) -> Any:
        """The same value as a constant of the gradient."""
        return Batched(self.value.detach(), self.level)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<one of {self.level.size}: {self.shape} {self.dtype}>"

    def _no(self, what: str) -> NoReturn:
        raise AutogradError(
            f"{lines.user_line()} needs {what} of {self!r}: under vmap a value stands for all examples of the batch, "
            "and each may have another. Use where() for a choice between values, or move the line out of the vmap."
        )

    def __bool__(self) -> NoReturn:
        self._no("the truth value")

    def __float__(self) -> NoReturn:
        self._no("float()")

    def __int__(self) -> NoReturn:
        self._no("int()")

    def __index__(self) -> NoReturn:
        self._no("an index")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        self._no("a NumPy array")

    def __setitem__(self, key: Any, value: Any) -> None:
        new = index.assign(Batched(self.value, self.level), key, value)
        if new.level is not self.level:
            raise AutogradError(
                f"{lines.user_line()} assigns a value of an inner vmap to a part of {self!r} of an outer one, which "
                "would have to become one for each of the inner examples: build the new value with where or stack"
            )
        self.value = new.value  # what was computed from the old one stays as it is

    def __getattr__(self, name: str) -> Any:
        if name in _NEED_VALUES:
            self._no(f".{name}")
        raise AttributeError(f"'Batched' object has no attribute {name!r}")


_NEED_VALUES = frozenset(["asnumpy", "item", "tolist", "grad", "backward", "attach_grad", "numpy", "register_hook"])


def unwrapped(x: Any) -> tuple[Any, tuple[Level, ...]]:
    """The innermost value of ``x``, and the levels whose axes it has in front, in order of its axes."""
    levels: list[Level] = []
    while isinstance(x, Batched):
        levels.append(x.level)
        x = x.value
    return x, tuple(reversed(levels))


def wrapped(value: Any, levels: Sequence[Level]) -> Any:
    """The opposite of `unwrapped`."""
    for level in levels:
        value = Batched(value, level)
    return value


def arranged(value: Any, have: Sequence[Level], want: Sequence[Level]) -> Any:
    """A value whose first axes are those of the levels ``have``, with those of ``want`` instead, which has them all.

    Axes that are missing are made by broadcasting.
    """
    if tuple(have) == tuple(want):
        return value
    k, rest = len(have), tuple(value.shape[len(have) :])
    place = {level: i for i, level in enumerate(have)}
    order = (*(place[level] for level in want if level in place), *range(k, k + len(rest)))
    if order != tuple(range(k + len(rest))):
        value = OPS["transpose"](value, axes=order)
    if len(want) == k:
        return value
    ones = tuple(level.size if level in place else 1 for level in want)
    full = tuple(level.size for level in want)
    return OPS["broadcast_to"](OPS["reshape"](value, shape=(*ones, *rest)), shape=(*full, *rest))


def expanded(x: Any, levels: Sequence[Level]) -> Any:
    """The innermost value of ``x`` with the axes of all ``levels``, of which it may lack some, in front."""
    value, have = unwrapped(x)
    return arranged(value, have, levels)


def innermost(values: Sequence[Any]) -> Level | None:
    """The innermost level of ``values``; None if none is under vmap."""
    levels = [x.level for x in values if isinstance(x, Batched)]
    return max(levels, key=lambda level: level.number) if levels else None


def each(fn: Callable[..., Any], values: Sequence[Any], level: Level) -> Any:
    """What ``fn`` returns for one example after the other, under vmap: a value, or a tuple of values and None."""
    outs = [
        fn(*(x.value[i] if isinstance(x, Batched) and x.level is level else x for x in values))
        for i in range(level.size)
    ]

    def joined(parts: Sequence[Any]) -> Any:
        return None if parts[0] is None else Batched(OPS["stack"](*parts), level)

    return tuple(joined(c) for c in zip(*outs, strict=True)) if isinstance(outs[0], tuple) else joined(outs)
