"""A Trainer, and `fit`, in a process that joins a run that is under way, or takes another's place."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import nn
from shoal.errors import MembershipError
from shoal.kvstore import api
from shoal.kvstore.local import LocalKVStore
from shoal.ops import random
from shoal.worker import strategies
from shoal.worker.data.course import Course, boundary, current_course
from tests.worker.crowd import Crowd, Seat, on

W = np.array([[3.0, 4.0]], np.float32)


class Filled(LocalKVStore):
    """A store that others have filled: their values stay."""

    def init(self, key: Any, value: Any, **options: Any) -> None:
        super().init(key, [W for _ in value], **options)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"0.weight": W.shape}


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stores are those of the run."""
    api.attach(lambda mode, reduce: Filled())
    monkeypatch.setattr("shoal.worker.trainer.DistKVStore", Filled)
    yield
    api.attach(None)
    random.set_address(step=0)


def net(in_units: int = 2) -> nn.HybridSequential:
    made = nn.HybridSequential()
    made.add(nn.Dense(1, in_units=in_units, use_bias=False))
    made.initialize(shoal.init.Zero())
    return made


def trainer(model: Any, **options: Any) -> shoal.Trainer:
    return shoal.Trainer(model.collect_params(), "sgd", {"learning_rate": 0.0}, **options)


def replacement(crowd: Crowd, counted: int = 5) -> Course:
    return Course(1, Seat(crowd, 1), lambda store: counted)


def loader(samples: int = 8) -> Any:
    x = np.arange(2.0 * samples, dtype=np.float32).reshape(samples, 2)
    return shoal.data.DataLoader(shoal.data.ArrayDataset(x, x[:, :1]), 1, shuffle=True)


def grow(model: Any, x: Any, learner: shoal.Trainer) -> None:
    with shoal.autograd.record():
        loss = (model(x) ** 2).sum()
    loss.backward()
    learner.step(1)


def test_a_replacement_counts_the_steps_of_the_one_before() -> None:
    with on(replacement(Crowd(2))):
        model = net()
        learner = trainer(model)
        assert learner.steps == 5


@pytest.mark.parametrize("in_units", [2, 0])
def test_the_first_batch_of_a_replacement_meets_the_stores_weights(in_units: int) -> None:
    with on(replacement(Crowd(2))):
        model = net(in_units)
        learner = trainer(model)
        data = loader()
        assert list(data) == []  # the first pass has four batches for each: all of them are counted
        x, _ = next(iter(data))
        out = model(x).asnumpy()
        np.testing.assert_allclose(out, x.asnumpy() @ W.T)
        grow(model, x, learner)
        assert learner.steps == 6 == random.address().step
        assert current_course().cursor()["pushes"] == 6


def test_gradients_of_weights_that_had_not_come_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    with on(replacement(Crowd(2))), caplog.at_level(logging.WARNING):
        model = net()
        learner = shoal.Trainer(model.collect_params(), "sgd", {"learning_rate": 1.0})
        grow(model, shoal.np.ones((1, 2)), learner)  # no loader tells the Trainer in time
        np.testing.assert_array_equal(model[0].weight.data().asnumpy(), W)
        assert "count as zero" in caplog.text
        grow(model, shoal.np.ones((1, 2)), learner)
        assert not np.array_equal(model[0].weight.data().asnumpy(), W)


def test_where_the_weights_are_on_the_workers_nobody_can_come_later() -> None:
    with on(replacement(Crowd(2))), pytest.raises(MembershipError, match=r"worker 1 .* update_on_kvstore=False"):
        trainer(net(), update_on_kvstore=False, kvstore=LocalKVStore())


def test_without_a_loader_the_end_of_a_step_is_a_boundary() -> None:
    crowd = Crowd(1)
    seat = Seat(crowd, 0)
    with on(Course(0, seat)):
        model = net()
        learner = trainer(model)
        grow(model, shoal.np.ones((1, 2)), learner)
        seat.changing = True
        seat.arrives = lambda: crowd.share((0, 1))
        grow(model, shoal.np.ones((1, 2)), learner)
        assert seat.seen == [{"steps": 2, "at": 0, "pushes": 2, "total": 2, "over": False}]


@pytest.mark.parametrize(("spec", "pushes", "steps"), [("local:h=4", 1, 3), ("easgd:tau=4", 1, 3), ("gradient", 3, 3)])
def test_local_steps_are_contributed_before_the_set_changes(spec: str, pushes: int, steps: int) -> None:
    crowd = Crowd(1)
    seat = Seat(crowd, 0)
    with on(Course(0, seat)):
        model = net()
        reduce = "sum" if spec.startswith("easgd") else "mean"
        learner = trainer(model, strategy=spec, kvstore=LocalKVStore(reduce))
        for _ in range(2):
            grow(model, shoal.np.ones((1, 2)), learner)
        seat.changing = True
        grow(model, shoal.np.ones((1, 2)), learner)
        assert (seat.seen[0]["pushes"], seat.seen[0]["total"]) == (pushes, steps)


def test_local_steps_of_who_leaves_are_given_up() -> None:
    seat = Seat(Crowd(1), 0)
    with on(Course(0, seat)):
        model = net()
        learner = trainer(model, strategy="local:h=4", kvstore=LocalKVStore())
        grow(model, shoal.np.ones((1, 2)), learner)
        seat.changing, seat.leaving = True, "stopped by SIGTERM"
        grow(model, shoal.np.ones((1, 2)), learner)
        assert seat.seen[0]["pushes"] == 0


@pytest.mark.parametrize(
    ("spec", "steps"),
    [("gradient", 3), ("local:h=4", 12), ("bmuf:h=5", 15), ("diloco:h=6", 18), ("easgd:tau=2", 6), ("dn:h=7", 21)],
)
def test_every_strategy_knows_how_many_steps_three_pushes_are(spec: str, steps: int) -> None:
    assert strategies.parse(spec).steps_of(3) == steps


class Seen(shoal.Callback):
    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.logs.append(logs)


def test_fit_of_a_newcomer_has_all_epochs_and_nothing_to_say_of_those_before() -> None:
    crowd = Crowd(2)
    seat = Seat(crowd, 2)
    crowd.cursors = {str(r): {"at": 4, "pushes": 4, "total": 4, "over": False} for r in (0, 1)}
    seat.arrives = lambda: crowd.share((1, 2), w0=4)
    with on(Course(2, seat, None, True)):
        model, seen = net(), Seen()
        learner = trainer(model)
        history = shoal.fit(
            model,
            loader(),
            loss=nn.L2Loss(),
            trainer=learner,
            epochs=2,
            val_data=loader(2),
            metrics="mse",
            callbacks=[seen],
        )
        assert math.isnan(history.epochs[0]["loss"]) and math.isnan(history.epochs[0]["mse"])
        assert history.epochs[1]["loss"] > 0 and learner.steps == 4 + 4
        assert [sorted(logs) for logs in seen.logs] == [["loss", "mse"], ["loss", "mse"]]
        assert history.final == {}  # worker 1 is the first of those that are there


def test_the_first_that_is_there_evaluates() -> None:
    crowd = Crowd(3)
    crowd.shares.append(type(crowd.shares[0])((1, 2), {}, {"0": (3, 3)}))
    with on(Course(1, Seat(crowd, 1), lambda store: 0)):
        model = net()
        val = shoal.data.DataLoader(shoal.data.ArrayDataset(np.ones((2, 2), "f4"), np.ones((2, 1), "f4")), 2)
        options: dict[str, Any] = {"loss": nn.L2Loss(), "epochs": 2, "val_data": val, "metrics": "mse"}
        history = shoal.fit(model, loader(), trainer=trainer(model), **options)
        assert history.final["mse"] == pytest.approx(36.0)


def test_a_loop_of_its_own_comes_to_a_boundary_before_each_batch() -> None:
    crowd = Crowd(2)
    seat = Seat(crowd, 0)
    with on(Course(0, seat)):
        assert (boundary().ranks, boundary().done) == ((0, 1), 1)
        seat.changing = True
        seat.arrives = lambda: crowd.share((0,), w1=1)
        third = boundary()
        assert (third.ranks, third.index, third.done) == ((0,), 0, 2)
        seat.changing = True
        boundary()
        assert [(c["pushes"], c["steps"]) for c in seat.seen] == [(2, 2), (3, 1)]


def test_a_script_by_itself_has_the_boundaries_of_one_worker() -> None:
    assert [boundary().index, boundary().ranks] == [0, (0,)]
