"""The numbers of a worker, for Prometheus."""

from typing import TYPE_CHECKING

from shoal.kvstore.client.shell import Call
from shoal.kvstore.exposition import Family
from shoal.kvstore.metrics import process_families, transport_families
from shoal.version import VERSION
from shoal.worker import record

if TYPE_CHECKING:
    from shoal.worker.session import Session

__all__ = ["worker_families"]


def worker_families(session: "Session") -> list[Family]:
    """What this worker has counted; see `shoal.kvstore.exposition.provide`."""
    now, m = record.current(), session.membership
    waits = Family("shoal_wait_seconds", "histogram", "Time that the script waits for an answer of the store.")
    if Call.waits is not None:
        waits.spread(Call.waits)
    found = [
        *process_families("worker", m.rank, VERSION, m.cluster),
        *transport_families(session.transport),
        Family("shoal_step_seconds", "histogram", "Time from one optimizer step to the next.").spread(now.step_times),
        waits,
        Family("shoal_steps_total", "counter", "Optimizer steps.").add(now.steps),
        Family("shoal_samples_total", "counter", "Samples of these steps.").add(now.samples),
    ]
    if session.shell is None:
        return found
    core = session.shell.core
    c = core.counters
    pushes = Family("shoal_pushes_total", "counter", "Pushes by what is known of them.")
    for outcome in ("sent", "acknowledged", "dropped", "skipped"):
        pushes.add(getattr(c, outcome), worker=m.rank, outcome=outcome)
    traffic = Family("shoal_bytes_total", "counter", "Bytes of values.")
    traffic.add(c.bytes_pulled, direction="in").add(c.bytes_pushed, direction="out")
    return [
        *found,
        pushes,
        traffic,
        Family("shoal_retries_total", "counter", "Requests that were repeated.").add(c.retries),
        Family("shoal_requests_in_flight", "gauge", "Requests that are not answered.").add(len(core.flying)),
        Family("shoal_requests_queued", "gauge", "Requests that are not sent.").add(
            sum(len(link.ready) for link in core.links.values())
        ),
    ]
