"""Copies of state machines go ways of their own, and states are told apart by all but times."""

import copy

from shoal.kvstore.client.core import ClientCore, Job
from shoal.kvstore.events import Received
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import HelloOk
from shoal.lab.clones import clone, frozen
from tests.kvstore.test_hostile import genuine, serving


def test_a_clone_is_what_a_deep_copy_is_and_goes_its_own_way() -> None:
    core = serving().core
    assert core is not None
    made = clone(core)
    assert frozen(made) == frozen(copy.deepcopy(core)) == frozen(core)
    made.handle(Received("w0", genuine(0, clock=1, seq=2)), 0.0)
    made.check()
    assert frozen(made) != frozen(core) and core.entries[7].counted(0) == 1 and made.entries[7].counted(0) == 2


def test_what_was_one_object_is_one_in_the_copy() -> None:
    core = serving().core
    assert core is not None
    made = clone(core)
    assert made.snapshots._entries is made.entries is not core.entries
    assert made.entries[7].desk is made.desks[1] is not core.desks[1]
    assert all(h.__self__ is made for h in made._handlers.values())


def test_times_make_no_difference_and_progress_does() -> None:
    def client(now: float) -> ClientCore:
        core = ClientCore(0, 1, "run", 1)
        core.register(7, parse_gate("asp"))
        core.submit([Job(server=0, slice=7, key="a", want=True)], now)
        return core

    early, late = client(1.0), client(9.0)
    assert frozen(early) == frozen(late)
    late.receive(0, HelloOk(server=0, incarnation=1), 10.0)
    assert frozen(early) != frozen(late)
    again = clone(late)
    assert again.lanes[7].jobs[0] is next(iter(again.flying.values())) is not next(iter(late.flying.values()))
