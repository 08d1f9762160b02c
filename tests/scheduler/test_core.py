"""The scheduler's decisions, one at a time."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.events import Woke
from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Barrier,
    BarrierWaiting,
    Declare,
    Farewell,
    Goodbye,
    KeySpec,
    Left,
    Placed,
    Pull,
    Refused,
    Released,
    Roster,
    Snapshot,
    Stop,
    Watch,
    Welcome,
)
from shoal.scheduler.core import Interrupted, SchedulerConfig
from shoal.scheduler.gather import Count
from tests.scheduler.helpers import BEAT, BYE, Scheduler, declare, join, running

# --- joining ----------------------------------------------------------------------------------------------------------


def test_ranks_are_given_from_the_lowest_free_one() -> None:
    s = Scheduler(workers=3)
    assert [s.answer(f"w{i}", join("worker", f"w{i}"), Welcome).rank for i in range(3)] == [0, 1, 2]


def test_a_requested_rank_is_honoured_and_the_next_gets_the_lowest_free() -> None:
    s = Scheduler(workers=3)
    assert s.answer("a", join("worker", "a", rank=1), Welcome).rank == 1
    assert [s.answer(n, join("worker", n), Welcome).rank for n in "bc"] == [0, 2]


def test_a_taken_rank_is_refused_with_its_owner() -> None:
    s = Scheduler(workers=3)
    s.hear("a", join("worker", "a", rank=1, pid=55))
    refused = s.answer("b", join("worker", "b", rank=1), Refused)
    assert refused.error == "JoinRefusedError" and "rank 1 is taken by pid 55 on h" in refused.text


def test_a_rank_outside_the_run_is_refused() -> None:
    refused = Scheduler(workers=2).answer("a", join("worker", "a", rank=2), Refused)
    assert "asks for rank 2, but the run has 2 workers, ranks 0 to 1" in refused.text


def test_an_extra_node_is_refused() -> None:
    refused = running(workers=2).answer("x", join("worker", "x"), Refused)
    assert "all 2 workers are here" in refused.text and "--workers 3" in refused.text


def test_an_unknown_role_is_refused() -> None:
    assert "unknown role" in Scheduler().answer("x", join("boss", "x"), Refused).text


def test_another_version_is_refused_with_both() -> None:
    refused = Scheduler().answer("x", join("worker", "x", version="2"), Refused)
    assert "runs shoal 2, the scheduler runs 1" in refused.text


def test_a_repeated_join_changes_nothing() -> None:
    s = Scheduler()
    first = s.answer("a", join("worker", "a"), Welcome)
    before = len(s.core.log)
    assert s.answer("a", join("worker", "a"), Welcome) == first
    assert len(s.core.log) == before


def test_a_welcome_says_who_is_here_and_who_is_missing() -> None:
    s = Scheduler(workers=2)
    s.hear("a", join("worker", "a"))
    welcome = s.answer("s", join("server", "s"), Welcome)
    assert welcome.present == ("server 0", "worker 0") and welcome.missing == ("worker 1",)


def test_those_who_wait_learn_who_has_come_when_they_next_beat() -> None:
    s = Scheduler(workers=2)
    s.hear("a", join("worker", "a"))
    s.hear("s", join("server", "s"))
    assert s.answer("a", BEAT, Welcome).missing == ("worker 1",)


def test_when_all_have_joined_everybody_gets_the_same_roster() -> None:
    s = running(workers=2, servers=2)
    rosters = [s.told(name, Roster) for name in ("w0", "w1", "s0", "s1")]
    assert rosters == [rosters[0]] * 4 and len(rosters[0]) == 1
    assert [(m.role, m.rank) for m in rosters[0][0].members] == [
        ("server", 0),
        ("server", 1),
        ("worker", 0),
        ("worker", 1),
    ]


def test_the_roster_does_not_depend_on_the_order_of_joining() -> None:
    rosters = []
    for order in (["s", "a", "b"], ["b", "s", "a"], ["a", "b", "s"]):
        s = Scheduler(workers=2)
        for name in order:
            s.hear(name, join("server" if name == "s" else "worker", name, rank="sab".index(name) - 1))
        rosters.append(s.told("s", Roster))
    assert rosters[0] == rosters[1] == rosters[2]


def test_a_join_that_is_repeated_after_the_start_brings_the_roster_again() -> None:
    s = running()
    assert [type(m) for _, m in s.hear("w0", join("worker", "w0"))] == [Welcome, Roster]


def test_a_process_that_reconnects_under_another_name_is_still_the_same() -> None:
    s = running()
    s.hear("w0-again", join("worker", "w0"))
    assert isinstance(s.hear("w0-again", BEAT)[0][1], Alive)
    assert s.answer("w0", BEAT, Refused).error == "JoinRefusedError"


def test_a_node_that_falls_silent_before_the_start_frees_its_place() -> None:
    s = Scheduler(workers=1, lease_s=10)
    s.hear("a", join("worker", "a"))
    s.sleep(10.1)
    assert s.answer("b", join("worker", "b"), Welcome).incarnation == 2
    assert s.answer("a", BEAT, Refused).error == "StaleWorkerError"
    assert s.answer("a", join("worker", "a"), Refused).error == "StaleWorkerError"


def test_the_run_fails_if_somebody_never_joins() -> None:
    s = Scheduler(workers=2, gather_timeout_s=30)
    s.hear("a", join("worker", "a"))
    s.sleep(30.1, beating="a")
    (abort,) = s.told("a", Abort)[:1]
    assert abort.culprit == "server 0, worker 1"
    assert "did not join within 30 s (1 of 3 joined)" in abort.reason


def test_nobody_joins_a_run_that_has_failed() -> None:
    s = Scheduler(gather_timeout_s=1)
    s.sleep(1.1)
    assert "did not join" in s.answer("a", join("worker", "a"), Abort).reason


def test_a_run_without_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 worker, got 0"):
        SchedulerConfig(0, 1)


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_answered() -> None:
    assert running().answer("w0", BEAT, Alive).generation == 4


def test_a_silent_node_ends_the_run_and_is_named_to_everybody() -> None:
    s = running(lease_s=10)
    s.sleep(10.1, beating="w0 s0")
    for name in ("w0", "s0"):
        abort = s.told(name, Abort)[0]
        assert abort.culprit == "worker 1 (host h, pid 101)"
        assert "silent for 10.0 s, with a lease of 10 s" in abort.reason
    assert s.core.snapshot().phase == "failed"


def test_two_nodes_that_fall_silent_together_are_both_named() -> None:
    s = running(lease_s=10)
    s.sleep(10.1, beating="s0")
    assert s.told("s0", Abort)[0].culprit == "worker 0 (host h, pid 100), worker 1 (host h, pid 101)"


def test_any_message_is_a_sign_of_life() -> None:
    s = running(lease_s=4)
    for i in range(10):
        s.sleep(1.0, beating="w1 s0")
        s.hear("w0", Barrier(name="b", index=i))
    assert s.core.state.phase == "running"


def test_nodes_are_not_blamed_for_the_schedulers_own_pause() -> None:
    s = running(lease_s=10)
    s.sleep(2.0, beating="w0 w1 s0")
    s.now += 3600
    s.carry_out(s.core.handle(Woke(), s.now))
    assert s.core.state.phase == "running"
    s.sleep(10.1)
    assert s.core.state.phase == "failed"


def test_a_lost_node_that_comes_back_is_told_so() -> None:
    s = running(lease_s=10)
    s.sleep(10.1, beating="w0 s0")
    assert s.answer("w1", BEAT, Refused).error == "StaleWorkerError"


def test_strangers_are_refused_not_ignored() -> None:
    refused = running().answer("nobody", BEAT, Refused)
    assert refused.error == "JoinRefusedError" and "does not know the sender of this Heartbeat" in refused.text


def test_a_message_for_somebody_else_is_refused() -> None:
    pull = Pull(worker=0, incarnation=1, seq=1, slice=0, clock=0, payload=True)
    assert "does not take Pull" in running().answer("w0", pull, Refused).text


# --- barriers ---------------------------------------------------------------------------------------------------------


def test_a_barrier_opens_when_the_last_worker_comes() -> None:
    s = running()
    waiting = s.answer("w0", Barrier(name="b", index=0), BarrierWaiting)
    assert waiting.missing == ("worker 1 (host h, pid 101)",)
    released = Released(name="b", index=0)
    assert s.hear("w1", Barrier(name="b", index=0)) == [("w0", released), ("w1", released)]


def test_coming_twice_to_a_barrier_counts_once() -> None:
    s = running()
    for _ in range(3):
        assert s.hear("w0", Barrier(name="b", index=0))[0][1] != Released(name="b", index=0)


def test_an_open_barrier_answers_a_repetition() -> None:
    s = running(workers=1)
    s.hear("w0", Barrier(name="b", index=0))
    assert s.hear("w0", Barrier(name="b", index=0)) == [("w0", Released(name="b", index=0))]


def test_a_barrier_is_known_by_name_and_occurrence() -> None:
    s = running()
    s.hear("w0", Barrier(name="a", index=0))
    s.answer("w1", Barrier(name="b", index=0), BarrierWaiting)
    s.answer("w1", Barrier(name="a", index=1), BarrierWaiting)


def test_a_worker_that_leaves_opens_the_barrier_for_the_others() -> None:
    s = running()
    s.hear("w0", Barrier(name="b", index=0))
    assert ("w0", Released(name="b", index=0)) in s.hear("w1", BYE)


def test_a_worker_that_has_ended_its_script_opens_the_barrier_for_the_others() -> None:
    s = running()
    s.hear("w0", Barrier(name="user", index=0))
    waiting = BarrierWaiting(name="finish", index=0, missing=("worker 0 (host h, pid 100)",))
    assert s.hear("w1", Barrier(name="finish", index=0)) == [("w0", Released(name="user", index=0)), ("w1", waiting)]


def test_who_ended_its_script_before_is_not_waited_for_at_a_barrier() -> None:
    s = running()
    s.hear("w0", Barrier(name="finish", index=0))
    assert s.hear("w1", Barrier(name="user", index=0)) == [("w1", Released(name="user", index=0))]
    assert ("w0", Released(name="finish", index=0)) in s.hear("w1", Barrier(name="finish", index=0))


def test_nothing_passes_for_done_that_the_first_worker_would_have_done_had_its_script_not_ended() -> None:
    s = running(workers=3)
    s.hear("w0", Barrier(name="finish", index=0))
    s.hear("w1", Barrier(name="finish", index=0))
    name = "set_optimizer of store 1"
    assert s.answer("w2", Barrier(name=name, index=0), BarrierWaiting).missing == ("worker 0 (host h, pid 100)",)


def test_a_process_that_replaces_one_that_had_ended_its_script_is_waited_for() -> None:
    s = running(worker_grace_s=60.0)
    s.hear("w1", Barrier(name="finish", index=0))
    s.hear("x", replace(join("worker", "x", rank=1), replaces=True))
    assert s.answer("w0", Barrier(name="user", index=0), BarrierWaiting).missing == ("worker 1 (host h, pid 7)",)


def test_a_barrier_waits_for_workers_that_have_not_joined_yet() -> None:
    s = Scheduler(workers=2)
    s.hear("a", join("worker", "a"))
    missing = s.answer("a", Barrier(name="b", index=0), BarrierWaiting).missing
    assert missing == ("worker 1 (not joined yet)",)


def test_servers_do_not_take_part_in_barriers() -> None:
    assert running().answer("s0", Barrier(name="b", index=0), Refused).error == "LocalProtocolError"


# --- declarations -----------------------------------------------------------------------------------------------------


def test_every_worker_gets_the_same_layout() -> None:
    s = running(servers=2)
    first = s.answer("w0", declare(w=(100, 10), b=(10,)), Placed)
    assert s.answer("w1", declare(w=(100, 10), b=(10,)), Placed) == first
    assert [layout.key for layout in first.layouts] == ["w", "b"]


def test_layouts_come_in_the_order_of_the_declaration() -> None:
    s = running()
    s.hear("w0", declare(a=(1,), b=(2,)))
    assert [layout.key for layout in s.answer("w1", declare(b=(2,), a=(1,)), Placed).layouts] == ["b", "a"]


def test_a_repeated_declaration_adds_nothing_to_the_log() -> None:
    s = running()
    s.hear("w0", declare(a=(1,)))
    before = len(s.core.log)
    s.hear("w0", declare(a=(1,)))
    s.hear("w1", declare(a=(1,)))
    assert len(s.core.log) == before


def test_a_key_declared_twice_in_one_call_is_placed_once() -> None:
    s = running()
    twice = Declare(request=1, gate="bsp", reduce="sum", keys=(KeySpec(key="a", dtype="<f4", shape=(1,)),) * 2)
    first, second = s.answer("w0", twice, Placed).layouts
    assert first == second


def test_another_shape_is_refused_with_both_workers_and_both_shapes() -> None:
    s = running()
    s.hear("w0", declare(a=(1, 2)))
    refused = s.answer("w1", declare(request=5, a=(2, 1)), Refused)
    assert (refused.seq, refused.error) == (5, "ShapeError")
    for part in ("worker 1 (host h, pid 101)", "(2, 1)", "worker 0 (host h, pid 100)", "(1, 2)", "same model"):
        assert part in refused.text


def test_another_dtype_is_refused() -> None:
    s = running()
    s.hear("w0", declare(a=(1,)))
    other = Declare(request=1, gate="bsp", reduce="mean", keys=(KeySpec(key="a", dtype="<f2", shape=(1,)),))
    refused = s.answer("w1", other, Refused)
    assert refused.error == "DTypeError" and "<f2" in refused.text and "<f4" in refused.text


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (declare(gate="lazy", a=(1,)), "ConfigError", "unknown mode 'lazy'"),
        (declare(gate="lazy", a=(1,)), "ConfigError", "the scheduler knows, which does not run the training script"),
        (declare(reduce="max", a=(1,)), "ConfigError", "'max'"),
        (declare(a=(-1,)), "ShapeError", "cannot be negative"),
        (
            Declare(request=1, gate="bsp", reduce="sum", keys=(KeySpec(key="a", dtype="<c8", shape=()),)),
            "DTypeError",
            "'<c8'",
        ),
    ],
)
def test_nonsense_is_refused(message: Declare, error: str, text: str) -> None:
    refused = running().answer("w0", message, Refused)
    assert refused.error == error and text in refused.text


def test_a_refused_declaration_places_none_of_its_keys() -> None:
    s = running()
    s.hear("w0", declare(a=(1,)))
    s.hear("w1", declare(new=(3,), a=(2,)))
    assert list(s.core.state.placement.layouts) == ["a"]


def test_all_workers_create_the_same_kind_of_store() -> None:
    s = running()
    s.hear("w0", declare(gate="async", a=(1,)))
    refused = s.answer("w1", declare(gate="bsp", a=(1,)), Refused)
    assert refused.error == "ConfigError" and "mode async" in refused.text and "mode sync" in refused.text


def test_a_script_may_not_contradict_the_mode_of_the_run() -> None:
    s = running(mode="async")
    refused = s.answer("w0", declare(gate="bsp", a=(1,)), Refused)
    assert refused.error == "ConfigError" and "started with --mode async" in refused.text
    s.answer("w0", declare(gate="asp", a=(1,)), Placed)


def test_servers_declare_nothing() -> None:
    assert running().answer("s0", declare(a=(1,)), Refused).error == "LocalProtocolError"


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_done_is_announced_and_missed_by_nobody() -> None:
    s = running(lease_s=10)
    said = s.hear("w0", BYE)
    assert ("w0", Farewell()) in said
    assert {to for to, m in said if isinstance(m, Left)} == {"w1", "s0"}
    s.sleep(30, beating="w1 s0")
    assert s.core.state.phase == "running"


def test_a_repeated_goodbye_is_answered_and_announced_once() -> None:
    s = running()
    s.hear("w0", BYE)
    assert s.hear("w0", BYE) == [("w0", Farewell())]


def test_departures_count_up_the_generation_without_gaps() -> None:
    s = running(workers=3)
    start = s.told("s0", Roster)[0].generation
    for name in ("w2", "w0", "w1"):
        s.hear(name, BYE)
    assert [m.generation for m in s.told("s0", Left)] == [start + 1, start + 2, start + 3]


def test_who_missed_a_departure_gets_it_again_by_joining_again() -> None:
    s = running()
    s.hear("w0", BYE)
    assert [type(m) for _, m in s.hear("s0", join("server", "s0"))] == [Welcome, Roster, Left]


def test_when_all_workers_are_done_the_servers_are_told_to_stop() -> None:
    s = running(workers=2, servers=2)
    s.hear("w0", BYE)
    assert not s.told("s0", Stop)
    s.hear("w1", BYE)
    assert s.told("s0", Stop) and s.told("s1", Stop)


def test_a_server_that_missed_the_stop_is_told_again() -> None:
    s = running(workers=1)
    s.hear("w0", BYE)
    assert isinstance(s.hear("s0", BEAT)[0][1], Stop)
    assert s.hear("s0", join("server", "s0"))[-1] == ("s0", s.told("s0", Stop)[0])


def test_when_the_servers_have_said_goodbye_the_run_is_finished() -> None:
    s = running(workers=1)
    s.hear("w0", BYE)
    s.hear("s0", BYE)
    assert s.ended is not None and not s.ended.failed
    assert s.core.snapshot().phase == "finished"


def test_a_worker_that_gives_up_ends_the_run_with_its_reason() -> None:
    s = running()
    said = s.hear("w1", Goodbye(failed="ValueError: boom", report=None))
    assert ("w1", Farewell()) in said
    abort = Abort(culprit="worker 1 (host h, pid 101)", reason="ValueError: boom")
    assert ("w0", abort) in said and ("s0", abort) in said


def test_a_server_that_leaves_early_ends_the_run() -> None:
    s = running()
    s.hear("s0", BYE)
    assert s.told("w0", Abort)[0].culprit == "server 0 (host h, pid 200)"
    assert "before the run was complete" in s.told("w0", Abort)[0].reason


def test_a_server_that_fails_while_stopping_fails_the_run() -> None:
    s = running(workers=1)
    s.hear("w0", BYE)
    s.hear("s0", Goodbye(failed="disk", report=None))
    assert s.ended is not None and s.ended.failed and "server 0" in s.ended.text


def test_after_a_failure_every_message_is_answered_with_it() -> None:
    s = running()
    s.hear("w1", Goodbye(failed="boom", report=None))
    for message in (BEAT, Barrier(name="b", index=0), declare(a=(1,)), join("worker", "w0")):
        assert s.answer("w0", message, Abort).reason == "boom"


def test_a_failed_run_ends_when_everybody_knows() -> None:
    s = running()
    s.hear("w1", Goodbye(failed="boom", report=None))
    for name in ("w0", "s0"):
        assert s.ended is None
        s.hear(name, Goodbye(failed="told to stop", report=None))
    assert s.ended is not None and s.ended.failed
    assert s.ended.text == "worker 1 (host h, pid 101): boom"


def test_a_failed_run_ends_soon_even_if_nobody_answers() -> None:
    s = running()
    s.hear("w1", Goodbye(failed="boom", report=None))
    s.sleep(2.1)
    assert s.ended is not None


def test_an_interrupted_scheduler_tells_everybody() -> None:
    s = running()
    s.carry_out(s.core.handle(Interrupted("stopped by SIGTERM"), s.now))
    assert s.told("w0", Abort)[0] == Abort(culprit="the scheduler", reason="stopped by SIGTERM")


# --- watchers ---------------------------------------------------------------------------------------------------------


def test_a_watcher_sees_who_is_there_and_what_they_say() -> None:
    s = running()
    s.hear("w1", BEAT)
    snapshot = s.answer("eye", Watch(), Snapshot)
    assert [(n.role, n.rank, n.state) for n in snapshot.nodes] == [
        ("server", 0, "running"),
        ("worker", 0, "running"),
        ("worker", 1, "running"),
    ]
    assert snapshot.nodes[2].status == {"step": 3}


def test_a_watcher_is_sent_the_last_word_and_waited_for() -> None:
    s = running(workers=1)
    s.hear("eye", Watch())
    s.hear("w0", BYE)
    final = [m for to, m in s.hear("s0", BYE) if to == "eye"]
    assert [m.phase for m in final if isinstance(m, Snapshot)] == ["finished"] and s.ended is None
    s.hear("eye", Watch())
    assert s.ended is not None


def test_a_watcher_that_has_gone_is_not_waited_for() -> None:
    s = running(workers=1)
    s.hear("eye", Watch())
    s.sleep(6.0, beating="w0 s0")
    s.hear("w0", BYE)
    s.hear("s0", BYE)
    assert s.ended is not None


def test_a_watcher_that_dies_at_the_end_is_waited_for_shortly() -> None:
    s = running(workers=1)
    s.hear("eye", Watch())
    s.hear("w0", BYE)
    s.hear("s0", BYE)
    s.sleep(2.1)
    assert s.ended is not None


def test_the_report_of_a_goodbye_reaches_the_watcher() -> None:
    s = running(workers=1)
    s.hear("w0", BYE)
    assert s.core.snapshot().nodes[1].report == {"n": 1}


def test_the_mode_that_watchers_see_is_the_one_in_use() -> None:
    s = running()
    assert s.core.snapshot().mode == ""
    s.hear("w0", declare(gate="async", a=(1,)))
    assert s.core.snapshot().mode == "asp"


@pytest.mark.parametrize(("workers", "refused"), [(2, True), (3, False), (Count(2, more=True), False)])
def test_a_run_too_small_for_its_gate_is_refused_unless_more_may_come(workers: int | Count, refused: bool) -> None:
    with pytest.raises(ConfigError, match="but the run has 2 workers") if refused else nullcontext():
        SchedulerConfig(workers, 1, mode="backup:b=2")
