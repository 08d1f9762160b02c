"""Who has woken a poll goes before large messages that have come, but does not hold them up for good."""

from collections.abc import Iterator
from typing import Any

import pytest

from shoal.kvstore.wire.lanes import Lanes


class Socket:
    """One with nothing more to read."""

    closed = False

    def getsockopt(self, option: int) -> int:
        return 0


SMALL, LARGE = Socket(), Socket()


class TwoLanes(Lanes):
    """A lane for small and one for large messages of one peer; both have one."""

    def __init__(self) -> None:
        super().__init__("t", lambda peer: None, lambda peer, error: None)

    def come(self) -> None:
        """A message has come on each lane, if one is not there still."""
        self._ready.update({LARGE: None, SMALL: None})

    def _is_bulk(self, socket: Any) -> bool:
        return socket is LARGE

    def _read(self, socket: Any) -> Iterator[tuple[str, list[list[Any]]]]:
        yield "large" if socket is LARGE else "small", []


@pytest.fixture
def lanes() -> Iterator[TwoLanes]:
    lanes = TwoLanes()
    lanes.flush()
    yield lanes
    lanes.close(0.0)


def turn(lanes: TwoLanes, hurried: bool) -> list[str]:
    return [lane for lane, _ in lanes.handle([], lambda: hurried)]


def test_small_messages_come_first(lanes: TwoLanes) -> None:
    lanes.come()
    assert turn(lanes, hurried=False) == ["small", "large"]


def test_in_a_hurry_large_messages_wait_for_the_next_turn_which_comes_at_once(lanes: TwoLanes) -> None:
    lanes.come()
    assert turn(lanes, hurried=True) == ["small"]
    assert lanes.wait(30.0) == []  # does not sleep
    assert turn(lanes, hurried=False) == ["large"]


def test_large_messages_do_not_wait_twice_in_a_row(lanes: TwoLanes) -> None:
    turns = []
    for _ in range(4):
        lanes.come()
        turns.append(turn(lanes, hurried=True))
    assert turns == [["small"], ["small", "large"]] * 2
