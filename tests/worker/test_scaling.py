"""Loss scaling: the state machine in closed form, steps that are skipped, and gradients that come out unscaled."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal import amp, autograd, nn
from shoal.errors import ConfigError
from shoal.ops.lossscale import LEAST, MOST, LossScale
from shoal.ops.tensor import Tensor


def after(state: LossScale, *overflows: bool) -> LossScale:
    for overflow in overflows:
        state = state.after(overflow)
    return state


def test_n_overflows_in_sequence_halve_the_scale_n_times() -> None:
    assert [after(LossScale(), *[True] * n).scale for n in range(5)] == [65536 / 2**n for n in range(5)]


def test_2000_good_steps_double_it_and_1999_do_not() -> None:
    assert after(LossScale(), *[False] * 1999).scale == 65536
    assert after(LossScale(), *[False] * 2000) == LossScale(scale=131072)
    assert after(LossScale(), *[False] * 4000).scale == 262144


def test_an_overflow_begins_the_count_anew() -> None:
    state = after(LossScale(growth_interval=3), False, False, True, False, False)
    assert (state.scale, state.good_steps, state.skipped) == (32768, 2, 1)
    assert after(state, False).scale == 65536


def test_the_scale_stays_within_its_bounds() -> None:
    assert after(LossScale(), *[True] * 100).scale == LEAST
    assert after(LossScale(growth_interval=1), *[False] * 100).scale == MOST
    assert LossScale(scale=2.0**30, growth_interval=1).after(False).scale == 2.0**30


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_scale_is_the_product_of_what_happened(overflows: list[bool], interval: int) -> None:
    state = after(LossScale(scale=1024.0, growth_interval=interval), *overflows)
    grown, run = 0, 0
    for overflow in overflows:
        run = 0 if overflow else run + 1
        if run == interval:
            grown, run = grown + 1, 0
    shrunk = sum(overflows)
    if -24 < grown - shrunk < 14 and shrunk < 24 and grown < 14:
        assert state.scale == 1024.0 * 2.0 ** (grown - shrunk)
    assert state.good_steps == run and state.skipped == shrunk


@pytest.mark.parametrize(
    "numbers", [{"scale": 0.0}, {"growth_factor": 0.5}, {"backoff_factor": 2.0}, {"growth_interval": 0}]
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="loss scale"):
        LossScale(**numbers)


def dense(**options: Any) -> tuple[nn.Dense, shoal.Trainer]:
    net = nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones")
    net.initialize()
    return net, shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5, **options}, kvstore=None)


X = Tensor(np.array([[1.0, 2.0]], np.float32))


def backward(net: nn.Dense, scaler: amp.GradScaler, times: float = 1.0) -> None:
    with amp.autocast("float16"), autograd.record():
        loss = (net(X) * times).sum()
    scaler.scale(loss).backward()


def test_a_step_with_a_scale_is_the_step_without() -> None:
    net, trainer = dense()
    scaler = amp.GradScaler(init_scale=1024.0)
    backward(net, scaler)
    assert np.array_equal(net.weight.grad().asnumpy(), [[1024.0, 2048.0]])
    assert scaler.step(trainer, 1)
    scaler.update()
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.0]])


def test_a_gradient_too_small_for_float16_survives() -> None:
    net, trainer = dense()
    scaler = amp.GradScaler()
    with amp.autocast("float16"), autograd.record():
        loss = net(X).astype("float32").sum() * 2.0**-26
    scaler.scale(loss).backward()
    scaler.unscale_(trainer)
    assert np.array_equal(net.weight.grad().asnumpy(), np.array([[2.0**-26, 2.0**-25]], np.float32))


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    net, trainer = dense()
    scaler = amp.GradScaler(init_scale=1024.0)
    backward(net, scaler, times=100.0)
    assert not scaler.step(trainer, 1)
    scaler.update()
    assert scaler.get_scale() == 512 and scaler.state.skipped == 1
    assert np.array_equal(net.weight.data().asnumpy(), [[1.0, 1.0]])
    assert trainer.steps == 1


def test_clipping_comes_after_unscaling() -> None:
    net, trainer = dense(clip_gradient=1.5)
    scaler = amp.GradScaler(init_scale=1024.0)
    backward(net, scaler)
    scaler.step(trainer, 1)
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.25]])


def test_unscaled_gradients_can_be_changed_and_are_not_unscaled_twice() -> None:
    net, trainer = dense()
    scaler = amp.GradScaler(init_scale=1024.0)
    backward(net, scaler)
    scaler.unscale_(trainer)
    net.weight.grad()[:] = 4.0
    with pytest.raises(ConfigError, match="unscaled already"):
        scaler.unscale_(trainer)
    scaler.step(trainer, 1)
    scaler.update()
    assert np.array_equal(net.weight.data().asnumpy(), [[-1.0, -1.0]])


def test_a_scaler_that_is_not_enabled_does_nothing() -> None:
    net, trainer = dense()
    scaler = amp.GradScaler(enabled=False)
    with autograd.record():
        loss = net(X).sum()
    assert scaler.scale(loss) is loss and scaler.get_scale() == 1.0 and not scaler.is_enabled()
    loss.backward()
    scaler.unscale_(trainer)
    assert scaler.step(trainer, 1)
    scaler.update()
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.0]])


def test_the_state_travels_in_checkpoints() -> None:
    scaler = amp.GradScaler(init_scale=8.0, growth_interval=7)
    scaler.state = scaler.state.after(True).after(False)
    again = amp.GradScaler()
    again.load_state_dict(scaler.state_dict())
    assert again.state == scaler.state and "4" in repr(again)
    again.update(64.0)
    assert again.get_scale() == 64.0


def test_mxnets_calls_skip_and_update_by_themselves() -> None:
    net, trainer = dense()
    amp.init_trainer(trainer, init_scale=1024.0)
    for times in (100.0, 1.0):
        with amp.autocast("float16"), autograd.record():
            loss = net(X) * times
            with amp.scale_loss(loss, trainer) as scaled:
                autograd.backward(scaled)
        trainer.step(1)
    assert trainer.scaler is not None and trainer.scaler.get_scale() == 512
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.0]])


def test_mxnets_unscale_comes_before_the_step() -> None:
    net, trainer = dense()
    amp.init_trainer(trainer)
    with autograd.record(), amp.scale_loss([net(X).sum()], trainer) as scaled:
        autograd.backward(scaled)
    amp.unscale(trainer)
    assert np.array_equal(net.weight.grad().asnumpy(), [[1.0, 2.0]])
    trainer.step(1)
    assert np.array_equal(net.weight.data().asnumpy(), [[0.5, 0.0]])


def test_a_trainer_without_a_scale_says_what_to_call() -> None:
    _, trainer = dense()
    with pytest.raises(ConfigError, match="init_trainer"):
        amp.unscale(trainer)


def test_gradients_that_overflow_at_every_scale_are_said_to_do_so(caplog: pytest.LogCaptureFixture) -> None:
    net, trainer = dense()
    scaler = amp.GradScaler(init_scale=LEAST)
    with autograd.record():
        loss = (net(X) * np.inf).sum()
    scaler.scale(loss).backward()
    with caplog.at_level(logging.WARNING, "shoal.worker"):
        scaler.step(trainer, 1)
        scaler.update()
    assert "overflow at the smallest loss scale" in caplog.text


def test_nothing_leaves_before_all_gradients_are_known_to_be_finite() -> None:
    net = nn.Dense(1, in_units=2)
    net.initialize()
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5}, kvstore="local")
    amp.init_trainer(trainer)
    for _ in range(2):
        with autograd.record():
            loss = net(X).sum()
        with trainer.overlap(1), amp.scale_loss(loss, trainer) as scaled:
            scaled.backward()
        trainer.step(1)
    assert np.allclose(net.bias.data().asnumpy(), -1.0)


def test_row_sparse_gradients_are_unscaled_by_rows() -> None:
    net = nn.Embedding(5, 2, sparse_grad=True)
    net.initialize()
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 1.0}, kvstore=None)
    before = net.weight.data().asnumpy().copy()
    scaler = amp.GradScaler()
    with autograd.record():
        loss = net(Tensor(np.array([1, 1, 3]))).sum()
    scaler.scale(loss).backward()
    scaler.step(trainer, 1)
    moved = before - net.weight.data().asnumpy()
    assert np.allclose(moved, np.array([[0, 0], [2, 2], [0, 0], [1, 1], [0, 0]]))


def test_reduced_gradients_are_judged_alike_everywhere_and_need_no_vote() -> None:
    net = nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones")
    net.initialize()
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore="local", update_on_kvstore=False)
    amp.init_trainer(trainer)
    with autograd.record():
        loss = net(X).sum()
    with amp.scale_loss(loss, trainer) as scaled:
        scaled.backward()
    trainer.allreduce_grads()
    trainer.update(1)
    assert np.allclose(net.weight.data().asnumpy(), [[0.9, 0.8]])
