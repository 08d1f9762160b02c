"""What must always hold of a scheduler's state; for tests and simulations."""

from typing import Any

from shoal.errors import LocalProtocolError
from shoal.scheduler.contacts import Contacts
from shoal.scheduler.gather import Gathering
from shoal.scheduler.log import ClusterState, Record

__all__ = ["check_state", "digest"]


def check_state(s: ClusterState, log: list[Record], gathering: Gathering, contacts: Contacts) -> None:
    """Raise if what must always hold does not."""
    again = ClusterState(gathering.counts["worker"].least, gathering.counts["server"].least)
    for record in log:
        again.apply(record)
    places = [(node.member.role, node.member.rank) for node in s.nodes.values()]
    full = (s.workers, s.servers) == tuple(sum(r == role for r, _ in places) for role in ("worker", "server"))
    live = [n for n in s.nodes.values() if n.live]
    rules = {
        "every node is at its own place": places == list(s.nodes),
        "every place is one that the run has": set(places) <= set(gathering.places(s.nodes)),
        "a run that has begun misses nobody": s.phase not in ("running", "finished") or full,
        "a complete cluster is running": (s.phase == "gathering") == (s.roster is None) or s.phase == "failed",
        "a failed run names its culprit": (s.phase == "failed") == bool(s.culprit),
        "a finished run waits for nobody": s.phase != "finished" or not live,
        "a replica that may take a place is there": all(("replica", r) in s.nodes for r in s.covered),
        "what is to move is where it is to move from": all(
            s.placement.homes[m.slice].server == m.source for m in s.plan.values()
        ),
        "every live node can be reached": all(contacts.token_of(contacts[n.token].sender) == n.token for n in live),
        "the log adds up to the state": digest(again) == digest(s),
    }
    for rule, holds in rules.items():
        if not holds:
            raise LocalProtocolError(f"scheduler: {rule} is no longer true: {s}")


def digest(state: ClusterState) -> tuple[Any, ...]:
    """Everything that a state is, to be compared."""
    return (
        state.cluster,
        state.term,
        state.phase,
        state.generation,
        state.culprit,
        state.reason,
        state.detail,
        state.gate,
        tuple(sorted((n, s.gate, s.reduce) for n, s in state.stores.items())),
        state.nodes,
        state.tokens,
        state.senders,
        state.incarnations,
        state.declared_by,
        state.roster,
        state.replacements,
        state.departures,
        state.arrivals,
        state.placings,
        state.plan,
        state.draining,
        state.pinned,
        state.epoch,
        state.placement.load_bytes,
        state.placement.closed,
        state.shares,
        state.optimizers,
        state.changes,
        state.requests,
        state.covered,
        state.opened,
        state.placement.layouts,
    )
