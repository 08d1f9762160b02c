"""Limits of a gate that change while messages are lost, repeated and reordered: all counts, nobody waits for ever."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.ops import optim
from tests.kvstore.simnet import SimNet
from tests.kvstore.test_control_core import change
from tests.kvstore.test_lossy_network import bad_networks

changes = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-1, 8), st.booleans()), min_size=1, max_size=3
)  # slack, clock, and whether the workers hear of it as well


def announce(net: SimNet, number: int, slack: int, at_clock: int, heard: bool) -> None:
    told: dict[str, Any] = {"s": slack}
    for i, server in enumerate(net.servers):
        for to, answer in server.carry_out(server.core.change(change(number, at_clock, **told))):
            net._carry(("client", int(to[1:]), i, answer))
    for client in net.clients if heard else ():
        client.alter(1, told, at_clock)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(bad_networks, st.sampled_from(["ssp:1", "ssp:3", "essp:2"]), st.integers(1, 3), changes)
def test_every_contribution_counts_once_whatever_becomes_of_the_slack(
    network: dict[str, Any], gate: str, workers: int, planned: list[tuple[int, int, bool]]
) -> None:
    net, rounds = SimNet(workers, 2, gate, **network), 4
    for s in net.servers:
        s.table.configure(optim.create("test", rescale_grad=1.0), {}, {})
    for k in range(2):
        net.init(k, np.zeros(1, np.float32))
    for rank in range(workers):
        for _ in range(rounds):
            net.submit(rank, [net.job(k, np.ones(1, np.float32), True) for k in range(2)])
    for number, (slack, at_clock, heard) in enumerate(planned, 1):
        net.run(until=net.now + 0.02)
        announce(net, number, slack, at_clock, heard)
    net.run()
    assert not net.failed and not any(net.busy(r) for r in range(workers))
    book = net.ledger()
    assert book["sent"] == book["acknowledged"] == book["applied"] == workers * rounds * 2
    assert [float(net.servers[k].table.cells[k].value[0]) for k in range(2)] == [workers * rounds] * 2
