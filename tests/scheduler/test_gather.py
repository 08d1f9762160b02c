"""How a run comes together when nobody knows beforehand how many will come."""

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import Declare, Join, KeySpec, Placed, Refused, Roster, Welcome
from shoal.scheduler.core import Action, SchedulerConfig, SchedulerCore
from shoal.scheduler.gather import MAX_NODES, Count, Gathering, parse_count

AT_LEAST_ONE = Count(1, more=True)


def scheduler(
    workers: Count | int = AT_LEAST_ONE,
    servers: Count | int = 1,
    gather_timeout_s: float = 60.0,
    lease_s: float = 100.0,
) -> SchedulerCore:
    config = SchedulerConfig(workers, servers, settle_s=5.0, gather_timeout_s=gather_timeout_s, lease_s=lease_s)
    core = SchedulerCore(config)
    core.handle(Woke(), 0.0)
    return core


def join(core: SchedulerCore, role: str, now: float, name: str = "", rank: int = -1) -> list[Action]:
    name = name or f"{role}@{now}"
    message = Join(role=role, rank=rank, token=name, address="", host="h", pid=7, version="")
    actions = core.handle(Received(name, message), now)
    core.check()
    return actions


def messages(actions: list[Action], kind: type) -> list[object]:
    return [a.message for a in actions if isinstance(a, Send) and isinstance(a.message, kind)]


def refusal(actions: list[Action]) -> str:
    (refused,) = messages(actions, Refused)
    assert isinstance(refused, Refused) and refused.error == "JoinRefusedError"
    return refused.text


def test_a_run_of_at_least_one_worker_begins_when_nobody_has_joined_for_the_settling_time() -> None:
    core = scheduler()
    for now in (1.0, 2.0, 4.0):
        join(core, "worker" if now > 1 else "server", now)
    assert core.state.phase == "gathering" and core.wake_at() == 9.0
    core.handle(Woke(), 8.9)
    assert core.state.phase == "gathering"
    rosters = messages(core.handle(Woke(), 9.0), Roster)
    core.check()
    assert core.state.phase == "running" and len(rosters) == 3 and (core.state.workers, core.state.servers) == (2, 1)


def test_each_newcomer_starts_the_settling_time_anew() -> None:
    core = scheduler()
    join(core, "server", 0.0)
    for i in range(5):
        join(core, "worker", 4.0 * i)
    core.handle(Woke(), 20.9)
    assert core.state.phase == "gathering"
    core.handle(Woke(), 21.0)
    assert core.state.workers == 5


def test_newcomers_cannot_put_off_the_beginning_for_ever() -> None:
    core = scheduler(gather_timeout_s=10.0)
    join(core, "server", 0.0)
    for now in (3.0, 6.0, 9.0):
        join(core, "worker", now)
    core.handle(Woke(), 10.0)
    assert core.state.phase == "running" and core.state.workers == 3


def test_exact_numbers_wait_for_no_settling() -> None:
    core = scheduler(workers=2)
    for role in ("server", "worker", "worker"):
        join(core, role, 1.0, name=f"{role}{len(core.state.nodes)}")
    assert core.state.phase == "running"


def test_the_least_number_is_waited_for_and_missed_by_name() -> None:
    core = scheduler(workers=Count(3, more=True), gather_timeout_s=30.0)
    join(core, "server", 0.0)
    join(core, "worker", 1.0)
    assert core.missing() == ("worker 1", "worker 2")
    core.handle(Woke(), 30.0)
    assert core.state.phase == "failed" and core.state.culprit == "worker 1, worker 2"


def test_servers_may_be_counted_as_they_come_too_and_share_the_keys() -> None:
    core = scheduler(workers=1, servers=AT_LEAST_ONE)
    for now, role in enumerate(("worker", "server", "server", "server")):
        join(core, role, float(now))
    core.handle(Woke(), 8.0)
    keys = tuple(KeySpec(key=k, dtype="<f4", shape=(8,)) for k in "abc")
    placed = core.handle(Received("worker@0.0", Declare(request=1, gate="bsp", reduce="mean", keys=keys)), 9.0)
    core.check()
    (answer,) = messages(placed, Placed)
    assert isinstance(answer, Placed) and {layout.slices[0].server for layout in answer.layouts} == {0, 1, 2}


def test_who_comes_after_the_beginning_is_told_why_it_is_refused_and_what_to_do() -> None:
    core = scheduler()
    join(core, "server", 0.0)
    join(core, "worker", 0.0)
    core.handle(Woke(), 5.0)
    text = refusal(join(core, "worker", 6.0))
    assert "worker (host h, pid 7) comes too late: the run has begun, with 1 workers" in text
    assert "--settle-s" in text and "--workers 2" in text


def test_ranks_are_given_out_in_the_order_of_coming_and_may_be_asked_for() -> None:
    core = scheduler()
    join(core, "worker", 0.0, rank=2)
    assert core.missing() == ("server 0", "worker 0", "worker 1")
    got = [messages(join(core, "worker", 1.0 + i), Welcome)[-1] for i in range(2)]
    assert [m.rank for m in got if isinstance(m, Welcome)] == [0, 1] and core.missing() == ("server 0",)


def test_a_place_that_fell_silent_before_the_beginning_is_filled_by_the_next_one() -> None:
    core = scheduler(lease_s=2.0)
    join(core, "worker", 0.0)
    join(core, "worker", 1.0)
    for now in (1.8, 2.5):
        core.handle(Woke(), now)
    assert core.missing() == ("server 0", "worker 0")
    join(core, "worker", 2.6)
    assert core.missing() == ("server 0",)


def test_keys_cannot_be_declared_before_it_is_known_how_many_servers_share_them() -> None:
    core = scheduler()
    join(core, "worker", 0.0)
    refused = core.handle(Received("worker@0.0", Declare(request=1, gate="bsp", reduce="mean", keys=())), 1.0)
    assert messages(refused, Refused) and not core.state.gate


@pytest.mark.parametrize("rank", [MAX_NODES, 10**9])
def test_an_absurd_rank_is_refused(rank: int) -> None:
    assert f"ranks 0 to {MAX_NODES - 1}" in refusal(join(scheduler(), "worker", 0.0, rank=rank))


def test_one_too_many_for_an_exact_number_is_told_the_number() -> None:
    rules = Gathering({"worker": Count(1), "server": Count(1)}, settle_s=5.0)
    late = Join(role="worker", rank=-1, token="t", address="", host="h", pid=7, version="")
    core = scheduler(workers=1)
    join(core, "worker", 0.0)
    taken = {place: node.member for place, node in core.state.nodes.items()}
    text = rules.objection(late, taken, begun=False)
    assert "all 1 workers are here" in text and "--workers 2" in text
    assert rules.settle_s == 0.0


@pytest.mark.parametrize(("text", "count"), [("4", Count(4)), (" 2+ ", Count(2, True)), ("1+", Count(1, True))])
def test_a_count_is_a_number_or_a_least_number(text: str, count: Count) -> None:
    assert parse_count(text) == count and str(count) == text.strip()


@pytest.mark.parametrize("text", ["", "+", "0", "-1", "two", "2++", "1.5", str(MAX_NODES + 1)])
def test_anything_else_is_not_a_count(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 2\\+ for at least two"):
        parse_count(text)


def member(role: str, host: str, address: str) -> Join:
    return Join(role=role, rank=-1, token=f"{role}{host}", address=address, host=host, pid=7, version="")


@pytest.mark.parametrize("order", [1, -1])
def test_a_server_on_the_loopback_cannot_serve_another_machine(order: int) -> None:
    joins = [member("server", "a", "127.0.0.1:4242"), member("worker", "b", "")][::order]
    core = scheduler()
    core.handle(Received("first", joins[0]), 1.0)
    text = refusal(core.handle(Received("second", joins[1]), 2.0))
    assert "the server on a (pid 7) is reached at 127.0.0.1:4242, which means nothing to the worker on b" in text
    assert "--advertise" in text


def test_a_server_on_the_loopback_serves_its_own_machine() -> None:
    core = scheduler()
    for join_ in (member("server", "a", "127.0.0.1:4242"), member("worker", "a", "")):
        assert not messages(core.handle(Received(join_.role, join_), 1.0), Refused)
