"""A server that looks at its own state after every event: ``--check``."""

from typing import Any

from shoal.kvstore.dumps import Recent
from shoal.kvstore.server.saver import Saving
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["CheckedShell"]


class CheckedShell(ServerShell):
    """A `ServerShell` that keeps what happened last, and ends as by any failure if its core is not sound."""

    def __init__(self, transport: Transport, saving: Saving | None = None) -> None:
        super().__init__(transport, saving)
        self.recent = recent = Recent()
        for kind in list(self._does):
            self.watch(kind, recent.watched)

    def receive(self, peer: str, message: Message, now: float) -> None:
        """Take a message, and look."""
        assert self.recent is not None
        self.recent.event(now, f"{peer}: {message!r}")
        super().receive(peer, message, now)
        self._examine(f"{type(message).__name__} of {peer}")

    def news(self, m: Any) -> None:
        """Take the scheduler's news, and look."""
        assert self.recent is not None
        self.recent.event(0.0, f"scheduler: {m!r}")
        super().news(m)
        self._examine(f"{type(m).__name__} of the scheduler")

    def _examine(self, what: str) -> None:
        if self.core is None or self._failure:
            return
        try:
            self.core.check()
        except Exception as e:  # whatever it is, the core is not what it must be
            self.fail(f"its own state: an invariant is broken after {what}: {type(e).__name__}: {e}")
