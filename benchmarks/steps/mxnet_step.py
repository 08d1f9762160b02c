"""A training step in MXNet 1.9 Gluon, hybridized. It runs in an interpreter of its own, which has no shoal."""

from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn, rnn

RATE = 0.01


def mlp() -> Any:
    """784-512-256-10."""
    net = nn.HybridSequential()
    net.add(nn.Dense(512, activation="relu"), nn.Dense(256, activation="relu"), nn.Dense(10))
    return net


def lenet() -> Any:
    """LeNet-5 with ReLU and maxima."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(6, 5, padding=2, activation="relu"), nn.MaxPool2D(2, 2))
    net.add(nn.Conv2D(16, 5, activation="relu"), nn.MaxPool2D(2, 2), nn.Flatten())
    net.add(nn.Dense(120, activation="relu"), nn.Dense(84, activation="relu"), nn.Dense(10))
    return net


class Residual(gluon.HybridBlock):
    """The basic block of ResNet-20."""

    def __init__(self, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        self.body = nn.HybridSequential()
        self.body.add(nn.Conv2D(channels, 3, stride, 1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        self.body.add(nn.Conv2D(channels, 3, 1, 1, use_bias=False), nn.BatchNorm())
        self.shortcut = None
        if project:
            self.shortcut = nn.HybridSequential()
            self.shortcut.add(nn.Conv2D(channels, 1, stride, use_bias=False), nn.BatchNorm())

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Apply the block."""
        short = x if self.shortcut is None else self.shortcut(x)
        return F.Activation(self.body(x) + short, act_type="relu")


def resnet20() -> Any:
    """ResNet-20 for images of 32 x 32."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(16, 3, 1, 1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
    for channels in (16, 32, 64):
        for number in range(3):
            first = number == 0 and channels != 16
            net.add(Residual(channels, 2 if first else 1, first))
    net.add(nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(10))
    return net


class LanguageModel(gluon.HybridBlock):
    """Embedding, two layers of LSTM, scores."""

    def __init__(self, vocabulary: int = 10_000, units: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, units)
        self.layers = rnn.LSTM(units, 2, layout="TNC", input_size=units)
        self.head = nn.Dense(vocabulary, flatten=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """(time, batch) to (time * batch, vocabulary)."""
        return self.head(self.layers(self.embedding(x))).reshape((-3, 0))


class Attention(gluon.HybridBlock):
    """Causal self-attention."""

    def __init__(self, units: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.size = heads, units // heads
        self.qkv, self.out = nn.Dense(3 * units, flatten=False), nn.Dense(units, flatten=False)
        mask = np.triu(np.full((length, length), -1e9, "float32"), 1)[None]
        self.mask = self.params.get_constant("mask", mask)

    def hybrid_forward(self, F: Any, x: Any, mask: Any) -> Any:
        """Apply the layer."""
        y = self.qkv(x).reshape((0, 0, 3, self.heads, self.size)).transpose((2, 0, 3, 1, 4))
        q, k, v = (z.reshape((-3, 0, 0)) for z in F.split(y, 3, axis=0, squeeze_axis=True))
        scores = F.batch_dot(q, k, transpose_b=True) * (self.size**-0.5)
        mixed = F.batch_dot(F.softmax(F.broadcast_add(scores, mask), axis=-1), v)
        return self.out(mixed.reshape((-4, -1, self.heads, 0, 0)).transpose((0, 2, 1, 3)).reshape((0, 0, -3)))


class Layer(gluon.HybridBlock):
    """A transformer's layer that normalizes first."""

    def __init__(self, units: int, heads: int, length: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(), nn.LayerNorm()
        self.attention = Attention(units, heads, length)
        self.up, self.down = nn.Dense(4 * units, flatten=False), nn.Dense(units, flatten=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Apply the layer."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.LeakyReLU(self.up(self.norm2(x)), act_type="gelu"))


class Transformer(gluon.HybridBlock):
    """A small GPT."""

    def __init__(
        self, vocabulary: int = 8000, units: int = 256, heads: int = 4, layers: int = 4, length: int = 128
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, units)
        self.position = self.params.get("position", shape=(1, length, units), init="normal")
        self.layers = nn.HybridSequential()
        for _ in range(layers):
            self.layers.add(Layer(units, heads, length))
        self.norm = nn.LayerNorm()
        self.head = nn.Dense(vocabulary, flatten=False)

    def hybrid_forward(self, F: Any, x: Any, position: Any) -> Any:
        """(batch, time) to (batch * time, vocabulary)."""
        y = self.layers(F.broadcast_add(self.embedding(x), position))
        return self.head(self.norm(y)).reshape((-3, 0))


MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int, int]] = {
    "mlp": (mlp, (128, 784), 10, 128),
    "lenet": (lenet, (128, 1, 28, 28), 10, 128),
    "resnet20": (resnet20, (64, 3, 32, 32), 10, 64),
    "lstm": (LanguageModel, (35, 20), 10_000, 700),
    "gpt": (Transformer, (8, 128), 8000, 1024),
}


def make(model: str, variant: str) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A step of SGD, and what there is to say of it."""
    mx.random.seed(0)
    rng = np.random.RandomState(0)
    build, size, classes, count = MODELS[model]
    net, loss_of = build(), gluon.loss.SoftmaxCrossEntropyLoss()
    if model in ("lstm", "gpt"):
        inputs = mx.nd.array(rng.randint(0, classes, size), dtype="int32")
    else:
        inputs = mx.nd.array(rng.standard_normal(size).astype("float32"))
    labels = mx.nd.array(rng.randint(0, classes, count), dtype="int32")
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    loss_of.hybridize(static_alloc=True, static_shape=True)
    net(inputs)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": RATE})
    last = None

    def step() -> None:
        nonlocal last
        with autograd.record():
            last = loss_of(net(inputs), labels).mean()
        last.backward()
        trainer.step(1)
        mx.nd.waitall()

    def describe() -> dict[str, Any]:
        learned = [p for p in net.collect_params().values() if p.grad_req != "null"]
        return {"loss": float(last.asscalar()), "params": sum(int(np.prod(p.shape)) for p in learned)}

    return step, describe
