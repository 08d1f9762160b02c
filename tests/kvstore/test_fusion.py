"""Small keys that share slices."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore.api import KVStore
from shoal.kvstore.bundle import bundles
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.placement import BUCKET_BYTES, Placement, plan
from shoal.kvstore.wire.messages import KeySpec
from shoal.ops import optim
from tests.kvstore.threads import thread_cluster

NAMES = [f"k{i}" for i in range(7)]


def values(scale: float = 1.0) -> list[np.ndarray]:
    return [np.full((3, i + 1), scale * (i + 1), np.float32) for i in range(len(NAMES))]


def fuse(*sizes: int, dtype: str = "<f4") -> list[KeySpec]:
    return [KeySpec(key=f"k{i}", dtype=dtype, shape=(n,), cut="fuse") for i, n in enumerate(sizes)]


def test_small_keys_lie_one_behind_the_other_in_one_slice() -> None:
    a, b = Placement(2).add(fuse(10, 20))
    assert a.slices[0].id == b.slices[0].id
    assert (a.slices[0].offset, b.slices[0].offset, a.slices[0].size) == (0, 10, 30)


def test_keys_of_different_dtypes_are_not_mixed_and_integers_never_fused() -> None:
    specs = [*fuse(4, 4), *fuse(4, 4, dtype="<f2"), *fuse(4, 4, dtype="<i4")]
    assert [len(p.parts) for p in plan(specs)] == [2, 2, 1, 1]


def test_large_keys_keep_slices_of_their_own() -> None:
    assert [len(p.parts) for p in plan(fuse(4, 1 << 20, 4))] == [2, 1, 1]


@given(st.lists(st.integers(0, 20_000), max_size=40))
def test_every_element_has_one_place_and_no_bucket_is_too_large(sizes: list[int]) -> None:
    places: dict[int, list[tuple[int, int]]] = {}
    for layout in Placement(3).add(fuse(*sizes)):
        assert sum(s.stop - s.start for s in layout.slices) == layout.shape[0]
        for s in layout.slices:
            places.setdefault(s.id, []).append((s.offset, s.offset + s.stop - s.start))
            assert s.size * 4 <= BUCKET_BYTES
    for spans in places.values():
        spans.sort()
        assert all(b <= c for (_, b), (c, _) in itertools.pairwise(spans))


def test_a_worker_that_names_fewer_keys_is_told() -> None:
    with pytest.raises(ConfigError, match="same list of keys"):
        bundles(Placement(1).add(fuse(3, 4))[:1])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 3))
def test_arrays_for_pushes_lie_as_the_keys_do(sizes: list[int], before: int) -> None:
    for bundle in bundles(Placement(2).add(fuse(*sizes))):
        memory = np.arange(before + bundle.size, dtype=np.float32)[before:]
        parts = bundle.cut(memory)
        assert [p.size for p in parts] == np.diff((0, *bundle.stops)).tolist()
        whole = bundle.gather(parts).whole
        assert whole is None or np.array_equal(whole, memory)
        assert whole is not None or 0 in sizes


def stores() -> Any:
    return pytest.mark.parametrize("servers", [0, 1, 3])


def on_store(servers: int, work: Any) -> Any:
    if servers == 0:
        return work(LocalKVStore())
    with thread_cluster(1, servers) as cluster:
        return work(cluster.store(0))


@stores()
def test_fused_keys_hold_what_single_keys_hold(servers: int) -> None:
    def work(kv: KVStore, fused: bool) -> list[np.ndarray]:
        kv.init(NAMES, values(), fuse=fused)
        kv.set_optimizer(optim.create("sgd", learning_rate=0.5, momentum=0.9, wd=0.01), {"k2": 0.0}, {"k3": 2.0})
        for _ in range(3):
            out = kv.pushpull(NAMES, values(0.5), [np.empty_like(v) for v in values()])
        assert np.array_equal(kv.pull("k2"), values()[2])  # its learning rate is 0
        return out

    ours = on_store(servers, lambda kv: work(kv, True))
    theirs = on_store(servers, lambda kv: work(kv, False))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@stores()
def test_keys_without_elements_are_fused_too(servers: int) -> None:
    def work(kv: KVStore) -> None:
        empty, one, large = np.zeros((0, 3), np.float32), np.ones(5, np.float32), np.zeros(1 << 20, np.float32)
        kv.init(["a", "b", "c"], [empty, one, large], fuse=True)
        grads = kv.alloc_like(["a", "b", "c"], [empty, one, large])
        for g in grads:
            g[...] = 2
        assert [v.sum() for v in kv.pushpull(["a", "b", "c"], grads)] == [0, 10, 2 << 20]

    on_store(servers, work)


@stores()
def test_keys_may_come_in_any_order_and_be_read_singly(servers: int) -> None:
    def work(kv: KVStore) -> None:
        kv.init(NAMES, values(), fuse=True)
        kv.push(NAMES[::-1], values(2.0)[::-1]).result()
        assert np.array_equal(kv.pull("k4"), values(2.0)[4])
        for got, want in zip(kv.pull(NAMES), values(2.0), strict=True):
            assert np.array_equal(got, want)

    on_store(servers, work)


@stores()
def test_a_push_of_some_of_the_fused_keys_is_refused_with_what_to_do(servers: int) -> None:
    def work(kv: KVStore) -> None:
        kv.init(NAMES, values(), fuse=True)
        with pytest.raises(ConfigError, match=r"'k0'.*pushed together"):
            kv.push(NAMES[1:], values()[1:])
        with pytest.raises(ConfigError, match="twice"):
            kv.push([*NAMES, "k0"], [*values(), values()[0]])
        kv.push(NAMES, values(3.0)).result()
        assert np.array_equal(kv.pull("k0"), values(3.0)[0])

    on_store(servers, work)


@stores()
def test_fused_keys_are_compressed_together(servers: int) -> None:
    def work(kv: KVStore) -> list[np.ndarray]:
        kv.init(NAMES, values(), fuse=True)
        kv.set_gradient_compression("topk:ratio=0.1")
        for _ in range(2):
            kv.push(NAMES, values(2.0)).result()
        found: list[np.ndarray] = kv.pull(NAMES)
        return found

    ours, local = on_store(servers, work), on_store(0, work)
    assert sum(int(np.count_nonzero(a)) for a in ours) < 20
    assert all(np.array_equal(a, b) for a, b in zip(ours, local, strict=True))


def test_two_workers_average_fused_keys() -> None:
    def work(kv: KVStore) -> list[np.ndarray]:
        kv.init(NAMES, values(), fuse=True)
        found: list[np.ndarray] = kv.pushpull(NAMES, values(1.0 + kv.rank))
        return found

    with thread_cluster(2, 2) as cluster:
        for got in cluster.each(work):
            assert all(np.array_equal(a, b) for a, b in zip(got, values(1.5), strict=True))


def test_pushing_to_a_key_that_nobody_initialised_says_so() -> None:
    with pytest.raises(KeyNotInitializedError):
        LocalKVStore().push(["a", "b"], values()[:2])


@pytest.mark.parametrize("servers", [0, 2])
def test_a_store_says_what_is_pushed_together(servers: int) -> None:
    arrays = {f"k{i}": np.zeros(n, np.float32) for i, n in enumerate([15_000] * 9 + [30_000, 10])}

    def work(kv: KVStore) -> None:
        kv.init(list(arrays), list(arrays.values()), fuse=True)
        batches = kv.batches({k: a.nbytes for k, a in arrays.items()})
        assert batches == [
            tuple(f"k{i}" for i in range(8)),
            ("k8", "k10"),
            ("k9",),
        ]
        for keys in batches:
            kv.pushpull(list(keys), [np.ones_like(arrays[k]) for k in keys], [arrays[k] for k in keys])
        assert all((a == 1).all() for a in arrays.values())

    on_store(servers, work)


@pytest.mark.parametrize(("codec", "batches"), [(None, 2), ("powersgd", 3)])
def test_keys_that_codecs_see_as_matrices_are_not_fused(codec: str | None, batches: int) -> None:
    kv, keys = LocalKVStore(), {"a": np.zeros((100, 100)), "b": np.zeros((100, 90)), "c": np.zeros(2 << 20)}
    kv.set_gradient_compression(codec)
    kv.init(list(keys), list(keys.values()), fuse=True)
    assert len(kv.batches({k: v.nbytes for k, v in keys.items()})) == batches
