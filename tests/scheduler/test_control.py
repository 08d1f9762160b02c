"""Changes of settings in the scheduler's log: who asks, who is told, who is refused."""

from typing import Any

import pytest

from shoal.kvstore.events import Send
from shoal.kvstore.wire.messages import (
    Alive,
    Change,
    Changed,
    Control,
    Controlled,
    Heartbeat,
    Noted,
    Refused,
    Roster,
    Settle,
)
from shoal.scheduler.member import News
from tests.scheduler.helpers import BYE, Scheduler, declare, join, running
from tests.scheduler.test_member import ROSTER, Node, welcome


def control(request: int = 1, at_clock: int = 5, token: str = "", store: int = 1, **settings: Any) -> Control:
    return Control(request=request, token=token, by="me", store=store, settings=settings, at_clock=at_clock)


def change(number: int = 1, **settings: Any) -> Change:
    return Change(number=number, store=1, settings=settings, at_clock=5, by="x")


def declared(workers: int = 2, servers: int = 1) -> Scheduler:
    s = running(workers, servers)
    s.hear("w0", declare(a=(2,)))
    return s


def heard(s: Scheduler, name: str) -> list[Any]:
    """A node says that it has heard of everything."""
    return s.hear(name, Heartbeat(status={}, generation=s.core.state.generation))


def test_a_change_is_numbered_and_told_to_everybody() -> None:
    s = declared()
    said = s.hear("w1", control(lr=0.1))
    assert sorted(to for to, m in said if isinstance(m, Changed)) == ["s0", "w0", "w1"]
    (first,) = {m.change.number for _, m in said if isinstance(m, Changed)}
    assert first == 1 and s.core.state.changes[0].change.by == "worker 1 (host h, pid 101)"


def test_the_asker_is_answered_when_everybody_has_heard() -> None:
    s = declared()
    s.hear("w1", control(lr=0.1))
    assert not heard(s, "w0")[1:] and not heard(s, "s0")[1:]
    assert [m.missing for to, m in heard(s, "w1") if isinstance(m, Controlled) and to == "w1"] == [()]


def test_nobody_waits_for_a_worker_that_has_left() -> None:
    s = declared()
    s.hear("w1", control(lr=0.1))
    heard(s, "s0"), heard(s, "w1")
    assert [to for to, m in s.hear("w0", BYE) if isinstance(m, Controlled)] == ["w1"]


def test_a_repeated_request_is_one_change_and_tells_those_again_who_have_not_heard() -> None:
    s = declared()
    s.hear("w1", control(lr=0.1))
    heard(s, "w1")
    said = s.hear("w1", control(lr=0.1))
    assert len(s.core.state.changes) == 1
    assert sorted(to for to, m in said if isinstance(m, Changed)) == ["s0", "w0"]


def test_the_same_call_of_every_worker_is_one_change() -> None:
    s = declared()
    for name in ("w0", "w1"):
        s.hear(name, control(lr=0.1))
    assert len(s.core.state.changes) == 1
    for name in ("w1", "w0"):
        s.hear(name, control(2, lr=0.1))
    assert len(s.core.state.changes) == 2


def test_another_clock_or_value_is_another_change() -> None:
    s = declared()
    s.hear("w0", control(lr=0.1)), s.hear("w1", control(lr=0.2)), s.hear("w1", control(2, at_clock=6, lr=0.1))
    assert [c.change.settings["lr"] for c in s.core.state.changes] == [0.1, 0.2, 0.1]


def test_an_operator_is_no_member_and_is_named() -> None:
    s = declared()
    said = s.hear("o", control(token="t", lr=0.1))
    assert [m.change.by for to, m in said if to == "w0" and isinstance(m, Changed)] == ["me"]
    for name in ("w0", "w1", "s0"):
        answers = heard(s, name)
    assert ("o", Controlled(request=1, change=s.core.state.changes[0].change, missing=())) in answers


def test_an_operators_change_is_never_taken_for_a_workers() -> None:
    s = declared()
    s.hear("o", control(token="t", lr=0.1)), s.hear("w0", control(lr=0.1))
    assert len(s.core.state.changes) == 2


def test_a_change_before_the_run_begins_is_refused() -> None:
    assert "the run is gathering" in Scheduler().answer("o", control(token="t", lr=1), Refused).text


@pytest.mark.parametrize(
    ("ask", "says"), [(control(store=3, lr=1), "store 3; known: 1"), (control(at_clock=-2, lr=1), "clocks are counted")]
)
def test_a_change_of_what_is_not_there_is_refused(ask: Control, says: str) -> None:
    s = declared()
    assert says in s.answer("w0", ask, Refused).text
    assert not s.core.state.changes


def test_the_check_is_given_the_gate_and_the_present_optimizer() -> None:
    s, seen = declared(), []
    s.core._controls._check = lambda *given: (seen.append(given), (given[0], ""))[1]
    s.hear("w0", control(lr=1))
    settle = Settle(request=2, store=1, optimizer="sgd", params={"momentum": 0.9}, gradients=False)
    assert s.answer("w0", settle, Noted).request == 2
    s.hear("w0", control(3, momentum=0.5)), s.hear("w0", control(4, wd=0.1))
    assert [g[1:] for g in seen] == [
        ("bsp", None, True),
        ("bsp", ("sgd", {"momentum": 0.9}), False),
        ("bsp", ("sgd", {"momentum": 0.5}), False),
    ]


def test_who_joins_again_is_told_departures_and_changes_in_order() -> None:
    s = declared(workers=3)
    s.hear("w0", control(lr=0.1)), s.hear("w2", BYE), s.hear("w0", control(2, lr=0.2))
    news = [m for to, m in s.hear("w1", join("worker", "w1")) if to == "w1"]
    generations = [m.generation for m in news if hasattr(m, "generation")]
    assert generations == sorted(generations) and len(generations) == 4


def test_changes_are_in_the_snapshot() -> None:
    s = declared()
    s.hear("w0", control(lr=0.1))
    assert [c.settings for c in s.core.snapshot().changes] == [{"lr": 0.1}]


# --- a member's side --------------------------------------------------------------------------------------------------


def test_a_member_takes_a_change_once_and_says_so_at_once() -> None:
    node, changed = Node(welcome(), ROSTER), Changed(generation=5, change=change(lr=1))
    assert node.hear(changed) == [News(changed), Send("scheduler", Heartbeat(status={}, generation=5))]
    assert node.hear(changed) == [Send("scheduler", Heartbeat(status={}, generation=5))]


def test_a_member_that_has_missed_something_asks_for_it() -> None:
    node = Node(welcome(), ROSTER)
    (ask,) = node.hear(Changed(generation=6, change=change(lr=1)))
    assert isinstance(ask, Send) and type(ask.message).__name__ == "Join"
    (ask,) = node.hear(Alive(generation=6))
    assert isinstance(ask, Send) and type(ask.message).__name__ == "Join"


def test_a_change_that_overtakes_the_roster_is_asked_for_again() -> None:
    node = Node(welcome())
    (ask,) = node.hear(Changed(generation=5, change=change(lr=1)))
    assert isinstance(ask, Send) and type(ask.message).__name__ == "Join"
    assert node.hear(Roster(generation=4, epoch=1, members=()))
