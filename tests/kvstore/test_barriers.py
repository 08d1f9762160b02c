"""Who waits at a barrier is not waited for, and all go on from there equally far."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore.client.core import Job
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.events import Action, Apply, PeerGone, Send, SendValue
from shoal.kvstore.gates import Progress
from shoal.kvstore.wire.messages import Ack, Fetch, Granted, Pull, Retire, Survey, Surveyed, Ticket, Value, Waiting
from shoal.kvstore.wire.messages import Count as Counted
from shoal.ops import optim
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_lossy_network import bad_networks, contribution
from tests.kvstore.test_server_core import feed, pull, push, refused, server
from tests.kvstore.threads import thread_cluster


def rest(rank: int, barrier: int = 1, seq: int = 50) -> Retire:
    return Retire(worker=rank, incarnation=1, seq=seq, store=1, barrier=barrier)


def rounds(actions: list[Action]) -> list[tuple[tuple[int, int], ...]]:
    """(rank, clock) of the contributions of each update."""
    return [tuple((p.rank, p.clock) for p in a.parts) for a in actions if isinstance(a, Apply)]


def values(actions: list[Action]) -> list[SendValue]:
    return [a for a in actions if isinstance(a, SendValue)]


# --- the floor --------------------------------------------------------------------------------------------------------


def test_a_worker_that_rests_does_not_hold_the_floor_and_is_taken_along() -> None:
    resting = {1}
    p = Progress((0, 1), resting)
    p.advance(0)
    p.advance(0)
    assert p.floor == 2 and p.clocks == {0: 2, 1: 2} and p.skipped == {1: 2}
    assert p.counts() == {0: 2, 1: 0} and p.behind(9) == (0,)


def test_all_become_equally_far_when_all_rest() -> None:
    resting: set[int] = set()
    p = Progress((0, 1, 2), resting)
    for rank in (0, 0, 0, 1):
        p.advance(rank)
    resting |= {0, 1, 2}
    p.settle()
    assert p.floor == 3 and p.clocks == {0: 3, 1: 3, 2: 3} and p.skipped == {1: 2, 2: 3}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["push", "rest", "wake", "leave"])), max_size=60))
def test_the_floor_is_the_slowest_clock_of_those_who_do_not_rest_and_never_falls(steps: list[tuple[int, str]]) -> None:
    resting: set[int] = set()
    p, pushed, left, before = Progress((0, 1, 2, 3), resting), dict.fromkeys(range(4), 0), set[int](), 0
    for rank, what in steps:
        if what == "leave":
            p.drop(rank)
            left.add(rank)
        elif what == "rest":
            resting.add(rank)
            p.settle()
        elif what == "wake":
            resting.discard(rank)
        elif rank not in left:
            p.advance(rank)
            pushed[rank] += 1
        awake = [c for r, c in p.clocks.items() if r not in resting]
        assert p.floor >= before and all(c >= p.floor for c in p.clocks.values())
        assert not awake or p.floor == min(awake)
        assert p.counts() == {r: n for r, n in pushed.items() if r not in left}
        before = p.floor


# --- the server -------------------------------------------------------------------------------------------------------


def test_a_round_closes_without_who_waits_at_a_barrier() -> None:
    core = server(2)
    feed(core, push(0, 0, seq=1))
    assert rounds(feed(core, push(1, 0, seq=1))) == [((0, 0), (1, 0))]
    feed(core, push(0, 1, seq=2, want=True))
    found = feed(core, rest(1))
    assert rounds(found) == [((0, 1),)] and [v.to for v in values(found)] == ["w0"]
    assert core.report()["partial"] == 1


def test_who_has_waited_goes_on_at_the_clock_that_the_server_counts() -> None:
    core = server(2)
    feed(core, push(1, 0, seq=1))
    feed(core, push(0, 0, seq=1))
    feed(core, rest(1))
    assert rounds(feed(core, push(0, 1, seq=2))) == [((0, 1),)]
    feed(core, rest(0))
    assert core.desks[1].resting == set(), "all have come to the barrier"
    (ack,) = [a.message for a in feed(core, push(1, 1, seq=60)) if isinstance(a, Send)]
    assert ack == Ack(seq=60, version=2, floor=1, taken=True), "the floor is in the worker's own count"
    assert feed(core, pull(1, 2)) == [], "it has contributed to the open round, and waits for it"
    assert "ahead of workers (0,)" in refused(feed(core, push(1, 2, seq=61))).text
    assert feed(core, pull(1, 2)) == [Send("w1", Waiting(seq=9, missing=(0,)))]
    assert rounds(feed(core, push(0, 2, seq=60))) == [((0, 2), (1, 1))]
    assert core.ledgers[1].applied == 2 and core.ledgers[0].applied == 3


def test_a_push_from_before_the_barrier_that_comes_again_is_not_counted_again() -> None:
    core = server(2)
    feed(core, push(1, 0, seq=1))
    feed(core, push(0, 0, seq=1))
    feed(core, rest(1))
    feed(core, push(0, 1, seq=2))
    feed(core, push(1, 0, seq=1))
    assert core.ledgers[1].duplicate == 1 and core.desks[1].resting == {1}, "nor does it end the rest"
    feed(core, rest(0))
    feed(core, push(1, 0, seq=1))
    assert core.ledgers[1].duplicate == 2 and core.ledgers[1].applied == 1


def test_a_rest_that_comes_again_after_the_barrier_changes_nothing() -> None:
    core = server(2)
    feed(core, rest(0))
    feed(core, rest(1))
    feed(core, rest(0))
    assert core.desks[1].resting == set()
    assert rounds(feed(core, push(1, 0, seq=60))) == []


def test_the_first_to_go_on_after_a_barrier_does_not_go_alone() -> None:
    core = server(3, "ksync:2")
    for rank in (0, 1, 2):
        feed(core, rest(rank))
    (a,) = feed(core, Ticket(worker=0, incarnation=1, seq=60, store=1, index=0, base=0))
    assert isinstance(a, Send) and isinstance(a.message, Granted) and a.message.quota == 2


def test_a_place_that_was_not_used_up_before_a_barrier_is_not_given_after_it() -> None:
    core = server(2, "kbatch:2")
    feed(core, Ticket(worker=0, incarnation=1, seq=1, store=1, index=0, base=0))
    for rank in (0, 1):
        feed(core, rest(rank))
    (a,) = feed(core, Ticket(worker=1, incarnation=1, seq=60, store=1, index=0, base=1))
    assert isinstance(a, Send) and isinstance(a.message, Granted) and a.message.round == 1


def test_the_last_that_others_wait_for_at_a_barrier_may_leave_instead() -> None:
    core = server(3)
    feed(core, push(0, 0, seq=1))
    feed(core, rest(0))
    feed(core, rest(1))
    assert rounds(core.handle(PeerGone(2, 1), 1.0)) == [((0, 0),)]
    core.check()
    assert core.desks[1].resting == set()
    assert rounds(feed(core, push(0, 1, seq=60))) == [], "worker 1 has gone on, too"


def test_who_pushes_during_a_barrier_is_waited_for_and_the_barrier_still_ends() -> None:
    core = server(2)
    feed(core, rest(0, seq=5))
    feed(core, push(0, 0, seq=6))  # another thread of the same script
    assert core.desks[1].resting == set()
    assert rounds(feed(core, rest(1, seq=5))) == [((0, 0),)]
    assert core.desks[1].resting == set()
    assert rounds(feed(core, push(1, 0, seq=6))) == []


def test_a_value_sent_to_a_worker_that_rests_may_change_at_any_time() -> None:
    core = server(2)
    assert [v.stable for v in values(feed(core, pull(1, 0)))] == [True]
    feed(core, rest(1))
    assert [v.stable for v in values(feed(core, pull(1, 0, seq=51)))] == [False]


def test_bounded_staleness_does_not_wait_for_who_waits_at_a_barrier() -> None:
    core = server(2, "ssp:1")
    for clock in range(2):
        feed(core, push(0, clock, seq=clock))
    assert feed(core, pull(0, 2, payload=False)) == [], "it may not push a third time"
    (a,) = [a for a in feed(core, rest(1)) if isinstance(a, Send) and isinstance(a.message, Value)]
    assert a.message.floor == 2
    feed(core, push(0, 2, seq=2))
    feed(core, rest(0))
    assert core.entries[7].progress.clocks == {0: 3, 1: 3}
    (ack,) = [a.message for a in feed(core, push(1, 0, seq=60)) if isinstance(a, Send)]
    assert isinstance(ack, Ack) and ack.floor == 0, "its first"
    assert not values(feed(core, pull(1, 2))), (
        "it has pushed twice since the barrier as far as it knows, worker 0 not once"
    )


def test_an_eager_reader_is_sent_the_floor_in_its_own_count() -> None:
    core = server(2, "essp:1")
    watch = Pull(worker=1, incarnation=1, seq=40, slice=7, clock=0, payload=True, watch=True)
    feed(core, watch)
    feed(core, push(0, 0, seq=1))
    assert [(v.to, v.version, v.floor) for v in values(feed(core, rest(1)))] == [("w1", 1, 0)]


def test_a_snapshot_waits_for_nobody_who_waits_at_a_barrier() -> None:
    core = server(2, "ssp:1")
    feed(core, push(0, 0, seq=1))
    feed(core, push(0, 1, seq=2))
    (survey,) = [
        a.message
        for a in feed(core, Survey(worker=0, incarnation=1, seq=3, store=1, number=1, slices=(7,)))
        if isinstance(a, Send)
    ]
    assert isinstance(survey, Surveyed) and survey.counts == (Counted(rank=0, clock=2), Counted(rank=1, clock=1))
    fetch = Fetch(worker=0, incarnation=1, seq=4, store=1, number=1, slice=7, version=-1, counts=survey.counts)
    assert [a.message for a in feed(core, fetch) if isinstance(a, Send)] == [Waiting(seq=4, missing=(1,))]
    assert [type(a).__name__ for a in feed(core, rest(1))] == ["SealBranch", "SendBranch", "Send"]


# --- a whole store, whatever the network does -------------------------------------------------------------------------


class Phases:
    """Workers of a `SimNet` that push so many times, come to a barrier, and go on together."""

    def __init__(self, gate: str, workers: int, plan: str, network: dict) -> None:
        self.net, self.plan, self.keys = SimNet(workers, 2, gate, **network), plan, 3
        self.pushed = [0] * workers
        self.barrier = 0
        for s in self.net.servers:
            s.table.configure(optim.create("test", rescale_grad=1.0), {}, {})
        for k in range(self.keys):
            self.net.init(k, np.zeros(4, np.float32))

    def push(self, counts: list[int]) -> None:
        for rank, count in enumerate(counts):
            for _ in range(count):
                for k in range(self.keys):
                    grad = contribution(rank, self.pushed[rank], k)
                    self.net.submit(rank, [self.net.job(k, grad, self.plan == "pushpull")])
                    if self.plan == "push, pull":
                        self.net.submit(rank, [self.net.job(k, None, True)])
                self.pushed[rank] += 1

    def meet(self) -> None:
        """Everybody flushes, tells the servers, and waits for the others."""
        self.barrier += 1
        on_the_way = set(range(len(self.pushed)))
        while on_the_way and not self.net.failed:
            self.net.run(self.net.now + 90.0)
            for rank in [r for r in on_the_way if not self.net.busy(r)]:
                on_the_way.discard(rank)
                say = Retire(worker=0, incarnation=0, seq=0, store=1, barrier=self.barrier)
                self.net.submit(rank, [Job(server=s, request=say) for s in range(len(self.net.servers))])
        while any(map(self.net.busy, range(len(self.pushed)))) and not self.net.failed:
            self.net.run(self.net.now + 90.0)

    def histories(self) -> list[list[tuple[tuple[int, int], ...]]]:
        """By key, who was applied together, in order."""
        return [self.net.servers[k % 2].rounds.get(k, []) for k in range(self.keys)]


plans = st.sampled_from(["pushpull", "push, pull", "push"])
uneven = st.integers(1, 4).flatmap(
    lambda workers: st.lists(st.lists(st.integers(0, 3), min_size=workers, max_size=workers), min_size=1, max_size=3)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, uneven, plans)
def test_round_j_after_a_barrier_is_of_those_who_push_more_than_j_times_before_the_next(
    network: dict, phases: list[list[int]], plan: str
) -> None:
    """Whatever the network does: who is in a round depends on who pushes how often, and on nothing else."""
    run = Phases("bsp", len(phases[0]), plan, network)
    want: list[tuple[tuple[int, int], ...]] = []
    for counts in phases:
        before = list(run.pushed)
        run.push(counts)
        run.meet()
        want += [tuple((r, before[r] + j) for r, count in enumerate(counts) if count > j) for j in range(max(counts))]
    assert not run.net.failed
    assert run.histories() == [want] * run.keys
    assert not any(e.pending or e.parked for s in run.net.servers for e in s.core.entries.values())


GATES = ["bsp", "ssp:1", "ssp:3", "essp:1", "asp", "fedbuff:3"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(GATES), uneven, plans)
def test_every_contribution_counts_exactly_once_however_unequal_they_are_before_barriers(
    network: dict, gate: str, phases: list[list[int]], plan: str
) -> None:
    run = Phases(gate, len(phases[0]), plan, network)
    for counts in phases:
        run.push(counts)
        run.meet()
    assert not run.net.failed
    for k, history in enumerate(run.histories()):
        done = [part for together in history for part in together]
        assert sorted(done) == [(r, c) for r, n in enumerate(run.pushed) for c in range(n)]
        total = sum((contribution(r, c, k) for r, c in done), np.zeros(4, np.float32))
        np.testing.assert_array_equal(run.net.servers[k % 2].table.cells[k].value, total)
    book = run.net.ledger()
    assert book["sent"] == book["acknowledged"] == book["applied"] == sum(run.pushed) * run.keys
    assert not any(d.resting for s in run.net.servers for d in s.core.desks.values())


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(["bsp", "ssp:1", "essp:2"]), st.integers(1, 3), plans)
def test_barriers_between_equal_pushes_skip_nothing(network: dict, gate: str, workers: int, plan: str) -> None:
    run = Phases(gate, workers, plan, network)
    for count in (2, 0, 1):
        run.push([count] * workers)
        run.meet()
    assert not run.net.failed
    for s in run.net.servers:
        assert s.core.partial == 0
        assert all(not e.progress.skipped and e.progress.floor == 3 for e in s.core.entries.values())
    if gate == "bsp":
        assert run.histories() == [[tuple((r, c) for r in range(workers)) for c in range(3)]] * run.keys


# --- real sockets -----------------------------------------------------------------------------------------------------


def steps(kv: DistKVStore, count: int, value: float) -> list[float]:
    """Push so often, and read each time."""
    return [float(kv.pushpull("w", np.full(3, value, np.float32))[0]) for _ in range(count)]


@pytest.mark.net
def test_a_script_may_push_unequally_before_a_barrier() -> None:
    def work(kv: DistKVStore) -> tuple[list[float], float, list[float]]:
        kv.init("w", np.zeros(3, np.float32))
        before = steps(kv, 3 if kv.rank == 0 else 1, 1.0 + 2 * kv.rank)
        kv.barrier()
        at = float(kv.pull("w")[0])
        after = steps(kv, 2, 5.0 + 2 * kv.rank)
        kv.barrier()
        return before, at, after

    with thread_cluster(2, 2, "bsp") as cluster:
        long, short = cluster.each(work)
        partial = sum(shell.report()["partial"] for shell in cluster.shells)
    assert long == ([2.0, 1.0, 1.0], 1.0, [6.0, 6.0]) and short == ([2.0], 1.0, [6.0, 6.0])
    assert partial == 2


@pytest.mark.net
def test_reads_under_way_are_over_before_a_worker_rests() -> None:
    """They may be made in the server's own memory, which the others' rounds are about to change."""
    size = 100_000

    def work(kv: DistKVStore) -> bool:
        kv.init("w", np.zeros(size, np.float32))
        if kv.rank:
            reads = [kv.pull_async("w", np.empty(size, np.float32)) for _ in range(20)]
            kv.barrier()
            return all(r.done() and not r.result().any() for r in reads)
        for _ in range(5):
            kv.push("w", np.ones(size, np.float32))
        kv.barrier()
        return bool((kv.pull("w") == 1.0).all())

    with thread_cluster(2, 1, "bsp") as cluster:
        assert cluster.each(work) == [True, True]


@pytest.mark.net
@pytest.mark.parametrize("mode", ["bsp", "ssp:1", "essp:1"])
def test_an_optimizer_may_be_set_after_unequal_pushes(mode: str) -> None:
    def work(kv: DistKVStore) -> float:
        kv.init("w", np.zeros(3, np.float32))
        kv.set_optimizer(optim.create("sgd", learning_rate=1.0))
        for _ in range(4 if kv.rank else 1):
            kv.push("w", np.ones(3, np.float32))
        kv.set_optimizer(optim.create("sgd", learning_rate=0.5))
        kv.pushpull("w", np.ones(3, np.float32))
        kv.barrier()
        return float(kv.pull("w")[0])

    with thread_cluster(2, 2, mode) as cluster:
        want = -4.5 if mode == "bsp" else -6.0
        late = 0.5 if mode == "essp:1" else 0.0  # a value that came unasked may lack what the other did last
        assert all(want <= found <= want + late for found in cluster.each(work))
