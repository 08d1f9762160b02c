"""Whatever the network loses, repeats and reorders, and whoever dies: everybody who lives learns the same story."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.messages import Abort, Barrier, Declare, Farewell, KeySpec, Left, Placed, Released, Roster, Stop
from shoal.scheduler.core import Ended, SchedulerConfig, SchedulerCore
from shoal.scheduler.member import Fail, Hush, MemberConfig, MemberCore, News, barrier_key, declare_key

LEASE_S = 5.0
GRACE_S = 30.0
KEYS = (KeySpec(key="w", dtype="<f4", shape=(700, 700)), KeySpec(key="b", dtype="<f4", shape=(10,)))


class SimNode:
    """A member with a small program: two barriers, a declaration, goodbye; servers wait for the stop."""

    def __init__(self, role: str, name: str) -> None:
        self.name, self.role = name, role
        self.core = MemberCore(MemberConfig(role, token=name, scheduler="s", version="1", goodbye_s=1e9))
        self.roster: Roster | None = None
        self.lefts: list[Left] = []
        self.layouts: Any = None
        self.passed = 0
        self.outcome = ""
        self.dead = False
        self.term = 0

    def carry_out(self, actions: list[Any], now: float) -> list[Any]:
        out = []
        for action in actions:
            match action:
                case Send(_, message):
                    out.append(message)
                case News(message):
                    out += self.carry_out(self.news(message, now), now)
                case Fail(error, culprit, reason):
                    self.outcome = f"{error}: {culprit}: {reason}"
                case Hush(back=True, term=term):
                    assert term >= self.term, "terms never fall"
                    self.term = term
        return out

    def news(self, message: Any, now: float) -> list[Any]:
        worker = self.role == "worker"
        match message:
            case Roster():
                assert self.roster is None, "the roster is news once"
                self.roster = message
                return self.ask(Barrier(name="start", index=0), barrier_key("start", 0), now) if worker else []
            case Left(generation=generation):
                before = self.lefts[-1].generation if self.lefts else self.roster.generation if self.roster else 0
                assert generation == before + 1, "departures come in order, without gaps"
                self.lefts.append(message)
            case Released(name="start"):
                self.passed += 1
                return self.ask(Declare(request=1, gate="bsp", reduce="mean", keys=KEYS), declare_key(1), now)
            case Placed(layouts=layouts):
                self.layouts = layouts
                return self.ask(Barrier(name="end", index=0), barrier_key("end", 0), now)
            case Released(name="end"):
                self.passed += 1
                return self.core.leave("", {"passed": self.passed}, now)
            case Stop():
                assert not worker
                return self.core.leave("", {}, now)
            case Abort(culprit=culprit, reason=reason):
                self.outcome = f"abort: {culprit}: {reason}"
            case Farewell():
                self.outcome = "done"
        return []

    def ask(self, message: Any, key: str, now: float) -> list[Any]:
        return self.core.ask(key, message, now)


class Simulation:
    """A scheduler and its nodes, joined by a bad network, until everything that can end has ended."""

    def __init__(
        self, seed: int, workers: int, servers: int, loss: float, repeat: float, deaths: int, crashes: int = 0
    ) -> None:
        self.rng, self.loss, self.repeat = random.Random(seed), loss, repeat
        self.now, self.wire = 0.0, list[tuple[float, int, str, str, list[bytes]]]()
        self.order, self.generation = 0, 0
        grace_s = GRACE_S if crashes else 0.0
        self.config = SchedulerConfig(workers, servers, version="1", lease_s=LEASE_S, grace_s=grace_s)
        self.core, self.ended = SchedulerCore(self.config), list[Ended]()
        self.disk = list(self.core.log)  # what a crash leaves
        nodes = [SimNode("worker", f"w{i}") for i in range(workers)] + [
            SimNode("server", f"s{i}") for i in range(servers)
        ]
        self.rng.shuffle(nodes)
        self.nodes = {node.name: node for node in nodes}
        self.begin = {node.name: self.rng.uniform(0.0, 2.0) for node in nodes}
        mortal = self.rng.sample(nodes, min(deaths, len(nodes)))
        self.deaths = {node.name: self.rng.uniform(0.0, 8.0) for node in mortal}
        self.crashes = sorted((self.rng.uniform(0.0, 12.0) for _ in range(crashes)), reverse=True)
        self.back_at = 0.0  # the scheduler is down until then

    def send(self, source: str, to: str, message: Any) -> None:
        for _ in range(1 + (self.rng.random() < self.repeat)):
            if self.rng.random() >= self.loss:
                self.order += 1
                frames = [bytes(f) for f in encode(message)]
                self.wire.append((self.now + self.rng.expovariate(20.0), self.order, source, to, frames))

    def run(self, until: float = 200.0) -> None:
        while self.now < until and not (self.ended and all(n.outcome or n.dead for n in self.nodes.values())):
            self.now += 0.05
            self.crash()
            self.deliver()
            if self.up:
                self.carry_out(self.core.handle(Woke(), self.now))
            for node in self.nodes.values():
                node.dead = node.dead or self.now >= self.deaths.get(node.name, until)
                if not node.dead and self.now >= self.begin[node.name]:
                    self.act(node, node.core.handle(Woke(), self.now))

    @property
    def up(self) -> bool:
        return not self.ended and not self.back_at

    def crash(self) -> None:
        """The scheduler dies, or is started again with what was on its disk."""
        if self.crashes and self.up and self.now >= self.crashes[-1]:
            self.crashes.pop()
            self.back_at = self.now + self.rng.uniform(0.1, 6.0)
        if self.back_at and self.now >= self.back_at:
            self.back_at = 0.0
            self.core = SchedulerCore(self.config, past=self.disk)
            self.carry_out([])

    def deliver(self) -> None:
        due = sorted(m for m in self.wire if m[0] <= self.now)
        self.wire = [m for m in self.wire if m[0] > self.now]
        for _, _, source, to, frames in due:
            if to == "scheduler":
                if self.up:
                    self.carry_out(self.core.handle(Received(source, decode(frames)), self.now))
            elif not self.nodes[to].dead:
                self.act(self.nodes[to], self.nodes[to].core.handle(Received("scheduler", decode(frames)), self.now))

    def act(self, node: SimNode, actions: list[Any]) -> None:
        for message in node.carry_out(actions, self.now):
            self.send(node.name, "scheduler", message)

    def carry_out(self, actions: list[Any]) -> None:
        self.disk = list(self.core.log)  # before anything of it is said
        for action in actions:
            if isinstance(action, Ended):
                self.ended.append(action)
            else:
                self.released(action.message)
                self.send("scheduler", action.to, action.message)
        self.core.check()
        assert self.core.state.generation >= self.generation, "the generation never falls"
        self.generation = self.core.state.generation

    def released(self, message: Any) -> None:
        """A barrier that opens has everybody who is still in the run behind it."""
        if isinstance(message, Released) and message.name == "end":
            live = [n for n in self.nodes.values() if n.role == "worker" and self.is_live(n)]
            assert all(n.passed >= 1 for n in live)

    def is_live(self, node: SimNode) -> bool:
        known = self.core.state.tokens.get(node.name)
        return known is not None and known.live


networks = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "workers": st.integers(1, 4),
        "servers": st.integers(1, 2),
        "loss": st.sampled_from([0.0, 0.1, 0.2]),
        "repeat": st.sampled_from([0.0, 0.3]),
    }
)


@given(networks)
@settings(max_examples=40)
def test_a_bad_network_changes_nothing(network: dict[str, Any]) -> None:
    sim = Simulation(**network, deaths=0)
    sim.run()
    everybody_is_done(sim)


def everybody_is_done(sim: Simulation) -> None:
    """Nobody has lost anything: one roster, every barrier passed, one layout."""
    nodes = list(sim.nodes.values())
    assert sim.core.state.phase == "finished", sim.core.state.reason
    assert [n.outcome for n in nodes] == ["done"] * len(nodes) or sim.ended
    assert len({n.roster for n in nodes}) == 1 and nodes[0].roster is not None
    ranks = sorted((m.role, m.rank) for m in nodes[0].roster.members)
    assert len(set(ranks)) == len(ranks) == len(nodes)
    assert len({n.layouts for n in nodes if n.role == "worker"}) == 1
    assert all(n.passed == 2 for n in nodes if n.role == "worker")
    assert len(sim.ended) == 1 and not sim.ended[0].failed


@given(networks, st.integers(1, 3))
@settings(max_examples=80)
def test_a_scheduler_that_dies_and_comes_back_changes_nothing(network: dict[str, Any], crashes: int) -> None:
    sim = Simulation(**network, deaths=0, crashes=crashes)
    sim.run()
    everybody_is_done(sim)


@given(networks, st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=60)
def test_a_death_beside_that_of_the_scheduler_ends_the_run_for_everybody_or_comes_too_late(
    network: dict[str, Any], crashes: int, deaths: int
) -> None:
    sim = Simulation(**network, deaths=deaths, crashes=crashes)
    sim.run()
    assert len(sim.ended) == 1, "the scheduler always ends"
    assert all(n.outcome for n in sim.nodes.values() if not n.dead), "nobody is left waiting"
    lost = [n.token for n in sim.core.state.tokens.values() if n.state == "lost"]
    assert set(lost) <= set(sim.deaths), "the living are not blamed"


@given(networks, st.integers(1, 2))
@settings(max_examples=60)
def test_a_death_ends_the_run_for_everybody_or_comes_too_late(network: dict[str, Any], deaths: int) -> None:
    sim = Simulation(**network, deaths=deaths)
    sim.run()
    assert len(sim.ended) == 1, "the scheduler always ends"
    living = [n for n in sim.nodes.values() if not n.dead]
    assert all(n.outcome for n in living), "nobody is left waiting"
    if sim.core.state.phase == "finished":
        return
    guilty = sim.core.state.culprit
    lost = [n.token for n in sim.core.state.tokens.values() if n.state == "lost"]
    never_joined = [name for name in sim.deaths if name not in sim.core.state.tokens]
    assert set(lost) <= set(sim.deaths), "the living are not blamed"
    assert lost or never_joined or "did not join" in sim.core.state.reason
    for node in living:
        told = node.outcome.startswith(f"abort: {guilty}") or "NodeLostError" in node.outcome
        assert told or node.outcome == "done"


@pytest.mark.parametrize("seed", range(3))
def test_the_same_events_give_the_same_log(seed: int) -> None:
    logs = []
    for _ in range(2):
        sim = Simulation(seed, workers=3, servers=2, loss=0.2, repeat=0.2, deaths=1)
        sim.run()
        logs.append(sim.core.log)
    assert logs[0] == logs[1]
