"""The key-value store: ``shoal.kv.create("dist_sync")``."""

from shoal.kvstore.api import KVStore as KVStore
from shoal.kvstore.api import create as create
from shoal.kvstore.base import KVStoreBase as KVStoreBase
from shoal.kvstore.digest import weights_sha256 as weights_sha256
from shoal.kvstore.functions import PartView as PartView
from shoal.kvstore.functions import server_function as server_function
from shoal.kvstore.registry import register as register
from shoal.kvstore.rows import RowSparse as RowSparse

__all__ = ["KVStore", "KVStoreBase", "PartView", "RowSparse", "create", "register", "server_function", "weights_sha256"]
