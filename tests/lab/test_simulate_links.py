"""Links that are shared: what passes a pipe, and when."""

import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.lab.simulate_links import PIECES, Pipe, Processor, Way


class Clock:
    """Virtual time, as far as a pipe needs it."""

    def __init__(self) -> None:
        self.now, self._heap, self._order = 0.0, [], itertools.count()  # type: ignore[var-annotated]

    def at(self, time: float, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._heap, (time, next(self._order), act, args))

    def run(self) -> None:
        while self._heap:
            self.now, _, act, args = heapq.heappop(self._heap)
            act(*args)


def passed(
    messages: Sequence[tuple[float, str, float]], weights: Sequence[float] | None = None, burst: float = 0.0
) -> list[float]:
    """When each message (time, flow, bytes) is through."""
    clock, ends = Clock(), [-1.0] * len(messages)
    pipe = Pipe(100.0, clock.at, burst=burst)

    def enter(i: int) -> None:
        def through(time: float) -> None:
            assert ends[i] < 0 and time == clock.now, "once"
            ends[i] = time

        pipe.send(clock.now, messages[i][1], messages[i][2], through, 1.0 if weights is None else weights[i])

    for i, (time, _, _) in enumerate(messages):
        clock.at(time, enter, i)
    clock.run()
    return ends


def test_a_lone_message_takes_its_bytes() -> None:
    assert passed([(1.0, "a", 50.0)]) == [1.5]


def test_flows_share_equally() -> None:
    assert passed([(0.0, "a", 100.0), (0.0, "b", 100.0)]) == pytest.approx([2.0, 2.0])
    assert passed([(0.0, "a", 100.0), (0.0, "b", 10.0)]) == pytest.approx([1.1, 0.2])


def test_one_that_comes_later_slows_the_others_from_then_on() -> None:
    assert passed([(0.0, "a", 100.0), (0.5, "b", 50.0)]) == pytest.approx([1.5, 1.5])


def test_messages_of_one_flow_go_one_after_another() -> None:
    assert passed([(0.0, "a", 50.0), (0.0, "a", 50.0), (0.0, "b", 50.0)]) == pytest.approx([1.0, 1.5, 1.0])


def test_a_message_without_bytes_waits_for_its_flow_only() -> None:
    assert passed([(0.0, "a", 100.0), (0.0, "a", 0.0), (0.0, "b", 0.0)]) == pytest.approx([1.0, 1.0, 0.0])


def test_a_heavier_message_goes_faster() -> None:
    assert passed([(0.0, "a", 75.0), (0.0, "b", 25.0)], weights=[3.0, 1.0]) == pytest.approx([1.0, 1.0])


MESSAGES = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.sampled_from("abc"), st.floats(0.0, 300.0)), min_size=1, max_size=12
)


@given(MESSAGES)
@settings(max_examples=60)
def test_nothing_is_faster_than_the_pipe_and_nothing_waits_while_it_is_idle(
    messages: list[tuple[float, str, float]],
) -> None:
    ends = passed(messages)
    busy = 0.0  # until when a pipe is busy that takes one after another: the same work
    for time, _, size in sorted(messages):
        busy = max(busy, time) + size / 100.0
    assert max(ends) == pytest.approx(max(busy, max(m[0] for m in messages)))
    for (time, _, size), end in zip(messages, ends, strict=True):
        assert end >= time + size / 100.0 - 1e-6
    for flow in "abc":
        mine = sorted((m[0], i) for i, m in enumerate(messages) if m[1] == flow)
        order = [ends[i] for _, i in mine]
        assert order == sorted(order)


def test_a_processor_does_one_thing_after_another() -> None:
    cpu = Processor()
    assert [cpu.take(0.0, 1.0), cpu.take(0.5, 1.0), cpu.take(5.0, 1.0)] == [1.0, 2.0, 6.0]


def test_two_directions_that_hinder_each_other_are_slower_while_both_carry() -> None:
    clock, ends = Clock(), dict[str, float]()
    there, back = Pipe(100.0, clock.at, duplex=0.5), Pipe(100.0, clock.at, duplex=0.5)
    there.twin, back.twin = back, there
    there.send(0.0, "a", 100.0, partial(ends.__setitem__, "there"))
    back.send(0.0, "a", 50.0, partial(ends.__setitem__, "back"))
    clock.run()
    assert ends == pytest.approx({"back": 1.0, "there": 1.5})


def test_a_token_bucket_lets_through_at_once_what_it_has_saved_and_fills_again_while_nothing_passes() -> None:
    messages = [(0.0, "a", 150.0), (1.1, "a", 60.0), (1.1, "b", 10.0), (10.0, "a", 40.0), (10.0, "b", 20.0)]
    assert passed(messages, burst=50.0) == pytest.approx([1.0, 1.7, 1.3, 10.0, 10.1])


# --- from one process to another --------------------------------------------------------------------------------------


def ways(messages: Sequence[tuple[float, str, str, float]], piece: float | None) -> list[float]:
    """When each message (time, from, to, bytes) is through; every process has links of 100 bytes a second."""
    clock, ends = Clock(), [-1.0] * len(messages)
    pipes: dict[tuple[str, str], Pipe] = {}
    links: dict[tuple[str, str], Way] = {}
    for _, source, to, _ in messages:
        both = [pipes.setdefault(end, Pipe(100.0, clock.at)) for end in (("out", source), ("into", to))]
        links.setdefault((source, to), Way(both, piece))
    for i, (time, source, to, size) in enumerate(messages):
        clock.at(time, lambda i=i, w=links[source, to], n=size: w.send(clock.now, n, partial(ends.__setitem__, i)))
    clock.run()
    return ends


def test_a_message_passes_both_links_at_the_same_time_or_piece_after_piece() -> None:
    assert ways([(0.0, "a", "x", 100.0)], None) == [1.0]
    assert ways([(0.0, "a", "x", 100.0)], 10.0) == pytest.approx([1.1])
    assert ways([(0.0, "a", "x", 100.0)], 0.1) == pytest.approx([1.0 + 1.0 / PIECES])


def test_messages_between_two_processes_stay_in_order_the_empty_ones_too() -> None:
    ends = ways([(0.0, "a", "x", 100.0), (0.0, "a", "x", 0.0), (0.1, "a", "x", 50.0)], 10.0)
    assert ends == pytest.approx([1.1, 1.1, 1.6])


def test_what_is_held_up_at_one_end_leaves_the_other_end_to_the_others() -> None:
    """x's link is shared by three; a's message to y does not wait for a's part of it, but for a few pieces."""
    crowd = [(0.0, "b", "x", 1000.0), (0.0, "c", "x", 1000.0), (0.0, "a", "x", 1000.0), (0.0, "a", "y", 600.0)]
    coupled, alone = ways(crowd, 62.5), ways(crowd, None)
    assert alone[3] == pytest.approx(12.0)  # half of a's link, though its other half is not used
    assert 9.0 < coupled[3] < 10.5  # two thirds


def test_links_that_wait_for_one_another_take_longer_than_their_bytes() -> None:
    """While x's link is shared, b's is half idle, and what it did not carry then is missing later."""
    late = [(0.0, "a", "x", 500.0), (0.0, "a", "y", 500.0), (0.0, "b", "x", 500.0), (2.0, "b", "y", 500.0)]
    assert max(ways(late, None)) == pytest.approx(10.0)
    assert 10.8 < max(ways(late, 31.25)) < 12.0


def test_a_way_without_limits_takes_no_time() -> None:
    ends: list[float] = []
    Way([], 10.0).send(3.0, 1e9, ends.append)
    assert ends == [3.0]
