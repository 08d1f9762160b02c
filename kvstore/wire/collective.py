"""The messages of all-reduce, between workers; a part of `shoal.kvstore.wire.messages`, which has their names too."""

from shoal.kvstore.wire.schema import Message, Payload, message

__all__ = ["Ask", "Greet", "Greeted", "Part", "Ready", "Standing", "Took"]


@message(64, "worker -> worker")
class Greet(Message):
    """First message of a worker to another. Repeated until `Greeted` or `Refused` arrives."""

    cluster: str
    worker: int
    incarnation: int


@message(65, "worker -> worker")
class Greeted(Message):
    """The worker knows the other."""

    worker: int
    incarnation: int


@message(66, "worker -> worker")
class Part(Message):
    """A part of a collective: of its block ``block``, the message that the receiver's step ``tag`` waits for."""

    key: int  # number of the key, from the placement
    clock: int  # how often the key has been reduced before
    block: int
    tag: int
    total: int  # elements of the whole array; they differ if the workers do not make the same calls
    value: Payload


@message(67, "worker -> worker")
class Took(Message):
    """Answer to `Part`: it has been taken, or, with ``taken`` false, must be sent again after `Ready`."""

    key: int
    clock: int
    block: int
    tag: int
    taken: bool


@message(68, "worker -> worker")
class Ready(Message):
    """The collective has been started here: what was not taken before is taken now."""

    key: int
    clock: int


@message(69, "worker -> worker")
class Ask(Message):
    """How does this collective stand at yours? Asked of those that a worker waits for."""

    key: int
    clock: int


@message(70, "worker -> worker")
class Standing(Message):
    """Answer to `Ask`. ``missing`` are the workers that are waited for, as far as the sender knows."""

    key: int
    clock: int
    state: str  # "absent" (not started), "waiting" (under way), "done", or "closed" (it will never be started)
    missing: tuple[int, ...]
