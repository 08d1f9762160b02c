"""Models for tests of `hybridize`, and what training them gives."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal import init, nn
from shoal.ops import autograd, random
from shoal.ops.tensor import Tensor


def mlp() -> nn.HybridSequential:
    return nn.HybridSequential(nn.Dense(16, "relu"), nn.Dense(8, "tanh"), nn.Dense(3))


def lenet() -> nn.HybridSequential:
    return nn.HybridSequential(
        nn.Conv2D(4, 3, padding=1, activation="relu"),
        nn.MaxPool2D(2),
        nn.BatchNorm(),
        nn.Conv2D(6, 3, strides=2, use_bias=False),
        nn.LeakyReLU(0.1),
        nn.AvgPool2D(2, 1),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Dense(8),
        nn.LayerNorm(),
        nn.GELU(),
        nn.Dense(3),
    )


class Residual(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Dense(6, flatten=False), nn.Dense(6, flatten=False), nn.BatchNorm(axis=-1)

    def forward(self, x: Any) -> Any:
        h = self.a(x)
        return nn.Activation("silu")(self.norm(h + self.b(h))) * h - h.mean(axis=-1, keepdims=True)


class Words(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 5), nn.Dense(3)

    def forward(self, tokens: Any) -> Any:
        e = self.table(tokens)
        return self.out((e * e).sum(axis=1)), e[:, 0]


def floats(*shape: int) -> Callable[[np.random.Generator], Tensor]:
    return lambda rng: Tensor(rng.standard_normal(shape).astype("float32"))


MODELS: dict[str, tuple[Callable[[], nn.HybridBlock], Callable[[np.random.Generator], Tensor]]] = {
    "mlp": (mlp, floats(5, 7)),
    "lenet": (lenet, floats(4, 1, 12, 12)),
    "residual": (Residual, floats(4, 3, 5)),
    "words": (Words, lambda rng: Tensor(rng.integers(0, 11, (4, 6)))),
}


def initialized(make: Callable[[], nn.HybridBlock], hybrid: bool) -> nn.HybridBlock:
    net = make()
    net.initialize(init.Xavier(), seed=3)
    if hybrid:
        net.hybridize()
    return net


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def train(net: nn.HybridBlock, data: Callable[[np.random.Generator], Tensor], steps: int) -> list[Any]:
    """Train with SGD; everything that can be observed on the way."""
    rng, seen = np.random.default_rng(0), []
    for step in range(steps):
        random.set_address(seed=1, step=step)
        x = data(rng)
        with autograd.record():
            out = net(x)
            loss = (first(out) ** 2).mean()
        loss.backward()
        seen += [o.asnumpy().copy() for o in (out if isinstance(out, tuple) else (out,))]
        for p in net.collect_params().values():
            if p.grad_req != "null":
                seen.append(p.grad().asnumpy().copy())
                p.data().data[...] -= 0.1 * p.grad().data
            seen.append(p.data().asnumpy().copy())
        seen += [o.asnumpy().copy() for o in [first(net(x))]]
    return seen
