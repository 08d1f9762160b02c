"""Linear algebra, compared with PyTorch and NumPy: values, gradients, batches, and errors that say what is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as onp
import pytest
import torch

from shoal import autograd, np
from shoal.errors import AutogradError, ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import TOLERANCE, Pair, arrays, compare, strided

L, T = np.linalg, torch.linalg
SQ, TALL, WIDE = ((2, 4, 4),), ((2, 5, 3),), ((2, 3, 5),)


def symmetric(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``f`` of a symmetric matrix with distinct positive eigenvalues."""
    return lambda x: f(x @ x.swapaxes(-1, -2) + x.swapaxes(-1, -2) + x)


def plus(shift: float, f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` of a well-conditioned matrix."""
    return lambda x, *more: f(x + shift * eye_like(x), *more)


def eye_like(x: Any) -> Any:
    n = x.shape[-1]
    return torch.eye(n, dtype=x.dtype) if isinstance(x, torch.Tensor) else np.eye(n, dtype=x.dtype)


def squares(*xs: Any) -> Any:
    """What does not depend on the signs of vectors."""
    return tuple(x * x for x in xs)


def cond1(x: Any) -> Any:
    """PyTorch's own cond(x, 1) has no gradient: it writes to what the backward pass needs."""
    return T.matrix_norm(x, 1) * T.matrix_norm(T.inv(x), 1)


PAIRS: dict[str, Pair] = {
    "inv": Pair(plus(4.0, L.inv), plus(4.0, T.inv), SQ),
    "det": Pair(L.det, T.det, SQ),
    "slogdet": Pair(lambda x: L.slogdet(x)[1], lambda x: T.slogdet(x)[1], SQ, loose=5.0),
    "solve": Pair(plus(4.0, L.solve), plus(4.0, T.solve), ((2, 4, 4), (2, 4, 3))),
    "solve of a vector": Pair(plus(4.0, L.solve), plus(4.0, T.solve), ((4, 4), (4,))),
    "solve, batches broadcast": Pair(plus(4.0, L.solve), plus(4.0, T.solve), ((4, 4), (3, 2, 4, 2))),
    "solve_triangular": Pair(
        plus(4.0, lambda a, b: L.solve_triangular(a, b, lower=True)),
        plus(4.0, lambda a, b: T.solve_triangular(a, b, upper=False)),
        ((2, 4, 4), (2, 4, 3)),
    ),
    "solve_triangular, unit": Pair(
        lambda a, b: L.solve_triangular(a, b, unit_diagonal=True),
        lambda a, b: T.solve_triangular(a, b, upper=True, unitriangular=True),
        ((2, 4, 4), (2, 4, 3)),
    ),
    "cholesky": Pair(
        lambda x: L.cholesky(x @ x.swapaxes(-1, -2) + 2.0 * eye_like(x)),
        lambda x: T.cholesky(x @ x.swapaxes(-1, -2) + 2.0 * eye_like(x)),
        SQ,
    ),
    "cholesky upper": Pair(
        lambda x: L.cholesky(x @ x.swapaxes(-1, -2) + 2.0 * eye_like(x), upper=True),
        lambda x: T.cholesky(x @ x.swapaxes(-1, -2) + 2.0 * eye_like(x), upper=True),
        ((3, 3),),
    ),
    "qr": Pair(lambda x: tuple(L.qr(x)), lambda x: tuple(T.qr(x)), TALL, loose=5.0),
    "qr of wide": Pair(lambda x: tuple(L.qr(x)), lambda x: tuple(T.qr(x)), WIDE, loose=5.0),
    "r of qr": Pair(lambda x: L.qr(x, "r"), lambda x: T.qr(x, "reduced")[1], TALL, loose=5.0),
    "q of wide qr": Pair(lambda x: L.qr(x).Q, lambda x: T.qr(x).Q, WIDE, loose=5.0),
    "eigh": Pair(
        symmetric(lambda x: (L.eigh(x).eigenvalues, *squares(L.eigh(x)[1]))),
        symmetric(lambda x: (T.eigh(x).eigenvalues, *squares(T.eigh(x)[1]))),
        SQ,
        loose=50.0,
    ),
    "eigvalsh": Pair(symmetric(L.eigvalsh), symmetric(T.eigvalsh), SQ, loose=5.0),
    "svd": Pair(
        lambda x: (lambda u, s, v: (s, *squares(u, v)))(*L.svd(x, full_matrices=False)),
        lambda x: (lambda u, s, v: (s, *squares(u, v)))(*T.svd(x, full_matrices=False)),
        TALL,
        loose=50.0,
    ),
    "svd of wide": Pair(
        lambda x: (lambda u, s, v: (s, *squares(u, v)))(*L.svd(x, full_matrices=False)),
        lambda x: (lambda u, s, v: (s, *squares(u, v)))(*T.svd(x, full_matrices=False)),
        WIDE,
        loose=50.0,
    ),
    "svdvals": Pair(L.svdvals, T.svdvals, TALL, loose=5.0),
    "pinv": Pair(L.pinv, T.pinv, TALL, loose=20.0),
    "pinv of wide": Pair(L.pinv, T.pinv, WIDE, loose=20.0),
    "lstsq": Pair(lambda a, b: L.lstsq(a, b)[0], lambda a, b: T.lstsq(a, b)[0], ((5, 3), (5, 2)), loose=20.0),
    "lstsq of a vector": Pair(
        lambda a, b: L.lstsq(a, b)[0], lambda a, b: T.lstsq(a, b[:, None])[0][:, 0], ((5, 3), (5,)), loose=20.0
    ),
    "cond": Pair(plus(4.0, L.cond), plus(4.0, T.cond), SQ, loose=5.0),
    "cond 1": Pair(
        plus(4.0, lambda x: L.cond(x, 1)),
        plus(4.0, cond1),
        SQ,
        loose=5.0,
    ),
    "matrix_power": Pair(lambda x: L.matrix_power(x, 5), lambda x: T.matrix_power(x, 5), SQ, -1.0, 1.0, 5.0),
    "matrix_power -2": Pair(
        plus(4.0, lambda x: L.matrix_power(x, -2)), plus(4.0, lambda x: T.matrix_power(x, -2)), SQ, loose=5.0
    ),
    "multi_dot": Pair(
        lambda *x: L.multi_dot(x), lambda *x: T.multi_dot(x), ((10, 3), (3, 20), (20, 2), (2, 6)), loose=5.0
    ),
    "multi_dot of vectors": Pair(lambda *x: L.multi_dot(x), lambda *x: T.multi_dot(x), ((3,), (3, 4), (4,))),
    "matrix_exp": Pair(L.matrix_exp, T.matrix_exp, SQ, loose=20.0),
    "matrix_exp of large": Pair(L.matrix_exp, T.matrix_exp, SQ, -6.0, 1.0, loose=500.0),
    "trace": Pair(L.trace, lambda x: x.diagonal(0, -2, -1).sum(-1), SQ),
    "diagonal": Pair(L.diagonal, T.diagonal, SQ),
    "kron": Pair(np.kron, torch.kron, ((2, 3), (4, 1, 2))),
    "cross": Pair(L.cross, T.cross, ((4, 3), (4, 3))),
    "cross of axis 0": Pair(lambda x, y: np.cross(x, y, axis=0), lambda x, y: T.cross(x, y, dim=0), ((3, 4), (3, 1))),
    "vecdot": Pair(L.vecdot, T.vecdot, ((2, 4), (4,))),
    "vander": Pair(lambda x: np.vander(x, 4, increasing=True), lambda x: T.vander(x, N=4), ((3,),), 0.5),
    "tensorinv": Pair(
        lambda x: L.tensorinv(x + eye4(x)),
        lambda x: T.tensorinv(x + eye4(x)),
        ((2, 3, 3, 2),),
        loose=50.0,
    ),
    "tensorsolve": Pair(
        lambda a, b: L.tensorsolve(a + eye4(a), b),
        lambda a, b: T.tensorsolve(a + eye4(a), b),
        ((2, 3, 3, 2), (2, 3)),
        loose=50.0,
    ),
    "norm": Pair(L.norm, lambda x: T.norm(x), SQ),
    **{
        f"vector_norm {p}": Pair(
            lambda x, p=p: L.vector_norm(x, axis=1, ord=p), lambda x, p=p: T.vector_norm(x, p, 1), ((3, 5),), loose=5.0
        )
        for p in (1, 2, 3, 0.5, -1, float("inf"), float("-inf"))
    },
    **{
        f"matrix_norm {p}": Pair(
            lambda x, p=p: L.norm(x, p, (0, 2), True), lambda x, p=p: T.matrix_norm(x, p, (0, 2), True), ((3, 2, 4),)
        )
        for p in ("fro", "nuc", 1, -1, 2, -2, float("inf"), float("-inf"))
    },
}


def eye4(x: Any) -> Any:
    four = 5.0 * onp.eye(6).reshape(2, 3, 3, 2)
    return torch.tensor(four, dtype=x.dtype) if isinstance(x, torch.Tensor) else Tensor(four.astype(x.dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair = PAIRS[name]
    inputs = arrays(name, pair, dtype)
    compare(pair.ours, pair.theirs, inputs, pair.loose * TOLERANCE[dtype])
    compare(pair.ours, pair.theirs, [strided(x) for x in inputs], pair.loose * TOLERANCE[dtype])


EMPTY = ("inv", "det", "solve", "cholesky", "qr", "eigvalsh", "svdvals", "trace", "matrix_power", "norm", "kron")


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_gives_an_empty_batch(name: str) -> None:
    pair = PAIRS[name]
    compare(pair.ours, pair.theirs, [onp.zeros((0, *s[1:]), "float32") for s in pair.shapes], 1e-6)


@pytest.mark.parametrize("ord", [0, 1, 3.5, float("inf"), float("-inf"), None])
def test_norms_of_all_elements_are_those_of_numpy(ord: float | None) -> None:
    x = onp.random.default_rng(3).standard_normal(7)
    onp.testing.assert_allclose(L.norm(Tensor(x), ord).asnumpy(), onp.linalg.norm(x, ord))
    for keep in (False, True):
        found = L.norm(Tensor(x.reshape(1, 7)), ord, axis=1, keepdims=keep).asnumpy()
        onp.testing.assert_allclose(found, onp.linalg.norm(x.reshape(1, 7), ord, axis=1, keepdims=keep))


def test_a_half_precision_norm_does_not_overflow() -> None:
    assert L.norm(Tensor(onp.full(4, 300.0, "float16"))).item() == 600.0


def test_the_gradient_of_a_determinant_is_right_at_singular_matrices() -> None:
    x = onp.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    t = Tensor(x)
    t.attach_grad()
    with autograd.record():
        out = L.det(t)
    out.backward()
    cofactors = [
        [(-1) ** (i + j) * onp.linalg.det(onp.delete(onp.delete(x, i, 0), j, 1)) for j in range(3)] for i in range(3)
    ]
    onp.testing.assert_allclose(t.grad.asnumpy(), cofactors, atol=1e-12)


def test_where_eigenvalues_coincide_a_function_of_the_matrix_has_the_right_gradient() -> None:
    x = onp.diag([2.0, 2.0, 2.0, 5.0])
    t = Tensor(x)
    t.attach_grad()
    with autograd.record():
        w, v = L.eigh(t)
        again = (v * np.sqrt(w)) @ v.T  # the square root of the matrix
        total = (again * again).sum()  # whose sum of squares is the trace
    total.backward()
    onp.testing.assert_allclose(onp.diag(t.grad.asnumpy()), onp.ones(4), atol=1e-9)


def test_singular_values_that_coincide_or_vanish_have_gradients() -> None:
    for x in (onp.eye(3), onp.zeros((3, 2)), onp.diag([1.0, 1.0, 0.0])):
        t = Tensor(x)
        t.attach_grad()
        with autograd.record():
            out = L.svdvals(t).sum() + (L.svd(t, full_matrices=False)[0] ** 2).sum()
        out.backward()
        assert onp.isfinite(t.grad.asnumpy()).all()


def test_least_squares_tells_rank_residuals_and_singular_values() -> None:
    rng = onp.random.default_rng(4)
    a, b = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    for ours, theirs in zip(L.lstsq(Tensor(a), Tensor(b)), onp.linalg.lstsq(a, b), strict=True):
        onp.testing.assert_allclose(ours.asnumpy(), theirs, rtol=1e-10)
    a[:, 2] = a[:, 0] + a[:, 1]
    x, left, rank, _ = L.lstsq(Tensor(a), Tensor(b), 1e-10)
    onp.testing.assert_allclose(x.asnumpy(), onp.linalg.lstsq(a, b, 1e-10)[0], atol=1e-10)
    assert left.shape == (0,) and rank.item() == 2


def test_ranks_are_those_of_numpy() -> None:
    rng = onp.random.default_rng(5)
    x = onp.stack([rng.standard_normal((4, 3)), onp.ones((4, 3)), onp.zeros((4, 3))])
    assert L.matrix_rank(Tensor(x)).tolist() == onp.linalg.matrix_rank(x).tolist() == [3, 1, 0]
    assert L.matrix_rank(Tensor(x), onp.array([1e9, 1e-3, 1.0])).tolist() == [0, 1, 0]
    assert L.matrix_rank(Tensor(onp.ones(4))).item() == 1


def test_general_eigenvalues_are_those_of_pytorch() -> None:
    x = onp.random.default_rng(6).standard_normal((5, 5))
    t, other = Tensor(x), torch.tensor(x, requires_grad=True)
    t.attach_grad()
    with autograd.record():
        w = L.eigvals(t)
        total = np.real(w * w * w).sum()
    total.backward()
    theirs = T.eigvals(other)
    (theirs**3).real.sum().backward()
    onp.testing.assert_allclose(onp.sort_complex(w.asnumpy()), onp.sort_complex(theirs.detach().numpy()))
    onp.testing.assert_allclose(t.grad.asnumpy(), other.grad.numpy(), rtol=1e-9, atol=1e-9)
    w, v = L.eig(Tensor(x))
    onp.testing.assert_allclose(x @ v.asnumpy(), w.asnumpy() * v.asnumpy(), atol=1e-12)


def test_a_chain_of_matrices_is_multiplied_in_the_cheapest_order() -> None:
    from shoal.ops.numpylike.linear import _splits

    assert _splits([10, 1000, 5, 600])[0, 2] == 1  # (a @ b) @ c
    assert _splits([30, 35, 15, 5, 10, 20, 25])[0, 5] == 2  # Cormen et al., figure 15.5


def test_a_singular_matrix_is_named() -> None:
    x = onp.stack([onp.eye(3), onp.ones((3, 3))])
    with pytest.raises(L.LinAlgError, match=r"inv: matrix \(1,\) of an array of shape \(2, 3, 3\) is singular.*pinv"):
        L.inv(Tensor(x))
    with pytest.raises(L.LinAlgError, match=r"solve: the matrix of shape \(3, 3\) is singular.*lstsq"):
        L.solve(Tensor(x[1]), Tensor(onp.ones(3)))
    with pytest.raises(L.LinAlgError, match=r"cholesky: .*positive"):
        L.cholesky(Tensor(-onp.eye(3)))
    with pytest.raises(L.LinAlgError, match=r"svd: .*\(3, 3\) has elements that are not finite"):
        L.svd(Tensor(onp.full((3, 3), onp.nan)))


def test_what_does_not_fit_is_said() -> None:
    x = Tensor(onp.ones((3, 4)))
    with pytest.raises(ShapeError, match=r"inv: needs square.*\(3, 4\)"):
        L.inv(x)
    with pytest.raises(DTypeError, match=r"inv: float16.*float32"):
        L.inv(Tensor(onp.eye(3, dtype="float16")))
    with pytest.raises(ShapeError, match=r"solve: a has shape \(3, 3\).*\(4, 1\)"):
        L.solve(Tensor(onp.eye(3)), Tensor(onp.ones((4, 1))))
    with pytest.raises(ShapeError, match=r"matrix_power: .*\(3, 4\)"):
        L.matrix_power(x, 2)
    with pytest.raises(ShapeError, match=r"multi_dot: .*\(3, 4\).*\(3, 4\)"):
        L.multi_dot([x, x])
    with pytest.raises(ShapeError, match=r"cross: .*\(3, 4\)"):
        np.cross(x, x)
    with pytest.raises(ShapeError, match=r"vecdot: .*\(3, 4\).*\(3,\)"):
        np.vecdot(x, Tensor(onp.ones(3)))
    with pytest.raises(ShapeError, match=r"lstsq: .*\(3, 4\).*\(4, 1\)"):
        L.lstsq(x, Tensor(onp.ones(4)))
    with pytest.raises(ConfigError, match="matrix_norm: ord 5"):
        L.norm(x, 5)
    with pytest.raises(ConfigError, match="UPLO"):
        L.eigh(Tensor(onp.eye(3)), "X")
    with pytest.raises(ConfigError, match="mode"):
        L.qr(x, "full")


def test_vectors_that_are_not_determined_have_no_gradient() -> None:
    x = Tensor(onp.random.default_rng(0).standard_normal((4, 2)))
    x.attach_grad()
    for f in (lambda t: L.svd(t).U, lambda t: L.qr(t, "complete").Q):
        with autograd.record():
            out = f(x).sum()
        with pytest.raises(AutogradError, match=r"full_matrices=False|mode='reduced'"):
            out.backward()
    with autograd.record():
        s = L.svd(x).S.sum()
    s.backward()
    assert onp.isfinite(x.grad.asnumpy()).all()
