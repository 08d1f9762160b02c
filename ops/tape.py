"""The tape: what was computed from what, and the one backward pass over it.

There is no list that grows. Each recorded output points to its `Node`, and each node to the inputs, so that what nobody
can reach any more is freed at once, without recursion (CPython's deallocation of deep chains is iterative for
tuples and objects alike). Nodes are numbered in order of creation: a node's number is larger than those of all that
it depends on, so the backward pass is a sort and a loop.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from itertools import count
from operator import attrgetter
from time import monotonic
from typing import Any

from shoal.errors import AutogradError, ShapeError
from shoal.ops import casting, lines, probe
from shoal.ops.backend import namespace
from shoal.ops.context import at
from shoal.ops.registry import OPERATORS, rules_for
from shoal.ops.rows import RowSparse

__all__ = [
    "Hook",
    "HookHandle",
    "Leaf",
    "Node",
    "backward",
    "backward_from",
    "head_cotangents",
    "hook",
    "mark",
    "state",
]

NOTHING: Collection[int] = frozenset()

_numbers = count(1)


class State(threading.local):
    """What this thread does now. Attributes of the class are the defaults of every new thread."""

    recording: bool = False
    training: bool = False
    tracer: Any = None
    """Who is told what is computed while a graph is being traced; see `shoal.ops.graph.trace`."""


state = State()
"""This thread's `State`."""


class Node:
    """One recorded application of an operator. Freed (``inputs`` is None) by the backward pass that used it.

    ``hooks`` and ``line`` are not set unless somebody asks for them: see `hook` and `shoal.ops.lines`.
    """

    __slots__ = ("attrs", "hooks", "inputs", "line", "number", "op", "out")

    hooks: "dict[int, tuple[int, Hook]]"
    line: "lines.Place"

    def __init__(self, op: Any, inputs: tuple[Any, ...], attrs: dict[str, Any], out: Any) -> None:
        self.number = next(_numbers)
        self.op = op
        self.inputs: tuple[Any, ...] | None = inputs
        self.attrs = attrs
        self.out = out  # raw array, or tuple of them


class Leaf:
    """Where the backward pass ends: a variable, and the tensor that takes its gradient.

    ``fresh`` says whether the gradient is new since whoever uses gradients last set it to False; the zero with which a
    variable begins is not: nobody has computed it. ``ready``, if there is one, is called in each backward pass when the
    gradient is in its buffer: as soon as nothing more can be added to it, while the pass goes on with what came before;
    and so are the functions ``after``, after it.
    """

    __slots__ = ("after", "fresh", "grad", "hooks", "number", "ready", "receive", "req")

    inputs: tuple[Any, ...] = ()
    hooks: "dict[int, tuple[int, Hook]]"

    def __init__(self, grad: Any, req: str) -> None:
        self.number = next(_numbers)
        self.grad, self.req, self.fresh = grad, req, False
        self.receive = getattr(grad, "receive", None)  # of a gradient that is no whole array
        self.ready: Callable[[], None] | None = None
        self.after: dict[int, Callable[[], Any]] | None = None

    def deliver(self, g: Any) -> None:
        """Put a raw gradient into the buffer: overwrite it, or add to it."""
        g = turned(g)
        if self.receive is not None:
            self.receive(g, self.req == "add")
        elif type(g) is RowSparse:
            if self.req != "add":
                self.grad.data[...] = 0
            g.add_into(self.grad.data)
        elif self.req == "add":
            self.grad.data += g
        else:
            self.grad.data[...] = g
        self._done()

    def clear(self) -> None:
        """Deliver zero: the variable was reached through functions only that are flat everywhere."""
        if self.req == "write":
            self.empty()
        self._done()

    def empty(self) -> None:
        """Set the gradient to zero."""
        if self.receive is not None:
            self.receive(None, False)
        else:
            self.grad.data[...] = 0

    def _done(self) -> None:
        self.fresh = True
        if self.ready is not None:
            self.ready()
        if self.after:
            for fn in tuple(self.after.values()):
                fn()


Hook = Callable[[Any], Any]
"""Is given a gradient; returns another in its place, or None."""


_hook_numbers = count()


def mark() -> int:
    """A number between those of the nodes that there are and those of the nodes to come."""
    return next(_numbers)


class HookHandle:
    """What registering a hook returns; `detach` (or `remove`) removes the hook. Also a context manager."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks, self._number = hooks, next(_hook_numbers)
        hooks[self._number] = hook

    def detach(self) -> None:
        """Remove the hook; harmless if it was removed before."""
        self._hooks.pop(self._number, None)

    remove = detach

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()


_hooked = False  # whether any tensor of this process has ever had a hook: without, nobody looks for them


def hook(node: Any, index: int, fn: Hook) -> HookHandle:
    """Call ``fn`` with the whole gradient of an output of ``node``, in each pass that comes to it.

    Args:
        node: a `Node` or a `Leaf`.
        index: which output of the node.
        fn: takes the gradient as a tensor; what it returns, unless None, takes its place.
    """
    global _hooked
    _hooked = True
    if not hasattr(node, "hooks"):
        node.hooks = {}
    return HookHandle(node.hooks, (index, fn))


def _through_hooks(node: Any, g: Any, kind: Any) -> Any:
    """The gradient ``g`` of ``node`` after its hooks."""
    for index, fn in tuple(node.hooks.values()):
        one = g[index] if type(g) is tuple else g
        if one is None:
            continue
        raw = not hasattr(one, "_invoke")
        new = fn(kind(one) if raw else one)
        if new is None:
            continue
        if new.shape != one.shape:
            raise ShapeError(f"a hook was given a gradient of shape {one.shape} and returned one of shape {new.shape}")
        new = new.data.astype(one.dtype, copy=False) if raw else new
        g = (*g[:index], new, *g[index + 1 :]) if type(g) is tuple else new
    return g


def _reachable(roots: Sequence[Any], first: int = 0, floor: int = 0) -> list[Any]:
    """All nodes and leaves that ``roots`` depend on, themselves included, latest first; none older than ``first``.

    What is older than ``floor`` is not looked into.

    Raises:
        AutogradError: a part of the graph has been freed by an earlier backward pass.
    """
    found = set(roots)
    stack = list(found)
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise AutogradError(
                f"the recorded graph was freed by an earlier backward pass (at operator {node.op.name!r}"
                f"{lines.said(node)}). To go through it twice, pass retain_graph=True the first time."
            )
        for x in node.inputs:
            parent = getattr(x, "node", None)
            if parent is None:
                continue
            if parent.number >= node.number and type(parent) is Node:
                settle(node)
                stack.append(node)  # again, with what it was computed from
                break
            if parent not in found and parent.number >= first:
                found.add(parent)
                if parent.number >= floor:
                    stack.append(parent)
    return sorted(found, key=attrgetter("number"), reverse=True)


def settle(node: Any) -> None:
    """Give a node the inputs that it was computed from, in the place of tensors that were written to since.

    A write on the tape makes a tensor stand for the output of a later node, whose first input is what it stood for
    before.

    Raises:
        AutogradError: an earlier backward pass has freed the write.
    """
    inputs = list(node.inputs)
    for i, x in enumerate(inputs):
        while type(writer := getattr(x, "node", None)) is Node and writer.number >= node.number:
            if writer.inputs is None:
                raise AutogradError(
                    f"an input of {node.op.name!r} was written to since, and an earlier backward pass has freed that "
                    "write. To go through it twice, pass retain_graph=True the first time."
                )
            x = writer.inputs[0]
        inputs[i] = x
    node.inputs = tuple(inputs)


def backward(
    heads: Sequence[Any],
    cotangents: Sequence[Any],
    targets: Sequence[Any] | None = None,
    *,
    retain: bool,
    create: bool,
    floor: int = 0,
) -> list[Any] | None:
    """Run the gradient rules from ``heads`` down.

    Args:
        heads: tensors on the tape.
        cotangents: one per head, of its shape: raw arrays, or tensors if ``create``.
        targets: tensors on the tape whose cotangents are returned (None for one that no head depends on);
            without it, leaves get theirs delivered.
        retain: keep the graph for another pass.
        create: run the rules on tensors, recording, so that the result can be differentiated again.
        floor: a pass for ``targets`` does not go on below a node that is older.
    """
    with casting.backward():
        return _backward(heads, cotangents, targets, retain, create, floor)


def _backward(
    heads: Sequence[Any],
    cotangents: Sequence[Any],
    targets: Sequence[Any] | None,
    retain: bool,
    create: bool,
    floor: int,
) -> list[Any] | None:
    """`backward`, with no conversions but those of the rules."""
    kind, xp = type(heads[0]), rules_for(namespace(heads[0].data))
    order = _reachable(
        [h.node for h in heads], min([t.node.number for t in targets], default=0) if targets else 0, floor
    )
    path = None if targets is None else _path(order, targets)
    pending = _Pending(create, kind)
    for head, g in zip(heads, cotangents, strict=True):
        pending.add(head.node, head.index, turned(g))
    run = _run_recorded if create else _run_raw
    result: list[Any] = [None] * len(targets or ())
    early = _early(order, pending) if targets is None else None
    for node in order:
        if early is not None and node in early.done:
            continue
        g, handed = pending.take(node), NOTHING
        if g is not None:
            if targets is not None:
                _collect(result, targets, node, g)
            elif type(node) is Leaf:
                node.deliver(g)
            if type(node) is Node and (path is None or (node in path and node.number >= floor)):
                try:
                    if early is not None and getattr(node.op, "streams", False):
                        handed = _run_streamed(node, g, pending, early, kind, xp)
                    else:
                        run(node, g, pending, path, kind, xp)
                except Exception as error:
                    _blame(error, node)
                    raise
        elif targets is None and type(node) is Leaf:
            node.clear()
        if early is not None:
            early.passed(node, handed)
        if not retain and type(node) is Node:
            node.inputs, node.out = None, None
    return None if targets is None else result


def _blame(error: BaseException, node: Any) -> None:
    """Note on an error of a gradient rule which operator it was, on what, and where the user called it."""
    shapes = ", ".join(f"{x.shape} {x.dtype}" if hasattr(x, "shape") else repr(x) for x in node.inputs)
    outs = node.out if type(node.out) is tuple else (node.out,)
    made = ", ".join(str(o.shape) for o in outs)
    where = lines.said(node) or "; autograd.detect_anomaly() would tell the line that called it"
    lines.noted(error, f"in the backward pass, at operator {node.op.name!r} of {shapes} that gave {made}{where}")


def turned(g: Any) -> Any:
    """A gradient as the user has it for one as the rules have it, and the other way round: complex ones conjugated."""
    return OPERATORS.conj(g) if g.dtype.kind == "c" else g


def _collect(result: list[Any], targets: Sequence[Any], node: Any, g: Any) -> None:
    for i, target in enumerate(targets):
        if target.node is node:
            found = g[target.index] if type(g) is tuple else g
            result[i] = None if found is None else turned(found)


def _path(order: list[Any], targets: Sequence[Any]) -> set[Any]:
    """The nodes of ``order`` through which a cotangent reaches a target, targets included."""
    ends = {t.node for t in targets}
    found: set[Any] = set()
    for node in reversed(order):
        if any(getattr(x, "node", None) in found or getattr(x, "node", None) in ends for x in node.inputs):
            found.add(node)
    return found | ends


class _Pending:
    """Cotangents on their way down, summed where paths meet."""

    __slots__ = ("create", "kind", "many", "one", "owned")

    def __init__(self, create: bool, kind: Any) -> None:
        self.create, self.kind = create, kind
        self.one: dict[Any, Any] = {}  # node with one output -> its cotangent
        self.many: dict[Any, list[Any]] = {}  # node with several -> theirs
        self.owned: set[Any] = set()  # sums that were made here, and may be added to in place

    def add(self, node: Any, index: int, g: Any) -> None:
        if type(g) is RowSparse and type(node) is not Leaf:
            g = g.dense()  # rules take whole arrays
        have = self.one.get(node)
        if have is None:
            if type(node) is not Leaf and type(node.out) is tuple:
                slots = self.many.setdefault(node, [None] * len(node.out))
                slots[index] = g if slots[index] is None else slots[index] + g
            else:
                self.one[node] = g
        elif node in self.owned:
            if type(g) is RowSparse:
                g.add_into(have)
            else:
                have += g
        else:
            self.one[node] = total = have + g
            # a sum of 0-d arrays is a NumPy scalar, which has no in-place sum
            if not self.create and total.ndim and type(total) is not RowSparse:
                self.owned.add(node)

    def take(self, node: Any) -> Any:
        g = self.one.pop(node, None)
        if g is None and self.many:
            slots = self.many.pop(node, None)
            g = None if slots is None else tuple(slots)
        if _hooked and g is not None and getattr(node, "hooks", None):
            return _through_hooks(node, g, self.kind)
        return g


def _run_raw(node: Any, g: Any, pending: _Pending, path: set[Any] | None, kind: Any, xp: Any) -> None:
    """Apply a node's gradient rule to raw arrays."""
    inputs, raw, needed = node.inputs, [], []
    for x in inputs:
        if isinstance(x, kind):
            raw.append(x.data)
            needed.append(x.node is not None and (path is None or x.node in path))
        else:
            raw.append(x)
            needed.append(False)
    cotangents = node.op.cotangents(xp, g, node.out, raw, node.attrs, needed)
    for i, c in enumerate(cotangents):
        if c is not None:
            pending.add(inputs[i].node, inputs[i].index, c)


class _Early:
    """Leaves whose gradient somebody waits for: delivered when the last node that uses them has been passed.

    Args:
        uses: how often the nodes of this pass, not passed yet, have each of them as an input.
    """

    __slots__ = ("done", "pending", "uses")

    def __init__(self, uses: dict[Any, int], pending: _Pending) -> None:
        self.uses, self.pending = uses, pending
        self.done: set[Any] = set()

    def passed(self, node: Any, but: Collection[int]) -> None:
        """The rule of ``node`` has been run, or need not be; inputs number ``but`` are done with already."""
        for i, x in enumerate(node.inputs):
            if i not in but:
                self.used(getattr(x, "node", None))

    def used(self, leaf: Any) -> None:
        """One of the uses of ``leaf`` has been passed; it may be something else than a leaf that is waited for."""
        left = self.uses.get(leaf, 0) - 1
        if left < 0:
            return
        self.uses[leaf] = left
        if not left:
            self.done.add(leaf)
            g = self.pending.take(leaf)
            if g is None:
                leaf.clear()
            else:
                leaf.deliver(g)


def _early(order: Sequence[Any], pending: _Pending) -> _Early | None:
    """None if nobody waits for a leaf of this pass."""
    uses = {node: 0 for node in order if type(node) is Leaf and (node.ready is not None or node.after)}
    if not uses:
        return None
    for node in order:
        for x in node.inputs:
            leaf = getattr(x, "node", None)
            if leaf in uses:
                uses[leaf] += 1
    return _Early(uses, pending)


def _run_streamed(node: Any, g: Any, pending: _Pending, early: _Early, kind: Any, xp: Any) -> set[int]:
    """Apply the rule of a whole graph, which hands out each gradient as soon as it has it; numbers of the inputs."""
    inputs, handed = node.inputs, set()
    needed = [isinstance(x, kind) and x.node is not None for x in inputs]
    raw = [x.data if isinstance(x, kind) else x for x in inputs]

    def arrived(i: int, c: Any) -> None:
        handed.add(i)
        pending.add(inputs[i].node, inputs[i].index, c)
        early.used(inputs[i].node)

    node.op.cotangents(xp, g, node.out, raw, node.attrs, needed, arrived)
    return handed


def _run_recorded(node: Any, g: Any, pending: _Pending, path: set[Any] | None, kind: Any, xp: Any) -> None:
    """Apply a node's gradient rule to tensors, which records it."""
    inputs = node.inputs
    if type(node.out) is tuple:
        out: Any = tuple(kind(o, node, i) for i, o in enumerate(node.out))
    else:
        out = kind(node.out, node, 0)
    nodes = [getattr(x, "node", None) for x in inputs]
    needed = [n is not None and (path is None or n in path) for n in nodes]
    for x, c in zip(inputs, node.op.cotangents(OPERATORS, g, out, inputs, node.attrs, needed), strict=True):
        if c is not None:
            pending.add(x.node, x.index, c)


def head_cotangents(heads: Sequence[Any], grads: Sequence[Any]) -> list[Any]:
    """Raw cotangents of ``heads``: those given, of their shape and dtype, or ones.

    Raises:
        AutogradError: a head is not on the tape.
        ShapeError: a cotangent has another shape than its head.
    """
    result = []
    for i, (head, g) in enumerate(zip(heads, grads, strict=True)):
        if head.node is None:
            raise AutogradError(
                f"head {i} (shape {head.shape}) was not recorded: compute it inside autograd.record(), from tensors "
                "that have attach_grad()"
            )
        xp = namespace(head.data)
        if g is None:
            result.append(xp.ones_like(head.data))
            continue
        g = xp.asarray(getattr(g, "data", g) if hasattr(g, "node") else g, dtype=head.dtype)
        if g.shape != head.shape:
            raise ShapeError(f"head {i} has shape {head.shape}, its cotangent has shape {g.shape}")
        result.append(g)
    return result


def backward_from(heads: Sequence[Any], grads: Sequence[Any], *, retain: bool, train_mode: bool) -> None:
    """Deliver the gradients of ``heads`` to the leaves."""
    before = state.recording, state.training
    state.recording, state.training = False, train_mode
    began = 0.0 if probe.note is None else monotonic()
    try:
        with at(heads[0].data):
            backward(heads, head_cotangents(heads, grads), retain=retain, create=False)
        if probe.note is not None:
            probe.note("backward", began, monotonic())
    finally:
        state.recording, state.training = before
