"""A worker of ``shoal kv-bench``: exchanges sets of tensors, and prints what it took as a JSON line a set.

Run by the launcher, with one argument: `shoal.lab.kvbench.Plan` as JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np

import shoal
from shoal.kvstore.gates import parse_gate
from shoal.lab.kvbench import MARK, Plan
from shoal.lab.kvcases import LR, Shape, error_against, expected, gradient

__all__: list[str] = []

Array = Any


def judge(kv: Any, plan: Plan, shapes: list[Shape], outs: list[Array], rounds: int) -> tuple[float | None, str]:
    """Largest relative error of the values against their closed form, and in words why there is none."""
    sync, at_once = kv.type in ("dist_sync", "allreduce"), False
    if not sync:
        gate = parse_gate(kv.type.removeprefix("dist_"))
        at_once = gate.need == 1 and gate.late == "keep" and gate.max_staleness is None
    if not sync and not at_once:
        return None, "this mode may drop or hold back contributions"
    if plan.optimizer == "sgd" or sync:
        wanted = [expected(s, kv.num_workers, rounds, sgd=plan.optimizer == "sgd") for s in shapes]
        return max(error_against(o, w) for o, w in zip(outs, wanted, strict=True)), ""
    errors = [one_of(o, [gradient(s, r) for r in range(kv.num_workers)]) for s, o in zip(shapes, outs, strict=True)]
    return max(errors), ""


def one_of(value: Array, candidates: list[Array]) -> float:
    """How far each element is from the nearest of the workers' contributions, at most: one of them was the last."""
    return float(np.max(np.min([np.abs(value - c) for c in candidates], axis=0), initial=0.0))


def exchange(plan: Plan, name: str, shapes: list[Shape], cycles: int) -> dict[str, Any]:
    """One set through a store of its own."""
    kv = shoal.kv.create("dist", reduce="sum")
    keys = [f"{name} {i}" for i in range(len(shapes))]
    kv.init(keys, [np.zeros(s, np.float32) for s in shapes], fuse=not plan.codec)
    if plan.optimizer == "sgd":
        kv.set_optimizer(shoal.optim.create("sgd", learning_rate=LR))
    if plan.codec:
        kv.set_gradient_compression(plan.codec)
    grads, outs = [gradient(s, kv.rank) for s in shapes], [np.empty(s, np.float32) for s in shapes]
    for _ in range(plan.warm):
        kv.pushpull(keys, grads, outs)
    kv.barrier()
    before, ms = kv.ledger(), []
    for _ in range(cycles):
        start = time.perf_counter()
        kv.pushpull(keys, grads, outs)
        ms.append((time.perf_counter() - start) * 1e3)
    after = kv.ledger()
    kv.barrier()
    if kv.is_capable("optimizer"):  # otherwise there is no value but the last sum
        kv.pull(keys, outs)
    error, why = judge(kv, plan, shapes, outs, plan.warm + cycles)
    moved = {k: after[k] - before[k] for k in ("bytes_pushed", "bytes_dense", "bytes_pulled", "retries")}
    return {"set": name, "rank": kv.rank, "ms": ms, "error": error, "why": why, **moved}


def main() -> None:
    """Every set of the plan, one after another."""
    plan = Plan.from_json(sys.argv[1])
    for name, shapes, cycles in plan.sets:
        print(MARK + json.dumps(exchange(plan, name, shapes, cycles)), flush=True)


if __name__ == "__main__":
    main()
