"""Blocks that can run as compiled graphs."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import ConfigError, GraphError
from shoal.ops.graph import serialize, trace
from shoal.ops.graph.compiled import Compiled, Trace
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.pipeline import chosen
from shoal.ops.graph.tree import leaves
from shoal.ops.nn import checkpoint
from shoal.ops.nn.block import Block, Clock
from shoal.ops.nn.parameter import Parameter
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__ = ["HybridBlock"]


class HybridBlock(Block):
    """A block whose `forward` uses operators only, so that it can be traced into a graph.

    A layer whose parameters have unknown lengths defines `infer_shape`, which sets them from the first inputs.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, value in {
            "_compiled": None,
            "_compiled_stamp": 0,
            "_compiled_clock": 0,
            "_options": None,
            "_fallback": "",
        }.items():
            object.__setattr__(self, name, value)

    _compiled: Compiled | None
    _compiled_stamp: int
    _compiled_clock: int
    _options: dict[str, Any] | None
    _fallback: str

    def hybridize(
        self,
        active: bool = True,
        *,
        static_alloc: bool = True,
        static_shape: bool = True,
        strict: bool = True,
        cache_size: int = 32,
        passes: str | Sequence[str] | None = None,
        recorded: bool = True,
    ) -> None:
        """Run as a graph that is traced at the next call, and again for each new signature of the inputs.

        The outermost hybridized block makes the graph; those inside are part of it. Numbers are those of imperative
        execution, but for the last digits of convolutions, batch normalization and pooling, where they are compiled
        (docs/native.md). `forward` runs only while it is traced: what it prints or assigns happens once per signature.

        Args:
            active: False returns to imperative execution.
            static_alloc: intermediate values share planned memory, which is kept between calls.
            static_shape: accepted for MXNet's sake; graphs are made for fixed shapes always.
            strict: a `forward` that cannot be traced is an error; otherwise it runs imperatively, after one warning.
            cache_size: how many signatures are kept.
            passes: what is done to graphs: "all", "none", names, or "-fuse" for all others; None asks the environment
                (SHOAL_PASSES). See `shoal.ops.graph.pipeline.PASSES`.
            recorded: on a GPU, the forward and the backward part become one launch each (CUDA graphs) after two runs;
                False, or SHOAL_GPU_RECORD=0, leaves it. What cannot be recorded runs as it is, and the log says why.
        """
        chosen(passes)
        if cache_size < 1:
            raise ConfigError(f"hybridize: cache_size must be at least 1, got {cache_size}")
        options: dict[str, Any] = {
            "static_alloc": static_alloc,
            "strict": strict,
            "cache_size": cache_size,
            "passes": passes,
            "recorded": recorded,
        }
        super().hybridize(active, static_shape=static_shape, **options)
        object.__setattr__(self, "_options", options if active else None)
        object.__setattr__(self, "_compiled", None)
        object.__setattr__(self, "_fallback", "")

    @property
    def is_hybridized(self) -> bool:
        """Whether calls run as graphs."""
        return self._options is not None

    def why_not_recorded(self) -> list[str]:
        """Why graphs of this block that ran on a GPU are not recorded; nothing if all are, or there are none."""
        return [] if self._compiled is None else self._compiled.why_not_recorded()

    def infer_shape(self, *inputs: Any) -> None:
        """Set the shapes of this block's own parameters from the inputs, which may be symbols: use ``x.shape``."""
        waiting = [p.name for p in self._reg_params.values() if p.is_deferred]
        raise ConfigError(
            f"{self._label()} has parameters of unknown shape ({', '.join(waiting)}) and does not define "
            "infer_shape(self, *inputs), which sets them: self.weight.shape = (self.units, x.shape[-1])"
        )

    def trace(self, *inputs: Any) -> Trace:
        """What `forward` computes for inputs of these shapes, as symbols; in train mode inside `autograd.record`."""
        return self._compile().trace(inputs, {})

    def symbol(self, *inputs: Any) -> Any:
        """The output of `forward` as a `Symbol` that can be printed; a list if there are several."""
        outputs = self.trace(*inputs).outputs
        return outputs[0] if len(outputs) == 1 else outputs

    def described(self, *inputs: Any) -> serialize.Saved:
        """What `forward` does in predict mode, as a graph whose inputs have names and roles.

        Args:
            inputs: of the shapes and dtypes to be expected; none: those of the last call as a graph.
        Raises:
            ConfigError: there are no inputs, and were none.
            GraphError: the model cannot be traced, or updates parameters in predict mode.
        """
        if not inputs and self._compiled is not None and self._compiled.traces:
            last = next(reversed(self._compiled.traces.values()))
            inputs = tuple(Tensor(np.zeros(s.shape, s.dtype)) for s in last.arguments)
        if not inputs:
            raise ConfigError(
                f"{self._label()} needs inputs of the shapes that the graph is for: pass them behind path"
            )
        with trace.mode(training=False):
            found = self.trace(*inputs)
        if found.updates:
            names = ", ".join(source.name for source, _ in found.updates)
            raise GraphError(f"{self._label()} writes to {names} in predict mode; a saved graph cannot")
        return _described(found, self.collect_params())

    def export(self, path: str | os.PathLike[str], *inputs: Any) -> tuple[Path, Path]:
        """Write the model in predict mode as a graph and its parameters, to be run without this class.

        See `SymbolBlock.imports`.

        Args:
            path: ``path``-symbol.json and ``path``.safetensors are written.
            inputs: of the shapes and dtypes to be expected; lengths that no operator depends on may differ later.
        Returns:
            The two files.
        Raises:
            ConfigError, GraphError: as `described`.
            CheckpointError: the disk refuses.
        """
        saved, params = self.described(*inputs), self.collect_params()
        files = Path(f"{os.fspath(path)}-symbol.json"), Path(f"{os.fspath(path)}.safetensors")
        checkpoint.save(files[1], {name: param for name, param in params.items() if name in saved.names})
        serialize.write(files[0], saved)
        return files

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}  # a copy traces again

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self._options is not None and not self._fallback and trace.graphs_wanted() and _concrete((args, kwargs)):
            return self._run_graph(args, kwargs)
        if trace.active() is None and _symbolic((args, kwargs)):  # composing by hand: net(sym.var("x", (2, 3)))
            with trace.Tracer():
                return self._run_here(*args, **kwargs)
        return self._run_here(*args, **kwargs)

    def _run_here(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, on tensors or on symbols."""
        if any(p.is_deferred for p in self._reg_params.values()):
            self.infer_shape(*args)
            for param in self._reg_params.values():
                param.finish_init()
        try:
            return self.forward(*args, **kwargs)
        except GraphError as error:
            if self._options is not None and not self._options["strict"]:
                object.__setattr__(self, "_fallback", str(error))  # no use in tracing this one again
            raise

    def _run_graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self._options is not None
        try:
            return self._compile()(*args, **kwargs)
        except GraphError as error:
            if self._options["strict"]:
                raise
            object.__setattr__(self, "_fallback", str(error))
            warnings.warn(f"{self._label()} runs imperatively: {error}", RuntimeWarning, stacklevel=4)
            return self._run_here(*args, **kwargs)

    def _compile(self) -> Compiled:
        """The graphs of this block; new ones if the block or one inside it has changed."""
        clock = Clock.latest
        if self._compiled is not None and self._compiled_clock == clock:  # nothing has changed anywhere
            return self._compiled
        object.__setattr__(self, "_compiled_clock", clock)
        latest = self._latest()
        if self._compiled is None or self._compiled_stamp != latest:
            options = self._options or {"static_alloc": True, "cache_size": 32, "passes": None, "recorded": True}
            made = Compiled(
                self._run_here,
                self._label(),
                limit=options["cache_size"],
                planned=options["static_alloc"],
                passes=options["passes"],
                recorded=options["recorded"],
            )
            object.__setattr__(self, "_compiled", made)
            object.__setattr__(self, "_compiled_stamp", latest)
        assert self._compiled is not None
        return self._compiled


def _concrete(tree: Any) -> bool:
    """Whether all has numbers: neither symbols nor values under vmap."""
    return not any(isinstance(x, Traced) and not isinstance(x, Tensor) for x in leaves(tree))


def _symbolic(tree: Any) -> bool:
    return any(trace.is_symbol(x) for x in leaves(tree))


def _described(found: Trace, params: dict[str, Parameter]) -> serialize.Saved:
    """The forward graph of a trace with the names of ``params``; tensors that are no parameters become constants."""
    names = {id(param): name for name, param in params.items()}
    graph = found.graph()
    calls, roles = list(graph.calls), {}
    for position, symbol in zip(graph.inputs, [*found.arguments, *found.captured], strict=True):
        source = symbol.node.source
        if source is None or symbol.node.role == "key" or id(source) in names:
            calls[position] = Call("", specs=calls[position].specs, name=names.get(id(source), symbol.name))
            roles[position] = symbol.node.role
        else:
            calls[position] = Call("", specs=calls[position].specs, value=source.current().data)
    return serialize.Saved(Graph(tuple(calls), tuple(roles), graph.outputs), tuple(roles.values()))
