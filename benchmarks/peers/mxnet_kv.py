"""MXNet 1.9.1's distributed KVStore: one call a tensor, as gluon.Trainer makes them.

Ways: ``pushpull`` (one fused call) and ``push_pull`` (two). One OpenMP thread a process: faster here than its default.
"""

import os
import sys

import control

GRADIENT, LR = 0.5, 2.0**-10


def worker():
    import mxnet as mx

    orders = control.Orders(int(os.environ["KVBENCH_RANK"]))
    shapes, sgd = [tuple(s) for s in orders.task["shapes"]], orders.task["sgd"]
    workers = orders.task["workers"]
    kv = mx.kv.create("dist_sync")
    if sgd:
        kv.set_optimizer(mx.optimizer.create("sgd", learning_rate=LR))
    grads = [mx.nd.ones(s) * GRADIENT for s in shapes]
    outs = [mx.nd.zeros(s) for s in shapes]
    keys = list(range(len(shapes)))
    for k, s in zip(keys, shapes, strict=False):
        kv.init(k, mx.nd.zeros(s))
    mx.nd.waitall()
    kv._barrier()

    def pushpull():
        for k in keys:
            kv.pushpull(k, grads[k], out=outs[k], priority=-k)
        mx.nd.waitall()

    def push_pull():
        for k in keys:
            kv.push(k, grads[k], priority=-k)
            kv.pull(k, outs[k], priority=-k)
        mx.nd.waitall()

    def value():
        return float(outs[-1].reshape(-1)[-1].asscalar())

    def check(rounds):
        """Of one more exchange with a fresh gradient: pushpull has written its answers over the gradients, too."""
        before = value()
        for g in grads:
            g[:] = GRADIENT
        mx.nd.waitall()
        push_pull()
        total = workers * GRADIENT
        return abs(value() - (before - LR * total if sgd else total)) < 1e-6

    orders.serve(mx.__version__, {"pushpull": pushpull, "push_pull": push_pull}, check)


def main():
    servers, workers = int(sys.argv[1]), int(sys.argv[2])
    env = {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(control.free_port()),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_SERVER": str(servers),
        "DMLC_NUM_WORKER": str(workers),
        "OMP_NUM_THREADS": "1",
    }
    commands = [(["-c", "import mxnet"], {**env, "DMLC_ROLE": r}) for r in ["scheduler"] + ["server"] * servers]
    for rank in range(workers):
        commands.append(([__file__, "worker"], {**env, "DMLC_ROLE": "worker", "KVBENCH_RANK": str(rank)}))
    return control.start(commands)


if __name__ == "__main__":
    sys.exit(worker() if sys.argv[1] == "worker" else main())
