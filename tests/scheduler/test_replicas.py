"""Replicas of servers: who takes whose place, who is given up, and who hears of it."""

from dataclasses import replace

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Farewell, Goodbye, InStep, Left, Lost, Noted, Refused, Replaced, Roster, Stop
from shoal.scheduler.config import SchedulerConfig
from shoal.scheduler.gather import Count
from shoal.scheduler.invariants import digest
from tests.scheduler.helpers import BEAT, BYE, Scheduler, join
from tests.scheduler.test_restart import restart


def with_replicas(servers: int = 1, **config: object) -> Scheduler:
    """A run of two workers, whose servers s0, ... have the replicas r0, ..."""
    s = Scheduler(2, servers, replicas=1, **config)
    for i in range(servers):
        s.hear(f"s{i}", join("server", f"s{i}", i, pid=200 + i))
        s.hear(f"r{i}", join("replica", f"r{i}", i, pid=300 + i))
    for i in range(2):
        s.hear(f"w{i}", join("worker", f"w{i}", pid=100 + i))
    assert s.core.state.phase == "running"
    return s


def dead(role: str, rank: int = 0, pid: int = 200, request: int = 0) -> Lost:
    return Lost(request=request, role=role, rank=rank, pid=pid, host="h", reason="was killed by SIGKILL")


def test_a_run_begins_when_the_replicas_are_there() -> None:
    s = Scheduler(1, 1, replicas=1)
    s.hear("s0", join("server", "s0"))
    s.hear("w0", join("worker", "w0"))
    assert s.core.missing() == ("replica 0",)
    s.hear("r0", join("replica", "r0"))
    (roster,) = s.told("s0", Roster)
    assert [(m.role, m.rank) for m in roster.members] == [("replica", 0), ("server", 0), ("worker", 0)]


def test_the_replica_takes_the_place_of_a_server_that_was_killed() -> None:
    s = with_replicas()
    s.hear("launcher", dead("server"))
    for name in ("w0", "w1", "r0"):
        (m,) = s.told(name, Replaced)
        assert (m.member.role, m.member.incarnation, m.member.address) == ("server", 2, "r0:1")
    assert s.core.state.phase == "running" and ("replica", 0) not in s.core.state.nodes


def test_only_the_shard_that_was_hit_fails_over() -> None:
    s = with_replicas(2)
    s.hear("launcher", dead("server", 1, 201))
    assert [m.member.rank for m in s.told("w0", Replaced)] == [1]


def test_a_second_word_about_the_same_process_changes_nothing() -> None:
    s = with_replicas()
    s.hear("launcher", dead("server"))
    before = digest(s.core.state)
    s.hear("launcher", dead("server"))
    assert digest(s.core.state) == before


def test_the_old_primary_is_refused_from_then_on() -> None:
    s = with_replicas()
    s.hear("launcher", dead("server"))
    assert s.answer("s0", BEAT, Refused).error == "StaleWorkerError"


def test_a_server_that_falls_silent_is_succeeded_after_its_lease() -> None:
    s = with_replicas(lease_s=4.0)
    s.sleep(6.0, beating="w0 w1 r0")
    assert [m.member.incarnation for m in s.told("w0", Replaced)] == [2]
    s.sleep(20.0, beating="w0 w1 r0")
    assert s.core.state.phase == "running"


def test_if_both_fall_silent_the_run_ends_and_names_the_server() -> None:
    s = with_replicas(lease_s=4.0)
    s.sleep(6.0, beating="w0 w1")
    assert s.core.state.phase == "failed" and "server 0" in s.core.state.culprit


def test_a_replica_that_is_lost_is_given_up_and_the_server_told() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    (left,) = s.told("s0", Left)
    assert (left.role, left.rank, left.incarnation) == ("replica", 0, 1)
    assert s.core.state.phase == "running"


def test_a_silent_replica_ends_nothing() -> None:
    s = with_replicas(lease_s=4.0)
    s.sleep(6.0, beating="w0 w1 s0")
    assert s.told("s0", Left) and s.core.state.phase == "running"
    assert s.answer("r0", BEAT, Refused).error == "StaleWorkerError"


def test_a_server_may_give_up_a_replica_that_does_not_answer_it() -> None:
    s = with_replicas()
    said = s.hear("s0", dead("replica", pid=300, request=4))
    assert ("s0", Noted(request=4)) in said and s.told("s0", Left)


def test_a_replica_that_fails_says_so_and_ends_nothing() -> None:
    s = with_replicas()
    s.answer("r0", Goodbye(failed="it is wrong", report=None), Farewell)
    assert s.told("s0", Left) and s.core.state.phase == "running"


def test_a_server_without_a_replica_is_not_succeeded() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    s.hear("launcher", dead("server"))
    assert not s.told("w0", Replaced)


def test_a_new_replica_joins_a_run_that_goes_on_and_everybody_hears_of_it() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    s.hear("n0", join("replica", "n0", pid=301))
    (m,) = s.told("s0", Replaced)
    assert (m.member.role, m.member.rank, m.member.incarnation) == ("replica", 0, 2)


def test_it_takes_no_place_before_it_has_everything() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    s.hear("n0", join("replica", "n0", 0, pid=301))
    s.hear("launcher", dead("server"))
    assert [m.member.role for m in s.told("w0", Replaced)] == ["replica"]
    s.answer("s0", InStep(request=1, incarnation=2), Noted)
    s.hear("launcher", dead("server"))
    assert [m.member.role for m in s.told("w0", Replaced)] == ["replica", "server"]


def test_an_old_word_about_an_earlier_replica_is_not_believed() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    s.hear("n0", join("replica", "n0", 0, pid=301))
    s.answer("s0", InStep(request=1, incarnation=1), Noted)
    assert not s.core.state.covered


def test_the_new_primary_gets_a_replica_and_may_be_succeeded_again() -> None:
    s = with_replicas()
    s.hear("launcher", dead("server"))
    s.hear("n0", join("replica", "n0", 0, pid=301))
    s.answer("r0", InStep(request=1, incarnation=2), Noted)
    s.hear("launcher", dead("server", pid=300))
    assert [(m.member.role, m.member.incarnation) for m in s.told("w0", Replaced)] == [
        ("server", 2),
        ("replica", 2),
        ("server", 3),
    ]


def test_a_server_that_comes_back_from_a_snapshot_is_not_what_its_replica_has() -> None:
    s = with_replicas()
    s.hear("t0", replace(join("server", "t0", 0, pid=201), replaces=True))
    assert not s.core.state.covered


def test_a_second_replica_is_refused() -> None:
    s = with_replicas()
    assert "one replica" in s.answer("n0", join("replica", "n0", 0), Refused).text


def test_a_replica_of_a_server_that_is_not_there_is_refused() -> None:
    s = with_replicas()
    assert "server 7" in s.answer("n0", join("replica", "n0", 7), Refused).text


def test_when_the_workers_are_done_replicas_are_told_to_stop_and_waited_for() -> None:
    s = with_replicas()
    for name in ("w0", "w1"):
        s.hear(name, BYE)
    assert s.told("r0", Stop) and s.told("s0", Stop)
    s.hear("s0", BYE)
    assert s.core.state.phase == "running"
    s.hear("r0", BYE)
    assert s.core.state.phase == "finished"


def test_a_snapshot_says_that_a_replica_is_being_filled() -> None:
    s = with_replicas()
    s.hear("launcher", dead("replica", pid=300))
    s.hear("n0", join("replica", "n0", 0, pid=301))
    states = {n.role: n.state for n in s.core.snapshot().nodes}
    assert states["replica"] == "filling" and states["server"] == "running"


def test_a_scheduler_that_is_restarted_knows_who_leads() -> None:
    s = with_replicas(grace_s=60.0)
    s.hear("launcher", dead("server"))
    before = digest(s.core.state)[2:]
    s = restart(s)
    assert s.core.state.nodes["server", 0].token == "r0" and digest(s.core.state)[2:] == before


@pytest.mark.parametrize(("replicas", "servers"), [(2, 1), (-1, 1), (1, 0), (1, Count(1, True))])
def test_what_cannot_be_replicated_is_refused_with_the_reason(replicas: int, servers: int | Count) -> None:
    with pytest.raises(ConfigError, match="replica"):
        SchedulerConfig(2, servers, replicas=replicas)


def test_a_replica_that_comes_when_the_run_is_over_is_refused() -> None:
    s = with_replicas()
    s.hear("launcher", dead("server"))
    for name in ("w0", "w1", "r0"):
        s.hear(name, BYE)
    assert s.core.state.phase == "finished"
    s.answer("n0", join("replica", "n0", 0, pid=301), Refused)


def test_a_server_that_is_told_to_end_is_succeeded() -> None:
    s = with_replicas()
    s.answer("s0", Goodbye(failed="stopped by SIGTERM", report=None), Farewell)
    assert [m.member.address for m in s.told("w0", Replaced)] == ["r0:1"]
    assert s.core.state.phase == "running"
