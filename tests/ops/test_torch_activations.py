"""Activations of PyTorch, compared with PyTorch: values, gradients, three precisions, odd shapes and strides."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, nn, npx
from shoal import random as addressed
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.torchlike import TOLERANCE, Pair, arrays, compare, strided

W = (-6.0, 6.0)
PAIRS: dict[str, Pair] = {
    "celu": Pair(npx.celu, F.celu),
    "celu 0.5": Pair(lambda x: npx.celu(x, 0.5), lambda x: F.celu(x, 0.5)),
    "hard_tanh": Pair(npx.hard_tanh, F.hardtanh),
    "hard_tanh limits": Pair(lambda x: npx.hard_tanh(x, -0.2, 1.2), lambda x: F.hardtanh(x, -0.2, 1.2)),
    "hard_shrink": Pair(npx.hard_shrink, F.hardshrink),
    "soft_shrink": Pair(npx.soft_shrink, F.softshrink),
    "soft_shrink 1": Pair(lambda x: npx.soft_shrink(x, 1.0), lambda x: F.softshrink(x, 1.0)),
    "tanh_shrink": Pair(npx.tanh_shrink, F.tanhshrink),
    "threshold": Pair(lambda x: npx.threshold(x, 0.1, 20.0), lambda x: F.threshold(x, 0.1, 20.0)),
    "relu6": Pair(npx.relu6, F.relu6, ((3, 4),), -8.0, 8.0),
    "hardsigmoid": Pair(npx.hardsigmoid, F.hardsigmoid, ((3, 4),), *W),
    "hardswish": Pair(npx.hardswish, F.hardswish, ((3, 4),), *W),
    "log_sigmoid": Pair(npx.logsigmoid, F.logsigmoid, ((3, 4),), -9.0, 9.0),
    "gelu tanh": Pair(lambda x: npx.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": Pair(npx.quick_gelu, lambda x: x * torch.sigmoid(1.702 * x)),
    "squared_relu": Pair(npx.squared_relu, lambda x: F.relu(x) ** 2),
    "rrelu in prediction": Pair(autograd.predict_mode()(npx.rrelu), lambda x: F.rrelu(x, training=False)),
    "mish": Pair(npx.mish, F.mish, ((3, 4),), *W),
    "selu": Pair(npx.selu, F.selu),
    "softsign": Pair(npx.softsign, F.softsign),
    "silu": Pair(npx.silu, F.silu, ((3, 4),), *W),
    "Softplus": Pair(nn.Softplus(2.0), lambda x: F.softplus(x, 2.0)),
    "Hardtanh": Pair(nn.Hardtanh(-0.5, 0.5), torch.nn.Hardtanh(-0.5, 0.5)),
    "Threshold": Pair(nn.Threshold(0.5, 1.0), torch.nn.Threshold(0.5, 1.0)),
    **{
        n: Pair(getattr(nn, n)(), getattr(torch.nn, n)())
        for n in (
            *("CELU", "Hardshrink", "Hardsigmoid", "Hardswish", "LogSigmoid", "Mish", "ReLU", "ReLU6", "Sigmoid"),
            *("Softshrink", "Softsign", "Tanh", "Tanhshrink"),
        )
    },
}
ROWS: dict[str, Pair] = {
    "glu": Pair(npx.glu, F.glu, ((3, 8),)),
    "glu axis 0": Pair(lambda x: npx.glu(x, 0), lambda x: F.glu(x, 0), ((4, 3),)),
    "swiglu": Pair(npx.swiglu, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], ((3, 8),)),
    "geglu": Pair(npx.geglu, lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]), ((3, 8),)),
    "reglu": Pair(npx.reglu, lambda x: x.chunk(2, -1)[0] * F.relu(x.chunk(2, -1)[1]), ((3, 8),)),
    "softmin": Pair(npx.softmin, lambda x: F.softmin(x, -1)),
    "Softmax": Pair(nn.Softmax(1), torch.nn.Softmax(1), ((2, 3, 4),)),
    "LogSoftmax": Pair(nn.LogSoftmax(0), torch.nn.LogSoftmax(0), ((2, 3, 4),)),
    "Softmin": Pair(nn.Softmin(1), torch.nn.Softmin(1), ((2, 3, 4),)),
    "Softmax2D": Pair(nn.Softmax2D(), torch.nn.Softmax2d(), ((2, 3, 4, 2),)),
    "GLU": Pair(nn.GLU(1), torch.nn.GLU(1), ((2, 4, 3),)),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*PAIRS, *ROWS])
def test_values_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    pair = {**PAIRS, **ROWS}[name]
    inputs = arrays(name, pair, dtype)
    compare(pair.ours, pair.theirs, inputs, TOLERANCE[dtype])
    compare(pair.ours, pair.theirs, [strided(x) for x in inputs], TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 1, 5), (40, 257)], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_any_shape_is_taken(name: str, shape: tuple[int, ...]) -> None:
    compare(PAIRS[name].ours, PAIRS[name].theirs, arrays(name, PAIRS[name], "float32", [shape]), TOLERANCE["float32"])


@pytest.mark.parametrize("name", [n for n in PAIRS if n not in ("tanh_shrink", "Tanhshrink")])
def test_extreme_values_are_those_of_pytorch(name: str) -> None:
    values = np.array([0.0, -0.0, 1e4, -1e4, 60.0, -60.0, np.nan], np.float32)
    with np.errstate(all="ignore"):
        ours = PAIRS[name].ours(Tensor(values)).asnumpy()
    np.testing.assert_allclose(ours, PAIRS[name].theirs(torch.tensor(values)).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "at"),
    [
        (npx.relu6, F.relu6, [0.0, 6.0]),
        (npx.hard_tanh, F.hardtanh, [-1.0, 1.0]),
        (npx.hard_shrink, F.hardshrink, [-0.5, 0.5]),
        (npx.soft_shrink, F.softshrink, [-0.5, 0.5]),
        (npx.celu, F.celu, [0.0, -0.0]),
        (npx.hardsigmoid, F.hardsigmoid, [-3.0, 3.0]),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_the_gradient_at_a_corner_is_that_of_pytorch(ours: object, theirs: object, at: list[float]) -> None:
    compare(ours, theirs, [np.array(at)], 1e-12)  # type: ignore[arg-type]  # functions, seen as objects by parametrize


def test_random_slopes_are_drawn_anew_at_each_step_and_alike_at_the_same_address() -> None:
    x = Tensor(np.full((50, 40), -1.0, np.float32))
    x.attach_grad()
    drawn = []
    for step in (3, 3, 4):
        addressed.set_address(seed=1, step=step)
        with autograd.record():
            out = npx.rrelu(x, 0.1, 0.5)
        drawn.append(-out.asnumpy())
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert drawn[0].min() >= 0.1 and drawn[0].max() <= 0.5 and abs(drawn[0].mean() - 0.3) < 0.02
    out.backward()
    np.testing.assert_allclose(x.grad.asnumpy(), drawn[2], rtol=1e-6)


def test_a_hybridized_layer_draws_new_slopes_at_each_run() -> None:
    layer, x = nn.RReLU(0.1, 0.9), Tensor(-np.ones((4, 5), np.float32))
    layer.hybridize()
    with autograd.record():
        first, second = layer(x).asnumpy(), layer(x).asnumpy()
    assert (first != second).any() and first.max() <= -0.1


def test_gumbel_softmax_draws_each_class_with_its_probability() -> None:
    addressed.set_address(seed=3, step=0)
    logits = np.log(np.array([0.1, 0.6, 0.3]))
    sample = npx.gumbel_softmax(Tensor(np.broadcast_to(logits, (4000, 3)).copy()), tau=0.5, hard=True).asnumpy()
    assert (np.sort(sample, axis=1) == [0.0, 0.0, 1.0]).all()
    np.testing.assert_allclose(sample.mean(axis=0), [0.1, 0.6, 0.3], atol=0.03)


def test_a_hard_sample_has_the_gradient_of_the_soft_one() -> None:
    logits, g = np.random.default_rng(0).standard_normal((2, 4, 3)).astype("float32")
    grads = []
    for hard in (False, True):
        addressed.set_address(seed=3, step=0)
        x = Tensor(logits)
        x.attach_grad()
        with autograd.record():
            out = npx.gumbel_softmax(x, tau=2.0, hard=hard, axis=0)
        out.backward(Tensor(g))
        grads.append(x.grad.asnumpy())
        np.testing.assert_allclose(out.asnumpy().sum(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-6, atol=1e-7)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ShapeError, match=r"glu: .*\(3, 5\).*even"):
        npx.glu(np.ones((3, 5)))
    with pytest.raises(ConfigError, match="lambd"):
        npx.soft_shrink(np.ones(3), -1.0)
    with pytest.raises(ConfigError, match="tau"):
        npx.gumbel_softmax(np.ones(3), 0.0)
    with pytest.raises(ConfigError, match="lower"):
        npx.rrelu(np.ones(3), 0.5, 0.2)
    with pytest.raises(ShapeError, match=r"Softmax2D.*\(3, 4\)"):
        nn.Softmax2D()(Tensor(np.ones((3, 4))))


@pytest.mark.parametrize("name", ["celu", "glu", "hard_tanh", "swiglu", "quick_gelu"])
def test_every_activation_has_a_name_for_activation(name: str) -> None:
    x = np.linspace(-2.0, 2.0, 8, dtype="float32")
    assert (npx.activation(x, name) == nn.Activation(name)(Tensor(x)).asnumpy()).all()


def test_layers_say_their_options() -> None:
    assert repr(nn.Hardtanh(-1, 2)) == "Hardtanh(min_val=-1.0, max_val=2.0)"
    assert repr(nn.GLU()) == "GLU(axis=-1)"


def test_random_slopes_by_mxnets_name_lie_between_its_bounds() -> None:
    x = Tensor(-np.ones((20, 20), np.float32))
    with autograd.train_mode():
        out = -npx.leaky_relu(x, act_type="rrelu", lower_bound=0.2, upper_bound=0.3).asnumpy()
    assert 0.2 <= out.min() < out.max() <= 0.3
    assert npx.leaky_relu(x, act_type="rrelu", lower_bound=0.2, upper_bound=0.3).asnumpy()[0, 0] == np.float32(-0.25)
