"""Which operators have a GPU kernel, how a call finds it, and how to switch it off.

As on the CPU (`shoal.ops.native.table`) a kernel stands beside its operator, not in it: a maker is registered under the
operator's name, is asked once per signature (shapes, dtypes, attributes), and answers with how to compute it, or None:
then the operator's own forward runs on the array namespace. The eager dispatcher, gradient rules and graphs all come
here.

``SHOAL_GPU_KERNELS`` says which are used: ``all`` (the default), ``none``, names (``softmax,standardize``: these only),
or names with a minus (``-max_pool``: all others). `using` says so for a part of a program.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from shoal.errors import ConfigError
from shoal.ops.native.table import LIMIT, In, Run, offered

__all__ = [
    "Bound",
    "In",
    "Maker",
    "bound",
    "dense",
    "dispatched",
    "kernel",
    "kernels",
    "layout_as",
    "lies_last",
    "pair",
    "switched_on",
    "using",
]


class Bound(NamedTuple):
    """A kernel for one signature.

    Attributes:
        outputs: shapes and types.
        run: see `Maker`.
        like: arrays may also lie with the channels last, and the outputs lie as the first input does.
        strided: inputs may lie in any way.
        last: so may they here, and outputs have the channels last in memory.
    """

    outputs: tuple[In, ...]
    run: Run
    like: bool = False
    strided: bool = False
    last: bool = False


Maker = Callable[[Any, Sequence[Any], dict[str, Any]], Bound | None]
"""``make(xp, inputs, attrs)``: inputs are `In`, a scalar, or None each. What it binds is called as ``run(*inputs,
*outputs)`` with arrays in C order, allocates nothing that outlives it, and waits for nothing: it can be captured."""

OTHERS = frozenset(["fused", "fused_rows", "gemm", "dnn"])
"""Switches that are no operator with a maker here: generated groups, cuBLASLt, cuDNN."""

_makers: dict[str, Maker] = {}
_groups: dict[str, str] = {}
_bound: dict[Any, Bound | None] = {}
_choice: str | None = None
_parsed: dict[str, tuple[bool, frozenset[str]]] = {}


def kernel(name: str, group: str = "") -> Callable[[Maker], Maker]:
    """Register the decorated maker for the operator ``name``; it can be switched off with its group, too."""

    def register(make: Maker) -> Maker:
        _makers[name] = make
        _groups[name] = group
        return make

    return register


def kernels() -> list[str]:
    """The operators that have one."""
    return sorted(_makers)


@contextmanager
def using(choice: str | Iterable[str]) -> Iterator[None]:
    """Within this context the kernels of ``choice`` are used; programs keep what they were planned with.

    Raises:
        ConfigError: an unknown name; lists those there are.
    """
    global _choice
    before, _choice = _choice, choice if isinstance(choice, str) else ",".join(choice)
    try:
        _parse(_choice)
        yield
    finally:
        _choice = before


def switched_on(name: str) -> bool:
    """Whether the kernel of this name may be used.

    Raises:
        ConfigError: ``SHOAL_GPU_KERNELS`` has an unknown name.
    """
    choice = os.environ.get("SHOAL_GPU_KERNELS", "all") if _choice is None else _choice
    found = _parsed.get(choice)
    if found is None:
        found = _parsed[choice] = _parse(choice)
    others, names = found
    mentioned = name in names or _groups.get(name) in names
    return not mentioned if others else mentioned


def _parse(choice: str) -> tuple[bool, frozenset[str]]:
    """(True, all but these) or (False, these)."""
    names = [n for n in (part.strip() for part in choice.split(",")) if n]
    known = {*_makers, *OTHERS}
    unknown = [n for n in names if n.lstrip("-") not in known and n not in ("all", "none")]
    if unknown:
        raise ConfigError(
            f"SHOAL_GPU_KERNELS: no GPU kernel is called {', '.join(unknown)}; there are {', '.join(sorted(known))} "
            "(and all, none)"
        )
    only = frozenset(n for n in names if n in known)
    if only or "none" in names:
        return False, only
    return True, frozenset(n[1:] for n in names if n[0] == "-")


def bound(xp: Any, name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    """The kernel for a signature; None if there is none, or it is switched off."""
    if name not in _makers or not switched_on(name) or not hasattr(xp.module, "RawModule"):
        return None
    key = (xp, name, *[(x.shape, x.dtype) if isinstance(x, In) else (type(x), x) for x in inputs], *attrs.items())
    try:
        return _bound[key]
    except TypeError:
        return None  # an array of the host among those of a GPU: the forward will say so
    except KeyError:
        if len(_bound) >= LIMIT:
            _bound.clear()
        found = _bound[key] = offered(name, _makers[name], xp, inputs, attrs)
        return found


def dispatched(
    name: str, forward: Callable[..., Any], cpu: Any, arrays: int, attributes: Sequence[str]
) -> Callable[..., Any]:
    """``forward`` behind its GPU kernel, if it has one.

    Args:
        cpu: the ``xp`` of arrays that are not on a GPU.
        arrays, attributes: how many inputs the operator has, and the names of what follows them.
    """
    if name not in _makers:
        return forward

    def call(xp: Any, *inputs: Any, **attrs: Any) -> Any:
        if xp is cpu:
            return forward(xp, *inputs, **attrs)
        given, more = inputs, attrs
        if len(inputs) != arrays:
            more = {**dict(zip(attributes, inputs[arrays:], strict=False)), **attrs}
            given = (*inputs[:arrays], *[None] * (arrays - len(inputs)))
        kind = xp.ndarray
        found = bound(xp, name, [In(x.shape, x.dtype) if isinstance(x, kind) else x for x in given], more)
        if found is None:
            return forward(xp, *inputs, **attrs)
        if found.last or (found.like and lies_last(given[0])):
            out = tuple([_last(xp, o) for o in found.outputs])
            found.run(*given, *out)
        else:
            out = tuple([xp.module.empty(o.shape, o.dtype) for o in found.outputs])
            found.run(*(given if found.strided else [dense(xp, x) for x in given]), *out)
        return out if len(out) > 1 else out[0]

    call.__name__, call.__doc__ = forward.__name__, forward.__doc__
    return call


def dense(xp: Any, x: Any) -> Any:
    """``x`` as a kernel wants it: an array in C order; anything else as it is."""
    if not isinstance(x, xp.ndarray) or x.flags.c_contiguous:
        return x
    return xp.module.ascontiguousarray(x)


def lies_last(x: Any) -> bool:
    """Whether the axis of channels (the second) is the last in memory, and there is no gap."""
    return x.ndim in (3, 4) and bool(x.transpose(0, *range(2, x.ndim), 1).flags.c_contiguous)


def layout_as(xp: Any, x: Any, last: bool) -> Any:
    """``x`` in C order, or in that order with the channels last; copied if it is not."""
    module = xp.module
    if not last:
        return x if x.flags.c_contiguous else module.ascontiguousarray(x)
    return x if lies_last(x) else module.moveaxis(module.ascontiguousarray(module.moveaxis(x, 1, -1)), -1, 1)


def pair(value: Any, count: int = 2) -> tuple[int, int]:
    """A number for each axis of an image; of a line, which is an image of height 1, that of its axis is the second."""
    found = (value,) * count if not isinstance(value, Sequence) else tuple(value)
    return (int(found[0]), int(found[1])) if count == 2 else (1, int(found[0]))


def _last(xp: Any, out: In) -> Any:
    """An array whose channels are last in memory, if it has positions behind them."""
    if len(out.shape) < 3:
        return xp.module.empty(out.shape, out.dtype)
    n, c, *space = out.shape
    return xp.module.moveaxis(xp.module.empty((n, *space, c), out.dtype), -1, 1)
