"""The simulator itself: accounts, limits, the network, and what it refuses."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal import optim
from shoal.errors import ConfigError, ShapeError
from shoal.kvstore.gates import check_workers
from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import Constant, EachWorker, Exponential, Law, Listed, LogNormal, Pareto
from shoal.lab.simulate_problems import Function, Quadratic
from shoal.lab.simulate_scenario import Scenario
from shoal.lab.simulate_server import SimulatedServer
from shoal.lab.simulate_time import Network

GATES = ["bsp", "ssp:1", "ssp:4", "asp"]


def test_a_simulation_is_a_function_of_its_arguments() -> None:
    scenario = Scenario(gate="ssp:2", rounds=20, problem=Quadratic(noise=0.1, size=3), servers=2, slices=3)
    a, b, c = simulate(scenario), simulate(scenario), simulate(scenario, seed=1)
    assert a.weights.tobytes() == b.weights.tobytes() and a.push_times.tobytes() == b.push_times.tobytes()
    assert a.weights.tobytes() != c.weights.tobytes()


@pytest.mark.parametrize("gate", GATES)
def test_every_contribution_is_accounted_for(gate: str) -> None:
    run = simulate(workers=5, gate=gate, rounds=20, servers=2, slices=3, problem=Quadratic(size=10))
    assert run.pushes == 100 and sum(run.clocks) == 100
    assert sum(run.applied) == 300 and sum(run.dropped) == 0 and run.histogram.total() == 300
    assert run.updates == (20 if gate == "bsp" else 100) and run.weights.shape == (run.updates + 1, 10)
    assert sum(run.closed) == run.updates


@pytest.mark.parametrize("gate", GATES)
def test_a_worker_computes_or_waits(gate: str) -> None:
    run = simulate(workers=3, gate=gate, compute=EachWorker(1.0, 2.0, 3.0), until=12.0)
    assert run.seconds == 12.0
    for busy, waited, clock, each in zip(run.computing_s, run.waiting_s, run.clocks, (1, 2, 3), strict=True):
        assert busy + waited == 12.0 and 0 <= busy - clock * each <= each
    if gate == "bsp":
        assert run.computing_s == (4.0, 8.0, 12.0) and run.waiting_share == pytest.approx(1 / 3)
        assert run.closed == (0, 0, 4)  # everybody waited for worker 2
    if gate == "asp":
        assert run.clocks == (12, 6, 4) and run.waiting_share == 0.0


def test_the_first_limit_ends_the_run() -> None:
    both: dict[str, Any] = {"workers": 2, "compute": Constant(1.0)}
    assert simulate(**both, rounds=7).seconds == 7.0
    assert simulate(**both, updates=5, rounds=7).updates == 5
    assert simulate(**both, until=2.5, rounds=7).updates == 2
    assert simulate(**both, gate="asp", updates=5).updates == 5
    assert simulate(**both).updates == 100


def test_a_worker_whose_list_ends_leaves_and_nobody_waits_for_it() -> None:
    run = simulate(workers=2, gate="bsp", compute=Listed([[1.0], [2.0, 2.0, 2.0]]), rounds=100)
    assert list(run.update_times) == [2.0, 4.0, 6.0] and run.clocks == (1, 3)


def test_slices_change_nothing_when_messages_take_no_time() -> None:
    options: dict[str, Any] = {"gate": "asp", "rounds": 10, "problem": Quadratic(noise=0.2, size=12)}
    one, six = simulate(**options), simulate(**options, slices=6, servers=3)
    assert one.weights.tobytes() == six.weights.tobytes()


def test_versions_of_slices_may_differ_when_messages_take_time() -> None:
    network = Network(delay=Exponential(0.5))
    run = simulate(gate="asp", rounds=20, problem=Quadratic(size=4), slices=4, servers=4, network=network)
    assert len({tuple(row) for row in run.weights[1:20]}) == 19 and any(len(set(row)) > 1 for row in run.weights)


def test_weights_are_those_of_the_optimizer() -> None:
    momentum = optim.SGD(learning_rate=0.1, momentum=0.9)
    run = simulate(workers=3, rounds=6, problem=Quadratic(), optimizer=momentum)
    w, v = np.ones(1), np.zeros(1)
    for t in range(1, 7):
        v = 0.9 * v + w
        w = w - 0.1 * v
        assert run.weights[t] == pytest.approx(w)


def test_only_the_last_weights_are_kept_if_asked() -> None:
    kept, last = (simulate(rounds=5, problem=Quadratic(), record=r) for r in (True, False))
    assert last.weights.shape == (1, 1) and last.weights[-1] == kept.weights[-1]


def test_a_gradient_sees_the_weights_that_its_worker_has_read() -> None:
    seen: list[tuple[int, int, float]] = []

    def gradient(w: np.ndarray, worker: int, step: int) -> np.ndarray:
        seen.append((worker, step, float(w[0])))
        return np.ones(1)

    law = Listed([[1.0, 10.0], [3.0, 1.0]])
    simulate(
        workers=2,
        gate="asp",
        compute=law,
        problem=Function([0.0], gradient),
        optimizer=optim.SGD(learning_rate=1.0),
        updates=4,
    )
    assert seen == [(0, 0, 0.0), (1, 0, 0.0), (1, 1, -2.0), (0, 1, -1.0)]


# --- async is never slower --------------------------------------------------------------------------------------------

LAWS = st.sampled_from([Constant(1.0), Exponential(1.0), LogNormal(1.0, 1.0), Pareto(0.3, 1.5)])


@settings(max_examples=25)
@given(law=LAWS, workers=st.integers(1, 6), seed=st.integers(0, 99), delay=st.sampled_from([0.0, 0.2]))
def test_a_looser_gate_is_never_slower_on_equal_workers(law: Law, workers: int, seed: int, delay: float) -> None:
    """The same durations under every gate: each worker comes to each of its steps no later under the looser one."""
    network = Network(delay=delay)
    runs = [simulate(workers=workers, gate=g, compute=law, seed=seed, rounds=8, network=network) for g in GATES]
    for tight, loose in itertools.pairwise(runs):
        assert loose.pushes_per_s >= tight.pushes_per_s * (1 - 1e-12)
        for w in range(workers):
            a, b = (r.push_times[r.push_workers == w] for r in (tight, loose))
            common = min(a.size, b.size)
            assert (b[:common] <= a[:common] * (1 + 1e-12)).all()


@pytest.mark.parametrize("gate", ["bsp", "ssp:2", "essp:2", "backup:2", "ksync:3", "kbatch:3", "kasync:3", "fedbuff:3"])
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_no_gate_lets_a_worker_come_to_any_step_earlier_than_none(gate: str, delay: float) -> None:
    network = Network(delay=delay)
    gated, free = (simulate(gate=g, rounds=30, seed=3, network=network) for g in (gate, "asp"))
    for w in range(8):
        a, b = (r.push_times[r.push_workers == w] for r in (gated, free))
        common = min(a.size, b.size)
        assert common > 10 and (b[:common] <= a[:common] * (1 + 1e-12)).all()
    assert free.pushes_per_s >= gated.pushes_per_s * (1 - 1e-12)


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_asynchronous_is_as_fast_as_synchronous_where_nobody_straggles(workers: int) -> None:
    sync, free = (simulate(workers=workers, gate=g, compute=Constant(1.0), rounds=10) for g in ("bsp", "asp"))
    assert sync.pushes_per_s == free.pushes_per_s == workers


@pytest.mark.parametrize("handling_s", [0.01, 0.5])
def test_asynchronous_is_not_slower_when_the_server_is_busy_with_each_contribution(handling_s: float) -> None:
    network = Network(handling_s=handling_s)
    sync, free = (simulate(gate=g, rounds=30, network=network, compute=Constant(1.0)) for g in ("bsp", "asp"))
    assert free.pushes_per_s >= sync.pushes_per_s


# --- the network ------------------------------------------------------------------------------------------------------


def test_a_synchronous_step_takes_its_computing_and_two_messages() -> None:
    run = simulate(workers=3, compute=Constant(1.0), rounds=4, network=Network(delay=0.25))
    assert np.diff(run.update_times) == pytest.approx(np.full(3, 1.5))


def test_a_lone_worker_sends_and_receives_its_bytes_one_after_the_other() -> None:
    network = Network(bytes_per_s=100.0)
    run = simulate(workers=1, compute=Constant(10.0), rounds=3, network=network, model_bytes=100)
    assert list(run.update_times) == [12.0, 24.0, 36.0]


def test_bytes_queue_at_a_server_and_more_servers_share_them() -> None:
    """Four workers push 100 bytes each at 100 bytes/s: that takes one server 4 s, and four servers 1 s."""
    options: dict[str, Any] = {"workers": 4, "compute": Constant(10.0), "rounds": 9, "problem": Quadratic(size=8)}
    network, means = Network(bytes_per_s=100.0), []
    for servers in (1, 2, 4):
        run = simulate(**options, servers=servers, slices=4, network=network, model_bytes=100)
        assert (run.update_seconds >= 10.0 + 4 / servers).all()
        means.append(run.update_seconds.mean())
    assert means == sorted(means, reverse=True) and means[0] > means[2] + 2


def test_a_busy_server_handles_one_contribution_after_another() -> None:
    run = simulate(workers=4, compute=Constant(1.0), rounds=5, network=Network(handling_s=0.5))
    assert np.diff(run.update_times) == pytest.approx(np.full(4, 3.0))


def test_messages_of_one_link_do_not_overtake_each_other() -> None:
    network = Network(delay=Pareto(0.01, 1.1))
    run = simulate(gate="asp", rounds=30, problem=Quadratic(size=4), slices=4, servers=2, network=network)
    assert run.pushes == 240 and sum(run.dropped) == 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "a simulation needs workers >= 1, got 0"),
        ({"workers": 2.5}, "workers >= 1, got 2.5"),
        ({"rounds": 0}, "rounds >= 1, got 0"),
        ({"updates": True}, "updates >= 1, got True"),
        ({"until": -1.0}, "ends at a positive time, got until=-1.0"),
        ({"servers": 2}, "2 servers need at least as many slices, got slices=1"),
        ({"problem": Quadratic(), "slices": 2}, "at least one for each of the 2 slices; got float64 (1,)"),
        ({"gate": "lazy"}, "unknown mode 'lazy'"),
        ({"reduce": "max"}, "unknown reduction 'max'; known: mean, sum"),
        ({"compute": EachWorker(1.0)}, "each has the times of 1 workers, but there are 8"),
        ({"problem": Function(np.ones((2, 2)), lambda w, a, b: w)}, "one-dimensional floats"),
        ({"problem": Function(np.ones(2, int), lambda w, a, b: w)}, "got int64 (2,)"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "bad", [{"delay": -1.0}, {"delay": math.nan}, {"handling_s": -1.0}, {"bytes_per_s": 0.0}, {"duplex": 0.0}]
)
def test_a_network_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="a network"):
        Network(**bad)  # type: ignore[arg-type]  # floats by name


@pytest.mark.parametrize("bad", [{"size": 0}, {"noise": -1.0}, {"noise": math.inf}])
def test_a_quadratic_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a quadratic problem needs"):
        Quadratic(**bad)


def test_an_error_of_the_store_is_that_of_a_real_worker() -> None:
    with pytest.raises(ShapeError, match=r"worker . pushes 'w0' .* All workers must build the same model"):
        simulate(problem=Function([1.0, 2.0], lambda w, worker, step: w[:1]))


def test_the_histogram_is_that_of_all_workers() -> None:
    run = simulate(workers=3, gate="asp", rounds=5)
    assert run.histogram == sum(run.staleness, Counter()) and run.staleness_quantile(1.0) == max(run.histogram)


# --- giving up --------------------------------------------------------------------------------------------------------


def test_workers_that_begin_anew_after_each_update_never_push_what_is_stale() -> None:
    """Without a gate that is a race for each update: the fastest of N exponential workers, N times as fast as one."""
    run = simulate(workers=8, gate="asp", rounds=100, restart=True, seed=1)
    assert run.histogram == {0: 800} and run.updates == 800
    fastest = run.update_seconds  # independent, exponential of mean 1/8
    assert abs(fastest.mean() - 1 / 8) <= 4 / 8 / math.sqrt(800)
    assert run.abandoned_share == pytest.approx(7 / 8, abs=0.03) and run.waiting_share == pytest.approx(0.0, abs=1e-9)


def test_nobody_gives_up_where_every_contribution_is_needed() -> None:
    a, b = simulate(rounds=10, restart=True), simulate(rounds=10)
    assert a.push_times.tobytes() == b.push_times.tobytes() and sum(a.abandoned_s) == 0.0


def test_who_gives_up_hears_of_it_by_message() -> None:
    """The fast worker closes the rounds at 1, 3.5, 6 s ...; the slow one hears of each 0.5 s later."""
    law, network = EachWorker(1.0, 9.0), Network(delay=0.5)
    run = simulate(workers=2, gate="asp", compute=law, until=9.0, restart=True, network=network)
    assert run.clocks[1] == 0 and run.abandoned_s[0] == 0.0 and run.abandoned_s[1] > 3.0


# --- the cores' invariants --------------------------------------------------------------------------------------------

ANY_GATE = st.one_of(
    st.sampled_from(["bsp", "asp", "asp:max=3"]),
    st.builds("{}:{}".format, st.sampled_from(["ssp", "essp", "backup"]), st.integers(0, 4)),
    st.builds("{}:{}".format, st.sampled_from(["ksync", "kbatch", "kasync", "fedbuff"]), st.integers(1, 6)),
)
ANY_DELAY = st.sampled_from([0.0, 0.3, Exponential(0.3), Pareto(0.01, 1.2)])


def _large_enough(gate: str, workers: int) -> bool:
    try:
        check_workers(gate, workers)
    except ConfigError:
        return False
    return True


@settings(max_examples=40)
@given(
    gate=ANY_GATE,
    workers=st.integers(1, 5),
    delay=ANY_DELAY,
    servers=st.integers(1, 2),
    restart=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_cores_keep_their_invariants_under_every_gate(
    gate: str, workers: int, delay: Any, servers: int, restart: bool, seed: int
) -> None:
    """After every message; and everybody who waits is let go on in the end: 12 rounds are reached."""
    assume(_large_enough(gate, workers))
    scenario = Scenario(
        workers=workers,
        gate=gate,
        rounds=12,
        seed=seed,
        network=Network(delay=delay),
        servers=servers,
        slices=2,
        problem=Quadratic(size=2),
        optimizer=optim.SGD(learning_rate=0.01),
        restart=restart,
    )
    with pytest.MonkeyPatch.context() as patch:
        receive = SimulatedServer.receive

        def checked(self: SimulatedServer, rank: int, message: Any, now: float) -> None:
            receive(self, rank, message, now)
            self.core.check()

        patch.setattr(SimulatedServer, "receive", checked)
        run = simulate(scenario)
    assert run.pushes == 12 * workers and np.isfinite(run.weights).all()
    open_rounds = run.histogram.total() - sum(run.applied)  # counted, and not yet applied
    assert 0 <= open_rounds < 2 * 6
    first = run.pushes  # of the first slice; the second one's may run a little ahead or behind
    assert abs(run.histogram.total() + sum(run.dropped) - 2 * first) <= 2 * workers


@pytest.mark.parametrize("gate", ["bsp", "backup:1", "backup:3", "ksync:2", "kbatch:3", "kasync:2"])
@pytest.mark.parametrize("seed", range(4))
def test_all_slices_take_the_same_contributions_however_messages_are_delayed(gate: str, seed: int) -> None:
    """Every contribution is a number of its own, the same on all slices; so the weights are, version by version."""
    run = simulate(
        workers=5,
        gate=gate,
        updates=30,
        seed=seed,
        network=Network(delay=Pareto(0.05, 1.2)),
        servers=3,
        slices=4,
        problem=Function([0.0] * 4, lambda w, worker, step: np.full(4, (worker + 1) + 1000.0 * step)),
        optimizer=optim.SGD(learning_rate=1.0),
        reduce="sum",
    )
    assert run.updates >= 30 and len(set(run.weights[:, 0])) == run.updates + 1
    assert (run.weights == run.weights[:, :1]).all()
