"""A worker that another process replaces, that goes, or comes late: each contribution is counted once."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore.client.core import ClientCore, Job
from shoal.kvstore.client.lane import Lane
from shoal.kvstore.client.memory import Memory, counted, level, spread
from shoal.kvstore.events import Received, Send
from shoal.kvstore.gates import Progress, parse_gate
from shoal.kvstore.server import membership
from shoal.kvstore.wire.messages import (
    Counted,
    Done,
    Hello,
    HelloOk,
    Recall,
    Recalled,
    Refused,
    Retire,
    Shared,
    StoodStore,
)
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_restored_core import GATES, network, value
from tests.kvstore.test_server_core import feed, pull, push, refused, server


def greet(worker: int, incarnation: int) -> Hello:
    return Hello(cluster="run", worker=worker, incarnation=incarnation)


def told(of: int, worker: int = 1, incarnation: int = 1) -> Recall:
    return Recall(worker=worker, incarnation=incarnation, seq=9, of=of)


def share(number: int, *ranks: int) -> Shared:
    return Shared(generation=9, number=number, ranks=ranks, cursors={}, counted={})


def meeting(worker: int, number: int = 1, seq: int = 50) -> Retire:
    return Retire(worker=worker, incarnation=1, seq=seq, store=1, meeting=number)


# --- the server -------------------------------------------------------------------------------------------------------


def test_a_successor_is_not_refused_before_the_server_has_heard_of_it() -> None:
    core = server(2)
    assert feed(core, greet(1, 2)) == []
    membership.replaced(core, 1, 2)
    assert [type(a.message) for a in feed(core, greet(1, 2)) if isinstance(a, Send)] == [HelloOk]


def test_the_one_that_was_replaced_is_refused_from_then_on() -> None:
    core = server(2)
    membership.replaced(core, 1, 2)
    assert refused(feed(core, push(1, 0))).error == "StaleWorkerError"  # type: ignore[attr-defined]


def test_clocks_and_contributions_stay_and_readers_go() -> None:
    core = server(2)
    feed(core, push(1, 0))
    feed(core, pull(1, 1))
    entry = core.entries[7]
    assert entry.parked
    membership.replaced(core, 1, 2)
    assert entry.counted(1) == 1 and entry.contributors() == {1} and not entry.parked


def test_news_that_are_old_change_nothing() -> None:
    core = server(2)
    membership.replaced(core, 1, 3)
    assert membership.replaced(core, 1, 2) == [] and core.known[1] == 3
    assert membership.arrived(core, 1, 3) == []


def test_a_server_says_what_it_has_counted_of_a_worker() -> None:
    core = server(2)
    feed(core, push(1, 0))
    (answer,) = feed(core, told(1))
    assert isinstance(answer, Send) and isinstance(answer.message, Recalled)
    (slice_,) = answer.message.slices
    assert (slice_.clock, slice_.touched, answer.message.pushes) == (1, True, 1)


def test_of_another_only_when_that_one_pushes_no_more() -> None:
    core = server(2)
    assert feed(core, told(0)) == []
    core.handle(membership_gone(0), 0.0)
    assert feed(core, told(0))


def membership_gone(rank: int) -> object:
    from shoal.kvstore.events import PeerGone

    return PeerGone(rank, 1)


def test_a_late_worker_may_read_and_nobody_waits_for_it() -> None:
    core = server(2)
    membership.arrived(core, 2, 1)
    assert feed(core, pull(2, 0)) and core.entries[7].progress.clocks.keys() == {0, 1}
    feed(core, push(0, 0))
    feed(core, push(1, 0))
    assert core.entries[7].version == 1


def test_who_waits_for_the_change_holds_nobody_up() -> None:
    core = server(2)
    feed(core, meeting(1))
    feed(core, push(0, 0))
    assert core.entries[7].version == 1
    feed(core, push(1, 0, seq=60))
    assert 1 not in core.desks[1].resting


def test_a_repeated_barrier_of_all_does_not_wake_who_waits_for_the_change() -> None:
    core = server(2)
    feed(core, meeting(0))
    feed(core, meeting(1))
    assert core.desks[1].resting == {0, 1}


def test_a_late_worker_takes_part_where_the_others_are() -> None:
    core = server(2)
    for clock in range(3):
        for rank in (0, 1):
            feed(core, push(rank, clock, seq=clock))
    membership.arrived(core, 2, 1)
    feed(core, meeting(0))
    feed(core, meeting(1))
    membership.shared(core, share(1, 0, 1, 2))
    entry = core.entries[7]
    assert entry.counted(2) == 0 and entry.progress.clocks == {0: 3, 1: 3, 2: 3}
    for rank, clock in ((0, 3), (1, 3)):
        feed(core, push(rank, clock, seq=70))
    assert entry.version == 3
    feed(core, push(2, 0))
    assert entry.version == 4 and not core.desks[1].resting
    core.check()


def test_the_same_change_counts_once() -> None:
    core = server(2)
    membership.arrived(core, 2, 1)
    membership.shared(core, share(1, 0, 1, 2))
    feed(core, push(2, 0))
    membership.shared(core, share(1, 0, 1, 2))
    assert core.entries[7].counted(2) == 1


def test_a_late_waiter_for_a_change_that_has_come_does_not_rest() -> None:
    core = server(2)
    membership.shared(core, share(1, 0, 1))
    assert [type(a.message) for a in feed(core, meeting(0)) if isinstance(a, Send)] == [Done]
    assert not core.desks[1].resting


def test_one_that_takes_part_again_goes_on_from_what_is_counted() -> None:
    core = server(2)
    for rank in (0, 1):
        feed(core, push(rank, 0))
    core.handle(membership_gone(1), 0.0)  # type: ignore[arg-type]
    feed(core, push(0, 1, seq=1))
    membership.arrived(core, 1, 2)
    feed(core, meeting(0))
    membership.shared(core, share(1, 0, 1))
    assert core.entries[7].counted(1) == 1 and core.entries[7].progress.clocks == {0: 2, 1: 2}


def test_progress_of_one_that_was_ahead_of_the_others_keeps_its_count() -> None:
    progress = Progress((0,))
    progress.add(1, 5)
    assert progress.counts() == {0: 0, 1: 5} and progress.clocks == {0: 0, 1: 0}


# --- the client -------------------------------------------------------------------------------------------------------


def fact(server: int, *clocks: int, barrier: int = 0) -> Recalled:
    slices = tuple(
        Counted(slice=10 * server + i, store=1, clock=c, mark=0, version=c, touched=True) for i, c in enumerate(clocks)
    )
    stores = (StoodStore(store=1, barrier=barrier, retired=False),)
    return Recalled(seq=0, server=server, of=1, slices=slices, stores=stores, pushes=sum(clocks))


def remembering(*facts: Recalled, spares: bool = True) -> ClientCore:
    core = ClientCore(1, 2, "run", len(facts))
    memory = Memory(spares)
    for f in facts:
        memory.take(f)
    memory.take_up(core)
    for f in facts:
        for s in f.slices:
            core.register(s.slice, parse_gate("bsp"))
    return core


def test_complete_is_what_every_slice_has_counted() -> None:
    facts = [fact(0, 5, 6), fact(1, 5)]
    assert counted(facts, 1) == 5 and spread(facts, 1) == (5, 6) and counted(facts, 2) == 0


def test_slices_go_on_at_their_clocks_and_those_that_are_ahead_are_spared() -> None:
    core = remembering(fact(0, 5, 6), fact(1, 5))
    assert {i: (x.clock, x.spared) for i, x in core.lanes.items()} == {0: (5, 0), 1: (6, 1), 10: (5, 0)}
    assert core.counters.sent == core.counters.acknowledged == 16


def test_a_late_worker_spares_nothing() -> None:
    core = remembering(fact(0, 5, 6), spares=False)
    assert [x.spared for x in core.lanes.values()] == [0, 0]


def test_a_push_that_is_spared_is_not_sent_and_done_at_once() -> None:
    core = remembering(fact(0, 5, 6))
    core.links[0].greeted = True
    job = Job(server=0, slice=1, key="k")
    job.payload, job.payload_bytes = object(), 8  # type: ignore[assignment]
    (done,) = core.submit([job], 0.0)
    assert done.job is job and core.counters.sent == 11  # type: ignore[union-attr]
    assert core.lanes[1].clock == 6 and not core.lanes[1].spared


def test_barriers_that_it_came_to_are_known() -> None:
    assert remembering(fact(0, 5, barrier=3), fact(1, 5, barrier=2)).barriers == {1: 3}


def test_a_change_of_the_workers_is_a_point_where_all_are_equally_far() -> None:
    core = remembering(fact(0, 5))
    level(core, 1)
    assert core.lanes[0].mark == 5 and core.shared == 1
    core.lanes[0].clock = 9
    level(core, 1)
    assert core.lanes[0].mark == 5


def test_a_lane_of_a_worker_without_a_past_begins_at_nothing() -> None:
    core = ClientCore(0, 1, "run", 1)
    core.register(3, parse_gate("asp"))
    assert core.lanes[3] == Lane(gate=parse_gate("asp"))


# --- both, over a bad network -----------------------------------------------------------------------------------------


def succeed(net: SimNet, rank: int) -> None:
    """Worker ``rank`` dies, with all that is under way to it and from it; another process takes its place."""
    before = net.clients[rank]
    made = ClientCore(rank, before.incarnation + 1, "run", len(net.servers))
    made.silence_s = made.timeout_s
    net.clients[rank] = made
    gone = {"server": 2, "client": 1}
    net._heap = [e for e in net._heap if not (e[2][0] != "wake" and e[2][gone[e[2][0]]] == rank)]
    net._heap.sort()
    memory = Memory(spares=True)
    for s in net.servers:
        for to, answer in s.carry_out(membership.replaced(s.core, rank, made.incarnation)):
            net._carry(("client", int(to[1:]), s.core.rank, answer))
        for _, answer in s.handle(f"w{rank}", told(rank, rank, made.incarnation), net.now):
            assert isinstance(answer, Recalled)
            memory.take(answer)
    memory.take_up(made)
    for key in range(4):
        made.register(key, parse_gate(net.gate))
    net._at(net.now, ("wake", rank))


def train(net: SimNet, rank: int, clocks: range) -> list[Job]:
    jobs = [net.job(key, value(rank, clock), want=True) for clock in clocks for key in range(4)]
    return [job for each in jobs for job in net.submit(rank, [each])]


def end(net: SimNet) -> None:
    """Until everybody has made its pushes; who has is waited for no more."""
    left: set[int] = set()
    while len(left) < len(net.clients):
        net.run(net.now + 20.0)
        idle = {rank for rank in range(len(net.clients)) if not net.busy(rank)} - left
        for rank in idle:
            net.leave(rank)
        left |= idle
        assert net.now < 2000.0, "somebody waits for ever"
    assert not net.failed
    for s in net.servers:
        assert len(s.applied) == len(set(s.applied)), "a push was applied twice"
    book = net.ledger()
    assert book["sent"] == book["acknowledged"] == book["applied"] + book["rejected"] + book["dropped"]


def done(net: SimNet, rank: int) -> int:
    memory = net.clients[rank].memory
    return 0 if memory is None else counted(memory.facts.values(), 1)


deaths_of = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 250)), min_size=1, max_size=3)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GATES), st.integers(0, 10**6), deaths_of, st.sampled_from([0.0, 0.2]))
def test_whoever_dies_and_is_replaced_every_batch_is_counted_once_in_every_slice(
    gate: str, seed: int, deaths: list[tuple[int, int]], loss: float
) -> None:
    net = network(gate, seed, 3, loss)
    for rank in range(3):
        train(net, rank, range(6))
        net._at(0.0, ("wake", rank))
    for rank, wait in deaths:
        for _ in range(wait):
            if net._heap:
                net.step()
        succeed(net, rank)
        train(net, rank, range(done(net, rank), 6))
    end(net)
    assert all(lane.clock == 6 for c in net.clients for lane in c.lanes.values())
    assert net.ledger()["applied"] == 3 * 4 * 6


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(("backup:1", "ksync:2", "kbatch:2", "kasync:2")),
    st.integers(0, 10**6),
    deaths_of,
    st.sampled_from([0.0, 0.2]),
)
def test_nor_does_anybody_wait_for_ever_where_places_in_rounds_are_given_out(
    gate: str, seed: int, deaths: list[tuple[int, int]], loss: float
) -> None:
    net = network(gate, seed, 3, loss)
    steps = [0, 0, 0]
    for _ in range(4000):
        for rank in range(3):
            if steps[rank] < 6 and not net.busy(rank):
                train(net, rank, range(steps[rank], steps[rank] + 1))
                net._at(net.now, ("wake", rank))
                steps[rank] += 1
            elif not net.busy(rank):
                net.leave(rank)
        if not net._heap:
            break
        net.step()
        deaths = [(rank, wait - 1) for rank, wait in deaths]
        for rank, wait in deaths:
            if wait == 0 and net.busy(rank):
                succeed(net, rank)
                steps[rank] -= 1
    end(net)


@pytest.mark.parametrize("gate", ["bsp", "asp"])
def test_a_server_that_comes_back_after_a_worker_was_replaced_agrees_with_it(gate: str) -> None:
    net = network(gate, 3)
    for rank in range(2):
        train(net, rank, range(3))
    net.run()
    saved = net.servers[1].save()
    for rank in range(2):
        train(net, rank, range(3, 5))
    net.run()
    succeed(net, 1)
    net.replace(1, saved)
    membership.replaced(net.servers[1].core, 1, 2)
    train(net, 0, range(5, 7))
    train(net, 1, range(5, 7))
    net.run()
    assert not net.failed and not any(net.busy(rank) for rank in range(2))
    for rank in range(2):
        net.leave(rank)
    book = net.ledger()
    assert book["lost"] == 2 * 2 * 2
    assert book["sent"] == book["acknowledged"] == book["applied"] + book["lost"]


def test_refused_is_what_a_stranger_is() -> None:
    core = server(2)
    answers = core.handle(Received("x", told(0, worker=5)), 0.0)
    assert [type(a.message) for a in answers if isinstance(a, Send)] == [Refused]


def test_values_are_those_of_a_run_without_deaths() -> None:
    """Sync: the same contributions in the same rounds, to the bit."""
    runs = []
    for dies in (False, True):
        net = network("bsp", 5)
        for rank in range(2):
            train(net, rank, range(6))
            net._at(0.0, ("wake", rank))
        if dies:
            for _ in range(60):
                net.step()
            succeed(net, 1)
            memory = net.clients[1].memory
            assert memory is not None
            train(net, 1, range(counted(memory.facts.values(), 1), 6))
        net.run()
        runs.append([np.array(c.value) for s in net.servers for c in s.table.cells.values()])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)
