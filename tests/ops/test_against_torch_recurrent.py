"""Recurrent operators, values and gradients, against PyTorch's layers of one direction."""

from typing import Any

import numpy as onp
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shoal import autograd, npx
from shoal.ops.tensor import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

MODES = ["rnn_tanh", "rnn_relu", "lstm", "lstm_projected", "gru"]
SIZES = [(5, 3, 4, 6), (1, 1, 1, 1), (7, 2, 33, 17), (4, 1, 3, 64)]
TOLERANCE = {"float64": 1e-10, "float32": 3e-5, "float16": 2e-2}


def peer(mode: str, features: int, hidden: int, bias: bool, dtype: str) -> Any:
    """PyTorch's layer with random weights."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"bias": bias, "dtype": getattr(torch, dtype)}
    if mode.startswith("rnn"):
        return torch.nn.RNN(features, hidden, nonlinearity=mode[4:], **options)
    if mode == "gru":
        return torch.nn.GRU(features, hidden, **options)
    return torch.nn.LSTM(features, hidden, proj_size=max(hidden // 2, 1) if mode == "lstm_projected" else 0, **options)


def ours(mode: str, x: Tensor, states: list[Tensor], weights: list[Tensor], lengths: Any, **attrs: Any) -> Any:
    """The operator: outputs, then last states."""
    if mode == "gru":
        return npx.gru_sequence(x, *states, *weights, lengths=lengths, **attrs)[:2]
    if mode.startswith("rnn"):
        return npx.rnn_sequence(x, *states, *weights, lengths=lengths, activation=mode[4:], **attrs)
    if mode == "lstm_projected":
        *weights, wr = weights
        return npx.lstm_sequence(x, *states, *weights, wr=wr, lengths=lengths, **attrs)[:3]
    return npx.lstm_sequence(x, *states, *weights, lengths=lengths, **attrs)[:3]


def compare(mode: str, size: tuple[int, ...], dtype: str, bias: bool = True, lengths: Any = None) -> None:
    time, batch, features, hidden = size
    if mode == "lstm_projected" and hidden == 1:
        hidden = 2
    layer = peer(mode, features, hidden, bias, dtype)
    rng = onp.random.default_rng(3)
    out = max(hidden // 2, 1) if mode == "lstm_projected" else hidden
    shapes = [(batch, out)] + ([(batch, hidden)] if mode.startswith("lstm") else [])
    x, *states = (rng.standard_normal(s).astype(dtype) for s in ((time, batch, features), *shapes))
    mine = [Tensor(a.copy()) for a in (x, *states, *(p.detach().numpy() for p in layer.parameters()))]
    for t in mine:
        t.attach_grad()
    count = 1 + len(states)
    with autograd.record():
        found = ours(mode, mine[0], mine[1:count], mine[count:], lengths)
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, *states)]
    first = [s[None] for s in theirs[1:]]
    packed = theirs[0] if lengths is None else pack_padded_sequence(theirs[0], torch.tensor(lengths))
    y, last = layer(packed, tuple(first) if len(first) == 2 else first[0])
    y = y if lengths is None else pad_packed_sequence(y, total_length=time)[0]
    expected = [y, *(s[0] for s in (last if isinstance(last, tuple) else (last,)))]
    heads = [onp.asarray(rng.standard_normal(o.shape)).astype(dtype) for o in found]
    autograd.backward(list(found), [Tensor(h) for h in heads])
    torch.autograd.backward(expected, [torch.tensor(h) for h in heads])
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * max(1, time * batch / 4)}
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        onp.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), **tolerance)
    for a, p in zip(mine, [*theirs, *layer.parameters()], strict=True):
        onp.testing.assert_allclose(a.grad.asnumpy(), p.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_layer_gives_the_values_and_gradients_of_pytorch(mode: str, size: tuple[int, ...], dtype: str) -> None:
    compare(mode, size, dtype)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_without_biases_is_that_of_pytorch(mode: str) -> None:
    compare(mode, SIZES[0], "float64", bias=False)


@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 2, 2], [5, 5, 5]], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_sequences_of_different_lengths_are_packed_sequences_of_pytorch(mode: str, lengths: list[int]) -> None:
    compare(mode, SIZES[0], "float64", lengths=onp.array(lengths))


@pytest.mark.parametrize("mode", MODES)
def test_what_lies_beyond_the_end_of_a_sequence_does_not_matter_even_nan(mode: str) -> None:
    rng = onp.random.default_rng(0)
    layer = peer(mode, 4, 6, True, "float32")
    weights = [Tensor(p.detach().numpy()) for p in layer.parameters()]
    states = [onp.zeros((3, 3 if mode == "lstm_projected" else 6), "f"), onp.zeros((3, 6), "f")]
    states = states if mode.startswith("lstm") else states[:1]
    clean = rng.standard_normal((5, 3, 4)).astype("f")
    dirty = clean.copy()
    dirty[2:, 1] = onp.nan
    results = []
    for x in (clean, dirty):
        for w in weights:
            w.attach_grad()
        with autograd.record():
            out = ours(mode, Tensor(x), list(map(Tensor, states)), weights, onp.array([5, 2, 4]), reverse=True)
            sum((o * o).sum() for o in out).backward()
        results.append([*(o.asnumpy() for o in out), *(w.grad.asnumpy() for w in weights)])
    for a, b in zip(*results, strict=True):
        assert onp.isfinite(a).all() and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_reversed_layer_is_the_layer_on_reversed_time(mode: str) -> None:
    rng = onp.random.default_rng(0)
    weights = [Tensor(p.detach().numpy()) for p in peer(mode, 4, 6, True, "float32").parameters()]
    states = [Tensor(onp.ones((3, 3 if mode == "lstm_projected" else 6), "f")), Tensor(onp.ones((3, 6), "f"))]
    states = states if mode.startswith("lstm") else states[:1]
    x = rng.standard_normal((5, 3, 4)).astype("f")
    y, *last = ours(mode, Tensor(x), states, weights, None, reverse=True)
    flipped, *same = ours(mode, Tensor(x[::-1].copy()), states, weights, None)
    onp.testing.assert_allclose(y.asnumpy(), flipped.asnumpy()[::-1], atol=1e-6)
    for a, b in zip(last, same, strict=True):
        onp.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=1e-6)


def test_shapes_that_do_not_fit_are_named() -> None:
    x, h, wx, wh = (Tensor(onp.zeros(s, "f")) for s in ((5, 2, 3), (2, 4), (12, 3), (12, 4)))
    with pytest.raises(Exception, match=r"gru_sequence: lengths has shape \(3,\), expected \(2,\)"):
        npx.gru_sequence(x, h, wx, wh, lengths=onp.ones(3, int))
    with pytest.raises(Exception, match=r"lstm_sequence: x of shape \(5, 2, 3\) has 3 features"):
        npx.lstm_sequence(x, h, h, Tensor(onp.zeros((16, 5), "f")), wh)
    with pytest.raises(Exception, match=r"rnn_sequence: the first state has shape \(3, 4\)"):
        npx.rnn_sequence(x, Tensor(onp.zeros((3, 4), "f")), Tensor(onp.zeros((4, 3), "f")), wh)
