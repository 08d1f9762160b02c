"""What optimizers keep on servers, read with a snapshot, and given to the servers of another run."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, KeyNotInitializedError, ShapeError
from shoal.kvstore import create
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.events import Reinstate, Send
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.snapshot import Snapshot
from shoal.kvstore.wire.messages import Done, Init, Push, Refused, Restate
from shoal.ops import optim
from tests.kvstore.simnet import roster
from tests.kvstore.threads import thread_cluster

KEYS = ["w", "b", "big"]
SHAPES = [(3,), (1,), (8, 5)]  # with slices of 64 bytes "big" has several
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9},
    "adam": {"lr_scheduler": optim.schedule.FactorScheduler(step=2, factor=0.5, base_lr=0.1)},
    "lamb": {"learning_rate": 0.1},
}


def gradient(rank: int, step: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng((rank, step, *shape)).standard_normal(shape).astype(np.float32)


def steps(kv: Any, first: int, last: int) -> None:
    for step in range(first, last):
        kv.pushpull(KEYS, [gradient(kv.rank, step, s) for s in SHAPES])


def begin(kv: Any, rule: str, values: Any = None, dtype: Any = np.float32, **more: Any) -> None:
    found = [np.ones(s, dtype) for s in SHAPES] if values is None else [values[k] for k in KEYS]
    kv.init(KEYS, found, fuse=True, whole=rule == "lamb")
    kv.set_optimizer(optim.create(rule, **RULES[rule], **more))


@pytest.mark.net
@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_run_of_other_servers_goes_on_from_a_snapshot_to_the_same_bits(rule: str) -> None:
    def whole(kv: DistKVStore) -> Any:
        begin(kv, rule)
        steps(kv, 0, 6)
        return kv.pull(KEYS)

    def first(kv: DistKVStore) -> Snapshot:
        begin(kv, rule)
        steps(kv, 0, 3)
        return kv.snapshot(states=True)

    with thread_cluster(2, 2, slice_bytes=64) as cluster:
        wanted, _ = cluster.each(whole)
    with thread_cluster(2, 2, slice_bytes=64) as cluster:
        shot, _ = cluster.each(first)
    assert {k: t for k, (t, _) in shot.states.items()} == dict.fromkeys(KEYS, 3)

    def second(kv: DistKVStore) -> Any:
        begin(kv, rule, shot)
        kv.load_states(shot.states if kv.rank == 0 else {})
        steps(kv, 3, 6)
        return kv.pull(KEYS)

    with thread_cluster(2, 3, slice_bytes=128) as cluster:
        found, _ = cluster.each(second)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.net
def test_states_come_in_the_state_of_the_cut_while_others_train() -> None:
    def work(kv: DistKVStore) -> Any:
        kv.init("w", np.zeros(40, np.float64))
        kv.set_optimizer(optim.create("sgd", learning_rate=1.0, momentum=0.5))
        for _ in range(20):
            kv.pushpull("w", np.ones(40))
        shot = kv.snapshot(states=True)
        updates, states = shot.states["w"]
        kv.barrier()
        return updates, sum(shot.cut.clocks.values()), shot["w"], states

    with thread_cluster(2, 2, slice_bytes=64) as cluster:
        for updates, counted, value, states in cluster.each(work, "asp"):
            assert updates == counted
            weight = momentum = 0.0
            for _ in range(counted):
                momentum = 0.5 * momentum - 1.0
                weight += momentum
            (kept,) = states.values()
            np.testing.assert_allclose(value, weight)
            np.testing.assert_allclose(np.abs(kept), abs(momentum))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_local_store_goes_on_from_its_states(dtype: Any) -> None:
    kv, other = create("local"), create("local")
    begin(kv, "sgd", dtype=dtype, multi_precision=True)
    for step in range(6):
        if step == 3:
            shot = kv.snapshot(states=True)
        kv.push(KEYS, [gradient(0, step, s).astype(dtype) for s in SHAPES])
    begin(other, "sgd", shot, multi_precision=True)
    other.load_states(shot.states)
    for step in range(3, 6):
        other.push(KEYS, [gradient(0, step, s).astype(dtype) for s in SHAPES])
    for a, b in zip(kv.pull(KEYS), other.pull(KEYS), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.net
def test_states_of_another_optimizer_are_refused_with_both_names() -> None:
    def work(kv: DistKVStore) -> str:
        begin(kv, "sgd")
        states = {k: (1, {"mean": np.zeros(s, np.float32)}) for k, s in zip(KEYS, SHAPES, strict=True)}
        with pytest.raises(ConfigError, match=r"sgd, which keeps momentum float32\[.*got mean float32"):
            kv.load_states(states)
        with pytest.raises(ConfigError, match="all of them need states"):
            kv.load_states({"w": (1, {})})
        with pytest.raises(ShapeError, match=r"momentum of key 'w' has shape \(2,\), the key has \(3,\)"):
            kv.load_states({"w": (1, {"momentum": np.zeros(2, np.float32)})})
        with pytest.raises(ConfigError, match=r"no such keys: \['x'\]"):
            kv.load_states({"x": (1, {})})
        return "told"

    with thread_cluster(1, 1) as cluster:
        assert cluster.each(work) == ["told"]


def test_a_store_that_takes_no_states_says_so() -> None:
    kv = create("hogwild", workers=2)
    assert not kv.is_capable("states") and create("local").is_capable("states")
    with pytest.raises(ConfigError, match="'hogwild' takes no states"):
        kv.load_states({})


@pytest.mark.net
def test_a_key_that_is_not_there_is_told_with_the_one_that_may_be_meant() -> None:
    def work(kv: DistKVStore) -> None:
        kv.init("weight", np.zeros(2))
        with pytest.raises(KeyNotInitializedError, match="Did you mean 'weight'"):
            kv.pull("wieght")

    with thread_cluster(1, 1) as cluster:
        cluster.each(work)


ZEROS = as_payload(np.zeros(2, np.float32))


def core() -> ServerCore:
    made = ServerCore(0, 1, "run")
    made.roster(roster(1))
    made._init("w0", Init(seq=0, store=1, slice=7, key="w", gate="bsp", reduce="mean", value=ZEROS))
    return made


def restate(**changed: Any) -> Restate:
    fields: dict[str, Any] = {"slice": 7, "updates": 3, "slots": ("momentum",), "states": (ZEROS,), **changed}
    return Restate(worker=0, incarnation=1, seq=5, **fields)


def test_states_are_taken_before_training_and_a_repetition_after_it_changes_nothing() -> None:
    server = core()
    before = server._handled_elsewhere("w0", restate())
    assert before == [Reinstate("w0", 5, 7, 3, ("momentum",), (ZEROS,))]
    server._push("w0", Push(worker=0, incarnation=1, seq=6, slice=7, clock=0, pulled=0, want=False, value=ZEROS))
    assert server._handled_elsewhere("w0", restate()) == [Send("w0", Done(seq=5))]


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"slice": 8}, "KeyNotInitializedError"), ({"slots": ()}, "ShapeError"), ({"slots": ("a", "b")}, "ShapeError")],
)
def test_states_that_fit_no_slice_are_refused(changed: dict[str, Any], error: str) -> None:
    (answer,) = core()._handled_elsewhere("w0", restate(**changed))
    assert isinstance(answer, Send) and isinstance(answer.message, Refused) and answer.message.error == error
