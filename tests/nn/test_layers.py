"""Layers against PyTorch: values, gradients of inputs and parameters; and what layers say when misused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn as tn
from torch.nn import functional as tf

from shoal import init, nn
from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import autograd
from shoal.ops.tensor import Tensor, array


def floats(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def compare(layer: nn.HybridBlock, other: tn.Module, x: Any, names: dict[str, str] | None = None) -> None:
    """The same parameters and input must give the same output and gradients, imperatively and as a graph."""
    layer.initialize(init.Xavier(), seed=1)
    layer(Tensor(x))  # completes deferred shapes
    params = layer.collect_params()
    theirs = dict(other.named_parameters())
    with torch.no_grad():
        for ours, name in (names or {n: n for n in params}).items():
            theirs[name].copy_(torch.from_numpy(params[ours].data().asnumpy()).reshape(theirs[name].shape))
    for hybrid in (False, True):
        if hybrid:
            layer.hybridize()
        mine, tx = Tensor(x.copy()), torch.from_numpy(x.copy()).requires_grad_()
        mine.attach_grad()
        weights = None
        for _ in range(2):
            with autograd.record():
                y = layer(mine)
                weights = weights if weights is not None else floats(*y.shape)
                (y * Tensor(weights)).sum().backward()
        other.zero_grad()
        ty = other(tx)
        (ty * torch.from_numpy(weights)).sum().backward()
        close(y, ty)
        close(mine.grad, tx.grad)
        for ours, name in (names or {n: n for n in params}).items():
            close(params[ours].grad(), theirs[name].grad)


def close(a: Any, b: Any) -> None:
    expected = b.detach().numpy()
    scale = max(1.0, float(np.abs(expected).max())) if expected.size else 1.0
    np.testing.assert_allclose(a.asnumpy().reshape(expected.shape), expected, rtol=2e-5, atol=2e-6 * scale)


BOTH = {"weight": "weight", "bias": "bias"}


def test_dense() -> None:
    compare(nn.Dense(5), tn.Linear(7, 5), floats(3, 7))


def test_dense_joins_all_axes_but_the_first() -> None:
    compare(
        nn.Dense(5),
        tn.Sequential(tn.Flatten(), tn.Linear(12, 5)),
        floats(2, 3, 4),
        {"weight": "1.weight", "bias": "1.bias"},
    )


def test_dense_on_the_last_axis() -> None:
    compare(nn.Dense(5, flatten=False), tn.Linear(4, 5), floats(2, 3, 4))


def test_dense_without_bias_and_with_activation() -> None:
    compare(
        nn.Dense(5, "tanh", use_bias=False),
        tn.Sequential(tn.Linear(4, 5, bias=False), tn.Tanh()),
        floats(2, 4),
        {"weight": "0.weight"},
    )


CONVS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kernel_size": 3}, {"kernel_size": 3}),
    ({"kernel_size": 3, "padding": 1, "strides": 2}, {"kernel_size": 3, "padding": 1, "stride": 2}),
    ({"kernel_size": (3, 2), "padding": (0, 1)}, {"kernel_size": (3, 2), "padding": (0, 1)}),
    ({"kernel_size": 3, "dilation": 2}, {"kernel_size": 3, "dilation": 2}),
    ({"kernel_size": 3, "groups": 2, "use_bias": False}, {"kernel_size": 3, "groups": 2, "bias": False}),
    ({"kernel_size": 1, "in_channels": 4}, {"kernel_size": 1}),
]


@pytest.mark.parametrize(("ours", "theirs"), CONVS)
def test_conv2d(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    names = {"weight": "weight"} if ours.get("use_bias") is False else BOTH
    compare(nn.Conv2D(6, **ours), tn.Conv2d(4, 6, **theirs), floats(2, 4, 8, 7), names)


def test_conv1d_and_conv3d() -> None:
    compare(nn.Conv1D(6, 3, strides=2), tn.Conv1d(4, 6, 3, stride=2), floats(2, 4, 9))
    compare(nn.Conv3D(3, 2), tn.Conv3d(2, 3, 2), floats(2, 2, 4, 5, 3))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions(axes: int) -> None:
    ours = [nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose][axes - 1]
    theirs = [tn.ConvTranspose1d, tn.ConvTranspose2d, tn.ConvTranspose3d][axes - 1]
    layer = ours(4, 3, strides=2, padding=1, output_padding=1, groups=2)
    compare(layer, theirs(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), floats(2, 6, *(4, 5, 3)[:axes]))


POOLS: list[tuple[nn.HybridBlock, tn.Module, tuple[int, ...]]] = [
    (nn.MaxPool2D(2), tn.MaxPool2d(2), (2, 3, 8, 6)),
    (nn.MaxPool2D(3, 2, 1), tn.MaxPool2d(3, 2, 1), (2, 3, 8, 7)),
    (nn.MaxPool1D(2), tn.MaxPool1d(2), (2, 3, 8)),
    (nn.MaxPool3D(2), tn.MaxPool3d(2), (2, 3, 4, 4, 4)),
    (nn.AvgPool2D(2), tn.AvgPool2d(2), (2, 3, 8, 6)),
    (nn.AvgPool2D(3, 2, 1), tn.AvgPool2d(3, 2, 1), (2, 3, 8, 7)),
    (
        nn.AvgPool2D((3, 2), 1, (1, 0), count_include_pad=False),
        tn.AvgPool2d((3, 2), 1, (1, 0), count_include_pad=False),
        (2, 3, 8, 7),
    ),
    (nn.AvgPool1D(2), tn.AvgPool1d(2), (2, 3, 8)),
    (nn.AvgPool3D(2), tn.AvgPool3d(2), (2, 3, 4, 4, 4)),
    (nn.GlobalAvgPool1D(), tn.AdaptiveAvgPool1d(1), (2, 3, 5)),
    (nn.GlobalAvgPool2D(), tn.AdaptiveAvgPool2d(1), (2, 3, 5, 4)),
    (nn.GlobalAvgPool3D(), tn.AdaptiveAvgPool3d(1), (2, 3, 5, 4, 2)),
    (nn.GlobalMaxPool1D(), tn.AdaptiveMaxPool1d(1), (2, 3, 5)),
    (nn.GlobalMaxPool2D(), tn.AdaptiveMaxPool2d(1), (2, 3, 5, 4)),
    (nn.GlobalMaxPool3D(), tn.AdaptiveMaxPool3d(1), (2, 3, 5, 4, 2)),
]


@pytest.mark.parametrize(("ours", "theirs", "shape"), POOLS, ids=lambda v: repr(v) if isinstance(v, nn.Block) else "")
def test_pooling(ours: nn.HybridBlock, theirs: tn.Module, shape: tuple[int, ...]) -> None:
    compare(ours, theirs, floats(*shape))


class Apply(tn.Module):
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Any) -> Any:
        return self.fn(x)


ACTIVATIONS: list[tuple[nn.HybridBlock, Callable[[Any], Any]]] = [
    (nn.Activation("relu"), tf.relu),
    (nn.Activation("sigmoid"), torch.sigmoid),
    (nn.Activation("tanh"), torch.tanh),
    (nn.Activation("softrelu"), tf.softplus),
    (nn.Activation("softsign"), tf.softsign),
    (nn.Activation("log_sigmoid"), tf.logsigmoid),
    (nn.Activation("mish"), tf.mish),
    (nn.Activation("relu6"), tf.relu6),
    (nn.Activation("hard_swish"), tf.hardswish),
    (nn.LeakyReLU(0.2), lambda x: tf.leaky_relu(x, 0.2)),
    (nn.ELU(0.7), lambda x: tf.elu(x, 0.7)),
    (nn.SELU(), tf.selu),
    (nn.GELU(), tf.gelu),
    (nn.GELU("tanh"), lambda x: tf.gelu(x, approximate="tanh")),
    (nn.SiLU(), tf.silu),
    (nn.Swish(2.0), lambda x: x * torch.sigmoid(2.0 * x)),
    (nn.Identity(), lambda x: x * 1.0),
    (nn.Flatten(), lambda x: x.flatten(1)),
    (nn.HybridLambda("tanh"), torch.tanh),
]


@pytest.mark.parametrize(("ours", "theirs"), ACTIVATIONS, ids=lambda v: repr(v) if isinstance(v, nn.Block) else "")
def test_activations(ours: nn.HybridBlock, theirs: Callable[[Any], Any]) -> None:
    compare(ours, Apply(theirs), floats(3, 4, 5) * 2)


def test_prelu_with_one_slope_and_with_one_per_channel() -> None:
    compare(nn.PReLU(), tn.PReLU(), floats(3, 4, 5), {"alpha": "weight"})
    compare(nn.PReLU(in_channels=4), tn.PReLU(4), floats(3, 4, 5), {"alpha": "weight"})


SCALE = {"gamma": "weight", "beta": "bias"}


@pytest.mark.parametrize("shape", [(6, 4), (5, 4, 3), (3, 4, 5, 2)])
def test_batch_norm_while_training(shape: tuple[int, ...]) -> None:
    theirs = [tn.BatchNorm1d, tn.BatchNorm1d, tn.BatchNorm2d][len(shape) - 2]
    compare(nn.BatchNorm(), theirs(4), floats(*shape), SCALE)


def test_batch_norm_keeps_running_averages_with_the_biased_variance() -> None:
    layer, x = nn.BatchNorm(momentum=0.8), floats(6, 4)
    layer.initialize()
    for _ in range(3):
        with autograd.record():
            layer(Tensor(x))
    keep = 0.8**3
    np.testing.assert_allclose(layer.running_mean.data().asnumpy(), (1 - keep) * x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.data().asnumpy(), keep + (1 - keep) * x.var(axis=0), rtol=1e-5)


def test_batch_norm_predicts_with_running_averages() -> None:
    layer, other, x = nn.BatchNorm(in_channels=4), tn.BatchNorm2d(4).eval(), floats(2, 4, 3, 3)
    layer.initialize()
    mean, var = floats(4), np.abs(floats(4)) + 0.5
    layer.running_mean.set_data(mean)
    layer.running_var.set_data(var)
    other.running_mean.copy_(torch.from_numpy(mean))  # type: ignore[union-attr]
    other.running_var.copy_(torch.from_numpy(var))  # type: ignore[union-attr]
    mine, tx = Tensor(x), torch.from_numpy(x).requires_grad_()
    mine.attach_grad()
    with autograd.record(train_mode=False):
        y = layer(mine)
    y.backward()
    ty = other(tx)
    ty.sum().backward()
    close(y, ty)
    close(mine.grad, tx.grad)


@pytest.mark.parametrize("hybrid", [False, True])
def test_batch_norm_of_no_samples_leaves_the_running_averages(hybrid: bool) -> None:
    layer = nn.BatchNorm(in_channels=4)
    layer.initialize()
    layer.hybridize(hybrid)
    for n in (0, 6, 0):
        with autograd.record():
            layer(Tensor(floats(n, 4))).sum().backward()
    seen = layer.running_mean.data().asnumpy(), layer.running_var.data().asnumpy()
    np.testing.assert_allclose(seen[0], 0.1 * floats(6, 4).mean(axis=0), rtol=1e-5, atol=1e-6)
    assert np.isfinite(seen[1]).all() and layer.gamma.grad().tolist() == [0.0] * 4


def test_batch_norm_with_global_statistics_does_not_update_them() -> None:
    layer = nn.BatchNorm(in_channels=4, use_global_stats=True)
    layer.initialize()
    with autograd.record():
        y = layer(Tensor(floats(6, 4)))
    assert layer.running_mean.data().tolist() == [0.0] * 4
    np.testing.assert_allclose(y.asnumpy(), floats(6, 4), rtol=1e-4)


def test_batch_norm_over_the_last_axis_without_scale_and_center() -> None:
    layer = nn.BatchNorm(axis=-1, scale=False, center=False)
    layer.initialize()
    x = floats(6, 5, 4)
    with autograd.record():
        y = layer(Tensor(x)).asnumpy()
    np.testing.assert_allclose(y.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=(0, 1)), 1, rtol=1e-4)
    assert {p.grad_req for p in layer.collect_params().values()} == {"null"}


def test_layer_norm() -> None:
    compare(nn.LayerNorm(), tn.LayerNorm(5), floats(3, 4, 5), SCALE)


def test_group_norm_and_instance_norm() -> None:
    compare(nn.GroupNorm(2), tn.GroupNorm(2, 4), floats(3, 4, 5, 2), SCALE)
    compare(nn.InstanceNorm(scale=True), tn.InstanceNorm2d(4, affine=True), floats(3, 4, 5, 2), SCALE)


def test_rms_norm() -> None:
    compare(nn.RMSNorm(), tn.RMSNorm(5, eps=1e-6), floats(3, 4, 5), {"gamma": "weight"})


def test_embedding_sums_the_gradients_of_repeated_rows() -> None:
    layer, other = nn.Embedding(7, 3), tn.Embedding(7, 3)
    layer.initialize(init.Normal(1.0), seed=1)
    tokens = np.array([[1, 2, 1], [6, 1, 0]])
    with torch.no_grad():
        other.weight.copy_(torch.from_numpy(layer.weight.data().asnumpy()))
    for hybrid in (False, True):
        layer.hybridize(hybrid)
        other.zero_grad()
        with autograd.record():
            y = layer(Tensor(tokens))
            (y * y).sum().backward()
        ty = other(torch.from_numpy(tokens))
        (ty * ty).sum().backward()
        close(y, ty)
        close(layer.weight.grad(), other.weight.grad)


def test_dropout_keeps_the_mean_and_the_other_elements() -> None:
    x = np.ones((200, 100), dtype="float32")
    with autograd.train_mode():
        y = nn.Dropout(0.25)(Tensor(x)).asnumpy()
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-4)


def test_dropout_can_drop_whole_channels() -> None:
    with autograd.train_mode():
        y = nn.Dropout(0.5, axes=(2, 3))(Tensor(np.ones((4, 8, 3, 3), dtype="float32"))).asnumpy()
    per_channel = y.reshape(32, 9)
    assert ((per_channel == 0).all(axis=1) | (per_channel != 0).all(axis=1)).all()
    assert 0 < (per_channel[:, 0] == 0).mean() < 1


def test_dropout_gives_gradients_where_it_let_through() -> None:
    x = Tensor(np.ones((5, 5), dtype="float32"))
    x.attach_grad()
    with autograd.record():
        y = nn.Dropout(0.5)(x)
    y.backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.asnumpy(), y.asnumpy())


def test_concatenate_joins_outputs() -> None:
    net = nn.HybridConcatenate(nn.Identity(), nn.HybridLambda(lambda x: x * 2.0), axis=1)
    assert net(array([[1.0, 2.0]])).tolist() == [[1.0, 2.0, 2.0, 4.0]]
    assert net[:1](array([[1.0]])).tolist() == [[1.0]]


def test_sequentials_are_lists() -> None:
    net = nn.HybridSequential()
    net.add(nn.Dense(1), nn.Dense(2), nn.Dense(3))
    assert len(net) == 3 and [b.units for b in net] == [1, 2, 3]
    assert net[-1].units == 3 and [b.units for b in net[1:]] == [2, 3]
    with pytest.raises(IndexError, match="has 3 blocks; there is no block 3"):
        net[3]


def test_sequentials_pass_tuples_on_as_arguments() -> None:
    net = nn.Sequential(nn.Lambda(lambda x: (x, x * 2.0)), nn.Lambda(lambda a, b: a + b))
    assert net(array([1.0])).tolist() == [3.0]


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.Dense(0), ConfigError, "units >= 1"),
    (lambda: nn.Dense(3, activation="reluu"), ConfigError, r"unknown activation 'reluu'; known: .*relu"),
    (lambda: nn.Conv2D(4, (3, 3, 3)), ConfigError, r"kernel_size must be a number >= 1, or 2 of them, got \(3, 3, 3\)"),
    (lambda: nn.Conv2D(4, 3, groups=3), ConfigError, "multiples of groups=3"),
    (lambda: nn.Conv2D(4, 3, layout="CHWN"), ConfigError, "layout='CHWN'; there are 'NCHW' and 'NHWC'"),
    (lambda: nn.MaxPool2D(2, padding=-1), ConfigError, "pad=-1"),
    (lambda: nn.Dropout(1.0), ConfigError, "0 <= rate < 1"),
    (lambda: nn.BatchNorm(momentum=2.0), ConfigError, "momentum"),
    (lambda: nn.LeakyReLU(-1.0), ConfigError, "alpha >= 0"),
    (lambda: nn.GELU("exact"), ConfigError, "'erf' or 'tanh'"),
    (lambda: nn.InstanceNorm(axis=2), ConfigError, "axis 1"),
    (lambda: nn.HybridLambda("tanhh"), ConfigError, "no operator is called 'tanhh'"),
    (
        lambda: nn.HybridSequential(nn.Sequential()),
        ConfigError,
        "takes HybridBlocks only, got Sequential: use Sequential",
    ),
    (lambda: nn.Sequential(3), ConfigError, "must be a Block, got int"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_options_are_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


MISFITS: list[tuple[nn.HybridBlock, tuple[int, ...], str]] = [
    (nn.Dense(4, in_units=3), (2, 5), r"Dense '0' \(3 -> 4, linear\).*\(2, 5\).*\(4, 3\)"),
    (nn.Conv2D(4, 3, in_channels=2), (2, 3, 8, 8), r"Conv2D '0'.*\(2, 3, 8, 8\).*\(4, 2, 3, 3\)"),
    (nn.Conv2D(4, 3), (2, 3, 8), r"Conv2D '0' takes NCHW, got an input of shape \(2, 3, 8\)"),
    (nn.Conv2D(4, 9), (2, 3, 8, 8), r"Conv2D '0'.*\(9, 9\).*\(2, 3, 8, 8\)"),
    (nn.MaxPool2D(9), (2, 3, 8, 8), r"MaxPool2D '0'.*\(9, 9\).*\(2, 3, 8, 8\)"),
    (nn.GlobalAvgPool2D(), (2, 3), r"GlobalAvgPool2D '0' takes 4 axes.*\(2, 3\)"),
    (nn.BatchNorm(in_channels=4), (2, 3), r"BatchNorm '0' for \(4,\) along axis 1.*\(2, 3\)"),
    (nn.LayerNorm(in_channels=4), (2, 3), r"LayerNorm '0' for \(4,\)"),
    (nn.BatchNorm(axis=3), (2, 3), r"BatchNorm '0' normalizes along axis 3; the input has shape \(2, 3\)"),
    (nn.GroupNorm(2), (2, 3, 4), r"GroupNorm '0'.*3.*2 groups"),
]


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(("layer", "shape", "message"), MISFITS)
def test_inputs_that_do_not_fit_name_the_layer_and_both_shapes(
    layer: nn.HybridBlock, shape: tuple[int, ...], message: str, hybrid: bool
) -> None:
    net = nn.HybridSequential(layer)
    net.initialize()
    net.hybridize(hybrid)
    with pytest.raises(ShapeError, match=message), autograd.train_mode():
        net(Tensor(np.ones(shape, dtype="float32")))


def test_an_embedding_of_floats_is_refused() -> None:
    layer = nn.Embedding(3, 2)
    layer.initialize()
    with pytest.raises(DTypeError, match="looks up integers, got float32"):
        layer(array([1.0]))


def test_a_row_that_does_not_exist_is_refused() -> None:
    layer = nn.Embedding(3, 2)
    layer.initialize()
    with pytest.raises(IndexError):
        layer(Tensor(np.array([3])))


REPRS = [
    (nn.Dense(4, "relu"), "Dense(? -> 4, relu)"),
    (nn.Dense(4, in_units=3), "Dense(3 -> 4, linear)"),
    (
        nn.Conv2D(4, 3, padding=1, activation="relu"),
        "Conv2D(? -> 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), relu)",
    ),
    (nn.Conv2DTranspose(4, 3, in_channels=6), "Conv2DTranspose(6 -> 4, kernel_size=(3, 3), stride=(1, 1))"),
    (nn.MaxPool2D(2), "MaxPool2D(size=(2, 2), stride=(2, 2), padding=(0, 0))"),
    (nn.BatchNorm(in_channels=3), "BatchNorm(axis=1, in_channels=3)"),
    (nn.Dropout(0.5, axes=(2,)), "Dropout(p = 0.5, axes=(2,))"),
    (nn.Embedding(10, 3), "Embedding(10 -> 3, float32)"),
    (nn.SoftmaxCrossEntropyLoss(), "SoftmaxCrossEntropyLoss(batch_axis=0, w=None)"),
]


@pytest.mark.parametrize(("layer", "text"), REPRS)
def test_layers_show_their_sizes(layer: nn.Block, text: str) -> None:
    assert repr(layer) == text
