"""What each of many workers runs: synchronous, then asynchronous rounds on a tiny model, with their known results.

Argument: rounds of each.
"""

import sys

import numpy as np

import shoal

ROUNDS, RATE = int(sys.argv[1]), 2.0**-10


def trained(mode: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The weights after everybody has pushed ones, so many times."""
    kv = shoal.kv.create(f"dist_{mode}")
    kv.init(mode, np.zeros(100, np.float32))
    kv.set_optimizer(shoal.optim.create("sgd", learning_rate=RATE))
    out = np.empty(100, np.float32)
    for _ in range(ROUNDS):
        kv.pushpull(mode, np.ones(100, np.float32), out)
    kv.barrier()
    kv.pull(mode, out)
    assert kv.ledger()["sent"] == kv.ledger()["acknowledged"]
    return out


n = shoal.num_workers()
assert (trained("sync") == -RATE * ROUNDS).all(), "the mean of all is one step a round"
assert (trained("async") == -RATE * ROUNDS * n).all(), "each contribution is a step"
