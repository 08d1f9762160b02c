"""Parameter-server actors of Ray, after the shape of Ray's own example: a call a server and cycle.

Every worker is an actor that pushes to the servers itself, and gets the values back through the object store. A push is
applied at once: nobody waits for the other workers, which is less than the others do.
"""

import os
import sys
import tempfile

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import control
import numpy as np
import ray

GRADIENT, LR = np.float32(0.5), np.float32(2.0**-10)
STORE_BYTES = 3_000_000_000


@ray.remote
class Server:
    def __init__(self, shapes, sgd):
        self.sgd = sgd
        self.values = [np.zeros(s, "f4") for s in shapes]

    def push_pull(self, grads):
        for i, g in enumerate(grads):
            if self.sgd:
                self.values[i] -= LR * g
            else:
                self.values[i] += g
        return self.values


@ray.remote
class Worker:
    def serve(self, rank, servers, address, system):
        os.environ[control.ADDRESS], os.environ[control.SYSTEM] = address, system
        orders = control.Orders(rank)
        sgd, workers = orders.task["sgd"], orders.task["workers"]
        grads = [[np.full(s, GRADIENT, "f4") for s in part] for part in parts_of(orders.task["shapes"], len(servers))]
        last = [None]

        def direct():
            answers = ray.get([s.push_pull.remote(g) for s, g in zip(servers, grads, strict=False)])
            last[0] = float(answers[-1][-1].ravel()[-1])

        def check(rounds):
            done = last[0] / float(-LR * GRADIENT if sgd else GRADIENT)
            return rounds <= done + 1e-3 and done <= rounds * workers + workers * 50

        orders.serve(ray.__version__, {"direct": direct}, check)


def parts_of(shapes, servers):
    """Shapes for each server; whole tensors keep theirs, pieces of one are flat."""
    parts = [[] for _ in range(servers)]
    for k, server, start, stop in control.split(shapes, servers):
        whole = stop - start == control.size(shapes[k])
        parts[server].append(tuple(shapes[k]) if whole else (stop - start,))
    return [p for p in parts if p]


def main():
    servers, workers = int(sys.argv[1]), int(sys.argv[2])
    task = control.Orders(-1).task  # as an onlooker: what the set is
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        num_cpus=8,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        _temp_dir=tempfile.mkdtemp(prefix="r"),
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}},
    )
    shards = [Server.remote(p, task["sgd"]) for p in parts_of(task["shapes"], servers)]
    address, system = os.environ[control.ADDRESS], os.environ[control.SYSTEM]
    actors = [Worker.remote() for _ in range(workers)]
    ray.get([a.serve.remote(r, shards, address, system) for r, a in enumerate(actors)])
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
