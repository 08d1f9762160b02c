"""A run that does not get on is said so once, with who is waited for."""

from shoal.kvstore.wire.messages import Heartbeat, Snapshot, Wait
from shoal.scheduler.stalls import StallWatch
from tests.scheduler.helpers import running

WAITS = (
    Wait(what="value of 'w' at clock 7", who=("worker 0",), on=("worker 2",), for_s=61.0),
    Wait(what="barrier 'e' (occurrence 0)", who=("worker 1", "worker 3"), on=("worker 2",), for_s=60.0),
    Wait(what="acknowledgement of 'v'", who=("worker 4",), on=("server 0",), for_s=2.0),
)


def state(idle_s: float, phase: str = "running", waits: tuple[Wait, ...] = WAITS) -> Snapshot:
    return Snapshot(
        phase=phase, cluster="c", mode="", reason="", culprit="", missing=(), nodes=(), idle_s=idle_s, waits=waits
    )


def test_it_is_said_once_and_again_when_the_run_gets_on() -> None:
    watch = StallWatch(60.0)
    told = [watch.look(state(idle_s)) for idle_s in (0, 59, 60, 61, 100, 0.5, 1, 70)]
    assert [t is not None for t in told] == [False, False, True, False, False, True, False, True]
    first, again = told[2], told[5]
    assert first is not None and again is not None
    assert first.waited_for == ("worker 2", "server 0") and not first.over
    assert "worker 0 waits 61 s for worker 2 (value of 'w' at clock 7)" in first.text
    assert again.over and "after 100 s" in again.text


def test_who_waits_for_nothing_of_shoals_is_said_so_too() -> None:
    stall = StallWatch(1.0).look(state(2.0, waits=()))
    assert stall is not None and "no process says that it waits" in stall.text


def test_nothing_is_said_where_it_is_switched_off_or_the_run_does_not_run() -> None:
    assert StallWatch(0.0).look(state(1e9)) is None
    assert StallWatch(1.0).look(state(1e9, "finished")) is None


def test_a_silent_process_is_named_and_one_that_steps_ends_the_stall() -> None:
    s, watch = running(workers=2, lease_s=1000.0), StallWatch(5.0)
    s.hear("w0", Heartbeat(status={"steps": 1, "waits": [["value of 'w'", ["worker 1"], 1.0]]}))
    s.now += 6.0
    s.hear("w0", Heartbeat(status={"steps": 1, "waits": [["value of 'w'", ["worker 1"], 7.0]]}))
    stall = watch.look(s.core.snapshot())
    assert stall is not None and stall.waited_for == ("worker 1",)
    assert "worker 1 (host h, pid 101) has been silent for 6 s" in stall.text
    s.hear("w1", Heartbeat(status={"steps": 1}))
    again = watch.look(s.core.snapshot())
    assert again is not None and again.over
