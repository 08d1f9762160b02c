"""Weights that a script writes itself, in the course of training."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn
from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.local import LocalKVStore
from tests.kvstore.threads import thread_cluster


def begun(kvstore: Any, **options: Any) -> tuple[nn.Dense, shoal.Trainer]:
    """A model whose weight loses 0.1 with each step, and has made one."""
    net = nn.Dense(1, in_units=1, use_bias=False)
    net.initialize(shoal.init.One())
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=kvstore, **options)
    step(net, trainer)
    return net, trainer


def step(net: nn.Dense, trainer: shoal.Trainer) -> float:
    with autograd.record():
        loss = net(shoal.np.ones((1, 1))).sum()
    loss.backward()
    trainer.step(1)
    return float(net.weight.data().item())


@pytest.mark.parametrize("kvstore", ["auto", "local", None])
def test_a_weight_that_is_written_is_where_training_goes_on(kvstore: str | None) -> None:
    net, trainer = begun(kvstore)
    net.weight.set_data(np.array([[7.0]]))
    assert step(net, trainer) == pytest.approx(6.9)
    net.weight.data()[:] = 3.0
    assert step(net, trainer) == pytest.approx(2.9)
    net.initialize(shoal.init.One(), force_reinit=True)
    assert step(net, trainer) == pytest.approx(0.9)


def test_clipped_weights_stay_clipped() -> None:
    net, trainer = begun("local")
    for _ in range(3):
        net.weight.set_data(net.weight.data().clip(4.0, 5.0))
        assert step(net, trainer) == pytest.approx(3.9)


def test_a_store_whose_pulls_are_compressed_keeps_its_own_numbers() -> None:
    net, trainer = begun("local", compression_params={"type": "fp16", "pull": "fp16"})
    value = trainer._site.store._table.cells[0].value  # type: ignore[attr-defined]
    assert not np.may_share_memory(value, net.weight.data().data)


def test_memory_with_gaps_is_taken_over_at_each_call() -> None:
    store, wide = LocalKVStore(), np.zeros((2, 2), np.float32)
    store.init("w", wide[:, 0])
    wide[:, 0] = 3.0
    store.adopt({"w": wide[:, 0]})
    assert store.pull("w").tolist() == [3.0, 3.0]


@pytest.mark.net
def test_where_the_weights_are_on_servers_it_is_refused_and_says_what_to_do() -> None:
    def train(store: KVStore) -> str:
        net, trainer = begun(store)
        net.weight.set_data(np.array([[7.0]]))
        with pytest.raises(ConfigError) as error:
            step(net, trainer)
        return str(error.value)

    with thread_cluster(1, 1) as cluster:
        (said,) = cluster.each(train)
    assert "'weight' was written" in said and "before the first step" in said


@pytest.mark.net
def test_weights_that_are_updated_here_may_be_written_in_a_cluster_too() -> None:
    def train(store: KVStore) -> float:
        net, trainer = begun(store, update_on_kvstore=False)
        net.weight.set_data(np.array([[7.0]]))
        return step(net, trainer)

    with thread_cluster(1, 1) as cluster:
        assert cluster.each(train) == [pytest.approx(6.9)]
