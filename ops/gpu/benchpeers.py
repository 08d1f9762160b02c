"""The same training steps by PyTorch, for gpu-check: functions over tensors, eager or by ``torch.compile``."""

from collections.abc import Callable
from typing import Any

from shoal.ops.gpu.benchmodels import Images, Text, Work, batch_of

__all__ = ["KINDS", "torch_step"]

KINDS = ("eager", "compile")


def torch_step(work: Work, kind: str, device: str = "cuda") -> Callable[[], Any]:
    """A training step; its loss.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch

    images = isinstance(work.model, Images)
    x, y = (torch.from_numpy(a).to(device) for a in batch_of(work))
    x = x.contiguous(memory_format=torch.channels_last) if images else x
    made = _Parameters(torch, device)
    loss_of = _resnet(torch, made, work.model) if isinstance(work.model, Images) else _gpt(torch, made, work.model)
    fused = {"fused": True} if device == "cuda" else {}
    rule = (
        torch.optim.SGD(made.found, lr=0.01, momentum=0.9, **fused)
        if images
        else torch.optim.AdamW(made.found, lr=1e-4, **fused)
    )
    forward = torch.compile(loss_of) if kind == "compile" else loss_of

    def step() -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = forward(x, y)
        loss.backward()
        rule.step()
        rule.zero_grad(set_to_none=True)
        return loss.detach()

    return step


class _Parameters:
    """Makes parameters, and has them all."""

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.device = torch, device
        self.found: list[Any] = []

    def drawn(self, *shape: int) -> Any:
        made = self.torch.randn(*shape, device=self.device) * 0.02
        if len(shape) == 4:
            made = made.contiguous(memory_format=self.torch.channels_last)
        self.found.append(made.requires_grad_())
        return made

    def constant(self, value: float, n: int) -> Any:
        self.found.append(self.torch.full((n,), value, device=self.device).requires_grad_())
        return self.found[-1]


def _gpt(torch: Any, p: _Parameters, m: Text) -> Callable[[Any, Any], Any]:
    f, c = torch.nn.functional, m.width
    words, places = p.drawn(m.vocabulary, c), p.drawn(m.context, c)

    def dense(n: int, k: int) -> tuple[Any, Any]:
        return p.drawn(n, k), p.constant(0.0, n)

    def norm() -> tuple[Any, Any]:
        return p.constant(1.0, c), p.constant(0.0, c)

    layers = [(norm(), dense(3 * c, c), dense(c, c), norm(), dense(4 * c, c), dense(c, 4 * c)) for _ in range(m.layers)]
    last = norm()

    def forward(x: Any, y: Any) -> Any:
        b, t = x.shape
        h = f.embedding(x, words) + places[:t]
        for first, packed, mixed, second, up, down in layers:
            parts = f.linear(f.layer_norm(h, (c,), *first), *packed).view(b, t, 3, m.heads, c // m.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            seen = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
            h = h + f.linear(seen, *mixed)
            h = h + f.linear(f.gelu(f.linear(f.layer_norm(h, (c,), *second), *up), approximate="tanh"), *down)
        scores = f.linear(f.layer_norm(h, (c,), *last), words)
        return f.cross_entropy(scores.view(-1, m.vocabulary), y.reshape(-1))

    return forward


def _resnet(torch: Any, p: _Parameters, m: Images) -> Callable[[Any, Any], Any]:
    f = torch.nn.functional

    def conv(inner: int, outer: int, kernel: int, stride: int) -> Callable[[Any], Any]:
        weight, one, zero = p.drawn(outer, inner, kernel, kernel), p.constant(1.0, outer), p.constant(0.0, outer)
        mean, var = torch.zeros(outer, device=p.device), torch.ones(outer, device=p.device)

        def run(x: Any) -> Any:
            x = f.conv2d(x, weight, stride=stride, padding=kernel // 2)
            return f.batch_norm(x, mean, var, one, zero, training=True)

        return run

    stem, inner, blocks = conv(3, m.width, 7, 2), m.width, []
    for stage, count in enumerate(m.blocks):
        width = m.width << stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            body = [conv(inner, width, 1, 1), conv(width, width, 3, stride), conv(width, 4 * width, 1, 1)]
            blocks.append((body, conv(inner, 4 * width, 1, stride) if inner != 4 * width or stride > 1 else None))
            inner = 4 * width
    weight, bias = p.drawn(m.classes, inner), p.constant(0.0, m.classes)

    def forward(x: Any, y: Any) -> Any:
        x = f.max_pool2d(f.relu(stem(x)), 3, 2, 1)
        for (first, second, third), short in blocks:
            found = third(f.relu(second(f.relu(first(x)))))
            x = f.relu(found + (x if short is None else short(x)))
        return f.cross_entropy(f.linear(x.mean((2, 3)), weight, bias), y)

    return forward
