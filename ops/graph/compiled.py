"""A function of tensors that is traced once per signature, and then runs as a compiled graph.

`Compiled` keeps one `Trace` per signature of the arguments (structure, shapes, dtypes, training or not, what is
converted under `shoal.amp`), and each
trace one program for each set of inputs that want a gradient. Under `autograd.record` a run is one entry on the tape;
its gradient is the backward part of the same program.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from shoal.errors import GraphError
from shoal.ops import casting, random, tape
from shoal.ops.backend import CPU, namespace
from shoal.ops.graph import loops, rowloops, trace
from shoal.ops.graph.executor import Program, evaluate
from shoal.ops.graph.gradient import depending, gradients
from shoal.ops.graph.ir import Graph, frozen
from shoal.ops.graph.lookups import Pairs, gathered, lookups, streamed
from shoal.ops.graph.passes import remove_dead
from shoal.ops.graph.pipeline import chosen, optimized, target_of
from shoal.ops.graph.symbol import Node, Symbol, flatten, replay, variable
from shoal.ops.graph.tree import leaves, mapped, shape_of
from shoal.ops.precision import is_float
from shoal.ops.registry import OPERATORS, Spec, Traced, operator
from shoal.ops.tensor import Tensor

__all__ = ["Compiled", "Joint", "Options", "Trace", "joined", "trace_function"]

assert loops and rowloops  # imported for the kernels that it registers

Choice = str | Sequence[str] | None
"""Of passes; see `shoal.ops.graph.pipeline`."""


class Options(NamedTuple):
    """How graphs are compiled."""

    planned: bool
    passes: frozenset[str]
    recorded: bool = True


@dataclass
class Trace:
    """What a function computes, as symbols.

    Attributes:
        arguments: the symbols that stood for the tensors among the arguments.
        captured: the other inputs: parameters, tensors, random keys.
        outputs: the tensors among the results.
        updates: (source, new value) of what each run writes back.
        rebuild: makes the results from a list of tensors, one per output.
        programs: compiled so far, by array namespace and by which inputs want a gradient.
    """

    arguments: list[Symbol]
    captured: list[Symbol]
    outputs: list[Symbol]
    updates: list[tuple[trace.Source, Symbol]]
    rebuild: Callable[[list[Any]], Any]
    programs: dict[tuple[Any, tuple[bool, ...]], "_Differentiable"] = field(default_factory=dict)

    @cached_property
    def sources(self) -> list[Any]:
        """What the captured inputs are read from."""
        return [s.node.source for s in self.captured]

    @cached_property
    def _specs(self) -> list[tuple[Any, Any, Any]]:
        kept = [s for s in self.captured if s.node.role != "key"]
        return [(s.node.source, s.shape, s.dtype) for s in kept]

    def fits(self) -> bool:
        """Whether the captured tensors have the shapes and dtypes that they had when they were traced."""
        for source, shape, dtype in self._specs:
            now = trace.coming(source)[0].data
            if now.shape != shape or now.dtype != dtype:
                return False
        return True

    def graph(self) -> Graph:
        """The forward graph: inputs are the arguments and what was captured, outputs the results and the updates."""
        return flatten([*self.outputs, *(new for _, new in self.updates)], [*self.arguments, *self.captured])[0]


def trace_function(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """Call ``fn`` once with symbols in place of the tensors in ``args`` and ``kwargs``.

    Raises:
        GraphError: the function needs the values of a tensor; names the line.
    """
    tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
    names = ["data"] if len(tensors) == 1 else [f"data{i}" for i in range(len(tensors))]
    arguments = [variable(n, Spec(x.shape, x.dtype)) for n, x in zip(names, tensors, strict=True)]
    fresh = iter(arguments)
    tracer = trace.Tracer()
    with trace.no_foreign_draws(), tracer, trace.mode(recording=False), random.keys_from(tracer.random_key):
        args, kwargs = mapped(lambda x: next(fresh) if isinstance(x, Tensor) else x, (args, kwargs))
        result = fn(*args, **kwargs)
    returned = [x for x in leaves(result) if isinstance(x, (Symbol, Tensor))]
    outputs = [x if isinstance(x, Symbol) else tracer.capture(x) for x in returned]
    rebuild = _rebuilder(result)
    del returned, result, args, kwargs
    tracer.settle()
    updates = list(tracer.updates.values())
    _, nodes = flatten([*outputs, *(new for _, new in updates)], arguments)
    captured = [Symbol(node) for node in nodes[len(arguments) :]]
    return Trace(arguments, captured, outputs, updates, rebuild)


class Compiled:
    """Runs ``fn`` as graphs.

    Args:
        fn: takes and returns tensors, nested in lists, tuples and dictionaries; the other arguments are part
            of the signature.
        label: what messages call it.
        limit: how many signatures are kept; beyond it, the one that was used least recently is dropped.
        planned: whether intermediate values share planned memory.
        passes: what graphs go through; see `shoal.ops.graph.pipeline`.
        recorded: whether graphs on a GPU become recordings (`shoal.ops.gpu.captured`).
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        label: str,
        *,
        limit: int = 32,
        planned: bool = True,
        passes: Choice = None,
        recorded: bool = True,
    ) -> None:
        self.fn, self.label, self.limit = fn, label, limit
        self.options = Options(planned, chosen(passes), recorded)
        self._budget: Any = None
        self.traces: OrderedDict[Any, Trace] = OrderedDict()
        self._warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``fn(*args, **kwargs)`` returns; arrays among the arguments become tensors."""
        args, kwargs, tensors, key = _sorted_out(args, kwargs)
        found = self._find(key)
        if found is None:
            found = self.trace(args, kwargs)
        late: dict[int, Callable[[], None]] = {}
        for source in found.sources:
            tensor, wait = trace.coming(source)
            if wait is not None:
                late[len(tensors)] = wait
            tensors.append(tensor)
        recording = tape.state.recording
        wants = tuple([recording and getattr(x, "node", None) is not None for x in tensors])
        xp = namespace(*[x.data for x in tensors if type(x) is Tensor])
        program = found.programs.get((xp, wants))
        if program is None:
            program = found.programs[xp, wants] = _Differentiable(found, wants, xp, self.label, self.options)
            if not xp.host and self.options.recorded and self.options.planned:
                self._record(found, program)
        results = program(tensors, late)
        for (source, _), new in zip(found.updates, results[len(found.outputs) :], strict=True):
            if not trace.drops_writes():
                _write(source, new)
        return found.rebuild(results[: len(found.outputs)])

    def _record(self, found: Trace, program: "_Differentiable") -> None:
        from shoal.ops.gpu.captured import Budget, Captured  # it imports what runs graphs

        if self._budget is None:
            self._budget = Budget(self.label)
        fixed = [*[False] * len(found.arguments), *[s.node.role != "key" for s in found.captured]]
        program.start = Captured(program.program, fixed, self._budget).start

    def why_not_recorded(self) -> list[str]:
        """Why graphs that ran on a GPU are not recorded, for those that are not."""
        return [] if self._budget is None else list(self._budget.reasons)

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """The trace for these arguments, made now if there is none that fits.

        Raises:
            GraphError: an argument that is no tensor cannot be compared with that of the next call.
        """
        args, kwargs, _, key = _sorted_out(args, kwargs)
        found = self._find(key)
        if found is None:
            found = self.traces[key] = trace_function(self.fn, args, kwargs)
            while len(self.traces) > self.limit:
                self.traces.popitem(last=False)
                self._warn_once()
        return found

    def _warn_once(self) -> None:
        """Say that graphs are dropped and made again."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.label} was called with more than {self.limit} signatures (shapes, dtypes and other arguments); "
                "graphs that were used least recently are dropped, and made again when they are needed. Pad inputs to "
                "a few shapes, or hybridize(cache_size=...) with a larger one.",
                RuntimeWarning,
                stacklevel=5,
            )

    def _find(self, key: Any) -> Trace | None:
        """The trace with this signature, unless a captured tensor has changed its shape or dtype."""
        found = self.traces.get(key)
        if found is None or not found.fits():
            return None
        with suppress(KeyError):  # another thread may just have dropped it
            self.traces.move_to_end(key)
        return found


class Joint(NamedTuple):
    """The forward and the backward part of a trace as one graph, before any pass.

    Attributes:
        graph: inputs are the arguments, what was captured, and the cotangents of results; outputs the results, the
            updates, and the gradients.
        forward: how many of the outputs are those of the forward part.
        late: how many of the inputs, at the end, are cotangents.
        heads: the cotangent of each result, None for one that nothing depends on.
        slots: which of the gradients each of the other inputs gets, -1 for none.
        tables: of inputs that are only looked up, which gradients are their rows and which the numbers of these.
    """

    graph: Graph
    forward: int
    late: int
    heads: list[Symbol | None]
    slots: list[int]
    tables: dict[int, Pairs]


def joined(found: Trace, wants: Sequence[bool]) -> Joint:
    """The joint graph of a trace.

    Args:
        wants: which of the inputs (arguments, then what was captured) want a gradient.
    """
    inputs = [*found.arguments, *found.captured]
    results = [*found.outputs, *(new for _, new in found.updates)]
    uses = {i: lookups(results, s) for i, (s, want) in enumerate(zip(inputs, wants, strict=True)) if want}
    wrt = [x for i, nodes in uses.items() for x in ([Symbol(n) for n in nodes] or [inputs[i]])]
    followed = [*depending(found.outputs, wrt), *[False] * len(found.updates)]
    heads = [
        variable(f"grad{i}", s.spec) if yes and is_float(s.dtype) else None
        for i, (s, yes) in enumerate(zip(results, followed, strict=True))
    ]
    given, slots, tables = _ordered(gradients(results, heads, wrt), uses, len(inputs))
    late = [h for h in heads if h is not None]
    graph, _ = flatten([*results, *given], [*inputs, *late])
    return Joint(graph, len(results), len(late), heads, slots, tables)


def _ordered(
    grads: Sequence[Symbol | None], uses: Mapping[int, list[Node]], count: int
) -> tuple[list[Symbol], list[int], dict[int, Pairs]]:
    """The gradients that exist, which of them each of ``count`` inputs gets, and which are parts of tables."""
    given: list[Symbol] = []
    slots, tables = [-1] * count, {}
    fresh = iter(grads)
    for i, nodes in uses.items():
        pairs = []
        for node in nodes:
            g = next(fresh)
            if g is not None:
                pairs.append((len(given), len(given) + 1))
                given += [g, node.inputs[1]]
        if pairs:
            tables[i] = pairs
        elif not nodes and (g := next(fresh)) is not None:
            slots[i] = len(given)
            given.append(g)
    return given, slots, tables


class _Differentiable:
    """A program with a backward part, and what the tape needs to know of it: a name and `cotangents`.

    ``slots`` says which of the program's gradients each input gets, -1 for none. The run is the last input of its
    tape entry, so that the tape, freeing the entry's inputs, frees the run.
    """

    streams = True
    """`cotangents` can hand out each gradient as soon as it has it."""

    def __init__(self, found: Trace, wants: tuple[bool, ...], xp: Any, label: str, options: Options) -> None:
        self.name = f"the graph of {label}"
        joint = joined(found, wants)
        self.heads, self.slots, self.count, self.tables = joint.heads, joint.slots, joint.forward, joint.tables
        self.graph = optimized(
            joint.graph,
            lambda call, arrays: evaluate(xp, call, arrays),
            options.passes,
            target=target_of(xp) if options.planned else None,
            forward=joint.forward,
            host=xp is CPU,
        )
        self.program = Program(self.graph, xp, forward=joint.forward, late=joint.late, planned=options.planned)
        self.start: Callable[[], Any] = self.program.start

    @property
    def differentiable(self) -> bool:
        """Whether an output depends on an input that wants a gradient."""
        return any(h is not None for h in self.heads)

    def __call__(self, tensors: Sequence[Any], late: Mapping[int, Callable[[], None]]) -> list[Tensor]:
        run, xp = self.start(), self.program.xp
        out = run.forward([x.data if isinstance(x, Tensor) else xp.asarray(x) for x in tensors], late)
        node = tape.Node(self, (*tensors, run), {}, tuple(out)) if self.differentiable else None
        return [
            Tensor(x) if h is None else Tensor(x, node, i) for i, (x, h) in enumerate(zip(out, self.heads, strict=True))
        ]

    def cotangents(
        self,
        xp: Any,
        g: Any,
        out: Any,
        inputs: Sequence[Any],
        attrs: dict[str, Any],
        needed: Sequence[bool],
        arrived: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Gradients of the inputs: what the tape asks of an operator; or, if there is one, ``arrived`` gets each as
        soon as it is there, with the number of its input."""
        *tensors, run = inputs
        places = zip(g, out, self.heads, strict=True)
        late = [xp.zeros_like(o) if c is None else c for c, o, head in places if head is not None]
        if arrived is not None:
            inputs_of: dict[int, list[int]] = {}
            for i, (slot, need) in enumerate(zip(self.slots, needed, strict=False)):
                if need:
                    inputs_of.setdefault(slot, []).append(i)
            part = streamed(self.tables, [getattr(x, "shape", ()) for x in tensors], needed, arrived)
            run.backward(late, lambda slot, c: [part(slot, c), *[arrived(i, c) for i in inputs_of.get(slot, ())]])
            return []
        grads = self._recorded(tensors, late) if xp is OPERATORS else run.backward(late)
        found = [grads[slot] if slot >= 0 and need else None for slot, need in zip(self.slots, needed, strict=False)]
        for i, pairs in self.tables.items():
            found[i] = gathered(pairs, grads, tuple(tensors[i].shape)) if needed[i] else None
        return [*found, None]

    def _recorded(self, tensors: Sequence[Any], late: Sequence[Any]) -> list[Any]:
        """The gradients as tensors that are on the tape: forward and backward again, operator by operator."""
        graph = remove_dead(Graph(self.graph.calls, self.graph.inputs, self.graph.outputs[self.count :]))
        grads = replay(graph, [*tensors, *late], lambda name, inputs, attrs: operator(name)(*inputs, **attrs))
        return [g if isinstance(g, Traced) else Tensor(g) for g in grads]


def _write(source: trace.Source, new: Tensor) -> None:
    other = trace.substituted(source)
    if other is None:
        source.current().data[...] = new.data
    else:
        other.write(source, new)


def _rebuilder(result: Any) -> Callable[[list[Any]], Any]:
    """How to make the results again: tensors come from a list, all else stays what it was while tracing."""
    if isinstance(result, (Symbol, Tensor)):
        return lambda tensors: tensors[0]

    def rebuild(tensors: list[Any]) -> Any:
        fresh = iter(tensors)
        return mapped(lambda x: next(fresh) if isinstance(x, (Symbol, Tensor)) else x, result)

    return rebuild


def _signature(x: Any) -> Any:
    """What a trace depends on in one argument: of a tensor its shape and dtype, of all else its value."""
    if isinstance(x, Tensor):
        return (Tensor, x.data.shape, x.data.dtype)
    key = frozen(x)
    try:
        hash(key)
    except TypeError:
        raise GraphError(
            f"an argument of type {type(x).__name__} of a hybridized block is neither a tensor nor hashable: {x!r}. "
            "Pass tensors, numbers, text, or lists, tuples and dictionaries of them."
        ) from None
    return key


def _sorted_out(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[Any], Any]:
    """The arguments with tensors for arrays, the tensors among them, and the signature."""
    training = (tape.state.training, casting.state.policy)
    if not kwargs and all(type(x) is Tensor for x in args):
        return args, kwargs, list(args), (training, *[(x.data.shape, x.data.dtype) for x in args])
    args, kwargs = mapped(lambda x: Tensor(x) if isinstance(x, namespace(x).ndarray) else x, (args, kwargs))
    tensors = [x for x in leaves((args, kwargs)) if isinstance(x, Tensor)]
    return args, kwargs, tensors, (training, shape_of((args, kwargs), _signature))
