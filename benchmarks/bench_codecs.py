"""What compression costs, and the link below which it pays: every codec on one slice, beside memcpy.

    PYTHONPATH=. python benchmarks/bench_codecs.py [--values 262144] [--rounds 15] [--scale 0.3]
        [--codecs fp16 topk:ratio=0.001 ...]

Prints JSON: GB/s of float32 for encode and decode (one thread, the best round), the ratio of bytes, and
``break_even_GBps``: a slower link than this gains from encode, transfer and decode in sequence,
(1 - 1 / ratio) / (1 / encode + 1 / decode). All codecs take turns, so that a machine that changes its speed does so
for all. ``relative_error`` is that of one push, before feedback has made up for it.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from shoal.kvstore.codecs import Address, Codec, CodecState, names, parse
from shoal.kvstore.wire.tuning import tune_malloc

CLOCK = 10_000
"""Where warm-ups are over."""


@dataclass
class Run:
    """One codec under measurement."""

    codec: Codec
    state: CodecState = field(default_factory=CodecState)
    parts: list[Any] = field(default_factory=list)
    encode: float = float("inf")
    decode: float = float("inf")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def one_round(run: Run, grads: list[Any], out: Any, clock: int) -> None:
    """Encode a new gradient and decode it."""
    grad = grads[clock % len(grads)]
    if run.codec.matrices:
        grad = grad.reshape(-1, 512)
    at = Address(0, 0, 0, CLOCK + clock)
    seconds, run.parts = timed(lambda: run.codec.encode(grad, run.state, at))
    run.encode = min(run.encode, seconds)
    run.decode = min(run.decode, timed(lambda: run.codec.decode(run.parts, out))[0])


def error(codec: Codec, grad: Any, out: Any) -> float:
    """|decoded - gradient| / |gradient| of a first push."""
    shaped = grad.reshape(-1, 512) if codec.matrices else grad
    codec.decode(codec.encode(shaped, CodecState(), Address(0, 0, 0, CLOCK)), out)
    return float(np.linalg.norm(out - grad) / np.linalg.norm(grad))


def figures(run: Run, grad: Any, out: Any) -> dict[str, Any]:
    """The row of a codec."""
    gb = grad.nbytes / 1e9
    ratio = grad.nbytes / sum(p.nbytes for p in run.parts)
    return {
        "encode_GBps": round(gb / run.encode, 2),
        "decode_GBps": round(gb / run.decode, 2),
        "ratio": round(ratio, 2),
        "break_even_GBps": round((1 - 1 / ratio) / ((run.encode + run.decode) / gb), 2),
        "relative_error": round(error(run.codec, grad, out), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=1 << 18, help="of the slice; a multiple of 512")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scale", type=float, default=0.3, help="standard deviation of the gradients")
    parser.add_argument("--codecs", nargs="*", default=[n for n in names() if n != "none"])
    args = parser.parse_args()
    draws = np.random.default_rng(0)
    grads = [(args.scale * draws.standard_normal(args.values)).astype(np.float32) for _ in range(4)]
    tune_malloc()  # as workers and servers do
    out, runs = np.empty_like(grads[0]), {text: Run(parse(text)) for text in args.codecs}
    memcpy = float("inf")
    with threadpool_limits(1):
        for clock in range(args.rounds):
            memcpy = min(memcpy, timed(partial(np.copyto, out, grads[clock % len(grads)]))[0])
            for run in runs.values():
                one_round(run, grads, out, clock)
        rows = {run.codec.spec(): figures(run, grads[0], out) for run in runs.values()}
    report = {
        "benchmark": "codecs",
        "values": args.values,
        "scale": args.scale,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "memcpy_GBps": round(grads[0].nbytes / 1e9 / memcpy, 2),
        "codecs": rows,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
