"""Membership over real sockets: blocking calls, callbacks, and errors that name the culprit."""

import threading
from collections.abc import Iterator
from typing import cast

import pytest

from shoal.errors import (
    JoinRefusedError,
    MembershipError,
    NodeLostError,
    ShapeError,
    StoreTimeoutError,
)
from shoal.kvstore.wire.messages import Heartbeat, KeySpec, Left, Welcome
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.client import Membership
from tests.scheduler.cluster import WAIT_S, Cluster, expects_word_within

pytestmark = pytest.mark.net

W = (KeySpec(key="w", dtype="<f4", shape=(2, 3)),)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def test_members_learn_who_they_are_and_who_else_is_there(cluster: Cluster) -> None:
    first, second, server = cluster.running(mode="async", seed=9)
    assert [m.rank for m in (first, second, server)] == [0, 1, 0]
    assert {(m.num_workers, m.num_servers, m.mode, m.seed, m.incarnation) for m in (first, second, server)} == {
        (2, 1, "asp", 9, 1)
    }
    assert first.roster == second.roster == server.roster


def test_before_joining_there_is_no_rank(cluster: Cluster) -> None:
    cluster.address = "127.0.0.1:9"
    member = cluster.member()
    with pytest.raises(MembershipError, match="has not joined"):
        _ = member.rank
    with pytest.raises(MembershipError, match="not complete"):
        _ = member.num_workers


def test_who_is_missing_is_named_when_the_wait_is_over(cluster: Cluster) -> None:
    cluster.scheduler(workers=2)
    member = cluster.member()
    with member._changed:
        assert member._changed.wait_for(lambda: member._welcome is not None, WAIT_S)
    with pytest.raises(StoreTimeoutError, match=r"worker 0 waited 0.01 s for server 0, worker 1 to join \(1 of 3"):
        member.wait_roster(0.01)


def test_a_scheduler_that_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.address = "127.0.0.1:9"
    with pytest.raises(MembershipError, match=r"no scheduler answered at 127\.0\.0\.1:9 for 0\.2 s"):
        cluster.member(join_timeout_s=0.2).wait_roster()


def test_a_scheduler_that_does_not_answer_is_told_before_it_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shoal.scheduler.member.JOIN_NOTICE_S", 0.1)
    cluster.address = "127.0.0.1:9"
    with pytest.raises(MembershipError, match="no scheduler answered"):
        cluster.member(join_timeout_s=2.0).wait_roster()
    assert len([r for r in caplog.messages if "worker: no scheduler has answered at 127.0.0.1:9" in r]) == 1


def test_a_refused_process_is_told_why(cluster: Cluster) -> None:
    cluster.running(workers=1)
    with pytest.raises(JoinRefusedError, match="all 1 workers are here"):
        cluster.member().wait_roster(WAIT_S)


def test_a_barrier_holds_until_everybody_has_come(cluster: Cluster) -> None:
    first, second, _ = cluster.running()
    waiting = cluster.call(first.barrier, "b", WAIT_S)
    with pytest.raises(StoreTimeoutError):
        second.barrier("another", 0.05)
    assert not waiting.done()
    second.barrier("b", WAIT_S)
    waiting.result(WAIT_S)


def test_a_barrier_that_takes_too_long_names_who_has_not_come(cluster: Cluster) -> None:
    first, _, _ = cluster.running()
    with pytest.raises(StoreTimeoutError, match=r"for worker 1 \(host .*, pid \d+\) at barrier 'b' \(occurrence 0\)"):
        first.barrier("b", 0.3)


def test_barriers_of_one_name_follow_each_other(cluster: Cluster) -> None:
    first, second, _ = cluster.running()
    calls = [cluster.call(lambda m: [m.barrier("b", WAIT_S) for _ in range(20)], m) for m in (first, second)]
    for call in calls:
        call.result(WAIT_S)


def test_declarations_agree_or_raise_the_named_error(cluster: Cluster) -> None:
    first, second, _ = cluster.running()
    assert first.declare("bsp", "mean", W) == second.declare("bsp", "mean", W)
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\(2, 3\)"):
        second.declare("bsp", "mean", (KeySpec(key="w", dtype="<f4", shape=(3, 2)),))
    assert second.declare("bsp", "mean", W)[0].key == "w"
    assert [(k.key, k.shape) for k in second.layouts("bsp", "mean", 1)] == [("w", (2, 3))]
    assert second.declare("bsp", "mean", ()) == ()


def test_a_departure_reaches_the_others(cluster: Cluster) -> None:
    first, second, server = cluster.running()
    seen: list[Left] = []
    left = threading.Event()
    server.on_left = lambda m: (seen.append(m), left.set())[0]
    assert second.goodbye({"n": 1}, timeout_s=WAIT_S)
    assert left.wait(WAIT_S)
    assert [(m.role, m.rank) for m in seen] == [("worker", 1)]
    first.barrier("alone", WAIT_S)


def test_the_servers_are_told_to_stop_when_the_workers_are_done(cluster: Cluster) -> None:
    only, server = cluster.running(workers=1)
    stopped = threading.Event()
    server.on_stop = stopped.set
    assert only.goodbye(None, timeout_s=WAIT_S)
    assert stopped.wait(WAIT_S)
    assert server.goodbye(None, timeout_s=WAIT_S)


def test_a_failure_ends_every_wait_at_once_and_names_the_culprit(cluster: Cluster) -> None:
    first, second, server = cluster.running()
    aborted = threading.Event()
    server.on_abort = lambda error: aborted.set()
    waiting = cluster.call(first.barrier, "b", WAIT_S)
    second.goodbye(None, failed="ValueError: boom", timeout_s=WAIT_S)
    with pytest.raises(NodeLostError, match=r"the run has failed: worker 1 \(host .*\): ValueError: boom"):
        waiting.result(WAIT_S)
    assert aborted.wait(WAIT_S) and first.aborted and first.gone
    for call in (lambda: first.barrier("c"), lambda: first.declare("bsp", "mean", W)):
        with pytest.raises(NodeLostError, match="boom"):
            call()
    assert first.wait_roster() == first.roster  # what is known stays known
    assert not first.goodbye(None)


def test_a_silent_scheduler_ends_every_wait_and_is_named(cluster: Cluster) -> None:
    first, _, _ = cluster.running(lease_s=4.0)
    cluster.loops[0].stop()
    expects_word_within(first, 0.6)
    with pytest.raises(NodeLostError, match=r"the scheduler \(127\.0\.0\.1:\d+\): silent for \d+\.\d s"):
        first.barrier("b", WAIT_S)


def test_a_goodbye_to_nobody_gives_up(cluster: Cluster) -> None:
    cluster.address = "127.0.0.1:9"
    member = cluster.member()
    assert not member.goodbye(None, timeout_s=0.0) or member.gone


class Mute:
    """A transport that reaches nobody, and counts what it is given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, to: str, message: Message) -> None:
        self.sent.append(message)

    def wake(self) -> None:
        """Nobody sleeps."""


def test_a_step_of_the_loop_costs_the_membership_a_glance_until_something_is_due_or_asked() -> None:
    transport = Mute()
    member = Membership(cast(Transport, transport), role="worker", scheduler="h:1")
    due = member.wake(0.0)
    handled = len(transport.sent)
    assert handled == 1 and 0.0 < due <= 0.5
    assert member.wake(due / 2) == due and len(transport.sent) == handled
    member.request_goodbye(None)
    member.wake(due / 2)
    assert member.gone


def test_a_new_status_and_a_message_are_seen_at_the_next_step() -> None:
    transport = Mute()
    member = Membership(cast(Transport, transport), role="worker", scheduler="h:1")
    member.wake(0.0)
    told = Welcome(
        cluster="c", rank=0, incarnation=1, lease_s=100.0, mode="", seed=0, present=("worker 0",), missing=()
    )
    member.receive("scheduler", told, 0.1)
    assert member.wake(0.1) == 0.1 + 0.5
    member.set_status({"step": 1})
    assert member.wake(0.2) == 0.1 + 0.5, "not more often than twice a second"
    member.wake(0.7)
    assert Heartbeat(status={"step": 1}) in transport.sent
