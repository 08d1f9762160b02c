"""All-reduce of PyTorch's Gloo backend among the workers; with SGD, every worker takes the step itself.

Ways: ``bucket`` (flat 25 MB buckets with copies in and out, as DistributedDataParallel makes them) and, for sets of
few tensors, ``tensor`` (one call a tensor, in place).
"""

import os
import sys

import control
import torch
import torch.distributed as dist

GRADIENT, LR = 0.5, 2.0**-10
BUCKET = 6_250_000
FEW = 300


def buckets_of(tensors):
    made, current, n = [], [], 0
    for t in tensors:
        current.append(t)
        n += t.numel()
        if n >= BUCKET:
            made.append(current)
            current, n = [], 0
    return made + ([current] if current else [])


def worker():
    torch.set_num_threads(1)
    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    orders = control.Orders(rank)
    dist.init_process_group("gloo")
    shapes, sgd = orders.task["shapes"], orders.task["sgd"]
    grads = [torch.full(tuple(s), GRADIENT) for s in shapes]
    values = [torch.zeros(tuple(s)) for s in shapes]
    sums = [torch.zeros(tuple(s)) for s in shapes]
    own = [torch.full(tuple(s), GRADIENT * (workers - 1 if rank == 0 else -1)) for s in shapes]  # adds up to 0
    buckets = buckets_of(sums)
    flats = [torch.empty(sum(t.numel() for t in b)) for b in buckets]
    done = [0]

    def step(totals):
        if sgd:
            for v, t in zip(values, totals, strict=False):
                v.add_(t, alpha=-LR)

    def tensor():
        for call in [dist.all_reduce(g, async_op=True) for g in own]:
            call.wait()
        step(own)

    def bucket():
        calls, at = [], 0
        for b, f in zip(buckets, flats, strict=False):
            torch.cat([g.view(-1) for g in grads[at : at + len(b)]], out=f)
            at += len(b)
            calls.append(dist.all_reduce(f, async_op=True))
        for c, b, f in zip(calls, buckets, flats, strict=False):
            c.wait()
            for t, part in zip(b, f.split([t.numel() for t in b]), strict=False):
                t.copy_(part.view_as(t))
        step(sums)
        done[0] += 1

    def check(rounds):
        total = workers * GRADIENT
        got = float((values if sgd else sums)[-1].view(-1)[-1])
        zero = float(own[-1].view(-1)[-1]) if len(ways) > 1 else 0.0
        return zero == 0 and abs(got - (-LR * done[0] * total if sgd else total)) < 1e-3

    ways = {"bucket": bucket, "tensor": tensor} if len(shapes) <= FEW else {"bucket": bucket}
    dist.barrier()
    orders.serve(torch.__version__, ways, check)


def main():
    workers = int(sys.argv[2])
    port = str(control.free_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(workers)}
    shared |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return control.start([([__file__, "worker"], {**shared, "RANK": str(r)}) for r in range(workers)])


if __name__ == "__main__":
    sys.exit(worker() if sys.argv[1] == "worker" else main())
