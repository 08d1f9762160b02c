"""Steps of gpu-check that time training steps of two models, beside PyTorch's in the same process."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from shoal.ops.gpu.benchmodels import GPT2, RESNET50, Work, small, step_of
from shoal.ops.gpu.benchpeers import KINDS, torch_step
from shoal.ops.gpu.check import Check, step
from shoal.ops.gpu.device import gpu

__all__ = ["dry", "gpt2", "measured", "resnet50"]

WARM_UPS = 4
"""Steps that are not counted: they compile, choose algorithms, record."""

ROUNDS = 50
"""Steps of each that are timed, if there is time."""

Make = Callable[[], Callable[[], Any]]


@step("GPT-2 training", order=52, budget_s=120.0)
def gpt2(c: Check) -> None:
    """Training steps of GPT-2 124M in bfloat16, 1024 positions, 4 and 64 sequences, beside PyTorch's."""
    _on_a_gpu(c, GPT2)


@step("ResNet-50 training", order=53, budget_s=120.0)
def resnet50(c: Check) -> None:
    """Training steps of ResNet-50 under AMP, channels last, 32 and 256 images, beside PyTorch's."""
    _on_a_gpu(c, RESNET50)


def _on_a_gpu(c: Check, works: Sequence[Work]) -> None:
    g = gpu(c.gpu)
    with g.use():
        for n, work in enumerate(works):
            makers: dict[str, Make] = {"shoal": partial(step_of, work, g.xp, f"gpu:{c.gpu}")}
            makers |= {kind: partial(torch_step, work, kind) for kind in KINDS}
            measured(c, work, makers, c.left_s / (len(works) - n), _wait)


def _wait() -> None:
    """Until all streams of all libraries are done."""
    gpu().synchronize()


def measured(
    c: Check, work: Work, makers: dict[str, Make], budget_s: float, wait: Callable[[], None], rounds: int = ROUNDS
) -> None:
    """Time steps in turns, forwards and backwards (A B C C B A), and note medians: what cannot run is a failed case.

    Args:
        makers: by name, what makes a step.
        budget_s: for all; with too little there are fewer rounds, of which the number is noted.
        wait: returns when what was asked for has been done.
    """
    ends, steps = time.monotonic() + budget_s, dict[str, Callable[[], Any]]()
    for name, make in makers.items():
        with c.case(f"{work.name} {name} runs"):
            made = make()
            losses = [float(made()) for _ in range(WARM_UPS)]
            assert np.isfinite(losses).all(), f"losses {losses}"
            steps[name] = made
    took: dict[str, list[float]] = {name: [] for name in steps}
    while steps and len(took[next(iter(steps))]) < rounds and (time.monotonic() < ends or not took[next(iter(steps))]):
        for name in (*steps, *reversed(steps)):
            wait()
            began = time.perf_counter()
            steps[name]()
            wait()
            took[name].append(time.perf_counter() - began)
        _note(c, work, took)


def _note(c: Check, work: Work, took: dict[str, list[float]]) -> None:
    """What there is so far: partial results are results."""
    medians = {name: float(np.median(times)) for name, times in took.items()}
    for name, seconds in medians.items():
        c.number(f"{work.name} {name}", seconds * 1e3, "ms")
        c.number(f"{work.name} {name} rate", work.items / seconds, work.unit)
        c.number(f"{work.name} {name} of the floor", work.floor_ms / (seconds * 1e3) * 100.0, "%")
        if name != "shoal" and "shoal" in medians:
            c.number(f"{work.name} shoal against {name}", seconds / medians["shoal"], "times as fast")
    c.note(f"{work.name} rounds", {name: len(times) for name, times in took.items()})


def dry(work: Work) -> tuple[Work, dict[str, Make]]:
    """The same with small numbers on the CPU, without ``torch.compile``: what a test runs."""
    tiny = small(work)
    return tiny, {"shoal": partial(step_of, tiny), "eager": partial(torch_step, tiny, "eager", "cpu")}
