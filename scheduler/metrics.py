"""The numbers of the scheduler, for Prometheus."""

from collections import Counter

from shoal.kvstore.exposition import Family
from shoal.kvstore.metrics import process_families, transport_families
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.core import SchedulerCore
from shoal.version import VERSION

__all__ = ["scheduler_families"]


def scheduler_families(transport: Transport, core: SchedulerCore) -> list[Family]:
    """What the scheduler knows; see `shoal.kvstore.exposition.provide`."""
    s = core.snapshot()
    nodes = Family("shoal_nodes", "gauge", "Processes of the run by role and state.")
    for (role, state), n in sorted(Counter((node.role, node.state) for node in s.nodes).items()):
        nodes.add(n, role=role, state=state)
    for role in sorted({name.split()[0] for name in s.missing}):
        nodes.add(sum(name.startswith(role) for name in s.missing), role=role, state="missing")
    silent = Family("shoal_node_silence_seconds", "gauge", "Time since the last sign of life of a process.")
    for node in s.nodes:
        if node.state in ("joined", "running"):
            silent.add(node.silent_s, role=node.role, rank=node.rank)
    phase = Family("shoal_run_phase", "gauge", "1 for the phase in which the run is.")
    for name in ("gathering", "running", "finished", "failed"):
        phase.add(s.phase == name, phase=name)
    barriers = Family("shoal_barriers_opened_total", "counter", "Occurrences of barriers that have opened.")
    for name, last in dict(core.state.opened).items():
        barriers.add(last + 1, barrier=name)
    at = Family("shoal_barrier_workers", "gauge", "Workers that wait at a closed barrier.")
    at.add(sum(len(ranks) for _, _, ranks in core.barriers.closed()))
    return [
        *process_families("scheduler", 0, VERSION, s.cluster),
        *transport_families(transport),
        nodes,
        silent,
        phase,
        barriers,
        at,
        Family("shoal_run_term", "gauge", "How often the run's scheduler was started.").add(s.term),
        Family("shoal_scheduler_restarts_total", "counter", "Restarts of the scheduler.").add(max(0, s.term - 1)),
        Family("shoal_run_generation", "gauge", "Grows with each change of membership or settings.").add(s.generation),
        Family("shoal_run_idle_seconds", "gauge", "Time since any process got on.").add(s.idle_s),
        Family("shoal_setting_changes_total", "counter", "Changes of settings.").add(len(s.changes)),
        Family("shoal_log_records", "gauge", "Records of the scheduler's log.").add(len(core.log)),
    ]
