"""Losses of margins, counts and pairs: Gluon's and PyTorch's. As every loss: one number per sample, see `Loss`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import compare, elementwise, index, likes, loss, reduce
from shoal.ops.activation import log_sigmoid, relu
from shoal.ops.creation import here
from shoal.ops.nn.loss import Loss, SoftmaxCrossEntropyLoss

__all__ = [
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "LogisticLoss",
    "MarginRankingLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SDMLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SquaredHingeLoss",
    "TripletLoss",
    "TripletMarginLoss",
]


class HingeLoss(Loss):
    """max(0, margin - pred * label), for labels of -1 and 1."""

    def __init__(self, margin: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.margin = float(margin)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        return self._mean(relu(self.margin - pred * self._same(pred, label)), sample_weight)


class SquaredHingeLoss(HingeLoss):
    """max(0, margin - pred * label)**2, for labels of -1 and 1."""

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        hinge = relu(self.margin - pred * self._same(pred, label))
        return self._mean(hinge * hinge, sample_weight)


class LogisticLoss(Loss):
    """log(1 + exp(-pred * label)), without overflow.

    Args:
        label_format: "signed", labels are -1 and 1; or "binary", they are 0 and 1.
        weight, batch_axis: as for every loss.
    """

    def __init__(self, weight: float | None = None, batch_axis: int = 0, label_format: str = "signed") -> None:
        super().__init__(weight, batch_axis)
        if label_format not in ("signed", "binary"):
            raise ConfigError(f"LogisticLoss: label_format must be 'signed' or 'binary', got {label_format!r}")
        self.label_format = label_format

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        label = self._same(pred, label)
        if self.label_format == "signed":
            label = (label + 1.0) * 0.5
        return self._mean(loss.sigmoid_cross_entropy(pred, label), sample_weight)


class TripletLoss(Loss):
    """max(0, margin + sum((pred - positive)**2) - sum((pred - negative)**2)): Gluon's, of squared distances."""

    def __init__(self, margin: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.margin = float(margin)

    def forward(self, pred: Any, positive: Any, negative: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample; ``positive`` is of the same class as ``pred``, ``negative`` is not."""
        positive, negative = self._same(pred, positive), self._same(pred, negative)
        apart = elementwise.square(positive - pred) - elementwise.square(negative - pred)
        axes = tuple(i for i in range(apart.ndim) if i != self.batch_axis % apart.ndim)
        return self._mean(relu((apart.sum(axis=axes) if axes else apart) + self.margin), sample_weight)


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts under Poisson distributions with mean exp(pred), or pred.

    Gluon averages over the batch too; here, as everywhere, there is one number per sample.

    Args:
        from_logits: the predictions are logarithms of means; otherwise means.
        compute_full: with Stirling's approximation of log(label!), for labels above 1.
        epsilon: added to means under the logarithm.
        weight, batch_axis: as for every loss.
    """

    def __init__(
        self,
        weight: float | None = None,
        from_logits: bool = True,
        batch_axis: int = 0,
        compute_full: bool = False,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(weight, batch_axis)
        self.from_logits, self.compute_full, self.epsilon = from_logits, compute_full, float(epsilon)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        label = self._same(pred, label)
        if self.from_logits:
            losses = elementwise.exp(pred) - label * pred
        else:
            losses = pred - label * elementwise.log(pred + self.epsilon)
        if self.compute_full:
            counts = elementwise.clip(label, a_min=1.0)
            stirling = counts * elementwise.log(counts) - counts + 0.5 * elementwise.log(counts * (2.0 * math.pi))
            losses = losses + elementwise.where(label > 1, stirling, 0.0)
        return self._mean(losses, sample_weight)


class GaussianNLLLoss(Loss):
    """Negative log-likelihood under normal distributions: (log(var) + (pred - label)**2 / var) / 2.

    Args:
        full: with the constant log(2 * pi) / 2.
        eps: smaller variances count as this.
        weight, batch_axis: as for every loss.
    """

    def __init__(self, full: bool = False, eps: float = 1e-6, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.full, self.eps = full, float(eps)

    def forward(self, pred: Any, label: Any, var: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample; ``var`` has the shape of ``pred``, or broadcasts to it."""
        var = elementwise.stop_gradient(elementwise.clip(var, a_min=self.eps) - var) + var
        losses = 0.5 * (elementwise.log(var) + elementwise.square(pred - self._same(pred, label)) / var)
        return self._mean(losses + 0.5 * math.log(2.0 * math.pi) if self.full else losses, sample_weight)


class CosineEmbeddingLoss(Loss):
    """1 - cos(input1, input2) for pairs labelled 1, max(0, cos - margin) for those labelled -1.

    The angle is between the vectors along the last axis; a vector of length 0 has the cosine 0.
    """

    def __init__(self, weight: float | None = None, batch_axis: int = 0, margin: float = 0.0) -> None:
        super().__init__(weight, batch_axis)
        self.margin = float(margin)

    def forward(self, input1: Any, input2: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample; ``label`` has the shape of the inputs without the last axis."""
        input2 = self._same(input1, input2)
        lengths = reduce.norm(input1, axis=-1) * reduce.norm(input2, axis=-1)
        cosine = reduce.sum_(input1 * input2, axis=-1) / elementwise.clip(lengths, a_min=1e-12)
        label = self._same(cosine, label)
        losses = elementwise.where(label == 1, 1.0 - cosine, relu(cosine - self.margin))
        return self._mean(losses, sample_weight)


class SDMLLoss(Loss):
    """Smoothed deep metric learning (Bonadiman et al., arXiv:1905.12786): of two batches of vectors, rows with the same
    number belong together, all others do not.

    The loss of a row is the Kullback-Leibler divergence of softmax(-squared distances) from the labels, of which the
    right row has 1 - ``smoothing_parameter`` and the others share the rest.
    """

    def __init__(self, smoothing_parameter: float = 0.3, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        if not 0 <= smoothing_parameter < 1:
            raise ConfigError(f"SDMLLoss: smoothing_parameter must be from 0 to 1, got {smoothing_parameter}")
        self.smoothing = float(smoothing_parameter)

    def forward(self, x1: Any, x2: Any, sample_weight: Any = None) -> Any:
        """Losses, one per row of x1: (batch, features) each.

        Raises:
            ShapeError: the inputs are not two matrices of one shape, with two rows or more.
        """
        if x1.ndim != 2 or tuple(x1.shape) != tuple(x2.shape) or x1.shape[0] < 2:
            raise ShapeError(
                f"SDMLLoss: needs two inputs of one shape (batch of at least 2, features), got {tuple(x1.shape)} and "
                f"{tuple(x2.shape)}"
            )
        n = x1.shape[0]
        apart = elementwise.square(x1.expand_dims(1) - x2.expand_dims(0)).sum(axis=2)
        scores = loss.log_softmax(-apart, axis=1)
        off = self.smoothing / (n - 1)
        labels = np.full((n, n), off) + np.eye(n) * (1.0 - self.smoothing - off)
        entropy = sum(p * math.log(p) for p in [1.0 - self.smoothing, *[off] * (n - 1)] if p > 0)
        losses = entropy - reduce.sum_(scores * here(labels.astype(x1.dtype)), axis=1)
        return self._mean(losses, sample_weight)


class NLLLoss(SoftmaxCrossEntropyLoss):
    """Minus the log-probability of the class ``label``; the predictions are log-probabilities along ``axis``.

    Args:
        axis: of the classes.
        class_weight: factors of the classes, or None; losses are not divided by their sum.
        ignore_label: samples with this label count 0.
        weight, batch_axis: as for every loss.
    """

    def __init__(
        self,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        ignore_label: int | None = None,
        weight: float | None = None,
        batch_axis: int = 0,
    ) -> None:
        super().__init__(axis, from_logits=True, weight=weight, batch_axis=batch_axis)
        self.class_weight = None if class_weight is None else tuple(float(w) for w in class_weight)
        self.ignore_label = ignore_label

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample.

        Raises:
            ShapeError: labels or weights of classes do not fit the predictions.
        """
        axis = self.axis % pred.ndim
        label = self._class_numbers(pred, label, axis)
        kept = None if self.ignore_label is None else compare.not_equal(label, self.ignore_label)
        chosen = label if kept is None else label * kept
        losses = -index.pick(pred, chosen, axis=axis)
        if self.class_weight is not None:
            if len(self.class_weight) != pred.shape[axis]:
                raise ShapeError(
                    f"NLLLoss: {len(self.class_weight)} class weights for predictions of shape {tuple(pred.shape)} "
                    f"with {pred.shape[axis]} classes along axis {axis}"
                )
            losses = losses * index.take(here(np.asarray(self.class_weight, pred.dtype)), chosen, axis=0)
        if kept is not None:
            losses = elementwise.where(kept, losses, 0.0)
        return self._mean(losses, sample_weight)


class MarginRankingLoss(Loss):
    """max(0, margin - label * (input1 - input2)): input1 should rank above input2 for a label of 1, below for -1."""

    def __init__(self, margin: float = 0.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.margin = float(margin)

    def forward(self, input1: Any, input2: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        apart = input1 - self._same(input1, input2)
        return self._mean(relu(self.margin - self._same(apart, label) * apart), sample_weight)


class HingeEmbeddingLoss(Loss):
    """pred, a distance, where the label is 1; max(0, margin - pred) where it is -1."""

    def __init__(self, margin: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.margin = float(margin)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        near = self._same(pred, label) == 1
        return self._mean(elementwise.where(near, pred, relu(self.margin - pred)), sample_weight)


class MultiMarginLoss(Loss):
    """Mean over the classes of max(0, margin - pred[label] + pred[class])**p, without the class ``label`` itself.

    Args:
        p: 1 or 2.
        margin: by how much the right class should win.
        weight, batch_axis: as for every loss.
    """

    def __init__(self, p: int = 1, margin: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        if p not in (1, 2):
            raise ConfigError(f"MultiMarginLoss: p must be 1 or 2, got {p}")
        self.p, self.margin = p, float(margin)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample; pred is (batch, classes), label (batch,) class numbers."""
        behind = relu(self.margin + pred - index.pick(pred, label, keepdims=True))
        losses = behind * behind if self.p == 2 else behind
        other = index.one_hot(label, depth=pred.shape[-1], on_value=0.0, off_value=1.0, dtype=pred.dtype.name)
        return self._mean(losses * other, sample_weight)


class MultiLabelSoftMarginLoss(Loss):
    """Cross entropy of independent yes-or-no labels, averaged over the classes: for scores and labels of 0 and 1."""

    def __init__(self, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        label = self._same(pred, label)
        return self._mean(-(label * log_sigmoid(pred) + (1.0 - label) * log_sigmoid(-pred)), sample_weight)


class CrossEntropyLoss(NLLLoss):
    """PyTorch's cross entropy of scores: with weights of classes, a label that is ignored, and smoothed labels.

    Args:
        label_smoothing: this part of a label is shared among all classes (arXiv:1512.00567).
        axis, class_weight, ignore_label, weight, batch_axis: as for `NLLLoss`.
    """

    def __init__(
        self,
        axis: int = -1,
        class_weight: Sequence[float] | None = None,
        ignore_label: int | None = None,
        label_smoothing: float = 0.0,
        weight: float | None = None,
        batch_axis: int = 0,
    ) -> None:
        super().__init__(axis, class_weight, ignore_label, weight, batch_axis)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"CrossEntropyLoss: label_smoothing must be from 0 to 1, got {label_smoothing}")
        self.smoothing = float(label_smoothing)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        scores = loss.log_softmax(pred, axis=self.axis)
        losses = super().forward(scores, label, sample_weight)
        if not self.smoothing:
            return losses
        axis, ignored = self.axis % pred.ndim, self.ignore_label
        shared = -scores
        if self.class_weight is not None:
            lengths = tuple(-1 if i == axis else 1 for i in range(pred.ndim))
            shared = shared * here(np.asarray(self.class_weight, pred.dtype).reshape(lengths))
        shared = reduce.mean(shared, axis=axis)
        if ignored is not None:
            shared = elementwise.where(compare.not_equal(self._class_numbers(pred, label, axis), ignored), shared, 0.0)
        return losses * (1.0 - self.smoothing) + self._mean(shared, sample_weight, self.smoothing)


class TripletMarginLoss(Loss):
    """max(0, margin + |anchor - positive| - |anchor - negative|), of p-norms along the last axis: PyTorch's.

    Args:
        p: of the norm.
        eps: added to the differences.
        swap: the distance of positive and negative counts, if it is less than that of anchor and negative.
        margin, weight, batch_axis: as for `TripletLoss`.
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
    ) -> None:
        super().__init__(weight, batch_axis)
        self.margin, self.p, self.eps, self.swap = float(margin), float(p), float(eps), swap

    def forward(self, anchor: Any, positive: Any, negative: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        positive, negative = self._same(anchor, positive), self._same(anchor, negative)
        far = likes.pairwise_distance(anchor, negative, self.p, self.eps)
        if self.swap:
            far = elementwise.minimum(far, likes.pairwise_distance(positive, negative, self.p, self.eps))
        near = likes.pairwise_distance(anchor, positive, self.p, self.eps)
        return self._mean(relu(near - far + self.margin), sample_weight)


class SmoothL1Loss(Loss):
    """(pred - label)**2 / (2 * beta) where the difference is below ``beta``, else |pred - label| - beta / 2."""

    def __init__(self, beta: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        if beta <= 0:
            raise ConfigError(f"SmoothL1Loss: beta must be positive, got {beta}; for 0 use L1Loss")
        self.beta = float(beta)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        d = elementwise.abs_(self._same(pred, label) - pred)
        losses = elementwise.where(d < self.beta, d * d * (0.5 / self.beta), d - 0.5 * self.beta)
        return self._mean(losses, sample_weight)


SoftMarginLoss = LogisticLoss
