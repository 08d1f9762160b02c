"""A graph laid out in one arena of a GPU, as a list of launches at fixed addresses: what can be recorded.

Values lie where `shoal.ops.graph.plan` puts them, as on the CPU, but all of them do: none is allocated in a step.
Arguments have slots of their own, constants are copied to the GPU once, views are made once. A call that has a kernel
(`shoal.ops.graph.kernels`) writes where it is told; any other computes its result with the array namespace, out of a
pool, and copies it there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.ops.backend import CPU
from shoal.ops.gpu.device import Gpu, Stream
from shoal.ops.gpu.kernels.families import bound
from shoal.ops.gpu.kernels.table import In
from shoal.ops.graph.ir import Call, Graph, Ref
from shoal.ops.graph.kernels import Site, Source, kernel_for, strides_of
from shoal.ops.graph.plan import Plan, nbytes, plan
from shoal.ops.registry import OPS, Spec

__all__ = ["Chooser", "Laid"]

Chooser = Callable[[Site], Callable[..., None] | None]
"""Gives the kernel of a call, or None."""


class Laid:
    """The launches of a graph.

    Args:
        gpu: where.
        graph: what.
        bound: arrays of the GPU, by the number of the input that each is: the model's parameters, which are read (and,
            behind the graph, updated) where they are.
        choose: asked for kernels before those that are registered.
        after: puts more work on the stream behind the graph, such as the update; it is part of the step.
        watch: numbers of the outputs whose values the host wants.
    """

    def __init__(
        self,
        gpu: Gpu,
        graph: Graph,
        *,
        bound: Mapping[int, Any] | None = None,
        choose: Chooser | None = None,
        after: Callable[[list[Any], Stream], None] | None = None,
        watch: Sequence[int] = (),
    ) -> None:
        self.gpu, self.graph, self.after = gpu, graph, after
        self._choose = choose
        self._views = _views(graph)
        owned = {(p, n) for p, c in graph.operators() for n in range(len(c.specs)) if p not in self._views}
        self.plan: Plan = plan(graph, owned, lambda c: c.op != "" and OPS[c.op].view, self._inplace)
        self.values: dict[Ref, Any] = {}
        bound = bound or {}
        self.slots: list[Any] = []
        with gpu.use():
            for number, position in enumerate(graph.inputs):
                spec = graph.spec((position, 0))
                array = bound[number] if number in bound else self._reserved(spec)
                self.values[position, 0] = array
                if number not in bound:
                    self.slots.append(array)
            self._constants()
            self.arena = gpu.reserve(self.plan.size_bytes)
            self.launches = [self._launch(p, call) for p, call in graph.operators() if self._placed(p, call)]
        self.outputs = [self.values[ref] for ref in graph.outputs]
        self.watched = [self.outputs[i] for i in watch]

    def prepare(self, stream: Stream) -> None:
        """Nothing: all that changes from step to step is in the slots."""

    def run(self, stream: Stream) -> list[Any]:
        """Put a step on ``stream``; gives the outputs, which the next step overwrites."""
        for launch in self.launches:
            launch(stream)
        if self.after is not None:
            self.after(self.outputs, stream)
        return self.outputs

    def _reserved(self, spec: Spec) -> Any:
        size = int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize
        return self.gpu.reserve(size).view(spec.dtype).reshape(spec.shape)

    def _constants(self) -> None:
        for p, call in enumerate(self.graph.calls):
            if call.is_const:
                value = call.value if hasattr(call.value, "get") else self.gpu.xp.asarray(call.value)
                self.values[p, 0] = value

    def _inplace(self, position: int, output: int, heir: Ref) -> bool:
        return OPS[self.graph.calls[position].op].elementwise and self.graph.calls[position].op in _WITH_OUT

    def _placed(self, position: int, call: Call) -> bool:
        """Give the results of a call their place; whether there is something to compute."""
        if position in self._views:
            inputs = [self.values[x] if isinstance(x, tuple) else x for x in call.inputs]
            made = OPS[call.op].plain(self.gpu.xp, *inputs, **call.attrs)
            for n, view in enumerate(made if isinstance(made, tuple) else (made,)):
                self.values[position, n] = view
            return False
        for n, spec in enumerate(call.specs):
            at = self.plan.offsets[position, n]
            part = self.arena[at : at + nbytes(spec)].view(spec.dtype)
            self.values[position, n] = part[: int(np.prod(spec.shape, dtype=np.int64))].reshape(spec.shape)
        return True

    def _launch(self, position: int, call: Call) -> Callable[[Stream], None]:
        gpu, xp = self.gpu, self.gpu.xp
        inputs = [self.values[x] if isinstance(x, tuple) else x for x in call.inputs]
        outputs = [self.values[position, n] for n in range(len(call.specs))]
        kernel = self._kernel(call, inputs)
        arrays = [x for x in inputs if hasattr(x, "shape")]
        if kernel is not None:
            return lambda stream: gpu.launch(call.op, lambda: kernel(*inputs, *outputs), stream, arrays, outputs)
        forward = OPS[call.op].forward

        def work() -> None:
            found = forward(xp, *inputs, **call.attrs)
            for out, value in zip(outputs, found if isinstance(found, tuple) else (found,), strict=True):
                out[...] = value

        return lambda stream: gpu.launch(call.op, work, stream)

    def _kernel(self, call: Call, inputs: Sequence[Any]) -> Callable[..., Any] | None:
        specs = tuple(self.graph.spec(x) if isinstance(x, tuple) else x for x in call.inputs)
        strides = tuple(strides_of(s) if isinstance(s, Spec) else None for s in (*specs, *call.specs))
        site = Site(self.gpu.xp, call, specs, strides)
        found = self._choose(site) if self._choose is not None else None
        if found is None and call.op in _WITH_OUT:
            offered = kernel_for(site)
            found = None if isinstance(offered, Source) else offered
        if found is None and all(x.flags.c_contiguous for x in inputs if hasattr(x, "flags")):
            ours = bound(self.gpu.xp, call.op, [In(*s) if isinstance(s, Spec) else s for s in specs], call.attrs)
            found = None if ours is None else ours.run
        return found


_WITH_OUT = frozenset(
    [
        "abs",
        "add",
        "arccos",
        "arcsin",
        "arctan",
        "ceil",
        "cos",
        "cosh",
        "divide",
        "equal",
        "exp",
        "expm1",
        "floor",
        "greater",
        "less",
        "log",
        "log1p",
        "logical_not",
        "maximum",
        "minimum",
        "multiply",
        "negative",
        "not_equal",
        "power",
        "reciprocal",
        "rint",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "subtract",
        "tan",
        "tanh",
    ]
)
"""Ufuncs of NumPy and CuPy alike, which write where they are told."""


def _views(graph: Graph) -> set[int]:
    """The calls whose results lie in the memory of their first input: tried on the host, with arrays nobody fills."""
    shadows: dict[Ref, Any] = {}
    found: set[int] = set()
    for p, call in enumerate(graph.calls):
        if call.op and OPS[call.op].view and call.refs and shadows[call.refs[0]].size:
            inputs = [shadows[x] if isinstance(x, tuple) else x for x in call.inputs]
            made = OPS[call.op].plain(CPU, *inputs, **call.attrs)
            results = made if isinstance(made, tuple) else (made,)
            if all(np.may_share_memory(x, inputs[0]) for x in results):
                found.add(p)
                shadows.update({(p, n): x for n, x in enumerate(results)})
                continue
        shadows.update({(p, n): np.empty(s.shape, s.dtype) for n, s in enumerate(call.specs)})
    return found
