"""The key-value store: ``shoal.kv.create("dist_sync")``."""

from shoal.kvstore.api import KVStore as KVStore
from shoal.kvstore.api import create as create
from shoal.kvstore.base import KVStoreBase as KVStoreBase
from shoal.kvstore.digest import weights_sha256 as weights_sha256
from shoal.kvstore.registry import register as register
from shoal.kvstore.rows import RowSparse as RowSparse

__all__ = ["KVStore", "KVStoreBase", "RowSparse", "create", "register", "weights_sha256"]
