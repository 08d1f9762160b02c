"""ps-lite, the transport under MXNet's KVStore, in C++ (BytePS's copy of it, which PyPI has the sources of).

Ways: ``per_key`` (a push and a pull a tensor, all under way at once) and ``batch`` (all tensors in one message a
server). A push is applied at once: nobody waits for the other workers, which is less than the others do.
"""

import ctypes
import os
import sys

import control
import numpy as np

GRADIENT, LR = 0.5, 2.0**-10
FEW = 300


def library():
    lib = ctypes.CDLL(os.environ["KVBENCH_PSLITE"])
    lib.pslite_start.argtypes = [ctypes.c_float]
    lib.pslite_first_key.restype = ctypes.c_uint64
    return lib


def address(array, kind):
    return array.ctypes.data_as(ctypes.POINTER(kind))


def node(sgd):
    """The scheduler, or a server."""
    lib = library()
    lib.pslite_start(LR if sgd else 0.0)
    lib.pslite_end()


def worker(rank):
    orders = control.Orders(rank)
    shapes, sgd, servers = orders.task["shapes"], orders.task["sgd"], orders.task["servers"]
    workers = orders.task["workers"]
    lib = library()
    lib.pslite_start(LR if sgd else 0.0)
    first = [lib.pslite_first_key(i) for i in range(servers)]
    pieces = sorted((first[s] + i, b - a) for i, (_, s, a, b) in enumerate(control.split(shapes, servers)))
    keys = np.array([k for k, _ in pieces], np.uint64)
    lens = np.array([n for _, n in pieces], np.int32)
    grads, values = np.full(lens.sum(), GRADIENT, np.float32), np.zeros(lens.sum(), np.float32)
    args = [len(pieces), address(keys, ctypes.c_uint64), address(lens, ctypes.c_int)]
    args += [address(grads, ctypes.c_float), address(values, ctypes.c_float)]

    def check(rounds):
        done = float(values[-1]) / (-LR * GRADIENT if sgd else GRADIENT)
        return rounds <= done + 1e-3 and done <= rounds * workers + 1e-3

    ways = {"per_key": lambda: lib.pslite_cycle(*args, 0), "batch": lambda: lib.pslite_cycle(*args, 1)}
    lib.pslite_barrier()
    orders.serve("byteps 0.2.5.post15", ways, check)
    lib.pslite_end()


def main():
    servers, workers = int(sys.argv[1]), int(sys.argv[2])
    watcher = control.Orders(-1)  # as an onlooker: whether the servers apply SGD
    env = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(control.free_port()),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_SERVER": str(servers),
        "DMLC_NUM_WORKER": str(workers),
    }
    sgd = str(int(watcher.task["sgd"]))
    commands = [([__file__, "node", sgd], {**env, "DMLC_ROLE": r}) for r in ["scheduler"] + ["server"] * servers]
    commands += [([__file__, "worker", str(r)], {**env, "DMLC_ROLE": "worker"}) for r in range(workers)]
    return control.start(commands)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        node(sys.argv[2] == "1")
    elif sys.argv[1] == "worker":
        worker(int(sys.argv[2]))
    else:
        sys.exit(main())
