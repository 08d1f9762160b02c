"""Attention layers and transformers: those of PyTorch, with the same parameters."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as tn

from shoal import autograd, nn
from shoal.errors import ShapeError
from shoal.ops.tensor import Tensor


def given(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def give(ours: nn.Block, theirs: tn.Module) -> None:
    """PyTorch's parameters to ours; the packed projections one by one."""
    ours.initialize()
    params = ours.collect_params()
    values: dict[str, Any] = {}
    for name, value in theirs.state_dict().items():
        array = value.numpy()
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            kind = name.rpartition("_")[2]
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                values[name.replace(f"in_proj_{kind}", f"{part}_proj.{kind}")] = piece
        elif "_proj_weight" in name and "out_proj" not in name:
            short = {"q": "query", "k": "key", "v": "value"}[name.split("_proj")[0][-1]]
            values[f"{short}_proj.weight"] = array
        else:
            norm = "norm" in name
            values[name.replace("weight", "gamma").replace("bias", "beta") if norm else name] = array
    assert set(values) == set(params)
    for name, array in values.items():
        params[name].set_data(Tensor(array.copy()))


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.asnumpy(), expected.detach().numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention(bias: bool, batch_first: bool) -> None:
    ours = nn.MultiHeadAttention(12, 3, bias=bias, batch_first=batch_first)
    theirs = tn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first)
    give(ours, theirs)
    x, y = given(5, 4, 12), given(5, 7, 12) if batch_first else given(7, 4, 12)
    for _ in range(2):
        found, weights = ours(Tensor(x), Tensor(y), need_weights=True)
        expected, t_weights = theirs(torch.tensor(x), torch.tensor(y), torch.tensor(y))
        close(found, expected)
        close(weights, t_weights)
        close(ours(Tensor(x), Tensor(y)), expected)
        ours.hybridize()


def test_keys_and_values_may_have_other_widths() -> None:
    ours, theirs = nn.MultiHeadAttention(12, 3, kdim=5, vdim=6), tn.MultiheadAttention(12, 3, kdim=5, vdim=6)
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
    give(ours, theirs)
    q, k, v = given(5, 2, 12), given(7, 2, 5), given(7, 2, 6)
    close(ours(Tensor(q), Tensor(k), Tensor(v)), theirs(*map(torch.tensor, (q, k, v)))[0])


@pytest.mark.parametrize("need_weights", [False, True])
def test_masks_are_true_where_nothing_is_seen(need_weights: bool) -> None:
    ours, theirs = nn.MultiHeadAttention(12, 3, batch_first=True), tn.MultiheadAttention(12, 3, batch_first=True)
    give(ours, theirs)
    x, rng = given(4, 6, 12), np.random.default_rng(0)
    padding = np.arange(6) >= np.array([6, 4, 5, 3])[:, None]
    single, each = rng.random((6, 6)) < 0.3, rng.random((12, 6, 6)) < 0.3
    single[:, 0], each[:, :, 0] = False, False
    for mask in (single, each):
        found = ours(Tensor(x), key_padding_mask=Tensor(padding), attn_mask=Tensor(mask), need_weights=need_weights)
        expected, weights = theirs(
            *[torch.tensor(x)] * 3,
            key_padding_mask=torch.tensor(padding),
            attn_mask=torch.tensor(mask),
            average_attn_weights=True,
        )
        close(found[0] if need_weights else found, expected)
        if need_weights:
            close(found[1], weights)


def test_a_causal_layer_needs_no_mask_and_gives_the_weights_of_each_head() -> None:
    ours, theirs = nn.MultiHeadAttention(12, 3), tn.MultiheadAttention(12, 3)
    give(ours, theirs)
    x = given(6, 4, 12)
    future = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    expected, weights = theirs(*[torch.tensor(x)] * 3, attn_mask=future, average_attn_weights=False)
    close(ours(Tensor(x), is_causal=True), expected)
    found, ours_weights = ours(Tensor(x), is_causal=True, need_weights=True, average_attn_weights=False)
    close(found, expected)
    close(ours_weights, weights)


def test_heads_may_share_keys_and_be_rotated() -> None:
    layer = nn.MultiHeadAttention(16, 4, num_kv_heads=2, batch_first=True, rotary=nn.RotaryEmbedding(4, 32))
    layer.initialize()
    x = Tensor(given(2, 6, 16))
    eager, (same, weights) = layer(x).asnumpy(), layer(x, need_weights=True)
    np.testing.assert_allclose(eager, same.asnumpy(), rtol=1e-4, atol=1e-6)
    assert weights.shape == (2, 6, 6) and layer.key_proj.weight.shape == (8, 16)
    layer.hybridize()
    np.testing.assert_allclose(layer(x).asnumpy(), eager, rtol=1e-5, atol=1e-6)


def test_a_wrong_padding_mask_is_said() -> None:
    layer = nn.MultiHeadAttention(12, 3)
    layer.initialize()
    with pytest.raises(ShapeError, match=r"\(6, 4\).*\(4, 6\)"):
        layer(Tensor(given(6, 4, 12)), key_padding_mask=Tensor(np.zeros((6, 4), bool)))
    with pytest.raises(ShapeError, match="3 axes"):
        layer(Tensor(given(4, 12)))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_and_its_gradients(activation: str, norm_first: bool) -> None:
    words: dict[str, Any] = {"dropout": 0.0, "norm_first": norm_first, "batch_first": True}
    ours = nn.TransformerEncoderLayer(12, 3, 20, activation=activation, **words)
    theirs = tn.TransformerEncoderLayer(12, 3, 20, activation=activation, **words)
    give(ours, theirs)
    x = given(4, 6, 12)
    for _ in range(2):
        with autograd.record():
            y = ours(Tensor(x), is_causal=True)
            (y * y).sum().backward()
        mask = tn.Transformer.generate_square_subsequent_mask(6)
        t = theirs(torch.tensor(x), mask, is_causal=True)
        theirs.zero_grad()
        (t * t).sum().backward()
        close(y, t)
        close(ours.linear1.weight.grad(), theirs.linear1.weight.grad)
        close(ours.self_attn.query_proj.weight.grad(), theirs.self_attn.in_proj_weight.grad[:12])
        ours.hybridize()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_whole_transformer(norm_first: bool) -> None:
    words: dict[str, Any] = {"dropout": 0.0, "norm_first": norm_first}
    ours = nn.Transformer(12, 3, 2, 2, 20, **words)
    theirs = tn.Transformer(12, 3, 2, 2, 20, **words)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    give(ours, theirs)
    src, tgt = given(6, 4, 12), given(5, 4, 12)
    padding = np.arange(6) >= np.array([6, 4, 5, 3])[:, None]
    mask = ours.generate_square_subsequent_mask(5)
    for _ in range(2):
        found = ours(
            Tensor(src),
            Tensor(tgt),
            tgt_mask=mask,
            src_key_padding_mask=Tensor(padding),
            memory_key_padding_mask=Tensor(padding),
        )
        expected = theirs(
            torch.tensor(src),
            torch.tensor(tgt),
            tgt_mask=theirs.generate_square_subsequent_mask(5),
            src_key_padding_mask=torch.tensor(padding).float().masked_fill(torch.tensor(padding), -torch.inf),
            memory_key_padding_mask=torch.tensor(padding).float().masked_fill(torch.tensor(padding), -torch.inf),
        )
        close(found, expected)
        ours.hybridize()


def test_layers_of_a_stack_are_copies_with_parameters_of_their_own() -> None:
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3)
    stack.initialize()
    weights = [layer.linear1.weight.data().asnumpy() for layer in stack.layers]
    assert len(stack.collect_params()) == 3 * 16 and not np.array_equal(weights[0], weights[1])
