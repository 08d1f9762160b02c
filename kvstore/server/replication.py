"""A replica follows the input of its primary: both ends of the stream, as pure cores.

The primary numbers everything that changes its state, hands it on, handles it itself, and holds each answer until the
replica has what the answer rests on. The replica handles the same in the same order, so that it is at any number what
the primary was at that number. The network may lose, repeat and reorder; what the stream begins with, the *images* of a
state, goes the same way under numbers of its own (docs/decisions/0026-replicas-follow-the-input.md).
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["AHEAD", "RETRY_S", "Follower", "Ordered", "Outgoing", "Stream"]

AHEAD = 1 << 16
"""Items that may arrive before one that is missing; a further one is dropped, and sent again."""

RETRY_S, RETRY_MAX_S = 0.25, 8.0
"""Without news from the replica for this long, what it has not acknowledged is sent again; then twice as long, ..."""

AGAIN_BYTES = 4 << 20
"""Of what is sent again at one go: the oldest."""

STOPPED_S = 2.0
"""Who has not looked for this long was stopped."""

T = TypeVar("T")


class _Sent(NamedTuple, Generic[T]):
    number: int
    item: T
    nbytes: int


class Outgoing(Generic[T]):
    """Items in order, kept until they are acknowledged."""

    def __init__(self) -> None:
        self.entered = self.acked = 0
        self.nbytes = 0  # of what is not acknowledged
        self._window: deque[_Sent[T]] = deque()
        self._pause, self._due, self._since, self._now = RETRY_S, 0.0, 0.0, 0.0

    def enter(self, item: T, nbytes: int, now: float) -> None:
        """The next item, whose number is now `entered`."""
        self.entered += 1
        if not self._window:
            self._due, self._since, self._pause = now + RETRY_S, now, RETRY_S
        self._window.append(_Sent(self.entered, item, nbytes))
        self.nbytes += nbytes

    def acknowledge(self, number: int, now: float) -> bool:
        """The other side has the first ``number`` items; whether that is news."""
        if not self.acked < number <= self.entered:
            return False
        while self._window and self._window[0].number <= number:
            self.nbytes -= self._window.popleft().nbytes
        self.acked, self._pause = number, RETRY_S
        self._due, self._since = now + RETRY_S, now
        return True

    def again(self, now: float) -> list[T]:
        """What must be sent again: the oldest, if nothing was acknowledged for long."""
        self._excuse(now)
        if not self._window or now < self._due:
            return []
        self._pause = min(2 * self._pause, RETRY_MAX_S)
        self._due = now + self._pause
        return self.oldest()

    def everything(self) -> list[T]:
        """All that is not acknowledged."""
        return [sent.item for sent in self._window]

    def oldest(self) -> list[T]:
        """What is not acknowledged, as far as it is sent at one go."""
        found: list[T] = []
        left = AGAIN_BYTES
        for sent in self._window:
            if found and sent.nbytes > left:
                break
            left -= sent.nbytes
            found.append(sent.item)
        return found

    def silent_s(self, now: float) -> float:
        """For how long something has waited to be acknowledged, without any being so."""
        return now - self._since if self._window else 0.0

    def _excuse(self, now: float) -> None:
        """Called about once a second: if it was not, this process was stopped, and the other side was not silent."""
        if now - self._now > STOPPED_S:
            self._since = max(self._since, now)
        self._now = now


class Stream(Generic[T]):
    """The primary's end: what was entered, and which answers wait for the replica.

    Args:
        parts: images that the stream begins with; 0: the replica has everything from the beginning, and every answer
            is held from the first on.
    """

    def __init__(self, parts: int = 0) -> None:
        self.inputs: Outgoing[T] = Outgoing()
        self.images: Outgoing[T] = Outgoing()
        self.parts = parts
        self.opened = False  # the replica follows
        self.holding = not parts
        self._mark = 0  # answers that were given without being held rest on at most so many inputs
        self._held: deque[tuple[int, Any]] = deque()

    @property
    def in_step(self) -> bool:
        """Whether nobody has heard anything that the replica does not have."""
        return self.opened and self.holding and self.inputs.acked >= self._mark and self.images.acked >= self.parts

    @property
    def lag(self) -> int:
        """Inputs that the replica has not acknowledged."""
        return self.inputs.entered - self.inputs.acked

    @property
    def held(self) -> int:
        """Answers that wait."""
        return len(self._held)

    def holds(self) -> bool:
        """Whether an answer that is given now must wait: see `hold`."""
        return self.holding and self.inputs.acked < self.inputs.entered

    def hold(self, answer: Any) -> None:
        """Keep an answer that may rest on everything that was entered."""
        self._held.append((self.inputs.entered, answer))

    def hold_from_now(self) -> None:
        """From now on answers wait for the replica."""
        if not self.holding:
            self.holding, self._mark = True, self.inputs.entered

    def kept(self, number: int, images: int, now: float) -> list[Any]:
        """The replica says how far it is; the answers that may go out by that, in order."""
        self.opened = True
        self.images.acknowledge(images, now)
        if self.parts and self.images.acked >= self.parts:
            self.hold_from_now()
        self.inputs.acknowledge(number, now)
        ready: list[Any] = []
        while self._held and self._held[0][0] <= self.inputs.acked:
            ready.append(self._held.popleft()[1])
        return ready

    def let_go(self) -> list[Any]:
        """The replica is lost: nothing is held any more. All answers that were, in order."""
        held, self._held, self.holding = self._held, deque(), False
        return [answer for _, answer in held]

    def again(self, now: float) -> list[T]:
        """What must be sent again."""
        return [*self.images.again(now), *self.inputs.again(now)] if self.opened else []

    def everything(self) -> list[T]:
        """All that is not acknowledged: to be sent when the stream opens."""
        return [*self.images.everything(), *self.inputs.everything()]

    def silent_s(self, now: float) -> float:
        """For how long the replica has not acknowledged what it was sent."""
        return max(self.inputs.silent_s(now), self.images.silent_s(now))


class Ordered(Generic[T]):
    """The other end of `Outgoing`: each item once, in order."""

    def __init__(self) -> None:
        self.count = 0  # handed on
        self._early: dict[int, T] = {}

    def take(self, number: int, item: T) -> list[T]:
        """Items whose turn has come with this one."""
        if not self.count < number <= self.count + AHEAD:
            return []
        self._early[number] = item
        found: list[T] = []
        while self.count + 1 in self._early:
            self.count += 1
            found.append(self._early.pop(self.count))
        return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """Whoever leads this stream has been replaced, by a server of this incarnation."""

    incarnation: int


class Follower(Generic[T]):
    """The replica's end: whom it follows, what it has, and what it is to handle next.

    Inputs that come before the state that they change are kept, in order; their bytes are bounded by the primary.
    """

    def __init__(self) -> None:
        self.incarnation = 0  # of the primary; 0: it follows nobody yet
        self.parts = 0
        self.ready = False  # what the stream begins with is in place: inputs are handed on
        self.handled = 0  # inputs
        self._images: Ordered[T] = Ordered()
        self._inputs: Ordered[T] = Ordered()
        self._waiting: deque[T] = deque()

    @property
    def images(self) -> int:
        """Images that were handed on."""
        return self._images.count

    @property
    def complete(self) -> bool:
        """Whether all that the stream begins with has been handed on."""
        return self.incarnation > 0 and self.images >= self.parts

    def follow(self, incarnation: int, parts: int) -> bool | Refusal:
        """A primary wants to be followed; true if this is a new stream, so that what there is must be forgotten."""
        if incarnation < self.incarnation:
            return Refusal(self.incarnation)
        if incarnation == self.incarnation:
            return False
        self.incarnation, self.parts = incarnation, parts
        self.ready, self.handled = False, 0
        self._images, self._inputs, self._waiting = Ordered(), Ordered(), deque()
        return True

    def lead(self, incarnation: int) -> None:
        """This process takes the primary's place: it follows nobody of a smaller incarnation any more."""
        self.incarnation = max(self.incarnation, incarnation)
        self._waiting.clear()

    def image(self, incarnation: int, number: int, item: T) -> list[T]:
        """Images that are to be put in place now, in order."""
        return self._images.take(number, item) if incarnation == self.incarnation else []

    def entered(self, incarnation: int, number: int, item: T) -> None:
        """An input has come; see `next`."""
        if incarnation == self.incarnation:
            self._waiting += self._inputs.take(number, item)

    def next(self) -> T | None:
        """The next input that is to be handled; it counts as handled from now on."""
        if not self.ready or not self._waiting:
            return None
        self.handled += 1
        return self._waiting.popleft()
