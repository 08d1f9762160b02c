"""Losses: one number per sample, as in Gluon. `backward` of that vector is the gradient of its sum.

Every loss takes ``weight``, a factor on all losses, and ``batch_axis``, the axis that tells samples apart; its forward
takes the prediction, the label and optionally ``sample_weight``, which broadcasts to the element-wise losses. All axes
but the batch axis are averaged, so that a sample's loss does not depend on its size.
"""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import activation, compare, elementwise, index, loss, reduce
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.tensor import Tensor

__all__ = [
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "L2Loss",
    "Loss",
    "SigmoidBCELoss",
    "SigmoidBinaryCrossEntropyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
]


class Loss(HybridBlock):
    """Base of losses.

    Args:
        weight: factor on all losses; None for 1.
        batch_axis: the axis of the samples.
    """

    def __init__(self, weight: float | None, batch_axis: int) -> None:
        super().__init__()
        self.weight_, self.batch_axis = weight, batch_axis

    def extra_repr(self) -> str:
        """Batch axis and weight."""
        return f"batch_axis={self.batch_axis}, w={self.weight_}"

    def _same(self, pred: Any, label: Any) -> Any:
        """The label in the prediction's shape: shapes may differ in axes of length 1 only.

        Raises:
            ShapeError: they hold another number of elements.
        """
        if label.shape == pred.shape:
            return label
        if [n for n in label.shape if n != 1] != [n for n in pred.shape if n != 1]:
            raise ShapeError(
                f"{type(self).__name__}: labels of shape {label.shape} for predictions of shape {pred.shape}; "
                "they must have the same shape"
            )
        return label.reshape(pred.shape)

    def _mean(self, losses: Any, sample_weight: Any, scale: float = 1.0) -> Any:
        """The weighted mean of each sample."""
        if sample_weight is not None:
            losses = losses * sample_weight
        factor = scale if self.weight_ is None else scale * float(self.weight_)
        if factor != 1.0:
            losses = losses * factor
        axes = tuple(i for i in range(losses.ndim) if i != self.batch_axis % losses.ndim)
        return losses.mean(axis=axes) if axes else losses


class L2Loss(Loss):
    """(pred - label)**2 / 2. A weight of w gives w / 2, as in Gluon."""

    def __init__(self, weight: float = 1.0, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        return self._mean(elementwise.square(self._same(pred, label) - pred), sample_weight, 0.5)


class L1Loss(Loss):
    """|pred - label|."""

    def __init__(self, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        return self._mean(elementwise.abs_(self._same(pred, label) - pred), sample_weight)


class HuberLoss(Loss):
    """Quadratic up to ``rho``, linear beyond: d**2 / (2 * rho) or |d| - rho / 2, for d = pred - label."""

    def __init__(self, rho: float = 1.0, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        if rho <= 0:
            raise ConfigError(f"HuberLoss needs rho > 0, got {rho}")
        self.rho = float(rho)

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample."""
        d = elementwise.abs_(self._same(pred, label) - pred)
        losses = elementwise.where(compare.greater(d, self.rho), d - 0.5 * self.rho, d * d * (0.5 / self.rho))
        return self._mean(losses, sample_weight)


class SigmoidBinaryCrossEntropyLoss(Loss):
    """Cross entropy of independent yes-or-no labels (0, 1, or probabilities).

    Args:
        from_sigmoid: the predictions are probabilities; otherwise scores, which is accurate for all scores.
        weight, batch_axis: as for every loss.
    """

    def __init__(self, from_sigmoid: bool = False, weight: float | None = None, batch_axis: int = 0) -> None:
        super().__init__(weight, batch_axis)
        self.from_sigmoid = from_sigmoid

    def forward(self, pred: Any, label: Any, sample_weight: Any = None, pos_weight: Any = None) -> Any:
        """Losses, one per sample; ``pos_weight`` multiplies the loss of positive labels."""
        label = self._same(pred, label)
        if self.from_sigmoid:
            eps = 1e-12
            positive = elementwise.log(pred + eps) * label
            if pos_weight is not None:
                positive = positive * pos_weight
            losses = -(positive + elementwise.log(1.0 - pred + eps) * (1.0 - label))
        elif pos_weight is None:
            losses = loss.sigmoid_cross_entropy(pred, label)
        else:
            factor = (pos_weight - 1.0) * label + 1.0
            tail = activation.softplus(-elementwise.abs_(pred)) + activation.relu(-pred)
            losses = pred - pred * label + factor * tail
        return self._mean(losses, sample_weight)


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


class SoftmaxCrossEntropyLoss(Loss):
    """Cross entropy of classes.

    Args:
        axis: of the classes.
        sparse_label: labels are class numbers, in the shape of the predictions without ``axis``; otherwise they are
            probabilities, in the shape of the predictions.
        from_logits: the predictions are log-probabilities, such as `log_softmax` gives; otherwise scores.
        weight, batch_axis: as for every loss.
    """

    def __init__(
        self,
        axis: int = -1,
        sparse_label: bool = True,
        from_logits: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
    ) -> None:
        super().__init__(weight, batch_axis)
        self.axis, self.sparse_label, self.from_logits = axis, sparse_label, from_logits

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample.

        Raises:
            ShapeError: labels do not fit the predictions; has both shapes.
            IndexError: a label is not a class.
        """
        if not self.sparse_label:
            scores = pred if self.from_logits else loss.log_softmax(pred, axis=self.axis)
            losses = -reduce.sum_(scores * self._same(pred, label), axis=self.axis, keepdims=True)
            return self._mean(losses, sample_weight)
        axis = self.axis % pred.ndim
        label = self._class_numbers(pred, label, axis)
        if self.from_logits:
            losses = -index.pick(pred, label, axis=axis)
        else:
            losses = loss.softmax_cross_entropy(pred, label, axis=axis)
        if sample_weight is None and axis > self.batch_axis % pred.ndim:
            return self._mean(losses, None)
        return self._mean(losses.expand_dims(axis), sample_weight)

    def _class_numbers(self, pred: Any, label: Any, axis: int) -> Any:
        """Integer labels in the shape of the predictions without ``axis``."""
        rest = pred.shape[:axis] + pred.shape[axis + 1 :]
        if label.shape != rest:
            if label.shape != (*pred.shape[:axis], 1, *pred.shape[axis + 1 :]):
                raise ShapeError(
                    f"{type(self).__name__}: labels of shape {label.shape} for predictions of shape {pred.shape} with "
                    f"classes along axis {axis}; expected {rest}. For probabilities as labels use sparse_label=False."
                )
            label = label.reshape(rest)
        if label.dtype.kind == "b":
            raise DTypeError(f"{type(self).__name__}: labels must be class numbers, got bool")
        if label.dtype.kind in "iu":
            return label
        _check_whole(type(self).__name__, label)
        return label.astype("int64")


def _check_whole(who: str, label: Any) -> None:
    """Raise if labels that came as floats are no class numbers; symbols have no values to look at."""
    values = label.data if isinstance(label, Tensor) else label
    if isinstance(values, np.ndarray) and (wrong := values[values != np.floor(values)]).size:
        raise IndexError(
            f"{who}: a label is {wrong[0]}, expected whole class numbers; of probabilities, sparse_label=False"
        )


SoftmaxCELoss = SoftmaxCrossEntropyLoss


class KLDivLoss(Loss):
    """The Kullback-Leibler divergence of the predictions from the labels, which are probabilities.

    Args:
        from_logits: the predictions are log-probabilities; otherwise scores.
        axis: of the classes.
        weight, batch_axis: as for every loss.
    """

    def __init__(
        self, from_logits: bool = True, axis: int = -1, weight: float | None = None, batch_axis: int = 0
    ) -> None:
        super().__init__(weight, batch_axis)
        self.from_logits, self.axis = from_logits, axis

    def forward(self, pred: Any, label: Any, sample_weight: Any = None) -> Any:
        """Losses, one per sample: label * (log(label) - pred), averaged over the classes also, as in Gluon."""
        label = self._same(pred, label)
        scores = pred if self.from_logits else loss.log_softmax(pred, axis=self.axis)
        return self._mean(label * (elementwise.log(label + 1e-12) - scores), sample_weight)
