"""The scheduler's process: the core behind a listening transport, its log on disk if it is given a directory."""

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from shoal.kvstore import dumps
from shoal.kvstore.dumps import Checked, Recent
from shoal.kvstore.events import Received, Send, Woke
from shoal.kvstore.exposition import provide
from shoal.kvstore.trace import recorder as tracing
from shoal.kvstore.trace.tap import open_transport
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.messages import Refused, Snapshot
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport
from shoal.kvstore.wire.tuning import allow_files
from shoal.scheduler.core import Action, Ended, Interrupted, SchedulerConfig, SchedulerCore
from shoal.scheduler.gather import Count
from shoal.scheduler.journal import Journal
from shoal.scheduler.log import Record
from shoal.scheduler.metrics import scheduler_families
from shoal.scheduler.signals import handling, stopped_by
from shoal.scheduler.telling import tell, tell_notice, tell_refusal
from shoal.version import VERSION

__all__ = ["SchedulerShell", "check_settings", "run_scheduler"]

log = logging.getLogger("shoal.scheduler")


PROGRESS_S = 0.5
"""Shortest time between two looks at the progress."""


class SchedulerShell:
    """A `Driver` around `SchedulerCore`: sends what it says, logs what it decides.

    With a journal nothing is sent before what it rests on is on the disk: what a step of the loop brings is written
    together, once, and then answered.

    Args:
        transport: listening.
        core: the scheduler.
        on_end: called once, when the process may exit.
        on_progress: given the state of the run, at most once in `PROGRESS_S` while it runs.
        journal: where the core's log is kept; the core goes on with the records that it had.
    """

    def __init__(
        self,
        transport: Transport,
        core: SchedulerCore,
        on_end: Callable[[], None],
        on_progress: Callable[[Snapshot], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.transport, self.core, self.on_end, self.on_progress = transport, core, on_end, on_progress
        self.ended: Ended | None = None
        self._journal = journal
        self._actions: list[Action] = []
        self.recent: Recent | None = None  # what happened last, where the core is checked
        self._logged = len(journal.records) if journal else 0
        self._next_progress = 0.0
        self._signal = 0
        self._refused = ("", "")  # the last that was

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Take one message into account."""
        self._actions += self.core.handle(Received(peer, message), now)
        if self._journal is None:
            self._carry_out()

    def interrupt(self, number: int) -> None:
        """A signal says that this process must end: everybody is told. Safe in a signal handler."""
        self._signal = number
        self.transport.wake()

    def wake(self, now: float) -> float:
        """Take the time, and perhaps a signal, into account."""
        if self._signal:
            self._actions += self.core.handle(Interrupted(stopped_by(self._signal)), now)
        self._actions += self.core.handle(Woke(), now)
        self._carry_out()
        if self.on_progress and self.core.state.phase == "running" and now >= self._next_progress:
            self._next_progress = now + PROGRESS_S
            self.on_progress(self.core.snapshot())
        return self.core.wake_at()

    def _carry_out(self) -> None:
        new = self.core.log[self._logged :]
        if new:
            self._write(new)
        actions, self._actions = self._actions, []
        if self.recent is not None:
            self.recent.acted(actions)
        for action in actions:
            match action:
                case Send(to, message):
                    self.transport.send(to, message)
                    if isinstance(message, Refused) and self._refused != (to, message.text):  # it repeats its question
                        self._refused = to, message.text
                        tell_refusal(to, message)
                case Ended():
                    self.ended = action
                    self.on_end()
        for record in new:
            tell(record, self.core)
        while self.core.workers.notices:
            tell_notice(*self.core.workers.notices.pop(0))

    def _write(self, new: list[Record]) -> None:
        """What is new in the log, before anybody hears of it."""
        journal = self._journal
        if journal is not None:
            journal.append(new)
            if journal.long:
                self.core.compact()
                journal.rewrite(self.core.log)
        self._logged = len(self.core.log)

    @property
    def code(self) -> int:
        """Exit code after a failure."""
        return 128 + self._signal if self._signal else 1


def run_scheduler(
    host: str,
    port: int,
    workers: int | Count,
    servers: int | Count,
    *,
    grace_s: float = 60.0,
    state: str = "",
    sync: bool = True,
    anew: bool = False,
    access: Access = LOOPBACK,
    on_progress: Callable[[Snapshot], None] | None = None,
    on_finished: Callable[[Snapshot], None] | None = None,
    ready_fd: int = -1,
    **options: Any,
) -> int:
    """Serve one run, until it has finished or failed.

    Args:
        host, port: where to listen; ``0.0.0.0`` is every address, "" as far as ``access`` allows; port 0 is any port.
        workers: how many the run has; a `Count` with ``more`` means at least so many.
        servers: likewise.
        grace_s: how long the others go on without this process, if it has a ``state``.
        state: directory of its log: with that of a scheduler that has died this one goes on with the run; with that
            of a run that is over it begins another. "" keeps none: the run ends with this process, without a grace.
        sync, anew: see `Journal`.
        access: who may join.
        on_progress: is given the state of the run twice a second while it runs.
        on_finished: is given what every process has reported, unless the run has failed.
        ready_fd: an open file descriptor that is told the port, as one line, and closed.
        options: the others of `SchedulerConfig`.
    Returns:
        The exit code: 0 if the run finished, 1 if it failed, 128 plus the signal that stopped it.
    Raises:
        ConfigError: the port is taken, an option makes no sense, or the state is another scheduler's or another run's.
        MembershipError: the log is damaged, or cannot be written.
    """
    allow_files()
    kept = grace_s if state else 0.0
    cluster = secrets.token_hex(4)
    config = SchedulerConfig(workers, servers, cluster=cluster, version=VERSION, grace_s=kept, **options)
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(state, sync, anew))) if state else None
        core = SchedulerCore(config, check_settings, journal.records if journal else ())
        transport = stack.enter_context(closing(open_transport("scheduler", access, "scheduler")))
        code = _serve(transport, (host or _all(access), port), ready_fd, core, journal, on_progress)
    if on_finished and not code:
        on_finished(core.snapshot())
    return code


def _all(access: Access) -> str:
    """Where to listen if nothing is said: as far as is safe."""
    if access.keys is not None or access.insecure:
        return "0.0.0.0"
    log.info("for this machine only; others join with a key: shoal keys new DIR, then --keys DIR everywhere")
    return "127.0.0.1"


def check_settings(
    settings: dict[str, Any], gate: str, optimizer: tuple[str, Any] | None, gradients: bool
) -> tuple[dict[str, Any], str]:
    """Whether a store can take new settings: see `shoal.scheduler.control.Check`."""
    from shoal.kvstore.control import check  # the array libraries load only where something is changed

    return check(settings, gate, optimizer, gradients)


def _announce(fd: int, port: int) -> None:
    with os.fdopen(fd, "w") as pipe:
        pipe.write(f"{port}\n")


def about(core: SchedulerCore) -> dict[str, Any]:
    """Whose scheduler this is, and who was in the run, for its trace."""
    s = core.state
    members = [f"{n.member.role} {n.member.rank}" for n in s.tokens.values()]
    return {"cluster": s.cluster, "incarnation": s.term, "offset": [0.0, 0.0, 0], "members": sorted(set(members))}


def _serve(
    transport: Transport,
    at: tuple[str, int],
    ready_fd: int,
    core: SchedulerCore,
    journal: Journal | None,
    on_progress: Callable[[Snapshot], None] | None,
) -> int:
    bound = transport.bind(*at)
    counts = core.config.workers, core.config.servers
    log.info("listening on %s:%d for %s workers and %s servers", at[0], bound, *counts)
    if ready_fd >= 0:
        _announce(ready_fd, bound)
    loop = Loop(transport, {})
    shell = SchedulerShell(transport, core, loop.stop, on_progress, journal)
    shell.recent = recent = Recent() if dumps.dumps().check else None
    loop.drivers[""] = shell if recent is None else Checked(shell, lambda: core, recent)
    provide("scheduler", lambda: scheduler_families(transport, core))
    recorder = tracing.current()
    if recorder is not None:
        recorder.about = lambda: about(core)
    try:
        with handling(shell.interrupt):
            loop.run()
    except Exception as e:
        who = {"rank": 0, "incarnation": core.state.term, "cluster": core.state.cluster}
        why = f"{type(e).__name__}: {e}"
        log.error("the scheduler failed: %s%s", why, dumps.write(who, core, why, recent))
        raise
    finally:
        tracing.finish()
    if journal is not None and shell.ended is not None and not core.deposed:
        journal.retire()
    if shell.ended is None or not shell.ended.failed:
        return 0
    if core.deposed:
        log.error("%s", shell.ended.text)
    else:
        log.info("the run has failed: %s", shell.ended.text)
    return shell.code
