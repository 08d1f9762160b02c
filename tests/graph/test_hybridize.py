"""Hybridized blocks: the same numbers as imperative ones, in every situation in which a block can be called."""

import copy
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import AutogradError, ConfigError, GraphError, ShapeError
from shoal.ops import autograd, random
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor, array


def mlp() -> nn.HybridSequential:
    return nn.HybridSequential(nn.Dense(16, "relu"), nn.Dense(8, "tanh"), nn.Dense(3))


def lenet() -> nn.HybridSequential:
    return nn.HybridSequential(
        nn.Conv2D(4, 3, padding=1, activation="relu"),
        nn.MaxPool2D(2),
        nn.BatchNorm(),
        nn.Conv2D(6, 3, strides=2, use_bias=False),
        nn.LeakyReLU(0.1),
        nn.AvgPool2D(2, 1),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Dense(8),
        nn.LayerNorm(),
        nn.GELU(),
        nn.Dense(3),
    )


class Residual(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Dense(6, flatten=False), nn.Dense(6, flatten=False), nn.BatchNorm(axis=-1)

    def forward(self, x: Any) -> Any:
        h = self.a(x)
        return nn.Activation("silu")(self.norm(h + self.b(h))) * h - h.mean(axis=-1, keepdims=True)


class Words(nn.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 5), nn.Dense(3)

    def forward(self, tokens: Any) -> Any:
        e = self.table(tokens)
        return self.out((e * e).sum(axis=1)), e[:, 0]


def floats(*shape: int) -> Callable[[np.random.Generator], Tensor]:
    return lambda rng: Tensor(rng.standard_normal(shape).astype("float32"))


MODELS: dict[str, tuple[Callable[[], nn.HybridBlock], Callable[[np.random.Generator], Tensor]]] = {
    "mlp": (mlp, floats(5, 7)),
    "lenet": (lenet, floats(4, 1, 12, 12)),
    "residual": (Residual, floats(4, 3, 5)),
    "words": (Words, lambda rng: Tensor(rng.integers(0, 11, (4, 6)))),
}


def initialized(make: Callable[[], nn.HybridBlock], hybrid: bool) -> nn.HybridBlock:
    net = make()
    net.initialize(init.Xavier(), seed=3)
    if hybrid:
        net.hybridize()
    return net


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def train(net: nn.HybridBlock, data: Callable[[np.random.Generator], Tensor], steps: int) -> list[Any]:
    """Train with SGD; everything that can be observed on the way."""
    rng, seen = np.random.default_rng(0), []
    for step in range(steps):
        random.set_address(seed=1, step=step)
        x = data(rng)
        with autograd.record():
            out = net(x)
            loss = (first(out) ** 2).mean()
        loss.backward()
        seen += [o.asnumpy().copy() for o in (out if isinstance(out, tuple) else (out,))]
        for p in net.collect_params().values():
            if p.grad_req != "null":
                seen.append(p.grad().asnumpy().copy())
                p.data().data[...] -= 0.1 * p.grad().data
            seen.append(p.data().asnumpy().copy())
        seen += [o.asnumpy().copy() for o in [first(net(x))]]
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_training_gives_the_same_bits(name: str) -> None:
    make, data = MODELS[name]
    eager, hybrid = (train(initialized(make, h), data, 4) for h in (False, True))
    for a, b in zip(eager, hybrid, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("options", [{"static_alloc": False}, {"static_shape": False}, {"cache_size": 2}])
def test_options_change_no_number(options: dict[str, Any]) -> None:
    make, data = MODELS["lenet"]
    net = initialized(make, False)
    net.hybridize(**options)
    for a, b in zip(train(initialized(make, False), data, 3), train(net, data, 3), strict=True):
        assert a.tobytes() == b.tobytes()


def test_hybridized_children_of_a_plain_block_are_graphs_of_their_own() -> None:
    def model(hybrid: bool) -> nn.Block:
        net = nn.Sequential(nn.HybridSequential(nn.Dense(4, "relu")), nn.Lambda(lambda x: x * 2.0), nn.Dense(2))
        net.initialize(init.Xavier(), seed=1)
        if hybrid:
            net.hybridize()
        return net

    eager, hybrid = (train(model(h), floats(3, 5), 3) for h in (False, True))  # type: ignore[arg-type]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(eager, hybrid, strict=True))


def test_forward_runs_once_per_signature() -> None:
    calls: list[tuple[int, ...]] = []

    class Counting(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            calls.append(x.shape)
            return x * 2.0

    net = Counting()
    net.hybridize()
    for shape in [(2,), (3,), (2,), (3,), (2,)]:
        net(Tensor(np.ones(shape)))
    assert calls == [(2,), (3,)]
    net(Tensor(np.ones(2, dtype="float32")))  # another dtype
    with autograd.train_mode():
        net(Tensor(np.ones(2)))  # another mode
    assert len(calls) == 4


def test_the_signature_used_least_recently_is_dropped() -> None:
    calls: list[int] = []

    class Counting(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            calls.append(x.shape[0])
            return x * 2.0

    net = Counting()
    net.hybridize(cache_size=2)
    for n in (1, 2, 1):
        net(Tensor(np.ones(n)))
    with pytest.warns(RuntimeWarning, match="Counting.* was called with more than 2 signatures"):
        net(Tensor(np.ones(3)))
    for n in (1, 2):  # said once
        net(Tensor(np.ones(n)))
    assert calls == [1, 2, 3, 2]


def test_two_forwards_before_a_backward_keep_their_own_values() -> None:
    make, data = MODELS["lenet"]
    grads = []
    for hybrid in (False, True):
        net, rng = initialized(make, hybrid), np.random.default_rng(2)
        for round_ in range(3):  # the first runs rehearse
            random.set_address(seed=1, step=round_)
            one, two = data(rng), data(rng)
            for x in (one, two):
                x.attach_grad()
            with autograd.record():
                a, b = (net(one) ** 2).sum(), (net(two) ** 2).sum()
            b.backward()
            a.backward()
            grads += [one.grad.asnumpy().copy(), two.grad.asnumpy().copy()]  # type: ignore[union-attr]
    half = len(grads) // 2
    assert all(a.tobytes() == b.tobytes() for a, b in zip(grads[:half], grads[half:], strict=True))


def test_many_runs_alive_at_once_have_their_own_memory() -> None:
    net = initialized(mlp, True)
    xs = [Tensor(np.full((2, 4), float(i), dtype="float32")) for i in range(8)]
    for x in xs:
        x.attach_grad()
    with autograd.record():
        losses = [(net(x) ** 2).sum() for x in xs]
    for loss in losses:
        loss.backward()
    for x in xs:
        again = Tensor(x.asnumpy())
        again.attach_grad()
        with autograd.record():
            (initialized(mlp, False)(again) ** 2).sum().backward()
        np.testing.assert_array_equal(x.grad.asnumpy(), again.grad.asnumpy())  # type: ignore[union-attr]


def test_a_retained_graph_can_be_gone_through_again() -> None:
    net = initialized(lenet, True)
    x = floats(2, 1, 12, 12)(np.random.default_rng(0))
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            y = (net(x) ** 2).sum()
        y.backward(retain_graph=True)
        one = x.grad.asnumpy().copy()  # type: ignore[union-attr]
        y.backward(retain_graph=True)
        y.backward()
        np.testing.assert_array_equal(one, x.grad.asnumpy())  # type: ignore[union-attr]


def test_a_freed_graph_is_named() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    with autograd.record():
        y = net(x)
    y.backward()
    with pytest.raises(AutogradError, match="the graph of HybridSequential"):
        y.backward()


def test_outputs_stay_what_they_were() -> None:
    net = initialized(mlp, True)
    rng = np.random.default_rng(0)
    kept = [net(floats(2, 4)(rng)) for _ in range(4)]
    before = [k.asnumpy().copy() for k in kept]
    for _ in range(3):
        net(floats(2, 4)(rng))
    assert all(np.array_equal(k.asnumpy(), b) for k, b in zip(kept, before, strict=True))
    assert len({b.tobytes() for b in before}) == 4


def test_memory_is_used_again_by_the_next_step() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    for _ in range(5):
        with autograd.record():
            y = net(x).sum()
        y.backward()
        del y
    assert net._compiled is not None
    (found,) = net._compiled.traces.values()
    (compiled,) = found.programs.values()
    assert len(compiled.program._code.pool) == 1
    assert 0 < compiled.program.plan.size_bytes < compiled.program.plan.unshared_bytes


def test_gradients_can_be_added_or_left_out() -> None:
    net = initialized(mlp, True)
    first_, last = net[0].weight, net[2].weight
    first_.grad_req, last.grad_req = "add", "null"
    x = floats(2, 4)(np.random.default_rng(0))
    for _ in range(2):
        with autograd.record():
            net(x).sum().backward()
    once = first_.grad().asnumpy() / 2
    with pytest.raises(ConfigError, match="has no gradient"):
        last.grad()
    first_.grad_req = "write"
    with autograd.record():
        net(x).sum().backward()
    np.testing.assert_allclose(first_.grad().asnumpy(), once, rtol=1e-6)


def test_only_wanted_gradients_are_computed() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    net(x)
    net.setattr("grad_req", "null")
    net[2].bias.grad_req = "write"
    with autograd.record():
        net(x).sum().backward()
    assert net._compiled is not None
    programs = [p for t in net._compiled.traces.values() for p in t.programs.values()]
    backward = [p.program for p in programs if p.differentiable]
    assert [len(p._code.backward_steps) for p in backward] == [1]


def test_grad_of_some_variables_works_through_a_graph() -> None:
    results = []
    for hybrid in (False, True):
        net = initialized(mlp, hybrid)
        x = floats(2, 4)(np.random.default_rng(0))
        x.attach_grad()
        with autograd.record():
            y = (net(x * 1.5) ** 2).sum()
        results.append(autograd.grad(y, [x, net[1].weight.data()]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_second_derivatives_through_a_graph() -> None:
    results = []
    for hybrid in (False, True):
        net = initialized(mlp, hybrid)
        x = floats(2, 4)(np.random.default_rng(0))
        x.attach_grad()
        for _ in range(2):
            with autograd.record():
                y = (net(x) ** 2).sum()
                (dx,) = autograd.grad(y, [x], create_graph=True)
                z = (dx * dx).sum()
            z.backward()
        results.append([x.grad.asnumpy(), net[0].weight.grad().asnumpy()])  # type: ignore[union-attr]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_second_derivatives_with_dropout_use_the_mask_of_the_forward_pass() -> None:
    results = []
    for hybrid in (False, True):
        net = nn.HybridSequential(nn.Dense(16, "tanh"), nn.Dropout(0.5), nn.Dense(1))
        net.initialize(init.Xavier(), seed=1)
        if hybrid:
            net.hybridize()
        random.set_address(seed=5, step=0)
        x = floats(3, 4)(np.random.default_rng(0))
        x.attach_grad()
        with autograd.record():
            (dx,) = autograd.grad(net(x).sum(), [x], create_graph=True)
            (dx**2).sum().backward()
        results.append(x.grad.asnumpy())  # type: ignore[union-attr]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-7)


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


def test_nested_inputs_and_outputs_keep_their_structure() -> None:
    class Nested(nn.HybridBlock):
        def forward(self, pair: Any, scale: float, extra: Any = None) -> Any:
            a, b = pair
            out = {"sum": (a + b) * scale, "parts": [a, (b, "name", None)]}
            if extra is not None:
                out["extra"] = extra["x"] - a
            return out

    net = Nested()
    a, b = array([1.0, 2.0]), array([3.0, 5.0])
    plain = net([a, b], 2.0, {"x": b})
    net.hybridize()
    for _ in range(3):
        found = net([a, b], 2.0, {"x": b})
        assert list(found) == ["sum", "parts", "extra"]
        assert found["sum"].tolist() == plain["sum"].tolist() == [8.0, 14.0]
        assert found["parts"][0].tolist() == [1.0, 2.0]
        assert found["parts"][1][1:] == ("name", None)
        assert found["extra"].tolist() == [2.0, 3.0]
    assert net([a, b], 3.0)["sum"].tolist() == [12.0, 21.0]


def test_a_gradient_flows_to_all_outputs_and_from_any() -> None:
    class Two(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x * 2.0, x * x, x > 0.0

    net = Two()
    net.hybridize()
    x = array([1.0, -3.0])
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            a, b, c = net(x)
        assert c.node is None
        b.backward()
        assert x.grad is not None and x.grad.tolist() == [2.0, -6.0]
        with autograd.record():
            a, b, c = net(x)
            (a + b).backward()
        assert x.grad.tolist() == [4.0, -4.0]


def test_a_tensor_of_the_surroundings_is_read_at_each_call_and_gets_its_gradient() -> None:
    outer = array([2.0, 3.0])
    outer.attach_grad()

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x * outer

    net = Using()
    net.hybridize()
    with autograd.record():
        net(array([1.0, 10.0])).backward()
    assert outer.grad is not None and outer.grad.tolist() == [1.0, 10.0]
    outer.data[...] = 5.0
    assert net(array([1.0, 10.0])).tolist() == [5.0, 50.0]


def test_arrays_are_constants_that_the_caller_cannot_reach() -> None:
    table = np.array([1.0, 2.0], dtype="float32")

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x + table, nn.Identity()(x) * 0.0 + 1.0

    net = Using()
    net.hybridize()
    one, _ = net(array([0.0, 0.0]))
    one.data[...] = 99.0
    assert net(array([0.0, 0.0]))[0].tolist() == [1.0, 2.0]


def test_a_deferred_model_can_be_hybridized_before_its_first_batch() -> None:
    net = initialized(lenet, True)
    assert net(floats(2, 1, 12, 12)(np.random.default_rng(0))).shape == (2, 3)
    assert net[0].weight.shape == (4, 1, 3, 3)


def test_a_wrong_shape_names_the_layer_as_it_does_imperatively() -> None:
    net = nn.HybridSequential(nn.Dense(4, in_units=3), nn.Dense(2, in_units=4))
    net.initialize()
    net.hybridize()
    with pytest.raises(ShapeError, match=r"Dense '0'.*\(5, 7\)"):
        net(Tensor(np.ones((5, 7), dtype="float32")))


def test_hybridize_can_be_switched_off() -> None:
    calls: list[int] = []

    class Counting(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            calls.append(1)
            return x

    net = Counting()
    net.hybridize()
    net(array([1.0]))
    net.hybridize(False)
    assert not net.is_hybridized
    net(array([1.0]))
    net(array([1.0]))
    assert len(calls) == 3


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="cache_size must be at least 1"):
        mlp().hybridize(cache_size=0)


class Branching(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0.0:  # the line to blame
            return x * 2.0
        return x * 3.0


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "the truth value": lambda x: x if x.sum() > 0.0 else -x,
    "float()": lambda x: x * float(x.sum()),
    "int()": lambda x: x * int(x.sum()),
    "an index": lambda x: x * range(5)[x.sum()],
    ".asnumpy": lambda x: x * x.asnumpy(),
    ".item": lambda x: x * x.sum().item(),
    "a NumPy array": lambda x: x * np.asarray(x),
    ".backward": lambda x: x.backward(),
    ".tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_asking_a_symbol_for_values_points_at_the_line(what: str) -> None:
    class Asking(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return QUESTIONS[what](x)

    net = Asking()
    net.hybridize()
    with pytest.raises(
        GraphError, match=r"test_hybridize\.py:\d+, in <lambda>: `.*lambda x:.*` needs " + "?"
    ) as caught:
        net(array([1.0, 2.0]))
    assert f"needs {what} of <Symbol" in str(caught.value)
    assert "where()" in str(caught.value)


def test_writing_into_a_symbol_points_at_the_line() -> None:
    class Writing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            x[0] = 1.0
            return x

    net = Writing()
    net.hybridize()
    with pytest.raises(GraphError, match=r"in forward: `x\[0\] = 1\.0` assigns to a part of"):
        net(array([1.0, 2.0]))


def test_a_branch_on_values_is_an_error_that_names_the_way_out() -> None:
    net = nn.HybridSequential(Branching())
    net.hybridize()
    with pytest.raises(GraphError, match=r"`if x\.sum\(\) > 0\.0:.*strict=False"):
        net(array([1.0]))


def test_without_strict_it_runs_imperatively_and_says_so_once() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=1), Branching())
    net.initialize(init.One())
    net.hybridize(strict=False)
    with pytest.warns(RuntimeWarning, match="HybridSequential runs imperatively.*the line to blame") as caught:
        assert net(array([[1.0]])).tolist() == [[2.0, 2.0]]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert net(array([[-1.0]])).tolist() == [[-3.0, -3.0]]


def test_branches_on_shapes_and_modes_are_fine() -> None:
    class Choosing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            if x.shape[0] > 2 and autograd.is_training():
                return x * 2.0
            return x

    net = Choosing()
    net.hybridize()
    three = array([1.0, 1.0, 1.0])
    with autograd.record():
        assert net(three).tolist() == [2.0, 2.0, 2.0]
    assert net(three).tolist() == [1.0, 1.0, 1.0]
    with autograd.record():
        assert net(array([1.0])).tolist() == [1.0]


def test_an_exception_in_forward_leaves_no_trace_behind() -> None:
    class Failing(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            raise ValueError("mine")

    net = Failing()
    net.hybridize()
    with pytest.raises(ValueError, match="mine"), autograd.record():
        net(array([1.0]))
    other = initialized(mlp, False)
    assert isinstance(other(floats(2, 4)(np.random.default_rng(0))), Tensor)
    assert not autograd.is_recording()


def test_a_custom_function_cannot_be_traced() -> None:
    class Double(autograd.Function):
        def forward(self, x: Any) -> Any:
            return x * 2.0

        def backward(self, dy: Any) -> Any:
            return dy * 2.0

    class Using(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return Double()(x)

    net = Using()
    net.hybridize()
    with pytest.raises(GraphError, match="Double is a custom Function"):
        net(array([1.0]))


def test_any_function_of_tensors_can_be_compiled() -> None:
    compiled = Compiled(lambda x, y: (x * y).sum(), "product")
    x = array([1.0, 2.0])
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            compiled(x, array([3.0, 4.0])).backward()
        assert x.grad is not None and x.grad.tolist() == [3.0, 4.0]


def test_a_flat_path_gives_the_gradient_zero() -> None:
    class Flat(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            from shoal import np as snp

            return snp.floor(x)

    results = []
    for hybrid in (False, True):
        net = Flat()
        if hybrid:
            net.hybridize()
        x = array([1.5])
        x.attach_grad()
        assert x.grad is not None
        x.grad.data[...] = 7.0
        with autograd.record():
            net(x).backward()
        results.append(x.grad.tolist())
    assert results[0] == results[1] == [0.0]


def test_threads_have_their_own_traces() -> None:
    import threading

    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    expected = net(x).asnumpy()
    found: list[Any] = []

    def work() -> None:
        for _ in range(20):
            found.append(net(x).asnumpy())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 80 and all(np.array_equal(f, expected) for f in found)


def test_arguments_can_be_given_by_name() -> None:
    class Masked(nn.HybridBlock):
        def forward(self, x: Any, mask: Any = None, scale: float = 1.0) -> Any:
            return (x if mask is None else x * mask) * scale

    net = Masked()
    net.hybridize()
    x, mask = array([1.0, 2.0]), array([0.0, 1.0])
    for _ in range(2):
        assert net(x).tolist() == [1.0, 2.0]
        assert net(x, mask=mask).tolist() == [0.0, 2.0]
        assert net(x, scale=3.0, mask=mask).tolist() == [0.0, 6.0]


def test_arrays_as_arguments_become_tensors() -> None:
    net = nn.HybridSequential(nn.Dense(2, in_units=3))
    net.initialize()
    plain = net(np.ones((1, 3), dtype="float32")).tolist()
    net.hybridize()
    assert [net(np.ones((1, 3), dtype="float32")).tolist() for _ in range(2)] == [plain] * 2
    assert net._compiled is not None and len(net._compiled.traces) == 1


def test_an_argument_that_cannot_be_compared_is_refused() -> None:
    class Taking(nn.HybridBlock):
        def forward(self, x: Any, options: Any) -> Any:
            return x

    net = Taking()
    net.hybridize()
    with pytest.raises(GraphError, match="argument of type set"):
        net(array([1.0]), {1, 2})


def test_a_tensor_that_was_computed_outside_while_recording_is_refused() -> None:
    x = array([1.0])
    x.attach_grad()
    outer: list[Tensor] = []

    class Using(nn.HybridBlock):
        def forward(self, y: Any) -> Any:
            return y * outer[0]

    net = Using()
    net.hybridize()
    with autograd.record():
        outer.append(x * 2.0)
        with pytest.raises(
            GraphError, match=r"a tensor of shape \(1,\) that was computed outside.*Pass it as an argument"
        ):
            net(x)


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


@pytest.mark.parametrize("script", ["digits.py", "mlp.py"])
def test_the_models_of_the_examples_give_the_same_bits(script: str) -> None:
    def model() -> nn.HybridBlock:
        if script == "mlp.py":
            return nn.HybridSequential(nn.Dense(64, activation="relu"), nn.Dense(32, activation="relu"), nn.Dense(10))
        path = Path(__file__).parents[2] / "examples" / script
        spec = importlib.util.spec_from_file_location("example", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.network()  # type: ignore[no-any-return]

    eager, hybrid = (train(initialized(model, h), floats(8, 1, 8, 8), 3) for h in (False, True))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(eager, hybrid, strict=True))
