"""Trainer with stores that only reduce: the update is made on the worker, by itself."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn
from shoal.errors import ConfigError
from shoal.kvstore.base import KVStoreBase


class Counting(KVStoreBase):
    """One worker; counts the arrays that are reduced."""

    rank, num_workers, type = 0, 1, "test-counting"

    def __init__(self, reduce: str = "mean") -> None:
        super().__init__(reduce)
        self.reduced = 0

    def broadcast_array(self, key: str, array: np.ndarray) -> None:
        """Worker 0's is this one's."""

    def reduce_array(self, key: str, array: np.ndarray) -> None:
        self.reduced += 1


def weights_after(kvstore: Any, steps: int = 3, **options: Any) -> tuple[list[np.ndarray], shoal.Trainer]:
    net = nn.Sequential()
    net.add(nn.Dense(3), nn.Dense(2))
    net.initialize(shoal.init.Xavier())
    trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.1}, kvstore=kvstore, **options)
    x = shoal.np.array(np.arange(8, dtype=np.float32).reshape(2, 4))
    for _ in range(steps):
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        trainer.step(2)
    return [p.data().data.copy() for p in net.collect_params().values()], trainer


def test_a_store_that_only_reduces_leaves_the_update_to_the_worker() -> None:
    kv = Counting()
    ours, trainer = weights_after(kv)
    assert trainer.kvstore is kv and kv.reduced == 3 * 4
    alone, _ = weights_after(None)
    for a, b in zip(ours, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_registered_store_is_found_by_the_trainer() -> None:
    shoal.kv.register("test-counting")(Counting)
    _, trainer = weights_after("test-counting")
    assert isinstance(trainer.kvstore, Counting)


def test_what_such_a_store_is_asked_for_in_vain_is_refused() -> None:
    with pytest.raises(ConfigError, match="update_on_kvstore=True: a store of type 'test-counting' only reduces"):
        weights_after(Counting(), update_on_kvstore=True)
    with pytest.raises(ConfigError, match="codecs make cannot be added"):
        weights_after(Counting(), compression_params="2bit")


def test_a_hogwild_store_updates_by_itself() -> None:
    hogwild, _ = weights_after("hogwild")
    local, _ = weights_after("local")
    for a, b in zip(hogwild, local, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="needs a synchronous store: under 'hogwild'"):
        weights_after("hogwild", update_on_kvstore=False)
