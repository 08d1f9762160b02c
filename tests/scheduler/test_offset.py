"""How far a clock is from the scheduler's: from round trips, with an error that is kept."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.kvstore.wire.messages import Alive, Heartbeat
from shoal.scheduler.offset import DRIFT, Offset
from tests.scheduler.helpers import BEAT
from tests.scheduler.test_core import running
from tests.scheduler.test_member import ROSTER, Node, welcome


def test_the_middle_of_a_round_trip_is_the_guess_and_half_of_it_the_error() -> None:
    offset = Offset()
    offset.hear(sent=10.0, clock=110.2, now=10.4)
    assert abs(offset.value_s - 100.0) < 1e-9 and abs(offset.error_s - 0.2) < 1e-9


def test_the_shortest_round_trip_counts_until_clocks_may_have_drifted() -> None:
    offset = Offset()
    offset.hear(1.0, 101.001, 1.002)
    offset.hear(2.0, 102.4, 2.5)
    assert abs(offset.error_s - 0.001) < 1e-9 and offset.trips == 2
    much_later = 2.0 + 0.3 / DRIFT
    offset.hear(much_later, much_later + 100.2, much_later + 0.5)
    assert offset.error_s == 0.25


def test_a_scheduler_that_was_restarted_may_have_another_clock() -> None:
    offset = Offset()
    offset.hear(1.0, 101.0005, 1.001, term=1)
    offset.hear(2.0, 7.5, 3.0, term=2)
    assert abs(offset.value_s - 5.0) < 1e-9 and offset.error_s == 0.5


@given(st.floats(), st.floats(), st.floats())
def test_no_answer_can_break_it(sent: float, clock: float, now: float) -> None:
    offset = Offset()
    offset.hear(sent, clock, now)
    assert offset.trips == 0 or (offset.error_s >= 0 and offset.value_s == offset.value_s)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=20), st.floats(-1e3, 1e6))
def test_the_true_offset_is_within_the_error(trips: list[tuple[float, float]], true: float) -> None:
    offset, now = Offset(), 2000.0
    for out, back in trips:
        offset.hear(now, now + out + true, now + out + back)
        now += 1.0
    assert abs(offset.value_s - true) <= offset.error_s + 1e-6


def test_the_scheduler_answers_a_heartbeat_with_its_clock() -> None:
    s = running()
    s.now += 3.0
    answer = s.answer("w0", Heartbeat(status={}, generation=BEAT.generation, sent=77.0), Alive)
    assert answer.sent == 77.0 and answer.clock == s.now


def test_a_member_learns_its_offset_from_the_answer() -> None:
    node = Node(welcome(()), ROSTER)
    node.sleep(3.0)
    node.hear(Alive(generation=4, sent=node.now - 0.2, clock=node.now + 50.0))
    assert abs(node.core.offset.value_s - 50.1) < 1e-6 and abs(node.core.offset.error_s - 0.1) < 1e-6
