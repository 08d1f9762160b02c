"""The two models that gpu-check times: GPT-2 124M and ResNet-50 v1.5, and training steps of them by shoal alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal.ops import activation, attention, autograd, linalg, loss, optim
from shoal.ops.backend import CPU, Namespace
from shoal.ops.gpu.arena import FlatOptimizer
from shoal.ops.nn.activation import Activation
from shoal.ops.nn.basic import Dense, Embedding, Flatten
from shoal.ops.nn.container import HybridSequential
from shoal.ops.nn.conv import Conv2D
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.mixed import autocast
from shoal.ops.nn.norm import BatchNorm, LayerNorm
from shoal.ops.nn.pool import GlobalAvgPool2D, MaxPool2D
from shoal.ops.tensor import Tensor

__all__ = ["GPT2", "RESNET50", "Images", "Text", "Work", "batch_of", "small", "step_of"]


@dataclass(frozen=True)
class Text:
    """A decoder of text: sizes of GPT-2 124M, its vocabulary rounded up to a multiple of 128."""

    vocabulary: int = 50304
    context: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12


@dataclass(frozen=True)
class Images:
    """A residual net for images: blocks of each stage, the width of the first, the side of an image."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    side: int = 224
    classes: int = 1000


@dataclass(frozen=True)
class Work:
    """A training step.

    Attributes:
        name: in results.
        model: its sizes.
        batch: sequences or images.
        floor_ms: an estimate of what an H200 cannot go below, from its arithmetic and its memory; 0 without one.
    """

    name: str
    model: Text | Images
    batch: int
    floor_ms: float = 0.0

    @property
    def items(self) -> int:
        """Tokens or images of a step."""
        return self.batch * (self.model.context if isinstance(self.model, Text) else 1)

    @property
    def unit(self) -> str:
        """What they are, per second."""
        return "tokens/s" if isinstance(self.model, Text) else "images/s"


GPT2 = [Work(f"GPT-2 B={b}", Text(), b, 68.5 * b / 64) for b in (4, 64)]
"""bfloat16, 1024 positions. 66 to 71 ms at 790 TFLOP/s for 64 sequences; the middle of it, in proportion."""

RESNET50 = [Work(f"ResNet-50 b={b}", Images(), b, b / 12.2) for b in (32, 256)]
"""Channels last. Bound by memory: 353 MB an image at 4.3 TB/s, where normalization is fused with what follows it."""


def small(work: Work) -> Work:
    """The same with a few numbers in it, to be tried on a CPU."""
    sizes = Text(64, 8, 16, 2, 2) if isinstance(work.model, Text) else Images((1, 1), 4, 16, 5)
    return replace(work, model=sizes, batch=2, floor_ms=1.0)


class _Layer(HybridBlock):
    """Attention, and two dense layers, each behind a norm and added to what came in."""

    def __init__(self, m: Text) -> None:
        super().__init__()
        self.heads = m.heads
        self.first, self.second = LayerNorm(in_channels=m.width), LayerNorm(in_channels=m.width)
        self.packed = Dense(3 * m.width, flatten=False, in_units=m.width)
        self.mixed = Dense(m.width, flatten=False, in_units=m.width)
        self.up = Dense(4 * m.width, flatten=False, in_units=m.width)
        self.down = Dense(m.width, flatten=False, in_units=4 * m.width)

    def forward(self, x: Any) -> Any:
        """(batch, positions, width)."""
        b, t, c = x.shape
        parts = self.packed(self.first(x)).reshape(b, t, 3, self.heads, c // self.heads).transpose(2, 0, 3, 1, 4)
        seen = attention.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.mixed(seen.transpose(0, 2, 1, 3).reshape(b, t, c))
        return x + self.down(activation.gelu(self.up(self.second(x)), approximation="tanh"))


class _Gpt(HybridBlock):
    """The decoder with its loss; the head's weights are the embedding's."""

    def __init__(self, m: Text) -> None:
        super().__init__()
        self.words, self.places = Embedding(m.vocabulary, m.width), Embedding(m.context, m.width)
        self.layers = HybridSequential(*[_Layer(m) for _ in range(m.layers)])
        self.last = LayerNorm(in_channels=m.width)

    def forward(self, x: Any, y: Any) -> Any:
        """The mean loss of the next words ``y``."""
        weight = self.words.weight.data()
        h = self.words(x) + self.places.weight.data()[: x.shape[1]]
        h = self.last(self.layers(h))
        scores = linalg.fully_connected(h, weight, None, flatten=False)
        return loss.softmax_cross_entropy(scores.reshape(-1, weight.shape[0]), y.reshape(-1)).mean()


class _Bottleneck(HybridBlock):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        outer = 4 * width
        self.body = HybridSequential(
            Conv2D(width, 1, use_bias=False, in_channels=inner),
            BatchNorm(in_channels=width),
            Activation("relu"),
            Conv2D(width, 3, stride, 1, use_bias=False, in_channels=width),
            BatchNorm(in_channels=width),
            Activation("relu"),
            Conv2D(outer, 1, use_bias=False, in_channels=width),
            BatchNorm(in_channels=outer),
        )
        self.short = HybridSequential()
        if inner != outer or stride > 1:
            self.short.add(Conv2D(outer, 1, stride, use_bias=False, in_channels=inner), BatchNorm(in_channels=outer))

    def forward(self, x: Any) -> Any:
        """Images to images."""
        return activation.relu(self.body(x) + self.short(x))


class _Resnet(HybridBlock):
    """The net with its loss."""

    def __init__(self, m: Images) -> None:
        super().__init__()
        self.net = HybridSequential(
            Conv2D(m.width, 7, 2, 3, use_bias=False, in_channels=3),
            BatchNorm(in_channels=m.width),
            Activation("relu"),
            MaxPool2D(3, 2, 1),
        )
        inner = m.width
        for stage, count in enumerate(m.blocks):
            for i in range(count):
                self.net.add(_Bottleneck(inner, m.width << stage, 2 if stage and not i else 1))
                inner = 4 * (m.width << stage)
        self.net.add(GlobalAvgPool2D(), Flatten(), Dense(m.classes, in_units=inner))

    def forward(self, x: Any, y: Any) -> Any:
        """The mean loss of the classes ``y``."""
        return loss.softmax_cross_entropy(self.net(x), y).mean()


def batch_of(work: Work) -> tuple[Any, Any]:
    """Inputs and labels, in host memory."""
    rng, m = np.random.default_rng(0), work.model
    if isinstance(m, Text):
        words = rng.integers(0, m.vocabulary, (work.batch, m.context + 1))
        return words[:, :-1].copy(), words[:, 1:].copy()
    images = rng.standard_normal((work.batch, 3, m.side, m.side), dtype=np.float32)
    return images, rng.integers(0, m.classes, work.batch)


def step_of(work: Work, xp: Namespace = CPU, device: str = "cpu") -> Callable[[], Any]:
    """A training step by shoal: hybridized, bfloat16 where `autocast` says so, AdamW or SGD with momentum; its loss."""
    net: Any = _Gpt(work.model) if isinstance(work.model, Text) else _Resnet(work.model)
    net.initialize()
    net.to(device)
    net.hybridize()
    x, y = (Tensor(xp.asarray(a)) for a in batch_of(work))
    params = [p for p in net.collect_params().values() if p.grad_req != "null"]
    rule = (
        optim.AdamW(learning_rate=1e-4) if isinstance(work.model, Text) else optim.SGD(learning_rate=0.01, momentum=0.9)
    )
    update = _update(rule, xp, params)

    def step() -> Any:
        with autocast(), autograd.record():
            found = net(x, y)
        found.backward()
        update()
        return found

    return step


def _update(rule: Any, xp: Namespace, params: list[Any]) -> Callable[[], None]:
    """All parameters by three launches where there are kernels, else one by one."""
    values = [p.data() for p in params]
    if hasattr(xp.module, "RawModule"):
        flat = FlatOptimizer(rule, xp, [v.data for v in values])
        for p, v, weight, grad in zip(params, values, flat.weights, flat.grads, strict=True):
            v.data, p.grad().data = weight, grad
        return flat.step
    states, count = [rule.init(v.data) for v in values], [0]

    def each() -> None:
        count[0] += 1
        for p, v, state in zip(params, values, states, strict=True):
            rule.step(v.data, p.grad().data, state, t=count[0])

    return each
