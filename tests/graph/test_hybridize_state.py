"""Hybridized blocks that draw, keep statistics, are changed, cast or copied."""

import copy
from typing import Any

import numpy as np

from shoal import nn
from shoal.ops import autograd, random
from shoal.ops.tensor import Tensor, array
from tests.graph.hybrids import floats, initialized, mlp


def test_dropout_draws_anew_at_each_call_and_again_at_the_same_address() -> None:
    net = nn.HybridSequential(nn.Dropout(0.5))
    net.hybridize()
    x = Tensor(np.ones((4, 50), dtype="float32"))
    with autograd.train_mode():
        random.set_address(seed=1, step=0)
        a, b = net(x).asnumpy(), net(x).asnumpy()
        random.set_address(seed=1, step=0)
        again = net(x).asnumpy()
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, again)
    np.testing.assert_array_equal(net(x).asnumpy(), x.asnumpy())


def test_two_dropouts_of_a_model_drop_different_elements() -> None:
    net = nn.HybridSequential(nn.HybridConcatenate(nn.Dropout(0.5), nn.Dropout(0.5)))
    net.hybridize()
    with autograd.train_mode():
        out = net(Tensor(np.ones((4, 50), dtype="float32"))).asnumpy()
    assert not np.array_equal(out[:, :50], out[:, 50:])


def test_random_functions_draw_anew_in_a_graph() -> None:
    class Noisy(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            from shoal import random as r

            return x + r.uniform(0.0, 1.0, size=x.shape)

    net = Noisy()
    net.hybridize()
    x = Tensor(np.zeros(20, dtype="float32"))
    assert not np.array_equal(net(x).asnumpy(), net(x).asnumpy())


def test_running_statistics_are_updated_in_train_mode_only() -> None:
    net = nn.HybridSequential(nn.BatchNorm(in_channels=2, momentum=0.5))
    net.initialize()
    net.hybridize()
    x = Tensor(np.array([[1.0, 10.0], [3.0, 30.0]], dtype="float32"))
    net(x)
    assert net[0].running_mean.data().tolist() == [0, 0]
    with autograd.record():
        net(x)
    assert net[0].running_mean.data().tolist() == [1, 10]
    assert net[0].running_var.data().tolist() == [1.0, 50.5]


def test_a_layer_used_twice_updates_its_statistics_twice() -> None:
    results = []
    for hybrid in (False, True):
        norm = nn.BatchNorm(in_channels=2, momentum=0.5)
        net = nn.HybridSequential(norm, norm)
        net.initialize()
        if hybrid:
            net.hybridize()
        with autograd.record():
            net(Tensor(np.array([[1.0, 10.0], [3.0, 31.0]], dtype="float32")))
        results.append(norm.running_var.data().asnumpy().copy())
    np.testing.assert_array_equal(*results)


def test_a_changed_attribute_is_noticed_deep_inside() -> None:
    net = nn.HybridSequential(nn.HybridSequential(nn.LeakyReLU(0.5)))
    net.hybridize()
    x = array([-2.0])
    assert net(x).tolist() == [-1.0]
    net[0][0].alpha = 0.25
    assert net(x).tolist() == [-0.5]


def test_a_replaced_child_is_noticed() -> None:
    class Wrapper(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Activation("relu")

        def forward(self, x: Any) -> Any:
            return self.act(x)

    net = nn.HybridSequential(Wrapper())
    other = nn.LeakyReLU(0.5)
    net.hybridize()
    net(array([-2.0]))
    net[0].act = other
    assert net(array([-2.0])).tolist() == [-1.0]


def test_new_values_of_parameters_are_used() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    net(x)
    for p in net.collect_params().values():
        p.set_data(np.zeros(p.shape or ()))
    assert not net(x).asnumpy().any()


def test_a_cast_model_is_traced_again() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    net(x)
    net.cast("float64")
    assert net(Tensor(x.asnumpy().astype("float64"))).dtype == np.float64


def test_a_parameter_that_is_cast_alone_is_noticed() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=3, use_bias=False))
    net.initialize()
    net.hybridize()
    x = Tensor(np.ones((1, 3), dtype="float32"))
    assert net(x).dtype == np.float32
    net[0].weight.cast("float64")
    assert net(x).dtype == np.float64


def test_a_copy_of_a_hybridized_model_is_independent() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    before = net(x).asnumpy().copy()
    twin = copy.deepcopy(net)
    twin.setattr("lr_mult", 2.0)
    for p in twin.collect_params().values():
        p.set_data(np.zeros(p.shape or ()))
    assert not twin(x).asnumpy().any()
    np.testing.assert_array_equal(net(x).asnumpy(), before)


def test_a_written_value_takes_the_dtype_of_its_parameter() -> None:
    class Writing(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter("mean", "null", shape=(1,), init="zeros")

        def forward(self, x: Any) -> Any:
            self.mean.set_data(x.mean(axis=0))
            return self.mean.data() + 0.5

    for hybrid in (False, True):
        net = Writing()
        net.initialize()
        net.hybridize(hybrid)
        assert net(Tensor(np.array([[0.1], [0.3]]))).dtype == np.float32
        assert net.mean.data().tolist() == [np.float32(0.2)]
