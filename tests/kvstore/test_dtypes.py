"""Dtypes that travel, bfloat16 among them."""

import numpy as np
import pytest

from shoal.errors import DTypeError
from shoal.kvstore.arrays import BFLOAT16, as_array, as_payload, dtype_named, is_float, wire_name
from shoal.kvstore.checks import check_mean
from shoal.kvstore.digest import weights_sha256
from shoal.kvstore.given import host_array
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.messages import Value
from shoal.kvstore.wire.schema import ITEM_BYTES
from tests.kvstore.threads import thread_cluster


@pytest.mark.parametrize("name", ITEM_BYTES)
def test_a_dtype_has_one_name_and_its_size(name: str) -> None:
    assert wire_name(dtype_named(name)) == name
    assert dtype_named(name).itemsize == ITEM_BYTES[name]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_bfloat16_travels_without_a_copy_and_comes_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(BFLOAT16)
    payload = as_payload(array)
    assert np.may_share_memory(as_array(payload), array) or not array.size
    message = decode([bytes(f) for f in encode(Value(seq=1, version=2, floor=0, value=payload))])
    assert isinstance(message, Value) and message.value is not None
    back = as_array(message.value)
    assert back.dtype == BFLOAT16 and back.shape == shape and back.tobytes() == array.tobytes()


def test_bfloat16_is_a_number_that_can_be_averaged() -> None:
    array = np.ones(2, BFLOAT16)
    assert host_array(array) is array and is_float(BFLOAT16) and not is_float(np.dtype(np.int32))
    check_mean("worker 0", "w", BFLOAT16, "mean")
    with pytest.raises(DTypeError, match="the mean of integers is no integer"):
        check_mean("worker 0", "w", np.dtype(np.int32), "mean")


def test_the_other_byte_order_is_converted() -> None:
    kv = LocalKVStore()
    kv.init(1, np.array([1.0, 2.0], ">f4"))
    kv.push(1, np.array([3.0, 4.0], ">f4"))
    assert kv.pull(1).dtype.str == "<f4" and kv.pull(1).tolist() == [3.0, 4.0]


@pytest.mark.net
def test_the_other_byte_order_is_converted_in_a_cluster_too() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init(1, np.array([1.0, 2.0], ">f4"))
        kv.push(1, np.array([3.0, 4.0], ">f4"))
        assert kv.pull(1).dtype.str == "<f4" and kv.pull(1).tolist() == [3.0, 4.0]


def test_a_dtype_that_does_not_travel_is_refused() -> None:
    with pytest.raises(DTypeError, match=r"numbers of .*<f4 .*; got dtype float128: cast it first"):
        LocalKVStore().init(1, np.zeros(3, np.longdouble))


def test_weights_in_bfloat16_have_a_hash() -> None:
    one, two = (weights_sha256({"w": np.full(3, v).astype(BFLOAT16)}) for v in (1.0, 2.0))
    assert one != two and one == weights_sha256({"w": np.ones(3, BFLOAT16)})
