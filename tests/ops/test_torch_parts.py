"""Operators on the parts of floats, and on bits, against PyTorch: values and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as onp
import pytest
import torch

from shoal import autograd, np
from shoal.ops.tensor import Tensor

SHAPES = [((3, 4), (3, 4)), ((2, 1, 5), (3, 1)), ((), (4,)), ((0, 3), (1, 3)), ((257, 33), (33,))]
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "copysign": (np.copysign, torch.copysign),
    "fmod": (np.fmod, torch.fmod),
    "fmax": (np.fmax, torch.fmax),
    "fmin": (np.fmin, torch.fmin),
    "logaddexp2": (np.logaddexp2, torch.logaddexp2),
    "ldexp": (lambda x, y: np.ldexp(x, np.array(onp.array(3))), lambda x, y: torch.ldexp(x, torch.tensor(3))),
    "frexp": (lambda x, y: np.frexp(x)[0] * y, lambda x, y: (x / 2.0 ** torch.frexp(x)[1].to(x.dtype)) * y),
    "modf": (lambda x, y: np.modf(x)[0] * y, lambda x, y: torch.frac(x) * y),
    "degrees": (lambda x, y: np.rad2deg(x) + np.deg2rad(y), lambda x, y: torch.rad2deg(x) + torch.deg2rad(y)),
    "positive": (lambda x, y: np.positive(x) * y, lambda x, y: torch.positive(x) * y),
    "clip by arrays": (lambda x, y: np.clip(x, y, y + 1.0), lambda x, y: torch.clamp(x, y, y + 1.0)),
}


def made(shape: tuple[int, ...], seed: int, dtype: str, order: str) -> Any:
    x = onp.random.default_rng(seed).uniform(0.3, 2.7, shape) * onp.random.default_rng(seed + 9).choice([-1, 1], shape)
    x = x.astype(dtype)
    return onp.repeat(x, 2, axis=-1)[..., ::2] if order == "strided" and x.ndim else x


@pytest.mark.parametrize("order", ["dense", "strided"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, shapes: Any, dtype: str, order: str) -> None:
    ours, theirs = PAIRS[name]
    a, b = made(shapes[0], 1, dtype, order), made(shapes[1], 2, dtype, order)
    if name == "fmod":
        b = onp.abs(b)
    x, y = Tensor(a.copy()), Tensor(b.copy())
    tx, ty = (torch.tensor(v.astype("float32") if dtype == "float16" else v, requires_grad=True) for v in (a, b))
    for v in (x, y):
        v.attach_grad()
    with autograd.record():
        out = ours(x, y)
    out.backward()
    expected = theirs(tx, ty)
    expected.backward(torch.ones_like(expected))
    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-2}[dtype]
    assert out.dtype == dtype
    pairs = [(out, expected.detach()), (x.grad, tx.grad), (y.grad, ty.grad)]
    for found, wanted in pairs:
        if wanted is not None and found is not None:
            scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 1.0)
            onp.testing.assert_allclose(found.asnumpy(), wanted.numpy(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.left_shift, torch.bitwise_left_shift),
        (np.right_shift, torch.bitwise_right_shift),
        (np.gcd, torch.gcd),
        (np.lcm, torch.lcm),
        (np.bitwise_and, torch.bitwise_and),
        (np.bitwise_or, torch.bitwise_or),
        (np.bitwise_xor, torch.bitwise_xor),
        (np.floor_divide, lambda a, b: torch.div(a, b, rounding_mode="floor")),
        (np.remainder, torch.remainder),
    ],
)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_integers_are_those_of_pytorch(ours: Any, theirs: Any, dtype: str) -> None:
    rng = onp.random.default_rng(4)
    a, b = rng.integers(1, 100, (5, 3)).astype(dtype), rng.integers(1, 5, (3,)).astype(dtype)
    found = ours(Tensor(a), Tensor(b))
    assert found.dtype == dtype
    onp.testing.assert_array_equal(found.asnumpy(), theirs(torch.tensor(a), torch.tensor(b)).numpy())
