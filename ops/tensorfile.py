"""Named arrays in one file: safetensors, written atomically and checked when read.

The file is plain safetensors (https://huggingface.co/docs/safetensors): any reader of that format opens it. Two things
are added. A write goes to a temporary file that replaces the old one only when it is complete and on disk, so that a
crash leaves the old file or the new one, never a mixture. And the metadata carries a CRC-32 of the values, because the
format itself notices a truncated file but not a flipped bit.
"""

import os
import secrets
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from shoal.errors import CheckpointError
from shoal.ops.backend import asnumpy
from shoal.ops.remote import fetched, is_url, publish

__all__ = ["load_tensors", "save_tensors"]

HostArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

CHECKSUM_KEY = "shoal.crc32"
"""Metadata key of the checksum; added by `save_tensors`, verified and removed by `load_tensors`."""

_DTYPES = frozenset(
    ["bfloat16", "bool", "complex64", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to ``path``, replacing an existing file in one step. Missing folders are created.

    Args:
        path: the file, or a URL (`ops.remote`); by convention it ends in ``.safetensors`` or ``.params``.
        tensors: NumPy arrays, CuPy arrays, tensors or scalars by name, of any shape, strides and byte order; dtypes are
            the booleans, integers, floats of 16 to 64 bits, bfloat16 and complex64.
        metadata: strings by name, stored in the file's header.
    Raises:
        CheckpointError: a dtype that the format does not have, metadata that is not text, or the disk refuses.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
            local = os.path.join(folder, "tensors")
            save_tensors(local, tensors, metadata)
            return publish(local, os.fspath(path))
    path = Path(path)
    arrays = {name: _packed(path, name, value) for name, value in tensors.items()}
    header = {**_checked_metadata(path, metadata or {}), CHECKSUM_KEY: _checksum(arrays)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask asks for; save_file makes files that only their owner can read
        save_file(arrays, temporary, metadata=header)
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot save {len(arrays)} tensors to {str(path)!r}: {error}") from error
    finally:
        with suppress(OSError):  # what went wrong above is what is told
            temporary.unlink(missing_ok=True)


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, HostArray], dict[str, str]]:
    """Read what `save_tensors` wrote, or any other safetensors file with dtypes that NumPy has.

    Returns:
        The arrays, sorted by name, in C order, writable and owned by the caller; and the metadata, maybe empty.
    Raises:
        CheckpointError: the file is missing, truncated, not safetensors, or its values do not match its checksum.
    """
    if is_url(path):
        with fetched(os.fspath(path)) as copy:
            return _read(copy, os.fspath(path))
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no file {str(path)!r} to load tensors from{_neighbours(path)}")
    return _read(path, str(path))


def _read(path: Path, name: str) -> tuple[dict[str, HostArray], dict[str, str]]:
    """What is in a file of this machine, which the user calls ``name``."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: _owned(file.get_tensor(key)) for key in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{name!r} ({path.stat().st_size} bytes) is not a readable safetensors file: {error}. "
            "It is damaged, of another format, or has a dtype that NumPy lacks: restore it from a copy."
        ) from error
    stored, found = metadata.pop(CHECKSUM_KEY, None), _checksum(tensors)
    if stored is not None and stored != found:
        raise CheckpointError(
            f"{name!r} is damaged: its values have checksum {found}, it was saved with {stored}. "
            "Restore it from a copy."
        )
    return tensors, metadata


def _packed(path: Path, name: str, value: Any) -> HostArray:
    """``value`` in host memory, C order and native byte order: safetensors 0.8.0 writes any other layout wrongly."""
    array = np.asarray(asnumpy(value), order="C")  # np.ascontiguousarray would make a 0-d array 1-d
    if array.dtype.name not in _DTYPES:
        raise CheckpointError(
            f"cannot save {name!r} to {str(path)!r}: dtype {array.dtype}, expected one of {', '.join(sorted(_DTYPES))}"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _owned(array: Any) -> HostArray:
    """An array of the caller's own: a view of the mapped file would change with it."""
    result: HostArray = array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
    return result


def _checked_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str) or key == CHECKSUM_KEY:
            raise CheckpointError(
                f"metadata {key!r}: {value!r} of {str(path)!r} must map text to text, and {CHECKSUM_KEY!r} is reserved"
            )
    return dict(metadata)


def _checksum(tensors: Mapping[str, HostArray]) -> str:
    """CRC-32 of names, dtypes, shapes and bytes, in order of name."""
    crc = 0
    for name in sorted(tensors):
        array = tensors[name]
        crc = zlib.crc32(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _neighbours(path: Path) -> str:
    """What lies in the folder instead, for the message of a missing file."""
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    found = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".safetensors", ".params"))
    return f"; the folder has {', '.join(found[:8])}" if found else "; the folder has no saved tensors"
