"""``shoal kv-bench``: how fast the store of this machine is, and whether it is right; MXNet's tools/bandwidth.

A real cluster of processes exchanges sets of tensors: in a cycle every worker pushes every tensor and pulls every
tensor. The values that come back are compared with their closed form.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.errors import ConfigError
from shoal.kvstore import codecs
from shoal.kvstore.gates import mode_label
from shoal.lab.kvcases import CASES, Shape, parse_bytes, percentile, rates, set_bytes
from shoal.scheduler.gather import ALLREDUCE
from shoal.scheduler.job import JobConfig
from shoal.scheduler.local import LocalLauncher

__all__ = ["MARK", "OPTIMIZERS", "Plan", "cycles_for", "kv_bench", "lossless", "plan", "show", "summary"]

MARK = "kv-bench: "
"""What a worker's line of results begins with."""

OPTIMIZERS = ("none", "sgd")
"""What the servers do with the sum of the gradients: keep it as the value, or take a step of SGD."""

WORK = 5e8
"""About how many bytes a set is timed for; a key counts as 20 KB."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the workers do.

    Args:
        sets: name, float32 shapes and timed cycles of each.
        codec: as `KVStore.set_gradient_compression` reads it, or "" for none.
        optimizer: of `OPTIMIZERS`.
        warm: cycles before, untimed.
    """

    sets: tuple[tuple[str, list[Shape], int], ...]
    codec: str = ""
    optimizer: str = "sgd"
    warm: int = 3

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        data = json.loads(text)
        data["sets"] = tuple((name, [tuple(s) for s in shapes], n) for name, shapes, n in data["sets"])
        return cls(**data)


def cycles_for(shapes: Sequence[Shape]) -> int:
    """Timed cycles of a set: 15 for 100 MB, 500 for 1 KB.

    >>> [cycles_for(CASES[c]) for c in ("t100mb", "k1000x1kb", "one1kb")]
    [15, 23, 500]
    """
    return int(max(15, min(500, WORK / (set_bytes(shapes) + 20_000 * len(shapes)))))


def plan(sizes: str, keys: int, codec: str, optimizer: str, iters: int) -> Plan:
    """From the options of the command.

    Args:
        sizes: separated by commas: each a size of one key, such as ``4MB``, or the name of a set. "" for all sets.
        keys: how many of each size.
        iters: timed cycles; 0 chooses.
    Raises:
        ConfigError: a size, the codec, the optimizer or a number makes no sense.
    """
    if keys < 1 or iters < 0:
        raise ConfigError(f"expected at least 1 key and 0 cycles, got {keys} and {iters}")
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {optimizer!r} of kv-bench; known: {', '.join(OPTIMIZERS)}")
    codecs.Plan.of(codec or None)
    chosen = [_set(text, keys) for text in sizes.split(",")] if sizes else [(n, s) for n, s in CASES.items()]
    return Plan(tuple((n, s, iters or cycles_for(s)) for n, s in chosen), codec, optimizer)


def _set(text: str, keys: int) -> tuple[str, list[Shape]]:
    if text in CASES:
        return text, CASES[text]
    nbytes = parse_bytes(text)
    if nbytes % 4:
        raise ConfigError(f"a key holds float32 values: its size is a multiple of 4 bytes, got {nbytes}")
    return f"{keys} x {text}", [(nbytes // 4,)] * keys


def summary(name: str, shapes: Sequence[Shape], of_workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one set, from what its workers have said.

    ``GBps`` is that of one worker: bytes of the set by the median cycle; each byte crosses the wire twice.
    """
    ms = [x for w in of_workers for x in w["ms"]]
    pushed, dense = (sum(w[k] for w in of_workers) for k in ("bytes_pushed", "bytes_dense"))
    errors = [w["error"] for w in of_workers if w["error"] is not None]
    return {
        "set": name,
        "keys": len(shapes),
        "bytes": set_bytes(shapes),
        "cycles": len(of_workers[0]["ms"]),
        **rates(shapes, statistics.median(ms)),
        **{f"p{int(q * 100)}_ms": percentile(ms, q) for q in (0.5, 0.9, 0.99)},
        "max_ms": max(ms),
        "compression": dense / pushed if pushed else 1.0,
        "retries": sum(w["retries"] for w in of_workers),
        "error": max(errors) if errors else None,
        "why": of_workers[0]["why"],
    }


def kv_bench(made: Plan, *, workers: int, servers: int, mode: str, as_json: bool = False, keys: str = "") -> int:
    """Run the plan on a cluster of this machine and print what came out.

    Args:
        keys: the key of that cluster, as of `JobConfig`.

    Returns:
        Exit code: 0, 1 if a value was wrong, or the run's own if it failed.
    """
    results: dict[str, list[dict[str, Any]]] = {}

    def on_line(source: str, stream: str, line: str) -> None:
        if line.startswith(MARK):
            data = json.loads(line.removeprefix(MARK))
            results.setdefault(data["set"], []).append(data)
        else:
            print(f"[{source}] {line}", file=sys.stderr, flush=True)

    if mode == ALLREDUCE:  # it needs no servers, and updates nothing
        servers, made = 0, dataclasses.replace(made, optimizer="none")
    script = str(Path(__file__).with_name("kvworker.py"))
    job = JobConfig(script=script, args=(made.to_json(),), workers=workers, servers=servers, mode=mode, keys=keys)
    outcome = LocalLauncher(on_line).launch(job)
    if outcome.text:
        print(f"shoal kv-bench: {outcome.text}", file=sys.stderr, flush=True)
        return outcome.code
    rows = [summary(n, s, results[n]) for n, s, _ in made.sets]
    exact = lossless(made.codec)
    about = {"workers": workers, "servers": servers, "mode": mode_label(mode) or "sync", "codec": made.codec or "none"}
    if as_json:
        print(json.dumps({**about, "optimizer": made.optimizer, "sets": rows}))
    else:
        show(rows, exact, f"workers {workers}, servers {servers}, {about['mode']}, codec {about['codec']}")
    return int(exact and any(r["error"] for r in rows))


def lossless(codec: str) -> bool:
    """Whether these gradients survive the codec to the bit, and the weights are not compressed.

    >>> lossless(""), lossless("bf16"), lossless("int8"), lossless("bf16/bf16")
    (True, True, False, False)
    """
    used = codecs.Plan.of(codec or None)
    return used.push.name in ("none", "fp16", "bf16") and used.pull.name == "none"


def show(rows: Sequence[Mapping[str, Any]], exact: bool, title: str, console: Console | None = None) -> None:
    """One readable table."""
    table = Table(title=f"shoal kv-bench: {title}", title_justify="left")
    table.add_column("set")
    for column in ("bytes", "GB/s a worker", "keys/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "pushed", "values"):
        table.add_column(column, justify="right")
    for r in rows:
        times = [f"{r[k]:.3g}" for k in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
        pushed = "all" if r["compression"] == 1 else f"1/{r['compression']:.1f}"
        figures = [f"{r['GBps']:.3g}", f"{r['keys_per_s']:,.0f}", *times, pushed]
        table.add_row(r["set"], _bytes(r["bytes"]), *figures, _verdict(r, exact))
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for why in sorted({r["why"] for r in rows if r["why"]}):
        console.print(f"values not checked: {why}")


def _verdict(r: Mapping[str, Any], exact: bool) -> str:
    if r["error"] is None:
        return "-"
    if not exact:
        return f"off by {r['error']:.1%}"
    return "exact" if r["error"] == 0 else f"WRONG by {r['error']:.1%}"


def _bytes(value: float) -> str:
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
