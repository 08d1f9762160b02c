"""Fourier transforms and complex numbers, compared with PyTorch: values and gradients, real and complex."""

from collections.abc import Callable
from typing import Any

import numpy as onp
import pytest
import torch

import shoal
from shoal import autograd, fft, np
from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import compare, strided

F = torch.fft
REAL = {"rfft", "rfft2", "rfftn", "ihfft"}
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


def made(shape: tuple[int, ...], dtype: str, *, real: bool = False) -> Any:
    rng = onp.random.default_rng(sum(shape))
    x = rng.standard_normal(shape)
    return x.astype(dtype) if real else (x + 1j * rng.standard_normal(shape)).astype(f"complex{2 * int(dtype[5:])}")


def with_options(function: Callable[..., Any], *options: Any) -> Callable[[Any], Any]:
    return lambda t: function(t, *options)


ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize("name", ONE)
def test_transforms_along_an_axis_are_those_of_pytorch(name: str, norm: str | None, dtype: str) -> None:
    ours, theirs = getattr(fft, name), getattr(F, name)
    for shape, n, axis in (((3, 8), None, -1), ((7, 2), None, 0), ((2, 5), 7, 1), ((2, 6), 4, 1), ((2, 1, 2), 2, 1)):
        if name in ("irfft", "hfft") and n is None and shape[axis] == 1:
            continue
        x = made(shape, dtype, real=name in REAL)
        for given in (x, strided(x)):
            compare(with_options(ours, n, axis, norm), with_options(theirs, n, axis, norm), [given], TOLERANCE[dtype])


MANY = ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")


@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize("name", MANY)
def test_transforms_over_several_axes_are_those_of_pytorch(name: str, norm: str | None) -> None:
    ours, theirs = getattr(fft, name), getattr(F, name)
    x = made((3, 4, 5), "float64", real=name in REAL)
    for s, axes in ((None, (-2, -1)), ((5, 6), (0, 2)), ((2, 3), (-1, 0))):
        compare(with_options(ours, s, axes, norm), with_options(theirs, s, axes, norm), [x], 1e-11)
    if name.endswith("n"):
        compare(ours, theirs, [x], 1e-11)


@pytest.mark.parametrize("name", ["fft", "ifft", "irfft", "hfft"])
def test_real_numbers_are_taken_where_complex_ones_are(name: str) -> None:
    x = made((3, 6), "float32", real=True)
    compare(getattr(fft, name), getattr(F, name), [x], 2e-5)


def test_a_transform_of_half_precision_is_single() -> None:
    assert fft.rfft(Tensor(onp.ones(4, "float16"))).dtype == onp.complex64
    assert fft.fft(Tensor(onp.ones(4, "int64"))).dtype == onp.complex128


@pytest.mark.parametrize("shape", [(1, 1), (2, 1024), (3, 97)], ids=str)
def test_any_length_is_taken(shape: tuple[int, ...]) -> None:
    compare(fft.fft, F.fft, [made(shape, "float64")], 1e-9)
    compare(fft.rfft, F.rfft, [made(shape, "float64", real=True)], 1e-9)


def test_shifts_and_frequencies_are_those_of_numpy() -> None:
    x = made((4, 5), "float64")
    for axes in (None, 0, (0, 1)):
        for name in ("fftshift", "ifftshift"):
            found = getattr(fft, name)(Tensor(x), axes).asnumpy()
            onp.testing.assert_array_equal(found, getattr(onp.fft, name)(x, axes))
    onp.testing.assert_allclose(fft.fftfreq(5, 0.1).asnumpy(), onp.fft.fftfreq(5, 0.1).astype("float32"))
    onp.testing.assert_allclose(fft.rfftfreq(6).asnumpy(), onp.fft.rfftfreq(6).astype("float32"))


def test_a_hybridized_spectral_layer_has_the_numbers_and_gradients_of_the_imperative_one() -> None:
    class Filter(shoal.nn.HybridBlock):
        def forward(self, x: Any, w: Any) -> Any:
            return np.real(fft.ifft2(fft.fft2(x) * w)) + fft.irfft(fft.rfft(x))

    block, results = Filter(), []
    for active in (False, True, True):
        block.hybridize(active)
        x, w = Tensor(made((2, 4, 6), "float32", real=True)), Tensor(made((4, 6), "float32"))
        x.attach_grad()
        w.attach_grad()
        with autograd.record():
            out = block(x, w)
        out.backward()
        results.append((out.asnumpy(), x.grad.asnumpy(), w.grad.asnumpy()))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            onp.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


# -- complex numbers

COMPLEX: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "add": (np.add, torch.add, 2),
    "multiply": (np.multiply, torch.mul, 2),
    "divide": (np.divide, torch.div, 2),
    "power": (lambda x: x**3, lambda x: x**3, 1),
    "exp": (np.exp, torch.exp, 1),
    "log": (np.log, torch.log, 1),
    "sqrt": (np.sqrt, torch.sqrt, 1),
    "sin": (np.sin, torch.sin, 1),
    "tanh": (np.tanh, torch.tanh, 1),
    "abs": (np.abs, torch.abs, 1),
    "angle": (np.angle, torch.angle, 1),
    "real": (np.real, lambda x: torch.view_as_real(x)[..., 0], 1),
    "imag": (np.imag, lambda x: torch.view_as_real(x)[..., 1], 1),
    "conj": (np.conj, lambda x: x.conj().resolve_conj(), 1),
    "matmul": (np.matmul, torch.matmul, 2),
    "einsum": (lambda x, y: np.einsum("bij,bkj->bik", x, y), lambda x, y: torch.einsum("bij,bkj->bik", x, y), 2),
    "sum": (lambda x: np.sum(x, 1), lambda x: x.sum(1), 1),
    "mean": (np.mean, torch.mean, 1),
    "cumsum": (lambda x: np.cumsum(x, 1), lambda x: x.cumsum(1), 1),
    "prod": (lambda x: np.prod(x, 1), lambda x: x.prod(1), 1),
    "index": (lambda x: x[0, 1:, None], lambda x: x[0, 1:, None], 1),
    "transpose": (lambda x: np.transpose(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1).resolve_conj(), 1),
    "inv": (np.linalg.inv, torch.linalg.inv, 1),
    "det": (np.linalg.det, torch.linalg.det, 1),
    "solve": (np.linalg.solve, torch.linalg.solve, 2),
    "norm": (np.linalg.norm, torch.linalg.norm, 1),
    "norm 1": (lambda x: np.linalg.vector_norm(x, 1, ord=1), lambda x: torch.linalg.vector_norm(x, 1, 1), 1),
    "vecdot": (np.vecdot, torch.linalg.vecdot, 2),
    "svdvals": (np.linalg.svdvals, torch.linalg.svdvals, 1),
    "eigvals of Hermitian": (
        lambda x: np.linalg.eigvalsh(x + np.conj(x).mT),
        lambda x: torch.linalg.eigvalsh(x + x.mH),
        1,
    ),
    "complex and real": (lambda x, y: x * np.real(y) + np.imag(x), lambda x, y: x * y.real + x.imag, 2),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", COMPLEX)
def test_gradients_of_complex_numbers_are_those_of_pytorch(name: str, dtype: str) -> None:
    ours, theirs, inputs = COMPLEX[name]
    given = [made((2, 3, 3), dtype) + i for i in range(inputs)]
    given = [g.astype(f"complex{2 * int(dtype[5:])}") for g in given]
    compare(ours, theirs, given, 5 * TOLERANCE[dtype])


def test_a_step_against_the_gradient_goes_downhill_in_both_parts() -> None:
    z, target = Tensor(onp.array([2.0 - 3.0j])), onp.array([-1.0 + 1.0j])
    for _ in range(60):
        z.attach_grad()
        with autograd.record():
            loss = np.abs(z - target) ** 2
        loss.backward()
        z = Tensor(z.asnumpy() - 0.1 * z.grad.asnumpy())
    onp.testing.assert_allclose(z.asnumpy(), target, atol=1e-4)


def test_gradients_that_are_asked_for_are_those_that_are_delivered() -> None:
    z = Tensor(made((3,), "float64"))
    z.attach_grad()
    with autograd.record():
        out = np.real(z * z * z).sum()
        (asked,) = autograd.grad(out, [z], retain_graph=True)
    out.backward()
    onp.testing.assert_array_equal(asked.asnumpy(), z.grad.asnumpy())
    onp.testing.assert_allclose(asked.asnumpy(), onp.conj(3 * z.asnumpy() ** 2))


def test_what_does_not_fit_is_said() -> None:
    x = Tensor(onp.ones((3, 4)))
    with pytest.raises(ConfigError, match=r"norm must be.*'half'"):
        fft.fft(x, norm="half")
    with pytest.raises(DTypeError, match=r"rfft.*complex128; use fft"):
        fft.rfft(Tensor(onp.ones(3, complex)))
    with pytest.raises(ShapeError, match=r"fft: there is no axis 2 in shape \(3, 4\)"):
        fft.fft(x, axis=2)
    with pytest.raises(ShapeError, match=r"fftn: s=\(2, 3\) has 2 lengths for 1 axes"):
        fft.fftn(x, (2, 3), (0,))
    with pytest.raises(ShapeError, match=r"irfftn: .*\(3, 1\)"):
        fft.irfft(Tensor(onp.ones((3, 1))))
    with pytest.raises(ShapeError, match=r"no elements"):
        fft.fft(Tensor(onp.ones((3, 0))))
