"""Run a graph as a flat list of calls over planned memory.

A `Program` is built once for a graph; each `Run` of it has a list with one place per value, filled with the arguments
and the constants, and small functions that read and write that list. A graph that has a forward and a backward part
is one
program: `Run.forward` carries out the first calls and keeps what the others need; `Run.backward` may be called any
number of times.

The first run is a rehearsal: every operator allocates its output, and the memory order of the outputs is noted
(convolutions, for example, work channels-last). From the second run on, values that can be written where one wants
lie in an arena, at planned offsets and in the same memory order, so that they have the same bits as in imperative
execution.

Arenas are pooled: a run owns its arena until it is dropped. So two forward passes before a backward pass use two
arenas, and a loop uses the same one again and again. Outputs never lie in an arena.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.ops import instrument
from shoal.ops.graph import telling
from shoal.ops.graph.ir import Call, Graph, Operand, Ref, positions
from shoal.ops.graph.kernels import Kernel, into
from shoal.ops.graph.plan import ALIGN_BYTES, Plan, nbytes, owners, plan
from shoal.ops.registry import OPS

__all__ = ["Program", "Run", "evaluate"]

Values = list[Any]
StepFn = Callable[[Values], None]
Order = tuple[int, ...]
"""The axes of an array from the slowest in memory to the fastest."""

BEFORE = -1
"""The step that makes what is there before the backward part begins."""

POOL = 4
"""How many idle arenas a program keeps."""


def evaluate(xp: Any, call: Call, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The outputs of one call on arrays."""
    out = OPS[call.op].forward(xp, *inputs, **call.attrs)
    return out if isinstance(out, tuple) else (out,)


class Program:
    """An executable graph.

    Args:
        graph: what to run.
        xp: the array namespace.
        forward: how many of the outputs are those of the forward part; the others are computed by `Run.backward`.
        late: how many of the inputs, at the end, are arguments of `Run.backward`.
        planned: False lets every operator allocate its output at each run.
    """

    def __init__(
        self, graph: Graph, xp: Any, *, forward: int | None = None, late: int = 0, planned: bool = True
    ) -> None:
        self.xp, self.late = xp, late
        self.forward = len(graph.outputs) if forward is None else forward
        self.graph, self.split = arranged(graph, self.forward, late)
        self.orders: dict[int, Order] = {}
        self._rehearse = planned
        self._code = _Code(self, {})

    @property
    def plan(self) -> Plan:
        """Where values lie; nowhere before the first run is complete."""
        return self._code.plan

    @property
    def steps(self) -> int:
        """How many calls a run makes."""
        return len(self._code.forward_steps) + len(self._code.backward_steps)

    def start(self) -> "Run":
        """A run with memory of its own."""
        return Run(self, self._code, self._code.arena())

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run a graph that has no backward part."""
        return self.start().forward(arrays)

    def specs(self, call: Call) -> list[Any]:
        """Of the inputs of a call: a Spec, a scalar or None each."""
        return [self.graph.spec(x) if isinstance(x, tuple) else x for x in call.inputs]

    def note(self, code: "_Code", first: int, values: Values) -> Callable[[int], None] | None:
        """During the rehearsal: what to call after each step from position ``first`` on, to note memory orders."""
        if not self._rehearse or code is not self._code:
            return None
        placed = [p for p, _ in self.graph.operators() if p >= first]

        def after(step: int) -> None:
            array = values[code.slots[placed[step], 0]]
            if array is not None:
                self.orders[placed[step]] = _order(array)

        return after

    def rehearsed(self, code: "_Code", part: str) -> None:
        """A part has been run; when it is the last one, plan the memory of the runs to come."""
        last = "backward" if self.split < len(self.graph.calls) else "forward"
        if self._rehearse and part == last and code is self._code:
            self._rehearse = False
            found = {p: into(self.xp, call, self.specs(call)) for p, call in self.graph.operators() if p in self.orders}
            self._code = _Code(self, {p: kernel for p, kernel in found.items() if kernel is not None})


class Run:
    """One execution of a program: the values that are alive, and the arena they lie in."""

    __slots__ = ("_arena", "_code", "_program", "_values")

    def __init__(self, program: Program, code: "_Code", arena: "_Arena") -> None:
        self._program, self._code, self._arena = program, code, arena
        self._values = arena.values.copy()

    def forward(self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None = None) -> list[Any]:
        """Compute the outputs of the forward part from the arrays of the (early) inputs.

        Args:
            late: for inputs whose arrays are not filled yet, by number: called just before the array is read.
        """
        code, program = self._code, self._program
        for slot, array in zip(code.inputs, arrays, strict=False):
            self._values[slot] = array
        before: dict[int, list[Callable[[], None]]] = {}
        for number, wait in (late or {}).items():
            before.setdefault(code.first_use[number], []).append(wait)
        self._carry_out(code.forward_steps, 0, "forward", before)
        results = [self._values[slot] for slot in code.outputs[: program.forward]]
        for i in code.lent:  # a constant of the graph is not for the caller to write to
            if i < len(results):
                results[i] = results[i].copy()
        return results

    def backward(self, arrays: Sequence[Any], made: Callable[[int, Any], None] | None = None) -> list[Any]:
        """Compute the other outputs from the arrays of the late inputs.

        Args:
            made: called with the number and the array of each of them, as soon as it has its final value.
        """
        code, program = self._code, self._program
        for slot, array in zip(code.inputs[len(code.inputs) - program.late :], arrays, strict=True):
            self._values[slot] = array
        self._carry_out(code.backward_steps, program.split, "backward", {}, made and self._announcer(made))
        return [self._values[slot] for slot in code.outputs[program.forward :]]

    def _announcer(self, made: Callable[[int, Any], None]) -> Callable[[int], None]:
        """What to call after each step of the backward part, to pass its outputs on."""
        code, slots = self._code, self._code.outputs[self._program.forward :]

        def after(step: int) -> None:
            for i in code.made.get(step, ()):
                made(i, self._values[slots[i]])

        after(BEFORE)
        return after

    def _carry_out(
        self,
        steps: list[StepFn],
        first: int,
        part: str,
        before: Mapping[int, list[Callable[[], None]]],
        then: Callable[[int], None] | None = None,
    ) -> None:
        values = self._values
        after = self._program.note(self._code, first, values)
        if instrument.watchers:
            steps = self._code.told(steps, part)
        i = -1
        try:
            if after is None and then is None and not before:
                for step in steps:
                    step(values)
                return
            for i, step in enumerate(steps):
                for wait in before.get(i, ()):
                    wait()
                step(values)
                if after is not None:
                    after(i)
                if then is not None:
                    then(i)
        except Exception as error:
            self._code.blame(error, i if i >= 0 else steps.index(step), part)
            raise
        for wait in before.get(len(steps), ()):
            wait()
        if after is not None:
            self._program.rehearsed(self._code, part)

    def __del__(self) -> None:
        if len(self._code.pool) < POOL:
            self._code.pool.append(self._arena)


@dataclass(slots=True)
class _Arena:
    memory: Any
    values: Values


class _Code:
    """The steps of a program, given the calls that have a kernel which writes where the plan says."""

    def __init__(self, program: Program, kernels: dict[int, Kernel]) -> None:
        self.program, self.graph, split = program, program.graph, program.split
        refs = [(p, n) for p, call in enumerate(self.graph.calls) for n in range(len(call.specs))]
        self.slots: dict[Ref, int] = {ref: i for i, ref in enumerate(refs)}
        self._literals: Values = []
        self._places: dict[int, tuple[list[int], list[int]]] = {}  # of each call, for who looks
        owned = owners(self.graph, is_view)
        escaping = {owner for ref in self.graph.outputs for owner in owned[ref]}
        self._kernels = {p: kernel for p, kernel in kernels.items() if (p, 0) not in escaping}
        saved = {ref for call in self.graph.calls[split:] for ref in call.refs if ref[0] < split}
        self.plan: Plan = plan(self.graph, {(p, 0) for p in self._kernels}, is_view, self._inplace, saved)
        dead = self._deaths(saved)
        self.forward_steps = [self._step(p, dead) for p, _ in self.graph.operators() if p < split]
        self.backward_steps = [self._step(p, dead) for p, _ in self.graph.operators() if p >= split]
        numbers = {p: i for i, p in enumerate(p for p, _ in self.graph.operators() if p >= split)}
        self.made: dict[int, list[int]] = {}  # outputs of the backward part by the step that makes them
        for i, (p, _) in enumerate(self.graph.outputs[program.forward :]):
            self.made.setdefault(numbers.get(p, BEFORE), []).append(i)
        self.inputs = [self.slots[p, 0] for p in self.graph.inputs]
        forward = [p for p, _ in self.graph.operators() if p < split]
        used = {ref: i for i in reversed(range(len(forward))) for ref in self.graph.calls[forward[i]].refs}
        self.first_use = [used.get((p, 0), len(forward)) for p in self.graph.inputs]  # steps of the forward part
        self.outputs = [self.slots[ref] for ref in self.graph.outputs]
        consts = [{self.graph.calls[p].is_const for p, _ in owned[ref]} for ref in self.graph.outputs]
        self.lent = [i for i, kinds in enumerate(consts) if True in kinds]
        self.pool: list[_Arena] = []

    def arena(self) -> _Arena:
        """An idle arena, or a new one."""
        try:
            return self.pool.pop()
        except IndexError:
            return self._new_arena()

    def _new_arena(self) -> _Arena:
        raw = self.program.xp.empty(self.plan.size_bytes + ALIGN_BYTES, dtype="uint8")
        start = -_address(raw) % ALIGN_BYTES
        values: Values = [None] * len(self.slots) + self._literals
        for ref, offset in self.plan.offsets.items():
            spec = self.graph.spec(ref)
            part = raw[start + offset : start + offset + nbytes(spec)].view(spec.dtype)
            order = self.program.orders[ref[0]]
            size = 1
            for n in spec.shape:
                size *= n
            view = part[:size].reshape([spec.shape[axis] for axis in order])
            values[self.slots[ref]] = view.transpose([order.index(axis) for axis in range(len(order))])
        for position, call in enumerate(self.graph.calls):
            if call.is_const:
                values[self.slots[position, 0]] = call.value
        return _Arena(raw, values)

    def _calls_of(self, part: str) -> list[int]:
        """Positions of the calls that the steps of a part carry out."""
        late, split = part == "backward", self.program.split
        return [p for p, _ in self.graph.operators() if (p >= split) == late]

    def told(self, steps: list[StepFn], part: str) -> list[StepFn]:
        """The steps of a part, each told to whoever looks."""
        at = self._calls_of(part)
        places = [self._places[p] for p in at]
        return telling.told(steps, [self.graph.calls[p] for p in at], places, part)

    def blame(self, error: BaseException, step: int, part: str) -> None:
        """Note on ``error`` which call the step carries out."""
        call = self.graph.calls[self._calls_of(part)[step]]
        telling.blame(error, call, self.program.specs(call), part)

    def _inplace(self, position: int, heir: Ref) -> bool:
        """Element by element, and in the same memory order."""
        orders = self.program.orders
        return OPS[self.graph.calls[position].op].elementwise and orders[position] == orders[heir[0]]

    def _deaths(self, saved: set[Ref]) -> dict[int, list[int]]:
        """For each call, the places of values that no later call needs: they are emptied after it.

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
                dead.setdefault(position, []).append(self.slots[ref])
        return dead

    def _step(self, position: int, dead: dict[int, list[int]]) -> StepFn:
        call = self.graph.calls[position]
        kernel = self._kernels.get(position)
        inputs = [self._slot(x) for x in call.inputs]
        out = [self.slots[position, n] for n in range(len(call.specs))]
        self._places[position] = inputs, out
        if kernel is not None:
            step = _write(kernel, inputs, out[0])
        else:
            step = _compute(OPS[call.op].forward, self.program.xp, inputs, out, call.attrs)
        free = dead.get(position, [])
        return _then_free(step, free) if free else step

    def _slot(self, x: Operand) -> int:
        """The place of an operand; a scalar or None has one of its own, filled for good."""
        if isinstance(x, tuple):
            return self.slots[x]
        self._literals.append(x)
        return len(self.slots) + len(self._literals) - 1


def is_view(call: Call) -> bool:
    """Whether the output of a call may share memory with its input."""
    return OPS[call.op].view


def arranged(graph: Graph, forward: int, late: int) -> tuple[Graph, int]:
    """The graph with the calls of the forward part first, and how many they are."""
    first = positions(graph, graph.outputs[:forward]) | set(graph.inputs[: len(graph.inputs) - late])
    order = [*sorted(first), *(p for p in range(len(graph.calls)) if p not in first)]
    new = {old: i for i, old in enumerate(order)}

    def to(ref: Ref) -> Ref:
        return new[ref[0]], ref[1]

    calls = tuple(graph.calls[p].moved(to) for p in order)
    return Graph(calls, tuple(new[p] for p in graph.inputs), tuple(map(to, graph.outputs))), len(first)


def _order(array: Any) -> Order:
    """Memory order of an array that is dense; axes of equal stride in their own order."""
    strides = array.strides
    return tuple(sorted(range(array.ndim), key=lambda axis: (-strides[axis], axis)))


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
            result = forward(xp, *[v[i] for i in inputs], **attrs)
            v[o] = result[0] if type(result) is tuple else result

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
