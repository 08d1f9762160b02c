"""A slot hears from its host, which may be gone, or another one: told by answers, without any actor."""

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.scheduler.ray.host import Order
from shoal.scheduler.ray.slots import RemoteProcess, Slot
from shoal.version import VERSION


class Calls:
    """Remembers what is asked; answers are given by the tests."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.fails = False

    def call(self, handle: Any, method: str, *args: Any) -> str:
        self.asked.append((method, *args))
        return method

    def get(self, reference: Any) -> Any:
        if self.fails:
            raise ConnectionError("no route")
        return {}

    def of(self, method: str) -> list[tuple[Any, ...]]:
        return [a for a in self.asked if a[0] == method]


def reply(
    boot: str = "b1",
    state: Sequence[Any] = (0, 0, None, "", "", False),
    lines: Sequence[tuple[int, str, str, str]] = (),
    **more: Any,
) -> dict[str, Any]:
    about = {"boot": boot, "node": "n1", "address": "10.0.0.7", "host": "h", "state": state, "notice": None}
    return {**about, "lines": list(lines), "version": VERSION, "trouble": "", **more}


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def slot(calls: Calls, said: list[str]) -> Slot:
    return Slot("worker 1", calls, "handle", lambda *line: said.append(line[2]), lambda: None)  # type: ignore[arg-type]


def process(slot: Slot, number: int = 1) -> RemoteProcess:
    made = RemoteProcess(slot, Order(number, "worker 1", ("worker",)), "worker 1")
    slot.start(made)
    return made


def test_a_process_waits_until_there_is_a_host(slot: Slot, calls: Calls) -> None:
    made = process(slot)
    assert not calls.of("start") and made.poll() is None and str(made) == "worker 1 (not started yet)"
    slot.take(reply())
    assert calls.of("start") == [("start", made.order)]
    slot.take(reply(state=(1, 42, None, "", "", False)))
    assert (made.pid, made.host, str(made)) == (42, "h", "worker 1 (pid 42 on 10.0.0.7)")


def test_how_a_process_ends_is_told_once_it_has(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, 3, "", "", False)))
    assert (made.poll(), made.how()) == (3, "exited with code 3")


def test_lines_are_handed_on_once(slot: Slot, said: list[str]) -> None:
    slot.take(reply(lines=[(1, "worker 1", "stdout", "a"), (2, "worker 1", "stdout", "b")]))
    slot.take(reply(lines=[(2, "worker 1", "stdout", "b"), (3, "worker 1", "stdout", "c")]))
    assert said == ["a", "b", "c"]


def test_an_actor_that_is_made_anew_has_lost_its_process(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, None, "", "", False)))
    slot.take(reply(boot="b2", address="10.0.0.8"))
    assert (made.poll(), made.how()) == (-9, "was lost: Ray began its actor anew, on 10.0.0.8")
    assert slot.free


def test_an_order_that_got_lost_with_an_actor_is_not_given_to_the_next_by_itself(slot: Slot, calls: Calls) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(boot="b2"))
    assert made.poll() == -9 and len(calls.of("start")) == 1  # the launcher decides: it may have to say --replaces


def test_a_host_that_does_not_answer_is_asked_who_it_is(slot: Slot, calls: Calls) -> None:
    slot.take(reply())
    slot.ask(0.0)
    assert calls.asked[-1][0] == "follow"
    calls.fails = True
    slot.hear()
    assert not slot.reachable
    slot.ask(0.0)
    assert calls.asked[-1][0] == "follow"  # not at once
    slot.ask(1e12)
    assert calls.asked[-1] == ("hello",)


def test_a_process_on_a_lost_machine_is_lost(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, None, "", "", False)))
    slot.give_up()
    assert (made.poll(), made.how()) == (-9, "was lost with its machine, 10.0.0.7")
    assert not slot.reachable


def test_a_worker_that_was_told_to_leave_is_not_missed_when_its_machine_goes(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, None, "", "", False)))
    slot.leaving = True
    slot.give_up()
    assert made.poll() == 0


def test_a_process_that_is_killed_before_it_began_never_does(slot: Slot, calls: Calls) -> None:
    made = process(slot)
    made.signal(signal.SIGKILL)
    slot.take(reply())
    assert made.poll() == -9 and not calls.of("start")


def test_signals_name_the_process_they_are_for(slot: Slot, calls: Calls) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, None, "", "", False)))
    made.signal(signal.SIGTERM)
    assert calls.asked[-1] == ("signal", "b1", 1, signal.SIGTERM)


def test_a_machine_on_which_nothing_can_run_says_why(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply(trouble="there is no directory /x there"))
    assert made.poll() == 1 and "there is no directory /x" in made.how() and not slot.free


def test_another_version_of_shoal_is_refused(slot: Slot) -> None:
    with pytest.raises(ConfigError, match=r"10\.0\.0\.7 has shoal 0\.0\.1, and this is"):
        slot.take(reply(version="0.0.1"))


def test_a_notice_is_kept(slot: Slot) -> None:
    slot.take(reply(notice=(30.0, "Google takes the spot VM back")))
    assert slot.notice is not None and slot.notice[1] == "Google takes the spot VM back"


def test_where_a_scheduler_listens_is_told(slot: Slot) -> None:
    made = process(slot)
    slot.take(reply())
    slot.take(reply(state=(1, 42, None, "10.0.0.7:9091", "", False)))
    assert made.ready(lambda: False) == "10.0.0.7:9091"
