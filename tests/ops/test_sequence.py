"""Masks, last steps, reversal, padding and packing of sequences, against PyTorch or written out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import rnn as peer

from shoal import autograd, npx, rnn
from shoal.errors import ConfigError, ShapeError
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor

X = np.arange(24.0).reshape(4, 3, 2)
ENDS = np.array([4, 1, 2])
CALLS: dict[str, tuple[Any, Any]] = {
    "mask": (
        lambda x, n: npx.sequence_mask(x, n, True, value=-1.0),
        lambda x, b: [*x[: ENDS[b], b], *[[-1.0, -1.0]] * (4 - ENDS[b])],
    ),
    "last": (lambda x, n: npx.sequence_last(x, n, True), lambda x, b: x[ENDS[b] - 1, b]),
    "reverse": (
        lambda x, n: npx.sequence_reverse(x, n, True),
        lambda x, b: [*x[: ENDS[b], b][::-1], *x[ENDS[b] :, b]],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_sequence_is_treated_up_to_its_end(name: str) -> None:
    ours, written = CALLS[name]
    out = ours(Tensor(X), Tensor(ENDS)).asnumpy()
    expected = np.stack([np.array(written(X, b)) for b in range(3)], axis=0 if name == "last" else 1)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", CALLS)
def test_the_batch_may_come_first(name: str) -> None:
    fn = {"mask": npx.sequence_mask, "last": npx.sequence_last, "reverse": npx.sequence_reverse}[name]
    a = fn(Tensor(X), ENDS, True).asnumpy()
    b = fn(Tensor(X.swapaxes(0, 1).copy()), ENDS, True, axis=1).asnumpy()
    np.testing.assert_array_equal(a, b if name == "last" else b.swapaxes(0, 1))


@pytest.mark.parametrize("name", CALLS)
def test_a_graph_gives_the_same_values_and_gradients(name: str) -> None:
    fn = CALLS[name][0]
    results = []
    for run in (fn, *[Compiled(fn, name)] * 2):
        x = Tensor(X.copy())
        x.attach_grad()
        with autograd.record():
            out = run(x, Tensor(ENDS))
            (out * out).sum().backward()
        results.append((out.asnumpy(), x.grad.asnumpy()))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_without_lengths_all_sequences_are_whole() -> None:
    x = Tensor(X)
    assert npx.sequence_mask(x) is x
    assert np.array_equal(npx.sequence_last(x).asnumpy(), X[-1])
    assert np.array_equal(npx.sequence_last(x, axis=1).asnumpy(), X[:, -1])
    assert np.array_equal(npx.sequence_reverse(x).asnumpy(), X[::-1])


def test_lengths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeError, match=r"sequence_last: sequence_length has shape \(2,\), expected \(3,\)"):
        npx.sequence_last(Tensor(X), np.array([1, 2]), True)
    with pytest.raises(ShapeError, match="needs time and batch"):
        npx.sequence_reverse(Tensor(X), ENDS, True, axis=2)


SEQUENCES = [X[:3, 0], X[:1, 1], X[:4, 2]]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_that_of_pytorch(batch_first: bool, side: str) -> None:
    out = rnn.pad_sequence([Tensor(s) for s in SEQUENCES], batch_first, 7.0, side)
    expected = peer.pad_sequence([torch.tensor(s) for s in SEQUENCES], batch_first, 7.0, side)
    np.testing.assert_array_equal(out.asnumpy(), expected.numpy())
    if side == "right":
        again = rnn.unpad_sequence(out, [3, 1, 4], batch_first)
        assert all(np.array_equal(a.asnumpy(), b) for a, b in zip(again, SEQUENCES, strict=True))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[2, 4, 1], [4, 3, 3], [1, 1, 2]], ids=str)
def test_packing_and_unpacking_are_those_of_pytorch(lengths: list[int], batch_first: bool) -> None:
    x = X.swapaxes(0, 1).copy() if batch_first else X
    ours = rnn.pack_padded_sequence(Tensor(x), lengths, batch_first, enforce_sorted=False)
    theirs = peer.pack_padded_sequence(torch.tensor(x), lengths, batch_first, enforce_sorted=False)
    np.testing.assert_array_equal(ours.data.asnumpy(), theirs.data.numpy())
    np.testing.assert_array_equal(ours.batch_sizes, theirs.batch_sizes.numpy())
    for total in (None, 6):
        a, n = rnn.pad_packed_sequence(ours, batch_first, -1.0, total)
        b, m = peer.pad_packed_sequence(theirs, batch_first, -1.0, total)
        np.testing.assert_array_equal(a.asnumpy(), b.numpy())
        assert n.tolist() == m.tolist() == lengths


def test_the_gradient_of_packing_goes_to_the_steps_that_exist() -> None:
    x = Tensor(X.copy())
    x.attach_grad()
    with autograd.record():
        packed = rnn.pack_padded_sequence(x, [4, 2, 1])
        (packed.data * packed.data).sum().backward()
    expected = 2 * X * (np.arange(4)[:, None, None] < np.array([4, 2, 1])[None, :, None])
    np.testing.assert_array_equal(x.grad.asnumpy(), expected)


def test_packing_lists_equals_packing_padded_ones() -> None:
    ordered = sorted(SEQUENCES, key=len, reverse=True)
    ours = rnn.pack_sequence([Tensor(s) for s in ordered])
    np.testing.assert_array_equal(ours.data.asnumpy(), peer.pack_sequence([torch.tensor(s) for s in ordered]).data)


def test_misuse_of_packing_is_named() -> None:
    with pytest.raises(ShapeError, match="not descending"):
        rnn.pack_padded_sequence(Tensor(X), [1, 2, 3])
    with pytest.raises(ShapeError, match="from 1 to time"):
        rnn.pack_padded_sequence(Tensor(X), [5, 2, 1])
    with pytest.raises(ShapeError, match="total_length=1"):
        rnn.pad_packed_sequence(rnn.pack_padded_sequence(Tensor(X), [3, 2, 1]), total_length=1)
    with pytest.raises(ConfigError, match="0 sequences"):
        rnn.pad_sequence([])
