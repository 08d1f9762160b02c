"""Models of known shape, for benchmarks, graphs and first steps: `build` makes one by name.

>>> from shoal.worker import zoo
>>> net, inputs, labels = zoo.build("mlp")
>>> inputs.shape, labels.shape
((128, 784), (128,))
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import linalg, loss, shape
from shoal.ops.nn.activation import GELU, Activation
from shoal.ops.nn.basic import Dense, Embedding, Flatten
from shoal.ops.nn.container import HybridSequential
from shoal.ops.nn.conv import Conv2D
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.norm import BatchNorm, LayerNorm
from shoal.ops.nn.parameter import Constant, Parameter
from shoal.ops.nn.pool import GlobalAvgPool2D, MaxPool2D
from shoal.ops.nn.recurrent import LSTM
from shoal.ops.tensor import Tensor

__all__ = ["MODELS", "Example", "build", "gpt", "lenet", "lstm", "mlp", "resnet20"]


class Example(NamedTuple):
    """A model, not initialized, and a batch that fits it."""

    net: HybridBlock
    inputs: Tensor
    labels: Tensor


def mlp() -> HybridBlock:
    """784-512-256-10 with ReLU."""
    return HybridSequential(Dense(512, "relu"), Dense(256, "relu"), Dense(10))


def lenet() -> HybridBlock:
    """LeNet-5 with ReLU and maxima, for images of 28 x 28."""
    return HybridSequential(
        Conv2D(6, 5, padding=2, activation="relu"),
        MaxPool2D(2),
        Conv2D(16, 5, activation="relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(120, "relu"),
        Dense(84, "relu"),
        Dense(10),
    )


class Residual(HybridBlock):
    """relu(body(x) + shortcut(x)), the basic block of He et al., arXiv:1512.03385."""

    def __init__(self, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        self.body = HybridSequential(
            Conv2D(channels, 3, stride, 1, use_bias=False),
            BatchNorm(),
            Activation("relu"),
            Conv2D(channels, 3, 1, 1, use_bias=False),
            BatchNorm(),
        )
        self.shortcut = (
            HybridSequential(Conv2D(channels, 1, stride, use_bias=False), BatchNorm())
            if project
            else HybridSequential()
        )
        self.act = Activation("relu")

    def forward(self, x: Any) -> Any:
        """Apply the block."""
        return self.act(self.body(x) + self.shortcut(x))


def resnet20() -> HybridBlock:
    """ResNet-20 for images of 32 x 32: three stages of three blocks, 16, 32 and 64 channels."""
    net = HybridSequential(Conv2D(16, 3, 1, 1, use_bias=False), BatchNorm(), Activation("relu"))
    for channels in (16, 32, 64):
        for number in range(3):
            first = number == 0 and channels != 16
            net.add(Residual(channels, 2 if first else 1, first))
    net.add(GlobalAvgPool2D(), Flatten(), Dense(10))
    return net


class LanguageModel(HybridBlock):
    """Embedding, LSTM layers, scores of the next word: (time, batch) to (time * batch, vocabulary)."""

    def __init__(self, vocabulary: int, units: int, layers: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, units)
        self.layers = LSTM(units, num_layers=layers, input_size=units)
        self.head = Dense(vocabulary, flatten=False)

    def forward(self, x: Any) -> Any:
        """Scores for each word of ``x``."""
        scores = self.head(self.layers(self.embedding(x)))
        return shape.reshape(scores, shape=(-1, scores.shape[-1]))


def lstm(vocabulary: int = 10_000, units: int = 256, layers: int = 2) -> HybridBlock:
    """A language model of two LSTM layers; its input is (time, batch)."""
    return LanguageModel(vocabulary, units, layers)


class Attention(HybridBlock):
    """Causal self-attention with several heads over (batch, time, units)."""

    def __init__(self, units: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads, self.size = heads, units // heads
        self.qkv = Dense(3 * units, flatten=False, in_units=units)
        self.out = Dense(units, flatten=False, in_units=units)
        self.mask = Constant(np.triu(np.full((length, length), -1e9, "float32"), 1), "mask")

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        batch, length, units = x.shape
        parts = shape.reshape(self.qkv(x), shape=(batch, length, 3, self.heads, self.size))
        q, k, v = (
            shape.squeeze(p, axis=0) for p in shape.split(shape.transpose(parts, axes=(2, 0, 3, 1, 4)), 3, axis=0)
        )
        scores = linalg.matmul(q, shape.swapaxes(k, -1, -2)) * self.size**-0.5
        mixed = linalg.matmul(loss.softmax(scores + self.mask.data(), axis=-1), v)
        return self.out(shape.reshape(shape.transpose(mixed, axes=(0, 2, 1, 3)), shape=(batch, length, units)))


class Layer(HybridBlock):
    """A transformer's layer that normalizes first (Xiong et al., arXiv:2002.04745)."""

    def __init__(self, units: int, heads: int, length: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(in_channels=units), LayerNorm(in_channels=units)
        self.attention = Attention(units, heads, length)
        self.feed = HybridSequential(
            Dense(4 * units, flatten=False, in_units=units), GELU(), Dense(units, flatten=False, in_units=4 * units)
        )

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Transformer(HybridBlock):
    """A causal transformer: (batch, time) to (batch * time, vocabulary)."""

    def __init__(self, vocabulary: int, units: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, units)
        self.position = Parameter("position", shape=(1, length, units))
        self.layers = HybridSequential(*[Layer(units, heads, length) for _ in range(layers)])
        self.norm = LayerNorm(in_channels=units)
        self.head = Dense(vocabulary, flatten=False, in_units=units)

    def forward(self, x: Any) -> Any:
        """Scores for each token of ``x``."""
        scores = self.head(self.norm(self.layers(self.embedding(x) + self.position.data())))
        return shape.reshape(scores, shape=(-1, scores.shape[-1]))


def gpt(vocabulary: int = 8000, units: int = 256, heads: int = 4, layers: int = 4, length: int = 128) -> HybridBlock:
    """A small GPT; its input is (batch, length)."""
    return Transformer(vocabulary, units, heads, layers, length)


MODELS: dict[str, tuple[Callable[[], HybridBlock], tuple[int, ...], int, int]] = {
    "mlp": (mlp, (128, 784), 10, 128),
    "lenet": (lenet, (128, 1, 28, 28), 10, 128),
    "resnet20": (resnet20, (64, 3, 32, 32), 10, 64),
    "lstm": (lstm, (35, 20), 10_000, 700),
    "gpt": (gpt, (8, 128), 8000, 1024),
}
"""Name to (how to make it, shape of the input, number of classes, number of labels)."""


def build(name: str) -> Example:
    """The model ``name`` and one batch of random data, always the same.

    Raises:
        ConfigError: there is none of that name; lists those there are.
    """
    if name not in MODELS:
        raise ConfigError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    make, size, classes, count = MODELS[name]
    rng = np.random.default_rng(0)
    words = name in ("lstm", "gpt")
    inputs = rng.integers(0, classes, size) if words else rng.standard_normal(size).astype("float32")
    return Example(make(), Tensor(inputs), Tensor(rng.integers(0, classes, count)))
