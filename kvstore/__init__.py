"""The sharded key-value store: both ends of one protocol."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "shoal.kvstore":
    raise ImportError("import shoal.kvstore, not kvstore: a second copy of its registries would load")

if TYPE_CHECKING:
    from shoal.kvstore.api import KVStore, create

__all__ = ["KVStore", "create"]


def __getattr__(name: str) -> Any:
    """Load the store only when it is asked for: the scheduler needs the wire alone."""
    if name in __all__:
        return getattr(import_module("shoal.kvstore.api"), name)
    raise AttributeError(f"module 'shoal.kvstore' has no attribute {name!r}")
