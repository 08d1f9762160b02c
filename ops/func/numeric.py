"""Checks of gradients by small steps, and of whole operators: for users who write their own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.func import derive
from shoal.ops.func.call import functional_call, parameters_of
from shoal.ops.func.mapping import vmap
from shoal.ops.graph.compiled import Compiled
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.nn.block import Block
from shoal.ops.registry import Op, Traced, spec_of
from shoal.ops.tensor import Tensor

__all__ = ["check_gradient", "check_operator"]


def check_gradient(
    fn: Callable[..., Any],
    *inputs: Any,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    second: bool = False,
    directions: int | None = None,
    seed: int = 0,
) -> None:
    """Compare the gradients of ``fn`` with the slopes that small steps find; return if they agree.

    The results are multiplied by fixed random numbers and added up, so that every part of them counts.

    Args:
        fn: takes and returns tensors, nested in lists, tuples and dictionaries; or a block, whose learned parameters
            are checked as well.
        inputs: of float64; arrays and tensors of integers and booleans are passed on, and not varied.
        eps: the step, in both directions.
        rtol, atol: how far the two may be apart.
        second: also check the gradient of the gradient.
        directions: vary each input in that many random directions, instead of element by element. By default inputs of
            more than 200 elements are varied in 20 directions.
        seed: of the random numbers.
    Raises:
        AssertionError: they differ; names the input, the element and both numbers.
        ConfigError: an input is not float64, whose steps would be lost in rounding; or none can be varied.

    >>> from shoal import np
    >>> check_gradient(lambda x: np.sin(x) * x, np.array([1.0, 2.0], dtype="float64"))
    """
    if isinstance(fn, Block):
        block, (learned, _) = fn, parameters_of(fn)
        fn = lambda params, *xs: functional_call(block, params, xs)  # noqa: E731  # it takes fn's place
        inputs = (mapped(lambda x: Tensor(x.asnumpy().copy()), learned), *inputs)
    problem = _Problem(fn, inputs, seed)
    problem.compare(eps, rtol, atol, directions, "gradient")
    if second:
        inner = problem
        weights = [np.random.default_rng(seed + 1).standard_normal(x.shape) for x in inner.varied]

        def gradients(*values: Any) -> Any:
            grads = derive.grad(inner.total, tuple(range(len(values))))(*values)
            return tuple(g * w for g, w in zip(grads, weights, strict=True))

        again = _Problem(gradients, tuple(Tensor(x) for x in inner.varied), seed + 2)
        again.compare(eps, rtol, max(atol, 1e-6), directions, "second derivative")


class _Problem:
    """A number that depends on arrays."""

    def __init__(self, fn: Callable[..., Any], inputs: Sequence[Any], seed: int) -> None:
        self.fn, self.inputs = fn, tuple(inputs)
        values = [x.asnumpy() if isinstance(x, Tensor) else x for x in leaves(self.inputs)]
        self.chosen = [i for i, x in enumerate(values) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        for i in self.chosen:
            if values[i].dtype != np.float64:
                raise ConfigError(
                    f"check_gradient: input {i} is {values[i].dtype}, in which small steps are lost; convert it with "
                    "astype('float64')"
                )
        if not self.chosen:
            raise ConfigError("check_gradient: no input holds floating-point numbers, so that there is no gradient")
        self.varied = [values[i].copy() for i in self.chosen]
        self.rng = np.random.default_rng(seed)
        out = [x for x in leaves(self._call([Tensor(x) for x in self.varied])) if hasattr(x, "shape")]
        self.weights = [self.rng.standard_normal(x.shape) if x.dtype.kind == "f" else None for x in out]

    def _call(self, values: Sequence[Any]) -> Any:
        fresh = dict(zip(self.chosen, values, strict=True))
        numbers = iter(range(len(list(leaves(self.inputs)))))
        return self.fn(*mapped(lambda x: fresh.get(next(numbers), x), self.inputs))

    def total(self, *values: Any) -> Any:
        """The number, for tensors in the place of the arrays."""
        out = [x for x in leaves(self._call(values)) if hasattr(x, "shape")]
        parts = [(x * w).sum() for x, w in zip(out, self.weights, strict=True) if w is not None]
        return sum(parts[1:], start=parts[0]) if parts else Tensor(np.zeros(()))

    def compare(self, eps: float, rtol: float, atol: float, directions: int | None, what: str) -> None:
        """Raise unless the gradients are the slopes."""
        grads = derive.grad(self.total, tuple(range(len(self.varied))))(*map(Tensor, self.varied))
        for number, (x, g) in enumerate(zip(self.varied, grads, strict=True)):
            for name, step in self._steps(x, directions):
                ends = []
                for sign in (1.0, -1.0):
                    values = list(self.varied)
                    values[number] = x + sign * eps * step
                    ends.append(self.total(*map(Tensor, values)).item())
                slope, found = (ends[0] - ends[1]) / (2 * eps), float((g.asnumpy() * step).sum())
                apart, allowed = abs(slope - found), atol + rtol * max(abs(slope), abs(found))
                if not apart <= allowed:
                    raise AssertionError(
                        f"the {what} of input {self.chosen[number]}, of shape {x.shape}, is wrong at {name}: the rule "
                        f"gives {found:.10g}, small steps give {slope:.10g} (apart by {apart:.3g}, allowed "
                        f"{allowed:.3g})"
                    )

    def _steps(self, x: Any, directions: int | None) -> list[tuple[str, Any]]:
        if directions is None and x.size <= 200:
            units = []
            for at in np.ndindex(*x.shape):
                unit = np.zeros_like(x)
                unit[at] = 1.0
                units.append((f"element {at}", unit))
            return units
        made = [self.rng.standard_normal(x.shape) for _ in range(directions or 20)]
        return [(f"random direction {i}", d / max(1.0, float(np.linalg.norm(d)))) for i, d in enumerate(made)]


def check_operator(op: Op[Any], *inputs: Any, rtol: float = 1e-5, atol: float = 1e-7, **attrs: Any) -> None:
    """Check a declared operator on some inputs: all that the tests of shoal's own operators check.

    Shapes and dtypes that it infers are those it gives; it writes to no input; its gradient, and the gradient of that,
    are the slopes; as a compiled graph and by its gradient graph it gives the same numbers; under `vmap` it gives what
    a loop gives.

    Args:
        inputs: arrays (floats of float64), numbers and None.
        rtol, atol: as in `check_gradient`.
        attrs: the operator's attributes.
    Raises:
        AssertionError: says what is not so.

    >>> from shoal.ops.registry import operator
    >>> check_operator(operator("tanh"), np.array([0.5, -1.0]))
    """
    arrays = [x.asnumpy() if isinstance(x, Tensor) else x for x in inputs]
    before = [x.copy() if isinstance(x, np.ndarray) else x for x in arrays]
    outs = _several(op(*arrays, **attrs))
    _check_spec(op, arrays, attrs, outs)
    _require(all(_same(a, b) for a, b in zip(arrays, before, strict=True)), op, "writes to its inputs")
    at = [i for i, x in enumerate(arrays) if isinstance(x, np.ndarray)]

    def call(*values: Any) -> Any:
        fresh = dict(zip(at, values, strict=True))
        return op(*(fresh.get(i, x) for i, x in enumerate(arrays)), **attrs)

    tensors = [Tensor(arrays[i]) for i in at]
    compiled = Compiled(call, op.name)
    for _ in range(3):
        for a, b in zip(_several(compiled(*tensors)), outs, strict=True):
            _require(_same(a.asnumpy(), np.asarray(b)), op, "gives other numbers in a compiled graph")
    if op.rule is not None and any(o.dtype.kind == "f" for o in outs):
        check_gradient(call, *tensors, rtol=rtol, atol=atol, second=True)
        check_gradient(lambda *xs: compiled(*xs), *tensors, rtol=rtol, atol=atol)
    batch = [Tensor(np.stack([x.data, x.data])) for x in tensors]
    for a, b in zip(_several(vmap(call)(*batch)), outs, strict=True):
        close = np.allclose(a.asnumpy(), np.stack([b, b]), rtol=1e-9, atol=1e-12, equal_nan=True)
        _require(close, op, "gives other numbers under vmap")


def _check_spec(op: Op[Any], arrays: Sequence[Any], attrs: dict[str, Any], outs: Sequence[Any]) -> None:
    found = op.infer(*map(spec_of, arrays), **attrs)
    inferred = [found] if hasattr(found, "dtype") else list(found)
    told = [(tuple(s.shape), s.dtype) for s in inferred]
    actual = [(o.shape, o.dtype) for o in outs]
    _require(told == actual, op, f"infers {told}, and gives {actual}")


def _several(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (np.ndarray, np.generic)):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return bool(a == b) or isinstance(a, Traced)


def _require(holds: bool, op: Op[Any], what: str) -> None:
    if not holds:
        raise AssertionError(f"operator {op.name!r} {what}")
