"""What a trace collects besides the arguments of `forward`: parameters, random keys, and values to be written back.

While a `Tracer` is active in a thread, `Parameter.data` returns a symbol in place of the tensor, and
`Parameter.set_data` of a symbol notes an update, which the compiled graph makes part of each run. Later reads see the
updated value, as they do in imperative execution.
"""

import random as python_random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import numpy as np

from shoal.errors import GraphError
from shoal.ops import random, tape
from shoal.ops.graph.symbol import Symbol, variable
from shoal.ops.lines import user_line
from shoal.ops.registry import spec_of

__all__ = [
    "RandomKey",
    "Source",
    "Substitution",
    "Tracer",
    "active",
    "capture",
    "coming",
    "drops_writes",
    "imperatively",
    "is_symbol",
    "random_key",
    "recomputing",
    "substituted",
    "substituting",
]


class Source(Protocol):
    """What an input of a compiled graph is read from at each run."""

    name: str

    def current(self) -> Any:
        """The Tensor that it stands for now."""


def coming(source: Source) -> tuple[Any, Callable[[], None] | None]:
    """The source's tensor, and what to call before its value is read, if that is still on its way."""
    ask = getattr(source, "coming", None)
    return (source.current(), None) if ask is None else ask()


class Held:
    """A tensor that `forward` used though it is neither an argument nor a parameter."""

    __slots__ = ("name", "tensor")

    def __init__(self, tensor: Any, name: str) -> None:
        self.tensor, self.name = tensor, name

    def current(self) -> Any:
        """The tensor."""
        return self.tensor

    def only(self) -> bool:
        """Whether nobody else has the tensor, or its array."""
        data = self.tensor.data
        alone = sys.getrefcount(self.tensor) <= 2 and sys.getrefcount(data) <= 3  # the callee's and ours
        return alone and getattr(data, "base", None) is None


class RandomKey:
    """Marks the input that receives a fresh random key at each run."""

    __slots__ = ("name", "purpose")

    def __init__(self, name: str, purpose: str) -> None:
        self.name, self.purpose = name, purpose

    def current(self) -> Any:
        """A key for the next random operation of this thread."""
        return random.next_key(self.purpose)


class Tracer:
    """Collects while a model is traced; a context manager that makes itself the thread's active tracer."""

    def __init__(self) -> None:
        self._computed: dict[int, tuple[Any, Any, tuple[Any, ...], dict[str, Any], int]] = {}
        self._read: dict[int, Symbol] = {}
        self._sources: dict[int, Any] = {}  # keeps them alive, so that their ids stay theirs
        self.updates: dict[int, tuple[Source, Symbol]] = {}
        self._keys = 0
        self._outer: Tracer | None = None

    def __enter__(self) -> "Tracer":
        self._outer, tape.state.tracer = active(), self
        return self

    def __exit__(self, *exc: object) -> None:
        tape.state.tracer = self._outer

    def read(self, source: Source) -> Symbol:
        """The symbol that stands for ``source`` at this point of the trace."""
        if id(source) in self.updates:
            return self.updates[id(source)][1]
        return self._input(source, source, source.name)

    def capture(self, tensor: Any) -> Symbol:
        """The symbol that stands for a tensor which is no parameter: read again at each run.

        Raises:
            GraphError: it was computed while recording, so that the next call would need another one.
        """
        if id(tensor) in self._computed:
            return self._again(tensor)
        if type(tensor.node) is tape.Node:
            raise GraphError(
                f"a hybridized forward uses a tensor of shape {tensor.shape} that was computed outside, while "
                "recording. Pass it as an argument, or detach() it."
            )
        return self._input(tensor, Held(tensor, f"tensor{len(self._read)}"), f"tensor{len(self._read)}")

    def computed(self, op: Any, inputs: tuple[Any, ...], attrs: dict[str, Any], made: Any) -> None:
        """Note how a tensor came about while tracing: if it becomes part of the graph, each run computes it again."""
        for n, tensor in enumerate(made if isinstance(made, tuple) else (made,)):
            self._computed[id(tensor)] = (tensor, op, inputs, attrs, n)

    def drawn(self, tensor: Any, what: str) -> NoReturn:
        """Raise: Python code asks for the numbers of a tensor, which would stay the same in every run.

        Raises:
            GraphError: always; names the line.
        """
        raise GraphError(
            f"{user_line()} needs {what} of a tensor of shape {tensor.shape} while a hybridized model is traced: every "
            "run of the graph would use what it is now. Compute with the tensor itself (where() chooses between "
            "values); keep as a Python number what never changes; or hybridize(strict=False), which then runs this "
            "block imperatively."
        )

    def settle(self) -> None:
        """At the end: tensors that nobody else holds are constants of the graph, for nobody can change them."""
        self._computed.clear()
        self._sources.clear()
        for symbol in self._read.values():
            held = symbol.node.source
            if isinstance(held, Held) and held.only():
                symbol.node.value, symbol.node.source = held.tensor.data, None

    def _again(self, tensor: Any) -> Symbol:
        """The symbol of a tensor that was computed while tracing: the same operator on symbols."""
        found = self._read.get(id(tensor))
        if found is None:
            _, op, inputs, attrs, n = self._computed[id(tensor)]
            operands = tuple(self.capture(x) if hasattr(x, "attach_grad") else x for x in inputs)
            made = Symbol._invoke(op, operands, attrs)
            found = self._read[id(tensor)] = made[n] if isinstance(made, tuple) else made
        return found

    def write(self, source: Source, value: Symbol) -> None:
        """Note that each run gives ``source`` the value ``value``."""
        known = self.read(source)
        if value.dtype != known.dtype:
            value = value.astype(known.dtype)
        self.updates[id(source)] = (source, value)

    def random_key(self, purpose: str) -> Symbol:
        """A new input that receives a fresh key at each run."""
        name = f"key{self._keys}"
        self._keys += 1
        return variable(name, random.KEY_SPEC, RandomKey(name, purpose), "key")

    def _input(self, what: Any, source: Any, name: str) -> Symbol:
        found = self._read.get(id(what))
        if found is None:
            role = "aux" if getattr(source, "grad_req", "write") == "null" else "param"
            found = self._read[id(what)] = variable(name, spec_of(source.current()), source, role)
            self._sources[id(what)] = what
        return found


class Substitution:
    """Values that stand in for those of some parameters, in one thread; see `substituting`.

    Attributes:
        values: by the parameter's id.
        written: what was written to these parameters meanwhile, by their names in ``names``.
    """

    def __init__(self, values: dict[int, Any], names: dict[int, str]) -> None:
        self.values, self.names = values, names
        self.written: dict[str, Any] = {}
        self.tracer = active()
        self.outer: Substitution | None = None

    def write(self, source: Source, value: Any) -> None:
        """``value`` is what ``source`` is from now on."""
        self.values[id(source)] = self.written[self.names[id(source)]] = value


class _Local(threading.local):
    imperative: int = 0
    substitution: Substitution | None = None
    recomputing: bool = False


_local = _Local()


_counting = threading.Lock()
_substitutions = 0  # under way in all threads: without any, nobody looks further


@contextmanager
def substituting(values: dict[int, Any], names: dict[int, str]) -> Iterator[Substitution]:
    """Within this context this thread's parameters have other values.

    Args:
        values: tensors, symbols, values under vmap; by the parameter's id.
        names: what to call them in `Substitution.written`.
    """
    global _substitutions
    made = Substitution(dict(values), names)
    made.outer, _local.substitution = _local.substitution, made
    with _counting:
        _substitutions += 1
    try:
        yield made
    finally:
        _local.substitution = made.outer
        with _counting:
            _substitutions -= 1


def substituted(source: Source) -> Substitution | None:
    """The substitution that has a value for ``source``, if there is one."""
    if not _substitutions:
        return None
    at = _local.substitution
    while at is not None and id(source) not in at.values:
        at = at.outer
    return at


@contextmanager
def recomputing() -> Iterator[None]:
    """Within this context what is written to parameters is dropped: it was written when it was computed first."""
    before, _local.recomputing = _local.recomputing, True
    try:
        yield
    finally:
        _local.recomputing = before


def drops_writes() -> bool:
    """Whether this thread is `recomputing`."""
    return _local.recomputing


def active() -> Tracer | None:
    """The tracer that is active in this thread."""
    found: Tracer | None = tape.state.tracer
    return found


def capture(tensor: Any) -> Symbol:
    """The symbol for a tensor that meets symbols: an input of the active trace, or of its own."""
    tracer = active()
    return (tracer or Tracer()).capture(tensor)


def random_key(purpose: str) -> Symbol:
    """A key input of the active trace, or of its own."""
    tracer = active()
    return (tracer or Tracer()).random_key(purpose)


def is_symbol(value: Any) -> bool:
    """Whether ``value`` is a symbol."""
    return isinstance(value, Symbol)


@contextmanager
def imperatively() -> Iterator[None]:
    """Within this context hybridized blocks of this thread run imperatively, so that hooks inside them are called."""
    _local.imperative += 1
    try:
        yield
    finally:
        _local.imperative -= 1


@contextmanager
def mode(*, recording: bool | None = None, training: bool | None = None) -> Iterator[None]:
    """Within this context the thread records, or trains, or not; None leaves it as it is."""
    before = tape.state.recording, tape.state.training
    tape.state.recording = before[0] if recording is None else recording
    tape.state.training = before[1] if training is None else training
    try:
        yield
    finally:
        tape.state.recording, tape.state.training = before


def graphs_wanted() -> bool:
    """Whether a hybridized block should run its graph here: neither traced, nor `imperatively`, nor on other values."""
    at = _local.substitution
    while at is not None:
        if any(not hasattr(type(x), "attach_grad") for x in at.values.values()):
            return False
        at = at.outer
    return tape.state.tracer is None and not _local.imperative


@contextmanager
def no_foreign_draws() -> Iterator[None]:
    """Within this context, drawing from Python's or NumPy's global generator is an error at the end.

    Raises:
        GraphError: somebody drew. With other threads about it may have been one of them: then it is a warning.
    """
    before = _generators()
    yield
    drawn = [
        name for name, old, new in zip(("random", "numpy.random"), before, _generators(), strict=True) if old != new
    ]
    if not drawn:
        return
    text = (
        f"the forward of a hybridized model drew numbers from {' and '.join(drawn)}; every run of the graph would use "
        "the same ones. Use shoal.np.random, which draws anew in each run, or pass the numbers in; or "
        "hybridize(strict=False)."
    )
    if threading.active_count() == 1:
        raise GraphError(text)
    warnings.warn(f"{text} (Unless another thread drew them.)", RuntimeWarning, stacklevel=2)


def _generators() -> tuple[Any, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return python_random.getstate(), (kind, np.asarray(keys).tobytes(), *rest)
