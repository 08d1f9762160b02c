"""Run a graph as a flat list of calls over planned memory.

A `Program` is built once for a graph: the plan of its memory, and one small function per call. Each `Run` has a list
with one place per value, filled with the arguments, the constants and views of an arena; the functions read and write
that list. A graph that has a forward and a backward part is one program, so that both share the plan: `Run.forward`
carries out the first calls and keeps what the others need; `Run.backward` may be called any number of times.

Arenas are pooled: a run owns its arena until it is dropped. So two forward passes before a backward pass use two
arenas, and a loop uses the same one again and again. Outputs never lie in an arena.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.ops.graph.ir import Call, Graph, Operand, Ref, positions
from shoal.ops.graph.kernels import Kernel, into
from shoal.ops.graph.plan import ALIGN_BYTES, Plan, owners, plan
from shoal.ops.registry import OPS

__all__ = ["Program", "Run", "evaluate"]

Values = list[Any]
StepFn = Callable[[Values], None]

POOL = 4
"""How many idle arenas a program keeps."""


def evaluate(xp: Any, call: Call, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The outputs of one call on arrays."""
    out = OPS[call.op].forward(xp, *inputs, **call.attrs)
    return out if isinstance(out, tuple) else (out,)


def is_view(call: Call) -> bool:
    """Whether the output of a call may share memory with its input."""
    return OPS[call.op].view


@dataclass(slots=True)
class _Arena:
    memory: Any
    values: Values


class Program:
    """An executable graph.

    Args:
        graph: what to run.
        xp: the array namespace.
        forward: how many of the outputs are those of the forward part; the others are computed by `Run.backward`.
        late: how many of the inputs, at the end, are arguments of `Run.backward`.
        planned: False lets every operator allocate its output.
    """

    def __init__(
        self, graph: Graph, xp: Any, *, forward: int | None = None, late: int = 0, planned: bool = True
    ) -> None:
        forward = len(graph.outputs) if forward is None else forward
        self.graph, split = arranged(graph, forward, late)
        self.xp = xp
        self._forward, self._late = forward, late
        refs = [(p, n) for p, call in enumerate(self.graph.calls) for n in range(len(call.specs))]
        self._slots: dict[Ref, int] = {ref: i for i, ref in enumerate(refs)}
        self._literals: Values = []
        owned = owners(self.graph, is_view)
        escaping = {owner for ref in self.graph.outputs for owner in owned[ref]}
        kernels = {p: into(xp, call) for p, call in self.graph.operators() if (p, 0) not in escaping}
        self._kernels = {p: k for p, k in kernels.items() if planned and k is not None}
        saved = {ref for call in self.graph.calls[split:] for ref in call.refs if ref[0] < split}
        self.plan: Plan = plan(self.graph, {(p, 0) for p in self._kernels}, is_view, self._inplace, saved)
        dead = self._deaths(split, saved)
        self.forward_steps = [self._step(p, dead) for p, _ in self.graph.operators() if p < split]
        self.backward_steps = [self._step(p, dead) for p, _ in self.graph.operators() if p >= split]
        self.inputs = [self._slots[p, 0] for p in self.graph.inputs]
        self.outputs = [self._slots[ref] for ref in self.graph.outputs]
        self.pool: list[_Arena] = []

    def start(self) -> "Run":
        """A run with an arena of its own."""
        try:
            return Run(self, self.pool.pop())
        except IndexError:
            return Run(self, self._new_arena())

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run a graph that has no backward part."""
        return self.start().forward(arrays)

    def _inplace(self, call: Call) -> bool:
        return OPS[call.op].elementwise

    def _new_arena(self) -> _Arena:
        raw = self.xp.empty(self.plan.size_bytes + ALIGN_BYTES, dtype="uint8")
        start = -_address(raw) % ALIGN_BYTES
        values: Values = [None] * len(self._slots) + self._literals
        for ref, offset in self.plan.offsets.items():
            spec = self.graph.spec(ref)
            size = spec.dtype.itemsize
            for n in spec.shape:
                size *= n
            values[self._slots[ref]] = raw[start + offset : start + offset + size].view(spec.dtype).reshape(spec.shape)
        for position, call in enumerate(self.graph.calls):
            if call.is_const:
                values[self._slots[position, 0]] = call.value
        return _Arena(raw, values)

    def _deaths(self, split: int, saved: set[Ref]) -> dict[int, list[int]]:
        """For each call, the places of values that no later call of the same part needs: they are emptied after it.

        Only values that an operator allocates: planned ones belong to the arena.
        """
        last: dict[Ref, int] = {}
        for position, call in self.graph.operators():
            for n in range(len(call.specs)):
                last[position, n] = position
            for ref in call.refs:
                last[ref] = position
        dead: dict[int, list[int]] = {}
        kept = {*saved, *self.graph.outputs, *((p, 0) for p in self._kernels)}
        for ref, position in last.items():
            if self.graph.calls[ref[0]].op and ref not in kept:
                dead.setdefault(position, []).append(self._slots[ref])
        return dead

    def _step(self, position: int, dead: dict[int, list[int]]) -> StepFn:
        call = self.graph.calls[position]
        kernel = self._kernels.get(position)
        out = [self._slots[position, n] for n in range(len(call.specs))]
        free = dead.get(position, [])
        if kernel is not None:
            step = _write(kernel, [self._slot(x) for x in call.inputs], out[0])
        else:
            step = _compute(OPS[call.op].forward, self.xp, [self._slot(x) for x in call.inputs], out, call.attrs)
        return _then_free(step, free) if free else step

    def _slot(self, x: Operand) -> int:
        """The place of an operand; a scalar or None has one of its own, filled for good."""
        if isinstance(x, tuple):
            return self._slots[x]
        self._literals.append(x)
        return len(self._slots) + len(self._literals) - 1


class Run:
    """One execution of a program: the values that are alive, and the arena they lie in."""

    __slots__ = ("_arena", "_program", "_values")

    def __init__(self, program: Program, arena: _Arena) -> None:
        self._program, self._arena = program, arena
        self._values = arena.values.copy()

    def forward(self, arrays: Sequence[Any]) -> list[Any]:
        """Compute the outputs of the forward part from the arrays of the (early) inputs."""
        program, values = self._program, self._values
        for slot, array in zip(program.inputs, arrays, strict=False):
            values[slot] = array
        for step in program.forward_steps:
            step(values)
        return [values[slot] for slot in program.outputs[: program._forward]]

    def backward(self, arrays: Sequence[Any]) -> list[Any]:
        """Compute the other outputs from the arrays of the late inputs."""
        program, values = self._program, self._values
        for slot, array in zip(program.inputs[len(program.inputs) - program._late :], arrays, strict=True):
            values[slot] = array
        for step in program.backward_steps:
            step(values)
        return [values[slot] for slot in program.outputs[program._forward :]]

    def __del__(self) -> None:
        if len(self._program.pool) < POOL:
            self._program.pool.append(self._arena)


def arranged(graph: Graph, forward: int, late: int) -> tuple[Graph, int]:
    """The graph with the calls of the forward part first, and how many they are."""
    first = positions(graph, graph.outputs[:forward]) | set(graph.inputs[: len(graph.inputs) - late])
    order = [*sorted(first), *(p for p in range(len(graph.calls)) if p not in first)]
    new = {old: i for i, old in enumerate(order)}

    def to(ref: Ref) -> Ref:
        return new[ref[0]], ref[1]

    calls = tuple(graph.calls[p].moved(to) for p in order)
    return Graph(calls, tuple(new[p] for p in graph.inputs), tuple(map(to, graph.outputs))), len(first)


def _write(kernel: Kernel, inputs: list[int], out: int) -> StepFn:
    """A step that writes its output where the plan says."""
    if len(inputs) == 1:
        (a,) = inputs
        return lambda v: kernel(v[a], v[out])
    if len(inputs) == 2:
        a, b = inputs
        return lambda v: kernel(v[a], v[b], v[out])
    return lambda v: kernel(*[v[i] for i in inputs], v[out])


def _compute(forward: Callable[..., Any], xp: Any, inputs: list[int], out: list[int], attrs: dict[str, Any]) -> StepFn:
    """A step whose operator allocates its outputs."""
    if len(out) == 1:
        (o,) = out

        def one(v: Values) -> None:
            v[o] = forward(xp, *[v[i] for i in inputs], **attrs)

        return one

    def many(v: Values) -> None:
        for o, value in zip(out, forward(xp, *[v[i] for i in inputs], **attrs), strict=True):
            v[o] = value

    return many


def _then_free(step: StepFn, free: list[int]) -> StepFn:
    def both(v: Values) -> None:
        step(v)
        for slot in free:
            v[slot] = None

    return both


def _address(array: Any) -> int:
    return int(array.ctypes.data) if hasattr(array, "ctypes") else int(array.data.ptr)
