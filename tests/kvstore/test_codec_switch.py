"""Codecs that change at a clock: each slice by itself, and nothing of what was held back is lost."""

import numpy as np
import pytest

from shoal.kvstore.codecs import Compressor, Switch
from shoal.kvstore.codecs.plan import Plan

GRAD = np.array([4.0, 3.0, 2.0, 1.0], np.float32)


def compressor(spec: str) -> Compressor:
    return Compressor(Plan.of(spec), 0)


def top(k: int = 1) -> Compressor:
    return compressor(f"topk:ratio={k / GRAD.size}")


def test_a_slice_changes_when_it_has_been_pushed_so_often() -> None:
    before, after = top(1), top(2)
    switch = Switch(before)
    switch.add(2, after, 7)
    assert [switch.at(5, c) for c in range(4)] == [before, before, after, after]
    assert switch.now(6) is before and switch.at(6, 1) is before
    assert switch.report() == {"7": [1, 2, 2]}


def test_a_clock_that_has_passed_counts_from_the_next_push_on() -> None:
    switch = Switch(None)
    assert switch.at(5, 9) is None
    switch.add(-1, top())
    assert switch.at(5, 10) is not None


def test_of_changes_that_are_due_together_the_last_counts() -> None:
    one, two = top(1), top(2)
    switch = Switch(None)
    switch.add(3, one), switch.add(0, two)
    assert [switch.at(5, c) for c in (0, 3)] == [two, one]
    assert switch.at(6, 3) is two


def test_what_was_held_back_goes_with_the_first_push_through_the_next_codec() -> None:
    before, after = top(), compressor("bf16")
    switch = Switch(before)
    switch.add(1, after)
    first = switch.at(5, 0)
    assert first is before
    sent = first.round_trip(5, GRAD)
    second = switch.at(5, 1)
    assert second is after
    sent += second.round_trip(5, GRAD) + second.round_trip(5, GRAD)
    assert sent.tolist() == (3 * GRAD).tolist()


def test_what_comes_back_late_goes_to_the_codec_that_is_there_now() -> None:
    before, after = top(), top(4)
    switch = Switch(before)
    switch.add(1, after)
    first = switch.at(5, 0)
    assert first is not None
    parts = first.encode(5, GRAD)
    switch.at(5, 1)
    first.give_back(5, parts)
    assert after.round_trip(5, np.zeros(4, np.float32)).tolist() == GRAD.tolist()


@pytest.mark.parametrize("to", ["none/bf16", None])
def test_without_compression_of_pushes_it_is_dropped(to: str | None) -> None:
    switch = Switch(top())
    switch.add(1, None if to is None else compressor(to))
    first = switch.at(5, 0)
    assert first is not None
    first.encode(5, GRAD)
    switch.at(5, 1)
    assert not any(a.any() for a in first.held().values())


def test_a_codec_that_is_set_for_all_takes_over_every_slice() -> None:
    before, after = top(), top(4)
    switch = Switch(before)
    first = switch.at(5, 0)
    assert first is not None
    first.encode(5, GRAD)
    switch.reset(after)
    assert switch.at(5, 1) is after
    assert after.round_trip(5, np.zeros(4, np.float32)).tolist() == [0.0, 3.0, 2.0, 1.0]
