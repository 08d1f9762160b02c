"""NCCL by CuPy: what the GPUs of one host do together, one process for each GPU.

Every call puts its work in the communicator's stream, behind what the current stream has done, and the current stream
goes on behind it: nobody waits on the host. Written against CuPy 14's names, and not run on a GPU yet.
"""

import warnings
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.gpu.device import Gpu
from shoal.ops.precision import BFLOAT16

__all__ = ["NcclCommunicator", "nccl_id"]

_NAMES = {
    "int8": "NCCL_INT8",
    "uint8": "NCCL_UINT8",
    "int32": "NCCL_INT32",
    "uint32": "NCCL_UINT32",
    "int64": "NCCL_INT64",
    "uint64": "NCCL_UINT64",
    "float16": "NCCL_FLOAT16",
    "bfloat16": "NCCL_BFLOAT16",
    "float32": "NCCL_FLOAT32",
    "float64": "NCCL_FLOAT64",
}


def _nccl() -> Any:
    """CuPy's binding of NCCL.

    Raises:
        ConfigError: CuPy has none here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns of what is said below
            from cupy.cuda import nccl
    except ImportError as error:
        raise ConfigError(
            f"NCCL is used through CuPy ({error}): pip install 'shoal[cuda12]' or 'shoal[cuda13]'"
        ) from error
    if not nccl.available:
        raise ConfigError("several GPUs need NCCL: pip install nvidia-nccl-cu12, or nvidia-nccl-cu13, as your CuPy is")
    return nccl


def nccl_id() -> bytes:
    """What the members of a new group must all be given; made by one of them. 128 bytes."""
    found = _nccl().get_unique_id()
    # before CuPy 14 it is a tuple of signed numbers
    return bytes(found) if isinstance(found, bytes) else bytes(n % 256 for n in found)


class NcclCommunicator:
    """Member ``rank`` of a group of ``size`` GPUs; see `shoal.kvstore.group.communicator.Communicator`.

    Args:
        device: this process's GPU.
        unique: of `nccl_id`, the same for all members.
        library: stands in for CuPy's binding in tests.
    """

    def __init__(self, device: Gpu, unique: bytes, rank: int, size: int, library: Any = None) -> None:
        self.rank, self.size, self._device = rank, size, device
        self._nccl = _nccl() if library is None else library
        self._stream = device.stream(priority=-1)
        self._one: Any = None
        with device.use():
            self._comm = self._nccl.NcclCommunicator(size, unique, rank)

    def __repr__(self) -> str:
        return f"<member {self.rank} of {self.size} GPUs>"

    def _type(self, array: Any) -> int:
        name = "bfloat16" if array.dtype == BFLOAT16 else np.dtype(array.dtype).name
        if name not in _NAMES:
            raise DTypeError(f"NCCL does not add {array.dtype}; it knows {', '.join(_NAMES)}")
        return int(getattr(self._nccl, _NAMES[name]))

    def _run(self, name: str, call: Any, reads: Any, writes: Any) -> None:
        """Do ``call`` on the communicator's stream, between what the current stream did and what it will do."""
        device = self._device
        current = device.current()
        self._stream.wait(current.record())
        device.launch(name, call, self._stream, reads=[reads], writes=[writes])
        current.wait(self._stream.record())

    def reduce(self, array: Any, root: int = 0) -> None:
        """See `Communicator.reduce`."""
        pointer, kind, add = array.data.ptr, self._type(array), self._nccl.NCCL_SUM
        stream, n = self._stream.ptr, array.size
        self._run("ncclReduce", lambda: self._comm.reduce(pointer, pointer, n, kind, add, root, stream), array, array)

    def all_reduce(self, array: Any) -> None:
        """See `Communicator.all_reduce`."""
        pointer, kind, add = array.data.ptr, self._type(array), self._nccl.NCCL_SUM
        stream, n = self._stream.ptr, array.size
        self._run("ncclAllReduce", lambda: self._comm.allReduce(pointer, pointer, n, kind, add, stream), array, array)

    def broadcast(self, array: Any, root: int = 0) -> None:
        """See `Communicator.broadcast`."""
        pointer, kind, stream, n = array.data.ptr, self._type(array), self._stream.ptr, array.size
        self._run("ncclBroadcast", lambda: self._comm.broadcast(pointer, pointer, n, kind, root, stream), array, array)

    def reduce_scatter(self, array: Any, out: Any) -> None:
        """See `Communicator.reduce_scatter`."""
        self._fits(out, array, "reduce_scatter")
        source, target, kind, add = array.data.ptr, out.data.ptr, self._type(array), self._nccl.NCCL_SUM
        stream, n = self._stream.ptr, out.size
        self._run(
            "ncclReduceScatter", lambda: self._comm.reduceScatter(source, target, n, kind, add, stream), array, out
        )

    def all_gather(self, part: Any, out: Any) -> None:
        """See `Communicator.all_gather`."""
        self._fits(part, out, "all_gather")
        source, target, kind, stream, n = part.data.ptr, out.data.ptr, self._type(part), self._stream.ptr, part.size
        self._run("ncclAllGather", lambda: self._comm.allGather(source, target, n, kind, stream), part, out)

    def _fits(self, part: Any, whole: Any, who: str) -> None:
        if whole.size != self.size * part.size or whole.dtype != part.dtype:
            raise ShapeError(
                f"{who}: the whole has {whole.size} elements of {whole.dtype}, the part {part.size} of {part.dtype}; "
                f"in a group of {self.size} the whole is {self.size} parts: expected {self.size * part.size} elements"
            )

    def barrier(self) -> None:
        """Return when every member has come here: an all-reduce of one number, which is waited for."""
        if self._one is None:
            with self._device.use():
                self._one = self._device.xp.zeros(1, np.float32)
        self.all_reduce(self._one)
        self._stream.synchronize()

    def close(self) -> None:
        """Wait for what is under way, and leave."""
        self._stream.synchronize()
        self._comm.destroy()
