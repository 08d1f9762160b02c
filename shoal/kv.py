"""The key-value store: ``shoal.kv.create("dist_sync")``."""

from shoal.kvstore.api import KVStore as KVStore
from shoal.kvstore.api import create as create
from shoal.kvstore.digest import weights_sha256 as weights_sha256

__all__ = ["KVStore", "create", "weights_sha256"]
