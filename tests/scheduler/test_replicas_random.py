"""Whatever happens to servers and replicas, in whatever order: one primary, never one that lacks anything."""

import hypothesis.strategies as st
from hypothesis import given, settings

from shoal.kvstore.wire.messages import InStep, Lost, Replaced
from tests.scheduler.helpers import BEAT, Scheduler, join
from tests.scheduler.test_replicas import with_replicas


class World:
    """One server and its replicas: who is alive, and who has everything, as they know it themselves."""

    def __init__(self) -> None:
        self.s: Scheduler = with_replicas(lease_s=4.0)
        self.primary, self.replica = "s0", "r0"
        self.pids = {"s0": 200, "r0": 300}
        self.full = {"r0"}  # replicas that have everything, as their primary knows
        self.requests = 0

    def new(self) -> None:
        name = f"n{len(self.pids)}"
        self.pids[name] = 400 + len(self.pids)
        self.s.hear(name, join("replica", name, 0, pid=self.pids[name]))
        self.look()

    def say_in_step(self, incarnation: int) -> None:
        node = self.s.core.state.nodes.get(("replica", 0))
        self.requests += 1
        if node is not None and node.live and node.member.incarnation == incarnation:
            self.full.add(node.token)
        self.s.hear(self.primary, InStep(request=self.requests, incarnation=incarnation))

    def lost(self, role: str, name: str) -> None:
        before = self.s.core.state.nodes["server", 0].token
        had = self.s.core.state.nodes.get(("replica", 0))
        self.s.hear("l", Lost(role=role, rank=0, pid=self.pids[name], host="h", reason="killed"))
        after = self.s.core.state.nodes["server", 0].token
        if after != before:
            assert had is not None and after == had.token and after in self.full, "only one that has everything leads"
        self.look()

    def look(self) -> None:
        nodes = self.s.core.state.nodes
        self.primary = nodes["server", 0].token
        self.replica = nodes["replica", 0].token if ("replica", 0) in nodes else ""

    def check(self) -> None:
        self.s.core.check()
        told = [m.member for m in self.s.told("w0", Replaced) if m.member.role == "server"]
        numbers = [m.incarnation for m in told]
        assert numbers == list(range(2, 2 + len(numbers))), "each fail-over is told once, as the next incarnation"
        assert len({m.address for m in told}) == len(told), "nobody leads twice"
        assert self.s.core.state.phase == "running"


STEPS = st.lists(
    st.tuples(st.sampled_from(["kill primary", "kill replica", "new", "in step", "again", "time"]), st.integers(1, 6)),
    max_size=30,
)


@settings(max_examples=150)
@given(steps=STEPS)
def test_there_is_one_primary_and_it_has_everything(steps: list[tuple[str, int]]) -> None:
    world = World()
    for step, number in steps:
        match step:
            case "kill primary":
                world.lost("server", world.primary)
            case "kill replica" if world.replica:
                world.lost("replica", world.replica)
            case "new":
                world.new()
            case "in step":
                world.say_in_step(number)
            case "again":  # an old word about somebody, as whatever
                name = sorted(world.pids)[number % len(world.pids)]
                world.lost("server" if number % 2 else "replica", name)
            case "time":
                live = [n for n in (world.primary, world.replica) if n]
                world.s.sleep(number, beating=" ".join(["w0", "w1", *live]))
        world.look()
        world.check()
    world.s.hear(world.primary, BEAT)
