"""Writing to parts of tensors: on the tape, in graphs, and off it."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import autograd, nn
from shoal.errors import AutogradError, DTypeError, GraphError, ShapeError
from shoal.ops.tensor import Tensor, array

A = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
B = np.array([7.0, -8.0, 9.0])


def variable(values: Any) -> Tensor:
    x = Tensor(np.array(values, float))
    x.attach_grad()
    return x


def copied(t: Any) -> Any:
    """A value that later writes do not change, which PyTorch wants for what it keeps."""
    return t.clone() if isinstance(t, torch.Tensor) else t


def assigned(key: Any, value: Callable[[Any], Any] = lambda y: y) -> Callable[[Any, Any], Any]:
    def program(x: Any, y: Any) -> Any:
        h = x * 2.0
        before = copied(h) * copied(h)
        h[key] = value(y)
        return (before * 3.0 + h * h * h).sum()

    return program


def loop(x: Any, y: Any) -> Any:
    state = x * 1.0
    for i in range(1, 3):
        state[:, i] = copied(state[:, i - 1]) * copied(state[:, i]) + y[i]
    return (state * state).sum()


def buffer(x: Any, y: Any) -> Any:
    out = torch.zeros(3, dtype=torch.float64) if isinstance(x, torch.Tensor) else Tensor(np.zeros(3))
    for i in range(3):
        out[i] = (x[0, i] * y[i]).sum()
    return (out * out).sum()


def accumulated(x: Any, y: Any) -> Any:
    h = x * 1.0
    h += y
    seen = copied(h) * copied(h)
    h *= y
    h -= 1.0
    h /= y
    return (seen * h).sum()


def part_accumulated(x: Any, y: Any) -> Any:
    h = x * 1.0
    h[1] += y
    h[:, 0] *= 3.0
    h[[0, 1], [1, 2]] -= y[:2]
    return (h * h).sum()


def whole_by_itself(x: Any, y: Any) -> Any:
    h = x * y
    h[0] = copied(h)[1]
    h[...] = copied(h) * copied(h)
    return (h * y).sum()


PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "row": assigned(0),
    "number": assigned((slice(None), 1), lambda y: 5.0),
    "broadcast": assigned(...),
    "column of one value": assigned((slice(None), 1), lambda y: y[0]),
    "reversed": assigned((1, [2, 1, 0])),
    "rows by positions": assigned([1, 0]),
    "elements": assigned(([0, 1], [2, 0]), lambda y: y[:2]),
    "leading axis of length 1": assigned(0, lambda y: y[None]),
    "loop": loop,
    "buffer": buffer,
    "accumulated": accumulated,
    "part accumulated": part_accumulated,
    "whole by itself": whole_by_itself,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_write_on_the_tape_has_pytorchs_value_and_gradients(name: str) -> None:
    x, y = variable(A), variable(B)
    with autograd.record():
        out = PROGRAMS[name](x, y)
    out.backward()
    tx, ty = torch.tensor(A, requires_grad=True), torch.tensor(B, requires_grad=True)
    expected = PROGRAMS[name](tx, ty)
    expected.backward()
    assert x.grad is not None and y.grad is not None and tx.grad is not None
    np.testing.assert_allclose(out.asnumpy(), expected.detach().numpy())
    np.testing.assert_allclose(x.grad.asnumpy(), tx.grad.numpy())
    np.testing.assert_allclose(y.grad.asnumpy(), 0.0 if ty.grad is None else ty.grad.numpy())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hybridized_block_that_writes_gives_what_it_gives_imperatively(name: str) -> None:
    class Model(nn.HybridBlock):  # type: ignore[misc]  # nn is typed loosely for tests
        def forward(self, x: Any, y: Any) -> Any:
            return PROGRAMS[name](x, y)

    results = []
    if name == "buffer":
        pytest.skip("a tensor made inside of forward is a constant of the graph")
    for hybrid in (False, True):
        model = Model()
        if hybrid:
            model.hybridize()
        x, y = variable(A), variable(B)
        with autograd.record():
            out = model(x, y)
        out.backward()
        results.append([out.asnumpy(), *(v.grad.asnumpy() for v in (x, y) if v.grad is not None)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_graph_refuses_writes_to_inputs_and_to_parts_that_may_share_memory() -> None:
    class Model(nn.HybridBlock):  # type: ignore[misc]  # nn is typed loosely for tests
        def forward(self, x: Any) -> Any:
            part = x.reshape(-1) if self.view else x
            part[0] = 1.0
            return part

    for view, words in ((True, "share memory"), (False, "is an input")):
        model = Model()
        model.view = view
        model.hybridize()
        with pytest.raises(GraphError, match=words):
            model(array([[1.0, 2.0]]))


def test_where_a_position_is_assigned_twice_the_last_value_counts_and_has_the_gradient() -> None:
    x, y = variable([0.0, 0.0, 0.0]), variable([5.0, 6.0, 7.0])
    with autograd.record():
        h = x * 1.0
        h[[1, 1, 0]] = y
        (h * h).sum().backward()
    assert h.tolist() == [7.0, 6.0, 0.0] and y.grad is not None
    assert y.grad.tolist() == [0.0, 12.0, 14.0]


def test_a_mask_selects_what_is_written() -> None:
    x, y = variable(A), variable([10.0, 20.0])
    with autograd.record():
        h = x * 1.0
        h[h < 0] = y
        h[h > 15.0] = 0.0
        (h * h).sum().backward()
    assert h.tolist() == [[1.0, 10.0, 3.0], [4.0, 5.0, 0.0]]
    assert x.grad is not None and y.grad is not None
    assert x.grad.tolist() == [[2.0, 0.0, 6.0], [8.0, 10.0, 0.0]] and y.grad.tolist() == [20.0, 0.0]


def test_second_derivatives_go_through_writes() -> None:
    x = variable([1.0, 2.0])
    with autograd.record():
        h = x * x
        h[0] = h[1] * x[0]
        g = autograd.grad((h * h).sum(), x, create_graph=True)
        (g * g).sum().backward()
    t = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    k = t * t
    k = torch.stack([k[1] * t[0], k[1]])
    (gt,) = torch.autograd.grad((k * k).sum(), t, create_graph=True)
    (gt * gt).sum().backward()
    assert x.grad is not None and t.grad is not None
    np.testing.assert_allclose(x.grad.asnumpy(), t.grad.numpy())


def test_a_graph_may_be_gone_through_twice_and_not_after_it_was_freed() -> None:
    x = variable([1.0, 2.0])
    with autograd.record():
        h = x * 1.0
        before = h * h
        h[0] = 3.0
        out, other = (before * h).sum(), before.sum()
    out.backward(retain_graph=True)
    first = x.grad.asnumpy().copy() if x.grad is not None else None
    out.backward()
    np.testing.assert_array_equal(x.grad.asnumpy() if x.grad is not None else None, first)
    with pytest.raises(AutogradError, match="freed"):
        out.backward()
    with pytest.raises(AutogradError, match="freed"):
        other.backward()


def test_the_written_tensor_keeps_its_dtype() -> None:
    x = array([1.0, 2.0])
    x.attach_grad()
    with autograd.record():
        h = x * 1.0
        h += Tensor(np.array([1.0, 1.0]))
        h[0] = Tensor(np.array(3.0))
    assert h.dtype == np.float32 and h.tolist() == [3.0, 3.0]


def test_a_tensor_reads_as_it_was_until_the_write() -> None:
    x = variable([1.0, 2.0])
    with autograd.record():
        h = x * 1.0
        view, same = h[:1], h
        h[0] = 9.0
    assert view.tolist() == [1.0] and same is h and h.tolist() == [9.0, 2.0] and x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda x, c: operator.setitem(x, 0, 1.0), "is a variable"),
        (lambda x, c: operator.iadd(x, 1.0), "is a variable"),
        (lambda x, c: operator.imul(x, 2.0), "is a variable"),
        (lambda x, c: operator.setitem((x * 1.0).reshape(2, 1), 0, 1.0), "shares its memory"),
        (lambda x, c: operator.setitem(c[:], 0, x[0]), "shares its memory"),
    ],
)
def test_writes_that_would_falsify_gradients_are_refused_while_recording(write: Any, words: str) -> None:
    x, c = variable([1.0, 2.0]), array([0.0, 0.0])
    with autograd.record(), pytest.raises(AutogradError, match=words):
        write(x, c)


@pytest.mark.parametrize(
    "part", [lambda h: h.reshape(2, 1), lambda h: h[:1], lambda h: h[None], lambda h: Tensor(np.zeros(4)[:2])]
)
def test_a_view_with_a_name_cannot_be_updated_while_recording(part: Any) -> None:
    x = variable([1.0, 2.0])
    with autograd.record():
        h = x * 1.0
        v = part(h)
        with pytest.raises(AutogradError, match=r"x \+= value.*shares its memory"):
            v += x[0]
    assert h.tolist() == [1.0, 2.0] and v.sum().item() in (0.0, 1.0, 3.0)


def test_a_view_in_a_list_cannot_be_updated_while_recording() -> None:
    x = variable([1.0, 2.0])
    with autograd.record():
        views = [(x * 1.0).reshape(2, 1)]
        with pytest.raises(AutogradError, match="shares its memory"):
            views[0] += 1.0


def test_a_truth_value_among_other_indices_is_refused() -> None:
    with pytest.raises(IndexError, match="True or False"):
        Tensor(A)[0, True]


def test_writes_of_constants_to_constants_go_to_the_same_memory_while_recording() -> None:
    c = array([0.0, 0.0])
    memory = c.data
    with autograd.record():
        c[0] = 5.0
        c += 1.0
    assert c.data is memory and memory.tolist() == [6.0, 1.0]


@pytest.mark.parametrize(
    ("write", "error", "words"),
    [
        (lambda x: operator.setitem(x, 0, np.ones(4)), ShapeError, r"\(2, 3\).*\(4,\)"),
        (lambda x: operator.setitem(x, (0, 0, 0), 1.0), IndexError, "3 indices"),
        (lambda x: operator.iadd(x, np.ones((2, 2, 3))), ShapeError, r"\(2, 2, 3\)"),
        (lambda x: operator.setitem(x.broadcast_to((2, 2, 3)), 0, 1.0), AutogradError, "copy"),
    ],
)
@pytest.mark.parametrize("recording", [False, True])
def test_what_does_not_fit_is_explained(recording: bool, write: Any, error: type[Exception], words: str) -> None:
    x = variable(A)
    with autograd.record() if recording else autograd.pause():
        h = x * 1.0
        with pytest.raises(error, match=words):
            write(h)


@pytest.mark.parametrize(
    ("op", "value"),
    [(operator.iadd, 2), (operator.isub, 2), (operator.imul, 3), (operator.ifloordiv, 2), (operator.imod, 3),
     (operator.ipow, 2), (operator.iand, 3), (operator.ior, 8), (operator.ixor, 5), (operator.ilshift, 1),
     (operator.irshift, 1), (operator.imatmul, np.array([[1, 2, 0], [0, 1, 0], [1, 0, 1]]))],
)  # fmt: skip
def test_every_in_place_operator_is_numpys_and_writes_to_the_same_memory(op: Any, value: Any) -> None:
    values = np.array([[5, 3, 9], [2, 7, 4]])
    x = Tensor(values.copy())
    memory = x.data
    assert op(x, value) is x and x.data is memory
    np.testing.assert_array_equal(memory, op(values.copy(), value))


def test_an_in_place_operator_cannot_change_the_kind_of_numbers() -> None:
    n = Tensor(np.array([1, 2]))
    with pytest.raises(DTypeError, match="x is int64, the result would be float64"):
        n /= 2


@pytest.mark.parametrize("key", [True, False, np.True_, Tensor(np.array(True)), Tensor(np.array(False))])
def test_a_single_truth_value_takes_all_or_nothing(key: Any) -> None:
    plain = bool(key)
    np.testing.assert_array_equal(Tensor(A)[key].asnumpy(), A[plain])
    for x in (Tensor(A.copy()), variable(A) * 1.0):
        with autograd.record():
            x[key] = 0.0
        np.testing.assert_array_equal(x.asnumpy(), A * (not plain))


@settings(max_examples=100)
@given(st.data())
def test_any_write_is_numpys_on_and_off_the_tape_and_its_gradients_cover_all(data: Any) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    key = data.draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=True),
            hnp.integer_array_indices(shape),
            hnp.arrays(bool, shape),
        )
    )
    values = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    room = values[key].shape
    given_ = -np.arange(1.0, 1.0 + np.prod(room)).reshape(room)
    expected = values.copy()
    expected[key] = given_
    plain = Tensor(values.copy())
    plain[key] = given_
    np.testing.assert_array_equal(plain.asnumpy(), expected)
    x, y = variable(values), variable(given_)
    with autograd.record():
        h = x * 1.0
        h[key] = y
    h.backward()
    np.testing.assert_array_equal(h.asnumpy(), expected)
    assert x.grad is not None and y.grad is not None
    np.testing.assert_array_equal(x.grad.asnumpy(), expected == values)
    assert y.grad.asnumpy().sum() == (expected != values).sum()
    assert set(given_[y.grad.asnumpy() == 1.0].ravel()) == set(expected[expected < 0])
