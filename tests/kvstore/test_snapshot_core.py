"""Snapshots, one rule of the server's state machine at a time."""

import numpy as np
import pytest

from shoal.kvstore import rules
from shoal.kvstore.events import (
    Apply,
    BeginBranch,
    Contribution,
    CutBranch,
    DropBranch,
    PeerGone,
    Received,
    SealBranch,
    Send,
    SendBranch,
    Woke,
)
from shoal.kvstore.server import snapshots
from shoal.kvstore.server.branches import Branches
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Count, Done, Fetch, Forget, Refused, Survey, Surveyed, Waiting
from shoal.kvstore.wire.schema import Message
from shoal.ops import optim
from tests.kvstore.test_server_core import feed, push, refused, server

TAKEN = [CutBranch(7, 0, -1, {0: 1, 1: 2}), SealBranch(7, 0, (), "mean"), SendBranch("w0", 4, 7, 0, 3, 1)]


def survey(number: int = 1, *slices: int, seq: int = 3, reader: int = 0) -> Survey:
    return Survey(worker=reader, incarnation=1, seq=seq, store=1, number=number, slices=slices or (7,))


def fetch(counts: dict[int, int] | None = None, *, version: int = -1, number: int = 1, seq: int = 4) -> Fetch:
    counts_ = tuple(Count(rank=r, clock=c) for r, c in (counts or {}).items())
    return Fetch(worker=0, incarnation=1, seq=seq, store=1, number=number, slice=7, version=version, counts=counts_)


def forget(number: int = 1) -> Forget:
    return Forget(worker=0, incarnation=1, seq=8, store=1, number=number)


def answers(core: ServerCore, m: Message) -> list[Message]:
    return [a.message for a in feed(core, m) if isinstance(a, Send)]


def test_a_survey_says_how_many_contributions_of_each_worker_are_in() -> None:
    core = server(2, "asp")
    feed(core, push(1, 0)), feed(core, push(1, 1))
    counts = (Count(rank=0, clock=0), Count(rank=1, clock=2))
    assert feed(core, survey()) == [BeginBranch(7, 0), Send("w0", Surveyed(seq=3, version=-1, counts=counts))]


def test_a_survey_that_comes_again_begins_nothing() -> None:
    core = server(2, "asp")
    assert answers(core, survey()) == answers(core, survey())
    assert not [a for a in feed(core, survey()) if isinstance(a, BeginBranch)]


def test_a_slice_that_is_at_the_cut_is_sealed_and_sent_at_once() -> None:
    core = server(2, "asp")
    for m in (push(0, 0), push(1, 0), push(1, 1), survey()):
        feed(core, m)
    assert feed(core, fetch({0: 1, 1: 2})) == TAKEN
    assert feed(core, fetch({0: 1, 1: 2})) == [TAKEN[2]]


def test_a_slice_that_is_behind_the_cut_is_sealed_when_it_gets_there_and_nobody_waits() -> None:
    core = server(2, "asp")
    for m in (push(0, 0), push(1, 0), survey()):
        feed(core, m)
    assert feed(core, fetch({0: 1, 1: 2}))[0] == TAKEN[0]
    assert not [a for a in feed(core, push(0, 1)) if isinstance(a, SealBranch)]
    assert feed(core, push(1, 1))[-2:] == [TAKEN[1], SendBranch("w0", 4, 7, 0, 3, 2)]


def test_a_reader_is_told_whom_the_snapshot_waits_for() -> None:
    core = server(2, "asp")
    feed(core, survey())
    assert answers(core, fetch({1: 2})) == [Waiting(seq=4, missing=(1,))]
    assert answers(core, fetch({1: 2})) == [Waiting(seq=4, missing=(1,))]


def test_in_rounds_the_cut_is_a_version() -> None:
    core = server(2, "bsp")
    for m in (push(0, 0), push(1, 0), push(1, 1)):
        feed(core, m)
    assert answers(core, survey()) == [Surveyed(seq=3, version=1, counts=())]
    assert feed(core, fetch(version=2)) == [CutBranch(7, 0, 2, {}), Send("w0", Waiting(seq=4, missing=(0,)))]
    assert feed(core, push(0, 1))[-2:] == [SealBranch(7, 0, (), "mean"), SendBranch("w0", 4, 7, 0, 2, 2)]


def test_a_snapshot_in_rounds_has_the_readers_own_contributions() -> None:
    core = server(2, "bsp")
    feed(core, push(0, 0))
    assert answers(core, survey()) == [Surveyed(seq=3, version=1, counts=())]
    core = server(3, "ksync:2")
    feed(core, push(0, 0))
    assert answers(core, survey()) == [Surveyed(seq=3, version=1, counts=())]


def test_a_snapshot_under_bounded_staleness_has_what_the_reader_may_rely_on() -> None:
    core = server(2, "ssp:1")
    feed(core, push(0, 0)), feed(core, push(0, 1))
    counts = (Count(rank=0, clock=2), Count(rank=1, clock=1))
    assert answers(core, survey()) == [Surveyed(seq=3, version=-1, counts=counts)]


def test_what_waits_in_an_open_round_is_in_the_snapshot() -> None:
    core = server(2, "fedbuff:4")
    for m in (push(0, 0), push(1, 0), push(1, 1), survey()):
        feed(core, m)
    assert feed(core, fetch({0: 1, 1: 1}))[1] == SealBranch(
        7, 0, (Contribution(0, 0, 0), Contribution(1, 0, 0)), "mean"
    )


def test_a_snapshot_that_is_forgotten_leaves_nothing() -> None:
    core = server(2, "asp")
    feed(core, survey())
    assert feed(core, forget()) == [DropBranch(7, 0), Send("w0", Done(seq=8))]
    assert not core.entries[7].branches and not core.snapshots.open
    assert feed(core, forget()) == [Send("w0", Done(seq=8))]


def test_a_survey_that_comes_after_the_end_of_its_snapshot_begins_nothing() -> None:
    core = server(2, "asp")
    feed(core, survey(1)), feed(core, forget(1))
    assert feed(core, survey(1)) == []
    assert feed(core, survey(2))[0] == BeginBranch(7, 0)
    assert feed(core, survey(1)) == []


def test_an_end_that_comes_late_does_not_end_the_next_snapshot() -> None:
    core = server(2, "asp")
    feed(core, survey(2))
    assert feed(core, forget(1)) == [Send("w0", Done(seq=8))]
    assert core.entries[7].branches


def test_a_readers_next_snapshot_takes_the_place_of_its_last() -> None:
    core = server(2, "asp")
    feed(core, survey(1))
    assert feed(core, survey(2))[:2] == [DropBranch(7, 0), BeginBranch(7, 0)]
    assert "given up" in refused(feed(core, fetch({0: 0}, number=1))).text


def test_an_older_survey_that_comes_late_does_not_end_the_next_snapshot() -> None:
    core = server(2, "asp")
    feed(core, survey(5))
    assert feed(core, survey(3)) == [] and core.entries[7].branches


def test_a_worker_that_has_come_back_begins_anew() -> None:
    core = server(2, "asp")
    feed(core, survey(1))
    core.known[0] = 2
    again = Survey(worker=0, incarnation=2, seq=3, store=1, number=1, slices=(7,))
    assert feed(core, again)[:2] == [DropBranch(7, 0), BeginBranch(7, 0)]


def test_two_readers_do_not_disturb_each_other() -> None:
    core = server(2, "asp")
    feed(core, survey(1)), feed(core, survey(1, reader=1))
    assert sorted(core.entries[7].branches) == [0, 1]
    feed(core, forget(1))
    assert sorted(core.entries[7].branches) == [1]


@pytest.mark.parametrize("after", [0, 1])
def test_a_worker_that_leaves_before_the_cut_has_what_it_needs_is_named(after: int) -> None:
    core = server(3, "asp")
    feed(core, push(1, 0)), feed(core, survey())
    gone, ask = PeerGone(1, 1), fetch({0: 0, 1: 2})
    steps = [lambda: core.handle(gone, 1.0), lambda: feed(core, ask)]
    first, second = steps[after](), steps[1 - after]()
    text = refused([a for a in [*first, *second] if isinstance(a, Send) and isinstance(a.message, Refused)]).text
    assert "2 contributions of worker 1 to 'a'" in text and "left after 1" in text


def test_a_worker_that_has_left_counts_with_what_it_did() -> None:
    core = server(2, "asp")
    feed(core, push(1, 0))
    core.handle(PeerGone(1, 1), 1.0)
    assert answers(core, survey())[0].counts == (Count(rank=0, clock=0), Count(rank=1, clock=1))
    assert feed(core, fetch({0: 0, 1: 1}))[-1] == SendBranch("w0", 4, 7, 0, 1, 0)


def test_a_reader_that_leaves_takes_its_snapshot_along() -> None:
    core = server(2, "asp")
    feed(core, survey())
    assert DropBranch(7, 0) in core.handle(PeerGone(0, 1), 1.0)
    assert not core.snapshots.open


def test_a_reader_that_falls_silent_is_waited_for_a_minute() -> None:
    core = server(2, "asp")
    feed(core, survey())
    assert core.handle(Woke(), 50.0) == []
    assert core.handle(Received("w0", fetch({1: 1})), 55.0)[0] == CutBranch(7, 0, -1, {1: 1})
    assert core.handle(Woke(), 110.0) == []
    assert core.handle(Woke(), 120.0) == [DropBranch(7, 0)]
    assert not core.entries[7].branches


def test_what_is_kept_until_the_cut_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "KEPT_BYTES", 3 * 8)
    core = server(2, "asp")
    feed(core, survey())
    for clock in range(3):
        assert DropBranch(7, 0) not in feed(core, push(1, clock))
    assert DropBranch(7, 0) in feed(core, push(1, 3))
    assert "'a' by worker 0 is given up" in refused(feed(core, fetch({1: 2}))).text
    feed(core, survey(2))
    assert feed(core, fetch({0: 0, 1: 4}, number=2))[-1] == SendBranch("w0", 4, 7, 0, 4, 0)


def test_slices_of_nobody_have_no_snapshot() -> None:
    assert "nobody has initialised" in refused(feed(server(1, "asp"), survey(1, 7, 8))).text


def test_a_stranger_takes_no_snapshot() -> None:
    assert refused(feed(server(1, "asp"), survey(reader=5))).error == "JoinRefusedError"


# --- the arrays -------------------------------------------------------------------------------------------------------


def table() -> tuple[Table, Branches]:
    made = Table()
    made.create(7, "a", np.zeros(2, np.float32))
    made.configure(optim.create("test"), {}, {})
    return made, Branches(made)


def contribute(made: Table, rank: int, clock: int, version: int = 0) -> None:
    made.accumulate(7, rank, np.array([1, 10**rank], np.float32), clock)
    made.apply(7, (Contribution(rank, clock, 0),), "mean", version)


def value(branches: Branches) -> list[float]:
    branches.do(SealBranch(7, 0, (), "mean"))
    return list(np.frombuffer(branches.value(7, 0).data, np.float32))


def test_a_branch_takes_what_is_in_the_cut_whenever_it_came() -> None:
    made, branches = table()
    contribute(made, 0, 0)
    branches.do(BeginBranch(7, 0))
    for rank, clock in ((0, 1), (1, 0), (1, 1)):
        contribute(made, rank, clock)
    branches.do(CutBranch(7, 0, -1, {0: 3, 1: 1}))
    for rank, clock in ((1, 2), (0, 2), (0, 3)):
        contribute(made, rank, clock)
    assert value(branches) == [4, 13]
    assert list(made.cells[7].value) == [7, 34]


def test_a_slice_is_copied_only_when_it_takes_what_its_branch_must_not() -> None:
    made, branches = table()
    branches.do(BeginBranch(7, 0))
    branches.do(CutBranch(7, 0, 2, {}))
    contribute(made, 0, 0, 1), contribute(made, 1, 0, 2)
    (branch,) = made.cells[7].followers.values()
    assert branch._cell is None
    contribute(made, 0, 1, 3)
    assert branch._cell is not None
    assert value(branches) == [2, 11]


def test_what_is_kept_is_a_copy() -> None:
    made, branches = table()
    branches.do(BeginBranch(7, 0))
    pushed = np.ones(2, np.float32)
    made.accumulate(7, 0, pushed, 0)
    made.apply(7, (Contribution(0, 0, 0),), "mean")
    pushed[:] = 100.0
    contribute(made, 1, 0)
    branches.do(CutBranch(7, 0, -1, {0: 1}))
    assert value(branches) == [1, 1]


def test_a_sealed_branch_stays_as_it_is() -> None:
    made, branches = table()
    contribute(made, 0, 0)
    branches.do(BeginBranch(7, 0))
    branches.do(CutBranch(7, 0, -1, {0: 1}))
    before = value(branches)
    contribute(made, 1, 0)
    assert list(np.frombuffer(branches.value(7, 0).data, np.float32)) == before == [1, 1]
    assert not made.cells[7].followers


def test_contributions_that_wait_are_applied_to_the_branch_and_stay_for_the_slice() -> None:
    made, branches = table()
    made.accumulate(7, 0, np.ones(2, np.float32), 0)
    branches.do(BeginBranch(7, 0))
    branches.do(CutBranch(7, 0, -1, {0: 1}))
    branches.do(SealBranch(7, 0, (Contribution(0, 0, 0),), "mean"))
    assert list(np.frombuffer(branches.value(7, 0).data, np.float32)) == [1, 1]
    assert list(made.cells[7].value) == [0, 0]
    made.apply(7, (Contribution(0, 0, 0),), "mean")
    assert list(made.cells[7].value) == [1, 1]


@pytest.mark.parametrize(("name", "rule"), [("sgd", None), ("adam", None), ("lamb", None), ("sgd", "dcasgd:lam=0.1")])
def test_a_branch_is_the_state_that_training_without_the_rest_has(name: str, rule: str | None) -> None:
    """Momentum and averages branch off, too; a change of the rate reaches the branch."""
    rng = np.random.default_rng(3)
    grads = rng.standard_normal((8, 5)).astype(np.float32)
    extra = {"momentum": 0.9} if name == "sgd" else {}
    correction = None if rule is None else rules.parse(f"{rule},adaptive=true")

    def fresh() -> Table:
        made = Table()
        made.create(7, "a", np.ones(5, np.float32))
        made.configure(optim.create(name, learning_rate=0.1, **extra), {}, {}, rule=correction)
        made.was_read(7, 0), made.was_read(7, 1)
        return made

    def step(to: Table, i: int) -> None:
        if i == 5:
            to.configure(optim.create(name, learning_rate=0.3, **extra), {}, {}, rule=correction)
        to.accumulate(7, i % 2, grads[i], i // 2)
        to.apply(7, (Contribution(i % 2, i // 2, 0),), "mean")

    made, alone = fresh(), fresh()
    branches = Branches(made)
    for i in range(8):
        if i == 2:
            branches.do(BeginBranch(7, 0))
        if i == 4:
            branches.do(CutBranch(7, 0, -1, {0: 4, 1: 1}))
        step(made, i)
        if i % 2 == 0 or i == 1:
            step(alone, i)
        elif i == 5:
            alone.configure(optim.create(name, learning_rate=0.3, **extra), {}, {}, rule=correction)
    branches.do(SealBranch(7, 0, (), "mean"))
    np.testing.assert_array_equal(np.frombuffer(branches.value(7, 0).data, np.float32), alone.cells[7].value)


def test_training_is_the_same_bits_with_and_without_a_snapshot() -> None:
    core = server(2, "asp")
    plain = server(2, "asp")
    feed(core, survey())
    for m in (push(0, 0), push(1, 0), push(0, 1)):
        kept = [a for a in feed(core, m) if not isinstance(a, SealBranch | SendBranch)]
        assert kept == feed(plain, m)
        assert any(isinstance(a, Apply) for a in kept)
