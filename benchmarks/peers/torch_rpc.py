"""A parameter server of PyTorch's: torch.distributed.rpc (TensorPipe; shared memory on one host), one call a server.

The servers add up what all workers push, apply SGD if told to, and answer every worker when the round is complete.
"""

import os
import sys
import threading

import control
import torch
import torch.distributed.rpc as rpc

GRADIENT, LR = 0.5, 2.0**-10


class Shard:
    """One server's tensors."""

    def __init__(self):
        self.lock = threading.Lock()
        self.values, self.total, self.waiting = {}, {}, []
        self.workers, self.sgd = 1, False

    def step(self, total):
        for k, g in total.items():
            if self.sgd:
                self.values[k].add_(g, alpha=-LR)
            else:
                self.values[k] = g


SHARD = Shard()
READY = threading.Event()


def setup(sizes, workers, sgd):
    SHARD.values = {k: torch.zeros(n) for k, n in sizes.items()}
    SHARD.workers, SHARD.sgd = workers, sgd


def wait_ready(rank):
    """On worker 0: returns once worker 0 has set the servers up."""
    if rank == 0:
        READY.set()
    READY.wait(120)


@rpc.functions.async_execution
def push_pull(grads):
    """The values, once every worker has pushed."""
    with torch.no_grad(), SHARD.lock:
        answer = torch.futures.Future()
        SHARD.waiting.append(answer)
        if len(SHARD.waiting) == 1:
            SHARD.total = grads
        else:
            for k, g in grads.items():
                SHARD.total[k].add_(g)
        if len(SHARD.waiting) < SHARD.workers:
            return answer
        SHARD.step(SHARD.total)
        waiting, SHARD.waiting = SHARD.waiting, []
        values = dict(SHARD.values)
    for other in waiting:
        other.set_result(values)
    return answer


def join(name, rank, world):
    torch.set_num_threads(1)
    sockets = {"_transports": ["uv"], "_channels": ["basic"]} if os.environ.get("KVBENCH_SOCKETS") else {}
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=8, init_method=os.environ["KVBENCH_MEET"], rpc_timeout=240, **sockets
    )
    rpc.init_rpc(name, rank=rank, world_size=world, rpc_backend_options=options)


def server(rank, servers, workers):
    join(f"server{rank}", rank, servers + workers)
    rpc.shutdown()


def worker(rank, servers, workers):
    orders = control.Orders(rank)
    join(f"worker{rank}", servers + rank, servers + workers)
    import torch_rpc as me  # functions are shipped by module and name

    shapes, sgd = orders.task["shapes"], orders.task["sgd"]
    pieces = control.split(shapes, servers)
    sizes = [{str(p): b - a for p, (_, s, a, b) in enumerate(pieces) if s == i} for i in range(servers)]
    sizes = [s for s in sizes if s]
    if rank == 0:
        for i, s in enumerate(sizes):
            rpc.rpc_sync(f"server{i}", me.setup, (s, workers, sgd))
    grads = [{k: torch.full((n,), GRADIENT) for k, n in s.items()} for s in sizes]
    outs = [{} for _ in sizes]
    rpc.rpc_sync("worker0", me.wait_ready, (rank,))

    def batch():
        answers = [rpc.rpc_async(f"server{i}", me.push_pull, (g,)) for i, g in enumerate(grads)]
        for i, answer in enumerate(answers):
            outs[i] = answer.wait()

    def check(rounds):
        total = workers * GRADIENT
        got = float(list(outs[-1].values())[-1][-1])
        return abs(got - (-LR * rounds * total if sgd else total)) < 1e-3

    orders.serve(torch.__version__, {"batch": batch}, check)
    rpc.shutdown()


def main():
    servers, workers = int(sys.argv[1]), int(sys.argv[2])
    here = os.path.dirname(os.path.abspath(__file__))
    env = {
        "KVBENCH_MEET": f"tcp://127.0.0.1:{control.free_port()}",
        "TP_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": here,
    }
    roles = [("server", i) for i in range(servers)] + [("worker", i) for i in range(workers)]
    call = "import sys; sys.argv[0] = ''; import torch_rpc as m; getattr(m, sys.argv[1])(*map(int, sys.argv[2:]))"
    return control.start([(["-c", call, role, str(i), str(servers), str(workers)], env) for role, i in roles])


if __name__ == "__main__":
    sys.exit(main())
