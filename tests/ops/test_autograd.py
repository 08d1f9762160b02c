"""Recording, going back, and what happens when that is not possible."""

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import autograd
from shoal.errors import AutogradError, ShapeError
from shoal.ops import elementwise as F
from shoal.ops import norm, trigonometric
from shoal.ops.tensor import Tensor, array


def variable(*values: float) -> Tensor:
    x = array(list(values), dtype=np.float64)
    x.attach_grad()
    return x


def gradient(x: Tensor) -> Any:
    assert x.grad is not None
    return x.grad.asnumpy()


# -- modes


def test_nothing_is_recorded_outside_record() -> None:
    x = variable(1.0)
    y = x * x
    assert y.node is None
    with pytest.raises(AutogradError, match=r"head 0 \(shape \(1,\)\) was not recorded"):
        y.backward()


def test_modes_nest_and_are_restored() -> None:
    seen = []

    def note() -> None:
        seen.append((autograd.is_recording(), autograd.is_training()))

    note()
    with autograd.record():
        note()
        with autograd.pause():
            note()
            with autograd.train_mode():
                note()
        with autograd.predict_mode():
            note()
        note()
    with autograd.record(train_mode=False):
        note()
    note()
    off, rec, both = (False, False), (True, False), (True, True)
    assert seen == [off, both, off, (False, True), rec, both, rec, off]


def test_modes_are_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), autograd.record():
        raise ZeroDivisionError
    assert not autograd.is_recording()


def test_a_mode_can_be_used_twice_and_as_a_decorator() -> None:
    @autograd.record()
    def recording() -> bool:
        return autograd.is_recording()

    assert recording() and recording() and not autograd.is_recording()


def test_set_recording_and_set_training_return_what_was() -> None:
    assert autograd.set_recording(True) is False
    assert autograd.set_recording(False) is True
    assert autograd.set_training(True) is False
    assert autograd.set_training(False) is True


def test_each_thread_records_for_itself() -> None:
    seen: list[bool] = []
    with autograd.record():
        thread = threading.Thread(target=lambda: seen.append(autograd.is_recording()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_what_is_computed_in_pause_is_a_constant() -> None:
    x = variable(3.0)
    with autograd.record():
        with autograd.pause():
            c = x * x
        (x * c).backward()
    assert gradient(x) == 9.0


# -- delivering


def test_a_gradient_is_written_into_the_same_buffer_each_time() -> None:
    x = variable(1.0, 2.0)
    buffer = x.grad
    assert buffer is not None
    memory = buffer.data
    for factor in (2.0, 5.0):
        with autograd.record():
            y = x * factor
        y.backward()
        assert x.grad is buffer and buffer.data is memory
        assert gradient(x).tolist() == [factor, factor]


def test_add_accumulates_over_passes_and_write_does_not() -> None:
    x, y = variable(1.0), variable(1.0)
    x.attach_grad("add")
    for _ in range(3):
        with autograd.record():
            z = x * 2.0 + y * 2.0
        z.backward()
    assert gradient(x) == 6.0 and gradient(y) == 2.0
    x.zero_grad()
    assert gradient(x) == 0.0


def test_uses_of_one_variable_add_up_even_with_write() -> None:
    x = variable(3.0)
    with autograd.record():
        y = x * x + x
    y.backward()
    assert gradient(x) == 7.0


def test_null_takes_no_gradient() -> None:
    x, y = variable(3.0), variable(4.0)
    y.attach_grad("null")
    with autograd.record():
        z = x * y
    z.backward()
    assert gradient(x) == 4.0 and y.grad is None and y.grad_req == "null"


def test_a_gradient_can_be_delivered_to_a_part_of_a_larger_buffer() -> None:
    arena = np.zeros(5)
    x, y = array([1.0, 2.0], dtype="float64"), array([3.0, 4.0, 5.0], dtype="float64")
    autograd.mark_variables([x, y], [Tensor(arena[:2]), Tensor(arena[2:])])
    with autograd.record():
        z = (x * x).sum() + (y * 3.0).sum()
    z.backward()
    assert arena.tolist() == [2.0, 4.0, 3.0, 3.0, 3.0]


def test_attaching_again_keeps_the_buffer_and_sets_it_to_zero() -> None:
    x = variable(1.0)
    buffer = x.grad
    with autograd.record():
        y = x * 2.0
    y.backward()
    x.attach_grad("add")
    assert x.grad is buffer and gradient(x) == 0.0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x.attach_grad("often"), ValueError, "'write', 'add' or 'null', got 'often'"),
        (lambda x: x.attach_grad(grad=Tensor(np.zeros(3))), ShapeError, "shape (2,)"),
        (lambda x: x.attach_grad(grad=Tensor(np.zeros(2, np.float32))), ShapeError, "float32"),
        (lambda x: array([1], dtype="int32").attach_grad(), AutogradError, "astype"),
    ],
)
def test_a_wrong_attach_grad_says_what_is_wrong(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call(variable(1.0, 2.0))
    assert words in str(caught.value)


def test_attach_grad_on_a_computed_tensor_makes_it_a_variable_of_its_own() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x
        y.attach_grad()
        z = y * 3.0
    z.backward()
    assert gradient(y) == 3.0 and gradient(x) == 0.0


def test_detach_and_stop_gradient_are_constants() -> None:
    x = variable(2.0)
    with autograd.record():
        z = x * x.detach() * F.stop_gradient(x)
    z.backward()
    assert gradient(x) == 4.0


def test_several_heads_and_their_cotangents() -> None:
    x = variable(1.0, 2.0)
    with autograd.record():
        a, b = x * 2.0, x * x
    autograd.backward([a, b], [None, array([10.0, 100.0])])
    assert gradient(x).tolist() == [2.0 + 20.0, 2.0 + 400.0]


def test_a_cotangent_of_another_shape_is_refused_with_both_shapes() -> None:
    x = variable(1.0, 2.0)
    with autograd.record():
        y = x * 2.0
    with pytest.raises(ShapeError, match=r"head 0 has shape \(2,\), its cotangent has shape \(3,\)"):
        y.backward(array([1.0, 2.0, 3.0]))


def test_a_variable_is_its_own_head() -> None:
    x = variable(1.0, 2.0)
    x.backward()
    assert gradient(x).tolist() == [1.0, 1.0]


# -- freeing


def test_a_second_pass_needs_retain_graph() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert gradient(x) == 4.0
    with pytest.raises(AutogradError, match="retain_graph=True"):
        y.backward()


def test_two_heads_over_a_shared_part_need_retain_graph() -> None:
    x = variable(2.0)
    with autograd.record():
        shared = x * x
        a, b = shared + 1.0, shared * 2.0
    a.backward()
    with pytest.raises(AutogradError, match="'multiply'"):
        b.backward()


def test_the_backward_pass_frees_what_it_went_through() -> None:
    x = variable(2.0)
    with autograd.record():
        y = F.exp(x)
        middle = weakref.ref(y)
        y = y * 3.0
    del_before = middle()
    assert del_before is not None
    del del_before
    y.backward()
    assert middle() is None and gradient(x)[0] == pytest.approx(3 * np.exp(2.0))


def test_a_recorded_graph_that_nobody_needs_is_freed_without_a_pass_and_without_the_collector() -> None:
    gc.disable()
    try:
        x = variable(2.0)
        with autograd.record():
            y = F.exp(x)
            middle = weakref.ref(y)
            y = y * 3.0
        del y
        assert middle() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("use", [False, True])
def test_a_very_long_chain_is_differentiated_and_freed_without_recursion(use: bool) -> None:
    x = variable(1.0)
    with autograd.record():
        y = x
        for _ in range(50_000 if not use else 20_000):
            y = y + 1.0
    if use:
        y.backward()
        assert gradient(x) == 1.0
    del y


# -- grad()


def test_grad_returns_gradients_and_leaves_the_buffers_alone() -> None:
    x, y = variable(2.0), variable(3.0)
    with autograd.record():
        z = x * x * y
    gx, gy = autograd.grad(z, [x, y])
    assert (gx.item(), gy.item()) == (12.0, 4.0) and gradient(x) == 0.0


def test_grad_of_one_variable_is_one_tensor() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x
    assert autograd.grad(y, x).item() == 4.0


def test_grad_with_respect_to_something_in_the_middle() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x
        z = y * y
        w = z + y
    gy, gx, gz = autograd.grad(w, [y, x, z])
    assert (gy.item(), gx.item(), gz.item()) == (9.0, 36.0, 1.0)


def test_grad_of_what_the_head_does_not_depend_on_is_zero() -> None:
    x, y = variable(1.0, 2.0), variable(3.0)
    with autograd.record():
        z = y * 2.0
    assert autograd.grad(z, [x])[0].tolist() == [0.0, 0.0]


def test_grad_of_an_unmarked_tensor_says_what_to_do() -> None:
    x = variable(1.0)
    with autograd.record():
        y = x * 2.0
    with pytest.raises(AutogradError, match=r"variable 0 \(shape \(1,\)\).*attach_grad"):
        autograd.grad(y, [array([1.0])])


def test_returned_gradients_do_not_share_memory() -> None:
    x, y = variable(1.0), variable(2.0)
    with autograd.record():
        z = x + y
    gx, gy = autograd.grad(z, [x, y])
    gx[...] = 9.0
    assert gy.item() == 1.0


def test_only_what_leads_to_the_variables_is_computed() -> None:
    ran = []

    class Noted(autograd.Function):
        def forward(self, x: Any) -> Any:
            return x * 1.0

        def backward(self, g: Any) -> Any:
            ran.append(1)
            return g

    x, y = variable(1.0), variable(2.0)
    with autograd.record():
        z = Noted()(x) + y
    autograd.grad(z, [y])
    assert ran == []


def test_derivatives_of_third_order() -> None:
    x = variable(0.5)
    with autograd.record():
        y = trigonometric.sin(x)
        for _ in range(3):
            y = autograd.grad(y, x, create_graph=True)
    assert y.item() == pytest.approx(-np.cos(0.5))


def test_backward_through_a_created_gradient_and_the_original_add_up() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x * x
        g = autograd.grad(y, x, create_graph=True)
        loss = y + g * g
    loss.backward()
    assert gradient(x) == 12.0 + 2 * 12.0 * 12.0


# -- outputs


def test_an_unused_output_has_no_cotangent() -> None:
    x = variable(1.0, 2.0, 3.0, 4.0)
    with autograd.record():
        left, _ = x.split(2)
        y = (left * 3.0).sum()
    y.backward()
    assert gradient(x).tolist() == [3.0, 3.0, 0.0, 0.0]


def test_statistics_of_batch_norm_carry_gradients() -> None:
    x = Tensor(np.arange(6.0).reshape(3, 2))
    x.attach_grad()
    one, zero = Tensor(np.ones(2)), Tensor(np.zeros(2))
    with autograd.record():
        _, mean, _ = norm.batch_norm(x, one, zero)
        loss = mean.sum()
    loss.backward()
    np.testing.assert_allclose(gradient(x), 1 / 3)


def test_a_gradient_has_the_dtype_of_its_variable_when_another_input_is_wider() -> None:
    x = array([1.0, 2.0])
    x.attach_grad()
    with autograd.record():
        y = (x * Tensor(np.array([2.0, 3.0]))).sum()
    y.backward()
    assert y.dtype == np.float64 and gradient(x).dtype == np.float32


# -- writing in place


def test_other_writes_are_allowed() -> None:
    x, c = variable(1.0, 2.0), array([0.0, 0.0])
    with autograd.record():
        c += 1.0
        c[0] = 5.0
        with autograd.pause():
            x += 1.0
    x -= c
    assert c.tolist() == [5.0, 1.0] and x.tolist() == [-3.0, 2.0]


# -- the whole


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["mul", "add", "tanh", "sin", "reuse", "scale"]), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_any_program_has_the_gradient_of_its_slope(program: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, direction, other = rng.uniform(-1, 1, (3, 4))

    def run(x: Any) -> Any:
        y, kept = x, x
        for step in program:
            if step == "mul":
                y = y * other
            elif step == "add":
                y = y + x
            elif step == "tanh":
                y = F.tanh(y)
            elif step == "sin":
                kept, y = y, trigonometric.sin(y)
            elif step == "reuse":
                y = y * kept
            else:
                y = y * 0.5 + 1.0
        return y.sum()

    x = Tensor(start)
    x.attach_grad()
    with autograd.record():
        y = run(x)
    y.backward()
    h = 1e-6
    slope = (run(Tensor(start + h * direction)).item() - run(Tensor(start - h * direction)).item()) / (2 * h)
    assert float(gradient(x) @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-7)
