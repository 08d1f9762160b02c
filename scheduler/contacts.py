"""Soft state about peers, which their repetitions would rebuild: where members are reached and when they were heard,
and which watchers have had the last word."""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.kvstore.wire.schema import Plain

__all__ = ["PROGRESS", "WATCHER_S", "Contact", "Contacts", "Watchers"]

WATCHER_S = 5.0
"""A watcher that has not asked for this long is gone."""

MAX_WATCHERS = 1024
"""Who look on at the same time; a further one is not answered."""

PROGRESS = ("steps", "sent", "samples", "epoch", "updates")
"""Counts in a member's status that grow when it gets on."""


@dataclass(slots=True)
class Contact:
    """Where a member is reached, when it was last heard, what it last said of itself."""

    sender: str
    seen: float
    status: Plain = None
    generation: int = 0  # what it has heard of
    since: float = 0.0  # when this scheduler first heard of it


class Contacts:
    """Contacts of members, by token."""

    def __init__(self) -> None:
        self._contacts: dict[str, Contact] = {}
        self._tokens: dict[str, str] = {}  # by sender
        self.progressed = 0.0  # when somebody's counts last grew
        self.awaited: dict[str, str] = {}  # senders of members that a scheduler that was restarted has not heard yet

    def __getitem__(self, token: str) -> Contact:
        return self._contacts[token]

    def get(self, token: str) -> Contact:
        """Of a member; of one that was gone before this scheduler began nothing is known."""
        return self._contacts.get(token) or Contact("", 0.0)

    def token_of(self, sender: str) -> str:
        """The member behind a sender, or ""."""
        return self._tokens.get(sender, "")

    def expect(self, token: str, sender: str) -> None:
        """A member that an earlier scheduler has heard as ``sender``; to be called before time begins."""
        self.bind(token, sender, 0.0)
        self.awaited[token] = sender

    def heard(self, token: str, now: float) -> None:
        """A sign of life."""
        self._contacts[token].seen = now
        self.awaited.pop(token, None)

    def says(self, token: str, status: Plain, generation: int, now: float) -> None:
        """What a member last says of itself."""
        contact = self._contacts[token]
        if _counts(status) != _counts(contact.status):
            self.progressed = now
        contact.status, contact.generation = status, max(contact.generation, generation)

    def bind(self, token: str, sender: str, now: float) -> None:
        """The member has just been heard as ``sender``, and is reached there from now on."""
        contact = self._contacts.setdefault(token, Contact(sender, now, since=now))
        if contact.sender != sender:
            self._tokens.pop(contact.sender, None)
        contact.sender, contact.seen = sender, now
        self._tokens[sender] = token
        self.awaited.pop(token, None)

    def excuse(self, pause_s: float) -> None:
        """Nobody could be heard for this long, because this process was stopped: nobody was silent."""
        self.progressed += pause_s
        for contact in self._contacts.values():
            contact.seen += pause_s

    def silent(self, tokens: Iterable[str], before: float) -> list[str]:
        """Those of ``tokens`` that have not been heard since ``before``."""
        return [token for token in tokens if self._contacts[token].seen <= before]


def _counts(status: Plain) -> list[Plain]:
    return [status.get(name) for name in PROGRESS] if isinstance(status, dict) else []


@dataclass(slots=True)
class _Watcher:
    asked: float
    told: bool = False  # has been sent the final snapshot


class Watchers:
    """Who looks on from outside. After the end each is sent the final snapshot, and confirms it by asking once more."""

    def __init__(self) -> None:
        self._watchers: dict[str, _Watcher] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def ask(self, sender: str, now: float) -> bool:
        """A watcher asks; whether to answer: one that confirms the final snapshot is not answered, but forgotten."""
        watcher = self._watchers.get(sender)
        if watcher is not None and watcher.told:
            del self._watchers[sender]
            return False
        self._forget(now)
        if watcher is None and len(self._watchers) >= MAX_WATCHERS:
            return False
        self._watchers[sender] = _Watcher(now)
        return True

    def untold(self, now: float) -> list[str]:
        """Those that must be sent the final snapshot; they count as told from now on."""
        self._forget(now)
        untold = [sender for sender, watcher in self._watchers.items() if not watcher.told]
        for sender in untold:
            self._watchers[sender].told = True
        return untold

    def _forget(self, now: float) -> None:
        for sender in [s for s, w in self._watchers.items() if now - w.asked > WATCHER_S]:
            del self._watchers[sender]
