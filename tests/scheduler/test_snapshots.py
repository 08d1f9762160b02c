"""What those who watch a run are told of it."""

from typing import Any

from shoal.kvstore.wire.messages import Barrier, Heartbeat, Snapshot, Wait
from tests.scheduler.helpers import Scheduler, running


def beat(s: Scheduler, name: str, **status: Any) -> None:
    s.hear(name, Heartbeat(status=status))


def test_who_waits_at_a_barrier_for_whom_and_since_when() -> None:
    s = running(workers=3)
    s.hear("w2", Barrier(name="epoch", index=0))
    s.now += 2.0
    s.hear("w0", Barrier(name="epoch", index=0))
    s.hear("w2", Barrier(name="epoch", index=0))  # who waits repeats that it has come
    s.now += 1.0
    s.hear("w0", Barrier(name="epoch", index=0))
    waits = s.core.snapshot().waits
    assert waits == (
        Wait(what="barrier 'epoch' (occurrence 0)", who=("worker 0", "worker 2"), on=("worker 1",), for_s=3.0),
    )
    s.hear("w1", Barrier(name="epoch", index=0))
    assert s.core.snapshot().waits == ()


def test_the_waits_that_workers_tell_are_shown_longest_first() -> None:
    s = running(workers=2)
    beat(s, "w0", waits=[["value of 'w' at clock 7", ["worker 1"], 2.5]])
    beat(s, "w1", waits=[["acknowledgement of 'v' at clock 6", ["server 0"], 4]])
    assert [(w.who, w.on, w.for_s) for w in s.core.snapshot().waits] == [
        (("worker 1",), ("server 0",), 4.0),
        (("worker 0",), ("worker 1",), 2.5),
    ]


def test_a_status_that_is_not_what_it_should_be_harms_nobody() -> None:
    s = running(workers=1)
    for waits in (7, "x", [1], [["a"]], [["a", "b", 1.0]], [["a", [], "soon"]], [[["a"], [], 1.0]], {"a": 1}):
        beat(s, "w0", waits=waits)
        assert s.core.snapshot().waits == ()
    s.hear("w0", Heartbeat(status=[1, 2]))
    assert s.core.snapshot().phase == "running"


def test_a_run_gets_on_when_a_count_of_anybody_grows() -> None:
    s = running(workers=2)
    for name, status, idle_s in (
        ("w0", {"steps": 1}, 0.0),
        ("w0", {"steps": 1}, 1.0),
        ("w1", {"steps": 0, "samples_per_s": 3.0}, 0.0),
        ("w1", {"steps": 0, "samples_per_s": 4.0}, 1.0),
        ("s0", {"updates": 5}, 0.0),
        ("w1", {"steps": 0, "sent": 3}, 0.0),
    ):
        s.now += 1.0
        beat(s, name, **status)
        assert s.core.snapshot().idle_s == idle_s, (name, status)


def test_a_node_is_shown_with_its_address_and_its_age() -> None:
    s = running(workers=1)
    s.now += 3.0
    beat(s, "w0", steps=1)
    told: Snapshot = s.core.snapshot()
    assert [(n.role, n.address, n.age_s) for n in told.nodes] == [("server", "s0:1", 3.0), ("worker", "w0:1", 3.0)]
    assert (told.generation, told.age_s, told.term) == (s.core.state.generation, 3.0, 1)
