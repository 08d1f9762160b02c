"""What follows from `cases.CASES`, for every operator."""

from typing import Any

import numpy as np
import pytest

import shoal.np
import shoal.npx
from shoal.ops import autograd
from shoal.ops.registry import OPS, rules_for, spec_of
from shoal.ops.tensor import Tensor
from tests.ops.cases import CASES, FLAT, NO_GRADIENT, Case

assert shoal.np and shoal.npx  # imported for the operators that they register

ALL = [pytest.param(name, c, id=f"{name}-{i}") for name, cases in CASES.items() for i, c in enumerate(cases)]
SMOOTH = [p for p in ALL if p.values[0] not in NO_GRADIENT | FLAT]
STEP = 1e-6


def call(name: str, inputs: list[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    """The outputs, always a tuple."""
    out = OPS[name](*inputs, **attrs)
    return out if isinstance(out, tuple) else (out,)


def made(name: str, c: Case, dtype: Any = np.float64, shapes: Any = ()) -> list[Any]:
    return c.make(name, dtype, shapes)


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "fc"


SYMMETRIC = ("cholesky", "eigh", "eigvalsh")
"""Operators of symmetric matrices: defined, or differentiable, on these only."""


def normal(rng: Any, like: Any) -> Any:
    """Random numbers of a shape, complex if ``like`` is."""
    drawn = rng.standard_normal(like.shape)
    return drawn + 1j * rng.standard_normal(like.shape) if like.dtype.kind == "c" else drawn


def real(x: Any) -> Any:
    """The sum of the real parts."""
    return (OPS["real"](x) if x.dtype.kind == "c" else x).sum()


def along(g: Any, d: Any) -> float:
    """How much a step d changes a function with the gradient g."""
    return float((np.conj(g.asnumpy()) * d).real.sum())


def variables(c: Case, inputs: list[Any]) -> list[int]:
    """Positions of the inputs that have a gradient."""
    tied = c.tied(inputs, c.attrs) if c.tied is not None else {}
    return [i for i, x in enumerate(inputs) if is_float(x) and i not in tied]


class Problem:
    """A scalar function of some arrays: a random projection of an operator's outputs; and directions in which to go."""

    def __init__(self, name: str, c: Case) -> None:
        self.name, self.case, self.attrs, self.inputs = name, c, c.attrs, made(name, c)
        self.wrt = variables(c, self.inputs)
        rng = np.random.default_rng(7)
        self.weights = [normal(rng, o) if o.dtype.kind in "fc" else None for o in call(name, self.inputs, c.attrs)]
        self.direction = [normal(rng, self.inputs[i]) for i in self.wrt]
        self.other = [normal(rng, self.inputs[i]) for i in self.wrt]
        if name in SYMMETRIC:
            self.direction = [d + d.conj().swapaxes(-1, -2) for d in self.direction]
            self.other = [d + d.conj().swapaxes(-1, -2) for d in self.other]

    def at(self, step: float) -> list[Any]:
        """The inputs after a step in the direction."""
        moved = list(self.inputs)
        for i, d in zip(self.wrt, self.direction, strict=True):
            moved[i] = np.asarray(moved[i] + step * d)
        return self.case.follow(moved)

    def value(self, step: float) -> float:
        out = call(self.name, self.at(step), self.attrs)
        return float(sum((o * w).real.sum() for o, w in zip(out, self.weights, strict=True) if w is not None))

    def gradients(self, step: float, create: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """(variables, gradients)."""
        inputs = self.at(step)
        tensors = [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
        wanted = [tensors[i] for i in self.wrt]
        for v in wanted:
            v.attach_grad()
        with autograd.record():
            out = call(self.name, tensors, self.attrs)
            total = sum((real(o * w) for o, w in zip(out, self.weights, strict=True) if w is not None), start=0.0)
            return wanted, autograd.grad(total, wanted, create_graph=create)


def close(found: float, expected: float, tolerance: float = 2e-6) -> bool:
    return abs(found - expected) <= tolerance * max(1.0, abs(expected))


def test_every_operator_has_a_case() -> None:
    assert set(OPS) == set(CASES)


def test_every_operator_has_a_docstring_and_a_gradient_unless_it_is_listed() -> None:
    assert [name for name, op in OPS.items() if not op.__doc__] == []
    assert {name for name, op in OPS.items() if op.rule is None} == set(NO_GRADIENT)


@pytest.mark.parametrize(("name", "c"), SMOOTH)
def test_the_gradient_is_the_slope_in_a_random_direction(name: str, c: Case) -> None:
    problem = Problem(name, c)
    _, grads = problem.gradients(0.0)
    slope = (problem.value(STEP) - problem.value(-STEP)) / (2 * STEP)
    assert close(sum(along(g, d) for g, d in zip(grads, problem.direction, strict=True)), slope)


@pytest.mark.parametrize(("name", "c"), SMOOTH)
def test_the_gradient_of_the_gradient_is_its_slope(name: str, c: Case) -> None:
    problem = Problem(name, c)

    def projected(step: float) -> float:
        return sum(along(g, d) for g, d in zip(problem.gradients(step)[1], problem.other, strict=True))

    with autograd.record():
        wanted, grads = problem.gradients(0.0, create=True)
        total: Any = sum((real(g * np.conj(d)) for g, d in zip(grads, problem.other, strict=True)), start=0.0)
    second = [0.0] * len(wanted)
    if isinstance(total, Tensor) and total.node is not None:
        second = [along(g, d) for g, d in zip(autograd.grad(total, wanted), problem.direction, strict=True)]
    slope = (projected(STEP) - projected(-STEP)) / (2 * STEP)
    assert close(sum(second), slope, 5e-6)


@pytest.mark.parametrize("name", sorted(FLAT))
def test_a_flat_function_has_the_gradient_zero(name: str) -> None:
    inputs = [Tensor(x) for x in made(name, CASES[name][0])]
    for x in inputs:
        x.attach_grad()
        assert x.grad is not None
        x.grad.data[...] = 7.0
    with autograd.record():
        OPS[name](*inputs, **CASES[name][0].attrs).backward()
    assert all(x.grad is not None and not x.grad.asnumpy().any() for x in inputs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize(("name", "c"), ALL)
def test_the_inferred_shape_and_dtype_are_the_actual_ones(name: str, c: Case, dtype: Any) -> None:
    if dtype == np.float16 and not c.half:
        return
    inputs = made(name, c, dtype)
    inferred = OPS[name].infer(*map(spec_of, inputs), **c.attrs)
    inferred = (inferred,) if hasattr(inferred, "dtype") else inferred
    assert [tuple(s) for s in inferred] == [(o.shape, o.dtype) for o in call(name, inputs, c.attrs)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=str)
@pytest.mark.parametrize(("name", "c"), SMOOTH)
def test_a_gradient_has_the_dtype_of_its_variable(name: str, c: Case, dtype: Any) -> None:
    if dtype == np.float16 and not c.half:
        return
    inputs = [Tensor(x) if isinstance(x, np.ndarray) else x for x in made(name, c, dtype)]
    wanted = [inputs[i] for i in variables(c, made(name, c, dtype))]
    for v in wanted:
        v.attach_grad()
    with autograd.record():
        out = call(name, inputs, c.attrs)
    node = out[0].node
    given = [x.data if isinstance(x, Tensor) else x for x in inputs]
    g = tuple(np.ones_like(o.data) for o in out) if isinstance(node.out, tuple) else np.ones_like(out[0].data)
    needed = [any(x is v for v in wanted) for x in inputs]
    for x, c_ in zip(
        given, OPS[name].cotangents(rules_for(out[0].backend), g, node.out, given, node.attrs, needed), strict=True
    ):
        assert c_ is None or (c_.shape, c_.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(("name", "c"), ALL)
def test_memory_order_and_strides_do_not_matter(name: str, c: Case) -> None:
    inputs = made(name, c)

    def strided(x: Any) -> Any:
        if not is_float(x) or not x.ndim:
            return x
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype).swapaxes(0, -1).copy().swapaxes(0, -1)
        wide[..., ::2] = x
        return wide[..., ::2]

    for a, b in zip(call(name, inputs, c.attrs), call(name, [strided(x) for x in inputs], c.attrs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "c"), [p for p in ALL if p.values[1].empty])
def test_an_array_without_elements_is_taken_and_has_a_gradient_without_elements(name: str, c: Case) -> None:
    if "shape" in c.attrs and name == "reshape":
        c = c._replace(attrs={"shape": (4, 0)})
    inputs = made(name, c, np.float32, c.empty)
    tensors = [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
    for t in tensors:
        if isinstance(t, Tensor) and t.dtype.kind == "f":
            t.attach_grad()
    with autograd.record():
        out = call(name, tensors, c.attrs)
    inferred = OPS[name].infer(*map(spec_of, inputs), **c.attrs)
    inferred = (inferred,) if hasattr(inferred, "dtype") else inferred
    assert [tuple(s) for s in inferred] == [(o.shape, o.dtype) for o in out]
    if name not in NO_GRADIENT:
        autograd.backward(list(out))
        assert all(t.grad is None or t.grad.shape == t.shape for t in tensors if isinstance(t, Tensor))


@pytest.mark.parametrize(("name", "c"), ALL)
def test_inputs_are_never_written_to(name: str, c: Case) -> None:
    inputs = made(name, c)
    before = [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]
    for x in inputs:
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
    tensors = [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
    for i in variables(c, inputs):
        tensors[i].attach_grad()
    with autograd.record():
        out = [o for o in call(name, tensors, c.attrs) if o.node is not None]
    for o in out:
        o.data.flags.writeable = False
    if out and out[0].dtype.kind in "fc":
        autograd.backward(out[:1])
    assert all(np.array_equal(a, b) for a, b in zip(before, inputs, strict=True) if isinstance(a, np.ndarray))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "c"), ALL)
def test_a_gpu_gives_what_numpy_gives(name: str, c: Case) -> None:
    cupy = pytest.importorskip("cupy")
    inputs = made(name, c)
    on_gpu = [cupy.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
    for a, b in zip(call(name, inputs, c.attrs), call(name, on_gpu, c.attrs), strict=True):
        np.testing.assert_allclose(b.get(), a, rtol=1e-10, atol=1e-10)
