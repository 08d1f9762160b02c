"""The server's state machine, one rule at a time."""

import pytest

from shoal.kvstore.events import (
    Accumulate,
    Action,
    Apply,
    Configure,
    Contribution,
    Create,
    PeerGone,
    Received,
    Send,
    SendValue,
)
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.wire.messages import (
    Ack,
    Done,
    Hello,
    HelloOk,
    Init,
    Member,
    Pull,
    Push,
    Refused,
    Retire,
    Roster,
    SetOptimizer,
    Stats,
    Value,
    Waiting,
)
from shoal.kvstore.wire.schema import Message, Payload


def payload(*shape: int, dtype: str = "<f4") -> Payload:
    return Payload(dtype=dtype, shape=shape or (2,), data=b"")


def server(workers: int, gate: str = "bsp") -> ServerCore:
    core = ServerCore(0, 1, "run")
    members = tuple(Member(role="worker", rank=r, incarnation=1, address="", host="h", pid=1) for r in range(workers))
    core.roster(Roster(generation=1, epoch=0, members=members))
    core.handle(Received("w0", Init(seq=0, store=1, slice=7, key="a", gate=gate, reduce="mean", value=payload())), 0.0)
    return core


def parts(*ranks: int, staleness: int = 0) -> tuple[Contribution, ...]:
    return tuple(Contribution(r, 0, staleness) for r in ranks)


def push(
    rank: int, clock: int, *, seq: int = 1, want: bool = False, pulled: int = 0, value: Payload | None = None
) -> Push:
    return Push(
        worker=rank, incarnation=1, seq=seq, slice=7, clock=clock, pulled=pulled, want=want, value=value or payload()
    )


def pull(rank: int, clock: int, *, seq: int = 9, payload: bool = True) -> Pull:
    return Pull(worker=rank, incarnation=1, seq=seq, slice=7, clock=clock, payload=payload)


def feed(core: ServerCore, message: Message, sender: str = "") -> list[Action]:
    rank = getattr(message, "worker", 0)
    actions = core.handle(Received(sender or f"w{rank}", message), 1.0)
    core.check()
    return actions


def refused(actions: list[Action]) -> Refused:
    (action,) = actions
    assert isinstance(action, Send) and isinstance(action.message, Refused)
    return action.message


def test_a_worker_of_the_run_is_greeted() -> None:
    assert feed(server(1), Hello(cluster="run", worker=0, incarnation=1)) == [
        Send("w0", HelloOk(server=0, incarnation=1))
    ]


def test_a_worker_of_another_run_is_refused_with_both_runs_named() -> None:
    answer = refused(feed(server(1), Hello(cluster="other", worker=0, incarnation=1)))
    assert answer.error == "JoinRefusedError" and "'other'" in answer.text and "'run'" in answer.text


def test_a_stranger_is_refused() -> None:
    assert refused(feed(server(1), Hello(cluster="run", worker=5, incarnation=1))).error == "JoinRefusedError"


def test_an_older_incarnation_is_refused_and_changes_nothing() -> None:
    core = server(1)
    old = Push(worker=0, incarnation=0, seq=1, slice=7, clock=0, pulled=0, want=False, value=payload())
    assert refused(feed(core, old)).error == "StaleWorkerError"
    assert core.entries[7].progress.clocks == {0: 0}


def test_init_creates_once_and_a_repetition_is_only_confirmed() -> None:
    core = server(1)
    again = Init(seq=3, store=1, slice=7, key="a", gate="bsp", reduce="mean", value=payload())
    assert feed(core, again, "w0") == [Send("w0", Done(seq=3))]
    fresh = Init(seq=4, store=1, slice=8, key="b", gate="bsp", reduce="mean", value=payload())
    assert feed(core, fresh, "w0") == [Create(8, "b", payload(), 1), Send("w0", Done(seq=4))]


def test_init_with_another_shape_names_both() -> None:
    other = Init(seq=3, store=1, slice=7, key="a", gate="bsp", reduce="mean", value=payload(5))
    answer = refused(feed(server(1), other, "w0"))
    assert answer.error == "ShapeError" and "(5,)" in answer.text and "(2,)" in answer.text


@pytest.mark.parametrize(("gate", "reduce"), [("nonsense", "mean"), ("bsp", "median")])
def test_init_under_an_unknown_gate_or_reduction_is_refused(gate: str, reduce: str) -> None:
    unknown = Init(seq=3, store=1, slice=9, key="z", gate=gate, reduce=reduce, value=payload())
    assert refused(feed(server(1), unknown, "w0")).error == "ConfigError"


@pytest.mark.parametrize("gate", ["bsp", "ssp:3", "asp", "backup:1", "kbatch:2"])
@pytest.mark.parametrize("want", [False, True])
def test_a_contribution_that_outlives_its_push_is_not_brief(gate: str, want: bool) -> None:
    core = server(3, gate)
    first, *rest = feed(core, push(0, 0, want=want))
    assert isinstance(first, Accumulate)
    closed = any(isinstance(a, Apply) for a in rest)
    answered = any(isinstance(a, SendValue) or (isinstance(a, Send) and not want) for a in rest)
    assert first.brief == (closed or not answered)


def test_a_round_closes_when_every_worker_has_contributed_and_reduces_in_rank_order() -> None:
    core = server(3)
    for rank in (2, 0):
        assert feed(core, push(rank, 0)) == [
            Accumulate(7, rank, 0, payload(), brief=False),
            Send(f"w{rank}", Ack(seq=1, version=0, floor=0)),
        ]
    last = feed(core, push(1, 0))
    assert last == [
        Accumulate(7, 1, 0, payload()),
        Apply(7, parts(0, 1, 2), "mean", 1),
        Send("w1", Ack(seq=1, version=1, floor=1)),
    ]


def test_a_retried_push_is_acknowledged_and_counted_once() -> None:
    core = server(2)
    feed(core, push(0, 0))
    assert feed(core, push(0, 0)) == [Send("w0", Ack(seq=1, version=0, floor=0))]
    assert core.ledgers[0].duplicate == 1


def test_a_retried_push_of_a_closed_round_is_acknowledged_and_not_counted() -> None:
    core = server(1)
    feed(core, push(0, 0))
    assert feed(core, push(0, 0)) == [Send("w0", Ack(seq=1, version=1, floor=1))]
    assert core.entries[7].version == 1


def test_two_pushes_of_one_worker_do_not_close_a_round_of_two() -> None:
    core = server(2)
    feed(core, push(0, 0))
    answer = refused(feed(core, push(0, 1, seq=2)))
    assert "ahead of workers (1,)" in answer.text and core.entries[7].version == 0


def test_a_push_that_wants_the_value_waits_for_the_round() -> None:
    core = server(2)
    assert feed(core, push(0, 0, want=True))[1:] == [Send("w0", Ack(seq=1, version=0, floor=0))]
    actions = feed(core, push(1, 0, want=True, seq=4))
    assert actions[1] == Apply(7, parts(0, 1), "mean", 1)
    assert actions[2:] == [SendValue("w1", 1, 4, 7, 1, 1, True), SendValue("w0", 0, 1, 7, 1, 1, True)]


def test_a_repeated_question_is_told_whom_it_waits_for() -> None:
    core = server(3)
    feed(core, push(0, 0, want=True))
    assert feed(core, pull(0, 1, seq=1)) == [Send("w0", Waiting(seq=1, missing=(1, 2)))]


def test_a_pull_after_the_workers_own_push_waits_for_the_others() -> None:
    core = server(2)
    feed(core, push(0, 0))
    assert feed(core, pull(0, 1)) == []
    assert SendValue("w0", 0, 9, 7, 1, 1, True) in feed(core, push(1, 0))


def test_a_pull_before_the_workers_push_is_answered_at_once() -> None:
    assert feed(server(2), pull(0, 0)) == [SendValue("w0", 0, 9, 7, 0, 0, True)]


def test_asking_for_permission_gets_a_version_without_a_value() -> None:
    assert feed(server(2), pull(0, 0, payload=False)) == [Send("w0", Value(seq=9, version=0, floor=0, value=None))]


def test_asynchronous_pushes_are_applied_at_once() -> None:
    core = server(2, "asp")
    actions = feed(core, push(1, 0, want=True))
    assert actions == [
        Accumulate(7, 1, 0, payload()),
        Apply(7, parts(1), "mean", 1),
        SendValue("w1", 1, 1, 7, 1, 0, False),
    ]


def test_bounded_staleness_lets_a_worker_run_ahead_and_no_further() -> None:
    core = server(2, "ssp:2")
    for clock in range(3):
        assert any(isinstance(a, Apply) for a in feed(core, push(0, clock, seq=clock)))
    assert refused(feed(core, push(0, 3, seq=3))).error == "LocalProtocolError"
    assert feed(core, pull(0, 3)) == []
    assert SendValue("w0", 0, 9, 7, 4, 1, False) in feed(core, push(1, 0))


def test_staleness_is_the_number_of_updates_since_the_pull() -> None:
    core = server(2, "asp")
    for clock in range(3):
        feed(core, push(0, clock, pulled=clock))
    feed(core, push(1, 0, pulled=0))
    assert core.ledgers[0].staleness == {0: 3}
    assert core.ledgers[1].staleness == {3: 1}


def test_a_gap_in_a_workers_clocks_is_refused() -> None:
    assert "only 0 of its pushes" in refused(feed(server(1), push(0, 2))).text


@pytest.mark.parametrize(("value", "error"), [(payload(3), "ShapeError"), (payload(2, dtype="<f8"), "DTypeError")])
def test_a_misfit_is_refused_and_its_repetition_is_answered_the_same_way(value: Payload, error: str) -> None:
    core = server(1)
    first, again = refused(feed(core, push(0, 0, value=value))), refused(feed(core, push(0, 0, value=value)))
    assert first == again and first.error == error and "'a'" in first.text
    assert (core.ledgers[0].rejected, core.ledgers[0].duplicate) == (1, 1)


def test_pushing_or_pulling_an_unknown_slice_says_so() -> None:
    core = server(1)
    lost = Push(worker=0, incarnation=1, seq=1, slice=99, clock=0, pulled=0, want=False, value=payload())
    assert refused(feed(core, lost)).error == "KeyNotInitializedError"
    ask = Pull(worker=0, incarnation=1, seq=2, slice=99, clock=0, payload=True)
    assert refused(feed(core, ask)).error == "KeyNotInitializedError"


def test_a_departure_closes_the_round_that_waited_for_it() -> None:
    core = server(2)
    feed(core, push(0, 0, want=True))
    actions = core.handle(PeerGone(1, 1), 2.0)
    assert actions == [Apply(7, parts(0), "mean", 1), SendValue("w0", 0, 1, 7, 1, 1, True)]


def test_a_departed_workers_contribution_stays() -> None:
    core = server(2)
    feed(core, push(0, 0))
    assert core.handle(PeerGone(0, 1), 2.0) == []
    assert Apply(7, parts(0, 1), "mean", 1) in feed(core, push(1, 0))


def test_the_last_departure_closes_open_rounds_with_what_they_have() -> None:
    core = server(2)
    feed(core, push(0, 0))
    core.handle(PeerGone(0, 1), 2.0)
    assert core.handle(PeerGone(1, 1), 2.0) == [Apply(7, parts(0), "mean", 1)]
    assert core.ledgers[0].applied == 1


def test_a_departed_worker_cannot_push() -> None:
    core = server(2)
    core.handle(PeerGone(0, 1), 2.0)
    assert refused(feed(core, push(0, 0))).error == "StaleWorkerError"


def test_the_departure_of_another_incarnation_changes_nothing() -> None:
    core = server(2)
    assert core.handle(PeerGone(1, 0), 2.0) == []
    assert core.members == {0: 1, 1: 1}


def set_optimizer(seq: int, name: str = "sgd") -> SetOptimizer:
    return SetOptimizer(worker=0, incarnation=1, seq=seq, store=1, name=name, params={}, lr_mult={}, wd_mult={})


def test_a_repeated_optimizer_is_installed_again_so_that_a_refusal_stays_a_refusal() -> None:
    core = server(1)
    want = [Configure("w0", 5, 1, "nonsense", {}, "", {}, {})]
    assert feed(core, set_optimizer(5, "nonsense")) == want
    assert feed(core, set_optimizer(5, "nonsense")) == want


def test_an_old_repetition_does_not_bring_an_older_optimizer_back() -> None:
    core = server(1)
    feed(core, set_optimizer(5))
    feed(core, set_optimizer(6, "adam"))
    assert feed(core, set_optimizer(5)) == [Send("w0", Done(seq=5))]


def test_stats_answer_with_the_ledger() -> None:
    core = server(1)
    feed(core, push(0, 0))
    (action,) = feed(core, Stats(seq=3), "w0")
    assert isinstance(action, Send)
    assert action.message.data["ledger"] == {
        "0": {"applied": 1, "rejected": 0, "dropped": 0, "duplicate": 0, "lost": 0}
    }


def test_a_message_that_is_not_for_servers_is_refused() -> None:
    assert refused(feed(server(1), Ack(seq=1, version=0, floor=0), "w0")).error == "RemoteProtocolError"


def test_a_retired_worker_is_waited_for_no_more_and_may_still_read() -> None:
    core = server(2)
    feed(core, push(0, 0, want=True))
    actions = feed(core, Retire(worker=1, incarnation=1, store=1, seq=3))
    assert actions == [Apply(7, parts(0), "mean", 1), SendValue("w0", 0, 1, 7, 1, 1, True), Send("w1", Done(seq=3))]
    assert feed(core, pull(1, 5)) == [SendValue("w1", 1, 9, 7, 1, 1, False)]


def test_nobody_answers_a_reader_that_has_left() -> None:
    core = server(3)
    feed(core, push(0, 0, want=True))
    feed(core, push(1, 0, want=True, seq=4))
    assert core.handle(PeerGone(0, 1), 2.0) == []
    assert [r.worker for r in core.entries[7].parked.values()] == [1]
    assert SendValue("w1", 1, 4, 7, 1, 1, True) in feed(core, push(2, 0))
    assert core.entries[7].parked == {}


def test_a_reader_that_was_answered_is_not_kept() -> None:
    core = server(2)
    for clock in range(3):
        feed(core, push(0, clock, want=True, seq=2 * clock))
        feed(core, pull(0, clock + 1, seq=2 * clock))
        feed(core, push(1, clock, want=True, seq=clock))
        assert core.entries[7].parked == {}


@pytest.mark.parametrize("want", [False, True])
def test_a_late_repetition_of_a_push_of_a_worker_that_has_left_is_no_new_one(want: bool) -> None:
    core = server(2, "asp")
    feed(core, push(0, 0, want=want))
    feed(core, Retire(worker=0, incarnation=1, seq=2, store=1))
    (again,) = feed(core, push(0, 0, want=want))
    assert isinstance(again, Send) and isinstance(again.message, Ack) and again.message.taken
    assert (core.ledgers[0].applied, core.ledgers[0].rejected, core.ledgers[0].duplicate) == (1, 0, 1)


def test_a_worker_that_has_left_cannot_push_once_more() -> None:
    core = server(2, "asp")
    feed(core, push(0, 0))
    feed(core, Retire(worker=0, incarnation=1, seq=2, store=1))
    assert refused(feed(core, push(0, 1, seq=3))).error == "StaleWorkerError"
