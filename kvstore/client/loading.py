"""Compressed pushes: encoded piece by piece, so that the first is on its way while the next is being made."""

from collections.abc import Iterator, Sequence

from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.client.core import Job
from shoal.kvstore.codecs import Compressor, parse

__all__ = ["load", "load_encoded", "pieces"]

PIECE_BYTES = 1 << 20
"""Gradients that are encoded between two hand-overs to the I/O thread."""


def load(job: Job, part: Array, columns: int, compressor: Compressor | None) -> None:
    """Make ``job`` a push of ``part``. If that is to be compressed, `pieces` does it.

    Args:
        columns: see `Compressor.encode`.
        compressor: of the store, if it has one.
    """
    if compressor is None or not compressor.fits(part.dtype):
        job.payload, job.payload_bytes = as_payload(part), part.nbytes
        return

    def encode() -> None:
        _fill(job, compressor, compressor.encode(job.slice, part, columns))

    job.load, job.sure, job.dense_bytes = encode, compressor.codec.takes(part), part.nbytes


def load_encoded(job: Job, spec: str, parts: Sequence[Array], out: Array, compressor: Compressor | None) -> None:
    """Make ``job`` a push of a slice that somebody else has encoded.

    Args:
        spec: of the codec that has.
        out: flat, of the slice's size and dtype: written to if the store's codec is not that one any more.
        compressor: of the store, if it has one.
    """
    job.dense_bytes = out.nbytes
    if compressor is None or not compressor.fits(out.dtype):
        parse(spec).decode(parts, out)
        load(job, out, 0, None)
        return
    _fill(job, compressor, compressor.take(job.slice, spec, parts, out))


def _fill(job: Job, compressor: Compressor, parts: Sequence[Array]) -> None:
    """Make ``job`` a push of encoded parts."""
    job.payload, *more = [as_payload(p) for p in parts]
    job.codec, job.more = compressor.spec, tuple(more)
    job.payload_bytes = sum(p.nbytes for p in parts)
    job.undo = lambda: compressor.give_back(job.slice, parts)


def pieces(jobs: list[Job]) -> Iterator[list[Job]]:
    """The jobs, loaded, in pieces to be submitted one after another.

    If a gradient may be refused (it is not finite, or too large), all are encoded before the first is given out: what
    is refused is refused as a whole, and what was encoded before it returns to the residuals.
    """
    sure = all(j.load is None or j.sure for j in jobs)
    piece: list[Job] = []
    size = 0
    try:
        for job in jobs:
            if job.load is not None:
                job.load()
                job.load = None
            piece.append(job)
            size += job.dense_bytes
            if sure and size >= PIECE_BYTES:
                ready, piece, size = piece, [], 0
                yield ready
    except BaseException:
        for job in piece:
            if job.undo is not None:
                job.undo()
        raise
    if piece:
        yield piece
