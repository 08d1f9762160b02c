"""Requests that read several slices in one state: survey, fetch, forget. See `shoal.kvstore.server.snapshots`."""

from collections.abc import Iterable

from shoal.kvstore.client.jobs import Job
from shoal.kvstore.snapshot import Cut
from shoal.kvstore.wire.messages import Count, Fetch, Forget, Survey, Surveyed

__all__ = ["ends", "fetches", "joint_cut", "surveys"]


def surveys(reads: list[Job], store: int, number: int) -> list[Job]:
    """To each server that has some of the slices of ``reads``: begin a snapshot of them, and say how far they are."""
    slices: dict[int, list[int]] = {}
    for job in reads:
        slices.setdefault(job.server, []).append(job.slice)
    stamp = {"worker": 0, "incarnation": 0, "seq": 0, "store": store, "number": number}  # the core sets the first three
    return [Job(server=s, request=Survey(**stamp, slices=tuple(dict.fromkeys(ids)))) for s, ids in slices.items()]


def joint_cut(answers: Iterable[object]) -> Cut:
    """The earliest state that no slice has gone past: the furthest that any server has said."""
    version, clocks = -1, dict[int, int]()
    for m in answers:
        if isinstance(m, Surveyed):
            version = max(version, m.version)
            for c in m.counts:
                clocks[c.rank] = max(c.clock, clocks.get(c.rank, 0))
    return Cut(None if version < 0 else version, clocks)


def fetches(reads: list[Job], store: int, number: int, cut: Cut, states: bool = False) -> list[Job]:
    """The jobs that read the same slices as ``reads`` at ``cut``; each puts its value where the read would.

    With ``states`` the place is told of the states of the slice's optimizer, too: see `StatesPlace`.
    """
    version = -1 if cut.version is None else cut.version
    counts = tuple(Count(rank=r, clock=c) for r, c in sorted(cut.clocks.items()))
    made = []
    for job in reads:
        request = Fetch(
            worker=0,
            incarnation=0,
            seq=0,
            store=store,
            number=number,
            slice=job.slice,
            version=version,
            counts=counts,
            states=states,
        )
        made.append(Job(server=job.server, key=job.key, priority=job.priority, request=request, token=job.token))
    return made


def ends(reads: list[Job], store: int, number: int) -> list[Job]:
    """To each server that has some of the slices: the snapshot has been read, or is given up."""
    servers = dict.fromkeys(job.server for job in reads)
    request = Forget(worker=0, incarnation=0, seq=0, store=store, number=number)
    return [Job(server=s, request=request) for s in servers]
