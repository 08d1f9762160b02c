"""Does waiting cost, and do more servers? Asynchronous beside synchronous updates, and 1, 2 and 4 servers.

    python benchmarks/bench_scaling.py [--workers 2] [--rounds 7] [--cases t100mb,k1000x1kb]

Every cluster is real, all are alive at once and take turns. ``async_speedup`` is the contributions that the store takes
in a second from equal workers under ``async``, by those under ``sync``; an asynchronous contribution is an update by
itself, a synchronous one shares it with those of the other workers (``updates_per_s``). ``step_growth`` is the time of
a synchronous step with that many servers, by the time with one, at equal bytes. More servers are more processes: on a
machine with fewer cores than that they share them. Prints a JSON object a case and path.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_kvstore import CYCLES, OURS, measure, ours
from kv_control import System
from kv_report import Turns, best_way, ratio

from shoal.lab.kvcases import CASES

__all__ = ["verdict"]

SERVERS = (1, 2, 4)


def clusters(workers: int, env: Mapping[str, str], logs: Path) -> list[System]:
    """Synchronous ones with 1, 2 and 4 servers, and an asynchronous one."""
    sync = [ours(f"sync {s}", s, workers, logs, env) for s in SERVERS]
    return [*sync, ours("async 1", 1, workers, logs, env, "--mode", "async")]


def verdict(found: Mapping[str, Turns], workers: int) -> dict[str, Any]:
    """Figures and ratios, from the turns of each cluster.

    >>> ms = {"sync 1": 20.0, "sync 2": 16.0, "sync 4": 18.0, "async 1": 10.0}
    >>> v = verdict({name: Turns([[t]]) for name, t in ms.items()}, workers=2)
    >>> v["contributions_per_s"], v["async_speedup"], v["step_growth"]
    ({'sync': 100.0, 'async': 200.0}, 2.0, {'2': 0.8, '4': 0.9})
    >>> v["updates_per_s"]
    {'sync': 50.0, 'async': 200.0}
    """
    sync = {s: found[f"sync {s}"] for s in SERVERS}
    one, free = sync[1], found["async 1"]
    return {
        "step_ms": {str(s): round(t.median_ms, 4) for s, t in sync.items()},
        "contributions_per_s": {"sync": _a_second(one, workers), "async": _a_second(free, workers)},
        "updates_per_s": {"sync": _a_second(one, 1), "async": _a_second(free, workers)},
        "async_speedup": round(ratio(one, free), 3),
        "step_growth": {str(s): round(ratio(t, one), 3) for s, t in sync.items() if s > 1},
    }


def _a_second(t: Turns, each: int) -> float:
    return round(each / t.median_ms * 1e3, 1)


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--cases", default="t100mb,k1000x1kb", help=f"of {','.join(CASES)}")
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine (needs root)")
    o = p.parse_args()
    for case in o.cases.split(","):
        for path, env in OURS.items():
            task = {"shapes": CASES[case], "sgd": True, "servers": 1, "workers": o.workers}
            with tempfile.TemporaryDirectory(prefix="kvscale") as logs:
                found = measure(clusters(o.workers, env, Path(logs)), task, CYCLES[case], o.rounds, o.urgent)
            about = {"benchmark": "scaling", "case": case, "path": path, "workers": o.workers, "cores": os.cpu_count()}
            failed = {n: why for n, why in found.items() if isinstance(why, str)}
            best = {n: ways[best_way(ways)] for n, ways in found.items() if n not in failed}
            print(json.dumps({**about, **({"errors": failed} if failed else verdict(best, o.workers))}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
