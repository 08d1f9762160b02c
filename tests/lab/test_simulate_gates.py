"""Closed forms of rounds that not everybody is waited for in, and of rules for stale contributions, as in
test_simulate_anchors.py."""

import functools
import math
from typing import Any

import numpy as np
import pytest

from shoal import optim
from shoal.errors import ConfigError
from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import EachWorker
from shoal.lab.simulate_problems import Function, Quadratic
from shoal.lab.simulate_result import SimulationResult
from tests.lab.anchors import deviation, draws, error_of_mean, harmonic, near, sgd


def eight(gate: str, updates: int = 600, **changes: Any) -> SimulationResult:
    return simulate(workers=8, gate=gate, updates=updates, record=False, **changes)


def lasting(run: SimulationResult, expected: float, of_one: float) -> bool:
    """Whether updates take as long as expected; ``of_one`` is the standard deviation of one."""
    return near(run.update_seconds.mean(), expected, of_one / math.sqrt(run.updates))


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "k"), [("backup:2", 8), ("backup:9", 1), ("ksync:3", 3), ("ksync:10", 10)])
def test_a_round_closes_when_its_kth_worker_is_done_exactly(gate: str, k: int) -> None:
    """Whoever is not among the first k gives up, so that every worker draws one duration a round."""
    run = simulate(workers=10, gate=gate, updates=60, restart=True, seed=7)
    expected = np.sort(draws(10, 60, seed=7), axis=0)[k - 1]
    np.testing.assert_allclose(run.update_times, np.cumsum(expected), rtol=1e-12)
    assert sum(run.applied) == 60 * k and sum(run.dropped) == 0 and set(run.histogram) == {0}


@pytest.mark.parametrize(("gate", "fits"), [("backup:10", "backup:9"), ("ksync:11", "ksync:10")])
def test_a_gate_for_more_workers_than_there_are_is_refused(gate: str, fits: str) -> None:
    with pytest.raises(ConfigError, match=f"the run has 10 workers.* or use {fits}"):
        simulate(workers=10, gate=gate, updates=60)


def test_a_round_of_100_exponential_workers_with_4_backups_takes_h_100_minus_h_4() -> None:
    assert round(harmonic(100) - harmonic(4), 4) == 3.1040
    run = simulate(workers=100, gate="backup:4", updates=40, restart=True, seed=1)
    assert lasting(run, harmonic(100) - harmonic(4), deviation(100, 4))  # 0.47 / sqrt(40) = 0.07
    law = np.sort(draws(100, 2560, seed=2), axis=0)[95]  # the same, without the store: error 0.009
    assert near(law.mean(), 3.1040, deviation(100, 4) / math.sqrt(2560))


def test_a_round_of_k_workers_takes_h_p_minus_h_p_k() -> None:
    assert round(harmonic(8) - harmonic(4), 4) == 0.6345
    run = eight("ksync:4", restart=True, seed=3)
    assert lasting(run, 0.6345, deviation(8, 4))  # 0.32 / sqrt(600) = 0.013


def test_a_round_of_k_contributions_takes_k_over_p() -> None:
    """4 of 8 contributions a second; the sum of 4 waits of mean 1/8 has deviation 1/4."""
    run = eight("kbatch:4", restart=True, seed=3)
    assert lasting(run, 0.5, 0.25) and set(run.histogram) == {0}
    assert max(run.clocks) > 600 / 2 * 1.02  # a fast worker contributes twice to a round


@functools.cache
def finishing(fresh: int, late: int, missing: int) -> float:
    """E[time until a round has the contributions that are ``missing``] if nobody gives up: a late worker's contribution
    is dropped, and it computes anew; one that has contributed waits."""
    if missing == 0:
        return 0.0
    rate, time = fresh + late, 1.0 / (fresh + late)
    time += fresh / rate * finishing(fresh - 1, late, missing - 1) if fresh else 0.0
    return time + (late / rate * finishing(fresh + 1, late - 1, missing) if late else 0.0)


@pytest.mark.parametrize(("gate", "k"), [("ksync:4", 4), ("backup:1", 7)])
def test_workers_that_finish_what_is_late_make_rounds_longer_by_as_much_as_they_must(gate: str, k: int) -> None:
    """After a round k workers begin anew, and the others finish what is dropped. Error from batches of 20 rounds."""
    expected = finishing(k, 8 - k, k)
    assert expected > harmonic(8) - harmonic(8 - k)
    run = eight(gate, seed=3)
    batches = run.update_seconds.reshape(-1, 20).mean(axis=1)
    assert near(batches.mean(), expected, error_of_mean(batches))
    assert sum(run.applied) == 600 * k and sum(run.dropped) > 0 and set(run.histogram) == {0}


def test_k_async_rounds_take_as_long_as_k_sync_rounds_and_drop_nothing() -> None:
    """The exponential law has no memory: workers that go on are as good as workers that begin anew."""
    run = eight("kasync:4", seed=5)
    assert lasting(run, 0.6345, deviation(8, 4)) and sum(run.dropped) == 0 and max(run.histogram) > 1
    assert sum(run.applied) == 2400


def test_k_batch_async_rounds_take_as_long_as_k_batch_sync_rounds() -> None:
    run = eight("fedbuff:4", seed=5)
    assert lasting(run, 0.5, 0.25) and run.waiting_share < 1e-9 and sum(run.applied) == 2400


@pytest.mark.parametrize("gate", ["fedbuff:1", "kasync:1"])
def test_a_buffer_of_one_is_asynchronous_sgd_bit_for_bit(gate: str) -> None:
    options: dict[str, Any] = {"rounds": 20, "problem": Quadratic(noise=0.3, size=4), "seed": 6}
    a, b = simulate(gate=gate, **options), simulate(gate="asp", **options)
    assert a.weights.tobytes() == b.weights.tobytes() and a.update_times.tobytes() == b.update_times.tobytes()
    assert a.histogram == b.histogram


@pytest.mark.parametrize("gate", ["ksync:8", "kasync:8"])
def test_rounds_of_all_workers_are_bulk_synchronous_bit_for_bit(gate: str) -> None:
    options: dict[str, Any] = {"rounds": 10, "problem": Quadratic(noise=0.3, size=4), "seed": 6}
    a, b = simulate(gate=gate, **options), simulate(gate="bsp", **options)
    assert a.weights.tobytes() == b.weights.tobytes() and a.update_times.tobytes() == b.update_times.tobytes()


@pytest.mark.parametrize("s", [1, 4])
def test_values_that_are_sent_unasked_change_no_time_when_messages_take_none(s: int) -> None:
    a, b = (simulate(gate=f"{g}:{s}", rounds=30, seed=6) for g in ("ssp", "essp"))
    np.testing.assert_allclose(a.push_times, b.push_times, rtol=1e-12)


def test_what_is_too_stale_is_dropped() -> None:
    free, limited = (simulate(gate=g, rounds=100, seed=6) for g in ("asp", "asp:max=9"))
    assert max(free.histogram) > 9 == max(limited.histogram) and sum(free.dropped) == 0
    assert sum(limited.applied) + sum(limited.dropped) == 800 and sum(limited.dropped) > 80
    assert limited.updates == sum(limited.applied)


# --- rules ------------------------------------------------------------------------------------------------------------


def in_turn(workers: int, updates: int, rule: str, problem: Any = None) -> np.ndarray:
    """The weights, from 1 on, of workers that all read the first version and push in turn, with a rate of 0.1."""
    run = simulate(
        workers=workers,
        gate="asp",
        compute=EachWorker(*[1.0] * workers),
        updates=updates,
        rule=rule,
        problem=problem or Function([1.0], lambda w, worker, step: np.ones(1)),
        optimizer=sgd(0.1),
    )
    return run.weights[:, 0]


def test_a_contribution_4_versions_old_makes_a_step_of_a_fourth_of_the_rate() -> None:
    steps = -np.diff(in_turn(5, 5, "stale"))
    np.testing.assert_allclose(steps, [0.1, 0.1, 0.05, 0.1 / 3, 0.025], rtol=1e-12)


def test_or_of_its_square_root() -> None:
    steps = -np.diff(in_turn(9, 9, "stale:law=sqrt")) / 0.1
    np.testing.assert_allclose(steps[[0, 1, 3, 8]], [1, 0.7071, 0.5, 0.3333], atol=4e-5)


def test_delay_compensation_keeps_one_copy_for_each_worker() -> None:
    """One copy for all would give 0.9, 0.82, 0.736, as in MXNet."""
    np.testing.assert_allclose(in_turn(3, 3, "dcasgd:lam=2"), [1.0, 0.9, 0.82, 0.756], rtol=1e-12)


def test_delay_compensation_restores_the_stability_that_delay_costs() -> None:
    """w has curvature 1 and the rate is 0.1, far below the bound; the compensated path is nearer to the prompt one."""
    prompt = 0.9 ** np.arange(41)
    plain, compensated = (in_turn(4, 40, rule, Quadratic()) for rule in ("", "dcasgd:lam=1"))
    assert np.abs(compensated[:9] - prompt[:9]).sum() < np.abs(plain[:9] - prompt[:9]).sum()


def test_a_rule_changes_nothing_where_nothing_is_stale() -> None:
    options: dict[str, Any] = {"rounds": 10, "problem": Quadratic(noise=0.3), "seed": 6}
    plain = simulate(gate="bsp", **options).weights
    for rule in ("stale", "dcasgd"):
        np.testing.assert_allclose(simulate(gate="bsp", rule=rule, **options).weights, plain, rtol=1e-12)


# --- contributions that are differences of weights --------------------------------------------------------------------


def locally(steps: int) -> Function:
    """How far ``steps`` steps of SGD with a rate of 0.05 lead from the weights, for curvature 1."""
    return Function([1.0], lambda w, worker, step: w * (1.0 - 0.95**steps))


@pytest.mark.parametrize("workers", [1, 4])
def test_five_local_steps_and_an_average_are_local_sgd(workers: int) -> None:
    run = simulate(workers=workers, updates=1, problem=locally(5), optimizer=sgd(1.0))
    assert run.weights[1, 0] == pytest.approx(0.7737809, abs=1e-7)


def test_nesterov_on_the_average_is_diloco() -> None:
    outer = optim.SGD(learning_rate=0.7, momentum=0.9, nesterov=True)
    run = simulate(workers=4, updates=2, problem=locally(5), optimizer=outer)
    np.testing.assert_allclose(run.weights[1:, 0], [0.6991286, 0.3605147], atol=1e-7)


def test_delayed_nesterov_meets_synchronous_nesterov_at_every_nth_contribution() -> None:
    ones = Function([0.0], lambda w, worker, step: np.ones(1))
    pair = EachWorker(1.0, 1.0)
    delayed = optim.create("dn", learning_rate=0.7, beta=0.9, n=2)
    run = simulate(workers=2, gate="asp", compute=pair, updates=4, problem=ones, optimizer=delayed)
    np.testing.assert_allclose(run.weights[1:, 0], [-0.35, -1.33, -1.68, -3.227], rtol=1e-12)
    nesterov = optim.SGD(learning_rate=0.7, momentum=0.9, nesterov=True)
    naive = simulate(workers=2, gate="asp", compute=pair, updates=4, problem=ones, optimizer=nesterov)
    sync = simulate(workers=2, updates=2, problem=ones, optimizer=nesterov)
    np.testing.assert_allclose(sync.weights[1:, 0], [-1.33, -3.227], rtol=1e-12)
    assert naive.weights[4, 0] == pytest.approx(-8.50, abs=0.005)


def test_the_centre_of_elastic_averaging() -> None:
    """4 workers at 1, centre 0, rate 0.1, elasticity 0.9 / 4; the servers add the forces up."""
    local = dict.fromkeys(range(4), 1.0)

    def force(centre: np.ndarray, worker: int, step: int) -> np.ndarray:
        pull = 0.9 / 4 * (local[worker] - centre)
        local[worker] -= 0.1 * local[worker] + float(pull[0])
        return pull

    run = simulate(
        workers=4, updates=60, reduce="sum", problem=Function([0.0], force), optimizer=optim.create("accumulate")
    )
    c = run.weights[:, 0]
    assert c[1] == pytest.approx(0.9) and c[60] / c[59] == pytest.approx(0.9215, abs=1e-6)
