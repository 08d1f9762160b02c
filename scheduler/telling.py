"""What the scheduler decides, as log lines for people and as events for programs, each with its reason."""

import logging

from shoal.errors import ConfigError
from shoal.kvstore.eventlog import event
from shoal.kvstore.gates import check_workers
from shoal.kvstore.wire.messages import Member, Refused
from shoal.scheduler.core import SchedulerCore
from shoal.scheduler.log import (
    Aborted,
    Added,
    Altered,
    Covered,
    Declared,
    Departed,
    Dropped,
    Finished,
    Forsaken,
    GivenUp,
    Joined,
    Opened,
    Promoted,
    Rebalanced,
    Record,
    Reshared,
    Ruled,
    Shifted,
    Started,
    Succeeded,
    describe,
)
from shoal.scheduler.stalls import Stall

__all__ = ["tell", "tell_notice", "tell_refusal", "tell_stall"]

log = logging.getLogger("shoal.scheduler")


def tell(record: Record, core: SchedulerCore) -> None:
    """Say what a new record of the log is."""
    s = core.state
    match record:
        case Ruled(term) if term > 1:
            text = "going on with run %s, which is %s: term %d, %d of its processes are waited for"
            awaited = len(core.contacts.awaited)
            extra = event("restarted", "the scheduler of this run was started again with its log", term=term)
            log.warning(text, s.cluster, s.phase, term, awaited, extra=extra)
        case Joined(m):
            log.info("%s joined: %s", describe(m), _gathered(core), extra=_came(m))
        case Succeeded(m) if m.role == "replica":
            text = "%s has come, and is filled while the run goes on"
            log.warning(text, describe(m), extra=_came(m))
        case Succeeded(m):
            log.warning("%s takes the place of one that died", describe(m), extra=_came(m))
        case Dropped(token):
            text = "%s fell silent before the run began; its place is free"
            reason = f"silent for longer than its lease of {core.config.lease_s:g} s"
            log.warning(text, _name(core, token), extra=event("lost", reason, node=_place(core, token)))
        case Started():
            text = "everybody is here: the run begins, with %d workers, %d servers"
            extra = event("begun", "everybody is here", generation=s.generation, cluster=s.cluster)
            log.info(text, s.workers, s.servers, extra=extra)
        case Finished():
            log.info("the run is finished", extra=event("finished", "every process has said goodbye"))
        case _:
            _tell_more(record, core)


def _tell_more(record: Record, core: SchedulerCore) -> None:
    match record:
        case Rebalanced() | Shifted():
            _tell_placing(record, core)
        case Declared(by, gate, reduce, keys, store):
            extra = event("declared", f"by {by}", store=store, keys=len(keys), gate=gate)
            log.info(
                "%s declared %d keys of store %d (mode %s, reduce %s)", by, len(keys), store, gate, reduce, extra=extra
            )
        case Covered(rank):
            extra = event("replica in step", "it has everything", node=f"replica {rank}")
            log.info("the replica of server %d may take its place", rank, extra=extra)
        case Promoted(rank, incarnation, reason):
            m = core.state.nodes["server", rank].member
            extra = event("promoted", reason, node=f"server {rank}", incarnation=incarnation, node_pid=m.pid)
            log.warning(
                "server %d is lost (%s): its replica (pid %d) takes its place", rank, reason, m.pid, extra=extra
            )
        case Forsaken(rank, reason):
            extra = event("lost", reason, node=f"replica {rank}")
            log.warning("the replica of server %d is lost (%s): the server goes on alone", rank, reason, extra=extra)
        case Altered(c):
            clock = "at once" if c.at_clock < 0 else f"at clock {c.at_clock}"
            text = " ".join(f"{name}={value}" for name, value in c.settings.items())
            extra = event("change taken", f"asked for by {c.by}", number=c.number, store=c.store, settings=c.settings)
            log.info("change %d of store %d %s, asked for by %s: %s", c.number, c.store, clock, c.by, text, extra=extra)
        case Opened(name, index):
            extra = event("barrier released", "every worker has come", barrier=name, index=index)
            log.debug("barrier %r (occurrence %d) has opened", name, index, extra=extra)
        case Departed() | GivenUp() | Added() | Reshared():
            _tell_of_people(record, core)
        case Aborted(culprit, reason, tokens, how):
            for token in tokens:
                extra = event("lost" if how == "lost" else "failed", reason, node=_place(core, token))
                log.debug("%s is %s", _name(core, token), how, extra=extra)
            log.debug("the run has failed: %s: %s", culprit, reason, extra=event("aborted", reason, culprit=culprit))


def _tell_of_people(record: Departed | GivenUp | Added | Reshared, core: SchedulerCore) -> None:
    generation = core.state.generation
    match record:
        case Departed(token, "left", _):
            extra = event("left", "it was told to go", node=_place(core, token), generation=generation)
            log.warning("%s leaves, and is not done: the others go on without it", _name(core, token), extra=extra)
        case Departed(token, "drained", _):
            extra = event("left", "it was drained", node=_place(core, token), generation=generation)
            log.warning("%s is drained, and has left: the others go on without it", _name(core, token), extra=extra)
        case Departed(token, how, _):
            reason = "it is done" if how == "done" else "the run had failed before"
            extra = event("left", reason, node=_place(core, token), generation=generation)
            log.info("%s is %s", _name(core, token), how, extra=extra)
        case GivenUp(token, silent_s):
            reason = f"silent for {silent_s:.1f} s, and nobody has taken its place"
            extra = event("given up", reason, node=_place(core, token), generation=generation)
            log.warning("%s is given up (%s): the others go on without it", _name(core, token), reason, extra=extra)
        case Added(m) if m.role == "server":
            extra = event("joined", "it came while the run is under way", node=f"server {m.rank}", pid_of=m.pid)
            log.warning("%s has come; slices move to it when everybody has heard of it", describe(m), extra=extra)
        case Added(m):
            extra = event("joined", "it came while the run is under way", node=f"worker {m.rank}", pid_of=m.pid)
            log.warning("%s has come; it takes part when all have come to the end of a batch", describe(m), extra=extra)
        case Reshared(number, ranks):
            reason = "everybody has come to the end of a batch"
            extra = event("shared", reason, number=number, ranks=list(ranks), generation=generation)
            text = "workers %s take part from now on (change %d)"
            log.warning(text, ", ".join(map(str, ranks)), number, extra=extra)
            _tell_few(core.mode, len(ranks))


def _tell_few(mode: str, workers: int) -> None:
    """Say it if the gate of the run was made for more workers than there are now."""
    try:
        check_workers(mode, workers)
    except ConfigError as e:
        log.warning("%s The run goes on, and its rounds take those who are there", e)


def tell_notice(name: str, text: str) -> None:
    """Say what is noticed of workers."""
    log.warning("%s", text, extra=event(name, text))


def _tell_placing(record: Rebalanced | Shifted, core: SchedulerCore) -> None:
    if isinstance(record, Shifted):
        left, epoch = len(core.state.plan), core.state.epoch
        extra = event("slice moved", "its new server has it", slice=record.slice, server=record.server, epoch=epoch)
        text = "slice %d is server %d's (placement epoch %d); %d more are to move"
        log.log(logging.DEBUG if left else logging.INFO, text, record.slice, record.server, epoch, left, extra=extra)
        return
    goes = [f"server {r} is to go" for r in record.closed]
    comes = [f"server {r} is given slices" for r in record.opened]
    told = ", ".join([*goes, *comes])
    extra = event("rebalanced", record.by, moves=len(record.moves), opened=record.opened, closed=record.closed)
    log.info("%s (%s): %d slices are to move", told, record.by, len(record.moves), extra=extra)


def tell_refusal(to: str, refused: Refused) -> None:
    """Say that somebody was not given what it asked for."""
    log.info(
        "%s is refused: %s", to, refused.text, extra=event("refused", refused.text, sender=to, error=refused.error)
    )


def tell_stall(stall: Stall) -> None:
    """Say that the run does not get on, or does so again."""
    name = "goes on" if stall.over else "stalled"
    extra = event(name, stall.text, idle_s=round(stall.idle_s, 3), waited_for=list(stall.waited_for))
    log.warning("%s", stall.text, extra=extra)


def _came(m: Member) -> dict[str, object]:
    again = m.incarnation > 1
    return event(
        "replaced" if again else "joined",
        f"it takes the place of incarnation {m.incarnation - 1}" if again else "it asked, and there was a place",
        node=f"{m.role} {m.rank}",
        incarnation=m.incarnation,
        host=m.host,
        node_pid=m.pid,
        address=m.address,
    )


def _gathered(core: SchedulerCore) -> str:
    here, missing = len(core.state.nodes), core.missing()
    if missing:
        return f"{here}/{here + len(missing)}, waiting for {', '.join(missing)}"
    settle_s = core.gathering.settle_s
    return f"{here}/{here}" + f", the run begins if nobody else comes for {settle_s:g} s" * bool(settle_s)


def _name(core: SchedulerCore, token: str) -> str:
    return describe(core.state.tokens[token].member)


def _place(core: SchedulerCore, token: str) -> str:
    m = core.state.tokens[token].member
    return f"{m.role} {m.rank}"
