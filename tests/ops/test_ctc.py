"""CTC loss, values and gradients, against PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, nn, npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor

TOLERANCE = {"float64": 1e-10, "float32": 2e-5}
SHAPES = {  # time, batch, classes, longest label, input lengths, label lengths
    "plain": (12, 3, 5, 4, [12, 9, 10], [4, 2, 3]),
    "empty labels": (6, 3, 4, 3, [6, 6, 1], [0, 3, 0]),
    "one step": (1, 2, 3, 1, [1, 1], [1, 0]),
    "large": (60, 8, 40, 20, [60, 60, 55, 41, 50, 60, 45, 60], [20, 20, 10, 20, 1, 0, 15, 20]),
    "repetitions": (9, 2, 2, 3, [9, 9], [3, 3]),
}


def problem(name: str, dtype: str, blank: int) -> tuple[Any, Any, Any, Any]:
    time, batch, classes, longest, steps, ends = SHAPES[name]
    rng = np.random.default_rng(1)
    labels = rng.integers(1, classes, (batch, longest))
    labels = (labels + blank) % classes
    return rng.standard_normal((time, batch, classes)).astype(dtype), labels, np.array(steps), np.array(ends)


def both(x: Any, labels: Any, steps: Any, ends: Any, blank: int, **options: Any) -> Any:
    """(ours, gradient), (PyTorch's, gradient), for the sum of the losses times 1, 2, ..."""
    mine = Tensor(x.copy())
    mine.attach_grad()
    theirs = torch.tensor(x, requires_grad=True)
    weights = np.arange(1.0, x.shape[1] + 1).astype(x.dtype)
    with autograd.record():
        a = npx.ctc(npx.log_softmax(mine), labels, steps, ends, blank=blank, **options)
        (a * Tensor(weights)).sum().backward()
    b = F.ctc_loss(
        F.log_softmax(theirs, -1),
        torch.tensor(labels),
        torch.tensor(steps),
        torch.tensor(ends),
        blank,
        reduction="none",
        **options,
    )
    (b * torch.tensor(weights)).sum().backward()
    return (a.asnumpy(), mine.grad.asnumpy()), (b.detach().numpy(), theirs.grad.numpy())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("last", [False, True])
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str, last: bool) -> None:
    blank = SHAPES[name][2] - 1 if last else 0
    ours, theirs = both(*problem(name, dtype, blank), blank)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 10)


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_a_label_that_is_too_long_is_infinite_or_left_out(zero_infinity: bool) -> None:
    x, labels, steps, ends = problem("plain", "float64", 0)
    steps = np.array([12, 1, 10])
    ours, theirs = both(x, labels, steps, ends, 0, zero_infinity=zero_infinity)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_a_sequence_without_steps_has_the_loss_of_pytorch() -> None:
    x, labels, _, _ = problem("plain", "float64", 0)
    ours, theirs = both(x, labels, np.array([0, 0, 12]), np.array([0, 2, 3]), 0, zero_infinity=True)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-10)


def test_float16_is_computed_in_float32() -> None:
    x, labels, steps, ends = problem("plain", "float16", 0)
    found = npx.ctc(npx.log_softmax(Tensor(x)), labels, steps, ends)
    wide = npx.ctc(npx.log_softmax(Tensor(x.astype("f"))), labels, steps, ends)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.asnumpy(), wide.asnumpy(), rtol=2e-2)


@pytest.mark.parametrize("blank", ["first", "last"])
def test_padding_tells_the_lengths_of_labels_as_in_mxnet(blank: str) -> None:
    x, labels, _, ends = problem("plain", "float64", 0 if blank == "first" else 4)
    padded = np.where(np.arange(4)[None] < ends[:, None], labels, 0 if blank == "first" else -1)
    a = npx.ctc_loss(Tensor(x), padded, blank_label=blank)
    b = npx.ctc_loss(Tensor(x), labels, None, ends, use_label_lengths=True, blank_label=blank)
    expected = F.ctc_loss(
        F.log_softmax(torch.tensor(x), -1),
        torch.tensor(labels),
        torch.tensor([12] * 3),
        torch.tensor(ends),
        0 if blank == "first" else 4,
        reduction="none",
    )
    np.testing.assert_allclose(a.asnumpy(), expected.numpy(), rtol=1e-10)
    np.testing.assert_allclose(b.asnumpy(), expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("active", [False, True])
def test_the_loss_layer_takes_gluons_layouts(active: bool) -> None:
    x, labels, steps, ends = problem("plain", "float32", 4)
    expected = npx.ctc_loss(Tensor(x), labels, steps, ends, True, True, "last").asnumpy()
    loss = nn.CTCLoss(weight=2.0)
    loss.hybridize(active)
    found = loss(Tensor(x.swapaxes(0, 1).copy()), Tensor(labels), Tensor(steps), Tensor(ends))
    np.testing.assert_allclose(found.asnumpy(), 2.0 * expected, rtol=1e-5)
    turned = nn.CTCLoss(layout="TNC", label_layout="TN")
    turned.hybridize(active)
    found = turned(Tensor(x), Tensor(labels.T.copy()), Tensor(steps), Tensor(ends))
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5)


def test_misuse_is_named() -> None:
    x, labels, steps, ends = problem("plain", "float32", 0)
    with pytest.raises(ShapeError, match=r"ctc: labels have shape \(2, 4\), expected \(3, L\)"):
        npx.ctc(Tensor(x), labels[:2], steps, ends)
    with pytest.raises(ShapeError, match="blank=5 is not one of the 5 classes"):
        npx.ctc(Tensor(x), labels, steps, ends, blank=5)
    with pytest.raises(ConfigError, match="blank_label"):
        npx.ctc_loss(Tensor(x), labels, blank_label="middle")
    with pytest.raises(ConfigError, match="label_layout"):
        nn.CTCLoss(label_layout="NTC")
