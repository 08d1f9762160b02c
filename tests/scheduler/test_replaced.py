"""A server that died is replaced: the scheduler tells everybody, in order, and listens to the old one no more."""

from dataclasses import replace

import pytest

from shoal.kvstore.events import Received, Send
from shoal.kvstore.wire.messages import Alive, Member, Refused, Replaced, Roster, Stop, Welcome
from shoal.scheduler.invariants import digest
from shoal.scheduler.member import MemberConfig, MemberCore, News
from tests.scheduler.helpers import BEAT, BYE, join, running
from tests.scheduler.test_restart import lasting, restart


def successor(rank: int = 0, name: str = "t0", version: str = "1") -> object:
    return replace(join("server", name, rank, version, pid=300), replaces=True)


def test_the_new_server_is_welcomed_as_a_greater_incarnation_and_gets_the_roster() -> None:
    s = running()
    said = s.hear("t0", successor())
    mine = [m for to, m in said if to == "t0"]
    assert [type(m) for m in mine] == [Welcome, Roster, Replaced]
    assert isinstance(mine[0], Welcome) and (mine[0].rank, mine[0].incarnation) == (0, 2)


def test_every_other_member_is_told_where_it_is() -> None:
    s = running()
    s.hear("t0", successor())
    for worker in ("w0", "w1"):
        (m,) = s.told(worker, Replaced)
        assert m.member.address == "t0:1" and m.member.incarnation == 2
        assert m.generation == s.core.state.generation
    assert not s.told("s0", Replaced)


def test_a_repetition_changes_nothing() -> None:
    s = running()
    s.hear("t0", successor())
    before = digest(s.core.state)
    assert [type(m) for _, m in s.hear("t0", successor())] == [Welcome, Roster, Replaced]
    assert digest(s.core.state) == before


def test_the_server_that_was_taken_for_dead_is_refused() -> None:
    s = running()
    s.hear("t0", successor())
    assert "taken for dead" in s.answer("s0", BEAT, Refused).text


def test_a_worker_that_missed_the_news_asks_for_it() -> None:
    s = running()
    s.hear("t0", successor())
    assert s.answer("w0", BEAT, Alive).generation == s.core.state.generation
    assert [type(m) for _, m in s.hear("w0", join("worker", "w0", pid=100))] == [Welcome, Roster, Replaced]


@pytest.mark.parametrize("name", ["worker", "no snapshots", "version", "rank"])
def test_others_take_nobodys_place(name: str) -> None:
    s = running()
    m = {
        "worker": replace(join("worker", "t0", 0), replaces=True),
        "no snapshots": join("server", "t0", 0),
        "version": successor(version="2"),
        "rank": successor(rank=7),
    }.get(name)
    if m is not None:
        s.answer("t0", m, Refused)  # type: ignore[arg-type]
        assert not s.told("w0", Replaced)


def test_the_run_ends_well_with_the_new_server() -> None:
    s = running()
    s.hear("t0", successor())
    s.hear("w0", BYE)
    said = s.hear("w1", BYE)
    assert [to for to, m in said if isinstance(m, Stop)] == ["t0"]
    s.hear("t0", BYE)
    assert s.core.state.phase == "finished"


def test_the_lease_of_the_dead_server_is_over() -> None:
    s = running(lease_s=4.0)
    s.hear("t0", successor())
    s.sleep(20.0, beating="w0 w1 t0")
    assert s.core.state.phase == "running"


def test_a_scheduler_that_is_restarted_knows_of_it() -> None:
    s = lasting()
    s.hear("t0", successor())
    before = s.core.state.replacements
    s = restart(s)
    assert s.core.state.replacements == before and s.core.state.incarnations["server", 0] == 2
    s.hear("w0", replace(join("worker", "w0", pid=100), incarnation=1, generation=2))
    assert [m.member.incarnation for m in s.told("w0", Replaced)] == [2]


def test_a_member_takes_the_news_once_and_in_order() -> None:
    core = MemberCore(MemberConfig("worker", 0, "t", "", "h", 1, "1"))
    old, new = (Member(role="server", rank=0, incarnation=i, address=f"s{i}:1", host="h", pid=i) for i in (1, 2))
    welcome = Welcome(rank=0, incarnation=1, lease_s=9.0, mode="", seed=0, present=(), missing=())
    said: list[object] = []
    late, first = Replaced(generation=9, member=new), Replaced(generation=8, member=new)
    for m in (welcome, Roster(generation=7, epoch=1, members=(old,)), late, first, first, late):
        said += [a.message for a in core.handle(Received("scheduler", m), 0.0) if not isinstance(a, Send)]  # type: ignore[union-attr]
    assert [m for m in said if isinstance(m, Replaced)] == [first, late] and News(first) == News(first)
