"""Snapshots over networks that lose, repeat and reorder messages: each is exactly the contributions in its cut."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.kvstore.arrays import as_array
from shoal.kvstore.client.core import Complete, Fail, Job
from shoal.kvstore.client.snapshots import ends, fetches, joint_cut, surveys
from shoal.kvstore.snapshot import Cut
from shoal.kvstore.wire.messages import Value
from shoal.ops import optim
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_lossy_network import bad_networks, contribution

KEYS = 3


class Reading:
    """One snapshot by one worker: what a store does, as events of the simulated network."""

    def __init__(self, net: "Network", rank: int, number: int, then: Callable[[], None]) -> None:
        self.net, self.rank, self.number, self.then = net, rank, number, then
        self.values: dict[int, np.ndarray] = {}
        self.answers: list[Any] = []
        self.cut: Cut | None = None
        self.error = ""
        self.over = False
        self.reads = [net.job(k, None, True) for k in range(KEYS)]
        self._ask(surveys(self.reads, 1, number), self._surveyed)

    def _ask(self, jobs: list[Job], on_answer: Callable[[Any], None]) -> None:
        self._left = len(jobs)
        for job in jobs:
            job.token = (self, on_answer, job.key)
        self.net.submit(self.rank, jobs)

    def answered(self, action: Complete | Fail) -> None:
        if isinstance(action, Fail):
            self.error = action.text
        elif isinstance(action.result, Value) and action.result.value is not None:
            self.values[int(action.job.key)] = as_array(action.result.value)
        else:
            self.answers.append(action.result)
        self._left -= 1
        if self._left == 0:
            action.job.token[1](self)

    def _surveyed(self, _: Any) -> None:
        if self.error:
            return self._fetched(_)
        self.cut = joint_cut(self.answers)
        self._ask(fetches(self.reads, 1, self.number, self.cut), self._fetched)

    def _fetched(self, _: Any) -> None:
        self._ask(ends(self.reads, 1, self.number), self._ended)

    def _ended(self, _: Any) -> None:
        self.over = True
        self.then()


class Network(SimNet):
    """Workers that train and take snapshots meanwhile."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pushed: dict[tuple[int, int, int], Job] = {}  # by key, rank and step
        self.readings: list[Reading] = []
        for s in self.servers:
            s.table.configure(optim.create("test", rescale_grad=1.0), {}, {})
        for k in range(KEYS):
            self.init(k, np.zeros(4, np.float32))

    def train(self, steps: int, want: bool) -> None:
        for rank in range(len(self.clients)):
            for step in range(steps):
                for k in range(KEYS):
                    (job,) = self.submit(rank, [self.job(k, contribution(rank, step, k), want)])
                    self.pushed[k, rank, step] = job

    def snapshot_at(self, at: float, rank: int, number: int = 1, more: int = 0) -> None:
        """Worker ``rank`` takes a snapshot at that time, and ``more`` after it, one by one."""

        def then() -> None:
            if more:
                self.snapshot_at(self.now + 0.05, rank, number + 1, more - 1)

        self._at(at, ("call", lambda: self.readings.append(Reading(self, rank, number, then))))

    def _happen(self, event: Any) -> None:
        if event[0] == "call":
            event[1]()
        else:
            super()._happen(event)
        if event[0] == "call":  # its requests are repeated when they are due, as all are
            for rank in range(len(self.clients)):
                self._at(self.now, ("wake", rank))

    def _client_actions(self, rank: int, actions: list[Any]) -> None:
        super()._client_actions(rank, actions)
        for a in actions:
            if isinstance(a, Complete | Fail) and isinstance(a.job.token, tuple):
                a.job.token[0].answered(a)

    def finish(self) -> None:
        """Run until nobody trains; those who are done leave, so that nobody waits for them."""
        staying = set(range(len(self.clients)))
        for _ in range(400):
            self.run(self.now + 5.0)
            waits = {r.rank for r in self.readings if not r.over}
            done = {rank for rank in staying - waits if not self.busy(rank)}
            for rank in done:
                self.leave(rank)
            staying -= done
            if not staying and not waits:
                return
        raise AssertionError(f"workers {staying} wait for ever")

    def expected(self, cut: Cut, key: int) -> np.ndarray:
        """The sum of the contributions in a cut, but those that were dropped because they came too late."""
        if cut.version is None:
            inside = [(r, c) for r, n in cut.clocks.items() for c in range(n)]
        else:
            rounds = self.servers[key % len(self.servers)].rounds.get(key, [])
            assert len(rounds) >= cut.version
            inside = [part for r in rounds[: cut.version] for part in r]
        sent = {(r, self.pushed[k, r, s].clock): (r, s) for (k, r, s) in self.pushed if k == key and self.sent(k, r, s)}
        total = np.zeros(4, np.float32)
        for part in inside:
            rank, step = sent[part]
            if not any(job is self.pushed[key, rank, step] for job in self.dropped):
                total += contribution(rank, step, key)
        return total

    def sent(self, key: int, rank: int, step: int) -> bool:
        """Whether a contribution was sent: a client does not send what would come too late for its round."""
        return self.pushed[key, rank, step].payload is not None


GATES = ["bsp", "backup:1", "ksync:2", "kbatch:2", "kasync:2", "fedbuff:3", "ssp:1", "essp:2", "asp", "asp:max=1"]


def check(net: Network, steps: int) -> None:
    assert not net.failed
    for reading in net.readings:
        assert reading.over and not reading.error and reading.cut is not None
        assert sorted(reading.values) == list(range(KEYS))
        for key, value in reading.values.items():
            np.testing.assert_array_equal(value, net.expected(reading.cut, key))
    book, skipped = net.ledger(), sum(c.counters.skipped for c in net.clients)
    assert book["sent"] == book["acknowledged"] == book["applied"] + book["dropped"]
    assert book["sent"] + skipped == len(net.clients) * steps * KEYS
    for key in range(KEYS):
        want = sum(
            (contribution(r, s, k) for (k, r, s), job in net.pushed.items() if k == key and job not in net.dropped),
            np.zeros(4, np.float32),
        )
        np.testing.assert_array_equal(net.servers[key % len(net.servers)].table.cells[key].value, want)
    for s in net.servers:
        assert not s.core.snapshots.open and not s.core.snapshots._kept_bytes
        assert not any(e.branches for e in s.core.entries.values())
        assert not any(c.followers for c in s.table.cells.values()) and not s.branches._made


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    bad_networks,
    st.sampled_from(GATES),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=3),
)
def test_a_snapshot_is_the_sum_of_the_contributions_in_its_cut(
    network: dict[str, Any], gate: str, workers: int, servers: int, want: bool, taken: list[tuple[float, int, int]]
) -> None:
    net, steps = Network(workers, servers, gate, **network), 4
    net.train(steps, want)
    for rank, (at, more) in {r % workers: (at, more) for at, r, more in taken}.items():
        net.snapshot_at(at, rank, more=more)
    net.finish()
    check(net, steps)


@pytest.mark.parametrize("gate", GATES)
def test_snapshots_in_the_midst_of_training_have_some_of_it_and_not_all(gate: str) -> None:
    net = Network(3, 2, gate, seed=11)
    net.train(30, True)
    for i in range(6):
        net.snapshot_at(0.02 + 0.03 * i, i % 3, number=1 + i)
    net.finish()
    check(net, 30)
    totals = [float(r.values[0][3]) for r in net.readings]
    assert len({*totals}) > 2 and 0 < max(totals[:-1]) < 90, totals


@pytest.mark.parametrize("gate", ["bsp", "ssp:1", "asp"])
def test_training_takes_the_same_steps_in_the_same_order_with_and_without_snapshots(gate: str) -> None:
    """On a network without chance, so that snapshots cannot but change what they themselves change."""

    def orders(snapshots: int) -> list[list[tuple[int, int, int]]]:
        net = Network(3, 2, gate, seed=5)
        net.rng.random = lambda: 0.5  # type: ignore[method-assign]
        net.train(10, True)
        for i in range(snapshots):
            net.snapshot_at(0.013 + 0.01 * i, i % 3, number=1 + i)
        net.finish()
        assert len(net.readings) == snapshots
        return [s.applied for s in net.servers]

    assert orders(0) == orders(5)


def test_a_reader_hears_which_worker_has_left_without_the_contribution_that_it_needs() -> None:
    net = Network(2, 3, "asp", seed=1)
    net.submit(1, [net.job(0, contribution(1, 0, 0), False)])
    net.run(1.0)
    net.leave(1)
    net.snapshot_at(2.0, 0)
    net.run(20.0)
    assert "the snapshot needs 1 contributions of worker 1 to '" in net.readings[0].error
    assert "it has left after 0" in net.readings[0].error
    assert net.readings[0].over


def test_a_reader_of_keys_that_are_not_pushed_equally_often_is_told_of_key_and_worker_in_time() -> None:
    net = Network(2, 3, "asp", seed=1)
    net.clients[0].timeout_s = 20.0
    net.submit(1, [net.job(0, contribution(1, 0, 0), False)])
    net.snapshot_at(2.0, 0)
    net.run(100.0)
    assert "has waited for worker 1 to push '" in net.readings[0].error
    assert "limit (timeout_s=20)" in net.readings[0].error
    (late,) = net.submit(1, [net.job(1, contribution(1, 0, 1), True)])
    net.run(110.0)
    assert late in net.done and not any(s.core.snapshots.open for s in net.servers)
