"""Comparison of values and gradients with PyTorch on the CPU: what the files ``test_torch_*`` share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from shoal.ops import autograd
from shoal.ops.tensor import Tensor

Fn = Callable[..., Any]

TOLERANCE = {"float16": 4e-3, "float32": 2e-5, "float64": 1e-9}
"""Relative, and absolute for numbers around 1."""


class Pair(NamedTuple):
    """Two functions that are to be the same, and the shapes and range of their float inputs.

    ``loose`` multiplies the tolerance; ``half`` says whether to try float16.
    """

    ours: Fn
    theirs: Fn
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    low: float = -2.0
    high: float = 2.0
    loose: float = 1.0
    half: bool = True


def arrays(name: str, pair: Pair, dtype: str, shapes: Sequence[tuple[int, ...]] = ()) -> list[Any]:
    """The inputs of a pair, the same for the same name."""
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    return [np.asarray(rng.uniform(pair.low, pair.high, s)).astype(dtype) for s in shapes or pair.shapes]


def strided(x: Any) -> Any:
    """The same numbers, not contiguous in memory: every other element of a transposed array."""
    if not x.ndim:
        return x
    wide = np.zeros((*x.shape[::-1][:-1], 2 * x.shape[0]), x.dtype)
    wide[..., ::2] = x.T
    return wide[..., ::2].T


def compare(ours: Fn, theirs: Fn, inputs: Sequence[Any], tolerance: float) -> None:
    """Assert that values, dtypes and the gradients of all inputs are alike; functions may return several tensors."""
    mine = [Tensor(a) for a in inputs]
    other = [torch.tensor(np.ascontiguousarray(a).reshape(a.shape), requires_grad=a.dtype.kind in "fc") for a in inputs]
    for t in mine:
        if t.dtype.kind in "fc":
            t.attach_grad()
    with autograd.record():
        out = ours(*mine)
    expected = theirs(*other)
    outs, wanted = (x if isinstance(x, (tuple, list)) else (x,) for x in (out, expected))
    heads, grads, theirs_heads = [], [], []
    rng = np.random.default_rng(1)
    for a, b in zip(outs, wanted, strict=True):
        assert str(b.dtype).removeprefix("torch.") == a.dtype.name
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.asnumpy(), b.detach().resolve_conj().numpy(), rtol=tolerance, atol=tolerance)
        if b.requires_grad:
            g = rng.standard_normal(a.shape).astype(a.dtype)
            if a.dtype.kind == "c":
                g = (g + 1j * rng.standard_normal(a.shape)).astype(a.dtype)
            heads.append(a)
            grads.append(np.asarray(g))
            theirs_heads.append(b)
    if not heads:
        return
    autograd.backward(heads, [Tensor(g) for g in grads])
    torch.autograd.backward(theirs_heads, [torch.tensor(g) for g in grads])
    for m, t in zip(mine, other, strict=True):
        if m.dtype.kind in "fc":
            expected_grad = np.zeros(m.shape, m.dtype) if t.grad is None else t.grad.resolve_conj().numpy()
            np.testing.assert_allclose(m.grad.asnumpy(), expected_grad, rtol=10 * tolerance, atol=10 * tolerance)
