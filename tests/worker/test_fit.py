"""`fit` and `evaluate`: what they refuse, and what they do with losses that are not numbers."""

import math
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import nn, np
from shoal.errors import ConfigError, ShapeError
from shoal.worker import record
from shoal.worker.checkpoints import Checkpoints

BATCHES = [(np.ones((4, 2)), np.ones((4, 1)))] * 2


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    monkeypatch.setenv("SHOAL_CHECKPOINT", str(tmp_path))
    return Checkpoints(str(tmp_path))


def model() -> tuple[nn.Dense, shoal.Trainer]:
    net = nn.Dense(1, in_units=2)
    net.initialize(shoal.init.One())
    return net, shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})


def fit(loss: Any = None, data: Any = BATCHES, net: Any = None, **options: Any) -> Any:
    net, trainer = net or model()
    given = {"metrics": "mse", "epochs": 2, **options}
    return shoal.fit(net, data, loss=loss or nn.L2Loss(), trainer=trainer, **given)


def masked(out: Any, y: Any) -> Any:
    """Not a number, with gradients of zero."""
    return (out * 0.0).sum(axis=1) + math.nan


def test_a_loss_that_is_not_a_number_is_said_and_the_epoch_counts(
    kept: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    history = fit(masked, val_data=BATCHES)
    assert math.isnan(history.epochs[0]["loss"]) and history.epochs[0]["val_mse"] == 1.0
    assert kept.epochs() == [1, 2] and "epoch 1: the loss is nan" in caplog.text


def test_weights_that_are_not_finite_are_not_kept(kept: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    class Diverges(shoal.Callback):
        def on_train_batch_end(self, step: int, logs: dict[str, float]) -> None:
            if kept.epochs():
                net.weight.set_data(np.array([[math.inf, 1.0]]))

    net, trainer = model()
    fit(net=(net, trainer), data=BATCHES[:1], callbacks=[Diverges()])
    assert kept.epochs() == [1] and "'weight' has values that are not finite; the checkpoints before" in caplog.text


@pytest.mark.parametrize("loss", [lambda o, y: ((o - y) ** 2).mean(), lambda o, y: (o - y).sum()])
def test_one_loss_for_a_batch_is_refused(loss: Any) -> None:
    with pytest.raises(ShapeError, match=r"one value, of shape \(\), for a batch of 4 samples; .* leave out .mean"):
        fit(loss)
    with pytest.raises(ShapeError, match="one value"):
        shoal.evaluate(model()[0], BATCHES, "mse", loss)


def test_losses_of_several_values_a_sample_have_the_same_mean_in_training_and_evaluation() -> None:
    net, trainer = model()
    trainer.set_learning_rate(0.0)
    losses = lambda o, y: (o - y) * np.array([[1.0, 2.0, 6.0]])  # noqa: E731
    history = fit(losses, net=(net, trainer), val_data=BATCHES, epochs=1)
    assert history.epochs[0]["loss"] == history.epochs[0]["val_loss"] == pytest.approx(3.0)


def test_nothing_to_evaluate_is_not_a_loss_of_zero() -> None:
    assert math.isnan(shoal.evaluate(model()[0], [], "mse", nn.L2Loss())["loss"])


def test_an_iterator_has_only_one_pass() -> None:
    with pytest.raises(ConfigError, match="train_data is a list_iterator, which gives its batches once"):
        fit(data=iter(BATCHES))
    with pytest.raises(ConfigError, match="val_data is a generator"):
        fit(val_data=(b for b in BATCHES))
    assert len(fit(data=iter(BATCHES), epochs=1).epochs) == 1


def test_a_checkpoint_after_the_last_epoch_leaves_nothing_to_train_and_that_is_said(
    kept: Checkpoints, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit()
    monkeypatch.setenv("SHOAL_RESUME", kept.path(2))
    assert fit().epochs == []
    assert "nothing is trained: the checkpoint is of a run of 2 epochs, and epochs=2" in caplog.text


def test_checkpoints_of_a_longer_run_do_not_push_out_this_ones(kept: Checkpoints) -> None:
    for epoch in (4, 5, 6):
        kept.save(epoch, {"w": np.ones(1)})
    fit()
    assert kept.epochs() == [1, 2, 4, 5, 6]


def test_an_accuracy_of_numbers_is_not_reported() -> None:
    net, _ = model()
    net.weight.set_data(np.array([[0.3, 0.4]]))
    trainer = shoal.Trainer(net.collect_params(), "sgd")
    assert math.isnan(fit(metrics=None, val_data=BATCHES, net=(net, trainer)).final["accuracy"])
    assert record.current().summary()["metrics"].keys() == {"loss"}
