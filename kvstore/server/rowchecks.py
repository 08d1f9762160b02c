"""Row numbers that come from a worker."""

from math import prod

import numpy as np

from shoal.errors import ConfigError, RemoteProtocolError
from shoal.kvstore.arrays import as_array
from shoal.kvstore.rows import check_ids
from shoal.kvstore.server.entry import Entry
from shoal.kvstore.wire.schema import Payload

__all__ = ["check_rows"]


def check_rows(entry: Entry, rows: Payload, ascending: bool) -> None:
    """Raise unless these are numbers of rows that the slice has."""
    if not entry.width:
        raise ConfigError(f"{entry.key!r} is not kept by rows: initialise it with rows=True")
    if len(rows.shape) != 1:
        raise RemoteProtocolError(f"row numbers are one flat array, got shape {rows.shape}")
    ids = check_ids(as_array(rows), (prod(entry.shape) // entry.width, entry.width))
    if ascending and not np.all(ids[1:] > ids[:-1]):
        raise RemoteProtocolError("the numbers of pushed rows must ascend")
