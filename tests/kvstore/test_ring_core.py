"""The core of all-reduce: whatever the network and the workers' order, everybody gets the same sum, once."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore.arrays import as_payload
from shoal.kvstore.ring import core as ring_core
from shoal.kvstore.ring.core import AllReduceCore
from shoal.kvstore.ring.events import Complete, Fail, Send, Transmit
from shoal.kvstore.wire.messages import Ask, Greet, Greeted, Part, Ready, Refused, Standing, Took
from tests.kvstore.ringnet import RingNet, collective

bad_networks = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "loss": st.sampled_from([0.0, 0.1, 0.4]),
        "repeat": st.sampled_from([0.0, 0.2, 0.6]),
        "staged": st.booleans(),
    }
)


def part(rank: int, key: int, clock: int, size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int64) * (rank + 1) + 1000 * key + 7 * clock


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    bad_networks, st.integers(1, 5), st.sampled_from(["ring", "halving", "doubling"]), st.integers(0, 40), st.randoms()
)
def test_every_worker_gets_the_same_sum_once(network: dict, workers: int, way: str, size: int, order) -> None:
    """Keys are started in another order by each worker, at other times, twice each."""
    way = way if workers in (1, 2, 4) else "ring"
    net = RingNet(workers, **network)
    for rank in range(workers):
        keys = [0, 1, 2]
        order.shuffle(keys)
        for clock in range(2):
            for k in keys:
                own = part(rank, k, clock, size)
                net.later(
                    order.random() * 2 + 2 * clock, rank, collective(rank, workers, own, key=k, algorithm=way), own
                )
    net.run()
    assert not net.failed
    clocks = {(k, c) for _, k, c in net.results}
    assert len(net.results) == workers * 6 and clocks == {(k, c) for k in range(3) for c in range(2)}
    for (_, k, c), result in net.results.items():
        np.testing.assert_array_equal(result, sum(part(r, k, c, size) for r in range(workers)))
    check_the_books(net)


def check_the_books(net: RingNet) -> None:
    for rank, core in enumerate(net.cores):
        books = [c.counters.applied.get(rank, 0) for c in net.cores]
        assert core.counters.sent == core.counters.acknowledged == sum(books)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(["ring", "halving", "doubling"]))
def test_the_bits_do_not_depend_on_the_order_of_arrival(network: dict, way: str) -> None:
    rng = np.random.default_rng(1)
    parts = [(rng.standard_normal(50) * 10.0 ** (3 * r)).astype(np.float32) for r in range(4)]

    def bits(**bad: object) -> set[bytes]:
        net = RingNet(4, **bad)  # type: ignore[arg-type]
        for r in range(4):
            net.start(r, collective(r, 4, parts[r], algorithm=way), parts[r].copy(), divisor=4)
        net.run()
        return {a.tobytes() for a in net.results.values()}

    assert bits(**network) == bits() and len(bits()) == 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.integers(1, 4), st.booleans())
def test_large_arrays_go_in_place_without_a_copy(network: dict, workers: int, in_place: bool) -> None:
    size = 100_000  # pieces above the size that is copied: memory is read when the network delivers
    old = ring_core.KEEP_BYTES
    ring_core.KEEP_BYTES = 1000
    try:
        net = RingNet(workers, **network)
        for clock in range(2):
            for r in range(workers):
                own = part(r, 0, clock, size)
                total = own if in_place else np.empty_like(own)
                net.start(r, collective(r, workers, own, algorithm="ring"), own, total)
        net.run()
    finally:
        ring_core.KEEP_BYTES = old
    assert not net.failed
    for (_, k, c), result in net.results.items():
        np.testing.assert_array_equal(result, sum(part(r, k, c, size) for r in range(workers)))


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.integers(1, 4), st.integers(0, 30))
def test_a_broadcast_survives_the_network(network: dict, workers: int, size: int) -> None:
    net = RingNet(workers, **network)
    for r in range(workers):
        own = np.full(size, r)
        net.start(r, collective(r, workers, own, algorithm="broadcast"), own, own)
    net.run()
    assert not net.failed and len(net.results) == workers
    assert all((a == 0).all() for a in net.results.values())


def test_the_mean_is_the_sum_divided_by_the_workers() -> None:
    net = RingNet(3)
    for r in range(3):
        own = np.full(4, float(r), np.float32)
        net.start(r, collective(r, 3, own), own, divisor=3)
    net.run()
    assert [a.tolist() for a in net.results.values()] == [[1.0] * 4] * 3


# --- one core, message by message -------------------------------------------------------------------------------------


def pair(**options: float) -> AllReduceCore:
    """Worker 0 of two, introduced to worker 1."""
    core = AllReduceCore(0, 1, 2, "run", **options)
    core.know("worker1", 1)
    core.receive("worker1", Greeted(worker=1, incarnation=1), 0.0)
    return core


def an_op(size: int = 4, key: int = 0, algorithm: str = "doubling", priority: int = 0):
    return collective(0, 2, np.zeros(size, np.float32), key=key, algorithm=algorithm, priority=priority)


def message(size: int = 4, key: int = 0, clock: int = 0, total: int | None = None, block: int = 0) -> Part:
    value = as_payload(np.ones(size, np.float32))
    return Part(key=key, clock=clock, block=block, tag=0, total=total or size, value=value)


def of(kind: type, actions: list) -> list:
    return [a for a in actions if isinstance(a, kind)]


def answers(actions: list) -> list:
    return [a.message for a in of(Send, actions)]


def test_a_repeated_message_is_taken_once_and_answered_each_time() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    assert of(Complete, core.receive("worker1", message(), 0.1))
    again = core.receive("worker1", message(), 0.2)
    assert answers(again) == [Took(key=0, clock=0, block=0, tag=0, taken=True)]
    assert core.counters.applied == {1: 1} and core.counters.duplicate == {1: 1}


def test_a_message_that_comes_before_its_collective_is_kept() -> None:
    core = pair()
    assert answers(core.receive("worker1", message(), 0.0))[0].taken
    assert of(Complete, core.submit(an_op(), 0.1))
    assert core.early_bytes == 0


def test_what_comes_too_early_is_bounded_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_core, "EARLY_BYTES", 600)
    core = pair()
    assert answers(core.receive("worker1", message(10, key=1), 0.0))[0].taken
    assert not answers(core.receive("worker1", message(100, key=2), 0.0))[0].taken
    assert core.early_bytes <= 600
    assert Ready(key=2, clock=0) in answers(core.submit(an_op(100, key=2), 0.1))
    assert answers(core.receive("worker1", message(100, key=2), 0.2))[0].taken


def test_what_a_peer_would_not_take_is_sent_again_when_it_is_ready() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    assert not of(Transmit, core.receive("worker1", Took(key=0, clock=0, block=0, tag=0, taken=False), 0.1))
    assert not of(Transmit, core.wake(2.0)[0])
    assert len(of(Transmit, core.receive("worker1", Ready(key=0, clock=0), 2.1))) == 1
    core.check()


def test_a_message_that_is_not_answered_is_repeated() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    assert len(of(Transmit, core.wake(1.1)[0])) == 1
    assert core.counters.sent == 1 and core.counters.retries == 1


def test_repetitions_become_rarer() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    times = [t / 10 for t in range(1, 200) if of(Transmit, core.wake(t / 10)[0])]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] < 1.2 and gaps == sorted(gaps) and gaps[-1] > 3


def test_what_waits_to_be_repeated_is_not_when_its_answer_comes() -> None:
    core = pair()
    sent = of(Transmit, core.submit(an_op(24 << 18, algorithm="ring"), 0.0))  # 12 parts of 1 MB, 8 under way
    later = [t.flight.block for t in of(Transmit, core.wake(1.1)[0])]  # four new ones first, then four repetitions
    waiting = [t.flight.block for t in sent if t.flight.block not in later]
    for block in waiting:
        more = core.receive("worker1", Took(key=0, clock=0, block=block, tag=0, taken=True), 1.2)
        core.check()
        assert not of(Transmit, more)
    for block in later:
        more = core.receive("worker1", Took(key=0, clock=0, block=block, tag=0, taken=True), 1.3)
        assert not of(Transmit, more)


def test_a_peer_is_ready_for_one_collective_at_a_time() -> None:
    core = pair()
    for key in (0, 1):
        core.submit(an_op(key=key), 0.0)
        core.receive("worker1", Took(key=key, clock=0, block=0, tag=0, taken=False), 0.1)
    sent = of(Transmit, core.receive("worker1", Ready(key=1, clock=0), 0.2))
    assert [t.flight.op.key for t in sent] == [1]


def test_no_more_is_under_way_than_the_credit() -> None:
    core = pair()
    big = 1 << 18
    sent = of(Transmit, core.submit(an_op(20 * big, algorithm="ring"), 0.0))
    assert len(sent) == 8
    core.check()
    more = core.receive("worker1", Took(key=0, clock=0, block=sent[0].flight.block, tag=0, taken=True), 0.1)
    assert len(of(Transmit, more)) == 1


def test_the_urgent_collective_overtakes_what_is_queued() -> None:
    core = pair()
    big = 1 << 18
    sent = of(Transmit, core.submit(an_op(40 * big, algorithm="ring"), 0.0))
    assert not of(Transmit, core.submit(an_op(key=1, priority=5), 0.0))
    more = core.receive("worker1", Took(key=0, clock=0, block=sent[0].flight.block, tag=0, taken=True), 0.1)
    assert next(t.flight.op.key for t in of(Transmit, more)) == 1


def test_nothing_is_sent_before_the_peer_has_answered_the_greeting() -> None:
    core = AllReduceCore(0, 1, 2, "run")
    core.know("worker1", 1)
    first = core.submit(an_op(), 0.0)
    assert answers(first) == [Greet(cluster="run", worker=0, incarnation=1)] and not of(Transmit, first)
    assert Greet(cluster="run", worker=0, incarnation=1) in answers(core.wake(0.2)[0])
    assert of(Transmit, core.receive("worker1", Greeted(worker=1, incarnation=1), 0.3))


def test_a_worker_of_another_run_is_refused() -> None:
    core = pair()
    (answer,) = core.receive("x", Greet(cluster="other", worker=1, incarnation=1), 0.0)
    assert answer.to == "x" and answer.message.error == "StaleWorkerError"
    assert core.receive("x", message(), 0.0) == []


def test_a_refusal_fails_what_is_under_way() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    (fail,) = of(Fail, core.receive("worker1", Refused(seq=0, error="StaleWorkerError", text="no"), 0.1))
    assert fail.error == "StaleWorkerError"


def test_workers_that_do_not_make_the_same_calls_are_told_so() -> None:
    core = pair()
    core.submit(an_op(4), 0.0)
    (fail,) = of(Fail, core.receive("worker1", message(6), 0.1))
    assert fail.error == "ConfigError"
    assert "worker 1 reduces 6 elements of <f4 with 'k0' at clock 0; worker 0 reduces 4 of <f4" in fail.text


def test_workers_that_go_about_it_in_different_ways_are_told_so() -> None:
    net = RingNet(4)
    for r in range(4):
        own = np.ones(8, np.float32)
        net.start(r, collective(r, 4, own, algorithm="ring" if r else "halving"), own)
    net.run(until=5)
    assert any("in different ways: set the same algorithm on every worker" in f.text for _, f in net.failed)


@pytest.mark.parametrize("block", [-1, 7, 2**62])
def test_a_message_for_no_step_of_the_program_fails_the_collective(block: int) -> None:
    core = pair()
    core.submit(an_op(4), 0.0)
    assert of(Fail, core.receive("worker1", message(4, block=block), 0.1))


def test_a_message_counts_only_from_the_peer_that_its_step_waits_for() -> None:
    core = AllReduceCore(0, 1, 3, "run")
    core.know("worker1", 1)
    own = np.zeros(4, np.float32)
    core.submit(collective(0, 3, own, algorithm="ring"), 0.0)  # its left neighbour is worker 2
    assert of(Fail, core.receive("worker1", message(4), 0.1))


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_the_deadline_names_the_worker_that_everybody_waits_for() -> None:
    net = RingNet(4)
    for r in range(3):  # worker 3 never comes; worker 2 waits for worker 1, and so on
        own = np.ones(4, np.float32)
        net.start(r, collective(r, 4, own, algorithm="ring"), own)
    net.run()
    assert {rank for rank, _ in net.failed} == {0, 1, 2}
    for rank, fail in net.failed:
        assert fail.error == "StoreTimeoutError"
        assert f"worker {rank} has waited for worker 3 in the all-reduce of 'k0' at clock 0 for 600" in fail.text
    assert any("for 30 s so far" in text for text in net.warned)


def test_a_peer_that_says_nothing_at_all_is_named_earlier() -> None:
    net = RingNet(2)
    for core in net.cores:
        core.silence_s = 60.0
    for r in range(2):
        own = np.ones(4, np.float32)
        net.start(r, collective(r, 2, own), own)
    net.run()
    net.cut = {1}
    own = np.ones(4, np.float32)
    net.start(0, collective(0, 2, own), own)
    net.run(until=100)
    ((rank, fail),) = net.failed
    assert rank == 0 and "worker 1 has said nothing to worker 0 for 60 s" in fail.text


def test_a_peer_that_has_not_made_its_store_yet_is_waited_for_until_the_deadline() -> None:
    core = AllReduceCore(0, 1, 2, "run", timeout_s=600.0)
    core.submit(an_op(), 0.0)
    assert not of(Fail, core.wake(599.0)[0])
    (fail,) = of(Fail, core.wake(601.0)[0])
    assert "worker 0 has waited for worker 1" in fail.text


def test_a_process_that_was_stopped_blames_nobody_for_that_time() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    core.was_stopped(7000.0, 6999.0)
    assert not of(Fail, core.wake(7000.1)[0])


def test_a_peer_is_asked_how_the_collective_stands() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    assert Ask(key=0, clock=0) in answers(core.wake(1.5)[0])
    assert core.receive("worker1", Ask(key=0, clock=0), 2.0)[0].message.state == "waiting"
    assert core.receive("worker1", Ask(key=0, clock=1), 2.0)[0].message == Standing(
        key=0, clock=1, state="absent", missing=(0,)
    )
    core.receive("worker1", message(), 2.1)
    assert core.receive("worker1", Ask(key=0, clock=0), 2.2)[0].message.state == "done"


def test_the_worker_to_blame_is_the_one_that_a_peer_waits_for_now() -> None:
    core = pair()
    op = an_op()
    core.submit(op, 0.0)
    told = [("waiting", (3,), "worker 3"), ("done", (), "worker 1"), ("waiting", (0,), "worker 1")]
    for state, missing, blamed in told:
        core.receive("worker1", Standing(key=0, clock=0, state=state, missing=missing), 1.0)
        assert f"has waited for {blamed} in" in core.describe(op)


def test_a_worker_that_has_closed_its_store_is_not_waited_for() -> None:
    net = RingNet(2)
    net.cores[1].close([0])
    own = np.ones(4, np.float32)
    net.start(0, collective(0, 2, own), own)
    net.run(until=5)
    ((rank, fail),) = net.failed
    assert rank == 0 and fail.error == "MembershipError"
    assert "worker 1 has finished" in fail.text and "equally many batches" in fail.text


def test_what_needs_a_worker_that_has_left_fails_at_once() -> None:
    core = pair()
    core.submit(an_op(), 0.0)
    assert of(Fail, core.left(1))
    assert of(Fail, core.submit(an_op(), 1.0))


def test_after_a_failure_the_callers_memory_is_sent_no_more() -> None:
    core = pair()
    core.submit(an_op(1 << 18, algorithm="ring"), 0.0)
    core.left(1)
    assert not of(Transmit, core.wake(5.0)[0])
    core.check()
    assert core.idle()
