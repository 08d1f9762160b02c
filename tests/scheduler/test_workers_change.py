"""Workers that are replaced, leave, are given up, or come late: what the scheduler decides, and whom it tells."""

from dataclasses import replace

import pytest

from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Arrived,
    Barrier,
    BarrierWaiting,
    Goodbye,
    Heartbeat,
    Join,
    Left,
    Meet,
    Met,
    Refused,
    Released,
    Replaced,
    Roster,
    Shared,
    Stop,
    Welcome,
)
from shoal.kvstore.wire.schema import Message
from tests.scheduler.helpers import BEAT, BYE, Scheduler, join, running
from tests.scheduler.test_restart import restart

GONE = Goodbye(failed="", left="stopped by SIGTERM", report={"n": 2})


def elastic(workers: int = 2, **config: float) -> Scheduler:
    return running(workers, worker_grace_s=30.0, **config)  # type: ignore[arg-type]


def successor(rank: int = 1, name: str = "t1") -> Join:
    return replace(join("worker", name, rank, pid=300), replaces=True)


def kinds(said: list[tuple[str, Message]], to: str) -> list[type]:
    return [type(m) for name, m in said if name == to]


def servers_hear(s: Scheduler, names: str = "s0") -> list[tuple[str, Message]]:
    return [x for n in names.split() for x in s.hear(n, Heartbeat(status={}, generation=s.core.state.generation))]


def meets(s: Scheduler, name: str, number: int = 1, steps: int | None = 5, **counted: tuple[int, ...]) -> Met:
    cursor = None if steps is None else {"steps": steps}
    known = {rank[1:]: c for rank, c in counted.items()}
    return s.answer(name, Meet(number=number, cursor=cursor, counted=known), Met)


# --- another process in the place of a worker -------------------------------------------------------------------------


def test_the_new_worker_is_the_next_incarnation_of_the_rank_and_everybody_hears_of_it() -> None:
    s = elastic()
    said = s.hear("t1", successor())
    assert kinds(said, "t1") == [Welcome, Roster, Replaced]
    (welcome,) = s.told("t1", Welcome)
    assert (welcome.rank, welcome.incarnation, welcome.late) == (1, 2, False)
    assert kinds(said, "s0") == kinds(said, "w0") == [Replaced] and not kinds(said, "w1")


def test_the_worker_that_was_replaced_is_refused() -> None:
    s = elastic()
    s.hear("t1", successor())
    assert "place" in s.answer("w1", BEAT, Refused).text
    assert s.core.state.phase == "running"


def test_it_is_told_which_barriers_have_opened() -> None:
    s = elastic()
    for i in range(2):
        for w in ("w0", "w1"):
            s.hear(w, Barrier(name="init", index=i))
    s.hear("t1", successor())
    assert s.told("t1", Welcome)[0].opened == {"init": 1}
    assert s.answer("t1", Barrier(name="init", index=0), Released).index == 0


def test_what_the_dead_one_had_come_to_does_not_count() -> None:
    s = elastic()
    s.hear("w1", Barrier(name="b", index=0))
    s.hear("t1", successor())
    assert s.answer("w0", Barrier(name="b", index=0), BarrierWaiting).missing[0].startswith("worker 1")
    assert [to for to, m in s.hear("t1", Barrier(name="b", index=0)) if isinstance(m, Released)] == ["w0", "t1"]


def test_without_a_grace_nobody_takes_a_workers_place() -> None:
    s = running()
    s.answer("t1", successor(), Refused)


def test_nor_in_an_all_reduce() -> None:
    s = Scheduler(2, 0, worker_grace_s=30.0, mode="allreduce")
    for i in range(2):
        s.hear(f"w{i}", join("worker", f"w{i}"))
    s.answer("t1", successor(), Refused)


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_waited_for_as_long_as_its_grace_lasts_and_then_given_up() -> None:
    s = elastic(lease_s=4.0)
    s.sleep(30.0, beating="w0 s0")
    assert s.core.state.phase == "running" and not s.told("w0", Left)
    assert [name for name, _ in s.core.workers.notices] == ["worker is silent"]
    s.sleep(8.0, beating="w0 s0")
    (left,) = s.told("w0", Left)
    assert (left.rank, left.incarnation) == (1, 1) and s.told("s0", Left) == [left]
    assert s.core.state.phase == "running" and s.core.state.nodes["worker", 1].state == "lost"


def test_one_that_comes_back_in_time_goes_on() -> None:
    s = elastic(lease_s=4.0)
    s.sleep(20.0, beating="w0 s0")
    s.answer("w1", BEAT, Alive)
    s.sleep(20.0, beating="w0 s0 w1")
    assert [name for name, _ in s.core.workers.notices] == ["worker is silent", "worker is back"]
    assert s.core.state.nodes["worker", 1].live


def test_one_that_comes_back_too_late_is_refused() -> None:
    s = elastic(lease_s=4.0)
    s.sleep(40.0, beating="w0 s0")
    assert "given up" in s.answer("w1", BEAT, Refused).text


def test_when_all_are_silent_the_run_ends() -> None:
    s = elastic(lease_s=4.0)
    s.sleep(50.0, beating="s0")
    assert s.core.state.phase == "failed" and s.core.state.culprit.startswith("worker 0")


def test_a_silent_server_ends_the_run_at_its_lease() -> None:
    s = elastic(lease_s=4.0)
    s.sleep(6.0, beating="w0 w1")
    assert s.core.state.culprit.startswith("server 0")


def test_a_barrier_does_not_wait_for_one_that_was_given_up() -> None:
    s = elastic(lease_s=4.0)
    s.hear("w0", Barrier(name="b", index=0))
    s.sleep(40.0, beating="w0 s0")
    assert s.told("w0", Released)


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_leaves_before_it_is_done_is_waited_for_no_more() -> None:
    s = elastic()
    s.hear("w1", GONE)
    assert s.told("w0", Left) and s.core.state.nodes["worker", 1].state == "left"
    assert s.core.state.phase == "running"


def test_the_last_one_that_leaves_ends_the_run_which_is_not_finished() -> None:
    s = elastic()
    s.hear("w1", GONE)
    s.hear("w0", GONE)
    assert s.core.state.phase == "failed" and "it was the last worker" in s.core.state.reason
    assert s.told("s0", Abort)


def test_without_a_grace_a_worker_that_leaves_ends_the_run() -> None:
    s = running()
    s.hear("w1", GONE)
    assert (s.core.state.phase, s.core.state.reason) == ("failed", "stopped by SIGTERM")


def test_the_others_are_called_to_the_end_of_a_batch_and_then_share_anew() -> None:
    s = elastic(3)
    said = s.hear("w2", GONE)
    assert [m.change for to, m in said if to == "w0" and isinstance(m, Alive)] == [1]
    assert meets(s, "w0").gone == (2,)
    waits = meets(s, "w0", r2=(7, 8))
    assert waits.missing == (s.core.state.name_of(("worker", 1)),) and not waits.later
    met = meets(s, "w1", steps=6)
    assert met.missing[0].startswith("server 0"), "it counts when the servers have heard of it"
    told = servers_hear(s)
    assert [(to, m.missing) for to, m in told if isinstance(m, Met)] == [("w0", ()), ("w1", ())]
    (share,) = s.told("w0", Shared)
    assert share.ranks == (0, 1) and share.counted == {"2": (7, 8)}
    assert share.cursors == {"0": {"steps": 5}, "1": {"steps": 6}}
    assert s.answer("w0", BEAT, Alive).change == 0


def test_who_is_done_needs_no_change() -> None:
    s = elastic()
    assert not [m for _, m in s.hear("w1", BYE) if isinstance(m, Alive)]
    assert s.answer("w0", BEAT, Alive).change == 0


def test_who_waits_at_the_end_of_a_batch_goes_on_if_another_waits_for_it_at_a_barrier() -> None:
    s = elastic(3)
    s.hear("w2", GONE)
    meets(s, "w0", r2=(7, 7))
    told = s.hear("w1", Barrier(name="epoch", index=0))
    assert [(to, m.later) for to, m in told if isinstance(m, Met)] == [("w0", True)]
    s.hear("w0", Barrier(name="epoch", index=0))
    meets(s, "w0", r2=(7, 7))
    meets(s, "w1")
    assert s.core.state.shares[-1].ranks == (0, 1)


def test_a_worker_that_dies_where_it_waited_is_waited_for_again() -> None:
    s = elastic(3)
    s.hear("w2", GONE)
    meets(s, "w1", r2=(7, 7))
    s.hear("t1", successor())
    assert meets(s, "w0").missing[0].startswith("worker 1")
    meets(s, "t1", steps=4)
    assert s.core.state.shares[-1].cursors["1"] == {"steps": 4}


# --- joining ----------------------------------------------------------------------------------------------------------


def late(s: Scheduler, name: str = "n", rank: int = -1) -> Welcome:
    s.hear(name, join("worker", name, rank, pid=400))
    servers_hear(s)
    s.hear(name, join("worker", name, rank, pid=400))
    return s.told(name, Welcome)[-1]


def test_a_late_worker_is_the_next_rank_and_is_told_the_roster_when_the_servers_know_it() -> None:
    s = elastic()
    said = s.hear("n", join("worker", "n"))
    assert kinds(said, "n") == [Welcome] and kinds(said, "s0") == kinds(said, "w0") == [Arrived]
    welcome = late(s)
    assert (welcome.rank, welcome.incarnation, welcome.late) == (2, 1, True)
    assert s.told("n", Roster) and s.told("n", Arrived)


def test_a_late_worker_is_let_in_at_once_when_the_last_server_has_heard_of_it() -> None:
    s = elastic()
    s.hear("n", join("worker", "n"))
    assert not s.told("n", Roster)
    said = servers_hear(s)
    assert [kinds([x], "n") for x in said if x[0] == "n"] == [[Welcome], [Roster], [Arrived]]
    assert not [to for to, m in servers_hear(s) if isinstance(m, Roster)], "once"


def test_a_late_worker_that_leaves_before_it_is_let_in_is_told_nothing_more() -> None:
    s = elastic()
    s.hear("n", join("worker", "n"))
    s.hear("n", GONE)
    assert not [m for to, m in servers_hear(s) if to == "n" and isinstance(m, Roster)]


def test_it_takes_the_rank_of_one_that_has_gone_as_another_incarnation() -> None:
    s = elastic(3)
    s.hear("w1", GONE)
    welcome = late(s)
    assert (welcome.rank, welcome.incarnation, welcome.late) == (1, 2, True)


def test_it_cannot_have_the_rank_of_one_that_is_there() -> None:
    s = elastic()
    assert "--replaces" in s.answer("n", join("worker", "n", 0), Refused).text


def test_when_all_are_done_nobody_comes_any_more() -> None:
    s = elastic()
    s.hear("w0", BYE)
    s.hear("w1", BYE)
    assert "comes too late" in s.answer("n", join("worker", "n"), Refused).text
    s.hear("s0", BYE)
    assert s.core.state.phase == "finished"


def test_it_is_waited_for_at_no_barrier_before_it_has_entered() -> None:
    s = elastic()
    late(s)
    s.answer("n", Barrier(name="b", index=0), BarrierWaiting)
    s.hear("w0", Barrier(name="b", index=0))
    assert kinds(s.hear("w1", Barrier(name="b", index=0)), "w0") == [Released]
    s.answer("n", Barrier(name="b", index=0), Released)


def test_it_enters_when_all_have_come_to_the_end_of_a_batch() -> None:
    s = elastic()
    late(s)
    assert s.answer("w0", BEAT, Alive).change == 0, "it has not asked to enter"
    assert meets(s, "n", steps=None).missing
    assert s.answer("w0", BEAT, Alive).change == 1 and s.answer("n", BEAT, Alive).change == 0
    meets(s, "w0")
    meets(s, "w1")
    (share,) = s.told("n", Shared)
    assert share.ranks == (0, 1, 2) and share.cursors == {"0": {"steps": 5}, "1": {"steps": 5}}
    servers_hear(s)
    assert not s.core.state.nodes["worker", 2].late
    s.hear("w0", Barrier(name="c", index=0))
    assert "worker 2" in s.answer("w1", Barrier(name="c", index=0), BarrierWaiting).missing[0]


def test_one_that_dies_before_it_has_entered_keeps_nobody_waiting() -> None:
    s = elastic(lease_s=4.0)
    late(s)
    meets(s, "n", steps=None)
    meets(s, "w0")
    told = s.sleep(40.0, beating="w0 w1 s0")
    assert [(to, m.later) for to, m in told if isinstance(m, Met)] == [("w0", True)]
    assert s.answer("w0", BEAT, Alive).change == 0


def test_when_all_others_are_done_it_goes_on_alone() -> None:
    s = elastic()
    late(s)
    meets(s, "n", steps=None)
    assert [m.gone for _, m in s.hear("w0", BYE) if isinstance(m, Met)] == [(0,)]
    assert not [m for _, m in s.hear("w1", BYE) if isinstance(m, Stop)]
    assert meets(s, "n", steps=None, r0=(9, 9)).gone == (1,)
    meets(s, "n", steps=None, r0=(9, 9), r1=(9, 9))
    assert s.core.state.shares[-1].ranks == (2,)


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["replaced", "left", "given up", "late", "entered"])
def test_a_scheduler_that_is_restarted_knows_of_all_of_it(moment: str) -> None:
    s = elastic(3, lease_s=4.0, grace_s=60.0)
    match moment:
        case "replaced":
            s.hear("t1", successor())
        case "left":
            s.hear("w1", GONE)
        case "given up":
            s.sleep(40.0, beating="w0 w2 s0")
        case "late":
            late(s)
        case "entered":
            late(s)
            for name in ("n", "w0", "w1", "w2"):
                meets(s, name, steps=None if name == "n" else 1)
    news = s.core.state.news()
    assert news
    s = restart(s)
    assert s.core.state.news() == news
    s.core.check()


def test_generations_have_no_gaps() -> None:
    s = elastic(3)
    s.hear("t1", successor())
    late(s)
    s.hear("w2", GONE)
    for name in ("n", "w0", "t1"):
        meets(s, name, steps=None if name == "n" else 1, r2=(3, 3))
    assert s.core.state.roster is not None
    first = s.core.state.roster.generation
    assert [m.generation for m in s.core.state.news()] == list(range(first + 1, s.core.state.generation + 1))
