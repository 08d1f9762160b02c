"""Half-precision weights with float32 masters on the servers."""

from typing import Any

import numpy as np
import pytest

from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import BFLOAT16
from shoal.kvstore.local import LocalKVStore
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

HALVES = [np.dtype(np.float16), BFLOAT16]
TINY = 256


def gradient(step: int, rank: int, dtype: Any, size: int = 400) -> Any:
    return np.random.default_rng([step, rank]).normal(size=size).astype(np.float32).astype(dtype)


def train(kv: KVStore, dtype: Any, rule: optim.Optimizer, **how: bool) -> Any:
    kv.init(["w", "v"], [np.ones(400, dtype), np.ones(3, dtype)], **how)
    kv.set_optimizer(rule)
    for step in range(5):
        kv.pushpull(["w", "v"], [gradient(step, kv.rank, dtype), gradient(step, kv.rank, dtype, 3)])
    return np.concatenate(kv.pull(["w", "v"]))


def by_hand(dtype: Any, rule: optim.Optimizer, workers: int) -> Any:
    """The same in float32, rounded at the end."""
    found = []
    for size in (400, 3):
        value = np.ones(size, np.float32)
        state = rule.init(value)
        for step in range(5):
            total = gradient(step, 0, dtype, size).astype(np.float32)
            for rank in range(1, workers):
                total = total + gradient(step, rank, dtype, size).astype(np.float32)
            rule.step(value, total / np.float32(workers), state, step + 1)
        found.append(value.astype(dtype))
    return np.concatenate(found)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("fuse", [False, True])
def test_weights_are_those_of_float32_training_rounded_once(dtype: Any, fuse: bool) -> None:
    rule = optim.Adam(learning_rate=1e-3, multi_precision=True)
    found = train(LocalKVStore(), dtype, rule, fuse=fuse)
    assert found.dtype == dtype and np.array_equal(found, by_hand(dtype, rule, 1))


@pytest.mark.net
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("how", [{}, {"fuse": True}, {"whole": True}])
def test_servers_keep_masters_and_reduce_in_float32(dtype: Any, how: dict[str, bool]) -> None:
    rule = optim.SGD(learning_rate=1e-3, momentum=0.9, multi_precision=True)
    want = by_hand(dtype, rule, 3)
    with thread_cluster(3, 2, slice_bytes=TINY) as cluster:
        for found in cluster.each(lambda kv: train(kv, dtype, rule, **how)):
            assert found.dtype == dtype and np.array_equal(found, want)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("masters", [False, True])
def test_updates_too_small_for_half_precision_add_up_in_a_master_only(dtype: Any, masters: bool) -> None:
    kv = LocalKVStore()
    kv.init("w", np.ones(4, dtype))
    kv.set_optimizer(optim.SGD(learning_rate=1e-4, multi_precision=masters))
    for _ in range(1000):
        kv.push("w", np.ones(4, dtype))
    want = 0.9 if masters else 1.0
    np.testing.assert_allclose(kv.pull("w").astype(np.float32), want, rtol=4e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_masters_can_be_asked_for_later_and_momentum_stays(dtype: Any) -> None:
    kv = LocalKVStore()
    kv.init("w", np.ones(4, dtype))
    kv.set_optimizer(optim.SGD(learning_rate=0.1, momentum=0.9))
    kv.push("w", np.ones(4, dtype))
    kv.set_optimizer(optim.SGD(learning_rate=0.1, momentum=0.9, multi_precision=True))
    updates, state = kv.optimizer_states()["w"]
    assert updates == 1 and state["momentum"].tolist() == [1.0] * 4
    assert np.array_equal(state["master"], kv.pull("w").astype(np.float32))


@pytest.mark.net
@pytest.mark.parametrize("mode", ["bsp", "asp", "essp:2"])
def test_bfloat16_is_pushed_and_pulled_without_an_optimizer(mode: str) -> None:
    def work(kv: KVStore) -> Any:
        kv.init("w", np.zeros(1000, BFLOAT16))
        kv.push("w", np.full(1000, 3.0).astype(BFLOAT16))
        kv.barrier()
        out = np.empty(1000, BFLOAT16)
        return kv.pull("w", out)

    with thread_cluster(2, 2, mode, slice_bytes=TINY) as cluster:
        for found in cluster.each(work):
            assert found.dtype == BFLOAT16 and set(found.astype(np.float32).tolist()) == {3.0}
