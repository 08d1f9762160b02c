"""Gradients that were encoded before the store saw them, as a GPU does: stores take the parts as they are."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore.api import KVStore
from shoal.kvstore.codecs import Encoded, parse
from shoal.kvstore.codecs.ongpu import gpu_codec
from shoal.ops import optim
from shoal.ops.backend import CPU
from tests.kvstore.threads import thread_cluster

net = pytest.mark.net
SPECS = [
    "fp16",
    "int8",
    "qsgd",
    "2bit:threshold=0.5",
    "1bit:threshold=3",
    "onebit",
    "topk:ratio=0.25",
    "randomk:ratio=0.5",
]
SIZE = 1200


def gradients(worker: int) -> Any:
    return np.random.default_rng(worker).standard_normal((5, SIZE)).astype(np.float32)


def prepared(kv: KVStore, spec: str) -> KVStore:
    """A store that adds up what it receives."""
    kv.init("w", np.zeros(SIZE, np.float32))
    kv.set_optimizer(optim.create("test", rescale_grad=1.0))
    kv.set_gradient_compression(spec)
    return kv


def elsewhere(kv: KVStore, spec: str) -> Any:
    """The sum, of gradients that a codec of a GPU has encoded."""
    prepared(kv, spec)
    encoding = kv.encoding("w")
    assert encoding is not None and encoding.spec == parse(spec).spec()
    codec, out = gpu_codec(encoding, CPU), np.empty(SIZE, np.float32)
    for step, g in enumerate(gradients(kv.rank)):
        codec.encode(g, np.array([step + 1], np.uint32))
        encoded = codec.encoded(codec.out)
        assert encoded is not None
        assert kv.pushpull_encoded("w", encoded, out).result() is out
    kv.barrier()
    return np.asarray(kv.pull("w"))


def by_the_store(kv: KVStore, spec: str) -> Any:
    prepared(kv, spec)
    for g in gradients(kv.rank):
        kv.pushpull("w", g.copy())
    kv.barrier()
    return np.asarray(kv.pull("w"))


@pytest.mark.parametrize("spec", SPECS)
def test_a_local_store_receives_what_it_would_have_encoded(spec: str) -> None:
    a, b = (work(shoal.kv.create("local", reduce="sum"), spec) for work in (elsewhere, by_the_store))
    assert a.tobytes() == b.tobytes()


@net
@pytest.mark.parametrize("spec", SPECS)
def test_servers_receive_what_workers_would_have_encoded_slice_by_slice(spec: str) -> None:
    found = []
    for work in (elsewhere, by_the_store):
        with thread_cluster(2, 2, slice_bytes=1024) as cluster:
            found += cluster.each(lambda kv, work=work: work(kv, spec), reduce="sum")
            counts = [c.core.counters for c in cluster._clients]
            assert all(c.bytes_pushed < c.bytes_dense for c in counts)
    assert all(f.tobytes() == found[0].tobytes() for f in found)


@pytest.mark.parametrize("spec", ["2bit:threshold=0.5", "topk:ratio=0.1", "onebit"])
def test_what_is_given_back_goes_with_the_next_push(spec: str) -> None:
    kv: Any = prepared(shoal.kv.create("local", reduce="sum"), spec)
    codec, total = gpu_codec(kv.encoding("w"), CPU), np.zeros(SIZE, np.float64)
    for step, g in enumerate(gradients(0)):
        codec.encode(g, np.array([step + 1], np.uint32))
        encoded = codec.encoded(codec.out.copy())
        assert encoded is not None
        kv.pushpull_encoded("w", encoded, np.empty(SIZE, np.float32)).result()
        total += g
        if step == 1:  # a server has dropped it
            kv._compressor.give_back(0, encoded.parts[0])
            back = np.empty(SIZE, np.float32)
            encoded.decode(kv.encoding("w").spans, back)
            kv.push("w", np.zeros(SIZE, np.float32))  # so that what is held leaves: the store adds it a second time
            total += back
    held = codec.residual + kv._compressor._states[0].arrays["residual"]
    np.testing.assert_allclose(np.asarray(kv.pull("w")) + held, total, atol=1e-4)


@pytest.mark.parametrize("now", [None, "bf16", "int8"])
def test_parts_of_a_codec_that_the_store_does_not_have_any_more_are_encoded_anew(now: str | None) -> None:
    kv = prepared(shoal.kv.create("local", reduce="sum"), "topk:ratio=0.5")
    encoding = kv.encoding("w")
    assert encoding is not None
    codec, grad = gpu_codec(encoding, CPU), gradients(0)[0]
    codec.encode(grad, np.array([1], np.uint32))
    encoded = codec.encoded(codec.out)
    assert encoded is not None
    kv.set_gradient_compression(now)
    dense, out = np.empty(SIZE, np.float32), np.empty(SIZE, np.float32)
    encoded.decode(encoding.spans, dense)
    kv.pushpull_encoded("w", encoded, out).result()
    np.testing.assert_allclose(out, dense, atol=0 if now is None else 5e-2)
    assert (out[dense == 0] == 0).all() or now == "int8"


def test_a_store_says_what_it_cannot_take() -> None:
    kv = shoal.kv.create("local")
    kv.init(["w", "n"], [np.zeros(4, np.float32), np.zeros(4, np.int64)])
    assert kv.encoding("w") is None
    kv.set_gradient_compression("2bit")
    assert kv.encoding("w") is not None and kv.encoding("n") is None
    with pytest.raises(KeyNotInitializedError, match="'x'"):
        kv.encoding("x")

    class Plain(type(kv)):  # type: ignore[misc]
        encoding, pushpull_encoded = KVStore.encoding, KVStore.pushpull_encoded

    assert Plain().encoding("w") is None
    with pytest.raises(ConfigError, match="takes no encoded gradients"):
        Plain().pushpull_encoded("w", Encoded("2bit", ()), np.empty(4, np.float32))
