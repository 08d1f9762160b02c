"""Groups of gradients that leave together, each when its last gradient is final: while the backward pass goes on.

A gradient is final when the backward pass has left the last layer that uses the parameter. What a group is (a message
of the host, a bucket of a GPU) and what leaving means are the strategy's.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from shoal.errors import AutogradError, ConfigError
from shoal.worker.strategies.site import Site

__all__ = ["Leaving"]

G = TypeVar("G", bound=Hashable)


class Leaving(Generic[G]):
    """Which groups of a step have left.

    Args:
        groups: the groups there are, and the parameters of each; asked at the beginning of each context.
        leave: lets a group leave, whose gradients are divided by a batch size.
        noun: what messages call groups.

    Attributes:
        left: the groups that have left before the step, in this order.
    """

    def __init__(
        self, site: Site, groups: Callable[[], Mapping[G, Iterable[str]]], leave: Callable[[G, int], None], noun: str
    ) -> None:
        self.site, self.leave, self.noun = site, leave, noun
        self.left: dict[G, None] = {}
        self._groups = groups
        self._batch_size = 0
        self._group_of: dict[str, G] = {}
        self._missing: dict[G, set[str]] = {}  # of which the gradient is not final yet

    @contextmanager
    def opened(self, batch_size: int, begin: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within this context groups leave as soon as they are final.

        Args:
            begin: called first, if nothing is wrong.
        Raises:
            ConfigError: gradients of an earlier context have left, and no step has followed.
        """
        groups = self._groups()
        if self.left:
            raise ConfigError(
                f"{len(self.left)} of {len(groups)} {self.noun} with gradients have left in an earlier overlap(): "
                "call step() before the next backward pass"
            )
        begin()
        self._batch_size = batch_size
        self._missing = {g: set(names) for g, names in groups.items()}
        self._group_of = {n: g for g, names in self._missing.items() for n in names}
        leaves = {n: p.leaf() for n, p in self.site.params.items()}
        for name, leaf in leaves.items():
            leaf.ready = partial(self._final, name)
        try:
            yield
        finally:
            for leaf in leaves.values():
                leaf.ready = None

    def _final(self, name: str) -> None:
        """The gradient of ``name`` is final: its group leaves, if those that travel with it are final too."""
        group = self._group_of[name]
        if name not in self._missing[group]:
            raise AutogradError(
                f"a second backward pass in one overlap() delivers a gradient to {name!r}, whose first may have left: "
                "leave all passes of a step but the last outside of overlap()"
            )
        self._missing[group].discard(name)
        if not self._missing[group]:
            self._go(group, self.leave)

    def _go(self, group: G, leave: Callable[[G, int], None]) -> None:
        leave(group, self._batch_size)
        self.left[group] = None

    def complete(self, batch_size: int, leave: Callable[[G, int], None] | None = None) -> set[G]:
        """Let leave what has not left; the step is forgotten. The groups that had left before.

        Args:
            leave: in place of the usual one.
        Raises:
            ConfigError: gradients have left that were divided by another batch size.
        """
        if self.left and batch_size != self._batch_size:
            raise ConfigError(
                f"step({batch_size}) after overlap({self._batch_size}): gradients have left that were divided by "
                f"{self._batch_size}. Give both the same batch size."
            )
        self._batch_size, early = batch_size, set(self.left)
        for group in self._groups():
            if group not in early:
                self._go(group, leave or self.leave)
        self.left = {}
        self.site.pushes += 1
        return early
