"""Metrics: how good a model is, summed over batches in double precision. Names and arguments are MXNet 2's.

>>> import numpy as np
>>> meter = create(["accuracy", "mae"])
>>> meter.update(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
>>> meter.get()
(['accuracy', 'mae'], [0.5, 0.5])
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.backend import asnumpy

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "RMSE",
    "Accuracy",
    "BinaryAccuracy",
    "CompositeEvalMetric",
    "CrossEntropy",
    "CustomMetric",
    "EvalMetric",
    "Loss",
    "Perplexity",
    "TopKAccuracy",
    "create",
    "register",
]

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
M = TypeVar("M", bound="type[EvalMetric]")

_known: dict[str, "type[EvalMetric]"] = {}


def register(*names: str) -> Callable[[M], M]:
    """Class decorator: make a metric known under ``names``, in any case, and under its class name."""

    def add(cls: M) -> M:
        for name in (cls.__name__.lower(), *names):
            _known[name] = cls
        return cls

    return add


def create(metric: "str | EvalMetric | Callable[..., Any] | Sequence[Any]", **params: Any) -> "EvalMetric":
    """A metric by name, such as "accuracy" or "ce"; of a function, as `CustomMetric`; of several, all of them in one.

    Raises:
        ConfigError: the name or a parameter is unknown.
    """
    if isinstance(metric, EvalMetric):
        return metric
    if isinstance(metric, str):
        cls = _known.get(metric.lower())
        if cls is None:
            raise ConfigError(f"no metric is called {metric!r}; known: {', '.join(sorted(_known))}")
        try:
            return cls(**params)
        except TypeError as error:  # the constructor's own words name the parameter
            raise ConfigError(f"metric {metric!r}: {error}") from None
    return CustomMetric(metric, **params) if callable(metric) else CompositeEvalMetric(list(metric), **params)


class EvalMetric(ABC):
    """The mean of something over all samples seen since the last `reset`; NaN before the first.

    Args:
        name: what `get` calls it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sum_metric, self.num_inst = 0.0, 0

    def update(self, labels: Any, preds: Any) -> None:
        """Count one batch.

        Args:
            labels: tensor or array of what is true; or a list of these, one for each output of the model.
            preds: likewise, of what the model says.
        Raises:
            ShapeError: the shapes do not fit.
        """
        for label, pred in _pairs(self.name, labels, preds):
            total, count = self.measure(label, pred)
            self.sum_metric += float(total)
            self.num_inst += int(count)

    @abstractmethod
    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        """The sum over the samples of a batch, and their number."""

    def reset(self) -> None:
        """Forget all batches."""
        self.sum_metric, self.num_inst = 0.0, 0

    def get(self) -> tuple[Any, Any]:
        """Name and value."""
        return self.name, self.finished(self.sum_metric / self.num_inst) if self.num_inst else math.nan

    def finished(self, mean: float) -> float:
        """The value, from the mean."""
        return mean

    def get_name_value(self) -> list[tuple[str, float]]:
        """`get` as a list of pairs, for any metric."""
        names, values = self.get()
        return list(zip(names, values, strict=True)) if isinstance(names, list) else [(names, values)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v:.6g}' for n, v in self.get_name_value())})"


@register("acc")
class Accuracy(EvalMetric):
    """The fraction of labels that the model finds. For the score of a single class there is `BinaryAccuracy`.

    Args:
        axis: of the classes, in predictions that have several values for each label; the largest wins. Predictions
            with one value for each label are class numbers.
    """

    def __init__(self, axis: int = 1, name: str = "accuracy") -> None:
        super().__init__(name)
        self.axis = axis

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        if pred.size != label.size and pred.ndim > 1:
            pred = np.argmax(pred, axis=self.axis)
        elif (other := _fractions(label, pred)).size:
            raise ShapeError(
                f"metric {self.name!r}: predictions {pred.shape} have one value for each of the labels {label.shape}, "
                f"and {other[0]:.4g} is no class number. For scores of one class use BinaryAccuracy(threshold=0.5), or "
                "threshold=0.0 if they are logits; for numbers 'mae' or 'mse'"
            )
        label, pred = _alike(self.name, label, pred)
        return float(np.count_nonzero(label == pred)), label.size


class ClassAccuracy(Accuracy):
    """`Accuracy` where nobody chose a metric: what cannot be classes (as in a regression) is not counted."""

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        return (0.0, 0) if _fractions(label, pred).size else super().measure(label, pred)


@register("binary_accuracy")
class BinaryAccuracy(EvalMetric):
    """The fraction of labels, 0 or 1, that the model finds with one score each.

    Args:
        threshold: scores above it mean 1: 0.5 of probabilities, 0 of logits.
    """

    def __init__(self, threshold: float = 0.5, name: str = "binary_accuracy") -> None:
        super().__init__(name)
        self.threshold = threshold

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        label, pred = _alike(self.name, label, pred)
        return float(np.count_nonzero(label == (pred > self.threshold))), label.size


@register("top_k_accuracy", "top_k_acc")
class TopKAccuracy(EvalMetric):
    """The fraction of labels that are among the ``top_k`` largest scores; of equal scores the first class wins."""

    def __init__(self, top_k: int = 1, name: str = "top_k_accuracy") -> None:
        if top_k < 1:
            raise ConfigError(f"metric {name!r}: top_k is {top_k}, expected at least 1")
        super().__init__(f"{name}_{top_k}" if name == "top_k_accuracy" else name)
        self.top_k = top_k

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        label, pred = _scores(self.name, label, pred)
        own = np.take_along_axis(pred, label[:, None], axis=1)
        ahead = (pred == own) & (np.arange(pred.shape[1]) < label[:, None])
        rank = np.count_nonzero(~(pred <= own) | ahead, axis=1)  # of a score that is not a number: behind all others
        return float(np.count_nonzero(rank < self.top_k)), label.size


@register()
class MAE(EvalMetric):
    """Mean absolute error."""

    def __init__(self, name: str = "mae") -> None:
        super().__init__(name)

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        return np.sum(np.abs(_difference(self.name, label, pred))), label.size


@register()
class MSE(EvalMetric):
    """Mean squared error."""

    def __init__(self, name: str = "mse") -> None:
        super().__init__(name)

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        return np.sum(np.square(_difference(self.name, label, pred))), label.size


@register()
class RMSE(MSE):
    """The root of the mean squared error, of all samples together."""

    def __init__(self, name: str = "rmse") -> None:
        super().__init__(name)

    def finished(self, mean: float) -> float:
        return math.sqrt(mean)


@register("ce", "cross-entropy")
class CrossEntropy(EvalMetric):
    """Mean of minus the logarithm of the probability that the model gives to the label.

    Args:
        eps: probabilities below it count as it.
        ignore_label: samples with this label are left out.
        from_logits: predictions are scores before the softmax, not probabilities.
    """

    def __init__(
        self,
        eps: float = 1e-12,
        ignore_label: int | None = None,
        from_logits: bool = False,
        name: str = "cross-entropy",
    ) -> None:
        super().__init__(name)
        self.eps, self.ignore_label, self.from_logits = eps, ignore_label, from_logits

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        if pred.ndim > 2:
            label, pred = label.reshape(-1), pred.reshape(-1, pred.shape[-1])
        if self.ignore_label is not None:
            wanted = label.reshape(-1) != self.ignore_label
            label, pred = label.reshape(-1)[wanted], pred[wanted]
        label, pred = _scores(self.name, label, pred)
        p = np.take_along_axis(pred, label[:, None], axis=1)
        if not self.from_logits:
            return -np.sum(np.log(np.maximum(p, self.eps))), label.size
        top = np.max(pred, axis=1, keepdims=True, initial=-np.inf)
        return np.sum(np.log(np.sum(np.exp(pred - top), axis=1, keepdims=True)) + top - p), label.size


@register()
class Perplexity(CrossEntropy):
    """``exp`` of the cross-entropy of all samples together."""

    def __init__(
        self, eps: float = 1e-12, ignore_label: int | None = None, from_logits: bool = False, name: str = "perplexity"
    ) -> None:
        super().__init__(eps, ignore_label, from_logits, name)

    def finished(self, mean: float) -> float:
        return math.exp(mean) if mean < 700.0 else math.inf


@register()
class F1(EvalMetric):
    """Harmonic mean of precision and recall, of all samples together; 0 where neither is defined.

    Args:
        class_type: "binary": scores of the positive class, or of both classes, and labels 0 or 1. "multiclass": scores
            of each class, and one label. "multilabel": scores of each class, and 0 or 1 for each.
        threshold: scores above it mean "yes"; of "binary" with one score, and "multilabel".
        average: "micro" counts over all classes together; "macro" is the mean of the classes' values.
    """

    def __init__(
        self, class_type: str = "binary", threshold: float = 0.5, average: str = "micro", name: str = "f1"
    ) -> None:
        super().__init__(name)
        for got, known in ((class_type, ("binary", "multiclass", "multilabel")), (average, ("micro", "macro"))):
            if got not in known:
                raise ConfigError(f"metric {name!r}: {got!r} is none of {', '.join(known)}")
        self.class_type, self.threshold, self.average = class_type, threshold, average
        self._counts: Any = 0.0

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        said, true = self._votes(label, pred)
        hits = [np.sum(said & true, axis=0), np.sum(said & ~true, axis=0), np.sum(~said & true, axis=0)]
        if np.ndim(self._counts) and self._counts.shape[1] != said.shape[1]:
            raise ShapeError(f"metric {self.name!r}: {said.shape[1]} classes, the batches before had another number")
        self._counts = self._counts + np.array(hits, np.float64)
        return 0.0, len(true)

    def reset(self) -> None:
        super().reset()
        self._counts = 0.0

    def finished(self, mean: float) -> float:
        counts = self._counts if self.average == "macro" else self._counts.sum(axis=1, keepdims=True)
        found, false, missed = counts
        return float(np.mean(2.0 * found / np.maximum(2.0 * found + false + missed, 1.0)))

    def _votes(self, label: Array, pred: Array) -> tuple[Array, Array]:
        """For each sample and class, whether the model says yes and whether that is true."""
        if self.class_type == "multilabel":
            label, pred = _alike(self.name, label, pred)
            return np.atleast_2d(pred > self.threshold), np.atleast_2d(label > 0.5)
        if self.class_type == "binary" and pred.size == label.size:
            label, pred = _alike(self.name, label.reshape(-1, 1), pred)
            return pred > self.threshold, label > 0.5
        label, pred = _scores(self.name, label, pred)
        classes = np.arange(1, 2) if self.class_type == "binary" else np.arange(pred.shape[1])
        return np.argmax(pred, axis=1)[:, None] == classes, label[:, None] == classes


@register()
class Loss(EvalMetric):
    """The mean of the predictions themselves: of losses, whatever the labels."""

    def __init__(self, name: str = "loss") -> None:
        super().__init__(name)

    def update(self, labels: Any, preds: Any) -> None:
        """Count the losses in ``preds``; ``labels`` may be None."""
        super().update(preds, preds)

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        return np.sum(pred, dtype=np.float64), pred.size


class CustomMetric(EvalMetric):
    """The mean over batches of ``feval(label, pred)``, which gets NumPy arrays.

    Args:
        feval: gives the batch's value, or a sum and the number of its terms.
    """

    def __init__(self, feval: Callable[[Array, Array], Any], name: str | None = None) -> None:
        super().__init__(name or str(getattr(feval, "__name__", "custom")))
        self._feval = feval

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        value = self._feval(label, pred)
        return value if isinstance(value, tuple) else (float(value), 1)


@register("composite")
class CompositeEvalMetric(EvalMetric):
    """Several metrics of the same predictions.

    Args:
        metrics: anything that `create` takes.
    """

    def __init__(self, metrics: Sequence[Any] = (), name: str = "composite") -> None:
        super().__init__(name)
        self.metrics = [create(m) for m in metrics]

    def add(self, metric: Any) -> None:
        """One more metric."""
        self.metrics.append(create(metric))

    def update(self, labels: Any, preds: Any) -> None:
        for metric in self.metrics:
            metric.update(labels, preds)

    def measure(self, label: Array, pred: Array) -> tuple[float, int]:
        """Nothing of its own."""
        return 0.0, 0

    def reset(self) -> None:
        for metric in self.metrics:
            metric.reset()

    def get(self) -> tuple[list[str], list[float]]:
        """Names and values of all."""
        pairs = [pair for metric in self.metrics for pair in metric.get_name_value()]
        return [name for name, _ in pairs], [value for _, value in pairs]


def _pairs(name: str, labels: Any, preds: Any) -> list[tuple[Array, Array]]:
    many = [list(x) if isinstance(x, list | tuple) else [x] for x in (labels, preds)]
    if len(many[0]) != len(many[1]):
        raise ShapeError(f"metric {name!r}: {len(many[0])} labels for {len(many[1])} predictions")
    return [(asnumpy(label), asnumpy(pred)) for label, pred in zip(*many, strict=True)]


def _fractions(label: Array, pred: Array) -> Array:
    """Of predictions with one value for each label those that are no class numbers."""
    one_each = pred.size == label.size and pred.dtype.kind not in "iub"
    return pred[pred != np.trunc(pred)] if one_each else np.empty(0)


def _alike(name: str, label: Array, pred: Array) -> tuple[Array, Array]:
    """Both in the label's shape: (n,) and (n, 1) would otherwise broadcast to (n, n)."""
    if label.size != pred.size:
        raise ShapeError(f"metric {name!r}: labels {label.shape} do not fit predictions {pred.shape}")
    return label, pred.reshape(label.shape)


def _difference(name: str, label: Array, pred: Array) -> Array:
    label, pred = _alike(name, label, pred)
    return label.astype(np.float64) - pred.astype(np.float64)


def _scores(name: str, label: Array, pred: Array) -> tuple[Array, Array]:
    """Class numbers of shape (n,) and float64 scores of shape (n, classes)."""
    if pred.ndim != 2 or label.size != len(pred):
        raise ShapeError(
            f"metric {name!r}: labels {label.shape} do not fit predictions {pred.shape}, expected (n,) and (n, classes)"
        )
    label = label.reshape(-1).astype(np.int64)
    if label.size and not 0 <= label.min() <= label.max() < pred.shape[1]:
        raise ShapeError(
            f"metric {name!r}: labels from {label.min()} to {label.max()}, but predictions have {pred.shape[1]} classes"
        )
    return label, pred.astype(np.float64)
