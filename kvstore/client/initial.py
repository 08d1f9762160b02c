"""How keys come into being: what is said of them to the scheduler, and their first values."""

from collections.abc import Sequence
from dataclasses import replace

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array, as_payload, wire_name
from shoal.kvstore.bundle import Bundle
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.rowjobs import row_width
from shoal.kvstore.wire.lanes import MAX_FRAME_BYTES
from shoal.kvstore.wire.messages import Init, KeyLayout, KeySpec
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = ["init_jobs", "key_spec"]


def key_spec(name: str, full_name: str, array: Array, cut: str) -> KeySpec:
    """What is declared of a key.

    Args:
        name: the caller's, for texts.
        full_name: among the keys of all stores of the run.
        cut: one of `shoal.kvstore.placement.CUTS`.
    Raises:
        ConfigError: its dtype cannot travel, or it is too large to be kept whole.
    """
    dtype = wire_name(array.dtype)
    if dtype not in ITEM_BYTES:
        raise ConfigError(f"key {name!r}: dtype {array.dtype} cannot travel; known: {' '.join(ITEM_BYTES)}")
    if cut.endswith("whole") and array.nbytes > MAX_FRAME_BYTES:
        raise ConfigError(
            f"key {name!r} has {array.nbytes} bytes; a key that is kept whole has at most {MAX_FRAME_BYTES}. Make "
            "it several keys, or use an optimizer that needs no norm of the whole key."
        )
    return KeySpec(key=full_name, dtype=dtype, shape=array.shape, cut=cut)


def init_jobs(
    shared: Sequence[Bundle], layouts: Sequence[KeyLayout], arrays: Sequence[Array], store: tuple[int, str, str]
) -> list[Job]:
    """The first value of every slice of these keys.

    Args:
        shared: the slices that several of the keys lie in.
        store: its number, gate and reduction.
    """
    by_key = {layout.key: a.reshape(-1) for layout, a in zip(layouts, arrays, strict=True)}
    fused = {b.id for b in shared}
    jobs = [
        _init_job(store, layout.key, s.server, s.id, by_key[layout.key][s.start : s.stop], row_width(layout))
        for layout in layouts
        for s in layout.slices
        if s.id not in fused
    ]
    for b in shared:
        job = _init_job(store, b.key, b.server, b.id, b.gather([by_key[k] for k in b.names]).read())
        if isinstance(job.request, Init):
            job.request = replace(job.request, segments=b.segments)
        jobs.append(job)
    return jobs


def _init_job(store: tuple[int, str, str], key: str, server: int, slice_id: int, value: Array, width: int = 0) -> Job:
    number, gate, reduce = store
    request = Init(
        seq=0,
        store=number,
        slice=slice_id,
        key=key,
        gate=gate,
        reduce=reduce,
        width=width,
        value=as_payload(value),
    )
    return Job(server=server, key=key, request=request)
