"""The steps of a program: which kernels its calls get, where their values lie, and small functions that carry them out.

The steps read and write a list of values: one place for each value of the graph, then the scalars that calls are
applied to, then the blocks of addresses that compiled kernels get.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.lib.array_utils import byte_bounds

from shoal.ops.graph import bind, telling
from shoal.ops.graph.ir import Call, Graph, Operand, Ref
from shoal.ops.graph.kernels import Kernel, Site, Source, Strides, kernels_for, strides_of
from shoal.ops.graph.plan import ALIGN_BYTES, SCRATCH, Plan, nbytes, owners, plan
from shoal.ops.registry import OPS

__all__ = ["BEFORE", "Arena", "Code", "Layout", "is_view", "order_of"]

Values = list[Any]
StepFn = Callable[[Values], None]
Order = tuple[int, ...]
"""The axes of an array from the slowest in memory to the fastest."""

BEFORE = -1
"""The step that makes what is there before the backward part begins."""


@dataclass(slots=True)
class Arena:
    """The memory of one run, and the list of values with those that lie in it."""

    memory: Any
    values: Values


class Layout:
    """What a rehearsal has found: the strides of each value that it saw, and which views share memory with their input.

    Attributes:
        strides: in bytes.
        shared: calls whose results lie in the memory of their first input.
    """

    def __init__(self) -> None:
        self.strides: dict[Ref, Strides] = {}
        self.shared: set[int] = set()
        self._bounds: dict[Ref, tuple[int, int]] = {}

    def note(self, position: int, arrays: Sequence[Any], base: Ref | None) -> None:
        """Look at the results of a call (None: dropped already), which may be views of the value ``base``."""
        bounds = []
        for n, array in enumerate(arrays):
            if array is not None:
                self.strides[position, n] = array.strides
                if hasattr(array, "ctypes") and array.size:
                    self._bounds[position, n] = byte_bounds(array)
                    bounds.append(self._bounds[position, n])
        if base in self._bounds and len(bounds) == len(arrays):
            low, high = self._bounds[base]
            if all(low <= a and b <= high for a, b in bounds):
                self.shared.add(position)

    def order(self, ref: Ref) -> Order:
        """The memory order of a value."""
        return order_of(self.strides[ref])


class Code:
    """The steps of a program.

    Args:
        graph: arranged, so that the first ``split`` calls are the forward part.
        forward: how many of the outputs are made by it.
        layout: what the rehearsal has found; None before: then every operator allocates its results.
    """

    def __init__(self, graph: Graph, xp: Any, split: int, forward: int, layout: Layout | None = None) -> None:
        self.graph, self.xp, self.split = graph, xp, split
        self.layout = layout or Layout()
        refs = [(p, n) for p, call in enumerate(graph.calls) for n in range(len(call.specs))]
        self.slots: dict[Ref, int] = {ref: i for i, ref in enumerate(refs)}
        self._extra: Values = []  # literals, and functions that make blocks
        self._places: dict[int, tuple[list[int], list[int]]] = {}  # of each call, for who looks
        owned = owners(graph, is_view)
        self._escaping = {owner for ref in graph.outputs for owner in owned[ref]}
        self.kernels, self.functions = choose(graph, xp, layout) if layout else ({}, {})
        saved = {ref for call in graph.calls[split:] for ref in call.refs if ref[0] < split}
        self.plan: Plan = plan(graph, self._planned(), is_view, self._inplace, saved, self._scratch())
        self.fixed = self._fixed_views()
        dead = self._deaths(saved)
        self.forward_steps, forward_calls = self._steps(0, split, dead)
        self.backward_steps, backward_calls = self._steps(split, len(graph.calls), dead)
        self.calls = {"forward": forward_calls, "backward": backward_calls}
        self._note_outputs(forward, owned)
        self.pool: list[Arena] = []

    def arena(self) -> Arena:
        """An idle arena, or a new one."""
        try:
            return self.pool.pop()
        except IndexError:
            return self._new_arena()

    def told(self, steps: list[StepFn], part: str) -> list[StepFn]:
        """The steps of a part, each told to whoever looks."""
        places = [self._places[p] for p in self.calls[part]]
        return telling.told(steps, [self.graph.calls[p] for p in self.calls[part]], places, part)

    # -- what is where

    def _planned(self) -> set[Ref]:
        found = {(p, n) for p in self.kernels for n in range(len(self.graph.calls[p].specs))}
        return {ref for ref in found if ref not in self._escaping and ref in self.layout.strides}

    def _scratch(self) -> Mapping[int, int]:
        return {p: k.scratch_bytes for p, k in self.kernels.items() if isinstance(k, Source) and k.scratch_bytes}

    def _inplace(self, position: int, output: int, heir: Ref) -> bool:
        """Element by element, and in the same memory order."""
        call, strides = self.graph.calls[position], self.layout.strides
        return OPS[call.op].elementwise and strides[position, output] == strides[heir]

    def _fixed_views(self) -> set[int]:
        """Views of what lies in the arena, or of constants: they are made once for each arena."""
        fixed: set[int] = set()
        for p, call in self.graph.operators():
            if p in self.layout.shared and not any((p, n) in self._escaping for n in range(len(call.specs))):
                base, _ = call.refs[0]
                source = self.graph.calls[base]
                if call.refs[0] in self.plan.offsets or base in fixed or source.is_const:
                    fixed.add(p)
        return fixed

    def _deaths(self, saved: set[Ref]) -> dict[int, list[int]]:
        """For each call, the places of values that no later call needs: they are emptied after it.

        Only values that an operator allocates: planned ones belong to the arena, and so do their views.
        """
        last: dict[Ref, int] = {}
        for position, call in self.graph.operators():
            for n in range(len(call.specs)):
                last[position, n] = position
            for ref in call.refs:
                last[ref] = position
        dead: dict[int, list[int]] = {}
        kept = {*saved, *self.graph.outputs, *self.plan.offsets}
        for ref, position in last.items():
            if self.graph.calls[ref[0]].op and ref not in kept and ref[0] not in self.fixed:
                dead.setdefault(position, []).append(self.slots[ref])
        return dead

    def _note_outputs(self, forward: int, owned: dict[Ref, frozenset[Ref]]) -> None:
        """When the outputs of the backward part are made, when inputs are first used, which outputs are constants."""
        graph, early, late = self.graph, self.calls["forward"], self.calls["backward"]
        numbers = {p: i for i, p in enumerate(late)}
        self.made: dict[int, list[int]] = {}  # outputs of the backward part by the step that makes them
        for i, (p, _) in enumerate(graph.outputs[forward:]):
            self.made.setdefault(numbers.get(p, BEFORE), []).append(i)
        self.inputs = [self.slots[p, 0] for p in graph.inputs]
        used = {ref: i for i in reversed(range(len(early))) for ref in graph.calls[early[i]].refs}
        self.first_use = [used.get((p, 0), len(early)) for p in graph.inputs]  # steps of the forward part
        self.outputs = [self.slots[ref] for ref in graph.outputs]
        consts = [{graph.calls[p].is_const for p, _ in owned[ref]} for ref in graph.outputs]
        self.lent = [i for i, kinds in enumerate(consts) if True in kinds]

    # -- memory

    def _new_arena(self) -> Arena:
        raw = self.xp.empty(self.plan.size_bytes + ALIGN_BYTES, dtype="uint8")
        start = -bind.address(raw) % ALIGN_BYTES if hasattr(raw, "ctypes") else -int(raw.data.ptr) % ALIGN_BYTES
        values: Values = [None] * len(self.slots)
        for ref, offset in self.plan.offsets.items():
            if ref[1] != SCRATCH:
                values[self.slots[ref]] = self._placed(raw, start + offset, ref)
        for position, call in enumerate(self.graph.calls):
            if call.is_const:
                values[self.slots[position, 0]] = call.value if self.xp.host else self.xp.asarray(call.value)
        for position in sorted(self.fixed):
            self._make_view(self.graph.calls[position], position, values)
        base = 0 if self.xp.module.__name__ != "numpy" else bind.address(raw) + start
        values += [x(base, values) if isinstance(x, _BlockMaker) else x for x in self._extra]
        return Arena(raw, values)

    def _placed(self, raw: Any, at: int, ref: Ref) -> Any:
        spec, order = self.graph.spec(ref), self.layout.order(ref)
        part = raw[at : at + nbytes(spec)].view(spec.dtype)
        view = part[: math.prod(spec.shape)].reshape([spec.shape[axis] for axis in order])
        return view.transpose([order.index(axis) for axis in range(len(order))])

    def _make_view(self, call: Call, position: int, values: Values) -> None:
        inputs = [values[self.slots[x]] if isinstance(x, tuple) else x for x in call.inputs]
        out = OPS[call.op].forward(self.xp, *inputs, **call.attrs)
        for n, view in enumerate(out if isinstance(out, tuple) else (out,)):
            values[self.slots[position, n]] = view

    # -- steps

    def _steps(self, first: int, last: int, dead: dict[int, list[int]]) -> tuple[list[StepFn], list[int]]:
        """The steps of a part, and the call of each."""
        calls = [p for p, _ in self.graph.operators() if first <= p < last and p not in self.fixed]
        return [self._step(p, dead) for p in calls], calls

    def _step(self, position: int, dead: dict[int, list[int]]) -> StepFn:
        call, kernel = self.graph.calls[position], self.kernels.get(position)
        out = [self.slots[position, n] for n in range(len(call.specs))]
        inputs = [self._slot(x) for x in call.inputs]
        self._places[position] = inputs, out
        if isinstance(kernel, Source):
            step = self._native(position, kernel)
        elif kernel is None:
            step = _compute(OPS[call.op].forward, self.xp, inputs, out, call.attrs)
        else:
            fresh = [(self.slots[ref], make) for ref, make in self._fresh(position)]
            step = _write(kernel, inputs, out) if not fresh else _write_anew(kernel, inputs, out, fresh)
        free = dead.get(position, [])
        return _then_free(step, free) if free else step

    def _fresh(self, position: int) -> list[tuple[Ref, Callable[[], Any]]]:
        """The outputs that are not in the arena, and what allocates them."""
        found = []
        for n, spec in enumerate(self.graph.calls[position].specs):
            ref = (position, n)
            if ref not in self.plan.offsets:
                strides = self.layout.strides.get(ref)
                order = tuple(range(spec.ndim)) if strides is None else order_of(strides)
                found.append((ref, bind.empty(self.xp, spec.shape, spec.dtype, order)))
        return found

    def _native(self, position: int, source: Source) -> StepFn:
        """A step that calls a compiled function: its operands sorted by when their addresses are known."""
        call, fresh = self.graph.calls[position], dict(self._fresh(position))
        block = _BlockMaker(self.plan.offsets.get((position, SCRATCH)))
        lists: dict[str, list[bind.Operand]] = {"stable": [], "moving": [], "fresh": []}
        refs = [*call.refs, *((position, n) for n in range(len(call.specs)))]
        for number, ref in enumerate(refs):
            strides = dense_strides(self.graph, self.layout, ref)
            made = self.graph.calls[ref[0]]
            x = bind.Operand(number, self.slots[ref], self.graph.spec(ref), strides, fresh.get(ref))
            if ref in fresh and ref[0] == position:
                lists["fresh"].append(x)
            elif ref in self.plan.offsets or ref[0] in self.fixed or made.is_const:
                block.fixed.append(x)
            else:
                lists["stable" if made.is_input else "moving"].append(x)
        block.count = len(refs) + 1
        self._extra.append(block)
        return bind.native_step(self.functions[source.name], len(self.slots) + len(self._extra) - 1, **lists)

    def _slot(self, x: Operand) -> int:
        """The place of an operand; a scalar or None has one of its own, filled for good."""
        if isinstance(x, tuple):
            return self.slots[x]
        self._extra.append(x)
        return len(self.slots) + len(self._extra) - 1


class _BlockMaker:
    """Makes the block of a compiled call, given an arena's address and its values."""

    def __init__(self, scratch: int | None) -> None:
        self.scratch, self.count = scratch, 0
        self.fixed: list[bind.Operand] = []

    def __call__(self, base: int, values: Values) -> bind.Block:
        block = bind.Block(self.count)
        for x in self.fixed:
            array = block.seen[x.number] = bind.relaid(values[x.slot], x.strides)
            block.pointers[x.number] = bind.address(array)
        if self.scratch is not None:
            block.pointers[self.count - 1] = base + self.scratch
        return block


def choose(
    graph: Graph, xp: Any, layout: Layout
) -> tuple[dict[int, "Kernel | Source"], dict[str, Callable[[int], None]]]:
    """The kernel of each call that has one, and the compiled functions of those that are C text."""
    from shoal.ops.gpu import codegen
    from shoal.ops.native import families

    assert families and codegen  # imported for the kernels that they register
    seen = [p for p, _ in graph.operators() if (p, 0) in layout.strides]
    offers = {p: list(kernels_for(site_of(graph, xp, layout, p))) for p in seen}
    first = [found[0] for found in offers.values() if found]
    functions = bind.compiled(k for k in first if isinstance(k, Source))
    kernels: dict[int, Kernel | Source] = {}
    for p, found in offers.items():
        usable = [k for k in found if not isinstance(k, Source) or k.name in functions]
        if usable:
            kernels[p] = usable[0]
    return kernels, functions


def site_of(graph: Graph, xp: Any, layout: Layout, position: int) -> Site:
    """What is known of a call and its arrays."""
    call = graph.calls[position]
    specs = tuple(graph.spec(x) if isinstance(x, tuple) else x for x in call.inputs)
    inputs = [dense_strides(graph, layout, x) if isinstance(x, tuple) else None for x in call.inputs]
    outputs = [dense_strides(graph, layout, (position, n)) for n in range(len(call.specs))]
    return Site(xp, call, specs, (*inputs, *outputs))


def dense_strides(graph: Graph, layout: Layout, ref: Ref) -> Strides:
    """The strides that an array of the program has when a kernel meets it.

    Those of the rehearsal for inputs and views; results of operators are written densely, in the memory order that they
    had.
    """
    spec, strides = graph.spec(ref), layout.strides.get(ref)
    if strides is None:
        return strides_of(spec)
    call = graph.calls[ref[0]]
    return strides if call.is_input or (call.op and is_view(call)) else strides_of(spec, order_of(strides))


def is_view(call: Call) -> bool:
    """Whether the output of a call may share memory with its input."""
    return OPS[call.op].view


def order_of(strides: Strides) -> Order:
    """Memory order of a dense array; axes of equal stride in their own order."""
    return tuple(sorted(range(len(strides)), key=lambda axis: (-strides[axis], axis)))


def _write(kernel: Kernel, inputs: list[int], out: list[int]) -> StepFn:
    """A step that writes its outputs where the plan says."""
    if len(out) == 1 and len(inputs) == 1:
        (a,), (o,) = inputs, out
        return lambda v: kernel(v[a], v[o])
    if len(out) == 1 and len(inputs) == 2:
        (a, b), (o,) = inputs, out
        return lambda v: kernel(v[a], v[b], v[o])
    places = [*inputs, *out]
    return lambda v: kernel(*[v[i] for i in places])


def _write_anew(
    kernel: Kernel, inputs: list[int], out: list[int], fresh: list[tuple[int, Callable[[], Any]]]
) -> StepFn:
    """A step that allocates some of its outputs, and writes them all."""
    places = [*inputs, *out]

    def step(v: Values) -> None:
        for slot, make in fresh:
            v[slot] = make()
        kernel(*[v[i] for i in places])

    return step


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
