"""`foreach`, `while_loop` and `cond`: imperative, in graphs, with gradients, nested, and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shoal
from shoal import autograd, nn, npx
from shoal import np as snp
from shoal.errors import ConfigError, GraphError, ShapeError
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor


def values(*shapes: tuple[int, ...]) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [Tensor(rng.uniform(0.1, 1.0, s)) for s in shapes]


def run(fn: Any, inputs: list[Tensor]) -> list[Any]:
    """The outputs and the gradients of the sum of their squares."""
    for x in inputs:
        x.attach_grad()
    with autograd.record():
        out = fn(*inputs)
        total = sum((o * o).sum() for o in out if o.dtype.kind == "f")
        total.backward()
    return [o.asnumpy() for o in out] + [x.grad.asnumpy().copy() for x in inputs if x.grad is not None]


def same_imperatively_and_in_a_graph(fn: Any, *shapes: tuple[int, ...]) -> list[Any]:
    inputs = values(*shapes)
    expected = run(fn, inputs)
    compiled = Compiled(fn, "fn")
    for _ in range(2):
        found = run(compiled, inputs)
        for a, b in zip(expected, found, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)
    return expected


def recurrence(x: Any, h: Any, w: Any) -> Any:
    def step(s: Any, states: Any) -> Any:
        new = snp.tanh(s + snp.dot(states[0], w))
        return [new * 2.0, s], [new]

    (out, copies), (last,) = npx.foreach(step, x, [h])
    return out, copies, last


def test_foreach_is_a_loop_with_the_values_and_gradients_of_pytorch() -> None:
    found = same_imperatively_and_in_a_graph(recurrence, (5, 2, 3), (2, 3), (3, 3))
    x, h, w = (torch.tensor(v.asnumpy(), requires_grad=True) for v in values((5, 2, 3), (2, 3), (3, 3)))
    now, outs = h, []
    for s in x:
        now = torch.tanh(s + now @ w)
        outs.append(now * 2)
    out = torch.stack(outs)
    ((out * out).sum() + (x * x).sum() + (now * now).sum()).backward()
    for a, b in zip(found, [out, x, now, x.grad, h.grad, w.grad], strict=True):
        assert b is not None
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-10)


def test_foreach_takes_several_sequences_and_states_of_any_dtype() -> None:
    def fn(x: Any, y: Any, h: Any) -> Any:
        def step(slices: Any, states: Any) -> Any:
            a, b = slices["a"], slices["b"]
            total, count = states
            return a * count.astype("float64"), (total + a * b, count + 1)

        out, (total, count) = npx.foreach(step, {"a": x, "b": y}, (h, snp.zeros((), dtype="int64")))
        return out, total, count

    found = same_imperatively_and_in_a_graph(fn, (4, 3), (4, 3), (3,))
    assert found[2] == 4


@pytest.mark.parametrize("active", [False, True])
def test_foreach_over_nothing_returns_the_states_and_empty_outputs(active: bool) -> None:
    fn = Compiled(recurrence, "r") if active else recurrence
    out, copies, last = fn(Tensor(np.zeros((0, 2, 3))), Tensor(np.ones((2, 3))), Tensor(np.ones((3, 3))))
    assert out.shape == copies.shape == (0, 2, 3) and np.array_equal(last.asnumpy(), np.ones((2, 3)))


def growing(x: Any, w: Any) -> Any:
    def more(v: Any, n: Any) -> Any:
        return (v * v).sum() < 100.0

    def step(v: Any, n: Any) -> Any:
        return [v.sum(), n], [snp.dot(v, w) + v * 1.3, n + 1]

    (sums, numbers), (v, n) = npx.while_loop(more, step, [x, snp.zeros((), dtype="int64")], 15)
    return sums, numbers, v, n, v * n.astype("float64")


def test_while_loop_stops_when_its_condition_fails_and_pads_its_outputs_with_zeros() -> None:
    sums, numbers, _, n, *_ = same_imperatively_and_in_a_graph(growing, (2, 3), (3, 3))
    assert sums.shape == (15,) and 1 < n < 15
    assert (sums[:n] > 0).all() and not sums[n:].any() and numbers[:n].tolist() == list(range(n))


def test_while_loop_stops_at_its_limit_and_may_take_no_step() -> None:
    def limited(x: Any) -> Any:
        out, last = npx.while_loop(lambda v: v.sum() > -1.0, lambda v: (v, v + 1.0), x, 4)
        return out, last

    def never(x: Any) -> Any:
        out, (last,) = npx.while_loop(lambda v: v.sum() < -1.0, lambda v: ([v * 2.0], [v + 1.0]), [x], 4)
        return out[0], last

    x = values((3,))[0].asnumpy()
    found = same_imperatively_and_in_a_graph(limited, (3,))
    np.testing.assert_allclose(found[0], x + np.arange(4.0)[:, None])
    np.testing.assert_allclose(found[1], x + 4)
    found = same_imperatively_and_in_a_graph(never, (3,))
    assert not found[0].any() and np.array_equal(found[1], x)


def test_while_loop_may_have_no_outputs() -> None:
    def fn(x: Any) -> Any:
        outputs, (v,) = npx.while_loop(lambda v: v.sum() < 50.0, lambda v: (None, [v * 2.0]), [x], 30)
        assert outputs == []
        return (v,)

    same_imperatively_and_in_a_graph(fn, (3,))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cond_takes_one_of_two_ways(sign: float) -> None:
    def fn(x: Any, y: Any) -> Any:
        a = npx.cond((x * sign).sum() > 0, lambda: [x * y, y], lambda: [snp.sin(x), x])
        b = npx.cond(lambda u: (u * sign).sum() > 0, lambda u: u * u, lambda u: -u, [y])
        return (*a, b)

    same_imperatively_and_in_a_graph(fn, (3,), (3,))


def test_only_the_way_that_is_taken_is_computed() -> None:
    seen = []

    def fn(x: Any) -> Any:
        return npx.cond(x.sum() > 0, lambda: snp.log(x), lambda: snp.log(-x))

    compiled = Compiled(fn, "fn")
    for sign in (1.0, -1.0):  # warnings are errors: the logarithm of a negative number would be one
        seen.append(compiled(Tensor(np.full(3, sign * 2.0))).asnumpy())
    np.testing.assert_allclose(seen, np.log(2.0))


def test_loops_and_choices_nest() -> None:
    def fn(x: Any, w: Any) -> Any:
        def inner(s: Any, state: Any) -> Any:
            doubled = npx.cond(s.sum() > 1.0, lambda: s * 2.0, lambda: s * w)
            _, grown = npx.while_loop(lambda v: v.sum() < 3.0, lambda v: (None, v * 1.5), doubled + 0.1, 9)
            return grown, state + grown

        out, last = npx.foreach(inner, x, w * 0.0)
        return out, last

    same_imperatively_and_in_a_graph(fn, (4, 3), (3,))


def test_the_graph_holds_one_step_whatever_the_length() -> None:
    sizes = []
    for length in (3, 300):
        compiled = Compiled(recurrence, "r")
        arrays = (Tensor(np.zeros((length, 2, 3))), Tensor(np.ones((2, 3))), Tensor(np.ones((3, 3))))
        sizes.append(len(compiled.trace(arrays, {}).graph().calls))
    assert sizes[0] == sizes[1] < 8


def test_second_derivatives_are_those_of_the_imperative_loop() -> None:
    def penalty(fn: Any) -> list[Any]:
        inputs = values((3, 2, 3), (2, 3), (3, 3))
        for x in inputs:
            x.attach_grad()
        with autograd.record():
            out = fn(*inputs)
            (gw,) = autograd.grad((out[0] * out[0]).sum(), [inputs[2]], create_graph=True)
            (gw * gw).sum().backward()
        return [x.grad.asnumpy() for x in inputs if x.grad is not None]

    for a, b in zip(penalty(recurrence), penalty(Compiled(recurrence, "r")), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)


class Net(nn.HybridBlock):
    """A recurrent network with its own loop, parameters in the body, dropout if asked for."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.cell, self.rate = nn.Dense(4, activation="tanh", in_units=7), rate

    def forward(self, x: Any) -> Any:
        def step(s: Any, h: Any) -> Any:
            new = npx.dropout(self.cell(snp.concatenate([s, h], axis=1)), self.rate)
            return new, new

        return npx.foreach(step, x, snp.zeros((2, 4)))[0]


def test_a_block_with_a_loop_trains_hybridized_as_imperatively() -> None:
    found = []
    for active in (False, True):
        net = Net()
        net.initialize("normal", seed=2)
        net.hybridize(active)
        trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, None)
        x = Tensor(np.random.default_rng(0).standard_normal((5, 2, 3)).astype("f"))
        for _ in range(3):
            with autograd.record():
                loss = (net(x) ** 2).sum()
            loss.backward()
            trainer.step(2)
        found.append([p.data().asnumpy() for p in net.collect_params().values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_a_saved_graph_with_a_loop_runs_without_its_class(tmp_path: Path) -> None:
    net, x = Net(), Tensor(np.random.default_rng(0).standard_normal((5, 2, 3)).astype("f"))
    net.initialize()
    files = net.export(tmp_path / "net", x)
    again = nn.SymbolBlock.imports(files[0], ["data"], files[1])
    np.testing.assert_allclose(again(x).asnumpy(), net(x).asnumpy(), rtol=1e-6)
    assert "<graph of" in str(net.symbol(x))


def test_dropout_in_a_loop_draws_anew_in_each_step_and_run() -> None:
    net, x = Net(0.5), Tensor(np.zeros((20, 2, 3), "f"))
    net.initialize("ones")
    net.cell.bias.set_data(np.ones(4))
    net.hybridize()
    with autograd.train_mode():
        a, b = (net(x).asnumpy() == 0 for _ in range(2))
    assert 0.3 < a.mean() < 0.7 and not np.array_equal(a, b)
    assert len({step.tobytes() for step in a}) > 10


def test_what_does_not_fit_is_named() -> None:
    x, w = Tensor(np.ones((3, 2))), Tensor(np.ones(2))
    with pytest.raises(ShapeError, match="they need one length in common"):
        npx.foreach(lambda s, h: (s, h), [x, w], w)
    with pytest.raises(ConfigError, match="max_iterations=0"):
        npx.while_loop(lambda v: v.sum() < 1, lambda v: (v, v), w, 0)

    def changes(a: Any) -> Any:
        return npx.foreach(lambda s, h: (s, snp.concatenate([h, h], axis=0)), a, a[0])

    with pytest.raises(ShapeError, match=r"foreach: state 0 begins with shape \(2,\), float64, and the body returns"):
        Compiled(changes, "c")(x)
    with pytest.raises(ShapeError, match="2 states go in, and the body returns 1"):
        Compiled(lambda a: npx.foreach(lambda s, h: (s, [h[0]]), a, [a[0], a[0]]), "c")(x)
    with pytest.raises(ShapeError, match=r"cond: one branch gives \(2,\) float64, the other \(\) float64"):
        Compiled(lambda a: npx.cond(a.sum() > 0, lambda: a, lambda: a.sum()), "c")(w)
    with pytest.raises(ShapeError, match="must be a single truth"):
        Compiled(lambda a: npx.while_loop(lambda v: v > 0, lambda v: (v, v), a, 3)[1], "c")(w)


def test_a_body_cannot_write_to_parameters_in_a_graph() -> None:
    class Counts(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm(in_channels=3)

        def forward(self, x: Any) -> Any:
            return npx.foreach(lambda s, h: (self.norm(s), h), x, x[0])[0]

    net = Counts()
    net.initialize()
    net.hybridize()
    with autograd.train_mode(), pytest.raises(GraphError, match="its body writes to"):
        net(Tensor(np.ones((4, 2, 3), "f")))
    assert net(Tensor(np.ones((4, 2, 3), "f"))).shape == (4, 2, 3)  # in prediction nothing is written
