"""The stream from a primary to its replica: order, holding, losses, fences; over a net that does its worst."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from shoal.kvstore.server.replication import AHEAD, Follower, Ordered, Outgoing, Refusal, Stream


def begun(parts: int = 0) -> Stream[Any]:
    s: Stream[Any] = Stream(parts)
    s.kept(0, 0, 0.0)
    return s


def test_an_answer_waits_until_the_replica_has_what_it_rests_on() -> None:
    s = begun()
    s.inputs.enter("a", 1, 0.0)
    assert s.holds()
    s.hold("answer")
    assert s.kept(1, 0, 0.1) == ["answer"]
    assert not s.holds()


def test_answers_go_out_in_order_and_only_as_far_as_the_replica_is() -> None:
    s = begun()
    for i in (1, 2, 3):
        s.inputs.enter(i, 1, 0.0)
        s.hold(i)
    assert s.kept(2, 0, 0.1) == [1, 2]
    assert s.kept(1, 0, 0.1) == []
    assert s.kept(3, 0, 0.1) == [3]


def test_an_acknowledgement_of_what_was_never_entered_is_not_believed() -> None:
    s = begun()
    s.inputs.enter("a", 1, 0.0)
    s.hold("answer")
    assert s.kept(7, 0, 0.1) == [] and s.lag == 1


def test_when_the_replica_is_lost_everything_goes_out() -> None:
    s = begun()
    s.inputs.enter("a", 1, 0.0)
    s.hold("answer")
    assert s.let_go() == ["answer"]
    s.inputs.enter("b", 1, 0.0)
    assert not s.holds()


def test_while_a_replica_is_filled_nothing_is_held_and_it_is_not_in_step() -> None:
    s = begun(parts=2)
    s.inputs.enter("a", 1, 0.0)
    assert not s.holds() and not s.in_step


def test_it_is_in_step_when_it_has_all_that_was_answered_without_it() -> None:
    s = begun(parts=1)
    s.images.enter("image", 1, 0.0)
    s.inputs.enter("a", 1, 0.0)
    s.kept(0, 1, 0.1)
    assert s.holding and not s.in_step
    s.inputs.enter("b", 1, 0.2)
    assert s.holds()
    s.kept(1, 1, 0.3)
    assert s.in_step


def test_what_is_not_acknowledged_is_sent_again_ever_more_rarely() -> None:
    out: Outgoing[str] = Outgoing()
    out.enter("a", 1, 0.0)
    times = [t / 10 for t in range(80) if out.again(t / 10)]
    assert times == [0.3, 0.8, 1.8, 3.8, 7.8]


def test_progress_makes_repetitions_unnecessary() -> None:
    out: Outgoing[str] = Outgoing()
    out.enter("a", 1, 0.0)
    out.enter("b", 1, 0.0)
    out.acknowledge(1, 0.9)
    assert out.again(1.0) == [] and out.again(1.9) == ["b"]


def test_the_bytes_that_wait_are_counted() -> None:
    out: Outgoing[str] = Outgoing()
    out.enter("a", 10, 0.0)
    out.enter("b", 5, 0.0)
    out.acknowledge(1, 0.0)
    assert out.nbytes == 5


def test_a_process_that_was_stopped_blames_nobody() -> None:
    out: Outgoing[str] = Outgoing()
    out.again(0.0)
    out.enter("a", 1, 0.0)
    out.again(60.0)
    assert out.silent_s(60.0) == 0.0 and out.silent_s(61.0) == 1.0


def test_what_comes_too_far_ahead_is_dropped() -> None:
    o: Ordered[int] = Ordered()
    assert o.take(AHEAD + 1, 0) == [] and o.take(1, 1) == [1]
    assert o.take(AHEAD + 1, 0) == []


def test_a_replica_follows_no_older_primary() -> None:
    f: Follower[str] = Follower()
    assert f.follow(2, 0) is True
    assert f.follow(1, 0) == Refusal(2)
    f.entered(1, 1, "old")
    f.ready = True
    assert f.next() is None


def test_a_repeated_request_to_follow_changes_nothing() -> None:
    f: Follower[str] = Follower()
    f.follow(1, 0)
    f.ready = True
    f.entered(1, 1, "a")
    assert f.follow(1, 0) is False
    assert f.next() == "a" and f.handled == 1


def test_one_that_leads_takes_nothing_any_more() -> None:
    f: Follower[str] = Follower()
    f.follow(1, 0)
    f.ready = True
    f.entered(1, 1, "a")
    f.lead(2)
    f.entered(1, 2, "b")
    assert f.next() is None and f.follow(1, 0) == Refusal(2)


def test_inputs_wait_for_the_state_that_they_change() -> None:
    f: Follower[str] = Follower()
    f.follow(3, 2)
    f.entered(3, 1, "a")
    assert f.next() is None
    assert f.image(3, 2, "second") == [] and f.image(3, 1, "first") == ["first", "second"]
    assert f.complete
    f.ready = True
    assert f.next() == "a"


class Net:
    """Both ends, and messages between them that may be lost, repeated and reordered."""

    def __init__(self, parts: int) -> None:
        self.stream: Stream[tuple[str, int]] = Stream(parts)
        self.follower: Follower[int] = Follower()
        self.follower.follow(1, parts)
        self.stream.kept(0, 0, 0.0)
        self.flying: list[tuple[str, int]] = []  # to the replica
        self.acks: list[tuple[int, int]] = []
        self.now = 0.0
        self.answered: list[int] = []  # numbers that answers rest on, as they went out
        self.state: list[int] = []
        self.begins = 0
        for i in range(1, parts + 1):
            self.stream.images.enter(("image", i), 1, 0.0)
            self.flying.append(("image", i))

    def enter(self) -> None:
        n = self.stream.inputs.entered + 1
        self.stream.inputs.enter(("input", n), 1, self.now)
        self.flying.append(("input", n))
        if self.stream.holds():
            self.stream.hold(n)
        else:
            self.answered.append(n)

    def arrive(self, index: int, *, keep: bool) -> None:
        if not self.flying:
            return
        index %= len(self.flying)
        kind, n = self.flying[index]
        if not keep:
            del self.flying[index]
        f = self.follower
        if kind == "image":
            f.image(1, n, n)
            f.ready = f.complete
        else:
            f.entered(1, n, n)
        f.ready = f.ready or f.complete
        while (item := f.next()) is not None:
            self.state.append(item)
        self.acks.append((f.handled, f.images))

    def ack(self, index: int, *, keep: bool) -> None:
        if not self.acks:
            return
        index %= len(self.acks)
        number, images = self.acks[index] if keep else self.acks.pop(index)
        self.answered += self.stream.kept(number, images, self.now)

    def wait(self) -> None:
        self.now += 1.0
        self.flying += self.stream.again(self.now)

    def check(self) -> None:
        assert self.state == list(range(1, len(self.state) + 1)), "each input once, in order"
        assert self.answered == sorted(set(self.answered)), "each answer once, in order"
        if self.stream.in_step:
            assert all(n <= len(self.state) for n in self.answered), "what was answered is at the replica"


KINDS = ["enter", "enter", "arrive", "copy", "lose", "ack", "ackcopy", "wait"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 50)), max_size=80)


@settings(max_examples=200)
@given(steps=STEPS, parts=st.sampled_from([0, 0, 3]))
def test_nothing_is_answered_before_the_replica_has_it_and_all_is_in_the_end(
    steps: list[tuple[str, int]], parts: int
) -> None:
    net = Net(parts)
    for step, index in steps:
        match step:
            case "enter":
                net.enter()
            case "arrive" | "copy":
                net.arrive(index, keep=step == "copy")
            case "lose":
                if net.flying:
                    net.flying.pop(index % len(net.flying))
            case "ack" | "ackcopy":
                net.ack(index, keep=step == "ackcopy")
            case "wait":
                net.wait()
        net.check()
    for _ in range(200):  # the net heals
        net.wait()
        while net.flying:
            net.arrive(0, keep=False)
        while net.acks:
            net.ack(0, keep=False)
        net.check()
        if net.stream.lag == 0 and net.stream.images.acked == parts:
            break
    assert net.stream.lag == 0 and net.stream.in_step and not net.stream.held
    assert len(net.answered) == net.stream.inputs.entered == len(net.state)
