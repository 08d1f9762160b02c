"""Gradients that leave during the backward pass, and weights that arrive after the step: in what order, and that no bit
changes."""

import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import AutogradError, ConfigError, StoreTimeoutError
from shoal.kvstore.api import KVStore
from shoal.kvstore.bundle import Gather
from shoal.kvstore.local import LocalKVStore
from shoal.ops import random
from tests.kvstore.threads import thread_cluster
from tests.worker.quadratic import parameter


class Listening(LocalKVStore):
    """Notes the order of pushes; answers when it is told to."""

    type = "dist_sync"

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.log: list[str] = []
        self.late: list[Callable[[], None]] | None = [] if late else None

    def pushpull_async(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> Future[Any]:
        self.log += [key] if isinstance(key, str) else key
        if self.late is None:
            return super().pushpull_async(key, value, out, priority)
        future: Future[Any] = Future()
        answer = super().pushpull_async
        self.late.append(lambda: future.set_result(answer(key, value, out, priority).result()))
        return future

    def answer(self) -> None:
        for each in self.late or ():
            each()
        if self.late is not None:
            self.late.clear()


def network(layers: int = 3, width: int = 160, hybrid: bool = False) -> Any:
    """Layers whose weights are large enough to travel by themselves."""
    net = shoal.nn.HybridSequential()
    for _ in range(layers):
        net.add(shoal.nn.Dense(width, activation="relu", in_units=width, use_bias=False))
    net.initialize(shoal.init.Xavier(), seed=1)
    if hybrid:
        net.hybridize()
    return net


def batch(step: int, rank: int = 0, size: int = 4, width: int = 160) -> Any:
    return shoal.np.array(np.random.default_rng([step, rank]).standard_normal((size, width)).astype(np.float32))


def backward(net: Any, x: Any) -> None:
    with shoal.autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()


@pytest.mark.parametrize("hybrid", [False, True])
def test_gradients_leave_during_the_backward_pass_the_last_layers_first(hybrid: bool) -> None:
    net, store = network(4, hybrid=hybrid), Listening()
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    backward(net, batch(0))
    trainer.step(4)
    for step in (1, 2, 3):
        store.log.clear()
        with trainer.overlap(4):
            backward(net, batch(step))
            assert store.log == ["3.weight", "2.weight", "1.weight", "0.weight"]
        trainer.step(4)
        assert len(store.log) == 4


def test_the_last_layers_gradient_has_left_before_the_first_layers_is_computed() -> None:
    net, store, seen = network(2), Listening(), []

    class Probe(shoal.autograd.Function):
        def forward(self, x: Any) -> Any:
            return x

        def backward(self, dy: Any) -> Any:
            seen.append(list(store.log))
            return dy

    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    trainer.step(1, ignore_stale_grad=True)
    store.log.clear()
    with shoal.autograd.record():
        loss = net[1](Probe()(net[0](batch(0)))).sum()
    with trainer.overlap(1):
        loss.backward()
    assert seen == [["1.weight"]]


def test_small_parameters_leave_when_all_of_them_are_final() -> None:
    net = shoal.nn.HybridSequential()
    net.add(shoal.nn.Dense(160, in_units=160), shoal.nn.Dense(160, in_units=160))
    net.initialize(shoal.init.Xavier(), seed=1)
    store = Listening()
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    trainer.step(1, ignore_stale_grad=True)
    store.log.clear()
    with trainer.overlap(1):
        backward(net, batch(0))
        early = list(store.log)
    assert sorted(early) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert early.index("1.weight") < early.index("0.weight") and abs(early.index("0.bias") - early.index("1.bias")) == 1


def test_layers_of_a_large_model_leave_with_those_they_share_a_message_with() -> None:
    net, store = network(28, 400), Listening()  # 18 MB; three layers of 640 KB in a message
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    backward(net, batch(0, width=400))
    trainer.step(4)
    store.log.clear()
    with trainer.overlap(4):
        backward(net, batch(1, width=400))
        shares = [range(i, min(i + 3, 28)) for i in range(0, 28, 3)]
        assert store.log == [f"{layer}.weight" for share in reversed(shares) for layer in share]


@pytest.mark.net
def test_a_large_model_has_the_same_bits_alone_and_on_servers() -> None:
    def trained(store: KVStore) -> bytes:
        net = network(28, 400)
        trainer = shoal.Trainer(net.collect_params(), "sgd", {"momentum": 0.9}, kvstore=store)
        for step in range(3):
            with trainer.overlap(4):
                backward(net, batch(step, width=400))
            trainer.step(4)
        trainer.finish()
        return b"".join(p.data().asnumpy().tobytes() for p in net.collect_params().values())

    with thread_cluster(1, 3) as cluster:
        assert cluster.each(trained) == [trained(LocalKVStore())]


@pytest.mark.net
def test_gradients_of_fused_parameters_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(store: KVStore) -> None:
        net = network(3)
        net.add(shoal.nn.Dense(3, in_units=160))
        net.initialize(shoal.init.Xavier(), seed=2)
        trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
        for step in range(3):
            with monkeypatch.context() as patch:
                if step:  # init gathers
                    patch.setattr(Gather, "read", None)
                with trainer.overlap(4):
                    backward(net, batch(step))
                trainer.step(4)
        trainer.finish()
        groups = trainer._site.groups
        assert len(groups) < len(trainer.learning) and max(map(len, groups)) > 1

    with thread_cluster(1, 2) as cluster:
        cluster.each(trained)


def train(store: KVStore, overlap: bool, hybrid: bool, on_store: bool, steps: int = 4) -> bytes:
    """A net whose first layer is used twice, trained with batches of different sizes; the weights at its end."""
    random.set_address(seed=0, worker=store.rank, step=0)
    net = network(2)
    small = shoal.nn.Dense(3, in_units=160)
    small.initialize(shoal.init.Xavier(), seed=2)
    if hybrid:
        net.hybridize()
    params = {**net.collect_params(), "small.weight": small.weight, "small.bias": small.bias}
    options = {"learning_rate": 0.01, "momentum": 0.9}
    trainer = shoal.Trainer(params, "sgd", options, kvstore=store, update_on_kvstore=on_store)
    for step in range(steps):
        size = 4 if step % 2 else 6
        with shoal.autograd.record():
            loss = (small(net(net(batch(step, store.rank, size)))) ** 2).sum()
        if overlap:
            with trainer.overlap(size):
                loss.backward()
        else:
            loss.backward()
        trainer.step(size)
    trainer.finish()
    return b"".join(p.data().asnumpy().tobytes() for p in params.values())


@pytest.mark.net
@pytest.mark.parametrize("on_store", [True, False])
@pytest.mark.parametrize("hybrid", [False, True])
def test_a_synchronous_run_has_the_same_bits_with_and_without(hybrid: bool, on_store: bool) -> None:
    results = []
    for overlap in (False, True):
        with thread_cluster(2, 2) as cluster:
            results += cluster.each(lambda store: train(store, overlap, hybrid, on_store))  # noqa: B023  # used at once
    assert len(set(results)) == 1


def test_weights_stay_as_they_are_until_the_step() -> None:
    net = network(2)
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=Listening())
    trainer.pull()
    before = [p.data().asnumpy().copy() for p in net.collect_params().values()]
    with trainer.overlap(1):
        backward(net, batch(0))
    for p, old in zip(net.collect_params().values(), before, strict=True):
        np.testing.assert_array_equal(p.data().asnumpy(), old)
    trainer.step(1)
    assert all((p.data().asnumpy() != old).any() for p, old in zip(net.collect_params().values(), before, strict=True))


def test_a_step_does_not_wait_for_weights_but_their_use_does() -> None:
    net, store = network(2), Listening(late=True)
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=store)
    trainer.pull()
    expected = network(2)
    other = shoal.Trainer(expected.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore="local")
    backward(expected, batch(0))
    other.step(1)
    with trainer.overlap(1):
        backward(net, batch(0))
    trainer.step(1)
    assert store.late is not None and len(store.late) == 2  # nothing has been answered
    store.answer()
    np.testing.assert_array_equal(net(batch(1)).asnumpy(), expected(batch(1)).asnumpy())


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_next_forward_pass_waits_for_each_layers_weights_when_it_comes_to_them(hybrid: bool) -> None:
    net, seen = network(3, hybrid=hybrid), []
    for step in range(3):  # the third run of a graph is on planned memory
        net(batch(step))
    weights = [layer.weight for layer in net]
    arriving = [w.data().data.copy() for w in weights]
    expected = net(batch(9)).asnumpy()

    def arrives(number: int, weight: Any) -> None:
        memory, new = weight.data().data, arriving[number]
        memory[:] = np.nan

        def wait() -> None:
            seen.append((number, [i for i, w in enumerate(weights) if w.leaf() and np.isnan(w._data.data).any()]))
            memory[:] = new

        weight.arrives(wait)

    for number, weight in enumerate(weights):
        arrives(number, weight)
    np.testing.assert_array_equal(net(batch(9)).asnumpy(), expected)
    assert seen == [(0, [0, 1, 2]), (1, [1, 2]), (2, [2])]


def test_a_weight_that_the_forward_pass_does_not_read_has_come_when_it_is_over() -> None:
    net = network(1, hybrid=True)
    unused = parameter("unused", [1.0])

    class Both(shoal.nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.unused = net, unused

        def forward(self, x: Any) -> Any:
            return self.inner(x), self.unused.data()

    both, waited = Both(), []
    both.hybridize()
    both(batch(0))
    unused.arrives(lambda: waited.append(1))
    both(batch(0))
    assert waited == [1]


# --- what can go wrong ------------------------------------------------------------------------------------------------


def overlapped() -> tuple[Any, shoal.Trainer]:
    net = network(2)
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=Listening())
    trainer.pull()
    with trainer.overlap(4):
        backward(net, batch(0))
    return net, trainer


def test_a_step_with_another_batch_size_is_refused() -> None:
    _, trainer = overlapped()
    with pytest.raises(ConfigError, match=r"step\(3\) after overlap\(4\): gradients have left"):
        trainer.step(3)
    trainer.step(4)


def test_a_second_overlap_without_a_step_is_refused() -> None:
    _, trainer = overlapped()
    with pytest.raises(ConfigError, match=r"call step\(\) before"), trainer.overlap(4):
        pass


def test_a_second_backward_pass_in_one_context_is_refused() -> None:
    net = network(2)
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=Listening())
    trainer.pull()
    with trainer.overlap(4):
        backward(net, batch(0))
        with pytest.raises(AutogradError, match=r"second backward pass .* '1\.weight'"):
            backward(net, batch(1))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        shoal.Trainer([parameter()], "sgd").overlap(0)


def test_earlier_passes_may_add_up_outside_the_context() -> None:
    values = []
    for overlap in (False, True):
        p = parameter(grad_req="add")
        trainer = shoal.Trainer([p], "sgd", {"learning_rate": 0.5}, kvstore=Listening())
        trainer.pull()
        for last in (False, True):
            with shoal.autograd.record():
                loss = (p.data() * 3.0).sum()
            if overlap and last:
                with trainer.overlap(2):
                    loss.backward()
            else:
                loss.backward()
        trainer.step(2)
        values.append(p.data().asnumpy()[0])
    assert values == [1.0 - 0.5 * 3.0, 1.0 - 0.5 * 3.0]


def test_after_a_backward_pass_that_failed_the_step_can_be_completed() -> None:
    class Broken(shoal.autograd.Function):
        def forward(self, x: Any) -> Any:
            return x

        def backward(self, dy: Any) -> Any:
            raise RuntimeError("a bug of the user")

    net, store = network(2), Listening()
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    trainer.step(1, ignore_stale_grad=True)
    store.log.clear()
    with shoal.autograd.record():
        loss = net[1](Broken()(net[0](batch(0)))).sum()
    with pytest.raises(RuntimeError, match="bug"), trainer.overlap(1):
        loss.backward()
    assert store.log == ["1.weight"]
    with pytest.raises(AutogradError, match=r"0\.weight"):
        trainer.step(1)
    trainer.step(1, ignore_stale_grad=True)
    assert store.log == ["1.weight", "0.weight"]


def test_a_parameter_that_the_loss_does_not_use_leaves_with_the_step() -> None:
    net, store = network(2), Listening()
    trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore=store)
    trainer.step(1, ignore_stale_grad=True)
    store.log.clear()
    with trainer.overlap(1):
        backward(net[0], batch(0))
    trainer.step(1, ignore_stale_grad=True)
    assert store.log == ["0.weight", "1.weight"]


@pytest.mark.parametrize("strategy", ["local:h=2", "easgd:tau=2"])
def test_strategies_with_local_steps_send_nothing_early(strategy: str) -> None:
    p, store = parameter(), Listening()
    store.reduce = "sum" if strategy.startswith("easgd") else "mean"
    trainer = shoal.Trainer([p], "sgd", kvstore=store, strategy=strategy)
    trainer.pull()
    with trainer.overlap(1), shoal.autograd.record():
        loss = p.data().sum()
        loss.backward()
    assert store.log == []
    trainer.step(1)


# --- a value on its way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["data", "set_data", "cast", "deepcopy"])
def test_a_parameter_waits_for_the_value_that_is_on_its_way(use: str) -> None:
    p, waited = parameter(), []
    memory = p.data().data

    def wait() -> None:
        waited.append(use)
        memory[:] = 7.0

    p.arrives(wait)
    assert p.leaf().grad is not None and waited == []
    match use:
        case "data":
            assert p.data().asnumpy()[0] == 7.0
        case "set_data":
            p.set_data(np.ones(1))
            assert p.data().asnumpy()[0] == 1.0
        case "cast":
            p.cast("float32")
            assert p.data().asnumpy()[0] == 7.0
        case _:
            assert copy.deepcopy(p).data().asnumpy()[0] == 7.0
    assert waited == [use]


def test_an_error_on_the_way_is_raised_at_each_use() -> None:
    p = parameter()

    def wait() -> None:
        raise StoreTimeoutError("server 0 is silent")

    p.arrives(wait)
    for _ in range(2):
        with pytest.raises(StoreTimeoutError, match="server 0"):
            p.data()
