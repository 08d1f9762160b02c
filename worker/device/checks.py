"""Steps of gpu-check for what leaves a GPU: codecs against those of the CPU, and training through the path."""

import time
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Address, CodecState
from shoal.kvstore.codecs.encoded import Encoding, Span
from shoal.kvstore.codecs.ongpu import gpu_codec
from shoal.kvstore.codecs.registry import parse
from shoal.ops.gpu.check import Check, step
from shoal.ops.gpu.device import gpu

__all__ = ["codecs", "path"]

SPECS = (
    *("2bit:threshold=0.5", "1bit", "1bit:threshold=-0.25", "sign", "fp16"),
    *("int8", "int8:block=64,feedback=true", "qsgd", "qsgd:levels=1,bucket=32", "qsgd:levels=127", "qsgd:levels=255"),
    *("onebit", "efsign", "efsign:block=64", "topk:ratio=0.01", "topk:ratio=1.0"),
    *("randomk:ratio=0.01", "randomk:ratio=0.1,feedback=true"),
)
SIZES = (1, 31, 1000, 1_000_003)
GRADIENTS = 3
CODECS = ("", "fp16", "bf16", "int8", "topk:ratio=1.0")
"""That training on the GPU and on the host is compared with; those that leave little of a gradient are not."""


@step("codecs", order=32, budget_s=60.0)
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


def _encoding(spec: str, size: int, seed: int = 0) -> Encoding:
    """Two slices, if there is enough for two."""
    edges = sorted({0, size // 3 // 32 * 32, size})
    spans = [Span(i, a, b) for i, (a, b) in enumerate(pairwise(edges))]
    return Encoding(parse(spec).spec(), seed, 0, tuple(spans))


def _compared(xp: Any, spec: str, size: int, kernels: bool, seed: int) -> None:
    encoding, codec = _encoding(spec, size, seed), parse(spec)
    made, states = gpu_codec(encoding, xp, kernels=kernels), [CodecState() for _ in encoding.spans]
    for clock in range(GRADIENTS):
        rng, where = np.random.default_rng([seed, clock]), f"gradient {clock}, seed {seed}"
        grad = rng.standard_normal(size).astype(np.float32) * np.float32(0.4)
        grad[rng.random(size) < 0.2] = 0
        made.encode(xp.asarray(grad), xp.asarray(np.array([clock + 1], np.uint32)))
        found = made.encoded(xp.module.asnumpy(made.out))
        assert found is not None, f"{where}: refused"
        left = None if made.residual is None else xp.module.asnumpy(made.residual)
        for span, state, parts in zip(encoding.spans, states, found.parts, strict=True):
            expected = codec.encode(grad[span.start : span.stop], state, Address(seed, 0, span.slice, clock))
            for i, (part, other) in enumerate(zip(parts, expected, strict=True)):
                assert part.tobytes() == other.tobytes(), f"{where}, slice {span.slice}: part {i} differs"
            if left is not None:
                same = left[span.start : span.stop].tobytes() == state.arrays["residual"].tobytes()
                assert same, f"{where}, slice {span.slice}: residual"


def _refused(xp: Any) -> None:
    made = gpu_codec(_encoding("2bit", 1000), xp)
    grad = xp.asarray(np.full(1000, np.nan, np.float32))
    made.encode(grad, xp.asarray(np.array([1], np.uint32)))
    assert made.encoded(xp.module.asnumpy(made.out)) is None
    assert made.residual is not None and not xp.module.asnumpy(made.residual).any()


@step("path", order=42, budget_s=60.0)
def path(c: Check) -> None:
    """Training whose gradients go to a store and come back as weights, with and without codecs, is that of the host."""
    for codec in CODECS:
        for overlap in (False, True):
            with c.case(f"{codec or 'as it is'}{', overlapped' if overlap else ''}"):
                expected, found = trained("cpu", codec, False), trained(f"gpu:{c.gpu}", codec, overlap)
                for name, value in expected.items():
                    worst = float(np.abs(found[name] - value).max())
                    most = 5e-3 if codec == "int8" else 1e-3  # rounded by groups that are others on the host
                    assert worst <= most * (1 + float(np.abs(value).max())), f"{name} is off by {worst:.3g}"


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
