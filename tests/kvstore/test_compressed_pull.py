"""Compressed pulls: which codecs are sound on weights, and what workers and servers then hold."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError
from shoal.kvstore import codecs
from shoal.kvstore.api import KVStore
from shoal.kvstore.codecs import Codecs, Plan, Replies
from shoal.ops import optim
from tests.kvstore.codec_cases import normal
from tests.kvstore.threads import thread_cluster

net = pytest.mark.net
SOUND = ["bf16", "fp16", "int8", "int8:block=64"]
SHAPE = (40, 60)


# Which, and how they are asked for.


@pytest.mark.parametrize(
    ("params", "spec"),
    [
        (None, "none"),
        ("bf16", "bf16"),
        ("2bit/bf16", "2bit:threshold=0.5/bf16"),
        (" topk:ratio=0.5 / FP16 ", "topk:ratio=0.5/fp16"),
        ("none/int8:block=64", "none/int8:block=64"),
        ({"type": "2bit", "threshold": 1, "pull": "bf16"}, "2bit:threshold=1.0/bf16"),
        ({"pull": {"type": "int8", "block": 64}}, "none/int8:block=64"),
        ("2bit/none", "2bit:threshold=0.5"),
    ],
)
def test_a_plan_has_one_spelling(params: Any, spec: str) -> None:
    plan = Plan.of(params)
    assert plan.spec() == spec and Plan.of(spec) == plan and Plan.of(plan) is plan


@pytest.mark.parametrize("params", ["2bit/", "/bf16", "2bit/bf16/fp16"])
def test_half_a_plan_is_refused(params: str) -> None:
    with pytest.raises(ConfigError, match=r"PUSH/PULL|no codec"):
        Plan.of(params)


@pytest.mark.parametrize("name", [n for n in codecs.names() if n not in ("none", "bf16", "fp16", "int8")])
def test_codecs_that_are_unsound_on_weights_are_refused_with_the_reason(name: str) -> None:
    reason = "residual as large as the model" if codecs.parse(name).has_feedback else "does not shrink"
    with pytest.raises(ConfigError, match=rf"codec '{name}' cannot compress pulls: .*{reason}.*Use bf16"):
        Plan.of(f"none/{name}")


def test_error_feedback_makes_a_sound_codec_unsound_on_weights() -> None:
    with pytest.raises(ConfigError, match="residual as large as the model for every worker"):
        Plan.of("none/int8:feedback=true")


# What workers read.


def trained(kv: KVStore, spec: str | None, fuse: bool = False) -> list[np.ndarray]:
    """What a worker reads after each of five steps of SGD."""
    keys, shapes = ["w", "b", "n"], [SHAPE, (70,), (5,)]
    values = [normal(int(np.prod(s)), seed=i).reshape(s) for i, s in enumerate(shapes)]
    kv.init(keys, values, fuse=fuse)
    kv.set_optimizer(optim.create("sgd", learning_rate=0.1))
    kv.set_gradient_compression(spec)
    found: list[np.ndarray] = []
    for step in range(5):
        grads = [normal(v.size, seed=10 * step + i).reshape(v.shape) for i, v in enumerate(values)]
        found += [a.copy() for a in kv.pushpull(keys, grads, [np.empty_like(g) for g in grads])]
    return [*found, *kv.pull(keys)]


@net
@pytest.mark.parametrize("spec", [*(f"none/{s}" for s in SOUND), "topk:ratio=0.1/bf16"])
@pytest.mark.parametrize("fuse", [False, True])
def test_a_worker_of_a_cluster_and_a_local_store_read_the_same_bits(spec: str, fuse: bool) -> None:
    with thread_cluster(1, 2) as cluster:
        (far,) = cluster.each(lambda kv: trained(kv, spec, fuse))
    for a, b in zip(far, trained(shoal.kv.create("local"), spec, fuse), strict=True):
        np.testing.assert_array_equal(a, b)


@net
@pytest.mark.parametrize("mode", ["bsp", "asp", "ssp:1", "essp:1", "kasync:1"])
def test_weights_come_rounded_in_half_the_bytes_under_every_gate(mode: str) -> None:
    with thread_cluster(2, 2, mode) as cluster:
        ones = cluster.each(lambda kv: trained(kv, "none/bf16"))
        pulled = [c.core.counters.bytes_pulled for c in cluster._clients]
    bf16 = codecs.parse("bf16")
    for worker in ones:
        for value in worker:
            out = np.empty(value.size, np.float32)
            bf16.decode(bf16.encode(value.reshape(-1), codecs.CodecState(), codecs.Address(0, 0, 0, 0)), out)
            np.testing.assert_array_equal(out, value.reshape(-1))  # rounded already
    dense = 4 * sum(v.size for v in ones[0])
    assert all(p <= dense // 2 for p in pulled)


@net
@pytest.mark.parametrize("spec", SOUND)
def test_all_workers_of_a_synchronous_run_compute_with_the_same_weights(spec: str) -> None:
    with thread_cluster(2, 2) as cluster:
        one, other = cluster.each(lambda kv: trained(kv, f"none/{spec}"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@net
def test_servers_keep_full_precision_so_that_small_steps_add_up() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.ones(64, np.float32))
        kv.set_optimizer(optim.create("sgd", learning_rate=2.0**-12))
        kv.set_gradient_compression("none/bf16")  # 2**-8 is its smallest step below 1
        seen = {float(kv.pushpull("w", np.ones(64, np.float32), np.empty(64, np.float32))[0]) for _ in range(32)}
        assert seen == {1.0, 1 - 2.0**-8, 1 - 2.0**-7} and float(kv.pull("w")[0]) == 1 - 2.0**-7


@net
def test_the_result_of_a_run_is_read_in_full() -> None:
    value = normal(100)
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", value)
        kv.set_gradient_compression("none/bf16")
        assert (kv.pull("w") != value).any()
        kv.close()
        np.testing.assert_array_equal(kv.pull("w"), value)


@net
def test_integers_halves_and_what_a_codec_cannot_hold_come_as_they_are() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0, reduce="sum")
        values = [np.arange(5), normal(5, "<f2"), np.array([1e5, np.inf], np.float32)]
        kv.init(["i", "h", "big"], values)
        kv.set_gradient_compression("none/fp16")
        for key, value in zip(["i", "h", "big"], values, strict=True):
            np.testing.assert_array_equal(kv.pull(key), value)


@net
def test_a_key_of_several_slices_is_decoded_slice_by_slice() -> None:
    value = normal(5000)
    with thread_cluster(1, 2, slice_bytes=4096) as cluster:
        kv = cluster.store(0)
        kv.init("w", value)
        kv.set_gradient_compression("none/bf16")
        np.testing.assert_allclose(kv.pull("w"), value, rtol=2.0**-8)
        report = kv.compression_report()
        assert report is not None and report["bytes_saved"] == 2 * 5000 and report["decode_s"] > 0


# The server's half.


def test_workers_that_read_the_same_version_share_one_encoding() -> None:
    replies, value = Replies(Codecs()), normal(1000)
    first = replies.encode("bf16", value, 3, 1)
    assert first is not None and replies.encode("bf16", value, 3, 1) is first
    assert replies.encode("bf16", value, 3, 2) is not first and replies.encode_s > 0


@pytest.mark.parametrize("spec", ["nonsense", "topk", "2bit:threshold=-1"])
def test_a_reader_that_asks_for_an_unsound_codec_gets_the_value_as_it_is(spec: str) -> None:
    assert Replies(Codecs()).encode(spec, normal(100), 0, 0) is None


def test_stochastic_rounding_of_weights_depends_on_the_version_alone() -> None:
    value = normal(4096)
    one, two = (Replies(Codecs()).encode("int8", value, 3, 1) for _ in range(2))
    other = Replies(Codecs()).encode("int8", value, 3, 2)
    assert one is not None and two is not None and other is not None
    assert one[0].tobytes() == two[0].tobytes() != other[0].tobytes()
