"""Losses of margins, counts and pairs, against PyTorch and against Gluon's definitions: one number per sample."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as tf

from shoal import nn
from shoal.errors import ConfigError, ShapeError
from shoal.ops import autograd
from shoal.ops.tensor import Tensor

RNG = np.random.default_rng(2)
A, B, C = RNG.standard_normal((3, 5, 4)).astype("float32")
SIGNED = np.where(RNG.random((5, 4)) < 0.5, -1.0, 1.0).astype("float32")
COUNTS = RNG.poisson(2.0, (5, 4)).astype("float32")
POSITIVE = RNG.uniform(0.2, 3.0, (5, 4)).astype("float32")
CLASSES = np.array([3, 0, 2, 2, 1])
PAIR = np.array([1.0, -1.0, -1.0, 1.0, -1.0], np.float32)
LOGP = torch.log_softmax(torch.from_numpy(A), 1).numpy()


def t(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x))


def squares(a: Any, b: Any) -> Any:
    return ((a - b) ** 2).sum(1)


Check = tuple[nn.HybridBlock, tuple[Any, ...], Callable[..., Any]]
"""A loss, its inputs, of which the first is differentiated, and what it should be of torch tensors: one per sample."""

CHECKS: dict[str, Check] = {
    "hinge": (nn.HingeLoss(), (A, SIGNED), lambda p, y: torch.relu(1 - p * y).mean(1)),
    "hinge, margin": (nn.HingeLoss(0.3, weight=2.0), (A, SIGNED), lambda p, y: 2 * torch.relu(0.3 - p * y).mean(1)),
    "squared hinge": (nn.SquaredHingeLoss(), (A, SIGNED), lambda p, y: (torch.relu(1 - p * y) ** 2).mean(1)),
    "logistic": (
        nn.LogisticLoss(),
        (A, SIGNED),
        lambda p, y: tf.soft_margin_loss(p, y, reduction="none").mean(1),
    ),
    "logistic, binary": (
        nn.LogisticLoss(label_format="binary"),
        (A, (SIGNED + 1) / 2),
        lambda p, y: tf.binary_cross_entropy_with_logits(p, y, reduction="none").mean(1),
    ),
    "triplet": (nn.TripletLoss(0.5), (A, B, C), lambda a, b, c: torch.relu(0.5 + squares(a, b) - squares(a, c))),
    "poisson": (nn.PoissonNLLLoss(), (A, COUNTS), lambda p, y: tf.poisson_nll_loss(p, y, reduction="none").mean(1)),
    "poisson, full": (
        nn.PoissonNLLLoss(compute_full=True),
        (A, COUNTS),
        lambda p, y: tf.poisson_nll_loss(p, y, full=True, reduction="none").mean(1),
    ),
    "poisson of means": (
        nn.PoissonNLLLoss(from_logits=False),
        (POSITIVE, COUNTS),
        lambda p, y: tf.poisson_nll_loss(p, y, log_input=False, reduction="none").mean(1),
    ),
    "gaussian": (
        nn.GaussianNLLLoss(),
        (A, B, POSITIVE),
        lambda p, y, v: tf.gaussian_nll_loss(p, y, v, reduction="none").mean(1),
    ),
    "gaussian, full": (
        nn.GaussianNLLLoss(full=True, eps=1.0),
        (A, B, POSITIVE),
        lambda p, y, v: tf.gaussian_nll_loss(p, y, v, full=True, eps=1.0, reduction="none").mean(1),
    ),
    "gaussian, of the variance": (
        nn.HybridLambda(lambda v, p, y: nn.GaussianNLLLoss(eps=1.0)(p, y, v)),
        (POSITIVE, A, B),
        lambda v, p, y: tf.gaussian_nll_loss(p, y, v, eps=1.0, reduction="none").mean(1),
    ),
    "cosine": (
        nn.CosineEmbeddingLoss(margin=0.1),
        (A, B, PAIR),
        lambda a, b, y: tf.cosine_embedding_loss(a, b, y, margin=0.1, reduction="none"),
    ),
    "ranking": (
        nn.MarginRankingLoss(0.2),
        (A, B, SIGNED),
        lambda a, b, y: tf.margin_ranking_loss(a, b, y, margin=0.2, reduction="none").mean(1),
    ),
    "hinge of distances": (
        nn.HingeEmbeddingLoss(0.7),
        (A, SIGNED),
        lambda p, y: tf.hinge_embedding_loss(p, y, margin=0.7, reduction="none").mean(1),
    ),
    "classes by margin": (
        nn.MultiMarginLoss(),
        (A, CLASSES),
        lambda p, y: tf.multi_margin_loss(p, y, reduction="none"),
    ),
    "classes by squared margin": (
        nn.MultiMarginLoss(p=2, margin=0.4),
        (A, CLASSES),
        lambda p, y: tf.multi_margin_loss(p, y, p=2, margin=0.4, reduction="none"),
    ),
    "many labels": (
        nn.MultiLabelSoftMarginLoss(),
        (A, (SIGNED + 1) / 2),
        lambda p, y: tf.multilabel_soft_margin_loss(p, y, reduction="none"),
    ),
    "cross entropy": (
        nn.CrossEntropyLoss(label_smoothing=0.1, ignore_label=2),
        (A, CLASSES),
        lambda p, y: tf.cross_entropy(p, y, ignore_index=2, label_smoothing=0.1, reduction="none"),
    ),
    "cross entropy, weighted": (
        nn.CrossEntropyLoss(class_weight=[1.0, 2.0, 0.5, 3.0]),
        (A, CLASSES),
        lambda p, y: tf.cross_entropy(p, y, torch.tensor([1.0, 2.0, 0.5, 3.0]), reduction="none"),
    ),
    "triplet of distances": (
        nn.TripletMarginLoss(0.7, p=3.0),
        (A, B, C),
        lambda a, b, c: tf.triplet_margin_loss(a, b, c, margin=0.7, p=3.0, reduction="none"),
    ),
    "triplet, swapped": (
        nn.TripletMarginLoss(swap=True),
        (A, B, C),
        lambda a, b, c: tf.triplet_margin_loss(a, b, c, swap=True, reduction="none"),
    ),
    "smooth l1": (
        nn.SmoothL1Loss(0.5),
        (A, B),
        lambda p, y: tf.smooth_l1_loss(p, y, beta=0.5, reduction="none").mean(1),
    ),
    "log-probabilities": (nn.NLLLoss(), (LOGP, CLASSES), lambda p, y: tf.nll_loss(p, y, reduction="none")),
    "log-probabilities, weighted": (
        nn.NLLLoss(class_weight=[1.0, 2.0, 0.5, 3.0], ignore_label=2),
        (LOGP, CLASSES),
        lambda p, y: tf.nll_loss(p, y, torch.tensor([1.0, 2.0, 0.5, 3.0]), ignore_index=2, reduction="none"),
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_values_and_gradients_are_those_of_pytorch(name: str) -> None:
    loss, given, theirs = CHECKS[name]
    x = t(given[0].copy()).requires_grad_()
    expected = theirs(x, *map(t, given[1:]))
    expected.sum().backward()
    for hybrid in (False, True, True):
        loss.hybridize(hybrid)
        mine = Tensor(given[0].copy())
        mine.attach_grad()
        with autograd.record():
            losses = loss(mine, *map(Tensor, given[1:]))
        losses.backward()
        assert losses.shape == (5,)
        np.testing.assert_allclose(losses.asnumpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mine.grad.asnumpy(), x.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_an_ignored_label_need_not_be_a_class() -> None:
    loss = nn.NLLLoss(ignore_label=-100)(Tensor(LOGP), Tensor(np.array([0, -100, 1, -100, 2])))
    assert (loss.asnumpy()[[1, 3]] == 0).all() and (loss.asnumpy()[[0, 2, 4]] > 0).all()


def test_deep_metric_learning_is_the_divergence_from_smoothed_labels() -> None:
    labels = np.full((5, 5), 0.3 / 4)
    np.fill_diagonal(labels, 0.7)
    scores = torch.log_softmax(-((t(A)[:, None] - t(B)[None]) ** 2).sum(2), 1)
    expected = tf.kl_div(scores, t(labels), reduction="none").sum(1)
    found = nn.SDMLLoss()(Tensor(A), Tensor(B))
    np.testing.assert_allclose(found.asnumpy(), expected.numpy(), rtol=1e-5)
    assert nn.SDMLLoss(0.0)(Tensor(A), Tensor(A)).asnumpy().min() > 0


def test_weights_of_samples_multiply() -> None:
    weights = Tensor(np.arange(5.0, dtype="float32").reshape(5, 1))
    for loss in (nn.HingeLoss(), nn.SquaredHingeLoss(), nn.LogisticLoss()):
        plain = loss(Tensor(A), Tensor(SIGNED)).asnumpy()
        np.testing.assert_allclose(loss(Tensor(A), Tensor(SIGNED), weights).asnumpy(), plain * np.arange(5), rtol=1e-6)


def test_a_vector_of_length_zero_has_a_finite_loss_and_gradient() -> None:
    x = Tensor(np.zeros((2, 3), np.float32))
    x.attach_grad()
    with autograd.record():
        losses = nn.CosineEmbeddingLoss()(x, Tensor(np.ones((2, 3), np.float32)), Tensor(np.array([1.0, -1.0])))
    losses.backward()
    assert losses.tolist() == [1.0, 0.0] and np.isfinite(x.grad.asnumpy()).all()


def test_what_does_not_fit_is_said_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"HingeLoss.*\(3,\).*\(5, 4\)"):
        nn.HingeLoss()(Tensor(A), Tensor(np.ones(3)))
    with pytest.raises(ShapeError, match=r"SDMLLoss.*\(5, 4\).*\(4, 4\)"):
        nn.SDMLLoss()(Tensor(A), Tensor(A[:4]))
    with pytest.raises(ShapeError, match=r"NLLLoss: 2 class weights.*\(5, 4\)"):
        nn.NLLLoss(class_weight=[1.0, 2.0])(Tensor(LOGP), Tensor(CLASSES))
    for make in (
        lambda: nn.LogisticLoss(label_format="x"),
        lambda: nn.MultiMarginLoss(p=3),
        lambda: nn.SDMLLoss(1.0),
    ):
        with pytest.raises(ConfigError):
            make()
