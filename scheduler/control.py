"""Changes of settings: which request makes which, and who still waits to hear that everybody knows of it.

Workers run one script, so each of them asks for the same change: the first request makes it, and each other worker's
first request of the same content is answered by it, its second by the second, and so on. An operator's request is
always a change of its own. Changes, and which request each of them answers, are records of the log; who waits is soft
state, which repetitions rebuild.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from shoal.kvstore.wire.messages import Change, Changed, Control, Controlled, Noted, Settle
from shoal.scheduler.log import Altered, Answered, ClusterState, Configured, Record

__all__ = ["Asker", "Check", "Controls"]

Check: TypeAlias = Callable[[dict[str, Any], str, "tuple[str, Any] | None", bool], tuple[dict[str, Any], str]]
"""(settings, gate, name and parameters of the optimizer, whether gradients are pushed) -> settings under their proper
names, and an objection, "" for none. It is given to the scheduler, which itself knows no optimizer."""

Asker: TypeAlias = tuple[str, int]
"""Token of a worker or of an operator, and its number of the request."""


class Controls:
    """Requests for changes of one run.

    Args:
        state: of the run.
        log: of the run.
        commit: adds a record to it.
        check: whether a store can take new settings.
    """

    def __init__(
        self, state: ClusterState, log: Sequence[Record], commit: Callable[[Record], None], check: Check
    ) -> None:
        self._state, self._log, self._commit, self._check = state, log, commit, check
        self._waiting: dict[Asker, str] = {}  # senders

    def ask(self, sender: str, asker: Asker, m: Control, by: str, worker: bool) -> tuple[Changed | None, str]:
        """Put a request into the log, once. The change, or why there can be none."""
        number = self._state.requests.get(asker, 0)
        if not number:
            settings, objection = self._settings(m)
            if objection:
                return None, objection
            number = self._same(asker[0], m, settings) if worker else 0
            self._commit(Answered(*asker, number) if number else self._make(m, settings, by, asker))
            number = self._state.requests[asker]
        self._waiting[asker] = sender
        return self._state.changes[number - 1], ""

    def settle(self, by: str, m: Settle) -> Noted:
        """Worker ``by`` says what the servers have installed."""
        known = self._state.optimizers.get(m.store)
        repeated = known is not None and (known.by, known.request) == (by, m.request)
        if self._state.phase == "running" and not repeated:
            self._commit(Configured(by, m.request, m.store, m.optimizer, m.params, m.gradients))
        return Noted(request=m.request)

    def _make(self, m: Control, settings: dict[str, Any], by: str, asker: Asker) -> Altered:
        number = len(self._state.changes) + 1
        change = Change(number=number, store=m.store, settings=settings, at_clock=m.at_clock, by=by)
        return Altered(change, *asker)

    def _same(self, token: str, m: Control, settings: dict[str, Any]) -> int:
        """The change that another worker has asked for, and that is this one, too; 0 if there is none."""
        wanted = (m.store, settings, m.at_clock)
        for c in (changed.change for changed in self._state.changes):
            if (c.store, c.settings, c.at_clock) == wanted:
                workers = {t for (t, _), n in self._state.requests.items() if n == c.number and t in self._state.tokens}
                if workers and token not in workers:
                    return c.number
        return 0

    def _settings(self, m: Control) -> tuple[dict[str, Any], str]:
        """The settings under their proper names, and why they cannot be changed."""
        s = self._state
        store = s.stores.get(m.store)
        if s.phase != "running":
            return {}, f"control: the run is {s.phase}; settings are changed while it is running"
        if store is None:
            known = ", ".join(map(str, sorted(s.stores))) or "none"
            return {}, f"control: nobody has declared store {m.store}; known: {known}"
        if not s.servers:
            return {}, "control: this run has no servers: its workers update the weights themselves"
        if m.at_clock < -1:
            return {}, f"control: clocks are counted from 0, got {m.at_clock}"
        rule = s.optimizers.get(m.store)
        optimizer = None if rule is None else (rule.optimizer, {**rule.params, **self._since(rule)})
        return self._check(m.settings, store.gate, optimizer, rule is None or rule.gradients)

    def _since(self, rule: Configured) -> dict[str, Any]:
        """Hyper-parameters that were changed after this optimizer was installed."""
        first = max(i for i, r in enumerate(self._log) if r is rule)
        changes = [r.change for r in self._log[first:] if isinstance(r, Altered) and r.change.store == rule.store]
        return {n: v for c in changes for n, v in c.settings.items() if n not in ("s", "max", "codec")}

    def confirmed(self, unaware: Callable[[int], tuple[str, ...]], over: bool) -> list[tuple[str, Controlled]]:
        """What those are told who wait, now that everybody has heard of their change, or the run is over.

        Args:
            unaware: names of the processes that have not heard of a generation.
        """
        if not self._waiting:
            return []
        told: list[tuple[str, Controlled]] = []
        for asker, sender in list(self._waiting.items()):
            changed = self._state.changes[self._state.requests[asker] - 1]
            missing = unaware(changed.generation)
            if over or not missing:
                del self._waiting[asker]
                told.append((sender, Controlled(request=asker[1], change=changed.change, missing=missing)))
        return told
