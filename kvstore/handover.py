"""How calls of a store on servers become jobs of its client, and what is under way."""

from concurrent.futures import Future
from typing import Any

import numpy as np

from shoal.kvstore.client.core import Job
from shoal.kvstore.client.exchange import Alone, Entry, Exchange, Fused
from shoal.kvstore.client.loading import load, load_encoded, pieces
from shoal.kvstore.client.shell import Call, Group
from shoal.kvstore.codecs import Encoded, Landing, whole_rows
from shoal.kvstore.operated import OperatedKVStore
from shoal.kvstore.wire.interrupts import Held, in_main_thread

__all__ = ["HandingKVStore"]

EARLY_BYTES = 4 << 20
"""Of a large call, so much is under way before the rest is taken apart: servers have something to do meanwhile."""


class HandingKVStore(OperatedKVStore):
    """Hands jobs to the client, and knows which pushes are not counted yet; `DistKVStore` does the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._pushed = False
        self._closed = False
        self._under_way: dict[Call, None] = {}  # pushes not yet counted, and those whose error nobody has seen
        self._latest: Group | None = None  # the main thread's push, handed over, that nobody waits for or remembers yet

    def _jobs(self, call: Exchange, priority: int) -> list[Job]:
        """One job a slice: a push if there are arrays, a read if there are targets."""
        jobs: list[Job] = []
        for a in call.alone:
            self._own_jobs(a, priority, jobs)
        return jobs + [self._fused_job(f, priority) for f in call.fused] if call.fused else jobs

    def _own_jobs(self, a: Alone, priority: int, jobs: list[Job]) -> None:
        """One more job for each slice of a key."""
        _, entry, array, target, _ = a
        layout = entry.layout
        self._pushed = self._pushed or array is not None
        for s in layout.slices:
            job = Job(server=s.server, slice=s.id, key=layout.key, priority=priority, want=target is not None)
            if array is not None:
                compressor = self._pushing(s.id)
                columns = 0 if compressor is None else whole_rows(layout.shape, s.start, s.stop)
                load(job, array[s.start : s.stop], columns, compressor)
            if target is not None:
                self._land(job, target[s.start : s.stop], s.stop - s.start, entry.dtype)
            jobs.append(job)

    def _encoded_jobs(self, entry: Entry, encoded: Encoded, target: Any, priority: int) -> list[Job]:
        """One job for each slice of a key that was encoded elsewhere; ``target`` is where its value goes."""
        jobs: list[Job] = []
        self._pushed = True
        for s, parts in zip(entry.layout.slices, encoded.parts, strict=True):
            job = Job(server=s.server, slice=s.id, key=entry.layout.key, priority=priority, want=True)
            dense = np.empty(s.stop - s.start, entry.dtype)
            load_encoded(job, encoded.spec, parts, dense, self._pushing(s.id))
            self._land(job, target[s.start : s.stop], dense.size, entry.dtype)
            jobs.append(job)
        return jobs

    def _begin(self, call: Exchange, priority: int, group: Group, waits: bool) -> Call:
        """Carry a call out. If the caller waits, the first megabytes leave before the rest is looked at.

        What a signal handler raises meanwhile comes out of it when all of the call is under way.
        """
        self._recall()
        compresses = self._compressor is not None or self._switch is not None
        if not waits or compresses or call.nbytes < 2 * EARLY_BYTES:
            jobs = self._jobs(call, priority)
            if not compresses:  # what is encoded is handed over in pieces
                self._note(call, group)
            return self._submit(jobs, group, waits)
        with Held(self._shell.transport.wake):
            jobs, keys = [], 0
            while keys < len(call.alone) and sum([j.payload_bytes for j in jobs]) < EARLY_BYTES:
                self._own_jobs(call.alone[keys], priority, jobs)
                keys += 1
            self._submit(jobs, group, early=True)
            self._submit(self._jobs(call.behind(keys), priority), group, waits)
            self._note(call, group)
        return group.future

    def _note(self, call: Exchange, group: Group) -> None:
        """This push is handed over now. Only the main thread is interrupted (Ctrl-C) before it does more about it."""
        if call.pushes and in_main_thread():
            self._latest = group

    def _recall(self) -> None:
        """A push whose caller was interrupted after it was handed over is under way like any other."""
        if self._latest is None or not in_main_thread():
            return
        latest, self._latest = self._latest, None
        if latest.future.done() or self._shell.is_open(latest):  # else it never was
            self._remember(latest.future)

    def _fused_job(self, keys: Fused, priority: int) -> Job:
        """One job for keys of one bundle."""
        bundle, target = keys.bundle, keys.target
        job = Job(server=bundle.server, slice=bundle.id, key=bundle.key, priority=priority, want=target is not None)
        if keys.parts is not None:
            self._pushed = True
            pushed = keys.parts.read(self._shell.room) if keys.stays is None else keys.stays
            load(job, pushed, 0, self._pushing(bundle.id))
        if target is not None:
            self._land(job, target, bundle.size, bundle.dtype)
        return job

    def _land(self, job: Job, to: Any, size: int, dtype: np.dtype[Any]) -> None:
        """Say where the job's value goes, and whether it may come encoded."""
        compressor = self._reading(job.slice)
        if compressor is None or self._closed or not compressor.reply or dtype.kind != "f":
            job.token = to
            return
        job.reply, job.token = compressor.reply, Landing(compressor, to, size, dtype)

    def _run(self, jobs: list[Job], result: Any, waits: bool = False, *, large: bool = False) -> Call:
        return self._submit(jobs, Group(len(jobs), result, large=large), waits)

    def _submit(self, jobs: list[Job], group: Group, waits: bool = False, early: bool = False) -> Call:
        """Hand jobs over; ``waits`` if the caller does nothing else until they are done, ``early`` if more come."""
        for job in jobs:
            job.token = (group, job.token)
        for piece in pieces(jobs):
            self._shell.submit(piece, waits, early)
        return group.future

    def _remember(self, call: Call) -> Call:
        self._under_way[call] = None
        call.add_done_callback(self._forget)
        self._taken_up(call)
        return call

    def _taken_up(self, call: Call) -> None:
        """Somebody has waited for the call, or it is remembered."""
        latest = self._latest
        if latest is not None and latest.future is call:
            self._latest = None  # only the thread that made the call comes here, or `_recall`

    def _forget(self, call: Future[Any]) -> None:
        """On the I/O thread. A push that failed is kept until somebody hears of it."""
        if isinstance(call, Call) and call.peek() is None:
            self._under_way.pop(call, None)
