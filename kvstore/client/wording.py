"""What a worker's client says of a job that waits, or fails: who waits for whom, about which key and clock."""

from collections.abc import Mapping
from typing import Protocol

from shoal.kvstore.client.jobs import Job, Stage
from shoal.kvstore.client.lane import Link
from shoal.kvstore.wire.messages import Fetch, Recall, Refused

__all__ = ["describe", "refusal", "too_late"]


class _Core(Protocol):
    """See `shoal.kvstore.client.core.ClientCore`."""

    rank: int
    timeout_s: float
    silence_s: float

    @property
    def links(self) -> Mapping[int, Link]: ...


def refusal(rank: int, job: Job, m: Refused) -> str:
    """Why a server does not do what the job asks."""
    if m.error != "KeyNotInitializedError":
        return m.text
    return (
        f"worker {rank}: nobody has given {job.key!r} a value yet, and worker 0 must. Every worker calls init "
        f"for the same keys in the same order. ({m.text})"
    )


def too_late(core: _Core, job: Job, now: float) -> str:
    """Why the job must fail; empty while it may wait."""
    quiet = now - max(core.links[job.server].heard, job.since)
    limit = job.timeout_s or core.timeout_s
    if now - job.since >= limit:
        return f"{describe(core.rank, job)} for {now - job.since:.0f} s, the limit (timeout_s={limit:g})"
    if quiet >= core.silence_s:
        about = type(job.request).__name__ if job.request is not None else f"{job.key!r} at clock {job.clock}"
        return (
            f"server {job.server} has said nothing to worker {core.rank} for {quiet:.0f} s, which waits for the "
            f"{job.stage.value} of {about}: is it cut off from this worker?"
        )
    return ""


def describe(rank: int, job: Job) -> str:
    """Who waits for whom, about which key and clock."""
    what = f"{type(job.request).__name__}" if job.request is not None else f"{job.key!r} at clock {job.clock}"
    late = ", ".join(f"worker {r}" for r in job.missing)
    if isinstance(job.request, Fetch) and late:
        return (
            f"worker {rank} takes a snapshot and has waited for {late} to push {job.key!r} as often as the "
            f"other keys (server {job.server} is alive)"
        )
    if isinstance(job.request, Recall):
        what = f"how far worker {job.request.of} was"
    if job.missing and (job.stage in (Stage.ENTER, Stage.READ) or job.ticket is not None):
        return f"worker {rank} has waited for {late} to push {what} (server {job.server} is alive)"
    return f"worker {rank} has waited for server {job.server}: {job.stage.value} of {what}"
