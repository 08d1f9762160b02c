"""A node's side of membership, one behaviour at a time."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import (
    Abort,
    Alive,
    Attach,
    Barrier,
    BarrierWaiting,
    Declare,
    Farewell,
    Goodbye,
    Heartbeat,
    Join,
    Left,
    Placed,
    Refused,
    Released,
    Roster,
    Stop,
    Welcome,
)
from shoal.kvstore.wire.schema import Message
from shoal.scheduler.member import Action, Fail, Hush, MemberConfig, MemberCore, News, barrier_key, declare_key

ROSTER = Roster(generation=4, epoch=1, members=())
BARRIER = Barrier(name="b", index=0)


def welcome(missing: tuple[str, ...] = ("worker 1",), lease_s: float = 8.0) -> Welcome:
    return Welcome(
        cluster="c", rank=0, incarnation=1, lease_s=lease_s, mode="", seed=0, present=("worker 0",), missing=missing
    )


def lasting(term: int = 1, grace_s: float = 60.0, lease_s: float = 8.0) -> tuple[Message, Message]:
    """What a scheduler says that has a log on disk."""
    return by(replace(welcome(lease_s=lease_s), grace_s=grace_s), term), by(ROSTER, term)


def by(m: Message, term: int, cluster: str = "c") -> Any:
    """A message as the scheduler of this run and term says it."""
    return replace(m, cluster=cluster, term=term)  # type: ignore[call-arg]


def left(generation: int, rank: int = 1) -> Left:
    return Left(role="worker", rank=rank, incarnation=1, generation=generation)


class Node:
    """A member core and its clock."""

    def __init__(self, *heard: Message, join_timeout_s: float = 60.0) -> None:
        config = MemberConfig("worker", token="t", scheduler="h:1", join_timeout_s=join_timeout_s)
        self.core, self.now = MemberCore(config), 0.0
        self.wake()
        for message in heard:
            self.hear(message)

    def hear(self, message: Message) -> list[Action]:
        return self.core.handle(Received("scheduler", message), self.now)

    def wake(self) -> list[Action]:
        return self.core.handle(Woke(), self.now)

    def sleep(self, seconds: float) -> list[tuple[float, Action]]:
        """Time passes as in a loop; what is done, and when."""
        until, done, wakes = self.now + seconds, [], 0
        while self.now < until:
            wakes += 1
            assert wakes < 100 + 20 * seconds, "it wakes again and again, and does nothing"
            self.now = min(until, max(self.core.wake_at(), self.now + 1e-6))
            done += [(self.now, action) for action in self.wake()]
        return done


def sent(actions: list[Any], kind: type[Message]) -> list[Message]:
    plain = [a[1] if isinstance(a, tuple) else a for a in actions]
    return [a.message for a in plain if isinstance(a, Send) and isinstance(a.message, kind)]


# --- joining ----------------------------------------------------------------------------------------------------------


def test_a_join_is_repeated_more_and_more_slowly() -> None:
    times = [round(t, 2) for t, a in Node().sleep(6.0) if sent([a], Join)]
    assert times[:4] == [0.2, 0.5, 0.95, 1.62]
    assert times[-1] - times[-2] == 1.0


def test_a_scheduler_that_never_answers_is_named_with_its_address() -> None:
    node = Node(join_timeout_s=3.0)
    ((when, fail),) = [(t, a) for t, a in node.sleep(10.0) if isinstance(a, Fail)]
    assert when == 3.0 and fail.error == "MembershipError"
    assert "no scheduler answered at h:1 for 3 s: is it running" in fail.reason


def test_a_scheduler_that_does_not_answer_is_missed_once_long_before_it_is_given_up() -> None:
    hushes = [(t, a) for t, a in Node().sleep(50.0) if isinstance(a, Hush)]
    assert len(hushes) == 1 and 5.0 <= hushes[0][0] <= 6.0


def test_a_first_answer_that_comes_late_is_no_return() -> None:
    node = Node()
    node.sleep(10.0)
    assert not [a for a in node.hear(welcome()) if isinstance(a, Hush)]
    assert not node.core.hushed


def test_a_refused_join_fails_with_the_schedulers_text() -> None:
    (fail,) = Node().hear(Refused(seq=0, error="JoinRefusedError", text="rank 1 is taken"))
    assert isinstance(fail, Fail) and (fail.error, fail.reason) == ("JoinRefusedError", "rank 1 is taken")


def test_a_welcome_is_news_when_it_says_something_new() -> None:
    node = Node()
    assert node.hear(welcome()) == [News(welcome())]
    assert node.hear(welcome()) == []
    assert node.hear(welcome(missing=())) == [News(welcome(missing=()))]


def test_the_roster_is_news_once() -> None:
    node = Node(welcome())
    assert node.hear(ROSTER) == [News(ROSTER)]
    assert node.hear(ROSTER) == []


# --- staying ----------------------------------------------------------------------------------------------------------


def test_heartbeats_come_four_times_in_a_lease() -> None:
    node, times = Node(welcome(lease_s=8.0), ROSTER), []
    for _ in range(159):
        times += [round(t, 2) for t, a in node.sleep(0.1) if sent([a], Heartbeat)]
        node.hear(Alive(generation=4))
    assert times == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]


def test_a_heartbeat_that_is_not_answered_is_soon_repeated() -> None:
    node = Node(welcome(lease_s=8.0), ROSTER)
    assert [t for t, a in node.sleep(3.9) if sent([a], Heartbeat)] == [2.0, 2.5, 3.0, 3.5]


def test_a_changed_status_is_sent_soon_but_not_too_often() -> None:
    node = Node(welcome(), ROSTER)
    times = []
    for i in range(20):
        node.core.set_status({"step": i})
        times += [t for t, a in node.sleep(0.1) if sent([a], Heartbeat)]
    assert 3 <= len(times) <= 4 and min(b - a for a, b in pairwise(times)) >= 0.499


def test_a_silent_scheduler_is_noticed_within_the_lease() -> None:
    node = Node(welcome(lease_s=8.0), ROSTER)
    ((when, fail),) = [(t, a) for t, a in node.sleep(20.0) if isinstance(a, Fail)]
    assert when == 8.0 and fail.error == "NodeLostError"
    assert fail.culprit == "the scheduler (h:1)" and "silent for 8.0 s" in fail.reason


def test_a_scheduler_that_answers_is_not_silent() -> None:
    node = Node(welcome(lease_s=8.0), ROSTER)
    for _ in range(20):
        assert not [a for _, a in node.sleep(4.0) if isinstance(a, Fail)]
        node.hear(Alive(generation=4))


def test_the_scheduler_is_not_blamed_for_this_processs_own_pause() -> None:
    node = Node(welcome(lease_s=8.0), ROSTER)
    node.now += 3600
    assert not [a for a in node.wake() if isinstance(a, Fail)]


def test_departures_are_news_in_order_and_once() -> None:
    node = Node(welcome(), ROSTER)
    assert node.hear(left(5)) == [News(left(5))]
    assert node.hear(left(5)) == []
    assert node.hear(left(7, rank=3)) == []
    assert node.hear(left(6, rank=2)) == [News(left(6, rank=2))]


def test_who_sees_that_it_missed_something_joins_again() -> None:
    node = Node(welcome(), ROSTER)
    assert not sent(node.hear(Alive(generation=4)), Join)
    assert sent(node.hear(Alive(generation=5)), Join)


def test_a_departure_before_the_roster_is_left_for_later() -> None:
    node = Node(welcome())
    assert node.hear(left(5)) == []
    node.hear(ROSTER)
    assert node.hear(left(5)) == [News(left(5))]


def test_stop_is_news_once() -> None:
    node = Node(welcome(), ROSTER)
    assert node.hear(Stop(reason="r")) == [News(Stop(reason="r"))]
    assert node.hear(Stop(reason="r")) == []


def test_a_stop_that_overtakes_the_roster_brings_it_again() -> None:
    assert sent(Node(welcome()).hear(Stop(reason="r")), Join)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_barrier_is_repeated_until_it_opens() -> None:
    node = Node(welcome(lease_s=60.0), ROSTER)
    assert sent(node.core.ask(barrier_key("b", 0), BARRIER, node.now), Barrier)
    assert len(sent(node.sleep(3.5), Barrier)) == 3
    assert node.hear(Released(name="b", index=0)) == [News(Released(name="b", index=0))]
    assert not sent(node.sleep(3.5), Barrier)
    assert node.hear(Released(name="b", index=0)) == []


def test_who_is_missing_at_a_barrier_is_news_while_it_is_asked_for() -> None:
    waiting = BarrierWaiting(name="b", index=0, missing=("worker 1",))
    node = Node(welcome(), ROSTER)
    assert node.hear(waiting) == []
    node.core.ask(barrier_key("b", 0), BARRIER, node.now)
    assert node.hear(waiting) == [News(waiting)]


def test_a_question_that_is_forgotten_is_not_repeated() -> None:
    node = Node(welcome(lease_s=60.0), ROSTER)
    node.core.ask(barrier_key("b", 0), BARRIER, node.now)
    node.core.forget(barrier_key("b", 0))
    assert not sent(node.sleep(3.5), Barrier)


def test_questions_wait_for_the_welcome() -> None:
    node = Node()
    assert node.core.ask(barrier_key("b", 0), BARRIER, node.now) == []
    assert sent(node.hear(welcome()), Barrier)


def test_a_declaration_is_answered_by_its_number() -> None:
    node = Node(welcome(), ROSTER)
    node.core.ask(declare_key(2), Declare(request=2, gate="bsp", reduce="mean", keys=()), node.now)
    assert node.hear(Placed(request=1, layouts=())) == []
    assert node.hear(Placed(request=2, layouts=())) == [News(Placed(request=2, layouts=()))]


def test_a_refused_declaration_does_not_end_the_membership() -> None:
    node = Node(welcome(), ROSTER)
    node.core.ask(declare_key(2), Declare(request=2, gate="bsp", reduce="mean", keys=()), node.now)
    refused = Refused(seq=2, error="ShapeError", text="t")
    assert node.hear(refused) == [News(refused)]
    assert node.core.phase == "running"


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_goodbye_is_repeated_until_the_farewell() -> None:
    node = Node(welcome(), ROSTER)
    assert sent(node.core.leave("", {"n": 1}, node.now), Goodbye) == [Goodbye(failed="", report={"n": 1})]
    assert len(sent(node.sleep(1.0), Goodbye)) == 4
    assert node.hear(Farewell()) == [News(Farewell())]
    assert node.sleep(5.0) == []


def test_a_goodbye_that_nobody_answers_is_given_up() -> None:
    node = Node(welcome(), ROSTER)
    node.core.leave("", None, node.now)
    assert [round(t, 6) for t, a in node.sleep(10.0) if a == News(Farewell())] == [2.0]


def test_who_never_joined_just_goes() -> None:
    node = Node()
    assert node.core.leave("", None, node.now) == [News(Farewell())]


def test_leaving_twice_is_leaving_once() -> None:
    node = Node(welcome(), ROSTER)
    node.core.leave("", None, node.now)
    assert node.core.leave("boom", None, node.now) == []


def test_an_abort_is_acknowledged_and_is_the_last_news() -> None:
    node, abort = Node(welcome(), ROSTER), Abort(culprit="worker 1", reason="boom")
    assert node.hear(abort) == [Send("scheduler", Goodbye(failed="told to stop", report=None)), News(abort)]
    assert node.hear(abort) == [] and node.sleep(30.0) == []


def test_a_run_can_fail_before_the_welcome() -> None:
    assert News(Abort(culprit="c", reason="r")) in Node().hear(Abort(culprit="c", reason="r"))


def test_a_scheduler_that_no_longer_knows_us_ends_the_membership() -> None:
    (fail,) = Node(welcome(), ROSTER).hear(Refused(seq=0, error="JoinRefusedError", text="restarted"))
    assert isinstance(fail, Fail) and fail.reason == "restarted"


# --- a scheduler that may come back -----------------------------------------------------------------------------------


def test_everything_a_member_says_names_the_run_and_the_term_that_it_knows() -> None:
    node = Node(*lasting(term=3))
    (said,) = sent(node.core.ask(barrier_key("b", 0), BARRIER, node.now), Barrier)
    assert isinstance(said, Barrier) and (said.cluster, said.term) == ("c", 3)


def test_a_scheduler_that_may_come_back_is_missed_first_and_given_up_after_its_grace() -> None:
    node = Node(*lasting())
    done = node.sleep(70.0)
    assert [(t, a) for t, a in done if isinstance(a, Hush)] == [(4.0, Hush(4.0))]
    ((when, fail),) = [(t, a) for t, a in done if isinstance(a, Fail)]
    assert when == 60.0 and fail.error == "NodeLostError"
    assert "silent for 60.0 s, and waited for 60 s (its grace) at most" in fail.reason


def test_a_grace_that_is_shorter_than_the_lease_is_the_lease() -> None:
    node = Node(*lasting(grace_s=1.0))
    assert [t for t, a in node.sleep(20.0) if isinstance(a, Fail)] == [8.0]


def test_a_scheduler_that_is_back_is_told_who_this_is_and_what_it_has_not_answered() -> None:
    node = Node(*lasting())
    node.core.set_status({"step": 9})
    node.core.ask(barrier_key("b", 0), BARRIER, node.now)
    node.sleep(5.0)
    actions = node.hear(by(Attach(), 2))
    assert actions[0] == Hush(5.0, back=True, term=2)
    (join,) = sent(actions, Join)
    assert isinstance(join, Join)
    assert (join.rank, join.incarnation, join.generation, join.token, join.term) == (0, 1, 4, "t", 2)
    assert sent(actions, Heartbeat) == [Heartbeat(status={"step": 9}, generation=4)]
    assert sent(actions, Barrier) == [BARRIER]


def test_a_scheduler_that_calls_again_at_once_has_the_answer_under_way() -> None:
    node = Node(*lasting())
    assert sent(node.hear(by(Attach(), 2)), Join)
    assert not sent(node.hear(by(Attach(), 2)), Join)
    node.now += 0.3
    assert sent(node.hear(by(Attach(), 2)), Join)


def test_any_word_of_a_later_term_is_enough() -> None:
    node = Node(*lasting())
    assert sent(node.hear(by(Alive(generation=4), 2)), Join)


def test_a_smaller_term_is_not_listened_to_and_is_no_sign_of_life() -> None:
    node = Node(*lasting(term=2))
    assert node.hear(by(left(5), 1)) == []
    assert node.hear(by(Abort(culprit="x", reason="y"), 1)) == []
    assert node.hear(by(Refused(seq=0, error="StaleWorkerError", text="t"), 1)) == []
    node.sleep(3.9)
    node.hear(by(Alive(generation=4), 1))
    assert any(isinstance(a, Hush) for _, a in node.sleep(0.2))
    assert node.core.phase == "running"


def test_the_scheduler_of_another_run_is_not_listened_to_and_is_named_in_the_end() -> None:
    node = Node(*lasting(grace_s=10.0))
    assert node.hear(by(Refused(seq=0, error="JoinRefusedError", text="who are you"), 7, "d")) == []
    (fail,) = [a for _, a in node.sleep(20.0) if isinstance(a, Fail)]
    assert "The scheduler of another run (d) has taken its address." in fail.reason


def test_if_the_scheduler_cannot_come_back_a_strangers_refusal_is_the_end() -> None:
    node = Node(by(welcome(), 1), by(ROSTER, 1))
    assert node.hear(by(left(5), 1, "d")) == []
    (fail,) = node.hear(by(Refused(seq=0, error="JoinRefusedError", text="restarted"), 1, "d"))
    assert isinstance(fail, Fail) and fail.reason == "restarted"


def test_who_is_done_waits_with_its_goodbye_for_a_scheduler_that_may_come_back() -> None:
    node = Node(*lasting())
    node.core.leave("", {"n": 1}, node.now)
    node.sleep(30.0)
    actions = node.hear(by(Attach(), 2))
    assert [type(a.message) for a in actions if isinstance(a, Send)] == [Join, Goodbye]
    assert node.hear(by(Farewell(), 2)) == [News(Farewell())]


def test_who_gives_up_does_not_wait_for_a_scheduler_that_is_away() -> None:
    node = Node(*lasting())
    node.core.leave("boom", None, node.now)
    assert [round(t, 6) for t, a in node.sleep(70.0) if a == News(Farewell())] == [2.0]
