"""Requests for rows of keys that are sliced between their rows."""

from math import prod
from typing import Any

import numpy as np

from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.client.core import Job
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.wire.messages import KeyLayout

__all__ = ["pull_jobs", "push_jobs", "row_width"]


def row_width(layout: KeyLayout) -> int:
    """Elements of a row of a key that is kept by rows; 0 for any other."""
    return prod(layout.shape[1:]) if layout.cut == "rows" else 0


def push_jobs(layout: KeyLayout, value: RowSparse, priority: int) -> list[Job]:
    """A push to every slice, even if no row lies there: rounds close when all workers have pushed.

    The rows are sent from the memory of a copy.
    """
    merged = value.merged()
    matrix = (merged if merged is not value else value.copy()).flat()
    width, jobs = row_width(layout), []
    for s in layout.slices:
        part = matrix.between(s.start // width, s.stop // width)
        job = Job(server=s.server, slice=s.id, key=layout.key, priority=priority)
        job.payload, job.rows = as_payload(part.rows), as_payload(part.ids)
        job.payload_bytes, job.dense_bytes = part.nbytes, (s.stop - s.start) * value.dtype.itemsize
        jobs.append(job)
    return jobs


def pull_jobs(layout: KeyLayout, ids: "np.ndarray[Any, np.dtype[np.int64]]", into: Array, priority: int) -> list[Job]:
    """Reads of rows ``ids``, which ascend, into the matrix ``into``; only slices that have some of them are asked."""
    width, jobs = row_width(layout), []
    for s in layout.slices:
        first = s.start // width
        a, b = (int(i) for i in np.searchsorted(ids, (first, s.stop // width)))
        if a < b:
            job = Job(server=s.server, slice=s.id, key=layout.key, priority=priority, want=True)
            job.rows, job.token = as_payload(ids[a:b] - first), into[a:b]
            jobs.append(job)
    return jobs
