"""Settings that change while a store is in use: the same bits as a script that changes them between two steps."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.kvstore.local import LocalKVStore
from shoal.ops import optim
from tests.worker.runs import run

SIZES = {"a": 600_000, "b": 5}  # two slices and one


def sgd(lr: float = 0.1, momentum: float = 0.9) -> optim.Optimizer:
    return optim.create("sgd", learning_rate=lr, momentum=momentum)


def prepare(kv: Any, optimizer: optim.Optimizer | None = None) -> None:
    for name, size in SIZES.items():
        kv.init(name, np.ones(size, np.float32))
    kv.set_optimizer(optimizer or sgd())


def steps(kv: Any, first: int, last: int) -> None:
    for t in range(first, last):
        for name, size in SIZES.items():
            grad = np.random.default_rng((t, kv.rank, size)).standard_normal(size).astype(np.float32)
            kv.pushpull(name, grad, np.empty_like(grad))


def weights(kv: Any) -> bytes:
    return b"".join(kv.pull(name).tobytes() for name in SIZES)


def configured(kv: Any) -> bytes:
    prepare(kv)
    steps(kv, 0, 3)
    kv.set_optimizer(sgd(0.01))
    steps(kv, 3, 6)
    return weights(kv)


def controlled(kv: Any) -> bytes:
    prepare(kv)
    if kv.rank == 0:
        kv.control(lr=0.01, at_clock=3)
    steps(kv, 0, 6)
    return weights(kv)


def controlled_by_all_at_the_step(kv: Any) -> bytes:
    prepare(kv)
    steps(kv, 0, 3)
    assert kv.control(lr=0.01) == 1
    steps(kv, 3, 6)
    return weights(kv)


def controlled_by_one_at_the_step(kv: Any) -> bytes:
    prepare(kv)
    steps(kv, 0, 3)
    if kv.rank == 1:
        kv.control(lr=0.01)
    steps(kv, 3, 6)
    return weights(kv)


@pytest.mark.parametrize("servers", [1, 3])
def test_a_change_at_a_clock_is_a_new_optimizer_between_two_steps(servers: int) -> None:
    found = set()
    for way in (configured, controlled, controlled_by_all_at_the_step, controlled_by_one_at_the_step):
        with run(2, servers, "bsp") as r:
            found |= set(r.each(way))
    assert len(found) == 1


def test_the_report_says_what_was_changed_by_whom_and_when_each_server_took_it() -> None:
    def work(kv: Any) -> None:
        prepare(kv)
        if kv.rank == 0:
            kv.control(momentum=0.5, at_clock=2)
        steps(kv, 0, 3)

    with run(2, 2, "bsp") as r:
        r.each(work)
        end = r.finish()
    (change,) = end["last"].changes
    assert change.settings == {"momentum": 0.5} and change.at_clock == 2 and change.by.startswith("worker 0 (")
    taken = [s["changes"]["1"] for s in end["servers"]]
    assert sum(t[0] for t in taken) == 3 and {v for t in taken for v in t[1:]} == {2}


def test_an_unknown_setting_is_refused_at_once_with_those_that_there_are() -> None:
    def work(kv: Any) -> None:
        prepare(kv)
        kv.control(beta=0.5)

    with run(1, 1, "ssp:2") as r:
        (error,) = r.each(work)
    assert isinstance(error, ConfigError) and "known: lr, learning_rate, wd" in str(error) and "momentum" in str(error)


def test_slack_and_codec_change_under_ssp_and_the_ledger_balances() -> None:
    def work(kv: Any) -> None:
        prepare(kv)
        steps(kv, 0, 3)
        kv.barrier()
        kv.control(s=0, codec="2bit", at_clock=4)
        steps(kv, 3, 8)
        kv.barrier()

    with run(2, 2, "ssp:2") as r:
        assert r.each(work) == [None, None]
        end = r.finish()
    assert [s["ledger"]["0"]["rejected"] for s in end["servers"]] == [0, 0]
    assert [w["changes"] for w in end["workers"]] == [{"1": [3, 4, 4]}] * 2
    assert all(w["bytes_pushed"] < w["bytes_dense"] for w in end["workers"])


def compressed(kv: Any) -> bytes:
    prepare(kv)
    kv.set_gradient_compression("2bit:threshold=0.5")
    steps(kv, 0, 3)
    kv.set_gradient_compression("topk:ratio=0.1")
    steps(kv, 3, 6)
    return weights(kv)


def compressed_by_control(kv: Any) -> bytes:
    prepare(kv)
    kv.set_gradient_compression("2bit:threshold=0.5")
    if kv.rank == 0:
        kv.control(codec="topk:ratio=0.1", at_clock=3)
    steps(kv, 0, 6)
    return weights(kv)


def test_a_codec_that_changes_at_a_clock_hands_its_residual_over() -> None:
    found = set()
    for way in (compressed, compressed_by_control):
        with run(2, 2, "bsp") as r:
            found |= set(r.each(way))
    assert len(found) == 1


@pytest.mark.parametrize(("plain", "changed"), [(configured, controlled), (compressed, compressed_by_control)])
def test_a_local_store_takes_changes_in_the_same_way(plain: Any, changed: Any) -> None:
    assert plain(LocalKVStore()) == changed(LocalKVStore())


def test_a_local_store_refuses_what_it_cannot_take() -> None:
    kv = LocalKVStore()
    prepare(kv)
    with pytest.raises(ConfigError, match="no parameter 'beta'; known: lr"):
        kv.control(beta=1)
    with pytest.raises(ConfigError, match="no slack"):
        kv.control(s=1)
