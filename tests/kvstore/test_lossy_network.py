"""Whatever the network does to messages, every contribution counts exactly once."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.ops import optim
from tests.kvstore.simnet import SimNet

bad_networks = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "loss": st.sampled_from([0.0, 0.1, 0.4]),
        "repeat": st.sampled_from([0.0, 0.2, 0.6]),
    }
)
gates = st.sampled_from(["bsp", "ssp:1", "ssp:3", "asp"])


def contribution(rank: int, round_: int, key: int) -> np.ndarray:
    return np.array([rank + 1, 10 * round_, key, 1], np.float32)


def train(net: SimNet, rounds: int, keys: int, plan: str) -> None:
    """Each worker pushes ``rounds`` times to each key: by pushpull, or by push then pull, or push only."""
    for k in range(keys):
        net.init(k, np.zeros(4, np.float32))
    for rank in range(len(net.clients)):
        for r in range(rounds):
            for k in range(keys):
                g = contribution(rank, r, k)
                net.submit(rank, [net.job(k, g, plan == "pushpull")])
                if plan == "push, pull":
                    net.submit(rank, [net.job(k, None, True)])
    net.run()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, gates, st.integers(1, 3), st.integers(1, 2), st.sampled_from(["pushpull", "push, pull", "push"]))
def test_every_contribution_counts_exactly_once(
    network: dict, gate: str, workers: int, servers: int, plan: str
) -> None:
    rounds, keys = 3, 3
    net = SimNet(workers, servers, gate, **network)
    for s in net.servers:
        s.table.configure(optim.create("test", rescale_grad=1.0), {}, {})
    train(net, rounds, keys, plan)
    assert not net.failed
    for k in range(keys):
        want = sum(contribution(w, r, k) for w in range(workers) for r in range(rounds))
        cell = net.servers[k % servers].table.cells[k]
        np.testing.assert_array_equal(cell.value, want)
    book = net.ledger()
    assert book["sent"] == book["acknowledged"] == book["applied"] == workers * rounds * keys
    assert book["rejected"] == 0


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.integers(1, 4), st.integers(1, 3))
def test_synchronous_training_is_bit_identical_on_any_network(network: dict, workers: int, servers: int) -> None:
    rng = np.random.default_rng(7)
    grads = rng.standard_normal((workers, 3, 2, 4)).astype(np.float32)

    def final(net: SimNet) -> bytes:
        for k in range(2):
            net.init(k, np.zeros(4, np.float32), reduce="mean")
        for w in range(workers):
            for r in range(3):
                for k in range(2):
                    net.submit(w, [net.job(k, grads[w, r, k], True)])
        net.run()
        return b"".join(net.servers[k % len(net.servers)].table.cells[k].value.tobytes() for k in range(2))

    assert final(SimNet(workers, servers, "bsp", **network)) == final(SimNet(workers, 1, "bsp"))


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_sees_exactly_the_rounds_before_it(seed: int) -> None:
    net = SimNet(2, 1, "bsp", seed=seed, loss=0.3, repeat=0.3)
    net.init(0, np.zeros(4, np.float32))
    reads = []
    for rank in range(2):
        for r in range(4):
            reads.append((r, net.submit(rank, [net.job(0, None, True)])[0]))
            net.submit(rank, [net.job(0, np.full(4, r + 1, np.float32), False)])
    net.run()
    for r, job in reads:
        np.testing.assert_array_equal(net.values[id(job)], np.full(4, 2 * r if r else 0, np.float32))


def test_no_worker_gets_further_ahead_than_the_gate_allows() -> None:
    net = SimNet(2, 1, "ssp:2", seed=1)
    net.init(0, np.zeros(4, np.float32))
    for _ in range(10):
        net.submit(0, [net.job(0, np.ones(4, np.float32), False)])
    net.run(until=20.0)
    assert net.clients[0].lanes[0].clock == 3
