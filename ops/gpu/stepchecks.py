"""Steps of gpu-check for whole training steps: recorded with their update, against steps that are not."""

from typing import Any

import numpy as np

from shoal.ops.gpu.check import Check, Skipped, step
from shoal.ops.gpu.device import gpu
from shoal.ops.lossscale import LossScale

__all__ = ["whole_steps"]

STEPS = 20

BAD = (4, 11)
"""Steps whose batch holds an infinity."""


@step("whole steps", order=41, budget_s=60.0)
def whole_steps(c: Check) -> None:
    """Twenty steps recorded with their update have the bits of twenty that are not, and leave out what overflows."""
    if not hasattr(gpu(c.gpu).xp.module, "RawModule"):
        raise Skipped("no kernels here")
    for dtype in ("float32", "float16", "bfloat16"):
        with c.case(f"recorded = not recorded, {dtype}"):
            (found, why, updates, scale), (plain, _, same, other) = trained(c, dtype, True), trained(c, dtype, False)
            assert not why, f"it was not recorded: {why[0]}"
            different = [n for n, (a, b) in enumerate(zip(found, plain, strict=True)) if a != b]
            assert not different, f"these steps differ: {different}"
            assert updates == same == STEPS - len(BAD), f"{updates} and {same} updates of {STEPS - len(BAD)}"
            expected = _scaling()
            for n in range(STEPS):
                expected = expected.after(n in BAD)
            assert scale == other == expected.scale, f"the loss scale is {scale} and {other}, not {expected.scale}"


def _scaling() -> LossScale:
    return LossScale(scale=1024.0, growth_interval=5)


def trained(c: Check, dtype: str, enabled: bool) -> tuple[list[bytes], list[str], int, float]:
    """Loss and weights after each step, why it was not recorded, updates, and the loss scale."""
    from shoal import nn, npx  # this module is imported by what they are made of
    from shoal import np as snp
    from shoal.ops.gpu.trainstep import train_step
    from shoal.ops.optim.schedule import CosineScheduler

    net = nn.HybridSequential(nn.Dense(32, in_units=16), nn.LayerNorm(in_channels=32), nn.Dense(8, in_units=32))
    net.initialize(device=f"gpu:{c.gpu}", seed=1)
    if dtype != "float32":
        net.cast(dtype)
    params = net.collect_params()
    rate = CosineScheduler(max_update=STEPS, base_lr=0.01, final_lr=0.001)
    made = train_step(
        lambda x, y: npx.softmax_cross_entropy(net(x).astype("float32"), y).mean(),
        params,
        "adamw",
        {"lr_scheduler": rate},
        clip_norm=1.0,
        scaling=_scaling(),
        enabled=enabled,
    )
    seen: list[Any] = []
    for n in range(STEPS):
        rng = np.random.default_rng(n)
        x = rng.standard_normal((32, 16)) * (np.inf if n in BAD else 1.0)
        y = snp.array(rng.integers(0, 8, 32), device=f"gpu:{c.gpu}")
        loss = made(snp.array(x.astype("float32"), device=f"gpu:{c.gpu}").astype(dtype), y)
        seen.append(b"".join(t.asnumpy().tobytes() for t in (loss, *[p.data() for p in params.values()])))
    return seen, made.why_not(), made.updates, made.loss_scale
