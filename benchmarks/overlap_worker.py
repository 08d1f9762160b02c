"""The worker of ``bench_overlap.py``: one network, trained with and without overlap, in turns."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import shoal


class Student:
    """A network, its trainer, and whether gradients leave early."""

    def __init__(self, layers: int, width: int, batch: int, kvstore: str, early: bool) -> None:
        self.net = shoal.nn.HybridSequential()
        for _ in range(layers):
            self.net.add(shoal.nn.Dense(width, activation="relu", in_units=width, use_bias=False))
        self.net.initialize(shoal.init.Xavier(), seed=1)
        self.net.hybridize()
        self.trainer = shoal.Trainer(self.net.collect_params(), "sgd", {"learning_rate": 1e-3}, kvstore=kvstore)
        self.batch, self.early = batch, early
        self.x = shoal.np.array(np.random.default_rng(0).standard_normal((batch, width)).astype(np.float32))

    def step(self) -> None:
        """Forward, backward, update; the weights may still be on their way."""
        with shoal.autograd.record():
            loss = (self.net(self.x) ** 2).sum()
        with self.trainer.overlap(self.batch) if self.early else contextlib.nullcontext():
            loss.backward()
        self.trainer.step(self.batch)

    def ms(self, steps: int) -> float:
        """Milliseconds a step, the weights of the last one included."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.trainer.wait()
        return 1e3 * (time.perf_counter() - began) / steps

    def weights(self) -> bytes:
        """All weights."""
        return b"".join(p.data().asnumpy().tobytes() for p in self.net.collect_params().values())


def main() -> None:
    """Write what was measured."""
    layers, width, batch, steps = map(int, sys.argv[2:])
    kinds: dict[str, Any] = {"plain": ("dist", False), "overlap": ("dist", True), "alone": ("local", False)}
    students = {name: Student(layers, width, batch, *kind) for name, kind in kinds.items()}
    for student in students.values():
        student.ms(3)
    found: dict[str, list[float]] = {name: [] for name in students}
    for _ in range(5):
        for name, student in students.items():
            found[name].append(student.ms(steps))
    ms = {f"{name}_ms": round(min(times), 2) for name, times in found.items()}
    equal = len({s.weights() for s in students.values()}) == 1
    gained = round(100 * (1 - ms["overlap_ms"] / ms["plain_ms"]))
    Path(sys.argv[1]).write_text(
        json.dumps({"megabytes": layers * width * width * 4 / 1e6, **ms, "gained_percent": gained, "same_bits": equal})
    )


main()
