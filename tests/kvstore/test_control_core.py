"""A server takes changes of settings at their clock: slice by slice, once, and says when."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.kvstore.events import Action, Alter, Apply, Contribution, Create, Received, Send, SendValue
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Ack, Change, Init, SetOptimizer, Value, Waiting
from shoal.ops import optim
from tests.kvstore.test_server_core import feed, payload, pull, push, refused, server


def change(number: int = 1, at_clock: int = 0, store: int = 1, **settings: Any) -> Change:
    return Change(number=number, store=store, settings=settings, at_clock=at_clock, by="x")


def rounds(core: ServerCore, first: int, last: int) -> list[Action]:
    """A synchronous worker contributes; what the table is told."""
    actions = [a for c in range(first, last) for a in feed(core, push(0, c, seq=c, pulled=c))]
    return [a for a in actions if isinstance(a, Apply | Alter)]


def kinds(actions: list[Action]) -> list[str]:
    return [type(a).__name__ for a in actions]


def test_a_slice_takes_a_change_when_its_version_is_the_clock() -> None:
    core = server(1)
    assert core.change(change(at_clock=2, momentum=0.5)) == []
    assert kinds(rounds(core, 0, 3)) == ["Apply", "Apply", "Alter", "Apply"]
    assert core.report()["changes"] == {"1": [1, 2, 2]}


def test_a_change_whose_clock_has_passed_is_taken_at_once_and_the_report_says_when() -> None:
    core = server(1)
    rounds(core, 0, 5)
    assert core.change(change(at_clock=2, momentum=0.5)) == [Alter(7, 1, {"momentum": 0.5})]
    assert core.report()["changes"] == {"1": [1, 5, 5]}


def test_changes_of_one_clock_are_taken_in_the_order_of_the_log() -> None:
    core = server(1)
    core.change(change(1, 1, learning_rate=0.1)), core.change(change(2, 1, learning_rate=0.2))
    assert [a.number for a in rounds(core, 0, 1) if isinstance(a, Alter)] == [1, 2]


def test_a_change_is_of_one_store() -> None:
    core = server(1)
    assert core.change(change(store=2, momentum=0.5)) == []


def test_a_new_slice_takes_the_changes_of_its_store() -> None:
    core = server(1)
    core.change(change(1, -1, momentum=0.5)), core.change(change(2, 3, momentum=0.6))
    init = Init(seq=3, store=1, slice=8, key="b", gate="bsp", reduce="mean", value=payload())
    created, alter, _ = core.handle(Received("w0", init), 0.0)
    assert isinstance(created, Create) and alter == Alter(8, 1, {"momentum": 0.5})


def test_an_optimizer_of_a_later_time_is_not_changed_by_what_was_before() -> None:
    core = server(1)
    core.change(change(1, -1, momentum=0.5)), core.change(change(2, 3, momentum=0.6))
    feed(core, SetOptimizer(worker=0, incarnation=1, seq=2, store=1, name="sgd", params={}, lr_mult={}, wd_mult={}))
    init = Init(seq=3, store=1, slice=8, key="b", gate="bsp", reduce="mean", value=payload())
    assert not [a for a in core.handle(Received("w0", init), 0.0) if isinstance(a, Alter)]
    assert [c.number for c in core.entries[8].changes] == [2]


def test_more_slack_lets_those_go_on_who_wait() -> None:
    core = server(2, "ssp:1")
    for c in range(2):
        feed(core, push(0, c, seq=c))
    assert feed(core, pull(0, 2)) == []
    (released,) = core.change(change(at_clock=0, s=2))
    assert isinstance(released, SendValue) and released.version == 2
    core.check()


def test_less_slack_holds_readers_and_does_not_blame_a_push_that_was_allowed() -> None:
    core = server(2, "ssp:3")
    feed(core, push(0, 0, seq=0)), feed(core, push(0, 1, seq=1))
    core.change(change(s=0))
    (ack,) = [a for a in feed(core, push(0, 2, seq=2)) if isinstance(a, Send)]
    assert isinstance(ack.message, Ack)
    assert feed(core, pull(0, 3)) == []
    (waits,) = feed(core, pull(0, 3))
    assert isinstance(waits, Send) and waits.message == Waiting(seq=9, missing=(1,))
    feed(core, push(0, 3, seq=3))
    assert refused(feed(core, push(0, 4, seq=4))).error == "LocalProtocolError"


def test_a_slack_changes_at_its_clock_for_who_asks_whether_it_may_push() -> None:
    core = server(2, "ssp:1")
    core.change(change(at_clock=2, s=2))
    feed(core, push(0, 0, seq=0)), feed(core, push(0, 1, seq=1))
    (answer,) = feed(core, pull(0, 2, payload=False))
    assert isinstance(answer, Send) and isinstance(answer.message, Value)


def test_a_limit_of_staleness_drops_what_is_older_from_its_clock_on() -> None:
    core = server(2, "asp")
    core.change(change(at_clock=3, max=1))
    for c in range(4):
        feed(core, push(0, c, seq=c, pulled=c))
    feed(core, push(1, 0, seq=0, pulled=0))
    assert core.ledgers[1].dropped == 1


def test_codec_changes_are_the_workers_business() -> None:
    core = server(1)
    assert core.change(change(codec="bf16")) == []


# --- the arrays -------------------------------------------------------------------------------------------------------


def table(optimizer: optim.Optimizer, *keys: str) -> Table:
    made = Table()
    for i, key in enumerate(keys):
        made.create(i, key, np.ones(3, np.float32))
    made.configure(optimizer, {}, {})
    return made


def step(t: Table, i: int = 0) -> None:
    t.accumulate(i, 0, np.full(3, 0.5, np.float32))
    t.apply(i, (Contribution(0, 0, 0),), "mean")


def test_an_altered_slice_keeps_its_momentum_and_its_count() -> None:
    old, new = (optim.create("sgd", learning_rate=lr, momentum=0.9) for lr in (0.1, 0.01))
    changed, configured = table(old, "a"), table(old, "a")
    for t in (changed, configured):
        step(t), step(t)
    changed.alter(0, 1, {"learning_rate": 0.01})
    configured.configure(new, {}, {})
    for t in (changed, configured):
        step(t), step(t)
    a, b = changed.cells[0], configured.cells[0]
    assert (a.value == b.value).all() and a.updates == b.updates == 4


def test_slices_share_what_a_change_makes() -> None:
    t = table(optim.create("sgd"), "a", "b")
    t.alter(0, 1, {"wd": 0.1}), t.alter(1, 1, {"wd": 0.1})
    assert t.cells[0].update is t.cells[1].update


def test_a_momentum_that_was_not_there_begins_at_zero() -> None:
    t = table(optim.create("sgd", learning_rate=0.1), "a")
    step(t)
    t.alter(0, 1, {"momentum": 0.9})
    step(t), step(t)
    assert t.cells[0].state.keys() == optim.create("sgd", momentum=0.9).init(np.ones(3, np.float32)).keys()


def test_keys_with_an_optimizer_of_their_own_keep_it() -> None:
    t = table(optim.create("sgd"), "a", "b")
    t.configure(optim.create("adam"), {}, {}, keys=("b",))
    own = t.cells[1].update
    t.alter(0, 1, {"momentum": 0.5}), t.alter(1, 1, {"momentum": 0.5})
    assert t.cells[1].update is own


def test_a_slice_that_cannot_take_a_change_stays_as_it_is() -> None:
    t = table(optim.create("adam"), "a")
    before = t.cells[0].update
    with pytest.raises(ConfigError, match="momentum"):
        t.alter(0, 1, {"momentum": 0.5})
    assert t.cells[0].update is before
