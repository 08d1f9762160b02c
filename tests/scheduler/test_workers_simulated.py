"""Workers that die, are replaced, leave and come late, over a bad network, with a scheduler that dies too."""

import itertools
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.kvstore.wire.messages import (
    Arrived,
    Barrier,
    Changed,
    Farewell,
    Left,
    Meet,
    Met,
    Released,
    Replaced,
    Roster,
    Shared,
    Stop,
    Welcome,
)
from shoal.scheduler.core import SchedulerConfig, SchedulerCore
from shoal.scheduler.member import MemberConfig, MemberCore, barrier_key, meet_key
from tests.scheduler.test_simulation import GRACE_S, LEASE_S, SimNode, Simulation

STEPS, STEP_S = 12, 0.4
NEWS = Left | Replaced | Arrived | Shared | Changed


class Worker(SimNode):
    """A worker that trains for some steps, and comes to the end of each; a server if that is its role."""

    def __init__(self, role: str, name: str, rank: int = -1, replaces: bool = False, begin: int = 0) -> None:
        super().__init__(role, name)
        config = MemberConfig(
            role, rank, token=name, scheduler="s", version="1", goodbye_s=1e9, join_timeout_s=1e9, replaces=replaces
        )
        self.core = MemberCore(config)
        self.step, self.next_at = begin, 0.0
        self.doing = "wait"  # then "train", "meet", "barrier", "over"
        self.shares: list[Shared] = []
        self.generation = self.asked = 0
        self.gone: tuple[int, ...] = ()
        self.late, self.leaves_at = False, 1e9

    def news(self, message: Any, now: float) -> list[Any]:
        if isinstance(message, NEWS):
            assert message.generation == self.generation + 1, "news come in order, without gaps"
            self.generation = message.generation
        match message:
            case Welcome(late=late):
                self.late = late
            case Roster():
                assert self.roster is None, "the roster is news once"
                self.roster, self.generation = message, message.generation
                ranks = tuple(m.rank for m in message.members if m.role == "worker")
                self.shares.append(Shared(generation=message.generation, number=0, ranks=ranks, cursors={}, counted={}))
                if self.role == "worker":
                    return self.meet(now) if self.late else self.train(now)
            case Shared(number=number):
                assert number == len(self.shares), "sets of workers come in order"
                self.shares.append(message)
            case Met():
                return self.met(message, now)
            case Released():
                self.doing = "over"
                return self.core.leave("", {"steps": self.step}, now)
            case Stop():
                return self.core.leave("", {}, now)
            case Farewell():
                self.outcome = "done"
        return []

    @property
    def rank(self) -> int:
        assert self.core.welcome is not None
        return self.core.welcome.rank

    def train(self, now: float) -> list[Any]:
        self.doing, self.next_at = "train", now + STEP_S
        return []

    def meet(self, now: float, **counted: tuple[int, ...]) -> list[Any]:
        self.doing = "meet"
        self.asked = number = len(self.shares)
        cursor = None if self.late else {"steps": self.step}
        known = {rank[1:]: c for rank, c in counted.items()}
        return self.ask(Meet(number=number, cursor=cursor, counted=known), meet_key(number), now)

    def met(self, m: Met, now: float) -> list[Any]:
        if m.missing and not m.gone and not m.later:
            return []
        if m.gone:  # it asks the servers, which takes a moment
            self.doing, self.gone, self.next_at = "ask", m.gone, now + STEP_S / 2
            return []
        if m.later:
            self.train(now)
            return []
        self.doing = "shared"  # go on when the news is here
        return []

    def turn(self, now: float) -> list[Any]:
        """What a worker does by itself."""
        if self.role != "worker" or self.outcome or self.roster is None or self.doing in ("over", "barrier", "meet"):
            return []
        if self.doing == "shared":
            if self.rank not in self.shares[-1].ranks:  # the set has changed without it
                return self.meet(now) if len(self.shares) > self.asked else []
            self.late = False
            return self.train(now)
        if now < self.next_at:
            return []
        if self.doing == "ask":
            return self.meet(now, **{f"r{rank}": (1, 1) for rank in self.gone})
        if self.late:
            self.late = self.rank not in self.shares[-1].ranks  # an answer to an older question may have come last
            return self.meet(now) if self.late else self.train(now)
        if now >= self.leaves_at:
            self.doing = "over"
            return self.core.leave("", {"steps": self.step}, now, left="told to")
        self.step += 1
        if self.step >= STEPS:
            self.doing = "barrier"
            return self.ask(Barrier(name="over", index=0), barrier_key("over", 0), now)
        if self.core.change >= len(self.shares):
            return self.meet(now)
        return self.train(now)


class Crowd(Simulation):
    """A simulation whose workers change.

    Args:
        replaced: by rank, when its process dies; another takes its place.
        leaving: by rank, when it is told to leave.
        late: when further workers come.
    """

    def __init__(
        self,
        seed: int,
        workers: int,
        loss: float,
        crashes: int,
        replaced: dict[int, float],
        leaving: dict[int, float],
        late: list[float],
    ) -> None:
        super().__init__(seed, workers, 1, loss, 0.2, 0, crashes)
        self.config = SchedulerConfig(
            workers, 1, version="1", lease_s=LEASE_S, grace_s=GRACE_S, worker_grace_s=60.0, settle_s=0.1
        )
        self.core = SchedulerCore(self.config)
        self.disk = list(self.core.log)
        made = [Worker("worker", f"w{i}", i) for i in range(workers)] + [Worker("server", "s0", 0)]
        self.nodes = {n.name: n for n in made}
        for rank, at in leaving.items():
            made[rank].leaves_at = at
        self.replaced, self.to_come = dict(replaced), sorted(late, reverse=True)

    def act(self, node: SimNode, actions: list[Any]) -> None:
        assert isinstance(node, Worker)
        super().act(node, [*actions, *node.turn(self.now)])

    def crash(self) -> None:
        super().crash()
        for rank, at in list(self.replaced.items()):
            old = self.nodes.get(f"w{rank}")
            if self.now >= at and isinstance(old, Worker) and old.roster is not None and not old.outcome:
                del self.replaced[rank]
                old.dead = True
                if old.doing != "over":  # of one that has said goodbye nobody takes the place
                    self.come(Worker("worker", f"v{rank}", rank, replaces=True, begin=old.step))
        if self.to_come and self.now >= self.to_come[-1] and self.core.state.phase == "running":
            self.to_come.pop()
            self.come(Worker("worker", f"n{len(self.to_come)}"))

    def come(self, node: Worker) -> None:
        self.nodes[node.name], self.begin[node.name] = node, self.now

    def carry_out(self, actions: list[Any]) -> None:
        super().carry_out(actions)
        live = [n.member.rank for n in self.core.state.tokens.values() if n.live and n.member.role == "worker"]
        assert len(set(live)) == len(live), "a rank has one live process"


times = st.floats(0.5, 9.0)


@settings(max_examples=30)
@example(99349, 2, 0.0, 0, {}, {}, [1.5, 5.1875])
@given(
    st.integers(0, 2**32),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 1),
    st.dictionaries(st.integers(0, 3), times, max_size=2),
    st.dictionaries(st.integers(1, 3), times, max_size=2),
    st.lists(times, max_size=2),
)
def test_whoever_comes_and_goes_the_rest_trains_to_the_end_and_knows_the_same(
    seed: int,
    workers: int,
    loss: float,
    crashes: int,
    replaced: dict[int, float],
    leaving: dict[int, float],
    late: list[float],
) -> None:
    mine = {r: t for r, t in replaced.items() if r < workers}
    others = {r: t for r, t in leaving.items() if r < workers and r not in mine}
    sim = Crowd(seed, workers, loss, crashes, mine, others, late)
    sim.run(300.0)
    assert sim.core.state.phase == "finished", (sim.core.state.phase, sim.core.state.reason)
    told = [n for n in sim.nodes.values() if isinstance(n, Worker) and not n.dead]
    came = [n for n in told if n.role == "server" or not n.name.startswith("n") or len(n.shares) > 1]
    assert all(n.outcome == "done" for n in came), "nobody is left waiting"
    shares = sim.core.state.shares
    for n in told:
        assert n.shares == shares[: len(n.shares)], "everybody knows the same sets, as far as it was there"
    for before, after in itertools.pairwise(shares):
        assert after.number == before.number + 1 and after.ranks
        assert {int(r) for r in (*after.cursors, *after.counted)} == set(before.ranks), (
            "of everybody it is known how far"
        )
