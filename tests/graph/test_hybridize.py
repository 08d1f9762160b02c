"""Hybridized blocks: the same numbers as imperative ones, in every situation in which a block can be called."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import ConfigError
from shoal.ops import autograd
from shoal.ops.tensor import Tensor, array
from tests.graph.hybrids import MODELS, floats, initialized, lenet, mlp, train


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


def test_a_deferred_model_can_be_hybridized_before_its_first_batch() -> None:
    net = initialized(lenet, True)
    assert net(floats(2, 1, 12, 12)(np.random.default_rng(0))).shape == (2, 3)
    assert net[0].weight.shape == (4, 1, 3, 3)


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
