"""Servers that join and are drained, as the scheduler's log has it: who has which slice is what it says."""

import pytest

from shoal.kvstore.events import Received, Send
from shoal.kvstore.wire.messages import (
    Arrived,
    Declare,
    Drain,
    Draining,
    Farewell,
    Handed,
    Heartbeat,
    Left,
    Moved,
    Placed,
    Rebalance,
    Refused,
    Roster,
    Shift,
    Stop,
    Welcome,
)
from shoal.scheduler.core import SchedulerCore
from shoal.scheduler.invariants import digest
from tests.scheduler.helpers import BYE, Scheduler, declare, join, running

MB4 = (1 << 20,)


def with_keys(servers: int = 2, gate: str = "bsp") -> Scheduler:
    s = running(2, servers)
    s.hear("w0", declare(gate=gate, a=MB4, b=MB4))
    return s


def aware(s: Scheduler, *names: str) -> None:
    for name in names:
        s.hear(name, Heartbeat(status={}, generation=s.core.state.generation))


def moves(s: Scheduler) -> tuple[Shift, ...]:
    return s.told("s0", Rebalance)[-1].moves


def hand_over(s: Scheduler) -> None:
    """Carry out what is to move."""
    for shift in list(s.core.state.plan.values()):
        source = s.core.state.nodes["server", shift.source].token
        s.hear(source, Handed(slice=shift.slice, target=shift.target))


def arrived(servers: int = 1) -> Scheduler:
    s = with_keys(servers)
    s.hear("new", join("server", "new", pid=300))
    aware(s, "w0", "w1", *(f"s{i}" for i in range(servers)))
    return s


def drain(rank: int, token: str = "op") -> Drain:
    return Drain(request=1, token=token, by="somebody", server=rank)


def owners(s: Scheduler) -> set[int]:
    return {h.server for h in s.core.state.placement.homes.values()}


def test_a_server_that_joins_a_run_gets_the_next_rank_and_everybody_hears_of_it() -> None:
    s = with_keys(1)
    said = [m for to, m in s.hear("new", join("server", "new", pid=300)) if to == "new"]
    assert isinstance(said[0], Welcome) and said[0].rank == 1
    assert isinstance(said[1], Roster) and sorted(m.rank for m in said[1].members if m.role == "server") == [0, 1]
    for name in ("w0", "w1", "s0"):
        assert s.told(name, Arrived)[0].member.rank == 1


def test_slices_move_to_it_when_everybody_has_heard_of_it() -> None:
    s = with_keys(1)
    s.hear("new", join("server", "new", pid=300))
    aware(s, "w0", "s0")
    assert not s.told("s0", Rebalance)
    aware(s, "w1")
    assert {m.target for m in moves(s)} == {1}
    hand_over(s)
    loads = s.core.state.placement.load_bytes
    assert loads[0] == loads[1]


def test_before_that_new_keys_do_not_go_there() -> None:
    s = with_keys(1)
    s.hear("new", join("server", "new", pid=300))
    placed = s.answer("w0", declare(request=2, c=(1 << 22,)), Placed)
    assert {x.server for k in placed.layouts for x in k.slices} == {0}


def test_a_move_counts_when_it_is_in_the_log_and_all_are_told() -> None:
    s = arrived()
    shift = moves(s)[0]
    s.hear("s0", Handed(slice=shift.slice, target=1))
    for name in ("w0", "w1", "s0", "new"):
        (m,) = s.told(name, Moved)
        assert (m.slice, m.server, m.epoch) == (shift.slice, 1, 2)
    s.hear("s0", Handed(slice=shift.slice, target=1))
    assert len(s.told("w0", Moved)) == 1
    again = s.answer("w0", Declare(request=9, gate="bsp", reduce="mean", keys=declare(a=MB4, b=MB4).keys), Placed)
    assert {x.server for k in again.layouts for x in k.slices if x.id == shift.slice} == {1}


@pytest.mark.parametrize("sender", ["w0", "new", "nobody"])
def test_only_the_source_can_say_that_a_slice_is_handed_over(sender: str) -> None:
    s = arrived()
    s.hear(sender, Handed(slice=moves(s)[0].slice, target=1))
    assert not s.told("w0", Moved)


def test_a_slice_that_is_not_to_move_does_not() -> None:
    s = arrived()
    stays = next(i for i in s.core.state.placement.homes if i not in s.core.state.plan)
    s.hear("s0", Handed(slice=stays, target=1))
    assert not s.told("w0", Moved)


def test_a_drained_server_is_told_to_stop_and_its_goodbye_ends_nothing() -> None:
    s = with_keys()
    left = s.answer("op", drain(0), Draining).left
    assert left == len(s.core.state.plan) > 0
    hand_over(s)
    assert owners(s) == {1}
    assert "drained" in s.told("s0", Stop)[0].reason
    s.answer("s0", BYE, Farewell)
    assert s.core.state.phase == "running"
    assert [(m.role, m.rank) for m in s.told("w0", Left)] == [("server", 0)]
    assert s.answer("op", drain(0), Draining).gone
    for name in ("w0", "w1", "s1"):
        s.hear(name, BYE)
    assert s.core.state.phase == "finished"
    assert s.core.state.nodes["server", 0].report == {"n": 1}


def test_new_keys_do_not_go_to_a_server_that_is_drained() -> None:
    s = with_keys()
    s.hear("op", drain(1))
    placed = s.answer("w0", declare(request=2, c=(1 << 22,)), Placed)
    assert {x.server for k in placed.layouts for x in k.slices} == {0}


def test_a_server_that_is_told_to_end_asks_for_it_itself_and_for_no_other() -> None:
    s = with_keys()
    assert "themselves" in s.answer("s0", Drain(request=4, server=1), Refused).text
    assert s.answer("s0", Drain(request=5, server=0), Draining).left > 0


@pytest.mark.parametrize(
    ("servers", "gate", "rank", "says"),
    [
        (1, "bsp", 0, "only server left"),
        (2, "bsp", 7, "no server 7; there are servers 0, 1"),
        (2, "backup:1", 0, "gives out the places in the rounds of store 1"),
    ],
)
def test_what_cannot_be_drained_is_refused_with_the_reason(servers: int, gate: str, rank: int, says: str) -> None:
    s = with_keys(servers, gate)
    before = digest(s.core.state)
    assert says in s.answer("op", drain(rank), Refused).text
    assert digest(s.core.state) == before


def test_the_last_of_two_that_are_drained_is_refused() -> None:
    s = with_keys()
    s.hear("op", drain(0))
    assert "only server left" in s.answer("op", drain(1), Refused).text


def test_a_server_that_has_nothing_yet_may_be_lost() -> None:
    s = arrived()
    assert s.core.state.plan
    s.sleep(20.0, beating="w0 w1 s0")
    assert s.core.state.phase == "running" and s.core.state.nodes["server", 1].state == "lost"
    assert not s.core.state.plan and owners(s) == {0}
    assert [(m.role, m.rank) for m in s.told("w0", Left)] == [("server", 1)]
    assert moves(s) == ()


def test_a_server_that_has_slices_may_not() -> None:
    s = arrived()
    hand_over(s)
    s.sleep(20.0, beating="w0 w1 s0")
    assert s.core.state.phase == "failed" and "server 1" in s.core.state.culprit


def test_a_scheduler_that_is_restarted_in_the_middle_of_a_drain_goes_on_with_it() -> None:
    s = with_keys()
    s.hear("op", drain(0))
    first = next(iter(s.core.state.plan.values()))
    s.hear("s0", Handed(slice=first.slice, target=1))
    s.core = SchedulerCore(s.core.config, past=s.core.log)
    said = [m for m in s.core.handle(Received("s0", join("server", "s0", pid=200)), 0.0) if isinstance(m, Send)]
    plans = [m.message for m in said if isinstance(m.message, Rebalance)]
    assert plans and all(first.slice not in {x.slice for x in p.moves} for p in plans)
    rosters = [m.message for m in said if isinstance(m.message, Roster)]
    assert [(x.slice, x.server, x.epoch) for x in rosters[0].seats] == [(first.slice, 1, 2)]
    hand_over(s)
    assert owners(s) == {1}


def test_a_process_that_comes_later_hears_where_slices_are_and_of_old_plans_nothing() -> None:
    s = arrived()
    hand_over(s)
    s.hear("op", drain(1))
    told = [m for to, m in s.hear("w0", join("worker", "w0", pid=100)) if to == "w0"]
    plans = [m for m in told if isinstance(m, Rebalance)]
    assert len({p.moves for p in plans}) == 1 and len(plans[0].moves) == len(s.core.state.plan)
