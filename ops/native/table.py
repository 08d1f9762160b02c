"""Which operators have a compiled kernel, and how a call finds it.

A kernel stands beside its operator, not in it: a function of this package is registered under the operator's name. It
is asked once per signature (shapes, dtypes, attributes) and answers with how to compute it, or None: then the
operator's own forward runs, as it does on a GPU, without a compiler, and for values that the kernel refuses (it returns
True, and the forward raises the proper error). The eager dispatcher, gradient rules and graphs all come here, so that
they get the same bits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from shoal.errors import ShoalError
from shoal.ops.native import compiler

__all__ = ["Bound", "In", "Maker", "Run", "bound", "dispatched", "kernel", "kernels", "offered", "plain"]


class In(NamedTuple):
    """What a kernel knows of an array before it sees it."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


Run = Callable[..., Any]
"""``run(*inputs, *outputs)`` on arrays in C order, aligned; a true result means: not done, ask the operator itself.

Inputs of a kernel that is ``strided`` lie as they do."""


class Bound(NamedTuple):
    """A kernel for one signature: its outputs, the function, and whether that takes inputs as they lie."""

    outputs: tuple[In, ...]
    run: Run
    strided: bool = False


B = TypeVar("B", bound=Any)
"""A `Bound` of this table, or of the one for GPUs."""

Maker = Callable[[Sequence[Any], dict[str, Any]], Bound | None]
"""``make(inputs, attrs)``: inputs are `In`, a scalar, or None each."""

_makers: dict[str, Maker] = {}
_bound: dict[Any, Bound | None] = {}
LIMIT = 4096
"""How many signatures are remembered; a program with more of them starts again."""

_on = True


def kernel(name: str) -> Callable[[Maker], Maker]:
    """Register the decorated function as the kernel of the operator ``name``, on the CPU."""

    def register(make: Maker) -> Maker:
        _makers[name] = make
        return make

    return register


def kernels() -> list[str]:
    """The operators that have one."""
    return sorted(_makers)


@contextmanager
def plain() -> Iterator[None]:
    """Within this context every operator that is applied runs its own forward; graphs keep what they were made with."""
    global _on
    before, _on = _on, False
    try:
        yield
    finally:
        _on = before


def bound(name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    """The kernel for a signature; None if there is none, or nothing can be compiled."""
    if not _on or name not in _makers or compiler.switched_off():
        return None
    key = (name, *[(x.shape, x.dtype) if isinstance(x, In) else (type(x), x) for x in inputs], *attrs.items())
    return _find(key, name, inputs, attrs)


def _find(key: Any, name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    try:
        return _bound[key]
    except KeyError:
        if len(_bound) >= LIMIT:
            _bound.clear()
        found = _bound[key] = offered(name, _makers[name], inputs, attrs)
        return found


def offered(name: str, make: Callable[..., B | None], *given: Any) -> B | None:
    """What the maker of a kernel offers, if the operator accepts the inputs, and says the same of its outputs.

    Args:
        given: what the maker is called with: last the inputs and the attributes.
    """
    from shoal.ops.registry import OPS, Spec  # it imports this module

    *_, inputs, attrs = given
    try:
        said = OPS[name].infer(*[Spec(*x) if isinstance(x, In) else x for x in inputs], **attrs)
    except (ShoalError, TypeError, ValueError, LookupError, AttributeError):
        return None  # the forward will say what is wrong
    found = make(*given)
    if found is None or list(found.outputs) != [tuple(s) for s in ((said,) if isinstance(said, Spec) else said)]:
        return None
    return found


def dispatched(
    name: str, forward: Callable[..., Any], cpu: Any, arrays: int, attributes: Sequence[str]
) -> Callable[..., Any]:
    """``forward`` behind its kernel, if it has one.

    Args:
        cpu: the ``xp`` of arrays that kernels can take.
        arrays, attributes: how many inputs the operator has, and the names of what follows them.
    """
    if name not in _makers:
        return forward

    def call(xp: Any, *inputs: Any, **attrs: Any) -> Any:
        if xp is not cpu or not _on:
            return forward(xp, *inputs, **attrs)
        if len(inputs) != arrays:
            attrs = {**dict(zip(attributes, inputs[arrays:], strict=False)), **attrs}
            inputs = (*inputs[:arrays], *[None] * (arrays - len(inputs)))
        known = [In(x.shape, x.dtype) if type(x) is np.ndarray else x for x in inputs]
        found = bound(name, known, attrs)
        if found is None:
            return forward(xp, *inputs, **attrs)
        out = tuple([np.empty(o.shape, o.dtype) for o in found.outputs])
        if found.run(*(inputs if found.strided else map(dense, inputs)), *out):
            return forward(xp, *inputs, **attrs)
        return out if len(out) > 1 else out[0]

    call.__name__, call.__doc__ = forward.__name__, forward.__doc__
    return call


def dense(x: Any) -> Any:
    """``x`` as a kernel wants it: an array in C order, aligned; anything else as it is."""
    if type(x) is not np.ndarray:
        return x
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.require(x, requirements=("C", "A"))
