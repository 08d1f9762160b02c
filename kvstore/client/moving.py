"""Slices that move to another server, and servers that come and go, as a worker's client sees them.

A slice's jobs keep their order, numbers and clocks; they are only asked of another server. What the old one may have
counted before it gave the slice away the new one knows, so that a repetition there is answered as one.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from shoal.errors import StoreError
from shoal.kvstore.client.jobs import ClientAction, Complete, Job, Stage, Transmit
from shoal.kvstore.client.lane import Lane, Link
from shoal.kvstore.snapshot import GIVEN_UP
from shoal.kvstore.wire.messages import Elsewhere
from shoal.kvstore.wire.schema import Message

__all__ = ["MOVED", "arrive", "depart", "elsewhere", "insisting", "readdress", "relocate"]

MOVED = "a slice has moved to another server meanwhile"
"""How the error of a request about several slices begins that is to be made again, with where they are by now."""

TRIES = 20
"""How often such a request is made before its error is the caller's."""

T = TypeVar("T")


def insisting(work: Callable[[], T]) -> T:
    """What ``work`` returns, which asks about several slices at once; again if one of them has moved meanwhile.

    A snapshot that a server does not know any more is taken anew, too: it has given it up because of a slice that left.
    """
    for _ in range(TRIES):
        try:
            return work()
        except StoreError as e:
            if MOVED not in str(e) and GIVEN_UP not in str(e):
                raise
    return work()


class _Core(Protocol):
    """See `shoal.kvstore.client.core.ClientCore`."""

    moved: dict[int, int]
    departed: set[int]
    epochs: dict[int, int]
    links: dict[int, Link]
    flying: dict[int, Job]

    @property
    def lanes(self) -> Mapping[int, Lane]: ...
    def _make_ready(self, job: Job) -> None: ...
    def _message(self, job: Job) -> Message: ...
    def _finish(self, job: Job, result: Message | None, now: float) -> list[ClientAction]: ...
    def _failed(self, job: Job, error: str, text: str) -> list[ClientAction]: ...
    def _pump(self, now: float) -> list[ClientAction]: ...
    def _greet(self, server: int, link: Link, now: float) -> list[ClientAction]: ...


def readdress(core: _Core, jobs: list[Job]) -> tuple[list[Job], list[ClientAction]]:
    """Jobs that were made for where slices used to be; what was for a server that has left is over."""
    for job in jobs:
        job.server = core.moved.get(job.slice, job.server)
    over = [job for job in jobs if job.slice < 0 and job.server in core.departed]
    actions: list[ClientAction] = [Complete(job, None) for job in over]
    return [job for job in jobs if job not in over] if over else jobs, actions


def arrive(core: _Core, server: int, now: float) -> None:
    """One more server has come; it is greeted when there is something to ask of it."""
    core.departed.discard(server)
    if server not in core.links:
        core.links = {**core.links, server: Link(heard=now)}  # other threads go through them


def depart(core: _Core, server: int, now: float) -> list[ClientAction]:
    """A server that has nothing any more has left: what it was still asked needs no answer."""
    link = core.links.get(server)
    if link is None:
        return []
    asked = [j for j in core.flying.values() if j.server == server and j.stage is not Stage.OVER]
    asked += [job for _, _, job in link.ready]
    link.ready = []
    actions: list[ClientAction] = []
    for job in dict.fromkeys(asked):
        if job.stage is not Stage.OVER:
            actions += core._finish(job, None, now)
    core.departed.add(server)
    core.links = {s: x for s, x in core.links.items() if s != server}
    return actions


def relocate(core: _Core, slice_id: int, server: int, epoch: int, now: float) -> list[ClientAction]:
    """Server ``server`` has the slice since placement epoch ``epoch``: ask it what the one before has not answered."""
    if epoch <= core.epochs.get(slice_id, 0) or server not in core.links:
        return []
    core.epochs[slice_id], core.moved = epoch, {**core.moved, slice_id: server}
    lane = core.lanes.get(slice_id)
    if lane is None:
        return []
    lane.server = server if lane.server >= 0 else lane.server
    again: list[ClientAction] = []
    for job in lane.jobs:
        again += _send_to(core, job, server, now)
    return [*again, *core._pump(now)]


def _send_to(core: _Core, job: Job, server: int, now: float) -> list[ClientAction]:
    """The job is ``server``'s from now on; what it has asked, it asks again."""
    old, new = core.links.get(job.server), core.links[server]
    if job.server == server:
        return []
    flies = core.flying.get(job.seq) is job and job.stage is not Stage.QUEUED
    waits = old is not None and any(j is job for _, _, j in old.ready)
    if flies and old is not None:
        old.credit += job.credit
        new.credit -= job.credit
    job.server = server
    if old is not None and waits:
        old.ready = [r for r in old.ready if r[2] is not job]
        heapq.heapify(old.ready)
        core._make_ready(job)
    if not flies:
        return []
    if new.greeted:
        return [Transmit(server, core._message(job))]
    return core._greet(server, new, now) if new.hello_since < 0 else []  # then it is asked all that flies to it


def elsewhere(core: _Core, job: Job, m: Elsewhere, now: float) -> list[ClientAction]:
    """A server says that the slice of a job is another one's."""
    if m.server not in core.links:
        return []  # the scheduler will say who that is; the job is repeated until then
    found = relocate(core, m.slice, m.server, m.epoch, now)
    if job.slice >= 0 or job.stage is not Stage.REQUEST:
        return found
    if getattr(job.request, "value", None) is None:  # about several slices, or a snapshot that is lost with the move
        return [*found, *core._failed(job, "StoreError", f"{MOVED}: slice {m.slice}"), *core._pump(now)]
    return [*found, *_send_to(core, job, m.server, now), *core._pump(now)]
