"""Hogwild: threads that update one array without locks, and how many updates that loses.

python examples/hogwild.py                       4 threads, arrays of one million elements
python examples/hogwild.py --threads 8 --size 10000

Every thread pushes gradients of ones at a learning rate of 1, so that what is missing in the end was lost.
"""

import argparse
import threading
import time

import numpy as np

import shoal
from shoal.kvstore.hogwild import HogwildKVStore


def race(kv: HogwildKVStore, size: int, pushes: int) -> tuple[float, int]:
    """Seconds for all pushes of all threads, and how many updates of single elements were lost."""
    kv.init("w", np.zeros(size, np.float64))
    kv.set_optimizer(shoal.optim.create("sgd", learning_rate=1.0))
    ones = np.ones(size)

    def train(handle: HogwildKVStore) -> None:
        handle.barrier()
        for _ in range(pushes):
            handle.push("w", ones)

    threads = [threading.Thread(target=train, args=(kv.worker(r),)) for r in range(kv.num_workers)]
    began = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.perf_counter() - began
    return seconds, int(kv.num_workers * pushes * size + kv.shared("w").sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--size", type=int, default=1_000_000, help="elements of the array")
    parser.add_argument("--pushes", type=int, default=50, help="of each thread")
    args = parser.parse_args()
    total = args.threads * args.size * args.pushes
    for atomic in (False, True):
        kv = shoal.kv.create("hogwild", workers=args.threads, atomic=atomic)
        assert isinstance(kv, HogwildKVStore)
        seconds, lost = race(kv, args.size, args.pushes)
        what = "a lock for each slice" if atomic else "no locks"
        print(f"{what:22s} {total / seconds / 1e6:6.0f} M updates/s   lost {lost:,} of {total:,} ({lost / total:.4%})")


if __name__ == "__main__":
    main()
