"""Closed forms and published figures, against the store's own cores in virtual time.

Figures that come from samples are compared within a few standard errors; each test says how its error is found. All
seeds are fixed, so that a test that passes goes on passing.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import EachWorker, Listed
from shoal.lab.simulate_problems import Function, Quadratic
from shoal.lab.simulate_result import SimulationResult
from tests.lab.anchors import SIGMAS, draws, error_of_mean, harmonic, near, sgd


def error_of_batches(result: SimulationResult, parts: int = 25) -> float:
    """Standard error of a rate, from spans of the run that are long enough to be nearly independent."""
    return error_of_mean(result.rates(parts))


# --- bulk synchronous -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_ten_synchronous_steps_give_0_348678_for_any_number_of_workers(workers: int) -> None:
    run = simulate(workers=workers, gate="bsp", rounds=10, problem=Quadratic(), optimizer=sgd(0.1))
    assert run.weights[-1, 0] == pytest.approx(0.3486784401, abs=1e-12)
    assert run.updates == 10 and run.histogram == {0: 10 * workers}


def test_the_sum_of_four_workers_is_another_learning_rate() -> None:
    run = simulate(workers=4, gate="bsp", rounds=10, problem=Quadratic(), optimizer=sgd(0.1), reduce="sum")
    assert run.weights[-1, 0] == pytest.approx(0.6**10, abs=1e-12) and round(0.6**10, 7) == 0.0060466


def test_synchronous_training_is_bit_identical_whoever_comes_first() -> None:
    """The contributions differ, so that another order of addition would show."""
    problem = Function([0.1] * 5, lambda w, worker, step: w * (1 / 3) ** worker + 0.1 * (worker + 1))
    runs = [simulate(workers=4, rounds=20, problem=problem, seed=s, servers=2, slices=3) for s in range(6)]
    assert len({tuple(np.diff(r.push_workers)) for r in runs}) == 6  # six orders of arrival
    assert len({r.weights.tobytes() for r in runs}) == 1


def test_a_synchronous_round_lasts_as_long_as_its_slowest_worker_exactly() -> None:
    run = simulate(workers=20, gate="bsp", rounds=40, seed=5)
    expected = np.cumsum(draws(20, 40, seed=5).max(axis=0))
    np.testing.assert_allclose(run.update_times, expected, rtol=1e-12)


def test_a_synchronous_round_of_100_exponential_workers_takes_h_100() -> None:
    """H_100 = 5.1874. The round's variance is the sum of 1/k**2, 1.635: the error of 40 rounds is 0.20."""
    assert round(harmonic(100), 4) == 5.1874
    run = simulate(workers=100, gate="bsp", rounds=40, seed=1)
    error = math.sqrt(sum(1 / k**2 for k in range(1, 101)) / 40)
    assert near(run.update_seconds.mean(), harmonic(100), error)
    law = draws(100, 2560, seed=2).max(axis=0)  # the same maximum as above, without the store: error 0.025
    assert near(law.mean(), harmonic(100), error_of_mean(law)) and error_of_mean(law) < 0.03


# --- asynchronous -----------------------------------------------------------------------------------------------------


def round_robin(workers: int, updates: int, **changes: Any) -> SimulationResult:
    """All workers take 1 s, and so push in turn."""
    return simulate(workers=workers, gate="asp", compute=EachWorker(*[1.0] * workers), updates=updates, **changes)


def test_two_workers_in_turn_follow_the_recursion_of_delay_one() -> None:
    """w[t+1] = w[t] - 0.5 w[t-1] from 1, 1; the first 1 is before time begins."""
    run = round_robin(2, 6, problem=Quadratic(), optimizer=sgd(0.5))
    assert [1.0, *run.weights[:, 0]] == [1, 1, 0.5, 0, -0.25, -0.25, -0.125, 0]


BOUNDS = {0: 2.0, 1: 1.0, 2: 0.618034, 3: 0.445042, 7: 0.209057}


@pytest.mark.parametrize("tau", BOUNDS)
def test_asynchronous_sgd_is_stable_just_below_its_bound_and_not_just_above(tau: int) -> None:
    """One run has a weight 0.5 % below the bound and one 0.5 % above it."""
    bound = 2 * math.sin(math.pi / (2 * (2 * tau + 1)))
    assert bound == pytest.approx(BOUNDS[tau], abs=5e-7)
    lam = bound * np.array([0.995, 1.005])
    problem = Function([1.0, 1.0], lambda w, worker, step: lam * w)
    w = np.abs(round_robin(tau + 1, 1600, problem=problem, optimizer=sgd(1.0)).weights)
    early, late = w[400:800].max(axis=0), w[1200:].max(axis=0)
    assert late[0] < early[0] and late[1] > early[1]


def test_the_order_of_magnitude_grows_as_the_largest_root_of_the_recursion() -> None:
    tau, lam = 3, 0.46
    run = round_robin(tau + 1, 1500, problem=Quadratic(lam), optimizer=sgd(1.0))
    w = np.concatenate([np.ones(tau), run.weights[:, 0]])
    np.testing.assert_allclose(w[tau + 1 :], w[tau:-1] - lam * w[: -tau - 1], rtol=1e-9)
    radius = np.abs(np.roots([1, -1, *[0] * (tau - 1), lam])).max()
    growth = (np.abs(w[1200:]).max() / np.abs(w[300:600]).max()) ** (1 / 900)
    assert growth == pytest.approx(radius, rel=2e-4) and radius > 1


@pytest.mark.parametrize("workers", [2, 8, 100])
def test_workers_in_turn_have_staleness_n_minus_1(workers: int) -> None:
    run = round_robin(workers, 5 * workers)
    first = dict.fromkeys(range(workers - 1), 1)  # all have read version 0
    assert run.histogram == {**first, workers - 1: 4 * workers + 1}


@pytest.fixture(scope="module")
def eight() -> SimulationResult:
    """Eight exponential workers without a gate."""
    return simulate(workers=8, gate="asp", rounds=1200, seed=4)


def test_the_mean_staleness_of_exponential_workers_is_n_minus_1(eight: SimulationResult) -> None:
    """Exact but for the two ends: between two pushes of a worker, every other push counts once."""
    assert abs(eight.staleness_mean - 7.0) <= 8 * 8 / eight.pushes


def test_the_staleness_of_exponential_workers_is_geometric(eight: SimulationResult) -> None:
    """P(k) = (1/N)(1-1/N)**k. Who comes next is independent of the past, so a share p of T has error sqrt(p(1-p)/T)."""
    counts, total = eight.histogram, eight.pushes
    p = np.array([0.125 * 0.875**k for k in range(40)])
    shares = np.array([counts[k] / total for k in range(40)])
    assert near(shares[0], 0.125, math.sqrt(0.125 * 0.875 / total))
    assert (np.abs(shares - p) <= SIGMAS * np.sqrt(p * (1 - p) / total)).all()


def test_the_99th_percentile_of_the_staleness_of_eight_is_34(eight: SimulationResult) -> None:
    """The law passes 0.99 at 34. The error of the share below the percentile, 0.001, is worth one step of it."""
    assert next(k for k in range(99) if 1 - 0.875 ** (k + 1) >= 0.99) == 34
    assert abs(eight.staleness_quantile(0.99) - 34) <= 2
    share = sum(n for tau, n in eight.histogram.items() if tau <= 34) / eight.pushes
    assert near(share, 1 - 0.875**35, math.sqrt(0.99 * 0.01 / eight.pushes))


def heavy_ball(steps: int) -> list[float]:
    """Momentum 3/4 and rate 0.05/4, the first step with rate 0.05 (Mitliagkas et al., arXiv:1605.09774)."""
    w = [1.0, 1.0]
    for t in range(steps):
        w.append(w[-1] - (0.05 if t == 0 else 0.05 / 4) * w[-1] + (0.75 * (w[-1] - w[-2]) if t else 0.0))
    return w[1:]


EXPECTED = {5: 0.7602, 10: 0.5624, 20: 0.2990, 40: 0.0825}


def test_the_mean_of_asynchronous_sgd_is_heavy_ball() -> None:
    """The figures are those of the recursion."""
    w = heavy_ball(40)
    assert {t: round(w[t], 4) for t in EXPECTED} == EXPECTED


def orders(pushes: int, workers: int) -> Iterator[tuple[list[int], float]]:
    """All orders in which workers can push, up to their names, with their probability if each is as likely as any."""

    def grow(order: list[int], names: int, p: float) -> Iterator[tuple[list[int], float]]:
        if len(order) == pushes:
            yield order, p
            return
        for name in range(min(names + 1, workers)):
            new = name == names
            ways = workers - names if new else 1
            yield from grow([*order, name], names + new, p * ways / workers)

    return grow([], 0, 1.0)


def test_the_mean_over_all_orders_of_five_pushes_is_exact() -> None:
    mean, total = 0.0, 0.0
    for order, p in orders(5, 4):
        at = [[t + 1 for t, who in enumerate(order) if who == w] for w in range(4)]
        seconds = [list(np.diff([0, *mine])) for mine in at]
        run = simulate(
            workers=4, gate="asp", compute=Listed(seconds), updates=5, problem=Quadratic(), optimizer=sgd(0.05)
        )
        mean, total = mean + p * run.weights[5, 0], total + p
    assert total == pytest.approx(1.0) and mean == pytest.approx(heavy_ball(5)[5], abs=1e-12)


def test_the_mean_of_many_asynchronous_runs_is_heavy_ball() -> None:
    """100 independent runs; the error is the deviation of the runs / 10."""
    options: dict[str, Any] = {"workers": 4, "gate": "asp", "updates": 40, "problem": Quadratic()}
    runs = np.array([simulate(**options, optimizer=sgd(0.05), seed=s).weights[:, 0] for s in range(100)])
    for t, expected in EXPECTED.items():
        assert near(runs[:, t].mean(), expected, error_of_mean(runs[:, t])), t
        assert error_of_mean(runs[:, t]) < 0.011


# --- stale synchronous ------------------------------------------------------------------------------------------------


def test_staleness_zero_is_bulk_synchronous_bit_for_bit() -> None:
    options: dict[str, Any] = {"workers": 3, "rounds": 15, "problem": Quadratic(noise=0.3, size=4), "seed": 2}
    a, b = simulate(gate="ssp:0", **options), simulate(gate="bsp", **options)
    assert a.weights.tobytes() == b.weights.tobytes() and a.update_times.tobytes() == b.update_times.tobytes()


@pytest.mark.parametrize("s", [0, 1, 3, 10])
def test_staleness_gains_nothing_on_a_worker_that_is_always_slow(s: int) -> None:
    run = simulate(workers=2, gate=f"ssp:{s}", compute=EachWorker(1.0, 3.0), until=3000.0, record=False)
    assert run.clocks == (1000 + s, 1000)


def last_rounds(seconds: np.ndarray, s: int) -> np.ndarray:
    """When each worker finishes each clock, by the definition of the gate: [worker, clock]."""
    done = np.zeros_like(seconds)
    at, everyone = np.zeros(len(seconds)), [0.0]
    for clock in range(seconds.shape[1]):
        at = np.maximum(at, everyone[max(0, clock - s)]) + seconds[:, clock]
        everyone.append(at.max())
        done[:, clock] = at
    return done


@pytest.mark.parametrize("s", [1, 2, 4, 8])
def test_every_worker_of_a_stale_synchronous_run_pushes_exactly_when_the_definition_says(s: int) -> None:
    run = simulate(workers=8, gate=f"ssp:{s}", rounds=100, seed=3)
    done = last_rounds(draws(8, 200, seed=3), s)
    for w in range(8):
        mine = run.push_times[run.push_workers == w]
        np.testing.assert_allclose(mine, done[w, : mine.size], rtol=1e-12)


RATES = {0: (0.368, 0.36794), 1: (0.559, 0.5578), 2: (0.663, 0.6624), 4: (0.768, 0.7715), 8: (0.863, 0.8613)}
"""Clocks a worker and second: as published, and from 2.6e8 draws of the definition (error below 1e-4)."""


@pytest.mark.parametrize("s", RATES)
def test_the_throughput_of_stale_synchronous_workers(s: int) -> None:
    """8 workers, exponential of mean 1 s. Error from 25 spans of the run, about 2 %."""
    published, fine = RATES[s]
    assert published == pytest.approx(fine, rel=0.005)
    run = simulate(workers=8, gate=f"ssp:{s}", rounds=400, seed=1, record=False)
    error = error_of_batches(run)
    assert near(run.rates(25).mean(), fine, error) and error < 0.03


def test_without_a_gate_the_throughput_is_that_of_the_workers(eight: SimulationResult) -> None:
    """9,600 exponential times: error 1/sqrt(9600)."""
    assert near(eight.rates(25).mean(), 1.0, 1 / math.sqrt(eight.pushes))
    assert eight.waiting_share < 1e-9
