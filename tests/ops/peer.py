"""Ours and PyTorch's, on the same inputs: values, gradients, and a graph's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as onp
import torch

from shoal import autograd
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor

TOLERANCE = {"float64": 1e-9, "float32": 3e-4, "float16": 2e-2}


def arrays(
    shapes: Sequence[tuple[int, ...]], dtype: str = "float64", low: float = -2.0, high: float = 2.0
) -> list[Any]:
    """Random arrays, the same for the same shapes."""
    rng = onp.random.default_rng(sum(map(sum, shapes)) + len(shapes))
    return [onp.asarray(rng.uniform(low, high, s), dtype) for s in shapes]


def run(fn: Callable[..., Any], given: Sequence[Any]) -> tuple[Any, list[Any]]:
    """(value, gradients) of a function of tensors, for a cotangent that is the same for the same shape."""
    tensors = [Tensor(a) for a in given]
    for t in tensors:
        if t.dtype.kind == "f":
            t.attach_grad()
    with autograd.record():
        out = fn(*tensors)
    if out.node is not None:
        out.backward(Tensor(cotangent(out.shape, out.dtype.name)))
    return out, [None if t.grad is None else t.grad.asnumpy() for t in tensors]


def cotangent(shape: Sequence[int], dtype: str) -> Any:
    """The cotangent that both get."""
    return onp.asarray(onp.random.default_rng(1).standard_normal(shape), dtype)


def agree(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *given: Any,
    tolerance: float | None = None,
    graph: bool = True,
) -> None:
    """Values and gradients are PyTorch's; a graph gives what eager calls give.

    Args:
        given: arrays; floats get gradients.
        tolerance: relative and absolute; by default what the dtype allows.
    """
    out, grads = run(ours, given)
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in given]
    expected = theirs(*tensors)
    assert str(expected.dtype).removeprefix("torch.") == out.dtype.name
    within = tolerance or TOLERANCE.get(out.dtype.name, 0.0)
    onp.testing.assert_allclose(out.asnumpy(), expected.detach().numpy(), rtol=within, atol=within)
    if expected.requires_grad:
        expected.backward(torch.tensor(cotangent(tuple(expected.shape), out.dtype.name)))
    for i, (found, t) in enumerate(zip(grads, tensors, strict=True)):
        if t.grad is not None:
            assert found.dtype == given[i].dtype
            onp.testing.assert_allclose(found, t.grad.numpy(), rtol=within, atol=within, err_msg=f"gradient {i}")
    if graph:
        _agrees_as_a_graph(ours, given, out.asnumpy(), grads, within)


def _agrees_as_a_graph(
    ours: Callable[..., Any], given: Sequence[Any], out: Any, grads: list[Any], within: float
) -> None:
    """The same numbers, as compiled kernels add in another order; of other dtypes, for which there are none, bits."""
    compiled_out, compiled_grads = run(Compiled(ours, "compared"), given)
    for a, b in zip([out, *grads], [compiled_out.asnumpy(), *compiled_grads], strict=True):
        if a is None or out.dtype not in ("float32", "float64"):
            assert a is b or onp.array_equal(a, b, equal_nan=True)
        else:
            onp.testing.assert_allclose(b, a, rtol=within, atol=within)
