"""Rounds that close before every worker has contributed: backup workers, K-sync, K-batch-sync, K-async, buffers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore.events import Accumulate, Apply, Contribution, PeerGone, Send, SendValue
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.wire.messages import Ack, Granted, Pull, Push, Retire, Ticket, Waiting
from shoal.ops import optim
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_lossy_network import bad_networks, contribution
from tests.kvstore.test_server_core import feed, payload, pull, refused, server


def push(rank: int, clock: int, seen: int = 0, *, want: bool = False, seq: int = 1) -> Push:
    """Contribution ``clock`` of worker ``rank``, computed from version ``seen``."""
    return Push(
        worker=rank,
        incarnation=1,
        seq=seq,
        slice=7,
        clock=clock,
        pulled=seen,
        round=seen,
        want=want,
        value=payload(),
    )


def applied(core: ServerCore, *messages: Push) -> list[tuple[tuple[int, int, int], ...]]:
    """(rank, clock, staleness) of the contributions of each update that these pushes cause."""
    return [tuple(map(tuple, a.parts)) for m in messages for a in feed(core, m) if isinstance(a, Apply)]


def acks(core: ServerCore, m: Push) -> list[bool]:
    return [a.message.taken for a in feed(core, m) if isinstance(a, Send) and isinstance(a.message, Ack)]


def test_a_round_with_one_backup_worker_closes_without_the_slowest() -> None:
    core = server(3, "backup:1")
    assert applied(core, push(2, 0), push(0, 0)) == [((0, 0, 0), (2, 0, 0))]


def test_the_slowest_workers_contribution_is_dropped_and_its_sender_told() -> None:
    core = server(3, "backup:1")
    applied(core, push(2, 0), push(0, 0))
    assert acks(core, push(1, 0)) == [False]
    assert core.ledgers[1].dropped == 1 and core.ledgers[1].applied == 0 and core.entries[7].version == 1


def test_a_dropped_push_that_comes_again_is_answered_as_before() -> None:
    core = server(3, "backup:1")
    applied(core, push(2, 0), push(0, 0))
    assert acks(core, push(1, 0)) == acks(core, push(1, 0)) == [False]
    assert core.ledgers[1].duplicate == 1


def test_a_dropped_worker_gets_the_new_value_at_once() -> None:
    core = server(3, "backup:1")
    applied(core, push(2, 0), push(0, 0))
    assert feed(core, push(1, 0, want=True, seq=5)) == [SendValue("w1", 1, 5, 7, 1, 1, False, False)]


def test_who_has_contributed_waits_for_the_round() -> None:
    core = server(3, "backup:1")
    feed(core, push(0, 0))
    assert feed(core, pull(0, 1)) == []
    assert "ahead of workers (1, 2)" in refused(feed(core, push(0, 1, seq=2))).text
    assert SendValue("w0", 0, 9, 7, 1, 0, False) in feed(core, push(1, 0))


def test_backup_workers_never_lower_the_quota_to_nobody() -> None:
    assert parse_gate("backup:5").quota(3) == 1


def test_k_sync_waits_for_k_workers_and_never_for_more_than_there_are() -> None:
    assert applied(server(4, "ksync:2"), push(3, 0), push(1, 0)) == [((1, 0, 0), (3, 0, 0))]
    assert applied(server(2, "ksync:3"), push(0, 0), push(1, 0)) == [((0, 0, 0), (1, 0, 0))]


def test_k_batch_sync_takes_two_contributions_of_a_fast_worker_and_no_late_one() -> None:
    core = server(3, "kbatch:2")
    assert applied(core, push(0, 0), push(0, 1)) == [((0, 0, 0), (0, 1, 0))]
    assert acks(core, push(1, 0)) == [False]


def test_k_async_keeps_late_contributions_and_lets_their_senders_wait() -> None:
    core = server(3, "kasync:2")
    assert applied(core, push(0, 0), push(1, 0)) == [((0, 0, 0), (1, 0, 0))]
    assert acks(core, push(2, 0)) == [True]
    assert feed(core, pull(2, 1)) == []
    assert applied(core, push(0, 1, 1)) == [((0, 1, 0), (2, 0, 1))]


def test_a_buffer_takes_any_contributions_and_nobody_waits() -> None:
    core = server(2, "fedbuff:3")
    assert applied(core, push(0, 0), push(0, 1), push(1, 0)) == [((0, 0, 0), (0, 1, 0), (1, 0, 0))]
    assert applied(core, push(0, 2, 1), push(1, 1), push(1, 2)) == [((0, 2, 0), (1, 1, 1), (1, 2, 1))]


def test_contributions_older_than_the_limit_are_dropped() -> None:
    core = server(2, "asp:max=1")
    for clock in range(3):
        applied(core, push(0, clock, clock))
    assert acks(core, push(1, 0, 1)) == [False] and acks(core, push(1, 1, 2)) == [True]


def test_what_waits_when_the_last_worker_leaves_is_applied() -> None:
    core = server(1, "fedbuff:5")
    feed(core, push(0, 0))
    assert core.handle(PeerGone(0, 1), 1.0) == [Apply(7, (Contribution(0, 0, 0),), "mean", 1)]


def test_a_departure_closes_a_round_that_waited_for_nobody_else() -> None:
    core = server(3, "backup:1")
    feed(core, push(0, 0))
    assert core.handle(PeerGone(2, 1), 1.0) == [Apply(7, (Contribution(0, 0, 0),), "mean", 1)]


def test_new_values_are_sent_unasked_whenever_the_floor_rises() -> None:
    core = server(2, "essp:1")
    watch = Pull(worker=0, incarnation=1, seq=40, slice=7, clock=0, payload=True, watch=True)
    assert feed(core, watch) == [SendValue("w0", 0, 40, 7, 0, 0, False)]
    assert not [a for a in feed(core, push(0, 0)) if isinstance(a, SendValue)]
    assert SendValue("w0", 0, 40, 7, 2, 1, False) in feed(core, push(1, 0))


def test_a_contribution_is_kept_under_its_clock() -> None:
    core = server(2, "fedbuff:4")
    feed(core, push(0, 0))
    assert feed(core, push(0, 1))[0] == Accumulate(7, 0, 1, payload(), False)


GATES = ["bsp", "backup:1", "ksync:2", "kbatch:2", "kasync:2", "fedbuff:3", "ssp:1", "essp:2", "asp", "asp:max=1"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(GATES), st.integers(1, 4), st.sampled_from(["pushpull", "push, pull", "push"]))
def test_every_contribution_is_applied_once_or_dropped_once(network: dict, gate: str, workers: int, plan: str) -> None:
    net = SimNet(workers, 2, gate, **network)
    for s in net.servers:
        s.table.configure(optim.create("test", rescale_grad=1.0), {}, {})
    for k in range(2):
        net.init(k, np.zeros(4, np.float32))
    pushed = []
    for rank in range(workers):
        for r in range(3):
            for k in range(2):
                (job,) = net.submit(rank, [net.job(k, contribution(rank, r, k), plan == "pushpull")])
                pushed.append((job, k, contribution(rank, r, k)))
                if plan == "push, pull":
                    net.submit(rank, [net.job(k, None, True)])
    staying = set(range(workers))
    while staying and not net.failed:  # those who are done leave, so that nobody waits for them
        net.run(net.now + 90.0)
        done = {rank for rank in staying if not net.busy(rank)}
        for rank in done:
            net.leave(rank)
        staying -= done
    assert not net.failed
    book = net.ledger()
    skipped = sum(c.counters.skipped for c in net.clients)
    assert book["sent"] == book["acknowledged"] == book["applied"] + book["dropped"]
    assert book["sent"] + skipped == workers * 6
    assert book["dropped"] == sum(c.counters.dropped for c in net.clients)
    for k in range(2):
        done = [(rank, clock) for i, rank, clock in net.servers[k].applied if i == k]
        assert len(done) == len(set(done))
        want = sum((g for job, key, g in pushed if key == k and job not in net.dropped), np.zeros(4, np.float32))
        np.testing.assert_array_equal(net.servers[k].table.cells[k].value, want)


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_an_eager_reader_sees_everything_up_to_its_slack(loss: float) -> None:
    """A read at clock c includes every contribution made before clock c - s (Ho et al.: c - s - 1 and older)."""
    slack = 2
    net = SimNet(3, 1, f"essp:{slack}", seed=5, loss=loss, repeat=0.2)
    net.servers[0].table.configure(optim.create("test"), {}, {})
    net.init(0, np.zeros(4, np.float32))
    reads = []
    for r in range(6):
        for rank in range(3):
            one = np.zeros(4, np.float32)
            one[rank] = 1.0
            reads.append((r + 1, net.submit(rank, [net.job(0, one, True)])[0]))
    net.run()
    for clock, job in reads:
        assert net.values[id(job)][:3].min() >= clock - slack


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(["backup:1", "ksync:2", "kbatch:2", "kasync:2"]), st.integers(2, 4))
def test_every_slice_takes_the_same_contributions_into_a_round(network: dict, gate: str, workers: int) -> None:
    """What one slice applies together another applies together: nobody waits on two slices for two others."""
    net = SimNet(workers, 3, gate, **network)
    together: list[dict[int, list[tuple[tuple[int, int], ...]]]] = [{} for _ in net.servers]
    for one, found in zip(net.servers, together, strict=True):
        one.table.configure(optim.create("test"), {}, {})
        one.rounds = found
    for k in range(6):
        net.init(k, np.zeros(4, np.float32))
    for rank in range(workers):
        for r in range(4):
            for k in range(6):
                net.submit(rank, [net.job(k, contribution(rank, r, k), True)])
    staying = set(range(workers))
    while staying and not net.failed:
        net.run(net.now + 90.0)
        done = {rank for rank in staying if not net.busy(rank)}
        for rank in done:
            net.leave(rank)
        staying -= done
    assert not net.failed
    histories = {k: [set(r) for r in found[k]] for found in together for k in found}
    assert sum(c.counters.skipped + c.counters.sent for c in net.clients) == workers * 4 * 6
    ranks = [[{rank for rank, _ in r} for r in rounds] for rounds in histories.values()]
    assert all(r == ranks[0] for r in ranks)


def test_a_place_is_given_once_however_often_it_is_asked_for() -> None:
    core = server(3, "ksync:2")
    ask = Ticket(worker=0, incarnation=1, seq=4, store=1, index=0, base=0)
    granted = Granted(seq=4, round=0, quota=2, holds=True, taken=True)
    assert feed(core, ask) == feed(core, ask) == [Send("w0", granted)]
    assert core.desks[1].takers == [0]


def test_who_has_a_place_waits_for_the_next_round_and_is_told_for_whom() -> None:
    core = server(3, "ksync:2")
    first = Ticket(worker=0, incarnation=1, seq=4, store=1, index=0, base=0)
    second = Ticket(worker=0, incarnation=1, seq=5, store=1, index=1, base=-1)
    feed(core, first)
    assert feed(core, second) == []
    assert feed(core, second) == [Send("w0", Waiting(seq=5, missing=(1, 2)))]
    other = Ticket(worker=1, incarnation=1, seq=9, store=1, index=0, base=0)
    assert [a.message.round for a in feed(core, other) if isinstance(a, Send)] == [0, 1]


def test_who_comes_too_late_for_a_round_gets_no_place() -> None:
    core = server(3, "backup:1")
    for rank in (0, 1):
        feed(core, Ticket(worker=rank, incarnation=1, seq=1, store=1, index=0, base=0))
    (late,) = feed(core, Ticket(worker=2, incarnation=1, seq=1, store=1, index=0, base=0))
    assert isinstance(late, Send) and isinstance(late.message, Granted) and not late.message.taken


def test_a_round_is_full_when_everybody_who_is_left_has_a_place() -> None:
    core = server(2, "ksync:2")
    feed(core, Ticket(worker=0, incarnation=1, seq=1, store=1, index=0, base=0))
    waiting = Ticket(worker=0, incarnation=1, seq=2, store=1, index=1, base=-1)
    assert feed(core, waiting) == []
    (granted,) = core.handle(PeerGone(1, 1), 1.0)
    assert isinstance(granted, Send) and isinstance(granted.message, Granted) and granted.message.round == 1


def test_a_contribution_to_a_later_round_waits_for_the_one_before() -> None:
    core = server(3, "kbatch:2")
    for rank, clock, round_ in ((0, 0, 0), (0, 1, 1), (2, 0, 1)):
        m = Push(
            worker=rank,
            incarnation=1,
            seq=1,
            slice=7,
            clock=clock,
            pulled=0,
            round=round_,
            quota=2,
            want=False,
            value=payload(),
        )
        assert applied(core, m) == []
    last = Push(
        worker=1, incarnation=1, seq=1, slice=7, clock=0, pulled=0, round=0, quota=2, want=False, value=payload()
    )
    assert applied(core, last) == [((0, 0, 0), (1, 0, 0)), ((0, 1, 1), (2, 0, 1))]


def test_nobody_waits_for_a_worker_at_a_barrier_until_it_pushes_again() -> None:
    core = server(3, "ksync:2")
    assert applied(core, push(0, 0)) == []
    closed = [
        a
        for rank in (1, 2)
        for a in feed(core, Retire(worker=rank, incarnation=1, seq=5, store=1, barrier=1))
        if isinstance(a, Apply)
    ]
    assert [tuple(map(tuple, a.parts)) for a in closed] == [((0, 0, 0),)]
    assert applied(core, push(1, 0, 1), push(2, 0, 1)) == [((1, 0, 0), (2, 0, 0))]
    assert core.entries[7].progress.clocks == {0: 1, 1: 1, 2: 1}


def test_a_buffer_is_emptied_when_everybody_is_at_a_barrier() -> None:
    core = server(2, "fedbuff:5")
    applied(core, push(0, 0), push(1, 0))
    first = feed(core, Retire(worker=0, incarnation=1, seq=5, store=1, barrier=1))
    last = feed(core, Retire(worker=1, incarnation=1, seq=5, store=1, barrier=1))
    assert [isinstance(a, Apply) for a in first] == [False]
    assert [isinstance(a, Apply) for a in last] == [True, False]


def test_a_place_is_not_kept_for_a_worker_at_a_barrier() -> None:
    core = server(3, "ksync:2")
    feed(core, Ticket(worker=0, incarnation=1, seq=1, store=1, index=0, base=0))
    feed(core, Ticket(worker=0, incarnation=1, seq=2, store=1, index=1, base=-1))
    feed(core, Retire(worker=1, incarnation=1, seq=5, store=1, barrier=1))
    actions = feed(core, Retire(worker=2, incarnation=1, seq=5, store=1, barrier=1))
    assert [a.message.round for a in actions if isinstance(a, Send) and isinstance(a.message, Granted)] == [1]


def ask(rank: int, seq: int, index: int) -> Ticket:
    return Ticket(worker=rank, incarnation=1, seq=seq, store=1, index=index, base=0)


def test_an_old_repetition_of_a_rest_does_not_take_a_worker_out_of_its_round() -> None:
    core = server(2, "ksync:2")
    rest = Retire(worker=0, incarnation=1, seq=3, store=1, barrier=1)
    feed(core, rest)
    feed(core, ask(0, 4, 0))
    feed(core, rest)
    assert core.desks[1].resting == set()


def test_an_old_repetition_of_a_question_does_not_end_a_rest() -> None:
    core = server(2, "ksync:2")
    feed(core, ask(0, 3, 0))
    feed(core, Retire(worker=0, incarnation=1, seq=4, store=1, barrier=1))
    feed(core, ask(0, 3, 0))
    assert core.desks[1].resting == {0}
    feed(core, ask(0, 5, 1))
    assert core.desks[1].resting == set()


@pytest.mark.parametrize("gate", ["kasync:2", "ksync:2", "kbatch:2", "ksync:1"])
def test_a_worker_that_leaves_after_pushing_only_some_keys_keeps_nobody_waiting(gate: str) -> None:
    net = SimNet(3, 1, gate)
    for k in range(2):
        net.init(k, np.zeros(2, np.float32))
    for rank in (0, 1, 2):
        for _ in range(1 if rank == 0 else 4):
            for k in (0,) if rank == 0 else (0, 1):
                net.submit(rank, [net.job(k, np.ones(2, np.float32), True)])
    net.run(until=5.0)
    net.leave(0)
    net.run(until=50.0)
    first = 1 if not net.busy(1) else 2
    assert not net.failed and not net.busy(first), "at least one of them comes to its end, and leaves"
    net.leave(first)
    net.run(until=100.0)
    assert not net.failed and not net.busy(1) and not net.busy(2)
    core = net.servers[0].core
    assert not any(e.pending or e.parked for e in core.entries.values())
