"""Time of each kind of layer of LeNet-5 and ResNet-20 by itself, in shoal and in PyTorch where it is installed.

python benchmarks/bench_images.py [--rounds 9] [--threads 1] [--json FILE]

A layer is run forward and backward (gradients of input and parameters) on fixed data; the contestants take turns in
each round. Time is that of the processor, of all threads together: the steadier figure on a machine that does other
things. Prints one JSON object per layer: medians over the rounds in milliseconds, their ratio (median over the
rounds of the ratio within a round), and, for convolutions, how many billions of multiplications and additions a second
that is. PyTorch has channels-last images.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

SHAPES: dict[str, tuple[tuple[int, ...], int, int, int, int]] = {
    "conv 1-6 5x5 @28": ((128, 1, 28, 28), 6, 5, 1, 2),
    "conv 6-16 5x5 @14": ((128, 6, 14, 14), 16, 5, 1, 0),
    "conv 3-16 3x3 @32": ((64, 3, 32, 32), 16, 3, 1, 1),
    "conv 16-16 3x3 @32": ((64, 16, 32, 32), 16, 3, 1, 1),
    "conv 16-32 3x3 /2 @32": ((64, 16, 32, 32), 32, 3, 2, 1),
    "conv 16-32 1x1 /2 @32": ((64, 16, 32, 32), 32, 1, 2, 0),
    "conv 32-32 3x3 @16": ((64, 32, 16, 16), 32, 3, 1, 1),
    "conv 32-64 3x3 /2 @16": ((64, 32, 16, 16), 64, 3, 2, 1),
    "conv 64-64 3x3 @8": ((64, 64, 8, 8), 64, 3, 1, 1),
}
"""Input, filters, kernel, stride, padding."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", default="", help="only those whose name has this in it")
    parser.add_argument("--json", metavar="FILE", help="append the results to it, too")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # read by the libraries when they are loaded: below
    for name, made in layers().items():
        if args.layers in name:
            line = json.dumps(measured(name, made(args.threads), args))
            print(line, flush=True)
            if args.json:
                with open(args.json, "a") as out:
                    out.write(line + "\n")


def layers() -> dict[str, Callable[[int], dict[str, Callable[[], Any]]]]:
    """For each layer, what makes its contestants for a number of threads."""
    found: dict[str, Callable[[int], dict[str, Callable[[], Any]]]] = {
        name: lambda threads, given=given: convolution(*given, threads) for name, given in SHAPES.items()
    }
    for shape in ((64, 16, 32, 32), (64, 32, 16, 16), (64, 64, 8, 8)):
        name = f"norm, shortcut, relu {shape[1]} @{shape[2]}"
        found[name] = lambda threads, shape=shape: normalization(shape, threads)
    for shape in ((128, 6, 28, 28), (128, 16, 10, 10)):
        found[f"max 2x2 {shape[1]} @{shape[2]}"] = lambda threads, shape=shape: pooling(shape, threads)
    return found


def convolution(
    shape: tuple[int, ...], filters: int, kernel: int, stride: int, pad: int, threads: int
) -> dict[str, Callable[[], Any]]:
    """A convolution in shoal and in PyTorch."""
    from shoal import nn

    layer = nn.Conv2D(filters, kernel, stride, pad, use_bias=shape[1] < 16)

    def peer(torch: Any) -> Any:
        return torch.nn.Conv2d(shape[1], filters, kernel, stride, pad, bias=shape[1] < 16)

    return contestants(shape, layer, peer, threads)


def normalization(shape: tuple[int, ...], threads: int) -> dict[str, Callable[[], Any]]:
    """relu(norm(x) + x)."""
    from shoal import nn, npx

    class Layer(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm()

        def forward(self, x: Any) -> Any:
            return npx.relu(self.norm(x) + x)

    def peer(torch: Any) -> Any:
        class Peer(torch.nn.Module):  # type: ignore[misc]  # torch is an optional peer
            def __init__(self) -> None:
                super().__init__()
                self.norm = torch.nn.BatchNorm2d(shape[1])

            def forward(self, x: Any) -> Any:
                return torch.relu(self.norm(x) + x)

        return Peer()

    return contestants(shape, Layer(), peer, threads)


def pooling(shape: tuple[int, ...], threads: int) -> dict[str, Callable[[], Any]]:
    """Maxima of windows of 2 x 2."""
    from shoal import nn

    return contestants(shape, nn.MaxPool2D(2), lambda torch: torch.nn.MaxPool2d(2), threads)


def contestants(
    shape: tuple[int, ...], layer: Any, peer: Callable[[Any], Any], threads: int
) -> dict[str, Callable[[], Any]]:
    """Functions that run a layer forward and backward."""
    import numpy as np

    from shoal import autograd, init
    from shoal.ops.tensor import Tensor

    data = np.ascontiguousarray(np.random.default_rng(0).standard_normal(shape).astype("float32").transpose(0, 2, 3, 1))
    x = Tensor(data.transpose(0, 3, 1, 2))
    x.attach_grad()
    layer.initialize(init.Xavier())
    layer.hybridize()
    head = Tensor(np.ones_like(layer(x).data))

    def ours() -> None:
        with autograd.record():
            out = layer(x)
        out.backward(head)

    found: dict[str, Callable[[], Any]] = {"shoal": ours}
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(threads)
    module = peer(torch).to(memory_format=torch.channels_last)
    image = torch.from_numpy(data).permute(0, 3, 1, 2).requires_grad_()
    ones = torch.ones_like(module(image))

    def theirs() -> None:
        module.zero_grad()
        image.grad = None
        module(image).backward(ones)

    return {**found, "torch": theirs}


def measured(name: str, steps: dict[str, Callable[[], Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians and ratio."""
    times: dict[str, list[float]] = {who: [] for who in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(args.rounds):
        for who, step in steps.items():
            best = float("inf")
            for _ in range(5):
                begin = time.process_time()
                step()
                best = min(best, time.process_time() - begin)
            times[who].append(best * 1e3)
    medians = {who: round(statistics.median(t), 3) for who, t in times.items()}
    found: dict[str, Any] = {"benchmark": "images", "layer": name, "threads": args.threads, "ms": medians}
    if "torch" in times:
        ratios = [a / b for a, b in zip(times["shoal"], times["torch"], strict=True)]
        found["ratio"] = round(statistics.median(ratios), 3)
    if name in SHAPES:
        found["gflop_per_s"] = round(3 * operations(name) / medians["shoal"] / 1e6)
    return {**found, "load": round(os.getloadavg()[0], 1)}


def operations(name: str) -> int:
    """Multiplications and additions of a convolution's forward pass."""
    (batch, channels, height, width), filters, kernel, stride, pad = SHAPES[name]
    out = [(n + 2 * pad - kernel) // stride + 1 for n in (height, width)]
    return 2 * batch * out[0] * out[1] * filters * channels * kernel * kernel


if __name__ == "__main__":
    main()
