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
from typing import Any

from shoal.ops import instrument
from shoal.ops.backend import CPU
from shoal.ops.graph import kernels, telling
from shoal.ops.graph.code import BEFORE, Arena, Code, Layout
from shoal.ops.graph.ir import Call, Graph, Ref, positions
from shoal.ops.graph.plan import Plan
from shoal.ops.graph.rehearse import rehearse
from shoal.ops.native import memory
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
        memory.keep()
        self.xp, self.late = xp, late
        self.forward = len(graph.outputs) if forward is None else forward
        self.graph, self.split = arranged(graph, self.forward, late)
        self.layout = Layout()
        self._rehearse = planned
        self._code = Code(self.graph, xp, self.split, self.forward)

    @property
    def plan(self) -> Plan:
        """Where values lie; nowhere before the first run is complete."""
        return self._code.plan

    @property
    def steps(self) -> int:
        """How many calls a run makes."""
        return len(self._code.forward_steps) + len(self._code.backward_steps)

    def prepare(self, code: Code, arrays: Sequence[Any]) -> Code:
        """The steps to take with these (early) arrays: others than ``code`` if this is the first run and some kernels
        give other bits than the operators do, so that all runs have the same."""
        if self._rehearse and code is self._code and self.xp is CPU and _may_differ(self.graph):
            found = rehearse(self.graph, self.xp, arrays)
            if found is not None:
                self._rehearse, self.layout = False, found
                self._code = Code(self.graph, self.xp, self.split, self.forward, found)
        return self._code

    def start(self) -> "Run":
        """A run with memory of its own."""
        return Run(self, self._code, self._code.arena())

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run a graph that has no backward part."""
        return self.start().forward(arrays)

    def blame(self, error: BaseException, position: int, part: str) -> None:
        """Note on ``error`` which call was being carried out."""
        call = self.graph.calls[position]
        telling.blame(error, call, [self.graph.spec(x) if isinstance(x, tuple) else x for x in call.inputs], part)

    def note(self, code: Code, part: str, values: Values) -> Callable[[int], None] | None:
        """During the rehearsal: what to call before and after each step of a part, to note how values lie in memory."""
        if not self._rehearse or code is not self._code:
            return None
        calls, note = code.calls[part], self.layout.note

        def look(position: int) -> None:
            call = self.graph.calls[position]
            arrays = [values[code.slots[position, n]] for n in range(len(call.specs))]
            note(position, arrays, call.refs[0] if call.op and OPS[call.op].view else None)

        for position, call in enumerate(self.graph.calls):
            if not call.op:
                look(position)
        return lambda step: look(calls[step])

    def rehearsed(self, code: Code, part: str) -> None:
        """A part has been run; when it is the last one, plan the memory of the runs to come."""
        last = "backward" if self.split < len(self.graph.calls) else "forward"
        if self._rehearse and part == last and code is self._code:
            self._rehearse = False
            self._code = Code(self.graph, self.xp, self.split, self.forward, self.layout)


class Run:
    """One execution of a program: the values that are alive, and the arena they lie in."""

    __slots__ = ("_arena", "_code", "_program", "_values")

    def __init__(self, program: Program, code: Code, arena: Arena) -> None:
        self._program, self._code, self._arena = program, code, arena
        self._values = arena.values.copy()

    def forward(self, arrays: Sequence[Any], late: Mapping[int, Callable[[], None]] | None = None) -> list[Any]:
        """Compute the outputs of the forward part from the arrays of the (early) inputs.

        Args:
            late: for inputs whose arrays are not filled yet, by number: called just before the array is read.
        """
        program = self._program
        code = program.prepare(self._code, arrays)
        if code is not self._code:
            self._code, self._arena = code, code.arena()
            self._values = self._arena.values.copy()
        for slot, array in zip(code.inputs, arrays, strict=False):
            self._values[slot] = array
        before: dict[int, list[Callable[[], None]]] = {}
        for number, wait in (late or {}).items():
            before.setdefault(code.first_use[number], []).append(wait)
        self._carry_out(code.forward_steps, "forward", before)
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
        self._carry_out(code.backward_steps, "backward", {}, made and self._announcer(made))
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
        part: str,
        before: Mapping[int, list[Callable[[], None]]],
        then: Callable[[int], None] | None = None,
    ) -> None:
        values, code = self._values, self._code
        after = self._program.note(code, part, values)
        if instrument.watchers:
            steps = code.told(steps, part)
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
            self._program.blame(error, code.calls[part][i if i >= 0 else steps.index(step)], part)
            raise
        for wait in before.get(len(steps), ()):
            wait()
        if after is not None:
            self._program.rehearsed(self._code, part)

    def __del__(self) -> None:
        if len(self._code.pool) < POOL:
            self._code.pool.append(self._arena)


def _may_differ(graph: Graph) -> bool:
    """Whether a kernel may give other bits than the operator's forward."""
    from shoal.ops.native import families

    assert families  # imported for the kernels that it registers
    return any(kernels.inexact(call.op) for _, call in graph.operators())


def arranged(graph: Graph, forward: int, late: int) -> tuple[Graph, int]:
    """The graph with the calls of the forward part first, and how many they are."""
    first = positions(graph, graph.outputs[:forward]) | set(graph.inputs[: len(graph.inputs) - late])
    order = [*sorted(first), *(p for p in range(len(graph.calls)) if p not in first)]
    new = {old: i for i, old in enumerate(order)}

    def to(ref: Ref) -> Ref:
        return new[ref[0]], ref[1]

    calls = tuple(graph.calls[p].moved(to) for p in order)
    return Graph(calls, tuple(new[p] for p in graph.inputs), tuple(map(to, graph.outputs))), len(first)
