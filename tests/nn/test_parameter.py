"""Parameters: values, gradients, deferred shapes, options."""

from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import ConfigError, DeferredInitializationError, ShapeError
from shoal.ops import autograd
from shoal.ops import random as shoal_random
from shoal.ops.tensor import Tensor, array


def ready(**options: Any) -> nn.Parameter:
    param = nn.Parameter(**{"shape": (2, 3), **options})
    param.initialize(seed=0)
    return param


def test_the_value_is_the_same_tensor_for_life() -> None:
    param = ready()
    held, grad = param.data(), param.grad()
    param.set_data(np.ones((2, 3)))
    with autograd.record():
        (param.data() * 2.0).backward()
    param.zero_grad()
    param.initialize(init.One(), force_reinit=True)
    assert param.data() is held and param.grad() is grad


def test_zero_and_minus_one_are_unknown_lengths() -> None:
    assert nn.Parameter(shape=(0, 3)).shape == (-1, 3)
    assert nn.Parameter(shape=5).shape == (5,)
    assert nn.Parameter().shape is None


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(-2, 3\)"):
        nn.Parameter(shape=(-2, 3))


def test_unknown_lengths_can_be_set_and_known_ones_cannot_change() -> None:
    param = nn.Parameter("w", shape=(-1, 3), allow_deferred_init=True)
    param.shape = (4, 3)
    with pytest.raises(ShapeError, match=r"'w' has shape \(4, 3\); it cannot become \(5, 3\)"):
        param.shape = (5, 3)


def test_a_deferred_parameter_gets_its_value_when_its_shape_is_known() -> None:
    param = nn.Parameter("w", shape=(-1, 3), allow_deferred_init=True)
    param.initialize(init.One())
    assert param.is_deferred and not param.is_initialized
    param.shape = (2, 3)
    param.finish_init()
    assert not param.is_deferred and param.data().tolist() == [[1.0] * 3] * 2


def test_finishing_without_a_shape_says_what_is_missing() -> None:
    param = nn.Parameter("w", shape=(-1, 3), allow_deferred_init=True)
    param.initialize()
    with pytest.raises(DeferredInitializationError, match=r"'w' still has the unknown shape \(-1, 3\)"):
        param.finish_init()


def test_an_unknown_shape_that_may_not_wait_is_refused() -> None:
    with pytest.raises(DeferredInitializationError, match=r"'w' cannot be initialized: its shape \(-1,\)"):
        nn.Parameter("w", shape=(-1,)).initialize()


def test_the_seed_is_that_of_the_run_when_initialize_was_called() -> None:
    before = shoal_random.address()
    try:
        shoal_random.set_address(seed=9)
        deferred = nn.Parameter("w", shape=(-1,), allow_deferred_init=True)
        deferred.initialize()
        shoal_random.set_address(seed=10)
        deferred.shape = (3,)
        deferred.finish_init()
    finally:
        shoal_random.set_address(seed=before.seed, worker=before.worker, step=before.step)
    known = nn.Parameter("w", shape=(3,))
    known.initialize(seed=9)
    assert known.data().tolist() == deferred.data().tolist()


def test_its_own_initializer_wins_over_the_default_and_loses_to_an_explicit_one() -> None:
    param = nn.Parameter(shape=(2,), init="ones")
    param.initialize(default_init="zeros")
    assert param.data().tolist() == [1, 1]
    param.initialize(init.Constant(3.0), force_reinit=True)
    assert param.data().tolist() == [3, 3]


def test_a_value_of_another_shape_is_refused_with_both() -> None:
    with pytest.raises(ShapeError, match=r"'weight' has shape \(2, 3\); it cannot take a value of \(3, 2\)"):
        ready().set_data(np.zeros((3, 2)))


def test_a_value_is_converted_to_the_dtype() -> None:
    param = ready(dtype="float16")
    param.set_data(array([[1, 2, 3], [4, 5, 6]]))
    assert param.data().dtype == np.float16 and param.data().tolist()[1] == [4, 5, 6]


def test_setting_a_value_first_needs_no_initialize() -> None:
    param = nn.Parameter(shape=(-1, 2), allow_deferred_init=True)
    param.set_data(np.ones((3, 2)))
    assert param.shape == (3, 2) and param.grad().shape == (3, 2)


def test_the_gradient_request_can_change() -> None:
    param = ready()
    param.grad_req = "null"
    with pytest.raises(ConfigError, match="has no gradient: its grad_req is 'null'"):
        param.grad()
    param.grad_req = "add"
    for _ in range(2):
        with autograd.record():
            (param.data() * 2.0).backward()
    assert param.grad().tolist() == [[4.0] * 3] * 2


def test_an_unknown_gradient_request_is_refused() -> None:
    with pytest.raises(ConfigError, match="grad_req must be one of"):
        nn.Parameter("w", grad_req="always")


def test_what_is_not_differentiable_stays_so() -> None:
    param = nn.Parameter(shape=(2,), differentiable=False)
    param.grad_req = "write"
    assert param.grad_req == "null"


def test_cast_makes_a_new_tensor() -> None:
    param = ready()
    before = param.data()
    param.cast("float64")
    assert param.data() is not before
    assert param.data().dtype == param.grad().dtype == np.float64
    np.testing.assert_array_equal(param.data().asnumpy(), before.asnumpy())


def test_a_constant_is_kept_and_not_learned() -> None:
    class Shifted(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Constant([1.0, 2.0])

        def forward(self, x: Any) -> Any:
            return x + self.shift.data()

    net = Shifted()
    net.initialize(force_reinit=True)
    assert net(array([0.0, 0.0])).tolist() == [1.0, 2.0]
    assert net.shift.dtype == np.float32 and net.shift.grad_req == "null"
    assert list(net.collect_params()) == ["shift"]


def test_a_constant_keeps_the_dtype_of_an_array() -> None:
    assert nn.Constant(np.array([1, 2])).dtype == np.int64
    assert nn.Constant(Tensor(np.zeros(2))).dtype == np.float64


def test_repr_has_name_shape_and_dtype() -> None:
    assert repr(nn.Parameter("w", shape=(2, -1))) == "Parameter w (shape=(2, -1), dtype=float32)"
