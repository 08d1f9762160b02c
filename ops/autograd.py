"""Gradients: recording what is computed, and going back over it.

    x.attach_grad()
    with record():
        loss = model(x).sum()
    loss.backward()          # x.grad has d loss / d x

Names and meanings are MXNet's. Recording and training mode belong to the thread.
"""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shoal.errors import AutogradError, GraphError, ShapeError
from shoal.ops import lines, probe, tape
from shoal.ops.func.batched import each, innermost
from shoal.ops.registry import Op, Traced
from shoal.ops.tensor import Tensor

__all__ = [
    "Function",
    "backward",
    "grad",
    "is_recording",
    "is_training",
    "mark_variables",
    "pause",
    "predict_mode",
    "record",
    "set_recording",
    "set_training",
    "train_mode",
]

_state = tape.state


@contextmanager
def _mode(recording: bool | None, training: bool | None) -> Iterator[None]:
    before = _state.recording, _state.training
    _state.recording = before[0] if recording is None else recording
    _state.training = before[1] if training is None else training
    try:
        yield
    finally:
        _state.recording, _state.training = before


@contextmanager
def record(train_mode: bool = True) -> Iterator[None]:
    """Within this context operators remember how their results came about, and layers are in training mode.

    Args:
        train_mode: False records as for prediction: no dropout, running statistics.
    """
    with _mode(True, train_mode):
        if probe.note is None:
            yield
            return
        with probe.span("forward"):
            yield


@contextmanager
def pause(train_mode: bool = False) -> Iterator[None]:
    """Within this context nothing is recorded: for updates and metrics inside `record`."""
    with _mode(False, train_mode):
        yield


@contextmanager
def train_mode() -> Iterator[None]:
    """Within this context layers are in training mode (dropout, batch statistics); recording stays as it is."""
    with _mode(None, True):
        yield


@contextmanager
def predict_mode() -> Iterator[None]:
    """Within this context layers are in prediction mode; recording stays as it is."""
    with _mode(None, False):
        yield


def is_recording() -> bool:
    """Whether this thread records."""
    return _state.recording


def is_training() -> bool:
    """Whether this thread is in training mode."""
    return _state.training


def set_recording(is_recording: bool) -> bool:
    """Switch recording on or off for this thread; returns what it was. Prefer `record` and `pause`."""
    before, _state.recording = _state.recording, is_recording
    return before


def set_training(train_mode: bool) -> bool:
    """Switch training mode on or off for this thread; returns what it was. Prefer `train_mode`."""
    before, _state.training = _state.training, train_mode
    return before


def mark_variables(variables: Any, gradients: Any, grad_reqs: str | Sequence[str] = "write") -> None:
    """Make tensors variables whose gradients are delivered to the given tensors; see `Tensor.attach_grad`.

    Args:
        variables, gradients: a tensor each, or sequences of the same length.
        grad_reqs: "write", "add" or "null", for all or one each.
    """
    variables, gradients = _several(variables), _several(gradients)
    reqs = [grad_reqs] * len(variables) if isinstance(grad_reqs, str) else list(grad_reqs)
    for variable, gradient, req in zip(variables, gradients, reqs, strict=True):
        variable.attach_grad(req, gradient)


def backward(heads: Any, head_grads: Any = None, retain_graph: bool = False, train_mode: bool = True) -> None:
    """Deliver gradients of ``heads`` to the `grad` of all variables they were computed from.

    Args:
        heads: a tensor or several.
        head_grads: cotangents of the heads, of their shapes; None means ones, for all or for one of them.
        retain_graph: keep the recorded graph for another pass; without it the graph is freed.
        train_mode: the mode in which custom `Function` s run their backward.
    Raises:
        AutogradError: a head was not recorded, or its graph has been freed.
        ShapeError: a cotangent has another shape than its head.
    """
    heads = _several(heads)
    grads = [None] * len(heads) if head_grads is None else _several(head_grads)
    tape.backward_from(heads, grads, retain=retain_graph, train_mode=train_mode)


def grad(
    heads: Any,
    variables: Any = None,
    head_grads: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    train_mode: bool = True,
) -> Any:
    """Gradients of ``heads`` with respect to ``variables``, returned; what variables hold in `grad` stays.

    Args:
        heads: a tensor or several.
        variables: a tensor or several, on the tape: with an attached gradient, or computed while recording.
        head_grads: as in `backward`.
        retain_graph: keep the graph; by default as ``create_graph``.
        create_graph: record the computation of the gradients, so that they can be differentiated again.
        train_mode: as in `backward`.
    Returns:
        A tensor for a single variable, else a list; zeros where no head depends on the variable.
    Raises:
        AutogradError, ShapeError: as in `backward`; also if a variable is not on the tape.
    """
    if variables is None or (callable(heads) and not isinstance(heads, Traced)):
        raise AutogradError(
            "autograd.grad(heads, variables) takes tensors that were recorded; for the gradient of a function use "
            "func.grad(function)(arguments)"
        )
    single = isinstance(variables, Tensor)
    heads, wanted = _several(heads), _several(variables)
    for i, v in enumerate(wanted):
        if v.node is None:
            raise AutogradError(
                f"variable {i} (shape {v.shape}) is not on the tape: call attach_grad() on it before record()"
            )
    cotangents = tape.head_cotangents(heads, [None] * len(heads) if head_grads is None else _several(head_grads))
    if create_graph:
        given = [None] * len(heads) if head_grads is None else _several(head_grads)
        cotangents = [g if isinstance(g, Tensor) else Tensor(c) for g, c in zip(given, cotangents, strict=True)]
    retain = create_graph if retain_graph is None else retain_graph
    with _mode(create_graph, train_mode):
        found = tape.backward(heads, cotangents, wanted, retain=retain, create=create_graph)
    assert found is not None
    made = [_returned(g, v, create_graph) for g, v in zip(found, wanted, strict=True)]
    return made[0] if single else made


def _returned(g: Any, variable: Tensor, created: bool) -> Tensor:
    if g is None:
        return Tensor(variable.backend.zeros_like(variable.data))
    return g if created else Tensor(variable.backend.array(g))  # a copy: rules may hand one array to two inputs


def _several(x: Any) -> list[Any]:
    return [x] if isinstance(x, Traced) else list(x)


class Function:
    """An operation with a gradient of its own: subclass it, define `forward` and `backward`, and call an instance.

    class Sigmoid(Function):
        def forward(self, x):
            y = 1 / (1 + np.exp(-x))
            self.save_for_backward(y)
            return y

        def backward(self, dy):
            (y,) = self.saved_tensors
            return dy * y * (1 - y)

    An instance may be called several times: each call's `backward` finds the tensors and the attributes that its
    `forward` left.
    """

    _saved: tuple[Any, ...] = ()
    _last: "weakref.ref[_CustomOp] | None" = None  # weak: what was saved goes with its graph

    def __init__(self) -> None:
        self._saved = ()

    def forward(self, *inputs: Any) -> Any:
        """The outputs, a tensor or a tuple, from the inputs. Not recorded."""
        raise TypeError(f"{type(self).__name__} does not define forward(self, *inputs)")

    def backward(self, *output_grads: Any) -> Any:
        """One gradient per input (None for no gradient), from one cotangent per output."""
        raise TypeError(f"{type(self).__name__} does not define backward(self, *output_grads)")

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors for `backward`."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given."""
        return self._saved

    def __call__(self, *inputs: Any) -> Any:
        """Run `forward`, and record it as one operation."""
        level = innermost(inputs)
        if level is not None:
            return each(lambda *xs: copy.copy(self)(*xs), inputs, level)
        if any(isinstance(x, Traced) and not isinstance(x, Tensor) for x in inputs):
            raise GraphError(
                f"{type(self).__name__} is a custom Function: its Python code cannot become part of a graph. "
                "Write it with operators, or do not hybridize the block that calls it."
            )
        self._part_with_last_call()
        with _mode(False, None):
            outputs = self.forward(*inputs)
        many = isinstance(outputs, (tuple, list))
        raw = tuple(o.data for o in (outputs if many else [outputs]))
        tracked = _state.recording and any(isinstance(x, Tensor) and x.node is not None for x in inputs)
        node = None
        if tracked:
            op = _CustomOp(self)
            self._last = weakref.ref(op)
            node = tape.Node(op, inputs, {}, raw if many else raw[0])
            if (place := lines.here()) is not None:
                node.line = place
        made = tuple(Tensor(o, node, i) for i, o in enumerate(raw))
        return made if many else made[0]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: not the call that this one recorded."""
        return {name: value for name, value in self.__dict__.items() if name != "_last"}

    def _part_with_last_call(self) -> None:
        """Leave to the call that was recorded last what it saved, which `forward` will overwrite."""
        last = None if self._last is None else self._last()
        if last is not None and last.function is self:
            last.function = copy.copy(self)


class _CustomOp(Op[Any]):
    """What the tape sees of a `Function`: an operator whose gradient rule is its `backward`."""

    def __init__(self, function: Function) -> None:
        self.name = type(function).__name__
        self.function = function
        self.rule = self._rule

    def _rule(self, xp: Any, g: Any, out: Any, *inputs: Any) -> tuple[Any, ...]:
        outs, gs = (out, g) if isinstance(out, tuple) else ((out,), (g,))
        given = [xp.zeros_like(o) if c is None else c for c, o in zip(gs, outs, strict=True)]
        level = innermost(given)
        if level is not None:
            return self._each_rule(xp, given, out, inputs, level)
        recorded = any(isinstance(c, Tensor) for c in given)
        with _mode(recorded, None):
            result = self.function.backward(*(c if isinstance(c, Tensor) else Tensor(c) for c in given))
        results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if len(results) != len(inputs):
            raise AutogradError(
                f"{self.name}.backward returned {len(results)} gradients for {len(inputs)} inputs; "
                "return one per input of forward, None where there is none"
            )
        for x, c in zip(inputs, results, strict=True):
            if c is not None and getattr(x, "shape", c.shape) != c.shape:
                raise ShapeError(
                    f"{self.name}.backward returned a gradient of shape {c.shape} for an input of {x.shape}"
                )
        return results if recorded else tuple(c.data if isinstance(c, Tensor) else c for c in results)

    def _each_rule(self, xp: Any, gs: Any, out: Any, inputs: tuple[Any, ...], level: Any) -> tuple[Any, ...]:
        """The rule for cotangents under vmap: for one example after the other."""
        many = isinstance(out, tuple)
        found = each(lambda *one: self._rule(xp, one if many else one[0], out, *inputs), gs, level)
        return found if isinstance(found, tuple) else (found,)
