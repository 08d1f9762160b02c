"""Norms over whole keys: LARS, LAMB and clipping give the same bits however many servers there are."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn
from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.local import LocalKVStore
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

SHAPES = {"a": (40, 30), "b": (7,), "c": (9, 5), "d": (1500,)}
TINY = 1024

RULES: dict[str, optim.Optimizer] = {
    "lars": optim.LARS(learning_rate=0.5, momentum=0.9, eta=0.1, wd=0.01),
    "lamb": optim.LAMB(learning_rate=0.05, wd=0.01),
    "lans": optim.LANS(learning_rate=0.05, wd=0.01),
    "clip": optim.SGD(learning_rate=0.1, momentum=0.9, clip_norm=0.5),
    "sgld": optim.SGLD(learning_rate=0.01, seed=7),
}


def gradient(step: int, rank: int, name: str) -> Any:
    return np.random.default_rng([step, rank, ord(name)]).normal(size=SHAPES[name]).astype(np.float32)


def by_hand(rule: optim.Optimizer, workers: int) -> dict[str, Any]:
    """One process that reduces in rank order and makes the optimizer's step."""
    values = {n: np.full(s, 0.5, np.float32) for n, s in SHAPES.items()}
    states = {n: rule.init(v) for n, v in values.items()}
    for step in range(3):
        for n, value in values.items():
            total = gradient(step, 0, n)
            for rank in range(1, workers):
                total = total + gradient(step, rank, n)
            total = total / np.float32(workers) if workers > 1 else total
            rule.step(value, total, states[n], step + 1, wd_mult=0.0 if n == "b" else 1.0, name=n)
    return values


def train(kv: KVStore, rule: optim.Optimizer, fuse: bool, first: bool = False) -> dict[str, Any]:
    """Three steps; with ``first`` the optimizer is there before the keys, which are whole without being asked."""
    names = list(SHAPES)
    if first:
        kv.set_optimizer(rule, wd_mult={"b": 0.0})
    kv.init(names, [np.full(s, 0.5, np.float32) for s in SHAPES.values()], fuse=fuse, whole=not first)
    if not first:
        kv.set_optimizer(rule, wd_mult={"b": 0.0})
    for step in range(3):
        kv.pushpull(names, [gradient(step, kv.rank, n) for n in names])
    return dict(zip(names, kv.pull(names), strict=True))


@pytest.mark.net
@pytest.mark.parametrize("name", RULES)
def test_any_number_of_servers_gives_the_bits_of_one_process(name: str) -> None:
    want = by_hand(RULES[name], 2)
    for servers, fuse, first in ((1, False, True), (2, True, False), (4, False, False)):
        with thread_cluster(2, servers, slice_bytes=TINY) as cluster:
            for found in cluster.each(lambda kv: train(kv, RULES[name], fuse, first)):  # noqa: B023  # at once
                assert all(np.array_equal(found[n], want[n]) for n in SHAPES), (servers, fuse)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("fuse", [False, True])
def test_the_local_store_gives_them_too(name: str, fuse: bool) -> None:
    want, found = by_hand(RULES[name], 1), train(LocalKVStore(), RULES[name], fuse)
    assert all(np.array_equal(found[n], want[n]) for n in SHAPES)


def refused(kv: KVStore) -> None:
    kv.init(["a", "b"], [np.ones(SHAPES["a"], np.float32), np.ones(7, np.float32)])
    with pytest.raises(ConfigError, match=r"optimizer 'lamb' needs the norm of the whole key, but 'a' is cut into"):
        kv.set_optimizer(optim.LAMB())
    with pytest.raises(ConfigError, match=r"clip_norm needs the norm .* whole=True\), or call set_optimizer before"):
        kv.set_optimizer(optim.SGD(clip_norm=1.0))
    kv.set_optimizer(optim.SGD(learning_rate=1.0))
    kv.push(["a", "b"], [np.ones(SHAPES["a"], np.float32), np.ones(7, np.float32)])
    assert not kv.pull("a").any()


@pytest.mark.net
def test_sliced_keys_are_refused_with_what_to_do() -> None:
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        cluster.each(refused)


def contradicts(kv: KVStore) -> None:
    kv.set_optimizer(optim.LAMB())
    with pytest.raises(ConfigError, match="no norm of the whole key"):
        kv.init("e", np.ones((4, 2), np.float32), rows=True)


@pytest.mark.net
def test_rows_and_whole_keys_contradict_each_other() -> None:
    with thread_cluster(1, 1) as cluster:
        cluster.each(contradicts)


def fit(kv: KVStore) -> Any:
    shoal.random.seed(0)
    net = nn.Dense(300, in_units=40)
    net.initialize(shoal.init.Xavier())
    trainer = shoal.Trainer(net.collect_params(), optim.LAMB(learning_rate=0.01, wd=0.1), kvstore=kv)
    x = shoal.np.array(np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32))
    for _ in range(2):
        with autograd.record():
            loss = (net(x) ** 2).mean()
        loss.backward()
        trainer.step(8)
    return next(iter(net.collect_params().values())).data().asnumpy()


@pytest.mark.net
def test_a_trainer_keeps_its_parameters_whole_for_an_optimizer_that_needs_it() -> None:
    want = fit(LocalKVStore())
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        assert np.array_equal(cluster.each(fit)[0], want)


def too_large(kv: KVStore) -> None:
    with pytest.raises(ConfigError, match=r"key 'w' has 4000 bytes; a key that is kept whole has at most 3999"):
        kv.init("w", np.zeros(1000, np.float32), whole=True)


@pytest.mark.net
def test_a_whole_key_that_cannot_travel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.kvstore.client.initial.MAX_FRAME_BYTES", 3999)
    with thread_cluster(1, 1) as cluster:
        cluster.each(too_large)


@pytest.mark.net
@pytest.mark.slow
def test_a_whole_key_may_be_larger_than_64_megabytes() -> None:
    def work(kv: KVStore) -> Any:
        size = (68 << 20) // 4
        kv.init("w", np.zeros(size, np.float32), whole=True)
        kv.set_optimizer(optim.SGD(learning_rate=1.0, clip_norm=1.0))
        g = np.zeros(size, np.float32)
        g[-1] = 8.0
        kv.push("w", g)
        return kv.pull("w")[-1]

    with thread_cluster(1, 2) as cluster:
        assert cluster.each(work) == [-1.0]
