"""Normalization, dropout and embeddings against PyTorch."""

from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, nn, npx, random
from shoal.errors import ConfigError, DTypeError, GraphError, ShapeError
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays, run


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("axes", [(-1,), (-2, -1), (1, 2, 3)])
def test_layer_and_rms_norm_over_several_axes(axes: tuple[int, ...], dtype: str) -> None:
    x, *_ = given = arrays([(4, 3, 5, 6), (4, 3, 5, 6)[axes[0] % 4 :], (4, 3, 5, 6)[axes[0] % 4 :]], dtype)
    shape = tuple(x.shape[a] for a in axes)
    agree(lambda x, g, b: npx.layer_norm(x, g, b, axes), lambda x, g, b: F.layer_norm(x, shape, g, b), *given)
    agree(lambda x, g: npx.rms_norm(x, g, axes, eps=1e-6), lambda x, g: F.rms_norm(x, shape, g, eps=1e-6), *given[:2])
    agree(lambda x: npx.layer_norm(x, axis=axes), lambda x: F.layer_norm(x, shape), x)


def test_layer_norm_over_an_axis_in_the_middle() -> None:
    agree(
        lambda x, g, b: npx.layer_norm(x, g, b, axis=(1, 2)),
        lambda x, g, b: F.layer_norm(x.movedim(-1, 1), (3, 5), g, b).movedim(1, -1),
        *arrays([(4, 3, 5, 6), (3, 5), (3, 5)]),
    )


def test_large_halves_do_not_overflow() -> None:
    x = onp.full((2, 8), 300.0, "float16")
    x[:, ::2] = -300.0
    assert onp.allclose(npx.rms_norm(Tensor(x)).asnumpy(), onp.sign(x))
    assert onp.isfinite(npx.l2_normalization(Tensor(x)).asnumpy()).all()
    assert npx.rms_norm(Tensor(x)).dtype == "float16"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (3, 6, 7), (2, 6)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups: int, shape: tuple[int, ...], dtype: str) -> None:
    if groups == 6 and len(shape) == 2:
        return  # one element has no variance, and PyTorch refuses it
    agree(
        lambda x, g, b: npx.group_norm(x, g, b, groups),
        lambda x, g, b: F.group_norm(x, groups, g, b),
        *arrays([shape, (6,), (6,)], dtype),
    )


def test_instance_norm() -> None:
    agree(
        lambda x, g, b: npx.instance_norm(x, g, b),
        lambda x, g, b: F.instance_norm(x, weight=g, bias=b),
        *arrays([(2, 3, 5, 4), (3,), (3,)]),
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_local_response_norm(size: int, dtype: str) -> None:
    agree(
        lambda x: npx.local_response_norm(x, size, 0.3, 0.7, 1.5),
        lambda x: F.local_response_norm(x, size, 0.3, 0.7, 1.5),
        *arrays([(2, 6, 4, 5)], dtype),
    )


def test_local_response_norm_as_a_layer() -> None:
    (x,) = arrays([(2, 6, 4, 5)], "float32")
    expected = torch.nn.LocalResponseNorm(3)(torch.tensor(x)).numpy()
    onp.testing.assert_allclose(nn.LocalResponseNorm(3)(Tensor(x)).asnumpy(), expected, rtol=1e-6)


def test_layer_norm_as_a_layer_over_two_axes() -> None:
    layer, theirs = nn.LayerNorm(axis=(-2, -1)), torch.nn.LayerNorm((4, 5))
    layer.initialize()
    (x,) = arrays([(2, 6, 4, 5)], "float32")
    onp.testing.assert_allclose(layer(Tensor(x)).asnumpy(), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5)
    assert layer.gamma.shape == (4, 5)


# -- dropout


def test_dropout_of_channels_drops_them_as_a_whole() -> None:
    random.seed(3)
    with autograd.train_mode():
        y = nn.Dropout2D(0.5)(Tensor(onp.ones((20, 30, 4, 4)))).asnumpy()
    flat = y.reshape(600, 16)
    assert set(onp.unique(flat)) == {0.0, 2.0} and (flat == flat[:, :1]).all()
    assert 0.4 < (flat[:, 0] == 0).mean() < 0.6


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    random.seed(3)
    x = onp.random.default_rng(0).standard_normal((1000, 200))
    with autograd.train_mode():
        y = npx.alpha_dropout(Tensor(x), 0.3).asnumpy()
    assert abs(y.mean()) < 0.01 and abs(y.var() - 1.0) < 0.01
    assert 0.28 < (y == _dropped(y)).mean() < 0.32


def _dropped(y: Any) -> Any:
    """The value that stands for what was dropped: the only one that occurs often."""
    values, counts = onp.unique(y, return_counts=True)
    return values[counts.argmax()]


def test_alpha_dropout_is_pytorchs_for_the_same_mask() -> None:
    random.seed(3)
    x = onp.random.default_rng(0).standard_normal(1000)
    with autograd.train_mode():
        y = npx.alpha_dropout(Tensor(x), 0.25).asnumpy()
    kept, alpha = y != _dropped(y), 1.7580993408473766
    a = 1.0 / onp.sqrt((alpha**2 * 0.25 + 1) * 0.75)
    onp.testing.assert_allclose(y, onp.where(kept, x, -alpha) * a + alpha * a * 0.25, atol=1e-9)


def test_feature_alpha_dropout_drops_whole_channels() -> None:
    random.seed(3)
    with autograd.train_mode():
        y = nn.FeatureAlphaDropout(0.5)(Tensor(onp.ones((10, 30, 5)))).asnumpy()
    assert (y == y[:, :, :1]).all() and len(onp.unique(y)) == 2


@pytest.mark.parametrize("fn", [npx.dropout, npx.alpha_dropout, npx.feature_dropout, npx.feature_alpha_dropout])
def test_dropout_does_nothing_in_prediction_and_everything_for_one(fn: Any) -> None:
    x = Tensor(onp.ones((2, 3, 4)))
    assert fn(x, 0.5) is x and fn(x, 0.0, mode="always") is x
    assert not fn(x, 1.0, mode="always").asnumpy().any()
    with pytest.raises(ConfigError, match="p=2"):
        fn(x, 2.0)


def test_a_graph_drops_anew_at_each_run() -> None:
    x = Tensor(onp.ones((50, 50)))
    compiled = Compiled(lambda t: npx.alpha_dropout(t, 0.5), "dropping")
    with autograd.train_mode():
        assert not onp.array_equal(compiled(x).asnumpy(), compiled(x).asnumpy())


# -- embeddings

IDS = onp.array([[0, 2, 2], [4, 1, 0]])


@pytest.mark.parametrize("padding", [None, 0, 2, -1])
def test_embedding(padding: int | None) -> None:
    agree(
        lambda w: npx.embedding(Tensor(IDS), w, padding_idx=padding),
        lambda w: F.embedding(torch.tensor(IDS), w, padding_idx=padding),
        *arrays([(5, 4)]),
    )


def test_embedding_shortens_rows_that_are_too_long() -> None:
    (w,) = arrays([(5, 4)], "float32")
    layer = nn.Embedding(5, 4, max_norm=1.5)
    layer.initialize()
    layer.weight.set_data(Tensor(w.copy()))
    theirs = torch.tensor(w.copy())
    expected = F.embedding(torch.tensor(IDS), theirs, max_norm=1.5).numpy()
    onp.testing.assert_allclose(layer(Tensor(IDS)).asnumpy(), expected, rtol=1e-5)
    onp.testing.assert_allclose(layer.weight.data().asnumpy(), theirs.numpy(), rtol=1e-5)
    layer.hybridize()
    with pytest.raises(GraphError, match="max_norm"):
        layer(Tensor(IDS))


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_equal_size(mode: str, padding: int | None) -> None:
    agree(
        lambda w: npx.embedding_bag(Tensor(IDS), w, mode=mode, padding_idx=padding),
        lambda w: F.embedding_bag(torch.tensor(IDS), w, mode=mode, padding_idx=padding),
        *arrays([(5, 4)]),
    )


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_by_offsets(mode: str, last: bool, padding: int | None) -> None:
    ids, offsets = IDS.reshape(-1), onp.array([0, 2, 2, 3, 6][: 5 if last else 4])
    words: dict[str, Any] = {"mode": mode, "include_last_offset": last, "padding_idx": padding}
    agree(
        lambda w: npx.embedding_bag(Tensor(ids), w, Tensor(offsets), **words),
        lambda w: F.embedding_bag(torch.tensor(ids), w, torch.tensor(offsets), **words),
        *arrays([(5, 4)]),
    )


def test_bags_with_weights() -> None:
    agree(
        lambda w, s: npx.embedding_bag(Tensor(IDS), w, mode="sum", per_sample_weights=s),
        lambda w, s: F.embedding_bag(torch.tensor(IDS), w, mode="sum", per_sample_weights=s),
        *arrays([(5, 4), (2, 3)]),
    )


def test_bags_as_a_layer() -> None:
    layer = nn.EmbeddingBag(5, 4, "sum")
    layer.initialize()
    w = layer.weight.data().asnumpy()
    for _ in range(2):
        onp.testing.assert_allclose(layer(Tensor(IDS)).asnumpy(), w[IDS].sum(1), rtol=1e-6)
        layer.hybridize()


def test_an_integer_offset_graph_counts_for_other_offsets_too() -> None:
    ids, (w,) = Tensor(IDS.reshape(-1)), arrays([(5, 4)])
    compiled = Compiled(lambda o: npx.embedding_bag(ids, Tensor(w), o, mode="sum"), "bags")
    for offsets in ([0, 2, 3], [0, 1, 5]):
        o = onp.array(offsets)
        expected = F.embedding_bag(torch.tensor(IDS.reshape(-1)), torch.tensor(w), torch.tensor(o), mode="sum")
        onp.testing.assert_allclose(compiled(Tensor(o)).asnumpy(), expected.numpy())


TABLE = Tensor(onp.zeros((5, 4)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: npx.embedding(Tensor(IDS), TABLE, padding_idx=5), ConfigError, "padding_idx=5"),
        (lambda: npx.embedding_bag(Tensor(IDS), TABLE, mode="min"), ConfigError, "'max'"),
        (lambda: npx.embedding_bag(Tensor(IDS), TABLE, per_sample_weights=TABLE), ConfigError, "'sum' only"),
        (lambda: npx.embedding_bag(TABLE, TABLE), DTypeError, "integers"),
        (lambda: npx.embedding_bag(Tensor(IDS), TABLE, Tensor(onp.array([0]))), ShapeError, r"\(2, 3\)"),
        (lambda: npx.local_response_norm(TABLE, 0), ConfigError, "nsize=0"),
        (lambda: nn.EmbeddingBag(5, 4, "min"), ConfigError, "'min'"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_gradient_of_a_norm_of_halves_is_that_of_floats() -> None:
    (x,) = arrays([(4, 1000)], "float16")
    _, (half,) = run(lambda t: npx.layer_norm(t), [x])
    _, (full,) = run(lambda t: npx.layer_norm(t), [x.astype("float64")])
    onp.testing.assert_allclose(half, full, atol=2e-3)
