"""IDX, the file format of MNIST and its successors: a header with dtype and shape, then the values, big-endian.

Source: http://yann.lecun.com/exdb/mnist, section "the IDX file format".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import DataError

__all__ = ["read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

LIMIT_BYTES = 1 << 32
"""The largest array that is read: a damaged header must not ask for all memory."""


def read_idx(path: Path) -> Any:
    """The array in an IDX file, compressed with gzip if its name ends in ``.gz``; in native byte order.

    Raises:
        DataError: the file cannot be read, is not IDX, or is shorter or longer than its header says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            dtype, shape = _header(path, file.read(4), file)
            size = math.prod(shape) * dtype.itemsize
            if size > LIMIT_BYTES:
                raise DataError(f"{path}: the header says {shape}, {size} bytes; the limit is {LIMIT_BYTES}")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:  # gzip raises all of these for a damaged file
        raise DataError(f"cannot read {path}: {error}. Install or download it anew.") from error
    if len(content) != size:
        raise DataError(
            f"{path}: the header says {shape} of {dtype.itemsize} bytes, {size} bytes in all, but the file has "
            f"{'more' if len(content) > size else f'only {len(content)}'}. Install or download it anew."
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _header(path: Path, magic: bytes, file: Any) -> tuple["np.dtype[Any]", tuple[int, ...]]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise DataError(
            f"{path} is not an IDX file: it begins with {magic.hex(' ')}, expected 00 00, a type and a rank"
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} ends within its header of {magic[3]} sizes. Install or download it anew.")
    return np.dtype(_DTYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)
