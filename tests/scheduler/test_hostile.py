"""What a scheduler takes from anybody, and how much of it: strangers change nothing, and members only so much."""

import random
import tracemalloc
from dataclasses import replace

import pytest

from shoal.kvstore.wire.messages import Barrier, Declare, Heartbeat, Join, KeySpec, Refused, Snapshot, Watch
from shoal.scheduler.contacts import MAX_WATCHERS
from shoal.scheduler.gather import MAX_TEXT
from shoal.scheduler.keys import MAX_BYTES, MAX_NAME, MAX_STORES
from tests.kvstore.hostile import message
from tests.scheduler.helpers import Scheduler, declare, join

STRANGE, FAULTY = 3000, 3000


def running() -> Scheduler:
    s = Scheduler(2, 1)
    for name in ("w0", "w1", "s0"):
        s.hear(name, join("server" if name == "s0" else "worker", name))
    assert s.core.state.phase == "running"
    return s


def test_strangers_change_nothing() -> None:
    rng, s = random.Random(5), running()
    log = list(s.core.log)
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        for n in range(STRANGE):
            m = message(rng, "scheduler", token="" if n % 2 else "no member", version="1", cluster="another")
            if isinstance(m, Join):
                m = replace(m, cluster="", token=f"t{n}", rank=rng.choice((-1, 0, 5, 2**40)))
            s.core.handle(_received(f"stranger{n}", m), s.now)
        grown = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert s.core.log == log and grown < 1 << 20


def test_a_member_that_sends_anything_does_not_end_the_scheduler() -> None:
    rng = random.Random(6)
    for n in range(FAULTY):
        if n % 25 == 0:
            s = running()
        m = message(rng, "-> scheduler", cluster=s.core.state.cluster, term=0, token="")
        s.core.handle(_received("w0", m), s.now)
        s.core.check()


def _received(sender: str, m: object) -> object:
    from shoal.kvstore.events import Received

    return Received(sender, m)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (KeySpec(key="k", dtype="<f4", shape=(2**60,)), "more than"),
        (KeySpec(key="k", dtype="<f4", shape=(MAX_BYTES // 4, 2)), "more than"),
        (KeySpec(key="k", dtype="<f4", shape=(2**62,) * 60), "more than"),
        (KeySpec(key="k", dtype="<f4", shape=(1,) * 65), "65 dimensions"),
        (KeySpec(key="k" * (MAX_NAME + 1), dtype="<f4", shape=(1,)), "characters"),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused_before_it_is_cut(spec: KeySpec, says: str) -> None:
    s = running()
    log = list(s.core.log)
    refused = s.answer("w0", Declare(request=1, gate="bsp", reduce="mean", keys=(spec,)), Refused)
    assert says in refused.text and s.core.log == log


def test_many_keys_may_not_be_too_large_together() -> None:
    s = running()
    half = MAX_BYTES // 8
    keys = {f"k{n}": (half,) for n in range(3)}
    assert "more than" in s.answer("w0", declare(**keys), Refused).text


def test_stores_have_numbers_that_can_be_meant() -> None:
    s = running()
    refused = s.answer("w0", replace(declare(k=(1,)), store=MAX_STORES + 1), Refused)
    assert "stores are numbered from 1" in refused.text


@pytest.mark.parametrize("field", ["token", "host", "address"])
def test_who_names_itself_at_length_is_refused(field: str) -> None:
    s = Scheduler(2, 1)
    refused = s.answer("w0", replace(join("worker", "w0"), **{field: "x" * (MAX_TEXT + 1)}), Refused)
    assert "none of ours" in refused.text and not s.core.state.nodes


def test_so_many_may_look_on_and_no_more() -> None:
    s = running()
    said = [len(s.hear(f"watcher{n}", Watch())) for n in range(MAX_WATCHERS + 5)]
    assert sum(said) == MAX_WATCHERS
    assert isinstance(s.answer("watcher0", Watch(), Snapshot), Snapshot)


def test_barriers_of_many_names_are_not_kept_beyond_a_bound() -> None:
    s = running()
    for n in range(6000):
        s.hear("w0", Barrier(name=f"b{n}", index=0))
    assert len(s.core.barriers.closed()) == 4096
    assert s.hear("w0", Heartbeat(status=None)) is not None
