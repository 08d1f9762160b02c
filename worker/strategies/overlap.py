"""The messages of one step, which may leave while the backward pass still goes on.

A gradient is final when the backward pass has left the last layer that uses the parameter; it is then divided by the
batch size and pushed, the last layers' first. What the store answers must not touch the weights before the step, since
layers further down may still need them: it lands beside them, and is taken over when the value is used next, by
`Parameter.data`. So pushes overlap with the backward pass, and pulls with whatever comes before that use.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from shoal.errors import AutogradError, ConfigError
from shoal.kvstore.arrays import Array
from shoal.worker.strategies.site import Group, Site

__all__ = ["Outbox"]

Sent: TypeAlias = "Future[Any]"


class Outbox:
    """What has been pushed of the present step.

    Args:
        landing: from a parameter's name to where the answer to an early push goes.
    """

    def __init__(self, site: Site, landing: Callable[[str], Array]) -> None:
        self.site, self.landing = site, landing
        self.sent: dict[Group, Sent] = {}
        self._batch_size = 0
        self._group_of: dict[str, Group] = {}
        self._missing: dict[Group, set[str]] = {}  # of which the gradient is not final yet

    @contextmanager
    def opened(self, batch_size: int) -> Iterator[None]:
        """Within this context gradients are pushed as soon as they are final.

        Raises:
            ConfigError: gradients of an earlier context have left, and no step has followed.
        """
        if self.sent:
            raise ConfigError(
                f"{len(self.sent)} of {len(self.site.groups)} messages with gradients have left in an earlier "
                "overlap(): call step() before the next backward pass"
            )
        self.site.stale = frozenset()
        self._batch_size = batch_size
        self._group_of = {n: g for g in self.site.groups for n in g}
        self._missing = {g: set(g) for g in self.site.groups}
        leaves = {n: p.leaf() for n, p in self.site.params.items()}
        for name, leaf in leaves.items():
            leaf.ready = partial(self._final, name)
        try:
            yield
        finally:
            for leaf in leaves.values():
                leaf.ready = None

    def _final(self, name: str) -> None:
        """The gradient of ``name`` is final: push it, if those that travel with it are final too."""
        group = self._group_of[name]
        if name not in self._missing[group]:
            raise AutogradError(
                f"a second backward pass in one overlap() delivers a gradient to {name!r}, whose first may have left: "
                "leave all passes of a step but the last outside of overlap()"
            )
        self._missing[group].discard(name)
        if not self._missing[group]:
            self._send(group, self._batch_size, [self.landing(n) for n in group])

    def _send(self, group: Group, batch_size: int, into: list[Array]) -> None:
        values = [self.site.scaled(n, batch_size) for n in group]
        self.sent[group] = self.site.pushpull(group, values, into)

    def complete(self, batch_size: int, into: Callable[[str], Array]) -> tuple[dict[Group, Sent], set[Group]]:
        """Push what has not been pushed; the step is forgotten. All messages, and which of them had left early.

        Args:
            into: from a parameter's name to where the answer goes, of what is pushed now.
        Raises:
            ConfigError: gradients have left that were divided by another batch size.
        """
        early = set(self.sent)
        if early and batch_size != self._batch_size:
            raise ConfigError(
                f"step({batch_size}) after overlap({self._batch_size}): gradients have left that were divided by "
                f"{self._batch_size}. Give both the same batch size."
            )
        for group in self.site.groups:
            if group not in early:
                self._send(group, batch_size, [into(n) for n in group])
        self.site.pushes += 1
        sent, self.sent = self.sent, {}
        return sent, early
