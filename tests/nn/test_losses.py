"""Losses against PyTorch and against Gluon's definitions: one number per sample."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as tf

from shoal import nn
from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import autograd
from shoal.ops.tensor import Tensor, array

RNG = np.random.default_rng(1)
PRED = RNG.standard_normal((5, 4)).astype("float32")
LABEL = RNG.standard_normal((5, 4)).astype("float32")
CLASSES = RNG.integers(0, 4, 5)
PROBABLE = RNG.dirichlet(np.ones(4), 5).astype("float32")
BINARY = (RNG.random((5, 4)) < 0.5).astype("float32")


def check(loss: nn.HybridBlock, pred: Any, label: Any, expected: Any) -> None:
    """Values and the gradient of the predictions, imperatively and as a graph; ``expected`` maps a torch tensor."""
    tp = torch.from_numpy(pred.copy()).requires_grad_()
    out = expected(tp)
    out.sum().backward()
    for hybrid in (False, True):
        loss.hybridize(hybrid)
        for _ in range(2):
            mine = Tensor(pred.copy())
            mine.attach_grad()
            with autograd.record():
                losses = loss(mine, Tensor(label))
            losses.backward()
            assert losses.shape == (pred.shape[0],)
            np.testing.assert_allclose(losses.asnumpy(), out.detach().numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(mine.grad.asnumpy(), tp.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_l2_is_half_the_mean_square() -> None:
    check(nn.L2Loss(), PRED, LABEL, lambda p: 0.5 * tf.mse_loss(p, torch.from_numpy(LABEL), reduction="none").mean(1))


def test_l1_is_the_mean_distance() -> None:
    check(nn.L1Loss(), PRED, LABEL, lambda p: tf.l1_loss(p, torch.from_numpy(LABEL), reduction="none").mean(1))


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.0])
def test_huber(rho: float) -> None:
    label = torch.from_numpy(LABEL)
    check(nn.HuberLoss(rho), PRED, LABEL, lambda p: tf.huber_loss(p, label, reduction="none", delta=rho).mean(1) / rho)


def test_sigmoid_cross_entropy_of_scores() -> None:
    label = torch.from_numpy(BINARY)
    check(
        nn.SigmoidBinaryCrossEntropyLoss(),
        PRED * 10,
        BINARY,
        lambda p: tf.binary_cross_entropy_with_logits(p, label, reduction="none").mean(1),
    )


def test_sigmoid_cross_entropy_of_probabilities() -> None:
    label, probabilities = torch.from_numpy(BINARY), 1 / (1 + np.exp(-PRED))
    check(
        nn.SigmoidBCELoss(from_sigmoid=True),
        probabilities,
        BINARY,
        lambda p: tf.binary_cross_entropy(p, label, reduction="none").mean(1),
    )


@pytest.mark.parametrize("from_sigmoid", [False, True])
def test_sigmoid_cross_entropy_with_weights_of_positive_labels(from_sigmoid: bool) -> None:
    factor = np.array([1.0, 2.0, 0.5, 3.0], dtype="float32")
    pred = 1 / (1 + np.exp(-PRED)) if from_sigmoid else PRED
    expected = tf.binary_cross_entropy_with_logits(
        torch.from_numpy(PRED), torch.from_numpy(BINARY), reduction="none", pos_weight=torch.from_numpy(factor)
    ).mean(1)
    loss = nn.SigmoidBCELoss(from_sigmoid=from_sigmoid)
    found = loss(Tensor(pred), Tensor(BINARY), None, Tensor(factor))
    np.testing.assert_allclose(found.asnumpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_sigmoid_cross_entropy_does_not_overflow() -> None:
    found = nn.SigmoidBCELoss()(array([[1000.0], [-1000.0]]), array([[1.0], [1.0]]))
    assert found.tolist() == [0.0, 1000.0]


def test_softmax_cross_entropy_of_class_numbers() -> None:
    label = torch.from_numpy(CLASSES)
    check(nn.SoftmaxCrossEntropyLoss(), PRED, CLASSES, lambda p: tf.cross_entropy(p, label, reduction="none"))


def test_softmax_cross_entropy_of_probabilities() -> None:
    label = torch.from_numpy(PROBABLE)
    loss = nn.SoftmaxCELoss(sparse_label=False)
    check(loss, PRED, PROBABLE, lambda p: tf.cross_entropy(p, label, reduction="none"))


@pytest.mark.parametrize("sparse", [True, False])
def test_softmax_cross_entropy_of_logarithms(sparse: bool) -> None:
    logs = tf.log_softmax(torch.from_numpy(PRED), 1).numpy()
    label = CLASSES if sparse else np.eye(4, dtype="float32")[CLASSES]
    loss = nn.SoftmaxCELoss(from_logits=True, sparse_label=sparse)
    check(loss, logs, label, lambda p: tf.nll_loss(p, torch.from_numpy(CLASSES), reduction="none"))


def test_softmax_cross_entropy_along_another_axis_is_averaged_over_positions() -> None:
    pred, label = RNG.standard_normal((3, 4, 2, 5)).astype("float32"), RNG.integers(0, 4, (3, 2, 5))
    other = torch.from_numpy(label)
    check(
        nn.SoftmaxCELoss(axis=1), pred, label, lambda p: tf.cross_entropy(p, other, reduction="none").mean(dim=(1, 2))
    )


def test_class_numbers_may_be_floats_and_have_the_axis_of_classes() -> None:
    loss = nn.SoftmaxCELoss()
    plain = loss(Tensor(PRED), Tensor(CLASSES)).tolist()
    assert loss(Tensor(PRED), Tensor(CLASSES.astype("float32"))).tolist() == plain
    assert loss(Tensor(PRED), Tensor(CLASSES[:, None])).tolist() == plain


def test_kl_divergence() -> None:
    label = torch.from_numpy(PROBABLE)
    logs = tf.log_softmax(torch.from_numpy(PRED), 1).numpy()
    check(nn.KLDivLoss(), logs, PROBABLE, lambda p: tf.kl_div(p, label, reduction="none").mean(1))
    check(
        nn.KLDivLoss(from_logits=False),
        PRED,
        PROBABLE,
        lambda p: tf.kl_div(tf.log_softmax(p, 1), label, reduction="none").mean(1),
    )


def test_weights_multiply() -> None:
    plain = nn.L1Loss()(Tensor(PRED), Tensor(LABEL)).asnumpy()
    np.testing.assert_allclose(nn.L1Loss(weight=2.0)(Tensor(PRED), Tensor(LABEL)).asnumpy(), 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(
        nn.L2Loss(weight=2.0)(Tensor(PRED), Tensor(LABEL)).asnumpy(), ((PRED - LABEL) ** 2).mean(1), rtol=1e-6
    )
    factors = np.array([[0.0], [1.0], [2.0], [0.5], [1.0]], dtype="float32")
    found = nn.L1Loss()(Tensor(PRED), Tensor(LABEL), Tensor(factors)).asnumpy()
    np.testing.assert_allclose(found, plain * factors[:, 0], rtol=1e-6)


def test_sample_weights_of_softmax_cross_entropy_have_one_column() -> None:
    plain = nn.SoftmaxCELoss()(Tensor(PRED), Tensor(CLASSES)).asnumpy()
    factors = np.array([[0.0], [1.0], [2.0], [0.5], [1.0]], dtype="float32")
    found = nn.SoftmaxCELoss()(Tensor(PRED), Tensor(CLASSES), Tensor(factors)).asnumpy()
    np.testing.assert_allclose(found, plain * factors[:, 0], rtol=1e-6)


def test_another_batch_axis() -> None:
    found = nn.L2Loss(batch_axis=1)(Tensor(PRED), Tensor(LABEL)).asnumpy()
    np.testing.assert_allclose(found, 0.5 * ((PRED - LABEL) ** 2).mean(0), rtol=1e-6)


def test_labels_of_a_column_meet_predictions_of_a_vector() -> None:
    found = nn.L2Loss()(Tensor(PRED[:, :1]), Tensor(LABEL[:, 0])).asnumpy()
    np.testing.assert_allclose(found, 0.5 * (PRED[:, 0] - LABEL[:, 0]) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "pred", "label", "error", "message"),
    [
        (
            nn.L2Loss(),
            (5, 4),
            (5, 3),
            ShapeError,
            r"L2Loss: labels of shape \(5, 3\) for predictions of shape \(5, 4\)",
        ),
        (nn.L1Loss(), (4, 1), (1, 5), ShapeError, "L1Loss"),
        (
            nn.SoftmaxCELoss(),
            (5, 4),
            (4,),
            ShapeError,
            r"labels of shape \(4,\).*\(5, 4\).*expected \(5,\).*sparse_label",
        ),
        (nn.SoftmaxCELoss(), (5, 4), (5, 4), ShapeError, "sparse_label=False"),
        (nn.SoftmaxCELoss(sparse_label=False), (5, 4), (5,), ShapeError, r"\(5,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    loss: nn.Block, pred: tuple[int, ...], label: tuple[int, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(Tensor(np.zeros(pred, dtype="float32")), Tensor(np.zeros(label, dtype="float32")))


def test_booleans_are_no_class_numbers() -> None:
    with pytest.raises(DTypeError, match="class numbers, got bool"):
        nn.SoftmaxCELoss()(Tensor(PRED), Tensor(CLASSES > 1))


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(IndexError, match="4 classes"):
        nn.SoftmaxCELoss()(Tensor(PRED), Tensor(CLASSES + 4))


def test_a_label_between_two_classes_is_refused() -> None:
    with pytest.raises(IndexError, match=r"a label is \d\.5, expected whole class numbers"):
        nn.SoftmaxCELoss()(Tensor(PRED), Tensor(CLASSES + 0.5))


def test_huber_needs_a_positive_knee() -> None:
    with pytest.raises(ConfigError, match="rho > 0"):
        nn.HuberLoss(0.0)
