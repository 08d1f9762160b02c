"""A scheduler that dies goes on where it was: what its log must bring back, and who rules."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.errors import ConfigError
from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.messages import (
    Alive,
    Attach,
    Barrier,
    BarrierWaiting,
    Control,
    Controlled,
    Declare,
    Farewell,
    FromScheduler,
    Goodbye,
    Heartbeat,
    Join,
    KeySpec,
    Placed,
    Refused,
    Released,
    Snapshot,
    ToScheduler,
    Watch,
    Welcome,
)
from shoal.kvstore.wire.schema import Message
from shoal.scheduler.core import ATTACH_S, LINGER_S, Ended, SchedulerCore
from shoal.scheduler.invariants import digest
from shoal.scheduler.log import Opened, Record, Ruled
from shoal.scheduler.records import read_log, write_line
from tests.scheduler.helpers import BEAT, BYE, Scheduler, declare, join, running


def restart(s: Scheduler, **changed: Any) -> Scheduler:
    """The scheduler dies; another one goes on with what it had written."""
    config = replace(s.core.config, **changed)
    data = write_line(0, s.core.log)
    s.core, s.said = SchedulerCore(config, past=read_log(data, "log").records), []
    s.carry_out(s.core.handle(Woke(), s.now))
    return s


def named(m: ToScheduler, term: int = 1, cluster: str = "local") -> Any:
    return replace(m, cluster=cluster, term=term)


def lasting(workers: int = 2, servers: int = 1, **config: Any) -> Scheduler:
    return running(workers, servers, grace_s=60.0, **config)


# --- who rules --------------------------------------------------------------------------------------------------------


def test_each_start_is_a_greater_term_and_everything_said_names_it() -> None:
    s = lasting()
    for term in (1, 2, 3):
        answer = s.answer("w0", named(BEAT, term), Alive)
        assert (answer.cluster, answer.term) == ("local", term)
        restart(s)
    assert [r.term for r in s.core.log if isinstance(r, Ruled)] == [1, 2, 3, 4]


def test_a_scheduler_that_hears_of_a_later_one_steps_down_and_decides_nothing_more() -> None:
    s = lasting()
    before = list(s.core.log)
    assert s.hear("w0", named(BYE, term=2)) == []
    assert s.ended is not None and s.ended.failed
    assert "a later scheduler (term 2) rules run local; this one (term 1) steps down" in s.ended.text
    assert s.core.deposed and s.hear("w0", BYE) == [] and s.core.log == before


def test_a_greater_term_of_another_run_is_nothing_to_step_down_for() -> None:
    s = lasting()
    text = s.answer("x", named(BEAT, term=9, cluster="other"), Refused).text
    assert "belongs to run other; this is run local" in text
    assert not s.core.deposed


@pytest.mark.parametrize("message", [BEAT, BYE, Barrier(name="b", index=0), declare(w=(2,)), join("worker", "w0")])
def test_a_message_for_another_run_changes_nothing_even_from_a_known_sender(message: Any) -> None:
    s = lasting()
    before = list(s.core.log)
    assert s.answer("w0", named(message, cluster="other"), Refused).error == "JoinRefusedError"
    assert s.core.log == before


def test_a_log_of_another_run_is_refused_with_what_differs() -> None:
    s = lasting(seed=1)
    with pytest.raises(ConfigError, match="seed: 1, now 2"):
        restart(s, seed=2)


# --- what it still knows ----------------------------------------------------------------------------------------------


def test_a_restart_brings_everything_back() -> None:
    s = lasting()
    s.hear("w0", declare(w=(2,)))
    for name in ("w0", "w1"):
        s.hear(name, Barrier(name="b", index=0))
    s.hear("w1", BYE)
    before = digest(s.core.state)
    restart(s)
    after = digest(s.core.state)
    assert after[0] == before[0] and after[2:] == before[2:], "all but the term"


def test_members_are_called_for_until_they_are_heard() -> None:
    s = restart(lasting())
    assert {to for to, m in s.said if isinstance(m, Attach)} == {"s0", "w0", "w1"}
    s.hear("w0", named(BEAT))
    again = {to for to, m in s.sleep(0.35) if isinstance(m, Attach)}
    assert again == {"s0", "w1"}
    for name in ("w1", "s0"):
        s.hear(name, named(BEAT))
    assert not [m for _, m in s.sleep(1.0, beating="w0 w1 s0") if isinstance(m, Attach)]


def test_a_member_whose_address_is_new_is_asked_who_it_is_and_told_what_it_missed() -> None:
    s = lasting()
    s.hear("w1", BYE)
    restart(s)
    assert s.answer("elsewhere", named(BEAT), Attach).term == 2
    told = [m for to, m in s.hear("elsewhere", named(join("worker", "w0"))) if to == "elsewhere"]
    assert isinstance(told[0], Welcome) and (told[0].rank, told[0].incarnation) == (0, 1)
    assert [type(m).__name__ for m in told[1:]] == ["Roster", "Left"]


def test_leases_begin_anew_and_end() -> None:
    s = lasting(lease_s=2.0)
    s.sleep(1.9)
    restart(s)
    s.sleep(ATTACH_S - 0.1, beating="w0 w1")
    assert s.core.state.phase == "running"
    s.sleep(0.2, beating="w0 w1")
    assert s.core.state.phase == "failed" and s.core.state.culprit.startswith("server 0")


def test_a_barrier_that_was_half_reached_completes() -> None:
    s = lasting()
    s.hear("w0", Barrier(name="b", index=0))
    restart(s)
    s.answer("w1", named(Barrier(name="b", index=0)), BarrierWaiting)
    opened = s.hear("w0", named(Barrier(name="b", index=0)))
    assert sorted(to for to, m in opened if isinstance(m, Released)) == ["w0", "w1"]


def test_a_barrier_that_has_opened_stays_open() -> None:
    s = lasting()
    for name in ("w0", "w1"):
        s.hear(name, Barrier(name="b", index=0))
    restart(s)
    s.answer("w1", named(Barrier(name="b", index=0)), Released)


def test_a_repeated_request_for_a_change_is_answered_by_the_change_that_was_made() -> None:
    s = lasting()
    s.hear("w0", declare(w=(2,)))
    ask = Control(request=4, token="", by="", store=1, settings={"lr": 0.1}, at_clock=-1)
    s.hear("w0", ask)
    restart(s)
    s.hear("w0", named(ask))
    s.hear("w1", named(replace(ask, request=9)))
    restart(s)
    s.hear("w1", named(replace(ask, request=9)))
    assert len(s.core.state.changes) == 1
    s.hear("w0", named(replace(ask, request=5)))
    assert len(s.core.state.changes) == 2


def test_a_member_that_said_goodbye_is_not_waited_for() -> None:
    s = lasting()
    for name in ("w0", "w1", "s0"):
        s.answer(name, BYE, Farewell)
    assert s.ended is not None
    s.ended = None
    restart(s)
    assert s.ended is None, "those who watch need time to ask again"
    assert s.answer("watcher", Watch(), Snapshot).phase == "finished"
    s.sleep(LINGER_S + 0.1)
    assert s.ended == Ended(False, "all workers are done")


def test_who_is_in_by_its_own_account_but_not_by_the_log_is_refused_with_the_reason() -> None:
    s = restart(Scheduler(grace_s=60.0))
    m = Join(role="worker", rank=0, token="w0", address="", host="h", pid=1, version="1", incarnation=1)
    assert "it is not the whole log of the run" in s.answer("w0", named(m), Refused).text


def test_a_gathering_goes_on() -> None:
    s = Scheduler(workers=2, grace_s=60.0)
    s.hear("w0", join("worker", "w0"))
    restart(s)
    s.hear("w0", named(join("worker", "w0")))
    s.hear("w1", join("worker", "w1"))
    assert s.answer("s0", join("server", "s0"), Welcome).missing == ()
    assert s.core.state.phase == "running" and sorted(s.core.state.nodes) == [
        ("server", 0),
        ("worker", 0),
        ("worker", 1),
    ]


def test_a_compacted_log_is_short_and_of_the_same_state() -> None:
    s = lasting()
    for i in range(50):
        for name in ("w0", "w1"):
            s.hear(name, Barrier(name="b", index=i))
        if i % 10 == 0:
            restart(s)
    before, length = digest(s.core.state), len(s.core.log)
    s.core.compact()
    s.core.check()
    assert digest(s.core.state) == before and len(s.core.log) < length - 50
    assert sum(isinstance(r, Opened | Ruled) for r in s.core.log) == 2


# --- at any moment ----------------------------------------------------------------------------------------------------

NAMES = ("w0", "w1", "w2", "s0", "s1")


class Restarts(RuleBasedStateMachine):
    """Anything happens, and at any moment the scheduler dies and comes back with what was on its disk.

    What it writes and what it says are two steps: it may also die between them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk: list[Record] = []
        self.now, self.term, self.generation, self.dies = 0.0, 0, 0, False
        self.core = self.start()
        self.ranks: dict[str, tuple[str, int, int]] = {}
        self.released: dict[str, int] = {}
        self.placed: dict[str, Any] = {}
        self.changes: dict[int, Any] = {}
        self.gone: set[str] = set()
        self.asked: dict[tuple[str, int], Any] = {}

    def start(self) -> SchedulerCore:
        config = running(3, 2, grace_s=60.0, lease_s=1000.0, gather_timeout_s=1e6).core.config
        core = SchedulerCore(config, past=self.disk)
        self.disk = list(core.log)
        assert core.state.term > self.term, "terms only grow"
        self.term = core.state.term
        return core

    def hear(self, name: str, m: Message) -> None:
        self.now += 0.01
        actions = self.core.handle(Received(name, named(m, self.term)), self.now)  # type: ignore[arg-type]
        self.disk = list(self.core.log)
        if self.dies:
            self.dies, self.core = False, self.start()
            return
        for action in actions:
            if isinstance(action, Send):
                self.told(action.to, action.message)

    def told(self, to: str, m: Message) -> None:
        """What a member has been told is true for ever."""
        assert isinstance(m, FromScheduler) and (m.cluster, m.term) == ("local", self.term)
        match m:
            case Welcome():
                mine = (to[0], m.rank, m.incarnation)
                assert self.ranks.setdefault(to, mine) == mine, "a rank is kept"
                assert list(self.ranks.values()).count(mine) == 1, "no rank is given twice"
            case Released(name=name, index=index):
                self.released[name] = max(index, self.released.get(name, -1))
            case Placed(layouts=layouts):
                for layout in layouts:
                    assert self.placed.setdefault(layout.key, layout) == layout, "keys do not move"
            case Controlled(change=change):
                assert self.changes.setdefault(change.number, change) == change
            case Farewell():
                self.gone.add(to)

    @initialize(everybody=st.booleans())
    def begins(self, everybody: bool) -> None:
        for name in NAMES if everybody else ():
            self.joins(name)
        if everybody:
            self.declares("w0", "a")

    @rule(name=st.sampled_from(NAMES))
    def joins(self, name: str) -> None:
        self.hear(name, join("worker" if name[0] == "w" else "server", name))

    @rule(name=st.sampled_from(NAMES[:3]), index=st.integers(0, 3))
    def comes_to_a_barrier(self, name: str, index: int) -> None:
        self.hear(name, Barrier(name="b", index=index))

    @rule(name=st.sampled_from(NAMES[:3]), key=st.sampled_from("abc"))
    def declares(self, name: str, key: str) -> None:
        spec = KeySpec(key=key, dtype="<f4", shape=(5,))
        self.hear(name, Declare(request=1, gate="bsp", reduce="mean", keys=(spec,)))

    @rule(name=st.sampled_from(NAMES[:3]), request=st.integers(1, 3), lr=st.sampled_from([0.1, 0.2]))
    def asks_for_a_change(self, name: str, request: int, lr: float) -> None:
        ask = self.asked.setdefault((name, request), {"lr": lr})
        self.hear(name, Control(request=request, token="", by="", store=1, settings=ask, at_clock=-1))

    @rule(name=st.sampled_from(NAMES), generation=st.integers(0, 20))
    def beats(self, name: str, generation: int) -> None:
        self.hear(name, Heartbeat(status=None, generation=min(generation, self.core.state.generation)))

    @precondition(lambda self: self.core.state.phase == "running")
    @rule(name=st.sampled_from(NAMES[:3]))
    def leaves(self, name: str) -> None:
        self.hear(name, Goodbye(failed="", report={"n": 1}))

    @rule()
    def dies_and_comes_back(self) -> None:
        self.core = self.start()

    @rule()
    def will_die_before_it_answers(self) -> None:
        self.dies = True

    @rule()
    def compacts(self) -> None:
        self.core.compact()
        self.disk = list(self.core.log)

    @invariant()
    def nothing_that_was_said_is_forgotten(self) -> None:
        s = self.core.state
        self.core.check()
        assert s.generation >= self.generation, "the generation never falls"
        self.generation = s.generation
        for name, index in self.released.items():
            assert self.core.barriers.opened(name, index), "an open barrier stays open"
        for key, layout in self.placed.items():
            assert s.placement.layouts[key] == layout
        for number, change in self.changes.items():
            assert s.changes[number - 1].change == change
        assert [c.change.number for c in s.changes] == list(range(1, len(s.changes) + 1))
        for name, (_, rank, incarnation) in self.ranks.items():
            assert (s.tokens[name].member.rank, s.tokens[name].member.incarnation) == (rank, incarnation)
        assert all(not s.tokens[name].live for name in self.gone if name in s.tokens)
        assert digest(SchedulerCore(self.core.config, past=self.disk).state)[2:] == digest(s)[2:], "the disk is enough"


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=60, stateful_step_count=40)
