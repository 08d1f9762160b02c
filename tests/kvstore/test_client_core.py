"""The worker's state machine, one rule at a time."""

from shoal.kvstore.client.core import (
    CREDIT_BYTES,
    EXTRA_BYTES,
    RETRY_S,
    SMALL_BYTES,
    ClientCore,
    Complete,
    Fail,
    Job,
    Transmit,
    Warn,
)
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import (
    Ack,
    Done,
    Hello,
    HelloOk,
    Init,
    Pull,
    Push,
    Refused,
    Stats,
    StatsReply,
    Value,
    Waiting,
)
from shoal.kvstore.wire.schema import Payload

DATA = Payload(dtype="<f4", shape=(2,), data=memoryview(b"12345678"))


def client(gate: str = "bsp", servers: int = 1, timeout_s: float = 60.0) -> ClientCore:
    core = ClientCore(3, 1, "run", servers, timeout_s)
    for slice_id in range(8):
        core.register(slice_id, parse_gate(gate))
    for s in range(servers):
        core.links[s].greeted = True
    return core


def job(slice_id: int = 0, *, push: bool = True, want: bool = True, priority: int = 0, nbytes: int = 8) -> Job:
    payload = DATA if push else None
    return Job(
        server=0,
        slice=slice_id,
        key=f"k{slice_id}",
        payload=payload,
        payload_bytes=nbytes,
        want=want,
        priority=priority,
    )


def sent(actions: list) -> list:
    return [a.message for a in actions if isinstance(a, Transmit)]


def value(seq: int, version: int = 1, floor: int = 1) -> Value:
    return Value(seq=seq, version=version, floor=floor, value=DATA)


def test_the_first_job_greets_the_server_and_waits_for_its_answer() -> None:
    core = ClientCore(3, 1, "run", 1)
    core.register(0, parse_gate("bsp"))
    assert sent(core.submit([job()], 0.0)) == [Hello(cluster="run", worker=3, incarnation=1)]
    assert isinstance(sent(core.receive(0, HelloOk(server=0, incarnation=1), 0.1))[0], Push)


def test_the_greeting_is_repeated_until_answered() -> None:
    core = ClientCore(3, 1, "run", 1)
    core.register(0, parse_gate("bsp"))
    core.submit([job()], 0.0)
    actions, _ = core.wake(0.15)
    assert sent(actions) == [Hello(cluster="run", worker=3, incarnation=1)]


def test_a_refused_greeting_fails_the_jobs_of_that_server() -> None:
    core = ClientCore(3, 1, "run", 1)
    core.register(0, parse_gate("bsp"))
    core.submit([job()], 0.0)
    (fail,) = core.receive(0, Refused(seq=0, error="JoinRefusedError", text="no"), 0.1)
    assert isinstance(fail, Fail) and fail.error == "JoinRefusedError"


def test_a_refused_greeting_fails_the_jobs_that_wait_behind_others_too() -> None:
    core = ClientCore(3, 1, "run", 1)
    core.register(0, parse_gate("bsp"))
    jobs = [job(), job(), job(push=False)]
    core.submit(jobs, 0.0)
    failed = core.receive(0, Refused(seq=0, error="JoinRefusedError", text="no"), 0.1)
    assert [f.job for f in failed if isinstance(f, Fail)] == jobs


def test_a_refused_greeting_is_understood_while_another_server_answers_the_same_number() -> None:
    core = client(servers=2)
    core.links[1].greeted = False
    core.submit([job(0)], 0.0)
    waiting = Job(server=1, slice=1, key="k1", want=True)
    core.submit([waiting], 0.0)
    (fail,) = core.receive(1, Refused(seq=0, error="JoinRefusedError", text="no"), 0.1)
    assert isinstance(fail, Fail) and fail.job is waiting


def test_a_push_carries_who_when_and_what_it_was_computed_from() -> None:
    core = client()
    (m,) = sent(core.submit([job()], 0.0))
    assert (m.worker, m.incarnation, m.seq, m.clock, m.pulled, m.want) == (3, 1, 0, 0, 0, True)


def test_a_refused_push_that_was_counted_moves_the_clock_and_one_that_was_not_does_not() -> None:
    core = client("asp")
    for counted, clock in ((False, 0), (True, 0), (True, 1)):
        (m,) = sent(core.submit([job()], 0.0))
        assert m.clock == clock
        (fail,) = core.receive(0, Refused(seq=m.seq, error="RemoteError", text="no", counted=counted), 0.1)
        assert isinstance(fail, Fail) and fail.error == "RemoteError"
    assert core.counters.sent == core.counters.acknowledged == 3


def test_a_refusal_after_the_acknowledgement_moves_the_clock_once() -> None:
    core = client("asp")
    (m,) = sent(core.submit([job()], 0.0))
    core.receive(0, Ack(seq=m.seq, version=1, floor=1), 0.1)
    core.receive(0, Refused(seq=m.seq, error="RemoteError", text="no", counted=True), 0.2)
    assert sent(core.submit([job()], 0.3))[0].clock == 1


def test_a_wider_slack_spares_a_question() -> None:
    core = client("ssp:1")
    core.alter(1, {"s": 2}, -1)
    for clock in range(3):
        (m,) = sent(core.submit([job(want=False)], 0.0))
        assert isinstance(m, Push) and m.clock == clock
        core.receive(0, Ack(seq=m.seq, version=clock + 1, floor=0), 0.1)
    assert isinstance(sent(core.submit([job(want=False)], 0.0))[0], Pull)


def test_limits_count_from_their_version_on_for_slices_that_come_later_too() -> None:
    core = client("ssp:1")
    core.alter(1, {"s": 0}, 2)
    core.register(9, parse_gate("ssp:1"))
    for slice_id in (0, 9):
        lane = core.lanes[slice_id]
        core._settle_gate(lane)
        assert lane.gate is not None and lane.gate.slack == 1
        lane.pulled = 2
        core._settle_gate(lane)
        assert lane.gate.slack == 0


def test_pushpull_is_done_with_one_value() -> None:
    core = client()
    core.submit([j := job()], 0.0)
    assert core.receive(0, value(0), 0.1) == [Complete(j, value(0))]
    assert core.counters.sent == core.counters.acknowledged == 1


def test_after_the_acknowledgement_only_the_value_is_asked_for_again() -> None:
    core = client()
    core.submit([job()], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    (m,) = sent(core.wake(RETRY_S + 0.2)[0])
    assert m == Pull(worker=3, incarnation=1, seq=0, slice=0, clock=1, payload=True)


def test_an_unanswered_push_is_repeated_with_the_same_number() -> None:
    core = client()
    (first,) = sent(core.submit([job()], 0.0))
    (again,) = sent(core.wake(RETRY_S + 0.1)[0])
    assert again == first and core.counters.sent == 1 and core.counters.retries == 1


def test_repetitions_grow_rarer() -> None:
    core = client()
    core.submit([job()], 0.0)
    times, now = [], 0.0
    for _ in range(4):
        _, due = core.wake(now)
        times.append(due - now)
        now = due
    assert times == [1.0, 2.0, 4.0, 8.0]


def test_an_old_answer_is_ignored() -> None:
    core = client()
    core.submit([job()], 0.0)
    core.receive(0, value(0), 0.1)
    assert core.receive(0, value(0), 0.2) == []
    assert core.receive(0, Ack(seq=0, version=1, floor=1), 0.3) == []


def test_jobs_about_one_slice_keep_their_order() -> None:
    core = client()
    core.submit([a := job(want=False), b := job(push=False)], 0.0)
    assert [j.stage.value for j in (a, b)] == ["acknowledgement", "queued"]
    actions = core.receive(0, Ack(seq=0, version=1, floor=1), 0.1)
    assert isinstance(sent(actions)[0], Pull) and sent(actions)[0].clock == 1


def test_the_version_that_was_read_travels_with_the_next_push() -> None:
    core = client("asp")
    core.submit([job(push=False)], 0.0)
    core.receive(0, value(0, version=5), 0.1)
    (m,) = sent(core.submit([job()], 0.2))
    assert m.pulled == 5


def test_a_second_push_without_a_read_first_asks_for_permission() -> None:
    core = client()
    core.submit([job(want=False)], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    (ask,) = sent(core.submit([job(want=False)], 0.2))
    assert ask == Pull(worker=3, incarnation=1, seq=1, slice=0, clock=1, payload=False)
    (push,) = sent(core.receive(0, Value(seq=1, version=1, floor=1, value=None), 0.3))
    assert isinstance(push, Push) and push.clock == 1


def test_a_repeated_permission_is_not_taken_for_the_acknowledgement() -> None:
    core = client()
    core.submit([job(want=False)], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    core.submit([job(want=False)], 0.2)
    permission = Value(seq=1, version=1, floor=1, value=None)
    core.receive(0, permission, 0.3)
    assert core.receive(0, permission, 0.4) == []
    assert core.counters.acknowledged == 1


def test_an_asynchronous_worker_never_asks_for_permission() -> None:
    core = client("asp")
    for clock in range(3):
        (m,) = sent(core.submit([job(want=False)], 0.0))
        assert isinstance(m, Push) and m.clock == clock
        core.receive(0, Ack(seq=m.seq, version=clock, floor=0), 0.1)


def test_unacknowledged_bytes_are_bounded_and_the_urgent_goes_first() -> None:
    core = client("asp")
    big = CREDIT_BYTES // 2
    jobs = [job(i, nbytes=big, priority=p) for i, p in enumerate((0, -1, -2, 5))]
    first = sent(core.submit(jobs[:3], 0.0))
    assert [m.slice for m in first] == [0, 1]
    assert sent(core.submit(jobs[3:], 0.0)) == []
    assert [m.slice for m in sent(core.receive(0, value(0), 0.1))] == [3]
    core.check()


def test_a_small_push_is_sent_without_waiting_for_a_large_one_to_be_acknowledged() -> None:
    core = client()
    core.submit([job(0, nbytes=CREDIT_BYTES)], 0.0)
    assert not sent(core.submit([job(1, nbytes=SMALL_BYTES + 1)], 0.1))
    assert len(sent(core.submit([job(2, nbytes=SMALL_BYTES, priority=1)], 0.2))) == 1
    core.check()


def test_small_pushes_exceed_the_credit_by_no_more_than_is_stated() -> None:
    core = client()
    for i in range(8, 64):
        core.register(i, parse_gate("bsp"))
    core.submit([job(0, nbytes=CREDIT_BYTES)], 0.0)
    core.submit([job(i, nbytes=SMALL_BYTES) for i in range(1, 64)], 0.1)
    assert 0 <= -core.links[0].credit - EXTRA_BYTES < SMALL_BYTES
    core.check()


def test_a_small_push_of_less_priority_waits_behind_the_large_one() -> None:
    core = client()
    core.submit([job(0, nbytes=CREDIT_BYTES)], 0.0)
    core.submit([job(1, nbytes=CREDIT_BYTES, priority=2)], 0.1)
    assert not sent(core.submit([job(2, nbytes=8, priority=1)], 0.2))


def test_a_read_needs_no_credit() -> None:
    core = client("asp")
    core.submit([job(0, nbytes=CREDIT_BYTES)], 0.0)
    assert isinstance(sent(core.submit([job(1, push=False)], 0.0))[0], Pull)


def test_waiting_for_others_gives_the_credit_back() -> None:
    core = client()
    core.submit([job(0, nbytes=CREDIT_BYTES)], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    assert isinstance(sent(core.submit([job(1)], 0.2))[0], Push)


def test_a_deadline_names_the_workers_the_key_and_the_clock() -> None:
    core = client(timeout_s=5.0)
    core.submit([job()], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    core.receive(0, Waiting(seq=0, missing=(1, 2)), 1.0)
    (fail,) = [a for a in core.wake(9.0)[0] if isinstance(a, Fail)]
    assert fail.error == "StoreTimeoutError"
    for part in ("worker 3", "worker 1, worker 2", "'k0'", "clock 0", "timeout_s=5"):
        assert part in fail.text
    core.check()


def test_a_deadline_names_a_silent_server() -> None:
    core = client(timeout_s=5.0)
    core.submit([job()], 0.0)
    (fail,) = [a for a in core.wake(9.0)[0] if isinstance(a, Fail)]
    assert "server 0" in fail.text and "acknowledgement" in fail.text


def test_after_a_push_of_unknown_fate_the_slice_is_used_no_more() -> None:
    """The server may have counted it: the next push would pass for its repetition, and be lost."""
    core = client(timeout_s=5.0)
    core.submit([job()], 0.0)
    core.wake(9.0)
    core.receive(0, value(0), 9.1)
    (fail,) = core.submit([later := job()], 9.2)
    assert isinstance(fail, Fail) and fail.job is later and fail.error == "StoreTimeoutError"
    assert "may or may not be counted" in fail.text
    core.check()


def test_after_a_read_that_took_too_long_the_slice_may_be_used() -> None:
    core = client("asp", timeout_s=5.0)
    core.submit([job(push=False)], 0.0)
    core.wake(9.0)
    assert isinstance(sent(core.submit([job()], 9.2))[0], Push)


def test_a_key_without_a_value_is_named_with_what_to_do() -> None:
    core = client()
    core.submit([job()], 0.0)
    (fail,) = core.receive(0, Refused(seq=0, error="KeyNotInitializedError", text="slice 0 of server 0"), 0.1)
    assert isinstance(fail, Fail)
    for part in ("worker 3", "'k0'", "worker 0 must", "same order", "slice 0 of server 0"):
        assert part in fail.text


def test_a_server_that_has_fallen_silent_is_named_long_before_the_deadline() -> None:
    core = client(timeout_s=600.0)
    core.submit([job()], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 10.0)
    core.receive(0, Waiting(seq=0, missing=(1,)), 20.0)
    assert not [a for a in core.wake(79.0)[0] if isinstance(a, Fail)]
    core.flying[0].due = 80.0
    (fail,) = [a for a in core.wake(90.0)[0] if isinstance(a, Fail)]
    assert fail.error == "StoreTimeoutError"
    assert "server 0 has said nothing to worker 3 for 70 s" in fail.text and "cut off" in fail.text


def test_a_server_that_answers_may_let_a_worker_wait() -> None:
    core = client(timeout_s=600.0)
    core.submit([job()], 0.0)
    core.receive(0, Ack(seq=0, version=0, floor=0), 0.1)
    for now in range(1, 300, 5):
        core.receive(0, Waiting(seq=0, missing=(1,)), float(now))
        assert not [a for a in core.wake(float(now))[0] if isinstance(a, Fail)]


def test_a_long_wait_is_mentioned_before_it_fails() -> None:
    core = client(timeout_s=600.0)
    core.submit([job()], 0.0)
    assert any(isinstance(a, Warn) and "server 0" in a.text for a in core.wake(31.0)[0])


def test_a_server_that_never_greets_back_is_named() -> None:
    core = ClientCore(3, 1, "run", 1, 5.0)
    core.register(0, parse_gate("bsp"))
    core.submit([job()], 0.0)
    (fail,) = [a for a in core.wake(6.0)[0] if isinstance(a, Fail)]
    assert "server 0" in fail.text


def test_a_refusal_fails_the_job_and_balances_the_ledger() -> None:
    core = client()
    core.submit([j := job()], 0.0)
    assert core.receive(0, Refused(seq=0, error="ShapeError", text="no"), 0.1) == [Fail(j, "ShapeError", "no")]
    assert core.counters.sent == core.counters.acknowledged == 1


def test_requests_get_their_own_numbers_and_answers() -> None:
    core = client()
    init = Init(seq=0, store=1, slice=0, key="k", gate="bsp", reduce="mean", value=DATA)
    first = Job(server=0, key="k", request=init)
    second = Job(server=0, request=Stats(seq=0))
    assert [m.seq for m in sent(core.submit([first, second], 0.0))] == [0, 1]
    assert core.receive(0, Done(seq=0), 0.1) == [Complete(first, Done(seq=0))]
    reply = StatsReply(seq=1, data={})
    assert core.receive(0, reply, 0.1) == [Complete(second, reply)]


def test_an_answer_from_another_server_is_ignored() -> None:
    core = client(servers=2)
    core.submit([job()], 0.0)
    assert core.receive(1, value(0), 0.1) == []


def test_recent_staleness_is_the_updates_between_a_read_and_the_push_from_it() -> None:
    core = client("asp")
    core.submit([job(push=False)], 0.0)
    core.receive(0, value(0, version=5), 0.1)
    for seq in range(1, 200):
        core.submit([job()], 0.2)
        core.receive(0, value(seq, version=5 + 3 * seq), 0.3)
    assert abs(core.counters.staleness - 2.0) < 0.05


def test_a_synchronous_worker_is_never_stale() -> None:
    core = client()
    for seq in range(5):
        core.submit([job()], 0.0)
        core.receive(0, Ack(seq=seq, version=seq, floor=seq), 0.1)
        core.receive(0, value(seq, version=seq + 1, floor=seq + 1), 0.2)
    assert core.counters.staleness == 0.0


def test_a_push_that_counts_returns_nothing_to_its_codec_whatever_becomes_of_the_read() -> None:
    core, push = client(), job()
    push.undo = lambda: None
    core.submit([push], 0.0)
    core.receive(0, Ack(seq=push.seq, version=1, floor=0), 0.1)
    (fail,) = core.receive(0, Refused(seq=push.seq, error="StaleWorkerError", text="gone"), 0.2)
    assert isinstance(fail, Fail) and push.undo is None


def test_a_push_that_may_have_been_counted_returns_nothing_to_its_codec_and_one_that_was_never_sent_does() -> None:
    core, pushed, waits = client(timeout_s=5.0), job(), job()
    pushed.undo = waits.undo = lambda: None
    core.submit([pushed, waits], 0.0)
    failed = [a.job for a in core.wake(6.0)[0] if isinstance(a, Fail)]
    assert failed == [pushed, waits]
    assert pushed.undo is None and waits.undo is not None


def test_what_is_still_on_a_slow_link_is_not_sent_again() -> None:
    core, now = client("asp"), 0.0
    for _ in range(30):  # every push is acknowledged 2 s after it was sent, at the end without a repetition
        push = job(want=False)
        core.submit([push], now)
        retries = core.counters.retries
        core.wake(now + 1.5)
        now += 2.0
        core.receive(0, Ack(seq=push.seq, version=1, floor=0), now)
    assert core.counters.retries == retries and 1.8 < core.links[0].trip_s <= 2.0
    push = job(want=False)
    core.submit([push], now)
    assert sent(core.wake(now + 5.0)[0]) == [] and len(sent(core.wake(now + 6.5)[0])) == 1


def test_while_pushes_before_it_come_through_one_is_not_sent_again_and_then_it_is() -> None:
    core, jobs = client("asp"), [job(i, want=False) for i in range(3)]
    core.submit(jobs, 0.0)
    core.receive(0, Ack(seq=jobs[0].seq, version=1, floor=0), 0.9)
    assert sent(core.wake(1.0)[0]) == []
    core.receive(0, Ack(seq=jobs[1].seq, version=1, floor=0), 1.9)
    assert sent(core.wake(2.0)[0]) == [] and [m.slice for m in sent(core.wake(3.0)[0])] == [2]
