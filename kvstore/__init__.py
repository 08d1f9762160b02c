"""The sharded key-value store: both ends of one protocol."""

if __name__ != "shoal.kvstore":
    raise ImportError("import shoal.kvstore, not kvstore: a second copy of its registries would load")
