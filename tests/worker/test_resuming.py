"""Trainers that go on from states that were on servers, and what a checkpoint takes over of the script."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import nn
from shoal.errors import CheckpointError, ConfigError
from shoal.kvstore.api import KVStore
from shoal.ops import optim, random
from shoal.worker import resuming
from shoal.worker.checkpoints import Checkpoints
from tests.kvstore.threads import thread_cluster
from tests.worker.test_trainer import give, parameter

GRADS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _address() -> Any:
    yield
    random.set_address(step=0)


def trained(store: KVStore | None, optimizer: str = "adam", strategy: str | None = None) -> tuple[Any, shoal.Trainer]:
    p = parameter("w", [1.0, 2.0, 3.0])
    return p, shoal.Trainer([p], optimizer, {"learning_rate": 0.1}, kvstore=store, strategy=strategy)


def train(p: Any, trainer: shoal.Trainer, first: int, last: int) -> Any:
    for g in GRADS[first:last]:
        give(p, list(g))
        trainer.step(1)
    return p.data().asnumpy()


@pytest.mark.net
def test_a_trainer_of_a_cluster_goes_on_from_its_states_with_other_servers(tmp_path: Path) -> None:
    path = tmp_path / "states"

    def first(store: KVStore) -> Any:
        p, trainer = trained(store)
        train(p, trainer, 0, 3)
        if store.rank == 0:
            trainer.save_states(path)
        store.barrier()
        return train(p, trainer, 3, 6)

    def second(store: KVStore) -> Any:
        p, trainer = trained(store)
        trainer.load_states(path)
        assert trainer.steps == 3
        return train(p, trainer, 3, 6)

    with thread_cluster(2, 1) as cluster:
        wanted, _ = cluster.each(first)
    with thread_cluster(2, 2) as cluster:
        found, _ = cluster.each(second)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.net
def test_states_are_not_loaded_into_servers_that_have_begun(tmp_path: Path) -> None:
    with thread_cluster(1, 1) as cluster:
        p, trainer = trained(cluster.store(0))
        train(p, trainer, 0, 1)
        trainer.save_states(tmp_path / "states")
        with pytest.raises(ConfigError, match="load states before the first step"):
            trainer.load_states(tmp_path / "states")


@pytest.mark.net
def test_of_a_strategy_with_local_steps_the_outer_states_are_kept(tmp_path: Path) -> None:
    def run(store: KVStore, kept: Any) -> Any:
        p, trainer = trained(store, "sgd", "bmuf:h=1,mu=0.5")  # the inner optimizer begins anew with each block
        if kept is not None:
            p.set_data(kept.params["w"])
            assert trainer.go_on(kept) and not trainer.go_on(kept)
        train(p, trainer, 0 if kept is None else 3, 3 if kept is None else 6)
        now = trainer.kept()
        return now if kept is not None else (now, train(p, trainer, 3, 6))

    with thread_cluster(2, 1) as cluster:
        (kept, wanted), _ = cluster.each(lambda store: run(store, None))
    with thread_cluster(2, 1) as cluster:
        found, _ = cluster.each(lambda store: run(store, kept))
    assert found.meta["steps"] == 6
    np.testing.assert_array_equal(found.params["w"], wanted)


def begun(strategy: str | None = None, **rate: Any) -> Any:
    return {**trained(None)[1].kept().meta, **rate}


@pytest.mark.parametrize(
    ("then", "now", "asked", "wanted"),
    [
        (0.1, 0.1, 0.1, 0.1),
        (0.1, 0.02, 0.1, 0.02),  # changed in the course of the run
        (0.1, 0.02, 0.5, 0.5),  # the script gives another rate than it did
    ],
)
def test_a_changed_rate_stays_changed_unless_the_script_says_otherwise(
    then: float, now: float, asked: float, wanted: float
) -> None:
    meta = {"hyper": {"asked": {"learning_rate": then, "eps": 1e-8}, "now": {"learning_rate": now, "eps": 1e-8}}}
    present = optim.create("adam", learning_rate=asked)
    found = resuming.optimizer_of(meta, present, present.spec().params)
    assert found.learning_rate == wanted


def test_states_of_another_optimizer_begin_anew_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    p, trainer = trained(None)
    train(p, trainer, 0, 2)
    _, other = trained(None, "sgd")
    with caplog.at_level(logging.WARNING):
        assert other.go_on(trainer.kept())
    assert "the checkpoint has states of adam (gradient), this trainer is sgd (gradient)" in caplog.text
    assert other.steps == 2


def test_fit_goes_on_in_one_process_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the trainer's parameters need not be those of the model."""
    x, y = np.eye(4, 3, dtype=np.float32), np.ones((4, 1), np.float32)
    monkeypatch.setenv("SHOAL_CHECKPOINT", str(tmp_path))

    def fit(epochs: int) -> Any:
        random.set_address(step=0)
        net = nn.HybridSequential()
        net.add(nn.Dense(1, in_units=3), nn.Dropout(0.5))
        net.initialize(shoal.init.Zero())
        params = list(net.collect_params().values())
        trainer = shoal.Trainer(params, "sgd", {"learning_rate": 0.1, "momentum": 0.9})
        data = shoal.data.DataLoader(shoal.data.ArrayDataset(x, y), batch_size=2)
        shoal.fit(net, data, loss=nn.L2Loss(), trainer=trainer, epochs=epochs, metrics="mse")
        return params[0].data().asnumpy()

    whole = fit(3)
    monkeypatch.setenv("SHOAL_RESUME", Checkpoints(str(tmp_path)).path(2))
    np.testing.assert_array_equal(fit(3), whole)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Checkpoints(str(tmp_path)).save(1, {"v": np.ones(3)})
    monkeypatch.setenv("SHOAL_RESUME", path)
    net = nn.Dense(1, in_units=3)
    net.initialize()
    trainer = shoal.Trainer(net.collect_params(), "sgd")
    with pytest.raises(CheckpointError, match="this model has"):
        shoal.fit(net, [], loss=nn.L2Loss(), trainer=trainer, epochs=1)
