"""A server that dies and comes back from a snapshot: nothing is counted twice, and what is lost is said exactly."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import CheckpointError, ConfigError
from shoal.kvstore.client.core import Job
from shoal.kvstore.events import PeerGone
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.freeze import freeze, thaw
from shoal.kvstore.wire.messages import Retire
from shoal.ops import optim
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_server_core import feed, pull, push, refused, server

GATES = ("bsp", "asp", "ssp:1", "ssp:3", "essp:2", "fedbuff:3")


def value(rank: int, clock: int) -> np.ndarray:
    return np.full(2, rank + 1 + clock / 8, np.float32)


def network(gate: str, seed: int = 0, workers: int = 2, loss: float = 0.0) -> SimNet:
    net = SimNet(workers, 2, gate, seed=seed, loss=loss)
    for key in range(4):
        net.init(key, np.zeros(2, np.float32))
    for s in net.servers:
        s.table.configure(optim.SGD(learning_rate=0.1, momentum=0.9), {}, {})
    return net


def train(net: SimNet, rank: int, clocks: range) -> list[Job]:
    return [
        job
        for clock in clocks
        for key in range(4)
        for job in net.submit(rank, [net.job(key, value(rank, clock), want=True)])
    ]


def arrive(net: SimNet, barrier: int) -> None:
    for rank in range(len(net.clients)):
        for s in range(len(net.servers)):
            ask = Retire(worker=0, incarnation=0, seq=0, store=1, barrier=barrier)
            net.submit(rank, [Job(server=s, key="barrier", request=ask)])


def check(net: SimNet) -> None:
    """Every push is accounted for, once, and everybody is equally far."""
    book = net.ledger()
    assert not net.failed
    assert book["sent"] == book["acknowledged"]
    open_parts = sum(len(p) for s in net.servers for e in s.core.entries.values() for p in e.pending.values())
    assert book["sent"] == book["applied"] + book["rejected"] + book["dropped"] + book["lost"]
    said = sum(
        int(n) for s in net.servers for text in s.core.restored for n in re.findall(r"(\d+) in the ledger", text)
    )
    assert said == book["lost"]
    assert open_parts <= 3 * 4
    for s in net.servers:
        assert s.core.recovery is None
        assert len(s.applied) == len(set(s.applied)), "a push was applied twice"


# --- data -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from((*GATES, "backup:1", "ksync:2", "kbatch:2")), st.integers(0, 10**6), st.integers(0, 160))
def test_what_is_frozen_comes_back_the_same(gate: str, seed: int, steps: int) -> None:
    net = network(gate, seed, workers=3, loss=0.1)
    for rank in range(3):
        train(net, rank, range(4))
    for _ in range(steps):
        if net._heap:
            net.step()
    for s in net.servers:
        text = json.dumps(freeze(s.core))
        again = thaw(json.loads(text), 2)
        again.check()
        assert json.dumps(freeze(again)) == text


def test_what_is_damaged_is_refused() -> None:
    state = freeze(server(2))
    del state["desks"]
    with pytest.raises(CheckpointError, match="KeyError: 'desks'"):
        thaw(state, 2)


def test_a_refusal_is_remembered() -> None:
    core = server(2)
    first = feed(core, push(0, 5))
    again = thaw(json.loads(json.dumps(freeze(core))), 2)
    assert refused(first) and feed(again, push(0, 5)) == first


def test_a_gate_whose_rounds_a_desk_gives_out_is_refused_with_a_way_out() -> None:
    net = network("ksync:2", workers=3)
    core = thaw(freeze(net.servers[0].core), 2)
    with pytest.raises(ConfigError, match=r"cannot come back under ksync:2.*Use sync"):
        core.recover()


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
def test_a_snapshot_of_the_last_moment_loses_nothing(gate: str) -> None:
    net = network(gate)
    for rank in range(2):
        train(net, rank, range(3))
    net.run()
    net.replace(1, net.servers[1].save())
    for rank in range(2):
        train(net, rank, range(3, 6))
    net.run()
    for rank in range(2):
        net.leave(rank)
    check(net)
    assert net.ledger()["lost"] == 0 and net.servers[1].core.restored[0].endswith("nothing is lost")


@pytest.mark.parametrize("gate", GATES)
def test_an_old_snapshot_loses_exactly_what_came_after_it(gate: str) -> None:
    net = network(gate)
    train(net, 0, range(2))
    train(net, 1, range(2))
    net.run()
    saved = net.servers[1].save()
    train(net, 0, range(2, 5))
    train(net, 1, range(2, 5))
    net.run()
    seen = {i: e.version for i, e in net.servers[1].core.entries.items()}
    net.replace(1, saved)
    train(net, 0, range(5, 8))
    train(net, 1, range(5, 8))
    net.run()
    assert all(e.version > seen[i] for i, e in net.servers[1].core.entries.items())
    for rank in range(2):
        net.leave(rank)
    check(net)
    assert net.ledger()["lost"] == 2 * 2 * 3
    assert "3 clocks of worker 0 (pushes 3-5) to 2 keys, 6 in the ledger" in net.servers[1].core.restored[0]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(GATES),
    st.integers(0, 10**6),
    st.integers(1, 400),
    st.integers(0, 300),
    st.integers(2, 3),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 200),
)
def test_a_server_dies_at_any_point_and_training_goes_on(
    gate: str, seed: int, until: int, later: int, workers: int, loss: float, again: int
) -> None:
    net, rng = network(gate, seed, workers, loss), random.Random(seed)
    for rank in range(workers):
        train(net, rank, range(6))
    for rank in range(workers):
        net._at(0.0, ("wake", rank))
    saved = [s.save() for s in net.servers]
    for wait in (until, later, again):
        for _ in range(wait):
            if net._heap:
                net.step()
        which = rng.randrange(2)
        if rng.random() < 0.7:
            net.replace(which, saved[which])
        if rng.random() < 0.7 and net.servers[which].core.recovery is None:
            saved[which] = net.servers[which].save()
    net.run()
    assert not any(net.busy(rank) for rank in range(workers)), "somebody waits for ever"
    for rank in range(workers):
        net.leave(rank)
    check(net)
    assert all(lane.clock == 6 for c in net.clients for lane in c.lanes.values())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GATES), st.integers(0, 10**6), st.integers(0, 250), st.integers(0, 3), st.integers(0, 3))
def test_a_server_that_dies_about_a_barrier_knows_of_it(gate: str, seed: int, steps: int, a: int, b: int) -> None:
    net = network(gate, seed)
    saved = [s.save() for s in net.servers]
    for barrier, clocks in ((1, (a, b)), (2, (b, a))):
        for rank in range(2):
            train(net, rank, range(clocks[rank]) if barrier == 1 else range(3, 3 + clocks[rank]))
        for rank in range(2):
            net._at(net.now, ("wake", rank))
        rested: set[int] = set()
        for i in range(10**5):
            if i == steps:
                net.replace(seed % 2, saved[seed % 2])
            for rank in {0, 1} - rested:
                if not net.clients[rank].flying and not any(x.ready for x in net.clients[rank].links.values()):
                    rested.add(rank)
                    for s in range(2):
                        ask = Retire(worker=0, incarnation=0, seq=0, store=1, barrier=barrier)
                        net.submit(rank, [Job(server=s, key="barrier", request=ask)])
            if not net._heap:
                break
            net.step()
        assert rested == {0, 1}, "somebody waits for ever"
    net.run()
    for rank in range(2):
        net.leave(rank)
    check(net)


def test_a_worker_that_leaves_is_not_waited_for() -> None:
    net = network("bsp")
    for rank in range(2):
        train(net, rank, range(2))
    net.run()
    net.replace(0, net.servers[0].save())
    core = net.servers[0].core
    core.handle(PeerGone(1, 1), 0.0)
    assert core.recovery is not None and core.recovery.awaited(core.members) == (0,)
    train(net, 0, range(2, 4))
    net.leave(1)
    net.run()
    assert not net.busy(0) and net.servers[0].core.recovery is None


def test_nothing_but_greetings_is_answered_before_all_have_said_how_far_they_are() -> None:
    core = thaw(freeze(server(2)), 2)
    core.recover()
    assert feed(core, push(0, 0)) == [] and feed(core, pull(0, 0)) == []
    assert isinstance(core, ServerCore) and core.entries[7].version == 0
