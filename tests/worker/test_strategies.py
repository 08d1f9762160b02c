"""The algorithms against their papers' recursions, on f(w) = w^2 / 2 and through real servers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.local import LocalKVStore
from shoal.worker.strategies.delayed import Speeds
from tests.kvstore.threads import thread_cluster
from tests.worker.quadratic import Worker, parameter, values

pytestmark = pytest.mark.net


def close(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


# --- local SGD, BMUF, DiLoCo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_five_local_steps_of_equal_workers_are_five_steps(workers: int) -> None:
    got = values(5, workers, "local:h=5", lr=0.05)
    np.testing.assert_allclose(got[:, -1], 0.7737809, rtol=0, atol=5e-8)


def test_local_sgd_averages_what_the_workers_have_become() -> None:
    def work(store: KVStore) -> list[float]:
        target = float(store.rank)  # worker i goes towards i
        worker = Worker(store, "local:h=2", gradient=lambda w: w - target)
        return [worker.step() for _ in range(2)]

    with thread_cluster(2, 2) as cluster:
        got = cluster.each(work)
    ends = [0.81, 1.0]  # 1 -> .9 -> .81 towards 0; at 1 nothing moves
    close(got, [[0.9, np.mean(ends)], [1.0, np.mean(ends)]])


@pytest.mark.parametrize("strategy", ["local:h=1", "average:h=1", "diloco:h=1,lr=1,mu=0", "bmuf:h=1,mu=0"])
def test_blocks_of_one_step_are_synchronous_sgd(strategy: str) -> None:
    close(values(6, 2, strategy), values(6, 2, None))


def test_diloco_with_rate_1_and_no_momentum_is_local_sgd() -> None:
    np.testing.assert_array_equal(values(8, 2, "diloco:h=4,lr=1,mu=0"), values(8, 2, "local:h=4"))


def test_dilocos_first_two_outer_steps() -> None:
    got = values(10, 2, "diloco:h=5", lr=0.05)
    np.testing.assert_allclose(got[:, 4], 0.6991286, rtol=0, atol=5e-8)
    np.testing.assert_allclose(got[:, 9], 0.3605147, rtol=0, atol=5e-8)


@pytest.mark.parametrize(("mu", "zeta"), [(0.9, 0.7), (0.5, 1.0)])
def test_what_nesterov_bmuf_broadcasts_is_dilocos_theta(mu: float, zeta: float) -> None:
    bmuf = values(20, 2, f"bmuf:h=4,mu={mu},zeta={zeta}")[:, 3::4]
    close(bmuf, values(20, 2, f"diloco:h=4,lr={zeta},mu={mu}")[:, 3::4])
    model, momentum, broadcast = 1.0, 0.0, 1.0  # the recursion as the paper has it
    for seen in bmuf[0]:
        momentum = mu * momentum + zeta * (broadcast * 0.9**4 - broadcast)
        model += momentum
        broadcast = model + mu * momentum
        assert seen == pytest.approx(broadcast, abs=1e-12)


def test_classic_bmuf_broadcasts_the_filtered_model() -> None:
    got = values(12, 2, "bmuf:h=3,mu=0.6,zeta=0.8,nesterov=false")[0, 2::3]
    model, momentum = 1.0, 0.0
    for seen in got:
        momentum = 0.6 * momentum + 0.8 * (model * 0.9**3 - model)
        model += momentum
        assert seen == pytest.approx(model, abs=1e-12)


@pytest.mark.parametrize(("workers", "mu"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_block_momentum_is_1_minus_1_over_n_unless_given(workers: int, mu: float) -> None:
    close(values(6, workers, "bmuf:h=2"), values(6, workers, f"bmuf:h=2,mu={mu}"))


@pytest.mark.parametrize(("strategy", "kept"), [("diloco:h=2,lr=1,mu=0", True), ("bmuf:h=2,mu=0", False)])
def test_diloco_keeps_the_inner_momentum_and_bmuf_starts_it_anew(strategy: str, kept: bool) -> None:
    ones = {"gradient": lambda w: 1.0, "momentum": 0.5, "lr": 1.0, "start": 0.0}
    got = values(3, 2, strategy, **ones)[0]
    first = -1.0 - 1.5  # two steps of momentum
    close(got, [-1.0, first, first - (1.75 if kept else 1.0)])


def test_inner_momentum_can_be_reset_in_local_sgd() -> None:
    ones: dict[str, Any] = {"gradient": lambda w: 1.0, "momentum": 0.5, "lr": 1.0, "start": 0.0}
    close(values(2, 1, "local:h=1,reset=true", **ones)[0], [-1.0, -2.0])


# --- asynchronous DiLoCo ----------------------------------------------------------------------------------------------


def in_turn(strategy: str, pushes: int) -> list[float]:
    """Two workers of an asynchronous store take turns with pseudo-gradients of 1; what the store has after each."""
    with thread_cluster(2, 1, "asp") as cluster:
        stores = [cluster.store(r) for r in range(2)]
        ones: dict[str, Any] = {"gradient": lambda w: 1.0, "lr": 1.0, "start": 0.0}

        def start(store: KVStore) -> Worker:
            worker = Worker(store, strategy, **ones)
            worker.trainer.pull()  # initialises: all workers at once
            return worker

        workers = dict(zip(range(2), cluster.each(start), strict=True))
        assert len(stores) == 2
        return [workers[i % 2].step() for i in range(pushes)]


def test_delayed_nesterov_moves_at_once_and_renews_its_momentum_every_nth_time() -> None:
    close(in_turn("async-diloco:h=1,dylu=false", 4), [-0.35, -1.33, -1.68, -3.227])


def test_one_worker_of_delayed_nesterov_is_diloco() -> None:
    got = [Worker(LocalKVStore(), s).step(9) for s in ("dn:h=3", "diloco:h=3")]
    assert got[0] == pytest.approx(got[1], abs=1e-12)


def test_delayed_nesterov_is_refused_where_contributions_wait_for_a_round() -> None:
    with thread_cluster(2, 1) as cluster, pytest.raises(ConfigError, match=r"--mode async, or use 'diloco'"):
        Worker(cluster.store(0), "async-diloco")


# --- elastic averaging ------------------------------------------------------------------------------------------------


def elastic(steps: int, strategy: str, mode: str = "", **options: Any) -> Any:
    """(x, c) of each of 4 workers after each step, from x = 1 and c = 0."""

    def work(store: KVStore) -> list[tuple[float, float]]:
        worker = Worker(store, strategy, start=0.0, **options)
        worker.trainer.pull()
        worker.p.set_data(np.ones(1))
        path = []
        for _ in range(steps):
            x = worker.step()
            store.barrier()
            path.append((x, float(store.pull("w")[0])))
            store.barrier()
        return path

    with thread_cluster(4, 2, mode) as cluster:
        return np.array(cluster.each(work, reduce="sum"))


@pytest.mark.parametrize("mode", ["bsp", "asp"])
def test_the_first_exchange_with_the_centre(mode: str) -> None:
    got = elastic(1, "easgd:tau=1", mode)
    close(got[:, 0, 1], 0.9 if mode == "bsp" else got[0, 0, 1])
    if mode == "bsp":
        close(got[:, 0, 0], 0.675)


def test_elastic_averaging_shrinks_by_its_spectral_radius() -> None:
    got = elastic(24, "easgd:tau=1")
    np.testing.assert_allclose(got[:, -1] / got[:, -2], 0.9215, rtol=0, atol=5e-7)


def test_between_exchanges_every_worker_is_on_its_own() -> None:
    got = elastic(3, "easgd:tau=3")
    close(got[:, 1], np.broadcast_to([0.81, 0.0], (4, 2)))
    close(got[:, 2], np.broadcast_to([0.729 - 0.225 * 0.81, 0.9 * 0.81], (4, 2)))


def test_what_leaves_the_workers_arrives_at_the_centre() -> None:
    got = elastic(6, "easgd:tau=2", "asp", gradient=lambda w: 0.0)
    close(got[:, -1, 0].sum() + got[0, -1, 1], 4.0)


def test_eamsgd_is_the_papers_recursion() -> None:
    got = elastic(6, "eamsgd:tau=1,mu=0.7")[0]
    x, v, c, eta, a, mu = 1.0, 0.0, 0.0, 0.1, 0.225, 0.7
    for ahead, centre in got:
        force = a * (x - c)
        v = mu * v - eta * (x + mu * v)
        x, c = x - force + v, c + 4 * force
        assert (ahead, centre) == pytest.approx((x + mu * v, c), abs=1e-12)


# --- what the run ends with -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local:h=4", "diloco:h=4", "bmuf:h=4"])
def test_a_block_that_has_begun_counts_at_the_end(strategy: str) -> None:
    def work(store: KVStore) -> tuple[float, float]:
        worker = Worker(store, strategy)
        worker.step(6)
        worker.trainer.finish()
        return worker.value, float(store.pull("w")[0])

    with thread_cluster(2, 1) as cluster:
        got = cluster.each(work)
    assert len({v for pair in got for v in pair}) == 1 and got[0][0] < 0.9**4


def test_elastic_averaging_ends_with_the_centre() -> None:
    def work(store: KVStore) -> tuple[float, float]:
        worker = Worker(store, "easgd:tau=1", gradient=lambda w: w - store.rank)
        worker.step(5)
        worker.trainer.finish()
        return worker.value, float(store.pull("w")[0])

    with thread_cluster(2, 1) as cluster:
        got = cluster.each(work, reduce="sum")
    assert len({v for pair in got for v in pair}) == 1


def test_weights_are_global_for_evaluation_and_own_again_afterwards() -> None:
    worker = Worker(LocalKVStore(), "local:h=4")
    worker.step(5)
    own = worker.value
    with worker.trainer.global_weights():
        assert worker.value == pytest.approx(0.9**4)
    assert worker.value == own
    assert worker.step(3) == pytest.approx(0.9**8)


def test_without_local_steps_evaluation_changes_nothing() -> None:
    worker = Worker(LocalKVStore(), None)
    worker.step()
    with worker.trainer.global_weights():
        worker.p.set_data(np.zeros(1))
    assert worker.value == 0.0


def test_pull_gives_up_the_steps_of_the_block_and_starts_anew() -> None:
    worker = Worker(LocalKVStore(), "local:h=2")
    worker.step()
    worker.trainer.pull()
    assert worker.value == 1.0
    worker.step()
    assert worker.trainer.kvstore is not None and worker.trainer.kvstore.pull("w")[0] == 1.0


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["local:h=2", "diloco:h=2", "bmuf:h=2", "easgd:tau=2", "eamsgd:tau=2", "dn:h=2"])
def test_frozen_and_shared_parameters_and_multipliers_are_obeyed(strategy: str) -> None:
    slow, frozen, shared = parameter("slow", lr_mult=0.0), parameter("frozen", grad_req="null"), parameter("shared")
    heavy = parameter("heavy", wd_mult=0.0)
    named = {"slow": slow, "frozen": frozen, "a": shared, "b": shared, "heavy": heavy}
    trainer = shoal.Trainer(named, "sgd", {"learning_rate": 0.1, "wd": 0.5}, kvstore="local", strategy=strategy)
    for _ in range(3):
        slow.grad(), heavy.grad()
        shared.grad().data[:] = 1.0
        trainer.step(1)
    trainer.finish()
    assert slow.data().asnumpy()[0] == frozen.data().asnumpy()[0] == heavy.data().asnumpy()[0] == 1.0
    assert shared.data().asnumpy()[0] < 0.9
    assert trainer.kvstore is not None and trainer.kvstore.keys() == ["a", "heavy", "slow"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kvstore": None, "strategy": "local"}, "'local' exchanges weights through a kvstore"),
        ({"kvstore": "local", "strategy": "diloco", "update_on_kvstore": False}, "the optimizer runs on the workers"),
        ({"kvstore": LocalKVStore(), "strategy": "easgd"}, r"needs a store with reduce='sum', got <kvstore 'local'"),
        ({"kvstore": "local", "strategy": "bmuf", "reduce": "sum"}, "reduce='mean'"),
        ({"optimizer": "adam", "strategy": "eamsgd"}, "use 'sgd', or 'easgd'"),
        ({"strategy": "local", "compression_params": "dgc"}, "pushes differences"),
        ({"strategy": "lokal"}, "Did you mean 'local'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shoal.Trainer(**{"params": [parameter()], "optimizer": "sgd", **options})


@pytest.mark.parametrize(
    ("kind", "strategy", "says"),
    [
        ("dist_async", "local", "each worker would move the model by its whole way"),
        ("dist_ssp:2", "diloco", "or the strategy async-diloco"),
        ("dist_fedbuff:3", "bmuf", "synchronous store"),
        ("hogwild", "local", "synchronous store"),
        ("dist_kasync:2", "dn", "applies every worker's contribution as it comes"),
        ("dist_backup:1", "easgd", "may drop it at one end"),
        ("dist_asp:max=9", "eamsgd", "may drop it at one end"),
        ("allreduce", "local", "only reduces"),
    ],
)
def test_a_strategy_that_the_gate_would_falsify_is_refused(kind: str, strategy: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        shoal.Trainer([parameter()], "sgd", kvstore=Pretending(kind, strategy), strategy=strategy)


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("dist_backup:1", "local"), ("dist_ksync:2", "diloco"), ("dist_ssp:3", "dn"), ("dist_async", "easgd")],
)
def test_a_strategy_that_the_gate_suits_is_taken(kind: str, strategy: str) -> None:
    shoal.Trainer([parameter()], "sgd", kvstore=Pretending(kind, strategy), strategy=strategy)


def test_a_store_that_cannot_make_another_tells_no_speeds() -> None:
    store = Pretending("hogwild", "dn")
    with pytest.raises(ConfigError, match=r"can make no other store of its kind\. Give it dylu=false"):
        shoal.Trainer([parameter()], "sgd", kvstore=store, strategy="dn").pull()


class Pretending(LocalKVStore):
    """Says that it is of another kind, with three workers."""

    num_workers = 3  # type: ignore[assignment]  # a property elsewhere

    def __init__(self, kind: str, strategy: str) -> None:
        super().__init__("sum" if strategy in ("easgd", "eamsgd") else "mean")
        self.type = kind

    def is_capable(self, capability: str) -> bool:
        return self.type != "allreduce"


def test_elastic_averaging_makes_a_store_that_sums() -> None:
    trainer = shoal.Trainer([parameter()], "sgd", kvstore="local", strategy="easgd")
    assert trainer.kvstore is not None and trainer.kvstore.reduce == "sum"


# --- blocks as long as a worker is fast -------------------------------------------------------------------------------


def test_slower_workers_take_shorter_blocks() -> None:
    def work(store: KVStore) -> list[int]:
        worker = Worker(store, "async-diloco:h=12")
        seconds = [0.0]
        worker.trainer._site.clock = lambda: seconds[0]
        worker.trainer.pull()
        lengths = []
        for _ in range(3):
            steps = 0
            while not steps or worker.trainer._stepper.done:
                seconds[0] += 1.0 + 2.0 * store.rank  # worker 1 is three times as slow
                worker.step()
                steps += 1
            lengths.append(steps)
            store.barrier()
        return lengths

    with thread_cluster(2, 1, "asp") as cluster:
        fast, slow = cluster.each(work)
    assert fast == [12, 12, 12] and slow[0] == 12 and slow[2] == 4


def test_speeds_are_told_to_everybody() -> None:
    def work(store: KVStore) -> list[list[float]]:
        speeds, seen = Speeds(store.private("asp", "sum")), []
        for told in (0.1 + store.rank, 0.7 * (1 + store.rank)):
            speeds.exchange(told)
            store.barrier()
            seen.append(list(speeds.exchange(told)))
            store.barrier()
        return seen

    with thread_cluster(2, 2) as cluster:
        got = cluster.each(work)
    assert got == [[[0.1, 1.1], [0.7, 1.4]]] * 2


# --- an old gradient --------------------------------------------------------------------------------------------------


def test_a_parameter_that_is_left_out_contributes_zero_to_the_mean() -> None:
    def work(store: KVStore) -> float:
        worker = Worker(store, None, gradient=lambda w: 1.0)
        worker.step()
        if store.rank == 0:
            return worker.step()
        worker.trainer.step(1, ignore_stale_grad=True)
        return worker.value

    with thread_cluster(2, 1) as cluster:
        assert cluster.each(work) == [pytest.approx(0.85, abs=1e-12)] * 2


@pytest.mark.parametrize("strategy", ["diloco:h=2", "easgd:tau=2"])
def test_what_is_on_the_servers_is_not_saved_by_a_worker(strategy: str, tmp_path: Path) -> None:
    with thread_cluster(1, 1) as cluster:
        store = cluster.store(0, reduce="sum" if strategy.startswith("easgd") else "mean")
        worker = Worker(store, strategy)
        worker.step(3)
        with pytest.raises(ConfigError, match="the optimizer's states are on the servers"):
            worker.trainer.save_states(tmp_path / "states")
