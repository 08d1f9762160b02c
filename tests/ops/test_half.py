"""float16 and bfloat16: every operator in two bytes is the operator in four bytes, rounded."""

from typing import Any

import numpy as np
import pytest
import torch

import shoal.np
import shoal.npx
from shoal import autograd, nn
from shoal import np as snp
from shoal.ops.graph.compiled import Compiled
from shoal.ops.precision import BFLOAT16, is_float, is_half
from shoal.ops.registry import OPS, spec_of
from shoal.ops.tensor import Tensor
from shoal.ops.tensorfile import load_tensors, save_tensors
from tests.ops.cases import CASES, Case

assert shoal.npx  # imported for the operators that it registers

ALL = [pytest.param(name, c, id=f"{name}-{i}") for name, cases in CASES.items() for i, c in enumerate(cases)]
ALL = [p for p in ALL if p.values[1].half and "dtype" not in p.values[1].attrs and p.values[0] != "argpartition"]
HALVES = [np.dtype(np.float16), BFLOAT16]
LAST_BIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def run(name: str, c: Case, inputs: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """(outputs, gradients) of an operator; a gradient has the dtype of its variable."""
    tensors = [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
    variables = [t for t in tensors if isinstance(t, Tensor) and is_float(t.dtype)]
    for v in variables:
        v.attach_grad()
    with autograd.record():
        out = OPS[name](*tensors, **c.attrs)
    out = out if isinstance(out, tuple) else (out,)
    heads = [o for o in out if o.node is not None and is_float(o.dtype)]
    if heads:
        autograd.backward(heads)
    grads = [v.grad for v in variables if v.grad is not None]
    assert [g.dtype for g in grads] == [v.dtype for v in variables]
    return list(out), grads


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("name", "c"), ALL)
def test_an_operator_in_two_bytes_is_the_one_in_four_rounded(name: str, c: Case, dtype: Any) -> None:
    narrow = c.make(name, dtype)
    out, grads = run(name, c, narrow)
    wide = [x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype == dtype else x for x in narrow]
    expected, slopes = run(name, c, wide)
    inferred = OPS[name].infer(*map(spec_of, narrow), **c.attrs)
    inferred = (inferred,) if hasattr(inferred, "dtype") else inferred
    assert [tuple(s) for s in inferred] == [(o.shape, o.dtype) for o in out]
    half = run(name, c, c.make(name, np.float16))[0]
    assert [o.dtype for o in out] == [dtype if o.dtype == np.float16 else o.dtype for o in half]
    for a, b in zip(out + grads, expected + slopes, strict=True):
        a, b = a.asnumpy().astype(np.complex128), b.asnumpy().astype(np.complex128)
        steps = 32 if name.startswith(("foreach", "while")) else 8  # a loop rounds in every round
        np.testing.assert_allclose(a, b, rtol=0, atol=steps * LAST_BIT[dtype.name] * max(1.0, abs(b).max(initial=0.0)))


NUMBERS = [2, 2.5, -1, True, 1e-3]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_python_numbers_do_not_widen_half_precision_eagerly_or_in_a_graph(dtype: Any, number: Any) -> None:
    def program(x: Any) -> Any:
        y = snp.where(x > number, x, number) + number * x - x / number + (number - x) * snp.maximum(x, number)
        return snp.clip(y + snp.tanh(x) ** 2 + snp.exp(-(x * number)), -1e4, 1e4)

    x = snp.array([0.5, 1.5, 3.0], dtype=dtype)
    t = torch.tensor([0.5, 1.5, 3.0], dtype=torch.float32, requires_grad=True)
    n = float(number)
    expected = torch.where(t > n, t, n) + n * t - t / n + (n - t) * t.clamp(min=n)
    expected = (expected + torch.tanh(t) ** 2 + torch.exp(-(t * n))).clamp(-1e4, 1e4)
    expected.sum().backward()
    for fn in (program, Compiled(program, "program")):
        x.attach_grad()
        with autograd.record():
            out = fn(x)
            out.sum().backward()
        assert x.grad is not None and t.grad is not None and out.dtype == x.grad.dtype == dtype
        for a, b in ((out, expected.detach()), (x.grad, t.grad)):
            scale = max(1.0, float(b.abs().max()))
            np.testing.assert_allclose(
                a.asnumpy().astype(float), b.numpy(), rtol=0, atol=16 * LAST_BIT[dtype.name] * scale
            )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_long_sums_are_accumulated_in_four_bytes(dtype: Any, axis: Any) -> None:
    x = snp.full((3000, 2), 0.1, dtype=dtype)
    values = x.astype("float64").asnumpy()
    for fn, tolerance in (("sum", 1), ("mean", 1), ("std", 2), ("var", 2)):
        found = np.asarray(getattr(snp, fn)(x, axis=axis).astype("float64"))
        expected = getattr(np, fn)(values, axis=axis)
        np.testing.assert_allclose(found, expected, rtol=tolerance * LAST_BIT[dtype.name], atol=1e-6)


def test_squares_of_float16_do_not_overflow_in_a_norm() -> None:
    assert snp.linalg.norm(snp.array([300.0, 400.0], dtype="float16")).item() == 500.0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_products_are_accumulated_in_four_bytes(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((8, 512)).astype(dtype), rng.standard_normal((512, 8)).astype(dtype)
    expected = (torch.tensor(a.astype(np.float32)) @ torch.tensor(b.astype(np.float32))).numpy()
    for out in (Tensor(a) @ Tensor(b), snp.einsum("ij,jk->ik", Tensor(a), Tensor(b)), snp.dot(Tensor(a), Tensor(b))):
        assert out.dtype == dtype
        np.testing.assert_allclose(out.asnumpy().astype(float), expected, rtol=LAST_BIT[dtype.name], atol=1e-3)


def test_a_layer_of_bfloat16_trains_and_is_saved_and_loaded(tmp_path: Any) -> None:
    net = nn.Dense(1, in_units=3, dtype="bfloat16")
    net.initialize()
    x, y = snp.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], dtype="bfloat16"), snp.array([[1.0], [2.0]], dtype="bfloat16")
    losses = []
    for _ in range(20):
        with autograd.record():
            loss = snp.square(net(x) - y).mean()
        loss.backward()
        for p in net.collect_params().values():
            p.set_data(p.data() - p.grad() * 0.05)
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0] and net.weight.data().dtype == BFLOAT16
    net.save_parameters(str(tmp_path / "net.params"))
    again = nn.Dense(1, in_units=3, dtype="bfloat16")
    again.load_parameters(str(tmp_path / "net.params"))
    assert again.weight.data().dtype == BFLOAT16
    np.testing.assert_array_equal(again(x).asnumpy(), net(x).asnumpy())


def test_bfloat16_is_printed_converted_and_kept_in_files(tmp_path: Any) -> None:
    x = snp.array([1.0, 2.5, -3.0], dtype="bfloat16")
    assert repr(x) == "Tensor([1, 2.5, -3], dtype=bfloat16)"
    assert (x.tolist(), x[1].item(), float(x[2])) == ([1.0, 2.5, -3.0], 2.5, -3.0)
    assert x.dtype == snp.bfloat16 and is_half(x.dtype) and x.astype("float32").dtype == np.float32
    assert snp.zeros(2, dtype=snp.bfloat16).dtype == snp.ones_like(x).dtype == (x * x).dtype == BFLOAT16
    save_tensors(tmp_path / "x.safetensors", {"x": x})
    loaded = load_tensors(tmp_path / "x.safetensors")[0]["x"]
    assert loaded.dtype == BFLOAT16 and loaded.tolist() == x.tolist()


def test_bfloat16_with_other_floats_gives_the_next_that_holds_both() -> None:
    x = snp.ones(2, dtype="bfloat16")
    assert (x + snp.ones(2)).dtype == np.float32 and (x * snp.ones(2, dtype="float64")).dtype == np.float64
    assert snp.where(x > 0, x, snp.ones(2)).dtype == np.float32
    assert (x + snp.ones(2, dtype="float16")).dtype == np.float32
