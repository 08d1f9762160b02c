"""shoal: train one model on many machines through a sharded parameter server."""

__version__ = "0.1.0"
