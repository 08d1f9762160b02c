"""What a worker knows of one slice, and of one server."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from shoal.kvstore.client.jobs import RETRY_S, Job
from shoal.kvstore.gates import Gate
from shoal.kvstore.wire.messages import Value

__all__ = ["CREDIT_BYTES", "Lane", "Link"]

CREDIT_BYTES = 8 << 20
"""Bytes pushed to one server and not yet acknowledged; bounds its memory and keeps priorities meaningful."""


@dataclass(slots=True)
class Lane:
    """What the worker knows of one slice, and its jobs in order."""

    store: int = 1
    desk: int = 0  # the server that gives places in the store's rounds
    turn: int = 0  # contributions begun, those included that were not sent because they came too late
    read: bool = False
    clock: int = 0
    pulled: int = 0  # version of the value that the worker has
    floor: int = 0
    gate: Gate | None = None
    fresh: Value | None = None  # of an eager gate: the newest value that came
    stream: int = -1  # the seq under which values come unasked
    jobs: deque[Job] = field(default_factory=deque)
    changes: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # of the gate, that wait for their clock
    mark: int = 0  # its clock at the last barrier of its store
    seen: int = 0  # newest version that an answer named
    server: int = -1  # that has acknowledged a push
    spared: int = 0  # so many pushes that come next are counted already, and are not sent
    doubt: str = ""  # why it is unknown whether the last push was counted; the clock is then unknown too


@dataclass(slots=True)
class Link:
    """What the worker knows of one server."""

    greeted: bool = False
    credit: int = CREDIT_BYTES
    hello_due: float = 0.0
    hello_since: float = -1.0
    pause: float = 0.1
    heard: float = 0.0
    trip_s: float = 0.0  # from a push to its acknowledgement: moving average
    landed: tuple[float, float] = (0.0, -RETRY_S)  # when the last push that was acknowledged was sent, and when it was
    ready: list[tuple[int, int, Job]] = field(default_factory=list)
