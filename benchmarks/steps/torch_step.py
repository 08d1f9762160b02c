"""A training step in PyTorch. Variants: "eager", "last" (channels-last memory), "compile"."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as fn

RATE = 0.01


def mlp() -> nn.Module:
    """784-512-256-10."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def lenet() -> nn.Module:
    """LeNet-5 with ReLU and maxima."""
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*convolutions, *dense)


class Residual(nn.Module):
    """The basic block of ResNet-20."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(cin, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Any) -> Any:
        """Apply the block."""
        return fn.relu(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Module:
    """ResNet-20 for images of 32 x 32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    cin = 16
    for cout in (16, 32, 64):
        for number in range(3):
            layers.append(Residual(cin, cout, 2 if number == 0 and cout != 16 else 1))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class LanguageModel(nn.Module):
    """Embedding, two layers of LSTM, scores."""

    def __init__(self, vocabulary: int = 10_000, units: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, units)
        self.layers = nn.LSTM(units, units, 2)
        self.head = nn.Linear(units, vocabulary)

    def forward(self, x: Any) -> Any:
        """(time, batch) to (time * batch, vocabulary)."""
        return self.head(self.layers(self.embedding(x))[0]).flatten(0, 1)


class Layer(nn.Module):
    """A transformer's layer that normalizes first."""

    def __init__(self, units: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(units), nn.LayerNorm(units)
        self.qkv, self.out = nn.Linear(units, 3 * units), nn.Linear(units, units)
        self.up, self.down = nn.Linear(units, 4 * units), nn.Linear(4 * units, units)

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        b, t, d = x.shape
        parts = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = fn.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.down(fn.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small GPT."""

    def __init__(self, vocabulary: int = 8000, units: int = 256, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, units)
        self.position = nn.Parameter(torch.randn(1, 128, units) * 0.02)
        self.layers = nn.Sequential(*[Layer(units, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, vocabulary)

    def forward(self, x: Any) -> Any:
        """(batch, time) to (batch * time, vocabulary)."""
        return self.head(self.norm(self.layers(self.embedding(x) + self.position))).flatten(0, 1)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "mlp": (mlp, (128, 784), 10, 128),
    "lenet": (lenet, (128, 1, 28, 28), 10, 128),
    "resnet20": (resnet20, (64, 3, 32, 32), 10, 64),
    "lstm": (LanguageModel, (35, 20), 10_000, 700),
    "gpt": (Transformer, (8, 128), 8000, 1024),
}


def make(model: str, variant: str) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A step of SGD, and what there is to say of it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    build, size, classes, count = MODELS[model]
    net = build()
    inputs = torch.randint(0, classes, size) if model in ("lstm", "gpt") else torch.randn(size)
    labels = torch.randint(0, classes, (count,))
    if variant == "last" and inputs.dim() == 4:
        net, inputs = net.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    rule = torch.optim.SGD(net.parameters(), lr=RATE)
    run = torch.compile(net) if variant == "compile" else net
    last = None

    def step() -> None:
        nonlocal last
        rule.zero_grad()
        last = fn.cross_entropy(run(inputs), labels)
        last.backward()
        rule.step()

    return step, lambda: {"loss": last.item(), "params": sum(p.numel() for p in net.parameters())}
