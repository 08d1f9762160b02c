"""Steps of gpu-check for what leaves a GPU: codecs against those of the CPU, and training through the path."""

import time
from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Address, CodecState
from shoal.kvstore.codecs.ongpu import gpu_codec
from shoal.kvstore.codecs.registry import parse
from shoal.ops.gpu.check import Check, step
from shoal.ops.gpu.device import gpu

__all__ = ["codecs", "path"]

SPECS = ("2bit:threshold=0.5", "1bit", "1bit:threshold=-0.25", "sign", "fp16")
SIZES = (1, 31, 1000, 1_000_003)
GRADIENTS = 4


@step("codecs", order=32, budget_s=40.0)
def codecs(c: Check) -> None:
    """Gradients that are encoded on the GPU have the bits of the CPU's codecs, and so has what is left of them."""
    g, seed = gpu(c.gpu), time.time_ns() % 2**32
    c.note("codec seed", seed)
    with g.use():
        for spec in SPECS:
            for size in SIZES:
                for kernels in (True, False):
                    with c.case(f"{spec} {size} {'kernels' if kernels else 'namespace'}"):
                        _compared(g.xp, spec, size, kernels, seed)
        with c.case("a gradient that cannot be sent changes nothing"):
            _refused(g.xp)


def _compared(xp: Any, spec: str, size: int, kernels: bool, seed: int) -> None:
    made, codec, state = gpu_codec(spec, xp, size, kernels=kernels), parse(spec), CodecState()
    for clock in range(GRADIENTS):
        rng = np.random.default_rng([seed, clock])
        grad = rng.standard_normal(size).astype(np.float32) * np.float32(0.4)
        grad[rng.random(size) < 0.2] = 0
        made.encode(xp.asarray(grad), xp.asarray(np.array([clock + 1], np.uint32)))
        (part,) = codec.encode(grad, state, Address(0, 0, 0, clock))
        found = xp.module.asnumpy(made.out)
        assert found[: part.nbytes].tobytes() == part.tobytes(), f"gradient {clock}, seed {seed}: other parts"
        if made.residual is not None:
            left = xp.module.asnumpy(made.residual)
            assert left.tobytes() == state.arrays["residual"].tobytes(), f"gradient {clock}, seed {seed}: residual"


def _refused(xp: Any) -> None:
    made = gpu_codec("2bit", xp, 1000)
    grad = xp.asarray(np.full(1000, np.nan, np.float32))
    made.encode(grad, xp.asarray(np.array([1], np.uint32)))
    assert not made.decode(xp.module.asnumpy(made.out), np.empty(1000, np.float32))
    assert made.residual is not None and not xp.module.asnumpy(made.residual).any()


@step("path", order=42, budget_s=60.0)
def path(c: Check) -> None:
    """Training whose gradients go to a store and come back as weights, with and without codecs, is that of the host."""
    for codec in ("", "fp16", "bf16"):
        for overlap in (False, True):
            with c.case(f"{codec or 'as it is'}{', overlapped' if overlap else ''}"):
                expected, found = trained("cpu", codec, False), trained(f"gpu:{c.gpu}", codec, overlap)
                for name, value in expected.items():
                    worst = float(np.abs(found[name] - value).max())
                    assert worst <= 1e-3 * (1 + float(np.abs(value).max())), f"{name} is off by {worst:.3g}"


def trained(device: str, codec: str, overlap: bool) -> dict[str, Any]:
    """The weights after some steps, by name."""
    from shoal import Trainer, autograd, nn  # this module is imported by what they are made of
    from shoal import np as snp

    net = nn.HybridSequential(nn.Dense(64, "tanh", in_units=32), nn.LayerNorm(in_channels=64), nn.Dense(8, in_units=64))
    net.initialize(device=device, seed=3)
    options = {"learning_rate": 0.05}
    trainer = Trainer(net.collect_params(), "sgd", options, kvstore="local", compression_params=codec or None)
    for n in range(10):
        x = snp.array(np.random.default_rng(n).standard_normal((16, 32)).astype(np.float32), device=device)
        with autograd.record():
            loss = (net(x) ** 2).mean()
        if overlap:
            with trainer.overlap(1):
                loss.backward()
        else:
            loss.backward()
        trainer.step(1)
    trainer.finish()
    assert trainer.kvstore is not None
    trainer.kvstore.close()
    return {n: p.data().asnumpy() for n, p in net.collect_params().items()}
