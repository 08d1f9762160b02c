"""Memory shared with other libraries by DLPack."""

import gc
from typing import Any

import numpy as np
import pytest
import torch

from shoal import np as snp
from shoal.ops.tensor import Tensor

NAMES = ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "uint16",
         "uint32", "uint64"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3)])
def test_pytorch_shares_the_memory_of_a_tensor(name: str, shape: tuple[int, ...]) -> None:
    x = snp.ones(shape, dtype=name)
    t = torch.from_dlpack(x)
    assert (tuple(t.shape), str(t.dtype)) == (shape, f"torch.{name}")
    if t.numel():
        t[...] = 0
        assert not x.asnumpy().any()
        assert t.data_ptr() == x.data.__array_interface__["data"][0]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_shares_the_memory_of_pytorch_and_keeps_it_alive(name: str) -> None:
    t = torch.ones((2, 3), dtype=getattr(torch, name))
    x = snp.from_dlpack(t)
    assert type(x) is Tensor and str(x.dtype) == name
    t[0] = 0
    assert x.astype("float32").tolist() == [[0.0] * 3, [1.0] * 3]
    x[1] = 0
    assert not t.any()
    del t
    gc.collect()
    assert not x.asnumpy().any()


def test_pytorch_keeps_the_memory_of_a_tensor_alive() -> None:
    t = torch.from_dlpack(snp.arange(1000.0))
    gc.collect()
    assert t.sum().item() == 999 * 500


def test_strides_cross_without_a_copy() -> None:
    x = snp.arange(12).reshape(3, 4)
    t = torch.from_dlpack(x.T[::2])
    assert t.stride() == (2, 4) and t.tolist() == x.asnumpy().T[::2].tolist()


def test_memory_that_must_not_be_written_to_is_copied_or_refused() -> None:
    x = snp.ones(3).broadcast_to((2, 3))
    t = torch.from_dlpack(x)
    t[0] = 7.0
    assert x.asnumpy().max() == 1.0
    with pytest.raises(BufferError, match="copy"):
        x.__dlpack__(copy=False)


def test_a_copy_is_made_where_it_is_asked_for() -> None:
    x = snp.ones(3)
    t = torch.from_dlpack(x, copy=True)
    t[0] = 7.0
    y = snp.from_dlpack(x, copy=True)
    y[1] = 8.0
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_numpy_and_tensors_exchange_memory() -> None:
    x = snp.ones(3)
    assert np.shares_memory(np.from_dlpack(x), x.data) and np.shares_memory(snp.from_dlpack(x).data, x.data)
    values = np.ones(3)
    assert np.shares_memory(snp.from_dlpack(values).data, values)


def test_what_cannot_be_shared_is_explained() -> None:
    with pytest.raises(BufferError, match="dtype that NumPy does not have"):
        snp.from_dlpack(torch.ones(2, dtype=torch.float8_e4m3fn))
    with pytest.raises(BufferError, match="device"):
        snp.from_dlpack(np.ones(2), device="gpu:0")


def test_an_older_producer_without_versions_is_taken() -> None:
    class Old:
        def __init__(self, values: Any) -> None:
            self.values = values

        def __dlpack__(self, stream: Any = None) -> Any:
            return self.values.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    assert snp.from_dlpack(Old(torch.ones(2))).tolist() == [1.0, 1.0]
    assert snp.from_dlpack(Old(torch.ones(2, dtype=torch.bfloat16))).tolist() == [1.0, 1.0]
