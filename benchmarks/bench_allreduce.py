"""All-reduce of the store against PyTorch's Gloo, and against a store with servers, in the same worker processes.

python benchmarks/bench_allreduce.py                      2 workers; prints JSON
python benchmarks/bench_allreduce.py -n 4 --samples 9 --algorithms ring,halving
python benchmarks/bench_allreduce.py --servers 2          also the synchronous store on 2 servers

Ways take turns, sample by sample. A sample is the time of the slowest worker, from a common start; reported is the
median. Sums are compared with the exact result, bit for bit. Without PyTorch only ours is measured.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import shoal
from shoal.kvstore.ring.store import AllReduceKVStore
from shoal.lab.kvcases import CASES, expected, gradient, set_bytes

BUCKET = 6_250_000
HAVE_TORCH = importlib.util.find_spec("torch") is not None
Way = Callable[[], None]


def gloo(shapes: list[tuple[int, ...]], rank: int, workers: int) -> tuple[dict[str, Way], list[Any]]:
    """Gloo as DistributedDataParallel uses it, flat buckets of 25 MB with copies in and out; and a call a tensor."""
    import torch
    import torch.distributed as dist

    grads = [torch.from_numpy(gradient(s, rank).copy()) for s in shapes]
    sums = [torch.empty(s) for s in shapes]
    buckets: list[list[int]] = [[]]
    for i in range(len(sums)):
        if sum(sums[j].numel() for j in buckets[-1]) >= BUCKET:
            buckets.append([])
        buckets[-1].append(i)
    flats = [torch.empty(sum(sums[i].numel() for i in b)) for b in buckets]

    def bucketed() -> None:
        calls = []
        for b, flat in zip(buckets, flats, strict=True):
            torch.cat([grads[i].view(-1) for i in b], out=flat)
            calls.append(dist.all_reduce(flat, async_op=True))
        for call, b, flat in zip(calls, buckets, flats, strict=True):
            call.wait()
            for i, part in zip(b, flat.split([sums[i].numel() for i in b]), strict=True):
                sums[i].copy_(part.view_as(sums[i]))

    for s, g in zip(sums, grads, strict=True):
        s.copy_(g)

    def in_place() -> None:
        for call in [dist.all_reduce(s, async_op=True) for s in sums]:
            call.wait()

    ways: dict[str, Way] = {"gloo, buckets": bucketed}
    return ways if len(shapes) > 300 else {"gloo": in_place} | ways, sums


def ours(kv: shoal.kv.KVStore, case: str, shapes: list[tuple[int, ...]], rank: int) -> tuple[dict[str, Way], list[Any]]:
    """One call with all tensors of the case: into other arrays, or, as Gloo does, in place."""
    keys = [f"{case} {i}" for i in range(len(shapes))]
    kv.init(keys, [np.zeros(s, np.float32) for s in shapes], fuse=True)
    grads, sums = [gradient(s, rank) for s in shapes], [np.empty(s, np.float32) for s in shapes]
    own = [g.copy() for g in grads]

    def in_place() -> None:
        kv.pushpull(keys, own, own)

    def into_others() -> None:
        kv.pushpull(keys, grads, sums)

    return {"": into_others, ", in place": in_place}, [sums, own]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases; every worker calls it."""
    rings: dict[str, shoal.kv.KVStore] = {}
    for name in options.algorithms.split(","):
        kv = shoal.kv.create("allreduce", reduce="sum")
        assert isinstance(kv, AllReduceKVStore)
        kv.algorithm = name
        rings["shoal" if name == "auto" else f"shoal, {name}"] = kv
    served = shoal.kv.create("dist_sync", reduce="sum") if options.servers else None
    some = next(iter(rings.values()))
    rank, workers = some.rank, some.num_workers
    result = {}
    for case in options.cases.split(","):
        shapes = CASES[case]
        ways, sums = gloo(shapes, rank, workers) if HAVE_TORCH else ({}, [])
        checks = dict.fromkeys(ways, sums)
        stores = rings if served is None else rings | {"shoal, servers": served}
        for name, kv in stores.items():
            made, results = ours(kv, case, shapes, rank)
            ways |= {name + how: way for how, way in made.items()}
            checks |= dict(zip((name + how for how in made), results, strict=True))
        wanted = [expected(s, workers, 1, sgd=False) for s in shapes]
        result[case] = take_turns(ways, checks, wanted, some, options.samples, set_bytes(shapes))
    return result


def take_turns(
    ways: dict[str, Way], sums: dict[str, list[Any]], wanted: list[Any], kv: Any, samples: int, nbytes: int
) -> dict[str, Any]:
    """Median of the slowest worker's times, in ms, by way, with its ratio to the fastest Gloo; and the CPU time of all
    workers, which other work on the machine disturbs less."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    batch = 1 if nbytes > 1 << 20 else 20
    for turn in range(samples + 1):  # the first warms up
        for name, way in ways.items():
            kv.barrier()
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(batch if turn else 1):
                way()
            if turn:
                used = time.perf_counter() - began, time.process_time() - busy
                seconds[name].append((used[0] / batch, used[1] / batch))
            else:
                assert all(np.array_equal(np.asarray(s), w) for s, w in zip(sums[name], wanted, strict=True)), name
                for values in sums[name]:
                    values[...] = 0  # what is reduced in place would grow from sample to sample
    table = np.zeros((kv.num_workers, len(ways), samples, 2))
    table[kv.rank] = [seconds[name] for name in ways]
    key = f"times {next(iter(ways))} {nbytes} {len(wanted)}"
    kv.init(key, np.zeros_like(table))
    kv.pushpull(key, table)
    medians = np.median(table[..., 0].max(axis=0), axis=1) * 1e3
    busy_ms = np.median(table[..., 1].sum(axis=0), axis=1) * 1e3
    ms = dict(zip(ways, medians.tolist(), strict=True))
    cpu = dict(zip(ways, busy_ms.tolist(), strict=True))
    best = min((t for name, t in ms.items() if name.startswith("gloo")), default=None)
    return {
        name: {
            "ms": round(t, 3),
            "cpu_ms": round(cpu[name], 3),
            "GBps": round(nbytes / 1e6 / t, 3),
            "speedup_over_gloo": None if best is None else round(best / t, 2),
        }
        for name, t in ms.items()
    }


def worker(options: argparse.Namespace) -> None:
    """Measure inside a run."""
    version = None
    if HAVE_TORCH:
        import torch
        import torch.distributed as dist

        version = torch.__version__
        torch.set_num_threads(1)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(options.port), "GLOO_SOCKET_IFNAME": "lo"}
        dist.init_process_group("gloo", rank=shoal.rank(), world_size=shoal.num_workers())
    result = measure(options)
    if HAVE_TORCH:
        dist.barrier()
        dist.destroy_process_group()
    if shoal.rank() == 0:
        about = {"workers": shoal.num_workers(), "servers": options.servers, "samples": options.samples}
        with open(options.out, "w") as f:
            json.dump({**about, "torch": version, "cases": result}, f, indent=2)


def launch(options: argparse.Namespace) -> int:
    """Start the workers, and print what they found."""
    import socket
    import tempfile

    with socket.socket() as s, tempfile.TemporaryDirectory() as folder:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        out = os.path.join(folder, "result.json")
        mode = ["-s", str(options.servers)]
        command = [sys.executable, "-m", "shoal", "run", "-n", str(options.workers), *mode, "--no-progress", __file__]
        command += ["--in-run", "--port", str(port), "--out", out, "--cases", options.cases, "--samples"]
        command += [str(options.samples), "--algorithms", options.algorithms, "--servers", str(options.servers)]
        code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        if code == 0:
            with open(out) as f:
                print(f.read())
        return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=0)
    parser.add_argument("--cases", default="t100mb,resnet50,k1000x1kb,one1kb", help=f"known: {', '.join(CASES)}")
    parser.add_argument("--algorithms", default="auto", help="auto, ring, halving, doubling")
    parser.add_argument("--samples", type=int, default=7, help="at least 5")
    parser.add_argument("--in-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_run:
        worker(options)
        return 0
    return launch(options)


if __name__ == "__main__":
    sys.exit(main())
