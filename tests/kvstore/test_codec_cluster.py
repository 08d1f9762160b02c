"""Codecs from a worker's call to a server's table: late pushes, votes, momentum on workers, codecs of one's own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError
from shoal.kvstore import codecs
from shoal.kvstore.codecs import Blockwise, CodecState, Part, Place, registry
from shoal.ops import optim
from shoal.ops.nn.parameter import Parameter
from shoal.ops.optim.hyper import positive, real
from tests.kvstore.codec_cases import AT, decoded, normal
from tests.kvstore.threads import thread_cluster

net = pytest.mark.net


@net
@pytest.mark.parametrize(
    "spec", ["topk:ratio=0.1", "2bit:threshold=0.5", "onebit", "dgc:ratio=0.1,momentum=0", "demo:decay=1.0,top=4"]
)
@pytest.mark.parametrize("mode", ["asp:max=0", "backup:1"])
def test_a_push_that_comes_too_late_returns_to_the_residual(spec: str, mode: str) -> None:
    gradient = normal(256)

    def begin(kv: Any) -> Any:
        kv.init("w", np.zeros(256, np.float32))
        kv.set_gradient_compression(spec)
        return kv

    with thread_cluster(2, 1, mode) as cluster:
        early, late = cluster.each(begin, reduce="sum")
        late.pull("w")
        early.push("w", gradient).result()
        late.push("w", gradient).result()  # computed from a version that is no longer the newest
        (state,) = late._compressor._states.values()
        np.testing.assert_allclose(state.arrays["residual"], gradient, atol=1e-5)
        counts = cluster._clients[1].core.counters
        assert (state.counters, counts.dropped + counts.skipped) == ({"encoded": 1, "returned": 1}, 1)
        late.pull("w")
        late.push("w", np.zeros(256, np.float32)).result()  # what was returned is sent now
        assert counts.dropped + counts.skipped == 1
        got = decoded(codecs.parse(spec), codecs.parse(spec).encode(gradient, CodecState(), AT), gradient)
        np.testing.assert_allclose(state.arrays["residual"], gradient - got, atol=1e-5)


@pytest.mark.parametrize("other", ["2bit:threshold=0.5", "bf16", "topk:ratio=0.9"])
def test_what_a_codec_has_held_back_is_sent_through_the_next_one(other: str) -> None:
    kv, gradient = shoal.kv.create("local", reduce="sum"), np.array([0.5, 0.25, 0.5, 0.0], np.float32)
    kv.init("w", np.zeros(4, np.float32))
    kv.set_optimizer(optim.create("test", rescale_grad=1.0))
    kv.set_gradient_compression("2bit:threshold=0.5")
    kv.push("w", gradient)
    kv.set_gradient_compression(other)
    kv.push("w", gradient)
    np.testing.assert_array_equal(kv.pull("w"), 2 * gradient)


@net
def test_signs_are_voted_on_by_the_server() -> None:
    rows = np.array([[1, -2, 3], [-1, -1, 2], [5, -1, -1]], np.float32)

    def train(kv: Any) -> Any:
        kv.init("w", np.zeros(3, np.float32))
        kv.set_optimizer(optim.create("signum", learning_rate=0.5, momentum=0.0))
        kv.set_gradient_compression("sign")
        return kv.pushpull("w", rows[kv.rank].copy())

    with thread_cluster(3, 1) as cluster:
        for found in cluster.each(train):
            np.testing.assert_array_equal(found, [-0.5, 0.5, -0.5])


@net
def test_demo_moves_by_the_sign_of_the_sum_of_all_workers_frequencies() -> None:
    spec, shape = "demo:decay=0.5,chunk=8,top=6", (16, 24)
    grads = [[normal(384, seed=10 * w + step).reshape(shape) for step in range(3)] for w in range(2)]

    def train(kv: Any) -> Any:
        kv.init("w", np.zeros(shape, np.float32))
        kv.set_optimizer(optim.create("signum", learning_rate=0.25, momentum=0.0))
        kv.set_gradient_compression(spec)
        return [kv.pushpull("w", g.copy()).copy() for g in grads[kv.rank]]

    with thread_cluster(2, 2) as cluster:
        found, _ = cluster.each(train)
    codec, states, w = codecs.parse(spec), [CodecState(), CodecState()], np.zeros(shape, np.float32)
    for step, value in enumerate(found):
        sent = [decoded(codec, codec.encode(grads[i][step], states[i], AT), grads[i][step]) for i in (0, 1)]
        w -= np.float32(0.25) * np.sign(sent[0] + sent[1]).reshape(shape)
        np.testing.assert_array_equal(value, w)


@pytest.mark.parametrize("kind", ["local", "cluster"])
@pytest.mark.parametrize(("codec", "rule", "says"), [("demo", "sgd", "signum"), ("dgc", "nag", "applied twice")])
def test_a_store_refuses_an_update_rule_that_does_not_fit_its_codec(
    kind: str, codec: str, rule: str, says: str
) -> None:
    def both_ways(kv: Any, other: Any) -> None:
        optimizer = optim.create(rule, momentum=0.9)
        kv.set_gradient_compression(codec)
        with pytest.raises(ConfigError, match=says):
            kv.set_optimizer(optimizer)
        other.set_optimizer(optimizer)
        with pytest.raises(ConfigError, match=says):
            other.set_gradient_compression(codec)

    if kind == "local":
        both_ways(shoal.kv.create("local"), shoal.kv.create("local"))
        return
    with thread_cluster(1, 1) as cluster:
        both_ways(cluster.store(0), cluster.store(0))


# Of one's own.


@dataclass(kw_only=True)
class Rounded(Blockwise):
    """To multiples of a step, as whole bytes: the example of ``docs/codecs.md``."""

    step: float = real(0.1, "a positive number", positive)
    has_feedback = property(lambda self: True)

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        return (Part("codes", "|i1"),)

    def quantise(self, values: Any, parts: list[Any], place: Place) -> None:
        parts[0][:] = np.clip(np.rint(values / self.step), -127, 127)

    def restore(self, parts: list[Any], out: Any) -> None:
        np.multiply(parts[0], self.step, out=out)


@dataclass(kw_only=True)
class Tenths(Rounded):
    """The same for weights: without feedback, and sound on them."""

    has_feedback = property(lambda self: False)
    on_weights = True


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.CODECS, "classes", dict(registry.CODECS.classes))
    codecs.register("rounded")(Rounded)
    codecs.register("tenths")(Tenths)


@net
@pytest.mark.usefixtures("own")
def test_a_codec_of_ones_own_compresses_pushes_and_pulls_on_both_sides() -> None:
    grads = [normal(1000, seed=w) for w in range(2)]

    def train(kv: Any) -> Any:
        kv.init("w", np.zeros(1000, np.float32))
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))
        kv.set_gradient_compression("rounded:step=0.25/tenths:step=0.125")
        return kv.pushpull("w", grads[kv.rank].copy()), kv._compressor.report(kv._link())["bytes_saved"]

    with thread_cluster(2, 2) as cluster:
        (found, saved), _ = cluster.each(train, reduce="sum")
    want = sum(np.rint(g / 0.25) * 0.25 for g in grads)
    np.testing.assert_array_equal(found, want)
    assert saved == 2 * 3000


@net
def test_a_server_that_does_not_know_a_codec_says_so() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0, reduce="sum")
        kv.init("w", np.zeros(8, np.float32))
        kv.set_gradient_compression("bf16")
        kv._compressor.spec = "rounded:step=0.25"
        with pytest.raises(
            ConfigError, match=r"no codec is called 'rounded'; known: (.|\n)* knows, which .* --plugin FILE"
        ):
            kv.push("w", np.ones(8, np.float32)).result()


# Training.


RATES = {"1bit": 0.01, "sign": 0.01, "demo": 0.01, "randomk": 0.01, "qsgd": 0.05, "dgc": 0.01}


@pytest.mark.parametrize("name", codecs.names())
def test_every_codec_comes_down_to_the_minimum(name: str) -> None:
    """||w - target||**2 / 2 over two parameters, one of them a matrix: its gradient is w - target."""
    targets = [normal(64, seed=1).reshape(8, 8), normal(40, seed=2)]
    params = []
    for i, target in enumerate(targets):
        p = Parameter(f"p{i}", shape=target.shape)
        p.initialize(shoal.init.Zero())
        params.append(p)
    rule = ("signum", {"momentum": 0.0}) if name == "demo" else ("sgd", {})
    options = {"learning_rate": RATES.get(name, 0.1), **rule[1]}
    spec = {"2bit": "2bit:threshold=0.2", "topk": "topk:ratio=0.1", "randomk": "randomk:ratio=0.1"}.get(name, name)
    trainer = shoal.Trainer(params, rule[0], options, compression_params=f"{spec}/bf16")
    for _ in range(400):
        for p, target in zip(params, targets, strict=True):
            p.grad().data[...] = p.data().asnumpy() - target
        trainer.step(1)
    left = sum(float(((p.data().asnumpy() - t) ** 2).sum()) for p, t in zip(params, targets, strict=True))
    assert left < 0.05 * sum(float((t**2).sum()) for t in targets)
