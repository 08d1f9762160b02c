"""Corrections of contributions that come from old weights: closed forms, through the server's core and table."""

from dataclasses import dataclass

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.kvstore import rules
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.rules import CellView, Part, Rule, parse, register
from shoal.kvstore.wire.messages import Init, Pull, Push
from shoal.ops import optim
from tests.kvstore.simnet import SimServer
from tests.kvstore.threads import thread_cluster


class Shard:
    """One server with one weight, driven message by message."""

    def __init__(self, workers: int, rule: str, gate: str = "asp", weight: float = 1.0, lr: float = 0.1) -> None:
        self.server = SimServer(0, workers)
        self.server.handle("w0", self._init(gate, weight), 0.0)
        self.server.table.configure(optim.create("sgd", learning_rate=lr), {}, {}, rule=parse(rule))
        self.seq = 0

    @staticmethod
    def _init(gate: str, weight: float) -> Init:
        value = as_payload(np.array([weight], np.float64))
        return Init(seq=0, store=1, slice=0, key="w", gate=gate, reduce="mean", value=value)

    @property
    def weight(self) -> float:
        return float(self.server.table.cells[0].value[0])

    def pull(self, rank: int, clock: int = 0) -> None:
        self.seq += 1
        self.server.handle(
            f"w{rank}", Pull(worker=rank, incarnation=1, seq=self.seq, slice=0, clock=clock, payload=True), 0.0
        )

    def push(self, rank: int, gradient: float, clock: int = 0, pulled: int = 0) -> float:
        self.seq += 1
        message = Push(
            worker=rank,
            incarnation=1,
            seq=self.seq,
            slice=0,
            clock=clock,
            pulled=pulled,
            round=pulled,
            want=False,
            value=as_payload(np.array([gradient], np.float64)),
        )
        self.server.handle(f"w{rank}", message, 0.0)
        return self.weight


def test_delay_compensation_of_three_workers_that_read_the_same_weight() -> None:
    shard = Shard(3, "dcasgd:lam=2")
    for rank in range(3):
        shard.pull(rank)
    np.testing.assert_allclose([shard.push(rank, 1.0) for rank in range(3)], [0.9, 0.82, 0.756], rtol=1e-12)


def test_each_worker_has_a_backup_of_its_own() -> None:
    """A single shared backup would be refreshed by every reader, and compensate for less."""
    shard = Shard(2, "dcasgd:lam=1")
    shard.pull(0)
    shard.push(1, 1.0)
    shard.pull(1, 1)
    before = shard.weight
    assert shard.push(0, 1.0) == pytest.approx(before - 0.1 * (1.0 + 1.0 * (before - 1.0)))


def test_nothing_is_compensated_when_nothing_has_moved() -> None:
    shard = Shard(1, "dcasgd:lam=5")
    shard.pull(0)
    assert shard.push(0, 1.0) == pytest.approx(0.9)


def test_adaptive_compensation_is_scaled_by_recent_gradients() -> None:
    shard = Shard(2, "dcasgd:lam=2,adaptive=true,m=0.5,eps=1e-7")
    shard.pull(0)
    shard.pull(1)
    shard.push(0, 1.0)
    square = 0.5 * (0.5 * 1.0) + 0.5 * 4.0
    want = 0.9 - 0.1 * (2.0 + 2.0 / np.sqrt(square + 1e-7) * 4.0 * (0.9 - 1.0))
    assert shard.push(1, 2.0) == pytest.approx(want, rel=1e-6)


def test_a_step_is_divided_by_the_staleness() -> None:
    shard = Shard(2, "stale")
    for clock in range(4):
        shard.push(0, 0.0, clock, clock)
    assert 1.0 - shard.push(1, 1.0) == pytest.approx(0.025, rel=1e-12)


def test_fresh_contributions_are_not_scaled() -> None:
    assert 1.0 - Shard(1, "stale").push(0, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(("tau", "weight"), [(0, 1.0), (1, 0.7071), (3, 0.5), (8, 0.3333)])
def test_weights_by_the_root_of_the_staleness(tau: int, weight: float) -> None:
    rule = parse("stale:law=sqrt")
    out = np.empty(1)
    assert rule is not None
    rule.correct(CellView(np.zeros(1)), Part(0, tau, np.ones(1)), out)
    assert out[0] == pytest.approx(weight, abs=5e-5)


def test_a_buffer_of_one_is_asynchronous_sgd_bit_for_bit() -> None:
    gradients = np.random.default_rng(3).standard_normal(40)

    def train(gate: str) -> list[float]:
        shard, clocks = Shard(4, "", gate), [0] * 4
        found = []
        for i, g in enumerate(gradients):
            found.append(shard.push(i % 4, g * shard.weight, clocks[i % 4], max(0, i - 3)))
            clocks[i % 4] += 1
        return found

    assert train("fedbuff:1") == train("asp")


def test_a_buffer_takes_the_mean_of_its_contributions() -> None:
    shard = Shard(3, "", "fedbuff:2")
    assert shard.push(0, 1.0) == 1.0
    assert shard.push(1, 3.0) == pytest.approx(1.0 - 0.1 * 2.0)


def test_specs_read_back_as_what_they_came_from() -> None:
    for text in ("stale", "stale:law=sqrt", "dcasgd:lam=0.1", "dcasgd:lam=2.0,adaptive=true"):
        rule = parse(text)
        assert rule is not None and parse(rule.spec()) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dcsgd", "Did you mean 'dcasgd'"),
        ("stale:laww=sqrt", "known: law"),
        ("stale:law=cubic", "known: inverse, sqrt"),
        ("dcasgd:lam=much", "expected float"),
        ("dcasgd:lam=-1", "lam >= 0"),
        ("dcasgd:lam=1,lam=2", "twice"),
    ],
)
def test_a_rule_that_cannot_be_says_what_can(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


@dataclass(frozen=True)
class Clipped(Rule):
    """No element of a contribution is larger than ``most``."""

    most: float = 1.0

    def correct(self, cell: CellView, part: Part, out: Array) -> None:
        np.clip(part.value, -self.most, self.most, out=out)


def test_a_rule_of_ones_own_is_a_few_lines() -> None:
    register("test-clipped")(Clipped)
    with thread_cluster(2, 2, "asp") as cluster:

        def work(kv):  # type: ignore[no-untyped-def]
            kv.init("w", np.zeros(4, np.float32))
            kv.set_optimizer(optim.create("sgd", learning_rate=1.0), rule="test-clipped:most=0.25")
            kv.push("w", np.full(4, 9.0, np.float32)).result()
            kv.barrier()
            return kv.pull("w")

        for got in cluster.each(work):
            np.testing.assert_array_equal(got, np.full(4, -0.5))


def test_a_local_store_corrects_as_well() -> None:
    kv = LocalKVStore()
    kv.init("w", np.ones(1))
    kv.set_optimizer(optim.create("sgd", learning_rate=0.1), rule="dcasgd:lam=2")
    kv.pull("w")
    kv.push("w", np.ones(1))
    assert kv.pull("w")[0] == pytest.approx(0.9)
    kv.push("w", np.ones(1))
    assert kv.pull("w")[0] == pytest.approx(0.8)


def test_a_rule_name_is_taken_once() -> None:
    @dataclass(frozen=True)
    class Other(Rule):
        """Something else."""

        def correct(self, cell: CellView, part: Part, out: Array) -> None:
            np.copyto(out, part.value)

    with pytest.raises(ConfigError, match="already"):
        rules.register("stale")(Other)
