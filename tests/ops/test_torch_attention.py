"""Attention and transformers against PyTorch."""

import math
from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, nn, npx, random
from shoal.errors import ConfigError, ShapeError
from shoal.ops import attention as module
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays

SHAPES = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)]
attend, theirs = npx.scaled_dot_product_attention, F.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("words", [{}, {"is_causal": True}, {"scale": 0.3}, {"is_causal": True, "scale": 1.5}], ids=str)
def test_attention(words: dict[str, Any], dtype: str) -> None:
    agree(lambda q, k, v: attend(q, k, v, **words), lambda q, k, v: theirs(q, k, v, **words), *arrays(SHAPES, dtype))


@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 5, 7), (1, 3, 1, 7), (2, 3, 5, 7)])
def test_a_mask_of_numbers_has_a_gradient(shape: tuple[int, ...]) -> None:
    agree(lambda q, k, v, m: attend(q, k, v, m), lambda q, k, v, m: theirs(q, k, v, m), *arrays([*SHAPES, shape]))


@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 1, 7)])
def test_a_mask_of_booleans(shape: tuple[int, ...]) -> None:
    mask = onp.random.default_rng(0).random(shape) < 0.7
    agree(
        lambda q, k, v: attend(q, k, v, Tensor(mask)),
        lambda q, k, v: theirs(q, k, v, torch.tensor(mask)),
        *arrays(SHAPES),
    )


def test_a_query_that_sees_no_key_gets_zeros_and_gives_no_gradient() -> None:
    mask = onp.ones((5, 7), bool)
    mask[2] = False
    agree(
        lambda q, k, v: attend(q, k, v, Tensor(mask)),
        lambda q, k, v: theirs(q, k, v, torch.tensor(mask)),
        *arrays(SHAPES),
    )


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_heads_may_share_keys_and_values(heads: int) -> None:
    mask = onp.random.default_rng(0).random((2, 1, 5, 7)) < 0.7
    agree(
        lambda q, k, v: attend(q, k, v, Tensor(mask), enable_gqa=True),
        lambda q, k, v: theirs(q, k, v, torch.tensor(mask), enable_gqa=True),
        *arrays([(2, 6, 5, 4), (2, heads, 7, 4), (2, heads, 7, 3)]),
    )


def test_a_mask_for_each_head_of_a_group() -> None:
    agree(
        lambda q, k, v, m: attend(q, k, v, m, enable_gqa=True),
        lambda q, k, v, m: theirs(q, k, v, m, enable_gqa=True),
        *arrays([(2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3), (6, 5, 7)]),
    )


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_queries_change_nothing(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, m = (Tensor(a) for a in arrays([*SHAPES, (5, 7)]))
    whole = module.attention(q, k, v, m, causal=causal)
    monkeypatch.setattr(module, "BLOCK", 2 * 3 * 7 * 2)
    for a, b in zip(whole, module.attention(q, k, v, m, causal=causal), strict=True):
        onp.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-13)


def test_a_large_score_does_not_overflow() -> None:
    q, k, v = arrays(SHAPES, "float32")
    agree(lambda q, k, v: attend(q, k, v), lambda q, k, v: theirs(q, k, v), q * 300, k * 300, v, tolerance=1e-3)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_batch_and_no_heads(shape: tuple[int, int]) -> None:
    agree(
        lambda q, k, v: attend(q, k, v),
        lambda q, k, v: theirs(q, k, v),
        *arrays([(*shape, 5, 4), (*shape, 7, 4), (*shape, 7, 6)]),
    )


def test_dropout_scales_what_it_keeps_and_happens_while_training_only() -> None:
    random.seed(0)
    q, k = (Tensor(a) for a in arrays([(2, 2, 50, 4), (2, 2, 60, 4)]))
    v = Tensor(onp.broadcast_to(onp.eye(60), (2, 2, 60, 60)).copy())
    weights = attend(q, k, v, is_causal=True).asnumpy()
    assert onp.allclose(attend(q, k, v, dropout_p=0.5, is_causal=True).asnumpy(), weights)
    with autograd.train_mode():
        dropped = attend(q, k, v, dropout_p=0.5, is_causal=True).asnumpy()
    kept = dropped != 0
    onp.testing.assert_allclose(dropped[kept], 2 * weights[kept], rtol=1e-6)
    assert 0.4 < kept.sum() / (weights != 0).sum() < 0.6


def test_the_second_derivative_is_that_of_pytorch() -> None:
    given = arrays(SHAPES)
    ours, peers = [Tensor(a) for a in given], [torch.tensor(a, requires_grad=True) for a in given]
    for t in ours:
        t.attach_grad()
    with autograd.record():
        grads = autograd.grad((attend(*ours, is_causal=True) ** 2).sum(), ours, create_graph=True)
        total: Any = sum(((g * g).sum() for g in grads), start=0.0)
    total.backward()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        t_grads = torch.autograd.grad((theirs(*peers, is_causal=True) ** 2).sum(), peers, create_graph=True)
        sum((g * g).sum() for g in t_grads).backward()  # type: ignore[union-attr]  # a sum of tensors is one
    for a, b in zip(ours, peers, strict=True):
        assert a.grad is not None and b.grad is not None
        onp.testing.assert_allclose(a.grad.asnumpy(), b.grad.numpy(), rtol=1e-8, atol=1e-8)


# -- positions


def test_rotating_makes_products_depend_on_the_distance_only() -> None:
    (q, k) = arrays([(8,), (8,)])
    both = [npx.rotary_embedding(Tensor(onp.tile(a, (20, 1)))).asnumpy() for a in (q, k)]
    products = both[0] @ both[1].T
    for distance in range(-5, 6):
        assert onp.ptp(onp.diagonal(products, distance)) < 1e-9


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotating_is_multiplying_by_a_complex_number(interleaved: bool) -> None:
    (x,) = arrays([(2, 3, 6, 8)])
    pairs = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :4], x[..., 4:])
    turn = onp.exp(1j * onp.arange(6)[:, None] * 10000.0 ** (-onp.arange(0, 8, 2) / 8))
    z = (pairs[0] + 1j * pairs[1]) * turn
    expected = (
        onp.stack([z.real, z.imag], -1).reshape(x.shape) if interleaved else onp.concatenate([z.real, z.imag], -1)
    )
    onp.testing.assert_allclose(
        npx.rotary_embedding(Tensor(x), interleaved=interleaved).asnumpy(), expected, atol=1e-12
    )


def test_positions_may_be_given_for_each_sample() -> None:
    (x,) = arrays([(2, 3, 4, 8)])
    tables = npx.rotary_tables(10, 8, dtype="float64")
    found = npx.rotary_embedding(Tensor(x), Tensor(onp.array([[0, 1, 2, 3], [5, 6, 7, 8]])), tables=tables).asnumpy()
    longer = onp.zeros((1, 3, 9, 8))
    longer[:, :, 5:] = x[1:]
    onp.testing.assert_allclose(found[:1], npx.rotary_embedding(Tensor(x[:1])).asnumpy())
    onp.testing.assert_allclose(found[1:], npx.rotary_embedding(Tensor(longer)).asnumpy()[:, :, 5:])


def test_only_the_first_features_may_be_turned() -> None:
    (x,) = arrays([(2, 4, 8)], "float32")
    found = nn.RotaryEmbedding(4, 16)
    found.initialize()
    y = found(Tensor(x)).asnumpy()
    assert onp.array_equal(y[..., 4:], x[..., 4:])
    onp.testing.assert_allclose(y[..., :4], npx.rotary_embedding(Tensor(x[..., :4].copy())).asnumpy(), rtol=1e-5)


def test_sinusoidal_positions_are_those_of_the_paper() -> None:
    table = npx.sinusoidal_positions(7, 6, dtype="float64")
    for at, i in [(0, 0), (3, 1), (6, 2)]:
        angle = at / 10000 ** (2 * i / 6)
        assert math.isclose(table[at, 2 * i], math.sin(angle)) and math.isclose(table[at, 2 * i + 1], math.cos(angle))
    layer = nn.SinusoidalPositionalEmbedding(6, 10, batch_first=True)
    layer.initialize()
    onp.testing.assert_allclose(layer(Tensor(onp.zeros((2, 7, 6), "float32"))).asnumpy()[1], table, atol=1e-6)
    time_first = nn.SinusoidalPositionalEmbedding(6, 10)
    time_first.initialize()
    onp.testing.assert_allclose(time_first(Tensor(onp.zeros((7, 2, 6), "float32"))).asnumpy()[:, 1], table, atol=1e-6)


X = Tensor(onp.zeros((2, 3, 5, 4)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: attend(X, X[..., :3], X), ShapeError, r"\(2, 3, 5, 3\)"),
        (lambda: attend(X, X, X[:, :, :4]), ShapeError, r"\(2, 3, 4, 4\)"),
        (lambda: attend(X, X, X, Tensor(onp.zeros((5, 6)))), ShapeError, r"mask has shape \(5, 6\)"),
        (lambda: attend(X, X[:, :2], X[:, :2], enable_gqa=True), ShapeError, "3 heads"),
        (lambda: npx.causal_mask(Tensor(onp.zeros(3))), ShapeError, r"\(3,\)"),
        (lambda: npx.rotary_embedding(X[..., :3]), ShapeError, "in pairs"),
        (lambda: npx.rotary_embedding(X, Tensor(onp.arange(5))), ConfigError, "tables"),
        (lambda: npx.rotary_embedding(X, tables=npx.rotary_tables(5, 6)), ShapeError, "need 2"),
        (lambda: npx.sinusoidal_positions(3, 5), ConfigError, "width=5"),
        (lambda: nn.MultiHeadAttention(10, 3), ConfigError, "num_heads=3"),
        (lambda: nn.MultiHeadAttention(12, 4, num_kv_heads=3), ConfigError, "num_kv_heads=3"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
