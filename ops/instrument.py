"""Looking at every operator that is carried out: for the profiler, and for the search for the first NaN.

Nobody looks most of the time, and then nothing here costs anything: while somebody does, `Tensor` and the tape work
through slower functions that tell; otherwise through their own. A compiled graph tests `watchers` once a run.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

from shoal.ops import lines, tape
from shoal.ops.backend import namespace
from shoal.ops.registry import Op
from shoal.ops.tensor import Tensor

__all__ = ["Happened", "Watcher", "tell", "title", "watchers", "watching"]


class Happened(NamedTuple):
    """One operator, carried out.

    Attributes:
        op: its name.
        part: "forward" or "backward".
        mode: "imperative" or "hybrid"; "recorded" for a gradient rule that records, whose operators are told of too.
        began, ended: seconds of the monotonic clock.
        inputs: raw arrays, scalars and None; of a gradient rule the cotangents.
        outputs: raw arrays, and None for an input that gets no gradient.
        attrs: the operator's attributes.
        place: where the user called it, if that is known.
        operands: of a gradient rule: the inputs of its operator.
        given: of a gradient rule: the outputs of its operator.
    """

    op: str
    part: str
    mode: str
    began: float
    ended: float
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    attrs: dict[str, Any]
    place: lines.Place | None
    operands: tuple[Any, ...] = ()
    given: tuple[Any, ...] = ()


Watcher: TypeAlias = Callable[[Happened], None]

watchers: list[Watcher] = []
"""Who is told. Change it through `watching` only."""

_lock = threading.Lock()
_own = (Tensor.__dict__["_invoke"], tape._run_raw, tape._run_recorded)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of every operator of all threads, within this context; what it raises, the operator raises."""
    start(watcher)
    try:
        yield
    finally:
        stop(watcher)


def start(watcher: Watcher) -> None:
    """``watcher`` is told from now on."""
    with _lock:
        watchers.append(watcher)
        _install(_invoke, _raw, _recorded)


def stop(watcher: Watcher) -> None:
    """``watcher`` is told no more; nothing happens if it was not."""
    with _lock:
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            _install(*_own)


def _install(invoke: Any, raw: Any, recorded: Any) -> None:
    Tensor._invoke = invoke  # type: ignore[method-assign]  # so that looking costs nothing while nobody looks
    tape._run_raw, tape._run_recorded = raw, recorded


def title(happened: Happened) -> str:
    """The operator's name; of several that a graph has made one, also theirs."""
    body = happened.attrs.get("body")
    if not isinstance(body, tuple):
        return happened.op
    names = [str(step[0]) for step in body]
    return f"{happened.op}({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def tell(happened: Happened) -> None:
    """Tell all who look."""
    for watcher in tuple(watchers):
        watcher(happened)


@classmethod  # type: ignore[misc]  # it takes the place of Tensor._invoke
def _invoke(cls: Any, op: Op[Any], inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """`Tensor._invoke`, told about."""
    place, began = lines.here(), monotonic()
    out = _own[0].__func__(cls, op, inputs, attrs)
    outputs = out if type(out) is tuple else (out,)
    _settle(outputs)
    ended = monotonic()
    node = outputs[0].node if outputs else None
    if type(node) is tape.Node and place is not None:
        node.line = place
    tell(Happened(op.name, "forward", "imperative", began, ended, _raws(inputs), _raws(outputs), attrs, place))
    return out


class _Noting:
    """A `tape._Pending` that notes what is added to it."""

    def __init__(self, pending: Any) -> None:
        self._pending = pending
        self.added: list[Any] = []

    def add(self, node: Any, index: int, g: Any) -> None:
        self.added.append(g)
        self._pending.add(node, index, g)


def _raw(node: Any, g: Any, pending: Any, path: Any, kind: Any, xp: Any) -> None:
    """`tape._run_raw`, told about."""
    _backward(_own[1], "imperative", node, g, pending, path, kind, xp)


def _recorded(node: Any, g: Any, pending: Any, path: Any, kind: Any, xp: Any) -> None:
    """`tape._run_recorded`, told about: as a whole; the operators of the rule are told of by themselves."""
    _backward(_own[2], "recorded", node, g, pending, path, kind, xp)


def _backward(run: Any, mode: str, node: Any, g: Any, pending: Any, path: Any, kind: Any, xp: Any) -> None:
    if not isinstance(node.op, Op):  # a compiled graph, whose operators are told of one by one
        run(node, g, pending, path, kind, xp)
        return
    noting, attrs = _Noting(pending), node.attrs
    operands, given = node.inputs, node.out if type(node.out) is tuple else (node.out,)
    began = monotonic()
    run(node, g, noting, path, kind, xp)
    _settle(noting.added)
    ended = monotonic()
    cotangents = _raws(g if type(g) is tuple else (g,))
    place, outputs = getattr(node, "line", None), _raws(noting.added)
    name = node.op.name
    tell(Happened(name, "backward", mode, began, ended, cotangents, outputs, attrs, place, _raws(operands), given))


def _raws(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x.data if isinstance(x, Tensor) else x for x in values)


def _settle(values: Sequence[Any]) -> None:
    """Wait for a GPU, which computes while Python goes on, so that times are those of the operator."""
    for x in values[:1]:
        array = getattr(x, "data", x)
        if hasattr(array, "__cuda_array_interface__"):
            namespace(array).module.cuda.get_current_stream().synchronize()
