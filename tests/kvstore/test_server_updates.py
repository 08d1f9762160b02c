"""Multipliers, schedules and changes of the optimizer, as the servers carry them out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore.api import KVStore
from shoal.kvstore.events import Contribution
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.server.table import Table
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

TINY = 64
NAMES = ("a", "b", "c")


def ones(size: int = 50) -> Any:
    return np.ones(size, np.float32)


def multiplied(kv: KVStore, fuse: bool) -> list[Any]:
    kv.init(NAMES, [ones(), ones(), ones()], fuse=fuse)
    kv.set_optimizer(optim.SGD(learning_rate=0.5, wd=0.25), lr_mult={"a": 2.0, "b": 0.0}, wd_mult={"c": 0.0})
    kv.push(NAMES, [ones(), ones(), ones()])
    return [sorted(set(v.tolist())) for v in kv.pull(NAMES)]


MULTIPLIED = [[1.0 - 0.5 * 2.0 * 1.25], [1.0], [0.5]]


@pytest.mark.parametrize("fuse", [False, True])
def test_multipliers_of_rate_and_decay_are_by_key(fuse: bool) -> None:
    assert multiplied(LocalKVStore(), fuse) == MULTIPLIED


@pytest.mark.net
@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("fuse", [False, True])
def test_multipliers_reach_every_slice_on_every_server(servers: int, fuse: bool) -> None:
    with thread_cluster(2, servers, slice_bytes=TINY) as cluster:
        assert cluster.each(lambda kv: multiplied(kv, fuse)) == [MULTIPLIED] * 2


@pytest.mark.net
def test_multipliers_are_those_of_the_store_whose_key_it_is() -> None:
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        first, second = cluster.store(0), cluster.store(0)
        for kv, factor in ((first, 1.0), (second, 3.0)):
            kv.init("a", np.zeros(50, np.float32))
            kv.set_optimizer(optim.SGD(learning_rate=1.0), lr_mult={"a": factor})
            kv.push("a", ones())
        assert (first.pull("a")[0], second.pull("a")[0]) == (-1.0, -3.0)


SCHEDULES = st.one_of(
    st.builds(optim.FactorScheduler, step=st.integers(1, 4), factor=st.floats(0.1, 0.9), base_lr=st.just(1.0)),
    st.builds(
        optim.CosineScheduler, max_update=st.integers(5, 12), warmup_steps=st.integers(0, 3), base_lr=st.just(1.0)
    ),
)


@settings(max_examples=20)
@given(SCHEDULES)
def test_the_rate_follows_the_number_of_updates(schedule: optim.LRScheduler) -> None:
    kv, rule = LocalKVStore(), optim.SGD(lr_scheduler=schedule)
    kv.init("w", np.zeros(3))
    kv.set_optimizer(rule)
    want = 0.0
    for t in range(1, 15):
        kv.push("w", np.ones(3))
        want -= rule.rate(t)
        assert kv.pull("w")[0] == pytest.approx(want, rel=1e-12)


def scheduled(kv: KVStore) -> list[float]:
    kv.init("w", np.zeros(50, np.float64))
    kv.set_optimizer(optim.SGD(lr_scheduler=optim.FactorScheduler(step=2, factor=0.5, base_lr=1.0)))
    found = []
    for _ in range(6):
        kv.push("w", np.ones(50))
        found.append(float(kv.pull("w")[-1]))
    return found


@pytest.mark.net
@pytest.mark.parametrize("workers", [1, 3])
def test_in_rounds_the_rate_follows_the_clock_whatever_the_number_of_workers(workers: int) -> None:
    with thread_cluster(workers, 2, slice_bytes=TINY) as cluster:
        assert cluster.each(scheduled) == [[-1.0, -2.0, -2.5, -3.0, -3.25, -3.5]] * workers


@pytest.mark.net
def test_without_rounds_the_rate_follows_the_contributions() -> None:
    def work(kv: KVStore) -> float:
        kv.init("w", np.zeros(50, np.float64))
        kv.set_optimizer(optim.SGD(lr_scheduler=optim.FactorScheduler(step=2, factor=0.5, base_lr=1.0)))
        for _ in range(3):
            kv.push("w", np.ones(50))
        kv.barrier()
        return float(kv.pull("w")[-1])

    with thread_cluster(2, 2, "asp", slice_bytes=TINY) as cluster:
        assert cluster.each(work) == [-3.5, -3.5]


def changed(kv: KVStore, rules: list[optim.Optimizer]) -> Any:
    kv.init("w", np.zeros(50, np.float64))
    for rule in rules:
        kv.set_optimizer(rule)
        for _ in range(3):
            kv.push("w", np.ones(50))
    return kv.pull("w")


def by_hand(rules: list[optim.Optimizer]) -> Any:
    value = np.zeros(50)
    state, t = rules[0].init(value), 0
    for rule in rules:
        for _ in range(3):
            t += 1
            rule.step(value, np.ones(50), state, t)
    return value


CHANGES = {
    "rate": [optim.Adam(learning_rate=0.1), optim.Adam(learning_rate=0.01)],
    "momentum": [optim.SGD(momentum=0.9), optim.SGD(momentum=0.5)],
    "schedule": [
        optim.SGD(momentum=0.9, learning_rate=1.0),
        optim.SGD(momentum=0.9, lr_scheduler=optim.FactorScheduler(step=4, factor=0.1, base_lr=1.0)),
    ],
}


@pytest.mark.net
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_states_and_update_counts_on_every_server(change: str) -> None:
    with thread_cluster(2, 2, slice_bytes=TINY) as cluster:
        for found in cluster.each(lambda kv: changed(kv, CHANGES[change])):
            np.testing.assert_array_equal(found, by_hand(CHANGES[change]))


def test_momentum_that_is_turned_on_later_begins_at_zero_and_the_count_goes_on() -> None:
    kv = LocalKVStore()
    kv.init("w", np.zeros(2))
    kv.set_optimizer(optim.SGD(learning_rate=1.0))
    kv.push("w", np.ones(2))
    kv.set_optimizer(optim.SGD(learning_rate=1.0, momentum=0.5))
    updates, state = kv.optimizer_states()["w"]
    assert updates == 1 and state["momentum"].tolist() == [0.0, 0.0]


def test_another_optimizer_starts_anew() -> None:
    kv = LocalKVStore()
    kv.init("w", np.zeros(2))
    kv.set_optimizer(optim.SGD(momentum=0.9))
    kv.push("w", np.ones(2))
    kv.set_optimizer(optim.Adam())
    updates, state = kv.optimizer_states()["w"]
    assert updates == 0 and not state["mean"].any()


def two_optimizers(kv: KVStore) -> list[Any]:
    """Momentum for all; then "a" gets Adam, and later a new rate for "b"; "c" keeps what it had."""
    kv.init(NAMES, [np.zeros(50) for _ in NAMES])

    def push() -> None:
        kv.push(NAMES, [np.ones(50) for _ in NAMES])

    kv.set_optimizer(optim.SGD(learning_rate=1.0, momentum=0.5))
    push()
    kv.set_optimizer(optim.Adam(learning_rate=0.25, epsilon=0.0), keys="a")
    push()
    kv.set_optimizer(optim.SGD(learning_rate=0.5, momentum=0.5), keys=["b"])
    push()
    kv.init("late", np.zeros(50))
    kv.push("late", np.ones(50))
    return [float(v[-1]) for v in kv.pull([*NAMES, "late"])]


TWO = [-1.0 - 0.25 - 0.25, -1.0 - 1.5 - 0.5 * 1.75, -1.0 - 1.5 - 1.75, -1.0]


def test_an_optimizer_for_some_keys_leaves_the_others_their_own_and_its_state() -> None:
    assert two_optimizers(LocalKVStore()) == pytest.approx(TWO, rel=1e-12)


@pytest.mark.net
@pytest.mark.parametrize("servers", [1, 3])
def test_optimizers_by_key_reach_every_server(servers: int) -> None:
    with thread_cluster(2, servers, slice_bytes=TINY) as cluster:
        for found in cluster.each(two_optimizers):
            assert found == pytest.approx(TWO, rel=1e-12)


def refusals(kv: KVStore) -> None:
    kv.init(["a", "b"], [ones(500), ones(500)])
    kv.init(["f", "g"], [ones(20), ones(20)], fuse=True)
    rule = optim.SGD()
    with pytest.raises(ConfigError, match="'f' was initialised with fuse=True, and fused keys are updated together"):
        kv.set_optimizer(rule, keys="f")
    with pytest.raises(ConfigError, match="names no key; leave it out"):
        kv.set_optimizer(rule, keys=[])
    with pytest.raises(KeyNotInitializedError, match="'x' is not initialised"):
        kv.set_optimizer(rule, keys=["a", "x"])


def test_optimizers_by_key_are_refused_where_they_cannot_be() -> None:
    refusals(LocalKVStore())


@pytest.mark.net
def test_optimizers_by_key_are_refused_in_a_cluster_too() -> None:
    def work(kv: KVStore) -> None:
        refusals(kv)
        kv.init("w", ones(500), whole=True)
        kv.set_optimizer(optim.LAMB(), keys="w")
        with pytest.raises(ConfigError, match="optimizer 'lamb' needs the norm of the whole key, but 'a' is cut"):
            kv.set_optimizer(optim.LAMB(), keys=["w", "a"])

    with thread_cluster(1, 2, slice_bytes=256) as cluster:
        cluster.each(work)


def test_keys_that_come_later_begin_at_the_first_update() -> None:
    kv = LocalKVStore()
    kv.init("w", np.zeros(2))
    kv.set_optimizer(optim.SGD(lr_scheduler=optim.FactorScheduler(step=1, factor=0.5, base_lr=1.0)))
    kv.push("w", np.ones(2))
    kv.init("v", np.zeros(2))
    kv.push(["w", "v"], [np.ones(2), np.ones(2)])
    assert (kv.pull("w")[0], kv.pull("v")[0]) == (-1.5, -1.0)


@pytest.mark.net
def test_a_rule_that_the_servers_do_not_know_is_refused_and_the_present_one_stays() -> None:
    class Unknown(optim.SGD):
        """Registered nowhere."""

    Unknown.name = "unknown"

    def work(kv: KVStore) -> float:
        kv.init("w", np.zeros(3, np.float32))
        kv.set_optimizer(optim.SGD(learning_rate=1.0))
        with pytest.raises(
            ConfigError, match=r"no optimizer is called 'unknown'; known: .* a server knows, .* --plugin FILE"
        ):
            kv.set_optimizer(Unknown())
        kv.push("w", np.ones(3, np.float32))
        return float(kv.pull("w")[0])

    with thread_cluster(1, 2) as cluster:
        assert cluster.each(work) == [-1.0]


def test_a_slice_is_updated_by_what_it_is_now() -> None:
    table, gradient, t = Table(), np.full(8, 0.5, np.float32), 0
    table.create(1, "k", np.ones(8, np.float32))
    table.configure(optim.SGD(learning_rate=0.1, momentum=0.9), {}, {})
    cell = table.cells[1]

    def both(rule: optim.Optimizer, state: dict[str, Any], lr_mult: float = 1.0) -> None:
        nonlocal t
        t += 1
        value, state = cell.value.copy(), {n: a.copy() for n, a in state.items()}
        rule.step(value, gradient, state, t, lr_mult=lr_mult)
        table.accumulate(1, 0, gradient)
        table.apply(1, [Contribution(0, 0, 0)], "mean")
        assert cell.value.tobytes() == value.tobytes()
        assert {n: a.tobytes() for n, a in cell.state.items()} == {n: a.tobytes() for n, a in state.items()}

    for _ in range(2):
        both(optim.SGD(learning_rate=0.1, momentum=0.9), cell.state)
    table.reinstate(1, 2, {"momentum": np.full(8, 3.0, np.float32)})
    both(optim.SGD(learning_rate=0.1, momentum=0.9), cell.state)
    table.alter(1, 1, {"learning_rate": 0.7})
    both(optim.SGD(learning_rate=0.7, momentum=0.9), cell.state)
    table.configure(optim.SGD(learning_rate=0.2), {"k": 3.0}, {})
    both(optim.SGD(learning_rate=0.2), {}, 3.0)
    cell.value = cell.value.copy()
    both(optim.SGD(learning_rate=0.2), {}, 3.0)


def test_an_optimizer_that_needs_norms_from_now_on_has_them() -> None:
    table, rule = Table(), optim.SGD(learning_rate=1.0)
    table.create(1, "k", np.zeros(4, np.float32))
    table.configure(rule, {}, {})
    for bound, expected in ((None, -2.0), (1.0, -2.5)):
        rule.clip_norm = bound
        table.accumulate(1, 0, np.full(4, 2.0, np.float32))
        table.apply(1, [Contribution(0, 0, 0)], "mean")
        assert table.cells[1].value.tolist() == [expected] * 4
