"""Where a trace listens: at the transport, and at a server's updates. Without a trace none of this is there."""

from collections.abc import Callable, Iterator
from typing import Any

from shoal.kvstore.events import Apply
from shoal.kvstore.trace.fields import fields_of
from shoal.kvstore.trace.recorder import Recorder, current
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.schema import Message
from shoal.kvstore.wire.transport import Transport

__all__ = ["TracedTransport", "open_transport", "traced_apply"]


class TracedTransport(Transport):
    """A `Transport` that records each message: how long it took to hand over, or to be dealt with.

    Args:
        purpose: "store", "all-reduce" or "scheduler"; names the track in the picture.
        recorder: takes the records.
    """

    def __init__(self, name: str, access: Access, purpose: str, recorder: Recorder) -> None:
        super().__init__(name, access)
        self._recorder, self._purpose = recorder, purpose
        self._wanted: bool | None = None  # whether the message that is being dealt with is recorded, if one is
        recorder.transports[self.identity] = purpose

    def send(self, peer: str, message: Message, *, stable: bool = True) -> None:
        recorder = self._recorder
        began = recorder.now()
        super().send(peer, message, stable=stable)
        if recorder.admits() if self._wanted is None else self._wanted:
            recorder.add(("sent", began, recorder.now(), self._purpose, peer, *fields_of(message)))

    def poll(self, timeout_s: float, spins: bool = False) -> Iterator[tuple[str, Message]]:
        recorder = self._recorder
        for peer, message in super().poll(timeout_s, spins):
            fields, began = fields_of(message), recorder.now()
            self._wanted = recorder.admits(fields.clock)
            try:
                yield peer, message
            finally:
                if self._wanted:
                    recorder.add(("taken", began, recorder.now(), self._purpose, peer, *fields))
                self._wanted = None


def open_transport(name: str, access: Access = LOOPBACK, purpose: str = "store") -> Transport:
    """A transport; one that records, if this process is to be traced. Arguments as of `TracedTransport`."""
    recorder = current()
    return Transport(name, access) if recorder is None else TracedTransport(name, access, purpose, recorder)


def traced_apply(
    carry_out: Callable[[Apply], None], recorder: Recorder, counts: Callable[[], bool] = lambda: True
) -> Callable[[Any], None]:
    """What a server does with an `Apply`, recorded.

    Args:
        counts: whether the update is one that workers read, and not a replica's.
    """

    def apply(a: Apply) -> None:
        began = recorder.now()
        carry_out(a)
        if counts() and recorder.admits(a.parts[0].clock if a.parts else -1):
            recorder.add(("applied", began, recorder.now(), a.slice, a.version, [list(p) for p in a.parts]))

    return apply
