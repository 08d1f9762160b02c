"""`fit` and `evaluate`: the training loop, written once."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import CheckpointError, ConfigError, ShapeError, StoreError
from shoal.ops import autograd, random
from shoal.worker import record
from shoal.worker.checkpoints import Checkpoints, place_of_run, resumed
from shoal.worker.data.course import current_course
from shoal.worker.data.dataset import Dataset
from shoal.worker.metrics import ClassAccuracy, EvalMetric
from shoal.worker.metrics import create as create_metric
from shoal.worker.resuming import go_on
from shoal.worker.resuming import kept as kept_of
from shoal.worker.trainer import Trainer

__all__ = ["Callback", "History", "evaluate", "fit"]

log, keeping = logging.getLogger("shoal.fit"), logging.getLogger("shoal.checkpoint")

Metrics: TypeAlias = str | EvalMetric | Sequence[str | EvalMetric]


class Callback:
    """Called by `fit`; override what you need. Set ``self.stop = True`` to end training after the present epoch.

    In a synchronous run every worker must stop at the same epoch.
    """

    stop = False

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """``epoch`` counts from 0."""

    def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
        """``step`` counts from 0 in each epoch; ``logs`` has the loss of the batch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """``logs`` has loss and training metrics, and on worker 0 the validation metrics as ``val_...``.

        On a worker that came later they are nan for the epochs before.
        """

    def on_train_end(self) -> None:
        """After the last epoch."""


@dataclass
class History:
    """What `fit` saw: one mapping an epoch, and the final evaluation (on worker 0)."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)


def fit(
    net: Any,
    train_data: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Any],
    trainer: Trainer,
    epochs: int,
    initial_epoch: int = 0,
    val_data: Iterable[Any] | None = None,
    metrics: Metrics | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train ``net`` on ``train_data`` until ``epochs`` passes are done.

    The same call trains in one process or in a cluster: each worker passes over its own shard, and worker 0 (if it is
    gone, the first that is there) evaluates the global weights after each epoch, and when everybody is done.

    A worker that comes later makes the same calls as the others, and has no batches in the epochs before: its callbacks
    are called for them too, because other workers' have been, and its history has them, with nan for what it
    has not seen.

    Args:
        train_data: gives (input, label) batches on each pass, such as a `shoal.data.DataLoader`.
        loss: from (output, label) to a loss for each sample, as those of `shoal.nn`; the trainer divides the gradients
            of their sum by the number of samples. Logs have the mean of its values.
        trainer: what updates the parameters.
        initial_epoch: where to begin, to go on with a run that was interrupted; with ``shoal run --checkpoint PLACE
            --resume`` that is where the newest checkpoint was made, and the weights are its.
        val_data: as ``train_data``; every worker should pass all of it, unsharded.
        metrics: by default "accuracy", which is nan where the model's output cannot be classes.
    Returns:
        Losses and metrics of each epoch.
    Raises:
        ConfigError: ``train_data`` gives single samples, not batches; or is an iterator, which has only one pass.
        ShapeError: ``loss`` gives one value for a batch.
    """
    _check_given(loss, trainer, callbacks)
    _check_batches(train_data, "train_data", epochs - initial_epoch)
    _check_batches(val_data, "val_data", 2)
    history = History()
    kept = place_of_run()
    initial_epoch = max(initial_epoch, _go_on(net, trainer, epochs))
    for c in callbacks:
        c.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        logs, seen = _epoch(net, train_data, loss, trainer, (epoch, epochs), metrics, callbacks)
        if val_data is not None and current_course().leads:  # if none was seen, somebody else has evaluated this epoch
            found = _validate(net, val_data, metrics, loss, trainer) if seen else _nothing(metrics)
            logs |= {f"val_{k}": v for k, v in found.items()}
        if kept is not None and current_course().leads and seen:
            _keep(kept, net, trainer, epoch + 1, logs)
        history.epochs.append(logs)
        for c in callbacks:
            c.on_epoch_end(epoch, logs)
        if any(c.stop for c in callbacks):
            break
    history.final = _final(net, trainer, val_data, metrics, loss)
    for c in callbacks:
        c.on_train_end()
    return history


def _go_on(net: Any, trainer: Trainer, epochs: int) -> int:
    """Give ``net`` and ``trainer`` what the checkpoint has that this run goes on from; how many epochs were behind it.

    Raises:
        CheckpointError: it is of another model.
    """
    found = resumed()
    if found is None:
        return 0
    params = net.collect_params()
    if found.params.keys() != params.keys():
        raise CheckpointError(f"$SHOAL_RESUME has parameters {sorted(found.params)}, this model has {sorted(params)}")
    go_on(net, trainer, found)
    behind = int(found.meta["epoch"])
    if behind >= epochs:
        log.warning("nothing is trained: the checkpoint is of a run of %d epochs, and epochs=%d", behind, epochs)
    return behind


def _keep(kept: Checkpoints, net: Any, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
    """Save the global weights and the rest after an epoch; training goes on if that fails, with a warning."""
    try:
        now = kept_of(net, trainer)
        if wrong := [name for name, value in now.params.items() if not np.isfinite(np.sum(value, dtype=np.float64))]:
            raise CheckpointError(f"{wrong[0]!r} has values that are not finite; the checkpoints before stay")
        kept.save(epoch, now.params, {**now.meta, "seed": random.current_seed(), "metrics": logs}, now.states)
    except (CheckpointError, StoreError) as e:
        keeping.warning("no checkpoint after epoch %d: %s", epoch, e)


def _check_given(loss: Any, trainer: Any, callbacks: Any) -> None:
    if not callable(loss):
        raise ConfigError(f"loss is {loss!r}; expected a function of (output, label), such as shoal.nn.SoftmaxCELoss()")
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"trainer is {trainer!r}; expected a shoal.Trainer of net.collect_params()")
    if not isinstance(callbacks, Sequence) or (wrong := [c for c in callbacks if not isinstance(c, Callback)]):
        got = repr(wrong[0] if isinstance(callbacks, Sequence) else callbacks)
        raise ConfigError(f"callbacks is a list of shoal.Callback objects, got {got}: derive a class from it")


def _check_batches(data: Any, name: str, passes: int) -> None:
    if isinstance(data, Iterator) and passes > 1:
        raise ConfigError(
            f"{name} is a {type(data).__name__}, which gives its batches once, and there is more than one pass; "
            "expected what begins anew on each pass: a shoal.data.DataLoader, a list, or a class with __iter__"
        )
    if isinstance(data, Dataset):
        raise ConfigError(
            f"{name} is a {type(data).__name__}, which gives single samples; expected batches: pass "
            "shoal.data.DataLoader(dataset, batch_size)"
        )


def _epoch(
    net: Any,
    data: Iterable[Any],
    loss: Callable[[Any, Any], Any],
    trainer: Trainer,
    at: tuple[int, int],
    metrics: Metrics | None,
    callbacks: Sequence[Callback],
) -> tuple[dict[str, float], int]:
    """The logs of an epoch, and the number of its samples."""
    epoch, epochs = at
    meter = _meter(metrics)
    total, samples = 0.0, 0
    for c in callbacks:
        c.on_epoch_begin(epoch)
    if hasattr(data, "set_epoch"):
        data.set_epoch(epoch)
    for step, (x, y) in enumerate(data):
        with autograd.record():
            out = net(x)
            batch_loss = _each(loss(out, y), len(x))
        with trainer.overlap(len(x)):
            batch_loss.backward()
        trainer.step(len(x))
        meter.update(y, out)
        mean = float(np.mean(batch_loss.asnumpy(), dtype=np.float64))
        total, samples = total + mean * len(x), samples + len(x)
        record.current().note(epoch=epoch + 1, epochs=epochs, step=step + 1, loss=mean)
        if callbacks:
            trainer.wait()
        for c in callbacks:
            c.on_train_batch_end(step, {"loss": mean})
    if not samples:
        return _nothing(metrics), 0
    if not math.isfinite(total):
        log.warning("epoch %d: the loss is %s", epoch + 1, total / samples)
    return {"loss": total / samples, **dict(meter.get_name_value())}, samples


def _each(losses: Any, samples: int) -> Any:
    """The losses of a batch.

    Raises:
        ShapeError: it is one for all of them: it may be their mean, and then the gradients would be divided twice.
    """
    if samples > 1 and losses.size == 1:
        raise ShapeError(
            f"loss gives one value, of shape {tuple(losses.shape)}, for a batch of {samples} samples; expected one for "
            "each, as the losses of shoal.nn give: leave out .mean() or .sum(), the trainer's step divides by the batch"
        )
    return losses


def _nothing(metrics: Metrics | None) -> dict[str, float]:
    """The logs of an epoch of which this worker saw no batch."""
    return {"loss": math.nan, **dict.fromkeys((name for name, _ in _meter(metrics).get_name_value()), math.nan)}


def _validate(net: Any, data: Iterable[Any], metrics: Metrics | None, loss: Any, trainer: Trainer) -> dict[str, float]:
    with trainer.global_weights():
        return _reported(net, data, metrics, loss)


def _reported(net: Any, data: Iterable[Any], metrics: Metrics | None, loss: Any) -> dict[str, float]:
    """Evaluate, and report it: but no accuracy that nobody asked for, where there are no classes."""
    found = evaluate(net, data, metrics, loss)
    none = metrics is None and math.isnan(found["accuracy"])
    record.report(**{name: value for name, value in found.items() if not (none and name == "accuracy")})
    return found


def _final(
    net: Any, trainer: Trainer, val_data: Iterable[Any] | None, metrics: Metrics | None, loss: Callable[[Any, Any], Any]
) -> dict[str, float]:
    """Everybody's updates are in: evaluate what has become of the weights."""
    trainer.finish()
    if val_data is None or not current_course().leads:
        return {}
    return _reported(net, val_data, metrics, loss)


def evaluate(
    net: Any, data: Iterable[Any], metrics: Metrics | None = None, loss: Callable[[Any, Any], Any] | None = None
) -> dict[str, float]:
    """Metrics of ``net`` over all of ``data``, in predict mode; with ``loss`` also the mean of its values.

    Args:
        metrics: as of `fit`.
    Returns:
        By name, such as ``{"accuracy": 0.98, "loss": 0.07}``; nan if there are no data.
    Raises:
        ShapeError: ``loss`` gives one value for a batch.
    """
    meter = _meter(metrics)
    total, samples = 0.0, 0
    with autograd.predict_mode():
        for x, y in data:
            out = net(x)
            meter.update(y, out)
            if loss is not None:
                total += float(np.mean(_each(loss(out, y), len(x)).asnumpy(), dtype=np.float64)) * len(x)
                samples += len(x)
    found = dict(meter.get_name_value())
    return {**found, "loss": total / samples if samples else math.nan} if loss is not None else found


def _meter(metrics: Metrics | None) -> EvalMetric:
    metrics = ClassAccuracy() if metrics is None else metrics
    meter = create_metric(metrics if isinstance(metrics, str | EvalMetric) else list(metrics))
    meter.reset()
    return meter
