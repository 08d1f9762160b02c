"""Stores by name: those that users write are as good as ours."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore

__all__ = ["find", "names", "register"]

S = TypeVar("S", bound=type[KVStore])

_STORES: dict[str, type[KVStore]] = {}
_TAKEN = re.compile(r"auto|local|device|nccl|hogwild|allreduce|dist(_.*)?")


def register(name: str) -> Callable[[S], S]:
    """Class decorator: make a store known to `shoal.kv.create` as ``name``.

    ::

        @shoal.kv.register("mine")
        class Mine(shoal.kv.KVStoreBase):
            '''What it is, and where it is from.'''

            rank, num_workers = 0, 1

            def broadcast_array(self, key, array): ...  # overwrite it with worker 0's
            def reduce_array(self, key, array): ...     # overwrite it with the mean, or the sum, of all workers'

        trainer = shoal.Trainer(net.collect_params(), "sgd", kvstore="mine")

    The class is called with ``reduce`` ("mean" or "sum") and with whatever else `shoal.kv.create` is given. A store
    that says ``is_capable("optimizer")`` gets the optimizer; for any other `Trainer` updates on the workers.

    Args:
        name: lower-case letters, digits, dashes and underscores; not one of shoal's own.
    Raises:
        ConfigError: the name cannot be one, or another class has it, or the class is not a `KVStore`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ConfigError(f"a store's name is lower-case letters, digits, dashes and underscores, got {name!r}")
    if _TAKEN.fullmatch(name):
        raise ConfigError(f"{name!r} is the name of one of shoal's own stores: choose another")

    def declare(cls: S) -> S:
        if not (isinstance(cls, type) and issubclass(cls, KVStore)):
            raise ConfigError(f"store {name!r}: {cls!r} is no KVStore; derive it from shoal.kv.KVStoreBase")
        other = _STORES.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"store {name!r} is already {other.__module__}.{other.__qualname__}: rename one")
        if not getattr(cls, "type", ""):
            cls.type = name
        _STORES[name] = cls
        return cls

    return declare


def names() -> list[str]:
    """The names that users have registered, sorted."""
    return sorted(_STORES)


def find(name: str) -> Callable[..., Any] | None:
    """What makes the store that is called ``name`` and needs no cluster, if there is one."""
    if name == "local":
        from shoal.kvstore.local import LocalKVStore

        return LocalKVStore
    if name in ("device", "nccl"):
        from shoal.kvstore.group.communicator import Alone
        from shoal.kvstore.group.device import DeviceKVStore
        from shoal.kvstore.group.meeting import Hosts

        return partial(DeviceKVStore, Hosts((0,), 0), Alone())
    if name == "hogwild":
        from shoal.kvstore.hogwild import hogwild

        return hogwild
    return _STORES.get(name)
