"""The messages of one step, which may leave while the backward pass still goes on.

Gradients that are final (`shoal.worker.strategies.leaving`) are divided by the batch size and pushed, the last layers'
first. What the store answers must not touch the weights before the step, since layers further down may still need them:
it lands beside them, and is taken over when the value is used next, by `Parameter.data`. So pushes overlap with the
backward pass, and pulls with whatever comes before that use.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from shoal.kvstore.arrays import Array
from shoal.worker.strategies.leaving import Leaving
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
        self._sent: dict[Group, Sent] = {}
        self._leaving: Leaving[Group] = Leaving(site, lambda: {g: g for g in site.groups}, self._early, "messages")

    def opened(self, batch_size: int) -> AbstractContextManager[None]:
        """Within this context gradients are pushed as soon as they are final.

        Raises:
            ConfigError: gradients of an earlier context have left, and no step has followed.
        """
        return self._leaving.opened(batch_size, self._begin)

    def _begin(self) -> None:
        self.site.stale = frozenset()

    def _early(self, group: Group, batch_size: int) -> None:
        self._send(group, batch_size, self.landing)

    def _send(self, group: Group, batch_size: int, into: Callable[[str], Array]) -> None:
        values = [self.site.scaled(n, batch_size) for n in group]
        self._sent[group] = self.site.pushpull(group, values, [into(n) for n in group])

    def complete(self, batch_size: int, into: Callable[[str], Array]) -> tuple[dict[Group, Sent], set[Group]]:
        """Push what has not been pushed; the step is forgotten. All messages, and which of them had left early.

        Args:
            into: from a parameter's name to where the answer goes, of what is pushed now.
        Raises:
            ConfigError: gradients have left that were divided by another batch size.
        """
        early = self._leaving.complete(batch_size, lambda group, size: self._send(group, size, into))
        sent, self._sent = self._sent, {}
        return sent, early
