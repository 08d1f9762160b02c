"""A thread that may spin looks again before it sleeps, as long as that is worth it."""

from collections.abc import Iterator

import pytest

from shoal.kvstore.wire.lanes import CROWDED_S, CROWDED_WAITS, SPIN_S, Lanes


class Poller:
    """Says what it is told to say, and takes down how long it was allowed to sleep."""

    def __init__(self, *answers: list[tuple[int, int]]) -> None:
        self.answers, self.asked = list(answers), []

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        self.asked.append(timeout_s)
        return self.answers.pop(0) if self.answers else []

    def close(self) -> None: ...


NEWS = [(7, 1)]


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes("t", lambda peer: None, lambda peer, error: None)
    real, lanes._poller = lanes._poller, Poller()
    yield lanes
    lanes._poller = real
    lanes.close(0.0)


def test_the_first_wait_sleeps(lanes: Lanes) -> None:
    lanes._poller = Poller(NEWS)
    assert lanes.wait(1.0, spins=True) == NEWS
    assert lanes._poller.asked == [1.0]


def test_after_a_brief_sleep_it_looks_without_sleeping(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.kvstore.wire.lanes.time.perf_counter", lambda: 0.0)
    lanes._poller = Poller(NEWS, [], [], NEWS)
    lanes.wait(1.0, spins=True)
    assert lanes.wait(1.0, spins=True) == NEWS
    assert set(lanes._poller.asked[1:]) == {0.0}


def test_it_sleeps_when_spinning_brings_nothing(lanes: Lanes) -> None:
    lanes._brief = True
    assert lanes.wait(3 * SPIN_S, spins=True) == []
    assert lanes._poller.asked[-1] == 3 * SPIN_S
    assert len(lanes._poller.asked) > 1


def test_a_long_sleep_ends_the_spinning(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 2 * SPIN_S, 3 * SPIN_S, 9 * SPIN_S])
    monkeypatch.setattr("shoal.kvstore.wire.lanes.time.perf_counter", lambda: next(times))
    lanes._brief = True
    lanes.wait(1.0, spins=True)
    assert not lanes._brief


def test_who_may_not_spin_never_does(lanes: Lanes) -> None:
    lanes._brief = True
    lanes.wait(1.0)
    assert lanes._poller.asked == [1.0]


def test_a_wait_that_must_not_last_looks_once(lanes: Lanes) -> None:
    lanes._brief = True
    lanes.wait(0.0, spins=True)
    assert lanes._poller.asked == [0.0]


def test_where_others_want_the_processor_it_sleeps_for_a_while(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("shoal.kvstore.wire.lanes.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("shoal.kvstore.wire.lanes.os.sched_yield", lambda: now.__setitem__(0, now[0] + 2 * CROWDED_S))
    lanes._brief = True
    for _ in range(CROWDED_WAITS + 1):
        lanes.wait(1.0, spins=True)
    assert lanes._poller.asked == [0.0, *[1.0] * (CROWDED_WAITS + 1)]
    lanes.wait(1.0, spins=True)
    assert lanes._poller.asked[-2:] == [0.0, 1.0]
