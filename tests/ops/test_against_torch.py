"""Values and gradients against PyTorch, family by family, in float64 and float32."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, np, npx
from shoal.ops.tensor import Tensor

Fn = Callable[..., Any]


class Pair(NamedTuple):
    """Two functions that are to be the same, and the shapes and range of their float inputs."""

    ours: Fn
    theirs: Fn
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    low: float = -2.0
    high: float = 2.0


X, IMG, ROW = (3, 4), (2, 4, 9, 8), ((2, 3, 4), (4,), (4,))
LABELS = onp.array([3, 0, 2])
PLACES = onp.array([[0, 2, 2], [1, 0, 0]])

PAIRS: dict[str, Pair] = {
    # elementwise
    "add": Pair(np.add, torch.add, (X, (4,))),
    "subtract": Pair(np.subtract, torch.subtract, (X, (3, 1))),
    "multiply": Pair(np.multiply, torch.multiply, (X, (1, 4))),
    "divide": Pair(np.divide, torch.divide, (X, (4,)), 0.5),
    "mod": Pair(np.mod, torch.remainder, (X, (4,)), 0.5),
    "power": Pair(np.power, torch.pow, (X, (4,)), 0.5),
    "power by a number": Pair(lambda x: x**3, lambda x: x**3),
    "number to a power": Pair(lambda x: 2.0**x, lambda x: 2.0**x),
    "reciprocal": Pair(np.reciprocal, torch.reciprocal, (X,), 0.5),
    "rsub": Pair(lambda x: 1.0 - x, lambda x: 1.0 - x),
    "rdiv": Pair(lambda x: 1.0 / x, lambda x: 1.0 / x, (X,), 0.5),
    "maximum": Pair(np.maximum, torch.maximum, (X, (4,))),
    "minimum": Pair(np.minimum, torch.minimum, (X, (4,))),
    "clip": Pair(lambda x: np.clip(x, -1.0, 1.0), lambda x: torch.clip(x, -1.0, 1.0)),
    "where": Pair(lambda x, y: np.where(x > 0, x, y), lambda x, y: torch.where(x > 0, x, y), (X, (4,))),
    "erf": Pair(npx.erf, torch.erf, (X,), -4.0, 4.0),
    "hypot": Pair(np.hypot, torch.hypot, (X, (4,))),
    "logaddexp": Pair(np.logaddexp, torch.logaddexp, (X, (4,))),
    "arctan2": Pair(np.arctan2, torch.atan2, (X, (4,))),
    **{
        n: Pair(getattr(np, n), getattr(torch, n), (X,), low, high)
        for names, low, high in (
            ("abs square exp exp2 expm1 sin cos sinh cosh tanh arcsinh arctan", -2.0, 2.0),
            ("sqrt log log1p log2 log10", 0.3, 3.0),
            ("arcsin arccos arctanh tan", -0.9, 0.9),
            ("arccosh", 1.2, 4.0),
        )
        for n in names.split()
    },
    # activations
    "relu": Pair(npx.relu, F.relu),
    "relu6": Pair(npx.relu6, F.relu6, (X,), -8.0, 8.0),
    "leaky": Pair(lambda x: npx.leaky_relu(x, slope=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "prelu": Pair(lambda x, a: npx.leaky_relu(x, a, "prelu"), F.prelu, ((2, 3, 4), (3,))),
    "elu": Pair(lambda x: npx.leaky_relu(x, act_type="elu", slope=0.7), lambda x: F.elu(x, 0.7)),
    "selu": Pair(npx.selu, F.selu),
    "gelu": Pair(npx.gelu, F.gelu),
    "gelu by tanh": Pair(lambda x: npx.gelu(x, approximation="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "sigmoid": Pair(npx.sigmoid, torch.sigmoid, (X,), -20.0, 20.0),
    "log_sigmoid": Pair(npx.log_sigmoid, F.logsigmoid, (X,), -20.0, 20.0),
    "silu": Pair(npx.silu, F.silu),
    "softplus": Pair(npx.softplus, F.softplus, (X,), -15.0, 15.0),
    "softsign": Pair(npx.softsign, F.softsign),
    "hard_swish": Pair(npx.hard_swish, F.hardswish, (X,), -5.0, 5.0),
    "mish": Pair(npx.mish, F.mish),
    # reductions
    "sum": Pair(lambda x: np.sum(x, axis=(0, 2)), lambda x: x.sum((0, 2)), ((40, 3, 4),)),
    "mean": Pair(lambda x: np.mean(x, 0, keepdims=True), lambda x: x.mean(0, keepdim=True), ((40, 3),)),
    "var": Pair(lambda x: np.var(x, 1, ddof=1), lambda x: x.var(1)),
    "std": Pair(lambda x: np.std(x, 0), lambda x: x.std(0, correction=0)),
    "prod": Pair(lambda x: np.prod(x, 1), lambda x: x.prod(1)),
    "max": Pair(lambda x: np.max(x, 1), lambda x: x.amax(1)),
    "min": Pair(lambda x: np.min(x, (0, 1)), lambda x: x.amin((0, 1))),
    "logsumexp": Pair(lambda x: npx.logsumexp(x, 1), lambda x: torch.logsumexp(x, 1), (X,), -99.0, 99.0),
    "cumsum": Pair(lambda x: np.cumsum(x, 1), lambda x: x.cumsum(1)),
    "norm": Pair(lambda x: np.linalg.norm(x, axis=1), lambda x: torch.linalg.vector_norm(x, dim=1)),
    "median": Pair(lambda x: np.median(x, 0), lambda x: x.median(0).values),
    "average": Pair(lambda x, w: np.average(x, 1, w), lambda x, w: (x * w).sum(1) / w.sum(), (X, (4,)), 0.5),
    # shape
    "reshape": Pair(lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1)),
    "T": Pair(lambda x: x.T, lambda x: x.T),
    "moveaxis": Pair(lambda x: np.moveaxis(x, 0, 2), lambda x: x.moveaxis(0, 2), ((2, 3, 4),)),
    "concatenate": Pair(lambda x, y: np.concatenate([x, y], 1), lambda x, y: torch.cat([x, y], 1), (X, (3, 2))),
    "stack": Pair(lambda x, y: np.stack([x, y], 1), lambda x, y: torch.stack([x, y], 1), (X, X)),
    "vstack": Pair(lambda x, y: np.vstack([x, y]), lambda x, y: torch.vstack([x, y]), (X, (4,))),
    "split": Pair(lambda x: np.split(x, 2, 1)[1], lambda x: torch.chunk(x, 2, 1)[1]),
    "tile": Pair(lambda x: np.tile(x, (2, 3)), lambda x: torch.tile(x, (2, 3))),
    "repeat": Pair(lambda x: np.repeat(x, 3, 1), lambda x: x.repeat_interleave(3, 1)),
    "flip": Pair(lambda x: np.flip(x, (0, 1)), lambda x: x.flip((0, 1))),
    "roll": Pair(lambda x: np.roll(x, (1, -2), (0, 1)), lambda x: x.roll((1, -2), (0, 1))),
    "pad": Pair(lambda x: np.pad(x, ((0, 1), (2, 0))), lambda x: F.pad(x, (2, 0, 0, 1))),
    "pad reflect": Pair(
        lambda x: np.pad(x, ((0, 0), (1, 2)), mode="reflect"), lambda x: F.pad(x, (1, 2), mode="reflect")
    ),
    "tril": Pair(lambda x: np.tril(x, -1), lambda x: x.tril(-1)),
    "diff": Pair(lambda x: np.diff(x, 1, 0), lambda x: x.diff(1, 0)),
    "rot90": Pair(lambda x: np.rot90(x, 3), lambda x: torch.rot90(x, 3)),
    # indexing
    "x[1]": Pair(lambda x: x[1], lambda x: x[1]),
    "x[:, ::2]": Pair(lambda x: x[:, 1::2, None], lambda x: x[:, 1::2, None]),
    "x[array]": Pair(lambda x: x[PLACES], lambda x: x[torch.tensor(PLACES)]),
    "x[rows, columns]": Pair(lambda x: x[onp.arange(3), LABELS], lambda x: x[torch.arange(3), torch.tensor(LABELS)]),
    "x[mask]": Pair(lambda x: x[x > 0], lambda x: x[x > 0]),
    "take": Pair(lambda x: np.take(x, PLACES, axis=1), lambda x: x[:, torch.tensor(PLACES)]),
    "gather": Pair(
        lambda x: np.take_along_axis(x, PLACES, 0),
        lambda x: torch.take_along_dim(x, torch.tensor(PLACES), 0),
        ((3, 3),),
    ),
    "pick": Pair(lambda x: npx.pick(x, LABELS), lambda x: x.gather(1, torch.tensor(LABELS)[:, None])[:, 0]),
    "sort": Pair(lambda x: np.sort(x, 0), lambda x: x.sort(0).values),
    "topk": Pair(lambda x: npx.topk(x, k=2, ret_typ="value"), lambda x: x.topk(2).values),
    "embedding": Pair(lambda w: npx.embedding(PLACES, w), lambda w: F.embedding(torch.tensor(PLACES), w)),
    # linear algebra
    "matmul": Pair(np.matmul, torch.matmul, ((2, 1, 3, 4), (5, 4, 2))),
    "dot": Pair(np.dot, torch.mv, (X, (4,))),
    "tensordot": Pair(
        lambda x, y: np.tensordot(x, y, ([1, 0], [0, 1])),
        lambda x, y: torch.tensordot(x, y, ([1, 0], [0, 1])),
        ((3, 4, 5), (4, 3, 2)),
    ),
    "einsum": Pair(
        lambda x, y: np.einsum("...ij,jk->...ki", x, y),
        lambda x, y: torch.einsum("...ij,jk->...ki", x, y),
        ((2, 2, 3, 4), (4, 5)),
    ),
    "outer": Pair(np.outer, torch.outer, ((3,), (4,))),
    "inner": Pair(np.inner, torch.inner, ((2, 3, 4), (5, 4))),
    "trace": Pair(np.trace, torch.trace),
    "diag": Pair(lambda x: np.diag(x, 1), lambda x: torch.diag(x, 1), ((4,),)),
    "fully_connected": Pair(
        npx.fully_connected, lambda x, w, b: F.linear(x.flatten(1), w, b), ((3, 2, 2), (5, 4), (5,))
    ),
    "batch_dot": Pair(
        lambda x, y: npx.batch_dot(x, y, transpose_b=True), lambda x, y: torch.bmm(x, y.mT), ((2, 3, 4), (2, 5, 4))
    ),
    "inv": Pair(
        lambda x: np.linalg.inv(x + 3 * np.eye(4)), lambda x: torch.inverse(x + 3 * torch.eye(4)), ((2, 4, 4),)
    ),
    "det": Pair(np.linalg.det, torch.det, ((2, 3, 3),)),
    "slogdet": Pair(lambda x: np.linalg.slogdet(x)[1], lambda x: torch.linalg.slogdet(x)[1], ((2, 3, 3),)),
    "solve": Pair(
        lambda a, b: np.linalg.solve(a + 4 * np.eye(3), b),
        lambda a, b: torch.linalg.solve(a + 4 * torch.eye(3), b),
        ((2, 3, 3), (2, 3, 1)),
    ),
    "cholesky": Pair(
        lambda a: np.linalg.cholesky(a @ a.T + np.eye(3)),
        lambda a: torch.linalg.cholesky(a @ a.T + torch.eye(3)),
        ((3, 3),),
    ),
    # convolution, pooling
    "conv2d": Pair(
        lambda x, w, b: npx.convolution(x, w, b, kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 2), num_group=2),
        lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0), (1, 2), 2),
        (IMG, (6, 2, 3, 2), (6,)),
    ),
    "depthwise": Pair(
        lambda x, w: npx.convolution(x, w, pad=1, num_group=4),
        lambda x, w: F.conv2d(x, w, padding=1, groups=4),
        (IMG, (4, 1, 3, 3)),
    ),
    "conv1d": Pair(
        lambda x, w, b: npx.convolution(x, w, b, stride=2, pad=1),
        lambda x, w, b: F.conv1d(x, w, b, 2, 1),
        ((2, 3, 8), (4, 3, 3), (4,)),
    ),
    "conv3d": Pair(
        lambda x, w: npx.convolution(x, w, pad=1),
        lambda x, w: F.conv3d(x, w, padding=1),
        ((1, 2, 3, 4, 3), (3, 2, 3, 2, 2)),
    ),
    "conv_transpose2d": Pair(
        lambda x, w, b: npx.deconvolution(x, w, b, stride=2, pad=1, adj=1, num_group=2),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2),
        ((2, 4, 3, 4), (4, 3, 3, 3), (6,)),
    ),
    "max_pool2d": Pair(lambda x: npx.pooling(x, kernel=3, stride=2, pad=1), lambda x: F.max_pool2d(x, 3, 2, 1), (IMG,)),
    "avg_pool2d": Pair(
        lambda x: npx.pooling(x, kernel=3, stride=2, pad=1, pool_type="avg"), lambda x: F.avg_pool2d(x, 3, 2, 1), (IMG,)
    ),
    "avg_pool2d without padding": Pair(
        lambda x: npx.avg_pool(x, (3, 2), 2, 1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
        (IMG,),
    ),
    "max_pool1d": Pair(lambda x: npx.max_pool(x, 2), lambda x: F.max_pool1d(x, 2), ((2, 3, 7),)),
    "global_avg_pool": Pair(npx.global_avg_pool, lambda x: F.adaptive_avg_pool2d(x, 1), (IMG,)),
    "global_max_pool": Pair(lambda x: npx.pooling(x, global_pool=True), lambda x: F.adaptive_max_pool2d(x, 1), (IMG,)),
    # norms
    "layer_norm": Pair(npx.layer_norm, lambda x, g, b: F.layer_norm(x, (4,), g, b), ROW),
    "group_norm": Pair(
        lambda x, g, b: npx.group_norm(x, g, b, 2), lambda x, g, b: F.group_norm(x, 2, g, b), (IMG, (4,), (4,))
    ),
    "instance_norm": Pair(npx.instance_norm, lambda x, g, b: F.instance_norm(x, weight=g, bias=b), (IMG, (4,), (4,))),
    "rms_norm": Pair(npx.rms_norm, lambda x, g: F.rms_norm(x, (4,), g, 1e-6), ROW[:2]),
    "l2_normalization": Pair(npx.l2_normalization, F.normalize, (X,), 0.5),
    # softmax and losses
    "softmax": Pair(npx.softmax, lambda x: F.softmax(x, -1), (X,), -50.0, 50.0),
    "softmax with temperature": Pair(lambda x: npx.softmax(x, 0, temperature=3.0), lambda x: F.softmax(x / 3.0, 0)),
    "log_softmax": Pair(npx.log_softmax, lambda x: F.log_softmax(x, -1), (X,), -50.0, 50.0),
    "softmax_cross_entropy": Pair(
        lambda x: npx.softmax_cross_entropy(x, LABELS),
        lambda x: F.cross_entropy(x, torch.tensor(LABELS), reduction="none"),
    ),
    "sigmoid_cross_entropy": Pair(
        npx.sigmoid_cross_entropy,
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        (X, X),
        0.0,
        1.0,
    ),
    "smooth_l1": Pair(npx.smooth_l1, lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none")),
    "masked_softmax": Pair(
        lambda x: npx.masked_softmax(x, onp.tri(3, 4) > 0),
        lambda x: F.softmax(x.masked_fill(torch.tensor(onp.tri(3, 4) <= 0), -torch.inf), -1),
    ),
}


def inputs(name: str, dtype: Any) -> list[Any]:
    pair = PAIRS[name]
    rng = onp.random.default_rng(len(name) + sum(map(ord, name)))
    return [rng.uniform(pair.low, pair.high, s).astype(dtype) for s in pair.shapes]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair, arrays = PAIRS[name], inputs(name, dtype)
    ours = [Tensor(a) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    for t in ours:
        t.attach_grad()
    with autograd.record():
        out = pair.ours(*ours)
    expected = pair.theirs(*theirs)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 2e-4, "atol": 2e-4}
    assert out.dtype == dtype
    onp.testing.assert_allclose(out.asnumpy(), expected.detach().numpy(), **tolerance)
    g = onp.random.default_rng(1).standard_normal(out.shape).astype(dtype)
    out.backward(Tensor(onp.asarray(g)))
    expected.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        onp.testing.assert_allclose(a.grad.asnumpy(), b.grad.numpy(), **tolerance)


@pytest.mark.parametrize("axis", [1, -1])
def test_batch_norm_in_training_is_that_of_pytorch(axis: int) -> None:
    rng = onp.random.default_rng(0)
    x, gamma, beta = rng.standard_normal((5, 3, 4, 3)), rng.standard_normal(3), rng.standard_normal(3)
    ours = [Tensor(v) for v in (x, gamma, beta)]
    theirs = [torch.tensor(v, requires_grad=True) for v in (x, gamma, beta)]
    mean, var = Tensor(onp.zeros(3)), Tensor(onp.ones(3))
    t_mean, t_var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for t in ours:
        t.attach_grad()
    with autograd.record():
        out = npx.batch_norm(*ours, mean, var, eps=1e-5, momentum=0.8, axis=axis)
    image = theirs[0] if axis == 1 else theirs[0].movedim(-1, 1)
    expected = F.batch_norm(image, t_mean, t_var, theirs[1], theirs[2], training=True, momentum=0.2, eps=1e-5)
    expected = expected if axis == 1 else expected.movedim(1, -1)
    onp.testing.assert_allclose(out.asnumpy(), expected.detach().numpy(), atol=1e-10)
    onp.testing.assert_allclose(mean.asnumpy(), t_mean.numpy(), atol=1e-10)
    n = x.size / 3  # PyTorch corrects the running variance for bias, MXNet does not
    onp.testing.assert_allclose(var.asnumpy() - 0.8, (t_var.numpy() - 0.8) * (n - 1) / n, atol=1e-10)
    g = rng.standard_normal(x.shape)
    out.backward(Tensor(g))
    expected.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        onp.testing.assert_allclose(a.grad.asnumpy(), b.grad.numpy(), atol=1e-10)


def test_batch_norm_in_prediction_uses_the_running_statistics() -> None:
    rng = onp.random.default_rng(0)
    x, gamma, beta, mean = rng.standard_normal((5, 3, 4)), *rng.standard_normal((3, 3))
    var = rng.uniform(0.5, 2.0, 3)
    out = npx.batch_norm(*map(Tensor, (x, gamma, beta, mean, var)), eps=1e-5)
    expected = F.batch_norm(*map(torch.tensor, (x, mean, var, gamma, beta)), training=False, eps=1e-5)
    onp.testing.assert_allclose(out.asnumpy(), expected.numpy(), atol=1e-12)


def test_a_second_derivative_is_that_of_pytorch() -> None:
    rng = onp.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 5, 5)), rng.standard_normal((4, 3, 3, 3))
    ours, theirs = [Tensor(v) for v in (x, w)], [torch.tensor(v, requires_grad=True) for v in (x, w)]
    for t in ours:
        t.attach_grad()
    with autograd.record():
        y = np.tanh(npx.max_pool(npx.convolution(*ours, pad=1), 2)).sum()
        (gw,) = autograd.grad(y, ours[1:], create_graph=True)
        penalty = (gw * gw).sum()
    penalty.backward()
    ty = torch.tanh(F.max_pool2d(F.conv2d(*theirs, padding=1), 2)).sum()
    (tgw,) = torch.autograd.grad(ty, theirs[1:], create_graph=True)
    (tgw * tgw).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        onp.testing.assert_allclose(a.grad.asnumpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)
