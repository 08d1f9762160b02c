"""What a worker shows of its store while it runs: counts, and for whose answers it waits. Pure."""

from typing import Any

from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.client.jobs import Job, Stage

__all__ = ["vitals"]

WAIT_S = 1.0
"""Shorter waits are not worth showing."""

MAX_WAITS = 8
"""Waits that are told; more are added up."""


def vitals(core: ClientCore, now: float) -> dict[str, Any]:
    """Counts, and the waits of more than `WAIT_S`, longest first, as ``[what, [who is waited for], seconds]``.

    To be called by the thread that drives the core; it changes nothing.
    """
    c = core.counters
    return {
        "sent": c.sent,
        "clock": max((lane.clock for lane in core.lanes.values()), default=0),
        "retries": c.retries,
        "bytes_pushed": c.bytes_pushed,
        "bytes_pulled": c.bytes_pulled,
        "in_flight": len(core.flying),
        "waits": [*_greetings(core, now), *_waits(core, now)][:MAX_WAITS],
    }


def _greetings(core: ClientCore, now: float) -> list[list[Any]]:
    """Servers that have not answered the first word yet."""
    return [
        ["answer to its greeting", [f"server {server}"], now - link.hello_since]
        for server, link in core.links.items()
        if not link.greeted and 0 <= link.hello_since <= now - WAIT_S
    ]


def _waits(core: ClientCore, now: float) -> list[list[Any]]:
    found: dict[tuple[str, ...], tuple[Job, int]] = {}
    for job in core.flying.values():
        if job.stage is Stage.OVER or now - job.since < WAIT_S:
            continue
        on = _on(job)
        first, count = found.get(on, (job, 0))
        found[on] = (min(first, job, key=lambda j: j.since), count + 1)
    waits = sorted(found.items(), key=lambda item: item[1][0].since)[:MAX_WAITS]
    return [[_what(job, count), list(on), now - job.since] for on, (job, count) in waits]


def _on(job: Job) -> tuple[str, ...]:
    """Who is waited for: the workers that a round lacks, or, if the server has named none, the server."""
    rounds = job.missing and (job.stage in (Stage.ENTER, Stage.READ, Stage.REQUEST))
    return tuple(f"worker {rank}" for rank in job.missing) if rounds else (f"server {job.server}",)


def _what(job: Job, count: int) -> str:
    about = type(job.request).__name__ if job.request is not None else f"{job.key!r} at clock {job.clock}"
    more = f" and {count - 1} more" if count > 1 else ""
    return f"{job.stage.value} of {about}{more}"
